import { Initializer, Session, ValueInfo, type Attribute, type Tensor } from '../lib'
import { attribute, expectSame, float, floats, graph, int as scalar, ints, modelOf, sizeOf, theirs, type Step, type Values } from './graphs'

/** What changed in opsets 18 to 21, a small model each, against onnxruntime-node. */

const { int, ints: list, string: text } = attribute
type Attributes = Record<string, Attribute>
type Data = 'int8' | 'uint8' | 'int16' | 'uint16' | 'int32' | 'uint32'

/** inputs of the node in order: tensors are fed, [tensor] is a constant, '' is left out */
type Given = Tensor | readonly [Tensor] | ''
interface Case {
  readonly op: string
  readonly opset: number
  readonly given: readonly Given[]
  readonly attributes?: Attributes
  readonly outputs?: number
  /** cast of the results before they leave, for types that onnxruntime-node cannot hand over */
  readonly cast?: number
}

const made: Record<string, Case> = {}
const add = (label: string, opset: number, op: string, given: readonly Given[], attributes: Attributes = {}, more: { outputs?: number; cast?: number } = {}): void => {
  if (made[label]) throw new Error(`two cases called ${label}`)
  made[label] = { op, opset, given, attributes, ...more }
}
const of = (type: Data, dims: readonly number[], seed: number, low = 0, high = 100): Tensor => {
  const kinds = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array }
  return { type, dims, data: new kinds[type]((floats(dims, seed).data as Float32Array).map((v) => Math.floor(low + ((v + 1) / 2) * (high - low)))) }
}
const nibbles = (type: 'int4' | 'uint4', dims: readonly number[], seed: number): Tensor => {
  const data = of('uint8', [Math.ceil(sizeOf(dims) / 2)], seed, 0, 255).data as Uint8Array
  if (sizeOf(dims) % 2) data[data.length - 1] = (data[data.length - 1] as number) & 15
  return { type, dims, data }
}
const positive = (dims: readonly number[], seed: number): Tensor => ({ type: 'float32', dims, data: (floats(dims, seed).data as Float32Array).map((v) => Math.abs(v) + 0.1) })
const bools = (dims: readonly number[], seed: number): Tensor => ({ type: 'bool', dims, data: Uint8Array.from(floats(dims, seed).data as Float32Array, (v) => Number(v > 0)) })
const x = floats([2, 3, 4], 1)
const map = floats([1, 4, 6, 8], 2)

for (const op of ['ReduceSum', 'ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceProd', 'ReduceL1', 'ReduceL2', 'ReduceSumSquare', 'ReduceLogSum', 'ReduceLogSumExp']) {
  const data = positive([2, 3, 4], 3)
  add(`${op} along axes that are an input`, 18, op, [data, [ints(-1, 0)]], { keepdims: int(0) })
  add(`${op} along axes that are fed`, 18, op, [data, ints(1)])
  add(`${op} of everything`, 18, op, [data])
  add(`${op} without axes that does nothing`, 18, op, [data, [ints()]], { noop_with_empty_axes: int(1) })
}
add('ReduceMax of flags', 20, 'ReduceMax', [bools([3, 4], 1), [ints(1)]])
add('ReduceMin of flags', 20, 'ReduceMin', [bools([3, 4], 1), [ints(0)]], { keepdims: int(0) })
add('ReduceMax of int8', 18, 'ReduceMax', [of('int8', [3, 4], 1, -100, 100), [ints(1)]])

for (const mode of ['constant', 'reflect', 'edge', 'wrap'])
  add(`Pad ${mode} with axes`, mode === 'wrap' ? 19 : 18, 'Pad', [x, [ints(1, 2, 2, 0)], ...(mode === 'constant' ? [[float([], 7)] as const] : ['' as const]), [ints(-1, 1)]], { mode: text(mode) })
add('Pad that cuts', 18, 'Pad', [x, [ints(-1, 1)], '', [ints(2)]])
add('Pad of int32', 18, 'Pad', [of('int32', [2, 3], 1), [ints(1, 0, 0, 2)]])

