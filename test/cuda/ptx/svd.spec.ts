// The PTX of what surrounds cuSOLVER, interpreted: sums, maxima and signs against their definitions.
import { expectBusy, expectNear, Files, kBlock, normals, schedules } from './support'

const files = new Files()
beforeAll(() => files.compile('svd'), 300000)

test.each([[1, 37, 1], [3, 1100, 2]] as const)('maxima, squares and what lacks to orthonormal of %d matrices', (batch, count, pieces) => {
  for (const schedule of schedules) {
    const r = files.runner(schedule)
    const { gpu, flags, launch } = files.open(r, 'svd')
    const x = Float64Array.from(normals(1, batch * count))
    const out = gpu.put(8 * batch * pieces)
    const each = (f: (x: number[]) => number) => Array.from({ length: batch }, (_, b) => f(Array.from(x.subarray(b * count, (b + 1) * count))))
    const got = (join: (a: number, b: number) => number) => {
      const all = new Float64Array(gpu.get(out, 8 * batch * pieces))
      return Array.from({ length: batch }, (_, b) => Array.from(all.subarray(b * pieces, (b + 1) * pieces)).reduce(join))
    }
    launch('largest_kernel', batch * pieces, kBlock, gpu.put(x), 1, count, pieces, out, flags)
    expect(got((a, b) => Math.max(a, b))).toEqual(each((v) => Math.max(...v.map(Math.abs))))
    launch('largest_kernel', batch * pieces, kBlock, gpu.put(Float32Array.from(x)), 0, count, pieces, out, flags)
    expect(got((a, b) => Math.max(a, b))).toEqual(each((v) => Math.fround(Math.max(...v.map(Math.abs)))))
    expect(new Int32Array(gpu.get(flags, 4))[0]).toBe(0)
    launch('squares_kernel', batch * pieces, kBlock, gpu.put(x), count, pieces, out)
    expectNear(got((a, b) => a + b), each((v) => v.reduce((a, b) => a + b * b, 0)), 1e-12)
    const k = Math.floor(Math.sqrt(count))
    const gram = Float64Array.from({ length: batch * k * k }, (_, i) => Number((i % (k * k)) % (k + 1) === 0) + 1e-3 * (x[i] as number))
    launch('skew_kernel', batch * pieces, kBlock, gpu.put(gram), k, pieces, out)
    expect(got((a, b) => Math.max(a, b))).toEqual(Array.from({ length: batch }, (_, b) => Math.max(...Array.from(gram.subarray(b * k * k, (b + 1) * k * k), (v, i) => Math.abs(v - Number(i % (k + 1) === 0))))))
    gram[0] = NaN
    launch('skew_kernel', batch * pieces, kBlock, gpu.put(gram), k, pieces, out)
    expect(got((a, b) => Math.max(a, b))[0]).toBe(Number.MAX_VALUE)
    launch('largest_kernel', batch * pieces, kBlock, gpu.put(gram), 1, k * k, pieces, out, flags)
    expect(new Int32Array(gpu.get(flags, 4))[0]).toBe(1)
    expectBusy(r, 'squares_kernel', count % 4 ? 1.2 : 1)
  }
})

test.each([[9, 3, true], [700, 2, true], [700, 2, false]] as const)('columns of length %d take the sign of their first largest element', (length, rank, wide) => {
  for (const schedule of schedules) {
    const r = files.runner(schedule)
    const { gpu, launch } = files.open(r, 'svd')
    const stride = length * rank + 5
    const u = Float64Array.from(normals(2, 2 * stride)).map((v) => Math.max(-1, Math.min(1, v / 4)))
    // Several are as large as any, of either sign; in float32 also those that differ by less.
    for (let c = 0; c < rank; c++) {
      u[c * length + 7] = wide ? -2 : -2 + 1e-9
      u[c * length + length - 1] = 2
    }
    const out = gpu.put(8 * 2 * rank)
    launch('sign_kernel', 2 * rank, kBlock, gpu.put(u), Number(wide), length, stride, rank, out)
    const want = Array.from({ length: 2 * rank }, (_, i) => {
      const x = Array.from(u.subarray(Math.floor(i / rank) * stride + (i % rank) * length).subarray(0, length))
      const size = x.map((v) => (wide ? Math.abs(v) : Math.abs(Math.fround(v))))
      return (x[size.indexOf(Math.max(...size))] as number) < 0 ? -1 : 1
    })
    expect([...new Float64Array(gpu.get(out, 16 * rank))]).toEqual(want)
  }
})

test('every kernel that holds inline assembly has run', () => expect(files.missing()).toEqual([]))
