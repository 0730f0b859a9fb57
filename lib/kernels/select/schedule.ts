import { WhittleError } from '../../errors'
import { finite, integer, options } from '../../validate'

/** A gradual pruning schedule; see {@link agpSparsity}. */
export interface AgpSchedule {
  /** Sparsity before the schedule begins, 0 to 1; default 0. */
  readonly initial?: number
  /** Sparsity when it has ended, 0 to 1. */
  readonly final: number
  /** Step t₀ at which it begins, an integer ≥ 0; default 0. */
  readonly start?: number
  /** Number n of pruning events, an integer ≥ 1. */
  readonly steps: number
  /** Training steps Δt between two events, an integer ≥ 1; default 1. */
  readonly interval?: number
}

/**
 * The sparsity to reach at training step `t` under automated gradual pruning:
 * `s_t = s_f + (s_i − s_f)(1 − (t − t₀)/(nΔt))³` for t₀ ≤ t ≤ t₀ + nΔt, `s_i` before and `s_f` after. It is continuous
 * in t; prune at multiples of the interval.
 *
 * @param t a finite number
 * @returns a number between the initial and the final sparsity
 * @throws {WhittleError} `ERR_DTYPE`, `ERR_RANGE`
 * @see Zhu & Gupta 2017
 * @example
 * agpSparsity(50, { final: 0.9, steps: 100 }) // 0.7875
 */
export function agpSparsity(t: number, schedule: AgpSchedule): number {
  if (schedule === undefined) throw new WhittleError('ERR_DTYPE', 'schedule', 'schedule: expected an object, got undefined')
  const o = options(schedule, 'schedule', ['initial', 'final', 'start', 'steps', 'interval'])
  const at = finite(t, 't')
  const initial = o.initial === undefined ? 0 : finite(o.initial, 'schedule.initial', 0, 1)
  const final = finite(o.final, 'schedule.final', 0, 1)
  const start = o.start === undefined ? 0 : integer(o.start, 'schedule.start', 0)
  const span = integer(o.steps, 'schedule.steps', 1) * (o.interval === undefined ? 1 : integer(o.interval, 'schedule.interval', 1))
  if (at <= start) return initial
  if (at >= start + span) return final
  return final + (initial - final) * (1 - (at - start) / span) ** 3
}
