import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import { adopt, gemmInt8, sparsify, sparsifyAsync, spmm, spmmAsync, type SparseMatrix, type SparsifyOptions, type SpmmOptions } from '../lib/index'
import { native } from '../lib/native'
import { bfloat16, bfloat16Bits, spmmOracle } from './oracle/sparse'

const dist = path.join(__dirname, '..', 'dist')

// SplitMix-like, so that failures repeat.
function random(seed: number): () => number {
  let s = seed >>> 0
  return () => {
    s = (s + 0x9e3779b9) >>> 0
    let z = s
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32
  }
}

const tensor = (type: string, dims: number[], data: unknown) => ({ type, dims, data })
const f32 = (dims: number[], data: Float32Array) => tensor('float32', dims, data)

function code(f: () => unknown): string {
  try {
    f()
  } catch (e) {
    return `${(e as { code?: string }).code} ${(e as { parameter?: string }).parameter}`
  }
  return 'no error'
}

type Pattern = 'csr' | 'auto' | `${number}:${number}` | { block: [number, number] }
const patterns: Pattern[] = [
  'csr', { block: [4, 1] }, { block: [1, 4] }, { block: [8, 1] }, { block: [1, 16] }, { block: [16, 1] }, { block: [32, 32] },
  { block: [3, 5] }, { block: [2, 3] }, '2:4', '4:8', '1:4', '2:3', '3:3', 'auto',
] // prettier-ignore
const label = (p: Pattern) => (typeof p === 'object' ? p.block.join('x') : p)

/** Random weights of the pattern's structure; about `density` of the units are kept; every seventh row is empty. */
function weights(n: number, k: number, pattern: Pattern, density: number, next: () => number): Float32Array {
  const w = new Float32Array(n * k)
  const [r, c] = typeof pattern === 'object' ? pattern.block : [1, 1]
  const nm = typeof pattern === 'string' ? /^(\d+):(\d+)$/.exec(pattern) : null
  for (let i = 0; i < n; i += r)
    for (let j = 0; j < k; j += c) {
      if (i % 7 === 3 || next() >= density) continue
      for (let a = i; a < Math.min(n, i + r); a++) for (let b = j; b < Math.min(k, j + c); b++) w[a * k + b] = next() * 2 - 1
    }
  if (nm)
    for (let i = 0; i < n * k; i += Number(nm[2])) {
      const group = w.subarray(i, i + Number(nm[2]))
      for (let e = 0, used = 0; e < group.length; e++) if (group[e] !== 0 && ++used > Number(nm[1])) group[e] = 0
    }
  return w
}

const columnsOf = (nm: Pattern, k: number) => {
  const m = typeof nm === 'string' ? /:(\d+)$/.exec(nm) : null
  return m ? Math.max(1, Math.round(k / Number(m[1]))) * Number(m[1]) : k
}

const fill = (count: number, next: () => number) => Float32Array.from({ length: count }, () => next() * 4 - 2)

/** Largest error over the bound that the documentation promises; NaN where a value is none. */
function worst(
  y: ArrayLike<number>, at: (column: number, row: number) => number, want: ReturnType<typeof spmmOracle>, slack = 0,
): number {
  let most = 0
  want.forEach((column, j) =>
    column.forEach(({ value, size, terms }, i) => {
      const n = (terms + 4) * 2 ** -24
      const bound = 1.13 * (n / (1 - n)) * size + slack * Math.abs(value) + 1e-37
      const error = Math.abs((y[at(j, i)] as number) - value) / bound
      if (!(error <= most)) most = error
    }),
  )
  return most
}

