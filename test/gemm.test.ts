import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import { devices, gemm, gemmAsync, packFloat32, setThreads, WhittleError, type Activation, type GemmOptions, type Tensor } from '../lib/index'
import { fixtures } from './oracle/fixtures'
import { bound, product } from './oracle/gemm'

// A small generator, seeded, so that failures repeat.
let state = 1
const random = (): number => ((state = (state * 48271) % 2147483647) / 2147483647) * 2 - 1
const floats = (n: number): Float32Array => Float32Array.from({ length: n }, random)
const f32 = (dims: number[], data: Float32Array = floats(dims.reduce((x, y) => x * y, 1))): Tensor<Float32Array> => ({ type: 'float32', dims, data })

beforeEach(() => {
  state = 12345
})

function expectClose(got: Float32Array, want: { y: Float64Array; size: Float64Array }, k: number): void {
  expect(got.length).toBe(want.y.length)
  got.forEach((g, i) => {
    const w = want.y[i] as number
    if (!(Math.abs(g - w) <= bound(want.size[i] as number, k, w))) throw new Error(`[${i}]: got ${g}, want ${w}`)
  })
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

const kActivations: Activation[] = ['none', 'relu', 'relu6', 'hardswish', 'sigmoid', 'tanh', 'silu', 'gelu', 'gelu_tanh', { clip: [-0.25, Infinity] }]

test.each(fixtures('gemm', /^f32_(m\d|extreme|scales)/).map((c) => [c.name, c] as const))('fixture %s', (_, c) => {
  const load = (role: string): Tensor<Float32Array> => f32([...c.tensor(role).dims], c.tensor(role).data as Float32Array)
  const options: GemmOptions = {
    transposeA: c.parameters.transposeA ?? false,
    transposeB: c.parameters.transposeB ?? false,
    activation: c.parameters.activation,
    ...(c.has('bias') ? { bias: load('bias') } : {}),
  }
  c.check('y', gemm(load('a'), load('b'), options).data)
})

test('agrees with a product in doubles for every transpose, activation and option', () => {
  for (let round = 0; round < 200; round++) {
    const int = (n: number): number => Math.floor(((random() + 1) / 2) * n)
    const [m, n, k] = [int(40), int(50), int(70)]
    const transposeA = int(2) === 1
    const transposeB = int(2) === 1
    const a = f32(transposeA ? [k, m] : [m, k])
    const b = f32(transposeB ? [n, k] : [k, n])
    const c = f32([m, n])
    const bias = f32([n])
    const activation = kActivations[int(kActivations.length)] as Activation
    const options = { transposeA, transposeB, alpha: random(), beta: random(), activation }
    const y = gemm(a, b, { ...options, c, bias })
    expect(y.dims).toEqual([m, n])
    expectClose(y.data, product(a.data, b.data, m, n, k, { ...options, c: (i, j) => c.data[i * n + j] as number, bias: bias.data }), k)
  }
})

test('broadcasts leading dimensions as numpy does', () => {
  const cases = [
    [[2, 3, 4, 5], [5, 6]],
    [[4, 5], [2, 3, 5, 6]],
    [[2, 1, 4, 5], [3, 5, 6]],
    [[3, 4, 5], [2, 1, 5, 6]],
    [[2, 3, 4, 5], [2, 3, 5, 6]],
    [[1, 1, 4, 5], [1, 5, 6]],
    [[0, 4, 5], [5, 6]],
  ] as const
  for (const [da, db] of cases) {
    const a = f32([...da])
    const b = f32([...db])
    const leadA = da.slice(0, -2)
    const leadB = db.slice(0, -2)
    const rank = Math.max(leadA.length, leadB.length)
    const at = (lead: readonly number[], d: number): number => lead[lead.length - rank + d] ?? 1
    const batch = Array.from({ length: rank }, (_, d) => (at(leadA, d) === 1 ? at(leadB, d) : at(leadA, d)))
    const y = gemm(a, b)
    expect(y.dims).toEqual([...batch, 4, 6])
    const total = batch.reduce((x, d) => x * d, 1)
    for (let t = 0; t < total; t++) {
      let [rest, ia, ib, sa, sb] = [t, 0, 0, 1, 1]
      for (let d = rank - 1; d >= 0; d--) {
        const i = rest % (batch[d] as number)
        rest = Math.floor(rest / (batch[d] as number))
        if (at(leadA, d) !== 1) ia += i * sa
        if (at(leadB, d) !== 1) ib += i * sb
        sa *= at(leadA, d)
        sb *= at(leadB, d)
      }
      const want = product(a.data.subarray(ia * 20, ia * 20 + 20), b.data.subarray(ib * 30, ib * 30 + 30), 4, 6, 5)
      expectClose(y.data.subarray(t * 24, t * 24 + 24), want, 5)
    }
  }
})

test('broadcasts c to the result', () => {
  const a = f32([2, 3, 4])
  const b = f32([4, 5])
  const plain = gemm(a, b).data
  for (const dims of [[], [1], [5], [1, 5], [3, 1], [3, 5], [1, 3, 5], [2, 1, 5], [2, 3, 5], [2, 1, 1]]) {
    const c = f32(dims)
    const [cb, ci, cj] = [dims[dims.length - 3] ?? 1, dims[dims.length - 2] ?? 1, dims[dims.length - 1] ?? 1]
    const y = gemm(a, b, { c, beta: 2 }).data
    y.forEach((v, t) => {
      const [z, i, j] = [Math.floor(t / 15), Math.floor(t / 5) % 3, t % 5]
      const from = ((cb === 1 ? 0 : z) * ci + (ci === 1 ? 0 : i)) * cj + (cj === 1 ? 0 : j)
      expect(v).toBeCloseTo((plain[t] as number) + 2 * (c.data[from] as number), 5)
    })
  }
})

test('beta multiplies what out holds, and 0 ignores it, NaN included', () => {
  const a = f32([3, 2], new Float32Array([1, 2, 3, 4, 5, 6]))
  const b = f32([2, 2], new Float32Array([1, 0, 0, 1]))
  const out = new Float32Array(6).fill(10)
  expect(gemm(a, b, { out, beta: 0.5 }).data).toBe(out)
  expect([...out]).toEqual([6, 7, 8, 9, 10, 11])
  out.fill(NaN)
  expect([...gemm(a, b, { out }).data]).toEqual([1, 2, 3, 4, 5, 6])
  const c = f32([3, 2], new Float32Array(6).fill(NaN))
  expect([...gemm(a, b, { c, beta: 0 }).data]).toEqual([1, 2, 3, 4, 5, 6])
})

test('an inner dimension of 0 leaves beta times c, bias and activation', () => {
  const y = gemm(f32([2, 0]), f32([0, 3]), { bias: f32([3], new Float32Array([-1, 2, 9])), c: f32([1], new Float32Array([0.5])), activation: 'relu6' })
  expect([...y.data]).toEqual([0, 2.5, 6, 0, 2.5, 6])
  expect([...gemm(f32([2, 0]), f32([0, 3])).data]).toEqual([0, 0, 0, 0, 0, 0])
  expect(gemm(f32([0, 4]), f32([4, 3])).dims).toEqual([0, 3])
  expect(gemm(f32([3, 4]), f32([4, 0])).data.length).toBe(0)
})

test('accepts typed arrays with dims, and views at an offset', () => {
  const memory = floats(100)
  const a = memory.subarray(3, 15)
  const b = memory.subarray(41, 61)
  expectClose(gemm(a, b, { aDims: [3, 4], bDims: [4, 5] }).data, product(a, b, 3, 5, 4), 4)
})

test('takes matrices that lie apart, and leaves alone what lies between', () => {
  for (let round = 0; round < 60; round++) {
    const int = (n: number): number => Math.floor(((random() + 1) / 2) * n)
    const [batch, m, n, k] = [1 + int(3), 1 + int(20), 1 + int(30), 1 + int(40)]
    const [transposeA, transposeB] = [int(2) === 1, int(2) === 1]
    const [aRows, aCols] = transposeA ? [k, m] : [m, k]
    const [bRows, bCols] = transposeB ? [n, k] : [k, n]
    const [lda, ldb, ldc] = [aCols + int(4), bCols + int(4), n + int(4)]
    const [strideA, strideB, strideC] = [aRows * lda + int(9), int(2) * (bRows * ldb + int(9)), m * ldc + int(9)]
    const a = floats(batch * strideA)
    const b = floats(batch * (strideB || bRows * ldb))
    const out = floats((batch - 1) * strideC + m * ldc + 3)
    const before = out.slice()
    const beta = random()
    const options = { transposeA, transposeB, aDims: [batch, aRows, aCols], bDims: [batch, bRows, bCols], lda, ldb, ldc, strideA, strideB, strideC, beta, out }
    const y = gemm(a, b, options)
    expect(y.data).toBe(out)
    expect(y.dims).toEqual([batch, m, n])
    const dense = (data: Float32Array, at: number, rows: number, cols: number, ld: number): Float32Array =>
      Float32Array.from({ length: rows * cols }, (_, i) => data[at + Math.floor(i / cols) * ld + (i % cols)] as number)
    const untouched = before.slice()
    for (let i = 0; i < batch; i++) {
      const c = (r: number, j: number): number => before[i * strideC + r * ldc + j] as number
      const of = [dense(a, i * strideA, aRows, aCols, lda), dense(b, i * strideB, bRows, bCols, ldb)] as const
      expectClose(dense(out, i * strideC, m, n, ldc), product(...of, m, n, k, { transposeA, transposeB, beta, c }), k)
      for (let r = 0; r < m; r++) untouched.set(out.subarray(i * strideC + r * ldc, i * strideC + r * ldc + n), i * strideC + r * ldc)
    }
    expect(out).toEqual(untouched)
  }
})

test('refuses matrices that lie apart but do not fit', () => {
  const [a, b] = [floats(12), floats(12)]
  const dims = { aDims: [3, 4], bDims: [4, 3] }
  const run = (options: object) => codeOf(() => gemm(a, b, { ...dims, ...options }))
  expect(run({ lda: 3 })).toBe('ERR_RANGE lda')
  expect(run({ lda: 9 })).toBe('ERR_SHAPE a')
  expect(run({ ldb: 7 })).toBe('ERR_SHAPE b')
  expect(run({ strideB: -1 })).toBe('ERR_RANGE strideB')
  expect(run({ ldc: 2, out: floats(9) })).toBe('ERR_RANGE ldc')
  expect(run({ ldc: 4 })).toBe('ERR_DTYPE out')
  expect(run({ ldc: 4, out: floats(10) })).toBe('ERR_SHAPE out')
  expect(run({ strideC: 8, out: floats(9) })).toBe('ERR_RANGE strideC')
  expect(run({ lda: 4, aDims: undefined })).toBe('ERR_DTYPE a')
  expect(codeOf(() => gemm(f32([3, 4]), b, { bDims: [4, 3], lda: 4 }))).toBe('ERR_DTYPE a')
  expect(codeOf(() => gemm(f32([3, 4]), packFloat32(f32([4, 3])), { ldc: 4 } as object))).toBe('ERR_RANGE ldc')
  const shared = floats(40)
  expect(codeOf(() => gemm(shared.subarray(0, 12), b, { ...dims, ldc: 5, out: shared.subarray(11) }))).toBe('ERR_RANGE out')
})

test('NaN and 0 times infinity propagate', () => {
  const y = gemm(f32([2, 2], new Float32Array([NaN, 1, 1, Infinity])), f32([2, 2], new Float32Array([1, 0, 1, 0])))
  expect([...y.data]).toEqual([NaN, NaN, Infinity, NaN])
})

test('gives the same bits on one thread and on several', () => {
  const before = devices().cpu.threads
  const a = f32([123, 457])
  const b = f32([457, 391])
  setThreads(1)
  const one = gemm(a, b, { activation: 'gelu' }).data
  setThreads(4)
  const four = gemm(a, b, { activation: 'gelu' }).data
  setThreads(before)
  expect(Buffer.compare(Buffer.from(one.buffer), Buffer.from(four.buffer))).toBe(0)
})

test('the asynchronous twin gives the same result, small outs included', async () => {
  const a = f32([300, 700])
  const b = f32([700, 500])
  const want = gemm(a, b, { activation: 'silu' }).data
  const calls = [gemmAsync(a, b, { activation: 'silu' }), gemmAsync(a, b, { activation: 'silu', out: new Float32Array(300 * 500) })]
  for (const y of await Promise.all(calls)) expect(Buffer.compare(Buffer.from(y.data.buffer), Buffer.from(want.buffer))).toBe(0)
  const small = new Float32Array(4)
  expect((await gemmAsync(f32([2, 3]), f32([3, 2]), { out: small })).data).toBe(small)
  await expect(gemmAsync(f32([2, 3]), f32([2, 3]))).rejects.toMatchObject({ code: 'ERR_SHAPE', parameter: 'b' })
})

test('refuses what does not fit, by name', () => {
  const a = f32([2, 3])
  const b = f32([3, 4])
  expect(codeOf(() => gemm(f32([6]), b))).toBe('ERR_SHAPE a')
  expect(codeOf(() => gemm(a, f32([3])))).toBe('ERR_SHAPE b')
  expect(codeOf(() => gemm(a, f32([4, 3])))).toBe('ERR_SHAPE b')
  expect(codeOf(() => gemm(a, b, { transposeA: true }))).toBe('ERR_SHAPE b')
  expect(codeOf(() => gemm(f32([2, 2, 3]), f32([3, 3, 4])))).toBe('ERR_SHAPE b')
  expect(codeOf(() => gemm(a, b, { bias: f32([3]) }))).toBe('ERR_SHAPE bias')
  expect(codeOf(() => gemm(a, b, { c: f32([4, 2]) }))).toBe('ERR_SHAPE c')
  expect(codeOf(() => gemm(a, b, { c: f32([2, 2, 4]) }))).toBe('ERR_SHAPE c')
  expect(codeOf(() => gemm(a, b, { out: new Float32Array(7) }))).toBe('ERR_SHAPE out')
  expect(codeOf(() => gemm({ ...a, dims: [2, 4] }, b))).toBe('ERR_SHAPE a')
  expect(codeOf(() => gemm({ type: 'float64', dims: [2, 3], data: new Float64Array(6) }, b))).toBe('ERR_DTYPE a.type')
  expect(codeOf(() => gemm(a, b, { out: new Float64Array(8) as unknown as Float32Array }))).toBe('ERR_DTYPE out')
  expect(codeOf(() => gemm(a, b, { alpha: NaN }))).toBe('ERR_RANGE alpha')
  expect(codeOf(() => gemm(a, b, { alpha: 1e39 }))).toBe('ERR_RANGE alpha')
  expect(codeOf(() => gemm(a, b, { beta: Infinity }))).toBe('ERR_RANGE beta')
  expect(codeOf(() => gemm(a, b, { beta: 1 }))).toBe('ERR_RANGE beta')
  expect(codeOf(() => gemm(a, b, { transposeA: 1 as unknown as boolean }))).toBe('ERR_DTYPE transposeA')
  expect(codeOf(() => gemm(a, b, { activation: 'mish' as Activation }))).toBe('ERR_RANGE activation')
  expect(codeOf(() => gemm(a, b, { activation: { clip: [1, 0] } }))).toBe('ERR_RANGE activation.clip')
  expect(codeOf(() => gemm(a, b, { activation: { clip: [NaN, 0] } }))).toBe('ERR_RANGE activation.clip[0]')
  expect(codeOf(() => gemm(a, b, { alhpa: 2 } as GemmOptions))).toBe('ERR_RANGE options.alhpa')
  expect(codeOf(() => gemm(null as unknown as Tensor, b))).toBe('ERR_DTYPE a')
  expect(codeOf(() => gemm({ ...a, location: 'gpu-buffer' }, b))).toBe('ERR_DEVICE a')
  const vast = { type: 'float32', dims: [2 ** 20, 2 ** 12], data: new Float32Array(0) }
  expect(codeOf(() => gemm(vast, b))).toBe('ERR_SHAPE a.dims')
  const column = { type: 'float32', dims: [2 ** 16, 1], data: new Float32Array(2 ** 16) }
  expect(codeOf(() => gemm(column, column, { transposeB: true }))).toBe('ERR_SHAPE b')
})

test('refuses an out that overlaps an input', () => {
  const memory = new Float32Array(64)
  const a = f32([4, 4], memory.subarray(0, 16))
  const b = f32([4, 4])
  expect(codeOf(() => gemm(a, b, { out: memory.subarray(8, 24) }))).toBe('ERR_RANGE out')
  expect(codeOf(() => gemm(b, a, { out: memory.subarray(0, 16) }))).toBe('ERR_RANGE out')
  expect(codeOf(() => gemm(b, b, { bias: memory.subarray(0, 4), out: memory.subarray(0, 16) }))).toBe('ERR_RANGE out')
  expect(codeOf(() => gemm(b, b, { c: a, out: memory.subarray(15, 31) }))).toBe('ERR_RANGE out')
  expect(gemm(a, b, { out: memory.subarray(16, 32) }).data.length).toBe(16)
  // One memory behind two objects.
  const shared = new SharedArrayBuffer(96)
  const twin = structuredClone(shared)
  const left = f32([4, 4], new Float32Array(shared, 0, 16))
  expect(codeOf(() => gemm(left, b, { out: new Float32Array(twin, 32, 16) }))).toBe('ERR_RANGE out')
  expect(gemm(f32([2, 2], new Float32Array(shared, 0, 4)), f32([2, 2]), { out: new Float32Array(twin, 16, 4) }).data.length).toBe(4)
})

test('empty products are no work, however many and however long their other dims', () => {
  const empty = (...dims: number[]): Tensor<Float32Array> => f32(dims, new Float32Array(0))
  const n = 2 ** 31 - 1
  expect(gemm(empty(n, 1, 0, 0), empty(1, n, 0, 1)).dims).toEqual([n, n, 0, 1])
  expect(gemm(empty(0, n), empty(n, 0)).dims).toEqual([0, 0])
  expect(codeOf(() => gemm(empty(n, 1, 1, 0), empty(1, n, 0, 1)))).toBe('ERR_SHAPE b')
  expect(codeOf(() => gemm(empty(0, 2 ** 31), empty(2 ** 31, 0)))).toBe('ERR_SHAPE a.dims')
  expect(codeOf(() => gemm(empty(2 ** 600, 2 ** 600, 0), empty(0, 1)))).toBe('ERR_SHAPE a.dims')
})

test('an operand that the options detach or shrink is refused', () => {
  for (const name of ['transposeA', 'alpha', 'bias', 'activation', 'out', 'c'])
    for (const side of ['a', 'b']) {
      const x = f32([2, 2])
      const options = {
        get [name]() {
          if (x.data.length) structuredClone(x.data.buffer, { transfer: [x.data.buffer as ArrayBuffer] })
          return undefined
        },
      }
      expect(codeOf(() => (side === 'a' ? gemm(x, f32([2, 2]), options) : gemm(f32([2, 2]), x, options)))).toMatch(/^ERR_/)
    }
})

test('clones and tokens of packed weights are told from tensors', () => {
  const packed = packFloat32(f32([3, 2]))
  for (const fake of [structuredClone(packed), packed.share(), {}])
    expect(codeOf(() => gemm(f32([2, 3]), fake as never))).toBe('ERR_HANDLE b')
  packed.dispose()
  expect(codeOf(() => gemm(f32([2, 3]), packed))).toBe('ERR_HANDLE b')
})

test('refuses detached operands', () => {
  const data = new Float32Array(6)
  structuredClone(data.buffer, { transfer: [data.buffer] })
  expect(codeOf(() => gemm({ type: 'float32', dims: [2, 3], data }, f32([3, 2])))).toMatch(/^ERR_/)
})

test('every variant of this machine gives the product, and the forcing takes', () => {
  const dist = JSON.stringify(path.join(__dirname, '..', 'dist'))
  const script = `const { gemm, devices } = require(${dist})
    const a = Float32Array.from({ length: 37 * 53 }, (_, i) => (i * 7 % 11) - 5), b = Float32Array.from({ length: 53 * 41 }, (_, i) => (i * 5 % 13) - 6)
    let sum = 0
    gemm(a, b, { aDims: [37, 53], bDims: [53, 41] }).data.forEach((v, i) => (sum += v * (i % 17)))
    console.log(devices().cpu.kernels.gemm, sum)`
  const seen = new Set<string>()
  for (const t of devices().cpu.tiers.filter((t) => t.supported)) {
    const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, WHITTLE_CPU: t.name }, encoding: 'utf8' })
    const [variant, sum] = r.stdout.trim().split(' ')
    if (['scalar', 'avx2', 'avx512', 'neon'].includes(t.name)) expect(variant).toBe(t.name)
    seen.add(sum as string) // small integers: exact in every order of summation
  }
  expect(seen.size).toBe(1)
})
