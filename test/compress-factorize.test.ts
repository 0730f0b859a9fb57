import { compress, type FactorizeStep, type Recipe } from '../lib/compress'
import { attribute, ValueInfo, type Attribute, type Model } from '../lib/model'
import { native } from '../lib/native'
import { agree, expectSame, floats, graph, modelOf, sizeOf, theirs, type Step, type Values } from './graphs'
import { failure, noise, rms } from './nets'
import { bestError, composed, type Kernel } from './oracle/factorize'

const step = (more: Omit<FactorizeStep, 'step'> = {}): Recipe => ({ steps: [{ step: 'factorize', ...more }] })
const ints = attribute.ints

/** The product of two random matrices. */
function lowRankMatrix(rows: number, columns: number, rank: number, seed: number): Float32Array {
  const [a, b] = [noise(rows * rank, seed), noise(rank * columns, seed + 50)]
  return Float32Array.from({ length: rows * columns }, (_, i) => {
    let s = 0
    for (let k = 0; k < rank; k++) s += a[Math.floor(i / columns) * rank + k]! * b[k * columns + (i % columns)]!
    return s
  })
}

/** A kernel that a chain of random convolutions amounts to. */
function kernelOf(seed: number, ...chain: (readonly [dims: readonly number[], group?: number])[]): { dims: number[]; data: Float32Array } {
  const made = chain.map(([dims, group = 1], i): Kernel => ({ dims, group, data: noise(sizeOf(dims), seed + i) }))
  const dims = [chain.at(-1)![0][0]!, chain[0]![0][1]! * (chain[0]![1] ?? 1), 0, 0]
  for (const axis of [2, 3]) dims[axis] = made.reduce((n, k) => n + k.dims[axis]! - 1, 1)
  return { dims, data: Float32Array.from(composed(made)) }
}

/** A model of one convolution with a bias, on an input of 9 × 11. */
function convModel(w: { dims: readonly number[]; data: Float32Array }, attributes: Record<string, Attribute> = {}, group = 1): Model {
  const channels = w.dims[1]! * group
  const spatial = w.dims.length === 3 ? [17] : [9, 11]
  return modelOf(
    graph(
      [['x', 'float32', [2, channels, ...spatial]]],
      { w: { type: 'float32', ...w }, b: floats([w.dims[0]!], 77) },
      [
        ['Conv', ['x', 'w', 'b'], ['c'], { ...attributes, ...(group > 1 ? { group: attribute.int(group) } : {}) }],
        ['Relu', ['c'], ['y']],
      ],
      ['y'],
    ),
  )
}

async function sameBeforeAndAfter(model: Model, recipe: Recipe, feeds: Values): Promise<{ small: Model; nodes: string }> {
  const { model: small, report } = await compress(model, recipe)
  expect(report.steps[0]!.layers.map((l) => [l.action, l.reason])).toEqual([['factorized', undefined]])
  expect(report.steps[0]!.layers[0]!.error).toBeLessThan(2e-3)
  expect(small.byteLength()).toBeLessThan(model.byteLength())
  const [want, got] = [await theirs(model, feeds), await theirs(small, feeds)]
  for (const name of Object.keys(want)) expectClose(got[name]!.data as Float32Array, want[name]!.data as Float32Array, 3e-3)
  await agree(small, feeds)
  return { small, nodes: small.nodes.map((n) => n.opType).join(' ') }
}

function expectClose(got: Float32Array, want: Float32Array, relative: number): void {
  let [far, size] = [0, 0]
  want.forEach((v, i) => {
    far = Math.max(far, Math.abs(got[i]! - v))
    size = Math.max(size, Math.abs(v))
  })
  expect(got.length).toBe(want.length)
  expect(far / size).toBeLessThan(relative)
}

const kWindows: Record<string, Attribute>[] = [
  {},
  { strides: ints([2, 1]), pads: ints([1, 0, 2, 1]), kernel_shape: ints([3, 3]) },
  { dilations: ints([1, 2]), pads: ints([0, 2, 1, 2]) },
  { auto_pad: attribute.string('SAME_UPPER'), strides: ints([1, 2]) },
]

