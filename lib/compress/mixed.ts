import type { Weight } from '../model/weights'
import { toRows, type LayerMoments } from './moments'
import { ease, pagedFloats } from './paged'
import { addedBytes, bytesOf, tableBytes } from './passes/emit'
import { planOf, type Asked } from './rounding/plan'
import { back, roundToNearest } from './rounding/weight'
import { layerError } from './second/update'

/** @internal One way to store a weight. */
export interface Candidate {
  readonly bits: number
  readonly bytes: number
  /** Bytes of the file that it takes less than floats. */
  readonly saved: number
  /** Bytes of the table that all weights of these bits share. */
  readonly table?: number
  /** What it costs: the squared error of the layer's outputs over their power, or of the weight over its own. */
  readonly error: number
}

/** Widths that differ in what a file of standard ops takes; 5 to 7 bits take a byte as 8 do. */
const kWidths = [2, 3, 4, 8] as const

/** @internal What each number of bits would cost a weight, by rounding to nearest. */
export function candidatesOf(weight: Weight, values: Float32Array, asked: Asked, seen: LayerMoments | undefined): Candidate[] {
  const found: Candidate[] = []
  for (const bits of kWidths) {
    const { layout, rounding } = planOf(weight, { ...asked, bits, blockSize: bits <= 4 ? asked.blockSize : 0 })
    // What falls back to 8 bits is no width of its own.
    if (rounding.bits !== bits) continue
    const floats = back(roundToNearest(values, layout, rounding), layout, rounding, pagedFloats(values.length))
    for (let i = 0; i < floats.length; i++) floats[i]! -= values[i]!
    ease()
    const power = powerOf(values, seen)
    const { packing } = layout
    const saved = values.byteLength - bytesOf(layout) - addedBytes(weight, layout)
    found.push({ bits, bytes: bytesOf(layout), saved, ...(packing ? { table: tableBytes(packing) } : {}), error: power > 0 ? powerOf(floats, seen) / power : 0 })
  }
  return found
}

/** tr(W H Wᵀ), or the sum of squares where the inputs are not known. */
function powerOf(values: Float32Array, seen: LayerMoments | undefined): number {
  if (!seen?.moments || !seen.layout) {
    let sum = 0
    for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!
    return sum
  }
  const { groups, outputs, size } = seen.layout
  const rows = toRows(values, seen.layout)
  let sum = 0
  for (let g = 0; g < groups; g++)
    sum += layerError(
      rows.subarray(g * outputs * size, (g + 1) * outputs * size),
      outputs,
      size,
      seen.moments.hessian.subarray(g * size * size, (g + 1) * size * size),
    )
  return sum
}

/**
 * @internal Bits for each layer, so that the sum of errors is small within `budget` bytes: all begin with the fewest, and the
 * step up that saves most error for a byte comes first, along each layer's lower convex hull (the Lagrangian solution but for
 * the last step; HAWQ's greedy choice, Dong et al. 2019, with output errors in the place of Hessian traces). Ties go to the
 * first layer. `undefined` where the fewest bits are too many.
 */
export function allocate(layers: readonly (readonly Candidate[])[], budget: number): number[] | undefined {
  const hulls = layers.map(hullOf)
  const at = hulls.map(() => 0)
  let left = budget - hulls.reduce((sum, h) => sum + (h[0]?.bytes ?? 0), 0)
  if (left < 0) return undefined
  const ended = hulls.map((h) => h.length < 2)
  for (;;) {
    let best = -1
    let most = 0
    for (const [i, h] of hulls.entries()) {
      if (ended[i]) continue
      const [now, next] = [h[at[i]!]!, h[at[i]! + 1]!]
      const slope = (now.error - next.error) / (next.bytes - now.bytes)
      if (slope > most) {
        most = slope
        best = i
      }
    }
    if (best < 0) break
    const h = hulls[best]!
    const cost = h[at[best]! + 1]!.bytes - h[at[best]!]!.bytes
    if (cost <= left) {
      left -= cost
      at[best]!++
      ended[best] = at[best]! + 1 === h.length
    } else ended[best] = true
  }
  return hulls.map((h, i) => h[at[i]!]?.bits ?? 8)
}

/**
 * @internal {@link allocate}, and without numbers of bits whose tables take what others spend better: then what the tables would have
 * taken comes on top of `budget`, and neither the file nor the error is larger.
 */
export function allocateFew(layers: readonly (readonly Candidate[])[], budget: number): number[] | undefined {
  const bits = allocate(layers, budget)
  if (!bits) return undefined
  const first = outcomeOf(layers, bits)
  let best = { ...first, bits }
  const used = [...first.tables.keys()]
  // Few: no more than three numbers of bits have tables.
  for (let subset = 1; subset < 2 ** used.length; subset++) {
    const gone = used.filter((_, i) => (subset >> i) & 1)
    const fewer = layers.map((l) => l.filter((c) => c.table === undefined || !gone.includes(c.bits)))
    if (fewer.some((l, i) => l.length === 0 && layers[i]!.length > 0)) continue
    const more = gone.reduce((sum, width) => sum + first.tables.get(width)!, budget)
    const found = allocate(fewer, more)
    if (!found) continue
    const outcome = outcomeOf(fewer, found)
    if (outcome.bytes <= first.bytes && outcome.error < best.error) best = { ...outcome, bits: found }
  }
  return best.bits
}

/** Bytes of a file with these bits, beside what does not depend on them; the sum of errors; and the tables by bits. */
function outcomeOf(layers: readonly (readonly Candidate[])[], bits: readonly number[]): { readonly bytes: number; readonly error: number; readonly tables: ReadonlyMap<number, number> } {
  const tables = new Map<number, number>()
  let [bytes, error] = [0, 0]
  for (const [i, candidates] of layers.entries()) {
    const own = candidates.find((c) => c.bits === bits[i])
    if (!own) continue
    bytes -= own.saved
    error += own.error
    if (own.table !== undefined) tables.set(own.bits, own.table)
  }
  return { bytes: [...tables.values()].reduce((a, b) => a + b, bytes), error, tables }
}

/** Those that no mix of two others beats, by bytes. */
function hullOf(candidates: readonly Candidate[]): Candidate[] {
  const hull: Candidate[] = []
  for (const c of [...candidates].sort((a, b) => a.bytes - b.bytes || a.error - b.error)) {
    if (hull.length > 0 && c.error >= hull.at(-1)!.error) continue
    while (hull.length > 1) {
      const [a, b] = hull.slice(-2) as [Candidate, Candidate]
      if ((a.error - b.error) * (c.bytes - b.bytes) > (b.error - c.error) * (b.bytes - a.bytes)) break
      hull.pop()
    }
    hull.push(c)
  }
  return hull
}
