import {
  agpSparsity,
  applyMask,
  applyMaskAsync,
  GlobalThreshold,
  importance,
  importanceAsync,
  kthLargest,
  kthLargestAsync,
  mask,
  maskAsync,
  type MaskOptions,
  type Tensor,
} from '../lib/index'
import { awkward, code, expectSame, float, generator, plain, size, type Float } from './oracle/scores'
import * as oracle from './oracle/select'

// Under jest every look-up of a global costs as much as a hundred additions.
const { floor } = Math

describe('mask', () => {
  const ratios = [0, 0.01, 0.25, 0.4, 0.5, 0.77, 0.999, 1]

  test.each([[[1]], [[5]], [[7, 9]], [[33000]], [[70, 1000]], [[0]], [[]]])('of %p removes the smallest, late ties first', (dims) => {
    for (const scores of [plain(dims, 11), awkward(dims, 12), float(dims, new Float32Array(size(dims)).fill(3))])
      for (const sparsity of ratios) {
        const got = mask(scores, { sparsity })
        expect([got.type, got.dims]).toEqual(['bool', dims])
        expectSame(got.data, Uint8Array.from(oracle.maskLargest(scores.data, sparsity)))
      }
  })

  test('of many elements is exact whatever their distribution', () => {
    const n = 150_000
    const next = generator(5)
    const make: Record<string, (i: number) => number> = {
      even: () => next(),
      ascending: (i) => i,
      descending: (i) => -i,
      'mostly zero': () => (next() < 0.7 ? 0 : next()),
      'two values': () => (next() < 0.5 ? 1 : 2),
      'many magnitudes': () => (next() - 0.5) * 10 ** (next() * 60 - 30),
      'period of 12': (i) => (i % 12) + next() * 1e-3,
      'one huge': (i) => (i === 17 ? Infinity : next()),
      clustered: (i) => (i < n / 2 ? next() * 1e-3 : 1 + next()),
    }
    for (const [name, of] of Object.entries(make)) {
      const scores = Float32Array.from({ length: n }, (_, i) => of(i))
      const order = Uint32Array.from(scores, (_, i) => i).sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b)
      for (const sparsity of [0.001, 0.5, 0.71, 0.9999]) {
        const keep = n - oracle.removedCount(sparsity, n)
        const want = new Uint8Array(n)
        for (let i = 0; i < keep; i++) want[order[i] as number] = 1
        const got = mask(scores, { sparsity }).data
        expect([name, sparsity, Buffer.compare(got, want)]).toEqual([name, sparsity, 0])
        expect(kthLargest(scores, keep)).toBe(scores[order[keep - 1] as number])
      }
    }
  })

  test('by threshold keeps what is strictly above, compared in double', () => {
    const scores = awkward([3, 400], 13)
    for (const threshold of [0, -0, 0.1, 0.3, 1, -1, 0.5, Infinity, -Infinity, 1e-42, 1e300, -1e300, -1e-60])
      expect(mask(scores, { threshold }).data).toEqual(Uint8Array.from(scores.data, (x) => Number(x > threshold)))
    expect([...mask(float([5], [1, 2, 1, 1, 0]), { threshold: 1, equal: 2 }).data]).toEqual([1, 1, 1, 0, 0])
  })

  test('over several tensors is one ranking for scope global and one each for uniform', () => {
    const dims = [[30, 7], [1], [500], [0, 3], [12, 3, 3]]
    for (const make of [plain, awkward]) {
      const tensors = dims.map((d, i) => make(d, 20 + i))
      const joined = tensors.flatMap((t) => [...t.data])
      for (const sparsity of ratios) {
        const together = mask(tensors, { sparsity, scope: 'global' })
        expect(together.flatMap((m) => [...m.data])).toEqual(oracle.maskLargest(joined, sparsity))
        expect(together.map((m) => m.dims)).toEqual(dims)
        const each = mask(tensors, { sparsity, scope: 'uniform' })
        each.forEach((m, i) => expectSame(m.data, Uint8Array.from(oracle.maskLargest((tensors[i] as Float).data, sparsity))))
      }
    }
    expect(mask([], { sparsity: 0.5, scope: 'global' })).toEqual([])
  })

  test.each([[[9, 40]], [[4, 5, 6]], [[50]], [[2, 3000]], [[1, 70000]]])('of %p balanced keeps equal counts on every axis', (dims) => {
    for (const scores of [plain(dims, 14), awkward(dims, 15)])
      for (let axis = 0; axis < dims.length; axis++)
        for (const sparsity of [0, 0.3, 0.5, 0.9, 1]) {
          const got = mask(scores, { sparsity, scope: 'balanced', axis })
          const want = oracle.maskBalanced(scores.data, sparsity, oracle.groupAlong(dims, axis), dims[axis] as number)
          expectSame(got.data, Uint8Array.from(want))
        }
  })

  test.each([
    [1, 4],
    [2, 4],
    [3, 4],
    [4, 4],
    [4, 8],
    [1, 2],
    [7, 16],
    [2, 3],
    [5, 12],
    [30, 64],
    [33, 96],
    [10, 200],
  ])('keeps %i of %i along any axis', (n, m) => {
    for (const dims of [[6, 2 * m], [3 * m, 5], [2, m, 150], [m], [0, m], [1, 77 * m]])
      for (let axis = 0; axis < dims.length; axis++) {
        if ((dims[axis] as number) % m !== 0) continue
        for (const scores of [plain(dims, 16), awkward(dims, 17)]) {
          const got = mask(scores, { pattern: `${n}:${m}`, ...(axis === dims.length - 1 ? {} : { axis }) })
          expectSame(got.data, Uint8Array.from(oracle.maskRuns(scores, n, m, axis)))
        }
      }
  })

  test.each([
    [[6, 8], 2, 4],
    [[8, 9, 2], 4, 1],
    [[3, 64], 1, 16],
    [[4, 4], 4, 4],
  ] as const)('of blocks in %p by %p x %p, from scores of elements and of blocks, in each scope', (dims, r, c) => {
    const w = plain([...dims], 18)
    const group = oracle.groupByBlock(dims, r, c)
    const count = size(dims) / (r * c)
    const across = size(dims.slice(1)) / c
    const blockScores = importance(w, { block: [r, c] })
    for (const sparsity of [0, 0.3, 0.5, 1]) {
      const chosen = oracle.maskLargest(blockScores.data, sparsity)
      const want = Uint8Array.from(group, (b) => chosen[b] as number)
      const o = { sparsity, pattern: { block: [r, c] } } as const
      expect(mask(importance(w), o)).toEqual({ type: 'bool', dims: [...dims], data: want })
      expect(mask(blockScores, { ...o, dims: w.dims })).toEqual({ type: 'bool', dims: [...dims], data: want })
      const rows = Array.from({ length: count }, (_, b) => floor(b / across))
      const even = oracle.maskBalanced(blockScores.data, sparsity, rows, count / across)
      expect(mask(importance(w), { ...o, scope: 'balanced' }).data).toEqual(Uint8Array.from(group, (b) => even[b] as number))
    }
    const two = mask([importance(w), importance(w)], { sparsity: 0.5, pattern: { block: [r, c] }, scope: 'global' })
    const chosen = oracle.maskLargest([...blockScores.data, ...blockScores.data], 0.5)
    two.forEach((m, i) => expect(m.data).toEqual(Uint8Array.from(group, (b) => chosen[b + i * count] as number)))
  })

  test('of channels, from scores of elements and of channels, on any axis, by ratio and by threshold', () => {
    const w = plain([6, 5, 4], 19)
    for (const axis of [0, 1, 2]) {
      const scores = importance(w, { axis })
      const group = oracle.groupAlong(w.dims, axis)
      for (const sparsity of [0, 0.3, 0.5, 1]) {
        const chosen = oracle.maskLargest(scores.data, sparsity)
        const want = Uint8Array.from(group, (a) => chosen[a] as number)
        expect(mask(importance(w), { sparsity, pattern: 'channel', axis }).data).toEqual(want)
        expect(mask(scores, { sparsity, pattern: 'channel', axis, dims: w.dims }).data).toEqual(want)
      }
      const threshold = kthLargest(scores, 2)
      expect(mask(scores, { threshold, pattern: 'channel', axis, dims: w.dims }).data).toEqual(
        Uint8Array.from(group, (a) => Number((scores.data[a] as number) > threshold)),
      )
    }
    const pair = [importance(w, { axis: 0 }), importance(plain([3, 2], 2), { axis: 0 })]
    const got = mask(pair, { sparsity: 0.4, pattern: 'channel', scope: 'global', dims: [w.dims, [3, 2]] })
    const chosen = oracle.maskLargest(pair.flatMap((p) => [...p.data]), 0.4)
    expect([...(got[1] as Tensor).data]).toEqual([6, 6, 7, 7, 8, 8].map((i) => chosen[i]))
  })

  test('writes into the memory it is given', () => {
    const scores = plain([64], 21)
    const buffer = new Uint8Array(100).fill(9)
    const out = buffer.subarray(3, 67)
    const got = mask(scores, { sparsity: 0.5, out })
    expect(got.data).toBe(out)
    expect([...buffer.subarray(0, 3), ...buffer.subarray(67)].every((v) => v === 9)).toBe(true)
    expect([...out]).toEqual(oracle.maskLargest(scores.data, 0.5))
  })

  test('refuses NaN, options that exclude each other, and shapes that do not fit', () => {
    const scores = plain([4, 6], 22)
    const cases: [MaskOptions | Record<string, unknown>, string][] = [
      [{}, 'ERR_RANGE sparsity'],
      [{ sparsity: 0.5, threshold: 1 }, 'ERR_RANGE sparsity'],
      [{ sparsity: -0.1 }, 'ERR_RANGE sparsity'],
      [{ sparsity: 1.0001 }, 'ERR_RANGE sparsity'],
      [{ sparsity: NaN }, 'ERR_RANGE sparsity'],
      [{ sparsity: '0.5' }, 'ERR_DTYPE sparsity'],
      [{ threshold: NaN }, 'ERR_RANGE threshold'],
      [{ threshold: '1' }, 'ERR_DTYPE threshold'],
      [{ threshold: 1, scope: 'balanced' }, 'ERR_RANGE threshold'],
      [{ sparsity: 0.5, equal: 1 }, 'ERR_RANGE equal'],
      [{ threshold: 0.5, equal: -1 }, 'ERR_RANGE equal'],
      [{ pattern: '5:4' }, 'ERR_RANGE pattern'],
      [{ pattern: '0:4' }, 'ERR_RANGE pattern'],
      [{ pattern: '2:' }, 'ERR_RANGE pattern'],
      [{ pattern: '2:4 ' }, 'ERR_RANGE pattern'],
      [{ pattern: '-2:4' }, 'ERR_RANGE pattern'],
      [{ pattern: '2.5:4' }, 'ERR_RANGE pattern'],
      [{ pattern: 'rows', sparsity: 0.5 }, 'ERR_RANGE pattern'],
      [{ pattern: 7, sparsity: 0.5 }, 'ERR_RANGE pattern'],
      [{ pattern: { blocks: [2, 2] }, sparsity: 0.5 }, 'ERR_RANGE pattern.blocks'],
      [{ pattern: { block: [5, 2] }, sparsity: 0.5 }, 'ERR_SHAPE scores'],
      [{ pattern: { block: 4 }, sparsity: 0.5 }, 'ERR_DTYPE pattern.block'],
      [{ pattern: '2:4' }, 'ERR_SHAPE scores'],
      [{ pattern: '2:4', sparsity: 0.5 }, 'ERR_RANGE sparsity'],
      [{ pattern: '2:4', threshold: 0.5 }, 'ERR_RANGE threshold'],
      [{ pattern: '2:4', scope: 'global' }, 'ERR_RANGE scope'],
      [{ pattern: 'channel', scope: 'balanced', sparsity: 0.5 }, 'ERR_RANGE scope'],
      [{ pattern: 'channel', sparsity: 0.5, dims: [5, 6] }, 'ERR_SHAPE scores'],
      [{ pattern: 'channel', sparsity: 0.5, dims: [-1, 6] }, 'ERR_SHAPE dims[0]'],
      [{ pattern: 'channel', sparsity: 0.5, axis: 2 }, 'ERR_RANGE axis'],
      [{ sparsity: 0.5, axis: 0 }, 'ERR_RANGE axis'],
      [{ sparsity: 0.5, dims: [4, 6] }, 'ERR_RANGE dims'],
      [{ sparsity: 0.5, scope: 'local' }, 'ERR_RANGE scope'],
      [{ sparsity: 0.5, out: new Uint8Array(23) }, 'ERR_SHAPE out'],
      [{ sparsity: 0.5, out: new Int8Array(24) }, 'ERR_DTYPE out'],
      [{ sparsity: 0.5, out: new Uint8Array(scores.data.buffer, 8, 24) }, 'ERR_RANGE out'],
      [{ sparsity: 0.5, ratio: 1 }, 'ERR_RANGE options.ratio'],
    ]
    for (const [o, want] of cases) expect([o, code(() => mask(scores, o as MaskOptions))]).toEqual([o, want])
    for (const n of [10, 100_000])
      for (const at of [0, n - 1]) {
        const bad = new Float32Array(n)
        bad[at] = NaN
        for (const o of [{ sparsity: 0.5 }, { sparsity: 0 }, { sparsity: 1 }, { threshold: 1 }, { pattern: '1:2' }] as MaskOptions[])
          expect([n, o, code(() => mask(bad, o))]).toEqual([n, o, 'ERR_RANGE scores'])
        expect(code(() => mask(bad, { sparsity: 0.5, scope: 'balanced' }))).toBe('ERR_RANGE scores')
        expect(code(() => kthLargest(bad, 3))).toBe('ERR_RANGE scores')
      }
    expect(code(() => mask([scores, plain([3], 1)], { pattern: '2:3' }))).toBe('no error')
    expect(code(() => mask([scores, plain([4], 1)], { pattern: '2:3' }))).toBe('ERR_SHAPE scores[1]')
    expect(code(() => mask([scores, scores], { sparsity: 0.5, out: [new Uint8Array(24)] }))).toBe('ERR_SHAPE out')
    const same = new Uint8Array(24)
    expect(code(() => mask([scores, scores], { sparsity: 0.5, out: [same, same] }))).toBe('ERR_RANGE out[1]')
    expect(code(() => mask(new Float64Array(4), { sparsity: 0.5 }))).toBe('ERR_DTYPE scores')
    expect(code(() => mask(null as never, { sparsity: 0.5 }))).toBe('ERR_DTYPE scores')
    expect(code(() => mask(float([], [1]), { sparsity: 0.5, pattern: 'channel' }))).toBe('ERR_SHAPE scores')
    const gone = plain([4], 1)
    structuredClone(gone.data.buffer, { transfer: [gone.data.buffer as ArrayBuffer] })
    expect(code(() => mask(gone, { sparsity: 0.5 }))).toBe('ERR_HANDLE scores.data')
  })
})

