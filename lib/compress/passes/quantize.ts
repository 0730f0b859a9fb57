import { WhittleError } from '../../errors'
import { raiseIrVersion } from '../../model/fold'
import type { Model } from '../../model/model'
import { raiseOpset } from '../../model/opset'
import { chosenWeights, weights, type Weight } from '../../model/weights'
import { bytes, short } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { firstNonFinite } from '../computed'
import { unreached } from '../fold/exposed'
import { allocateFew, candidatesOf, type Candidate } from '../mixed'
import { rowLayoutOf, type LayerMoments } from '../moments'
import { sampled, stepsFor, type Sampled } from '../rounding/entropy'
import type { Format } from '../rounding/grid'
import { Inspected, type Seen } from '../rounding/inspected'
import { isCalibrated, quantizeWeight, type Exact, type Replacement } from '../rounding/layer'
import { planOf } from '../rounding/plan'
import { fail, finite, integer, oneOf, options } from '../../validate'
import { parseSelector, selects, type LayerSelector, type Layers } from '../selectors'
import { addedBytes, bytesOf, Emitter, tableBytes, type Storage } from './emit'
import { chooseLayers, type Context, type Pass, type PassResult } from './pass'

/**
 * Weight-only quantization in standard ONNX ops: symmetric, nearest even, true division; integers ±(2^(bits−1)−1) where no
 * other format is asked for.
 */
export interface QuantizeStep {
  readonly step: 'quantize'
  /**
   * What values a weight may take, times a scale.
   *
   * - `'int'` (default): integers of 2 to 8 bits
   * - `'nf4'`: NormalFloat, 16 levels that suit a normal distribution (QLoRA 2023)
   * - `'binary'`: ±1, scale mean |w| (XNOR-Net 2016), one bit
   * - `'ternary'`: −1, 0, 1, threshold 0.7 · mean |w|, scale the mean of what is above (TWN 2016), 1.6 to 2 bits
   * - `'pow2'`: 0 and powers of two; `'apot'`: sums of powers of two (APoT 2020); 2 to 8 bits, default 4
   * - `'residual'`: a sum of binary codes, each ±1 times a scale of its own (Network Sketching 2017), scales and codes by least
   *   squares in turn (alternating multi-bit quantization 2018); 1 to 4 codes, by {@link bits}, default 3
   * - `'float16'`: no scale; half the bytes, and a Cast to float32
   */
  readonly format?: Format
  /**
   * Of `'int'` 2 to 8, default 8: 5 to 8 bits lie in an int8 tensor, fewer several to a byte. `'auto'` gives each weight 2, 3,
   * 4 or 8 so that errors add up to little within {@link averageBits} or {@link bytes}: errors of the layers' outputs over
   * their power where calibration inputs are given, else of the weights. For other formats see {@link format}.
   */
  readonly bits?: number | 'auto'
  /**
   * Beside `bits: 'auto'`: bits of a value on average over the chosen weights, scales included. Default 5 unless there is {@link bytes}. More in
   * files so small that tables which unpack few bits would take more than they save.
   */
  readonly averageBits?: number
  /** Beside `bits: 'auto'`: bytes of codes and scales of the chosen weights together. */
  readonly bytes?: number
  /**
   * How codes are found.
   *
   * - `'nearest'` (default): the largest magnitude meets the end of the range, every value goes to the nearest code
   * - `'omse'`: the same with the scale of least squared error (2019)
   * - `'gptq'` (2022) and `'adaround'` (2020): that scale, and codes for which the layer's outputs move least over the
   *   calibration inputs, which `compress` must be given: of any format but float16. Weights whose inputs cannot be seen (Gather,
   *   subgraphs) are rounded to nearest, and the report says so. GPTQ is the faster one
   * - `'prox'`: ProxQuant (2019) layer by layer: values are drawn to their levels along a path, on which those that are not there yet make up
   *   for those that are; how strongly, 4-fold cross-validation over the calibration inputs chooses for each layer (the report says)
   */
  readonly method?: 'nearest' | 'omse' | 'gptq' | 'adaround' | 'prox'
  /**
   * `'entropy'`: integers of 8 bits in one step for a whole weight (but for channels that reach beyond it), chosen so that
   * codes take {@link bits} on average, 1 to 8 and fractions too, once they are entropy-coded: made for `.whittle` files, in
   * which rare large codes cost little; in ONNX they take a byte. Weights in groups (depthwise) get 8 bits a channel, which is
   * not counted. Default `'fixed'`.
   */
  readonly coding?: 'fixed' | 'entropy'
  /** `'pow2'` makes every scale a power of two: fixed point. Default `'float'`. */
  readonly scale?: 'float' | 'pow2'
  /**
   * `'folded'` (default) writes ops that onnxruntime evaluates once, when it loads the model (int8: `Cast` → `Mul`,
   * at the opset the file has): the run is as fast as float. `'qdq'` writes `DequantizeLinear` (opset 13, blocks 21),
   * which tools look for, but which onnxruntime evaluates anew in every run, or multiplies by activations that
   * it rounds to 8 bits (a third more error), unless the session option `extra: { session: { disable_quant_qdq: '1' } }` is set.
   */
  readonly storage?: Storage
  /**
   * Values along the reduction that share a scale; 0 is one scale an output channel. Default 0 for 5 to 8 bits, 32
   * for fewer, 64 for `'nf4'` and 0 for the other formats. A weight whose reduction it does not divide takes the largest divisor below it, down to 8; without one it
   * falls back to int8 per channel, and the report says so.
   */
  readonly blockSize?: number
  /**
   * Largest relative error ‖w − ŵ‖₂ / ‖w‖₂ of one weight; beyond it the weight stays float and the report names it.
   * Default by bits, 8 to 2: 0.03, 0.05, 0.08, 0.12, 0.15, 0.35, 0.8; of other formats, of `'gptq'`, `'adaround'`, `'prox'` and
   * `'entropy'` 1, of float16 0.01. It keeps
   * single weights from breaking; how many small errors a network bears only `evaluate` can tell.
   */
  readonly maxError?: number
  /** A weight with NaN or an infinity: `'error'` (default) throws `ERR_RANGE` with its name, `'keep'` leaves it float. */
  readonly nonFinite?: 'error' | 'keep'
  /** Default: every Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU and RNN weight of at least 256 values. */
  readonly layers?: Layers
}

