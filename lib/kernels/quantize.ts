import { WhittleError } from '../errors'
import { sizeOf, typedArrayName, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { fail, oneOf } from '../validate'
import {
  codeArguments,
  codesOf,
  destination,
  floatCode,
  kCodeTypes,
  kFloatTypes,
  kSchemeKeys,
  options,
  raw,
  roundingOf,
  ruleArguments,
  run,
  runAsync,
  scalesOf,
  shapeArguments,
  shapeOf,
  tensor,
  typeOfZero,
  zerosOf,
  type CodeType,
  type Operand,
  type Parameter,
  type Prepared,
  type Rounding,
  type Scheme,
} from './scheme'

/**
 * Codes with what is needed to read them: `x ≈ scale · (code − zeroPoint)`. It is a {@link Tensor} of its codes, so it
 * can be fed to whatever takes an integer tensor.
 */
export interface QuantizedTensor<T extends TypedArray = TypedArray> extends Tensor<T> {
  readonly type: CodeType
  /** float32, one for each group: dims `[1]` for a whole tensor, `[n]` for an axis, those of `x` with `axis` divided by
   * `blockSize` (rounded up) for blocks */
  readonly scale: Tensor<Float32Array>
  /** of the codes' type and the scales' dims */
  readonly zeroPoint: Tensor
  /** counted from the first axis; null for a whole tensor */
  readonly axis: number | null
  readonly blockSize: number | null
  /** significant bits of a code; may be fewer than the type holds */
  readonly bits: number
}

/** Options of {@link quantize}. */
export interface QuantizeOptions extends Scheme {
  /** Scales to use instead of those that follow from the values: finite, above 0, one for each group. */
  readonly scale?: Parameter
  /** Only beside `scale`: one for each group. Default 0. */
  readonly zeroPoint?: Parameter
  /** Default `nearest-even`. `stochastic` adds uniform noise before rounding down; it depends on `seed` and on an
   * element's index only, not on CPU or threads. */
  readonly rounding?: Rounding
  /** Of the stochastic rounding: an integer from 0 to 2^53 − 1. Default 0. */
  readonly seed?: number
  /** Threads to use, 1 to 256. Default: see {@link setThreads}. */
  readonly threads?: number
  /** Memory for the codes, or (an earlier result, say) for codes, scales and zero points. It may not overlap an input. */
  readonly out?: TypedArray | { readonly data: TypedArray; readonly scale?: unknown; readonly zeroPoint?: unknown }
}

/** Options of {@link dequantize}. */
export interface DequantizeOptions {
  /** Type of the result. Default `float32`. */
  readonly type?: 'float32' | 'float16' | 'bfloat16'
  readonly threads?: number
  /** Memory for the result, bare or in a tensor. */
  readonly out?: TypedArray | Tensor
}

const kQuantizeKeys = [...kSchemeKeys, 'scale', 'zeroPoint', 'rounding', 'seed', 'threads', 'out'] as const

function prepareQuantize(input: unknown, given: unknown): Prepared<QuantizedTensor> {
  const o = options(given, 'options', kQuantizeKeys)
  const x = tensor(input, 'x', kFloatTypes)
  const hasScale = o.scale !== undefined && o.scale !== null
  const hasZero = o.zeroPoint !== undefined && o.zeroPoint !== null
  if (hasZero && !hasScale) throw new WhittleError('ERR_RANGE', 'zeroPoint', 'zeroPoint: needs a scale beside it')
  const shape = shapeOf(x.dims, o.axis, o.blockSize)
  const codes = codesOf(o, hasScale, typeOfZero(o.zeroPoint))
  const [rounding, seed, threads] = roundingOf(o)
  const inputs: TypedArray[] = [x.data]
  const scaleIn = hasScale ? scalesOf(o.scale, shape) : null
  const zeroIn = zerosOf(o.zeroPoint, shape, codes)
  if (scaleIn) inputs.push(scaleIn)
  if (zeroIn) inputs.push(zeroIn)

  const bare = typedArrayName(o.out) ? { data: o.out } : ((o.out ?? {}) as { data?: unknown; scale?: unknown; zeroPoint?: unknown })
  if (typeof bare !== 'object') fail('ERR_DTYPE', 'out', 'a typed array or { data, scale, zeroPoint }', bare)
  const taken = [...inputs]
  const place = (value: unknown, parameter: string, type: CodeType | 'float32', count: number): Operand & { view: TypedArray } => {
    const operand = destination(value, parameter, type, count, taken)
    taken.push(operand.view)
    return operand
  }
  const q = place(bare.data, bare === o.out ? 'out.data' : 'out', codes.type, sizeOf(x.dims))
  // Scales and zero points that the caller gave are inputs; the result holds them as they are.
  const scale: Operand & { view: TypedArray } = scaleIn ? { view: scaleIn } : place(bare.scale, 'out.scale', 'float32', shape.count)
  const zero: Operand & { view: TypedArray } =
    zeroIn ? { view: zeroIn } : place(hasScale ? undefined : bare.zeroPoint, 'out.zeroPoint', codes.type, shape.count)
  return {
    call: 'quantize',
    numbers: [
      ...shapeArguments(shape),
      ...codeArguments(codes, rounding, seed, threads),
      ...ruleArguments(codes),
      !hasScale,
      floatCode(x.type),
    ],
    operands: [{ view: raw(x) }, scale, hasScale && !zeroIn ? { view: null } : zero, q],
    result: () => ({
      type: codes.type,
      dims: x.dims,
      data: q.view,
      scale: { type: 'float32', dims: shape.dims, data: scale.view as Float32Array },
      zeroPoint: { type: codes.type, dims: shape.dims, data: zero.view },
      axis: shape.along,
      blockSize: shape.block || null,
      bits: codes.bits,
    }),
  }
}

/**
 * Uniform affine quantization: `q = clip(round(x / scale) + zeroPoint)`, with scales computed from the values of each
 * group, or given. The division is a true float32 division and rounding comes before the zero point is added, so codes
 * are the same on every CPU and those of ONNX QuantizeLinear.
 *
 * @param x float32, float16 or bfloat16, any rank; finite
 * @returns codes of `x`'s dims; 4- and 2-bit codes packed, lowest bits first
 * @throws {WhittleError} `ERR_RANGE` on `x` for NaN or infinity, on `scale` if one is not finite and above 0;
 * `ERR_SHAPE`, `ERR_DTYPE`, `ERR_RANGE` on options that do not fit; `ERR_HANDLE` for a detached buffer
 * @example
 * const w = { type: 'float32', dims: [768, 768], data: weights }
 * const q = quantize(w, { axis: 0 })                                   // int8, one scale a row
 * const q4 = quantize(w, { bits: 4, blockSize: 32, symmetric: false }) // uint4, one scale for 32 columns of a row
 * @see Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018
 */
export function quantize(x: TensorLike | TypedArray, options?: QuantizeOptions): QuantizedTensor {
  return run(prepareQuantize(x, options))
}

/** {@link quantize} on another thread. `x` and `out` above 256 KiB are used in place and can no longer be transferred. */
export async function quantizeAsync(x: TensorLike | TypedArray, options?: QuantizeOptions): Promise<QuantizedTensor> {
  return runAsync(prepareQuantize(x, options))
}

/** What {@link dequantize} takes: a {@link QuantizedTensor}, or codes and scales from elsewhere. */
export interface QuantizedLike {
  readonly type: string
  readonly dims: readonly number[]
  readonly data: unknown
  readonly scale: Parameter
  /** Default 0. */
  readonly zeroPoint?: Parameter
  readonly axis?: number | null
  readonly blockSize?: number | null
  readonly bits?: number
  readonly location?: string
}

function prepareDequantize(input: unknown, given: unknown): Prepared<Tensor> {
  const o = options(given, 'options', ['type', 'threads', 'out'] as const)
  const q = tensor(input, 'q', kCodeTypes)
  const { scale, zeroPoint, axis, blockSize, bits } = input as QuantizedLike
  if (scale === undefined) fail('ERR_DTYPE', 'q.scale', 'a scale for each group', scale)
  const type = o.type === undefined ? 'float32' : oneOf(o.type, 'type', kFloatTypes)
  const shape = shapeOf(q.dims, axis, blockSize)
  const codes = codesOf({ type: q.type, bits }, true)
  const scales = scalesOf(scale, shape, 'q.scale')
  const zeros = zerosOf(zeroPoint, shape, codes, 'q.zeroPoint')
  const [, , threads] = roundingOf({ threads: o.threads })
  const inputs = [q.data, scales, ...(zeros ? [zeros] : [])]
  const y = destination(o.out, 'out', type, sizeOf(q.dims), inputs)
  const written = typedArrayName(y.view) === 'Float16Array' ? { ...y, view: raw({ type, dims: [], data: y.view }) } : y
  return {
    call: 'dequantize',
    numbers: [...shapeArguments(shape), ...codeArguments(codes, 'nearest-even', 0, threads), floatCode(type)],
    operands: [{ view: q.data }, { view: scales }, { view: zeros }, written],
    result: () => ({ type, dims: q.dims, data: y.view }),
  }
}

/**
 * The numbers that codes stand for: `scale · (code − zeroPoint)`, one float32 product.
 *
 * @param q a result of {@link quantize}, or any `{ type, dims, data, scale, zeroPoint?, axis?, blockSize? }`
 * @throws {WhittleError} `ERR_RANGE` on `scale` if one is not finite and above 0, or so large that a code times it is
 * not finite
 * @example
 * const y = dequantize(quantize(x, { bits: 4, blockSize: 32 })) // float32, dims of x
 */
export function dequantize(q: QuantizedTensor | QuantizedLike, options?: DequantizeOptions): Tensor {
  return run(prepareDequantize(q, options))
}

/** {@link dequantize} on another thread. */
export async function dequantizeAsync(q: QuantizedTensor | QuantizedLike, options?: DequantizeOptions): Promise<Tensor> {
  return runAsync(prepareDequantize(q, options))
}
