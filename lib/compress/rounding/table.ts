import { codebookEncode, kmeans } from '../../kernels/codebook'
import { sparsityOf } from '../computed'

/** @internal How shared values are found; see `CodebookStep`. */
export interface Sharing {
  readonly bits: number
  readonly init: 'linear' | 'density' | 'k-means++' | 'histogram'
  readonly seed: number
  readonly zeros: 'keep' | 'any'
}

/** Share of zeros from which on zero is a shared value. */
const kZeros = 0.01

/** @internal Shared values, ascending. */
export function tableFor(values: Float32Array, { bits, init, seed, zeros }: Sharing, importance: Float32Array | undefined): Float32Array {
  const clusters = 2 ** bits
  const distinct = distinctUpTo(values, clusters)
  if (distinct) return distinct
  const keepZero = zeros === 'keep' && sparsityOf(values) >= kZeros
  const others = keepZero ? values.filter((v) => v !== 0) : values
  const few = distinctUpTo(others, clusters - (keepZero ? 1 : 0))
  const wanted = clusters - (keepZero ? 1 : 0)
  const table =
    few ??
    (importance || init === 'histogram'
      ? weightedTable(others, importance && keepZero ? importance.filter((_, i) => values[i] !== 0) : importance, wanted)
      : (kmeans(others, { clusters: wanted, init, seed }).centroids.data as Float32Array))
  const all = keepZero ? [...table, 0] : [...table]
  return Float32Array.from(new Set(all.sort((a, b) => a - b).map((v) => (v === 0 ? 0 : v))))
}

/** The values themselves where they are no more than `most`, ascending. */
function distinctUpTo(values: Float32Array, most: number): Float32Array | undefined {
  const found = new Set<number>()
  for (const v of values) if (found.add(v === 0 ? 0 : v).size > most) return undefined
  return Float32Array.from(found).sort()
}

/**
 * Shared values for weighted errors. Lloyd's algorithm alone would not carry a value from where many small weights lie to where
 * few large ones do: it begins with the best values for a histogram, found by dynamic programming (Wang, Song 2011).
 */
function weightedTable(values: Float32Array, importance: Float32Array | undefined, clusters: number): Float32Array {
  let current = bestOfHistogram(values, importance, clusters)
  for (let round = 0; round < 30; round++) {
    const codes = codebookEncode(values, current).indices.data
    const sum = new Float64Array(current.length)
    const weight = new Float64Array(current.length)
    for (let i = 0; i < values.length; i++) {
      const c = codes[i]!
      const h = importance ? importance[i]! : 1
      sum[c]! += h * values[i]!
      weight[c]! += h
    }
    const next = current.map((v, c) => (weight[c]! > 0 ? sum[c]! / weight[c]! : v))
    const ascending = Float32Array.from(new Set(next.sort()))
    const range = ascending[ascending.length - 1]! - ascending[0]!
    const moved = ascending.length === current.length ? ascending.reduce((m, v, i) => Math.max(m, Math.abs(v - current[i]!)), 0) : Infinity
    current = ascending
    if (moved <= 1e-5 * range) break
  }
  return current
}

const kBins = 2048

/** The weighted means of the `clusters` stretches of a histogram that leave the least squared error, ascending. */
function bestOfHistogram(values: Float32Array, importance: Float32Array | undefined, clusters: number): Float32Array {
  const low = values.reduce((m, v) => Math.min(m, v), Infinity)
  const high = values.reduce((m, v) => Math.max(m, v), -Infinity)
  const binWeight = new Float64Array(kBins)
  const binSum = new Float64Array(kBins)
  for (let i = 0; i < values.length; i++) {
    const b = Math.min(kBins - 1, Math.floor(((values[i]! - low) / (high - low)) * kBins))
    const h = importance ? importance[i]! : 1
    binWeight[b]! += h
    binSum[b]! += h * values[i]!
  }
  // Sums over the bins before each, empty ones left out.
  const weight = [0]
  const sum = [0]
  binWeight.forEach((w, b) => {
    if (w === 0) return
    weight.push(weight[weight.length - 1]! + w)
    sum.push(sum[sum.length - 1]! + binSum[b]!)
  })
  const bins = weight.length - 1
  const count = Math.min(clusters, bins)
  /** What one value for the bins [i, j) takes off the error of none. */
  const gain = (i: number, j: number): number => (sum[j]! - sum[i]!) ** 2 / (weight[j]! - weight[i]!)
  let best = Float64Array.from({ length: bins + 1 }, (_, j) => (j === 0 ? 0 : gain(0, j)))
  const cuts: Int32Array[] = [new Int32Array(bins + 1)]
  for (let k = 1; k < count; k++) {
    const before = best
    const next = new Float64Array(bins + 1).fill(-Infinity)
    const cut = new Int32Array(bins + 1)
    // The best last cut moves only right with the end: halving the ends halves the cuts to try.
    const solve = (from: number, to: number, first: number, last: number): void => {
      if (from > to) return
      const j = (from + to) >> 1
      for (let i = Math.max(k, first); i <= Math.min(last, j - 1); i++) {
        const g = before[i]! + gain(i, j)
        if (g > next[j]!) {
          next[j] = g
          cut[j] = i
        }
      }
      solve(from, j - 1, first, cut[j]!)
      solve(j + 1, to, cut[j]!, last)
    }
    solve(k + 1, bins, k, bins - 1)
    best = next
    cuts.push(cut)
  }
  const means = new Float32Array(count)
  for (let k = count - 1, j = bins; k >= 0; k--) {
    const i = k === 0 ? 0 : cuts[k]![j]!
    means[k] = (sum[j]! - sum[i]!) / (weight[j]! - weight[i]!)
    j = i
  }
  return Float32Array.from(new Set(means.sort()))
}
