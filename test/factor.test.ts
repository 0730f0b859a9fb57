import {
  cp,
  cpAsync,
  nmf,
  nmfAsync,
  separable,
  separableAsync,
  tucker,
  tuckerAsync,
  vbmfRank,
  WhittleError,
  type CpOptions,
  type NmfOptions,
  type SeparableOptions,
  type Tensor,
  type TuckerOptions,
} from '../lib/index'
import { fixtures, type FixtureCase } from './oracle/fixtures'
import * as oracle from './oracle/factor'

const { abs, imul, log, cos, sqrt, PI } = Math
type Float = Tensor<Float32Array>
const float = (dims: number[], data: ArrayLike<number>): Float => ({ type: 'float32', dims, data: Float32Array.from(data) })
const input = (c: FixtureCase, role: string): Float => float(c.tensor(role).dims, c.tensor(role).data)
const size = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

function generator(seed: number): () => number {
  return () => {
    seed = (imul(seed, 1664525) + 1013904223) >>> 0
    return (seed + 0.5) / 2 ** 32
  }
}
function normal(n: number, seed: number): number[] {
  const next = generator(seed)
  return Array.from({ length: n }, () => sqrt(-2 * log(next())) * cos(2 * PI * next()))
}
const positive = (n: number, seed: number) => normal(n, seed).map(abs)

function code(run: () => unknown): string {
  try {
    run()
  } catch (e) {
    expect(e).toBeInstanceOf(WhittleError)
    return `${(e as WhittleError).code} ${(e as WhittleError).parameter}`
  }
  return 'no error'
}

function orthonormal(u: Float): number {
  const [rows, cols] = u.dims as [number, number]
  const g = oracle.product(oracle.transpose(u.data, rows, cols), u.data, cols, rows, cols)
  return Math.max(...g.map((v, i) => abs(v - (i % (cols + 1) === 0 ? 1 : 0))))
}

