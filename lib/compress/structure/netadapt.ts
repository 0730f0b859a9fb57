import { Initializer } from '../../model/graph'
import type { Model } from '../../model/model'
import { become } from '../become'
import { KeepBudget } from '../computed'
import { removeUnits } from './apply'
import type { Gone, Removal } from './cut'
import { structureOf, type Group, type Structure } from './groups'
import { totalMacs } from './macs'
import { Outputs } from './outputs'
import { chooseGroups, inputDims, scored, type Means, type Wish } from './plan'
import { keptUnits, type Quota } from './select'
import { reconstruct } from './reconstruct'

/** Candidates that are judged by accuracy in each round: those whose outputs change least. */
const kJudged = 3

/** @internal What the search is to keep to. */
export interface Goal extends Wish, Pick<Quota, 'roundTo' | 'minChannels'> {
  /** Share of the multiplications to remove at most. */
  readonly sparsity: number
  /** Share of them that each round is to remove. */
  readonly increment: number
  readonly reconstruct: boolean
  readonly ridge: number
}

/** @internal */
export interface Judge {
  accuracy(model: Model): Promise<number>
  /** Below it nothing is taken. */
  readonly least: number
}

/** @internal One round of the search. */
export interface Round {
  readonly group: string
  readonly units: number
  readonly macs: number
  readonly noise: number
  readonly accuracy?: number
}

interface Candidate {
  readonly group: Group
  readonly units: readonly number[]
  readonly model: Model
  readonly saved: number
  readonly noise: number
  readonly cost: number
}

/** @internal What the search did. */
export interface Search {
  readonly rounds: readonly Round[]
  readonly gone: Gone
  readonly reasons: Map<string, string>
  readonly removed: number
  readonly all: number
  readonly macs: readonly [before: number, after: number]
}

/** Original places of the indices that are left, by tensor and axis. */
class Places {
  readonly gone: Gone
  readonly #left: Map<string, readonly number[]>

  constructor(from?: Places) {
    this.gone = new Map([...(from?.gone ?? [])].map(([tensor, axes]) => [tensor, new Map([...axes].map(([a, set]) => [a, new Set(set)]))]))
    this.#left = new Map(from ? from.#left : [])
  }

  /** These places after a further removal; `before` is the model that it is made in. */
  after(before: Model, { group, units }: Removal): Places {
    const next = new Places(this)
    for (const { tensor, axis, per, indices } of group.members) {
      const id = `${tensor}\0${axis}`
      const left = this.#left.get(id) ?? Array.from({ length: before.graph.initializers.get(tensor)!.dims[axis]! }, (_, i) => i)
      const axes = next.gone.get(tensor) ?? new Map<number, Set<number>>()
      next.gone.set(tensor, axes)
      const gone = axes.get(axis) ?? new Set<number>()
      axes.set(axis, gone)
      const now = new Set(units.flatMap((u) => Array.from(indices.subarray(u * per, (u + 1) * per))))
      for (const i of now) gone.add(left[i]!)
      next.#left.set(id, left.filter((_, i) => !now.has(i)))
    }
    return next
  }
}

/**
 * @internal Greedy pruning in the manner of NetAdapt (Yang 2018): in each round every group proposes to lose as many of its least
 * important units as save the increment; the proposal that costs least a saved multiplication is taken. Cost is the change of the
 * outputs on calibration inputs and, of the three with the least, the loss of accuracy. Ends where the share is reached, nothing can
 * go any more, or accuracy would fall below its limit. Edits `model`.
 */
