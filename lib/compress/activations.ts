import type { ObserverMethod } from '../kernels/observer'
import { foldConstantNodes, raiseIrVersion } from '../model/fold'
import { Initializer } from '../model/initializer'
import { Model } from '../model/model'
import { attribute, Node } from '../model/node'
import { raiseOpset } from '../model/opset'
import { boolean, fail, finite, integer, oneOf, options as checkOptions } from '../validate'
import { Calibration, type CalibrationData } from './calibration'
import { KeepBudget, Scratch } from './computed'
import { narrow, widen, type WidenedModel } from './half/widen'
import { Run } from './progress'
import { correctBias, kBiasSets } from './static/bias'
import { codesOfWeight, computeDynamically } from './static/dynamic'
import { codedLayers, type CodedLayer } from './static/layers'
import { codeBiases } from './static/operators'
import { insertPairs, residuals } from './static/residuals'
import { observeRanges } from './static/ranges'

/** Options of {@link quantizeStatic}. */
export interface StaticOptions {
  /** How ranges of activations follow from the calibration inputs. Default `'minmax'`; `'percentile'` often loses less. */
  readonly method?: ObserverMethod
  /** Percent of values that a range holds, for `'percentile'`. Default 99.99. */
  readonly percentile?: number
  /** Type of activations: `'uint8'` with a zero point (default), or `'int8'` around 0. */
  readonly activations?: 'uint8' | 'int8'
  /** Names of nodes that stay float. */
  readonly exclude?: readonly string[]
  /** Convolutions with fewer input channels stay float: the first one reads an image that has no spare bits. Default 8. */
  readonly minChannels?: number
  /**
   * Corrects biases and scales of channels by what the layers are wrong on average over the first 16 calibration inputs, where that
   * is less wrong on those left out. Default true.
   */
  readonly repair?: boolean
  /** Threads of the calibration runs. Default: the process's limit. */
  readonly threads?: number
}

/** Options of {@link quantizeDynamic}. */
export interface DynamicOptions {
  /** Names of nodes that stay float. */
  readonly exclude?: readonly string[]
}

function excluded(exclude: unknown): ReadonlySet<string> {
  if (exclude === undefined) return new Set()
  if (!Array.isArray(exclude) || !exclude.every((e) => typeof e === 'string')) fail('ERR_DTYPE', 'options.exclude', 'an array of node names', exclude)
  return new Set(exclude as string[])
}

const isModel = (x: unknown): x is Model => x !== null && typeof x === 'object' && 'graph' in x && typeof (x as Model).clone === 'function'

/** A copy with constants as initializers, in float32, at an opset that has scales per channel. */
function ready(model: Model): { copy: Model; halves: WidenedModel } {
  const copy = model.clone()
  foldConstantNodes(copy)
  const halves = widen(copy)
  raiseIrVersion(copy, 4)
  raiseOpset(copy, 13)
  copy.graph.sort()
  return { copy, halves }
}

/** The model without the float weights that nothing reads any more. */
function swept(model: Model, layers: readonly CodedLayer[], halves: WidenedModel): Model {
  const graph = model.graph
  graph.removeDeadNodes()
  for (const name of layers.flatMap((l) => [l.weight.name, l.bias ?? ''])) {
    if (!graph.initializers.has(name) || graph.users(name).length > 0 || graph.isOutput(name)) continue
    graph.initializers.delete(name)
    graph.inputs = graph.inputs.filter((i) => i.name !== name)
  }
  narrow(model, halves)
  return model
}

/**
 * A copy of the model in which convolutions and products with constant weights compute with 8-bit integers: weights as int8
 * with a scale for each output channel, activations by a QuantizeLinear and DequantizeLinear pair before each such node and before
 * the addition of a residual to a convolution, whose ranges come from running the model over `calibration`. Nodes between them stay
 * float; a {@link Session} computes them in the same pass as the integers.
 *
 * Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018.
 *
 * @param model a float model, which is not changed, or the path or bytes of an ONNX file; one in float16 comes back in float32 between
 * Casts, what does not become codes stored in float16
 * @param calibration inputs by name, as {@link Session.run} takes them; a few dozen real ones (ranges of noise
 *   cost accuracy)
 * @throws {WhittleError} `ERR_RANGE` where calibration is empty or a range is not finite, and what `Session` throws
 * @example
 * const small = await quantizeStatic(model, lines.map((data) => ({ x: { type: 'float32', dims: [1, 3, 48, 320], data } })))
 * await small.save('model_int8.onnx')
 */
