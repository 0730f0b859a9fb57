import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { kClassifier, kRecogniser, loadLines, modelFolder, scoreClassifier, scoreRecogniser } from '../demo/ocr'
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
