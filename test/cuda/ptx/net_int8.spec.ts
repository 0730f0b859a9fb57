// The PTX of products and convolutions of bytes in plans, interpreted: tensor cores, which the emulator stands in for, against sums
// made here, and the requests of both. WHITTLE_NVCC names nvcc: npm run test:cuda.
import { gemmInt8 } from '../../../lib/index'
import { compile } from './compile'
import { active, Runner, struct, type Modules } from './launches'

let modules: Modules
const ran = new Set<string>()

beforeAll(async () => {
  modules = { net_int8: await compile('net_int8') } as never
}, 300000)

const full = process.env['WHITTLE_PTX_FULL'] === '1'
const schedules = full ? ([{}, { order: 'reversed' }, { order: 'random', seed: 3 }] as const) : ([{ order: 'random', seed: 3 }] as const)
const bytes = (seed: number, n: number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => ((i + seed) * 2654435761) >>> 13)
const signed = (x: Uint8Array): Int8Array => new Int8Array(x.buffer)

interface Call {
  m: number
  n: number
  k: number
  a: Uint8Array
  aSigned: boolean
  /** n rows along k */
  b: Uint8Array
  aZero: number
  /** of any two matrices: found while it runs */
  bZero?: number
  window?: readonly number[]
  out: 'int32' | 'uint8'
}

// As the host code of cuda/net_int8.cu makes it.
function run(r: Runner, c: Call): Uint8Array {
  const { gpu, flags, launch } = r.open('net_int8' as never)
  const { m, n, k, window } = c
  const line = Math.ceil(k / 16) * 16
  const loose = c.bZero !== undefined
  const rows = new Uint8Array(n * line)
  for (let j = 0; j < n; j++) rows.set(c.b.subarray(j * k, (j + 1) * k), j * line)
  const sums = Int32Array.from({ length: n }, (_, j) => signed(rows.slice(j * line, (j + 1) * line)).reduce((a, v) => a + v, 0))
  const wide = window ? (window[2] as number) % 16 === 0 : k % 16 === 0
  const columns = Math.ceil(n / 64)
  const tiles = columns * Math.ceil(m / 64)
  const out = gpu.put(m * n * (c.out === 'int32' ? 4 : 1))
  const p = struct(
    ...([m, n, k, columns, tiles].map((v) => ['u32', v]) as ['u32', number][]),
    ['pointer', gpu.put(c.a)], ['pointer', gpu.put(loose ? c.b : rows)],
    ...([m * k, k * n, m * n, 1, loose ? k : line].map((v) => ['pointer', v]) as ['pointer', number][]),
    ['u32', c.aSigned ? 0 : 0x80808080], ['u32', 0],
    ['pointer', 0], ['pointer', loose ? 0 : gpu.put(sums)],
    ['i32', c.aZero], ['pointer', 0], ['pointer', loose ? gpu.put(Int8Array.of(c.bZero as number)) : 0], ['u8', 0], ['u8', 1],
    ['f32', 0.5], ['pointer', 0], ['pointer', c.out === 'int32' ? 0 : gpu.put(new Float32Array(n).fill(0.01))], ['pointer', 0], ['pointer', 0],
    [active(undefined), 4], ['i32', c.out === 'int32' ? 0 : 3], ['i32', 5], ['f32', 2], ['pointer', out],
  ) // prettier-ignore
  const g = struct(...((window ?? new Array<number>(13).fill(0)).map((v) => ['i32', v]) as ['i32', number][]))
  const name = `bytes_kernel<${loose ? '0,0,1' : `${window ? 1 : 0},${wide ? 1 : 0},0`}>`
  ran.add(name)
  launch(name, tiles, 256, p, g, flags)
  return new Uint8Array(gpu.get(out, m * n * (c.out === 'int32' ? 4 : 1)))
}

/** Rows of windows, as products take them. */
function rowsOf(c: Call): Uint8Array {
  const [h, w, ic, oh, ow, kh, kw, sh, sw, dh, dw, top, left] = c.window as unknown as [number, number, number, number, number, number, number, number, number, number, number, number, number]
  const out = new Uint8Array(c.m * c.k)
  for (let i = 0; i < c.m; i++)
    for (let p = 0; p < c.k; p++) {
      const tap = Math.floor(p / ic)
      const y = (Math.floor(i / ow) % oh) * sh - top + Math.floor(tap / kw) * dh
      const x = (i % ow) * sw - left + (tap % kw) * dw
      out[i * c.k + p] = y >= 0 && y < h && x >= 0 && x < w && tap < kh * kw ? (c.a[((Math.floor(i / ow / oh) * h + y) * w + x) * ic + (p % ic)] as number) : c.aZero
    }
  return out
}