const kConvs: [FactorizeStep['method'] & string, number, { dims: number[]; data: Float32Array }, string][] = [
  ['svd', 5, kernelOf(1, [[5, 12, 3, 3]], [[20, 5, 1, 1]]), 'Conv Conv Relu'],
  ['tucker', 5, kernelOf(4, [[5, 12, 1, 1]], [[5, 5, 3, 3]], [[20, 5, 1, 1]]), 'Conv Conv Conv Relu'],
  ['cp', 3, kernelOf(8, [[3, 12, 1, 1]], [[3, 1, 3, 1], 3], [[3, 1, 1, 3], 3], [[20, 3, 1, 1]]), 'Conv Conv Conv Conv Relu'],
  ['separable', 4, kernelOf(13, [[4, 12, 3, 1]], [[20, 4, 1, 3]]), 'Conv Conv Relu'],
  ['decouple', 2, kernelOf(17, [[24, 1, 3, 3], 12], [[20, 24, 1, 1]]), 'Conv Conv Relu'],
]

test.each(kConvs)('%s of a convolution: at the rank it has, the chain computes the same, strides, pads and dilations included', async (method, rank, w, ops) => {
  for (const attributes of kWindows) {
    const { small, nodes } = await sameBeforeAndAfter(convModel(w, attributes), step({ method, rank }), { x: floats([2, 12, 9, 11], 3) })
    expect(nodes).toBe(ops)
    // The weights of the chain put together are the kernel.
    const chain = small.nodes.slice(0, -1).map((n): Kernel => {
      const t = small.initializers.get(n.inputs[1]!)!.readSync()
      return { dims: t.dims, data: t.data as Float32Array, group: n.int('group', 1) }
    })
    expectClose(Float32Array.from(composed(chain)), w.data, 2e-3)
    expect(small.nodes.slice(0, -2).every((n) => n.inputs.length === 2)).toBe(true)
  }
})

test('A 1×1 convolution, one over a line, and a depthwise one', async () => {
  const flat = { dims: [40, 30, 1, 1], data: lowRankMatrix(40, 30, 4, 2) }
  await sameBeforeAndAfter(convModel(flat, { strides: ints([2, 2]), pads: ints([1, 0, 0, 1]) }), step({ error: 1e-4 }), { x: floats([2, 30, 9, 11]) })
  const line = { dims: [24, 20, 3], data: lowRankMatrix(24, 60, 3, 5) }
  await sameBeforeAndAfter(convModel(line, { pads: ints([1, 1]), strides: ints([2]) }), step({ energy: 0.99999999 }), { x: floats([2, 20, 17]) })
  const filters = Float32Array.from({ length: 48 * 25 }, (_, i) => noise(48 * 5, 3)[Math.floor(i / 25) * 5 + (Math.floor(i / 5) % 5)]! * noise(48 * 5, 9)[Math.floor(i / 25) * 5 + (i % 5)]!)
  const depthwise = { dims: [48, 1, 5, 5], data: filters }
  await sameBeforeAndAfter(convModel(depthwise, { pads: ints([2, 2, 2, 2]), strides: ints([1, 2]) }, 48), step({ method: 'auto', rank: 1 }), { x: floats([2, 48, 9, 11]) })
})

const kProducts: [string, Step, number[]][] = [
  ['MatMul', ['MatMul', ['x', 'w'], ['y']], [3, 4, 40]],
  ['MatMul from the left', ['MatMul', ['w', 'x'], ['y']], [2, 48, 5]],
  ['Gemm', ['Gemm', ['x', 'w', 'c'], ['y'], { alpha: attribute.float(0.5), beta: attribute.float(2) }], [6, 40]],
  ['Gemm, transposed', ['Gemm', ['x', 'w'], ['y'], { transA: attribute.int(1), transB: attribute.int(1) }], [48, 6]],
]

test.each(kProducts)('svd and nmf of a matrix: %s', async (_, node, dims) => {
  for (const method of ['svd', 'nmf'] as const) {
    const w = lowRankMatrix(40, 48, 5, 6).map(method === 'nmf' ? (_v, i) => lowRankNonNegative[i]! : (v) => v)
    const model = modelOf(graph([['x', 'float32', dims]], { w: { type: 'float32', dims: [40, 48], data: w }, c: floats([48], 3) }, [node], ['y']), 13)
    const { nodes } = await sameBeforeAndAfter(model, step({ method, rank: 5 }), { x: floats(dims) })
    expect(nodes).toBe(`${node[0]} ${node[0]}`)
  }
})