const sizes = (...n: number[]): readonly [Tensor] => [ints(...n)]
const scales = (...n: number[]): readonly [Tensor] => [float([n.length], ...n)]
for (const mode of ['linear', 'cubic']) {
  add(`Resize ${mode} with antialias`, 18, 'Resize', [map, '', '', sizes(1, 4, 3, 5)], { mode: text(mode), antialias: int(1) })
  add(`Resize ${mode} with antialias by scales`, 18, 'Resize', [map, '', scales(1, 1, 0.6, 0.6)], { mode: text(mode), antialias: int(1) })
  add(`Resize ${mode} with antialias, larger`, 18, 'Resize', [map, '', '', sizes(1, 4, 9, 11)], { mode: text(mode), antialias: int(1) })
  add(`Resize ${mode} half_pixel_symmetric`, 19, 'Resize', [map, '', scales(1, 1, 0.6, 0.6)], { mode: text(mode), coordinate_transformation_mode: text('half_pixel_symmetric') })
}
add('Resize with axes', 18, 'Resize', [map, '', '', sizes(9, 5)], { mode: text('linear'), axes: list([2, 3]) })
add('Resize with axes turned round', 18, 'Resize', [map, '', scales(0.5, 2)], { mode: text('nearest'), axes: list([3, 2]) })
for (const policy of ['stretch', 'not_larger', 'not_smaller'])
  add(`Resize ${policy}`, 18, 'Resize', [map, '', '', sizes(7, 8)], { mode: text('linear'), axes: list([2, 3]), keep_aspect_ratio_policy: text(policy) })

add('Split into equal parts', 18, 'Split', [x], { axis: int(2), num_outputs: int(2) }, { outputs: 2 })
add('Split into unequal parts', 18, 'Split', [floats([2, 7], 1)], { axis: int(1), num_outputs: int(3) }, { outputs: 3 })

add('GroupNormalization of opset 21', 21, 'GroupNormalization', [map, [floats([4], 3)], [floats([4], 4)]], { num_groups: int(2) })
add('GroupNormalization of opset 21, computed scales', 21, 'GroupNormalization', [map, floats([4], 3), floats([4], 4)], { num_groups: int(2) })
add('Mish', 18, 'Mish', [floats([5, 7], 1)])
for (const op of ['BitwiseAnd', 'BitwiseOr', 'BitwiseXor'])
  for (const type of ['int32', 'uint8'] as const) add(`${op} of ${type}`, 18, op, [of(type, [3, 4], 1), of(type, [4], 2)])
add('BitwiseNot', 18, 'BitwiseNot', [of('int32', [5], 1)])

add('CenterCropPad that cuts', 18, 'CenterCropPad', [floats([5, 6, 3], 1), [ints(2, 3)]], { axes: list([0, 1]) })
add('CenterCropPad that pads', 18, 'CenterCropPad', [floats([5, 6, 3], 1), [ints(8, 4, 4)]])
add('Col2Im', 18, 'Col2Im', [floats([2, 12, 20], 1), [ints(5, 6)], [ints(2, 2)]])
add('Col2Im with strides, pads and dilations', 18, 'Col2Im', [floats([1, 8, 9], 1), [ints(6, 6)], [ints(2, 2)]], { dilations: list([2, 1]), pads: list([1, 0, 1, 1]), strides: list([2, 2]) })
for (const reduction of ['max', 'min', 'add', 'mul']) {
  add(`ScatterElements ${reduction}`, 18, 'ScatterElements', [floats([3, 4], 1), [{ type: 'int64', dims: [2, 3], data: BigInt64Array.of(0n, -1n, 2n, 2n, 2n, 0n) }], floats([2, 3], 2)], { reduction: text(reduction) })
  add(`ScatterND ${reduction}`, 18, 'ScatterND', [floats([4, 3], 1), [{ type: 'int64', dims: [3, 1], data: BigInt64Array.of(0n, 2n, 2n) }], floats([3, 3], 2)], { reduction: text(reduction) })
}
add('LpPool with dilations', 18, 'LpPool', [map], { kernel_shape: list([2, 3]), dilations: list([2, 1]), p: int(2) })
add('LpPool rounded up', 18, 'LpPool', [map], { kernel_shape: list([3, 3]), strides: list([2, 2]), ceil_mode: int(1), p: int(3) })

