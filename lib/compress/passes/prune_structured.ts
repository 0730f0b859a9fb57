import type { Model } from '../../model/model'
import { weights } from '../../model/weights'
import { count, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { boolean, fail, finite, formOptions, integer, oneOf, options } from '../../validate'
import { parseSelector, selects, type LayerSelector, type Layers } from '../selectors'
import type { TensorLike } from '../../tensor'
import { removeUnits } from '../structure/apply'
import { Gradients } from '../structure/gradients'
import { mergeUnits, similarUnits, type Merge } from '../structure/merge'
import { reconstruct } from '../structure/reconstruct'
import { goneIndices, type Gone, type Removal } from '../structure/cut'
import { structureOf, type Group } from '../structure/groups'
import { totalMacs } from '../structure/macs'
import { netadapt, type Round } from '../structure/netadapt'
import { chooseGroups, inputDims, isActivity, kCriteria, scored, type Structured, type StructuredCriterion } from '../structure/plan'
import { chooseUnits } from '../structure/select'
import { kZeroKeys } from './prune'
import { describeWeight, type Context, type Pass, type PassResult } from './pass'

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
  /** How much the fit holds on to the weights: the share of the inputs' mean square that is added for it. Default 0.01. */
  readonly ridge?: number
  /** Channels that stay come in multiples of this, default 1. 8 or 16 suit what runtimes compute at a time. */
  readonly roundTo?: number
  /** Channels that stay at least, default 1. */
  readonly minChannels?: number
  /** For `'random'`, default 0. */
  readonly seed?: number
  /**
   * `'netadapt'`: greedy, in rounds (Yang 2018). In each, every group proposes to lose as many of its least important units as save
   * `increment` of all multiplications, and what costs least a saved multiplication is done: by the change of the outputs on
   * calibration inputs, and by accuracy where `evaluate` is given, of the three that change least. Ends where `sparsity`, now the share
   * of multiplications, is reached, or before accuracy falls below its limit. Default `'none'`.
   */
  readonly search?: 'none' | 'netadapt'
  /** Share of all multiplications that a round of the search removes, default 0.03. */
  readonly increment?: number
  /** Groups that one of these layers makes; groups with an excluded layer stay. Default: all. */
  readonly layers?: Layers
}

/** @internal */
export type ResolvedStructured = Required<Omit<StructuredPruneStep, 'layers' | 'gradients'>> & {
  readonly layers: LayerSelector
  readonly gradients?: string | Gradients
}

const isStructured = (step: object): step is ResolvedStructured => (step as { structure?: unknown }).structure !== undefined

const kKeys = ['step', 'structure', 'sparsity', 'scope', 'criterion', 'roundTo', 'minChannels', 'seed', 'layers', 'gradients', 'merge', 'reconstruct', 'ridge', 'search', 'increment'] as const

function resolveStructured(value: object, parameter: string): ResolvedStructured {
  const given = options(value, parameter, kKeys)
  const sparsity = given.sparsity === undefined ? fail('ERR_RANGE', `${parameter}.sparsity`, 'a share from 0 to below 1', given.sparsity) : finite(given.sparsity, `${parameter}.sparsity`, 0, 1)
  if (sparsity === 1) fail('ERR_RANGE', `${parameter}.sparsity`, 'a share below 1: something must stay', sparsity)
  const criterion = given.criterion === undefined ? 'l1' : oneOf(given.criterion, `${parameter}.criterion`, kCriteria)
  const merge = given.merge === undefined ? false : boolean(given.merge, `${parameter}.merge`)
  if (merge && given.criterion !== undefined && criterion !== 'l1') fail('ERR_RANGE', `${parameter}.criterion`, 'nothing beside merge, which chooses by resemblance', criterion)
  const search = given.search === undefined ? 'none' : oneOf(given.search, `${parameter}.search`, ['none', 'netadapt'])
  if (search === 'netadapt' && merge) fail('ERR_RANGE', `${parameter}.merge`, "nothing with search: 'netadapt'", merge)
  if (search === 'netadapt' && criterion === 'taylor') fail('ERR_RANGE', `${parameter}.criterion`, "another criterion with search: 'netadapt': gradients are those of the whole model", criterion)
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
    search,
    increment: given.increment === undefined ? 0.03 : finite(given.increment, `${parameter}.increment`, 0.001, 1),
    reconstruct: given.reconstruct === undefined ? false : boolean(given.reconstruct, `${parameter}.reconstruct`),
    ridge: given.ridge === undefined ? 0.01 : finite(given.ridge, `${parameter}.ridge`, 0),
    layers: parseSelector(given.layers, `${parameter}.layers`),
    ...(given.gradients === undefined ? {} : { gradients: typeof given.gradients === 'string' ? given.gradients : Gradients.of(given.gradients, `${parameter}.gradients`) }),
  }
}

const kForms = { 'without structure': kZeroKeys, 'with structure': kKeys } as const

/** @internal The `prune` step: with `structure` this, without it `pass`. */
export function withStructure<S extends { readonly step: 'prune' }>(pass: Pass<S>): Pass<S | ResolvedStructured> {
  return {
    name: 'prune',
    resolve(value, parameter) {
      const structured = isStructured(value)
      formOptions(value, parameter, kForms, structured ? 'with structure' : 'without structure')
      return structured ? resolveStructured(value, parameter) : pass.resolve(value, parameter)
    },
    needs: (step) => (!isStructured(step) ? pass.needs(step) : step.reconstruct || step.search === 'netadapt' || isActivity(step.criterion) ? ['calibration'] : []),
    apply: (model, step, context) => (isStructured(step) ? applyStructured(model, step, context) : pass.apply(model, step, context)),
  }
}

