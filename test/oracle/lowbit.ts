/** Formats of few bits by their definitions, in double precision; independent of the implementation. */

/** QLoRA's construction of NF4: quantiles of N(0, 1), 8 of the positive half, 7 of the negative, and 0, over the largest. */
export function normalFloat4(): number[] {
  const offset = 0.9677083
  const positive = Array.from({ length: 9 }, (_, i) => quantile(offset + (0.5 - offset) * (i / 8))).slice(0, 8)
  const negative = Array.from({ length: 8 }, (_, i) => -quantile(offset + (0.5 - offset) * (i / 7))).slice(0, 7)
  const all = [...negative, 0, ...positive].sort((a, b) => a - b)
  const most = Math.max(...all.map(Math.abs))
  return all.map((v) => v / most)
}

/** Inverse of the normal distribution function, by bisection of a series. */
function quantile(p: number): number {
  let [low, high] = [-9, 9]
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2
    if (distribution(middle) < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}

/** Φ(x) = ½ + φ(x) (x + x³/3 + x⁵/(3·5) + …) */
function distribution(x: number): number {
  let term = x
  let sum = x
  for (let k = 1; k < 400; k++) {
    term *= (x * x) / (2 * k + 1)
    sum += term
  }
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI)
}

/** 0 and ±2^-k of `bits`, largest 1. */
export function powersOfTwo(bits: number): number[] {
  const found = [0]
  for (let k = 0; k < 2 ** (bits - 1) - 1; k++) found.push(2 ** -k, -(2 ** -k))
  return found
}

/** APoT of 4 bits as the paper's authors list its magnitudes: {0, 1/2, 1/4, 1/16} + {0, 1/8}, over the largest. */
export function additive4(): number[] {
  const found = new Set<number>()
  for (const a of [0, 1 / 2, 1 / 4, 1 / 16]) for (const b of [0, 1 / 8]) found.add((a + b) / 0.625)
  return [...found].flatMap((v) => [v, -v])
}

/** The value of `levels` nearest to x. */
export function nearest(levels: readonly number[], x: number): number {
  return levels.reduce((best, v) => (Math.abs(x - v) < Math.abs(x - best) ? v : best))
}

/** XNOR-Net: mean |w| times the sign. */
export function binary(group: readonly number[]): number[] {
  const alpha = group.reduce((s, w) => s + Math.abs(w), 0) / group.length
  return group.map((w) => (w < 0 ? -alpha : alpha))
}

/** TWN: threshold 0.7 mean |w|, scale the mean magnitude of what is above it. */
export function ternary(group: readonly number[]): number[] {
  const delta = (0.7 * group.reduce((s, w) => s + Math.abs(w), 0)) / group.length
  const above = group.filter((w) => Math.abs(w) > delta)
  const alpha = above.reduce((s, w) => s + Math.abs(w), 0) / above.length
  return group.map((w) => (Math.abs(w) > delta ? Math.sign(w) * alpha : 0))
}

/** The least squared error of any scale on a fine comb, for symmetric integers. */
export function leastError(group: readonly number[], bits: number, steps = 2000): number {
  const top = 2 ** (bits - 1) - 1
  const most = Math.max(...group.map(Math.abs))
  let best = Infinity
  for (let i = 1; i <= steps; i++) {
    const scale = (most / top) * (i / steps)
    let error = 0
    for (const w of group) error += (w - scale * Math.max(-top, Math.min(top, Math.round(w / scale)))) ** 2
    best = Math.min(best, error)
  }
  return best
}

/** Bits a symbol that an ideal coder takes. */
export function entropy(symbols: readonly number[]): number {
  const share = [...new Set(symbols)].map((s) => symbols.filter((t) => t === s).length / symbols.length)
  return -share.reduce((sum, p) => sum + p * Math.log2(p), 0)
}

/** Σ(y − ŷ)² / Σ(y − ȳ)² over sets of inputs [rows, size] of a product with [size, outputs]. */
export function outputError(w: Float32Array, got: Float32Array, sets: readonly Float32Array[], size: number, outputs: number): number {
  let moved = 0
  let all = 0
  for (let o = 0; o < outputs; o++) {
    const y: number[] = []
    for (const x of sets)
      for (let r = 0; r < x.length / size; r++) {
        let [a, b] = [0, 0]
        for (let k = 0; k < size; k++) {
          a += x[r * size + k]! * w[k * outputs + o]!
          b += x[r * size + k]! * got[k * outputs + o]!
        }
        moved += (a - b) ** 2
        y.push(a)
      }
    const mean = y.reduce((s, v) => s + v, 0) / y.length
    for (const v of y) all += (v - mean) ** 2
  }
  return moved / all
}

