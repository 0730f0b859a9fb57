import { Calibration } from '../lib/compress/calibration'
import { fromRows, moments, toRows, type LayerMoments } from '../lib/compress/moments'
import { Run } from '../lib/compress/progress'
import { Session, type Model, type Tensor } from '../lib'
import { weights } from '../lib/model/weights'
import { attribute, floats, graph, modelOf, type Step, type Values } from './graphs'
import { failure } from './nets'

const run = new Run()

async function momentsOf(model: Model, sets: readonly Values[], options: Partial<Parameters<typeof moments>[3]> = {}): Promise<LayerMoments[]> {
  const found: LayerMoments[] = []
  for await (const m of moments(model, weights(model.graph), Calibration.from(sets), { run, ...options })) found.push(m)
  return found
}

/** Relative difference of two numbers of one size. */
const apart = (a: number, b: number, scale: number): number => Math.abs(a - b) / scale

/**
 * Over all places y = W x, Σ yᵢ yⱼ must be wᵢ H wⱼᵀ and Σ yᵢ be wᵢ · Σ x: what a session answers is the oracle, for every op.
 * `channels` tells which output row (of all groups) a value of y belongs to.
 */
async function expectMoments(steps: readonly Step[], constants: Values, inputs: Values, dims: readonly number[], rowOf: (index: readonly number[]) => number): Promise<void> {
  const g = graph(Object.keys(inputs).map((name) => [name, 'float32', null]), constants, steps, ['y'])
  const model = modelOf(g)
  const feeds = [inputs, Object.fromEntries(Object.entries(inputs).map(([k, t]) => [k, floats(t.dims, 91)]))]
  const [{ layout, moments: m }] = (await momentsOf(model, feeds)) as [LayerMoments]
  const session = await Session.create(model, { threads: 1 })
  const { groups, outputs, size } = layout!
  const w = toRows((constants.w as Tensor<Float32Array>).data, layout!)
  expect(fromRows(w, layout!)).toEqual(constants.w!.data)
  const square = new Float64Array(groups * outputs)
  const plain = new Float64Array(groups * outputs)
  let places = 0
  for (const feed of feeds) {
    const y = (await session.run(feed)).y as Tensor<Float32Array>
    expect(y.dims).toEqual(dims)
    places += y.data.length / (groups * outputs)
    y.data.forEach((v, flat) => {
      const index: number[] = []
      for (let axis = dims.length - 1, rest = flat; axis >= 0; rest = Math.floor(rest / dims[axis]!), axis--) index.unshift(rest % dims[axis]!)
      square[rowOf(index)]! += v * v
      plain[rowOf(index)]! += v
    })
  }
  session.dispose()
  expect(m!.rows).toBe(places)
  expect([m!.groups, m!.size, m!.sampled]).toEqual([groups, size, places])
  for (let row = 0; row < groups * outputs; row++) {
    const at = Math.floor(row / outputs)
    const x = w.subarray(row * size, (row + 1) * size)
    let form = 0
    let first = 0
    for (let i = 0; i < size; i++) {
      first += x[i]! * m!.sum[at * size + i]!
      for (let j = 0; j < size; j++) form += x[i]! * x[j]! * m!.hessian[(at * size + i) * size + j]!
    }
    expect(apart(form, square[row]!, square[row]! + 1e-9)).toBeLessThan(1e-4)
    expect(apart(first, plain[row]!, Math.sqrt(square[row]! * places) + 1e-9)).toBeLessThan(1e-4)
  }
}

test('second moments of convolutions give the squares of their outputs: strides, dilations, padding, groups, one to three axes', async () => {
  const conv = (attributes: Record<string, ReturnType<typeof attribute.int>>): Step => ['Conv', ['x', 'w'], ['y'], attributes]
  const channel = (i: readonly number[]): number => i[1]!
  await expectMoments([conv({})], { w: floats([6, 5, 1, 1], 3) }, { x: floats([2, 5, 4, 3]) }, [2, 6, 4, 3], channel)
  await expectMoments(
    [conv({ strides: attribute.ints([2, 1]), pads: attribute.ints([1, 0, 2, 1]), dilations: attribute.ints([1, 2]) })],
    { w: floats([4, 3, 3, 2], 3) }, { x: floats([2, 3, 7, 6]) }, [2, 4, 4, 5], channel,
  )
  await expectMoments([conv({ group: attribute.int(6), pads: attribute.ints([1, 1, 1, 1]) })], { w: floats([12, 1, 3, 3], 3) }, { x: floats([1, 6, 5, 6]) }, [1, 12, 5, 6], channel)
  await expectMoments([conv({ group: attribute.int(2), auto_pad: attribute.string('SAME_LOWER'), strides: attribute.ints([2]) })], { w: floats([4, 3, 4], 3) }, { x: floats([2, 6, 9]) }, [2, 4, 5], channel)
  await expectMoments([conv({ auto_pad: attribute.string('SAME_UPPER'), strides: attribute.ints([2]) })], { w: floats([4, 3, 4], 3) }, { x: floats([2, 3, 9]) }, [2, 4, 5], channel)
})

