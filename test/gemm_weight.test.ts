import * as path from 'node:path'
import { Worker } from 'node:worker_threads'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import {
  adopt,
  gemm,
  gemmAsync,
  gemmInt4,
  gemmInt4Async,
  gemmInt8,
  gemmInt8Async,
  packBfloat16,
  packFloat32,
  packFloat32Async,
  packBfloat16Async,
  packInt4,
  packInt4Async,
  packInt8,
  packInt8Async,
  quantize,
  type PackedInt4,
} from '../lib/index'
import { native } from '../lib/native'
import { bfloat16Value, firstWrong, halfValue, nibble, toBfloat16, weightProduct, type OracleWeights } from './oracle/gemm_weight'
import { blob, cat, floats, graph, int, kType, message, model, node, raw, tensor as tensorProto, value } from './oracle/proto'

const dist = path.join(__dirname, '..', 'dist')

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
const next = random(7)
const normal = (n: number, scale = 1) =>
  Float32Array.from({ length: n }, () => scale * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()))
const bytes = (n: number) => Uint8Array.from({ length: n }, () => Math.floor(next() * 256))
const tensor = (type: string, dims: number[], data: unknown) => ({ type, dims, data })
const f32 = (dims: number[], data: Float32Array) => ({ type: 'float32', dims, data })
const same = (x: ArrayBufferView, y: ArrayBufferView) =>
  Buffer.compare(Buffer.from(x.buffer, x.byteOffset, x.byteLength), Buffer.from(y.buffer, y.byteOffset, y.byteLength)) === 0

function code(f: () => unknown): string {
  try {
    f()
  } catch (e) {
    return `${(e as { code?: string }).code} ${(e as { parameter?: string }).parameter}`
  }
  return 'no error'
}

/** Random MatMulNBits tensors and what they mean. */
function file(n: number, k: number, bs: number, bits: 4 | 8, kind: 'none' | 'packed' | 'float', half = false) {
  const blocks = Math.ceil(k / bs)
  const B = bytes(n * blocks * ((bs * bits) / 8))
  const halves = Uint16Array.from({ length: n * blocks }, () => (Math.floor(next() * 0x1400) + 0x2000) | (next() < 0.3 ? 0x8000 : 0))
  const scales = Float32Array.from({ length: n * blocks }, () => (next() < 0.1 ? 0 : next() - 0.3) / 8)
  const rowBytes = Math.ceil((blocks * bits) / 8)
  const zeros = kind === 'packed' ? bytes(n * rowBytes) : kind === 'float' ? Float32Array.from({ length: n * blocks }, () => 15 * next()) : null
  const at = (p: number, j: number) => j * blocks * bs + p
  const codeOf = (p: number, j: number) => (bits === 4 ? nibble(B, at(p, j)) : B[at(p, j)]!)
  const middle = bits === 4 ? 8 : 128
  const zero = (p: number, j: number) => {
    const b = Math.floor(p / bs)
    if (kind === 'none') return middle
    return kind === 'float' || bits === 8 ? zeros![j * blocks + b]! : nibble(zeros!, j * rowBytes * 2 + b)
  }
  const scale = (p: number, j: number) => (half ? halfValue(halves[j * blocks + Math.floor(p / bs)]!) : scales[j * blocks + Math.floor(p / bs)]!)
  const weights: OracleWeights = {
    k, n, block: bs,
    value: (p, j) => scale(p, j) * (codeOf(p, j) - zero(p, j)),
    size: (p, j) => Math.abs(scale(p, j)) * (Math.abs(codeOf(p, j) - middle) + Math.abs(middle - zero(p, j))),
  }
  return {
    blocks, B, zeros, weights,
    w: tensor('uint8', [n, blocks, (bs * bits) / 8], B),
    scale: half ? tensor('float16', [n, blocks], halves) : scales,
    scales,
  }
}