describe('applyMask', () => {
  test('zeroes what is removed and keeps the rest bit for bit, also in place', () => {
    const w = float([9], [1, -0, NaN, Infinity, -3, 5e-45, -NaN, 8, 9])
    const m: Tensor = { type: 'bool', dims: [9], data: Uint8Array.of(1, 1, 1, 0, 0, 1, 0, 255, 0) }
    const want = Float32Array.of(1, -0, NaN, 0, 0, 5e-45, 0, 8, 0)
    const got = applyMask(w, m)
    expect(got.data).toEqual(want)
    expect(Object.is(got.data[3], 0)).toBe(true)
    expect(applyMask(w, m, { out: w.data }).data).toBe(w.data)
    expect(w.data).toEqual(want)
  })

  test('refuses masks of other dims and memory that overlaps in part', () => {
    const buffer = new Float32Array(7)
    const w: Tensor = { type: 'float32', dims: [2, 3], data: buffer.subarray(0, 6) }
    const m: Tensor = { type: 'bool', dims: [2, 3], data: new Uint8Array(6) }
    expect(code(() => applyMask(w, { ...m, dims: [3, 2] }))).toBe('ERR_SHAPE mask')
    expect(code(() => applyMask(w, new Uint8Array(5)))).toBe('ERR_SHAPE mask')
    expect(code(() => applyMask(w, new Float32Array(6)))).toBe('ERR_DTYPE mask')
    expect(code(() => applyMask(w, m, { out: buffer.subarray(1, 7) }))).toBe('ERR_RANGE out')
    expect(code(() => applyMask(w, m, { out: new Float32Array(5) }))).toBe('ERR_SHAPE out')
    expect(applyMask(w, new Uint8Array(6)).dims).toEqual([2, 3])
  })
})

