import { gemm } from '../../kernels/gemm'
import { Initializer, type Graph } from '../../model/graph'
import { ComputedSource, type Scratch } from '../computed'
import type { Group, Member } from './groups'
import { sliceAt, slicesOf, type Slices } from './score'

/** A unit that goes, and the one that takes over what it sent on. */
export interface Merge {
  readonly from: number
  readonly into: number
}

/** Distances between so many units are held at once. */
const kMostUnits = 4096

/**
 * @internal Which units go, and into which: always the pair of least saliency ‖a_j‖² · ‖w_i − w_j‖², a what j sends on and w all that
 * makes it, bias included (Srinivas and Babu 2015, eq. 7). Two units that are equal cost nothing. A string says why there are none.
 */
export function similarUnits(graph: Graph, group: Group, count: number, scratch: Scratch): Merge[] | string {
  const { units } = group
  if (units > kMostUnits) return `more than ${kMostUnits} units are not compared`
  const [distances, sent] = ['distances', 'sent'].map((slot) => scratch.doubles(slot, place(units, 0)).fill(0)) as [Float64Array, Float64Array]
  for (const member of group.members) {
    const slices = slicesOf(graph, member, scratch)
    if (!slices) return `${member.tensor}: only float32 weights are merged`
    addProducts(slices, member, units, member.role === 'input' ? sent : distances, member.role !== 'input')
  }
  const left = Uint8Array.from({ length: units }, () => 1)
  const nearest = Int32Array.from({ length: units }, (_, j) => nearestOf(j, distances, left))
  const merges: Merge[] = []
  while (merges.length < Math.min(count, units - 1)) {
    let [best, from] = [Infinity, -1]
    for (let j = 0; j < units; j++) {
      if (left[j] === 0) continue
      const saliency = sent[place(j, j)]! * distances[place(nearest[j]!, j)]!
      if (saliency < best) [best, from] = [saliency, j]
    }
    if (from < 0) break
    const into = nearest[from]!
    left[from] = 0
    merges.push({ from, into })
    // What i sends on is now the sum of both.
    const old = sent[place(into, into)]!
    const both = sent[place(into, from)]!
    for (let v = 0; v < units; v++) {
      if (left[v] === 0) continue
      if (v !== into) sent[place(into, v)]! += sent[place(from, v)]!
      if (nearest[v] === from) nearest[v] = nearestOf(v, distances, left)
    }
    sent[place(into, into)] = old + 2 * both + sent[place(from, from)]!
  }
  return merges
}

/** The unit that is left, another than j, at the least distance; of equal ones the first, -1 for none. */
function nearestOf(j: number, distances: Float64Array, left: Uint8Array): number {
  let [best, found] = [Infinity, -1]
  for (let i = 0; i < left.length; i++) {
    if (left[i] === 0 || i === j) continue
    const d = distances[place(i, j)]!
    if (d < best || found < 0) [best, found] = [d, i]
  }
  return found
}

/** Where the pair (i, j) lies in the lower triangle, row by row. */
const place = (i: number, j: number): number => (i >= j ? (i * (i + 1)) / 2 + j : (j * (j + 1)) / 2 + i)

/** Units that are laid out at a time, and their values: no second matrix of the weight's size is held. */
const kTile = 512
const kTileValues = 2 ** 21
/** Terms of a product that are summed in float32; beyond in float64. */
const kChunk = 256
/** Squared distances below this share of the squared norms are taken from the differences: of products little is left there. */
const kClose = 1e-3

