import { WhittleError } from '../errors'
import { Scratch } from './computed'
import { ease } from './paged'

/** What `onProgress` hears, a few times for each step. */
export interface Progress {
  readonly phase:
    | 'load'
    | 'fold'
    | 'equalize'
    | 'rotate'
    | 'slice'
    | 'prune'
    | 'factorize'
    | 'quantize'
    | 'codebook'
    | 'repair'
    | 'dedupe'
    | 'calibrate'
    | 'evaluate'
    | 'measure'
    | 'analyze'
    | 'sensitivity'
  /** Finished and all units of this phase. */
  readonly done: number
  readonly total: number
  /** The layer or file at work, `''` if none. */
  readonly detail: string
}

/** @internal What a pass needs to know of its caller. */
export class Run {
  readonly #onProgress: ((progress: Progress) => void) | undefined
  readonly signal: AbortSignal | undefined
  /** Memory for weights: all that the run does takes turns with it. */
  readonly scratch: Scratch
  readonly #end: number
  #last = 0

  /** `end`: by `performance.now()`, when there is no more time. */
  constructor(onProgress?: (progress: Progress) => void, signal?: AbortSignal, end = Infinity, scratch = new Scratch()) {
    this.#onProgress = onProgress
    this.signal = signal
    this.#end = end
    this.scratch = scratch
  }

  /** The same with a time at which it is as if the caller's signal fired. */
  until(end: number): Run {
    return new Run(this.#onProgress, this.signal, end, this.scratch)
  }

  /** Throws `ERR_ABORTED` if the caller's signal fired, or time is up: `parameter` tells which. */
  check(): void {
    if (this.signal?.aborted) throw new WhittleError('ERR_ABORTED', 'signal', 'signal: aborted', { cause: this.signal.reason })
    if (performance.now() > this.#end) throw new WhittleError('ERR_ABORTED', 'seconds', 'seconds: time is up')
  }

  /**
   * Tells how far the phase is, then lets other events (a signal's among them) in and checks the signal. Call it before
   * each unit of work and once when all is done. What `onProgress` throws goes to the caller of `compress`.
   */
  async tell(phase: Progress['phase'], done: number, total: number, detail = ''): Promise<void> {
    this.check()
    ease()
    this.#onProgress?.({ phase, done, total, detail })
    const now = performance.now()
    if (now - this.#last > 5) {
      await new Promise(setImmediate)
      this.#last = performance.now()
    }
    this.check()
  }
}