describe('MatMulNBits tensors', () => {
  const shapes = [
    [1, 1, 5, 16], [1, 7, 64, 32], [3, 20, 100, 32], [2, 33, 257, 64], [1, 16, 300, 256], [20, 18, 90, 16], [5, 40, 129, 128], [40, 9, 31, 32],
  ] as const
  test.each(shapes)('%d rows, %d columns, k %d in blocks of %d, as the op defines them', (m, n, k, bs) => {
    for (const bits of [4, 8] as const)
      for (const kind of ['none', 'packed', 'float'] as const)
        for (const half of [false, true]) {
          const f = file(n, k, bs, bits, kind, half)
          const a = normal(m * k)
          const bias = normal(n)
          const options = { scale: f.scale as never, k, ...(f.zeros ? { zeroPoint: f.zeros } : {}) }
          const y =
            bits === 4
              ? gemmInt4(f32([m, k], a), packInt4(f.w, options), { bias, activation: 'relu' })
              : gemmInt8(f32([m, k], a), packInt8(f.w, options), { bias, activation: 'relu' })
          expect(y.dims).toEqual([m, n])
          expect([bits, kind, half, firstWrong(y.data as Float32Array, weightProduct(a, m, f.weights, bias, 'relu'))]).toEqual([bits, kind, half, ''])
        }
  })

  test.each([
    [1, 32, 64, 32, 'none'], [2, 48, 100, 32, 'packed'], [1, 16, 160, 16, 'packed'], [17, 64, 256, 128, 'none'], [4, 20, 96, 32, 'none'],
  ] as const)('%d rows, %d columns, k %d, blocks of %d, zero points %s: the same as onnxruntime', async (m, n, k, bs, kind) => {
    const f = file(n, k, bs, 4, kind)
    const a = normal(m * k)
    const inputs = ['a', 'b', 's', ...(f.zeros ? ['z'] : [])]
    const attributes = { K: { int: k }, N: { int: n }, bits: { int: 4 }, block_size: { int: bs }, accuracy_level: { int: 1 } }
    const op = cat(node('MatMulNBits', inputs, ['y'], attributes), blob(7, 'com.microsoft'))
    const u8 = (name: string, dims: number[], data: Uint8Array) => tensorProto({ name, type: kType.uint8, dims, data: [blob(9, raw(data))] })
    const g = graph({
      nodes: [op],
      initializers: [
        u8('b', f.w.dims, f.B),
        floats('s', [n * f.blocks], [...f.scales]),
        ...(f.zeros ? [u8('z', [f.zeros.length], f.zeros as Uint8Array)] : []),
      ],
      inputs: [value('a', kType.float, [m, k])],
      outputs: [value('y', kType.float, [m, n])],
    })
    const session = await InferenceSession.create(Buffer.from(cat(model(g, 20, 8), message(8, blob(1, 'com.microsoft'), int(2, 1)))))
    const theirs = (await session.run({ a: new Tensor('float32', a, [m, k]) })).y!.data as Float32Array
    const ours = gemmInt4(f32([m, k], a), packInt4(f.w, { scale: f.scales, k, ...(f.zeros ? { zeroPoint: f.zeros } : {}) })).data
    const want = weightProduct(a, m, f.weights)
    expect(firstWrong(ours, want)).toBe('')
    // Theirs may use the same formula; what matters is that both mean the same weights.
    for (let i = 0; i < theirs.length; i++) expect(Math.abs(theirs[i]! - want.y[i]!)).toBeLessThanOrEqual(want.bound[i]! * 4 + 1e-6)
    await session.release()
  })
})

/** What a quantized matrix means, by its own fields. */
function meaning(q: ReturnType<typeof quantize>, transpose: boolean): OracleWeights {
  const [k, n] = transpose ? [q.dims[1]!, q.dims[0]!] : [q.dims[0]!, q.dims[1]!]
  const signed = !q.type.startsWith('u')
  const packed = q.type.endsWith('4')
  const read = (data: ArrayLike<number>, i: number) => (packed ? nibble(data, i, signed) : data[i]!)
  const group = (p: number, j: number) => {
    if (q.axis === null) return 0
    if (q.blockSize === null) return j
    const b = Math.floor(p / q.blockSize)
    return transpose ? j * Math.ceil(k / q.blockSize) + b : b * n + j
  }
  const middle = signed ? 0 : packed ? 8 : 128
  const at = (p: number, j: number) => read(q.data as never, transpose ? j * k + p : p * n + j)
  const zero = (p: number, j: number) => read(q.zeroPoint.data as never, group(p, j))
  return {
    k, n, block: packed ? (q.blockSize ?? k) : 0,
    value: (p, j) => q.scale.data[group(p, j)]! * (at(p, j) - zero(p, j)),
    size: (p, j) => q.scale.data[group(p, j)]! * (Math.abs(at(p, j) - middle) + Math.abs(zero(p, j) - middle)),
  }
}

