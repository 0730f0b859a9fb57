import { attribute, compress, quantizeDynamic, quantizeStatic, Session, type Model, type Tensor } from '../lib'
import { float, floats, graph, modelOf, theirs } from './graphs'
import { noise } from './nets'

// Log spectra: what codes of 8 bits make of small powers is small beside the largest, and all that their logarithm shows.
const spectrum = (): Model =>
  modelOf(
    graph(
      [['x', 'float32', [4, 64]]],
      { w: floats([64, 64], 1), two: float([], 2), bank: float([64, 32], ...noise(64 * 32, 2).map(Math.abs)), least: float([], 1e-10), v: floats([32, 32], 3) },
      [['MatMul', ['x', 'w'], ['f']], ['Pow', ['f', 'two'], ['p']], ['MatMul', ['p', 'bank'], ['m']], ['Max', ['m', 'least'], ['c']], ['Log', ['c'], ['l']], ['MatMul', ['l', 'v'], ['r']], ['Relu', ['r'], ['y']]],
      ['y', 'l'],
    ),
  ) // prettier-ignore
/** Rows from loud to silent. */
const sound = (seed: number): { x: Tensor } => ({ x: float([4, 64], ...noise(256, seed).map((v, i) => v * 10 ** -Math.floor(i / 64))) })
const sets = [1, 2, 3, 4].map((i) => sound(10 + i))

async function expectNear(made: Model, small: Model): Promise<void> {
  const want = await (await Session.create(made)).run(sound(30))
  for (const got of [await (await Session.create(small)).run(sound(30)), await theirs(small, sound(30))])
    (want.l!.data as Float32Array).forEach((v, i) => expect(Math.abs(Number(got.l!.data[i]) - v)).toBeLessThan(0.2))
}

test.each(['balanced', 'speed', 'transformers.js'] as const)('%s keeps what a logarithm is taken of in float', async (preset) => {
  const made = spectrum()
  const { model, report } = await compress(made, preset, { calibration: sets })
  await expectNear(made, model)
  const layers = report.steps.filter((s) => s.step === 'quantize').flatMap((s) => s.layers)
  expect(layers.map((l) => [l.weight, l.action]).sort()).toEqual(['bank', 'v', 'w'].map((w) => [w, 'quantized']))
  if (preset === 'transformers.js') return
  expect(layers.filter((l) => l.reason).map((l) => [l.weight, l.reason])).toEqual(['w', 'bank'].map((w) => [w, expect.stringMatching(/logarithm/)]))
  expect(report.steps[2]!.summary).toMatch(/1 layers read 8-bit codes; 2 keep float inputs before a logarithm/)
})

test('so do quantizeStatic and quantizeDynamic', async () => {
  const made = spectrum()
  for (const model of [await quantizeStatic(made, sets), quantizeDynamic(made)]) await expectNear(made, model)
  // What an activation lies between is an ordinary layer: a softmax, whose logarithm is taken.
  const net = modelOf(graph([['x', 'float32', [2, 64]]], { w: floats([64, 64], 1) }, [['MatMul', ['x', 'w'], ['f']], ['Softmax', ['f'], ['s'], { axis: attribute.int(-1) }], ['Log', ['s'], ['y']]], ['y']))
  expect(quantizeDynamic(net).graph.nodes.map((n) => n.opType)).toContain('MatMulInteger')
})
