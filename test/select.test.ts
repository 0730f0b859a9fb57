import { readFileSync } from 'node:fs'
import * as path from 'node:path'
import { agpSparsity, importance, mask, type Criterion, type ImportanceOptions } from '../lib/index'
import { fixtures, type FixtureCase } from './oracle/fixtures'
import { code, float, plain, size, type Float } from './oracle/scores'
import * as oracle from './oracle/select'

// Under jest every look-up of a global costs as much as a hundred additions.
const { abs, fround, sqrt } = Math

describe('agreement with other software', () => {
  const input = (c: FixtureCase, role: string) => c.tensor(role) as unknown as { dims: number[]; data: Float32Array }
  const tensorOf = (c: FixtureCase, role: string): Float => float(input(c, role).dims, input(c, role).data)
  const all = fixtures('prune')
  const run: Record<string, (c: FixtureCase) => void> = {
    l1(c) {
      const w = tensorOf(c, 'w')
      const { amount, removed } = c.parameters
      const m = mask(importance(w), { sparsity: amount > 1 ? amount / w.data.length : amount })
      c.check('mask', m.data)
      expect(m.data.reduce((n, v) => n - v, w.data.length)).toBe(removed)
    },
    ln(c) {
      const w = tensorOf(c, 'w')
      const { norm, dim, amount } = c.parameters
      const criterion = ({ 1: 'l1', 2: 'l2', inf: 'linf' } as const)[norm as 1]
      const norms = importance(w, { criterion, axis: dim })
      c.check('norms', norms.data)
      const m = mask(norms, { sparsity: amount, pattern: 'channel', axis: dim, dims: w.dims })
      expect(m.dims).toEqual(w.dims)
      c.check('mask', m.data)
    },
    global(c) {
      const scores = [0, 1, 2, 3].map((i) => importance(tensorOf(c, `w${i}`)))
      mask(scores, { sparsity: c.parameters.amount, scope: 'global' }).forEach((m, i) => c.check(`mask${i}`, m.data))
    },
    nm(c) {
      const { n, m } = c.parameters
      c.check('mask', mask(importance(tensorOf(c, 'w')), { pattern: `${n}:${m}` }).data)
    },
    agp(c) {
      const { initial, final, start, steps, interval } = c.parameters
      const want = c.tensor('sparsity').data
      c.check('sparsity', Array.from(want, (_, t) => agpSparsity(t, { initial, final, start, steps, interval })))
    },
    importance(c) {
      const w = tensorOf(c, 'w')
      const grad = tensorOf(c, 'grad')
      for (const role of c.roles) {
        const criterion = role as Criterion
        const o: ImportanceOptions = {
          criterion,
          ...(c.parameters.axis === undefined ? {} : { axis: c.parameters.axis as number }),
          ...(criterion === 'sensitivity' || criterion === 'taylor' ? { grad } : {}),
        }
        c.check(role, importance(w, o).data)
      }
    },
  }
  test.each(all.map((c) => [c.name, c] as const))('%s agrees', (name, c) => {
    const kind = Object.keys(run).find((k) => new RegExp(`^${k}(\\d|inf|_)`).test(name)) as string
    const check = run[kind] as (c: FixtureCase) => void
    check(c)
  })
  test('every case of the manifest is among them', () => {
    const manifest = JSON.parse(readFileSync(path.join(__dirname, 'fixtures', 'prune.json'), 'utf8')) as { cases: unknown[] }
    expect(all).toHaveLength(manifest.cases.length)
  })
})