describe('float products against the oracle', () => {
  const next = random(4)
  const shapes = [[1, 1], [5, 12], [37, 64], [70, 150]] as const
  test.each(patterns.map((p) => [label(p), p] as const))('%s: both layouts, all column counts, both dtypes', (_, pattern) => {
    for (const [n, wanted] of shapes)
      for (const dtype of ['float32', 'bfloat16'] as const)
        for (const columns of [undefined, 1, 64]) {
          const k = columnsOf(pattern, wanted)
          const dense = weights(n, k, pattern, 0.3, next)
          const w = sparsify(f32([n, k], dense), { format: pattern, dtype, ...(columns ? { columns } : {}) })
          const stored = dtype === 'bfloat16' ? dense.map(bfloat16) : dense
          expect(w.dims).toEqual([n, k])
          expect(w.nnz).toBe(stored.filter((v) => v !== 0).length)
          expect(w.dtype).toBe(dtype)
          if (pattern !== 'auto') expect(w.format).toEqual(pattern)
          const back = w.toDense()
          expect(back.dims).toEqual([n, k])
          expect(Buffer.compare(Buffer.from(back.data.buffer), Buffer.from((dtype === 'float32' ? stored : Uint16Array.from(stored, bfloat16Bits)).buffer))).toBe(0)
          const bias = fill(n, next)
          for (const N of n < 37 ? [1, 2, 3, 17] : n < 70 ? [1, 2, 16, 33] : columns === undefined && dtype === 'float32' ? [1, 100] : [1, 18]) {
            const x = Array.from({ length: N }, () => fill(k, next))
            const want = spmmOracle({ n, k, w: stored, x, bias, activation: (v) => Math.max(0, v) })
            const rows = new Float32Array(N * k)
            const cols = new Float32Array(N * k)
            x.forEach((column, j) => column.forEach((v, p) => ((rows[j * k + p] = v), (cols[p * N + j] = v))))
            const y = spmm(w, f32([k, N], cols), { bias, activation: 'relu' })
            expect(y.dims).toEqual([n, N])
            expect([label(pattern), n, N, worst(y.data as Float32Array, (j, i) => i * N + j, want) <= 1]).toEqual([label(pattern), n, N, true])
            const z = spmm(w, f32([N, k], rows), { layout: 'rows', bias, activation: 'relu' })
            expect(z.dims).toEqual([N, n])
            expect(worst(z.data as Float32Array, (j, i) => j * n + i, want)).toBeLessThanOrEqual(1)
          }
          w.dispose()
        }
  })

  test('activations, batches and vectors', () => {
    const [n, k, N] = [45, 90, 20]
    const dense = weights(n, k, 'csr', 0.2, next)
    const w = sparsify(f32([n, k], dense), { format: 'csr' })
    const acts = {
      gelu: (v: number) => (v * (1 + erf(v / Math.SQRT2))) / 2,
      silu: (v: number) => v / (1 + Math.exp(-v)),
      tanh: Math.tanh,
      sigmoid: (v: number) => 1 / (1 + Math.exp(-v)),
      relu6: (v: number) => Math.min(6, Math.max(0, v)),
      none: (v: number) => v,
      hardswish: (v: number) => (v * Math.min(6, Math.max(0, v + 3))) / 6,
    }
    for (const [name, activation] of Object.entries(acts)) {
      const data = fill(3 * k * N, next)
      const y = spmm(w, f32([3, k, N], data), { activation: name as 'gelu' })
      expect(y.dims).toEqual([3, n, N])
      for (let b = 0; b < 3; b++) {
        const x = Array.from({ length: N }, (_, j) => Float32Array.from({ length: k }, (_, p) => data[(b * k + p) * N + j] as number))
        expect(worst(y.data as Float32Array, (j, i) => (b * n + i) * N + j, spmmOracle({ n, k, w: dense, x, activation }), 1e-6)).toBeLessThanOrEqual(1)
      }
    }
    const v = fill(k, next)
    const want = spmmOracle({ n, k, w: dense, x: [v] })
    for (const layout of ['rows', 'columns'] as const) {
      const y = spmm(w, v, { layout })
      expect(y.dims).toEqual([n])
      expect(worst(y.data as Float32Array, (_, i) => i, want)).toBeLessThanOrEqual(1)
    }
    const batch = fill(4 * k, next)
    const y = spmm(w, f32([2, 2, k], batch), { layout: 'rows' })
    expect(y.dims).toEqual([2, 2, n])
    const one = spmm(w, f32([4, k, 1], batch))
    expect(one.dims).toEqual([4, n, 1])
    const vectors = Array.from({ length: 4 }, (_, j) => batch.subarray(j * k, (j + 1) * k))
    for (const r of [y, one]) expect(worst(r.data as Float32Array, (j, i) => j * n + i, spmmOracle({ n, k, w: dense, x: vectors }))).toBeLessThanOrEqual(1)
  })

  test('the number of threads changes no bit', () => {
    const [n, k, N] = [500, 600, 150]
    const w = sparsify(f32([n, k], weights(n, k, 'csr', 0.2, next)), { format: 'csr' })
    const x = f32([k, N], fill(k * N, next))
    const same = (a: unknown, b: unknown) => Buffer.compare(Buffer.from((a as Float32Array).buffer), Buffer.from((b as Float32Array).buffer)) === 0
    const one = spmm(w, x, { threads: 1 }).data
    for (const threads of [2, 3]) expect(same(spmm(w, x, { threads }).data, one)).toBe(true)
  })
})

