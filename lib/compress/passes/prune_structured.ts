import type { Model } from '../../model/model'
import { weights } from '../../model/weights'
import { count, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { boolean, fail, finite, integer, oneOf, options } from '../../validate'
import { parseSelector, selects, unmatchedNames, type LayerSelector, type Layers } from '../selectors'
import { WhittleError } from '../../errors'
import type { TensorLike } from '../../tensor'
import { activityScores, kActivityCriteria, type ActivityCriterion } from '../structure/activity'
import { removeUnits } from '../structure/apply'
import { Gradients, taylorScores } from '../structure/gradients'
import { mergeUnits, similarUnits, type Merge } from '../structure/merge'
import { reconstruct } from '../structure/reconstruct'
import { goneIndices, type Removal } from '../structure/cut'
import { structureOf, type Group, type Structure } from '../structure/groups'
import { totalMacs } from '../structure/macs'
import { weightScores, type Sides, type WeightCriterion } from '../structure/score'
import { chooseUnits } from '../structure/select'
import { describeWeight, type Context, type Pass, type PassResult } from './pass'

/** What is removed as a whole; see {@link StructuredPruneStep.structure}. */
export type Structured = 'filter' | 'channel' | 'neuron' | 'head' | 'all'

/**
 * Structured pruning: the least important filters, channels, neurons or attention heads are taken out of the file. Weights, biases,
 * normalizations and whatever else runs along them lose the same indices, and the result runs faster in any runtime. It
 * computes what the original does with the weights that read the removed channels set to zero.
 *
 * What must go together is found through the graph: residual additions, concatenations, splits, depthwise and grouped
 * convolutions, squeeze-and-excitation, reshapes, attention (Fang et al., DepGraph, 2023). Channels that reach an op which needs all
 * of them (a normalization over channels, a softmax, the model's outputs, an op or a shape that is not understood) stay, and the
 * report says why.
 */
export interface StructuredPruneStep {
  readonly step: 'prune'
  /**
   * `'filter'`: filters of convolutions, scored as such (Li 2017); `'channel'`: the same channels, scored by the weights that
   * read them (He 2017); `'neuron'`: outputs of MatMul and Gemm; `'head'`: heads of attention; `'all'`: all of these, scored by all
   * coupled weights.
   */
  readonly structure: Structured
  /** Share of units to remove, from 0 to below 1. */
  readonly sparsity: number
  /** `'uniform'` (default): of every group of coupled layers; `'global'`: of all, lowest scores first. */
  readonly scope?: 'uniform' | 'global'
  /**
   * Score of a unit. From weights: `'l1'` (default), `'l2'`, `'gamma'` (of batch normalizations: Network Slimming 2017; such as were not
   * folded), `'geometric-median'` (FPGM 2019), `'random'`. From calibration inputs: `'apoz'` (share of activations that are not zero, Hu
   * 2016), `'mean'` (magnitude), `'variance'`, `'hrank'` (rank of feature maps, Lin 2020), `'thinet'` (Luo 2017), `'lasso'` (He 2017).
   * `'taylor'`: (Σ g·w)² with the `gradients` of a loss (Molchanov 2019).
   */
  readonly criterion?: StructuredCriterion
  /** For `'taylor'`: gradients by the name of the weight tensor, or the path of a safetensors file that holds them. */
  readonly gradients?: Readonly<Record<string, TensorLike>> | string
  /**
   * Removes those units that another one resembles most, and adds what they send on to what that one does (Srinivas and Babu
   * 2015); instead of a criterion. Default false.
   */
  readonly merge?: boolean
  /**
   * Fits the weights and biases of the layers that lost inputs anew, by least squares on the calibration inputs, first to last: what
   * they make of the smaller model's values is to be what the original made (He 2017). Default false.
   */
  readonly reconstruct?: boolean
  /** How much the fit holds on to the weights: the share of the inputs' mean square that is added for it. Default 0.001. */
  readonly ridge?: number
  /** Channels that stay come in multiples of this, default 1. 8 or 16 suit what runtimes compute at a time. */
  readonly roundTo?: number
  /** Channels that stay at least, default 1. */
  readonly minChannels?: number
  /** For `'random'`, default 0. */
  readonly seed?: number
  /** Groups that one of these layers makes; groups with an excluded layer stay. Default: all. */
  readonly layers?: Layers
}

/** How units are scored. */
export type StructuredCriterion = WeightCriterion | ActivityCriterion | 'taylor'

/** @internal */
export type ResolvedStructured = Required<Omit<StructuredPruneStep, 'layers' | 'gradients'>> & {
  readonly layers: LayerSelector
  readonly gradients?: string | Gradients
}

const kCriteria = ['l1', 'l2', 'gamma', 'geometric-median', 'random', ...kActivityCriteria, 'taylor'] as const
const isActivity = (criterion: StructuredCriterion): criterion is ActivityCriterion => (kActivityCriteria as readonly string[]).includes(criterion)

const isStructured = (step: object): step is ResolvedStructured => (step as { structure?: unknown }).structure !== undefined

function resolveStructured(value: object, parameter: string): ResolvedStructured {
  const given = options(value, parameter, ['step', 'structure', 'sparsity', 'scope', 'criterion', 'roundTo', 'minChannels', 'seed', 'layers', 'gradients', 'merge', 'reconstruct', 'ridge'])
  const sparsity = given.sparsity === undefined ? fail('ERR_RANGE', `${parameter}.sparsity`, 'a share from 0 to below 1', given.sparsity) : finite(given.sparsity, `${parameter}.sparsity`, 0, 1)
  if (sparsity === 1) fail('ERR_RANGE', `${parameter}.sparsity`, 'a share below 1: something must stay', sparsity)
  const criterion = given.criterion === undefined ? 'l1' : oneOf(given.criterion, `${parameter}.criterion`, kCriteria)
  const merge = given.merge === undefined ? false : boolean(given.merge, `${parameter}.merge`)
  if (merge && given.criterion !== undefined && criterion !== 'l1') fail('ERR_RANGE', `${parameter}.criterion`, 'nothing beside merge, which chooses by resemblance', criterion)
  if ((criterion === 'taylor') !== (given.gradients !== undefined))
    fail('ERR_RANGE', `${parameter}.gradients`, criterion === 'taylor' ? "gradients by weight name, for the criterion 'taylor'" : "nothing without the criterion 'taylor'", given.gradients)
  return {
    step: 'prune',
    structure: oneOf(given.structure, `${parameter}.structure`, ['filter', 'channel', 'neuron', 'head', 'all']),
    sparsity,
    scope: given.scope === undefined ? 'uniform' : oneOf(given.scope, `${parameter}.scope`, ['uniform', 'global']),
    criterion,
    roundTo: given.roundTo === undefined ? 1 : integer(given.roundTo, `${parameter}.roundTo`, 1, 65536),
    minChannels: given.minChannels === undefined ? 1 : integer(given.minChannels, `${parameter}.minChannels`, 1, 2 ** 31 - 1),
    seed: given.seed === undefined ? 0 : integer(given.seed, `${parameter}.seed`, 0, 2 ** 32 - 1),
    merge,
    reconstruct: given.reconstruct === undefined ? false : boolean(given.reconstruct, `${parameter}.reconstruct`),
    ridge: given.ridge === undefined ? 0.001 : finite(given.ridge, `${parameter}.ridge`, 0),
    layers: parseSelector(given.layers, `${parameter}.layers`),
    ...(given.gradients === undefined ? {} : { gradients: typeof given.gradients === 'string' ? given.gradients : Gradients.of(given.gradients, `${parameter}.gradients`) }),
  }
}

/** @internal The `prune` step: with `structure` this, without it `pass`. */
export function withStructure<S extends { readonly step: 'prune' }>(pass: Pass<S>): Pass<S | ResolvedStructured> {
  return {
    name: 'prune',
    resolve: (value, parameter) => (isStructured(value) ? resolveStructured(value, parameter) : pass.resolve(value, parameter)),
    needs: (step) => (!isStructured(step) ? pass.needs(step) : step.reconstruct || isActivity(step.criterion) ? ['calibration'] : []),
    apply: (model, step, context) => (isStructured(step) ? applyStructured(model, step, context) : pass.apply(model, step, context)),
  }
}

const kSides: Readonly<Record<Structured, Sides>> = { filter: 'makers', channel: 'readers', neuron: 'both', head: 'both', all: 'both' }
const kWords: Readonly<Record<Structured, string>> = { filter: 'filters', channel: 'channels', neuron: 'neurons', head: 'heads', all: 'filters, neurons and heads' }

/** Removes units for good. */
async function applyStructured(model: Model, step: ResolvedStructured, context: Context): Promise<PassResult> {
  const { run, memory, calibration } = context
  await run.tell('prune', 0, 1, 'dependencies')
  const structure = structureOf(model, await inputDims(model, context))
  const { chosen, reasons } = chooseGroups(model, structure, step, context.spared)
  const { groups, scores } = await scored(model, chosen, step, context, reasons)
  let units = chooseUnits(groups, scores, step)
  const merges = new Map<Group, readonly Merge[]>()
  if (step.merge)
    units = units.map((going, g) => {
      const found = similarUnits(model.graph, groups[g]!, going.length, memory.scratch)
      if (typeof found === 'string') {
        for (const m of groups[g]!.members) if (m.role === 'output') reasons.set(m.tensor, found)
        return []
      }
      merges.set(groups[g]!, found)
      return found.map((m) => m.from).sort((a, b) => a - b)
    })
  const removals = groups.map((group, g): Removal => ({ group, units: units[g]! })).filter((r) => r.units.length > 0)
  const before = describe(model)
  const macs = totalMacs(model, structure.dims)
  const errors = lostShares(model, removals, memory.scratch)
  const original = model.clone()
  const refused = removeUnits(model, structure, removals, memory.keep, (good) => {
    for (const { group } of good) mergeUnits(model.graph, group, merges.get(group) ?? [])
  })
  if (step.reconstruct) await reconstruct(original, model, removals.filter((r) => !refused.has(r.group)), calibration!, run, step.ridge)
  for (const [group, why] of refused) for (const m of group.members) if (m.role === 'output') reasons.set(m.tensor, why)
  const after = totalMacs(model, structure.dims)
  await run.tell('prune', chosen.length, chosen.length)
  const layers = before.flatMap((base): LayerReport[] => {
    const now = model.graph.initializers.get(base.weight)
    const changed = now && now.dims.some((d, i) => d !== base.dims[i])
    if (changed) return [{ ...base, action: 'pruned', dimsAfter: now.dims, bytesAfter: now.byteLength, error: errors.get(base.weight) ?? 0 }]
    const reason = reasons.get(base.weight)
    return reason ? [{ ...base, action: 'kept', reason, bytesAfter: base.bytesBefore }] : []
  })
  const gone = removals.filter((r) => !refused.has(r.group)).reduce((n, r) => n + r.units.length, 0)
  const all = chosen.reduce((n, g) => n + g.units, 0)
  const summary =
    `Removed ${count(gone)} of ${count(all)} ${kWords[step.structure]} (${step.merge ? 'merged' : step.criterion}, ${step.scope}) from ${layers.filter((l) => l.action === 'pruned').length} weights: ` +
    `${count(macs)} multiplications became ${count(after)} (${percent(macs ? after / macs : 1, 1)}).`
  return { layers, summary }
}

/** The groups that can be scored, with their scores; `reasons` hears of the others. */
async function scored(model: Model, chosen: readonly Group[], step: ResolvedStructured, { run, memory, calibration }: Context, reasons: Map<string, string>): Promise<{ groups: Group[]; scores: Float64Array[] }> {
  const { criterion } = step
  const sides = kSides[step.structure]
  const groups: Group[] = []
  const scores: Float64Array[] = []
  const gradients = typeof step.gradients === 'string' ? await Gradients.load(step.gradients) : step.gradients
  const active = isActivity(criterion) ? await activityScores(model, chosen, criterion, calibration!, run) : undefined
  for (const [i, group] of chosen.entries()) {
    await run.tell('prune', i, chosen.length, group.name)
    const found = active
      ? active[i]!
      : gradients
        ? taylorScores(model.graph, group, gradients, sides, memory.scratch)
        : weightScores(model.graph, group, criterion as WeightCriterion, sides, step.seed, memory.scratch)
    if (typeof found === 'string') {
      for (const m of group.members) if (m.role === 'output') reasons.set(m.tensor, found)
      continue
    }
    groups.push(group)
    scores.push(found)
  }
  return { groups, scores }
}

/** Sizes of the calibration's first inputs; without one the model's own, guesses where it leaves them open. */
async function inputDims(model: Model, { calibration }: Context): Promise<ReadonlyMap<string, readonly number[]> | undefined> {
  const needed = model.graph.inputs.filter((i) => !model.graph.initializers.has(i.name))
  if (!calibration || needed.every((i) => i.dims?.every((d) => typeof d === 'number'))) return undefined
  for await (const inputs of calibration.inputs()) {
    const dims = new Map<string, readonly number[]>()
    for (const i of needed) {
      const value = inputs[i.name]
      const given = value && 'dims' in value ? (value.dims as readonly number[]) : undefined
      if (given) dims.set(i.name, given)
    }
    return dims.size === needed.length ? dims : undefined
  }
  return undefined
}

/** The groups of the structure that is asked for and of the layers that are chosen; `reasons`: why others stay. */
function chooseGroups(model: Model, { groups, kept }: Structure, step: ResolvedStructured, spared: ReadonlySet<string>): { chosen: Group[]; reasons: Map<string, string> } {
  const all = weights(model.graph)
  const named = all.map((w) => ({ name: w.name, op: w.op, weight: w.initializer.name, elements: w.initializer.elementCount }))
  const unmatched = unmatchedNames(step.layers, named)
  if (unmatched.length)
    throw new WhittleError('ERR_RANGE', 'layers', `layers: no weight is called ${unmatched.map((u) => JSON.stringify(u)).join(', ')}`)
  const wanted = new Set(named.filter((n) => selects(step.layers, n, 0)).map((n) => n.weight))
  const excluded = step.layers.exclude ? new Set(named.filter((n) => !selects({ exclude: step.layers.exclude! }, n, 0)).map((n) => n.weight)) : new Set<string>()
  const reasons = new Map([...kept].filter(([tensor]) => wanted.has(tensor)))
  const kind = step.structure === 'channel' ? 'filter' : step.structure
  const chosen = groups.filter((g) => {
    if ((kind !== 'all' && g.kind !== kind) || g.units < 2) return false
    const makers = g.members.filter((m) => m.role === 'output')
    if (!makers.some((m) => wanted.has(m.tensor)) || g.members.some((m) => excluded.has(m.tensor))) return false
    const held = g.members.find((m) => spared.has(m.tensor))
    if (!held) return true
    for (const m of makers) reasons.set(m.tensor, m.tensor === held.tensor ? 'the gate spared it' : `the gate spared ${held.tensor}, which is coupled to it`)
    return false
  })
  return { chosen, reasons }
}

const describe = (model: Model) => weights(model.graph).filter((w) => w.graph === model.graph).map(describeWeight)

/** ‖removed‖ / ‖w‖ of each weight, by name. */
function lostShares(model: Model, removals: readonly Removal[], scratch: Context['memory']['scratch']): Map<string, number> {
  const gone = goneIndices(removals)
  const lost = new Map<string, number>()
  for (const [tensor, axes] of gone) {
    const initializer = model.graph.initializers.get(tensor)!
    if (initializer.type !== 'float32' || initializer.dims.length < 2) continue
    const data = scratch.read(initializer).data as Float32Array
    const strides = initializer.dims.map((_, a) => initializer.dims.slice(a + 1).reduce((n, d) => n * d, 1))
    let [all, away] = [0, 0]
    for (let i = 0; i < data.length; i++) {
      const square = data[i]! * data[i]!
      all += square
      for (const [axis, set] of axes)
        if (set.has(Math.floor(i / strides[axis]!) % initializer.dims[axis]!)) {
          away += square
          break
        }
    }
    lost.set(tensor, all > 0 ? Math.sqrt(away / all) : 0)
  }
  return lost
}