describe('nmf', () => {
  test.each(fixtures('svd', /^nmf_/).map((c) => [c.name, c] as const))('%s is within the bounds of other software', (_, c) => {
    const a = input(c, 'a')
    const [floor, worst] = [c.tensor('svdError').data[0] as number, c.tensor('worst').data[0] as number]
    for (const method of ['hals', 'multiplicative'] as const)
      for (const o of [{}, { iterations: 2000, tolerance: 0 }, { seed: 7 }]) {
        const r = nmf(a, { rank: c.parameters.rank, method, ...o })
        const [m, n] = a.dims as [number, number]
        const want = oracle.distance(a.data, oracle.product(r.w.data, r.h.data, m, c.parameters.rank, n))
        expect(abs(r.error - want)).toBeLessThan(1e-5 * want)
        expect(r.error).toBeGreaterThan(floor * 0.999)
        expect(r.error).toBeLessThan(worst * 1.05)
        expect(r.relativeError).toBeCloseTo(want / oracle.norm(a.data), 6)
        expect(Math.min(...r.w.data, ...r.h.data)).toBeGreaterThanOrEqual(0)
      }
  })

  test.each(['multiplicative', 'hals'] as const)('%s makes the steps of its definition', (method) => {
    for (const [m, n, rank] of [[7, 5, 3], [33, 50, 6], [40, 17, 17], [1, 9, 1], [70, 600, 5]] as const) {
      const a = float([m, n], positive(m * n, m + n))
      const [w, h] = [positive(m * rank, 1), positive(rank * n, 2)]
      const r = nmf(a, { rank, method, iterations: 4, tolerance: 0, init: { w: float([m, rank], w), h: Float32Array.from(h) } })
      const [wo, ho] = [Array.from(Float32Array.from(w)), Array.from(Float32Array.from(h))]
      for (let t = 0; t < 4; t++) oracle[method](a.data, wo, ho, m, n, rank)
      expect(r).toMatchObject({ iterations: 4, converged: false, w: { dims: [m, rank] }, h: { dims: [rank, n] } })
      expect(oracle.distance(r.w.data, wo)).toBeLessThan(2e-4 * oracle.norm(wo))
      expect(oracle.distance(r.h.data, ho)).toBeLessThan(2e-4 * oracle.norm(ho))
    }
  })

  test.each(['multiplicative', 'hals'] as const)('the error of %s never rises', (method) => {
    const a = float([60, 45], positive(60 * 45, 3))
    let last = Infinity
    for (const iterations of [0, 1, 2, 3, 5, 8, 13, 30, 60, 120, 300]) {
      const { error } = nmf(a, { rank: 8, method, iterations, tolerance: 0 })
      expect(error).toBeLessThanOrEqual(last * (1 + 1e-6))
      last = error
    }
  })

  test('an exact factorization is found, converged is honest, and a seed decides', () => {
    const a = float([30, 20], oracle.product(positive(90, 1), positive(60, 2), 30, 3, 20))
    const r = nmf(a, { rank: 3, iterations: 5000, tolerance: 1e-7 })
    expect(r.converged).toBe(true)
    expect(r.relativeError).toBeLessThan(1e-3)
    expect(r.iterations % 10).toBe(0)
    expect(nmf(a, { rank: 3, iterations: 15 })).toMatchObject({ iterations: 15, converged: false })
    expect(nmf(a, { rank: 3, iterations: 5000, tolerance: 1e-7, threads: 1 })).toEqual(r)
    expect(nmf(a, { rank: 3, seed: 1 }).w.data).not.toEqual(nmf(a, { rank: 3, seed: 2 }).w.data)
  })

  test('zeros, and matrices at the ends of float32', () => {
    expect(nmf(float([4, 6], new Float32Array(24)), { rank: 2 })).toMatchObject({ error: 0, relativeError: 0, iterations: 0, converged: true })
    const base = positive(24, 5)
    const plain = nmf(float([4, 6], base), { rank: 2 })
    for (const scale of [2 ** 120, 2 ** -120, 2 ** 41]) {
      const r = nmf(float([4, 6], base.map((v) => v * scale)), { rank: 2 })
      expect(r.relativeError).toBeCloseTo(plain.relativeError, 3)
      expect(abs(r.error / scale / plain.error - 1)).toBeLessThan(1e-2)
    }
    const holes = nmf(float([4, 6], base.map((v, i) => (i % 6 === 2 || i < 6 ? 0 : v))), { rank: 2, method: 'multiplicative' })
    expect(Number.isFinite(holes.error)).toBe(true)
  })

  test('bad input is refused by name', () => {
    const a = float([4, 6], positive(24, 1))
    const bad = (o: unknown, x: unknown = a) => code(() => nmf(x as Float, o as NmfOptions))
    expect(bad({ rank: 0 })).toBe('ERR_RANGE rank')
    expect(bad({ rank: 5 })).toBe('ERR_RANGE rank')
    expect(bad({})).toBe('ERR_DTYPE rank')
    expect(bad({ rank: 2 }, float([2, 2], [1, 2, -3, 4]))).toBe('ERR_RANGE a[2]')
    expect(bad({ rank: 2 }, float([2, 2], [1, NaN, 3, 4]))).toBe('ERR_RANGE a[1]')
    expect(bad({ rank: 2 }, float([2, 2], [1, 0, 3, Infinity]))).toBe('ERR_RANGE a[3]')
    expect(bad({ rank: 1 }, float([0, 2], []))).toBe('ERR_SHAPE a')
    expect(bad({ rank: 1 }, float([4], [1, 2, 3, 4]))).toBe('ERR_SHAPE a')
    expect(bad({ rank: 1 }, float([2, 2, 1], [1, 2, 3, 4]))).toBe('ERR_SHAPE a')
    expect(bad({ rank: 1, method: 'als' })).toBe('ERR_RANGE method')
    expect(bad({ rank: 1, tolerance: -1 })).toBe('ERR_RANGE tolerance')
    expect(bad({ rank: 1, init: { w: new Float32Array(4), h: new Float32Array(5) } })).toBe('ERR_SHAPE init.h')
    expect(bad({ rank: 1, init: { w: new Float32Array(4).fill(-1), h: new Float32Array(6) } })).toBe('ERR_RANGE init.w[0]')
    expect(bad({ rank: 1, init: {} })).toBe('ERR_DTYPE init.w')
  })
})

