// Products of device tensors against the CPU's. Runs with WHITTLE_CUDA_LIBRARY naming the emulated library, and
// WHITTLE_CUBLASLT_LIBRARY the fake cuBLASLt (empty without its header): npm run test:cuda.
import {
  DevicePackedInt8,
  DeviceTensor,
  gemm,
  gemmAsync,
  gemmInt8,
  gemmInt8Async,
  packInt8,
  packInt8Async,
  toDevice,
  WhittleError,
  type Tensor,
} from '../../lib/index'

const floats = (seed: number, ...dims: number[]): Tensor<Float32Array> => ({
  type: 'float32',
  dims,
  data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(seed + i * 1.7) * 2),
})
const bytes = (type: 'int8' | 'uint8', seed: number, ...dims: number[]): Tensor => {
  const from = Int32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => ((seed + i) * 2654435761) >>> 24)
  return { type, dims, data: type === 'int8' ? Int8Array.from(from) : Uint8Array.from(from) }
}
const up = (t: Tensor): DeviceTensor => toDevice(t)
const vector = (data: Float32Array | Int32Array): DeviceTensor => toDevice(data)

async function caught(body: () => unknown): Promise<string> {
  try {
    await body()
  } catch (e) {
    return e instanceof WhittleError ? `${e.code} ${e.parameter}` : String(e)
  }
  return 'nothing'
}

const withLibrary = process.env['WHITTLE_CUBLASLT_LIBRARY'] === '' ? test.skip : test

test('gemmInt8 has the bits of the CPU, packed or not, for few rows and many', async () => {
  for (const rows of [1, 5, 40])
    for (const [aType, bType] of [['int8', 'int8'], ['uint8', 'int8'], ['int8', 'uint8'], ['uint8', 'uint8']] as const) // prettier-ignore
      for (const outType of ['int32', 'float32', 'int8', 'uint8'] as const) {
        const a = bytes(aType, rows, 2, rows, 19)
        const b = bytes(bType, 3, 19, 7)
        const scales = Float32Array.from({ length: 7 }, (_, i) => 0.01 + i / 100)
        const bias = outType === 'int32' ? Int32Array.of(1, -2, 3, -4, 5, -6, 7) : Float32Array.of(1, -2, 3, -4, 5, -6, 7)
        const zeros = { aZeroPoint: 3, bZeroPoint: bType === 'int8' ? -5 : 120, outType }
        const scaled = outType === 'int32' ? {} : { aScale: 0.02, activation: 'gelu' as const }
        const codes = outType === 'int8' || outType === 'uint8' ? { outScale: 0.1, outZeroPoint: 7 } : {}
        const common = { ...zeros, ...scaled, ...codes }
        const want = gemmInt8(a, b, { ...common, bias, ...(outType === 'int32' ? {} : { bScale: scales }) })
        const there = { ...common, bias: vector(bias), ...(outType === 'int32' ? {} : { bScale: vector(scales) }) }
        const packed = packInt8(up(b))
        for (const y of [gemmInt8(up(a), up(b), there), gemmInt8(up(a), packed, there), await gemmInt8Async(up(a), packed, there)])
          expect(y.toHost()).toEqual(want)
        packed.dispose()
      }
})

test('weights stored with an output channel a row, and a zero point for each', async () => {
  const a = bytes('uint8', 1, 20, 33)
  const b = bytes('int8', 2, 6, 33)
  const zeros = Int8Array.of(0, 1, -2, 3, -4, 5)
  const want = gemmInt8(a, b, { transposeB: true, bZeroPoint: zeros })
  const packed = await packInt8Async(up(b), { transpose: true })
  expect([packed.k, packed.n, packed.type, packed.location]).toEqual([33, 6, 'int8', 'cuda:0'])
  expect(gemmInt8(up(a), packed, { bZeroPoint: toDevice(zeros) }).toHost()).toEqual(want)
  expect(gemmInt8(up(a), up(b), { transposeB: true, bZeroPoint: toDevice(zeros) }).toHost()).toEqual(want)
})

withLibrary('gemm multiplies floats as the CPU does, within the bound of float32', async () => {
  const bias = floats(9, 6)
  for (const transposeA of [false, true])
    for (const transposeB of [false, true])
      for (const batched of [false, true]) {
        const a = transposeA ? floats(1, 2, 11, 5) : floats(1, 2, 5, 11)
        const b = transposeB ? floats(2, ...(batched ? [2] : []), 6, 11) : floats(2, ...(batched ? [2] : []), 11, 6)
        for (const activation of ['none', 'relu', 'silu'] as const) {
          const options = { transposeA, transposeB, alpha: 0.5, activation }
          const want = gemm(a, b, { ...options, bias })
          const there = { ...options, bias: up(bias) }
          for (const y of [gemm(up(a), up(b), there), await gemmAsync(up(a), up(b), there)]) {
            expect(y.dims).toEqual(want.dims)
            y.toHost().data.forEach((v, i) => expect(Math.abs(Number(v) - (want.data[i] as number))).toBeLessThan(2e-5))
          }
        }
      }
})