const lowRankNonNegative = ((): Float32Array => {
  const [a, b] = [noise(40 * 5, 1).map(Math.abs), noise(5 * 48, 2).map(Math.abs)]
  return Float32Array.from({ length: 40 * 48 }, (_, i) => [0, 1, 2, 3, 4].reduce((s, k) => s + a[Math.floor(i / 48) * 5 + k]! * b[k * 48 + (i % 48)]!, 0))
})()

/** A matrix whose singular values fall by `fall` each. */
function falling(rows: number, columns: number, fall: number): Float32Array {
  const out = new Float32Array(rows * columns)
  for (let k = 0; k < 16; k++) {
    const part = lowRankMatrix(rows, columns, 1, 20 + k)
    for (let i = 0; i < out.length; i++) out[i]! += part[i]! * fall ** k
  }
  return out
}

function product(w: Float32Array): Model {
  return modelOf(graph([['x', 'float32', [null, 48]]], { w: { type: 'float32', dims: [48, 40], data: w } }, [['MatMul', ['x', 'w'], ['y']]], ['y']))
}

test('Below full rank the product of the factors is as near as any of that rank, and rules choose ranks as they say', async () => {
  const w = falling(48, 40, 0.6)
  const ranks: number[] = []
  for (const rule of [{ rank: 3 }, { energy: 0.9 }, { error: 0.05 }, { ratio: 0.4 }, { rank: 'vbmf' }] as const) {
    const { model, report } = await compress(product(w), step(rule))
    const [layer] = report.steps[0]!.layers
    const [rank] = layer!.ranks!
    ranks.push(rank!)
    const [a, b] = model.nodes.map((n) => model.initializers.get(n.inputs[1]!)!.readSync().data as Float32Array)
    const far = w.map((v, i) => {
      let s = 0
      for (let k = 0; k < rank!; k++) s += a![Math.floor(i / 40) * rank! + k]! * b![k * 40 + (i % 40)]!
      return v - s
    })
    const norm = (x: Float32Array): number => Math.sqrt(x.reduce((s, v) => s + v * v, 0))
    const best = bestError(w, 48, 40, rank!)
    expect(norm(far) / norm(w)).toBeLessThan(best * 1.001 + 1e-6)
    expect(layer!.error).toBeCloseTo(norm(far) / norm(w), 5)
    if ('energy' in rule) expect([best ** 2 <= 0.1, bestError(w, 48, 40, rank! - 1) ** 2 <= 0.1]).toEqual([true, false])
    if ('error' in rule) expect([best <= 0.05, bestError(w, 48, 40, rank! - 1) <= 0.05]).toEqual([true, false])
    if ('ratio' in rule) expect(layer!.bytesAfter).toBeLessThanOrEqual(0.4 * layer!.bytesBefore)
  }
  expect(ranks[0]).toBe(3)
  expect(ranks[3]).toBe(8)
})

test('Errors of convolutions keep to the rule, by every method', async () => {
  const w = { dims: [24, 16, 3, 3], data: falling(24, 16 * 9, 0.7) }
  for (const method of ['svd', 'tucker', 'separable', 'decouple'] as const) {
    const { report } = await compress(convModel(w), step({ method, error: 0.3, maxError: 0.3 }))
    const [layer] = report.steps[0]!.layers
    expect(layer!.error).toBeLessThanOrEqual(0.3 + 1e-6)
  }
  for (const method of ['tucker', 'cp', 'separable', 'decouple'] as const) {
    const { report } = await compress(convModel(w), step({ method, ratio: 0.5, maxError: 2 }))
    const [layer] = report.steps[0]!.layers
    expect(layer!.action).toBe('factorized')
    expect(layer!.bytesAfter).toBeLessThanOrEqual(0.5 * layer!.bytesBefore)
    expect(layer!.bytesAfter).toBeGreaterThan(0.2 * layer!.bytesBefore)
  }
})