function wanted(c: Call): Uint8Array {
  const a = c.window ? rowsOf(c) : c.a
  const tensor = (data: Uint8Array, sign: boolean, dims: number[]) => ({ type: sign ? 'int8' : 'uint8', dims, data: sign ? signed(data.slice()) : data }) as never
  const more = c.out === 'int32' ? { outType: 'int32' } : { outType: 'uint8', aScale: 0.5, bScale: 0.01, outScale: 2, outZeroPoint: 5 }
  const y = gemmInt8(tensor(a, c.aSigned, [c.m, c.k]), tensor(c.b, true, [c.n, c.k]), { transposeB: true, aZeroPoint: c.aZero, bZeroPoint: c.bZero ?? 0, ...more } as never) as { data: unknown }
  const data = y.data as ArrayBufferView
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

const calls: readonly Call[] = [
  { m: 65, n: 9, k: 48, a: bytes(1, 65 * 48), aSigned: false, b: bytes(2, 9 * 48), aZero: 131, out: 'uint8' },
  { m: 5, n: 70, k: 67, a: bytes(3, 5 * 67), aSigned: true, b: bytes(4, 70 * 67), aZero: -7, out: 'int32' },
  { m: 7, n: 11, k: 70, a: bytes(5, 7 * 70), aSigned: false, b: bytes(6, 11 * 70), aZero: 9, bZero: -3, out: 'int32' },
  { m: 12, n: 10, k: 96, a: bytes(7, 6 * 5 * 16), aSigned: false, b: bytes(8, 10 * 96), aZero: 77, window: [6, 5, 16, 4, 3, 3, 2, 2, 2, 1, 2, 2, 1], out: 'int32' },
  { m: 42, n: 6, k: 27, a: bytes(9, 7 * 6 * 3), aSigned: true, b: bytes(10, 6 * 27), aZero: 5, window: [7, 6, 3, 7, 6, 3, 3, 1, 1, 1, 1, 1, 1], out: 'int32' },
]

test.each(calls.map((c) => [`${c.m} x ${c.n} x ${c.k}${c.window ? ', windows' : ''}`, c] as const))('bytes on tensor cores, %s, are those of the CPU', (_, c) => {
  for (const schedule of schedules) expect(run(new Runner(modules, schedule), c)).toEqual(wanted(c))
})

interface Depthwise {
  n: number
  h: number
  w: number
  c: number
  oh: number
  ow: number
  k: number
  stride: number
  pad: number
}

// Unsigned images and zero point, one filter a channel, codes out.
function depthwise(r: Runner, d: Depthwise): void {
  const { gpu, flags, launch } = r.open('net_int8' as never)
  const kZero = 7
  const [x, weight] = [bytes(11, d.n * d.h * d.w * d.c), Float32Array.from(signed(bytes(12, d.k * d.k * d.c)))]
  const [scales, bias] = [new Float32Array(d.c).fill(0.01), Float32Array.from({ length: d.c }, (_, i) => i - 3)]
  const size = d.n * d.oh * d.ow * d.c
  const out = gpu.put(size)
  const p = struct(
    ...([0, 0, 0, 0, 0].map((v) => ['u32', v]) as ['u32', number][]), ['pointer', gpu.put(x)], ['pointer', 0],
    ...([0, 0, 0, 0, 0].map((v) => ['pointer', v]) as ['pointer', number][]), ['u32', 0x80808080], ['u32', 0], ['pointer', 0], ['pointer', 0],
    ['i32', kZero], ['pointer', 0], ['pointer', 0], ['u8', 0], ['u8', 1], ['f32', 0.5], ['pointer', 0], ['pointer', gpu.put(scales)], ['pointer', gpu.put(bias)],
    ['pointer', 0], [active(undefined), 4], ['i32', 3], ['i32', 5], ['f32', 2], ['pointer', out],
  ) // prettier-ignore
  const g = struct(...([d.h, d.w, d.c, d.oh, d.ow, d.k, d.k, d.stride, d.stride, 1, 1, d.pad, d.pad].map((v) => ['i32', v]) as ['i32', number][]))
  launch('depthwise_bytes_kernel', Math.ceil(size / 256), 256, p, g, gpu.put(weight), size, flags)
  const want = Uint8Array.from({ length: size }, (_, i) => {
    const [channel, pixel] = [i % d.c, Math.floor(i / d.c)]
    let sum = 0
    for (let t = 0; t < d.k * d.k; t++) {
      const y = (Math.floor(pixel / d.ow) % d.oh) * d.stride - d.pad + Math.floor(t / d.k)
      const left = (pixel % d.ow) * d.stride - d.pad + (t % d.k)
      if (y >= 0 && y < d.h && left >= 0 && left < d.w)
        sum += ((x[((Math.floor(pixel / d.ow / d.oh) * d.h + y) * d.w + left) * d.c + channel] as number) - kZero) * (weight[t * d.c + channel] as number)
    }
    const v = Math.fround(Math.fround(Math.fround(sum) * Math.fround(0.5 * Math.fround(0.01))) + (bias[channel] as number)) / 2
    const even = Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v)
    return Math.min(255, Math.max(0, even + 5))
  })
  expect(new Uint8Array(gpu.get(out, size))).toEqual(want)
}

