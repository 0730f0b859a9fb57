import { gemm } from '../../kernels/gemm'
import type { WeightView } from '../../model/weights'

/** Pieces that centroids are learned from, for each: as many as Lloyd's algorithm gains from. */
const kLearned = 128
const kRounds = 20
/** Pieces whose nearest centroids are found at a time. */
const kPart = 4096

/**
 * @internal Rows of a weight whose pieces share a codebook: along the reduction where that is one axis, else as the tensor lies.
 */
export interface Pieces {
  /** Values of a piece. */
  readonly size: number
  /** The tensor's last two axes change places: [batch, inputs, outputs] becomes rows of inputs. */
  readonly turned: boolean
}

/** @internal Pieces of at most `wanted` values that cut a weight evenly; nothing where none of two or more does. */
export function piecesOf({ dims, reductionAxis, outputAxis }: WeightView, wanted: number): Pieces | undefined {
  const length = reductionAxis < 0 ? dims.at(-1)! : dims[reductionAxis]!
  for (let size = Math.min(wanted, length); size > 1; size--)
    if (length % size === 0) return { size, turned: reductionAxis >= 0 && reductionAxis < outputAxis }
  return undefined
}

/** @internal A tensor with its last two axes exchanged. */
export function exchanged(data: Float32Array, dims: readonly number[]): Float32Array {
  const [rows, columns] = dims.slice(-2) as [number, number]
  const out = new Float32Array(data.length)
  for (let base = 0; base < data.length; base += rows * columns)
    for (let r = 0, i = base; r < rows; r++) for (let c = 0, o = base + r; c < columns; c++, i++, o += rows) out[o] = data[i]!
  return out
}

/** @internal The same axes, exchanged. */
export const exchangedDims = (dims: readonly number[]): number[] => [...dims.slice(0, -2), dims.at(-1)!, dims.at(-2)!]

/** Numbers in [0, 1) by a counter mixed well (splitmix32). */
function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let x = state
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad)
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
    return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32
  }
}

/**
 * @internal The centroid nearest to each piece, by Σ h (x − c)² with the importance h of each value (1 where none is given); of equally near
 * ones the first. Distances are float32 products, so that a centroid that is farther by their rounding may be taken.
 */
export function nearestPieces(pieces: Float32Array, table: Float32Array, size: number, importance?: Float32Array, distances?: Float32Array): Uint8Array {
  const n = pieces.length / size
  const k = table.length / size
  const codes = new Uint8Array(n)
  // Σ h (x − c)² less what no centroid changes: (h x, h) · (−2 c, c²), or x · −2 c + |c|².
  const inner = importance ? 2 * size : size + 1
  const b = new Float32Array(k * inner)
  for (let c = 0; c < k; c++) {
    let square = 0
    for (let j = 0; j < size; j++) {
      const v = table[c * size + j]!
      b[c * inner + j] = -2 * v
      if (importance) b[c * inner + size + j] = v * v
      square += v * v
    }
    if (!importance) b[c * inner + size] = square
  }
  const a = new Float32Array(Math.min(n, kPart) * inner)
  for (let from = 0; from < n; from += kPart) {
    const rows = Math.min(kPart, n - from)
    for (let r = 0; r < rows; r++) {
      for (let j = 0, at = (from + r) * size; j < size; j++, at++) {
        a[r * inner + j] = importance ? pieces[at]! * importance[at]! : pieces[at]!
        if (importance) a[r * inner + size + j] = importance[at]!
      }
      if (!importance) a[r * inner + size] = 1
    }
    const near = gemm(a.subarray(0, rows * inner), b, { aDims: [rows, inner], bDims: [k, inner], transposeB: true }).data as Float32Array
    for (let r = 0; r < rows; r++) {
      let best = 0
      let least = Infinity
      for (let c = 0, i = r * k; c < k; c++, i++) {
        const d = near[i]!
        if (d < least) {
          least = d
          best = c
        }
      }
      codes[from + r] = best
      if (distances) distances[from + r] = distanceOf(pieces, from + r, table, best, size, importance)
    }
  }
  return codes
}

function distanceOf(pieces: Float32Array, i: number, table: Float32Array, c: number, size: number, importance?: Float32Array): number {
  let sum = 0
  for (let j = 0, p = i * size, t = c * size; j < size; j++, p++, t++) sum += (importance ? importance[p]! : 1) * (pieces[p]! - table[t]!) ** 2
  return sum
}

