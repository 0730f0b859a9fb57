import { lowRank, lowRankAsync, svd, WhittleError, type LowRank, type Tensor } from '../lib/index'
import * as oracle from './oracle/svd'

let state = 1
const uniform = (): number => (state = (state * 48271) % 2147483647) / 2147483647
const normal = (): number => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
beforeEach(() => {
  state = 4711
})

const f32 = (dims: number[], data: ArrayLike<number>): Tensor<Float32Array> => ({ type: 'float32', dims, data: Float32Array.from(data) })
const f64 = (dims: number[], data: ArrayLike<number>): Tensor<Float64Array> => ({ type: 'float64', dims, data: Float64Array.from(data) })
const random = (rows: number, cols: number): number[] => Array.from({ length: rows * cols }, normal)
const minus = (a: oracle.Matrix, b: oracle.Matrix): oracle.Matrix => a.map((row, i) => row.map((x, j) => x - ((b[i] as number[])[j] as number)))
const product = (r: LowRank): oracle.Matrix => {
  const [m, n] = [r.a.dims[0] as number, r.b.dims[1] as number]
  return oracle.multiply(oracle.matrix(r.a.data, m, r.rank), oracle.matrix(r.b.data, r.rank, n))
}

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (e) {
    if (e instanceof WhittleError) return `${e.code} ${e.parameter}`
    throw e
  }
  return 'no error'
}

/** Inputs of very different size and correlated, and the sum of x·xᵀ. */
function calibration(inputs: number, count: number): { x: oracle.Matrix; moments: number[] } {
  const mix = oracle.matrix(random(inputs, inputs), inputs, inputs)
  const raw = oracle.matrix(random(inputs, count), inputs, count).map((row, i) => row.map((v) => v * 0.7 ** i))
  const x = oracle.multiply(mix, raw)
  return { x, moments: oracle.multiply(x, oracle.transpose(x)).flat() }
}

test('factors are balanced and as good as any of their rank', () => {
  for (const [m, n] of [[18, 12], [9, 30]] as const)
    for (const w of [f32([m, n], random(m, n)), f64([m, n], random(m, n))]) {
      const W = oracle.matrix(w.data, m, n)
      const best = oracle.bestErrors(oracle.singularValues(W))
      for (const rank of [1, 4, Math.min(m, n)]) {
        const r = lowRank(w, { rank })
        expect(r).toMatchObject({ rank, converged: true, damping: 0, method: 'full', parameters: rank * (m + n), saves: rank * (m + n) < m * n })
        expect([r.a.dims, r.b.dims, r.a.type]).toStrictEqual([[m, rank], [rank, n], w.type])
        expect(r.error).toBeCloseTo(best[rank] as number, 4)
        expect(r.relativeError).toBeCloseTo((best[rank] as number) / (best[0] as number), 5)
        expect(r.outputError).toBe(r.relativeError)
        expect(oracle.norm(minus(W, product(r)))).toBeCloseTo(best[rank] as number, 4)
        // A^T A = B B^T = the singular values.
        const values = oracle.singularValues(W)
        const [a, b] = [oracle.matrix(r.a.data, m, rank), oracle.matrix(r.b.data, rank, n)]
        for (const gram of [oracle.multiply(oracle.transpose(a), a), oracle.multiply(b, oracle.transpose(b))])
          gram.forEach((row, i) => row.forEach((x, j) => expect(x).toBeCloseTo(i === j ? (values[i] as number) : 0, 4)))
      }
    }
})

test('the rank is by default the most that saves', () => {
  expect(lowRank(f32([20, 20], random(20, 20)))).toMatchObject({ rank: 9, saves: true })
  expect(lowRank(f32([20, 20], random(20, 20)), { rank: 10 }).saves).toBe(false)
  expect(lowRank(f32([2, 2], random(2, 2)))).toMatchObject({ rank: 1, saves: false })
  expect(lowRank(f32([1, 5], random(1, 5)))).toMatchObject({ rank: 1, saves: false })
  expect(lowRank(f32([3, 40], random(3, 40)))).toMatchObject({ rank: 2, saves: true })
})

test('the rank for an error is the smallest that keeps it', () => {
  const w = f32([24, 16], random(24, 16))
  for (const maxError of [0.8, 0.5, 0.2]) {
    const r = lowRank(w, { maxError })
    expect(r.relativeError).toBeLessThanOrEqual(maxError)
    expect(lowRank(w, { rank: r.rank - 1 }).relativeError).toBeGreaterThan(maxError)
    expect(lowRank(w, { energy: 1 - maxError ** 2 }).rank).toBe(r.rank)
  }
  expect(lowRank(w, { maxError: 0.01, rank: 3 }).rank).toBe(3)
})