test('depthwise convolutions of bytes', () => {
  for (const schedule of schedules) depthwise(new Runner(modules, schedule), { n: 2, h: 5, w: 6, c: 7, oh: 3, ow: 3, k: 3, stride: 2, pad: 1 })
})

test('requests of depthwise convolutions, and of products of any two matrices, are as few as they may be', () => {
  const r = new Runner(modules)
  depthwise(r, { n: 1, h: 6, w: 6, c: 64, oh: 6, ow: 6, k: 3, stride: 1, pad: 1 })
  run(r, { m: 64, n: 64, k: 128, a: bytes(1, 64 * 128), aSigned: false, b: bytes(2, 64 * 128), aZero: 3, bZero: 1, out: 'int32' })
  // Any two matrices are read a byte at a time: rows of 16 of a thread are 16 requests that meet the same sectors.
  for (const [kernel, most, banks] of [['depthwise_bytes_kernel', 1, 0], ['bytes_kernel<0,0,1>', 7.7, 1.6]] as const) {
    const [global, shared] = [r.ledger.traffic(kernel, 'global'), r.ledger.traffic(kernel, 'shared')]
    const busy = shared.units / (shared.ideal || 1)
    expect([kernel, global.units / global.ideal <= most, busy <= banks, global.units / global.ideal, busy]).toEqual([kernel, true, true, expect.anything(), expect.anything()])
  }
})

test('requests of aligned shapes are as few as they may be', () => {
  const r = new Runner(modules)
  run(r, { m: 64, n: 64, k: 128, a: bytes(1, 64 * 128), aSigned: false, b: bytes(2, 64 * 128), aZero: 3, out: 'int32' })
  run(r, { m: 64, n: 64, k: 128, a: bytes(1, 8 * 8 * 128), aSigned: false, b: bytes(2, 64 * 128), aZero: 3, window: [8, 8, 128, 8, 8, 1, 1, 1, 1, 1, 1, 0, 0], out: 'int32' })
  for (const kernel of ['bytes_kernel<0,1,0>', 'bytes_kernel<1,1,0>']) {
    const [global, shared] = [r.ledger.traffic(kernel, 'global'), r.ledger.traffic(kernel, 'shared')]
    expect([kernel, global.units / global.ideal <= 1.01, shared.units / shared.ideal <= 1.35, shared.units / shared.ideal]).toEqual([kernel, true, true, expect.anything()])
  }
})

test('a mistake is caught: words of a row of weights that change places', async () => {
  const broken = { net_int8: await compile('net_int8', { file: 'net_int8.cu', find: 'bs[2] = {w[0], w[4]}', replace: 'bs[2] = {w[4], w[0]}' }) } as never
  expect(run(new Runner(broken), calls[1] as Call)).not.toEqual(wanted(calls[1] as Call))
}, 120000)

test('every kernel that holds inline assembly has run', () => {
  const all = [...(modules as unknown as Record<string, { kernels: Map<string, { name: string; assembly: boolean }> }>)['net_int8']!.kernels.values()]
  expect(all.filter((k) => k.assembly && !ran.has(k.name)).map((k) => k.name)).toEqual([])
})
