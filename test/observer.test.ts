import { Observer, quantizationParameters, quantize, WhittleError, type ObserverMethod, type ObserverOptions, type Tensor } from '../lib/index'
import { fixtures } from './oracle/fixtures'

const code = (fn: () => unknown): string => {
  try {
    fn()
  } catch (e) {
    if (e instanceof WhittleError) return `${e.code} ${e.parameter}`
    throw e
  }
  return 'no error'
}

// Normal values with a few far ones, from a fixed seed.
function sample(n: number, outlier: number): Float32Array {
  let s = 12345
  const rand = (): number => ((s = (Math.imul(s, 1103515245) + 12345) & 0x7fffffff), (s + 0.5) / 0x80000000)
  return Float32Array.from({ length: n }, (_, i) =>
    i % 5000 === 17 ? outlier : Math.sqrt(-2 * Math.log(rand())) * Math.cos(2 * Math.PI * rand()),
  )
}

const meanSquare = (x: Float32Array, t: number, q: number): number => {
  const s = Math.fround(t / q)
  return x.reduce((sum, v) => sum + (Math.max(-q, Math.min(q, Math.round(v / s))) * s - v) ** 2, 0) / x.length
}

describe('agreement with other software', () => {
  for (const c of fixtures('quantize', /^parameters_/))
    test(`turns ranges into parameters as ${c.name}`, () => {
      const convention = c.name.includes('torch') ? 'torch' : 'onnx'
      const { dtype: type, symmetric } = c.parameters
      const scales: number[] = []
      const zeros: number[] = []
      if (c.has('x')) {
        const x = c.tensor('x')
        const q = quantize({ type: 'float32', dims: x.dims, data: x.data }, { type, symmetric, convention, axis: 0 })
        scales.push(...q.scale.data)
        zeros.push(...(q.zeroPoint.data as Uint8Array))
        const observer = new Observer({ type, symmetric, convention, axis: 0 })
        const p = observer.observe({ type: 'float32', dims: x.dims, data: x.data } as Tensor).parameters()
        expect(p.scale.data).toEqual(q.scale.data)
        expect(p.zeroPoint.data).toEqual(q.zeroPoint.data)
      } else {
        const pairs = c.tensor('minmax').data as Float32Array
        for (let i = 0; i < pairs.length; i += 2) {
          const p = quantizationParameters(pairs[i]!, pairs[i + 1]!, { type, symmetric, convention })
          scales.push(p.scale.data[0]!)
          zeros.push((p.zeroPoint.data as Uint8Array)[0]!)
        }
      }
      c.check('scale', scales)
      c.check('zeroPoint', zeros)
    })

  test('finds percentiles to one bin', () => {
    const c = fixtures('quantize', /^percentile$/)[0]!
    const x = c.tensor('x').data as Float32Array
    const list = c.parameters.percentiles as number[]
    for (const p of [50, 99, 99.9, 99.99, 100])
      for (const symmetric of [true, false]) {
        const observer = new Observer({ method: 'percentile', percentile: p, symmetric }).observe(x)
        const bin = observer.resolution[0]! + 1e-6
        const { min, max } = observer.ranges()
        const at = (role: string, percent: number): number => c.tensor(role).data[list.indexOf(percent)]!
        expect(Math.abs(max[0]! - at(symmetric ? 'absValue' : 'value', p))).toBeLessThanOrEqual(bin)
        const low = list.includes(Math.round((100 - p) * 1e6) / 1e6) ? Math.round((100 - p) * 1e6) / 1e6 : -1
        if (!symmetric && low >= 0) expect(Math.abs(min[0]! - at('value', low))).toBeLessThanOrEqual(bin)
      }
  })

  for (const c of fixtures('quantize', /^mse_clip/))
    test(`clips as well as the search of ${c.name}`, () => {
      const x = c.tensor('x').data as Float32Array
      const q = c.parameters.q as number
      const { max } = new Observer({ method: 'mse', bits: c.parameters.bits }).observe(x).ranges()
      expect(meanSquare(x, max[0]!, q)).toBeLessThanOrEqual(c.tensor('mse').data[0]! * 1.02)
    })
})

