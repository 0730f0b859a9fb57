import { WhittleError } from '../errors'
import type { Model } from '../model/model'
import { bytes, milliseconds, short } from '../report/format'
import type { Attempt, LimitReport, ModelFigures } from '../report/types'
import { describe } from '../validate'
import type { ResolvedStep } from './passes'
import type { Run } from './progress'
import type { Limits } from './recipe'

/** What `evaluate` answers: a bare number is the accuracy. Higher accuracy is better; latency is in milliseconds. */
export type Evaluation = number | { readonly accuracy?: number; readonly latency?: number }

/**
 * Judges a model. Called with the original (only where a limit needs it for comparison, or `evaluate` is given without
 * limits) and with the result. What it throws reaches the caller of `compress` unchanged.
 */
export type Evaluate = (
  model: Model,
  context: { readonly phase: 'original' | 'compressed'; readonly signal: AbortSignal | undefined },
) => Evaluation | Promise<Evaluation>

/** @internal Refuses limits that nothing could check, before any work is done. */
export function checkMeasurable(limits: Limits, evaluate: unknown): void {
  for (const name of ['accuracyDrop', 'latency'] as const)
    if (limits[name] !== undefined && evaluate === undefined)
      throw new WhittleError(
        'ERR_RANGE',
        `limits.${name}`,
        `limits.${name}: nothing can measure it: give an evaluate function that returns ${name === 'latency' ? '{ accuracy, latency }' : 'the accuracy'}`,
      )
}

/** @internal Calls `evaluate` and checks what it answers against what the limits need. */
export async function measure(
  model: Model,
  phase: 'original' | 'compressed',
  evaluate: Evaluate,
  limits: Limits,
  run: Run,
): Promise<{ accuracy?: number; latency?: number }> {
  await run.tell('evaluate', phase === 'original' ? 0 : 1, 2, phase)
  const answer: unknown = await evaluate(model, { phase, signal: run.signal })
  await run.tell('evaluate', phase === 'original' ? 1 : 2, 2, phase)
  const given = typeof answer === 'number' ? { accuracy: answer } : answer
  if (given === null || typeof given !== 'object') throw wrong('a number or { accuracy, latency }', answer)
  const { accuracy, latency } = given as { accuracy?: unknown; latency?: unknown }
  return {
    ...figure('accuracy', accuracy, limits.accuracyDrop !== undefined),
    ...figure('latency', latency, limits.latency !== undefined),
  }
}

function figure(name: 'accuracy' | 'latency', value: unknown, needed: boolean): object {
  if (value === undefined && !needed) return {}
  if (typeof value !== 'number' || !Number.isFinite(value) || (name === 'latency' && value < 0))
    throw wrong(`a finite ${name}${needed ? ' (a limit needs it)' : ''}`, value)
  return { [name]: value }
}

function wrong(expected: string, got: unknown): WhittleError {
  return new WhittleError('ERR_RANGE', 'evaluate', `evaluate: expected it to return ${expected}, got ${describe(got)}`)
}

/** @internal Every limit with what was reached. */
export function judge(limits: Limits, before: ModelFigures, after: ModelFigures): LimitReport[] {
  const found: LimitReport[] = []
  const add = (name: LimitReport['name'], actual: number | undefined): void => {
    const limit = limits[name]
    // A drop that is a limit's decimal but for the last bit of a subtraction meets it.
    if (limit !== undefined && actual !== undefined)
      found.push({ name, limit, actual, met: actual <= limit + 1e-12 * Math.max(1, Math.abs(limit)) })
  }
  add(
    'accuracyDrop',
    before.accuracy === undefined || after.accuracy === undefined ? undefined : before.accuracy - after.accuracy,
  )
  add('bytes', after.bytes)
  add('latency', after.latency)
  return found
}

/** @internal A judged model as the report tells it. */
export function attemptOf(spared: readonly string[], { bytes, accuracy, latency }: ModelFigures, steps?: readonly ResolvedStep[]): Attempt {
  return {
    spared,
    ...(steps ? { steps } : {}),
    bytes,
    ...(accuracy === undefined ? {} : { accuracy }),
    ...(latency === undefined ? {} : { latency }),
  }
}

/** @internal Throws `ERR_LIMIT` and says all that was missed, and under what `circumstances`. */
export function enforce(limits: readonly LimitReport[], circumstances = ''): never {
  const missed = limits.filter((l) => !l.met)
  const text = missed.map(({ name, limit, actual }) => {
    const show = name === 'bytes' ? bytes : name === 'latency' ? milliseconds : short
    // Where rounding would make both look the same, say the plain numbers.
    const [a, b] = show(actual) === show(limit) ? [String(actual), String(limit)] : [show(actual), show(limit)]
    return `${name} is ${a}, the limit is ${b}`
  })
  throw new WhittleError('ERR_LIMIT', `limits.${missed[0]!.name}`, `limits: ${text.join('; ')}${circumstances && ` ${circumstances}`}; nothing was written`)
}