/** @internal A step with every default written out: what the report holds, so that it replays exactly. */
export type ResolvedQuantize = Required<Omit<QuantizeStep, 'layers' | 'averageBits' | 'bytes'>> &
  Pick<QuantizeStep, 'averageBits' | 'bytes'> & { readonly layers: LayerSelector }

/** Error budget by bits, see {@link QuantizeStep.maxError}. */
const kMaxError: Readonly<Record<number, number>> = { 8: 0.03, 7: 0.05, 6: 0.08, 5: 0.12, 4: 0.15, 3: 0.35, 2: 0.8 }

/** Parts of the calibration inputs that choose the strength of method `'prox'`. */
const kFolds = 4

/** Below this a weight's scale, names and nodes eat what its codes save. */
const kMinElements = 256

/** @internal Weight-only quantization, one tensor at a time; by calibration, codes of all are held until the end. */
export const quantizePass: Pass<ResolvedQuantize> = {
  name: 'quantize',
  resolve: resolveQuantize,
  needs: (step) => (isCalibrated(step.method) ? ['calibration'] : []),
  apply,
}

async function apply(model: Model, step: ResolvedQuantize, context: Context): Promise<PassResult> {
  const { run, memory } = context
  const chosen = chooseLayers([...weights(model.graph), ...chosenWeights(model.graph)], step.layers, kMinElements, { spared: context.spared })
  const left = unreached(model).filter((l) => selects(step.layers, l, kMinElements))
  const steps = step.coding === 'entropy' ? await entropySteps(chosen, step, context) : undefined
  // Inputs are looked at once for both, where their moments may be held.
  const seen = new Inspected(model, chosen, isCalibrated(step.method) || step.bits === 'auto', context, step.method === 'prox' ? kFolds : 0)
  const bits = step.bits === 'auto' ? await mixedBits(chosen, step, seen, context) : undefined
  const unpacked = step.bits !== 'auto' && isTableTooLarge(chosen, step, step.bits)
  const layers = new Map<Weight, LayerReport>()
  const results: [Weight, Replacement][] = []
  const found = (weight: Weight, inputs?: Seen): void => {
    const own = step.bits === 'auto' ? (bits?.get(weight) ?? 8) : step.bits
    const exact: Exact = { ...step, bits: own, unpacked, blockSize: step.bits === 'auto' && own > 4 ? 0 : step.blockSize }
    const { report, result } = quantizeWeight(weight, exact, memory, steps?.get(weight.initializer.name), inputs)
    layers.set(weight, report)
    if (result) results.push([weight, result])
  }
  if (isCalibrated(step.method)) {
    let done = 0
    for await (const inputs of seen.each()) {
      await run.tell('quantize', done++, chosen.length, inputs.weight.name)
      found(inputs.weight, inputs)
    }
  }
  for (const [i, weight] of chosen.entries()) {
    if (layers.has(weight)) continue
    await run.tell('quantize', i, chosen.length, weight.name)
    found(weight)
  }
  const emitter = new Emitter(model.graph)
  for (const [weight, result] of results) {
    // Below 4 every initializer must be an input, which runtimes do not take for a constant.
    raiseIrVersion(model, 4)
    if ('halves' in result) emitter.replaceByHalves(weight, result.halves)
    else {
      const { layout, sources, scales } = result
      raiseOpset(model, Emitter.opset(step.storage, layout))
      emitter.replace(weight, layout, step.storage, sources, scales)
    }
  }
  emitter.finish()
  await run.tell('quantize', chosen.length, chosen.length)
  const reports = [...chosen.map((w) => layers.get(w)!), ...left]
  return { layers: reports, summary: summarize(reports, step) }
}