function erf(x: number): number {
  // Series and continued fraction to double precision are more than enough here.
  const a = Math.abs(x)
  let value: number
  if (a < 2.5) {
    let term = a
    let sum = a
    for (let i = 1; i < 200; i++) {
      term *= (-a * a) / i
      sum += term / (2 * i + 1)
    }
    value = (2 / Math.sqrt(Math.PI)) * sum
  } else {
    let f = 0
    for (let i = 60; i > 0; i--) f = (i / 2) / (a + f)
    value = 1 - Math.exp(-a * a) / ((a + f) * Math.sqrt(Math.PI))
  }
  return x < 0 ? -value : value
}

describe('int8', () => {
  const next = random(8)
  test.each(patterns.map((p) => [label(p), p] as const))('%s: the same bits as gemmInt8 on the dense matrix', (_, pattern) => {
    for (const [n, wanted] of [[1, 3], [19, 40], [66, 130]] as const) {
      const k = columnsOf(pattern, wanted)
      const codes = Int8Array.from(weights(n, k, pattern, 0.35, next), (v) => Math.round(v * 128))
      const scale = Float32Array.from({ length: n }, () => 0.001 + next() * 0.01)
      const w = sparsify(tensor('int8', [n, k], codes), { format: pattern, scale })
      expect(Buffer.compare(Buffer.from(w.toDense().data.buffer), Buffer.from(codes.buffer))).toBe(0)
      expect(w.scale).toEqual(scale)
      expect(w.nnz).toBe(codes.filter((v) => v !== 0).length)
      for (const N of [1, 5, 33])
        for (const type of ['int8', 'uint8'] as const)
          for (const outType of ['int32', 'float32', 'int8', 'uint8'] as const) {
            const x = type === 'int8' ? new Int8Array(N * k) : new Uint8Array(N * k)
            for (let i = 0; i < x.length; i++) x[i] = Math.floor(next() * 256)
            const xZeroPoint = type === 'int8' ? -3 : 117
            const common: Record<string, unknown> = { outType }
            if (next() < 0.5) common.bias = Int32Array.from({ length: n }, () => Math.floor((next() - 0.5) * 1e5))
            else if (outType !== 'int32') common.bias = fill(n, next)
            if (outType !== 'int32') common.activation = (['none', 'relu', 'gelu', 'hardswish'] as const)[Math.floor(next() * 4)]
            if (outType === 'int8' || outType === 'uint8') Object.assign(common, { outScale: 0.05, outZeroPoint: 3 })
            const scaled = outType === 'int32' ? {} : { xScale: 0.02 }
            const want = gemmInt8(tensor(type, [N, k], x), tensor('int8', [n, k], codes), {
              ...common, transposeB: true, aZeroPoint: xZeroPoint, ...(outType === 'int32' ? {} : { aScale: 0.02, bScale: scale }),
            } as never)
            const got = spmm(w, tensor(type, [N, k], x) as never, { ...common, ...scaled, layout: 'rows', xZeroPoint } as SpmmOptions)
            expect(got.dims).toEqual([N, n])
            expect(Buffer.compare(Buffer.from(got.data.buffer), Buffer.from(want.data.buffer))).toBe(0)
            const turned = x.slice()
            for (let j = 0; j < N; j++) for (let p = 0; p < k; p++) turned[p * N + j] = x[j * k + p] as number
            const other = spmm(w, tensor(type, [k, N], turned) as never, { ...common, ...scaled, xZeroPoint } as SpmmOptions)
            expect(other.dims).toEqual([n, N])
            for (let j = 0; j < N; j++)
              for (let i = 0; i < n; i++) if (other.data[i * N + j] !== want.data[j * n + i]) throw new Error(`${label(pattern)} ${outType} [${i}, ${j}]`)
          }
      w.dispose()
    }
  })

  test('float weights are quantized a row at a time, absmax over 127, half to even', () => {
    const w = sparsify(f32([3, 4], Float32Array.of(127, 0.5, 1.5, -2.5, 0, 0, 0, 0, -1, 0, 0.25, 0.0001)), { format: 'csr', dtype: 'int8' })
    expect(Array.from(w.toDense().data as Int8Array)).toEqual([127, 0, 2, -2, 0, 0, 0, 0, -127, 0, 32, 0])
    expect(w.scale).toEqual(Float32Array.of(1, 1, 1 / 127))
    expect(w.nnz).toBe(5)
  })

  test('sums that could leave 32 bits are refused, saying how many fit', () => {
    const run = (k: number, type: 'int8' | 'uint8', options: SpmmOptions = {}) =>
      spmm(sparsify(tensor('int8', [1, k], new Int8Array(k).fill(-128)), { format: 'csr' }), tensor(type, [k, 1], type === 'int8' ? new Int8Array(k).fill(-128) : new Uint8Array(k).fill(255)) as never, options).data[0]
    expect(run(131071, 'int8')).toBe(131071 * 16384)
    expect(run(65793, 'uint8')).toBe(65793 * -128 * 255)
    expect(() => run(131072, 'int8')).toThrow(/x: sums of 131072 products .* at most 131071 fit/)
    expect(() => run(65794, 'uint8')).toThrow(/at most 65793 fit/)
    expect(() => run(65000, 'uint8', { bias: Int32Array.of(-(2 ** 31)) })).toThrow(/^bias: sums of 65000/)
  })
})