describe('quantized weights', () => {
  const shapes = [[1, 13, 29], [2, 64, 64], [3, 17, 96], [16, 33, 40], [33, 18, 70], [1, 1, 1], [7, 5, 400]] as const
  test.each(shapes)('%d x %d x %d: codes of every grouping, either way round, symmetric or not', (m, n, k) => {
    for (const transpose of [false, true])
      for (const symmetric of [false, true])
        for (const grouping of [{}, { axis: transpose ? 0 : 1 }, { axis: transpose ? 1 : 0, blockSize: 20 }, { axis: transpose ? 1 : 0, blockSize: 32 }])
          for (const bits of [4, 8] as const) {
            const w = f32(transpose ? [n, k] : [k, n], normal(k * n))
            const q = quantize(w, { bits, symmetric, ...grouping })
            const a = normal(m * k)
            const y =
              bits === 4
                ? gemmInt4(f32([m, k], a), packInt4(q, { transpose })).data
                : gemmInt8(f32([m, k], a), packInt8(q, {
                    transpose, scale: q.scale, zeroPoint: q.zeroPoint, ...(q.blockSize ? { blockSize: q.blockSize } : {}),
                  })).data as Float32Array // prettier-ignore
            expect([transpose, symmetric, grouping, bits, firstWrong(y, weightProduct(a, m, meaning(q, transpose)))]).toEqual([
              transpose, symmetric, grouping, bits, '',
            ]) // prettier-ignore
          }
  })

  test('floats are quantized in blocks along k as quantize does', () => {
    for (const transpose of [false, true])
      for (const o of [{}, { blockSize: 16, symmetric: false }, { blockSize: 100 }]) {
        const w = f32(transpose ? [9, 70] : [70, 9], normal(630))
        const q = quantize(w, { bits: 4, symmetric: o.symmetric ?? true, axis: transpose ? 1 : 0, blockSize: o.blockSize ?? 32 })
        const a = normal(70)
        const packed = packInt4(w, { ...o, transpose })
        expect([packed.k, packed.n, packed.blockSize, packed.symmetric]).toEqual([70, 9, Math.min(o.blockSize ?? 32, 70), o.symmetric ?? true])
        expect(same(gemmInt4(a, packed).data, gemmInt4(a, packInt4(q, { transpose })).data)).toBe(true)
        expect(firstWrong(gemmInt4(a, packed).data, weightProduct(a, 1, meaning(q, transpose)))).toBe('')
      }
  })

  test('8-bit weights with one scale, one a column, one zero point for all', () => {
    const [m, n, k] = [3, 10, 50]
    const a = normal(m * k)
    const w = bytes(k * n)
    const scales = Float32Array.from({ length: n }, () => 0.01 + next())
    const oracle = (scale: (j: number) => number, zero: number): OracleWeights => ({
      k, n, block: 0, value: (p, j) => scale(j) * (w[p * n + j]! - zero),
      size: (p, j) => scale(j) * (Math.abs(w[p * n + j]! - 128) + Math.abs(128 - zero)),
    }) // prettier-ignore
    const u8 = tensor('uint8', [k, n], w)
    const run = (o: Parameters<typeof packInt8>[1]) => gemmInt8(f32([m, k], a), packInt8(u8, o as { scale: number })).data as Float32Array
    expect(firstWrong(run({ scale: 0.25 }), weightProduct(a, m, oracle(() => 0.25, 0)))).toBe('')
    expect(firstWrong(run({ scale: 0.25, zeroPoint: 128 }), weightProduct(a, m, oracle(() => 0.25, 128)))).toBe('')
    expect(firstWrong(run({ scale: scales, zeroPoint: 7 }), weightProduct(a, m, oracle((j) => scales[j]!, 7)))).toBe('')
  })
})