describe('importance', () => {
  const grouped = ['l1', 'l2', 'square', 'linf', 'sensitivity', 'taylor'] as const
  // core/select.h: n·2⁻⁵³·Σ|term| before the rounding to float32; the root halves it, the square doubles it.
  function expectClose(got: Float32Array, want: { scores: number[]; magnitude: number[] }, n: number, criterion: string): void {
    const wrong = want.scores.findIndex((w, i) => {
      const before = n * 2 ** -53 * (want.magnitude[i] as number)
      const raw = criterion === 'taylor' ? sqrt(w) : w
      const slack = criterion === 'taylor' ? 2 * raw * before + before * before : criterion === 'l2' ? (w > 0 ? before / w : 0) : before
      // Written so that a NaN is wrong.
      return !(abs((got[i] as number) - w) <= slack + abs(w) * 2 ** -23 + 2 ** -149)
    })
    expect([wrong, got[wrong]]).toEqual([-1, undefined])
    expect(got).toHaveLength(want.scores.length)
  }

  test('of elements is float32 arithmetic, bit for bit', () => {
    const w = plain([7, 13], 1)
    const g = plain([7, 13], 2)
    const f = Math.fround
    const want: Record<string, (x: number, g: number) => number> = {
      l1: (x) => abs(x),
      magnitude: (x) => abs(x),
      absolute: (x) => abs(x),
      l2: (x) => abs(x),
      linf: (x) => abs(x),
      square: (x) => f(x * x),
      sensitivity: (x, g) => f(abs(g * x)),
      taylor: (x, g) => f(f(g * x) * f(g * x)),
    }
    for (const [criterion, of] of Object.entries(want)) {
      const o = criterion === 'sensitivity' || criterion === 'taylor' ? { grad: g } : {}
      const got = importance(w, { criterion: criterion as Criterion, ...o })
      expect(got.dims).toEqual([7, 13])
      expect(got.data).toEqual(Float32Array.from(w.data, (x, i) => of(x, g.data[i] as number)))
    }
  })

  test.each([[[5, 7]], [[3, 4, 5]], [[40, 3, 3, 3]], [[2, 70, 50]], [[1, 1]], [[300, 401]], [[3000, 2]], [[2, 66000]]])(
    'of groups of %p keeps its error bound on every axis',
    (dims) => {
      const w = plain(dims, 3)
      const g = plain(dims, 4)
      for (const criterion of grouped)
        for (let axis = 0; axis < dims.length; axis++) {
          const o = criterion === 'sensitivity' || criterion === 'taylor' ? { grad: g } : {}
          const count = dims[axis] as number
          const got = importance(w, { criterion, axis: axis - dims.length, ...o })
          expect(got.dims).toEqual([count])
          const want = oracle.groupScores(criterion, w.data, g.data, oracle.groupAlong(dims, axis), count)
          expectClose(got.data, want, size(dims) / count, criterion)
        }
    },
  )

  test.each([
    [[6, 8], 2, 4],
    [[4, 6], 4, 1],
    [[3, 32], 1, 16],
    [[8, 3, 3, 3], 4, 9],
    [[2, 4096], 1, 4096],
    [[16, 6000], 2, 3],
  ])('of blocks of %p by %p x %p keeps its error bound', (dims, r, c) => {
    const w = plain(dims, 5)
    const g = plain(dims, 6)
    for (const criterion of grouped) {
      const o = criterion === 'sensitivity' || criterion === 'taylor' ? { grad: g } : {}
      const got = importance(w, { criterion, block: [r, c], ...o })
      const count = size(dims) / (r * c)
      expect(got.dims).toEqual([(dims[0] as number) / r, size(dims.slice(1)) / c])
      expectClose(got.data, oracle.groupScores(criterion, w.data, g.data, oracle.groupByBlock(dims, r, c), count), r * c, criterion)
    }
  })

  test('by geometric median sums the distances to the other groups, on any axis', () => {
    const w = plain([5, 6, 4], 7)
    for (const axis of [0, 1, 2]) {
      const want = oracle.geometricMedian(w.data, oracle.groupAlong(w.dims, axis), w.dims[axis] as number)
      importance(w, { criterion: 'geometricMedian', axis }).data.forEach((v, i) => expect(v).toBeCloseTo(want[i] as number, 4))
    }
  })

  test('at random follows its seed alone', () => {
    for (const seed of [0, 1, 2 ** 53 - 1])
      expect([...importance(plain([3, 50], 8), { criterion: 'random', seed }).data]).toEqual(oracle.randomScores(seed, 150))
    expect(importance(plain([4, 9], 8), { criterion: 'random', axis: 1 }).data).toHaveLength(9)
  })

  test('takes infinities and empty tensors, refuses NaN wherever it comes from', () => {
    expect([...importance(float([3], [1, -Infinity, 2])).data]).toEqual([1, Infinity, 2])
    expect([...importance(float([2, 2], [1, -Infinity, 2, 3]), { criterion: 'l2', axis: 0 }).data]).toEqual([
      Infinity,
      fround(sqrt(13)),
    ])
    expect(importance(float([0, 4], []), { axis: 0 }).dims).toEqual([0])
    expect([...importance(float([3, 0], []), { criterion: 'linf', axis: 0 }).data]).toEqual([0, 0, 0])
    expect(importance(float([], [-2])).data[0]).toBe(2)
    const bad = float([2, 2], [1, 2, NaN, 4])
    for (const o of [{}, { axis: 0 }, { axis: 1 }, { criterion: 'linf', axis: 1 }, { block: [2, 2] }] as ImportanceOptions[])
      expect(code(() => importance(bad, o))).toBe('ERR_RANGE w')
    expect(code(() => importance(float([1], [Infinity]), { criterion: 'taylor', grad: float([1], [0]) }))).toBe('ERR_RANGE w')
  })

  test('refuses what it cannot mean', () => {
    const w = plain([4, 6], 9)
    const cases: [ImportanceOptions | Record<string, unknown>, string][] = [
      [{ criterion: 'l3' }, 'ERR_RANGE criterion'],
      [{ axis: 2 }, 'ERR_RANGE axis'],
      [{ axis: -3 }, 'ERR_RANGE axis'],
      [{ axis: 0.5 }, 'ERR_RANGE axis'],
      [{ axis: '0' }, 'ERR_DTYPE axis'],
      [{ block: [3, 2] }, 'ERR_SHAPE w'],
      [{ block: [2] }, 'ERR_DTYPE block'],
      [{ block: [0, 2] }, 'ERR_RANGE block'],
      [{ block: [2, 2], axis: 0 }, 'ERR_RANGE block'],
      [{ criterion: 'taylor' }, 'ERR_RANGE grad'],
      [{ grad: w }, 'ERR_RANGE grad'],
      [{ criterion: 'taylor', grad: plain([6, 4], 1) }, 'ERR_SHAPE grad'],
      [{ criterion: 'taylor', grad: new Float64Array(24) }, 'ERR_DTYPE grad'],
      [{ criterion: 'geometricMedian' }, 'ERR_RANGE axis'],
      [{ criterion: 'l1', seed: 1 }, 'ERR_RANGE seed'],
      [{ criterion: 'random', seed: -1 }, 'ERR_RANGE seed'],
      [{ criteria: 'l1' }, 'ERR_RANGE options.criteria'],
      [{ out: new Float32Array(23) }, 'ERR_SHAPE out'],
      [{ out: new Float64Array(24) }, 'ERR_DTYPE out'],
      [{ out: w.data }, 'ERR_RANGE out'],
    ]
    for (const [o, want] of cases) expect([o, code(() => importance(w, o))]).toEqual([o, want])
    expect(code(() => importance({ type: 'int8', dims: [1], data: new Int8Array(1) }))).toBe('ERR_DTYPE w.type')
    expect(code(() => importance(float([3], [1, 2])))).toBe('ERR_SHAPE w')
    expect(code(() => importance(plain([4], 1), { block: [2, 2] }))).toBe('ERR_SHAPE w')
    const gone = plain([4], 1)
    structuredClone(gone.data.buffer, { transfer: [gone.data.buffer as ArrayBuffer] })
    expect(code(() => importance(gone))).toBe('ERR_HANDLE w.data')
  })
})

