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
  const distances = new Float64Array(place(units, 0))
  const sent = new Float64Array(place(units, 0))
  for (const member of group.members) {
    const slices = slicesOf(graph, member, scratch)
    if (!slices) return `${member.tensor}: only float32 weights are merged`
    addProducts(slices, member, units, member.role === 'input' ? sent : distances, member.role !== 'input')
  }
  const left = new Set(Array.from({ length: units }, (_, u) => u))
  const merges: Merge[] = []
  while (merges.length < count && left.size > 1) {
    let [best, from, into] = [Infinity, -1, -1]
    for (const j of left) {
      const own = sent[place(j, j)]!
      for (const i of left) {
        const saliency = own * distances[place(i, j)]!
        if (i !== j && saliency < best) [best, from, into] = [saliency, j, i]
      }
    }
    if (from < 0) break
    left.delete(from)
    merges.push({ from, into })
    // What i sends on is now the sum of both.
    const old = sent[place(into, into)]!
    const both = sent[place(into, from)]!
    for (const v of left) if (v !== into) sent[place(into, v)] = sent[place(into, v)]! + sent[place(from, v)]!
    sent[place(into, into)] = old + 2 * both + sent[place(from, from)]!
  }
  return merges
}

/** Where the pair (i, j) lies in the lower triangle, row by row. */
const place = (i: number, j: number): number => (i >= j ? (i * (i + 1)) / 2 + j : (j * (j + 1)) / 2 + i)

/** Units whose values are laid out at a time: no second matrix of the weight's size is held. */
const kTile = 32

/** Adds ⟨w_i, w_j⟩ or ‖w_i − w_j‖² of all pairs to a triangle. */
function addProducts(slices: Slices, member: Member, units: number, into: Float64Array, differences: boolean): void {
  const length = slices.outer * slices.inner * member.per
  const rows = new Float64Array(kTile * length)
  const others = new Float64Array(kTile * length)
  for (let i0 = 0; i0 < units; i0 += kTile) {
    const i1 = Math.min(units, i0 + kTile)
    lay(slices, member, i0, i1, rows, length)
    for (let j0 = 0; j0 <= i0; j0 += kTile) {
      const j1 = Math.min(units, j0 + kTile)
      lay(slices, member, j0, j1, others, length)
      for (let i = i0; i < i1; i++)
        for (let j = j0; j < Math.min(i + 1, j1); j++) {
          const [p, q] = [(i - i0) * length, (j - j0) * length]
          into[place(i, j)]! += differences ? distance(rows, p, others, q, length) : product(rows, p, others, q, length)
        }
    }
  }
}

function lay(slices: Slices, { indices, per }: Member, from: number, to: number, rows: Float64Array, length: number): void {
  for (let u = from; u < to; u++) for (let k = 0, at = (u - from) * length; k < per; k++) at = sliceAt(slices, indices[u * per + k]!, rows, at)
}

function product(a: Float64Array, p: number, b: Float64Array, q: number, length: number): number {
  let sum = 0
  for (let k = 0; k < length; k++) sum += a[p + k]! * b[q + k]!
  return sum
}

function distance(a: Float64Array, p: number, b: Float64Array, q: number, length: number): number {
  let sum = 0
  for (let k = 0; k < length; k++) {
    const d = a[p + k]! - b[q + k]!
    sum += d * d
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