describe('bfloat16 weights', () => {
  test.each([[1, 16, 32], [2, 17, 33], [5, 40, 7], [16, 32, 64], [40, 34, 401], [1, 1, 1]] as const)('%d x %d x %d in gemm', (m, n, k) => {
    for (const transpose of [false, true]) {
      const w = normal(k * n)
      // Ties too.
      for (let i = 0; i < w.length; i += 3) w[i] = (Math.floor(next() * 64) + 128.5) / 128
      const a = normal(m * k)
      const bias = normal(n)
      const at = (p: number, j: number) => (transpose ? j * k + p : p * n + j)
      const oracle: OracleWeights = { k, n, block: 0, value: (p, j) => toBfloat16(w[at(p, j)]!), size: (p, j) => Math.abs(toBfloat16(w[at(p, j)]!)) }
      const packed = packBfloat16(f32(transpose ? [n, k] : [k, n], w), { transpose })
      expect([packed.k, packed.n]).toEqual([k, n])
      const y = gemm(f32([m, k], a), packed, { bias, activation: 'gelu' })
      expect(y.dims).toEqual([m, n])
      expect(firstWrong(y.data, weightProduct(a, m, oracle, bias, 'gelu'))).toBe('')
      const bits = Uint16Array.from({ length: k * n }, () => Math.floor(next() * 0x200) + 0x3f00 + (next() < 0.5 ? 0x8000 : 0))
      const exact: OracleWeights = { k, n, block: 0, value: (p, j) => bfloat16Value(bits[at(p, j)]!), size: (p, j) => Math.abs(bfloat16Value(bits[at(p, j)]!)) }
      const short = packBfloat16(tensor('bfloat16', transpose ? [n, k] : [k, n], bits), { transpose })
      expect(firstWrong(gemm(f32([m, k], a), short).data, weightProduct(a, m, exact))).toBe('')
    }
  })
})

test.each([[1, 16, 32], [2, 17, 33], [3, 160, 200], [16, 32, 64], [40, 34, 401], [1, 1, 1]] as const)('float32 weights laid out once: %d x %d x %d in gemm', (m, n, k) => {
  for (const transpose of [false, true]) {
    const w = normal(k * n)
    const [a, bias] = [normal(m * k), normal(n)]
    const at = (p: number, j: number) => (transpose ? j * k + p : p * n + j)
    const oracle: OracleWeights = { k, n, block: 0, value: (p, j) => w[at(p, j)]!, size: (p, j) => Math.abs(w[at(p, j)]!) }
    const packed = packFloat32(f32(transpose ? [n, k] : [k, n], w), { transpose })
    expect([packed.k, packed.n, packed.byteLength >= 4 * k * n]).toEqual([k, n, true])
    const y = gemm(f32([m, k], a), packed, { bias, activation: 'silu' })
    expect(y.dims).toEqual([m, n])
    expect(firstWrong(y.data, weightProduct(a, m, oracle, bias, 'silu'))).toBe('')
    // They are a copy.
    w.fill(NaN)
    expect(same(gemm(f32([m, k], a), packed, { bias, activation: 'silu' }).data, y.data)).toBe(true)
    packed.dispose()
  }
})