test('second moments of transposed convolutions give the squares of their outputs', async () => {
  const channel = (i: readonly number[]): number => i[1]!
  await expectMoments(
    [['ConvTranspose', ['x', 'w'], ['y'], { strides: attribute.ints([2, 3]), pads: attribute.ints([1, 0, 0, 2]), output_padding: attribute.ints([1, 0]) }]],
    { w: floats([4, 3, 3, 2], 3) }, { x: floats([2, 4, 3, 4]) }, [2, 3, 7, 9], channel,
  )
})

test('second moments of products give the squares of their outputs, on either side, transposed and batched', async () => {
  const last = (i: readonly number[]): number => i[i.length - 1]!
  const second = (i: readonly number[]): number => i[i.length - 2]!
  const product: Step = ['MatMul', ['x', 'w'], ['y']]
  await expectMoments([product], { w: floats([5, 7], 3) }, { x: floats([2, 3, 4, 5]) }, [2, 3, 4, 7], last)
  await expectMoments([product], { w: floats([5, 7], 3) }, { x: floats([5]) }, [7], last)
  await expectMoments([['MatMul', ['w', 'x'], ['y']]], { w: floats([6, 5], 3) }, { x: floats([3, 5, 4]) }, [3, 6, 4], second)
  await expectMoments([product], { w: floats([3, 5, 4], 3) }, { x: floats([2, 3, 6, 5]) }, [2, 3, 6, 4], (i) => i[1]! * 4 + i[3]!)
  await expectMoments([product], { w: floats([2, 1, 5, 4], 3) }, { x: floats([3, 6, 5]) }, [2, 3, 6, 4], (i) => i[0]! * 4 + i[3]!)
  for (const [transA, transB] of [[0, 0], [0, 1], [1, 0], [1, 1]] as const) {
    const attributes = { transA: attribute.int(transA), transB: attribute.int(transB) }
    const a = transA ? [5, 8] : [8, 5]
    const b = transB ? [7, 5] : [5, 7]
    await expectMoments([['Gemm', ['x', 'w'], ['y'], attributes]], { w: floats(b, 3) }, { x: floats(a) }, [8, 7], last)
    await expectMoments([['Gemm', ['w', 'x'], ['y'], attributes]], { w: floats(a, 3) }, { x: floats(b) }, [8, 7], second)
  }
})

test('recurrent weights have the moments of the inputs, and of the hidden states that the model keeps', async () => {
  const g = graph([['x', 'float32', [4, 2, 3]]], { w: floats([2, 20, 3], 3), r: floats([2, 20, 5], 4) }, [['LSTM', ['x', 'w', 'r'], ['y'], { hidden_size: attribute.int(5), direction: attribute.string('bidirectional') }]], ['y'])
  const x = floats([4, 2, 3])
  const [input, hidden] = (await momentsOf(modelOf(g), [{ x }])) as [LayerMoments, LayerMoments]
  expect([input.layout!.outputs, input.moments!.groups, input.moments!.rows]).toEqual([40, 1, 8])
  const data = x.data as Float32Array
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 3; j++) {
      let want = 0
      for (let row = 0; row < 8; row++) want += data[row * 3 + i]! * data[row * 3 + j]!
      expect(input.moments!.hessian[i * 3 + j]).toBeCloseTo(want, 5)
    }
  const session = await Session.create(modelOf(g), { threads: 1 })
  const y = (await session.run({ x })).y as Tensor<Float32Array>
  expect(y.dims).toEqual([4, 2, 2, 5])
  for (let d = 0; d < 2; d++) {
    let want = 0
    for (let t = 0; t < 4; t++) for (let b = 0; b < 2; b++) want += y.data[((t * 2 + d) * 2 + b) * 5 + 1]! * y.data[((t * 2 + d) * 2 + b) * 5 + 3]!
    expect(hidden.moments!.hessian[d * 25 + 5 + 3]).toBeCloseTo(want, 5)
  }
})

const wide = (size: number): Model =>
  modelOf(graph([['x', 'float32', ['n', size]]], { a: floats([size, 8], 1), b: floats([8, 6], 2), c: floats([size, 4], 3) }, [
    ['MatMul', ['x', 'a'], ['h']], ['MatMul', ['h', 'b'], ['u']], ['MatMul', ['x', 'c'], ['v']],
  ], ['u', 'v']))