describe('cp', () => {
  const planted = (dims: number[], rank: number, seed: number) => {
    const factors = dims.map((d, k) => normal(d * rank, seed + k))
    return { factors, x: float(dims, oracle.cpTensor(dims, factors, new Array<number>(rank).fill(1))) }
  }

  test.each([[[6, 5]], [[6, 5, 4]], [[3, 9, 4]], [[4, 3, 8]], [[9, 6, 3, 3]], [[2, 3, 4, 3, 2]], [[1, 7, 1, 5]]])('dims %j: what was planted comes back', (dims) => {
    const rank = Math.min(3, size(dims) / Math.max(...dims))
    const { x } = planted(dims, rank, 11)
    for (const init of ['hosvd', 'random'] as const) {
      const r = cp(x, { rank, init, regularization: 0, tolerance: 1e-9, iterations: 3000 })
      expect(r.relativeError).toBeLessThan(1e-4)
      expect(r.factors.map((f) => f.dims)).toEqual(dims.map((d) => [d, rank]))
      const again = oracle.cpTensor(dims, r.factors.map((f) => f.data), r.weights.data)
      expect(abs(oracle.distance(x.data, again) - r.error)).toBeLessThan(2e-7 * oracle.norm(x.data) * (1 + r.amplification))
      r.factors.forEach((f, k) => {
        for (let c = 0; c < rank; c++)
          expect(abs(oracle.norm(Array.from({ length: dims[k] as number }, (_, i) => f.data[i * rank + c] as number)) - 1)).toBeLessThan(1e-6)
      })
      r.weights.data.forEach((v, i) => expect(v >= 0 && v <= (i ? (r.weights.data[i - 1] as number) : Infinity)).toBe(true))
      expect(r.amplification).toBeCloseTo(oracle.norm(r.weights.data) / oracle.norm(x.data), 4)
    }
  })

  test('for a matrix the error is that of the best of its rank', () => {
    const x = float([12, 9], normal(108, 4))
    const s = oracle.spectrum(x.data, [12, 9], 1)
    const best = sqrt(s.slice(4).reduce((a, b) => a + b, 0))
    const { error } = cp(x, { rank: 4, tolerance: 1e-10, iterations: 5000 })
    expect(error).toBeGreaterThan(best * (1 - 1e-6))
    expect(error).toBeLessThan(best * 1.001)
  })

  test('noise leaves a residual that falls with the sweeps and with the rank', () => {
    const { x } = planted([8, 7, 6], 4, 3)
    const noisy = float([8, 7, 6], normal(336, 9).map((v, i) => v * 0.1 + (x.data[i] as number)))
    let last = Infinity
    for (const iterations of [1, 2, 4, 8, 16, 64]) {
      const { error } = cp(noisy, { rank: 3, iterations, tolerance: 0 })
      expect(error).toBeLessThanOrEqual(last * (1 + 1e-6))
      last = error
    }
    expect(cp(noisy, { rank: 4 }).error).toBeLessThan(last)
    expect(cp(noisy, { rank: 4, iterations: 1 })).toMatchObject({ iterations: 1, converged: false })
  })

  test('a tensor without a best approximation is told, and regularization bounds the weights', () => {
    // a∘a∘b + a∘b∘a + b∘a∘a has rank 3, but tensors of rank 2 come as near as one likes, with weights without bound.
    const data = Array.from({ length: 8 }, (_, i) => (i === 1 || i === 2 || i === 4 ? 1 : 0))
    const x = float([2, 2, 2], data)
    const free = cp(x, { rank: 2, init: 'random', regularization: 0, tolerance: 0, iterations: 3000 })
    expect(free.degenerate).toBe(true)
    expect(free.congruence).toBeLessThan(-0.9)
    expect(free.relativeError).toBeLessThan(0.1)
    const bound = cp(x, { rank: 2, init: 'random', regularization: 0.01, tolerance: 0, iterations: 3000 })
    expect(bound.amplification).toBeLessThanOrEqual(10)
    expect(bound.amplification).toBeLessThan(free.amplification / 2)
    expect(cp(x, { rank: 3, init: 'random', tolerance: 1e-10, iterations: 5000 }).relativeError).toBeLessThan(0.05)
  })

  test('a given start leads on from there; seeds and threads', () => {
    const dims = [7, 5, 6]
    const { x, factors } = planted(dims, 2, 5)
    const init = factors.map((f, k) => float([dims[k] as number, 2], f))
    expect(cp(x, { rank: 2, init, regularization: 0, iterations: 2 }).relativeError).toBeLessThan(1e-6)
    const o: CpOptions = { rank: 3, init: 'random', iterations: 5 }
    expect(cp(x, { ...o, threads: 1 })).toEqual(cp(x, o))
    expect(cp(x, { ...o, seed: 4 }).weights.data).not.toEqual(cp(x, o).weights.data)
    expect(cp(float(dims, new Float32Array(210)), { rank: 2 })).toMatchObject({ error: 0, relativeError: 0, converged: true, amplification: 0 })
  })

  test('bad input is refused by name', () => {
    const x = float([3, 4, 2], normal(24, 1))
    const bad = (o: unknown, t: unknown = x) => code(() => cp(t as Float, o as CpOptions))
    expect(bad({ rank: 0 })).toBe('ERR_RANGE rank')
    expect(bad({ rank: 7 })).toBe('ERR_RANGE rank')
    expect(bad({ rank: 6, iterations: 1 })).toBe('no error')
    expect(bad({ rank: 1 }, float([4], [1, 2, 3, 4]))).toBe('ERR_SHAPE tensor')
    expect(bad({ rank: 1 }, float([4, 0], []))).toBe('ERR_SHAPE tensor')
    expect(bad({ rank: 1 }, float([2, 2], [1, 2, NaN, 4]))).toBe('ERR_RANGE tensor[2]')
    expect(bad({ rank: 1, init: 'svd' })).toBe('ERR_RANGE init')
    expect(bad({ rank: 1, init: [new Float32Array(3)] })).toBe('ERR_SHAPE init')
    expect(bad({ rank: 1, init: [new Float32Array(3), new Float32Array(5), new Float32Array(2)] })).toBe('ERR_SHAPE init[1]')
    expect(bad({ rank: 1, regularization: -1 })).toBe('ERR_RANGE regularization')
    expect(bad({ rank: 1, iterations: 0 })).toBe('ERR_RANGE iterations')
  })
})

