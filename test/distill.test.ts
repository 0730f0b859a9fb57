import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import { crossEntropy, crossEntropyAsync, devices, distill, type Reduction, type Tensor, type TensorLike } from '../lib/index'
import * as oracle from './oracle/distill'
import { fixtures, type FixtureCase } from './oracle/fixtures'
import { close, codeOf, f32, labelsOf, restart, values } from './oracle/losses'

const load = (c: FixtureCase, role: string): Tensor<Float32Array> => ({
  type: 'float32',
  dims: c.tensor(role).dims,
  data: c.tensor(role).data as Float32Array,
})
type OnFeatures = (student: TensorLike, teacher: TensorLike) => { readonly loss: number; readonly grad: Tensor<Float32Array> }
beforeEach(restart)

/** What a fixture's name begins with, and the call that it describes. */
const kCalls: [RegExp, (c: FixtureCase) => object][] = [
  [/^kl_/, (c) => distill.kl(load(c, 'student'), load(c, 'teacher'), { temperature: c.parameters.temperature, reduction: c.parameters.reduction })],
  [
    /^kd_/,
    (c) =>
      distill.kl(load(c, 'student'), load(c, 'teacher'), {
        temperature: c.parameters.temperature,
        alpha: c.parameters.alpha,
        reduction: c.parameters.reduction,
        labels: c.tensor('labels').data as Int32Array,
      }),
  ],
  [
    /^ce_/,
    (c) =>
      crossEntropy(load(c, 'logits'), c.tensor('labels').data as Int32Array, {
        labelSmoothing: c.parameters.labelSmoothing,
        reduction: c.parameters.reduction,
      }),
  ],
  [/^js_/, (c) => distill.js(load(c, 'student'), load(c, 'teacher'), { temperature: c.parameters.temperature, reduction: c.parameters.reduction })],
  [
    /^dkd_/,
    (c) =>
      distill.dkd(load(c, 'student'), load(c, 'teacher'), c.tensor('labels').data as Int32Array, {
        temperature: c.parameters.temperature,
        alpha: c.parameters.alpha,
        beta: c.parameters.beta,
      }),
  ],
  [
    /^multi_/,
    (c) =>
      distill.multiTeacher(load(c, 'student'), load(c, 'teachers'), {
        temperature: c.parameters.temperature,
        weights: c.tensor('weights').data as Float32Array,
      }),
  ],
  [
    /^hint_/,
    (c) =>
      (c.parameters.regressor
        ? distill.feature(load(c, 'student'), load(c, 'teacher'), { regressor: load(c, 'regressor') })
        : distill.feature(load(c, 'student'), load(c, 'teacher'))),
  ],
  [/^attention_/, (c) => distill.attention(load(c, 'student'), load(c, 'teacher'), { p: c.parameters.p, form: c.parameters.form })],
  [/^rkd_distance/, (c) => distill.relationDistance(load(c, 'student'), load(c, 'teacher'), { delta: c.parameters.delta })],
  [/^rkd_angle/, (c) => distill.relationAngle(load(c, 'student'), load(c, 'teacher'), { delta: c.parameters.delta })],
  [/^similarity/, (c) => distill.similarity(load(c, 'student'), load(c, 'teacher'))],
]

test.each(fixtures('distill').map((c) => [c.name, c] as const))('fixture %s', (_, c) => {
  const call = kCalls.find(([name]) => name.test(c.name))
  if (!call) throw new Error(`no call for ${c.name}`)
  const result = call[1](c) as Record<string, number | Tensor<Float32Array>>
  for (const role of c.roles) {
    const value = result[role] as number | Tensor<Float32Array>
    c.check(role, values(value))
    if (typeof value !== 'number') expect(value.dims).toEqual(c.tensor(role).dims)
  }
})

