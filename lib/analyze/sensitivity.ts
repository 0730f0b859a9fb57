import { Calibration, type EachOptions, type Inputs } from '../compress/calibration'
import type { Scratch } from '../compress/computed'
import { measure, type Evaluate } from '../compress/gate'
import type { Run } from '../compress/progress'
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
  readonly #samples: { readonly inputs: Inputs; readonly outputs: ReadonlyMap<string, Tensor> }[] = []

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
    const keep = (outputs: ReadonlyMap<string, Tensor>, _: number, inputs: Inputs): boolean =>
      this.#samples.push({ inputs, outputs }) < this.#options.samples
    await calibration.each(this.#model, this.#outputs, run, keep, this.#settings)
  }

  /** Of float values, such as a node makes. */
  get #outputs(): string[] {
    const { graph } = this.#model
    return graph.outputs.map((o) => o.name).filter((name) => graph.producer(name))
  }

  get #settings(): EachOptions {
    const { threads } = this.#means
    return { phase: 'none', inScratch: true, ...(threads === undefined ? {} : { threads }) }
  }

  async #judge(weight: Weight, change: { readonly bits: number } | { readonly sparsity: number }): Promise<Pick<SensitivityPoint, 'snr' | 'accuracy'>> {
    const { evaluate, run } = this.#means
    const changed = this.#model.clone()
    const home = weights(changed.graph).find((w) => w.initializer.name === weight.initializer.name)!
    const { initializer, graph } = home
    const { scratch } = run
    const values = asFloat32(scratch.read(initializer))
    const data = 'bits' in change ? roundedTo(values, weight.view, change.bits, scratch) : pruned(values, change.sparsity, scratch)
    // A graph of doubles takes no float32.
    if (initializer.type !== 'float32') return {}
    // A caller may hold on to the model; sessions here are gone before the scratch is used again.
    const own = evaluate ? data.slice() : data
    graph.setInitializer(initializer.name, Initializer.from(initializer.name, { type: 'float32', dims: initializer.dims, data: own }))
    const snr = this.#samples.length ? { snr: await this.#snr(changed) } : {}
    const { accuracy } = evaluate ? await measure(changed, 'compressed', evaluate, {}, run) : {}
    return { ...snr, ...(accuracy === undefined ? {} : { accuracy }) }
  }

  async #snr(changed: Model): Promise<number | null> {
    let [signal, noise] = [0, 0]
    const compare = (got: ReadonlyMap<string, Tensor>, index: number): void => {
      for (const [name, want] of this.#samples[index]!.outputs) {
        if (!/float/.test(want.type)) continue
        const [x, y] = [asFloat32(want), asFloat32(got.get(name)!)]
        for (let i = 0; i < x.length; i++) {
          signal += x[i]! * x[i]!
          noise += (x[i]! - (y[i] ?? 0)) ** 2
        }
      }
    }
    await Calibration.from(this.#samples.map((s) => s.inputs)).each(changed, this.#outputs, this.#means.run, compare, this.#settings)
    return toDecibels(signal, noise)
  }
}

/** The share of smallest magnitude set to zero. */
function pruned(data: Float32Array, sparsity: number, scratch: Scratch): Float32Array {
  const tensor = { type: 'float32', dims: [data.length], data } as const
  const scores = importance(tensor, { out: scratch.floats('rounded', data.length) })
  const kept = mask(scores, { sparsity, out: scratch.bytes('mask', data.length) })
  return applyMask(tensor, kept, { out: scratch.floats('rounded', data.length) }).data
}
