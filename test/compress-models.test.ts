import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import {
  classifierInput,
  kClassifier,
  kRecogniser,
  loadLines,
  modelFolder,
  recogniserInput,
  scoreClassifier,
  scoreRecogniser,
} from '../demo/ocr'
import { openRuntime } from '../demo/runtime'
import { compress, type Preset } from '../lib/compress'
import { quantizedWeights } from '../lib/model/quantized'

// Real models as their makers ship them: opset 9, weights in Constant nodes.

const lines = loadLines()
let folder = ''

beforeAll(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-models-'))))
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

async function compressed(file: string, preset: Preset): Promise<{ path: string; bytes: number; kept: string[] }> {
  const target = path.join(folder, `${preset}.${file}`)
  const { model, report } = await compress(path.join(modelFolder(), file), preset)
  const { bytes } = await model.save(target)
  expect(bytes).toBe(report.after.bytes)
  expect(model.opset).toBe(9)
  const layers = report.steps.find((s) => s.step === 'quantize')!.layers
  expect(quantizedWeights(model.graph).length).toBe(layers.filter((l) => l.action === 'quantized').length)
  model.close()
  return { path: target, bytes, kept: layers.filter((l) => l.action === 'kept').map((l) => l.name) }
}

// One run of the recogniser takes 10 to 100 ms; the demo scores all 200 lines.
const some = process.env['WHITTLE_LONG'] ? lines.evaluation : lines.evaluation.slice(0, 60)

test('the recogniser: at most 2.95 MB, and it reads as float does', async () => {
  const { path: file, bytes, kept } = await compressed(kRecogniser, 'int8-weights')
  expect(bytes).toBeLessThanOrEqual(2_950_000)
  expect(kept).toEqual([])
  const float = await scoreRecogniser((await openRuntime(path.join(modelFolder(), kRecogniser))).run, lines, some)
  // Were the lines or their decoding read wrongly, the float model would not come out at the stated baseline.
  if (some.length === 200)
    expect(Math.abs(float.charAccuracy - lines.baseline.recogniser.charAccuracy)).toBeLessThan(0.002)
  else expect(float.charAccuracy).toBeGreaterThan(0.96)
  const small = await scoreRecogniser((await openRuntime(file)).run, lines, some)
  // 0.3 points of all lines; of 60 lines, with 0.19 points a character, 0.6.
  expect(small.charAccuracy).toBeGreaterThanOrEqual(float.charAccuracy - (some.length === 200 ? 0.003 : 0.006))
}, 120000)

test('the classifier: at most 0.25 MB, within 0.25 points of float', async () => {
  const { path: file, bytes } = await compressed(kClassifier, 'int8-weights')
  expect(bytes).toBeLessThanOrEqual(250_000)
  const float = await scoreClassifier((await openRuntime(path.join(modelFolder(), kClassifier))).run, lines)
  expect(Math.abs(float - lines.baseline.classifier.accuracy)).toBeLessThanOrEqual(0.0025)
  const accuracy = await scoreClassifier((await openRuntime(file)).run, lines)
  expect(accuracy).toBeGreaterThanOrEqual(lines.baseline.classifier.accuracy - 0.0025)
}, 120000)

test('int4 weights run at the opset of the file and are smaller still', async () => {
  const { path: file, bytes } = await compressed(kClassifier, 'int4-weights')
  expect(bytes).toBeLessThanOrEqual(220_000)
  expect(await scoreClassifier((await openRuntime(file)).run, lines)).toBeGreaterThan(0.85)
}, 120000)

/** Bytes as `.whittle`, and the ONNX file beside it. */
async function smallest(file: string, inputs: readonly Float32Array[], width: number): Promise<{ path: string; onnx: number; whittle: number }> {
  const target = path.join(folder, `size.${file}`)
  const calibration = inputs.map((data) => ({ x: { type: 'float32' as const, dims: [1, 3, 48, width], data } }))
  const { model } = await compress(path.join(modelFolder(), file), 'size', { calibration })
  const { bytes } = await model.save(target)
  const whittle = await model.packedLength()
  model.close()
  return { path: target, onnx: bytes, whittle }
}

test('preset size: the classifier as ONNX in 0.18 MB, as .whittle in 0.11 MB, within 0.5 points of float', async () => {
  const inputs = lines.calibration.slice(0, 8).flatMap((i) => [classifierInput(lines, i, false), classifierInput(lines, i, true)])
  const { path: file, onnx, whittle } = await smallest(kClassifier, inputs, 192)
  expect(onnx).toBeLessThanOrEqual(180_000)
  expect(whittle).toBeLessThanOrEqual(110_000)
  expect(await scoreClassifier((await openRuntime(file)).run, lines)).toBeGreaterThanOrEqual(lines.baseline.classifier.accuracy - 0.005)
}, 120000)

// Half a minute.
if (process.env['WHITTLE_LONG'])
  test('preset size: the recogniser as .whittle in 1.6 MB, within 0.6 points of float', async () => {
    const inputs = lines.calibration.map((i) => recogniserInput(lines, i))
    const { path: file, whittle } = await smallest(kRecogniser, inputs, 320)
    expect(whittle).toBeLessThanOrEqual(1_600_000)
    const { charAccuracy } = await scoreRecogniser((await openRuntime(file)).run, lines)
    expect(charAccuracy).toBeGreaterThanOrEqual(lines.baseline.recogniser.charAccuracy - 0.006)
  }, 600000)