describe('shapes and values at the edges', () => {
  test('empty dimensions give empty results, and k = 0 the activated bias', () => {
    for (const [m, n, k] of [[0, 3, 4], [3, 0, 4], [2, 3, 0], [0, 0, 0]] as const) {
      const w = f32([k, n], normal(k * n))
      const bias = Float32Array.from({ length: n }, (_, i) => i - 1)
      const want = Array.from({ length: m * n }, (_, i) => (k === 0 ? Math.max(0, bias[i % n]!) : 0))
      for (const y of [
        gemmInt4(f32([m, k], normal(m * k)), packInt4(w), { bias, activation: 'relu' }),
        gemm(f32([m, k], normal(m * k)), packBfloat16(w), { bias, activation: 'relu' }),
        gemm(f32([m, k], normal(m * k)), packFloat32(w), { bias, activation: 'relu' }),
        gemmInt8(f32([m, k], normal(m * k)), packInt8(tensor('int8', [k, n], new Int8Array(k * n)), { scale: 1 }), { bias, activation: 'relu' }),
      ]) {
        expect(y.dims).toEqual([m, n])
        expect(Array.from(y.data as Float32Array)).toEqual(want)
      }
    }
  })

  test('leading dims, vectors and bare arrays', () => {
    const w = packInt4(f32([6, 5], normal(30)))
    const a = normal(24)
    const y = gemmInt4(f32([2, 2, 6], a), w)
    expect(y.dims).toEqual([2, 2, 5])
    expect(gemmInt4(a.subarray(0, 6), w).dims).toEqual([5])
    expect(same(gemmInt4(a, w, { aDims: [4, 6] }).data, y.data)).toBe(true)
    expect(same(gemmInt4(a.subarray(0, 6), w).data, y.data.slice(0, 5))).toBe(true)
  })

  test('NaN and infinities in a row follow IEEE arithmetic and stay in it', () => {
    const w = packInt4(f32([40, 3], Float32Array.from({ length: 120 }, (_, i) => (i % 3) - 1)))
    const a = normal(80)
    a[50] = NaN
    let y = gemmInt4(f32([2, 40], a), w).data
    expect([y[0], y[2]].every(Number.isFinite)).toBe(true)
    expect(Array.from(y.subarray(3))).toEqual([NaN, NaN, NaN])
    a[50] = -Infinity
    y = gemmInt4(f32([2, 40], a), w).data
    expect(Array.from(y.subarray(3))).toEqual([Infinity, NaN, -Infinity])
  })

  test('rows whose magnitudes differ by 2^40 keep their own precision', () => {
    const w = quantize(f32([64, 4], normal(256)), { bits: 4, axis: 0, blockSize: 32 })
    const a = normal(64)
    for (let i = 0; i < 64; i += 5) a[i]! *= 2 ** 20
    for (let i = 1; i < 64; i += 5) a[i]! *= 2 ** -20
    expect(firstWrong(gemmInt4(a, packInt4(w)).data, weightProduct(a, 1, meaning(w, false)))).toBe('')
  })

  test('threads change nothing', () => {
    const w = packInt4(f32([512, 700], normal(512 * 700)), { blockSize: 64, symmetric: false })
    for (const m of [1, 3, 50]) {
      const a = f32([m, 512], normal(m * 512))
      expect(same(gemmInt4(a, w, { threads: 1 }).data, gemmInt4(a, w, { threads: 2 }).data)).toBe(true)
    }
  })
})

test('writes into out and refuses one that overlaps an input or has the wrong class or length', () => {
  const w = packInt4(f32([4, 3], normal(12)))
  const memory = normal(20)
  const out = new Float32Array(3)
  expect(gemmInt4(memory.subarray(0, 4), w, { out }).data).toBe(out)
  expect(same(out, gemmInt4(memory.slice(0, 4), w).data)).toBe(true)
  expect(code(() => gemmInt4(memory.subarray(0, 4), w, { out: memory.subarray(3, 6) }))).toBe('ERR_RANGE out')
  expect(code(() => gemmInt4(memory.subarray(0, 4), w, { out, bias: out }))).toBe('ERR_RANGE out')
  expect(code(() => gemmInt4(memory.subarray(0, 4), w, { out: new Float32Array(4) }))).toBe('ERR_SHAPE out')
  expect(code(() => gemmInt4(memory.subarray(0, 4), w, { out: new Float64Array(3) as never }))).toBe('ERR_DTYPE out')
})

