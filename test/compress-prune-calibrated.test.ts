import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { compress, Initializer, saveSafeTensors, Session, type CompressReport, type Model, type Recipe, type Tensor } from '../lib'
import { attribute, floats, graph, modelOf } from './graphs'
import { failure } from './nets'

/** Inputs whose channels go together, the first ones much larger. */
const input = (seed: number): Tensor => {
  const t = floats([2, 8, 6, 5], seed)
  const given = t.data as Float32Array
  return { ...t, data: given.map((v, i) => (v + 0.7 * given[i % 30]!) * (Math.floor(i / 30) % 8 < 2 ? 4 : 1)) }
}
const calibration = Array.from({ length: 6 }, (_, i) => ({ x: input(i + 1) }))

/** A convolution, a depthwise one, a pointwise one and a product. */
const net = (): Model =>
  modelOf(
    graph(
      [['x', 'float32', ['n', 8, 6, 5]]],
      { a: floats([12, 8, 3, 3], 11), b: floats([12, 1, 3, 3], 12), c: floats([16, 12, 1, 1], 13), d: floats([16, 20], 14), shape: { type: 'int64', dims: [3], data: BigInt64Array.of(0n, 16n, 30n) } },
      [
        ['Conv', ['x', 'a'], ['h'], { pads: attribute.ints([1, 1, 1, 1]) }],
        ['Relu', ['h'], ['hr']],
        ['Conv', ['hr', 'b'], ['k'], { group: attribute.int(12), pads: attribute.ints([1, 1, 1, 1]) }],
        ['Conv', ['k', 'c'], ['l']],
        ['Reshape', ['l', 'shape'], ['m']],
        ['Transpose', ['m'], ['t'], { perm: attribute.ints([0, 2, 1]) }],
        ['MatMul', ['t', 'd'], ['y']],
      ],
      ['y'],
    ),
  )

type Step = Recipe['steps'][number]
const layers = { minElements: 1 }

async function prune(step: object): Promise<{ weights: Record<string, Float32Array>; report: CompressReport; model: Model }> {
  const { model, report } = await compress(net(), { steps: [{ step: 'prune', layers, ...step } as Step] }, { calibration })
  return { model, report, weights: Object.fromEntries(['a', 'b', 'c', 'd'].map((w) => [w, model.graph.initializers.get(w)!.readSync().data as Float32Array])) }
}

const zeros = (data: ArrayLike<number>): number => Array.from(data).filter((v) => v === 0).length

/** Relative error of the model's output on the calibration inputs. */
async function distance(model: Model): Promise<number> {
  const [one, other] = [await Session.create(net(), { threads: 1 }), await Session.create(model, { threads: 1 })]
  let error = 0
  let size = 0
  for (const feed of calibration) {
    const [y, z] = [(await one.run(feed)).y!.data as Float32Array, (await other.run(feed)).y!.data as Float32Array]
    y.forEach((v, i) => {
      error += (v - z[i]!) ** 2
      size += v * v
    })
  }
  one.dispose()
  other.dispose()
  return error / size
}

test('criteria with calibration inputs reach the ratio, and keep the outputs nearer than magnitudes do, with updates nearer still', async () => {
  const found: Record<string, number> = {}
  for (const criterion of ['l1', 'wanda', 'obd', 'obs', 'sparsegpt'] as const) {
    const { weights, model, report } = await prune({ sparsity: 0.5, criterion })
    found[criterion] = await distance(model)
    for (const l of report.steps[0]!.layers) {
      expect(Math.abs(zeros(weights[l.weight]!) / l.elements - 0.5)).toBeLessThan(criterion === 'wanda' ? 0.06 : 0.001)
      expect(l.action).toBe('pruned')
      expect(l.outputError === undefined).toBe(criterion === 'l1')
    }
  }
  expect(found.obd).toBeLessThan(0.9 * found.l1!)
  expect(found.obs).toBeLessThan(0.8 * found.obd!)
  expect(found.sparsegpt).toBeLessThan(0.95 * found.obd!)
  const updated = await prune({ sparsity: 0.5, update: true })
  expect(await distance(updated.model)).toBeLessThan(0.9 * found.l1!)
  const plain = await prune({ sparsity: 0.5, criterion: 'obs', update: false })
  expect(await distance(plain.model)).toBeGreaterThan(found.obs!)
})