test('rows without non-zeros give the bias, and matrices without elements an empty or constant result', () => {
  for (const format of ['csr', { block: [4, 1] }, '2:4', 'auto'] as const) {
    const w = sparsify(f32([6, 8], new Float32Array(48)), { format })
    expect([w.nnz, w.sparsity]).toEqual([0, 1])
    const bias = Float32Array.of(1, 2, 3, 4, 5, 6)
    expect(Array.from(spmm(w, f32([3, 8], new Float32Array(24)), { layout: 'rows', bias }).data as Float32Array)).toEqual([1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6])
    expect(spmm(w, f32([8, 0], new Float32Array(0))).dims).toEqual([6, 0])
    const none = sparsify(f32([0, 8], new Float32Array(0)), { format })
    expect(spmm(none, f32([8, 5], new Float32Array(40))).dims).toEqual([0, 5])
    const flat = sparsify(f32([6, 0], new Float32Array(0)), { format })
    for (const N of [1, 2, 20])
      expect(Array.from(spmm(flat, f32([0, N], new Float32Array(0)), { bias }).data as Float32Array)).toEqual(Array.from({ length: 6 * N }, (_, i) => Math.floor(i / N) + 1))
  }
})

describe('auto', () => {
  const next = random(77)
  const made = (pattern: Pattern, density: number, options: SparsifyOptions = {}) =>
    sparsify(f32([256, 256], weights(256, 256, pattern, density, next)), { format: 'auto', columns: 64, ...options })

  test('answers dense where nothing is to be gained, CSR where zeros lie anywhere, blocks where they lie in blocks', () => {
    expect(made('csr', 1).format).toBe('dense')
    expect(made('csr', 0.05).format).toBe('csr')
    const { format } = made({ block: [8, 1] }, 0.1)
    expect(typeof format === 'object' && format.block[0] >= 4).toBe(true)
    expect(sparsify(f32([0, 3], new Float32Array(0))).format).toBe('csr')
  })

  test('keeps int8 weights in the blocks that they were pruned in, for many columns', () => {
    for (const block of [[1, 4], [4, 1], [16, 1], [32, 32]] as const)
      expect(made({ block: [...block] }, 0.2, { dtype: 'int8', columns: 128 }).format).toEqual({ block })
  })

  test('measured or not, the product is the same within rounding, and dense hands its matrix back', () => {
    const x = fill(256 * 3, next)
    for (const density of [1, 0.4, 0.1])
      for (const measure of [false, true]) {
        const dense = weights(256, 256, 'csr', density, next)
        const w = sparsify(f32([256, 256], dense), { format: 'auto', measure, columns: 3 })
        expect(Buffer.compare(Buffer.from(w.toDense().data.buffer), Buffer.from(dense.buffer))).toBe(0)
        const want = spmmOracle({ n: 256, k: 256, w: dense, x: [0, 1, 2].map((j) => x.subarray(j * 256, j * 256 + 256)), bias: x.subarray(0, 256) })
        const y = spmm(w, f32([3, 256], x), { layout: 'rows', bias: x.slice(0, 256) }).data as Float32Array
        expect(worst(y, (j, i) => j * 256 + i, want)).toBeLessThanOrEqual(1)
      }
  })

  test('chooses the same every time', () => {
    const dense = f32([128, 128], weights(128, 128, 'csr', 0.3, next))
    const formats = Array.from({ length: 3 }, () => JSON.stringify(sparsify(dense).format))
    expect(new Set(formats).size).toBe(1)
  })
})