describe('against definitions in double precision, gradients by finite differences', () => {
  const kShapes = [[1, 2], [3, 5], [2, 37]] as const // prettier-ignore

  test('crossEntropy with weights, smoothing, ignored samples and a temperature', () => {
    for (const [n, c] of kShapes)
      for (const reduction of ['mean', 'sum', 'none'] as const)
        for (const [labelSmoothing, temperature] of [[0, 1], [0.3, 1], [0, 3], [0.3, 0.5]] as const) {
          const x = f32([n, c], 4)
          const labels = labelsOf(n, c)
          if (n > 1) labels[1] = -7
          const weights = Float32Array.from({ length: c }, (_, i) => 0.5 + (i % 3))
          const hard = { labels, smoothing: labelSmoothing, weights, ignore: -7 }
          const cold = (v: ArrayLike<number>): number[] => Array.from(v, (one) => one / temperature)
          const each = (v: ArrayLike<number>): number[] => oracle.crossEntropies(oracle.rows(cold(v), n), hard)
          const total = (v: ArrayLike<number>): number => each(v).reduce((a, b) => a + b, 0) / (reduction === 'mean' ? oracle.hardCount(n, hard) : 1)
          const got = crossEntropy(x, labels, { labelSmoothing, temperature, classWeights: weights, ignoreIndex: -7, reduction })
          close(values(got.loss), reduction === 'none' ? each(x.data) : [total(x.data)], 'loss', 1e-6)
          close(got.grad.data, oracle.differences(x.data, total), 'grad', 2e-6)
        }
  })

  test('kl alone, and mixed with weighted, smoothed, partly ignored labels', () => {
    for (const [n, c] of kShapes)
      for (const reduction of ['mean', 'batchmean', 'sum', 'none'] as const)
        for (const temperature of [1, 0.5, 3]) {
          const [s, t] = [f32([n, c], 3), f32([n, c], 3)]
          const terms = (v: ArrayLike<number>): number[][] => oracle.klTerms(oracle.rows(v, n), oracle.rows(t.data, n), temperature)
          const factor = reduction === 'mean' ? 1 / (n * c) : reduction === 'batchmean' ? 1 / n : 1
          const total = (v: ArrayLike<number>): number => factor * terms(v).flat().reduce((a, b) => a + b, 0)
          const got = distill.kl(s, t, { temperature, reduction })
          close(values(got.loss), reduction === 'none' ? terms(s.data).flat() : [total(s.data)], 'loss', 2e-6)
          close(got.grad.data, oracle.differences(s.data, total), 'grad', 2e-6)

          const labels = labelsOf(n, c)
          if (n > 1) labels[1] = -1
          const weights = Float32Array.from({ length: c }, (_, i) => 0.5 + (i % 3))
          const hard = { labels, smoothing: 0.2, weights, ignore: -1 }
          const count = n > 1 ? n - 1 : n
          const each = (v: ArrayLike<number>, hardFactor: number, softFactor: number): number[] => {
            const ce = oracle.crossEntropies(oracle.rows(v, n), hard)
            return terms(v).map((row, i) =>
              labels[i] === -1 ? 0 : 0.4 * hardFactor * (ce[i] as number) + 0.6 * softFactor * row.reduce((a, b) => a + b, 0),
            )
          }
          const average = reduction === 'mean' || reduction === 'batchmean'
          const both = (v: ArrayLike<number>): number[] => each(v, average ? 1 / oracle.hardCount(n, hard) : 1, average ? 1 / count : 1)
          const mixed = distill.kl(s, t, {
            temperature, reduction, labels, alpha: 0.6, classWeights: weights, labelSmoothing: 0.2, ignoreIndex: -1,
          }) // prettier-ignore
          const sum = (v: ArrayLike<number>): number => both(v).reduce((a, b) => a + b, 0)
          close(values(mixed.loss), reduction === 'none' ? both(s.data) : [sum(s.data)], 'mixed loss', 2e-6)
          close(mixed.grad.data, oracle.differences(s.data, sum), 'mixed grad', 3e-6)
        }
  })

  test('js, dkd and multiTeacher with every reduction', () => {
    for (const [n, c] of kShapes)
      for (const reduction of ['mean', 'batchmean', 'sum', 'none'] as const) {
        const [s, t, u] = [f32([n, c], 3), f32([n, c], 3), f32([n, c], 3)]
        const labels = labelsOf(n, c)
        const temperature = 2
        const factor = reduction === 'mean' || reduction === 'batchmean' ? 1 / n : 1
        const compare = (got: { loss: number | Tensor<Float32Array>; grad: Tensor<Float32Array> }, each: (v: ArrayLike<number>) => number[], k = factor): void => {
          const total = (v: ArrayLike<number>): number => k * each(v).reduce((a, b) => a + b, 0)
          close(values(got.loss), reduction === 'none' ? each(s.data) : [total(s.data)], 'loss', 2e-6)
          close(got.grad.data, oracle.differences(s.data, total), 'grad', 3e-6)
        }
        const teacher = oracle.rows(t.data, n)
        compare(distill.js(s, t, { temperature, reduction }), (v) => oracle.js(oracle.rows(v, n), teacher, temperature))
        const terms = (v: ArrayLike<number>): [number, number][] => oracle.dkd(oracle.rows(v, n), teacher, labels, temperature)
        const got = distill.dkd(s, t, labels, { temperature, reduction, alpha: 1.5, beta: 3 })
        compare(got, (v) => terms(v).map(([a, b]) => 1.5 * a + 3 * b))
        close([got.target, got.nonTarget], [0, 1].map((i) => factor * terms(s.data).reduce((a, b) => a + (b[i] as number), 0)), 'dkd terms', 2e-6)
        const weights = new Float32Array([1, 3])
        const mix = (v: ArrayLike<number>): number[] =>
          oracle.multiTeacherTerms(oracle.rows(v, n), [teacher, oracle.rows(u.data, n)], [1, 3], temperature).flat()
        compare(distill.multiTeacher(s, [t, u], { temperature, reduction, weights }), mix, reduction === 'mean' ? 1 / (n * c) : factor)
      }
  })

  test('js where one side has nearly given a class up', () => {
    const [s, t] = [f32([4, 6], 50), f32([4, 6], 50)]
    const teacher = oracle.rows(t.data, 4)
    const loss = (v: ArrayLike<number>): number => oracle.js(oracle.rows(v, 4), teacher, 1).reduce((a, b) => a + b, 0) / 4
    const got = distill.js(s, t)
    close([got.loss], [loss(s.data)], 'loss', 2e-6)
    close(got.grad.data, oracle.differences(s.data, loss), 'grad', 3e-6)
  })

  test('feature with and without a regressor, over positions and without them', () => {
    for (const [batch, own, other, positions] of [[2, 3, 4, 5], [6, 5, 3, 1], [1, 1, 1, 1], [3, 17, 2, 9]] as const) {
      const s = f32([batch, own, positions])
      const t = f32([batch, other, positions])
      const w = f32([other, own])
      const loss = (x: ArrayLike<number>, r: ArrayLike<number>): number =>
        oracle.meanSquare(oracle.project(x, batch, own, oracle.rows(r, other)), Array.from(t.data))
      const got = distill.feature(s, t, { regressor: w })
      close([got.loss], [loss(s.data, w.data)], 'loss', 1e-6)
      close(got.grad.data, oracle.differences(s.data, (v) => loss(v, w.data)), 'grad', 1e-6)
      close(got.gradRegressor.data, oracle.differences(w.data, (v) => loss(s.data, v)), 'gradRegressor', 2e-6)
      const plain = distill.feature(t, f32([batch, other, positions]))
      expect(plain.grad.dims).toEqual([batch, other, positions])
    }
  })

  test('attention with every exponent and form', () => {
    const [s, t] = [f32([3, 4, 2, 3], 2), f32([3, 2, 2, 3], 2)]
    for (const form of ['norm', 'mean'] as const)
      for (const p of [1, 2, 3, 5, 8]) {
        const loss = (v: ArrayLike<number>): number => oracle.attention(oracle.rows(v, 3), oracle.rows(t.data, 3), 6, p, form)
        const got = distill.attention(s, t, { p, form })
        close([got.loss], [loss(s.data)], 'loss', 1e-6)
        close(got.grad.data, oracle.differences(s.data, loss), 'grad', 2e-6)
      }
  })

  test('relations, also with a Huber loss that turns linear and points that coincide', () => {
    for (const [n, own, other] of [[2, 3, 4], [5, 4, 2], [9, 20, 3], [24, 3, 5]] as const) {
      const [s, t] = [f32([n, own], 2), f32([n, other], 2)]
      const teacher = oracle.rows(t.data, n)
      const compare = (got: { loss: number; grad: Tensor<Float32Array> }, of: (x: oracle.Rows) => number): void => {
        const loss = (v: ArrayLike<number>): number => of(oracle.rows(v, n))
        close([got.loss], [loss(s.data)], 'loss', 1e-6)
        if (n < 20) close(got.grad.data, oracle.differences(s.data, loss), 'grad', 2e-6, 1e-4)
      }
      for (const delta of [1, 0.1]) {
        compare(distill.relationDistance(s, t, { delta }), (x) => oracle.relationDistance(x, teacher, delta))
        compare(distill.relationAngle(s, t, { delta }), (x) => oracle.relationAngle(x, teacher, delta))
      }
      compare(distill.similarity(s, t), (x) => oracle.similarity(x, teacher))
      for (const order of [1, 2, 5]) compare(distill.correlation(s, t, { gamma: 0.7, order }), (x) => oracle.correlation(x, teacher, 0.7, order))
    }
    const s = f32([4, 3])
    s.data.copyWithin(3, 0, 3)
    const t = f32([4, 3])
    close([distill.relationDistance(s, t).loss], [oracle.relationDistance(oracle.rows(s.data, 4), oracle.rows(t.data, 4))], 'distance', 1e-6)
    close([distill.relationAngle(s, t).loss], [oracle.relationAngle(oracle.rows(s.data, 4), oracle.rows(t.data, 4))], 'angle', 1e-6)
    expect(distill.relationAngle(s, t).grad.data.every(Number.isFinite)).toBe(true)
  })

  test('distances of close points far from the origin keep their digits', () => {
    const s = f32([6, 8], 1e-3)
    s.data.forEach((v, i) => (s.data[i] = 100 + v))
    const t = f32([6, 8])
    for (const [got, want] of [
      [distill.relationDistance(s, t).loss, oracle.relationDistance(oracle.rows(s.data, 6), oracle.rows(t.data, 6))],
      [distill.relationAngle(s, t).loss, oracle.relationAngle(oracle.rows(s.data, 6), oracle.rows(t.data, 6))],
    ] as const)
      close([got], [want], 'loss', 1e-7)
  })
})

