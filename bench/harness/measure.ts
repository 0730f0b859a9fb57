import { performance } from 'node:perf_hooks'
import type { Rival } from './types'

/** A side with its repetitions per sample and what was measured so far, in ms for one repetition. */
export interface Side {
  readonly run: (repeats: number) => unknown
  readonly selfTimed: boolean
  repeats: number
  first: number
  readonly samples: number[]
}

/** A sample shorter than this is measured with the clock's noise in it, so it is repeated. */
const kSampleMs = 2

export function sideOf(rival: Pick<Rival, 'run' | 'selfTimed'>): Side {
  if (!rival.run) throw new Error('a rival without run')
  return { run: rival.run, selfTimed: rival.selfTimed ?? false, repeats: 1, first: NaN, samples: [] }
}

/** One sample in ms for one repetition. */
export async function sample(side: Side): Promise<number> {
  const { run, repeats } = side
  if (side.selfTimed) return Number(await run(repeats))
  const start = performance.now()
  for (let i = 0; i < repeats; i++) {
    const pending = run(1)
    // Awaiting a value that is no promise would cost a turn of the event loop.
    if (typeof pending === 'object' && pending !== null && 'then' in pending) await (pending as Promise<unknown>)
  }
  return (performance.now() - start) / repeats
}

/** Warms a side up and chooses its repetitions. */
export async function warm(side: Side): Promise<void> {
  side.first = await sample(side)
  if (side.first > 500) return
  let once = await sample(side)
  for (let i = 0; i < 3; i++) {
    side.repeats = Math.max(1, Math.min(100000, Math.ceil(kSampleMs / Math.max(once, 1e-5))))
    if (once * side.repeats > 100) break
    once = await sample(side)
  }
}

export function median(values: readonly number[]): number {
  const s = [...values].sort((a, b) => a - b)
  const m = s.length >> 1
  return s.length % 2 ? (s[m] as number) : ((s[m - 1] as number) + (s[m] as number)) / 2
}

/** Samples every side in turn, `count` times, so that a slow second of the machine is shared by all. */
export async function interleave(sides: readonly Side[], count: number, pauseMs: number): Promise<void> {
  for (let i = 0; i < count; i++)
    for (const side of sides) {
      // Lets the other side's threads stop spinning.
      if (pauseMs > 0) await new Promise((done) => setTimeout(done, pauseMs))
      side.samples.push(await sample(side))
    }
}