test('with second moments the error of the outputs is the least of its rank', () => {
  const [out, inputs, rank] = [20, 14, 5]
  const { x, moments } = calibration(inputs, 60)
  const W = oracle.matrix(random(out, inputs), out, inputs)
  const Y = oracle.multiply(W, x)
  const best = (oracle.bestErrors(oracle.singularValues(Y))[rank] as number) / oracle.norm(Y)
  const cases = [
    { w: f64([out, inputs], W.flat()), rows: false },
    { w: f32([out, inputs], W.flat()), rows: false },
    { w: f32([inputs, out], oracle.transpose(W).flat()), rows: true },
    { w: f64([inputs, out], oracle.transpose(W).flat()), rows: true },
  ]
  for (const { w, rows } of cases) {
    const plain = lowRank(w, { rank })
    const r = lowRank(w, { rank, secondMoments: f64([inputs, inputs], moments), ...(rows ? { inputs: 'rows' as const } : {}), damping: 1e-9 })
    expect([r.a.dims, r.b.dims]).toStrictEqual([[w.dims[0], rank], [rank, w.dims[1]]])
    const outputError = (f: LowRank): number => {
      const approximate = rows ? oracle.transpose(product(f)) : product(f)
      return oracle.norm(minus(Y, oracle.multiply(approximate, x))) / oracle.norm(Y)
    }
    const got = outputError(r)
    expect(got).toBeLessThanOrEqual(best * 1.0005 + 2e-6)
    expect(r.outputError).toBeCloseTo(got, 5)
    expect(outputError(plain)).toBeGreaterThan(2 * got)
    expect(r.relativeError).toBeGreaterThan(plain.relativeError)
    const whole = rows ? oracle.transpose(W) : W
    expect(r.error / oracle.norm(minus(whole, product(r)))).toBeCloseTo(1, 4)
    expect(lowRank(w, { rank, secondMoments: f32([inputs, inputs], moments), ...(rows ? { inputs: 'rows' as const } : {}) }).outputError).toBeCloseTo(got, 3)
  }
})

test('moments without full rank are damped until they do', () => {
  const inputs = 16
  const { moments } = calibration(inputs, 3)
  const w = f32([10, inputs], random(10, inputs))
  const r = lowRank(w, { rank: 3, secondMoments: f32([inputs, inputs], moments), damping: 0 })
  expect(r.damping).toBeGreaterThan(0)
  expect(r.outputError).toBeLessThan(2e-3)
  expect([...r.a.data, ...r.b.data].every(Number.isFinite)).toBe(true)
})

test('the randomized method serves large matrices', () => {
  const w = f32([200, 180], random(200, 180))
  const [fast, exact] = [lowRank(w, { rank: 6 }), lowRank(w, { rank: 6, method: 'full' })]
  expect(fast.method).toBe('randomized')
  expect(fast.error).toBeLessThanOrEqual(1.02 * exact.error)
  expect(lowRank(w, { rank: 6, seed: 5 })).not.toStrictEqual(fast)
})

test('a zero matrix has zero factors', () => {
  const r = lowRank(f32([5, 4], new Array<number>(20).fill(0)), { rank: 2 })
  expect([...r.a.data, ...r.b.data].every((x) => x === 0)).toBe(true)
  expect(r).toMatchObject({ error: 0, relativeError: 0 })
})

test('bad input has its code and names the parameter', () => {
  const w = f32([4, 3], random(4, 3))
  const eye = f64([3, 3], [1, 0, 0, 0, 1, 0, 0, 0, 1])
  const kBad: [unknown, object, string][] = [
    [7, {}, 'ERR_DTYPE w'],
    [f32([2, 2, 3], w.data), {}, 'ERR_SHAPE w'],
    [f32([4, 3], [...w.data.slice(0, 5), NaN, ...w.data.slice(6)]), {}, 'ERR_RANGE w[5]'],
    [f32([4, 3], [...w.data.slice(0, 5), Infinity, ...w.data.slice(6)]), { secondMoments: eye }, 'ERR_RANGE w[5]'],
    [w, { rank: 4 }, 'ERR_RANGE rank'],
    [w, { energy: 0 }, 'ERR_RANGE energy'],
    [w, { maxError: 2 }, 'ERR_RANGE maxError'],
    [w, { inputs: 'both' }, 'ERR_RANGE inputs'],
    [w, { damping: -1 }, 'ERR_RANGE damping'],
    [w, { method: 'svd' }, 'ERR_RANGE method'],
    [w, { seed: 0.5 }, 'ERR_RANGE seed'],
    [w, { tolerance: 0.5 }, 'ERR_RANGE options.tolerance'],
    [w, { secondMoments: f64([4, 4], random(4, 4)) }, 'ERR_SHAPE secondMoments'],
    [w, { secondMoments: new Int32Array(9) }, 'ERR_DTYPE secondMoments'],
    [w, { secondMoments: f64([3, 3], [1, 0, 0, 0, NaN, 0, 0, 0, 1]) }, 'ERR_RANGE secondMoments[4]'],
    [w, { secondMoments: f64([3, 3], [1, 0, 0, 0, -1, 0, 0, 0, 1]) }, 'ERR_RANGE secondMoments[4]'],
    [w, { secondMoments: f64([3, 3], [1, 0.5, 0, 0, 1, 0, 0, 0, 1]) }, 'ERR_RANGE secondMoments[3]'],
    [w, { secondMoments: f64([3, 3], new Array<number>(9).fill(0)) }, 'ERR_RANGE secondMoments'],
    [w, { secondMoments: f64([3, 3], [1, 9, 9, 9, 1, 9, 9, 9, 1]) }, 'ERR_RANGE secondMoments'],
  ]
  for (const [value, options, code] of kBad) expect([options, codeOf(() => lowRank(value as never, options))]).toStrictEqual([options, code])
})

test('an asynchronous call answers the same', async () => {
  const w = f32([14, 9], random(14, 9))
  const { moments } = calibration(9, 40)
  for (const options of [{}, { rank: 3 }, { maxError: 0.3, secondMoments: f64([9, 9], moments) }, { rank: 2, secondMoments: Float64Array.from(moments) }])
    expect(await lowRankAsync(w, options)).toStrictEqual(lowRank(w, options))
  await expect(lowRankAsync(f32([1, 1], [NaN]))).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'w[0]' })
  expect(lowRank(w, { rank: 2 }).a.data).not.toStrictEqual(svd(w, { rank: 2 }).u.data)
})