const kWords: Readonly<Record<Structured, string>> = { filter: 'filters', channel: 'channels', neuron: 'neurons', head: 'heads', all: 'filters, neurons and heads' }

/** What was done to a model, to be reported. */
interface Done {
  readonly gone: Gone
  readonly removed: number
  readonly all: number
  readonly reasons: ReadonlyMap<string, string>
  readonly macs: readonly [before: number, after: number]
  readonly rounds?: readonly Round[]
}

/** Removes units for good. */
async function applyStructured(model: Model, step: ResolvedStructured, context: Context): Promise<PassResult> {
  await context.run.tell('prune', 0, 1, 'dependencies')
  const before = describe(model)
  const original = model.clone()
  const done = step.search === 'netadapt' ? await netadapt(model, step, context, context.spared, context.judge) : await once(model, step, context)
  await context.run.tell('prune', 1, 1)
  const errors = lostShares(original, done.gone, context.memory.scratch)
  const layers = before.flatMap((base): LayerReport[] => {
    const now = model.graph.initializers.get(base.weight)
    const changed = now && now.dims.some((d, i) => d !== base.dims[i])
    if (changed) return [{ ...base, action: 'pruned', dimsAfter: now.dims, bytesAfter: now.byteLength, error: errors.get(base.weight) ?? 0 }]
    const reason = done.reasons.get(base.weight)
    return reason ? [{ ...base, action: 'kept', reason, bytesAfter: base.bytesBefore }] : []
  })
  // What is coupled to what is only followed through the outermost graph.
  for (const w of weights(original.graph)) {
    const base = describeWeight(w)
    if (w.graph !== original.graph && selects(step.layers, base, 0)) layers.push({ ...base, action: 'kept', reason: 'it lies in a branch or a loop', bytesAfter: base.bytesBefore })
  }
  const [macs, after] = done.macs
  const how = [step.merge ? 'merged' : step.criterion, step.search === 'netadapt' ? `netadapt, ${done.rounds?.length} rounds` : step.scope].join(', ')
  const summary =
    `Removed ${count(done.removed)} of ${count(done.all)} ${kWords[step.structure]} (${how}) from ${layers.filter((l) => l.action === 'pruned').length} weights: ` +
    `${count(macs)} multiplications became ${count(after)} (${percent(macs ? after / macs : 1, 1)}).`
  return { layers, summary }
}

/** The share of every group, or of all. */
async function once(model: Model, step: ResolvedStructured, context: Context): Promise<Done> {
  const { run, memory, calibration } = context
  const structure = structureOf(model, await inputDims(model, calibration))
  const { chosen, reasons } = chooseGroups(model, structure, step, context.spared)
  const { groups, scores } = await scored(model, chosen, step, context, reasons)
  const blame = (group: Group, why: string): void => {
    for (const m of group.members) if (m.role === 'output') reasons.set(m.tensor, why)
  }
  let units = chooseUnits(groups, scores, step)
  const merges = new Map<Group, readonly Merge[]>()
  if (step.merge)
    units = units.map((going, g) => {
      const found = similarUnits(model.graph, groups[g]!, going.length, memory.scratch)
      if (typeof found === 'string') {
        blame(groups[g]!, found)
        return []
      }
      merges.set(groups[g]!, found)
      return found.map((m) => m.from).sort((a, b) => a - b)
    })
  const wanted = groups.map((group, g): Removal => ({ group, units: units[g]! })).filter((r) => r.units.length > 0)
  const macs = totalMacs(model, structure.dims)
  const original = model.clone()
  let removals: readonly Removal[] = []
  const refused = removeUnits(model, structure, wanted, memory.keep, (good) => {
    removals = good
    for (const { group } of good) mergeUnits(model.graph, group, merges.get(group) ?? [])
  })
  for (const [group, why] of refused) blame(group, why)
  const gone = goneIndices(removals)
  if (step.reconstruct) await reconstruct(original, model, gone, new Set(gone.keys()), calibration!, run, step.ridge, memory.keep)
  return {
    gone,
    removed: removals.reduce((n, r) => n + r.units.length, 0),
    all: chosen.reduce((n, g) => n + g.units, 0),
    reasons,
    macs: [macs, totalMacs(model, structure.dims)],
  }
}

const describe = (model: Model) => weights(model.graph).filter((w) => w.graph === model.graph).map(describeWeight)

/** ‖removed‖ / ‖w‖ of each weight, by name. */
function lostShares(model: Model, gone: Gone, scratch: Context['memory']['scratch']): Map<string, number> {
  const lost = new Map<string, number>()
  for (const [tensor, axes] of gone) {
    // A bias that a fit made and a later round cut is not there.
    const initializer = model.graph.initializers.get(tensor)
    if (initializer?.type !== 'float32' || initializer.dims.length < 2) continue
    const data = scratch.read(initializer).data as Float32Array
    const strides = initializer.dims.map((_, a) => initializer.dims.slice(a + 1).reduce((n, d) => n * d, 1))
    const masks = [...axes].map(([axis, set]) => ({ stride: strides[axis]!, size: initializer.dims[axis]!, mask: Uint8Array.from({ length: initializer.dims[axis]! }, (_, i) => (set.has(i) ? 1 : 0)) }))
    let [all, away] = [0, 0]
    for (let i = 0; i < data.length; i++) {
      const square = data[i]! * data[i]!
      all += square
      for (const { stride, size, mask } of masks)
        if (mask[Math.floor(i / stride) % size]) {
          away += square
          break
        }
    }
    lost.set(tensor, all > 0 ? Math.sqrt(away / all) : 0)
  }
  return lost
}
