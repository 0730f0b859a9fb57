import { attribute, compress, Graph, Initializer, Node, Session, ValueInfo, type Model, type Step } from '../lib'
import { bool, floats, graph, ints, modelOf, type Step as Op } from './graphs'

const { int } = attribute
const halves = (dims: readonly number[], seed: number) => {
  // 13 bits fewer than float32 has: exact in float16 between 2⁻¹⁴ and 65504.
  const data = Uint16Array.from(floats(dims, seed).data as Float32Array, (v) => {
    const bits = new Uint32Array(Float32Array.of(v).buffer)[0]!
    const exponent = ((bits >>> 23) & 255) - 112
    return exponent <= 0 ? 0 : ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 1023)
  })
  return { type: 'float16' as const, dims, data }
}

const cast: readonly Op[] = [
  ['Cast', ['w'], ['wf'], { to: int(1) }],
  ['MatMul', ['x', 'wf'], ['a']],
  ['Relu', ['a'], ['b']],
  ['Cast', ['v'], ['vf'], { to: int(1) }],
  ['Gemm', ['b', 'vf'], ['c'], { transB: int(1) }],
  ['Relu', ['c'], ['d']],
  ['Cast', ['v'], ['vg'], { to: int(1) }],
  ['MatMul', ['d', 'vg'], ['y']],
]
const stored = () =>
  modelOf(graph([['x', 'float32', [4, 40]]], { w: halves([40, 64], 1), v: halves([64, 64], 2) }, cast, ['y']))
const sets = [{ x: floats([4, 40], 7) }, { x: floats([4, 40], 8) }]

const typesOf = (model: Model): Record<string, number> => {
  const types: Record<string, number> = {}
  for (const i of model.graph.initializers.values()) if (i.elementCount > 64) types[i.type] = (types[i.type] ?? 0) + 1
  return types
}

test.each<[Step, Record<string, number>]>([
  [{ step: 'dedupe' }, { float16: 2 }],
  [{ step: 'fold' }, { float16: 2 }],
  [{ step: 'prune', sparsity: 0.5 }, { float16: 2 }],
  [{ step: 'prune', sparsity: 0.5, criterion: 'obs' }, { float16: 2 }],
  [{ step: 'prune', structure: 'neuron', sparsity: 0.25 }, { float16: 2 }],
  [{ step: 'quantize' }, { int8: 2 }],
  [
    { step: 'quantize', layers: { exclude: ['wf'] } },
    { int8: 1, float16: 1 },
  ],
  [
    { step: 'factorize', ratio: 0.4, layers: { include: ['wf'] } },
    { float16: 1, float32: 2 },
  ],
])('weights in float16 behind a Cast are weights, and stay as small: %j', async (step, want) => {
  const { model } = await compress(stored(), { steps: [step] }, { calibration: sets })
  expect(typesOf(model)).toEqual(want)
  expect(model.byteLength()).toBeLessThanOrEqual(stored().byteLength())
  const [a, b] = [await Session.create(stored()), await Session.create(model)]
  const [y, z] = [await a.run(sets[0]!), await b.run(sets[0]!)]
  expect(z.y!.dims).toEqual(y.y!.dims)
  if (step.step === 'fold' || step.step === 'dedupe') expect(z.y!.data).toEqual(y.y!.data)
})

test('a weight that outgrows float16 stays float32', async () => {
  const big = modelOf(graph([['x', 'float32', [1, 32]]], { g: { type: 'float32', dims: [32], data: new Float32Array(32).fill(1e6) }, w: halves([32, 32], 3) }, [
    ['Mul', ['x', 'g'], ['s']],
    ['Cast', ['w'], ['wf'], { to: int(1) }],
    ['MatMul', ['s', 'wf'], ['y']],
  ], ['y'])) // prettier-ignore
  const { model } = await compress(big, { steps: [{ step: 'fold' }] })
  expect(typesOf(model)).toEqual({ float32: 1 })
  const feeds = { x: floats([1, 32], 5) }
  const [want, got] = [
    (await (await Session.create(big)).run(feeds)).y!,
    (await (await Session.create(model)).run(feeds)).y!,
  ]
  for (const [i, v] of (want.data as Float32Array).entries())
    expect(Math.abs(Number(got.data[i]) - v)).toBeLessThan(1e-5 * 1e6 * 32)
})

