import type { Model } from '../model/model'
import type { Attempt, LayerBlame, LimitReport, ModelFigures, StepReport } from '../report/types'
import { blameOf } from './blame'
import type { Calibration } from './calibration'
import { attemptOf, enforce, judge, measure, type Evaluate } from './gate'
import type { Run } from './progress'
import type { Limits } from './recipe'

/** @internal A compressed model, not judged yet. */
export interface Built {
  readonly model: Model
  readonly steps: readonly StepReport[]
  readonly size: { readonly bytes: number; readonly parameters: number }
}

/** @internal The model that met every limit. */
export interface Settled extends Omit<Built, 'size'> {
  readonly after: ModelFigures
  readonly limits: readonly LimitReport[]
  readonly blame: readonly LayerBlame[]
  readonly attempts: readonly Attempt[]
}

interface Judged extends Built {
  readonly after: ModelFigures
  readonly limits: readonly LimitReport[]
}

/**
 * @internal Builds and judges; where accuracy misses its limit, builds again with the worst layers left as they were: 1, 2, 4, …
 * of them, then bisects for the fewest that do. A limit that sparing layers cannot bring nearer (bytes, latency) ends it.
 *
 * @throws `ERR_LIMIT` with what the last try reached
 */
export async function settle(
  given: {
    readonly original: Model
    readonly before: ModelFigures
    readonly limits: Limits
    readonly evaluate: Evaluate | undefined
    readonly calibration: Calibration | undefined
    readonly run: Run
    /** What no sparing comes to, where it was built and judged before; its attempt is told already. */
    readonly found?: { readonly built: Built; readonly after: ModelFigures } | undefined
  },
  build: (spared: ReadonlySet<string>) => Promise<Built>,
): Promise<Settled> {
  const { original, before, limits, evaluate, calibration, run, found: known } = given
  const attempts: Attempt[] = []

  async function attempt(spared: readonly string[]): Promise<Judged> {
    const built = await build(new Set(spared))
    const { size } = built
    // Before anything is measured: a model that is too large needs no judge.
    const sized = judge(limits.bytes === undefined ? {} : { bytes: limits.bytes }, before, size)
    if (sized.some((l) => !l.met)) {
      if (evaluate) attempts.push(attemptOf(spared, size))
      return { ...built, after: size, limits: sized }
    }
    const after = { ...size, ...(evaluate ? await measure(built.model.clone(), 'compressed', evaluate, limits, run) : {}) }
    if (evaluate) attempts.push(attemptOf(spared, after))
    return { ...built, after, limits: judge(limits, before, after) }
  }

  const first = known ? { ...known.built, after: known.after, limits: judge(limits, before, known.after) } : await attempt([])
  const missed = missedBy(first)
  const blame = missed.every((name) => name === 'accuracyDrop') ? await blameOf(original, first, calibration, run) : []
  if (missed.length === 0) return { ...first, blame, attempts }
  const worst = blame.map((b) => b.weight)
  if (missed.some((name) => name !== 'accuracyDrop') || worst.length === 0) enforce(first.limits)

  let low = 0
  let found: Judged | undefined
  let high = 1
  let last = first
  for (; ; high = Math.min(2 * high, worst.length)) {
    last = await attempt(worst.slice(0, high))
    if (missedBy(last).length === 0) found = last
    if (found || high === worst.length || missedBy(last).some((name) => name !== 'accuracyDrop')) break
    low = high
  }
  if (!found) return enforce(last.limits, `with ${high} of ${worst.length} layers left as they were`)
  while (high - low > 1) {
    const middle = (low + high) >> 1
    const tried = await attempt(worst.slice(0, middle))
    if (missedBy(tried).length === 0) {
      found = tried
      high = middle
    } else low = middle
  }
  // The one that was taken is told last.
  const taken = attempts.findIndex((a) => a.spared.length === high)
  attempts.push(...attempts.splice(taken, 1))
  return { ...found, blame: withCosts(blame, worst.slice(0, high), attempts), attempts }
}

const missedBy = ({ limits }: Judged): string[] => limits.filter((l) => !l.met).map((l) => l.name)

/** What sparing each layer regained: of the smallest try that held it against the largest that did not, in equal shares. */
function withCosts(blame: readonly LayerBlame[], spared: readonly string[], attempts: readonly Attempt[]): LayerBlame[] {
  const tried = attempts.filter((a) => a.accuracy !== undefined).sort((a, b) => a.spared.length - b.spared.length)
  return blame.map((b) => {
    const at = tried.findIndex((a) => a.spared.includes(b.weight))
    if (at < 1) return { ...b, spared: spared.includes(b.weight) }
    const [less, more] = [tried[at - 1]!, tried[at]!]
    const accuracyCost = (more.accuracy! - less.accuracy!) / (more.spared.length - less.spared.length)
    return { ...b, spared: spared.includes(b.weight), accuracyCost }
  })
}
