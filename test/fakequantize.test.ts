import { fakeQuantize, fakeQuantizeAsync, quantize, dequantize, WhittleError, type FakeQuantizeOptions, type Tensor } from '../lib/index'
import { fixtures, type FixtureCase } from './oracle/fixtures'
import { groups, roundHalfEven } from './oracle/quantize'

const tensorOf = (c: FixtureCase, role: string): Tensor => {
  const t = c.tensor(role)
  return { type: 'float32', dims: t.dims, data: Float32Array.from(t.data) }
}

for (const c of fixtures('quantize', /^fake_|^lsq_/))
  test(`gives the values and gradients of ${c.name}`, () => {
    const { qmin, qmax, axis, gradientScale } = c.parameters
    const zero = c.has('zeroPoint') ? Int32Array.from(c.tensor('zeroPoint').data) : c.parameters.zeroPoint
    const scale = Float32Array.from(c.tensor('scale').data)
    const r = fakeQuantize(tensorOf(c, 'x'), {
      scale,
      zeroPoint: typeof zero === 'number' ? new Int32Array(scale.length).fill(zero) : zero,
      qmin,
      qmax,
      axis,
      grad: tensorOf(c, 'gradY'),
      ...(gradientScale !== undefined && { learned: true, gradientScale }),
    })
    for (const role of c.roles) c.check(role, r[role as 'y']!.data)
  })

const n = 6 * 35 * 40
const x = Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898) * 3)
const grad = Float32Array.from({ length: n }, (_, i) => Math.cos(i * 78.233))
const t: Tensor = { type: 'float32', dims: [6, 35, 40], data: x }

const schemes: FakeQuantizeOptions[] = [
  {},
  { axis: 0 },
  { axis: 1, symmetric: false },
  { axis: 2, bits: 4, symmetric: false },
  { axis: 2, blockSize: 16, bits: 4 },
  { axis: 1, blockSize: 8, symmetric: false, bits: 3 },
]
for (const o of schemes) {
  test(`equals quantize and dequantize with ${JSON.stringify(o)}`, () => {
    const { y, scale } = fakeQuantize(t, o)
    const q = quantize(t, o as never)
    expect(scale.data).toEqual(q.scale.data)
    const want = dequantize(q).data as Float32Array
    expect(y.data.findIndex((v, i) => v !== want[i])).toBe(-1)
  })

  test(`sums the gradients of the definition with ${JSON.stringify(o)}`, () => {
    const base = fakeQuantize(t, o)
    // Narrower scales than the values need, so that some are clipped.
    const scale = base.scale.data.map((s) => s * 0.6)
    const bits = o.bits ?? 8
    const signed = o.symmetric ?? true
    const qmin = signed ? -(2 ** (bits - 1)) : 0
    const qmax = qmin + 2 ** bits - 1
    const zero = base.zeroPoint.data
    const r = fakeQuantize(t, { ...o, symmetric: undefined as never, scale, zeroPoint: zero, qmin, qmax, grad, learned: true, gradientScale: 0.5 })
    const { of, count } = groups({ dims: t.dims, axis: o.axis ?? null, blockSize: o.blockSize ?? null })
    const ds = new Float64Array(count)
    const dz = new Float64Array(count)
    const size = new Float64Array(count)
    for (let i = 0; i < n; i++) {
      const g = of[i]!
      const v = Math.fround(x[i]! / scale[g]!)
      const code = roundHalfEven(v) + zero[g]!
      const inside = code >= qmin && code <= qmax
      if (r.gradX!.data[i] !== (inside ? grad[i] : 0)) throw new Error(`gradX[${i}] is ${r.gradX!.data[i]}, code ${code}`)
      ds[g]! += grad[i]! * (inside ? roundHalfEven(v) - v : (code < qmin ? qmin : qmax) - zero[g]!) * 0.5
      dz[g]! += inside ? 0 : -scale[g]! * grad[i]! * 0.5
      size[g]! += Math.abs(grad[i]!) * (Math.abs(v) + 1)
    }
    for (let g = 0; g < count; g++) {
      expect(Math.abs(r.gradScale!.data[g]! - ds[g]!)).toBeLessThanOrEqual(size[g]! * 1e-7)
      expect(Math.abs(r.gradZeroPoint!.data[g]! - dz[g]!)).toBeLessThanOrEqual(size[g]! * 1e-7)
    }
  })

  test(`does not depend on threads, nor on being asynchronous, with ${JSON.stringify(o)}`, async () => {
    const one = fakeQuantize(t, { ...o, grad, learned: true, threads: 1 })
    const four = fakeQuantize(t, { ...o, grad, learned: true, threads: 4 })
    const later = await fakeQuantizeAsync(t, { ...o, grad, learned: true })
    for (const other of [four, later])
      for (const role of ['y', 'gradX', 'gradScale', 'gradZeroPoint', 'scale', 'zeroPoint'] as const)
        expect(Buffer.compare(Buffer.from(other[role]!.data.buffer), Buffer.from(one[role]!.data.buffer))).toBe(0)
  })
}

test('writes into the caller’s memory', () => {
  const y = new Float32Array(n)
  const gradX = new Float32Array(n)
  expect(fakeQuantize(t, { out: y }).y.data).toBe(y)
  const r = fakeQuantize(t, { grad, out: { y, gradX } })
  expect(r.y.data).toBe(y)
  expect(r.gradX!.data).toBe(gradX)
})

test('rounds stochastically as quantize does', () => {
  const o = { rounding: 'stochastic', seed: 9, axis: 1 } as const
  const want = dequantize(quantize(t, o)).data as Float32Array
  expect(fakeQuantize(t, o).y.data.findIndex((v, i) => v !== want[i])).toBe(-1)
})

const bad: [string, FakeQuantizeOptions, string][] = [
  ['a gradient of another size', { grad: new Float32Array(3) }, 'ERR_SHAPE grad'],
  ['learned without a gradient', { learned: true }, 'ERR_RANGE learned'],
  ['bounds without a scale', { qmin: 0, qmax: 3 }, 'ERR_RANGE qmin'],
  ['one bound', { scale: 1, qmin: 0 }, 'ERR_DTYPE qmax'],
  ['bounds the wrong way round', { scale: 1, qmin: 3, qmax: 0 }, 'ERR_RANGE qmax'],
  ['a zero point outside the bounds', { scale: 1, zeroPoint: 9, qmin: -8, qmax: 7 }, 'ERR_RANGE zeroPoint'],
  ['a scale of 0', { scale: Float32Array.of(0) }, 'ERR_RANGE scale'],
  ['a scale whose products overflow', { scale: 3e38 }, 'ERR_RANGE scale'],
  ['NaN in the gradient', { grad: new Float32Array(n).fill(NaN) }, 'ERR_RANGE x'],
  ['an out over x', { out: x }, 'ERR_RANGE out'],
  ['an unknown option', { grads: grad } as never, 'ERR_RANGE options.grads'],
]
for (const [what, o, want] of bad)
  test(`refuses ${what}`, () => {
    let got = 'no error'
    try {
      fakeQuantize(t, o)
    } catch (e) {
      if (!(e instanceof WhittleError)) throw e
      got = `${e.code} ${e.parameter}`
    }
    expect(got).toBe(want)
  })
