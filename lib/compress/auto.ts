import type { Attempt, ModelFigures } from '../report/types'
import type { Built } from './backoff'
import { climb, type Outcome } from './climb'
import { attemptOf, judge, measure, type Evaluate } from './gate'
import { passOf, type ResolvedStep, type Step } from './passes'
import type { Run } from './progress'
import type { Limits, Objective } from './recipe'

/** Strengths of one technique, the mildest first; no step leaves it out. */
type Axis = readonly (readonly Step[])[]

/** @internal What a search strengthens: in this order it is tried, and by `place` applied. */
export interface Technique {
  readonly place: number
  readonly levels: Axis
  /** The level to try before all others: what a preset does. Default 0. */
  readonly start?: number
}

/** Bits that weights take on average, from what hardly any model minds to what few bear. */
const kBits = [6, 5, 4.5, 4, 3.5, 3, 2.5] as const

/**
 * @internal The techniques that serve an objective: what shrinks a file is not what makes it fast. Those that look at inputs take the
 * place of those that do not, where there are inputs to calibrate on.
 */
export function techniques(objective: Objective, calibrated: boolean, container: 'onnx' | 'whittle'): readonly Technique[] {
  const levels = (steps: readonly Step[]): Axis => [[], ...steps.map((s) => [s])]
  const structured: Technique = {
    place: 0,
    levels: levels([0.1, 0.2, 0.3, 0.4, 0.5].map((sparsity) => ({ step: 'prune', structure: 'all', scope: 'global', sparsity, roundTo: 8, reconstruct: calibrated }))),
  }
  const factored: Technique = {
    place: 1,
    levels: levels([0.99, 0.97, 0.94, 0.9].map((energy) => ({ step: 'factorize', energy, weighting: calibrated ? 'inputs' : 'none' }))),
  }
  if (objective === 'latency') {
    const zeros = [0.5, 0.6, 0.7, 0.8, 0.9].map(
      (share): Step => (calibrated ? { step: 'prune', sparsity: 'auto', target: share, criterion: 'obs' } : { step: 'prune', sparsity: share }),
    )
    const codes: readonly Step[] = calibrated ? [{ step: 'quantize', activations: 'static', repair: false }, { step: 'repair' }] : [{ step: 'quantize', activations: 'dynamic' }]
    return [{ place: 3, levels: [[], codes], start: 1 }, structured, { place: 2, levels: levels(zeros) }, factored]
  }
  const method = calibrated ? 'gptq' : 'omse'
  const few = kBits.map(
    (bits): Step => (container === 'whittle' ? { step: 'quantize', coding: 'entropy', bits, method } : { step: 'quantize', bits: 'auto', averageBits: bits, method }),
  )
  return [{ place: 3, levels: levels([{ step: 'quantize' }, ...few]), start: calibrated ? 2 + kBits.indexOf(5) : 1 }, structured, factored]
}

/** @internal */
export interface Planned {
  readonly steps: readonly ResolvedStep[]
  /** What the steps came to, where they met every limit that the search looks at; its attempt is the last. */
  readonly found?: { readonly built: Built; readonly after: ModelFigures }
  readonly attempts: readonly Attempt[]
}

interface Tried extends Outcome {
  readonly steps: readonly ResolvedStep[]
}

/**
 * @internal Steps that make the objective smallest within the limits, found by trying: every combination that is tried is built
 * and judged. Begins with what a preset does; where that misses a limit, with the model as it is, folded and its weights stored once. Ends
 * when none is better or `seconds` have gone by: what is being built by then is given up between two layers, what is being judged is judged to
 * its end. Until there is one that keeps the limits time does not count.
 */
export async function planSteps(
  given: {
    readonly before: ModelFigures
    readonly limits: Limits
    readonly evaluate: Evaluate
    readonly calibrated: boolean
    readonly container: 'onnx' | 'whittle'
    readonly objective: Objective
    readonly seconds: number
    readonly run: Run
  },
  build: (steps: readonly ResolvedStep[], run: Run) => Promise<Built>,
): Promise<Planned> {
  const { before, limits, evaluate, objective, run } = given
  const end = performance.now() + 1000 * given.seconds
  const timed = run.until(end)
  const tried = techniques(objective, given.calibrated, given.container)
  const applied = tried.map((t, axis) => ({ ...t, axis })).sort((a, b) => a.place - b.place)
  const attempts: Attempt[] = []
  const resolve = (step: Step): ResolvedStep => passOf(step).resolve(step, 'plan')
  const always = [resolve({ step: 'fold' }), resolve({ step: 'dedupe' })]

  let found: { readonly steps: readonly ResolvedStep[]; readonly cost: number; readonly built: Built; readonly after: ModelFigures; readonly attempt: Attempt } | undefined

  async function trial(levels: readonly number[]): Promise<Tried> {
    const steps = [...always, ...applied.flatMap(({ axis, levels: all }) => all[levels[axis]!]!.map(resolve))]
    const built = await build(steps, found ? timed : run).catch((error: unknown) => {
      if (isUnavailable(error) || isLate(error)) return undefined
      throw error
    })
    if (!built) return { met: false, cost: Infinity, steps }
    const after: ModelFigures = { ...built.size, ...(await measure(built.model.clone(), 'compressed', evaluate, limits, run)) }
    const attempt = attemptOf([], after, steps)
    attempts.push(attempt)
    // A limit on bytes is what the search works towards: no milder level is refused for it.
    const met = judge(limits, before, after).every((l) => l.met || l.name === objective)
    const cost = objective === 'bytes' ? after.bytes : (after.latency ?? Infinity)
    // The climb keeps the first of equals too.
    if (met && (!found || cost < found.cost)) found = { steps, cost, built, after, attempt }
    return { met, cost, steps }
  }

  const start = tried.map((t) => t.start ?? 0)
  await climb(tried.map((t) => t.levels.length), trial, () => performance.now() > end, start)
  if (!found) return { steps: [...always, ...tried[0]!.levels[1]!.map(resolve)], attempts }
  const { attempt, steps, built, after } = found
  return { steps, found: { built, after }, attempts: [...attempts.filter((a) => a !== attempt), attempt] }
}

/** Whether there was no time to build it. */
function isLate(error: unknown): boolean {
  const { code, parameter } = error as { code?: unknown; parameter?: unknown }
  return code === 'ERR_ABORTED' && parameter === 'seconds'
}

/** Whether a technique is not to be had for a model: sessions cannot run it, or its layers cannot lose as much. */
function isUnavailable(error: unknown): boolean {
  const { code, parameter } = error as { code?: unknown; parameter?: unknown }
  return code === 'ERR_UNSUPPORTED_OP' || (code === 'ERR_RANGE' && parameter === 'target') || (code === 'ERR_LIMIT' && parameter === 'averageBits')
}
