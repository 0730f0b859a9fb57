import { gemm } from '../../kernels/gemm'
import type { Model } from '../../model/model'
import type { Node } from '../../model/node'
import { weights } from '../../model/weights'
import { sizeOf, type Tensor } from '../../tensor'
import type { Calibration } from '../calibration'
import { moments, rowLayoutOf, toRows, type RowLayout } from '../moments'
import { ease, paged, touched } from '../paged'
import type { Run } from '../progress'
import type { Group, Member } from './groups'

/** How units are scored from what they compute on calibration inputs. */
export type ActivityCriterion = 'apoz' | 'mean' | 'variance' | 'hrank' | 'thinet' | 'lasso'

/** @internal */
export const kActivityCriteria = ['apoz', 'mean', 'variance', 'hrank', 'thinet', 'lasso'] as const satisfies readonly ActivityCriterion[]

/** Sets whose maps are ranked: the average rank hardly depends on which images are seen (Lin 2020). */
const kRankedSets = 8

/** Where a group's channels can be seen: input `value` of a reader, along `axis` from the end (-1) or the second one (1). */
interface View {
  readonly member: Member
  readonly value: string
  readonly axis: 1 | -1
}

/** Readers that see each channel under its own index. */
function viewsOf(group: Group): View[] {
  return group.members.flatMap((member): View[] => {
    const { node, role, tensor } = member
    if (role !== 'input' || node.inputs[1] !== tensor || !node.inputs[0]) return []
    const view = (axis: 1 | -1): View[] => [{ member, value: node.inputs[0]!, axis }]
    if (node.is('Conv', 'ConvTranspose')) return node.int('group', 1) === 1 ? view(1) : []
    if (node.is('Gemm')) return node.int('transA', 0) ? [] : view(-1)
    return node.is('MatMul', 'LSTM', 'GRU', 'RNN') ? view(-1) : []
  })
}

/**
 * @internal Scores of every group, the least important unit lowest, or why there are none.
 *
 * `apoz`: share of activations that are not zero (Hu 2016 removes those with most zeros). `mean`: mean magnitude, `variance`
 * (Molchanov 2017, Polyak and Wolf 2015). `hrank`: mean rank of the feature maps (Lin 2020). `thinet`: position in the greedy
 * removal that keeps the sum which readers make (Luo 2017). `lasso`: the penalty at which a channel's coefficient in that
 * sum becomes zero (He 2017).
 */
export async function activityScores(
  model: Model,
  groups: readonly Group[],
  criterion: ActivityCriterion,
  calibration: Calibration,
  run: Run,
): Promise<(Float64Array | string)[]> {
  if (criterion === 'thinet' || criterion === 'lasso') {
    const score = criterion === 'thinet' ? greedy : lasso
    const scores: (Float64Array | string)[] = groups.map(() => 'what reads these channels cannot be seen')
    await contributions(model, groups, calibration, run, (g, gram) => (scores[g] = score(gram, groups[g]!.units)))
    return scores
  }
  const views = groups.map((g) => viewsOf(g)[0])
  const sums = groups.map((g) => ({ count: 0, sum: new Float64Array(g.units), squares: new Float64Array(g.units), plain: new Float64Array(g.units) }))
  const fetch = [...new Set(views.flatMap((v) => (v ? [v.value] : [])))]
  let why = 'what reads these channels cannot be seen'
  if (fetch.length > 0)
    await calibration.each(model, fetch, run, (values, set) => {
      groups.forEach((group, g) => {
        const view = views[g]
        if (!view) return
        const value = values.get(view.value)!
        if (value.type !== 'float32') return
        if (criterion === 'hrank') {
          if (value.dims.length !== 4 || view.axis !== 1) why = 'there are no maps to rank'
          else addRanks(value, view.member, group.units, sums[g]!)
        } else addValues(value, view, group.units, criterion, sums[g]!)
      })
      return !(criterion === 'hrank' && set + 1 >= kRankedSets)
    })
  return sums.map(({ count, sum, squares, plain }) => {
    if (count === 0) return why
    if (criterion !== 'variance') return sum.map((v) => v / count)
    return squares.map((v, u) => Math.max(0, v / count - (plain[u]! / count) ** 2))
  })
}

interface Accumulated {
  count: number
  readonly sum: Float64Array
  readonly squares: Float64Array
  readonly plain: Float64Array
}