describe('kthLargest', () => {
  test('is the k-th element of the sorted scores, of one tensor or several', () => {
    const a = awkward([40], 30)
    const b = awkward([50], 31)
    const sorted = [...a.data, ...b.data].sort((x, y) => y - x)
    for (let k = 1; k <= 90; k++) expect(kthLargest([a, b], k) + 0).toBe((sorted[k - 1] as number) + 0)
    for (const k of [0, 91, 1.5, NaN]) expect(code(() => kthLargest([a, b], k))).toBe('ERR_RANGE k')
    expect(code(() => kthLargest(new Float32Array(0), 1))).toBe('ERR_SHAPE scores')
  })
})

describe('GlobalThreshold', () => {
  test('finds in three passes what scope global finds at once', () => {
    for (const make of [plain, awkward]) {
      const tensors = [[300], [20, 30], [0], [4000]].map((d, i) => make(d, 40 + i))
      for (const sparsity of [0, 0.1, 0.5, 0.62, 0.999, 1]) {
        const search = new GlobalThreshold(sparsity)
        let passes = 0
        do {
          tensors.forEach((t) => search.add(t))
          passes++
        } while (search.next())
        expect(passes).toBeLessThanOrEqual(3)
        const { threshold, equal } = search.result()
        const want = mask(tensors, { sparsity, scope: 'global' })
        tensors.forEach((t, i) => expectSame(mask(t, { threshold, equal: equal[i] as number }).data, (want[i] as Tensor<Uint8Array>).data))
      }
    }
  })

  test('refuses another sequence of tensors, NaN, and a result before its time', () => {
    const search = new GlobalThreshold(0.5)
    expect(code(() => search.result())).toBe('ERR_RANGE result')
    search.add(Float32Array.of(1, 2))
    search.add(Float32Array.of(3))
    expect(search.next()).toBe(true)
    expect(code(() => search.add(Float32Array.of(1)))).toBe('ERR_SHAPE scores')
    search.add(Float32Array.of(1, 2))
    expect(code(() => search.next())).toBe('ERR_SHAPE scores')
    expect(code(() => new GlobalThreshold(0.5).add(Float32Array.of(NaN)))).toBe('ERR_RANGE scores')
    expect(code(() => new GlobalThreshold(2))).toBe('ERR_RANGE sparsity')
    const done = new GlobalThreshold(1)
    done.add(Float32Array.of(1))
    expect(done.next()).toBe(false)
    expect(done.result()).toEqual({ threshold: Infinity, equal: [0] })
    expect(code(() => done.add(Float32Array.of(1)))).toBe('ERR_RANGE scores')
  })
})

