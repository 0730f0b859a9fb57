import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { compress, devices, type CompressReport, type Tensor } from '../lib/index'
import { bytes, milliseconds, percent, table } from '../lib/report/format'
import { renderHtml, type Measurement, type ReportSection } from '../lib/report'
import {
  classifierInput,
  kClassifier,
  kClassifierWidth,
  kHeight,
  kRecogniser,
  kRecogniserWidth,
  loadLines,
  modelFolder,
  packageRoot,
  recogniserInput,
  scoreClassifier,
  scoreRecogniser,
  type OcrLines,
  type Runner,
} from './ocr'
import { openRuntime, openSession, type Runtime } from './runtime'

/**
 * Compresses a text recogniser and an angle classifier with one call each, runs originals and results in
 * onnxruntime-node on labelled lines, prints one table, and writes the models and one report to demo/out.
 */

const inputOf = (data: Float32Array, width: number): Record<string, Tensor> => ({ x: { type: 'float32', dims: [1, 3, kHeight, width], data } })

interface Task {
  readonly file: string
  readonly title: string
  readonly accuracyName: string
  readonly width: number
  score(run: Runner, lines: OcrLines): Promise<number>
  input(lines: OcrLines, line: number): Float32Array
  /** The lines that nothing is scored on. */
  calibration(lines: OcrLines): Record<string, Tensor>[]
}

const kTasks: readonly Task[] = [
  {
    file: kRecogniser,
    title: 'PP-OCRv4 text recogniser',
    accuracyName: 'characters right',
    width: kRecogniserWidth,
    score: async (run, lines) => (await scoreRecogniser(run, lines)).charAccuracy,
    input: recogniserInput,
    calibration: (lines) => lines.calibration.map((line) => inputOf(recogniserInput(lines, line), kRecogniserWidth)),
  },
  {
    file: kClassifier,
    title: 'PP-OCR angle classifier',
    accuracyName: 'angles right',
    width: kClassifierWidth,
    score: scoreClassifier,
    input: (lines, line) => classifierInput(lines, line, false),
    calibration: (lines) =>
      lines.calibration.flatMap((line) => [false, true].map((turned) => inputOf(classifierInput(lines, line, turned), kClassifierWidth))),
  },
]

interface Row {
  readonly label: string
  readonly path: string
  /** What runs it; onnxruntime-node where nothing is said. */
  readonly open?: (path: string) => Promise<Runtime>
}

async function main(): Promise<void> {
  const out = path.join(packageRoot(), 'demo', 'out')
  fs.mkdirSync(out, { recursive: true })
  const lines = loadLines()
  const { cpu } = devices()
  console.log(
    `${os.cpus()[0]?.model ?? 'unknown CPU'}, ${cpu.threads} threads, kernels for ${cpu.variant}; onnxruntime-node with default options\n`,
  )

  const sections: ReportSection[] = []
  const rows: string[][] = []
  for (const task of kTasks) {
    const source = path.join(modelFolder(), task.file)
    const stem = path.parse(task.file).name
    const target = path.join(out, `${stem}.int8-weights.onnx`)
    const { model } = await compress(source, 'int8-weights')
    await model.save(target)
    model.close()
    const balanced = path.join(out, `${stem}.balanced.onnx`)
    const began = performance.now()
    const small = await compress(source, 'balanced', { calibration: task.calibration(lines) })
    await small.model.save(balanced)
    small.model.close()
    console.log(`${task.title}: preset balanced took ${((performance.now() - began) / 1000).toFixed(0)} s`)

    const measurements = await measure(task, lines, [
      { label: 'float32, as shipped', path: source },
      { label: 'int8-weights', path: target },
      { label: 'balanced', path: balanced },
      { label: 'balanced, in Session', path: balanced, open: openSession },
    ])
    sections.push({
      title: `${task.title}: ${task.file}`,
      report: withFigures(small.report, [measurements[0]!, measurements[2]!]),
      measurements,
      accuracyName: task.accuracyName,
    })
    const reference = measurements[0]!
    for (const m of measurements)
      rows.push([
        m === reference ? task.title : '',
        m.label,
        bytes(m.bytes),
        `${percent(m.accuracy!)} ${task.accuracyName}`,
        milliseconds(m.latency!),
        `${(m.latency! / reference.latency!).toFixed(2)} ×`,
      ])
  }
  console.log(table(['model', 'form', 'size', 'accuracy, 200 lines', 'median run', 'of float'], rows, [2, 4, 5]))
  const report = path.join(out, 'report.html')
  fs.writeFileSync(report, renderHtml(sections, 'Whittle: two OCR models in 8 bits'))
  console.log(`\nModels and report: ${path.relative(process.cwd(), out) || '.'}${path.sep}`)
}

function withFigures(report: CompressReport, [before, after]: readonly Measurement[]): CompressReport {
  const figures = ({ accuracy, latency }: Measurement): object => ({ accuracy, latency })
  return {
    ...report,
    before: { ...report.before, ...figures(before!) },
    after: { ...report.after, ...figures(after!) },
  }
}

/** Accuracy of each form, then the time of one run: interleaved, so that a busy moment hits all alike; medians. */
async function measure(task: Task, lines: OcrLines, forms: readonly Row[]): Promise<Measurement[]> {
  const open: Runtime[] = []
  for (const form of forms) open.push(await (form.open ?? openRuntime)(form.path))
  const accuracy: number[] = []
  for (const runtime of open) accuracy.push(await task.score(runtime.run, lines))
  const dims = [1, 3, kHeight, task.width]
  const inputs = lines.evaluation.slice(0, 8).map((line) => task.input(lines, line))
  const times = open.map((): number[] => [])
  const began = performance.now()
  for (let round = 0; round < 400 && (round < 25 || performance.now() - began < 8000); round++)
    for (const i of shuffled(open.length, round)) {
      const x = inputs[round % inputs.length]!
      const start = performance.now()
      await open[i]!.run(x, dims)
      // The first rounds warm up.
      if (round >= 5) times[i]!.push(performance.now() - start)
    }
  for (const runtime of open) await runtime.release()
  return forms.map((form, i) => ({
    label: form.label,
    bytes: fs.statSync(form.path).size,
    accuracy: accuracy[i]!,
    latency: median(times[i]!),
    reference: i === 0,
  }))
}

/** 0 … n−1, rotated and turned by the round: no form always runs behind the same other one. */
function shuffled(n: number, round: number): number[] {
  const order = Array.from({ length: n }, (_, i) => (i + round) % n)
  return round % 2 ? order.reverse() : order
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1]!
}

main().catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})