test('large rows and many samples agree with double precision', () => {
  for (const [n, c] of [[3, 5000], [300, 40]] as const) {
    const [s, t] = [f32([n, c], 8), f32([n, c], 8)]
    const { loss, grad } = distill.kl(s, t, { temperature: 2 })
    const terms = oracle.klTerms(oracle.rows(s.data, n), oracle.rows(t.data, n), 2)
    close([loss], [terms.flat().reduce((a, b) => a + b, 0) / n], 'loss', 1e-6)
    const p = oracle.rows(t.data, n).map((x) => oracle.logSoftmax(x, 2).map(Math.exp))
    const q = oracle.rows(s.data, n).map((x) => oracle.logSoftmax(x, 2).map(Math.exp))
    close(grad.data, q.flatMap((row, i) => row.map((v, j) => (2 * (v - ((p[i] as number[])[j] as number))) / n)), 'grad', 1e-8)
  }
})

describe('bfloat16 logits', () => {
  const half = (t: Tensor<Float32Array>): [Tensor<Uint16Array>, Tensor<Float32Array>] => {
    const data = new Uint16Array(new Uint32Array(Float32Array.from(t.data).buffer).map((b) => b >>> 16))
    const wide = new Float32Array(Uint32Array.from(data, (b) => b << 16).buffer)
    return [{ type: 'bfloat16', dims: t.dims, data }, { type: 'float32', dims: t.dims, data: wide }]
  }
  const same = (got: { loss: number | Tensor<Float32Array>; grad: Tensor<Float32Array> }, want: typeof got): void => {
    close(values(got.loss), Array.from(values(want.loss)), 'loss', 1e-30, 1e-12)
    expect(got.grad.type).toBe('float32')
    close(got.grad.data, Array.from(want.grad.data), 'grad', 0, 0)
  }

  test('give what the same numbers give in float32, on either side or both', () => {
    for (const [n, c] of [[2, 3], [3, 5000], [4, 2049]] as const) {
      const [[s, ws], [t, wt], [u, wu]] = [half(f32([n, c], 9)), half(f32([n, c], 9)), half(f32([n, c], 9))]
      const labels = labelsOf(n, c)
      const classWeights = Float32Array.from({ length: c }, (_, i) => 0.5 + (i % 3))
      const hard = { labels, classWeights, labelSmoothing: 0.1 }
      for (const reduction of ['batchmean', 'none'] as const) {
        same(crossEntropy(s, labels, { classWeights, labelSmoothing: 0.1 }), crossEntropy(ws, labels, { classWeights, labelSmoothing: 0.1 }))
        for (const [a, b] of [[s, t], [ws, t], [s, wt]] as const) {
          same(distill.kl(a, b, { temperature: 2, reduction }), distill.kl(ws, wt, { temperature: 2, reduction }))
          same(distill.kl(a, b, { ...hard, reduction }), distill.kl(ws, wt, { ...hard, reduction }))
          same(distill.js(a, b, { temperature: 2, reduction }), distill.js(ws, wt, { temperature: 2, reduction }))
          same(distill.dkd(a, b, labels, { temperature: 2, reduction }), distill.dkd(ws, wt, labels, { temperature: 2, reduction }))
        }
        same(distill.multiTeacher(s, [t, u], { ...hard, reduction }), distill.multiTeacher(ws, [wt, wu], { ...hard, reduction }))
        same(distill.multiTeacher(ws, [t, u], { reduction }), distill.multiTeacher(ws, [wt, wu], { reduction }))
      }
    }
  })

  test('come as bare arrays and asynchronously too, and bad ones are named', async () => {
    const [[s, ws], [t, wt]] = [half(f32([2, 300], 3)), half(f32([2, 300], 3))]
    same(distill.kl(s.data, t.data, { studentDims: [2, 300] }), distill.kl(ws, wt))
    same(await distill.klAsync(s, t), distill.kl(ws, wt))
    const bad = { ...t, data: t.data.slice() }
    bad.data[7] = 0x7f80
    expect(codeOf(() => distill.kl(s, bad))).toBe('ERR_RANGE teacher[7]')
    bad.data[7] = 0xffc0
    expect(codeOf(() => crossEntropy(bad, new Int32Array(2)))).toBe('ERR_RANGE logits[7]')
    expect(codeOf(() => distill.multiTeacher(s, [t, wt]))).toBe('ERR_DTYPE teachers[1]')
    expect(codeOf(() => distill.kl({ ...s, type: 'float16' }, t))).toBe('ERR_DTYPE student.type')
    expect(codeOf(() => distill.feature(s as never, t as never))).toBe('ERR_DTYPE student.type')
  })
})

