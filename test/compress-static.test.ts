import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import * as ort from 'onnxruntime-node'

import { attribute, compress, Initializer, Model, Node, quantizeStatic, Session, ValueInfo, type Recipe, type Tensor } from '../lib'
import { AffineFit } from '../lib/compress/static/affine'
import { floats, graph, modelOf, sizeOf, theirs, type Step, type Values } from './graphs'
import { failure, noise, rms } from './nets'

const opsOf = (model: Model): string[] => model.graph.nodes.map((n) => n.opType)
const count = (model: Model, op: string): number => opsOf(model).filter((o) => o === op).length

/** Values that lie more to one side, as behind an activation. */
const input = (seed: number, dims: readonly number[] = [2, 8, 12, 12]): Tensor => ({
  type: 'float32',
  dims,
  data: noise(sizeOf(dims), seed).map((v) => (v > 0 ? 3 * v : 0.4 * v)),
})

const sets = (n: number, dims?: readonly number[]): Values[] => Array.from({ length: n }, (_, i) => ({ x: input(i + 1, dims) }))

/** Convolutions as in a small image net: plain, depthwise, pointwise, pooling, a residual and a classifier. */
function net(): Model {
  const constants: Record<string, Tensor> = {
    a: floats([16, 8, 3, 3], 1),
    ab: floats([16], 2),
    d: floats([16, 1, 3, 3], 3),
    p: floats([24, 16, 1, 1], 4),
    pb: floats([24], 5),
    q: floats([24, 24, 1, 1], 6),
    qb: floats([24], 7),
    f: floats([24, 20], 8),
    fb: floats([20], 9),
  }
  const same = { pads: attribute.ints([1, 1, 1, 1]) }
  const steps: Step[] = [
    ['Conv', ['x', 'a', 'ab'], ['c1'], same],
    ['Relu', ['c1'], ['r1']],
    ['Conv', ['r1', 'd'], ['c2'], { ...same, group: attribute.int(16) }],
    ['MaxPool', ['c2'], ['m'], { kernel_shape: attribute.ints([2, 2]), strides: attribute.ints([2, 2]) }],
    ['Conv', ['m', 'p', 'pb'], ['c3']],
    ['Relu', ['c3'], ['r3']],
    ['Conv', ['r3', 'q', 'qb'], ['c4']],
    ['Add', ['c4', 'r3'], ['s']],
    ['GlobalAveragePool', ['s'], ['g']],
    ['Flatten', ['g'], ['e']],
    ['MatMul', ['e', 'f'], ['h']],
    ['Add', ['h', 'fb'], ['y']],
  ]
  return modelOf(graph([['x', 'float32', ['n', 8, 12, 12]]], constants, steps, ['y']), 11)
}

async function quantized(step: object, model = net(), calibration: unknown = sets(6)) {
  const recipe = { steps: [{ step: 'quantize', activations: 'static', ...step }] } as Recipe
  return compress(model, recipe, { calibration: calibration as Values[] })
}

/** ‖y − ŷ‖ / ‖y‖ over inputs that calibration did not see. */
async function errorOf(model: Model, small: Model, run: typeof theirs = theirs, dims?: readonly number[]): Promise<number> {
  let signal = 0
  let off = 0
  for (let i = 20; i < 24; i++) {
    const x = input(i, dims)
    const [y, z] = [(await run(model, { x })).y!.data as Float32Array, (await run(small, { x })).y!.data as Float32Array]
    y.forEach((v, k) => {
      signal += v * v
      off += (v - z[k]!) ** 2
    })
  }
  return Math.sqrt(off / signal)
}

const ours: typeof theirs = async (model, feeds) => {
  const session = await Session.create(model, { threads: 1 })
  try {
    return await session.run(feeds)
  } finally {
    session.dispose()
  }
}