describe('methods', () => {
  const x = sample(20000, 30)

  test('minmax keeps the bounds of everything seen', () => {
    const { min, max } = new Observer().observe(Float32Array.of(1, 2)).observe(Float32Array.of(-7, 0.5)).ranges()
    expect([min[0], max[0]]).toEqual([-7, 2])
    const lone = new Observer().observe(Float32Array.of(5, 6)).ranges()
    expect([lone.min[0], lone.max[0]]).toEqual([5, 6])
  })

  test('movingAverage starts from the first range and moves by the constant', () => {
    const o = new Observer({ method: 'movingAverage', averagingConstant: 0.25 })
    const { min, max } = o.observe(Float32Array.of(-1, 4)).observe(Float32Array.of(-3, 8)).ranges()
    expect([min[0], max[0]]).toEqual([-1.5, 5])
  })

  test('percentile, entropy and mse cut outliers off, minmax does not', () => {
    const reach = (method: ObserverMethod): number => new Observer({ method, percentile: 99.9 }).observe(x).ranges().max[0]!
    expect(reach('minmax')).toBe(30)
    for (const method of ['percentile', 'entropy'] as const) {
      expect(reach(method)).toBeLessThan(15)
      expect(reach(method)).toBeGreaterThan(2)
    }
    const four = new Observer({ method: 'mse', bits: 4 }).observe(x).ranges().max[0]!
    expect(four).toBeLessThan(30)
    expect(meanSquare(x, four, 7)).toBeLessThan(meanSquare(x, 30, 7))
  })

  test('entropy keeps a uniform distribution nearly whole', () => {
    const flat = Float32Array.from({ length: 50000 }, (_, i) => i / 25000 - 1)
    expect(new Observer({ method: 'entropy' }).observe(flat).ranges().max[0]!).toBeGreaterThan(0.9)
  })

  test('entropy is not moved by zeros behind a ReLU, nor does it cut off the bound of a Clip', () => {
    const rest = sample(60000, 1).filter((v) => v > 0)
    const all = Float32Array.from({ length: 3 * rest.length }, (_, i) => (i % 3 === 0 ? rest[i / 3]! : 0))
    const reach = (values: Float32Array): number => new Observer({ method: 'entropy', type: 'uint8' }).observe(values).ranges().max[0]!
    expect(Math.abs(reach(all) / reach(rest) - 1)).toBeLessThan(0.1)
    expect(reach(rest.map((v) => Math.min(v, 1.5)))).toBeGreaterThan(1.45)
  })

  for (const method of ['minmax', 'percentile', 'entropy', 'mse'] as const)
    test(`${method} does not depend on how the stream is cut`, () => {
      for (const o of [{ method }, { method, type: 'uint8' }, { method, bits: 4 }] as ObserverOptions[]) {
        const whole = new Observer(o).observe(x).ranges()
        const parts = new Observer(o)
        // small values first, so that the histogram has to widen
        const sorted = x.slice().sort((a, b) => Math.abs(a) - Math.abs(b))
        for (let i = 0; i < sorted.length; i += 1777) parts.observe(sorted.subarray(i, i + 1777))
        expect(parts.ranges()).toEqual(whole)
      }
    })

  for (const method of ['minmax', 'movingAverage', 'percentile', 'entropy', 'mse'] as const)
    for (const axis of [0, 1, -1])
      test(`${method} along axis ${axis} is that of each channel alone`, () => {
        const dims = [7, 5, 90]
        const data = x.slice(0, 3150)
        const at = axis < 0 ? 2 : axis
        const o = { method, type: 'int8', symmetric: false, bins: 1024 } as const
        const all = new Observer({ ...o, axis }).observe({ type: 'float32', dims, data })
        const got = all.ranges()
        const inner = dims.slice(at + 1).reduce((a, b) => a * b, 1)
        for (let ch = 0; ch < dims[at]!; ch += 4) {
          const own = data.filter((_, i) => Math.floor(i / inner) % dims[at]! === ch)
          const want = new Observer(o).observe(own).ranges()
          expect([got.min[ch], got.max[ch]]).toEqual([want.min[0], want.max[0]])
        }
      })

  test('reads half precision', () => {
    const half = new Uint16Array(3000).map((_, i) => 0x3c00 + (i % 1024)) // 1 … 2
    for (const method of ['minmax', 'percentile'] as const) {
      const { min, max } = new Observer({ method, percentile: 100 }).observe({ type: 'float16', dims: [3000], data: half }).ranges()
      if (method === 'minmax') expect(min[0]).toBe(1)
      expect(max[0]).toBe(1 + 1023 / 1024)
    }
  })

  test('parameters fit quantize', () => {
    for (const o of [{}, { type: 'uint8' }, { bits: 4, axis: 0 }, { convention: 'torch' }] as ObserverOptions[]) {
      const t: Tensor = { type: 'float32', dims: [100, 200], data: x }
      const got = quantize(t, new Observer(o).observe(t).parameters())
      const want = quantize(t, o)
      expect(got.scale.data).toEqual(want.scale.data)
      expect(Buffer.compare(Buffer.from(got.data.buffer), Buffer.from(want.data.buffer))).toBe(0)
    }
  })

  test('asynchronous observations are taken in in order', async () => {
    const o = { method: 'percentile', percentile: 99 } as const
    const sync = new Observer(o)
    const other = new Observer(o)
    const calls: Promise<unknown>[] = []
    for (let i = 0; i < 10; i++) {
      sync.observe(x.subarray(i * 2000, i * 2000 + 2000))
      calls.push(other.observeAsync(x.slice(i * 2000, i * 2000 + 2000)))
    }
    await Promise.all(calls)
    expect(other.ranges()).toEqual(sync.ranges())
    await expect(other.observeAsync(Float32Array.of(NaN))).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'x' })
    expect(other.ranges()).toEqual(sync.ranges())
  })

  test('zeros, one value and the smallest floats give finite parameters', () => {
    for (const method of ['minmax', 'movingAverage', 'percentile', 'entropy', 'mse'] as const)
      for (const data of [new Float32Array(100), Float32Array.of(3), Float32Array.of(1e-44, -1e-45), Float32Array.of(3.4e38, -3.4e38)]) {
        const p = new Observer({ method, symmetric: false }).observe(data).parameters()
        expect(p.scale.data[0]).toBeGreaterThan(0)
        expect(p.scale.data[0]).toBeLessThan(Infinity)
      }
  })
})

