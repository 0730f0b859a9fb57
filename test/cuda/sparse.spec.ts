// Sparse device matrices against the CPU's. Runs with WHITTLE_CUDA_LIBRARY naming the emulated library: npm run test:cuda.
import {
  DeviceSparseMatrix,
  DeviceTensor,
  SparseMatrix,
  sparsify,
  sparsifyAsync,
  spmm,
  spmmAsync,
  toDevice,
  toDeviceAsync,
  WhittleError,
  type SparsifyOptions,
  type SpmmOptions,
  type Tensor,
} from '../../lib/index'

const uniform = (seed: number): (() => number) => {
  let s = (seed * 2654435761 + 12345) >>> 0
  return () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0
    return s / 2 ** 32
  }
}
const floats = (seed: number, ...dims: number[]): Tensor<Float32Array> => {
  const next = uniform(seed)
  return {
    type: 'float32',
    dims,
    data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => next() * 4 - 2),
  }
}
const bytes = (type: 'int8' | 'uint8', seed: number, ...dims: number[]): Tensor => {
  const next = uniform(seed)
  const from = Int32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => next() * 256)
  return { type, dims, data: type === 'int8' ? Int8Array.from(from) : Uint8Array.from(from) }
}
/** Weights [n, k] of which the first of every four is zero, and two of every other three in most places. */
const weights = (n: number, k: number, seed = 1): Tensor<Float32Array> => {
  const w = floats(seed, n, k)
  const next = uniform(seed + 7)
  w.data.forEach((_, i) => {
    if (i % 4 === 0 || i % 4 === 1 + ((i >> 2) % 3) || next() < 0.3) w.data[i] = 0
  })
  return w
}
const up = (t: Tensor | Float32Array | Int32Array | Uint8Array): DeviceTensor => toDevice(t as Tensor)

async function caught(body: () => unknown): Promise<string> {
  try {
    await body()
  } catch (e) {
    return e instanceof WhittleError ? `${e.code} ${e.parameter}` : String(e)
  }
  return 'nothing'
}

const close = (a: ArrayLike<number | bigint>, b: ArrayLike<number | bigint>, bound: number): void => {
  expect(a.length).toBe(b.length)
  let most = 0
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(Number(a[i]) - Number(b[i])))
  expect(most).toBeLessThanOrEqual(bound)
}

const formats = ['csr', '2:4', { block: [4, 1] }, { block: [32, 32] }] as const

test('sparsify stores what the CPU stores, in every type and format', async () => {
  const w = weights(20, 36)
  let turn = 0
  for (const format of formats)
    for (const dtype of ['float32', 'bfloat16', 'int8'] as const) {
      const want = sparsify(w, { format, dtype })
      const there = turn % 2 ? sparsify(up(w), { format, dtype }) : await sparsifyAsync(up(w), { format, dtype })
      for (const got of [there, turn++ % 3 ? toDevice(want) : await toDeviceAsync(want)]) {
        expect(got).toBeInstanceOf(DeviceSparseMatrix)
        expect([got.dims, got.format, got.dtype, got.nnz, got.sparsity]).toEqual([
          want.dims,
          want.format,
          want.dtype,
          want.nnz,
          want.sparsity,
        ])
        expect(got.location).toBe('cuda:0')
        expect(got.byteLength).toBeGreaterThan(want.nnz)
        expect(got.toDense().toHost()).toEqual(want.toDense())
        expect(got.scale?.toHost().data).toEqual(want.scale)
        got.dispose()
        got.dispose()
        expect(await caught(() => got.toDense())).toBe('ERR_HANDLE SparseMatrix')
      }
      want.dispose()
    }
})

test('a matrix moves as it is stored: the bytes are those that the device makes itself', async () => {
  const bytesOf = (m: DeviceSparseMatrix): [string, unknown][] =>
    Object.entries(m.parts)
      .map(([name, t]): [string, unknown] => [name, (t as DeviceTensor).toHost()])
      .sort(([a], [b]) => a.localeCompare(b))
  const w = weights(53, 84, 5)
  w.data.fill(0, 84 * 16, 84 * 33)
  for (const format of [...formats, '3:7', '1:4', '5:12'] as const)
    for (const dtype of ['float32', 'bfloat16', 'int8'] as const)
      for (const columns of [1, 64]) {
        const [n, m] = typeof format === 'string' && format !== 'csr' ? (format.split(':').map(Number) as [number, number]) : [1, 1]
        const data = w.data.map((v, i) => ((i * 5) % m < n || format === '2:4' ? v : 0))
        const here = sparsify({ ...w, data }, { format, dtype, columns })
        const moved = columns === 1 ? toDevice(here) : await toDeviceAsync(here)
        const there = sparsify(up({ ...w, data }), { format, dtype })
        expect([moved.numbers, bytesOf(moved)]).toEqual([there.numbers, bytesOf(there)])
        expect(Object.keys(moved.parts).includes('compressed')).toBe(format === '2:4' && dtype === 'int8')
        for (const m of [here, moved, there]) m.dispose()
      }
  const none = sparsify({ type: 'int8', dims: [0, 8], data: new Int8Array(0) }, { format: 'csr' })
  expect(toDevice(none).toDense().toHost()).toEqual(none.toDense())
})

