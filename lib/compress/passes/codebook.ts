import { raiseIrVersion } from '../../model/fold'
import type { Graph, Node } from '../../model/graph'
import type { Model } from '../../model/model'
import { raiseOpset } from '../../model/opset'
import { chosenWeights, weights, type Weight } from '../../model/weights'
import { bytes } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { fail, finite, integer, oneOf, options } from '../../validate'
import { moments, type LayerMoments } from '../moments'
import { shareWeights, type Shared } from '../rounding/shared'
import { parseSelector, type LayerSelector, type Layers } from '../selectors'
import { lookUp } from './emit_codebook'
import { chooseLayers, type Context, type Pass, type PassResult } from './pass'

/**
 * Weight sharing: the values of each layer become indices into a table of a few shared ones, found by k-means. In the file
 * these are bytes, a table, and `Cast` → `Gather`, which onnxruntime evaluates once, when it loads the model; a `.whittle`
 * container stores the indices at their entropy. With {@link CodebookStep.subvector} it is pieces of several values that are shared:
 * product quantization.
 *
 * @see Han, Mao, Dally 2016 (Deep Compression); Gong et al. 2014 and Stock et al. 2020 (product quantization of weights)
 */
export interface CodebookStep {
  readonly step: 'codebook'
  /** 2^bits values are shared: 1 to 8, default 5, of pieces 8. Up to 4 bits several indices of single values lie in a byte. */
  readonly bits?: number
  /**
   * Values of a piece that share one index, 1 (default) to 64, along the sums of a layer; bits of a value are {@link bits} over
   * this. A weight whose sums it does not divide is cut into the largest pieces below it that do. Pieces have no zeros to keep, no
   * {@link init} but `'k-means++'` (their default) and no {@link method} but `'nearest'`.
   */
  readonly subvector?: number
  /**
   * `'channel'`: what is shared are values over a scale of their output channel (first the root of its mean square, then least squares
   * and nearest values in turn), which lies in the file. Nets whose batch normalizations were folded into their weights have
   * channels of very different size, and need it below 6 bits. `'none'` (default) is Deep Compression's.
   */
  readonly scale?: 'none' | 'channel'
  /**
   * `'nearest'` (default); `'gptq'` and `'adaround'` choose among the shared values so that a layer's outputs move least over the
   * calibration inputs, which `compress` must be given; see `QuantizeStep.method`.
   */
  readonly method?: 'nearest' | 'gptq' | 'adaround'
  /**
   * Where k-means begins: `'linear'` (default) evenly between the least and the largest value, which keeps the few large
   * ones; `'density'` at even shares of the sorted values; `'k-means++'`; `'histogram'` with the best values for a histogram, found by
   * dynamic programming: the least error, where weighted errors always begin, and the default beside scale `'channel'`.
   */
  readonly init?: 'linear' | 'density' | 'k-means++' | 'histogram'
  /** Of `'k-means++'`. Default 0. */
  readonly seed?: number
  /**
   * What a squared error weighs: `'none'` (default) the same everywhere; `'inputs'` the mean square of the input that the
   * value multiplies, from calibration (the diagonal of the layer's second moments).
   */
  readonly weighting?: 'none' | 'inputs'
  /**
   * `'keep'` (default): where at least a hundredth of the values is zero, zero is one of the shared values, so that pruned
   * weights stay pruned. `'any'`: they are values like others.
   */
  readonly zeros?: 'keep' | 'any'
  /** Largest ‖w − ŵ‖₂ / ‖w‖₂ of one weight; beyond it the weight stays float. Default by bits, 8 to 1: 0.03, 0.04, 0.06, 0.1, 0.2, 0.3, 0.5, 0.8; 1 for pieces and beside another {@link method}. */
  readonly maxError?: number
  /** A weight with NaN or an infinity: `'error'` (default) throws `ERR_RANGE` with its name, `'keep'` leaves it float. */
  readonly nonFinite?: 'error' | 'keep'
  /** Default: every Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU and RNN weight of at least 1024 values. */
  readonly layers?: Layers
}

/** @internal */
export type ResolvedCodebook = Required<Omit<CodebookStep, 'layers'>> & { readonly layers: LayerSelector }

/** Below this a table, names and nodes eat what the indices save. */
const kMinElements = 1024
const kMaxError: Readonly<Record<number, number>> = { 8: 0.03, 7: 0.04, 6: 0.06, 5: 0.1, 4: 0.2, 3: 0.3, 2: 0.5, 1: 0.8 }

/** @internal */
export const codebookPass: Pass<ResolvedCodebook> = {
  name: 'codebook',
  resolve: resolveCodebook,
  needs: (step) => (looksAtInputs(step) ? ['calibration'] : []),
  apply,
}

const looksAtInputs = ({ weighting, method }: ResolvedCodebook): boolean => weighting === 'inputs' || method !== 'nearest'