describe('agpSparsity', () => {
  test('refuses schedules that make no sense', () => {
    expect(agpSparsity(50, { final: 0.9, steps: 100 })).toBeCloseTo(0.7875, 12)
    expect(code(() => agpSparsity(NaN, { final: 0.5, steps: 1 }))).toBe('ERR_RANGE t')
    expect(code(() => agpSparsity(0, { final: 1.5, steps: 1 }))).toBe('ERR_RANGE schedule.final')
    expect(code(() => agpSparsity(0, { final: 0.5, steps: 0 }))).toBe('ERR_RANGE schedule.steps')
    expect(code(() => agpSparsity(0, { final: 0.5 } as never))).toBe('ERR_DTYPE schedule.steps')
    expect(code(() => agpSparsity(0, undefined as never))).toBe('ERR_DTYPE schedule')
    expect(code(() => agpSparsity(0, { final: 0.5, steps: 1, begin: 2 } as never))).toBe('ERR_RANGE schedule.begin')
  })
})

describe('the asynchronous twins', () => {
  test('answer what the synchronous functions answer, small and large', async () => {
    for (const n of [60, 300_000]) {
      const w = plain([n / 4, 4], 50)
      const scores = importance(w)
      const same = (got: Tensor, want: Tensor) => {
        expect([got.type, got.dims]).toEqual([want.type, want.dims])
        expectSame(got.data, want.data)
      }
      same(await importanceAsync(w), scores)
      same(await importanceAsync(w, { criterion: 'l2', axis: 0 }), importance(w, { criterion: 'l2', axis: 0 }))
      const o = { sparsity: 0.6, pattern: { block: [1, 2] } } as const
      same(await maskAsync(scores, { sparsity: 0.6 }), mask(scores, { sparsity: 0.6 }))
      same(await maskAsync(scores, o), mask(scores, o))
      const list = [scores, importance(plain([n], 51))]
      const masks = mask(list, { sparsity: 0.6, scope: 'global' })
      ;(await maskAsync(list, { sparsity: 0.6, scope: 'global' })).forEach((m, i) => same(m, masks[i] as Tensor))
      const m = mask(scores, { pattern: '2:4' })
      same(await applyMaskAsync(w, m), applyMask(w, m))
      expect(await kthLargestAsync(scores, 7)).toBe(kthLargest(scores, 7))
      const out = new Uint8Array(n)
      expect((await maskAsync(scores, { sparsity: 0.6, out })).data).toBe(out)
      expectSame(out, mask(scores, { sparsity: 0.6 }).data)
      const want = applyMask(w, m).data
      expect((await applyMaskAsync(w, m, { out: w.data })).data).toBe(w.data)
      expectSame(w.data, want)
    }
  })

  test('reject with the same errors, and see small inputs as they were at the call', async () => {
    await expect(maskAsync(Float32Array.of(1, NaN), { sparsity: 0.5 })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'scores' })
    await expect(maskAsync(Float32Array.of(1), {})).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'sparsity' })
    await expect(importanceAsync(new Int8Array(1) as never)).rejects.toMatchObject({ code: 'ERR_DTYPE', parameter: 'w' })
    const scores = Float32Array.of(4, 3, 2, 1)
    const pending = maskAsync(scores, { sparsity: 0.5 })
    scores.reverse()
    expect([...(await pending).data]).toEqual([1, 1, 0, 0])
    const moved = Float32Array.of(4, 3, 2, 1)
    const block = maskAsync({ type: 'float32', dims: [2, 2], data: moved }, { sparsity: 0.5, pattern: { block: [1, 2] } })
    structuredClone(moved.buffer, { transfer: [moved.buffer as ArrayBuffer] })
    expect([...(await block).data]).toEqual([1, 1, 0, 0])
  })
})
