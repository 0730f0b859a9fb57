import { WhittleError } from '../../errors'
import { dequantize, quantize, type QuantizedTensor } from '../../kernels/quantize'
import { raiseIrVersion } from '../../model/fold'
import { MemorySource, type DataSource } from '../../model/graph'
import type { Model } from '../../model/model'
import { raiseOpset } from '../../model/opset'
import { weights, type Weight } from '../../model/weights'
import { bytes, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { ComputedSource, firstNonFinite, relativeError, sparsityOf, type KeepBudget, type Scratch } from '../computed'
import { fail, finite, integer, oneOf, options } from '../../validate'
import { parseSelector, type LayerSelector, type Layers } from '../selectors'
import { bytesOf, Emitter, layoutOf, type Layout, type Storage } from './emit'
import { chooseLayers, describeWeight, type Context, type Pass, type PassResult } from './pass'

/**
 * Weight-only quantization in standard ONNX ops: symmetric, codes ±(2^(bits−1)−1), nearest even, true division.
 */
export interface QuantizeStep {
  readonly step: 'quantize'
  /** 2 to 8, default 8. 5 to 8 bits lie in an int8 tensor, 2 to 4 bits two values to a byte. */
  readonly bits?: number
  /**
   * `'folded'` (default) writes ops that onnxruntime evaluates once, when it loads the model (int8: `Cast` → `Mul`,
   * at the opset the file has): the run is as fast as float. `'qdq'` writes `DequantizeLinear` (opset 13, blocks 21),
   * which tools look for, but which onnxruntime evaluates anew in every run unless the session option
   * `extra: { session: { disable_quant_qdq: '1' } }` is set.
   */
  readonly storage?: Storage
  /**
   * Values along the reduction that share a scale; 0 is one scale an output channel. Default 0 for 5 to 8 bits and 32
   * for fewer. A weight whose reduction it does not divide takes the largest divisor below it, down to 8; without one it
   * falls back to int8 per channel, and the report says so.
   */
  readonly blockSize?: number
  /**
   * Largest relative error ‖w − ŵ‖₂ / ‖w‖₂ of one weight; beyond it the weight stays float and the report names it.
   * Default by bits, 8 to 2: 0.03, 0.05, 0.08, 0.12, 0.15, 0.35, 0.8. It keeps
   * single weights from breaking; how many small errors a network bears only `evaluate` can tell.
   */
  readonly maxError?: number
  /** A weight with NaN or an infinity: `'error'` (default) throws `ERR_RANGE` with its name, `'keep'` leaves it float. */
  readonly nonFinite?: 'error' | 'keep'
  /** Default: every Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU and RNN weight of at least 256 values. */
  readonly layers?: Layers
}

/** @internal A step with every default written out: what the report holds, so that it replays exactly. */
export type ResolvedQuantize = Required<Omit<QuantizeStep, 'layers'>> & { readonly layers: LayerSelector }

/** Error budget by bits, see {@link QuantizeStep.maxError}. */
const kMaxError: Readonly<Record<number, number>> = { 8: 0.03, 7: 0.05, 6: 0.08, 5: 0.12, 4: 0.15, 3: 0.35, 2: 0.8 }

/** Below this a weight's scale, names and nodes eat what its codes save. */
const kMinElements = 256

/** Bytes that the nodes and names of one quantized weight take in the file, about. */
const kOverhead = 160

/** @internal Weight-only quantization, one tensor at a time. */
export const quantizePass: Pass<ResolvedQuantize> = { name: 'quantize', resolve: resolveQuantize, needs: () => [], apply }

async function apply(model: Model, step: ResolvedQuantize, context: Context): Promise<PassResult> {
  const { run, memory: { keep, scratch } } = context
  const chosen = chooseLayers(weights(model.graph), step.layers, kMinElements, { spared: context.spared })
  const emitter = new Emitter(model.graph)
  const layers: LayerReport[] = []
  for (const [i, weight] of chosen.entries()) {
    await run.tell('quantize', i, chosen.length, weight.name)
    const { report, result } = quantizeWeight(weight, step, scratch, keep)
    layers.push(report)
    if (!result) continue
    const { layout, codes, scales } = result
    // Below 4 every initializer must be an input, which runtimes do not take for a constant.
    raiseIrVersion(model, 4)
    raiseOpset(model, Emitter.opset(step.storage, layout))
    emitter.replace(weight, layout, step.storage, codes, scales)
  }
  emitter.finish()
  await run.tell('quantize', chosen.length, chosen.length)
  return { layers, summary: summarize(layers, step) }
}

interface Result {
  readonly layout: Layout
  readonly codes: DataSource
  readonly scales: Float32Array
}

/** Codes, scales and error of one weight; no result where it stays as it is. */
function quantizeWeight(
  weight: Weight,
  step: ResolvedQuantize,
  scratch: Scratch,
  keep: KeepBudget,
): { report: LayerReport; result?: Result } {
  const { initializer } = weight
  const base = describeWeight(weight)
  const kept = (reason: string, error?: number): { report: LayerReport } => ({
    report: {
      ...base,
      action: 'kept',
      reason,
      bytesAfter: base.bytesBefore,
      ...(error === undefined ? {} : { error }),
    },
  })
  if (initializer.type !== 'float32') return kept(`${initializer.type} weights are not quantized`)
  const { layout, reason } = layoutOf(weight, step.bits, step.blockSize)
  const bits = layout.container === 'int8' && step.bits <= 4 ? 8 : step.bits
  const bytesAfter = bytesOf(layout)
  if (bytesAfter + kOverhead >= base.bytesBefore) return kept('codes and scales would not be smaller')

  const values = scratch.read(initializer).data as Float32Array
  const bad = firstNonFinite(values)
  if (bad >= 0) {
    const text = `element ${bad} is ${values[bad]}`
    if (step.nonFinite === 'keep') return kept(text)
    throw new WhittleError(
      'ERR_RANGE',
      initializer.name,
      `${initializer.name}: expected finite weights, ${text} (nonFinite: 'keep' in the quantize step leaves such weights float)`,
    )
  }
  const quantized = codesOf(values, layout, bits)
  const back = dequantize(quantized, { out: scratch.floats('floats', values.length) }).data as Float32Array
  const error = relativeError(values, back)
  if (error > step.maxError)
    return kept(`its relative error ${percent(error)} is over ${percent(step.maxError)}`, error)

  const bytes = packed(quantized, layout)
  const codes = keep.take(bytes.byteLength)
    ? new MemorySource(bytes)
    : new ComputedSource(bytes.byteLength, () =>
        packed(codesOf(scratch.read(initializer).data as Float32Array, layout, bits), layout),
      )
  return {
    report: {
      ...base,
      action: 'quantized',
      bits,
      ...(layout.blockSize ? { blockSize: layout.blockSize } : {}),
      ...(reason ? { reason } : {}),
      bytesAfter,
      error,
      sparsity: sparsityOf(back),
    },
    result: { layout, codes, scales: quantized.scale.data },
  }
}

/** Fewer than 4 bits come one to a byte and are paired by {@link packed}: a file has no room for thirds of bytes. */
function codesOf(values: Float32Array, layout: Layout, bits: number): QuantizedTensor {
  return quantize(
    { type: 'float32', dims: layout.dims, data: values },
    {
      bits,
      type: layout.container === 'int4' && bits === 4 ? 'int4' : 'int8',
      axis: layout.axis,
      ...(layout.blockSize ? { blockSize: layout.blockSize } : {}),
    },
  )
}

/** The bytes that go to the file: as they are, or two codes to a byte, low nibble first. */
function packed({ type, data }: QuantizedTensor, layout: Layout): Uint8Array {
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
  if (layout.container === 'int8' || type === 'int4') return bytes
  const pairs = new Uint8Array(bytes.length / 2)
  for (let i = 0; i < pairs.length; i++) pairs[i] = (bytes[2 * i]! & 15) | (bytes[2 * i + 1]! << 4)
  return pairs
}

function summarize(layers: readonly LayerReport[], step: ResolvedQuantize): string {
  const done = layers.filter((l) => l.action === 'quantized')
  const kept = layers.length - done.length
  const sum = (pick: (l: LayerReport) => number): number => done.reduce((total, l) => total + pick(l), 0)
  const unit = step.blockSize ? `blocks of ${step.blockSize}` : 'one scale a channel'
  return (
    `Quantized ${done.length} of ${layers.length} weights to ${step.bits} bits (${unit}, ${step.storage}): ` +
    `${bytes(sum((l) => l.bytesBefore))} became ${bytes(sum((l) => l.bytesAfter))}${kept ? `; ${kept} stayed float` : ''}.`
  )
}

function resolveQuantize(value: object, parameter: string): ResolvedQuantize {
  const given = options(value, parameter, ['step', 'bits', 'storage', 'blockSize', 'maxError', 'nonFinite', 'layers'])
  const bits = given.bits === undefined ? 8 : integer(given.bits, `${parameter}.bits`, 2, 8)
  const blockSize =
    given.blockSize === undefined
      ? bits <= 4
        ? 32
        : 0
      : integer(given.blockSize, `${parameter}.blockSize`, 0, 2 ** 20)
  if (blockSize > 0 && blockSize < 8)
    fail('ERR_RANGE', `${parameter}.blockSize`, '0 (per channel) or at least 8', blockSize)
  return {
    step: 'quantize',
    bits,
    storage: given.storage === undefined ? 'folded' : oneOf(given.storage, `${parameter}.storage`, ['folded', 'qdq']),
    blockSize,
    maxError: given.maxError === undefined ? kMaxError[bits]! : finite(given.maxError, `${parameter}.maxError`, 0),
    nonFinite:
      given.nonFinite === undefined ? 'error' : oneOf(given.nonFinite, `${parameter}.nonFinite`, ['error', 'keep']),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}