test('asynchronous twins, thread counts and given memory change nothing', async () => {
  const [s, t, u] = [f32([70, 300], 5), f32([70, 300], 5), f32([70, 300], 5)]
  const labels = labelsOf(70, 300)
  const [a, b] = [f32([4, 6, 5, 5]), f32([4, 3, 5, 5])]
  const regressor = f32([3, 6])
  type Any = { loss: number | Tensor<Float32Array>; grad: Tensor<Float32Array> }
  const bytes = (r: Any): string => JSON.stringify(r, (_, v: unknown) => (ArrayBuffer.isView(v) ? Buffer.from(v.buffer).toString('base64') : v))
  const pairs: [(o: object) => Any, (o: object) => Promise<Any>, number][] = [
    [(o) => crossEntropy(s, labels, o), (o) => crossEntropyAsync(s, labels, o), s.data.length],
    [(o) => distill.kl(s, t, { labels, ...o }), (o) => distill.klAsync(s, t, { labels, ...o }), s.data.length],
    [(o) => distill.js(s, t, o), (o) => distill.jsAsync(s, t, o), s.data.length],
    [(o) => distill.dkd(s, t, labels, o), (o) => distill.dkdAsync(s, t, labels, o), s.data.length],
    [(o) => distill.multiTeacher(s, [t, u], o), (o) => distill.multiTeacherAsync(s, [t, u], o), s.data.length],
    [(o) => distill.feature(s, t, o), (o) => distill.featureAsync(s, t, o), s.data.length],
    [(o) => distill.feature(a, b, { regressor, ...o }), (o) => distill.featureAsync(a, b, { regressor, ...o }), a.data.length],
    [(o) => distill.attention(a, b, o), (o) => distill.attentionAsync(a, b, o), a.data.length],
    [(o) => distill.relationDistance(s, t, o), (o) => distill.relationDistanceAsync(s, t, o), s.data.length],
    [(o) => distill.relationAngle(s, t, o), (o) => distill.relationAngleAsync(s, t, o), s.data.length],
    [(o) => distill.similarity(s, t, o), (o) => distill.similarityAsync(s, t, o), s.data.length],
    [(o) => distill.correlation(s, t, o), (o) => distill.correlationAsync(s, t, o), s.data.length],
  ]
  for (const [sync, async_, size] of pairs) {
    const plain = bytes(sync({}))
    expect(bytes(sync({ threads: 1 }))).toBe(plain)
    expect(bytes(sync({ threads: 2 }))).toBe(plain)
    const out = new Float32Array(size)
    const into = sync({ out })
    expect(into.grad.data === out).toBe(true)
    expect(bytes(into)).toBe(plain)
    expect(bytes(await async_({}))).toBe(plain)
    const later = new Float32Array(size)
    const result = await async_({ out: later })
    expect(result.grad.data === later).toBe(true)
    expect(bytes(result)).toBe(plain)
  }
})

