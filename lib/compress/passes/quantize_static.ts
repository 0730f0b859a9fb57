import { raiseIrVersion } from '../../model/fold'
import type { Model } from '../../model/model'
import { raiseOpset } from '../../model/opset'
import { weights } from '../../model/weights'
import type { ObserverMethod } from '../../kernels/observer'
import type { LayerReport } from '../../report/types'
import { count } from '../../report/format'
import { boolean, fail, finite, integer, oneOf } from '../../validate'
import { correctBias, kBiasSets } from '../static/bias'
import { codedLayers, type CodedLayer } from '../static/layers'
import { betweenLayers, closeLayers, codeBiases, sharedCodes } from '../static/operators'
import { withoutTraces } from '../static/dynamic'
import { insertPairs, residuals } from '../static/residuals'
import { observeRanges, type ActivationType, type Code } from '../static/ranges'
import { noiseOf, tooNoisy } from '../static/sensitivity'
import { chooseLayers, type Context, type Pass, type PassResult } from './pass'
import type { QuantizeStep, ResolvedQuantize } from './quantize'

/** Which runtime a file with 8-bit activations is laid out for; see {@link StaticQuantizeStep.target}. */
export type Target = 'session' | 'onnxruntime' | 'onnxruntime-web'

/**
 * Static 8-bit quantization: weights as the other fields of the step say, and the inputs of convolutions and products as codes of
 * 8 bits, whose ranges come from running the model over the calibration inputs.
 *
 * Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018.
 */
export interface StaticQuantizeStep extends QuantizeStep {
  readonly activations: 'static'
  /**
   * Where the file is to run fastest. Every target runs everywhere with the same results but for rounding.
   *
   * - `'session'` (default): codes for the inputs of layers and for what is added to convolutions (residuals), weights `'folded'`.
   *   {@link Session} computes such layers in integers and what lies between them in the same pass; onnxruntime sees float layers with
   *   constant weights
   * - `'onnxruntime'`: codes for outputs too, weights and biases as DequantizeLinear, one range along pooling and reshapes, so that
   *   onnxruntime makes QLinearConv of it; pays where layers follow each other with nothing but Relu between
   * - `'onnxruntime-web'`: the same with weights of 7 bits: its kernels add pairs of products in 16 bits
   */
  readonly target?: Target
  /** Weights of 7 bits, for runtimes that add pairs of products in 16 bits (AVX2 without VNNI). Default by target. */
  readonly reduceRange?: boolean
  /** Codes of activations: `'uint8'` (default) with a zero point, or `'int8'` around 0, which onnxruntime runs far slower on x86. */
  readonly activationType?: ActivationType
  /** How ranges follow from what calibration showed; see `Observer`. Default `'percentile'`. */
  readonly ranges?: ObserverMethod
  /** Percent of values that a range holds, for `'percentile'`. Default 99.99. */
  readonly percentile?: number
  /** Convolutions with fewer input channels keep float inputs: the first one reads an image that has no spare bits. Default 8. */
  readonly minChannels?: number
  /**
   * Signal-to-noise ratio in dB that the codes of activations may bring the model's outputs down to, before correction. Each value
   * is tried alone on calibration inputs; those that bring the sum below stay float, the worst first, with weights quantized all the
   * same. 0 (default) tries nothing and leaves nothing float.
   */
  readonly snr?: number
  /**
   * Corrects biases and scales of channels by what the quantized layers are wrong on average, where that is less wrong on calibration
   * inputs it was not estimated on; see `repair`. Default true; what a `repair` step behind this one does anyway.
   */
  readonly repair?: boolean
}

/** @internal */
export type ResolvedStatic = ResolvedQuantize &
  Required<Pick<StaticQuantizeStep, 'activations' | 'target' | 'reduceRange' | 'activationType' | 'ranges' | 'percentile' | 'minChannels' | 'snr' | 'repair'>>

/** @internal Beside those of weights. */
export const kStaticKeys = ['activations', 'target', 'reduceRange', 'activationType', 'ranges', 'percentile', 'minChannels', 'snr', 'repair'] as const