function addValues({ dims, data }: Tensor, { member, axis }: View, units: number, criterion: ActivityCriterion, into: Accumulated): void {
  const values = data as Float32Array
  const at = axis === 1 ? 1 : dims.length - 1
  const [outer, size, inner] = [sizeOf(dims.slice(0, at)), dims[at]!, sizeOf(dims.slice(at + 1))]
  const { per, indices } = member
  for (let u = 0; u < units; u++) {
    let [sum, squares, plain] = [0, 0, 0]
    for (let k = 0; k < per; k++)
      for (let o = 0; o < outer; o++) {
        const from = (o * size + indices[u * per + k]!) * inner
        for (let i = from; i < from + inner; i++) {
          const v = values[i]!
          sum += criterion === 'apoz' ? (v === 0 ? 0 : 1) : v < 0 ? -v : v
          squares += v * v
          plain += v
        }
      }
    into.sum[u]! += sum
    into.squares[u]! += squares
    into.plain[u]! += plain
  }
  into.count += outer * inner * per
}

function addRanks({ dims, data }: Tensor, { per, indices }: Member, units: number, into: Accumulated): void {
  const [n, channels, h, w] = dims as [number, number, number, number]
  const values = data as Float32Array
  for (let image = 0; image < n; image++)
    for (let u = 0; u < units; u++)
      for (let k = 0; k < per; k++) {
        const from = (image * channels + indices[u * per + k]!) * h * w
        into.sum[u]! += rankOf(values.subarray(from, from + h * w), h, w)
      }
  into.count += n * per
}

/** Rank by elimination with complete pivoting; a pivot below eps·max(h, w) of the largest is zero. */
export function rankOf(map: Float32Array, h: number, w: number): number {
  const a = Float64Array.from(map)
  let first = 0
  for (let r = 0; r < Math.min(h, w); r++) {
    let [best, at] = [0, -1]
    for (let i = r; i < h; i++)
      for (let j = r; j < w; j++) {
        const v = Math.abs(a[i * w + j]!)
        if (v > best) [best, at] = [v, i * w + j]
      }
    if (r === 0) first = best
    if (!(best > first * Math.max(h, w) * 1.2e-7)) return r
    const [pi, pj] = [Math.floor(at / w), at % w]
    for (let j = 0; j < w; j++) [a[r * w + j], a[pi * w + j]] = [a[pi * w + j]!, a[r * w + j]!]
    for (let i = 0; i < h; i++) [a[i * w + r], a[i * w + pj]] = [a[i * w + pj]!, a[i * w + r]!]
    for (let i = r + 1; i < h; i++) {
      const f = a[i * w + r]! / a[r * w + r]!
      if (f !== 0) for (let j = r; j < w; j++) a[i * w + j]! -= f * a[r * w + j]!
    }
  }
  return Math.min(h, w)
}

/**
 * Of each group, as soon as its readers were seen: the symmetric G[u, v] = Σ of (what unit u adds to a reader's sums) · (what v adds), over
 * readers, outputs and positions.
 */
async function contributions(model: Model, groups: readonly Group[], calibration: Calibration, run: Run, found: (g: number, gram: Float64Array) => void): Promise<void> {
  const grams: (Float64Array | undefined)[] = groups.map(() => undefined)
  const readers = new Map<string, { readonly g: number; readonly member: Member }[]>()
  groups.forEach((group, g) => {
    for (const { member } of viewsOf(group)) readers.set(member.tensor, [...(readers.get(member.tensor) ?? []), { g, member }])
  })
  const all = weights(model.graph).filter((w) => w.graph === model.graph && readers.has(w.initializer.name))
  const last = new Map(all.flatMap((w) => readers.get(w.initializer.name)!.map(({ g }) => [g, w.initializer.name] as const)))
  for await (const { weight, moments: seen } of moments(model, all, calibration, { run })) {
    const { initializer } = weight
    const layout = rowLayoutOf(weight)
    const own = readers.get(initializer.name)!
    if (seen && layout && seen.groups === 1 && initializer.type === 'float32')
      for (const { g, member } of own) {
        run.check()
        const gram = (grams[g] ??= paged('float64', groups[g]!.units ** 2) as Float64Array)
        addContributions(gram, groups[g]!.units, member, run.scratch.read(initializer).data as Float32Array, layout, seen.hessian, layout.size / initializer.dims[readerAxis(weight.node)]!)
      }
    for (const g of new Set(own.map((o) => o.g))) {
      if (last.get(g) !== initializer.name) continue
      if (grams[g]) found(g, grams[g])
      grams[g] = undefined
    }
  }
}

/** Products of features that are computed at a time. */
const kPart = 2 ** 22