/**
 * @internal At most `clusters` vectors [clusters, size] that stand for pieces of a weight, by k-means: k-means++ (Arthur & Vassilvitskii 2007)
 * and Lloyd's algorithm on evenly chosen pieces, 128 a cluster, and a last turn over all. Pieces that are few already are kept as they are.
 *
 * Jégou et al., Product Quantization for Nearest Neighbor Search, 2011; of weights: Gong et al. 2014, Stock et al., And the Bit Goes Down, 2020.
 */
export function learnPieces(pieces: Float32Array, size: number, clusters: number, seed: number, importance?: Float32Array): Float32Array {
  const few = distinctPieces(pieces, size, clusters)
  if (few) return few
  const n = pieces.length / size
  const count = Math.min(n, kLearned * clusters)
  const chosen = (all: Float32Array): Float32Array => {
    if (count === n) return all
    const out = new Float32Array(count * size)
    for (let i = 0; i < count; i++) {
      const from = Math.floor((i * n) / count) * size
      out.set(all.subarray(from, from + size), i * size)
    }
    return out
  }
  const sample = chosen(pieces)
  const weight = importance && chosen(importance)
  const table = scattered(sample, size, clusters, random(seed), weight)
  const distances = new Float32Array(count)
  let last = Infinity
  for (let round = 0; round < kRounds; round++) {
    const codes = nearestPieces(sample, table, size, weight, distances)
    const error = distances.reduce((sum, d) => sum + d, 0)
    if (error > last * (1 - 1e-4)) break
    last = error
    toMeans(table, sample, codes, size, weight, distances)
  }
  if (count < n) toMeans(table, pieces, nearestPieces(pieces, table, size, importance), size, importance)
  return table
}

/** Where each centroid begins: a piece, the more likely the farther it lies from those already taken. */
function scattered(pieces: Float32Array, size: number, clusters: number, next: () => number, importance?: Float32Array): Float32Array {
  const n = pieces.length / size
  const table = new Float32Array(clusters * size)
  const least = new Float64Array(n).fill(Infinity)
  let at = Math.min(n - 1, Math.floor(next() * n))
  for (let c = 0; c < clusters; c++) {
    table.set(pieces.subarray(at * size, (at + 1) * size), c * size)
    let total = 0
    for (let i = 0; i < n; i++) {
      least[i] = Math.min(least[i]!, distanceOf(pieces, i, table, c, size, importance))
      total += least[i]!
    }
    let left = next() * total
    at = 0
    while (at < n - 1 && left >= least[at]!) left -= least[at++]!
  }
  return table
}

/** Centroids become the weighted means of their pieces; one without any goes to the piece that lies farthest from its own. */
function toMeans(table: Float32Array, pieces: Float32Array, codes: Uint8Array, size: number, importance?: Float32Array, distances?: Float32Array): void {
  const sum = new Float64Array(table.length)
  const total = new Float64Array(table.length)
  const members = new Float64Array(table.length / size)
  for (let i = 0; i < codes.length; i++) {
    members[codes[i]!]!++
    for (let j = 0, p = i * size, t = codes[i]! * size; j < size; j++, p++, t++) {
      const h = importance ? importance[p]! : 1
      sum[t]! += h * pieces[p]!
      total[t]! += h
    }
  }
  for (let t = 0; t < table.length; t++) if (total[t]! > 0) table[t] = sum[t]! / total[t]!
  if (!distances) return
  for (let c = 0; c < members.length; c++) {
    if (members[c]! > 0) continue
    let far = 0
    for (let i = 1; i < distances.length; i++) if (distances[i]! > distances[far]!) far = i
    table.set(pieces.subarray(far * size, (far + 1) * size), c * size)
    distances[far] = 0
  }
}

/** The pieces themselves where no more than `most` differ, in the order of their first. */
function distinctPieces(pieces: Float32Array, size: number, most: number): Float32Array | undefined {
  const found = new Map<string, Float32Array>()
  for (let i = 0; i < pieces.length; i += size) {
    const own = pieces.subarray(i, i + size).map((v) => (v === 0 ? 0 : v))
    const key = own.join()
    if (found.has(key)) continue
    if (found.size === most) return undefined
    found.set(key, own)
  }
  const out = new Float32Array(found.size * size)
  let at = 0
  for (const own of found.values()) {
    out.set(own, at)
    at += size
  }
  return out
}

/** @internal The pieces that codes stand for, one after another. */
export function piecesFrom(codes: Uint8Array, table: Float32Array, size: number): Float32Array {
  const out = new Float32Array(codes.length * size)
  for (let i = 0; i < codes.length; i++) for (let j = 0; j < size; j++) out[i * size + j] = table[codes[i]! * size + j]!
  return out
}

