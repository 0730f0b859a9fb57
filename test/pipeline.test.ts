import { pipeline, Session, type Decoded, type Found, type PipelineOptions, type PostStep, type PreOptions, type Ranked, type Tensor } from '../lib'
import { expectSame, float, floats, graph, modelOf } from './graphs'

/** A model that answers what it is given. */
const echo = (dims: readonly (number | null)[] | null = null): Promise<Session> => Session.create(modelOf(graph([['x', 'float32', dims]], {}, [['Identity', ['x'], ['y']]], ['y'])))
const image = (h: number, w: number, c = 3, seed = 1): Tensor<Uint8Array> => ({ type: 'uint8', dims: [h, w, c], data: Uint8Array.from(floats([h, w, c], seed).data as Float32Array, (v) => Math.round((v + 1) * 127)) })

async function before(pre: PreOptions, x: Tensor | readonly Tensor[]): Promise<Tensor> {
  const p = await pipeline({ session: await echo(), pre })
  return (await p.run(x)) as Tensor
}
async function after(post: PostStep | readonly PostStep[], x: Tensor): Promise<unknown> {
  return (await pipeline({ session: await echo(), post })).run(x)
}

/** Pixel (y, x) of channel c of an image resized to high x wide, by the definition. */
function pixel(t: Tensor, high: number, wide: number, y: number, x: number, c: number, mode: string): number {
  const [h, w, channels] = t.dims as [number, number, number]
  const at = (i: number, j: number): number => Number(t.data[(Math.min(Math.max(i, 0), h - 1) * w + Math.min(Math.max(j, 0), w - 1)) * channels + c])
  const [fy, fx] = [((y + 0.5) * h) / high - 0.5, ((x + 0.5) * w) / wide - 0.5]
  if (mode === 'nearest') return at(Math.ceil(fy - 0.5), Math.ceil(fx - 0.5))
  const [i, j] = [Math.floor(fy), Math.floor(fx)]
  const [a, b] = [fy - i, fx - j]
  return at(i, j) * (1 - a) * (1 - b) + at(i, j + 1) * (1 - a) * b + at(i + 1, j) * a * (1 - b) + at(i + 1, j + 1) * a * b
}

interface Want {
  readonly high: number
  readonly wide: number
  readonly toHigh?: number
  readonly toWide?: number
  readonly value?: number
  readonly mode?: string
  readonly change?: (v: number, c: number) => number
}
function wanted(t: Tensor, { high, wide, toHigh = high, toWide = wide, value = 0, mode = 'bilinear', change = (v) => v }: Want): Tensor {
  const c = t.dims[2] as number
  const data = new Float32Array(c * toHigh * toWide)
  for (let k = 0; k < c; k++)
    for (let y = 0; y < toHigh; y++)
      for (let x = 0; x < toWide; x++) data[(k * toHigh + y) * toWide + x] = y < high && x < wide ? change(pixel(t, high, wide, y, x, k, mode), k) : value
  return { type: 'float32', dims: [1, c, toHigh, toWide], data }
}

const big = image(23, 37)
test.each<[string, PreOptions, Want]>([
  ['nothing but the layout', {}, { high: 23, wide: 37 }],
  ['bilinear to a size, larger and smaller', { resize: { size: [31, 20] } }, { high: 31, wide: 20 }],
  ['nearest', { resize: { size: [10, 50], mode: 'nearest' } }, { high: 10, wide: 50, mode: 'nearest' }],
  ['a height, proportions kept', { resize: { size: [48, null] } }, { high: 48, wide: 77 }],
  ['a width, proportions kept', { resize: { size: [null, 12] } }, { high: 7, wide: 12 }],
  ['to a multiple', { resize: { multiple: 32 } }, { high: 32, wide: 32 }],
  ['scale, mean and std', { normalize: { scale: 1 / 255, mean: [0.5, 0.4, 0.3], std: [0.2, 0.25, 0.5] } }, { high: 23, wide: 37, change: (v, c) => (v / 255 - [0.5, 0.4, 0.3][c]!) / [0.2, 0.25, 0.5][c]! }],
  ['one number for all channels', { normalize: { mean: 100, std: 50 } }, { high: 23, wide: 37, change: (v) => (v - 100) / 50 }],
  ['pad to a size, after normalizing', { normalize: { mean: 100 }, pad: { size: [24, 40], value: 7 } }, { high: 23, wide: 37, toHigh: 24, toWide: 40, value: 7, change: (v) => v - 100 }],
  ['all of them', { resize: { size: [20, null] }, normalize: { scale: 1 / 127.5, mean: 1 }, pad: { multiple: 16 } }, { high: 20, wide: 32, toHigh: 32, toWide: 32, change: (v) => v / 127.5 - 1 }],
])('pre: %s', async (_, pre, want) => {
  expectSame(await before(pre, big), wanted(big, want))
})