add('AveragePool with dilations', 19, 'AveragePool', [map], { kernel_shape: list([2, 2]), dilations: list([2, 3]) })
add('AveragePool with dilations and pads', 19, 'AveragePool', [map], { kernel_shape: list([3, 2]), dilations: list([2, 2]), pads: list([1, 1, 1, 1]), count_include_pad: int(1) })
add('AveragePool rounded up', 19, 'AveragePool', [map], { kernel_shape: list([3, 3]), strides: list([2, 2]), pads: list([1, 1, 1, 1]), ceil_mode: int(1), count_include_pad: int(1) })
add('MaxPool with dilations', 19, 'MaxPool', [map], { kernel_shape: list([2, 2]), dilations: list([2, 3]) })
const deform = { pads: list([1, 1, 1, 1]), kernel_shape: list([3, 3]) }
add('DeformConv', 19, 'DeformConv', [map, [floats([5, 4, 3, 3], 3)], floats([1, 18, 6, 8], 4), [floats([5], 5)]], deform)
add('DeformConv with a mask, groups and strides', 19, 'DeformConv', [map, [floats([6, 2, 3, 3], 3)], floats([1, 36, 3, 4], 4), '', floats([1, 18, 3, 4], 5)], { ...deform, group: int(2), offset_group: int(2), strides: list([2, 2]) })
add('Shape of a part', 19, 'Shape', [x], { start: int(1), end: int(-1) })
add('Reshape with allowzero', 19, 'Reshape', [float([0, 3]), [ints(3, 0)]], { allowzero: int(1) })
add('Equal of flags', 19, 'Equal', [bools([4, 3], 1), bools([3], 2)])
add('Cast to bool', 19, 'Cast', [floats([5], 1)], { to: int(9) })
add('CastLike', 19, 'CastLike', [floats([5], 1), of('int32', [1], 2)])
add('Size', 19, 'Size', [x])

for (const approximate of ['none', 'tanh']) add(`Gelu ${approximate}`, 20, 'Gelu', [floats([6, 9], 1)], { approximate: text(approximate) })
const odd: Tensor = float([6], NaN, Infinity, -Infinity, 0, -1, 3)
add('IsNaN', 20, 'IsNaN', [odd])
add('IsInf', 20, 'IsInf', [odd])
add('IsInf of one sign', 20, 'IsInf', [odd], { detect_negative: int(0) })
add('IsNaN of float64', 20, 'IsNaN', [{ type: 'float64', dims: [3], data: Float64Array.of(NaN, 1, Infinity) }])
for (const mode of ['linear', 'nearest', 'cubic'])
  for (const padding of ['zeros', 'border', 'reflection'])
    add(`GridSample ${mode} ${padding}`, 20, 'GridSample', [map, { ...floats([1, 5, 4, 2], 3), data: (floats([1, 5, 4, 2], 3).data as Float32Array).map((v) => v * 1.4) }], { mode: text(mode), padding_mode: text(padding), align_corners: int(padding === 'zeros' ? 1 : 0) })
add('GridSample of a volume', 20, 'GridSample', [floats([1, 2, 3, 4, 5], 1), floats([1, 2, 3, 2, 3], 2)], { mode: text('linear') })
add('AffineGrid', 20, 'AffineGrid', [floats([2, 2, 3], 1), [ints(2, 3, 4, 5)]])
add('AffineGrid of a volume', 20, 'AffineGrid', [floats([1, 3, 4], 1), [ints(1, 2, 3, 4, 5)]], { align_corners: int(1) })
add('DFT along an axis that is an input', 20, 'DFT', [floats([2, 8, 3, 1], 1), '', [scalar(1)]])
add('DFT along another axis', 20, 'DFT', [floats([2, 8, 3, 1], 1), '', [scalar(2)]])
add('DFT along the last axis of samples', 20, 'DFT', [floats([2, 8, 3, 1], 1)])
add('DFT of fewer samples, of one side', 20, 'DFT', [floats([2, 8, 3, 1], 1), [scalar(5)], [scalar(1)]], { onesided: int(1) })
add('DFT of one side', 20, 'DFT', [floats([2, 8, 1], 1), '', [scalar(1)]], { onesided: int(1) })
add('DFT back', 20, 'DFT', [floats([2, 6, 2], 1), '', [scalar(-2)]], { inverse: int(1) })
add('ConstantOfShape', 20, 'ConstantOfShape', [[ints(2, 3)]], { value: attribute.tensor(Initializer.from('', { type: 'int32', dims: [1], data: Int32Array.of(7) })) })

