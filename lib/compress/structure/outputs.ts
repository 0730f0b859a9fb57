import type { Model } from '../../model/model'
import type { Tensor } from '../../tensor'
import { Calibration, type Inputs } from '../calibration'
import { numbersOf } from '../half/widen'
import type { Run } from '../progress'

type Answers = ReadonlyMap<string, Tensor>

/** @internal What a model answers on a few sets of inputs, to compare others with. */
export class Outputs {
  readonly #names: readonly string[]
  readonly #sets: Calibration
  readonly #wanted: readonly Answers[]
  readonly #run: Run

  private constructor(names: readonly string[], sets: Calibration, wanted: readonly Answers[], run: Run) {
    this.#names = names
    this.#sets = sets
    this.#wanted = wanted
    this.#run = run
  }

  static async of(model: Model, calibration: Calibration, run: Run, most = 8): Promise<Outputs> {
    const names = model.graph.outputs.map((o) => o.name).filter((name) => model.graph.producer(name))
    const sets: Inputs[] = []
    const wanted: Answers[] = []
    await calibration.each(model, names, run, (found, _, inputs) => (wanted.push(found), sets.push(inputs) < most), kQuiet)
    return new Outputs(names, Calibration.from(sets), wanted, run)
  }

  /** Σ (y − ŷ)² / Σ y² over all float outputs; infinite where something is not finite. */
  async noise(model: Model): Promise<number> {
    let [signal, noise] = [0, 0]
    const compare = (found: Answers, index: number): void => {
      for (const [name, y] of this.#wanted[index]!) {
        const [a, b] = [numbersOf(y), numbersOf(found.get(name)!)]
        if (!a || !b) continue
        for (let i = 0; i < a.length; i++) {
          const d = a[i]! - b[i]!
          signal += a[i]! * a[i]!
          noise += d * d
        }
      }
    }
    await this.#sets.each(model, this.#names, this.#run, compare, kQuiet)
    return Number.isFinite(noise) ? (noise === 0 ? 0 : noise / signal) : Infinity
  }
}

const kQuiet = { phase: 'none', inScratch: true } as const