export async function quantizeStatic(model: Model | string | Uint8Array | ArrayBuffer, calibration: CalibrationData, options?: StaticOptions): Promise<Model> {
  const o = checkOptions(options, 'options', ['method', 'percentile', 'activations', 'exclude', 'minChannels', 'repair', 'threads'])
  const method = o.method === undefined ? 'minmax' : oneOf(o.method, 'options.method', ['minmax', 'movingAverage', 'percentile', 'entropy', 'mse'] as const)
  const type = o.activations === undefined ? 'uint8' : oneOf(o.activations, 'options.activations', ['uint8', 'int8'] as const)
  const percentile = o.percentile === undefined ? 99.99 : finite(o.percentile, 'options.percentile', 50, 100)
  const minChannels = o.minChannels === undefined ? 8 : integer(o.minChannels, 'options.minChannels', 1, 2 ** 31 - 1)
  const repair = o.repair === undefined || boolean(o.repair, 'options.repair')
  const threads = o.threads === undefined ? {} : { threads: integer(o.threads, 'options.threads', 1, 256) }
  const sets = Calibration.from(calibration, 'calibration')
  const { copy, halves } = ready(isModel(model) ? model : await Model.load(model))
  const graph = copy.graph
  const layers = codedLayers(graph, { exclude: excluded(o.exclude), minChannels })
  if (layers.length === 0) return swept(copy, layers, halves)
  const reference = repair ? copy.clone() : undefined
  const codes = await observeRanges(copy, new Set([...layers.map((l) => l.input), ...residuals(graph, layers).map((r) => r.value)]), sets, new Run(), { type, method, percentile, ...threads })
  const stored = new Map<string, string>()
  const [keep, scratch] = [new KeepBudget(), new Scratch()]
  for (const { node, weight, axis } of layers) {
    const key = `${weight.name} ${axis}`
    let value = stored.get(key)
    if (value === undefined) {
      const made = codesOfWeight(weight, axis, scratch)
      const q = graph.uniqueName(`${weight.name}_q`)
      const s = graph.uniqueName(`${weight.name}_s`)
      value = graph.uniqueName(`${weight.name}_dq`)
      const { type: coded, dims, data } = made.codes
      graph.addInitializer(new Initializer(q, coded, dims, keep.hold(new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength))))
      graph.addInitializer(Initializer.from(s, { type: 'float32', dims: [made.scales.length], data: made.scales }))
      graph.addNode(new Node({ name: value, opType: 'DequantizeLinear', inputs: [q, s], outputs: [value], attributes: { axis: attribute.int(axis) } }), { before: node })
      stored.set(key, value)
    }
    node.setInput(1, value)
  }
  codeBiases(graph, layers, codes)
  insertPairs(graph, layers, codes, residuals(graph, layers, codes))
  if (reference) await correctBias(reference, copy, sets, new Run(), { sets: kBiasSets, ...threads })
  return swept(copy, layers, halves)
}

/**
 * A copy of the model whose products with constant matrices compute with 8-bit integers: weights as int8 with a scale for
 * each column, activations as uint8 with a scale that each run finds for itself (DynamicQuantizeLinear, MatMulInteger). No
 * calibration is needed; it suits transformers.
 *
 * @param model a float model; it is not changed. One in float16 comes back as from {@link quantizeStatic}
 */
export function quantizeDynamic(model: Model, options?: DynamicOptions): Model {
  const o = checkOptions(options, 'options', ['exclude'])
  if (!isModel(model)) fail('ERR_DTYPE', 'model', 'a Model, as Model.load gives', model)
  const { copy, halves } = ready(model)
  computeDynamically(copy.graph, codedLayers(copy.graph, { exclude: excluded(o.exclude), products: true }))
  narrow(copy, halves)
  return copy
}