/** Whether the table that unpacks all these weights' codes would be larger than what they save. */
function isTableTooLarge(chosen: readonly Weight[], { format, coding, ...step }: ResolvedQuantize, bits: number): boolean {
  if (format === 'float16' || coding === 'entropy') return false
  const tables = new Map<string, { table: number; saved: number }>()
  for (const weight of chosen) {
    if (weight.initializer.type !== 'float32') continue
    const { layout } = planOf(weight, { ...step, format, bits })
    if (!layout.packing) continue
    const found = tables.get(layout.packing.name) ?? { table: tableBytes(layout.packing), saved: 0 }
    tables.set(layout.packing.name, found)
    found.saved += Math.max(0, weight.initializer.byteLength - bytesOf(layout) - addedBytes(weight, layout))
  }
  return [...tables.values()].some(({ table, saved }) => table > 0 && saved <= table)
}

/** The bits of each weight that has a choice. */
async function mixedBits(
  chosen: readonly Weight[],
  step: ResolvedQuantize,
  seen: Inspected,
  { run, memory }: Context,
): Promise<Map<Weight, number>> {
  const options = new Map<Weight, readonly Candidate[]>()
  const consider = async (weight: Weight, inputs?: LayerMoments): Promise<void> => {
    await run.tell('quantize', 0, chosen.length, weight.name)
    const { initializer } = weight
    const values = initializer.type === 'float32' ? (memory.scratch.read(initializer).data as Float32Array) : undefined
    const format = step.format === 'float16' ? 'int' : step.format
    const fits = values && values.length > 0 && firstNonFinite(values) < 0
    options.set(weight, fits ? candidatesOf(weight, values, { ...step, format, bits: 8 }, inputs) : [])
  }
  for await (const inputs of seen.each()) await consider(inputs.weight, inputs)
  for (const weight of chosen) if (!options.has(weight)) await consider(weight)
  const all = chosen.filter((w) => options.get(w)!.length > 0)
  const elements = all.reduce((sum, w) => sum + w.initializer.elementCount, 0)
  const budget = step.bytes ?? (step.averageBits! * elements) / 8
  const bits = allocateFew(
    all.map((w) => options.get(w)!),
    budget,
  )
  if (!bits) {
    const least = all.reduce((sum, w) => sum + Math.min(...options.get(w)!.map((c) => c.bytes)), 0)
    const [name, own] = step.bytes === undefined ? ['averageBits', (8 * least) / elements] : ['bytes', least]
    throw new WhittleError('ERR_LIMIT', name, `${name}: expected at least ${Math.ceil(own * 100) / 100}, which the chosen weights take with the fewest bits, got ${step.bytes ?? step.averageBits}`)
  }
  return new Map(all.map((w, i) => [w, bits[i]!]))
}

