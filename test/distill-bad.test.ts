import { crossEntropy, distill, type Tensor } from '../lib/index'
import { codeOf, f32 } from './oracle/losses'

type OnFeatures = (student: Tensor, teacher: Tensor) => unknown

describe('bad input', () => {
  const [s, t] = [f32([2, 3]), f32([2, 3])]
  const labels = new Int32Array([0, 1])
  const nan = { ...f32([2, 3]), data: new Float32Array([0, 1, NaN, 0, 0, 0]) }
  const infinite = { ...f32([2, 3]), data: new Float32Array([0, 1, 0, 0, -Infinity, 0]) }

  test('labels out of range, of the wrong number or kind', () => {
    for (const run of [
      (l: never) => crossEntropy(s, l),
      (l: never) => distill.kl(s, t, { labels: l }),
      (l: never) => distill.dkd(s, t, l),
      (l: never) => distill.multiTeacher(s, [t], { labels: l }),
    ]) {
      expect(codeOf(() => run(new Int32Array([0, 3]) as never))).toBe('ERR_RANGE labels[1]')
      expect(codeOf(() => run(new Int32Array([-1, 0]) as never))).toBe('ERR_RANGE labels[0]')
      expect(codeOf(() => run(new BigInt64Array([0n, 2n ** 40n]) as never))).toBe('ERR_RANGE labels[1]')
      expect(codeOf(() => run(new Int32Array([0]) as never))).toBe('ERR_SHAPE labels')
      expect(codeOf(() => run(new Float32Array([0, 1]) as never))).toBe('ERR_DTYPE labels')
    }
    expect(codeOf(() => crossEntropy(s, undefined as never))).toBe('ERR_DTYPE labels')
    expect(codeOf(() => crossEntropy(s, new Int32Array([0, -100])))).toBe('ERR_RANGE labels[1]')
    expect(codeOf(() => crossEntropy(s, new Int32Array([0, -100]), { ignoreIndex: -100 }))).toBe('no error')
  })

  test('shapes that differ, are empty or too small', () => {
    for (const run of [distill.kl, distill.js, (a: never, b: never) => distill.dkd(a, b, labels), (a: never, b: never) => distill.feature(a, b)] as ((
      a: unknown,
      b: unknown,
    ) => unknown)[]) {
      expect(codeOf(() => run(s, f32([3, 2])))).toBe('ERR_SHAPE teacher')
      expect(codeOf(() => run(s, f32([1, 2, 3])))).toBe('ERR_SHAPE teacher')
      expect(codeOf(() => run(f32([0, 3]), f32([0, 3])))).toBe('ERR_SHAPE student')
      expect(codeOf(() => run(f32([]), f32([])))).toBe('ERR_SHAPE student')
      expect(codeOf(() => run({ ...s, dims: [2, 4] }, t))).toBe('ERR_SHAPE student')
    }
    expect(codeOf(() => distill.multiTeacher(s, [t, f32([2, 4])]))).toBe('ERR_SHAPE teachers[1]')
    expect(codeOf(() => distill.multiTeacher(s, []))).toBe('ERR_SHAPE teachers')
    expect(codeOf(() => distill.multiTeacher(s, t))).toBe('ERR_SHAPE teachers')
    expect(codeOf(() => distill.dkd(f32([2, 1]), f32([2, 1]), new Int32Array(2)))).toBe('ERR_SHAPE student')
    expect(codeOf(() => distill.attention(s, t))).toBe('ERR_SHAPE student')
    expect(codeOf(() => distill.attention(f32([2, 3, 4]), f32([2, 3, 5])))).toBe('ERR_SHAPE teacher')
    for (const run of [distill.relationDistance, distill.relationAngle, distill.similarity, distill.correlation] as OnFeatures[])
      expect(codeOf(() => run(s, f32([3, 3])))).toBe('ERR_SHAPE teacher')
    for (const run of [distill.relationDistance, distill.relationAngle]) expect(codeOf(() => run(f32([1, 3]), f32([1, 3])))).toBe('ERR_SHAPE student')
    expect(codeOf(() => distill.feature(s, t, { regressor: f32([3, 4]) }))).toBe('ERR_SHAPE regressor')
    expect(codeOf(() => distill.feature(s, t, { regressor: f32([4, 3]) }))).toBe('ERR_SHAPE teacher')
    expect(codeOf(() => crossEntropy(s, labels, { classWeights: new Float32Array(2) }))).toBe('ERR_SHAPE classWeights')
    expect(codeOf(() => distill.multiTeacher(s, [t], { weights: new Float32Array(2) }))).toBe('ERR_SHAPE weights')
  })

  test('options out of range, unknown or without what they belong to', () => {
    const kl = (o: object) => () => distill.kl(s, t, o)
    for (const temperature of [0, -1, NaN, Infinity, 1e-9]) expect(codeOf(kl({ temperature }))).toBe('ERR_RANGE temperature')
    expect(codeOf(kl({ temperature: '4' }))).toBe('ERR_DTYPE temperature')
    for (const alpha of [-0.1, 1.1, NaN]) expect(codeOf(kl({ labels, alpha }))).toBe('ERR_RANGE alpha')
    expect(codeOf(kl({ alpha: 0.5 }))).toBe('ERR_RANGE alpha')
    expect(codeOf(kl({ ignoreIndex: 0 }))).toBe('ERR_RANGE ignoreIndex')
    expect(codeOf(kl({ reduction: 'average' }))).toBe('ERR_RANGE reduction')
    expect(codeOf(kl({ temprature: 4 }))).toBe('ERR_RANGE options.temprature')
    expect(codeOf(kl({ threads: 0 }))).toBe('ERR_RANGE threads')
    expect(codeOf(() => crossEntropy(s, labels, { reduction: 'batchmean' as never }))).toBe('ERR_RANGE reduction')
    for (const temperature of [0, -1, NaN]) expect(codeOf(() => crossEntropy(s, labels, { temperature }))).toBe('ERR_RANGE temperature')
    for (const labelSmoothing of [-0.1, 1.1]) expect(codeOf(() => crossEntropy(s, labels, { labelSmoothing }))).toBe('ERR_RANGE labelSmoothing')
    expect(codeOf(() => crossEntropy(s, labels, { classWeights: new Float32Array([1, -1, 1]) }))).toBe('ERR_RANGE classWeights[1]')
    expect(codeOf(() => distill.multiTeacher(s, [t], { weights: new Float32Array([0]) }))).toBe('ERR_RANGE weights')
    expect(codeOf(() => distill.dkd(s, t, labels, { beta: -1 }))).toBe('ERR_RANGE beta')
    for (const p of [0, 9, 1.5]) expect(codeOf(() => distill.attention(f32([1, 1, 1]), f32([1, 1, 1]), { p }))).toBe('ERR_RANGE p')
    for (const delta of [0, -1, NaN]) expect(codeOf(() => distill.relationAngle(s, t, { delta }))).toBe('ERR_RANGE delta')
    expect(codeOf(() => distill.relationAngle(s, t, { gamma: 1 } as never))).toBe('ERR_RANGE options.gamma')
    for (const gamma of [0, 101]) expect(codeOf(() => distill.correlation(s, t, { gamma }))).toBe('ERR_RANGE gamma')
    expect(codeOf(() => distill.feature(s, t, { outRegressor: new Float32Array(1) }))).toBe('ERR_RANGE outRegressor')
  })

  test('NaN and infinite numbers are named with their place, synchronously and not', async () => {
    const runs: ((a: Tensor, b: Tensor) => unknown)[] = [
      (a, b) => distill.kl(a, b),
      (a, b) => distill.kl(a, b, { labels, alpha: 0 }),
      (a, b) => distill.js(a, b),
      (a, b) => distill.dkd(a, b, labels),
      (a, b) => distill.dkd(a, b, new Int32Array([2, 1])),
      (a, b) => distill.feature(a, b),
      (a, b) => distill.relationDistance(a, b),
      (a, b) => distill.relationAngle(a, b),
      (a, b) => distill.similarity(a, b),
      (a, b) => distill.correlation(a, b),
    ]
    for (const run of runs) {
      expect(codeOf(() => run(nan, t))).toBe('ERR_RANGE student[2]')
      expect(codeOf(() => run(s, nan))).toBe('ERR_RANGE teacher[2]')
      expect(codeOf(() => run(infinite, t))).toBe('ERR_RANGE student[4]')
      expect(codeOf(() => run(s, infinite))).toBe('ERR_RANGE teacher[4]')
    }
    expect(codeOf(() => crossEntropy(nan, labels))).toBe('ERR_RANGE logits[2]')
    expect(codeOf(() => distill.multiTeacher(s, [t, nan]))).toBe('ERR_RANGE teachers[8]')
    const maps = { ...f32([2, 1, 3]), data: nan.data }
    expect(codeOf(() => distill.attention(maps, f32([2, 1, 3])))).toBe('ERR_RANGE student[2]')
    expect(codeOf(() => distill.attention(f32([2, 1, 3]), maps))).toBe('ERR_RANGE teacher[2]')
    await expect(distill.klAsync(nan, t)).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'student[2]' })
    await expect(distill.klAsync(s, f32([3, 2]))).rejects.toMatchObject({ code: 'ERR_SHAPE', parameter: 'teacher' })
  })

  test('a loss beyond float32 is an error, not infinity', () => {
    const huge = { ...f32([1, 2]), data: new Float32Array([3e38, -3e38]) }
    const turned = { ...f32([1, 2]), data: new Float32Array([-3e38, 3e38]) }
    for (const run of [distill.kl, distill.feature] as ((a: unknown, b: unknown) => unknown)[]) expect(codeOf(() => run(huge, turned))).toBe('ERR_RANGE student')
  })

  test('outputs of the wrong length, over an input, or detached memory', () => {
    expect(codeOf(() => distill.kl(s, t, { out: new Float32Array(5) }))).toBe('ERR_SHAPE out')
    expect(codeOf(() => distill.kl(s, t, { out: s.data }))).toBe('ERR_RANGE out')
    expect(codeOf(() => distill.kl(s, t, { out: new Float64Array(6) as never }))).toBe('ERR_DTYPE out')
    const gone = f32([2, 3])
    structuredClone(gone.data.buffer, { transfer: [gone.data.buffer as ArrayBuffer] })
    expect(codeOf(() => distill.kl({ ...gone, dims: [0, 3] }, t))).toBe('ERR_HANDLE student.data')
  })
})