describe('tucker', () => {
  test.each(fixtures('svd', /^tucker2_/).map((c) => [c.name, c] as const))('%s agrees with other software', (_, c) => {
    const k = input(c, 'kernel')
    const hosvd = tucker(k, { modes: [0, 1], ranks: c.parameters.ranks, method: 'hosvd' })
    c.check('hosvdError', [hosvd.error])
    expect(hosvd).toMatchObject({ iterations: 0, converged: true })
    const hooi = tucker(k, { modes: [0, 1], ranks: c.parameters.ranks })
    expect(hooi.error).toBeLessThan((c.tensor('hooiError').data[0] as number) * 1.001)
    expect(hooi.converged).toBe(true)
  })

  const rebuilt = (r: ReturnType<typeof tucker>, dims: readonly number[]) => {
    let x: ArrayLike<number> = r.core.data
    const now = [...r.core.dims]
    r.modes.forEach((mode, i) => {
      x = oracle.modeProduct(x, now, mode, (r.factors[i] as Float).data as unknown as number[], dims[mode] as number)
      now[mode] = dims[mode] as number
    })
    return x
  }

  test.each([
    [[8, 6, 3, 3], [0, 1], [3, 2]],
    [[8, 6, 3, 3], [0, 1, 2, 3], [3, 2, 2, 1]],
    [[5, 9, 4], [1], [4]],
    [[5, 9, 4], [0, 2], [5, 4]],
    [[20, 2, 3], [0, 1], [9, 2]],
    [[7, 4], [0, 1], [2, 2]],
    [[3, 1, 6, 2], [1, 2, 3], [1, 3, 2]],
  ])('dims %j modes %j ranks %j: orthonormal factors, an honest error, HOOI below HOSVD', (dims, modes, ranks) => {
    const x = float(dims, normal(size(dims), 17))
    const first = tucker(x, { modes, ranks, method: 'hosvd' })
    const best = tucker(x, { modes, ranks, tolerance: 0, iterations: 100 })
    for (const r of [first, best]) {
      expect(r.core.dims).toEqual(dims.map((d, k) => (modes.includes(k) ? ranks[modes.indexOf(k)] : d)))
      r.factors.forEach((u) => expect(orthonormal(u as Float)).toBeLessThan(1e-5))
      expect(abs(oracle.distance(x.data, rebuilt(r, dims)) - r.error)).toBeLessThan(1e-5 * oracle.norm(x.data))
    }
    expect(best.error).toBeLessThanOrEqual(first.error + 1e-6 * oracle.norm(x.data))
    // HOSVD's squared error is at most the sum of what each mode leaves out.
    const left = modes.reduce((sum, m, i) => sum + oracle.spectrum(x.data, dims, m).slice(ranks[i]).reduce((a, b) => a + b, 0), 0)
    expect(first.error).toBeLessThanOrEqual(sqrt(left) * (1 + 1e-5) + 1e-5)
  })

  test('energy keeps the smallest ranks that hold their share of each unfolding', () => {
    const dims = [9, 7, 3, 3]
    const x = float(dims, normal(size(dims), 6).map((v, i) => v / (1 + (i % 9) + ((i / 63) | 0))))
    for (const energy of [0.3, 0.8, 0.95, 1]) {
      const r = tucker(x, { modes: [0, 1, 3], energy })
      const want = [0, 1, 3].map((m) => {
        const s = oracle.spectrum(x.data, dims, m)
        const total = s.reduce((a, b) => a + b, 0)
        let sum = 0
        return s.findIndex((v) => (sum += v) >= energy * total * (1 - 1e-12)) + 1
      })
      expect(r.ranks).toEqual(want)
      expect(r.core.data.length).toBe(size(r.core.dims))
    }
  })

  test('vbmf finds planted ranks under noise', () => {
    const dims = [40, 30, 3, 3]
    const [u, v] = [normal(40 * 5, 1), normal(30 * 4, 2)]
    const core = oracle.modeProduct(oracle.modeProduct(normal(5 * 4 * 9, 3), [5, 4, 3, 3], 0, u, 40), [40, 4, 3, 3], 1, v, 30)
    const x = float(dims, normal(size(dims), 4).map((e, i) => (core[i] as number) + 0.5 * e))
    expect(tucker(x, { modes: [0, 1], ranks: 'vbmf' }).ranks).toEqual([5, 4])
    expect(tucker(float(dims, normal(size(dims), 4)), { modes: [0, 1], ranks: 'vbmf' }).ranks).toEqual([1, 1])
  })

  test('bad input is refused by name', () => {
    const x = float([3, 4, 2], normal(24, 1))
    const bad = (o: unknown, t: unknown = x) => code(() => tucker(t as Float, o as TuckerOptions))
    expect(bad({})).toBe('ERR_RANGE ranks')
    expect(bad({ ranks: [1, 1, 1], energy: 0.5 })).toBe('ERR_RANGE ranks')
    expect(bad({ ranks: [1, 1] })).toBe('ERR_SHAPE ranks')
    expect(bad({ ranks: [1, 5, 1] })).toBe('ERR_RANGE ranks[1]')
    expect(bad({ ranks: [0, 1, 1] })).toBe('ERR_RANGE ranks[0]')
    expect(bad({ ranks: 'auto' })).toBe('ERR_DTYPE ranks')
    expect(bad({ energy: 0 })).toBe('ERR_RANGE energy')
    expect(bad({ energy: 1.1 })).toBe('ERR_RANGE energy')
    expect(bad({ energy: 0.5, modes: [] })).toBe('ERR_SHAPE modes')
    expect(bad({ energy: 0.5, modes: [1, 0] })).toBe('ERR_RANGE modes[1]')
    expect(bad({ energy: 0.5, modes: [3] })).toBe('ERR_RANGE modes[0]')
    expect(bad({ energy: 0.5, method: 'als' })).toBe('ERR_RANGE method')
    expect(bad({ energy: 0.5 }, float([2, 2], [1, NaN, 3, 4]))).toBe('ERR_RANGE tensor[1]')
    expect(() => tucker(float([2, 2], [3e38, 3e38, 3e38, 3e38]), { ranks: [1, 1] })).toThrow('beyond the range of float32')
    expect(bad({ energy: 0.5 }, float([4], [1, 2, 3, 4]))).toBe('ERR_SHAPE tensor')
    expect(tucker(float([3, 4, 2], new Float32Array(24)), { ranks: [2, 2, 2] })).toMatchObject({ error: 0, relativeError: 0, converged: true })
  })
})