test('a mask leaves elements out', () => {
  const w = f32([2, 3], Float32Array.of(1, 2, 3, 4, 5, 6))
  const kept = sparsify(w, { format: 'csr', mask: Uint8Array.of(1, 0, 1, 0, 0, 1) })
  expect(Array.from(kept.toDense().data as Float32Array)).toEqual([1, 0, 3, 0, 0, 6])
  expect(kept.nnz).toBe(3)
  expect(code(() => sparsify(w, { mask: new Uint8Array(5) }))).toBe('ERR_SHAPE mask')
})

test('a mask that empties a row is refused unless that is said', async () => {
  const w = f32([3, 3], Float32Array.of(1, 2, 3, 0, 0, 0, 4, 0, 6))
  const mask = Uint8Array.of(1, 0, 1, 0, 0, 0, 0, 1, 0)
  expect(code(() => sparsify(w, { mask }))).toBe('ERR_RANGE mask')
  expect(() => sparsify(w, { mask })).toThrow('row 2')
  await expect(sparsifyAsync(w, { mask })).rejects.toThrow('row 2')
  for (const format of ['csr', { block: [1, 4] }, 'auto'] as const) {
    const kept = sparsify(w, { format, mask, emptyRows: true })
    expect(Array.from(kept.toDense().data as Float32Array)).toEqual([1, 0, 3, 0, 0, 0, 0, 0, 0])
  }
  // Rows that were zeros before are not the mask's doing.
  expect(sparsify(w, { format: 'csr', mask: Uint8Array.of(1, 0, 1, 0, 0, 0, 0, 0, 1) }).nnz).toBe(3)
  expect(code(() => sparsify(w, { emptyRows: true }))).toBe('ERR_RANGE emptyRows')
  expect(code(() => sparsify(w, { mask, emptyRows: 1 as never }))).toBe('ERR_DTYPE emptyRows')
})

test('NaN and infinities of activations touch what is stored and nothing else', () => {
  const w = sparsify(f32([2, 40], Float32Array.from({ length: 80 }, (_, i) => (i === 3 || i === 45 ? 2 : 0))), { format: 'csr' })
  for (const N of [1, 2, 20]) {
    const x = new Float32Array(40 * N).fill(1)
    for (let p = 0; p < 40; p++) if (p !== 3) x.fill(p % 2 ? NaN : Infinity, p * N, p * N + N)
    const y = spmm(w, f32([40, N], x)).data as Float32Array
    for (let j = 0; j < N; j++) expect([y[j], y[N + j]]).toEqual([2, NaN])
  }
})