test('wide layers are summed panel by panel, to float64 sums within the stated bound, and equal inputs share them', async () => {
  const size = 900
  const x = floats([70, size])
  const [a, , c] = (await momentsOf(wide(size), [{ x }])) as [LayerMoments, LayerMoments, LayerMoments]
  expect(c.moments).toBe(a.moments)
  const h = a.moments!.hessian
  const data = x.data as Float32Array
  let worst = 0
  for (let i = 0; i < size; i += 7)
    for (let j = 0; j < size; j += 5) {
      let want = 0
      for (let r = 0; r < 70; r++) want += data[r * size + i]! * data[r * size + j]!
      worst = Math.max(worst, Math.abs(h[i * size + j]! - want) / Math.sqrt(h[i * size + i]! * h[j * size + j]!))
      if (h[i * size + j] !== h[j * size + i]) throw new Error('not symmetric')
    }
  expect(worst).toBeLessThan(2e-5)
})

test('beyond maxRows vectors are sampled with their weight, the same ones every time', async () => {
  const sets = Array.from({ length: 12 }, (_, i) => ({ x: floats([100, 6], i + 1) }))
  const [all] = (await momentsOf(wide(6), sets, { maxRows: 4000 })) as [LayerMoments]
  const [some] = (await momentsOf(wide(6), sets, { maxRows: 400 })) as [LayerMoments]
  const [again] = (await momentsOf(wide(6), sets, { maxRows: 400 })) as [LayerMoments]
  expect(some.moments).toEqual(again.moments)
  expect([all.moments!.rows, all.moments!.sampled, some.moments!.rows]).toEqual([1200, 1200, 1200])
  expect(some.moments!.sampled).toBeGreaterThan(300)
  expect(some.moments!.sampled).toBeLessThan(800)
  for (let i = 0; i < 36; i += 7) expect(some.moments!.hessian[i]! / all.moments!.hessian[i]!).toBeCloseTo(1, 0)
  expect(some.moments!.hessian[0]).not.toBe(all.moments!.hessian[0])
})

test('layers come in blocks that the budget allows, and later blocks see what became of earlier layers', async () => {
  const x = floats([30, 6])
  const zeroed = async (options: object): Promise<number[]> => {
    const model = wide(6)
    const seen: number[] = []
    for await (const { weight, moments: m } of moments(model, weights(model.graph), Calibration.from([{ x }]), { run, ...options })) {
      seen.push(m!.hessian.reduce((s, v) => s + v * v, 0))
      model.graph.setInitializer(weight.initializer.name, { type: 'float32', dims: weight.initializer.dims, data: new Float32Array(weight.initializer.elementCount) })
    }
    return seen
  }
  const parallel = await zeroed({})
  expect(parallel.every((v) => v > 0)).toBe(true)
  expect(await zeroed({ block: 1 })).toEqual([parallel[0], 0, parallel[2]])
  expect(await zeroed({ budget: 400 })).toEqual([parallel[0], 0, parallel[2]])
})

test('tied weights have the inputs of all their nodes, and what has no moments says why', async () => {
  const table = floats([9, 4], 1)
  const model = modelOf(graph([['x', 'float32', [5, 4]], ['i', 'int64', [3]]], { w: floats([4, 4], 2), e: table }, [
    ['MatMul', ['x', 'w'], ['h']], ['MatMul', ['h', 'w'], ['y']], ['Gather', ['e', 'i'], ['z']],
  ], ['y', 'z']))
  const x = floats([5, 4])
  const i: Tensor = { type: 'int64', dims: [3], data: BigInt64Array.of(1n, 2n, 3n) }
  const [tied, gathered] = (await momentsOf(model, [{ x, i }])) as [LayerMoments, LayerMoments]
  const session = await Session.create(model, { threads: 1 })
  const { h } = await session.run({ x, i }, { fetch: ['h'] })
  const both = [...(x.data as Float32Array), ...(h!.data as Float32Array)]
  expect(tied.moments!.rows).toBe(10)
  expect(tied.moments!.hessian[0]).toBeCloseTo(both.reduce((s, v, k) => s + (k % 4 === 0 ? v * v : 0), 0), 4)
  expect(gathered.moments).toBeUndefined()
  expect(gathered.reason).toContain('Gather')
})

test('inputs of layers that are not finite are an error', async () => {
  const model = modelOf(graph([['x', 'float32', [2, 3]]], { w: floats([3, 3], 2), v: floats([3, 2], 2) }, [['MatMul', ['x', 'w'], ['h']], ['Log', ['h'], ['l']], ['MatMul', ['l', 'v'], ['y']]], ['y']))
  const error = await failure(() => momentsOf(model, [{ x: floats([2, 3]) }]))
  expect([error.code, error.parameter]).toEqual(['ERR_RANGE', 'calibration'])
  expect(error.message).toContain('l are not finite')
})
