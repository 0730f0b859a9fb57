import type { Model } from '../../model/model'
import type { Tensor } from '../../tensor'
import type { Calibration, Inputs } from '../calibration'
import { numbersOf } from '../half/widen'
import type { Run } from '../progress'
import { Runner } from '../runner'

/** @internal What a model answers on a few sets of inputs, to compare others with. */
export class Outputs {
  readonly #sets: readonly { readonly inputs: Inputs; readonly wanted: Readonly<Record<string, Tensor>> }[]
  readonly #run: Run

  private constructor(sets: Outputs['sets'], run: Run) {
    this.#sets = sets
    this.#run = run
  }

  get sets(): readonly { readonly inputs: Inputs; readonly wanted: Readonly<Record<string, Tensor>> }[] {
    return this.#sets
  }

  static async of(model: Model, calibration: Calibration, run: Run, most = 8): Promise<Outputs> {
    const session = await Runner.create(model)
    const sets: { inputs: Inputs; wanted: Record<string, Tensor> }[] = []
    try {
      for await (const inputs of calibration.inputs()) {
        run.check()
        sets.push({ inputs, wanted: await session.run(inputs) })
        if (sets.length === most) break
      }
    } finally {
      session.dispose()
    }
    return new Outputs(sets, run)
  }

  /** Σ (y − ŷ)² / Σ y² over all float outputs; infinite where something is not finite. */
  async noise(model: Model): Promise<number> {
    const session = await Runner.create(model)
    let [signal, noise] = [0, 0]
    try {
      for (const { inputs, wanted } of this.#sets) {
        this.#run.check()
        const found = await session.run(inputs)
        for (const [name, y] of Object.entries(wanted)) {
          const [a, b] = [numbersOf(y), numbersOf(found[name]!)]
          if (!a || !b) continue
          for (let i = 0; i < a.length; i++) {
            const d = a[i]! - b[i]!
            signal += a[i]! * a[i]!
            noise += d * d
          }
        }
      }
    } finally {
      session.dispose()
    }
    return Number.isFinite(noise) ? (noise === 0 ? 0 : noise / signal) : Infinity
  }
}
