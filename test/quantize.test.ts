import { dequantize, dequantizeAsync, devices, quantize, quantizeAsync, WhittleError, type QuantizeOptions, type Tensor, type TypedArray } from '../lib/index'
import { fixtures, type FixtureCase, type FixtureTensor } from './oracle/fixtures'
import * as oracle from './oracle/quantize'
import { unpack } from './oracle/quantize'

const f32 = (t: FixtureTensor): Tensor => ({ type: 'float32', dims: t.dims, data: t.data })

function storage(type: string, codes: ArrayLike<number>): TypedArray {
  const bits = Number(/\d+/.exec(type)![0])
  if (bits === 8) return type === 'int8' ? Int8Array.from(codes) : Uint8Array.from(codes)
  if (bits === 16) return type === 'int16' ? Int16Array.from(codes) : Uint16Array.from(codes)
  const data = new Uint8Array(Math.ceil((codes.length * bits) / 8))
  for (let i = 0; i < codes.length; i++)
    data[Math.floor((i * bits) / 8)]! |= (codes[i]! & (2 ** bits - 1)) << ((i * bits) % 8)
  return data
}

function given(c: FixtureCase): QuantizeOptions {
  const type = c.parameters.dtype
  const zero = c.tensor('zeroPoint')
  return {
    type,
    axis: c.parameters.axis ?? null,
    blockSize: c.parameters.blockSize ?? null,
    scale: c.tensor('scale').data as Float32Array,
    zeroPoint: { type, dims: zero.dims, data: storage(type, zero.data) },
  }
}

describe('agreement with other software', () => {
  for (const c of fixtures('quantize', /^onnx_(?!dynamic)|^torch_channel/))
    test(`gives the codes and values of ${c.name}`, () => {
      const x = c.tensor('x')
      const q = quantize(f32(x), given(c))
      c.check('q', unpack(q.data as Uint8Array, q.type, x.data.length))
      c.check('y', dequantize(q).data as Float32Array)
    })

  for (const c of fixtures('quantize', /^onnx_dynamic/))
    test(`finds the parameters and codes of ${c.name}`, () => {
      const q = quantize(f32(c.tensor('x')), { type: 'uint8', symmetric: false })
      c.check('scale', q.scale.data)
      c.check('zeroPoint', q.zeroPoint.data as Uint8Array)
      c.check('q', q.data as Uint8Array)
    })
})

