// Thresholds from a histogram: percentile, KL divergence, mean square error.

/** @internal Counts over `bins` equal steps of `width`, the middle of the histogram at 0. */
export interface Histogram {
  readonly counts: Float64Array
  readonly width: number
  /** exact bounds of what was counted */
  readonly min: number
  readonly max: number
}

/** @internal The counts of |x|, from 0 up. */
export function folded(h: Histogram): Float64Array {
  const half = h.counts.length / 2
  const out = new Float64Array(half)
  for (let i = 0; i < half; i++) out[i] = h.counts[half + i]! + h.counts[half - 1 - i]!
  return out
}

/**
 * @internal The value at position p/100·(n−1) of the sorted values, between order statistics that are spread evenly
 * within their bin: off by one bin width at most.
 */
export function percentile(counts: Float64Array, origin: number, width: number, p: number): number {
  let total = 0
  for (const c of counts) total += c
  const position = (p / 100) * (total - 1)
  const below = Math.floor(position)
  const at = (rank: number): number => {
    let seen = 0
    for (let i = 0; i < counts.length; i++) {
      const c = counts[i]!
      if (seen + c > rank) return origin + (i + (rank - seen + 0.5) / c) * width
      seen += c
    }
    return origin + counts.length * width
  }
  const low = at(below)
  const part = position - below
  return part > 0 ? low + part * (at(Math.min(below + 1, total - 1)) - low) : low
}

/**
 * Counts without atoms: zeros behind a ReLU, the bound of a Clip. Such a value keeps one code however fine the steps are; spread
 * over the bins of that code it would ask for ever finer ones. What is more than an even share of a code comes down to its neighbours.
 */
function withoutAtoms(counts: Float64Array, levels: number): Float64Array {
  let total = 0
  for (const c of counts) total += c
  return counts.map((c, i) => (c * levels > total ? Math.min(c, Math.max(1, counts[i - 1] ?? 0, counts[i + 1] ?? 0)) : c))
}

/** Share of values that entropy may cut off: it weighs how many are wrong, not by how much. */
const kMostOutliers = 0.001

/**
 * @internal The clipping threshold of |x| whose quantized distribution over `levelsOf(threshold)` codes diverges least from the
 * clipped one, in bins of `counts`.
 * @see Migacz, 8-bit Inference with TensorRT, 2017
 */
export function entropyThreshold(given: Float64Array, levelsOf: (bins: number) => number): number {
  let used = given.length
  while (used > 1 && given[used - 1] === 0) used--
  const fewest = levelsOf(used)
  if (used <= fewest) return used
  const counts = withoutAtoms(given, fewest)
  const step = Math.max(1, Math.floor((used - fewest) / 512))
  const tail = new Float64Array(used + 1)
  for (let i = used - 1; i >= 0; i--) tail[i] = tail[i + 1]! + counts[i]!
  let best = used
  let least = Infinity
  for (let n = used; n >= fewest; n -= step) {
    const levels = Math.min(n, levelsOf(n))
    const outliers = tail[n]!
    const total = tail[0]!
    if (outliers > kMostOutliers * total) break
    let kl = 0
    let kept = 0
    let free = 0
    // Each code covers n / levels bins; its mass is spread over those that are not empty.
    for (let q = 0; q < levels; q++) {
      const from = Math.floor((q * n) / levels)
      const to = Math.floor(((q + 1) * n) / levels)
      let mass = 0
      let filled = 0
      for (let i = from; i < to; i++) {
        mass += counts[i]!
        if (counts[i]! > 0 || (i === n - 1 && outliers > 0)) filled++
      }
      if (!filled) continue
      const each = mass / filled
      kept += mass
      free += filled - 1
      for (let i = from; i < to; i++) {
        const p = counts[i]! + (i === n - 1 ? outliers : 0)
        // A code without mass of its own would make the divergence infinite; a trace of mass makes it large.
        if (p > 0) kl += p * Math.log(p / Math.max(each, 1e-9))
      }
    }
    // Σ p/P·log((p/P)/(q/Q)) with P = total and Q = kept, less what chance alone makes of counts that are equal in truth
    // (Miller 1955): few values would ask for few bins a code.
    const divergence = kl / total - Math.log(total / Math.max(kept, 1e-9)) - free / (2 * total)
    if (divergence < least) {
      least = divergence
      best = n
    }
  }
  return best
}

/**
 * @internal The fraction of the range [min, max] that gives the least mean square error between values and what codes
 * of `steps` + 1 levels make of them: both ends shrink by the same factor.
 */
export function mseFraction(h: Histogram, steps: number, symmetric: boolean): number {
  const half = h.counts.length / 2
  const values: number[] = []
  const weights: number[] = []
  h.counts.forEach((c, i) => {
    if (c > 0) {
      values.push((i - half + 0.5) * h.width)
      weights.push(c)
    }
  })
  const most = Math.max(-h.min, h.max, 0)
  const low = symmetric ? -most : Math.min(h.min, 0)
  const high = symmetric ? most : Math.max(h.max, 0)
  const scaleAt = (f: number): number => ((high - low) * f) / steps
  const error = (f: number): number => {
    const s = scaleAt(f)
    const from = Math.round((low * f) / s)
    const to = from + steps
    let sum = 0
    for (let i = 0; i < values.length; i++) {
      const v = values[i]!
      const q = Math.round(v / s)
      const d = (q < from ? from : q > to ? to : q) * s - v
      sum += weights[i]! * d * d
    }
    return sum
  }
  let best = 1
  let least = error(1)
  const look = (from: number, to: number, count: number): void => {
    for (let k = 0; k <= count; k++) {
      const f = from + ((to - from) * k) / count
      const e = f > 0 ? error(f) : Infinity
      if (e < least) {
        least = e
        best = f
      }
    }
  }
  look(0.02, 1, 98)
  look(best - 0.01, Math.min(1, best + 0.01), 40)
  return best
}
