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

/** @internal The same axes, exchanged. */
export const exchangedDims = (dims: readonly number[]): number[] => [...dims.slice(0, -2), dims.at(-1)!, dims.at(-2)!]

/** @internal Pieces of a tensor, a few at a time: no second tensor is made for them. */
export interface PieceReader {
  /** How many there are. */
  readonly count: number
  /** Writes `count` pieces from number `from` on, one after another. */
  read(from: number, count: number, out: Float32Array): void
}

/** @internal The pieces of values, `of(value, place in the tensor)` each. */
export function readerOf(values: Float32Array, dims: readonly number[], { size, turned }: Pieces, of: (value: number, at: number) => number): PieceReader {
  return {
    count: values.length / size,
    read(from, count, out) {
      let n = 0
      walk(dims, turned, from * size, (from + count) * size, (first, step, length) => {
        for (let i = 0, at = first; i < length; i++, at += step) out[n++] = of(values[at]!, at)
      })
    },
  }
}

/** Values `from` to `to` in the order of pieces, as runs of places in the tensor. */
function walk(dims: readonly number[], turned: boolean, from: number, to: number, run: (first: number, step: number, length: number) => void): void {
  if (!turned) {
    run(from, 1, to - from)
    return
  }
  const [rows, columns] = dims.slice(-2) as [number, number]
  for (let at = from; at < to; ) {
    const column = Math.floor(at / rows)
    const row = at - column * rows
    const length = Math.min(rows - row, to - at)
    const base = Math.floor(column / columns) * rows * columns
    run(base + row * columns + (column % columns), columns, length)
    at += length
  }
}

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
export function nearestPieces(pieces: PieceReader, table: Float32Array, size: number, importance?: PieceReader, distances?: Float32Array): Uint8Array {
  const n = pieces.count
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
  const products = new Float32Array(Math.min(n, kPart) * k)
  forParts(pieces, importance, size, (x, h, from, rows) => {
    for (let r = 0; r < rows; r++) {
      for (let j = 0, at = r * size; j < size; j++, at++) {
        a[r * inner + j] = h ? x[at]! * h[at]! : x[at]!
        if (h) a[r * inner + size + j] = h[at]!
      }
      if (!h) a[r * inner + size] = 1
    }
    const near = products.subarray(0, rows * k)
    gemm(a.subarray(0, rows * inner), b, { aDims: [rows, inner], bDims: [k, inner], transposeB: true, out: near })
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
      if (distances) distances[from + r] = distanceOf(x, r, table, best, size, h)
    }
  })
  return codes
}

/** All pieces, and what they weigh, a few thousand at a time. */
function forParts(
  pieces: PieceReader,
  importance: PieceReader | undefined,
  size: number,
  each: (x: Float32Array, h: Float32Array | undefined, from: number, rows: number) => unknown,
): void {
  const x = new Float32Array(Math.min(pieces.count, kPart) * size)
  const h = importance && new Float32Array(x.length)
  for (let from = 0; from < pieces.count; from += kPart) {
    const rows = Math.min(kPart, pieces.count - from)
    pieces.read(from, rows, x)
    if (h) importance.read(from, rows, h)
    if (each(x, h, from, rows) === false) return
  }
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
export function learnPieces(pieces: PieceReader, size: number, clusters: number, seed: number, importance?: PieceReader): Float32Array {
  const few = distinctPieces(pieces, size, clusters)
  if (few) return few
  const n = pieces.count
  const count = Math.min(n, kLearned * clusters)
  const chosen = (all: PieceReader): Float32Array => {
    const out = new Float32Array(count * size)
    for (let i = 0; i < count; i++) all.read(Math.floor((i * n) / count), 1, out.subarray(i * size, (i + 1) * size))
    return out
  }
  const sample = chosen(pieces)
  const weight = importance && chosen(importance)
  const table = scattered(sample, size, clusters, random(seed), weight)
  const distances = new Float32Array(count)
  const [own, ownWeight] = [readerOfArray(sample, size), weight && readerOfArray(weight, size)]
  let last = Infinity
  for (let round = 0; round < kRounds; round++) {
    const codes = nearestPieces(own, table, size, ownWeight, distances)
    const error = distances.reduce((sum, d) => sum + d, 0)
    if (error > last * (1 - 1e-4)) break
    last = error
    toMeans(table, own, codes, size, ownWeight, distances)
  }
  if (count < n) toMeans(table, pieces, nearestPieces(pieces, table, size, importance), size, importance)
  return table
}

const readerOfArray = (all: Float32Array, size: number): PieceReader => ({
  count: all.length / size,
  read: (from, count, out) => out.set(all.subarray(from * size, (from + count) * size)),
})

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
function toMeans(table: Float32Array, pieces: PieceReader, codes: Uint8Array, size: number, importance?: PieceReader, distances?: Float32Array): void {
  const sum = new Float64Array(table.length)
  const total = new Float64Array(table.length)
  const members = new Float64Array(table.length / size)
  forParts(pieces, importance, size, (x, h, from, rows) => {
    for (let r = 0; r < rows; r++) {
      const c = codes[from + r]!
      members[c]!++
      for (let j = 0, p = r * size, t = c * size; j < size; j++, p++, t++) {
        const weight = h ? h[p]! : 1
        sum[t]! += weight * x[p]!
        total[t]! += weight
      }
    }
  })
  for (let t = 0; t < table.length; t++) if (total[t]! > 0) table[t] = sum[t]! / total[t]!
  if (!distances) return
  for (let c = 0; c < members.length; c++) {
    if (members[c]! > 0) continue
    let far = 0
    for (let i = 1; i < distances.length; i++) if (distances[i]! > distances[far]!) far = i
    pieces.read(far, 1, table.subarray(c * size, (c + 1) * size))
    distances[far] = 0
  }
}

/** The pieces themselves where no more than `most` differ, in the order of their first. */
function distinctPieces(pieces: PieceReader, size: number, most: number): Float32Array | undefined {
  const found = new Map<string, Float32Array>()
  let many = false
  forParts(pieces, undefined, size, (x, _h, _from, rows) => {
    for (let i = 0; i < rows * size; i += size) {
      const own = x.slice(i, i + size).map((v) => (v === 0 ? 0 : v))
      const key = own.join()
      if (found.has(key)) continue
      many = found.size === most
      if (many) return false
      found.set(key, own)
    }
    return true
  })
  if (many) return undefined
  const out = new Float32Array(found.size * size)
  let at = 0
  for (const own of found.values()) {
    out.set(own, at)
    at += size
  }
  return out
}

/** @internal Puts the pieces that codes stand for in their places of a tensor. */
export function piecesInto(out: Float32Array, dims: readonly number[], codes: Uint8Array, table: Float32Array, { size, turned }: Pieces): void {
  let q = 0
  walk(dims, turned, 0, out.length, (first, step, length) => {
    for (let i = 0, at = first; i < length; i++, at += step, q++) out[at] = table[codes[Math.floor(q / size)]! * size + (q % size)]!
  })
}
