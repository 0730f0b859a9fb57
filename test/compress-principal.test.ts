import { Paging } from '../lib/compress/paged'
import { principal, SecondMoments } from '../lib/compress/rotate/principal'
import { noise } from './nets'

describe('principal components', () => {
  const { least } = Paging
  afterEach(() => void (Paging.least = least))

  // Wider than what is worked on at once.
  test.each([
    [600, false],
    [131, true],
  ])('of %i channels, centered %s: orthonormal, and hold as much as they say', (n, centered) => {
    const rows = 300
    const k = 100
    const x = noise(rows * n, 7)
    for (let r = 0; r < rows; r++) {
      // Few directions reach far; with `centered` rows have no mean.
      for (let i = 0; i < n; i++) x[r * n + i]! += 3 * Math.sin(i * ((r % 5) + 1))
      if (!centered) continue
      const mean = x.subarray(r * n, (r + 1) * n).reduce((s, v) => s + v / n, 0)
      for (let i = 0; i < n; i++) x[r * n + i]! -= mean
    }
    const bases: Float32Array[] = []
    for (const from of [least, 0]) {
      Paging.least = from
      const moments = new SecondMoments(n)
      moments.add(x)
      const { basis, energy } = principal(moments, { channels: k }, centered)
      expect([basis.from, basis.to]).toEqual([n, k])
      const unit = new Float32Array(n * n)
      for (let i = 0; i < n; i++) unit[i * n + i] = 1
      const m = basis.apply(unit)
      bases.push(m)
      for (let a = 0; a < k; a += 7)
        for (let b = 0; b < k; b++) {
          let dot = 0
          for (let i = 0; i < n; i++) dot += m[i * k + a]! * m[i * k + b]!
          // Of centered ones the projection onto (1, …, 1) is missing.
          expect(Math.abs(dot - (a === b ? 1 : 0) + (centered ? 1 / k : 0))).toBeLessThan(1e-5)
        }
      const y = basis.apply(x)
      const squares = (v: Float32Array): number => v.reduce((s, e) => s + e * e, 0)
      expect(squares(y) / squares(x)).toBeCloseTo(energy, 5)
      expect(energy).toBeGreaterThan(0.8)
      if (centered) for (let r = 0; r < rows; r += 50) expect(Math.abs(y.subarray(r * k, (r + 1) * k).reduce((s, v) => s + v, 0))).toBeLessThan(1e-3)
    }
    expect(bases[1]).toEqual(bases[0])
  })
})