/** The common step of each weight that is coded by entropy. */
async function entropySteps(chosen: readonly Weight[], { bits }: ResolvedQuantize, { run, memory }: Context): Promise<Map<string, number>> {
  const seen: Sampled[] = []
  for (const [i, { initializer, node, name }] of chosen.entries()) {
    await run.tell('quantize', 0, chosen.length, name)
    if (initializer.type !== 'float32' || initializer.elementCount === 0) continue
    if ((rowLayoutOf({ node, initializer })?.groups ?? 1) > 1) continue
    const values = memory.scratch.read(initializer).data as Float32Array
    if (firstNonFinite(values) < 0) seen.push(sampled(initializer, values))
    if (i % 8 === 7) run.check()
  }
  return stepsFor(seen, bits as number)
}

/** Bits of a value with its share of scales. */
function mean(done: readonly LayerReport[]): string {
  const total = done.reduce((n, l) => n + l.elements, 0)
  return total ? short(done.reduce((n, l) => n + 8 * l.bytesAfter, 0) / total) : '0'
}

function summarize(layers: readonly LayerReport[], step: ResolvedQuantize): string {
  const done = layers.filter((l) => l.action === 'quantized')
  const kept = layers.length - done.length
  const sum = (pick: (l: LayerReport) => number): number => done.reduce((total, l) => total + pick(l), 0)
  const unit = step.blockSize ? `blocks of ${step.blockSize}` : 'one scale a channel'
  const to =
    step.coding === 'entropy'
      ? `${step.bits} bits of entropy`
      : step.format === 'int' ? `${step.bits === 'auto' ? `${mean(done)} bits on average` : `${step.bits} bits`} (${unit}, ${step.storage})`
        : step.format
  return (
    `Quantized ${done.length} of ${layers.length} weights to ${to}: ` +
    `${bytes(sum((l) => l.bytesBefore))} became ${bytes(sum((l) => l.bytesAfter))}${kept ? `; ${kept} stayed float` : ''}.`
  )
}

const kFormats = ['int', 'nf4', 'binary', 'ternary', 'pow2', 'apot', 'residual', 'float16'] as const
/** @internal */
export const kWeightKeys = ['step', 'format', 'bits', 'averageBits', 'bytes', 'method', 'coding', 'scale', 'storage', 'blockSize', 'maxError', 'nonFinite', 'layers'] as const

/** Bits of the formats that have no choice of them. */
const kBits: Partial<Record<Format, number>> = { nf4: 4, binary: 1, ternary: 2, float16: 16 }