test('outLoss takes the values of none', () => {
  const [s, t] = [f32([3, 4]), f32([3, 4])]
  const outLoss = new Float32Array(12)
  const got = distill.kl(s, t, { reduction: 'none', outLoss })
  expect(got.loss.data).toBe(outLoss)
  expect(got.loss.dims).toEqual([3, 4])
  expect(codeOf(() => distill.kl(s, t, { outLoss }))).toBe('ERR_RANGE outLoss')
  expect(codeOf(() => distill.kl(s, t, { reduction: 'none', outLoss, out: outLoss }))).toBe('ERR_RANGE outLoss')
})

test('bare arrays take dims; one without them is one sample', () => {
  const [s, t] = [f32([2, 3]), f32([2, 3])]
  const dims = [2, 3]
  expect(distill.kl(s.data, t.data, { studentDims: dims })).toEqual(distill.kl(s, t))
  expect(crossEntropy(s.data, new Int32Array([0, 2]), { logitsDims: dims })).toEqual(crossEntropy(s, new Int32Array([0, 2])))
  expect(distill.kl(s.data, t.data).loss).toBeCloseTo(oracle.klTerms([[...s.data]], [[...t.data]], 1).flat().reduce((a, b) => a + b, 0), 6)
  expect(crossEntropy(s, new BigInt64Array([0n, 2n]))).toEqual(crossEntropy(s, new Int32Array([0, 2])))
  const wide = { type: 'float32', dims: [1, 2, 3], data: s.data }
  expect(distill.kl(wide, { type: 'float32', dims: [1, 2, 3], data: t.data }).grad.dims).toEqual([1, 2, 3])
})