describe('static quantization', () => {
  test('makes codes of layer inputs and keeps close to float, in onnxruntime and in sessions', async () => {
    const { model: small, report } = await quantized({})
    // One pair each for x, m, r3 and e; the depthwise weight is too small to be codes.
    expect(count(small, 'QuantizeLinear')).toBe(4)
    expect(report.steps[0]!.layers.filter((l) => l.action === 'quantized').map((l) => l.weight)).toEqual(['a', 'p', 'q', 'f'])
    for (const run of [theirs, ours]) expect(await errorOf(net(), small, run)).toBeLessThan(0.03)
    const session = await Session.create(small, { threads: 1 })
    expect(session.plan({ x: [2, 8, 12, 12] }).steps.filter((s) => s.op.endsWith('_int8')).length).toBe(4)
    session.dispose()
  })

  test('for onnxruntime has codes behind layers, int32 biases and one range along pooling', async () => {
    const { model: small } = await quantized({ target: 'onnxruntime' })
    const g = small.graph
    const conv = g.nodes.find((n) => n.name === 'Conv0')!
    expect(g.producer(conv.inputs[1]!)!.opType).toBe('DequantizeLinear')
    const bias = g.producer(conv.inputs[2]!)!
    expect([bias.opType, g.constant(bias.inputs[0]!)!.type]).toEqual(['DequantizeLinear', 'int32'])
    expect(await errorOf(net(), small)).toBeLessThan(0.03)
    const relu = g.nodes.find((n) => n.opType === 'Relu')!
    expect(g.users(relu.outputs[0]!).map((n) => n.opType)).toEqual(['QuantizeLinear'])
    // s_b = s_x · s_w
    const sx = g.constant(g.producer(conv.inputs[0]!)!.inputs[1]!)!.readSync().data[0] as number
    const sw = g.constant(g.producer(conv.inputs[1]!)!.inputs[1]!)!.readSync().data as Float32Array
    const sb = g.constant(bias.inputs[1]!)!.readSync().data as Float32Array
    sb.forEach((s, i) => expect(s).toBeCloseTo(sx * sw[i]!, 10))
  })

  test('for Session a residual is codes where nothing reads it as floats, and two convolutions are joined with codes of the earlier', async () => {
    const shared = net()
    shared.graph.setInitializer('d', floats([24, 24, 1, 1], 12))
    for (const fields of [
      { opType: 'Relu', name: 'relu', inputs: ['s'], outputs: ['u'] },
      { opType: 'Conv', name: 'left', inputs: ['u', 'd'], outputs: ['l'] },
      { opType: 'Conv', name: 'right', inputs: ['u', 'q'], outputs: ['r'] },
      { opType: 'Add', name: 'sum', inputs: ['r', 'l'], outputs: ['t'] },
    ])
      shared.graph.addNode(new Node(fields))
    shared.graph.nodes.find((n) => n.opType === 'Conv' && n.inputs[1] === 'd' && n.name !== 'left')!.setInput(1, 'd1')
    shared.graph.addInitializer(Initializer.from('d1', floats([16, 1, 3, 3], 3)))
    shared.graph.nodes.find((n) => n.opType === 'GlobalAveragePool')!.setInput(0, 't')
    shared.graph.sort()
    const sides = (m: Model, sum: string): (string | undefined)[] => m.graph.producer(sum)!.inputs.map((i) => m.graph.producer(i)?.opType)
    for (const small of [(await quantized({ layers: { minElements: 1 } }, shared)).model, await quantizeStatic(shared, sets(6))]) {
      expect(sides(small, 's')).toEqual(['Conv', 'DequantizeLinear'])
      expect(sides(small, 't')).toEqual(['Conv', 'DequantizeLinear'])
      expect(await errorOf(shared, small)).toBeLessThan(0.03)
    }
    // Where a pooling reads the sum as floats, it is what is added.
    shared.graph.nodes.find((n) => n.opType === 'GlobalAveragePool')!.setInput(0, 'u')
    shared.graph.nodes.find((n) => n.name === 'sum')!.inputs = ['r', 'u']
    shared.graph.outputs = [...shared.graph.outputs, new ValueInfo('t', 'float32', ['n', 24, 6, 6])]
    expect(sides(await quantizeStatic(shared, sets(6)), 't')).toEqual(['Conv', 'Relu'])
  })

  test('for onnxruntime becomes integer ops there, residual and pooling too', async () => {
    const model = net()
    // A clipped sum that another convolution and the average read.
    model.graph.nodes.find((n) => n.opType === 'GlobalAveragePool')!.setInput(0, 't')
    model.graph.addInitializer(Initializer.from('v', floats([24, 24, 1, 1], 12)))
    const made = [
      { opType: 'Relu', name: 'relu', inputs: ['s'], outputs: ['u'] },
      { opType: 'Conv', name: 'last', inputs: ['u', 'v'], outputs: ['w'] },
      { opType: 'Add', name: 'sum', inputs: ['w', 'u'], outputs: ['t'] },
    ]
    for (const fields of made) model.graph.addNode(new Node(fields))
    model.graph.sort()
    const { model: small } = await quantized({ target: 'onnxruntime', layers: { minElements: 1 } }, model)
    const file = path.join(os.tmpdir(), `whittle-static-${process.pid}.onnx`)
    const session = await ort.InferenceSession.create(small.toBytes(), { logSeverityLevel: 4, optimizedModelFilePath: file })
    await session.release()
    const optimized = await Model.load(file)
    const found = Object.fromEntries(['QLinearConv', 'Conv', 'FusedConv', 'QLinearAdd', 'QLinearGlobalAveragePool', 'QuantizeLinear'].map((op) => [op, count(optimized, op)]))
    expect(found).toEqual({ QLinearConv: 5, Conv: 0, FusedConv: 0, QLinearAdd: 2, QLinearGlobalAveragePool: 1, QuantizeLinear: 1 })
    optimized.close()
    fs.rmSync(file)
    expect(await errorOf(model, small)).toBeLessThan(0.03)
  })

  test.each(['minmax', 'movingAverage', 'percentile', 'entropy', 'mse'])('finds ranges by %s', async (ranges) => {
    const { model: small } = await quantized({ ranges, percentile: 99.9 })
    expect(await errorOf(net(), small)).toBeLessThan(ranges === 'movingAverage' || ranges === 'entropy' ? 0.3 : 0.05)
  })

  test('with reduceRange keeps weights within 7 bits', async () => {
    const { model: small } = await quantized({ target: 'onnxruntime-web' })
    const codes = [...small.graph.initializers.values()].filter((t) => t.type === 'int8' && t.elementCount > 1)
    expect(codes.length).toBeGreaterThan(3)
    for (const t of codes) for (const v of t.readSync().data as Int8Array) expect(Math.abs(v)).toBeLessThanOrEqual(63)
    const { model: signed } = await quantized({ activationType: 'int8' })
    expect([...signed.graph.initializers.keys()].filter((n) => /^u?int8_/.test(n))).toEqual(['int8_0'])
    expect(await errorOf(net(), signed)).toBeLessThan(0.05)
  })

  test('leaves float the inputs that bring the outputs below the wanted ratio, worst first', async () => {
    const { model: all } = await quantized({ snr: 20 })
    expect(count(all, 'QuantizeLinear')).toBe(4)
    const { model: few, report } = await quantized({ snr: 48 })
    const left = count(few, 'QuantizeLinear')
    expect(left).toBeLessThan(4)
    const reasons = report.steps[0]!.layers.filter((l) => l.reason?.startsWith('its input stays float'))
    expect(reasons.length).toBe(4 - left)
    expect(await errorOf(net(), few)).toBeLessThanOrEqual(await errorOf(net(), all))
  })

  test('spares what a selector leaves out, and quantizes its weight with nobody', async () => {
    const { model: small } = await quantized({ layers: { exclude: ['Conv0'] } })
    expect(count(small, 'QuantizeLinear')).toBe(3)
    expect(small.graph.constant('a')!.type).toBe('float32')
  })

  test('is the same every time, and its resolved recipe gives the same bytes', async () => {
    const { model: one, report } = await quantized({ repair: true })
    const again = await compress(net(), report.recipe as unknown as Recipe, { calibration: sets(6) })
    expect(Buffer.from(again.model.toBytes()).equals(Buffer.from(one.toBytes()))).toBe(true)
  })

  test('refuses what it cannot use', async () => {
    const recipe = { steps: [{ step: 'quantize', activations: 'static' }] } as Recipe
    expect(await failure(() => compress(net(), recipe))).toMatchObject({ code: 'ERR_RANGE', parameter: 'options.calibration' })
    expect(await failure(() => quantized({}, net(), []))).toMatchObject({ code: 'ERR_RANGE', parameter: 'calibration' })
    expect(await failure(() => quantized({ bits: 4 }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].activations' })
    expect(await failure(() => quantized({ target: 'gpu' }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].target' })
    expect(await failure(() => quantized({ ranges: 'max' }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].ranges' })
    expect(await failure(() => quantized({ rangs: 'mse' }))).toMatchObject({ code: 'ERR_RANGE' })
    expect(await failure(() => quantized({ reduceRange: true, bits: 8 }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].bits' })
    const broken = input(1)
    ;(broken.data as Float32Array)[5] = NaN
    expect(await failure(() => quantized({}, net(), [{ x: broken }]))).toMatchObject({ code: 'ERR_RANGE', parameter: 'calibration' })
  })
})

describe('bias correction', () => {
  const recipe = (repair: boolean, target: string): Recipe =>
    ({ steps: [{ step: 'quantize', activations: 'static', target, ranges: 'percentile', percentile: 97, repair: false }, ...(repair ? [{ step: 'repair' }] : [])] }) as Recipe

  test.each(['session', 'onnxruntime'])('takes what layers are wrong on average off (%s)', async (target) => {
    const calibration = sets(8)
    const [plain, repaired] = [await compress(net(), recipe(false, target), { calibration }), await compress(net(), recipe(true, target), { calibration })]
    expect(repaired.report.steps[1]!.summary).toMatch(/^Corrected the biases of [45] quantized layers/)
    // Cut ranges pull every mean down.
    expect(await errorOf(net(), repaired.model)).toBeLessThan(0.8 * (await errorOf(net(), plain.model)))
    const means = async (model: Model): Promise<number[]> => {
      const sum = new Array<number>(20).fill(0)
      for (const feeds of calibration) (await ours(model, feeds)).y!.data.forEach((v, i) => (sum[i % 20]! += Number(v) / 16))
      return sum
    }
    const [want, before, after] = [await means(net()), await means(plain.model), await means(repaired.model)]
    // A channel may keep what the inputs do not agree on.
    expect(rms(want.map((v, i) => v - after[i]!))).toBeLessThan(0.1 * rms(want.map((v, i) => v - before[i]!)))
  })

  test('estimates gain and shift of each channel by least squares, and none that inputs do not agree on', () => {
    const of = (data: number[]): Tensor => ({ type: 'float32', dims: [1, 3, 2, 4], data: Float32Array.from(data) })
    const fit = new AffineFit(false)
    for (let set = 0; set < 6; set++) {
      const x = Array.from(noise(24, set + 1))
      // Channel 0 is 1.25 x − 0.5, channel 1 is x with a mean of its own in every set, channel 2 is x + 2 with a large constant.
      const y = x.map((v, i) => (i < 8 ? 1.25 * v - 0.5 : i < 16 ? v + (set % 2 ? 0.1 : -0.1) : v + 1002))
      fit.add(of(y), of(x.map((v, i) => (i < 16 ? v : v + 1000))))
    }
    const { gain, shift } = fit.best(true)!
    expect([gain[0], shift[0]]).toEqual([expect.closeTo(1.25, 5), expect.closeTo(-0.5, 5)])
    expect([gain[1], shift[1]]).toEqual([1, 0])
    expect(gain[2]! * 1000 + shift[2]!).toBeCloseTo(1002, 2)
    const still = fit.best(false)!
    expect([...still.gain]).toEqual([1, 1, 1])
    expect(still.shift[2]).toBeCloseTo(2, 3)
  })

  test('keeps to means where there is one set of inputs, and to nothing without any', () => {
    const one = new AffineFit(true)
    expect(one.best(true)).toBeUndefined()
    one.add({ type: 'float32', dims: [2, 2], data: Float32Array.of(1, 2, 3, 6) }, { type: 'float32', dims: [2, 2], data: Float32Array.of(0, 1, 1, 1) })
    expect([...one.best(true)!.gain, ...one.best(true)!.shift]).toEqual([1, 1, 1.5, 3])
  })

  test('a second time stands only where outputs on inputs that were held back come nearer', async () => {
    const made = (more: object[], calibration: Values[]) =>
      compress(net(), { steps: [{ step: 'quantize', activations: 'static', ranges: 'percentile', percentile: 97 }, ...more] } as Recipe, { calibration })
    // What twelve inputs agree on is wrong for the four others, in which nothing is cut.
    const faint = (set: Values): Values => ({ x: { ...set['x']!, data: (set['x']!.data as Float32Array).map((v) => v / 50) as Float32Array<ArrayBuffer> } })
    const unlike = [...sets(12), ...sets(4).map(faint)]
    const [once, twice] = [await made([], unlike), await made([{ step: 'repair' }], unlike)]
    expect(twice.report.steps[1]!.summary).toMatch(/^Corrected the biases of 0 /)
    expect(Buffer.compare(twice.model.toBytes(), once.model.toBytes())).toBe(0)
  })

  test('a second time, by a step of its own, makes nothing worse', async () => {
    const calibration = sets(16)
    const made = async (repair: boolean, more: object[]): Promise<number> => {
      const { model } = await compress(net(), { steps: [{ step: 'quantize', activations: 'static', ranges: 'percentile', percentile: 97, repair }, ...more] } as Recipe, { calibration })
      // Both judge by the same four inputs.
      let [off, all] = [0, 0]
      for (const feeds of calibration.slice(12)) {
        const [y, z] = [(await ours(net(), feeds)).y!, (await ours(model, feeds)).y!]
        y.data.forEach((v, i) => {
          off += (Number(v) - Number(z.data[i])) ** 2
          all += Number(v) ** 2
        })
      }
      return Math.sqrt(off / all)
    }
    const twice = await made(true, [{ step: 'repair' }])
    expect(twice).toBeLessThanOrEqual(await made(true, []))
  })

  test('changes nothing where nothing is quantized', async () => {
    const { model, report } = await compress(net(), { steps: [{ step: 'repair' }] }, { calibration: sets(2) })
    expect(report.steps[0]!.summary).toMatch(/^Corrected the biases of 0 /)
    expect(Buffer.from(model.graph.constant('ab')!.readSync().data.buffer).equals(Buffer.from(net().graph.constant('ab')!.readSync().data.buffer))).toBe(true)
  })
})

test('dynamic quantization needs no calibration and stays close', async () => {
  const constants = { w: floats([64, 48], 1), b: floats([48], 2), v: floats([48, 32], 3) }
  const model = modelOf(
    graph([['x', 'float32', ['n', 5, 64]]], constants, [['MatMul', ['x', 'w'], ['h']], ['Add', ['h', 'b'], ['a']], ['Relu', ['a'], ['r']], ['MatMul', ['r', 'v'], ['y']]], ['y']),
    13,
  )
  const { model: small, report } = await compress(model, { steps: [{ step: 'quantize', activations: 'dynamic' }] })
  expect(count(small, 'MatMulInteger')).toBe(2)
  expect(report.steps[0]!.layers.map((l) => [l.weight, l.bits])).toEqual([['w', 8], ['v', 8]])
  for (const run of [theirs, ours]) expect(await errorOf(model, small, run, [3, 5, 64])).toBeLessThan(0.02)
})

test('dynamic quantization of Gemm: turned weights, factors, addends of any shape, one matrix used both ways', async () => {
  const constants = { w: floats([48, 64], 1), b: floats([48], 2), v: floats([48, 32], 3), c: floats([3, 1], 4), t: floats([32, 32], 5) }
  const model = modelOf(
    graph(
      [['x', 'float32', [3, 64]]],
      constants,
      [
        ['Gemm', ['x', 'w', 'b'], ['h'], { transB: attribute.int(1), alpha: attribute.float(0.5) }],
        ['Relu', ['h'], ['r']],
        ['Gemm', ['r', 'v', 'c'], ['s'], { beta: attribute.float(-2) }],
        ['Gemm', ['s', 't', 'gone'], ['p'], { beta: attribute.float(0) }],
        ['Gemm', ['p', 't'], ['q'], { transB: attribute.int(1) }],
        ['MatMul', ['q', 't'], ['y']],
      ],
      ['y'],
    ),
    13,
  )
  model.graph.addInitializer(Initializer.from('gone', { type: 'float32', dims: [32], data: new Float32Array(32).fill(1e30) }))
  const { model: small, report } = await compress(model, { steps: [{ step: 'quantize', activations: 'dynamic' }] })
  expect([count(small, 'Gemm'), count(small, 'MatMulInteger')]).toEqual([0, 5])
  expect([...small.graph.initializers.values()].filter((i) => i.type === 'int8').map((i) => i.dims.join('x')).sort()).toEqual(['32x32', '32x32', '48x32', '64x48'])
  expect(report.steps[0]!.layers.map((l) => l.weight)).toEqual(['w', 'v', 't'])
  for (const run of [theirs, ours]) expect(await errorOf(model, small, run, [3, 64])).toBeLessThan(0.03)
  // Weights are read turned where they lie turned.
  const left = modelOf(graph([['x', 'float32', [64, 3]]], { w: constants.w }, [['Gemm', ['x', 'w'], ['y'], { transA: attribute.int(1), transB: attribute.int(1) }]], ['y']), 13)
  expect(count((await compress(left, { steps: [{ step: 'quantize', activations: 'dynamic' }] })).model, 'Gemm')).toBe(1)
})