test('a mask, and scales of codes, mean what they mean on the CPU', () => {
  const w = floats(3, 9, 16)
  const mask = Uint8Array.from(w.data, (v) => (Math.abs(v) > 1 ? 3 : 0))
  const want = sparsify(w, { format: 'csr', mask })
  const got = sparsify(up(w), { format: 'csr', mask: up(mask) })
  expect([got.nnz, got.toDense().toHost()]).toEqual([want.nnz, want.toDense()])
  const q = bytes('int8', 4, 9, 16)
  const scale = Float32Array.from({ length: 9 }, (_, i) => 0.1 + i)
  expect(sparsify(up(q), { format: 'csr', scale: up(scale) }).scale?.toHost().data).toEqual(scale)
  expect(sparsify(up(q), { format: 'csr', scale: 0.5 }).scale?.toHost().data).toEqual(new Float32Array(9).fill(0.5))
})

test("'auto' takes columns of 16 rows where they share enough, and what the CPU's chose moves as it is", () => {
  const dense = floats(1, 32, 64)
  expect(sparsify(up(dense)).format).toEqual({ block: [16, 1] })
  const few = { ...dense, data: dense.data.map((v, i) => (i % 67 === 0 ? v : 0)) }
  const csr = sparsify(up(few))
  expect(csr.format).toBe('csr')
  expect(csr.toDense().toHost().data).toEqual(few.data)
  const chosen = sparsify(dense)
  expect(toDevice(chosen).format).toEqual(chosen.format)
  expect(toDevice(chosen).toDense().toHost()).toEqual(chosen.toDense())
})

test('spmm of floats agrees with the CPU, in both layouts, with bias and activation', async () => {
  const w = weights(20, 36)
  const bias = floats(9, 20).data
  for (const format of formats)
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const here = sparsify(w, { format, dtype })
      const there = sparsify(up(w), { format, dtype })
      for (const [layout, dims] of [
        ['columns', [36, 7]],
        ['columns', [2, 36, 40]],
        ['rows', [3, 36]],
        ['rows', [2, 11, 36]],
        ['columns', [36]],
      ] as const)
        // prettier-ignore
        for (const more of dims.length + dims[0] === 38 ? [{}] : [{ activation: 'gelu' as const }]) {
          const x = floats(dims.length, ...dims)
          const want = spmm(here, x, { layout, bias, ...more })
          const options = { layout, bias: up(bias), ...more }
          const got = dims.length === 2 ? await spmmAsync(there, up(x), options) : spmm(there, up(x), options)
          expect([got.type, got.dims]).toEqual([want.type, want.dims])
          close(got.toHost().data, want.data, 36 * 4 * 88 * 2 ** -24)
        }
    }
})

test('spmm of bytes has the bits of the CPU', async () => {
  const w = weights(20, 36)
  for (const format of formats) {
    const here = sparsify(w, { format, dtype: 'int8' })
    const there = toDevice(here)
    for (const [index, outType] of (['int32', 'float32', 'int8', 'uint8'] as const).entries())
      for (const [type, layout, dims] of [
        ['int8', 'columns', [36, 9]],
        ['uint8', 'rows', [40, 36]],
        ['uint8', 'columns', [36, 2]],
      ].slice(index % 2) as ['int8' | 'uint8', 'rows' | 'columns', number[]][]) {
        // prettier-ignore
        const x = bytes(type, index, ...dims)
        const bias = index % 2 ? floats(index, 20).data : Int32Array.from({ length: 20 }, (_, i) => i * 99 - 700)
        const options: SpmmOptions = {
          layout,
          outType,
          xZeroPoint: type === 'int8' ? -3 : 120,
          ...(outType === 'int32' ? {} : { xScale: 0.02, activation: 'silu' }),
          ...(index > 1 ? { outScale: 0.1, outZeroPoint: 7 } : {}),
        }
        const want = spmm(here, x, { ...options, bias })
        const { out: _, bias: __, threads: ___, ...common } = options
        expect((await spmmAsync(there, up(x), { ...common, bias: up(bias) })).toHost()).toEqual(want)
        const out = up({ ...want, data: want.data.slice() as Uint8Array })
        expect(spmm(there, up(x), { ...common, bias: up(bias), out })).toBe(out)
        expect(out.toHost()).toEqual(want)
      }
  }
})

test('empty matrices and rows without a value give the bias', () => {
  const zeros: Tensor = { type: 'float32', dims: [3, 8], data: new Float32Array(24) }
  for (const format of formats)
    expect(
      spmm(sparsify(up(zeros), { format }), up(floats(1, 8, 2)), { bias: up(Float32Array.of(1, 2, 3)) }).toHost().data,
    ).toEqual(Float32Array.of(1, 1, 2, 2, 3, 3))
  const none = sparsify(up({ type: 'float32', dims: [0, 8], data: new Float32Array(0) }), { format: 'csr' })
  expect(spmm(none, up(floats(1, 8, 2))).toHost()).toEqual({ type: 'float32', dims: [0, 2], data: new Float32Array(0) })
  const flat = sparsify(up({ type: 'float32', dims: [2, 0], data: new Float32Array(0) }))
  expect(spmm(flat, up({ type: 'float32', dims: [0, 3], data: new Float32Array(0) })).toHost().data).toEqual(
    new Float32Array(6),
  )
})