test('Weighed by inputs, outputs are nearer than those of the plain factors of the same rank', async () => {
  const calibration = [1, 2, 3].map((seed) => ({ x: { type: 'float32' as const, dims: [20, 48], data: noise(960, seed).map((v, i) => v * (i % 48 < 6 ? 5 : 0.2)) } }))
  const w = noise(48 * 40, 8)
  const errors = await Promise.all(
    (['none', 'inputs'] as const).map(async (weighting) => {
      const { model } = await compress(product(w), step({ rank: 8, weighting, maxError: 2 }), { calibration })
      const [want, got] = [await theirs(product(w), calibration[0]!), await theirs(model, calibration[0]!)]
      return (want['y']!.data as Float32Array).reduce((s, v, i) => s + (v - Number(got['y']!.data[i])) ** 2, 0)
    }),
  )
  expect(errors[1]).toBeLessThan(0.3 * errors[0]!)
})

test('By energy of few inputs a layer keeps what others need', async () => {
  const sets = [1, 2, 3, 4, 5].map((seed) => ({ x: { type: 'float32' as const, dims: [1, 48], data: noise(48, seed) } }))
  const w = noise(48 * 40, 8)
  const { model } = await compress(product(w), step({ energy: 0.99, weighting: 'inputs' }), { calibration: sets.slice(0, 4) })
  const [want, got] = [await theirs(product(w), sets[4]!), await theirs(model, sets[4]!)]
  const off = (want['y']!.data as Float32Array).map((v, i) => v - Number(got['y']!.data[i]))
  expect(rms(off)).toBeLessThan(0.2 * rms(want['y']!.data as Float32Array))
})

test('Layers whose factors would not be smaller, or that something else reads, stay and say why', async () => {
  const reasonsOf = async (model: Model, recipe: Recipe): Promise<string[]> => (await compress(model, recipe)).report.steps[0]!.layers.map((l) => `${l.action}: ${l.reason}`)
  const w = noise(48 * 40, 8)
  expect(await reasonsOf(product(w), step({ rank: 30 }))).toEqual(['kept: rank 30 holds 2640 numbers instead of 1920'])
  expect(await reasonsOf(product(w), step({ rank: 2, maxError: 0.1 }))).toEqual([expect.stringMatching(/^kept: rank 2: its relative error/)])
  expect(await reasonsOf(product(w), step({ method: 'tucker' }))).toEqual(['kept: tucker takes convolutions apart'])
  expect(await reasonsOf(product(w), step({ method: 'nmf' }))).toEqual(['kept: it has negative values'])
  const grouped = { dims: [32, 8, 3, 3], data: noise(32 * 72, 3) }
  expect(await reasonsOf(convModel(grouped, {}, 4), step({ method: 'svd' }))).toEqual(['kept: it is a grouped convolution'])
  // Its first layer runs at the resolution before the stride: more multiplications, though fewer numbers.
  const strided = { dims: [24, 64, 2, 2], data: noise(24 * 64 * 4, 3) }
  expect(await reasonsOf(convModel(strided, { strides: ints([4, 4]) }), step({ method: 'tucker', rank: 12, maxError: 2 }))).toEqual([
    expect.stringMatching(/^kept: rank 12 × 12 takes \d+ multiplications a place instead of 6144/),
  ])
  const tied = modelOf(
    graph([['x', 'float32', [2, 48]], ['i', 'int64', [3]]], { w: { type: 'float32', dims: [48, 40], data: w } }, [
      ['MatMul', ['x', 'w'], ['y']],
      ['Gather', ['w', 'i'], ['z']],
    ], ['y', 'z']),
  )
  expect(await reasonsOf(tied, step({ rank: 4, layers: { ops: ['MatMul'] } }))).toEqual(['kept: nodes of other kinds read it too'])
})