function resolveQuantize(value: object, parameter: string): ResolvedQuantize {
  const given = options(value, parameter, kWeightKeys)
  const format = given.format === undefined ? 'int' : oneOf(given.format, `${parameter}.format`, kFormats)
  const only = kBits[format]
  const residual = format === 'residual'
  const coding = given.coding === undefined ? 'fixed' : oneOf(given.coding, `${parameter}.coding`, ['fixed', 'entropy'])
  const free = coding === 'entropy'
  if (typeof given.bits === 'string' && given.bits !== 'auto') fail('ERR_DTYPE', `${parameter}.bits`, "a number, or 'auto'", given.bits)
  const auto = given.bits === 'auto' && format === 'int' && !free
  const bits = auto
    ? 'auto'
    : given.bits === undefined
      ? (only ?? (free ? 4.5 : format === 'int' ? 8 : residual ? 3 : 4))
      : free
        ? finite(given.bits, `${parameter}.bits`, 1, 8)
        : integer(given.bits, `${parameter}.bits`, only ?? (residual ? 1 : 2), only ?? (residual ? 4 : 8))
  const method = given.method === undefined ? 'nearest' : oneOf(given.method, `${parameter}.method`, ['nearest', 'omse', 'gptq', 'adaround', 'prox'])
  const calibrated = isCalibrated(method)
  const scale = given.scale === undefined ? 'float' : oneOf(given.scale, `${parameter}.scale`, ['float', 'pow2'])
  if (format !== 'int' && free) fail('ERR_RANGE', `${parameter}.format`, "'int' beside coding 'entropy'", format)
  if (residual && scale !== 'float') fail('ERR_RANGE', `${parameter}.scale`, "'float' beside the format 'residual', whose scales are found by least squares", scale)
  if (free && (scale !== 'float' || (given.blockSize !== undefined && given.blockSize !== 0)))
    fail('ERR_RANGE', `${parameter}.coding`, "'fixed' beside blockSize or scale: there is one step for a whole weight", coding)
  if (!auto)
    for (const name of ['averageBits', 'bytes'] as const)
      if (given[name] !== undefined) fail('ERR_RANGE', `${parameter}.${name}`, "nothing, except beside bits: 'auto'", given[name])
  if (given.averageBits !== undefined && given.bytes !== undefined)
    fail('ERR_RANGE', `${parameter}.bytes`, 'nothing beside averageBits', given.bytes)
  const total = given.bytes === undefined ? undefined : finite(given.bytes, `${parameter}.bytes`, 0)
  const average = given.averageBits === undefined ? 5 : finite(given.averageBits, `${parameter}.averageBits`, 1, 32)
  const few = bits === 'auto' || bits <= 4
  const standard = free ? 0 : format === 'int' ? (few ? 32 : 0) : format === 'nf4' ? 64 : 0
  const blockSize = given.blockSize === undefined ? standard : integer(given.blockSize, `${parameter}.blockSize`, 0, 2 ** 20)
  if (blockSize > 0 && blockSize < 8)
    fail('ERR_RANGE', `${parameter}.blockSize`, '0 (per channel) or at least 8', blockSize)
  const storage = given.storage === undefined ? 'folded' : oneOf(given.storage, `${parameter}.storage`, ['folded', 'qdq'])
  if (storage === 'qdq' && format !== 'int')
    fail('ERR_RANGE', `${parameter}.storage`, `'folded' beside the format '${format}': DequantizeLinear reads integers`, storage)
  if (format === 'float16' && (method !== 'nearest' || scale !== 'float' || blockSize !== 0))
    fail('ERR_RANGE', `${parameter}.format`, "another one beside method, scale or blockSize: float16 has no scales", format)
  return {
    step: 'quantize',
    format,
    bits,
    ...(!auto ? {} : total === undefined ? { averageBits: average } : { bytes: total }),
    method,
    coding,
    scale,
    storage,
    blockSize,
    maxError:
      given.maxError === undefined
        ? format === 'int' && !calibrated && !free && bits !== 'auto'
          ? kMaxError[bits]!
          : format === 'float16'
            ? 0.01
            : 1
        : finite(given.maxError, `${parameter}.maxError`, 0),
    nonFinite:
      given.nonFinite === undefined ? 'error' : oneOf(given.nonFinite, `${parameter}.nonFinite`, ['error', 'keep']),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}