describe('errors', () => {
  const cases: [string, () => unknown, string][] = [
    ['an unknown method', () => new Observer({ method: 'guess' as never }), 'ERR_RANGE method'],
    ['an unknown option', () => new Observer({ blockSize: 3 } as never), 'ERR_RANGE options.blockSize'],
    ['a percentile below 50', () => new Observer({ percentile: 0.1 }), 'ERR_RANGE percentile'],
    ['bins that are no power of two', () => new Observer({ bins: 1000 }), 'ERR_RANGE bins'],
    ['an averaging constant of 2', () => new Observer({ averagingConstant: 2 }), 'ERR_RANGE averagingConstant'],
    ['ranges before any observation', () => new Observer().ranges(), 'ERR_RANGE observe'],
    ['parameters of nothing but empty tensors', () => new Observer().observe(new Float32Array(0)).parameters(), 'ERR_RANGE observe'],
    ['NaN', () => new Observer({ method: 'mse' }).observe(Float32Array.of(1, NaN)), 'ERR_RANGE x'],
    ['infinity', () => new Observer().observe(Float32Array.of(Infinity)), 'ERR_RANGE x'],
    ['integers', () => new Observer().observe(Int8Array.of(1)), 'ERR_DTYPE x'],
    ['an axis too far', () => new Observer({ axis: 3 }).observe(Float32Array.of(1)), 'ERR_RANGE axis'],
    ['a channel count that changes', () => {
      const o = new Observer({ axis: 0 }).observe(Float32Array.of(1, 2))
      o.observe(Float32Array.of(1, 2, 3))
    }, 'ERR_SHAPE x.dims'],
    ['NaN as a bound', () => quantizationParameters(NaN, 1), 'ERR_RANGE min'],
    ['bounds the wrong way round', () => quantizationParameters(2, 1), 'ERR_RANGE max'],
    ['bounds of different counts', () => quantizationParameters(Float32Array.of(1, 2), Float32Array.of(3)), 'ERR_SHAPE max'],
  ]
  for (const [what, fn, want] of cases) test(`refuses ${what}`, () => expect(code(fn)).toBe(want))

  test('a call that throws changes nothing', () => {
    const o = new Observer({ method: 'percentile' }).observe(Float32Array.of(1, 2, 3))
    const before = o.ranges()
    expect(code(() => o.observe(Float32Array.of(100, NaN)))).toBe('ERR_RANGE x')
    expect(o.ranges()).toEqual(before)
  })
})
