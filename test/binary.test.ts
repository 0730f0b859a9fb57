import { adopt, gemmBinary, gemmBinaryAsync, packBinary, packBinaryAsync, type TensorLike } from '../lib/index'
import { meanSize, signSums } from './oracle/binary'

function numbers(count: number, seed: number): Float32Array {
  let s = seed
  return Float32Array.from({ length: count }, () => {
    s = (Math.imul(s, 1103515245) + 12345) >>> 0
    return s % 11 === 0 ? (s & 32 ? 0 : -0) : (s / 2 ** 32 - 0.5) * 4
  })
}

const f32 = (dims: number[], data: Float32Array): TensorLike => ({ type: 'float32', dims, data })

function turned(w: Float32Array, k: number, n: number): Float32Array {
  return Float32Array.from({ length: k * n }, (_, i) => w[(i % k) * n + Math.floor(i / k)] as number)
}

function code(run: () => unknown): string {
  try {
    run()
  } catch (e) {
    return `${(e as { code: string }).code} ${(e as { parameter: string }).parameter}`
  }
  return 'nothing'
}

describe('gemmBinary', () => {
  const shapes = [
    [1, 1, 1], [1, 33, 5], [3, 64, 16], [4, 255, 17], [2, 256, 48], [5, 769, 31], [7, 8000, 18], [70, 300, 33],
  ] as const // prettier-ignore

  test.each(shapes)('%i x %i x %i: the sums of signs are exact, from both layouts of the weights', (m, k, n) => {
    const a = numbers(m * k, 7 * k + m)
    const w = numbers(k * n, 3 * n + k)
    const want = signSums(a, w, m, k, n)
    const packed = packBinary(f32([k, n], w))
    expect([packed.k, packed.n]).toEqual([k, n])
    expect(Array.from(gemmBinary(f32([m, k], a), packed, { outType: 'int32' }).data)).toEqual(want)
    const other = packBinary(f32([n, k], turned(w, k, n)), { transpose: true, scale: 'none' })
    const y = gemmBinary(f32([m, k], a), other)
    expect(y).toMatchObject({ type: 'float32', dims: [m, n] })
    expect(Array.from(y.data)).toEqual(want)
  })

  test('scales are the mean sizes of columns and rows, rounded after each product; bias and activation come last', () => {
    const [m, k, n] = [3, 100, 21]
    const a = numbers(m * k, 1)
    const w = numbers(k * n, 2)
    const bias = numbers(n, 3)
    const sums = signSums(a, w, m, k, n)
    const got = gemmBinary(f32([m, k], a), packBinary(f32([k, n], w)), { inputScale: 'mean', bias, activation: 'relu' })
    const want = sums.map((s, i) => {
      const [row, col] = [Math.floor(i / n), i % n]
      const alpha = Math.fround(meanSize(w, col, n, k))
      const beta = Math.fround(meanSize(a, row * k, 1, k))
      return Math.max(0, Math.fround(Math.fround(Math.fround(s * alpha) * beta) + (bias[col] as number)))
    })
    got.data.forEach((v, i) =>
      expect(Math.abs(v - (want[i] as number))).toBeLessThanOrEqual(2e-6 * Math.abs(want[i] as number)),
    )
    const given = gemmBinary(f32([m, k], a), packBinary(f32([k, n], w), { scale: bias }))
    expect(Array.from(given.data)).toEqual(sums.map((s, i) => Math.fround(s * (bias[i % n] as number))))
  })

  test('binary weights are the best of their kind: no other size of a column is nearer in squares', () => {
    const w = numbers(64, 9)
    const alpha = gemmBinary(Float32Array.of(1), packBinary(f32([1, 1], w.slice(0, 1)))).data[0]
    expect(Math.abs(alpha as number)).toBeCloseTo(Math.abs(w[0] as number), 6)
    const column = packBinary(f32([64, 1], w))
    const ones = new Float32Array(64).fill(1)
    const signs = signSums(ones, w, 1, 64, 1)[0] as number
    const size = (gemmBinary(ones, column).data[0] as number) / signs
    const loss = (s: number): number => w.reduce((sum, x) => sum + (x - (x < 0 ? -s : s)) ** 2, 0)
    for (const other of [0.99, 1.01]) expect(loss(size)).toBeLessThan(loss(size * other))
  })

  test('leading dimensions, empty operands, out, threads and the asynchronous twins', async () => {
    const [k, n] = [130, 19]
    const a = numbers(12 * k, 5)
    const w = numbers(k * n, 6)
    const packed = await packBinaryAsync(f32([k, n], w))
    const y = gemmBinary(f32([3, 4, k], a), packed)
    expect(y.dims).toEqual([3, 4, n])
    expect(await gemmBinaryAsync(f32([3, 4, k], a), packed, { threads: 2 })).toEqual(y)
    const out = new Float32Array(12 * n)
    expect(gemmBinary(f32([12, k], a), packed, { out }).data).toBe(out)
    expect(Array.from(out)).toEqual(Array.from(y.data))
    const sums = new Int32Array(12 * n)
    expect((await gemmBinaryAsync(f32([12, k], a), packed, { outType: 'int32', out: sums })).data).toBe(sums)
    expect(gemmBinary(f32([0, k], new Float32Array(0)), packed)).toMatchObject({ dims: [0, n] })
    expect(gemmBinary(f32([2, 0], new Float32Array(0)), packBinary(f32([0, 3], new Float32Array(0))))).toMatchObject({
      dims: [2, 3],
      data: new Float32Array(6),
    })
    expect(gemmBinary(f32([2, k], a.slice(0, 2 * k)), packBinary(f32([k, 0], new Float32Array(0))))).toMatchObject({
      dims: [2, 0],
    })
  })

  test('weights take a bit each, are shared by token and gone after dispose', () => {
    const packed = packBinary(f32([1024, 64], numbers(65536, 4)))
    expect(packed.byteLength).toBeLessThan(65536 / 8 + 64 * 8)
    const twin = adopt(packed.share()) as typeof packed
    const x = numbers(1024, 8)
    const y = gemmBinary(x, packed)
    packed.dispose()
    expect(gemmBinary(x, twin)).toEqual(y)
    expect(code(() => gemmBinary(x, packed))).toBe('ERR_HANDLE b')
    twin.dispose()
  })

  test('what is wrong is named', async () => {
    const w = f32([4, 2], numbers(8, 1))
    const packed = packBinary(w)
    const x = numbers(4, 2)
    const bad = Float32Array.of(1, NaN, 2, 3)
    expect(code(() => packBinary(f32([2, 2], bad)))).toBe('ERR_RANGE w[1]')
    expect(code(() => packBinary(f32([4], bad)))).toBe('ERR_SHAPE w')
    expect(code(() => packBinary({ type: 'int8', dims: [1, 1], data: Int8Array.of(1) }))).toBe('ERR_DTYPE w.type')
    expect(code(() => packBinary(w, { scale: 'max' as 'mean' }))).toBe('ERR_RANGE scale')
    expect(code(() => packBinary(w, { scale: Float32Array.of(1) }))).toBe('ERR_SHAPE scale')
    expect(code(() => packBinary(w, { scale: Float32Array.of(1, Infinity) }))).toBe('ERR_RANGE scale[1]')
    expect(code(() => packBinary(w, { transposed: true } as object))).toBe('ERR_RANGE options.transposed')
    expect(code(() => gemmBinary(bad, packed))).toBe('ERR_RANGE a[1]')
    const out = Float32Array.of(5, 5)
    expect(code(() => gemmBinary(bad, packed, { out }))).toBe('ERR_RANGE a[1]')
    expect(Array.from(out)).toEqual([5, 5])
    await expect(gemmBinaryAsync(bad, packed)).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'a[1]' })
    await expect(packBinaryAsync(f32([2, 2], bad))).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'w[1]' })
    expect(code(() => gemmBinary(numbers(3, 1), packed))).toBe('ERR_SHAPE b')
    expect(code(() => gemmBinary(x, w as unknown as typeof packed))).toBe('ERR_HANDLE b')
    expect(code(() => gemmBinary(x, packed, { outType: 'int8' as 'int32' }))).toBe('ERR_RANGE outType')
    expect(code(() => gemmBinary(x, packed, { outType: 'int32', inputScale: 'mean' }))).toBe('ERR_RANGE inputScale')
    expect(code(() => gemmBinary(x, packed, { outType: 'int32', bias: Float32Array.of(1, 2) }))).toBe('ERR_RANGE bias')
    expect(code(() => gemmBinary(x, packed, { bias: Float32Array.of(1) }))).toBe('ERR_SHAPE bias')
    expect(code(() => gemmBinary(x, packed, { out: new Int32Array(2) }))).toBe('ERR_DTYPE out')
    expect(code(() => gemmBinary(x, packed, { out: new Float32Array(3) }))).toBe('ERR_SHAPE out')
    expect(code(() => gemmBinary(x, packed, { threads: 0 }))).toBe('ERR_RANGE threads')
  })
})