const split = (value: object): { own: Record<string, unknown>; rest: object } => {
  const entries = Object.entries(value)
  const isOwn = ([key]: [string, unknown]): boolean => (kStaticKeys as readonly string[]).includes(key)
  return { own: Object.fromEntries(entries.filter(isOwn)), rest: Object.fromEntries(entries.filter((e) => !isOwn(e))) }
}

/** @internal */
export const isStatic = (value: object): value is ResolvedStatic => (value as { activations?: unknown }).activations === 'static'

/** @internal */
export function resolveStatic(pass: Pass<ResolvedQuantize>, value: object, parameter: string): ResolvedStatic {
  const { own, rest } = split(value)
  const target = own.target === undefined ? 'session' : oneOf(own.target, `${parameter}.target`, ['session', 'onnxruntime', 'onnxruntime-web'] as const)
  const reduceRange = own.reduceRange === undefined ? target === 'onnxruntime-web' : boolean(own.reduceRange, `${parameter}.reduceRange`)
  const storage = target === 'session' ? 'folded' : 'qdq'
  const weight = pass.resolve({ storage, ...(reduceRange ? { bits: 7 } : {}), ...rest }, parameter)
  if (weight.format !== 'int' || typeof weight.bits !== 'number' || weight.bits < 5 || weight.blockSize !== 0)
    fail('ERR_RANGE', `${parameter}.activations`, "another value beside weights of less than 5 bits, in blocks or in other formats than 'int'", 'static')
  if (reduceRange && Number(weight.bits) > 7) fail('ERR_RANGE', `${parameter}.bits`, 'at most 7 with reduceRange', weight.bits)
  const text = <T extends string>(key: string, fallback: T, all: readonly T[]): T => (own[key] === undefined ? fallback : oneOf(own[key], `${parameter}.${key}`, all))
  return {
    ...weight,
    activations: 'static',
    target,
    reduceRange,
    activationType: text('activationType', 'uint8', ['uint8', 'int8']),
    ranges: text('ranges', 'percentile', ['minmax', 'movingAverage', 'percentile', 'entropy', 'mse']),
    percentile: own.percentile === undefined ? 99.99 : finite(own.percentile, `${parameter}.percentile`, 50, 100),
    minChannels: own.minChannels === undefined ? 8 : integer(own.minChannels, `${parameter}.minChannels`, 1, 2 ** 31 - 1),
    snr: own.snr === undefined ? 0 : finite(own.snr, `${parameter}.snr`, 0, 200),
    repair: own.repair === undefined ? true : boolean(own.repair, `${parameter}.repair`),
  }
}

