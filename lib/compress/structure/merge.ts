import type { Graph } from '../../model/graph'
import type { Scratch } from '../computed'
import type { Group, Member } from './groups'
import { sliceAt, slicesOf } from './score'

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
  const distances = new Float64Array(units * units)
  const sent = new Float64Array(units * units)
  for (const member of group.members) {
    const slices = slicesOf(graph, member, scratch)
    if (!slices) return `${member.tensor}: only float32 weights are merged`
    const rows = rowsOf(slices, member, units)
    const into = member.role === 'input' ? sent : distances
    for (let i = 0; i < units; i++)
      for (let j = 0; j <= i; j++) {
        const [p, q] = [rows[i]!, rows[j]!]
        let sum = 0
        if (into === sent) for (let k = 0; k < p.length; k++) sum += p[k]! * q[k]!
        else
          for (let k = 0; k < p.length; k++) {
            const d = p[k]! - q[k]!
            sum += d * d
          }
        into[i * units + j]! += sum
        if (i !== j) into[j * units + i]! += sum
      }
  }
  const left = new Set(Array.from({ length: units }, (_, u) => u))
  const merges: Merge[] = []
  while (merges.length < count && left.size > 1) {
    let [best, from, into] = [Infinity, -1, -1]
    for (const j of left)
      for (const i of left) {
        if (i === j) continue
        const saliency = sent[j * units + j]! * distances[i * units + j]!
        if (saliency < best) [best, from, into] = [saliency, j, i]
      }
    if (from < 0) break
    left.delete(from)
    merges.push({ from, into })
    // What i sends on is now the sum of both.
    const old = sent[into * units + into]!
    const both = sent[into * units + from]!
    for (const v of left)
      if (v !== into) sent[into * units + v] = sent[v * units + into] = sent[into * units + v]! + sent[from * units + v]!
    sent[into * units + into] = old + 2 * both + sent[from * units + from]!
  }
  return merges
}

function rowsOf(slices: NonNullable<ReturnType<typeof slicesOf>>, { indices, per }: Member, units: number): Float64Array[] {
  const length = slices.outer * slices.inner * per
  return Array.from({ length: units }, (_, u) => {
    const row = new Float64Array(length)
    for (let k = 0, at = 0; k < per; k++) at = sliceAt(slices, indices[u * per + k]!, row, at)
    return row
  })
}

/** @internal Adds what units that go send on to those that take over, in the weights that read them. */
export function mergeUnits(graph: Graph, group: Group, merges: readonly Merge[]): void {
  if (merges.length === 0) return
  for (const { role, tensor, axis, per, indices } of group.members) {
    if (role !== 'input') continue
    const initializer = graph.initializers.get(tensor)!
    const { dims } = initializer
    const data = Float32Array.from(initializer.readSync().data as Float32Array)
    const inner = dims.slice(axis + 1).reduce((n, d) => n * d, 1)
    const outer = dims.slice(0, axis).reduce((n, d) => n * d, 1)
    for (const { from, into } of merges)
      for (let k = 0; k < per; k++)
        for (let o = 0; o < outer; o++) {
          const [p, q] = [(o * dims[axis]! + indices[from * per + k]!) * inner, (o * dims[axis]! + indices[into * per + k]!) * inner]
          for (let i = 0; i < inner; i++) data[q + i]! += data[p + i]!
        }
    graph.setInitializer(tensor, { type: 'float32', dims, data })
  }
}
