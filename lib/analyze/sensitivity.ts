import type { Calibration, Inputs } from '../compress/calibration'
import { Scratch } from '../compress/computed'
import { measure, type Evaluate } from '../compress/gate'
import type { Run } from '../compress/progress'
import { Runner } from '../compress/runner'
import { applyMask, importance, mask } from '../kernels/select'
import { Initializer } from '../model/graph'
import type { Model } from '../model/model'
import { weights, type Weight } from '../model/weights'
import type { LayerAnalysis, SensitivityPoint } from '../report/analysis'
import type { Tensor } from '../tensor'
import { fail, finite, integer, options as checkOptions } from '../validate'
import { asFloat32 } from './read'
import { roundedTo, toDecibels } from './weights'

/** Which changes of a layer `analyze` tries. */
export interface SensitivityOptions {
  /** Bits to quantize to, 2 to 8. Default `[8, 4]`. */
  readonly bits?: readonly number[]
  /** Shares to prune, above 0 and below 1. Default `[0.5, 0.8]`. */
  readonly sparsity?: readonly number[]
  /** At most so many sets of calibration inputs. Default 4. */
  readonly samples?: number
  /** The largest layers, at most so many. Default: all. */
  readonly layers?: number
}

/** @internal With every default. */
export type ResolvedSensitivity = Required<SensitivityOptions>

/** @internal */
export function resolveSensitivity(value: unknown, byDefault: boolean): ResolvedSensitivity | undefined {
  if (value === false || (value === undefined && !byDefault)) return undefined
  const what = 'options.sensitivity'
  const o = checkOptions(value === true ? undefined : value, what, ['bits', 'sparsity', 'samples', 'layers'])
  const list = (given: unknown, name: string, byDefault: readonly number[], check: (v: unknown, where: string) => number): readonly number[] => {
    if (given === undefined) return byDefault
    if (!Array.isArray(given)) fail('ERR_DTYPE', `${what}.${name}`, 'a list of numbers', given)
    return given.map((v, i) => check(v, `${what}.${name}[${i}]`))
  }
  return {
    bits: list(o.bits, 'bits', [8, 4], (v, where) => integer(v, where, 2, 8)),
    sparsity: list(o.sparsity, 'sparsity', [0.5, 0.8], (v, where) => finite(v, where, 0.01, 0.99)),
    samples: o.samples === undefined ? 4 : integer(o.samples, `${what}.samples`, 1),
    layers: o.layers === undefined ? Infinity : integer(o.layers, `${what}.layers`, 1),
  }
}

interface Means {
  readonly calibration: Calibration | undefined
  readonly evaluate: Evaluate | undefined
  readonly run: Run
  readonly threads: number | undefined
}

/** @internal One layer changed at a time, everything else as it is. */
export class Sensitivity {
  readonly #model: Model
  readonly #options: ResolvedSensitivity
  readonly #means: Means
  readonly #scratch = new Scratch()
  #samples: { inputs: Inputs; outputs: Record<string, Tensor> }[] = []

  constructor(model: Model, options: ResolvedSensitivity, means: Means) {
    this.#model = model
    this.#options = options
    this.#means = means
  }

  /** Points by the weight's name; `note` hears what was left out. */
  async all(layers: readonly LayerAnalysis[], note: (text: string) => void): Promise<Map<string, SensitivityPoint[]>> {
    const { run } = this.#means
    const found = new Map<string, SensitivityPoint[]>()
    const known = new Map(weights(this.#model.graph).map((w) => [w.initializer.name, w]))
    const float = layers.filter((l) => known.has(l.weight) && l.elements > 0)
    const chosen = [...float].sort((a, b) => b.elements - a.elements).slice(0, this.#options.layers)
    if (float.length < layers.length) note(`Sensitivity is told of float weights only: ${layers.length - float.length} are quantized already.`)
    if (chosen.length < float.length) note(`Sensitivity is told of the ${chosen.length} largest of ${float.length} layers.`)
    await this.#record()
    const changes = [
      ...this.#options.bits.map((bits) => ({ change: 'quantize' as const, bits })),
      ...this.#options.sparsity.map((sparsity) => ({ change: 'prune' as const, sparsity })),
    ]
    const total = chosen.length * changes.length
    for (const [i, layer] of chosen.entries()) {
      const points: SensitivityPoint[] = []
      for (const [j, change] of changes.entries()) {
        await run.tell('sensitivity', i * changes.length + j, total, layer.name)
        points.push({ ...change, ...(await this.#judge(known.get(layer.weight)!, change)) })
      }
      found.set(layer.weight, points)
    }
    await run.tell('sensitivity', total, total)
    return found
  }

  /** What the model answers as it is. */
  async #record(): Promise<void> {
    const { calibration, run } = this.#means
    if (!calibration) return
    const session = await this.#session(this.#model)
    try {
      for await (const inputs of calibration.inputs()) {
        run.check()
        this.#samples.push({ inputs, outputs: await session.run(inputs) })
        if (this.#samples.length >= this.#options.samples) break
      }
    } finally {
      session.dispose()
    }
  }

  #session(model: Model): Promise<Runner> {
    const { threads } = this.#means
    return Runner.create(model, [], threads === undefined ? {} : { threads })
  }

  async #judge(weight: Weight, change: { readonly bits: number } | { readonly sparsity: number }): Promise<Pick<SensitivityPoint, 'snr' | 'accuracy'>> {
    const { evaluate, run } = this.#means
    const changed = this.#model.clone()
    const home = weights(changed.graph).find((w) => w.initializer.name === weight.initializer.name)!
    const { initializer, graph } = home
    const values = asFloat32(this.#scratch.read(initializer))
    const data = 'bits' in change ? roundedTo(values, weight.view, change.bits, this.#scratch) : pruned(values, change.sparsity)
    // A graph of doubles takes no float32.
    if (initializer.type !== 'float32') return {}
    const own = data.slice()
    graph.setInitializer(initializer.name, Initializer.from(initializer.name, { type: 'float32', dims: initializer.dims, data: own }))
    const snr = this.#samples.length ? { snr: await this.#snr(changed) } : {}
    const { accuracy } = evaluate ? await measure(changed, 'compressed', evaluate, {}, run) : {}
    return { ...snr, ...(accuracy === undefined ? {} : { accuracy }) }
  }

  async #snr(changed: Model): Promise<number | null> {
    const session = await this.#session(changed)
    let [signal, noise] = [0, 0]
    try {
      for (const { inputs, outputs } of this.#samples) {
        const { signal: abort } = this.#means.run
        const got = await session.run(inputs, abort ? { signal: abort } : {})
        for (const [name, want] of Object.entries(outputs)) {
          if (!/float/.test(want.type)) continue
          const [x, y] = [asFloat32(want), asFloat32(got[name]!)]
          for (let i = 0; i < x.length; i++) {
            signal += x[i]! * x[i]!
            noise += (x[i]! - (y[i] ?? 0)) ** 2
          }
        }
      }
    } finally {
      session.dispose()
    }
    return toDecibels(signal, noise)
  }
}

/** The share of smallest magnitude set to zero. */
function pruned(data: Float32Array, sparsity: number): Float32Array {
  const tensor = { type: 'float32', dims: [data.length], data } as const
  return applyMask(tensor, mask(importance(tensor), { sparsity })).data
}
