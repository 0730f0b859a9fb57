import type { Graph, Node } from '../../model/graph'
import type { Model } from '../../model/model'
import { inferShapes, type Shapes } from '../../model/ops/infer'
import { weights } from '../../model/weights'
import { count } from '../../report/format'
import { boolean, fail, integer, oneOf, options } from '../../validate'
import { linearsOf, type Linear } from '../fold/linear'
import { turnStream } from '../rotate/apply'
import { hadamard, some, blocks } from '../rotate/basis'
import { headsOf } from '../rotate/heads'
import { Finder, type Stream } from '../rotate/stream'
import { gatherRms } from '../rotate/rms'
import { rename, Turns } from '../rotate/turn'
import { describeWeight, type Context, type Pass, type PassResult } from './pass'

/**
 * Turns channels by randomized Hadamard matrices, so that no channel stands out, in a model that computes the same but for rounding
 * (QuaRot, Ashkboos 2024). It belongs behind `fold` and before `quantize`.
 *
 * The matrices are folded into the weights on both sides, so that nothing is computed more:
 * - the residual stream of blocks that normalize what they read (pre-LN): the scale and shift of each LayerNormalization or
 *   RMSNormalization (or the formula that exporters write for it) go into the products behind it, and the matrix leaves the mean over channels as it is
 * - the values of each attention head, into the products before and behind
 * - products one behind the other
 *
 * Blocks with the normalization behind the sum (BERT) tie the stream to a scale by channel: there only heads can be turned. Each
 * weight's report says what was in the way. Values in another basis get names of their own.
 */
export interface RotateStep {
  readonly step: 'rotate'
  /** Default 0. */
  readonly seed?: number
  /** What is turned. Default: all of it. */
  readonly sites?: readonly RotationSite[]
  /**
   * Whether a residual stream is also turned where something reads or writes it that no matrix folds into (an output of the model, a
   * weight that is spared or shared): with a product of its own, [width, width], at each such place. Default false.
   */
  readonly products?: boolean
}

/** `'stream'`: between normalizations; `'heads'`: values of attention; `'chain'`: between products. */
export type RotationSite = 'stream' | 'heads' | 'chain'

/** @internal */
export type ResolvedRotate = Required<RotateStep>

const kSites = ['stream', 'heads', 'chain'] as const

/** @internal */
export const rotatePass: Pass<ResolvedRotate> = { name: 'rotate', resolve, needs: () => [], apply }

function resolve(value: object, parameter: string): ResolvedRotate {
  const given = options(value, parameter, ['step', 'seed', 'sites', 'products'])
  return {
    step: 'rotate',
    seed: given.seed === undefined ? 0 : integer(given.seed, `${parameter}.seed`, 0, 2 ** 32 - 1),
    sites: given.sites === undefined ? kSites : sitesOf(given.sites, `${parameter}.sites`),
    products: given.products === undefined ? false : boolean(given.products, `${parameter}.products`),
  }
}

function sitesOf(value: unknown, parameter: string): RotationSite[] {
  const list = typeof value === 'string' ? [value] : value
  if (!Array.isArray(list) || list.length === 0)
    fail('ERR_DTYPE', parameter, `a list of ${kSites.map((s) => `'${s}'`).join(', ')}`, value)
  return list.map((s: unknown, i) => oneOf(s, `${parameter}[${i}]`, kSites))
}