describe('vbmfRank', () => {
  test('planted ranks come out of noise of any strength, whichever way the matrix lies', () => {
    for (const [rows, cols, rank, noise] of [[60, 90, 7, 1], [90, 60, 7, 1], [30, 30, 2, 1e-3], [20, 200, 0, 5]] as const) {
      const a = normal(rows * cols, rows).map((v) => v * noise)
      const low = oracle.product(normal(rows * rank, 2), normal(rank * cols, 3), rows, rank, cols)
      const x = a.map((v, i) => v + 10 * noise * (low[i] as number))
      const s = oracle.spectrum(x, [rows, cols], rows <= cols ? 0 : 1).map(sqrt)
      const r = vbmfRank(s, [rows, cols])
      expect(r.rank).toBe(rank)
      expect(abs(r.noise / noise - 1)).toBeLessThan(0.1)
    }
    expect(vbmfRank([0, 0], [2, 5])).toEqual({ rank: 0, noise: 0 })
    expect(vbmfRank(Float32Array.of(3, 1, 0, 0), [4, 60]).rank).toBe(2)
    expect(vbmfRank([1e200, 1e-200, 0, 0], [4, 60]).rank).toBe(1)
  })

  test('bad input is refused by name', () => {
    expect(code(() => vbmfRank([1, 2], [2, 2]))).toBe('ERR_RANGE singularValues[1]')
    expect(code(() => vbmfRank([1, -1], [2, 2]))).toBe('ERR_RANGE singularValues[1]')
    expect(code(() => vbmfRank([NaN, 0], [2, 2]))).toBe('ERR_RANGE singularValues[0]')
    expect(code(() => vbmfRank([1], [2, 2]))).toBe('ERR_SHAPE singularValues')
    expect(code(() => vbmfRank([1], [1, 0]))).toBe('ERR_RANGE dims[1]')
    expect(code(() => vbmfRank(5 as unknown as number[], [1, 1]))).toBe('ERR_DTYPE singularValues')
  })
})