test('samples that are all ignored have no loss and no gradient', () => {
  const s = f32([2, 3])
  const labels = new Int32Array([9, 9])
  for (const got of [
    crossEntropy(s, labels, { ignoreIndex: 9 }),
    distill.kl(s, f32([2, 3]), { labels, ignoreIndex: 9 }),
    distill.dkd(s, f32([2, 3]), labels, { ignoreIndex: 9 }),
  ]) {
    expect(got.loss).toBe(0)
    expect([...got.grad.data]).toEqual([0, 0, 0, 0, 0, 0])
  }
})

test('maps and features of zeros give zeros, not NaN', () => {
  const zeros = { type: 'float32', dims: [2, 2, 3], data: new Float32Array(12) }
  const other = f32([2, 2, 3])
  const all: readonly OnFeatures[] = [distill.attention, distill.relationDistance, distill.relationAngle, distill.similarity, distill.correlation]
  for (const run of all) {
    const { loss, grad } = run(zeros, other)
    expect(Number.isFinite(loss)).toBe(true)
    expect(grad.data.every((g) => g === 0)).toBe(true)
  }
})

test('every tier that this CPU has gives the fixtures within their tolerance', () => {
  const dist = path.join(__dirname, '..', 'dist')
  const c = fixtures('distill', /^kl_T4_batchmean_3x1000$/)[0] as FixtureCase
  const script = `const { distill, devices } = require(${JSON.stringify(dist)});
    const [s, t] = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
    const r = distill.kl(Float32Array.from(s), Float32Array.from(t), { temperature: 4, studentDims: [3, 1000] });
    console.log(JSON.stringify([devices().cpu.kernels.distill, r.loss, [...r.grad.data]]))`
  const input = JSON.stringify(['student', 'teacher'].map((role) => Array.from(load(c, role).data)))
  const used = new Set<string>()
  for (const tier of devices().cpu.tiers.filter((one) => one.supported)) {
    const r = spawnSync(process.execPath, ['-e', script], { input, encoding: 'utf8', env: { ...process.env, WHITTLE_CPU: tier.name } })
    const [variant, loss, grad] = JSON.parse(r.stdout || 'null') as [string, number, number[]]
    c.check('loss', [loss])
    c.check('grad', grad)
    used.add(variant)
  }
  expect(used.has('scalar')).toBe(true)
})

