import type { Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import { inferShapes, type Shapes } from '../../model/ops/infer'
import { weights } from '../../model/weights'
import { count, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import type { Tensor } from '../../tensor'
import { boolean, fail, finite, integer, oneOf, options } from '../../validate'
import { linearsOf, type Linear } from '../fold/linear'
import { turnStream } from '../rotate/apply'
import { principal, SecondMoments, type Keep, type Principal } from '../rotate/principal'
import { resize, sizesOf, type SizeEdit } from '../rotate/resize'
import { gatherRms } from '../rotate/rms'
import { Finder, type Norm, type Stream } from '../rotate/stream'
import { Turns } from '../rotate/turn'
import { describeWeight, type Context, type Pass, type PassResult } from './pass'

/**
 * Makes a transformer narrower (SliceGPT, Ashkboos 2024): turns its residual stream into the principal components of what calibration
 * inputs put there, and deletes the least. Every weight that reads or writes the stream gets fewer rows or columns; nothing else
 * changes. It belongs behind `fold` and before `quantize`; `rotate` behind it spreads what the components gather in few channels.
 *
 * One basis serves the whole stream: one for each block, as in the paper, needs a product on every residual connection, which takes
 * back a tenth of what is saved. A LayerNormalization stays one: the stream loses the mean, which it takes off anyway, and one
 * channel more than there are components keeps what is left free of a mean. What deleting shifts on average goes into biases.
 *
 * Blocks that normalize behind the sum (BERT) tie the stream to a scale by channel, and are left as they are, with the reason.
 */
export interface SliceStep {
  readonly step: 'slice'
  /** Share of the stream's channels to delete, 0 to below 1. Default, where `energy` is not given: 0.25. */
  readonly sparsity?: number
  /** Share of the sum of squares to keep, above 0, at most 1: each stream as wide as that takes. */
  readonly energy?: number
  /** Widths are rounded up to a multiple of this. Default 8. */
  readonly roundTo?: number
  /** `'stream'` (default): between normalizations. `'chain'`: between products one behind the other, too. */
  readonly sites?: readonly SliceSite[]
  /**
   * Whether a stream is also sliced where something reads or writes it that no matrix folds into (an output of the model, a weight
   * that is spared or shared), with a product of its own at each such place, as long as the whole gets smaller. Default true.
   */
  readonly products?: boolean
}

export type SliceSite = 'stream' | 'chain'

/** @internal */
export interface ResolvedSlice extends Omit<Required<SliceStep>, 'sparsity' | 'energy'> {
  readonly sparsity?: number
  readonly energy?: number
}

const kSites = ['stream', 'chain'] as const

/** @internal */
export const slicePass: Pass<ResolvedSlice> = { name: 'slice', resolve, needs: () => ['calibration'], apply }

function resolve(value: object, parameter: string): ResolvedSlice {
  const given = options(value, parameter, ['step', 'sparsity', 'energy', 'roundTo', 'sites', 'products'])
  if (given.sparsity !== undefined && given.energy !== undefined)
    fail('ERR_RANGE', `${parameter}.energy`, 'nothing beside sparsity', given.energy)
  const energy = given.energy === undefined ? undefined : finite(given.energy, `${parameter}.energy`, 0, 1)
  if (energy === 0) fail('ERR_RANGE', `${parameter}.energy`, 'a number above 0, at most 1', 0)
  const sparsity = given.sparsity === undefined ? 0.25 : finite(given.sparsity, `${parameter}.sparsity`, 0, 1)
  if (sparsity === 1) fail('ERR_RANGE', `${parameter}.sparsity`, 'a number from 0 to below 1', 1)
  return {
    step: 'slice',
    ...(energy === undefined ? { sparsity } : { energy }),
    roundTo: given.roundTo === undefined ? 8 : integer(given.roundTo, `${parameter}.roundTo`, 1, 65536),
    sites: given.sites === undefined ? ['stream'] : sitesOf(given.sites, `${parameter}.sites`),
    products: given.products === undefined ? true : boolean(given.products, `${parameter}.products`),
  }
}

function sitesOf(value: unknown, parameter: string): SliceSite[] {
  if (!Array.isArray(value) || value.length === 0)
    fail('ERR_DTYPE', parameter, `a list of ${kSites.map((s) => `'${s}'`).join(', ')}`, value)
  return value.map((s: unknown, i) => oneOf(s, `${parameter}[${i}]`, kSites))
}

/** A stream that can be sliced, and what its inputs look like. */
interface Site {
  readonly stream: Stream
  readonly edits: readonly SizeEdit[]
  readonly centered: boolean
  readonly moments: SecondMoments
  /** Of every normalization's result before scale and shift, or of what each reader sees: Σ x and the number of rows. */
  readonly means: Map<Norm | Linear, { readonly sum: Float64Array; rows: number }>
}

/** Bytes of second moments that are held at a time. */
const kBudget = 256e6

async function apply(model: Model, step: ResolvedSlice, context: Context): Promise<PassResult> {
  const { run, memory, spared } = context
  const { graph } = model
  const all = weights(graph)
  const before = all.map(describeWeight)
  const shared = new Set(all.filter((w) => w.sharedBy.length > 0).map((w) => w.initializer.name))
  // What is seen is the model as it came: bases of one site do not hang on those of others.
  const seen = model.clone()
  const spellOut = gatherRms(graph, inferShapes(graph, model.opsets))
  const shapes = inferShapes(graph, model.opsets)
  const layers = linearsOf(graph)
  const reasons = new Map([...spared].map((name) => [name, 'it is spared']))
  const sites = sitesIn(graph, shapes, layers, spared, step, reasons)
  const turns = new Turns(graph)
  const widths: string[] = []
  const errors = new Map<string, number>()
  for (let at = 0; at < sites.length;) {
    const group: Site[] = []
    for (let bytes = 0; at < sites.length; at++) {
      bytes += 8 * sites[at]!.stream.width ** 2
      if (group.length > 0 && bytes > kBudget) break
      group.push(sites[at]!)
    }
    await observe(seen, group, context)
    for (const site of group) {
      const { stream } = site
      await run.tell('slice', sites.indexOf(site), sites.length, [...stream.values.keys()][0])
      const found = principal(site.moments, keepOf(stream, step, site.centered), site.centered)
      const { basis } = found
      const refused =
        basis.to >= stream.width && !('energy' in step) && step.sparsity! > 0
          ? `${stream.width} channels are the least of that multiple`
          : dearer(stream, basis.to)
      if (refused !== undefined) {
        for (const name of namesOf(stream)) reasons.set(name, refused)
        continue
      }
      slice(graph, site, found, turns)
      for (const name of namesOf(stream))
        errors.set(name, Math.hypot(errors.get(name) ?? 0, Math.sqrt(1 - Math.min(1, found.energy))))
      widths.push(`${stream.width} to ${basis.to} (${percent(found.energy, 2)} of its squares)`)
    }
  }
  await turns.write(memory, run, 'slice')
  spellOut()
  await run.tell('slice', sites.length, sites.length)
  const report = before.map((base): LayerReport => {
    const now = graph.initializers.get(base.weight)
    if (!errors.has(base.weight) || !now)
      return {
        ...base,
        action: 'kept',
        reason:
          reasons.get(base.weight) ??
          (shared.has(base.weight) ? 'several nodes share it' : 'it lies at no residual stream'),
        bytesAfter: base.bytesBefore,
      }
    return {
      ...base,
      action: 'pruned',
      dimsAfter: now.dims,
      bytesAfter: now.byteLength,
      error: errors.get(base.weight)!,
    }
  })
  const changed = report.filter((l) => l.action === 'pruned')
  const summary = widths.length
    ? `Sliced ${widths.join(', ')}: ${count(changed.length)} of ${count(report.length)} weights.`
    : `Sliced nothing: ${report.find((l) => l.reason)?.reason ?? 'there are no weights'}.`
  return { layers: report, summary }
}

function keepOf({ width }: Stream, { sparsity, energy, roundTo }: ResolvedSlice, centered: boolean): Keep {
  if (energy !== undefined) return { energy, roundTo }
  const least = centered ? 2 : 1
  return { channels: Math.min(width, Math.max(least, Math.ceil(((1 - sparsity!) * width) / roundTo - 1e-9) * roundTo)) }
}

const namesOf = (stream: Stream): string[] => [
  ...[...stream.writers, ...stream.readers.map((r) => r.layer)].map((l) => l.weight.name),
  ...stream.tables.map((t) => t.name),
]

function sitesIn(
  graph: Graph,
  shapes: Shapes,
  layers: ReturnType<typeof linearsOf>,
  spared: ReadonlySet<string>,
  step: ResolvedSlice,
  reasons: Map<string, string>,
): Site[] {
  const finder = new Finder(graph, shapes, layers, spared)
  const found: Site[] = []
  const seen = new Set<string>()
  const consider = (stream: Stream): void => {
    for (const v of stream.values.keys()) seen.add(v)
    const edits = sizesOf(graph, shapes, stream)
    const reason = obstacleOf(stream, step) ?? (typeof edits === 'string' ? edits : undefined)
    if (reason === undefined)
      return void found.push({
        stream,
        edits: edits as SizeEdit[],
        centered: stream.norms.some((n) => n.centers),
        moments: new SecondMoments(stream.width),
        means: new Map(),
      })
    for (const name of namesOf(stream)) if (!reasons.has(name)) reasons.set(name, reason)
  }
  if (step.sites.includes('stream'))
    for (const node of graph.nodes) {
      const norm = finder.normOf(node)
      if (norm && !seen.has(node.inputs[0]!)) consider(finder.find(node.inputs[0]!, norm.scale.length))
    }
  if (step.sites.includes('chain'))
    for (const layer of layers.values()) {
      if (seen.has(layer.output) || spared.has(layer.weight.name) || layer.outputs < 2) continue
      const stream = finder.find(
        layer.output,
        layer.outputs,
        layer.node.is('Conv', 'ConvTranspose') ? 1 - layer.weight.dims.length : -1,
      )
      if (stream.norms.length + stream.through.length === 0) consider(stream)
    }
  return found
}

/** Why a stream cannot be made narrower. */
function obstacleOf(stream: Stream, { products }: ResolvedSlice): string | undefined {
  if (stream.obstacles[0] !== undefined) return stream.obstacles[0]
  const [through] = stream.through
  if (through) return `${through.node.opType} ${through.node.label} writes what it normalizes`
  if (stream.loose[0] && (!products || stream.norms.length === 0)) return stream.loose[0].reason
  if (stream.writers.length + stream.tables.length === 0 || stream.readers.length === 0)
    return 'no product lies on both sides'
  if (!stream.norms.some((n) => n.centers)) return undefined
  if (stream.norms.some((n) => !n.centers)) return 'normalizations with and without a mean read it'
  const raw = stream.readers.find((r) => !r.norm)
  if (raw) return `${raw.layer.node.opType} ${raw.layer.node.label} reads the stream with its mean`
  return stream.loose.find((l) => l.side === 'read' && !l.norm)?.reason
}

/** Refuses what would not save anything: products at loose ends count. */
function dearer({ writers, readers, tables, loose, width }: Stream, to: number): string | undefined {
  const sides =
    [...writers, ...readers.map((r) => r.layer)].reduce((n, l) => n + l.weight.elementCount, 0) +
    tables.reduce((n, t) => n + t.elementCount, 0)
  const saved = sides * (1 - to / width)
  const added = new Set(loose.map((l) => `${l.side} ${l.value}`)).size * width * to
  return added > saved ? `products of their own would outweigh what is saved: ${loose[0]!.reason}` : undefined
}

/** Second moments of what normalizations make, each vector of the length √n, or of what readers in a chain see. */
async function observe(model: Model, sites: readonly Site[], { calibration, run }: Context): Promise<void> {
  interface Source {
    readonly site: Site
    readonly key: Norm | Linear
    readonly value: string
    readonly norm?: Norm
  }
  const sources = sites.flatMap((site): Source[] => {
    const { norms, readers } = site.stream
    if (norms.length > 0) return norms.map((norm) => ({ site, key: norm, value: norm.node.inputs[0]!, norm }))
    return readers.map(({ layer }) => ({ site, key: layer, value: layer.data }))
  })
  await calibration!.each(model, [...new Set(sources.map((s) => s.value))], run, (values) => {
    for (const { site, key, value, norm } of sources) {
      const rows = rowsOf(values.get(value)!, site.stream, value)
      if (norm) normalize(rows, site.stream.width, norm)
      let mean = site.means.get(key)
      if (!mean) site.means.set(key, (mean = { sum: new Float64Array(site.stream.width), rows: 0 }))
      for (let i = 0; i < rows.length; i++) mean.sum[i % site.stream.width]! += rows[i]!
      mean.rows += rows.length / site.stream.width
      for (const s of mean.sum)
        if (!Number.isFinite(s)) fail('ERR_RANGE', 'calibration', `finite values of ${value}`, s)
      site.moments.add(rows)
    }
  })
}

/** A copy, channels last. */
function rowsOf({ data, dims }: Tensor, { values, width }: Stream, value: string): Float32Array {
  const x = data as Float32Array
  const inner = dims.slice(dims.length + values.get(value)! + 1).reduce((a, b) => a * b, 1)
  const out = new Float32Array(x.length)
  for (let i = 0; i < x.length; i++) {
    const block = Math.floor(i / (inner * width))
    const rest = i % (inner * width)
    out[(block * inner + (rest % inner)) * width + Math.floor(rest / inner)] = x[i]!
  }
  return out
}

function normalize(rows: Float32Array, n: number, { node, centers }: Norm): void {
  const epsilon = node.float('epsilon', 1e-5)
  for (let at = 0; at < rows.length; at += n) {
    const x = rows.subarray(at, at + n)
    let mean = 0
    if (centers) for (const v of x) mean += v / n
    let square = 0
    for (const v of x) square += (v - mean) ** 2
    const scale = 1 / Math.sqrt(square / n + epsilon)
    for (let i = 0; i < n; i++) x[i] = (x[i]! - mean) * scale
  }
}

function slice(graph: Graph, { stream, edits, means }: Site, { basis }: Principal, turns: Turns): void {
  // x ≈ x M Mᵀ is off by this on average.
  const lost = (key: Norm | Linear): Float64Array => {
    const { sum, rows } = means.get(key)!
    const mean = Float32Array.from(sum, (s) => s / Math.max(1, rows))
    const kept = basis.back(basis.apply(mean))
    return Float64Array.from(mean, (v, i) => v - kept[i]!)
  }
  resize(graph, edits, basis.to)
  turnStream(graph, stream, basis, turns, 'sliced', ({ layer, norm }) => {
    // Zeros around an input are no channels that lost anything.
    if (layer.padded) return undefined
    const off = lost(norm ?? layer)
    return norm ? off.map((v, i) => v * norm.scale[i]! + (norm.shift?.[i] ?? 0)) : off
  })
}