describe('separable', () => {
  const dims = [5, 4, 3, 2]
  const k = float(dims, normal(size(dims), 2))
  // (in · height) × (out · width)
  const flat = (x: Float) => {
    const [o, i, h, w] = x.dims as [number, number, number, number]
    return Array.from({ length: o * i * h * w }, (_, at) => x.data[((((at / w) | 0) % o) * i * h + ((at / (o * w)) | 0)) * w + (at % w)] as number)
  }

  test('two convolutions do the work of one; the error is the best of the rank', () => {
    const s = oracle.spectrum(flat(k), [12, 10], 0)
    const image = normal(4 * 6 * 7, 3)
    for (const rank of [1, 3, 10]) {
      const r = separable(k, { rank })
      expect(r).toMatchObject({ rank, vertical: { dims: [rank, 4, 3, 1] }, horizontal: { dims: [5, rank, 1, 2] } })
      const best = sqrt(s.slice(rank, 10).reduce((a, b) => a + b, 0))
      expect(abs(r.error - best)).toBeLessThan(1e-5 * oracle.norm(k.data))
      const once = oracle.convolve(image, [4, 6, 7], k.data, dims)
      const half = oracle.convolve(image, [4, 6, 7], r.vertical.data, r.vertical.dims)
      const twice = oracle.convolve(half, [rank, 4, 7], r.horizontal.data, r.horizontal.dims)
      if (rank === 10) expect(oracle.distance(once, twice)).toBeLessThan(1e-5 * oracle.norm(once))
      else expect(oracle.distance(once, twice)).toBeLessThan(r.error * oracle.norm(image) * 6)
    }
    const total = s.reduce((a, b) => a + b, 0)
    let sum = 0
    expect(separable(k, { energy: 0.7 }).rank).toBe(s.findIndex((v) => (sum += v) >= 0.7 * total) + 1)
  })

  test('wide and tall kernels, and what vbmf finds', () => {
    for (const shape of [[2, 9, 5, 1], [9, 1, 1, 4], [1, 1, 3, 3]]) {
      const x = float(shape, normal(size(shape), 8))
      const most = Math.min((shape[1] as number) * (shape[2] as number), (shape[0] as number) * (shape[3] as number))
      expect(separable(x, { rank: most }).relativeError).toBeLessThan(1e-6)
    }
    const exact = float([20, 15, 3, 3], normal(2700, 5).map((v, i) => 0.01 * v + Math.sin(((i / 9) | 0) % 15) * (((i / 3) | 0) % 3) * ((i % 3) - 1.3) * (1 + ((i / 135) | 0))))
    expect(separable(exact, { rank: 'vbmf' }).rank).toBe(1)
  })

  test('filters by themselves', () => {
    const c = float([6, 1, 5, 3], normal(90, 4))
    for (const rank of [1, 2, 3]) {
      const r = separable(c, { rank, scheme: 'channel' })
      expect(r).toMatchObject({ vertical: { dims: [6 * rank, 1, 5, 1] }, horizontal: { dims: [6, rank, 1, 3] } })
      let squares = 0
      for (let f = 0; f < 6; f++) {
        const s = oracle.spectrum(c.data.subarray(f * 15, f * 15 + 15), [5, 3], 1)
        squares += s.slice(rank).reduce((a, b) => a + b, 0)
        const again = oracle.product(
          oracle.transpose(r.vertical.data.subarray(f * rank * 5, (f + 1) * rank * 5), rank, 5),
          r.horizontal.data.subarray(f * rank * 3, (f + 1) * rank * 3), 5, rank, 3) // prettier-ignore
        expect(abs(oracle.distance(c.data.subarray(f * 15, f * 15 + 15), again) ** 2 - s.slice(rank).reduce((a, b) => a + b, 0))).toBeLessThan(1e-5)
      }
      expect(abs(r.error ** 2 - squares)).toBeLessThan(1e-5)
    }
    expect(separable(c, { energy: 1e-9, scheme: 'channel' }).rank).toBe(1)
    expect(separable(c, { energy: 1, scheme: 'channel' }).rank).toBe(3)
  })

  test('bad input is refused by name', () => {
    const bad = (o: unknown, x: unknown = k) => code(() => separable(x as Float, o as SeparableOptions))
    expect(bad({})).toBe('ERR_RANGE rank')
    expect(bad({ rank: 11 })).toBe('ERR_RANGE rank')
    expect(bad({ rank: 3, scheme: 'channel' })).toBe('ERR_RANGE rank')
    expect(bad({ rank: 'vbmf', scheme: 'channel' })).toBe('ERR_RANGE rank')
    expect(bad({ rank: 1, energy: 0.5 })).toBe('ERR_RANGE rank')
    expect(bad({ rank: 1, scheme: 'both' })).toBe('ERR_RANGE scheme')
    expect(bad({ energy: 0 })).toBe('ERR_RANGE energy')
    expect(bad({ rank: 1 }, float([2, 2, 2], normal(8, 1)))).toBe('ERR_SHAPE kernel')
    expect(bad({ rank: 1 }, float([2, 2, 0, 2], []))).toBe('ERR_SHAPE kernel')
    expect(bad({ rank: 1 }, float([1, 1, 2, 2], [1, 2, 3, -Infinity]))).toBe('ERR_RANGE kernel[3]')
    expect(separable(float(dims, new Float32Array(120)), { rank: 2 })).toMatchObject({ error: 0, relativeError: 0 })
  })
})

test('the asynchronous twins answer the same', async () => {
  const k = float([6, 5, 3, 3], positive(270, 1))
  const a = float([18, 15], k.data)
  expect(await nmfAsync(a, { rank: 3 })).toEqual(nmf(a, { rank: 3 }))
  expect(await cpAsync(k, { rank: 3 })).toEqual(cp(k, { rank: 3 }))
  expect(await tuckerAsync(k, { energy: 0.9 })).toEqual(tucker(k, { energy: 0.9 }))
  expect(await separableAsync(k, { rank: 2 })).toEqual(separable(k, { rank: 2 }))
  await expect(cpAsync(k, { rank: 0 })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'rank' })
})