test('refuses what does not fit, naming the parameter', () => {
  const w = f32([4, 6], new Float32Array(24).fill(1))
  const good = sparsify(w, { format: 'csr' })
  const int8 = sparsify(tensor('int8', [4, 6], new Int8Array(24)), { format: 'csr' })
  const x = f32([6, 2], new Float32Array(12))
  const bytes = tensor('int8', [6, 2], new Int8Array(12))
  const huge = f32([1, 2], Float32Array.of(1, 3.4e38))
  const bad: [() => unknown, string][] = [
    [() => sparsify(f32([4], new Float32Array(4))), 'ERR_SHAPE w'],
    [() => sparsify(tensor('float64', [1, 1], new Float64Array(1))), 'ERR_DTYPE w.type'],
    [() => sparsify(w, { format: '2:4' }), 'ERR_SHAPE format'],
    [() => sparsify(w, { format: '2:6' }), 'ERR_RANGE w'],
    [() => sparsify(tensor('int8', [1, 4], Int8Array.of(1, 1, 1, 0)), { format: '2:4' }), 'ERR_RANGE w'],
    [() => sparsify(w, { format: '3:2' }), 'ERR_RANGE format'],
    [() => sparsify(w, { format: 'coo' as never }), 'ERR_RANGE format'],
    [() => sparsify(w, { format: { block: [0, 1] } }), 'ERR_RANGE format.block[0]'],
    [() => sparsify(w, { format: { block: [4] } as never }), 'ERR_RANGE format.block'],
    [() => sparsify(w, { dtype: 'float16' as never }), 'ERR_RANGE dtype'],
    [() => sparsify(tensor('int8', [4, 6], new Int8Array(24)), { dtype: 'float32' }), 'ERR_DTYPE dtype'],
    [() => sparsify(w, { scale: 1 }), 'ERR_RANGE scale'],
    [() => sparsify(tensor('int8', [2, 1], new Int8Array(2)), { scale: Float32Array.of(1) }), 'ERR_SHAPE scale'],
    [() => sparsify(tensor('int8', [2, 1], new Int8Array(2)), { scale: Float32Array.of(1, 0) }), 'ERR_RANGE scale'],
    [() => sparsify(w, { columns: 0 }), 'ERR_RANGE columns'],
    [() => sparsify(w, { format: 'csr', measure: true }), 'ERR_RANGE measure'],
    [() => sparsify(w, { formt: 'csr' } as never), 'ERR_RANGE options.formt'],
    [() => sparsify(f32([1, 2], Float32Array.of(1, NaN))), 'ERR_RANGE w'],
    [() => sparsify(f32([1, 2], Float32Array.of(1, Infinity)), { format: 'csr', dtype: 'int8' }), 'ERR_RANGE w'],
    [() => sparsify(huge, { format: 'csr', dtype: 'bfloat16' }), 'ERR_RANGE w'],
    [() => sparsify(tensor('bfloat16', [1, 1], Uint16Array.of(0x7f80))), 'ERR_RANGE w'],
    [() => spmm({} as never, x), 'ERR_HANDLE sparse'],
    [() => spmm(null as never, x), 'ERR_HANDLE sparse'],
    [() => spmm(good.share() as never, x), 'ERR_HANDLE sparse'],
    [() => spmm(structuredClone(good), x), 'ERR_HANDLE sparse'],
    [() => spmm(good, bytes), 'ERR_DTYPE x.type'],
    [() => spmm(int8, x), 'ERR_DTYPE x.type'],
    [() => spmm(good, f32([2, 6], new Float32Array(12))), 'ERR_SHAPE x'],
    [() => spmm(good, x, { layout: 'rows' }), 'ERR_SHAPE x'],
    [() => spmm(good, f32([], new Float32Array(1))), 'ERR_SHAPE x'],
    [() => spmm(good, x, { layout: 'row' as never }), 'ERR_RANGE layout'],
    [() => spmm(good, x, { bias: new Float32Array(3) }), 'ERR_SHAPE bias'],
    [() => spmm(good, x, { bias: new Int32Array(4) }), 'ERR_DTYPE bias'],
    [() => spmm(good, x, { activation: 'swish' as never }), 'ERR_RANGE activation'],
    [() => spmm(good, x, { xScale: 1 }), 'ERR_RANGE xScale'],
    [() => spmm(good, x, { outType: 'int8' }), 'ERR_RANGE outType'],
    [() => spmm(good, x, { threads: 0 }), 'ERR_RANGE threads'],
    [() => spmm(good, x, { out: new Float32Array(7) }), 'ERR_SHAPE out'],
    [() => spmm(good, x, { out: new Int32Array(8) }), 'ERR_DTYPE out'],
    [() => spmm(good, x, { out: (x.data as Float32Array).subarray(0, 8) }), 'ERR_RANGE out'],
    [() => spmm(int8, bytes, { activation: 'relu' }), 'ERR_RANGE activation'],
    [() => spmm(int8, bytes, { xZeroPoint: 200 }), 'ERR_RANGE xZeroPoint'],
    [() => spmm(int8, bytes, { outScale: 2 }), 'ERR_RANGE outScale'],
    [() => spmm(int8, bytes, { outType: 'float32', bias: Float32Array.of(1, NaN, 1, 1) }), 'ERR_RANGE bias'],
    [() => spmm(int8, bytes, { outType: 'float32', xScale: -1 }), 'ERR_RANGE xScale'],
  ] // prettier-ignore
  for (const [f, want] of bad) expect([want, String(f), code(f)]).toEqual([want, String(f), want])
  good.dispose()
  expect(code(() => spmm(good, x))).toBe('ERR_HANDLE sparse')
  expect(code(() => good.toDense())).toBe('ERR_HANDLE SparseMatrix')
})