test("wanda compares |w| times the norm of its input within each output's row", async () => {
  const { weights } = await prune({ sparsity: 0.5, criterion: 'wanda', layers: 'a', along: 'reduction' })
  const norms = new Float64Array(8 * 9)
  for (const { x } of calibration)
    for (let i = 0; i < 2; i++)
      for (let c = 0; c < 8; c++)
        for (let dy = -1; dy <= 1; dy++)
          for (let dx = -1; dx <= 1; dx++)
            for (let y = Math.max(0, dy); y < Math.min(6, 6 + dy); y++)
              for (let z = Math.max(0, dx); z < Math.min(5, 5 + dx); z++)
                norms[c * 9 + (dy + 1) * 3 + dx + 1]! += (x.data as Float32Array)[((i * 8 + c) * 6 + y) * 5 + z]! ** 2
  const w = floats([12, 8, 3, 3], 11).data as Float32Array
  for (let o = 0; o < 12; o++) {
    const scores = Array.from({ length: 72 }, (_, j) => Math.abs(w[o * 72 + j]!) * Math.sqrt(norms[j]!))
    const middle = [...scores].sort((a, b) => a - b)[36]!
    scores.forEach((s, j) => {
      if (Math.abs(s - middle) > 1e-3 * middle) expect([o, j, weights.a![o * 72 + j] === 0]).toEqual([o, j, s < middle])
    })
  }
})

test('two of four hold along the reduction, and along input channels, tap by tap; what they do not suit says so', async () => {
  for (const criterion of ['sparsegpt', 'obs', 'wanda']) {
    const { weights, report } = await prune({ pattern: '2:4', criterion })
    for (let i = 0; i < weights.a!.length; i += 4) expect(zeros(weights.a!.subarray(i, i + 4))).toBe(2)
    for (let o = 0; o < 20; o++) for (let k = 0; k < 16; k += 4) expect(zeros([0, 1, 2, 3].map((j) => weights.d![(k + j) * 20 + o]!))).toBe(2)
    expect(report.steps[0]!.layers.find((l) => l.weight === 'b')).toMatchObject({ action: 'kept', reason: '4 does not divide its reduction of 9' })
    const inputs = (await prune({ pattern: '2:4', criterion, along: 'inputs', layers: 'a' })).weights.a!
    for (let o = 0; o < 12; o++)
      for (let tap = 0; tap < 9; tap++) for (let c = 0; c < 8; c += 4) expect(zeros([0, 1, 2, 3].map((j) => inputs[(o * 8 + c + j) * 9 + tap]!))).toBe(2)
  }
})

test('blocks of outputs and of inputs are zero as one', async () => {
  for (const criterion of ['sparsegpt', 'obs']) {
    const { weights } = await prune({ pattern: { block: [4, 1] }, sparsity: 0.5, criterion, layers: { include: ['a', 'c'], minElements: 1 } })
    for (let o = 0; o < 12; o += 4) for (let j = 0; j < 72; j++) expect([0, 4]).toContain(zeros([0, 1, 2, 3].map((i) => weights.a![(o + i) * 72 + j]!)))
    expect(zeros(weights.c!)).toBe(96)
    const wide = (await prune({ pattern: { block: [1, 4] }, sparsity: 0.5, criterion, along: 'inputs', layers: 'a' })).weights.a!
    for (let o = 0; o < 12; o++)
      for (let tap = 0; tap < 9; tap++) for (let c = 0; c < 8; c += 4) expect([0, 4]).toContain(zeros([0, 1, 2, 3].map((j) => wide[(o * 8 + c + j) * 9 + tap]!)))
  }
})

test('a scan gives each layer a ratio of its own, so that the target is met and the outputs stay nearer than with one ratio', async () => {
  const { weights, report, model } = await prune({ sparsity: 'auto', target: 0.4, criterion: 'sparsegpt' })
  const total = Object.values(weights).reduce((s, w) => s + w.length, 0)
  expect(Object.values(weights).reduce((s, w) => s + zeros(w), 0) / total).toBeCloseTo(0.4, 2)
  expect(new Set(report.steps[0]!.layers.map((l) => l.sparsity ?? 0)).size).toBeGreaterThan(1)
  expect(await distance(model)).toBeLessThan(await distance((await prune({ sparsity: 0.4, criterion: 'sparsegpt' })).model))
  expect(report.recipe.steps[0]).toMatchObject({ sparsity: 'auto', target: 0.4, update: true, damping: 0.01, sequential: true })
  expect((await failure(() => prune({ sparsity: 'auto', target: 0.95 }))).message).toContain('at most 0.9')
})

