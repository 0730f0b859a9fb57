import type { Attempt, ModelFigures } from '../report/types'
import type { Built } from './backoff'
import { climb, type Outcome } from './climb'
import { attemptOf, judge, measure, type Evaluate } from './gate'
import { passOf, type ResolvedStep, type Step } from './passes'
import type { Run } from './progress'
import type { Limits, Objective } from './recipe'

/** A choice among strengths of one technique, the mildest first; `undefined` leaves it out. */
type Axis = readonly (Step | undefined)[]

/** @internal What a search strengthens: in this order it is tried, and by `place` applied. */
export interface Technique {
  readonly place: number
  readonly levels: Axis
}

/**
 * @internal The techniques that serve an objective: what shrinks a file is not what makes it fast. Those that look at inputs take the
 * place of those that do not, where there are inputs to calibrate on.
 */
export function techniques(objective: Objective, calibrated: boolean): readonly Technique[] {
  const method = calibrated ? 'gptq' : 'omse'
  const cut = (sparsity: number): Step => ({ step: 'prune', structure: 'all', scope: 'global', sparsity, roundTo: 8, reconstruct: calibrated })
  const structured: Technique = { place: 0, levels: [undefined, ...[0.1, 0.2, 0.3, 0.4, 0.5].map(cut)] }
  const factored: Technique = {
    place: 1,
    levels: [undefined, ...[0.99, 0.97, 0.94, 0.9].map((energy): Step => ({ step: 'factorize', energy, weighting: calibrated ? 'inputs' : 'none' }))],
  }
  if (objective === 'latency') {
    const zeros = [0.5, 0.6, 0.7, 0.8, 0.9].map(
      (share): Step => (calibrated ? { step: 'prune', sparsity: 'auto', target: share, criterion: 'obs' } : { step: 'prune', sparsity: share }),
    )
    const codes: Axis = calibrated ? [undefined, { step: 'quantize', activations: 'static' }] : [undefined, { step: 'quantize', activations: 'dynamic' }]
    return [{ place: 3, levels: codes }, structured, { place: 2, levels: [undefined, ...zeros] }, factored]
  }
  const bits = [8, 4, 3, 2].map((b): Step => ({ step: 'quantize', bits: b, ...(b < 8 ? { method } : {}) }))
  return [{ place: 3, levels: [undefined, ...bits] }, structured, factored]
}

/** @internal */
export interface Planned {
  readonly steps: readonly ResolvedStep[]
  readonly attempts: readonly Attempt[]
}

interface Tried extends Outcome {
  readonly steps: readonly ResolvedStep[]
}

/**
 * @internal Steps that make the objective smallest within the limits, found by trying: every combination that is tried is built
 * and judged. Ends when none is better or `seconds` have gone by; the model as it is, folded and its weights stored once, is always tried.
 */
export async function planSteps(
  given: {
    readonly before: ModelFigures
    readonly limits: Limits
    readonly evaluate: Evaluate
    readonly calibrated: boolean
    readonly objective: Objective
    readonly seconds: number
    readonly run: Run
  },
  build: (steps: readonly ResolvedStep[]) => Promise<Built>,
): Promise<Planned> {
  const { before, limits, evaluate, objective, run } = given
  const end = performance.now() + 1000 * given.seconds
  const tried = techniques(objective, given.calibrated)
  const applied = tried.map((t, axis) => ({ ...t, axis })).sort((a, b) => a.place - b.place)
  const attempts: Attempt[] = []
  const resolve = (step: Step): ResolvedStep => passOf(step).resolve(step, 'plan')
  const always = [resolve({ step: 'fold' }), resolve({ step: 'dedupe' })]

  async function trial(levels: readonly number[]): Promise<Tried> {
    const steps = always.slice()
    for (const { axis, levels: all } of applied) {
      const step = all[levels[axis]!]
      if (step) steps.push(resolve(step))
    }
    const built = await build(steps).catch((error: unknown) => {
      // What sessions cannot run cannot be calibrated: such techniques are not to be had.
      if ((error as { code?: unknown }).code === 'ERR_UNSUPPORTED_OP') return undefined
      throw error
    })
    if (!built) return { met: false, cost: Infinity, steps }
    const { model, size } = built
    const after: ModelFigures = { ...size, ...(await measure(model, 'compressed', evaluate, limits, run)) }
    attempts.push(attemptOf([], after, steps))
    // A limit on bytes is what the search works towards: no milder level is refused for it.
    const met = judge(limits, before, after).every((l) => l.met || l.name === objective)
    return { met, cost: objective === 'bytes' ? size.bytes : (after.latency ?? Infinity), steps }
  }

  const best = await climb(tried.map((t) => t.levels.length), trial, () => performance.now() > end)
  const steps = best?.outcome.steps ?? [...always, resolve(tried[0]!.levels[1]!)]
  return { steps, attempts }
}