withLibrary('gemm of bfloat16 answers bfloat16', () => {
  const one = { type: 'bfloat16', dims: [2, 2], data: Uint16Array.of(0x3f80, 0, 0, 0x3f80) } as const
  const b = { type: 'bfloat16', dims: [2, 2], data: Uint16Array.of(0x4000, 0xbf80, 0x3f00, 0x4040) } as const
  expect(gemm(up(one), up(b)).toHost()).toEqual({ ...b, dims: [2, 2] })
})

test('without cuBLASLt gemm is ERR_DEVICE with the reason, and gemmInt8 goes on', () => {
  const { spawnSync } = jest.requireActual<typeof import('node:child_process')>('node:child_process')
  const dist = JSON.stringify(require.resolve('../../dist'))
  const script = `const w = require(${dist}); const f = w.toDevice({ type: 'float32', dims: [1, 1], data: Float32Array.of(1) })
    try { w.gemm(f, f) } catch (e) { console.log(e.code, e.parameter, /uBLASLt|CUBLASLT/.test(e.message)) }
    const b = w.toDevice({ type: 'int8', dims: [20, 1], data: new Int8Array(20).fill(3) })
    const y = w.gemmInt8(b, w.toDevice({ type: 'int8', dims: [1, 1], data: Int8Array.of(5) })); console.log(y.toHost().data[19])`
  const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, WHITTLE_CUBLASLT_LIBRARY: '/nowhere.so' }, encoding: 'utf8' })
  expect(r.stdout.trim().split('\n')).toEqual(['ERR_DEVICE a true', '15'])
})

test('operands elsewhere, shapes and values that do not fit are refused by name', async () => {
  const f = up(floats(1, 4, 8))
  const a = up(bytes('int8', 1, 4, 8))
  const w = up(bytes('int8', 2, 8, 3))
  const packed = packInt8(w)
  const gone = packInt8(w)
  gone.dispose()
  const cases: [() => unknown, string][] = [
    [() => gemm(f, floats(2, 8, 3) as never), 'ERR_DEVICE b'],
    [() => gemm(floats(2, 3, 4) as never, f), 'ERR_DEVICE a'],
    [() => gemmAsync(f, f, { transposeB: true, bias: floats(1, 4) as never }), 'ERR_DEVICE bias'],
    [() => gemm(f, f, { transposeB: true, out: new Float32Array(16) as never }), 'ERR_DEVICE out'],
    [() => gemm(f, f, { transposeB: true, c: f } as never), 'ERR_DEVICE c'],
    [() => gemm(f, f), 'ERR_SHAPE b'],
    [() => gemm(f, a as never), 'ERR_DTYPE b.type'],
    [() => gemm(f, f, { transposeB: true, alpha: NaN }), 'ERR_RANGE alpha'],
    [() => gemm(f, f, { transposeB: true, activation: 'rely' as never }), 'ERR_RANGE activation'],
    [() => gemm(f, f, { transposeB: true, out: f }), 'ERR_SHAPE out'],
    [() => gemm(up(floats(1, 2, 4, 8)), up(floats(1, 3, 8, 2))), 'ERR_SHAPE b'],
    [() => gemmInt8(a, bytes('int8', 2, 8, 3) as never), 'ERR_DEVICE b'],
    [() => gemmInt8(bytes('int8', 2, 4, 8) as never, packed), 'ERR_DEVICE a'],
    [() => gemmInt8(a, packInt8(bytes('int8', 2, 8, 3)) as never), 'ERR_DEVICE b'],
    [() => gemmInt8(a, w, { bias: Int32Array.of(1, 2, 3) as never }), 'ERR_DEVICE bias'],
    [() => gemmInt8(a, w, { outType: 'float32', bScale: Float32Array.of(1, 2, 3) as never }), 'ERR_DEVICE bScale'],
    [() => gemmInt8(a, w, { bZeroPoint: Int8Array.of(1, 2, 3) as never }), 'ERR_DEVICE bZeroPoint'],
    [() => gemmInt8(a, gone), 'ERR_HANDLE b'],
    [() => gemmInt8(a, packed, { transposeB: true }), 'ERR_RANGE transposeB'],
    [() => gemmInt8(a, w, { aScale: 1 }), 'ERR_RANGE aScale'],
    [() => gemmInt8(a, w, { outScale: 1 }), 'ERR_RANGE outScale'],
    [() => gemmInt8(a, w, { aZeroPoint: 300 }), 'ERR_RANGE aZeroPoint'],
    [() => gemmInt8(a, a), 'ERR_SHAPE b'],
    [() => gemmInt8(a, w, { outType: 'float32', bScale: vector(Float32Array.of(1, -1, 1)) }), 'ERR_RANGE bScale'],
    [() => gemmInt8(a, w, { outType: 'float32', bias: vector(Float32Array.of(1, NaN, 1)) }), 'ERR_RANGE bias'],
    [() => gemmInt8(a, w, { bias: vector(Int32Array.of(2147483647, 0, 0)) }), 'ERR_RANGE bias'],
    [() => gemmInt8(up(bytes('uint8', 1, 1, 40000)), up(bytes('uint8', 1, 40000, 1))), 'ERR_RANGE a'],
    [() => packInt8(a, { scale: 1 } as never), 'ERR_DEVICE scale'],
    [() => packInt8(f), 'ERR_DTYPE w.type'],
  ]
  for (const [body, want] of cases) expect(await caught(body)).toBe(want)
  expect(packed).toBeInstanceOf(DevicePackedInt8)
})