// A small generator, so that a failing case can be repeated.
function random(seed: number): () => number {
  let s = seed >>> 0
  return () => {
    s = (s + 0x6d2b79f5) >>> 0
    let t = Math.imul(s ^ (s >>> 15), 1 | s)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const geometries: { dims: number[]; axis: number | null; blockSize: number | null }[] = [
  { dims: [37], axis: null, blockSize: null },
  { dims: [], axis: null, blockSize: null },
  { dims: [5, 33], axis: 0, blockSize: null },
  { dims: [5, 33], axis: 1, blockSize: null },
  { dims: [3, 7, 11], axis: 1, blockSize: null },
  { dims: [3, 7, 11], axis: -3, blockSize: null },
  { dims: [6, 50], axis: 1, blockSize: 16 },
  { dims: [6, 64], axis: 1, blockSize: 64 },
  { dims: [50, 9], axis: 0, blockSize: 8 },
  { dims: [2, 13, 5], axis: 1, blockSize: 4 },
  { dims: [3, 5, 7], axis: 2, blockSize: 3 },
  { dims: [7, 9], axis: 1, blockSize: 100 },
  { dims: [5, 0, 3], axis: 0, blockSize: null },
  { dims: [0], axis: null, blockSize: null },
  { dims: [1, 1], axis: 0, blockSize: null },
  { dims: [3, 2100], axis: 1, blockSize: null },
  { dims: [2, 70001], axis: 0, blockSize: null },
  { dims: [40, 1500], axis: 0, blockSize: 32 },
  { dims: [70000], axis: 0, blockSize: 32 },
]

/** Element by element; jest's own comparison takes seconds for large arrays. */
function same(got: ArrayLike<number>, want: ArrayLike<number>, what = ''): void {
  if (got.length !== want.length) throw new Error(`${what}: ${got.length} elements, want ${want.length}`)
  for (let i = 0; i < want.length; i++)
    if (got[i] !== want[i]) throw new Error(`${what}: element ${i} is ${got[i]}, want ${want[i]}`)
}

describe('agreement with the definition', () => {
  for (const { dims, axis, blockSize } of geometries)
    test(`quantizes [${dims}] along axis ${axis} in blocks of ${blockSize}`, () => {
      const n = dims.reduce((a, b) => a * b, 1)
      const rand = random(n + 7)
      const x = Float32Array.from({ length: n }, () => (rand() - 0.3) * 10)
      const { of, count } = oracle.groups({ dims, axis, blockSize })
      for (const bits of n > 10000 ? [4] : [2, 3, 4, 5, 8])
        for (const symmetric of [true, false])
          for (const sign of ['', 'u'])
            compare(x, of, count, { bits, symmetric, type: `${sign}int${[2, 4].includes(bits) ? bits : 8}` as 'int8' })

      function compare(x: Float32Array, of: Int32Array, count: number, o: { bits: number; symmetric: boolean; type: 'int8' }) {
        const want = oracle.parameters(x, of, count, o.bits, o.symmetric, !o.type.startsWith('u'))
        const q = quantize({ type: 'float32', dims, data: x }, { axis, blockSize, ...o })
        const codes = oracle.codes(x, of, want.scale, want.zero, want.qmin, want.qmax)
        const values = codes.map((c, i) => want.scale[of[i]!]! * (c - want.zero[of[i]!]!))
        const y = dequantize(q)
        const what = JSON.stringify(o)
        same(q.scale.data, want.scale, `scale ${what}`)
        same(unpack(q.zeroPoint.data as Uint8Array, o.type, count), want.zero, `zero point ${what}`)
        same(unpack(q.data as Uint8Array, o.type, n), codes, `codes ${what}`)
        same(y.data as Float32Array, Float32Array.from(values), `values ${what}`)
        expect(y.dims).toEqual(dims)
      }
    })

  test('rounds toward zero when asked', () => {
    const x = Float32Array.of(-2.9, -1.5, -0.99, 0.99, 1.5, 2.5, 2.9, 1000, -1000)
    const q = quantize(x, { scale: 1, rounding: 'toward-zero' })
    expect(Array.from(q.data as Int8Array)).toEqual([-2, -1, 0, 0, 1, 2, 2, 127, -128])
  })

  test('rounds to nearest even by default, and before the zero point is added', () => {
    const x = Float32Array.of(0.5, 1.5, 2.5, -0.5, -1.5, -2.5)
    const q = quantize(x, { scale: 1, zeroPoint: 3, type: 'int8' })
    expect(Array.from(q.data as Int8Array)).toEqual([3, 5, 5, 3, 1, 1])
  })

  test('rounds stochastically without bias, by seed and index alone', () => {
    const n = 200000
    const x = new Float32Array(n).fill(0.3)
    const a = quantize(x, { scale: 1, rounding: 'stochastic', seed: 5 }).data as Int8Array
    const ones = a.reduce((s, v) => s + v, 0)
    expect(new Set(a)).toEqual(new Set([0, 1]))
    // five standard deviations of a binomial
    expect(Math.abs(ones - 0.3 * n)).toBeLessThan(5 * Math.sqrt(0.21 * n))
    const head = (seed: number): Int8Array =>
      quantize(x.subarray(0, 1000), { scale: 1, rounding: 'stochastic', seed }).data as Int8Array
    same(quantize(x, { scale: 1, rounding: 'stochastic', seed: 5, threads: 1 }).data as Int8Array, a)
    same(head(5), a.subarray(0, 1000))
    expect(head(6)).not.toEqual(head(5))
    expect(head(5 + 2 ** 40)).not.toEqual(head(5))
    expect(Array.from(quantize(Float32Array.of(-3, 0, 7), { scale: 1, rounding: 'stochastic', seed: 1 }).data as Int8Array)).toEqual([-3, 0, 7])
  })

  test('raises scales to a power of two when asked', () => {
    for (const most of [1, 1.01, 3.9, 1e-20, 3e38, 127, 128]) {
      const q = quantize(Float32Array.of(most, -most / 3), { powerOfTwo: true })
      const s = q.scale.data[0]!
      expect(Number.isInteger(Math.log2(s))).toBe(true)
      expect(s * 127).toBeGreaterThanOrEqual(most)
      expect((s / 2) * 127).toBeLessThan(most)
    }
  })

  test('reads float16 and bfloat16, and writes them', () => {
    const half = Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000) // 1, -2, 2^-24, 65504, -0
    const q = quantize({ type: 'float16', dims: [5], data: half }, { scale: 1, type: 'int16' })
    expect(Array.from(q.data as Int16Array)).toEqual([1, -2, 0, 32767, 0])
    expect(Array.from(dequantize(q, { type: 'float16' }).data as Uint16Array)).toEqual([0x3c00, 0xc000, 0, 0x7800, 0])
    const brain = Uint16Array.of(0x3f80, 0xc000, 0x0001, 0x4220) // 1, -2, tiny, 40
    const b = quantize({ type: 'bfloat16', dims: [4], data: brain }, { scale: 1 })
    expect(Array.from(b.data as Int8Array)).toEqual([1, -2, 0, 40])
    expect(Array.from(dequantize(b, { type: 'bfloat16' }).data as Uint16Array)).toEqual([0x3f80, 0xc000, 0, 0x4220])
    const wide = new Uint16Array(10000).fill(0x3c00)
    expect(quantize({ type: 'float16', dims: [100, 100], data: wide }, { axis: 0, bits: 4 }).scale.data).toEqual(
      new Float32Array(100).fill(1 / 7),
    )
  })
})

describe('extremes', () => {
  const back = (x: Float32Array, o: QuantizeOptions = {}): Float32Array => dequantize(quantize(x, o)).data as Float32Array

  test('an empty range has scale 1 and comes back as zeros', () => {
    for (const o of [{}, { symmetric: false }, { bits: 4 }] as QuantizeOptions[]) {
      const q = quantize(Float32Array.of(0, -0, 0), o)
      expect(q.scale.data[0]).toBe(1)
      expect(Array.from(dequantize(q).data as Float32Array)).toEqual([0, 0, 0])
    }
  })

  test('the largest floats survive', () => {
    const max = 3.4028234663852886e38
    for (const o of [{}, { symmetric: false }, { bits: 2 }, { powerOfTwo: true }] as QuantizeOptions[]) {
      const q = quantize(Float32Array.of(max, -max, 0), o)
      const y = dequantize(q).data as Float32Array
      y.forEach((v, i) => expect(Math.abs(v - [max, -max, 0][i]!)).toBeLessThanOrEqual(q.scale.data[0]! * 1.01))
    }
  })

  test('subnormal values give a normal scale and an error of half of it at most', () => {
    for (const v of [1e-45, 1e-40, 1.1754944e-38, 2e-37]) {
      const q = quantize(Float32Array.of(v, -v / 2))
      expect(q.scale.data[0]).toBeGreaterThanOrEqual(1.1754943508222875e-38)
      expect(Math.abs((dequantize(q).data as Float32Array)[0]! - v)).toBeLessThanOrEqual(q.scale.data[0]! / 2)
    }
  })

  test('a tiny scale saturates instead of overflowing', () => {
    const q = quantize(Float32Array.of(1e38, -1e38, 0), { scale: 1e-44 })
    expect(Array.from(q.data as Int8Array)).toEqual([127, -128, 0])
  })

  test('a range without 0 is widened to hold it', () => {
    const y = back(Float32Array.of(5, 6, 7), { symmetric: false })
    y.forEach((v, i) => expect(Math.abs(v - 5 - i)).toBeLessThanOrEqual(7 / 255))
  })
})

describe('errors', () => {
  const x = Float32Array.of(1, 2, 3, 4, 5, 6)
  const t: Tensor = { type: 'float32', dims: [2, 3], data: x }
  const caught = (fn: () => unknown): string => {
    try {
      fn()
    } catch (e) {
      if (e instanceof WhittleError) return `${e.code} ${e.parameter}`
      throw e
    }
    return 'no error'
  }
  const q = quantize(t)

  const cases: [string, () => unknown, string][] = [
    ['no tensor', () => quantize(undefined as never), 'ERR_DTYPE x'],
    ['a plain array', () => quantize([1, 2] as never), 'ERR_DTYPE x'],
    ['integers', () => quantize(Int32Array.of(1) as never), 'ERR_DTYPE x'],
    ['float64', () => quantize({ type: 'float64', dims: [1], data: new Float64Array(1) }), 'ERR_DTYPE x.type'],
    ['dims that disagree with data', () => quantize({ ...t, dims: [2, 4] }), 'ERR_SHAPE x'],
    ['2^31 elements', () => quantize({ ...t, dims: [65536, 32768] }), 'ERR_SHAPE x.dims'],
    ['an unknown option', () => quantize(t, { bit: 4 } as never), 'ERR_RANGE options.bit'],
    ['1 bit', () => quantize(t, { bits: 1 }), 'ERR_RANGE bits'],
    ['9 bits', () => quantize(t, { bits: 9 }), 'ERR_RANGE bits'],
    ['8 bits in an int4', () => quantize(t, { bits: 8, type: 'int4' }), 'ERR_RANGE bits'],
    ['3 bits in an int4', () => quantize(t, { bits: 3, type: 'int4' }), 'ERR_RANGE bits'],
    ['a string of bits', () => quantize(t, { bits: '8' as never }), 'ERR_DTYPE bits'],
    ['an unknown type', () => quantize(t, { type: 'int7' as never }), 'ERR_RANGE type'],
    ['an axis too far', () => quantize(t, { axis: 2 }), 'ERR_RANGE axis'],
    ['an axis of a scalar', () => quantize({ type: 'float32', dims: [], data: x.slice(0, 1) }, { axis: 0 }), 'ERR_SHAPE x.dims'],
    ['a block of 0', () => quantize(t, { blockSize: 0 }), 'ERR_RANGE blockSize'],
    ['an unknown rounding', () => quantize(t, { rounding: 'up' as never }), 'ERR_RANGE rounding'],
    ['a negative seed', () => quantize(t, { seed: -1 }), 'ERR_RANGE seed'],
    ['NaN', () => quantize(Float32Array.of(1, NaN)), 'ERR_RANGE x'],
    ['infinity', () => quantize(Float32Array.of(1, -Infinity)), 'ERR_RANGE x'],
    ['NaN beside a scale', () => quantize(Float32Array.of(1, NaN), { scale: 1 }), 'ERR_RANGE x'],
    ['NaN in one channel', () => quantize({ type: 'float32', dims: [1, 2], data: Float32Array.of(NaN, 1) }, { axis: 1 }), 'ERR_RANGE x'],
    ['infinity in a block', () => quantize(Float32Array.of(1, 2, Infinity, 4), { blockSize: 2 }), 'ERR_RANGE x'],
    ['a half infinity', () => quantize({ type: 'float16', dims: [1], data: Uint16Array.of(0x7c00) }), 'ERR_RANGE x'],
    ['a scale of 0', () => quantize(t, { scale: 0 }), 'ERR_RANGE scale'],
    ['a negative scale', () => quantize(t, { scale: Float32Array.of(-1) }), 'ERR_RANGE scale'],
    ['a NaN scale', () => quantize(t, { scale: Float32Array.of(NaN) }), 'ERR_RANGE scale'],
    ['a scale that float32 rounds to 0', () => quantize(t, { scale: 1e-60 }), 'ERR_RANGE scale'],
    ['scales of a wrong count', () => quantize(t, { axis: 0, scale: Float32Array.of(1, 1, 1) }), 'ERR_SHAPE scale'],
    ['scales of a wrong type', () => quantize(t, { scale: Float64Array.of(1) as never }), 'ERR_DTYPE scale'],
    ['a zero point alone', () => quantize(t, { zeroPoint: 1 }), 'ERR_RANGE zeroPoint'],
    ['a zero point out of the type', () => quantize(t, { scale: 1, zeroPoint: 200 }), 'ERR_RANGE zeroPoint'],
    ['a zero point out of the bits', () => quantize(t, { scale: 1, bits: 3, zeroPoint: Int8Array.of(9) }), 'ERR_RANGE zeroPoint'],
    ['a zero point of another type', () => quantize(t, { scale: 1, type: 'int8', zeroPoint: { type: 'uint8', dims: [1], data: Uint8Array.of(1) } }), 'ERR_DTYPE zeroPoint.type'],
    ['an out of a wrong type', () => quantize(t, { out: new Uint8Array(6) }), 'ERR_DTYPE out'],
    ['an out of a wrong length', () => quantize(t, { out: new Int8Array(5) }), 'ERR_SHAPE out'],
    ['an out over the input', () => quantize(t, { out: new Int8Array(x.buffer, 8, 6) }), 'ERR_RANGE out'],
    ['scales written over codes', () => {
      const b = new ArrayBuffer(64)
      return quantize(t, { out: { data: new Int8Array(b, 0, 6), scale: new Float32Array(b, 4, 1) } })
    }, 'ERR_RANGE out.scale'],
    ['codes without a scale', () => dequantize({ type: 'int8', dims: [1], data: new Int8Array(1) } as never), 'ERR_DTYPE q.scale'],
    ['codes that are floats', () => dequantize({ ...q, type: 'float32', data: x }), 'ERR_DTYPE q.type'],
    ['a scale whose products overflow', () => dequantize({ ...q, scale: 3e38 }), 'ERR_RANGE scale'],
    ['a product too large for float16', () => dequantize({ ...q, scale: 1000 }, { type: 'float16' }), 'ERR_RANGE scale'],
    ['an out over the codes', () => {
      const b = new ArrayBuffer(64)
      return dequantize({ ...q, data: new Int8Array(b, 0, 6) }, { out: new Float32Array(b, 0, 6) })
    }, 'ERR_RANGE out'],
    ['a GPU tensor', () => quantize({ ...t, location: 'gpu-buffer' } as never), 'ERR_DEVICE x'],
  ]
  for (const [what, fn, want] of cases) test(`refuses ${what}`, () => expect(caught(fn)).toBe(want))

  test('refuses detached buffers', () => {
    const gone = new Float32Array(4)
    structuredClone(gone.buffer, { transfer: [gone.buffer] })
    expect(caught(() => quantize(gone))).toBe('ERR_HANDLE x')
    expect(caught(() => quantize(x, { scale: gone }))).toBe('ERR_HANDLE scale')
    const out = new Int8Array(6)
    structuredClone(out.buffer, { transfer: [out.buffer] })
    expect(caught(() => quantize(x, { out }))).toBe('ERR_HANDLE out')
  })
})

test('reports the strongest variant of this machine', () => {
  const { variant, kernels } = devices().cpu
  const own = variant.startsWith('avx512') || variant === 'amx' ? 'avx512' : variant.startsWith('avx') ? 'avx2' : variant.startsWith('neon') ? 'neon' : 'scalar'
  expect(kernels.quantize).toBe(own)
})

describe('memory and threads', () => {
  const rand = random(11)
  const x = Float32Array.from({ length: 500 * 700 }, () => rand() - 0.5)
  const t: Tensor = { type: 'float32', dims: [500, 700], data: x }

  test('writes into the caller’s memory, whatever its offset', () => {
    const want = quantize(t, { axis: 0, symmetric: false })
    const buffer = new ArrayBuffer(x.length + 13)
    const data = new Uint8Array(buffer, 13)
    const scale = new Float32Array(500)
    const zeroPoint = new Uint8Array(new ArrayBuffer(507), 7)
    const q = quantize(t, { axis: 0, symmetric: false, out: { data, scale, zeroPoint } })
    expect(q.data).toBe(data)
    expect(q.scale.data).toBe(scale)
    expect(q.zeroPoint.data).toBe(zeroPoint)
    same(data, want.data as Uint8Array)
    same(scale, want.scale.data)
    same(zeroPoint, want.zeroPoint.data as Uint8Array)
    const again = quantize(t, { axis: 0, symmetric: false, out: q })
    expect(again.data).toBe(data)
    const y = new Float32Array(x.length)
    expect(dequantize(q, { out: { type: 'float32', dims: [500, 700], data: y } }).data).toBe(y)
    same(dequantize(want).data as Float32Array, y)
  })

  test('answers the same on any number of threads', () => {
    for (const o of [{}, { axis: 0 }, { axis: 1 }, { blockSize: 32, bits: 4 }, { axis: 0, blockSize: 32 }, { rounding: 'stochastic' }] as QuantizeOptions[]) {
      const one = quantize(t, { ...o, threads: 1 })
      const four = quantize(t, { ...o, threads: 4 })
      same(four.data as Uint8Array, one.data as Uint8Array)
      same(four.scale.data, one.scale.data)
      same(dequantize(four, { threads: 3 }).data as Float32Array, dequantize(one, { threads: 1 }).data as Float32Array)
    }
  })

  test('the asynchronous twins answer the same', async () => {
    const small: Tensor = { type: 'float32', dims: [5, 7], data: x.slice(0, 35) }
    for (const source of [t, small]) {
      const want = quantize(source, { axis: 1, symmetric: false, bits: 4 })
      const out = new Uint8Array(want.data.length)
      const got = await quantizeAsync(source, { axis: 1, symmetric: false, bits: 4, out })
      expect(got.data).toBe(out)
      same(out, want.data as Uint8Array)
      same(got.scale.data, want.scale.data)
      same((await dequantizeAsync(got)).data as Float32Array, dequantize(want).data as Float32Array)
    }
    await expect(quantizeAsync(Float32Array.of(NaN))).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'x' })
    await expect(quantizeAsync(x, { bits: 77 })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'bits' })
  })

  test('reads from shared memory', () => {
    const shared = new Float32Array(new SharedArrayBuffer(35 * 4))
    shared.set(x.subarray(0, 35))
    expect(quantize(shared).data).toEqual(quantize(x.slice(0, 35)).data)
  })
})