test('Sweeps are few, and ranks that no factors can be near enough with are not tried', async () => {
  const calls = (name: 'factorTucker' | 'factorNmf' | 'factorCp') => jest.spyOn(native(), name)
  const [tucker, nmf, cp] = [calls('factorTucker'), calls('factorNmf'), calls('factorCp')]
  const square = { dims: [32, 32, 3, 3], data: noise(32 * 32 * 9, 5) }
  await compress(convModel(square), step({ method: 'tucker', rank: 8, maxError: 1 }))
  expect((tucker.mock.calls[0]![13] as Float64Array)[1]).toBeLessThan(20)
  const far = async (model: Model, recipe: Recipe) => expect((await compress(model, recipe)).report.steps[0]!.layers[0]!.reason).toBe('no rank that saves anything is near enough')
  await far(product(noise(48 * 40, 8).map(Math.abs)), step({ method: 'nmf', error: 0.05 }))
  await far(convModel(square), step({ method: 'cp', error: 0.01 }))
  expect([nmf, cp].map((spy) => spy.mock.calls.length)).toEqual([0, 1])
  jest.restoreAllMocks()
})

test('A weight that two nodes share, one of them in a branch, is taken apart once', async () => {
  const w = lowRankMatrix(48, 48, 4, 3)
  const branch = (name: string) => graph([], {}, [['MatMul', ['h', 'w'], [name]]], [name])
  const g = graph(
    [['x', 'float32', [2, 48]], ['yes', 'bool', []]],
    { w: { type: 'float32', dims: [48, 48], data: w } },
    [
      ['MatMul', ['x', 'w'], ['h']],
      ['If', ['yes'], ['y'], { then_branch: attribute.graph(branch('p')), else_branch: attribute.graph(branch('q')) }],
    ],
    ['y', 'h'],
  )
  g.inputs = [...g.inputs, new ValueInfo('w', 'float32', [48, 48])]
  const model = modelOf(g)
  const { model: small, report } = await compress(model, step({ rank: 4 }))
  expect(report.steps[0]!.layers.map((l) => l.action)).toEqual(['factorized'])
  expect([...small.initializers.values()].map((t) => t.dims)).toEqual([[48, 4], [4, 48]])
  expect(small.inputs.map((i) => i.name)).toEqual(['x', 'yes'])
  const feeds: Values = { x: floats([2, 48]), yes: { type: 'bool', dims: [], data: Uint8Array.of(1) } }
  const [want, got] = [await theirs(model, feeds), await theirs(small, feeds)]
  expectClose(got['y']!.data as Float32Array, want['y']!.data as Float32Array, 1e-3)
  expectSame(got['h'], want['h'])
})

test('Where it is measured, layers stay unless their factors are faster; the file is the same every time', async () => {
  const w = { dims: [48, 48, 3, 3], data: noise(48 * 48 * 9, 3) }
  const { report } = await compress(convModel(w), step({ method: 'tucker', ratio: 0.9, maxError: 2, measure: true }))
  const [layer] = report.steps[0]!.layers
  if (layer!.action === 'kept') expect(layer!.reason).toMatch(/^its factors take .* here, the layer /)
  const unknown = await compress(product(falling(48, 40, 0.5)), step({ rank: 3, measure: true }))
  expect(unknown.report.steps[0]!.layers[0]!.reason).toMatch(/shape of its input x is not known/)
  const bytes = async () => (await compress(convModel(w), step({ method: 'cp', rank: 9, maxError: 2 }))).model.toBytes()
  expect(Buffer.compare(await bytes(), await bytes())).toBe(0)
})

test('Steps that contradict themselves, weights that are no numbers and missing calibration are refused by name', async () => {
  const w = noise(48 * 40, 8)
  for (const bad of [{ rank: 3, energy: 0.5 }, { rank: 0 }, { energy: 0 }, { ratio: 2 }, { method: 'pca' }, { rank: 'best' }, { ranks: 3 }, { method: 'cp', rank: 'vbmf' }, { method: 'cp', weighting: 'inputs' }])
    expect(await failure(() => compress(product(w), step(bad as object)))).toMatchObject({ name: 'WhittleError' })
  expect(await failure(() => compress(product(w), step({ weighting: 'inputs' })))).toMatchObject({ code: 'ERR_RANGE' })
  w[3] = Infinity
  expect(await failure(() => compress(product(w), step({ rank: 3 })))).toMatchObject({ code: 'ERR_RANGE', parameter: 'w' })
  const { report } = await compress(product(w), step({ rank: 3, nonFinite: 'keep' }))
  expect(report.steps[0]!.layers[0]!.reason).toBe('element 3 is Infinity')
})
