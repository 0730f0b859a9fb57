import type { Model } from '../../model/model'
import { weights } from '../../model/weights'
import { count, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { fail, finite, integer, oneOf, options } from '../../validate'
import { parseSelector, selects, unmatchedNames, type LayerSelector, type Layers } from '../selectors'
import { WhittleError } from '../../errors'
import { removeUnits } from '../structure/apply'
import type { Removal } from '../structure/cut'
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
   * folded), `'geometric-median'` (FPGM 2019), `'random'`.
   */
  readonly criterion?: WeightCriterion
  /** Channels that stay come in multiples of this, default 1. 8 or 16 suit what runtimes compute at a time. */
  readonly roundTo?: number
  /** Channels that stay at least, default 1. */
  readonly minChannels?: number
  /** For `'random'`, default 0. */
  readonly seed?: number
  /** Groups that one of these layers makes; groups with an excluded layer stay. Default: all. */
  readonly layers?: Layers
}

/** @internal */
export type ResolvedStructured = Required<Omit<StructuredPruneStep, 'layers'>> & { readonly layers: LayerSelector }

const kCriteria = ['l1', 'l2', 'gamma', 'geometric-median', 'random'] as const

const isStructured = (step: object): step is ResolvedStructured => (step as { structure?: unknown }).structure !== undefined

function resolveStructured(value: object, parameter: string): ResolvedStructured {
  const given = options(value, parameter, ['step', 'structure', 'sparsity', 'scope', 'criterion', 'roundTo', 'minChannels', 'seed', 'layers'])
  const sparsity = given.sparsity === undefined ? fail('ERR_RANGE', `${parameter}.sparsity`, 'a share from 0 to below 1', given.sparsity) : finite(given.sparsity, `${parameter}.sparsity`, 0, 1)
  if (sparsity === 1) fail('ERR_RANGE', `${parameter}.sparsity`, 'a share below 1: something must stay', sparsity)
  return {
    step: 'prune',
    structure: oneOf(given.structure, `${parameter}.structure`, ['filter', 'channel', 'neuron', 'head', 'all']),
    sparsity,
    scope: given.scope === undefined ? 'uniform' : oneOf(given.scope, `${parameter}.scope`, ['uniform', 'global']),
    criterion: given.criterion === undefined ? 'l1' : oneOf(given.criterion, `${parameter}.criterion`, kCriteria),
    roundTo: given.roundTo === undefined ? 1 : integer(given.roundTo, `${parameter}.roundTo`, 1, 65536),
    minChannels: given.minChannels === undefined ? 1 : integer(given.minChannels, `${parameter}.minChannels`, 1, 2 ** 31 - 1),
    seed: given.seed === undefined ? 0 : integer(given.seed, `${parameter}.seed`, 0, 2 ** 32 - 1),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}

/** @internal The `prune` step: with `structure` this, without it `pass`. */
export function withStructure<S extends { readonly step: 'prune' }>(pass: Pass<S>): Pass<S | ResolvedStructured> {
  return {
    name: 'prune',
    resolve: (value, parameter) => (isStructured(value) ? resolveStructured(value, parameter) : pass.resolve(value, parameter)),
    needs: (step) => (isStructured(step) ? [] : pass.needs(step)),
    apply: (model, step, context) => (isStructured(step) ? applyStructured(model, step, context) : pass.apply(model, step, context)),
  }
}

const kSides: Readonly<Record<Structured, Sides>> = { filter: 'makers', channel: 'readers', neuron: 'both', head: 'both', all: 'both' }
const kWords: Readonly<Record<Structured, string>> = { filter: 'filters', channel: 'channels', neuron: 'neurons', head: 'heads', all: 'filters, neurons and heads' }

/** Removes units for good. */
async function applyStructured(model: Model, step: ResolvedStructured, context: Context): Promise<PassResult> {
  const { run, memory } = context
  await run.tell('prune', 0, 1, 'dependencies')
  const structure = structureOf(model, await inputDims(model, context))
  const { chosen, reasons } = chooseGroups(model, structure, step, context.spared)
  const groups: Group[] = []
  const scores: Float64Array[] = []
  for (const [i, group] of chosen.entries()) {
    await run.tell('prune', i, chosen.length, group.name)
    const found = weightScores(model.graph, group, step.criterion, kSides[step.structure], step.seed, memory.scratch)
    if (typeof found === 'string') {
      for (const m of group.members) if (m.role === 'output') reasons.set(m.tensor, found)
      continue
    }
    groups.push(group)
    scores.push(found)
  }
  const units = chooseUnits(groups, scores, step)
  const removals = groups.map((group, g): Removal => ({ group, units: units[g]! })).filter((r) => r.units.length > 0)
  const before = describe(model)
  const macs = totalMacs(model, structure.dims)
  const errors = lostShares(model, removals, memory.scratch)
  const refused = removeUnits(model, structure, removals, memory.keep)
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
    `Removed ${count(gone)} of ${count(all)} ${kWords[step.structure]} (${step.criterion}, ${step.scope}) from ${layers.filter((l) => l.action === 'pruned').length} weights: ` +
    `${count(macs)} multiplications became ${count(after)} (${percent(macs ? after / macs : 1, 1)}).`
  return { layers, summary }
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
  const gone = new Map<string, Map<number, Set<number>>>()
  for (const { group, units } of removals)
    for (const { tensor, axis, per, indices } of group.members) {
      const axes = gone.get(tensor) ?? new Map<number, Set<number>>()
      gone.set(tensor, axes)
      const set = axes.get(axis) ?? new Set<number>()
      axes.set(axis, set)
      for (const u of units) for (let k = 0; k < per; k++) set.add(indices[u * per + k]!)
    }
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
