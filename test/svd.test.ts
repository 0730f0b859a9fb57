import { devices, setThreads, svd, svdAsync, WhittleError, type Svd, type Tensor } from '../lib/index'
import * as oracle from './oracle/svd'
import { fixtures } from './oracle/fixtures'

let state = 1
const uniform = (): number => (state = (state * 48271) % 2147483647) / 2147483647
const normal = (): number => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
beforeEach(() => {
  state = 4711
})

type Data = Float32Array | Float64Array
const f32 = (dims: number[], data: ArrayLike<number>): Tensor<Float32Array> => ({ type: 'float32', dims, data: Float32Array.from(data) })
const f64 = (dims: number[], data: ArrayLike<number>): Tensor<Float64Array> => ({ type: 'float64', dims, data: Float64Array.from(data) })
const random = (rows: number, cols: number): number[] => Array.from({ length: rows * cols }, normal)

/** A matrix with these singular values and random vectors. */
function withSpectrum(m: number, n: number, values: readonly number[]): number[] {
  const q = (rows: number): oracle.Matrix => {
    const columns: number[][] = []
    while (columns.length < values.length) {
      const x = Array.from({ length: rows }, normal)
      for (let pass = 0; pass < 2; pass++)
        for (const c of columns) {
          const d = x.reduce((s, v, i) => s + v * (c[i] as number), 0)
          for (let i = 0; i < rows; i++) (x[i] as number) -= d * (c[i] as number)
        }
      const size = Math.hypot(...x)
      columns.push(x.map((v) => v / size))
    }
    return oracle.transpose(columns)
  }
  const u = q(m).map((row) => row.map((x, i) => x * (values[i] as number)))
  return oracle.multiply(u, oracle.transpose(q(n))).flat()
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

/** Everything that must hold of a full decomposition; `unit` is the precision of the type. */
function verify(a: Tensor<Data>, r: Svd, unit: number): void {
  const [m, n] = a.dims as [number, number]
  const A = oracle.matrix(a.data, m, n)
  const values = oracle.singularValues(A)
  const top = values[0] as number
  expect(r.u.dims).toStrictEqual([m, r.rank])
  expect(r.v.dims).toStrictEqual([n, r.rank])
  expect(r.converged).toBe(true)
  const [u, v] = [oracle.matrix(r.u.data, m, r.rank), oracle.matrix(r.v.data, n, r.rank)]
  expect(oracle.orthogonality(u)).toBeLessThanOrEqual(30 * unit)
  expect(oracle.orthogonality(v)).toBeLessThanOrEqual(30 * unit)
  r.s.data.forEach((s, i) => {
    expect(s).toBeGreaterThanOrEqual(0)
    if (i) expect(s).toBeLessThanOrEqual(r.s.data[i - 1] as number)
    expect(Math.abs(s - (values[i] as number))).toBeLessThanOrEqual(8 * unit * top)
  })
  const best = oracle.bestErrors(values)[r.rank] as number
  expect(Math.abs(r.error - best)).toBeLessThanOrEqual(1e-4 * best + 20 * unit * top)
  expect(oracle.residual(A, u, [...r.s.data], v)).toBeLessThanOrEqual(1.0001 * best + 20 * unit * top * Math.sqrt(r.rank))
  for (let k = 0; k < r.rank; k++) {
    const column = u.map((row) => row[k] as number)
    const largest = Math.max(...column.map(Math.abs))
    expect(column.find((x) => Math.abs(x) === largest)).toBeGreaterThan(0)
  }
}

const kHard: [string, number, number, (i: number) => number][] = [
  ['cond 1e6', 40, 40, (i) => 10 ** ((-6 * i) / 39)],
  ['cond 1e12', 30, 50, (i) => 10 ** ((-12 * i) / 29)],
  ['a power law', 70, 45, (i) => (i + 1) ** -0.5],
  ['a steep power law', 45, 70, (i) => (i + 1) ** -3],
  ['rank 5 of 24', 30, 24, (i) => (i < 5 ? 5 - i : 0)],
  ['rank 1', 20, 33, (i) => (i < 1 ? 2 : 0)],
  ['equal values', 25, 25, () => 3],
  ['two clusters', 25, 31, (i) => (i < 10 ? 1 : 1e-3)],
  ['clusters far below', 34, 34, (i) => (i < 10 ? 1 : i < 20 ? 1e-7 : 1e-7 * (1 + 1e-9 * i))],
]

describe('the full decomposition', () => {
  for (const [name, m, n, value] of kHard)
    test(`is right to the precision of the type for ${name}`, () => {
      const data = withSpectrum(m, n, Array.from({ length: Math.min(m, n) }, (_, i) => value(i)))
      const single = f32([m, n], data)
      verify(single, svd(single), 2 ** -23)
      const double = f64([m, n], data)
      verify(double, svd(double), 2 ** -51)
    })

  test('takes any shape', () => {
    for (const [m, n] of [[1, 1], [1, 37], [29, 1], [2, 2], [17, 17], [120, 12], [10, 150], [33, 32], [64, 70], [90, 90]] as const) {
      const data = random(m, n)
      verify(f32([m, n], data), svd(f32([m, n], data), { method: 'full' }), 2 ** -23)
      verify(f64([m, n], data), svd(f64([m, n], data), { method: 'full' }), 2 ** -51)
    }
  })

  test('of a zero matrix has zeros and orthonormal vectors', () => {
    for (const a of [f32([6, 4], new Array<number>(24).fill(0)), f64([5, 9], new Array<number>(45).fill(0))]) {
      const r = svd(a)
      verify(a, r, 2 ** -23)
      expect([...r.s.data].every((x) => x === 0)).toBe(true)
      expect(r.error).toBe(0)
      expect(r.relativeError).toBe(0)
    }
  })

  test('does not care for the scale', () => {
    const data = random(20, 13)
    for (const scale of [2 ** 120, 2 ** -100]) {
      const [one, big] = [svd(f32([20, 13], data)), svd(f32([20, 13], data.map((x) => Math.fround(x) * scale)))]
      big.s.data.forEach((x, i) => expect(x / scale).toBeCloseTo(one.s.data[i] as number, 5))
    }
    for (const scale of [2 ** 900, 2 ** -900]) {
      const [one, big] = [svd(f64([20, 13], data)), svd(f64([20, 13], data.map((x) => x * scale)))]
      expect([...big.s.data].map((x) => x / scale)).toStrictEqual([...one.s.data])
      expect(big.u.data).toStrictEqual(one.u.data)
    }
  })

  test('values alone are those of the whole', () => {
    for (const [m, n] of [[30, 24], [7, 70], [64, 64]] as const) {
      const data = random(m, n)
      for (const a of [f32([m, n], data), f64([m, n], data)]) {
        const [whole, alone] = [svd(a), svd(a, { vectors: false })]
        expect('u' in alone || 'v' in alone).toBe(false)
        const unit = a.type === 'float32' ? 3e-7 : 1e-13
        alone.s.data.forEach((x, i) => expect(Math.abs(x - (whole.s.data[i] as number))).toBeLessThanOrEqual(unit * (whole.s.data[0] as number)))
      }
    }
  })

  test('of a stack is that of each matrix', () => {
    const [m, n] = [9, 6]
    const parts = Array.from({ length: 6 }, () => random(m, n))
    const stack = svd(f32([2, 3, m, n], parts.flat()), { rank: 4 })
    expect(stack.u.dims).toStrictEqual([2, 3, m, 4])
    expect(stack.s.dims).toStrictEqual([2, 3, 4])
    expect(stack.v.dims).toStrictEqual([2, 3, n, 4])
    let error = 0
    parts.forEach((part, i) => {
      const one = svd(f32([m, n], part), { rank: 4 })
      error += one.error ** 2
      expect(stack.u.data.slice(i * m * 4, (i + 1) * m * 4)).toStrictEqual(one.u.data)
      expect(stack.s.data.slice(i * 4, (i + 1) * 4)).toStrictEqual(one.s.data)
      expect(stack.v.data.slice(i * n * 4, (i + 1) * n * 4)).toStrictEqual(one.v.data)
    })
    expect(stack.error).toBeCloseTo(Math.sqrt(error), 10)
  })

  test('of a stack keeps the largest rank that any matrix asks for', () => {
    const parts = [withSpectrum(8, 6, [1, 0, 0, 0, 0, 0]), withSpectrum(8, 6, [3, 2, 1, 0, 0, 0])]
    const r = svd(f32([2, 8, 6], parts.flat()), { tolerance: 1e-4 })
    expect(r.rank).toBe(3)
    expect(r.u.dims).toStrictEqual([2, 8, 3])
    parts.forEach((part, i) => {
      const u = oracle.matrix(r.u.data, 8, 3, i * 24)
      const v = oracle.matrix(r.v.data, 6, 3, i * 18)
      const s = [...r.s.data.slice(i * 3, i * 3 + 3)]
      expect(oracle.residual(oracle.matrix(part, 8, 6), u, s, v)).toBeLessThan(1e-5)
    })
    expect([...r.s.data.slice(1, 3)]).toStrictEqual([0, 0])
  })
})

describe('rank', () => {
  const values = [8, 4, 2, 1, 0.5]
  const total = values.reduce((s, v) => s + v * v, 0)
  const a = (): Tensor<Float32Array> => f32([12, 5], withSpectrum(12, 5, values))

  test('by energy is the smallest that keeps it', () => {
    for (let r = 1; r <= 5; r++) {
      const kept = values.slice(0, r).reduce((s, v) => s + v * v, 0) / total
      expect(svd(a(), { energy: kept - 1e-6 }).rank).toBe(r)
      if (r < 5) expect(svd(a(), { energy: kept + 1e-5 }).rank).toBe(r + 1)
    }
    expect(svd(a(), { energy: 1 }).rank).toBe(5)
  })

  test('by tolerance is the smallest with so small an error', () => {
    const best = oracle.bestErrors(values)
    for (let r = 1; r <= 5; r++) {
      const limit = (best[r] as number) / Math.sqrt(total)
      expect(svd(a(), { tolerance: limit + 1e-5 }).rank).toBe(r)
      if (r < 5) expect(svd(a(), { tolerance: limit - 1e-5 }).rank).toBe(r + 1)
    }
    expect(svd(a(), { tolerance: 1 }).rank).toBe(1)
  })

  test('is capped, and both conditions hold where both are given', () => {
    expect(svd(a(), { energy: 0.999999, rank: 2 }).rank).toBe(2)
    expect(svd(a(), { energy: 0.5, tolerance: 0.1 }).rank).toBe(svd(a(), { tolerance: 0.1 }).rank)
  })

  test('of a deficient matrix is its own where all energy is asked for', () => {
    const data = withSpectrum(30, 24, [3, 2, 1])
    expect(svd(f32([30, 24], data), { energy: 1 }).rank).toBe(3)
    expect(svd(f64([30, 24], data), { tolerance: 1e-13 }).rank).toBe(3)
    expect(svd(f64([3, 3], new Array<number>(9).fill(0)), { energy: 0.9 }).rank).toBe(1)
  })
})

describe('the randomized method', () => {
  const kSpectra: [string, (i: number) => number, number][] = [
    ['i^-1/2', (i) => (i + 1) ** -0.5, 1.01],
    ['i^-1', (i) => 1 / (i + 1), 1.01],
    ['a flat spectrum', (i) => 2 - i / 150, 1.02],
  ]
  for (const [name, value, bound] of kSpectra)
    test(`comes close to the best error for ${name}`, () => {
      const values = Array.from({ length: 120 }, (_, i) => value(i))
      const best = oracle.bestErrors(values)
      const data = withSpectrum(140, 120, values)
      const sideways = oracle.transpose(oracle.matrix(data, 140, 120)).flat()
      for (const a of [f32([140, 120], data), f32([120, 140], sideways), f64([140, 120], data)])
        for (const rank of [1, 5, 11]) {
          const r = svd(a, { rank, method: 'randomized' })
          const [m, n] = a.dims as [number, number]
          expect(r).toMatchObject({ rank, method: 'randomized', converged: true })
          expect(r.iterations).toBeGreaterThanOrEqual(2)
          expect(r.error).toBeLessThanOrEqual(bound * (best[rank] as number))
          expect(r.error).toBeGreaterThanOrEqual((1 - 1e-6) * (best[rank] as number))
          const [u, v] = [oracle.matrix(r.u.data, m, rank), oracle.matrix(r.v.data, n, rank)]
          expect(oracle.residual(oracle.matrix(a.data, m, n), u, [...r.s.data], v)).toBeCloseTo(r.error, 5)
          expect(oracle.orthogonality(u)).toBeLessThanOrEqual(2e-6)
          expect(oracle.orthogonality(v)).toBeLessThanOrEqual(2e-6)
        }
    })

  test('depends on the seed and nothing else', () => {
    const a = f32([200, 180], random(200, 180))
    const run = (seed: number) => svd(a, { rank: 4, method: 'randomized', seed })
    const first = run(1)
    expect(run(1)).toStrictEqual(first)
    expect(run(2).u.data).not.toStrictEqual(first.u.data)
    try {
      setThreads(1)
      expect(run(1)).toStrictEqual(first)
      const full = svd(a)
      setThreads(3)
      expect(svd(a)).toStrictEqual(full)
    } finally {
      setThreads(devices().cpu.availableThreads)
    }
  })

  test('says so where its steps were too few', () => {
    const a = f32([300, 260], random(300, 260))
    const short = svd(a, { rank: 20, method: 'randomized', iterations: 1, oversampling: 4 })
    expect(short).toMatchObject({ converged: false, iterations: 1 })
    expect(short.improvement).toBeGreaterThan(0.02)
    const long = svd(a, { rank: 20, method: 'randomized' })
    expect(long.converged).toBe(true)
    expect(long.error).toBeLessThan(short.error)
  })

  test('finds the rank for an energy or a tolerance', () => {
    const values = Array.from({ length: 190 }, (_, i) => 0.9 ** i)
    const best = oracle.bestErrors(values)
    const a = f32([200, 190], withSpectrum(200, 190, values))
    for (const tolerance of [0.3, 0.03, 0.003]) {
      const want = best.findIndex((e) => e <= tolerance * (best[0] as number))
      const r = svd(a, { tolerance, method: 'randomized' })
      expect([want, want + 1]).toContain(r.rank)
      expect(r.relativeError).toBeLessThanOrEqual(tolerance)
      const kept = svd(a, { energy: 1 - tolerance ** 2, method: 'randomized', rank: 90 })
      expect(kept.rank).toBe(r.rank)
    }
    expect(svd(a, { tolerance: 0.003, method: 'randomized', rank: 3 }).rank).toBe(3)
  })

  test('copes with less rank than it is asked for', () => {
    for (const rank of [0, 1, 3]) {
      const values = Array.from({ length: rank }, (_, i) => 2 - i / 2)
      const data = rank ? withSpectrum(150, 140, values) : new Array<number>(150 * 140).fill(0)
      for (const a of [f32([150, 140], data), f64([150, 140], data)]) {
        const r = svd(a, { rank: 8, method: 'randomized' })
        expect(r.converged).toBe(true)
        expect(r.error).toBeLessThan(1e-5)
        expect(oracle.orthogonality(oracle.matrix(r.u.data, 150, 8))).toBeLessThanOrEqual(2e-6)
        expect(oracle.orthogonality(oracle.matrix(r.v.data, 140, 8))).toBeLessThanOrEqual(2e-6)
        r.s.data.forEach((x, i) => expect(Math.abs(x - (values[i] ?? 0))).toBeLessThan(1e-5))
      }
    }
  })

  test('stays orthonormal where its space is exhausted, and sees that equal values were not all found', () => {
    const few = svd(f32([150, 140], withSpectrum(150, 140, [3, 2, 1, 0.5, 0.25])), { rank: 30, method: 'randomized' })
    expect(few.relativeError).toBeLessThan(2e-5)
    expect(oracle.orthogonality(oracle.matrix(few.u.data, 150, 30))).toBeLessThanOrEqual(2e-6)
    expect(oracle.orthogonality(oracle.matrix(few.v.data, 140, 30))).toBeLessThanOrEqual(2e-6)
    const values = Array.from({ length: 110 }, (_, i) => (i < 40 ? 1 : 0.5))
    const equal = svd(f32([120, 110], withSpectrum(120, 110, values)), { rank: 38, method: 'randomized' })
    expect(equal.error).toBeLessThanOrEqual(1.01 * (oracle.bestErrors(values)[38] as number))
  })

  const kEqual: [string, (i: number) => number][] = [
    ['50 equal values over a plateau', (i) => (i < 50 ? 1 : 0.1)],
    ['50 equal values over a slope', (i) => (i < 50 ? 1 : 0.1 - i / 30000)],
    ['close values over a plateau', (i) => (i < 50 ? 1 + i * 1e-6 : 0.5)],
    ['stairs a little wider than a block', (i) => 0.7 ** Math.floor(i / 20)],
    ['equal values far below the first', (i) => (i < 1 ? 1000 : i < 50 ? 1 : 0.1)],
  ]
  for (const [name, value] of kEqual)
    test(`finds more equal values than a block has columns: ${name}`, () => {
      const values = Array.from({ length: 130 }, (_, i) => value(i))
      const best = oracle.bestErrors(values)
      const data = withSpectrum(130, 140, values)
      for (const a of [f32([130, 140], data), f64([130, 140], data)])
        for (const rank of [30, 48]) {
          const r = svd(a, { rank, method: 'randomized' })
          const [u, v] = [oracle.matrix(r.u.data, 130, rank), oracle.matrix(r.v.data, 140, rank)]
          const error = oracle.residual(oracle.matrix(a.data, 130, 140), u, [...r.s.data], v)
          expect(r.converged).toBe(true)
          expect(error).toBeLessThanOrEqual(1.01 * (best[rank] as number))
        }
    })

  test('does not call it converged where its steps were given and there may be more equal values', () => {
    const values = Array.from({ length: 150 }, (_, i) => 0.7 ** Math.floor(i / 20))
    const data = withSpectrum(150, 150, values)
    for (const a of [f32([150, 150], data), f64([150, 150], data)]) {
      const r = svd(a, { rank: 40, method: 'randomized', iterations: 4 })
      expect(r.error).toBeGreaterThan(1.1 * (oracle.bestErrors(values)[40] as number))
      expect(r.converged).toBe(false)
    }
  })

  test('takes matrices much wider than high, and ranks beyond one block', () => {
    for (const [m, n, rank] of [[72, 400, 9], [210, 190, 70]] as const) {
      const values = Array.from({ length: Math.min(m, n) }, (_, i) => (i + 1) ** -1)
      const r = svd(f32([m, n], withSpectrum(m, n, values)), { rank, method: 'randomized' })
      expect(r).toMatchObject({ rank, method: 'randomized', converged: true })
      expect(r.error).toBeLessThanOrEqual(1.01 * (oracle.bestErrors(values)[rank] as number))
      expect(oracle.orthogonality(oracle.matrix(r.u.data, m, rank))).toBeLessThanOrEqual(2e-6)
      expect(oracle.orthogonality(oracle.matrix(r.v.data, n, rank))).toBeLessThanOrEqual(2e-6)
    }
  })

  test('gives way to the full one where its space would be the whole', () => {
    expect(svd(f32([20, 12], random(20, 12)), { rank: 4, method: 'randomized' }).method).toBe('full')
    expect(svd(f32([200, 180], random(200, 180)), { rank: 4 }).method).toBe('randomized')
    expect(svd(f32([200, 180], random(200, 180)), { rank: 4, energy: 0.5 }).method).toBe('full')
    expect(svd(f32([200, 180], random(200, 180))).method).toBe('full')
  })
})

describe('against other software', () => {
  for (const c of fixtures('svd').filter((c) => c.roles.includes('s'))) {
    test(c.name, () => {
      const a = f32(c.tensor('a').dims, c.tensor('a').data)
      const [m, n] = a.dims as [number, number]
      const A = oracle.matrix(a.data, m, n)
      const r = svd(a, { method: 'full' })
      c.check('s', r.s.data)
      c.check('s', svd(a, { vectors: false }).s.data)
      const [u, v] = [oracle.matrix(r.u.data, m, r.rank), oracle.matrix(r.v.data, n, r.rank)]
      expect(oracle.orthogonality(u)).toBeLessThanOrEqual(1e-5)
      expect(oracle.orthogonality(v)).toBeLessThanOrEqual(1e-5)
      const error = c.tensor('error').data
      // Of the zero matrix 0 is exact, and so are we.
      const { abs } = c.tolerance('error')
      for (let rank = 1; rank <= Math.min(m, n); rank += rank < 6 ? 1 : 7) {
        const t = svd(a, { rank, method: 'full' })
        expect(Math.abs(t.error - (error[rank] as number))).toBeLessThanOrEqual(abs + 1e-4 * (error[rank] as number))
        const got = oracle.residual(A, oracle.matrix(t.u.data, m, rank), [...t.s.data], oracle.matrix(t.v.data, n, rank))
        expect(got).toBeLessThanOrEqual((error[rank] as number) * 1.0001 + abs)
      }
      const ranks = c.parameters.energies?.map((energy: number) => svd(a, { energy, vectors: false }).rank)
      if (ranks) c.check('energyRank', ranks)
    })
  }
})

describe('bad input', () => {
  test('a NaN or infinity anywhere is refused by place, whatever the method', () => {
    for (const bad of [NaN, Infinity, -Infinity])
      for (const method of ['full', 'randomized'] as const)
        for (const at of [0, 77, 899]) {
          const data = random(30, 30)
          data[at] = bad
          expect(codeOf(() => svd(f32([30, 30], data), { method, rank: 3 }))).toBe(`ERR_RANGE a[${at}]`)
          expect(codeOf(() => svd(f64([30, 30], data), { method, rank: 3 }))).toBe(`ERR_RANGE a[${at}]`)
        }
  })

  test('has its code and names the parameter', () => {
    const a = f32([4, 3], random(4, 3))
    const kBad: [unknown, object, string][] = [
      [null, {}, 'ERR_DTYPE a'],
      [f32([12], a.data), {}, 'ERR_SHAPE a'],
      [f32([0, 3], []), {}, 'ERR_SHAPE a'],
      [{ type: 'int32', dims: [1, 1], data: new Int32Array(1) }, {}, 'ERR_DTYPE a.type'],
      [{ type: 'float32', dims: [5, 3], data: a.data }, {}, 'ERR_SHAPE a'],
      [a.data, { dims: [4, 4] }, 'ERR_SHAPE a'],
      [a, { rank: 0 }, 'ERR_RANGE rank'],
      [a, { rank: 4 }, 'ERR_RANGE rank'],
      [a, { rank: 1.5 }, 'ERR_RANGE rank'],
      [a, { rank: '2' }, 'ERR_DTYPE rank'],
      [a, { energy: 0 }, 'ERR_RANGE energy'],
      [a, { energy: 1.1 }, 'ERR_RANGE energy'],
      [a, { energy: NaN }, 'ERR_RANGE energy'],
      [a, { tolerance: -0.1 }, 'ERR_RANGE tolerance'],
      [a, { vectors: 1 }, 'ERR_DTYPE vectors'],
      [a, { method: 'jacobi' }, 'ERR_RANGE method'],
      [a, { seed: -1 }, 'ERR_RANGE seed'],
      [a, { iterations: 0 }, 'ERR_RANGE iterations'],
      [a, { oversampling: -1 }, 'ERR_RANGE oversampling'],
      [a, { ranks: 2 }, 'ERR_RANGE options.ranks'],
      [f32([2, 2], [3e38, 3e38, 3e38, 3e38]), {}, 'ERR_RANGE a'],
    ]
    for (const [value, options, code] of kBad) expect([value, options, codeOf(() => svd(value as never, options))]).toStrictEqual([value, options, code])
  })

  test('rejects an asynchronous call', async () => {
    await expect(svdAsync(f32([1, 1], [NaN]))).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'a[0]' })
    await expect(svdAsync(f32([1, 1], [1]), { rank: 2 })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'rank' })
  })
})

test('a bare array takes dims, an asynchronous call answers the same', async () => {
  const data = Float32Array.from(random(12, 7))
  const sync = svd(data, { dims: [12, 7], rank: 3 })
  expect(sync).toStrictEqual(svd(f32([12, 7], data), { rank: 3 }))
  expect(await svdAsync(data, { dims: [12, 7], rank: 3 })).toStrictEqual(sync)
  expect(await svdAsync(f64([12, 7], data))).toStrictEqual(svd(f64([12, 7], data)))
})
