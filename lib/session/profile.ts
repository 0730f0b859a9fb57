import type { PlanStep } from './types'

/** Time of one step of a plan, over all profiled runs. */
export interface ProfileStep extends PlanStep {
  /** runs that it took part in */
  readonly runs: number
  /** milliseconds of all those runs together */
  readonly ms: number
  /** part of the time of all steps, 0 … 1 */
  readonly share: number
}

/** What {@link Session.profile} answers. */
export interface ProfileReport {
  readonly runs: number
  /** milliseconds inside steps, all runs together */
  readonly ms: number
  /** in order of execution; steps of other plans (other input shapes) follow */
  readonly steps: readonly ProfileStep[]
  /** The same as events of Chrome's trace format: what `JSON.stringify` makes of it opens in chrome://tracing and Perfetto. */
  readonly trace: { readonly traceEvents: readonly TraceEvent[]; readonly displayTimeUnit: 'ms' }
}

/** One event of a trace, times in microseconds. */
export interface TraceEvent {
  readonly name: string
  readonly cat: string
  readonly ph: 'X'
  readonly ts: number
  readonly dur: number
  readonly pid: number
  readonly tid: number
  readonly args: { readonly node: string }
}

/** Events kept for a trace; later runs only add to the sums. */
const kEvents = 100_000

/** Collects the times of steps. */
export class Profiler {
  #runs = 0
  readonly #sums = new Map<readonly PlanStep[], { runs: number; ns: Float64Array }>()
  readonly #events: TraceEvent[] = []

  /** `times`: nanoseconds of each step; `start`: when the run began, in milliseconds of `performance.now()`. */
  record(steps: readonly PlanStep[], times: Float64Array, start: number): void {
    this.#runs++
    let sum = this.#sums.get(steps)
    if (!sum) this.#sums.set(steps, (sum = { runs: 0, ns: new Float64Array(steps.length) }))
    sum.runs++
    let at = start * 1000
    const room = this.#events.length + steps.length <= kEvents
    steps.forEach(({ op, node }, i) => {
      const ns = times[i] as number
      ;(sum as { ns: Float64Array }).ns[i] = ((sum as { ns: Float64Array }).ns[i] as number) + ns
      if (room) this.#events.push({ name: op, cat: 'step', ph: 'X', ts: at, dur: ns / 1000, pid: process.pid, tid: 0, args: { node } })
      at += ns / 1000
    })
  }

  report(): ProfileReport {
    let total = 0
    for (const { ns } of this.#sums.values()) for (const v of ns) total += v
    const steps: ProfileStep[] = []
    for (const [plan, { runs, ns }] of this.#sums)
      plan.forEach((step, i) => {
        const own = ns[i] as number
        steps.push({ ...step, runs, ms: own / 1e6, share: total > 0 ? own / total : 0 })
      })
    return { runs: this.#runs, ms: total / 1e6, steps, trace: { traceEvents: [...this.#events], displayTimeUnit: 'ms' } }
  }
}