/** @internal */
export async function applyStatic(pass: Pass<ResolvedQuantize>, model: Model, step: ResolvedStatic, context: Context): Promise<PassResult> {
  const { run } = context
  const calibration = context.calibration!
  raiseIrVersion(model, 4)
  raiseOpset(model, 13)
  model.graph.sort()
  const graph = model.graph
  const chosen = new Set(chooseLayers(weights(graph), step.layers, 0, { spared: context.spared }).map((w) => w.initializer.name))
  const able = (logarithms: boolean) => codedLayers(graph, { minChannels: step.minChannels, logarithms }).filter((l) => chosen.has(l.weight.name))
  const all = able(false)
  const spectra = new Set(able(true).map((l) => l.weight.name))
  const operators = step.target !== 'session'
  const values = new Set(all.map((l) => l.input))
  for (const value of operators ? betweenLayers(graph, all).values : residuals(graph, all).map((r) => r.value)) values.add(value)
  const codes = all.length > 0 ? await observeRanges(model, values, calibration, run, { type: step.activationType, method: step.ranges, percentile: step.percentile }) : new Map<string, Code>()
  if (operators) sharedCodes(graph, codes)
  const noise = step.snr > 0 && all.length > 0 ? await noiseOf(model, all, codes, calibration, run) : new Map<string, number>()
  const float = tooNoisy(noise, 10 ** (-step.snr / 10))

  const reference = step.repair ? model.clone() : undefined
  // Convolutions of a single pixel are too small to gain by codes.
  const coded = all.filter((l) => !float.has(l.input) && !(l.node.is('Conv') && codes.get(l.input)?.pooled))
  // A channel of next to nothing has a scale that integer kernels cannot take.
  for (const name of new Set(coded.map((l) => l.weight.name))) {
    const weight = graph.initializers.get(name)
    if (!weight) continue
    const data = context.memory.scratch.read(weight).data as Float32Array
    const clean = withoutTraces(data)
    if (clean !== data) graph.setInitializer(name, { type: 'float32', dims: weight.dims, data: clean })
  }
  const result = await applyWeights(pass, model, step, context, coded)
  const done = new Set(result.layers.filter((l) => l.action === 'quantized').map((l) => l.weight))
  const layers = coded.filter((l) => done.has(l.weight.name))
  insertPairs(graph, layers, codes, operators ? [] : residuals(graph, layers, codes))
  if (operators) {
    codeBiases(graph, layers, codes)
    closeLayers(graph, layers, codes)
  }
  const corrected = reference ? await correctBias(reference, model, calibration, run, { sets: kBiasSets }) : []
  return {
    layers: result.layers.map((l) => (spectra.has(l.weight) && l.action === 'quantized' ? { ...l, reason: kLogarithm } : withReason(l, all, noise, float))),
    summary: `${result.summary} ${count(layers.length)} layers read 8-bit codes${spectra.size ? `; ${count(spectra.size)} keep float inputs before a logarithm` : ''}${float.size ? `; ${count(all.filter((l) => float.has(l.input)).length)} keep float inputs for less noise` : ''}${corrected.length ? `; ${count(corrected.length)} biases corrected` : ''}.`,
  }
}

/** @internal Why a layer's input stays float; see {@link behindLogarithms}. */
export const kLogarithm = 'its input stays float: a logarithm is taken of what it makes, which codes would distort where it is small'

/** Weights of layers that read codes as the target wants them, all others as constants that a runtime folds. */
async function applyWeights(pass: Pass<ResolvedQuantize>, model: Model, step: ResolvedStatic, context: Context, coded: readonly CodedLayer[]): Promise<PassResult> {
  const { rest } = split(step)
  const weight = pass.resolve(rest, 'step')
  if (step.storage === 'folded') return pass.apply(model, weight, context)
  const names = new Set(coded.map((l) => l.weight.name))
  const others = weights(model.graph).map((w) => w.initializer.name).filter((n) => !names.has(n))
  const first = await pass.apply(model, weight, { ...context, spared: new Set([...context.spared, ...others]) })
  const second = await pass.apply(model, { ...weight, storage: 'folded', layers: {} }, { ...context, spared: new Set([...context.spared, ...unchosen(others, weight, model)]) })
  const layers = [...first.layers, ...second.layers.filter((l) => !names.has(l.weight))]
  return { layers, summary: first.summary }
}

/** Of weights that are left, those that the step's selector does not choose. */
function unchosen(names: readonly string[], step: ResolvedQuantize, model: Model): string[] {
  const { exclude = [], include, ops, minElements = 0 } = step.layers
  if (!include && !ops && exclude.length === 0 && minElements === 0) return []
  const left = weights(model.graph)
  const kept = new Set(left.filter((w) => names.includes(w.initializer.name)).filter((w) => {
    try {
      return chooseLayers([w], step.layers, 0).length > 0
    } catch {
      return false
    }
  }).map((w) => w.initializer.name))
  return names.filter((n) => !kept.has(n))
}

function withReason(layer: LayerReport, all: readonly CodedLayer[], noise: ReadonlyMap<string, number>, float: ReadonlySet<string>): LayerReport {
  const found = all.find((l) => l.weight.name === layer.weight)
  if (!found || !float.has(found.input) || layer.action !== 'quantized') return layer
  const snr = -10 * Math.log10(noise.get(found.input)!)
  return { ...layer, reason: `its input stays float: as codes it alone brings the outputs to ${snr.toFixed(1)} dB` }
}
