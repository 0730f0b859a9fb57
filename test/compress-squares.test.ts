import { Paging } from '../lib/compress/paged'
import { Sums } from '../lib/compress/structure/squares'
import { noise } from './nets'

/** x with A x = b by elimination with row pivoting, columns of b [n, m] at once. */
function solved(a: Float64Array, b: Float64Array, n: number, m: number): Float64Array {
  for (let k = 0; k < n; k++) {
    let p = k
    for (let i = k + 1; i < n; i++) if (Math.abs(a[i * n + k]!) > Math.abs(a[p * n + k]!)) p = i
    if (p !== k) {
      for (let j = 0; j < n; j++) [a[k * n + j], a[p * n + j]] = [a[p * n + j]!, a[k * n + j]!]
      for (let j = 0; j < m; j++) [b[k * m + j], b[p * m + j]] = [b[p * m + j]!, b[k * m + j]!]
    }
    for (let i = 0; i < n; i++) {
      const f = i === k ? 0 : a[i * n + k]! / a[k * n + k]!
      if (f === 0) continue
      for (let j = k; j < n; j++) a[i * n + j]! -= f * a[k * n + j]!
      for (let j = 0; j < m; j++) b[i * m + j]! -= f * b[k * m + j]!
    }
  }
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) b[i * m + j]! /= a[i * n + i]!
  return b
}

describe('least squares of rows', () => {
  const { least } = Paging
  afterEach(() => void (Paging.least = least))

  // From 512 features on products are taken in float32, in stretches.
  test.each([
    [2, 40, 3, false],
    [2, 40, 3, true],
    [1, 514, 2, true],
  ])('%i groups of %i features, %i outputs, intercept %s: what elimination gives', (groups, size, outputs, intercept) => {
    const rows = 2 * size + 7
    const ridge = 0.02
    const x = noise(groups * size * rows, 3).map((v) => v + 0.1)
    const y = noise(groups * outputs * rows, 4).map((v) => v - 0.2)
    const old = noise(groups * outputs * size, 5)
    const bias = noise(groups * outputs, 6)
    const made: Float32Array[] = []
    for (const from of [least, 0]) {
      Paging.least = from
      const sums = new Sums(groups, size, outputs)
      const fill = (out: Float32Array, at: Int32Array, count: number): void => {
        for (let k = 0; k < groups * size; k++) for (let j = 0; j < count; j++) out[k * count + j] = x[k * rows + at[j]!]!
      }
      for (let from = 0; from < rows; from += 500) {
        const at = Int32Array.from({ length: Math.min(500, rows - from) }, (_, i) => from + i)
        const wanted = new Float32Array(groups * outputs * at.length)
        for (let o = 0; o < groups * outputs; o++) for (let j = 0; j < at.length; j++) wanted[o * at.length + j] = y[o * rows + at[j]!]!
        sums.add(fill, at, wanted)
      }
      const weights = old.slice()
      const biases = sums.solve(weights, bias, intercept, ridge)!
      made.push(weights, biases)
    }
    expect(made[2]).toEqual(made[0])
    expect(made[3]).toEqual(made[1])
    for (let g = 0; g < groups; g++) {
      const meanOf = (data: Float32Array, i: number): number => (intercept ? data.subarray(i * rows, (i + 1) * rows).reduce((s, v) => s + v, 0) / rows : 0)
      const centred = Array.from({ length: size }, (_, i) => {
        const mean = meanOf(x, g * size + i)
        return Float64Array.from({ length: rows }, (_, k) => x[(g * size + i) * rows + k]! - mean)
      })
      const dot = (a: Float64Array, b: Float64Array): number => {
        let s = 0
        for (let k = 0; k < rows; k++) s += a[k]! * b[k]!
        return s
      }
      const h = new Float64Array(size * size)
      for (let i = 0; i < size; i++) for (let j = i; j < size; j++) h[i * size + j] = h[j * size + i] = dot(centred[i]!, centred[j]!)
      const lambda = (ridge * Math.max(1, (4 * size) / rows) * centred.reduce((s, _, i) => s + h[i * size + i]!, 0)) / size
      const right = new Float64Array(size * outputs)
      for (let o = 0; o < outputs; o++)
        for (let i = 0; i < size; i++) {
          const row = g * outputs + o
          let s = dot(centred[i]!, Float64Array.from({ length: rows }, (_, k) => y[row * rows + k]! - (intercept ? 0 : bias[row]!)))
          for (let j = 0; j < size; j++) s -= h[i * size + j]! * old[row * size + j]!
          right[i * outputs + o] = s
        }
      for (let i = 0; i < size; i++) h[i * size + i]! += lambda
      const change = solved(h, right, size, outputs)
      let worst = 0
      for (let o = 0; o < outputs; o++) {
        const row = g * outputs + o
        let shift = meanOf(y, row)
        for (let i = 0; i < size; i++) {
          const w = old[row * size + i]! + change[i * outputs + o]!
          worst = Math.max(worst, Math.abs(made[0]![row * size + i]! - w))
          shift -= w * meanOf(x, g * size + i)
        }
        expect(Math.abs(made[1]![row]! - (intercept ? shift : bias[row]!))).toBeLessThan(5e-5)
      }
      expect(worst).toBeLessThan(2e-5)
    }
  })
})