test('layers see their inputs as the layers before left them, or as they were, and the bytes are the same every time', async () => {
  const [one, two, apart] = [await prune({ sparsity: 0.6, criterion: 'sparsegpt' }), await prune({ sparsity: 0.6, criterion: 'sparsegpt' }), await prune({ sparsity: 0.6, criterion: 'sparsegpt', sequential: false })]
  expect(one.model.toBytes()).toEqual(two.model.toBytes())
  expect(apart.weights.a).toEqual(one.weights.a)
  expect(apart.weights.d).not.toEqual(one.weights.d)
})

test('sensitivity takes gradients from a file, the control a seed', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-'))
  const gradients = path.join(folder, 'g.safetensors')
  const g = floats([16, 20], 77)
  await saveSafeTensors(gradients, [Initializer.from('d', g)])
  const w = floats([16, 20], 14).data as Float32Array
  for (const update of [false, true]) {
    const found = (await prune({ sparsity: 0.5, criterion: 'sensitivity', gradients, update, layers: 'd' })).weights.d!
    const scores = Array.from(w, (v, i) => Math.abs(Math.fround(v * (g.data as Float32Array)[i]!)))
    const middle = [...scores].sort((a, b) => a - b)[160]!
    expect(found.findIndex((v, i) => (v === 0) !== scores[i]! < middle)).toBe(-1)
    if (!update) expect(found.findIndex((v, i) => v !== 0 && v !== w[i])).toBe(-1)
  }
  const missing = await failure(() => prune({ sparsity: 0.5, criterion: 'sensitivity', gradients, layers: ['a', 'd'] }))
  expect([missing.code, missing.parameter]).toEqual(['ERR_RANGE', 'gradients'])
  fs.rmSync(folder, { recursive: true })
  const [a, b, c] = [await prune({ sparsity: 0.5, criterion: 'random' }), await prune({ sparsity: 0.5, criterion: 'random', seed: 0 }), await prune({ sparsity: 0.5, criterion: 'random', seed: 1 })]
  expect(a.weights).toEqual(b.weights)
  expect(a.weights.d).not.toEqual(c.weights.d)
  expect(zeros(a.weights.d!)).toBe(160)
  expect(zeros((await prune({ sparsity: 0.5, criterion: 'random', update: true })).weights.d!)).toBe(160)
})

test.each([
  [{ sparsity: 0.5, criterion: 'sparsgpt' }, 'criterion'],
  [{ sparsity: 'auto', criterion: 'wanda' }, 'target'],
  [{ sparsity: 0.5, target: 0.4 }, 'target'],
  [{ sparsity: 'auto', target: 2 }, 'target'],
  [{ sparsity: 0.5, criterion: 'wanda', scope: 'global' }, 'scope'],
  [{ sparsity: 0.5, criterion: 'obs', pattern: 'channel' }, 'pattern'],
  [{ pattern: '2:4', sparsity: 'auto', target: 0.5 }, 'sparsity'],
  [{ sparsity: 0.5, criterion: 'sparsegpt', update: false }, 'update'],
  [{ sparsity: 0.5, damping: 0.1 }, 'damping'],
  [{ sparsity: 0.5, sequential: false }, 'sequential'],
  [{ sparsity: 0.5, criterion: 'sensitivity' }, 'gradients'],
  [{ sparsity: 0.5, gradients: 'x' }, 'gradients'],
  [{ sparsity: 0.5, seed: 1 }, 'seed'],
] as const)('the step %j is refused', async (step, field) => {
  expect((await failure(() => prune(step))).parameter).toBe(`recipe.steps[0].${field}`)
})

test('without calibration inputs there is no pruning by them', async () => {
  const error = await failure(() => compress(net(), { steps: [{ step: 'prune', sparsity: 0.5, criterion: 'sparsegpt' }] }))
  expect([error.code, error.parameter]).toEqual(['ERR_RANGE', 'options.calibration'])
})