test('pre: sizes change from call to call, channels turn round, gray and float images, batches', async () => {
  const p = await pipeline({ session: await echo(), pre: { resize: { multiple: 8 } } })
  for (const [h, w, high, wide] of [[5, 9, 8, 8], [20, 30, 24, 32], [5, 9, 8, 8], [3, 2, 8, 8]] as const) {
    const x = image(h, w)
    expectSame((await p.run(x)) as Tensor, wanted(x, { high, wide }))
  }
  const gray = image(4, 5, 1)
  expectSame(await before({}, gray), wanted(gray, { high: 4, wide: 5 }))
  const real = floats([4, 5, 3])
  expectSame(await before({ normalize: { scale: 2 } }, real), wanted(real, { high: 4, wide: 5, change: (v) => 2 * v }))
  const small = image(2, 2)
  const turned = await before({ reverseChannels: true }, small)
  const plain = wanted(small, { high: 2, wide: 2 }).data
  expect([...turned.data]).toEqual([...plain.slice(8), ...plain.slice(4, 8), ...plain.slice(0, 4)])
  const both = await before({}, [image(4, 5, 3, 1), image(4, 5, 3, 2)])
  expect(both.dims).toEqual([2, 3, 4, 5])
  expect([...both.data]).toEqual([1, 2].flatMap((s) => [...wanted(image(4, 5, 3, s), { high: 4, wide: 5 }).data]))
})

test('post: softmax, argmax, top k, sort, threshold', async () => {
  const x = float([2, 4], 1, 3, 3, -1000, 0, -1, 1000, 999)
  const e = [Math.exp(-2), 1, 1, 0, 0, 0, 1, Math.exp(-1)]
  const soft = float([2, 4], ...e.map((v, i) => v / (i < 4 ? 2 + Math.exp(-2) : 1 + Math.exp(-1))))
  expectSame((await after({ op: 'softmax' }, x)) as Tensor, soft)
  expect(await after({ op: 'argmax' }, x)).toEqual({ type: 'int32', dims: [2], data: Int32Array.of(1, 2) })
  const top = (await after({ op: 'topk', k: 2 }, x)) as Ranked
  expect(top).toEqual({ values: float([2, 2], 3, 3, 1000, 999), indices: { type: 'int32', dims: [2, 2], data: Int32Array.of(1, 2, 2, 3) } })
  expect(((await after({ op: 'topk', k: 9 }, x)) as Ranked).indices.dims).toEqual([2, 4])
  const up = (await after({ op: 'sort', ascending: true }, float([4], 2, NaN, Infinity, -1))) as Ranked
  expect([[...up.values.data], [...up.indices.data]]).toEqual([[-1, 2, Infinity, NaN], [3, 0, 2, 1]])
  const down = (await after({ op: 'sort' }, float([4], -Infinity, NaN, 5, -1))) as Ranked
  expect([...down.indices.data]).toEqual([2, 3, 0, 1])
  expect(await after({ op: 'threshold', above: 3 }, x)).toEqual([[], [{ index: 2, value: 1000 }, { index: 3, value: 999 }]])
  const chained = (await after([{ op: 'softmax' }, { op: 'threshold', above: 0.4 }], x)) as Found[][]
  expect(chained.map((row) => row.map((f) => f.index))).toEqual([[1, 2], [2]])
})

test('post: greedy CTC merges repetitions unless a blank lies between, and gives probabilities', async () => {
  /** [1, steps, 4] with the largest number of each step where it is told. */
  const steps = (...best: readonly (readonly [number, number])[]): Tensor => float([1, best.length, 4], ...best.flatMap(([c, p]) => Array.from({ length: 4 }, (_, i) => (i === c ? p : (1 - p) / 3))))
  const line = steps([0, 0.9], [1, 0.8], [1, 0.99], [0, 0.9], [1, 0.5], [3, 0.7], [3, 0.6], [2, 0.75])
  const [first] = (await after({ op: 'ctc', alphabet: 'aßc' }, line)) as Decoded[]
  expect(first?.text).toBe('aacß')
  expect(first?.classes).toEqual([1, 1, 3, 2])
  first?.probabilities.forEach((p, i) => expect(p).toBeCloseTo([0.8, 0.5, 0.7, 0.75][i] as number, 6))
  expect(first?.confidence).toBeCloseTo((0.8 + 0.5 + 0.7 + 0.75) / 4, 6)
  const [last] = (await after({ op: 'ctc', alphabet: ['<', 'x', 'yz'], blank: 3 }, line)) as Decoded[]
  expect([last?.text, last?.classes]).toEqual(['<x<xyz', [0, 1, 0, 1, 2]])
  expect(await after({ op: 'ctc', alphabet: 'abc' }, steps([0, 1], [0, 0.9]))).toEqual([{ text: '', classes: [], probabilities: [], confidence: 0 }])
})

