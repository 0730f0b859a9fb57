import {
  codebookDecode,
  codebookDecodeAsync,
  codebookEncode,
  codebookEncodeAsync,
  codebookGradient,
  codebookGradientAsync,
  kmeans,
  kmeansAsync,
  WhittleError,
  type KmeansOptions,
} from '../lib/index'
import * as oracle from './oracle/codebook'

const { abs, fround, imul, log, cos, sqrt, PI } = Math

function generator(seed: number): () => number {
  return () => {
    seed = (imul(seed, 1664525) + 1013904223) >>> 0
    return (seed + 0.5) / 2 ** 32
  }
}
function normal(n: number, seed: number): Float32Array {
  const next = generator(seed)
  return Float32Array.from({ length: n }, () => sqrt(-2 * log(next())) * cos(2 * PI * next()))
}
function code(run: () => unknown): string {
  try {
    run()
  } catch (e) {
    expect(e).toBeInstanceOf(WhittleError)
    return `${(e as WhittleError).code} ${(e as WhittleError).parameter}`
  }
  return 'no error'
}

describe('kmeans', () => {
  test.each([
    ['k-means++', 16, 5000],
    ['linear', 16, 5000],
    ['density', 16, 5000],
    ['k-means++', 1, 100],
    ['k-means++', 256, 3000],
    ['linear', 300, 3000],
    ['density', 2, 64],
  ] as const)('init %s with %d clusters of %d values ends in a fixed point of Lloyd', (init, clusters, n) => {
    const x = normal(n, clusters + n)
    const r = kmeans({ type: 'float32', dims: [n / 4, 4], data: x }, { clusters, init, tolerance: 0, iterations: 10_000, seed: 3 })
    expect(r).toMatchObject({ converged: true, indices: { dims: [n / 4, 4], type: clusters > 256 ? 'uint16' : 'uint8' }, centroids: { dims: [clusters] } })
    const { data: centroids } = r.centroids
    centroids.forEach((c, j) => expect(j === 0 || c > (centroids[j - 1] as number)).toBe(true))
    const want = Array.from(x, (v) => oracle.nearest(v, centroids))
    expect(Array.from(r.indices.data)).toEqual(want)
    expect(Array.from(r.counts)).toEqual(Array.from(centroids, (_, j) => want.filter((i) => i === j).length))
    oracle.means(x, centroids, want).forEach((m, j) => expect(abs(m - (centroids[j] as number))).toBeLessThan(1e-6))
    expect(abs(r.error - oracle.distance(x, centroids, want))).toBeLessThan(1e-6 * r.error + 1e-12)
    expect(r.relativeError).toBeCloseTo(r.error / sqrt(x.reduce((a, v) => a + v * v, 0)), 6)
    expect(Math.min(...r.counts)).toBeGreaterThan(0)
  })

  test('given centroids lead where plain Lloyd leads', () => {
    const x = normal(2000, 5)
    const start = [-2, -0.5, 0.25, 1, 1.5]
    const r = kmeans(x, { clusters: 5, init: Float32Array.from([1, 0.25, -2, 1.5, -0.5]), tolerance: 0, iterations: 5000 })
    oracle.lloyd(x, start).forEach((c, j) => expect(abs(c - (r.centroids.data[j] as number))).toBeLessThan(1e-6))
  })

  test('the best of many starts is near the optimum of all partitions', () => {
    const x = Float32Array.from([...normal(40, 1), ...normal(30, 2).map((v) => v / 8 + 6), ...normal(30, 3).map((v) => v / 4 - 9)])
    const best = oracle.optimum(x, 6)
    const r = kmeans(x, { clusters: 6, starts: 50, tolerance: 0 })
    expect(r.error).toBeGreaterThanOrEqual(best * (1 - 1e-6))
    expect(r.error).toBeLessThan(best * 1.01)
    expect(kmeans(x, { clusters: 6, tolerance: 0 }).error).toBeGreaterThanOrEqual(r.error * (1 - 1e-9))
  })

  test('the error falls with every iteration', () => {
    const x = normal(3000, 8)
    let last = Infinity
    for (let iterations = 1; iterations < 30; iterations++) {
      const r = kmeans(x, { clusters: 12, init: 'linear', iterations, tolerance: 0 })
      expect(r.iterations).toBe(iterations)
      expect(r.converged).toBe(false)
      expect(r.error).toBeLessThanOrEqual(last * (1 + 1e-7))
      last = r.error
    }
  })

  test('a seed decides, and the number of threads does not', () => {
    const x = normal(200_000, 4)
    const o: KmeansOptions = { clusters: 20, seed: 9, iterations: 20 }
    const a = kmeans(x, o)
    const b = kmeans(x, { ...o, threads: 1 })
    expect(Buffer.compare(Buffer.from(a.centroids.data.buffer), Buffer.from(b.centroids.data.buffer))).toBe(0)
    expect(Buffer.compare(Buffer.from(a.indices.data), Buffer.from(b.indices.data))).toBe(0)
    expect(Array.from(kmeans(x, { ...o, seed: 10 }).centroids.data)).not.toEqual(Array.from(a.centroids.data))
  })

  test('clusters without values move to where the error is', () => {
    // Evenly spaced centroids between two outliers: most serve nobody at first.
    const x = Float32Array.from([...normal(1000, 6).map((v) => v / 1000), 100, -100])
    const r = kmeans(x, { clusters: 16, init: 'linear', tolerance: 0, iterations: 2000 })
    expect(Math.min(...r.counts)).toBeGreaterThan(0)
    expect(r.error).toBeLessThan(0.02)
    // As many clusters as values: nothing is lost.
    const few = Float32Array.from([5, -1, 5, 2, 2, 8, -1])
    for (const init of ['k-means++', 'linear', 'density'] as const) {
      const exact = kmeans(few, { clusters: 4, init })
      expect(exact).toMatchObject({ error: 0, relativeError: 0, converged: true })
      expect(Array.from(exact.centroids.data)).toEqual([-1, 2, 5, 8])
      expect(Array.from(codebookDecode(exact.indices, exact.centroids).data)).toEqual(Array.from(few))
    }
    expect(kmeans(new Float32Array(9), { clusters: 1 })).toMatchObject({ error: 0, relativeError: 0 })
  })

  test('values near the ends of float32 keep their precision', () => {
    const tiny = kmeans(Float32Array.of(1e-40, 2e-40, 9e-40), { clusters: 2, tolerance: 0 })
    expect(abs(tiny.error / sqrt(2 * (fround(2e-40) - fround(1e-40)) ** 2 * 0.25) - 1)).toBeLessThan(1e-3)
    const huge = kmeans(Float32Array.of(-3e38, -2e38, 3e38, 3.2e38), { clusters: 2, tolerance: 0 })
    expect(abs(huge.error / sqrt(2 * 5e37 ** 2 + 2 * 1e37 ** 2) - 1)).toBeLessThan(1e-5)
    expect(kmeans(Float32Array.of(-3e38, 3e38), { clusters: 1 }).error).toBeCloseTo(3e38 * sqrt(2), -33)
    // A small cluster beside a large sum.
    const x = Float32Array.from([...normal(70_000, 2).map((v) => 1000 + v), 1e-6, 3e-6])
    expect(kmeans(x, { clusters: 2, tolerance: 0 }).centroids.data[0]).toBeCloseTo(2e-6, 11)
  })

  test('bad input is refused by name', () => {
    const x = normal(100, 1)
    const bad = (o: unknown, data: unknown = x) => code(() => kmeans(data as Float32Array, o as KmeansOptions))
    expect(bad({})).toBe('ERR_DTYPE clusters')
    expect(bad({ clusters: 0 })).toBe('ERR_RANGE clusters')
    expect(bad({ clusters: 70_000 })).toBe('ERR_RANGE clusters')
    expect(bad({ clusters: 3 }, Float32Array.of(1, 1, 2, -0, 0))).toBe('no error')
    expect(bad({ clusters: 4 }, Float32Array.of(1, 1, 2, -0, 0))).toBe('ERR_RANGE clusters')
    expect(() => kmeans(Float32Array.of(1, 1), { clusters: 2 })).toThrow('at most 1, the number of distinct values in x, got 2')
    expect(bad({ clusters: 2 }, new Float32Array(0))).toBe('ERR_SHAPE x')
    expect(bad({ clusters: 2 }, Float32Array.of(1, NaN, 2))).toBe('ERR_RANGE x[1]')
    expect(bad({ clusters: 2 }, normal(9000, 1).fill(Infinity, 8000, 8001))).toBe('ERR_RANGE x[8000]')
    expect(bad({ clusters: 2 }, new Float64Array(4))).toBe('ERR_DTYPE x')
    expect(bad({ clusters: 2, init: 'best' })).toBe('ERR_RANGE init')
    expect(bad({ clusters: 2, init: Float32Array.of(1, 2, 3) })).toBe('ERR_SHAPE init')
    expect(bad({ clusters: 2, init: Float32Array.of(1, NaN) })).toBe('ERR_RANGE init[1]')
    expect(bad({ clusters: 2, seed: -1 })).toBe('ERR_RANGE seed')
    expect(bad({ clusters: 2, starts: 0 })).toBe('ERR_RANGE starts')
    expect(bad({ clusters: 2, iterations: 0 })).toBe('ERR_RANGE iterations')
    expect(bad({ clusters: 2, tolerance: NaN })).toBe('ERR_RANGE tolerance')
    expect(bad({ clusters: 2, out: new Uint16Array(100) })).toBe('ERR_DTYPE out')
    expect(bad({ clusters: 2, out: new Uint8Array(99) })).toBe('ERR_SHAPE out')
    expect(bad({ clusters: 2, k: 1 })).toBe('ERR_RANGE options.k')
  })
})