for (const type of ['int8', 'uint8', 'int16', 'uint16'] as const) {
  const zero = of(type, [3, 1], 3, 0, 9)
  add(`QuantizeLinear to ${type}`, 21, 'QuantizeLinear', [floats([2, 3, 4], 1), [positive([3], 2)], [{ ...zero, dims: [3] }]], { axis: int(1) })
  add(`DequantizeLinear of ${type}`, 21, 'DequantizeLinear', [of(type, [2, 3, 4], 1), [positive([3], 2)], [{ ...zero, dims: [3] }]], { axis: int(1) })
  add(`QuantizeLinear to ${type} in blocks`, 21, 'QuantizeLinear', [floats([3, 10], 1), [positive([3, 3], 2)], [of(type, [3, 3], 4, 0, 9)]], { axis: int(1), block_size: int(4) })
  add(`DequantizeLinear of ${type} in blocks`, 21, 'DequantizeLinear', [of(type, [10, 3], 1), [positive([3, 3], 2)], [of(type, [3, 3], 4, 0, 9)]], { axis: int(0), block_size: int(4) })
}
add('QuantizeLinear with output_dtype', 21, 'QuantizeLinear', [floats([3, 4], 1), [positive([], 2)]], { output_dtype: int(5) })
add('DequantizeLinear of int32', 21, 'DequantizeLinear', [of('int32', [2, 3], 1), [positive([3], 2)]])
for (const type of ['int4', 'uint4'] as const) {
  const code = type === 'int4' ? 22 : 21
  const numbers = { ...floats([3, 5], 1), data: (floats([3, 5], 1).data as Float32Array).map((v) => v * 20) }
  add(`DequantizeLinear of ${type}`, 21, 'DequantizeLinear', [[nibbles(type, [3, 5], 1)], [positive([3], 2)], [nibbles(type, [3], 3)]], { axis: int(0) })
  add(`DequantizeLinear of ${type} in blocks`, 21, 'DequantizeLinear', [[nibbles(type, [10, 3], 1)], [positive([3, 3], 2)], [nibbles(type, [3, 3], 3)]], { axis: int(0), block_size: int(4) })
  add(`QuantizeLinear to ${type}`, 21, 'QuantizeLinear', [numbers, [positive([], 2)], [nibbles(type, [], 3)]], {}, { cast: 3 })
  add(`QuantizeLinear to ${type} in blocks`, 21, 'QuantizeLinear', [numbers, [positive([3, 2], 2)], [nibbles(type, [3, 2], 3)]], { axis: int(1), block_size: int(3) }, { cast: 3 })
  add(`Cast of ${type}`, 21, 'Cast', [[nibbles(type, [3, 3], 1)]], { to: int(1) })
  add(`Cast to ${type}`, 21, 'Cast', [of('int8', [3, 3], 1, type === 'int4' ? -8 : 0, type === 'int4' ? 8 : 16)], { to: int(code) }, { cast: 3 })
  add(`Transpose of ${type}`, 21, 'Transpose', [[nibbles(type, [3, 5], 1)]], {}, { cast: 3 })
  add(`Identity of ${type}`, 21, 'Identity', [[nibbles(type, [3, 4], 1)]], {}, { cast: 3 })
  add(`Shape of ${type}`, 21, 'Shape', [[nibbles(type, [3, 4], 1)]])
}

function stepsOf({ op, given, attributes, outputs, cast, opset }: Case): { model: ReturnType<typeof modelOf>; feeds: Values } {
  const feeds: Record<string, Tensor> = {}
  const constants: Record<string, Tensor> = {}
  const inputs = given.map((g, i) => {
    if (g === '') return ''
    if ('type' in g) feeds[`x${i}`] = g
    else constants[`c${i}`] = g[0]
    return 'type' in g ? `x${i}` : `c${i}`
  })
  const names = Array.from({ length: outputs ?? 1 }, (_, i) => `y${i}`)
  const steps: Step[] = [[op, inputs, cast ? ['t'] : names, attributes ?? {}]]
  if (cast) steps.push(['Cast', ['t'], names, { to: int(cast) }])
  const model = modelOf(
    graph(Object.entries(feeds).map(([name, t]) => [name, t.type, t.dims] as const), constants, steps, []),
    opset,
  )
  model.graph.outputs = names.map((n) => new ValueInfo(n, 'undefined', null, 'unknown'))
  return { model, feeds }
}

