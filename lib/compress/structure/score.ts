import type { Graph, Initializer } from '../../model/graph'
import { sizeOf } from '../../tensor'
import { importance } from '../../kernels/select/importance'
import { type Scratch, nonFiniteText } from '../computed'
import { ease, pagedFloats, touched } from '../paged'
import type { Group, Member } from './groups'

/** How units are scored from weights alone. */
export type WeightCriterion = 'l1' | 'l2' | 'gamma' | 'geometric-median' | 'random'

/** @internal Which weights of a group count. */
export type Sides = 'makers' | 'readers' | 'both'

/** @internal A weight seen along one axis: the values of index i, as `outer` runs of `inner`. */
export interface Slices {
  readonly data: Float32Array
  readonly outer: number
  readonly size: number
  readonly inner: number
}

/** @internal Reads a float32 weight; valid until the scratch is used again. */
export function slicesOf(graph: Graph, { tensor, axis }: Member, scratch: Scratch): Slices | undefined {
  const initializer = graph.initializers.get(tensor) as Initializer
  if (initializer.type !== 'float32') return undefined
  const data = scratch.read(initializer).data as Float32Array
  nonFiniteText(tensor, data)
  const { dims } = initializer
  return { data, outer: sizeOf(dims.slice(0, axis)), size: dims[axis]!, inner: sizeOf(dims.slice(axis + 1)) }
}

/** @internal The values of one index, in order. */
export function sliceAt({ data, outer, size, inner }: Slices, index: number, out: Float32Array | Float64Array, at: number): number {
  for (let o = 0; o < outer; o++)
    for (let k = 0, from = (o * size + index) * inner; k < inner; k++) out[at++] = data[from + k]!
  return at
}

/** @internal Members that a criterion looks at: matrices and kernels, not biases and factors. */
export function scoredMembers(graph: Graph, group: Group, sides: Sides): Member[] {
  return group.members.filter(({ tensor, role, node }) => {
    if ((graph.initializers.get(tensor)?.dims.length ?? 0) < 2) return false
    if (role === 'input') return sides !== 'makers'
    // A depthwise kernel is a filter too.
    return sides !== 'readers' && (role === 'output' || node.is('Conv', 'ConvTranspose'))
  })
}

/**
 * @internal A score a unit, the least important lowest. Each coupled weight counts alike: its scores are divided by their mean, and
 * those of all weights averaged (so that groups can be compared).
 *
 * `l1`, `l2`: norm of the unit's values (Li 2017). `geometric-median`: sum of distances to the other units (FPGM, He 2019).
 * `gamma`: magnitude of the batch normalization's factor (Network Slimming, Liu 2017); a string says why a group has none.
 */
export function weightScores(graph: Graph, group: Group, criterion: WeightCriterion, sides: Sides, seed: number, scratch: Scratch): Float64Array | string {
  if (criterion === 'random') return randomScores(group, seed)
  const members = criterion === 'gamma' ? group.members.filter((m) => m.role === 'gamma') : scoredMembers(graph, group, sides)
  if (members.length === 0) return criterion === 'gamma' ? 'no batch normalization scales these channels' : 'none of its weights can be scored'
  const scores = new Float64Array(group.units)
  for (const member of members) {
    const slices = slicesOf(graph, member, scratch)
    if (!slices) return `${member.tensor}: only float32 weights are scored`
    const own = criterion === 'geometric-median' ? distances(slices, member, group.units) : norms(slices, member, group.units, criterion === 'l2')
    let mean = 0
    for (const v of own) mean += v / own.length
    for (let u = 0; u < own.length; u++) scores[u]! += mean > 0 ? own[u]! / mean / members.length : 0
  }
  return scores
}

function norms(slices: Slices, { indices, per }: Member, units: number, squared: boolean): Float64Array {
  const out = new Float64Array(units)
  const values = new Float64Array(slices.outer * slices.inner)
  for (let u = 0; u < units; u++) {
    let sum = 0
    for (let k = 0; k < per; k++) {
      sliceAt(slices, indices[u * per + k]!, values, 0)
      for (const v of values) sum += squared ? v * v : Math.abs(v)
    }
    out[u] = squared ? Math.sqrt(sum) : sum
  }
  return out
}

/** Sum of Euclidean distances from each unit to all others. */
function distances(slices: Slices, { indices, per }: Member, units: number): Float64Array {
  const length = slices.outer * slices.inner * per
  const rows = pagedFloats(units * length)
  for (let k = 0, at = 0; k < units * per; k++) {
    at = sliceAt(slices, indices[k]!, rows, at)
    touched(8 * (length / per))
  }
  const { data } = importance({ type: 'float32', dims: [units, length], data: rows }, { criterion: 'geometricMedian', axis: 0 })
  ease()
  return Float64Array.from(data)
}

function randomScores(group: Group, seed: number): Float64Array {
  // The name takes part, so that a group's scores do not depend on which others there are.
  let state = (seed ^ 0x9e3779b9) >>> 0
  for (const c of group.name) state = Math.imul(state ^ c.charCodeAt(0), 0x01000193) >>> 0
  return Float64Array.from({ length: group.units }, () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  })
}