test('what does not fit is refused by name', async () => {
  const w = up(weights(8, 16))
  const sparse = sparsify(w, { format: 'csr' })
  const codes = sparsify(up(bytes('int8', 1, 8, 16)), { format: 'csr' })
  const x = up(floats(1, 16, 3))
  const host = floats(1, 16, 3)
  const refused: readonly (readonly [string, () => unknown])[] = [
    ['ERR_SHAPE w', () => sparsify(up(floats(1, 4)))],
    ['ERR_DTYPE w.type', () => sparsify(up(Int32Array.of(1)))],
    ['ERR_RANGE w', () => sparsify(up(floats(1, 8, 16)), { format: '2:4' })],
    ['ERR_SHAPE format', () => sparsify(w, { format: '3:7' })],
    ['ERR_RANGE w', () => sparsify(up({ type: 'float32', dims: [1, 2], data: Float32Array.of(1, NaN) }))],
    ['ERR_DEVICE measure', () => sparsify(w, { measure: true } as SparsifyOptions as object)],
    ['ERR_DEVICE mask', () => sparsify(w, { mask: new Uint8Array(128) as unknown as DeviceTensor })],
    ['ERR_SHAPE mask', () => sparsify(w, { mask: up(new Uint8Array(3)) })],
    ['ERR_RANGE mask', () => sparsify(w, { mask: up(Uint8Array.from({ length: 128 }, (_, i) => Number(i > 15))) })],
    ['nothing', () => sparsify(w, { mask: up(new Uint8Array(128)), emptyRows: true })],
    ['ERR_RANGE emptyRows', () => sparsify(w, { emptyRows: true })],
    ['ERR_RANGE scale', () => sparsify(w, { scale: 1 })],
    ['ERR_RANGE scale', () => sparsify(up(bytes('int8', 1, 2, 4)), { scale: up(Float32Array.of(1, -1)) })],
    ['ERR_DTYPE dtype', () => sparsify(up(bytes('int8', 1, 2, 4)), { dtype: 'float32' })],
    ['ERR_RANGE options.formats', () => sparsify(w, { formats: 'csr' } as object)],
    ['ERR_DEVICE x', () => spmm(sparse, host as unknown as DeviceTensor)],
    ['ERR_DEVICE sparse', () => spmm(sparsify(weights(8, 16)) as unknown as DeviceSparseMatrix, x)],
    ['ERR_DTYPE x.type', () => spmm(codes, x)],
    ['ERR_SHAPE x', () => spmm(sparse, up(floats(1, 15, 3)))],
    ['ERR_DEVICE bias', () => spmm(sparse, x, { bias: new Float32Array(8) as unknown as DeviceTensor })],
    ['ERR_SHAPE bias', () => spmm(sparse, x, { bias: up(new Float32Array(7)) })],
    ['ERR_RANGE xScale', () => spmm(sparse, x, { xScale: 2 })],
    ['ERR_RANGE outType', () => spmm(sparse, x, { outType: 'int8' })],
    ['ERR_RANGE activation', () => spmm(codes, up(bytes('int8', 1, 16, 2)), { activation: 'relu' })],
    ['ERR_RANGE bias', () => spmm(codes, up(bytes('int8', 1, 16, 2)), { bias: up(new Int32Array(8).fill(2 ** 31 - 1)) })],
    ['ERR_RANGE bias', () => spmm(codes, up(bytes('int8', 1, 16, 2)), { outType: 'float32', bias: up(new Float32Array(8).fill(NaN)) })],
    ['ERR_RANGE xScale', () => spmm(sparsify(up(bytes('int8', 1, 8, 16)), { scale: 3e38 }), up(bytes('int8', 1, 16, 2)), { outType: 'float32', xScale: 10 })],
    ['ERR_SHAPE out', () => spmm(sparse, x, { out: up(new Float32Array(3)) })],
    ['ERR_RANGE out', () => spmm(sparsify(up(weights(16, 16))), x, { out: x })],
    ['ERR_DEVICE sparse', () => spmm(sparsify(weights(8, 16)), up(floats(1, 16, 3)) as unknown as Tensor)],
    ['ERR_RANGE device', () => toDevice(sparsify(weights(8, 16)), 'gpu')],
    ['ERR_HANDLE SparseMatrix', () => {
      const gone: SparseMatrix = sparsify(weights(8, 16))
      gone.dispose()
      return toDevice(gone)
    }],
  ] // prettier-ignore
  const said = await Promise.all(refused.map(([, body]) => caught(body)))
  expect(said).toEqual(refused.map(([what]) => what))
})