/** Of one reader, `taps` features a channel. */
function addContributions(gram: Float64Array, units: number, { per, indices }: Member, data: Float32Array, layout: RowLayout, hessian: Float64Array, taps: number): void {
  const { outputs, size } = layout
  // Of each unit: its features in the sums.
  const features = Array.from({ length: units }, (_, u) => Array.from(indices.subarray(u * per, (u + 1) * per)).flatMap((c) => Array.from({ length: taps }, (_, t) => c * taps + t)))
  // The reader's matrix as it lies where that is [features, outputs], else [outputs, features].
  const turned = layout.order === 'columns'
  const w = turned ? data : toRows(data, layout)
  const wide = per * taps
  const step = Math.max(1, Math.min(units, Math.floor(kPart / (wide * Math.max(size, outputs)))))
  const left = new Float32Array(step * wide * outputs)
  const room = new Float32Array(step * wide * size)
  for (let from = 0; from < units; from += step) {
    const count = Math.min(step, units - from)
    const part = features.slice(from, from + count).flat()
    for (const [i, f] of part.entries())
      if (turned) left.set(w.subarray(f * outputs, (f + 1) * outputs), i * outputs)
      else for (let o = 0; o < outputs; o++) left[i * outputs + o] = w[o * size + f]!
    const products = gemm(left.subarray(0, part.length * outputs), w, {
      aDims: [part.length, outputs],
      bDims: turned ? [size, outputs] : [outputs, size],
      transposeB: turned,
      out: room.subarray(0, part.length * size),
    }).data as Float32Array
    for (let u = from, at = 0; u < from + count; u++, at += wide * size) {
      for (let v = 0; v <= u; v++) {
        let sum = 0
        for (const [a, i] of features[u]!.entries()) for (const j of features[v]!) sum += hessian[i * size + j]! * products[at + a * size + j]!
        gram[u * units + v]! += sum
      }
      touched(8 * (wide * size + units))
    }
  }
  mirrorUp(gram, units)
  ease()
}

/** The lower triangle [n, n] into the upper one. */
function mirrorUp(a: Float64Array, n: number): void {
  const tile = 256
  for (let i0 = 0; i0 < n; i0 += tile)
    for (let j0 = 0; j0 <= i0; j0 += tile) {
      const i1 = Math.min(n, i0 + tile)
      for (let i = i0; i < i1; i++) for (let j = j0; j < Math.min(i, j0 + tile); j++) a[j * n + i] = a[i * n + j]!
      touched(16 * tile * tile)
    }
}

const readerAxis = (node: Node): number => (node.is('Conv') ? 1 : node.is('LSTM', 'GRU', 'RNN') ? 2 : node.is('Gemm') && node.int('transB', 0) ? 1 : 0)

/** Always the unit next whose removal, with those removed before, changes the sum least; the order is the score. */
function greedy(gram: Float64Array, units: number): Float64Array {
  const scores = new Float64Array(units)
  const cross = new Float64Array(units)
  const own = Float64Array.from(scores, (_, u) => gram[u * units + u]!)
  ease()
  const left = new Set(Array.from({ length: units }, (_, u) => u))
  for (let step = 0; step < units; step++) {
    let best = -1
    let least = Infinity
    for (const u of left) {
      const cost = own[u]! + 2 * cross[u]!
      if (cost < least || best < 0) [best, least] = [u, cost]
    }
    left.delete(best)
    scores[best] = step
    for (const u of left) cross[u]! += gram[best * units + u]!
    touched(8 * units)
  }
  return scores
}

const kPath = 60

/** Coordinate descent along a path of penalties, from all zero: the penalty at which a coefficient first stays. */
function lasso(gram: Float64Array, units: number): Float64Array {
  const scores = new Float64Array(units)
  const target = new Float64Array(units)
  for (let u = 0; u < units; u++) {
    for (let v = 0; v < units; v++) target[u]! += gram[u * units + v]!
    touched(8 * units)
  }
  let top = 0
  for (const t of target) top = Math.max(top, Math.abs(t))
  const diagonal = Float64Array.from(scores, (_, u) => gram[u * units + u]!)
  ease()
  const beta = new Float64Array(units)
  const residual = Float64Array.from(target)
  for (let k = 0; k < kPath && top > 0; k++) {
    const penalty = top * 10 ** ((-4 * k) / (kPath - 1))
    for (let pass = 0; pass < 30; pass++) {
      let moved = 0
      for (let u = 0; u < units; u++) {
        const own = diagonal[u]!
        if (!(own > 0)) continue
        const r = residual[u]! + own * beta[u]!
        const next = (Math.sign(r) * Math.max(0, Math.abs(r) - penalty)) / own
        const change = next - beta[u]!
        if (change === 0) continue
        beta[u] = next
        moved = Math.max(moved, Math.abs(change))
        for (let v = 0; v < units; v++) residual[v]! -= gram[u * units + v]! * change
        touched(8 * units)
      }
      if (moved < 1e-5) break
    }
    for (let u = 0; u < units; u++) if (beta[u] !== 0 && scores[u] === 0) scores[u] = penalty / top + 1e-9 * Math.abs(beta[u]!)
  }
  return scores
}