export async function netadapt(
  model: Model,
  goal: Goal,
  means: Means,
  spared: ReadonlySet<string>,
  judge: Judge | undefined,
): Promise<Search> {
  const { run, calibration } = means
  const dims = await inputDims(model, calibration)
  const outputs = await Outputs.of(model, calibration!, run)
  let current = model.clone()
  let structure = structureOf(current, dims)
  const first = chooseGroups(current, structure, goal, spared)
  const all = first.chosen.reduce((n, g) => n + g.units, 0)
  const start = totalMacs(current, structure.dims)
  const rounds: Round[] = []
  const keep = new KeepBudget()
  let places = new Places()
  let [macs, noise, accuracy, removed] = [start, 0, judge ? await judge.accuracy(model) : 0, 0]
  for (;;) {
    const room = macs - start * (1 - goal.sparsity)
    await run.tell('prune', Math.round(100 * (1 - macs / start)), Math.round(100 * goal.sparsity), `round ${rounds.length + 1}`)
    const { chosen } = chooseGroups(current, structure, goal, spared)
    const { groups, scores } = await scored(current, chosen, goal, means, first.reasons)
    const candidates: Candidate[] = []
    for (const [g, group] of groups.entries()) {
      const found = propose(current, structure, group, scores[g]!, goal, goal.increment * start, macs)
      if (!found || found.saved > room) continue
      run.check()
      const now = await outputs.noise(found.model)
      candidates.push({ ...found, noise: now, cost: (now - noise) / found.saved })
    }
    candidates.sort((a, b) => a.cost - b.cost)
    const judged: { readonly candidate: Candidate; readonly places: Places; readonly accuracy: number; readonly loss: number }[] = []
    for (const candidate of candidates.slice(0, judge && !goal.reconstruct ? kJudged : 1)) {
      const next = places.after(current, candidate)
      if (goal.reconstruct) await reconstruct(model, candidate.model, next.gone, new Set(candidate.group.members.map((m) => m.tensor)), calibration!, run, goal.ridge, keep)
      const score = judge ? await judge.accuracy(candidate.model) : 0
      judged.push({ candidate, places: next, accuracy: score, loss: (accuracy - score) / candidate.saved })
    }
    judged.sort((a, b) => a.loss - b.loss)
    const best = judged[0]
    if (!best || (judge && best.accuracy < judge.least)) break
    const { candidate } = best
    ;[current, places, accuracy] = [candidate.model, best.places, best.accuracy]
    settle(current, keep)
    removed += candidate.units.length
    macs -= candidate.saved
    noise = goal.reconstruct ? await outputs.noise(current) : candidate.noise
    rounds.push({ group: candidate.group.name, units: candidate.units.length, macs, noise, ...(judge ? { accuracy } : {}) })
    structure = structureOf(current, dims)
  }
  become(model, current)
  return { rounds, gone: places.gone, reasons: first.reasons, removed, all, macs: [start, macs] }
}

/** What would be computed from the weights before, and these from those before them, is computed once. */
function settle({ graph }: Model, keep: KeepBudget): void {
  for (const { name, type, dims, byteLength, source } of [...graph.initializers.values()])
    if (source.kind === 'computed') graph.setInitializer(name, new Initializer(name, type, dims, keep.hold(source.readSync(0, byteLength))))
}

/** The fewest of a group's least important units that save enough, or all that may go. */
function propose(model: Model, structure: Structure, group: Group, scores: Float64Array, goal: Goal, wanted: number, macs: number): Omit<Candidate, 'noise' | 'cost'> | undefined {
  const order = Array.from(scores.keys()).sort((a, b) => scores[a]! - scores[b]! || a - b)
  let last: Omit<Candidate, 'noise' | 'cost'> | undefined
  let before = 0
  // Multiplications fall in proportion or faster: a first guess, then doubled.
  for (let count = 1; count < group.units; count = Math.min(group.units - 1, Math.max(count + 1, 2 * count))) {
    const going = group.units - keptUnits(group, group.units - count, goal)
    if (going > before) {
      before = going
      const units = order.slice(0, going).sort((a, b) => a - b)
      const trial = model.clone()
      if (removeUnits(trial, structure, [{ group, units }], new KeepBudget(0)).size > 0) return undefined
      const saved = macs - totalMacs(trial, structure.dims)
      if (saved <= 0) return undefined
      last = { group, units, model: trial, saved }
      if (saved >= wanted) {
        // What one unit saves tells how many are needed.
        const exact = Math.max(1, Math.ceil((wanted / saved) * going))
        const fewer = group.units - keptUnits(group, group.units - exact, goal)
        if (fewer > 0 && fewer < going) {
          const some = order.slice(0, fewer).sort((a, b) => a - b)
          const less = model.clone()
          removeUnits(less, structure, [{ group, units: some }], new KeepBudget(0))
          return { group, units: some, model: less, saved: macs - totalMacs(less, structure.dims) }
        }
        return last
      }
    }
    if (count === group.units - 1) break
  }
  return last
}