async function apply(model: Model, step: ResolvedRotate, { run, memory, spared }: Context): Promise<PassResult> {
  const all = weights(model.graph)
  const before = all.map(describeWeight)
  const shared = new Set(all.filter((w) => w.sharedBy.length > 0).map((w) => w.initializer.name))
  const turned = new Set<string>()
  const reasons = new Map<string, string>()
  const counts = { stream: 0, heads: 0, chain: 0 }
  const graphs = model.graph.graphs()
  for (const [i, graph] of graphs.entries()) {
    await run.tell('rotate', i, graphs.length)
    const spellOut = gatherRms(graph, inferShapes(model.graph, model.opsets))
    const layers = linearsOf(graph)
    const shapes = inferShapes(model.graph, model.opsets)
    const turns = new Turns(graph)
    const plan = planOf(graph, shapes, layers, spared, step)
    for (const [name, reason] of plan.reasons) reasons.set(name, reason)
    const seed = (): number => step.seed + 0x10001 * (counts.stream + counts.heads + counts.chain)
    // Heads first: what they are is seen by names, which streams change.
    for (const { values, output, depth, chosen, between } of plan.heads) {
      const basis = hadamard(depth, seed())
      turns.output(values, some(basis, chosen))
      turns.input(output, blocks(basis, output.inputs / depth))
      for (const value of between) rename(graph, value, 'rotated')
      counts.heads++
    }
    for (const { stream, site } of plan.streams) {
      const basis = hadamard(stream.width, seed(), {
        fixMean: [...stream.norms, ...stream.through].some((n) => n.centers),
      })
      turnStream(graph, stream, basis, turns, 'rotated')
      for (const t of stream.tables) turned.add(t.name)
      counts[site]++
    }
    for (const name of await turns.write(memory, run, 'rotate')) turned.add(name)
    spellOut()
  }
  await run.tell('rotate', graphs.length, graphs.length)
  const layers = before.map((base) => {
    const done = turned.has(base.weight)
    const reason = done
      ? {}
      : {
          reason:
            reasons.get(base.weight) ??
            (shared.has(base.weight) ? 'several nodes share it' : 'no matrix folds into it'),
        }
    return { ...base, action: done ? ('rotated' as const) : ('kept' as const), bytesAfter: base.bytesBefore, ...reason }
  })
  const summary = `Rotated ${count(turned.size)} of ${count(layers.length)} weights, in residual streams: ${count(counts.stream)}, values of attentions: ${count(counts.heads)}, chains of products: ${count(counts.chain)}.`
  return { layers, summary }
}

interface Plan {
  readonly heads: ReturnType<typeof headsOf>['found']
  readonly streams: { readonly stream: Stream; readonly site: 'stream' | 'chain' }[]
  /** By weight: why nothing was done. */
  readonly reasons: Map<string, string>
}

function planOf(
  graph: Graph,
  shapes: Shapes,
  layers: ReadonlyMap<Node, Linear>,
  spared: ReadonlySet<string>,
  { sites, products }: ResolvedRotate,
): Plan {
  const plan: Plan = { heads: [], streams: [], reasons: new Map() }
  for (const l of layers.values()) if (spared.has(l.weight.name)) plan.reasons.set(l.weight.name, 'it is spared')
  const note = (l: Linear, reason: string): void => {
    if (!plan.reasons.has(l.weight.name)) plan.reasons.set(l.weight.name, reason)
  }
  const busy = new Set<string>()
  if (sites.includes('heads')) {
    const { found, refused } = headsOf(
      graph,
      shapes,
      new Map([...layers].filter(([, l]) => !spared.has(l.weight.name))),
    )
    for (const h of found) {
      plan.heads.push(h)
      busy.add(h.values.output)
    }
    for (const [layer, reason] of refused) note(layer, reason)
  }
  const finder = new Finder(graph, shapes, layers, spared)
  const seen = new Set<string>()
  const consider = (stream: Stream, site: 'stream' | 'chain'): void => {
    for (const v of stream.values.keys()) seen.add(v)
    const blocked = stream.obstacles[0] ?? (products && site === 'stream' ? undefined : stream.loose[0]?.reason)
    const useful = (stream.writers.length > 0 || stream.tables.length > 0) && stream.readers.length > 0
    if (blocked === undefined && useful) return void plan.streams.push({ stream, site })
    const reason = blocked ?? 'no product lies on both sides'
    for (const l of stream.writers) note(l, reason)
    for (const { layer } of stream.readers) note(layer, reason)
    for (const t of stream.tables) plan.reasons.set(t.name, reason)
  }
  if (sites.includes('stream'))
    for (const node of graph.nodes) {
      const norm = finder.normOf(node)
      if (norm && !seen.has(node.inputs[0]!)) consider(finder.find(node.inputs[0]!, norm.scale.length), 'stream')
    }
  if (sites.includes('chain'))
    for (const layer of layers.values()) {
      if (seen.has(layer.output) || busy.has(layer.output) || spared.has(layer.weight.name) || layer.outputs < 2)
        continue
      const stream = finder.find(
        layer.output,
        layer.outputs,
        layer.node.is('Conv', 'ConvTranspose') ? 1 - layer.weight.dims.length : -1,
      )
      if (stream.norms.length + stream.through.length === 0 || !sites.includes('stream')) consider(stream, 'chain')
    }
  return plan
}