test.each(Object.entries(made))('%s', async (_, c) => {
  const { model, feeds } = stepsOf(c)
  const want = await theirs(model, feeds)
  const session = await Session.create(model, { threads: 1 })
  const got = session.runSync(feeds)
  for (const [name, t] of Object.entries(want)) expectSame(got[name], t)
  session.dispose()
})

test.each([
  [-1, [2, 3, 70], [70]],
  [1, [2, 3, 7], [3, 7]],
])('RMSNormalization (opset 23) along axis %d is one step', async (axis, dims, own) => {
  const [x, g] = [floats(dims, 1), floats(own, 2)]
  const model = modelOf(graph([['x', 'float32', dims]], { g }, [['RMSNormalization', ['x', 'g'], ['y'], { axis: int(axis), epsilon: attribute.float(1e-3) }]], ['y']), 23)
  const session = await Session.create(model)
  expect(session.plan({ x: dims }).steps.map((s) => s.op)).toEqual(['layer_norm'])
  const y = (await session.run({ x })).y?.data as Float32Array
  const [from, scale, n] = [x.data as Float32Array, g.data as Float32Array, sizeOf(own)]
  const want = Float64Array.from(from, (v, i) => {
    const row = from.subarray(i - (i % n), i - (i % n) + n)
    return (v / Math.sqrt(row.reduce((a, b) => a + b * b, 0) / n + Math.fround(1e-3))) * (scale[i % n] as number)
  })
  for (let i = 0; i < want.length; i++) expect(Math.abs((y[i] as number) - (want[i] as number))).toBeLessThanOrEqual(1e-5)
  session.dispose()
})

/** x / √(mean(x²) + ε) as exporters write it, times g where `scaled`. */
function rmsSteps(form: 'div' | 'reciprocal' | 'quotient', scaled: boolean): Step[] {
  const end = scaled ? 'n' : 'y'
  return [
    form === 'quotient' ? ['Mul', ['x', 'x'], ['p']] : ['Pow', ['x', 'two'], ['p']],
    ['ReduceMean', ['p'], ['m'], { axes: attribute.ints([-1]), keepdims: attribute.int(1) }],
    ['Add', ['m', 'eps'], ['a']],
    ['Sqrt', ['a'], ['s']],
    ...(form === 'quotient' ? [] : [form === 'div' ? (['Div', ['one', 's'], ['r']] as Step) : (['Reciprocal', ['s'], ['r']] as Step)]),
    form === 'quotient' ? ['Div', ['x', 's'], [end]] : ['Mul', ['x', 'r'], [end]],
    ...(scaled ? [['Mul', ['g', 'n'], ['y']] as Step] : []),
  ]
}

test.each([
  ['div', true],
  ['reciprocal', true],
  ['quotient', true],
  ['quotient', false],
  ['div', false],
] as const)('a root-mean-square normalization written out (%s, scaled: %s) is one step', async (form, scaled) => {
  const constants = { g: floats([70], 2), two: float([], 2), one: float([], 1), eps: float([], 0.1) }
  const inputs: [string, 'float32', number[]][] = [['x', 'float32', [2, 3, 70]]]
  const feeds = { x: floats([2, 3, 70], 1) }
  const model = modelOf(graph(inputs, constants, rmsSteps(form, scaled), ['y']), 14)
  const session = await Session.create(model)
  expect(session.plan({ x: [2, 3, 70] }).steps.map((s) => s.op)).toEqual(['layer_norm'])
  expectSame((await session.run(feeds)).y, (await theirs(model, feeds)).y)
  session.dispose()
  // What someone else reads is still made.
  const seen = modelOf(graph(inputs, constants, rmsSteps(form, scaled), ['y', 'm']), 14)
  const both = await Session.create(seen)
  const [got, want] = [both.runSync(feeds), await theirs(seen, feeds)]
  for (const name of ['y', 'm']) expectSame(got[name], want[name])
  both.dispose()
})
