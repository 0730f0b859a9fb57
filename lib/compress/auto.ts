import type { Attempt, ModelFigures } from '../report/types'
import type { Built } from './backoff'
import { climb, type Outcome } from './climb'
import { judge, measure, type Evaluate } from './gate'
import { passOf, type ResolvedStep, type Step } from './passes'
import type { Run } from './progress'
import type { Limits, Objective } from './recipe'

/** A choice among strengths of one technique; `undefined` leaves it out. */
type Axis = readonly (Step | undefined)[]

/** @internal The techniques that a search strengthens, in the order in which it tries them, and in which they are applied. */
export function axesFor(_objective: Objective, _calibrated: boolean): { readonly tried: readonly Axis[]; readonly applied: readonly number[] } {
  return { tried: [[undefined, { step: 'quantize' }, { step: 'quantize', bits: 6 }, { step: 'quantize', bits: 4 }]], applied: [0] }
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
 * and judged. Ends when none is better or `seconds` have gone by; the model as it is, its weights stored once, is always tried.
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
  const { tried, applied } = axesFor(objective, given.calibrated)
  const attempts: Attempt[] = []
  const resolve = (step: Step): ResolvedStep => passOf(step).resolve(step, 'plan')

  async function trial(levels: readonly number[]): Promise<Tried> {
    const steps = [resolve({ step: 'dedupe' })]
    for (const axis of applied) {
      const step = tried[axis]![levels[axis]!]
      if (step) steps.push(resolve(step))
    }
    const { model, size } = await build(steps)
    const after: ModelFigures = { ...size, ...(await measure(model, 'compressed', evaluate, limits, run)) }
    const { accuracy, latency } = after
    attempts.push({
      spared: [],
      steps,
      bytes: size.bytes,
      ...(accuracy === undefined ? {} : { accuracy }),
      ...(latency === undefined ? {} : { latency }),
    })
    // A limit on bytes is what the search works towards: no milder level is refused for it.
    const met = judge(limits, before, after).every((l) => l.met || l.name === objective)
    return { met, cost: objective === 'bytes' ? size.bytes : (latency ?? Infinity), steps }
  }

  const best = await climb(tried.map((a) => a.length), trial, () => performance.now() > end)
  const steps = best?.outcome.steps ?? [resolve({ step: 'dedupe' }), resolve(tried[0]![1]!)]
  return { steps, attempts }
}
