import { nearestLevel, type Levels } from './levels'
import { Groups, type Cut } from './scales'

/** The sums of ±α in the float32 that runtimes add them in, ascending; bit i of a code says that α of plane i counts positive. */
function sumsOf(alpha: ArrayLike<number>): Required<Levels> {
  const n = 2 ** alpha.length
  const values = new Float64Array(n)
  const codes = new Uint8Array(n)
  for (let code = 0; code < n; code++) {
    let sum = 0
    for (let i = 0; i < alpha.length; i++) sum = Math.fround(sum + ((code >> i) & 1 ? alpha[i]! : -alpha[i]!))
    let at = code
    for (; at > 0 && values[at - 1]! > sum; at--) {
      values[at] = values[at - 1]!
      codes[at] = codes[at - 1]!
    }
    values[at] = sum
    codes[at] = code
  }
  return { values, codes }
}

const kTurns = 30
/** A turn that takes a smaller share off the squared error is the last. */
const kLeastGain = 1e-4

/** α of one group: greedy, each plane the signs of what is left, all α by least squares after each; then codes and α in turn. */
function fitGroup(group: Float64Array, bits: number): Float32Array {
  const n = group.length
  const left = group.slice()
  const codes = new Uint8Array(n)
  let alpha: Float64Array = new Float64Array(0)
  for (let plane = 0; plane < bits; plane++) {
    let mean = 0
    const seen = new Histogram(plane + 1)
    for (let i = 0; i < n; i++) {
      mean += Math.abs(left[i]!) / n
      if (left[i]! >= 0) codes[i]! |= 1 << plane
      seen.add(codes[i]!, group[i]!)
    }
    alpha = leastSquares(seen, Float64Array.of(...alpha, mean))
    const { values, codes: of } = sumsOf(alpha)
    const value = new Float64Array(values.length)
    of.forEach((code, at) => (value[code] = values[at]!))
    for (let i = 0; i < n; i++) left[i] = group[i]! - value[codes[i]!]!
  }
  let best = Float32Array.from(alpha)
  const seen = new Histogram(bits)
  let least = assign(group, best, seen)
  for (let turn = 0; turn < kTurns; turn++) {
    const next = Float32Array.from(leastSquares(seen, Float64Array.from(best)))
    const error = assign(group, next, seen)
    if (!(error < least)) break
    const small = error > (1 - kLeastGain) * least
    least = error
    best = next
    if (small) break
  }
  return best.sort((a, b) => b - a)
}

/** How many weights have each code, and their sums: all that least squares need. */
class Histogram {
  readonly bits: number
  readonly count: Float64Array
  readonly sum: Float64Array

  constructor(bits: number) {
    this.bits = bits
    this.count = new Float64Array(2 ** bits)
    this.sum = new Float64Array(2 ** bits)
  }

  add(code: number, value: number): void {
    this.count[code]!++
    this.sum[code]! += value
  }
}

/** Counts the nearest code of each weight; returns the squared error. */
function assign(group: Float64Array, alpha: Float32Array, { count, sum, bits }: Histogram): number {
  const { values, codes } = sumsOf(alpha)
  const middle = values.map((v, i) => (v + (values[i + 1] ?? v)) / 2)
  count.fill(0)
  sum.fill(0)
  let error = 0
  for (let i = 0; i < group.length; i++) {
    const w = group[i]!
    let at = 0
    for (let step = 1 << (bits - 1); step > 0; step >>= 1) if (w > middle[at + step - 1]!) at += step
    const code = codes[at]!
    count[code]!++
    sum[code]! += w
    const d = w - values[at]!
    error += d * d
  }
  return error
}

/** α ≥ 0 that minimise ‖w − Σ α_i b_i‖² for given signs; `before` where planes are not independent. A negative one turns its plane round. */
function leastSquares({ count, sum }: Histogram, before: Float64Array): Float64Array {
  const m = before.length
  const sign = (code: number, i: number): number => ((code >> i) & 1 ? 1 : -1)
  let total = 0
  for (const n of count) total += n
  const a = Array.from({ length: m }, (_, i) => {
    const row = new Float64Array(m + 1)
    for (let code = 0; code < count.length; code++) {
      for (let j = 0; j < m; j++) row[j]! += count[code]! * sign(code, i) * sign(code, j)
      row[m]! += sum[code]! * sign(code, i)
    }
    return row
  })
  // Gauss-Jordan elimination with the largest pivot of the column: m is at most 4.
  for (let c = 0; c < m; c++) {
    let pivot = c
    for (let r = c + 1; r < m; r++) if (Math.abs(a[r]![c]!) > Math.abs(a[pivot]![c]!)) pivot = r
    if (Math.abs(a[pivot]![c]!) < 1e-9 * total) return before
    ;[a[c], a[pivot]] = [a[pivot]!, a[c]!]
    for (let r = 0; r < m; r++) {
      if (r === c) continue
      const factor = a[r]![c]! / a[c]![c]!
      for (let k = c; k <= m; k++) a[r]![k]! -= factor * a[c]![k]!
    }
  }
  return Float64Array.from(a, (row, i) => Math.abs(row[m]! / row[i]!))
}

/**
 * @internal W ≈ Σ αᵢ Bᵢ with Bᵢ of ±1: the scales of each group, [planes, groups], falling. A group of zeros has scales 0.
 *
 * Greedy planes refined by least squares are Guo et al., Network Sketching (2017); codes and scales in turn are Xu et al.,
 * Alternating Multi-bit Quantization (2018).
 */
export function fitResidual(values: ArrayLike<number>, cut: Cut, bits: number): Float32Array {
  const groups = new Groups(cut)
  const scales = new Float32Array(bits * groups.count)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < groups.count; g++) {
    groups.gather(values, g, group)
    fitGroup(group, bits).forEach((a, i) => (scales[i * groups.count + g] = a))
  }
  return scales
}

/** @internal What the codes of group `g` stand for. */
export function residualLevels(scales: Float32Array, bits: number, g: number): Required<Levels> {
  const count = scales.length / bits
  return sumsOf(Float32Array.from({ length: bits }, (_, i) => scales[i * count + g]!))
}

/** @internal The code of the sum nearest to each weight. */
export function residualCodes(values: ArrayLike<number>, cut: Cut, bits: number, scales: Float32Array): Int8Array {
  const groups = new Groups(cut)
  const codes = new Int8Array(values.length)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < groups.count; g++) {
    groups.gather(values, g, group)
    const levels = residualLevels(scales, bits, g)
    groups.scatter(codes, g, (n) => levels.codes[nearestLevel(levels.values, group[n]!)]!)
  }
  return codes
}

/** @internal What codes and scales stand for, in float32 as runtimes compute it. */
export function residualValues(codes: Int8Array, cut: Cut, bits: number, scales: Float32Array, out = new Float32Array(codes.length)): Float32Array {
  const groups = new Groups(cut)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < groups.count; g++) {
    groups.gather(codes, g, group)
    const levels = residualLevels(scales, bits, g)
    const of = new Float64Array(2 ** bits)
    levels.codes.forEach((code, i) => (of[code] = levels.values[i]!))
    groups.scatter(out, g, (n) => of[group[n]!]!)
  }
  return out
}
