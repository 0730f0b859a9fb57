import type { Model } from '../../model/model'
import type { Weight } from '../../model/weights'
import { moments, type LayerMoments } from '../moments'
import type { Context } from '../passes/pass'

/** Bytes of second moments that are held from one reading to the next. */
const kHeld = 256e6

/** @internal Second moments of the inputs of float32 weights, read once where they may be held. */
export class Inspected {
  readonly #model: Model
  readonly #weights: readonly Weight[]
  readonly #context: Context
  #held: LayerMoments[] | undefined

  constructor(model: Model, chosen: readonly Weight[], wanted: boolean, context: Context) {
    this.#model = model
    this.#context = context
    this.#weights = wanted && context.calibration ? chosen.filter((w) => w.initializer.type === 'float32') : []
  }

  async *each(): AsyncGenerator<LayerMoments, void, void> {
    if (this.#held) return yield* this.#held
    const { calibration, run } = this.#context
    if (this.#weights.length === 0) return
    const held: LayerMoments[] = []
    const known = new Set<unknown>()
    let bytes = 0
    for await (const seen of moments(this.#model, this.#weights, calibration!, { run })) {
      // Weights that read the same inputs share their moments.
      if (seen.moments && !known.has(seen.moments)) {
        known.add(seen.moments)
        bytes += seen.moments.hessian.byteLength
      }
      if (bytes > kHeld) held.length = 0
      else held.push(seen)
      yield seen
    }
    if (bytes <= kHeld) this.#held = held
  }
}