test('refuses what does not fit, naming the parameter', () => {
  const f = file(3, 70, 32, 4, 'packed')
  const e = file(3, 70, 32, 8, 'packed')
  const w = f32([4, 3], normal(12))
  const scale = f.scales
  const q4 = (o: object) => ({ type: 'int4', dims: [4, 3], data: new Uint8Array(6), scale: 1, ...o })
  const bad: [string, () => unknown][] = [
    ['ERR_DTYPE w.type', () => packInt4(tensor('float64', [4, 3], new Float64Array(12)))],
    ['ERR_DTYPE w.type', () => packInt4(undefined as never)],
    ['ERR_DTYPE w.type', () => packInt4(tensor('uint8', [4, 3], new Uint8Array(12)))],
    ['ERR_SHAPE w', () => packInt4(f32([12], normal(12)))],
    ['ERR_SHAPE w', () => packInt4(f32([4, 3], normal(11)))],
    ['ERR_RANGE blockSize', () => packInt4(w, { blockSize: 0 })],
    ['ERR_RANGE blockSize', () => packInt4(w, { blockSize: 1.5 })],
    ['ERR_DTYPE blockSize', () => packInt4(w, { blockSize: null as never })],
    ['ERR_DTYPE symmetric', () => packInt4(w, { symmetric: 1 as never })],
    ['ERR_DTYPE transpose', () => packInt4(w, { transpose: 1 as never })],
    ['ERR_RANGE options.blocksize', () => packInt4(w, { blocksize: 32 } as never)],
    ['ERR_RANGE scale', () => packInt4(w, { scale })],
    ['ERR_RANGE threads', () => packInt4(w, { threads: 0 })],
    ['ERR_RANGE w', () => packInt4(f32([1, 2], Float32Array.of(1, NaN)))],
    ['ERR_SHAPE w.axis', () => packInt4(q4({ axis: 0, scale: new Float32Array(4).fill(1) }))],
    ['ERR_SHAPE w.axis', () => packInt4(q4({ axis: 1, blockSize: 2, scale: new Float32Array(8).fill(1) }))],
    ['ERR_SHAPE w.scale', () => packInt4(q4({ axis: 1, scale: new Float32Array(2).fill(1) }))],
    ['ERR_RANGE scale', () => packInt4(q4({ axis: 1, scale: Float32Array.of(1, 0, 1) }))],
    ['ERR_RANGE scale', () => packInt4(q4({ axis: 1, scale: Float32Array.of(1, -1, 1) }))],
    ['ERR_RANGE scale', () => packInt4(q4({ axis: 1, scale: Float32Array.of(1, NaN, 1) }))],
    ['ERR_RANGE scale', () => packInt4(q4({ axis: 1, scale: Float32Array.of(1, Infinity, 1) }))],
    ['ERR_RANGE scale', () => packInt4(q4({ axis: 1, scale: Float32Array.of(1, 3e38, 1) }))],
    ['ERR_RANGE w.zeroPoint', () => packInt4(q4({ zeroPoint: 8 }))],
    ['ERR_DTYPE w.scale', () => packInt4(q4({ scale: undefined }))],
    ['ERR_RANGE blockSize', () => packInt4(q4({}), { blockSize: 2 })],
    ['ERR_DTYPE scale', () => packInt4(f.w)],
    ['ERR_SHAPE scale', () => packInt4(f.w, { scale: scale.subarray(1) })],
    ['ERR_DTYPE scale', () => packInt4(f.w, { scale: new Float64Array(9) as never })],
    ['ERR_RANGE scale', () => packInt4(f.w, { scale: scale.slice().fill(NaN) })],
    ['ERR_RANGE scale', () => packInt4(f.w, { scale, zeroPoint: scale.slice().fill(Infinity) })],
    ['ERR_SHAPE zeroPoint', () => packInt4(f.w, { scale, zeroPoint: new Uint8Array(5) })],
    ['ERR_SHAPE zeroPoint', () => packInt4(f.w, { scale, zeroPoint: new Float32Array(6) })],
    ['ERR_SHAPE k', () => packInt4(f.w, { scale, k: 64 })],
    ['ERR_SHAPE k', () => packInt4(f.w, { scale, k: 97 })],
    ['ERR_SHAPE blockSize', () => packInt4(f.w, { scale, blockSize: 16 })],
    ['ERR_RANGE transpose', () => packInt4(f.w, { scale, transpose: true })],
    ['ERR_SHAPE w.dims', () => packInt4(tensor('uint8', [3, 3, 12], new Uint8Array(108)), { scale })],
    ['ERR_SHAPE w.dims', () => packInt4(tensor('uint8', [3, 3, 4], new Uint8Array(36)), { scale })],
    ['ERR_SHAPE scale', () => packInt8(e.w, { scale: scale.subarray(1) })],
    ['ERR_SHAPE k', () => packInt8(e.w, { scale, k: 64 })],
    ['ERR_RANGE k', () => packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: 1, k: 4 })],
    ['ERR_DTYPE scale', () => packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: null as never })],
    ['ERR_RANGE scale', () => packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: 0 })],
    ['ERR_RANGE scale', () => packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: Float32Array.of(1, 0, 1) })],
    ['ERR_SHAPE scale', () => packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: Float32Array.of(1, 1) })],
    ['ERR_SHAPE scale', () => packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: 1, blockSize: 2 })],
    ['ERR_RANGE zeroPoint', () => packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: 1, zeroPoint: 200 })],
    ['ERR_DTYPE w.type', () => packInt8(w as never, { scale: 1 })],
    ['ERR_DTYPE w.type', () => packBfloat16(tensor('float16', [1, 1], new Uint16Array(1)))],
    ['ERR_SHAPE w', () => packBfloat16(f32([3], normal(3)))],
    ['ERR_DTYPE w.type', () => packFloat32(tensor('bfloat16', [1, 1], new Uint16Array(1)))],
    ['ERR_SHAPE w', () => packFloat32(f32([3], normal(3)))],
    ['ERR_DTYPE transpose', () => packFloat32(w, { transpose: 1 } as never)],
    ['ERR_RANGE options.blockSize', () => packBfloat16(w, { blockSize: 3 } as never)],
  ]
  for (const [want, f] of bad) expect([want, code(f), f.toString()]).toEqual([want, want, f.toString()])

  const packed = packInt4(w)
  const bf16 = packBfloat16(w)
  const full = packFloat32(w)
  const int8 = packInt8(tensor('int8', [4, 3], new Int8Array(12)), { scale: 1 })
  const plain = packInt8(tensor('int8', [4, 3], new Int8Array(12)))
  const a = f32([2, 4], normal(8))
  const calls: [string, () => unknown][] = [
    ['ERR_DTYPE a.type', () => gemmInt4(tensor('int8', [2, 4], new Int8Array(8)), packed)],
    ['ERR_DTYPE a', () => gemmInt4(null as never, packed)],
    ['ERR_SHAPE a', () => gemmInt4(f32([], normal(1)), packed)],
    ['ERR_SHAPE b', () => gemmInt4(f32([2, 5], normal(10)), packed)],
    ['ERR_SHAPE bias', () => gemmInt4(a, packed, { bias: new Float32Array(2) })],
    ['ERR_DTYPE bias', () => gemmInt4(a, packed, { bias: new Int32Array(3) as never })],
    ['ERR_RANGE activation', () => gemmInt4(a, packed, { activation: 'swish' as never })],
    ['ERR_RANGE threads', () => gemmInt4(a, packed, { threads: 1000 })],
    ['ERR_RANGE options.alpha', () => gemmInt4(a, packed, { alpha: 1 } as never)],
    ['ERR_HANDLE b', () => gemmInt4(a, bf16 as never)],
    ['ERR_HANDLE b', () => gemmInt4(a, int8 as never)],
    ['ERR_HANDLE b', () => gemmInt4(a, plain as never)],
    ['ERR_HANDLE b', () => gemmInt4(a, structuredClone(packed))],
    ['ERR_HANDLE b', () => gemmInt4(a, packed.share() as never)],
    ['ERR_HANDLE b', () => gemmInt4(a, w as never)],
    ['ERR_HANDLE b', () => gemmInt4(a, Object.create(Object.getPrototypeOf(packed) as object) as never)],
    ['ERR_HANDLE b', () => gemm(a, packed as never)],
    ['ERR_RANGE transposeB', () => gemm(a, bf16, { transposeB: true })],
    ['ERR_RANGE alpha', () => gemm(a, bf16, { alpha: 2 })],
    ['ERR_RANGE beta', () => gemm(a, full, { beta: 1, out: new Float32Array(6) })],
    ['ERR_SHAPE b', () => gemm(f32([2, 5], normal(10)), full)],
    ['ERR_SHAPE out', () => gemm(a, full, { out: new Float32Array(5) })],
    ['ERR_RANGE out', () => gemm(a, full, { out: a.data.subarray(0, 6) })],
    ['ERR_HANDLE b', () => gemmInt4(a, full as never)],
    ['ERR_HANDLE b', () => gemm(a, structuredClone(full))],
    ['ERR_RANGE c', () => gemm(a, bf16, { c: w })],
    ['ERR_DTYPE a.type', () => gemmInt8(a as never, packed as never)],
    ['ERR_HANDLE b', () => gemmInt8(tensor('int8', [2, 4], new Int8Array(8)), packed as never)],
    ['ERR_DTYPE a.type', () => gemmInt8(tensor('int8', [2, 4], new Int8Array(8)) as never, int8)],
    ['ERR_DTYPE a.type', () => gemmInt8(a as never, plain)],
    ['ERR_RANGE options.aScale', () => gemmInt8(a, int8, { aScale: 1 } as never)],
  ]
  for (const [want, f] of calls) expect([want, code(f), f.toString()]).toEqual([want, want, f.toString()])
  for (const p of [packed, bf16, full, int8]) p.dispose()
  expect(code(() => gemm(a, full))).toBe('ERR_HANDLE b')
  expect(code(() => gemmInt4(a, packed))).toBe('ERR_HANDLE b')
  expect(code(() => gemm(a, bf16))).toBe('ERR_HANDLE b')
  expect(code(() => gemmInt8(a, int8))).toBe('ERR_HANDLE b')
})