test('the input and the output are chosen by name, others are given', async () => {
  const session = await Session.create(modelOf(graph([['x', 'float32', null], ['k', 'float32', [1]]], {}, [['Mul', ['x', 'k'], ['y']], ['Neg', ['x'], ['z']]], ['y', 'z'])))
  const p = await pipeline({ session, pre: {}, input: 'x', output: 'y' })
  const x = image(2, 3)
  expectSame((await p.run(x, { inputs: { k: float([1], 3) } })) as Tensor, wanted(x, { high: 2, wide: 3, change: (v) => 3 * v }))
  await expect(p.run(x)).rejects.toMatchObject({ name: 'WhittleError', parameter: 'inputs.k' })
  await expect(p.run(x, { inputs: { k: float([1], 3) }, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ERR_ABORTED' })
  p.dispose()
  await expect(p.run(x, { inputs: { k: float([1], 3) } })).rejects.toMatchObject({ code: 'ERR_HANDLE' })
})

test.each<[object, string, string]>([
  [{ session: {} }, 'ERR_DTYPE', 'session'],
  [{ pre: { resize: {} } }, 'ERR_RANGE', 'pre.resize'],
  [{ pre: { resize: { size: [1, 2], multiple: 3 } } }, 'ERR_RANGE', 'pre.resize'],
  [{ pre: { resize: { size: [null, null] } } }, 'ERR_RANGE', 'pre.resize.size'],
  [{ pre: { resize: { size: [0, 4] } } }, 'ERR_RANGE', 'pre.resize.size[0]'],
  [{ pre: { resize: { multiple: 4, mode: 'cubic' } } }, 'ERR_RANGE', 'pre.resize.mode'],
  [{ pre: { normalize: { std: [1, 0, 1] } } }, 'ERR_RANGE', 'pre.normalize.std'],
  [{ pre: { normalize: { std: [1, 2, 1], mean: [1, 2] } } }, 'ERR_SHAPE', 'pre.normalize.mean'],
  [{ pre: { normalize: { mean: NaN } } }, 'ERR_RANGE', 'pre.normalize.mean'],
  [{ pre: { pad: { size: [3, null] } } }, 'ERR_DTYPE', 'pre.pad.size[1]'],
  [{ pre: { crop: 3 } }, 'ERR_RANGE', 'pre.crop'],
  [{ pre: null }, 'ERR_DTYPE', 'pre'],
  [{ post: { op: 'nms' } }, 'ERR_RANGE', 'post.op'],
  [{ post: [] }, 'ERR_SHAPE', 'post'],
  [{ post: null }, 'ERR_DTYPE', 'post'],
  [{ post: { op: 'topk', k: 0 } }, 'ERR_RANGE', 'post.k'],
  [{ post: { op: 'softmax', k: 1 } }, 'ERR_RANGE', 'post.k'],
  [{ post: { op: 'threshold' } }, 'ERR_DTYPE', 'post.above'],
  [{ post: { op: 'ctc', alphabet: 3 } }, 'ERR_DTYPE', 'post.alphabet'],
  [{ post: { op: 'ctc', alphabet: 'ab', blank: 3 } }, 'ERR_RANGE', 'post.blank'],
  [{ post: [{ op: 'topk', k: 1 }, { op: 'softmax' }] }, 'ERR_RANGE', 'post[0]'],
  [{ input: 'a' }, 'ERR_RANGE', 'input'],
  [{ output: 'a' }, 'ERR_RANGE', 'output'],
])('pipeline(%j) is refused', async (given, code, parameter) => {
  await expect(pipeline({ session: await echo(), ...given } as PipelineOptions)).rejects.toMatchObject({ name: 'WhittleError', code, parameter })
})

test('images and outputs that do not fit are refused', async () => {
  const bad = (code: string, parameter: string): object => ({ name: 'WhittleError', code, parameter })
  await expect(before({}, floats([4, 4]))).rejects.toMatchObject(bad('ERR_SHAPE', 'images'))
  await expect(before({}, [])).rejects.toMatchObject(bad('ERR_SHAPE', 'images'))
  await expect(before({}, image(0, 4))).rejects.toMatchObject(bad('ERR_SHAPE', 'images'))
  await expect(before({}, [image(3, 4), image(4, 3)])).rejects.toMatchObject(bad('ERR_SHAPE', 'images[1]'))
  await expect(before({ normalize: { mean: [1, 2, 3] } }, image(3, 4, 1))).rejects.toMatchObject(bad('ERR_SHAPE', 'images'))
  await expect(before({ pad: { size: [2, 2] } }, image(3, 4))).rejects.toMatchObject(bad('ERR_SHAPE', 'images'))
  await expect(before({}, 3 as never)).rejects.toMatchObject({ name: 'WhittleError' })
  await expect(after({ op: 'ctc', alphabet: 'abc' }, floats([1, 2, 5]))).rejects.toMatchObject(bad('ERR_SHAPE', 'outputs.y'))
  await expect(after({ op: 'ctc', alphabet: 'abc' }, floats([4]))).rejects.toMatchObject(bad('ERR_SHAPE', 'outputs.y'))
  await expect(after({ op: 'softmax' }, float([], 1))).rejects.toMatchObject(bad('ERR_SHAPE', 'outputs.y'))
  await expect((await pipeline({ session: await echo() })).run([image(3, 4)])).rejects.toMatchObject(bad('ERR_DTYPE', 'images'))
})
