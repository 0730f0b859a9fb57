import type { Model } from '../../model/model'
import { weights } from '../../model/weights'
import type { Calibration } from '../calibration'
import type { Scratch } from '../computed'
import type { Run } from '../progress'
import { emptyError, selects, unmatchedError, type LayerSelector } from '../selectors'
import { activityScores, kActivityCriteria, type ActivityCriterion } from './activity'
import { Gradients, taylorScores } from './gradients'
import type { Group, Structure } from './groups'
import { weightScores, type Sides, type WeightCriterion } from './score'

/** What is removed as a whole; see `StructuredPruneStep.structure`. */
export type Structured = 'filter' | 'channel' | 'neuron' | 'head' | 'all'

/** How units are scored. */
export type StructuredCriterion = WeightCriterion | ActivityCriterion | 'taylor'

/** @internal */
export const kCriteria = ['l1', 'l2', 'gamma', 'geometric-median', 'random', ...kActivityCriteria, 'taylor'] as const

/** @internal */
export const isActivity = (criterion: StructuredCriterion): criterion is ActivityCriterion => (kActivityCriteria as readonly string[]).includes(criterion)

/** @internal Which units, and how they are scored. */
export interface Wish {
  readonly structure: Structured
  readonly criterion: StructuredCriterion
  readonly seed: number
  readonly layers: LayerSelector
  readonly gradients?: string | Gradients
}

/** @internal What scoring may use. */
export interface Means {
  readonly run: Run
  readonly memory: { readonly scratch: Scratch }
  readonly calibration: Calibration | undefined
}

const kSides: Readonly<Record<Structured, Sides>> = { filter: 'makers', channel: 'readers', neuron: 'both', head: 'both', all: 'both' }

/** @internal The groups that can be scored, with their scores; `reasons` hears of the others. */
export async function scored(model: Model, chosen: readonly Group[], step: Wish, { run, memory, calibration }: Means, reasons: Map<string, string>): Promise<{ groups: Group[]; scores: Float64Array[] }> {
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

/** @internal Sizes of the calibration's first inputs; without one the model's own, guesses where it leaves them open. */
export async function inputDims(model: Model, calibration: Calibration | undefined): Promise<ReadonlyMap<string, readonly number[]> | undefined> {
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

/** @internal The groups of the structure that is asked for and of the layers that are chosen; `reasons`: why others stay. */
export function chooseGroups(model: Model, { groups, kept }: Structure, step: Wish, spared: ReadonlySet<string>): { chosen: Group[]; reasons: Map<string, string> } {
  const all = weights(model.graph)
  const named = all.map((w) => ({ name: w.name, op: w.op, weight: w.initializer.name, elements: w.initializer.elementCount }))
  const error = unmatchedError(step.layers, named)
  if (error) throw error
  const wanted = new Set(named.filter((n) => selects(step.layers, n, 0)).map((n) => n.weight))
  const empty = wanted.size === 0 ? emptyError(step.layers, named.length) : undefined
  if (empty) throw empty
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