async function apply(model: Model, step: ResolvedCodebook, context: Context): Promise<PassResult> {
  const { run, spared, calibration, memory } = context
  const chosen = chooseLayers([...weights(model.graph), ...chosenWeights(model.graph)], step.layers, kMinElements, { spared })
  const layers: LayerReport[] = []
  const results: [Weight, Shared][] = []
  const one = async (weight: Weight, given?: LayerMoments): Promise<void> => {
    await run.tell('codebook', layers.length, chosen.length, weight.name)
    const { report, shared } = shareWeights(weight, step, memory, given, step.weighting === 'inputs')
    layers.push(report)
    if (shared) results.push([weight, shared])
  }
  // Moments are found by running the model, so it changes when all are there.
  if (looksAtInputs(step) && calibration)
    for await (const given of moments(model, chosen, calibration, { run })) await one(given.weight, given)
  else for (const weight of chosen) await one(weight)
  if (results.length > 0) {
    raiseIrVersion(model, 4)
    raiseOpset(model, results.some(([, { scales }]) => scales) ? 7 : 6)
  }
  const made = new Map<Graph, Node[]>()
  for (const [weight, shared] of results) {
    const list = made.get(weight.graph) ?? []
    list.push(...lookUp(weight, shared))
    made.set(weight.graph, list)
  }
  for (const [graph, nodes] of made) graph.setNodes([...nodes, ...graph.nodes])
  await run.tell('codebook', chosen.length, chosen.length)
  return { layers, summary: summarize(layers, step) }
}

function summarize(layers: readonly LayerReport[], { bits, weighting, subvector }: ResolvedCodebook): string {
  const done = layers.filter((l) => l.action === 'quantized')
  const kept = layers.length - done.length
  const sum = (pick: (l: LayerReport) => number): number => done.reduce((total, l) => total + pick(l), 0)
  return (
    `Shared ${2 ** bits} ${subvector > 1 ? `pieces of ${subvector} values` : 'values'} in each of ${done.length} of ${layers.length} weights${weighting === 'inputs' ? ', errors weighed by inputs' : ''}: ` +
    `${bytes(sum((l) => l.bytesBefore))} became ${bytes(sum((l) => l.bytesAfter))}${kept ? `; ${kept} stayed float` : ''}.`
  )
}

const kKeys = ['step', 'bits', 'subvector', 'scale', 'method', 'init', 'seed', 'weighting', 'zeros', 'maxError', 'nonFinite', 'layers'] as const

function resolveCodebook(value: object, parameter: string): ResolvedCodebook {
  const given = options(value, parameter, kKeys)
  const subvector = given.subvector === undefined ? 1 : integer(given.subvector, `${parameter}.subvector`, 1, 64)
  const pieces = subvector > 1
  const bits = given.bits === undefined ? (pieces ? 8 : 5) : integer(given.bits, `${parameter}.bits`, 1, 8)
  const scale = given.scale === undefined ? 'none' : oneOf(given.scale, `${parameter}.scale`, ['none', 'channel'])
  const standard = pieces ? 'k-means++' : scale === 'channel' ? 'histogram' : 'linear'
  const init = given.init === undefined ? standard : oneOf(given.init, `${parameter}.init`, ['linear', 'density', 'k-means++', 'histogram'])
  const method = given.method === undefined ? 'nearest' : oneOf(given.method, `${parameter}.method`, ['nearest', 'gptq', 'adaround'])
  const zeros = given.zeros === undefined ? (pieces ? 'any' : 'keep') : oneOf(given.zeros, `${parameter}.zeros`, ['keep', 'any'])
  if (pieces && init !== 'k-means++') fail('ERR_RANGE', `${parameter}.init`, "'k-means++' beside subvector: pieces have no order", init)
  if (pieces && method !== 'nearest') fail('ERR_RANGE', `${parameter}.method`, "'nearest' beside subvector", method)
  if (pieces && zeros !== 'any') fail('ERR_RANGE', `${parameter}.zeros`, "'any' beside subvector", zeros)
  return {
    step: 'codebook',
    bits,
    subvector,
    scale,
    method,
    init,
    seed: given.seed === undefined ? 0 : integer(given.seed, `${parameter}.seed`, 0, 2 ** 32 - 1),
    weighting: given.weighting === undefined ? 'none' : oneOf(given.weighting, `${parameter}.weighting`, ['none', 'inputs']),
    zeros,
    maxError: given.maxError === undefined ? (pieces || method !== 'nearest' ? 1 : kMaxError[bits]!) : finite(given.maxError, `${parameter}.maxError`, 0),
    nonFinite: given.nonFinite === undefined ? 'error' : oneOf(given.nonFinite, `${parameter}.nonFinite`, ['error', 'keep']),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}