/** Adds ⟨w_i, w_j⟩ or ‖w_i − w_j‖² of all pairs to a triangle. */
function addProducts(slices: Slices, member: Member, units: number, into: Float64Array, differences: boolean): void {
  const length = slices.outer * slices.inner * member.per
  const tile = Math.min(units, kTile, Math.max(16, Math.floor(kTileValues / Math.max(1, length))))
  const rows = new Float32Array(tile * length)
  const others = new Float32Array(tile * length)
  const products = new Float32Array(tile * tile)
  const sums = new Float64Array(tile * tile)
  const squares = new Float64Array(units)
  for (let j0 = 0; j0 < units; j0 += tile) {
    const m = Math.min(units, j0 + tile) - j0
    lay(slices, member, j0, m, others)
    for (let j = 0; j < m; j++) squares[j0 + j] = exactly(others, j, m, others, j, m, length, false)
    for (let i0 = j0; i0 < units; i0 += tile) {
      const n = Math.min(units, i0 + tile) - i0
      if (i0 > j0) {
        lay(slices, member, i0, n, rows)
        for (let i = 0; i < n; i++) squares[i0 + i] = exactly(rows, i, n, rows, i, n, length, false)
      }
      const left = i0 > j0 ? rows : others
      sums.fill(0, 0, n * m)
      for (let k = 0; k < length; k += kChunk) {
        const depth = Math.min(kChunk, length - k)
        const out = products.subarray(0, n * m)
        gemm(left.subarray(k * n, (k + depth) * n), others.subarray(k * m, (k + depth) * m), { aDims: [n, depth], bDims: [m, depth], transposeB: true, out })
        for (let at = 0; at < n * m; at++) sums[at]! += out[at]!
      }
      for (let i = 0; i < n; i++)
        for (let j = 0; j < (i0 > j0 ? m : i + 1); j++) {
          const both = squares[i0 + i]! + squares[j0 + j]!
          const product = sums[i * m + j]!
          const value = differences ? both - 2 * product : product
          // Squares beyond float32 have products that are not finite.
          const exact = !Number.isFinite(value) || (differences && value <= kClose * both)
          into[place(i0 + i, j0 + j)]! += exact ? exactly(left, i, n, others, j, m, length, differences) : value
        }
    }
  }
}

/** Units in chunks of their values: [chunks, units, values of a chunk]. */
function lay(slices: Slices, { indices, per }: Member, first: number, count: number, out: Float32Array): void {
  const length = slices.outer * slices.inner * per
  const values = new Float64Array(length)
  for (let u = 0; u < count; u++) {
    for (let k = 0, at = 0; k < per; k++) at = sliceAt(slices, indices[(first + u) * per + k]!, values, at)
    for (let k = 0; k < length; k += kChunk) {
      const depth = Math.min(kChunk, length - k)
      for (let i = 0, at = k * count + u * depth; i < depth; i++) out[at + i] = values[k + i]!
    }
  }
}

/** ⟨a, b⟩ or ‖a − b‖² of two units in {@link lay}'s order, in float64. */
function exactly(a: Float32Array, i: number, n: number, b: Float32Array, j: number, m: number, length: number, differences: boolean): number {
  let sum = 0
  for (let k = 0; k < length; k += kChunk) {
    const depth = Math.min(kChunk, length - k)
    for (let t = 0, p = k * n + i * depth, q = k * m + j * depth; t < depth; t++) {
      const d = differences ? a[p + t]! - b[q + t]! : 0
      sum += differences ? d * d : a[p + t]! * b[q + t]!
    }
  }
  return sum
}

/** @internal Adds what units that go send on to those that take over, in the weights that read them. */
export function mergeUnits(graph: Graph, group: Group, merges: readonly Merge[]): void {
  if (merges.length === 0) return
  for (const { role, tensor, axis, per, indices } of group.members) {
    if (role !== 'input') continue
    const initializer = graph.initializers.get(tensor)!
    const { dims } = initializer
    const inner = dims.slice(axis + 1).reduce((n, d) => n * d, 1)
    const outer = dims.slice(0, axis).reduce((n, d) => n * d, 1)
    const compute = (): Uint8Array => {
      const read = initializer.readSync().data as Float32Array
      const data = initializer.source.kind === 'memory' || initializer.byteLength < 1e6 ? read.slice() : read
      for (const { from, into } of merges)
        for (let k = 0; k < per; k++)
          for (let o = 0; o < outer; o++) {
            const [p, q] = [(o * dims[axis]! + indices[from * per + k]!) * inner, (o * dims[axis]! + indices[into * per + k]!) * inner]
            for (let i = 0; i < inner; i++) data[q + i]! += data[p + i]!
          }
      return new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
    }
    // Made when it is read: the cut that follows keeps what is left of it, where there is room.
    graph.setInitializer(tensor, new Initializer(tensor, 'float32', dims, new ComputedSource(initializer.byteLength, compute)))
  }
}