// VmHWM, not maxRSS: the latter begins with what the process that started this one had.
const onLinux = process.platform === 'linux' ? test : test.skip
onLinux('relationAngle at batch 256 stays under 64 MB of scratch', () => {
  const dist = path.join(__dirname, '..', 'dist')
  const script = `const { distill } = require(${JSON.stringify(dist)});
    const make = () => ({ type: 'float32', dims: [256, 512], data: Float32Array.from({ length: 131072 }, () => Math.random()) });
    const peak = () => 1024 * Number(/VmHWM:\\s*(\\d+) kB/.exec(require('node:fs').readFileSync('/proc/self/status', 'utf8'))[1]);
    const [s, t] = [make(), make()], before = peak();
    distill.relationAngle(s, t);
    console.log(peak() - before)`
  const used = Number(spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' }).stdout)
  expect(used).toBeGreaterThan(0)
  expect(used).toBeLessThan(64e6)
})

// Types: 'none' gives a tensor, the rest a number, and a reduction known only at run time either.
test('the type of loss follows the reduction', () => {
  const [s, t] = [f32([2, 3]), f32([2, 3])]
  const one: number = distill.kl(s, t).loss
  const many: Tensor<Float32Array> = distill.kl(s, t, { reduction: 'none' }).loss
  const either: number | Tensor<Float32Array> = distill.kl(s, t, { reduction: 'sum' as Reduction }).loss
  expect([typeof one, many.dims, typeof either]).toEqual(['number', [2, 3], 'number'])
})
