import { WhittleError } from '../errors'
import type { Model } from '../model/model'
import { weights } from '../model/weights'
import type { LayerBlame, LayerReport, StepReport } from '../report/types'
import type { Tensor } from '../tensor'
import type { Calibration } from './calibration'
import { Pieces, Values, type Kept } from './pieces'
import type { Run } from './progress'
import { Runner } from './runner'

/** Sets of inputs that are enough to rank layers by. */
const kSets = 8

/** Bytes of weights of both models that sessions may hold at once. */
const kBoth = 32e6
const bytesOf = ({ graph }: Model): number => [...graph.initializers.values()].reduce((sum, w) => sum + w.byteLength, 0)

/** Signal and noise of one value, summed over sets. */
class Noise {
  signal = 0
  noise = 0

  add(y: Tensor, z: Tensor): void {
    if (y.type !== 'float32' || z.type !== 'float32' || y.data.length !== z.data.length) return
    const a = y.data as Float32Array
    const b = z.data as Float32Array
    for (let i = 0; i < a.length; i++) {
      const d = a[i]! - b[i]!
      this.signal += a[i]! * a[i]!
      this.noise += d * d
    }
  }

  /** Noise over signal; `undefined` where nothing was seen. */
  get ratio(): number | undefined {
    return this.signal > 0 && Number.isFinite(this.noise) ? this.noise / this.signal : undefined
  }
}

const decibels = (ratio: number): number | null => (ratio > 0 ? -10 * Math.log10(ratio) : null)

/**
 * @internal The layers that steps changed, worst first: by the noise that each adds to what comes in, measured on calibration
 * inputs where there are any and the value still exists, else by the relative error of its weight.
 */
export async function blameOf(
  original: Model,
  { model, steps }: { readonly model: Model; readonly steps: readonly StepReport[] },
  calibration: Calibration | undefined,
  run: Run,
): Promise<LayerBlame[]> {
  const changed = new Map<string, LayerReport>()
  for (const layer of steps.flatMap((s) => s.layers)) {
    // A rotation is no noise.
    if (layer.action === 'kept' || layer.action === 'shared' || layer.action === 'rotated') continue
    const earlier = changed.get(layer.weight)
    changed.set(layer.weight, { ...layer, error: Math.hypot(earlier?.error ?? 0, layer.error ?? 0) })
  }
  if (changed.size === 0) return []
  const places = new Map(
    weights(original.graph)
      .filter((w) => changed.has(w.initializer.name) && w.node.graph === original.graph)
      .map((w) => [w.initializer.name, { output: behind(original, model, w.node.outputs[0] ?? ''), input: before(original, model, w.node.inputs[0] ?? '') }]),
  )
  const noises = calibration ? await compare(original, model, places.values(), calibration, run) : new Map<string, Noise>()
  const ranked = [...changed.values()].map((layer) => {
    const place = places.get(layer.weight)
    const out = place && noises.get(place.output)?.ratio
    const into = (place && noises.get(place.input)?.ratio) ?? 0
    const all = out ?? (layer.error ?? 0) ** 2
    const own = out === undefined ? all : Math.max(out - into, 0)
    return { own, all, blame: { layer: layer.name, weight: layer.weight, snr: decibels(all), ownSnr: decibels(own), spared: false } }
  })
  return ranked.sort((a, b) => b.own - a.own || b.all - a.all).map((r) => r.blame)
}

const inBoth = (original: Model, model: Model, name: string): boolean => !!original.graph.producer(name) && !!model.graph.producer(name)

/**
 * The first value from `name` on that both models make, following those that alone read it: a layer that took a batch normalization
 * or a scale in makes what that made. `name` itself where there is none.
 */
function behind(original: Model, model: Model, name: string): string {
  for (let value = name; value && !inBoth(original, model, value); ) {
    const [reader, ...more] = original.graph.users(value)
    if (!reader || more.length > 0 || original.graph.isOutput(value) || reader.subgraphs().length > 0) return name
    value = reader.outputs[0] ?? ''
    if (inBoth(original, model, value)) return value
  }
  return name
}

/** The last value up to `name` that both models make, following first inputs. `name` itself where there is none. */
function before(original: Model, model: Model, name: string): string {
  for (let value = name; value; value = original.graph.producer(value)?.inputs[0] ?? '') if (inBoth(original, model, value)) return value
  return name
}

/** Noise of the values of `places` that both models have. */
async function compare(
  original: Model,
  model: Model,
  places: Iterable<{ readonly output: string; readonly input: string }>,
  calibration: Calibration,
  run: Run,
): Promise<Map<string, Noise>> {
  const noises = new Map<string, Noise>()
  for (const { output, input } of places)
    for (const name of [output, input])
      if (name && original.graph.producer(name) && model.graph.producer(name)) noises.set(name, new Noise())
  const fetch = [...noises.keys()]
  if (fetch.length === 0) return noises
  let one: Runner | undefined
  let other: Runner | undefined
  try {
    if (bytesOf(original) + bytesOf(model) > kBoth || (Pieces.of(original, fetch) ?? Pieces.of(model, fetch))) {
      await inTurn(original, model, noises, calibration, run)
      return noises
    }
    one = await Runner.create(original, fetch)
    other = await Runner.create(model, fetch)
    let sets = 0
    for await (const inputs of calibration.inputs()) {
      await run.tell('evaluate', sets, kSets, 'layers')
      const [y, z] = [await one.run(inputs, { fetch }), await other.run(inputs, { fetch })]
      for (const name of fetch) noises.get(name)!.add(y[name]!, z[name]!)
      if (++sets === kSets) break
    }
  } catch (error) {
    // A model that sessions cannot run is ranked by its weights.
    if (!(error instanceof WhittleError) || error.code !== 'ERR_UNSUPPORTED_OP') throw error
    noises.clear()
  } finally {
    one?.dispose()
    other?.dispose()
  }
  return noises
}

/** The same for models that no session should hold: first all of one, then the other. */
async function inTurn(original: Model, model: Model, noises: ReadonlyMap<string, Noise>, calibration: Calibration, run: Run): Promise<void> {
  const fetch = [...noises.keys()]
  const values = new Values()
  const sets: Map<string, Kept>[] = []
  try {
    await calibration.each(original, fetch, run, (found) => sets.push(new Map([...found].map(([n, v]) => [n, values.put(v)]))) < kSets, { phase: 'evaluate', inScratch: true })
    await calibration.each(
      model,
      fetch,
      run,
      (found, index) => {
        const kept = sets[index]!
        for (const [name, noise] of noises) noise.add(values.get(kept.get(name)!) as Tensor, found.get(name)!)
        return index + 1 < sets.length
      },
      { phase: 'evaluate', inScratch: true },
    )
  } finally {
    values.close()
  }
}
