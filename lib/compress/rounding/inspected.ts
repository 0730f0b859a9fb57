import type { Model } from '../../model/model'
import type { Weight } from '../../model/weights'
import { WhittleError } from '../../errors'
import { Calibration, type Inputs } from '../calibration'
import { kInMemory, kMapped, moments, type LayerMoments, type Moments } from '../moments'
import { paged, touched } from '../paged'
import type { Context } from '../passes/pass'

/** @internal Second moments of a layer's inputs, of disjoint parts of them too where they were asked for. */
export interface Seen extends LayerMoments {
  readonly folds?: readonly Moments[]
}

/** Bytes of second moments that are held from one reading to the next. */
const kHeld = 256e6

/** @internal Second moments of the inputs of float32 weights, read once where they may be held. */
export class Inspected {
  readonly #model: Model
  readonly #weights: readonly Weight[]
  readonly #context: Context
  #held: Seen[] | undefined
  readonly #folds: number

  /** `folds`: how many parts of the inputs have moments of their own; 0 for none. */
  constructor(model: Model, chosen: readonly Weight[], wanted: boolean, context: Context, folds = 0) {
    this.#folds = folds
    this.#model = model
    this.#context = context
    this.#weights = wanted && context.calibration ? chosen.filter((w) => w.initializer.type === 'float32') : []
  }

  async *each(): AsyncGenerator<Seen, void, void> {
    if (this.#held) return yield* this.#held
    const { calibration, run } = this.#context
    if (this.#weights.length === 0) return
    if (this.#folds > 0) return yield* folded(this.#model, this.#weights, calibration!, run, this.#folds)
    const held: Seen[] = []
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

/** Moments of every `count`-th set of inputs, from each of the first ones on, and of all. */
async function* folded(model: Model, weights: readonly Weight[], calibration: Calibration, run: Context['run'], folds: number): AsyncGenerator<Seen, void, void> {
  let sets = 0
  for await (const _ of calibration.inputs()) if (++sets === folds) break
  const count = Math.min(sets, folds)
  if (count < 2)
    throw new WhittleError('ERR_RANGE', 'calibration', "calibration: expected at least 2 sets of inputs for method 'prox', which chooses λ on those that it leaves out, got 1")
  const part = (fold: number): Calibration =>
    Calibration.from(async function* (): AsyncGenerator<Inputs, void, void> {
      let index = 0
      for await (const inputs of calibration.inputs()) if (index++ % count === fold) yield inputs
    })
  const readers = Array.from({ length: count }, (_, i) => moments(model, weights, part(i), { run, budget: kHeld / count, inMemory: kInMemory / count }))
  const known = new Map<Moments, Seen>()
  try {
    for (const weight of weights) {
      const found: LayerMoments[] = []
      for (const reader of readers) found.push((await reader.next()).value as LayerMoments)
      const [first] = found as [LayerMoments]
      const all = found.flatMap((f) => f.moments ?? [])
      if (all.length < count) {
        yield { weight, layout: first.layout, moments: undefined, reason: first.reason ?? 'some sets gave it no inputs' }
        continue
      }
      // Weights that read the same inputs come with the same moments.
      const same = known.get(all[0]!)
      known.clear()
      const seen: Seen = same ? { ...same, weight, layout: first.layout } : { weight, layout: first.layout, moments: sumOf(all), folds: all }
      known.set(all[0]!, seen)
      yield seen
    }
  } finally {
    for (const reader of readers) await reader.return()
  }
}

/** Entries that are added between two calls of {@link touched}. */
const kStretch = 2 ** 16

function sumOf(parts: readonly Moments[]): Moments {
  const [first] = parts as [Moments]
  const hessian = paged('float64', first.hessian.length, 'calibration', kMapped) as Float64Array
  const sum = first.sum.slice()
  let [rows, sampled] = [first.rows, first.sampled]
  for (const p of parts) {
    for (let i = 0; i < hessian.length;) {
      for (const end = Math.min(hessian.length, i + kStretch); i < end; i++) hessian[i]! += p.hessian[i]!
      touched(16 * kStretch)
    }
    if (p === first) continue
    for (let i = 0; i < sum.length; i++) sum[i]! += p.sum[i]!
    rows += p.rows
    sampled += p.sampled
  }
  return { ...first, rows, sampled, hessian, sum }
}