test('what two branches compute of one weight is stored once', async () => {
  const branch = (name: string, last: string): Graph => {
    const g = new Graph(name)
    const node = (opType: string, inputs: string[], outputs: string[], attributes = {}) =>
      g.addNode(new Node({ opType, name: `${name}_${opType}`, inputs, outputs, attributes }))
    node('Transpose', ['w'], [`${name}_t`], { perm: attribute.ints([1, 0]) })
    node('MatMul', ['x', `${name}_t`], [`${name}_m`])
    node(last, [`${name}_m`], [`${name}_y`])
    g.outputs = [new ValueInfo(`${name}_y`, 'float32', null)]
    return g
  }
  const made = modelOf(
    graph([['c', 'bool', []], ['x', 'float32', [2, 96]]], { w: floats([200, 96], 3) }, [
      ['If', ['c'], ['y'], { then_branch: attribute.graph(branch('then', 'Relu')), else_branch: attribute.graph(branch('else', 'Neg')) }],
    ], ['y']),
  ) // prettier-ignore
  const { model } = await compress(made, { steps: [{ step: 'fold' }] })
  expect(model.graph.graphs().flatMap((g) => [...g.initializers.values()].map((i) => i.dims))).toEqual([[96, 200]])
  for (const c of [true, false]) {
    const feeds = { c: bool(c), x: floats([2, 96], 5) }
    const [want, got] = [await (await Session.create(made)).run(feeds), await (await Session.create(model)).run(feeds)]
    expect(got.y!.data).toEqual(want.y!.data)
  }
})

test('a table that is also a transposed product is not stored twice', async () => {
  const tied = modelOf(
    graph([['i', 'int64', [3]]], { e: floats([500, 64], 3) }, [
      ['Gather', ['e', 'i'], ['h']],
      ['Transpose', ['e'], ['t'], { perm: attribute.ints([1, 0]) }],
      ['MatMul', ['h', 't'], ['y']],
    ], ['y']),
  ) // prettier-ignore
  const { model } = await compress(tied, { steps: [{ step: 'fold' }] })
  expect(model.byteLength()).toBeLessThanOrEqual(tied.byteLength())
  const feeds = { i: ints(4, 499, 0) }
  const [want, got] = [await (await Session.create(tied)).run(feeds), await (await Session.create(model)).run(feeds)]
  expect(got.y!.data).toEqual(want.y!.data)
})

test('a model whose inputs became float16 is still compared on calibration inputs in float32', async () => {
  const steps: Step[] = [{ step: 'quantize', activations: 'float16', io: 'float16' }]
  const { report } = await compress(stored(), { steps }, { calibration: sets })
  expect(report.steps[0]!.layers.map((l) => l.action)).toEqual(['quantized', 'quantized'])
})

test('structured pruning tells of weights in branches that they stay', async () => {
  const inner = new Graph('then')
  inner.addNode(new Node({ opType: 'MatMul', name: 'product', inputs: ['x', 'w'], outputs: ['t'] }))
  inner.outputs = [new ValueInfo('t', 'float32', null)]
  const other = inner.clone()
  inner.addInitializer(Initializer.from('w', floats([16, 16], 3)))
  other.addInitializer(Initializer.from('w', floats([16, 16], 4)))
  const branches = { then_branch: attribute.graph(inner), else_branch: attribute.graph(other) }
  const made = modelOf(graph([['c', 'bool', []], ['x', 'float32', [2, 16]]], {}, [['If', ['c'], ['y'], branches]], ['y'])) // prettier-ignore
  const { report } = await compress(made, { steps: [{ step: 'prune', structure: 'all', sparsity: 0.5 }] })
  expect(report.steps[0]!.layers.map((l) => [l.weight, l.action, l.reason])).toEqual([
    ['w', 'kept', 'it lies in a branch or a loop'],
    ['w', 'kept', 'it lies in a branch or a loop'],
  ])
})