test('the async twins give the same, also when the weights are disposed of in flight', async () => {
  const [m, n, k] = [5, 300, 500]
  const a = f32([m, k], normal(m * k))
  const w = f32([k, n], normal(k * n))
  const w8 = tensor('int8', [k, n], new Int8Array(bytes(k * n).buffer))
  const int4 = await packInt4Async(w, { blockSize: 64 })
  const codes = await packInt4Async(quantize(w, { bits: 4 }))
  const int8 = await packInt8Async(w8, { scale: 0.5 })
  const bf16 = await packBfloat16Async(w)
  const full = await packFloat32Async(w)
  const want = [
    gemmInt4(a, packInt4(w, { blockSize: 64 })), gemmInt4(a, packInt4(quantize(w, { bits: 4 }))),
    gemmInt8(a, packInt8(w8, { scale: 0.5 })), gemm(a, packBfloat16(w)), gemm(a, packFloat32(w)),
  ] // prettier-ignore
  const out = new Float32Array(m * n)
  const running = [gemmInt4Async(a, int4, { out }), gemmInt4Async(a, codes), gemmInt8Async(a, int8), gemmAsync(a, bf16), gemmAsync(a, full)]
  for (const p of [int4, codes, int8, bf16, full]) p.dispose()
  const got = await Promise.all(running)
  expect(got[0]!.data).toBe(out)
  got.forEach((y, i) => expect(same(y.data, want[i]!.data)).toBe(true))
  await expect(gemmInt4Async(a, int4)).rejects.toMatchObject({ code: 'ERR_HANDLE', parameter: 'b' })
  await expect(packInt4Async(tensor('uint8', [1, 1, 16], new Uint8Array(16)), { scale: Float32Array.of(NaN) })).rejects.toMatchObject({ code: 'ERR_RANGE' })
})