/** Of one row: the error dᵀHd of given codes, of nearest rounding, and the least of all ways to round each weight down or up. */
export function bestRounding(w: readonly number[], h: Float64Array, scale: number, codes: readonly number[]): { given: number; nearest: number; best: number } {
  const n = w.length
  const error = (of: (i: number) => number): number => {
    let sum = 0
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sum += (of(i) * scale - w[i]!) * h[i * n + j]! * (of(j) * scale - w[j]!)
    return sum
  }
  let best = Infinity
  for (let bits = 0; bits < 2 ** n; bits++) best = Math.min(best, error((i) => Math.floor(w[i]! / scale) + ((bits >> i) & 1)))
  return { given: error((i) => codes[i]!), nearest: error((i) => Math.round(w[i]! / scale)), best }
}

/** Sums of m signed scales, ascending. */
export function sums(alpha: readonly number[]): number[] {
  let all = [0]
  for (const a of alpha) all = all.flatMap((s) => [s - a, s + a])
  return all.sort((a, b) => a - b)
}

/** Greedy residual binarization without refinement: α_i = mean |r|, b_i = sign r, r ← r − α_i b_i. Its squared error. */
export function greedyResidual(group: readonly number[], m: number): number {
  let r = [...group]
  for (let i = 0; i < m; i++) {
    const alpha = r.reduce((s, v) => s + Math.abs(v), 0) / r.length
    r = r.map((v) => v - (v >= 0 ? alpha : -alpha))
  }
  return r.reduce((s, v) => s + v * v, 0)
}

/** By every assignment of signs: the least ‖w − α₁b₁ − α₂b₂‖², for few values. */
export function bestOfTwoPlanes(w: readonly number[]): number {
  const n = w.length
  const power = w.reduce((s, v) => s + v * v, 0)
  let best = Infinity
  for (let x = 0; x < 2 ** n; x++)
    for (let y = 0; y < 2 ** n; y++) {
      let [a, b, c] = [0, 0, 0]
      for (let i = 0; i < n; i++) {
        const [p, q] = [(x >> i) & 1 ? 1 : -1, (y >> i) & 1 ? 1 : -1]
        a += p * w[i]!
        b += q * w[i]!
        c += p * q
      }
      // [n c; c n] α = [a; b]; the error is ‖w‖² − αᵀ[a; b].
      const det = n * n - c * c
      const less = det === 0 ? (a * a) / n : (n * a * a - 2 * c * a * b + n * b * b) / det
      best = Math.min(best, power - less)
    }
  return best
}

/** One row: accelerated proximal gradient steps towards levels, in double precision, by definition; H is [n, n] with mean diagonal 1 and damped. */
export function proximalPath(w: readonly number[], h: readonly (readonly number[])[], levels: readonly number[], lambda: number, steps: number): number[] {
  const n = w.length
  // The largest eigenvalue of D^-½ H D^-½, as the largest that 2000 turns of power iteration give.
  let x = w.map((_, i) => 1 + i / n)
  let most = 0
  for (let k = 0; k < 2000; k++) {
    const y = x.map((_, i) => h[i]!.reduce((s, v, j) => s + (v * x[j]!) / Math.sqrt(h[i]![i]! * h[j]![j]!), 0))
    most = Math.hypot(...y)
    x = y.map((v) => v / most)
  }
  let [q, last] = [[...w], [...w]]
  for (let t = 1; t <= steps; t++) {
    const ahead = q.map((v, i) => v + Math.min(0.95, (t - 1) / (t + 2)) * (v - last[i]!))
    const slope = q.map((_, j) => h[j]!.reduce((s, v, i) => s + v * (ahead[i]! - w[i]!), 0))
    last = q
    q = ahead.map((v, j) => {
      const pace = 1 / (most * 1.122 * h[j]![j]!)
      const z = v - pace * slope[j]!
      const level = nearest(levels, z)
      const sorted = [...levels].sort((a, b) => a - b)
      const at = sorted.indexOf(level)
      const other = z >= level ? (sorted[at + 1] ?? sorted[at - 1]!) : (sorted[at - 1] ?? sorted[at + 1]!)
      const reach = lambda * (t / steps) * pace * Math.abs(other - level)
      return Math.abs(z - level) <= reach ? level : z - Math.sign(z - level) * reach
    })
  }
  return q.map((v) => nearest(levels, v))
}