test('handles are shared, counted and let go of', async () => {
  const before = native().handleCount()
  const w = f32([3, 4], Float32Array.from({ length: 12 }, (_, i) => i))
  const sparse = sparsify(w, { format: 'csr' })
  expect(code(() => sparsify(w, { format: '1:4' }))).toBe('ERR_RANGE w')
  // Only now: other tests' handles are collected between turns of the event loop.
  expect(native().handleCount()).toBe(before + 1)
  await expect(sparsifyAsync(w, { format: '1:4' })).rejects.toMatchObject({ code: 'ERR_RANGE' })
  expect(sparse.byteLength).toBeGreaterThan(11 * 6)
  const again = adopt(structuredClone(sparse.share())) as SparseMatrix
  expect([again.dims, again.format, again.nnz, again.dtype]).toEqual([[3, 4], 'csr', 11, 'float32'])
  sparse.dispose()
  const x = Float32Array.of(1, 2, 3, 4)
  expect(Array.from(spmm(again, x).data as Float32Array)).toEqual([20, 60, 100])
  const running = spmmAsync(again, x)
  again.dispose()
  expect(Array.from((await running).data as Float32Array)).toEqual([20, 60, 100])
})

test('the async twins answer the same, and write into out', async () => {
  const next = random(1)
  const [n, k, N] = [300, 400, 200]
  const dense = f32([n, k], weights(n, k, 'csr', 0.1, next))
  const x = f32([k, N], fill(k * N, next))
  for (const options of [{ format: 'csr' }, { format: { block: [4, 1] } }, { format: 'auto' }] as SparsifyOptions[]) {
    const [one, two] = [sparsify(dense, options), await sparsifyAsync(dense, options)]
    const out = new Float32Array(n * N)
    const y = await spmmAsync(two, x, { out })
    expect(y.data).toBe(out)
    expect(Buffer.compare(Buffer.from(out.buffer), Buffer.from(spmm(one, x).data.buffer))).toBe(0)
  }
})

test('a product given its out leaves memory as it was', () => {
  const script = `
    const { sparsify, spmm } = require(${JSON.stringify(dist)})
    const w = { type: 'float32', dims: [1024, 1024], data: Float32Array.from({ length: 1 << 20 }, (_, i) => (i % 10 ? 0 : i % 7)) }
    const s = sparsify(w, { format: 'csr' }), x = { type: 'float32', dims: [1024, 40], data: new Float32Array(40960).fill(1) }
    const out = new Float32Array(40960)
    for (let i = 0; i < 20; i++) spmm(s, x, { out })
    global.gc()
    const before = process.memoryUsage()
    for (let i = 0; i < 100; i++) spmm(s, x, { out })
    global.gc()
    const after = process.memoryUsage()
    // Less is possible: what the collector still held the first time.
    console.log(after.arrayBuffers <= before.arrayBuffers, after.rss - before.rss < 4e6)`
  const r = spawnSync(process.execPath, ['--expose-gc', '-e', script], { encoding: 'utf8' })
  expect(r.stderr + r.stdout.trim()).toBe('true true')
})