describe('handles', () => {
  test('report their size and let go of it, failed packings too', () => {
    const before = native().handleCount()
    const packed = packInt4(f32([1000, 64], normal(64000)), { blockSize: 50 })
    expect(packed.byteLength).toBe(4 * (20 * 7 * 64 + 20 * 16 * 4))
    const bf16 = packBfloat16(f32([10, 16], normal(160)))
    expect(bf16.byteLength).toBeGreaterThanOrEqual(320)
    expect(native().handleCount()).toBe(before + 2)
    expect(code(() => packInt4(tensor('uint8', [1, 1, 16], new Uint8Array(16)), { scale: Float32Array.of(NaN) }))).toBe('ERR_RANGE scale')
    packed.dispose()
    bf16.dispose()
    expect(native().handleCount()).toBe(before)
  })

  test('are shared by worker threads', async () => {
    const packed = packInt4(f32([2, 1], Float32Array.of(7, -7)), { blockSize: 2 })
    const script = `
      const { parentPort, workerData } = require('node:worker_threads')
      const { adopt, gemmInt4 } = require(${JSON.stringify(dist)})
      parentPort.postMessage(gemmInt4(Float32Array.of(3, 1), adopt(workerData)).data[0])`
    const answer = await new Promise((resolve, reject) => {
      const worker = new Worker(script, { eval: true, workerData: packed.share() })
      worker.on('error', reject)
      worker.on('message', resolve)
    })
    expect(answer).toBe(14)
    const again = adopt(packed.share()) as PackedInt4
    packed.dispose()
    expect([again.k, again.n, gemmInt4(Float32Array.of(3, 1), again).data[0]]).toEqual([2, 1, 14])
    again.dispose()
  })
})