describe('encode, decode, gradient', () => {
  const centroids = Float32Array.of(-1, -0.25, 0, 0.5, 2)

  test('encode finds the nearest, of equals the lower, also into given memory', () => {
    const x = Float32Array.from([...normal(777, 2), -0.625, 0.25, 1.25, -9, 9])
    const out = new Uint8Array(x.length)
    const r = codebookEncode(x, centroids, { out })
    expect(r.indices.data).toBe(out)
    expect(Array.from(out)).toEqual(Array.from(x, (v) => oracle.nearest(v, centroids)))
    expect(abs(r.error / oracle.distance(x, centroids, out) - 1)).toBeLessThan(1e-6)
    expect(codebookEncode(new Float32Array(0), centroids)).toMatchObject({ error: 0, indices: { dims: [0] } })
  })

  test('a table of 65536 centroids takes 16-bit indices', () => {
    const table = Float32Array.from({ length: 65536 }, (_, i) => i - 30_000)
    const x = Float32Array.from([-30_000, -29_999.5, -29_999.25, 35_535, 0.4])
    const { indices } = codebookEncode(x, table)
    expect(indices.type).toBe('uint16')
    expect(Array.from(indices.data)).toEqual([0, 0, 1, 65535, 30_000])
    expect(Array.from(codebookDecode(indices, table).data)).toEqual([-30_000, -30_000, -29_999, 35_535, 0])
  })

  test('the gradient of a shared weight is the sum over its members', () => {
    const grad = normal(5000, 3)
    for (const clusters of [5, 300, 40_000]) {
      const next = generator(clusters)
      const at = Array.from(grad, () => Math.floor(next() * clusters))
      const indices = clusters > 256 ? Uint16Array.from(at) : Uint8Array.from(at)
      const want = new Float64Array(clusters)
      for (let i = 0; i < at.length; i++) want[at[i] as number]! += grad[i] as number
      const got = codebookGradient(grad, indices, clusters)
      expect(got.dims).toEqual([clusters])
      const off = Array.from(got.data).filter((g, c) => !(abs(g - (want[c] as number)) <= 2 ** -23 * abs(want[c] as number) + 1e-12))
      expect(off).toEqual([])
    }
  })

  test('the asynchronous twins answer the same', async () => {
    const x = normal(3000, 7)
    const a = kmeans(x, { clusters: 9 })
    expect(await kmeansAsync(x, { clusters: 9 })).toEqual(a)
    expect(await codebookEncodeAsync(x, a.centroids)).toEqual(codebookEncode(x, a.centroids))
    expect(await codebookDecodeAsync(a.indices, a.centroids)).toEqual(codebookDecode(a.indices, a.centroids))
    expect(await codebookGradientAsync(x, a.indices, 9)).toEqual(codebookGradient(x, a.indices, 9))
    await expect(kmeansAsync(x, { clusters: 0 })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'clusters' })
  })

  test('bad input is refused by name', () => {
    const x = normal(10, 1)
    expect(code(() => codebookEncode(x, Float32Array.of(1, 1)))).toBe('ERR_RANGE centroids[1]')
    expect(code(() => codebookEncode(x, new Float32Array(0)))).toBe('ERR_SHAPE centroids')
    expect(code(() => codebookEncode(Float32Array.of(0, NaN), centroids))).toBe('ERR_RANGE x[1]')
    expect(code(() => codebookEncode(Float32Array.of(-Infinity), centroids))).toBe('ERR_RANGE x[0]')
    expect(code(() => codebookDecode(Uint8Array.of(0, 5, 1), centroids))).toBe('ERR_RANGE indices[1]')
    expect(code(() => codebookDecode(Uint8Array.of(0), new Float32Array(0)))).toBe('ERR_SHAPE centroids')
    expect(code(() => codebookDecode(Int32Array.of(0) as unknown as Uint8Array, centroids))).toBe('ERR_DTYPE indices')
    expect(code(() => codebookGradient(x, new Uint8Array(9), 2))).toBe('ERR_SHAPE grad')
    expect(code(() => codebookGradient(x, new Uint8Array(10).fill(2), 2))).toBe('ERR_RANGE indices[0]')
    expect(code(() => codebookGradient(Float32Array.of(1, NaN), Uint8Array.of(0, 1), 2))).toBe('ERR_RANGE grad[1]')
    expect(code(() => codebookGradient(Float32Array.of(3e38, 3e38), Uint8Array.of(1, 1), 2))).toBe('ERR_RANGE grad')
    expect(code(() => codebookGradient(x, new Uint8Array(10), 0))).toBe('ERR_RANGE clusters')
  })
})
