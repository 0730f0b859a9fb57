import { WhittleError } from '../errors'
import { sizeOf, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { finite } from '../validate'
import {
  codeArguments,
  codesOf,
  floatCode,
  kFloatTypes,
  kSchemeKeys,
  options,
  raw,
  ruleArguments,
  run,
  shapeArguments,
  shapeOf,
  tensor,
  zerosOf,
  type Codes,
  type CodeType,
  type Convention,
  type Prepared,
  type Scheme,
  type Shape,
} from './scheme'

/** Scales and zero points; may be given to {@link quantize} and {@link fakeQuantize} as their options. */
export interface QuantizationParameters {
  readonly scale: Tensor<Float32Array>
  readonly zeroPoint: Tensor
  readonly type: CodeType
  readonly bits: number
  readonly symmetric: boolean
  readonly convention: Convention
}

/** @internal lo and hi of each group. */
export function prepareRanges(x: Tensor, shape: Shape, threads: number): Prepared<{ lo: Float32Array; hi: Float32Array }> {
  const lo = new Float32Array(shape.count)
  const hi = new Float32Array(shape.count)
  const fresh = { parameter: 'x', fresh: true }
  return {
    call: 'quantizeRanges',
    numbers: [...shapeArguments(shape), floatCode(x.type), threads],
    operands: [{ view: raw(x) }, { view: lo, out: fresh }, { view: hi, out: fresh }],
    result: () => ({ lo, hi }),
  }
}

/** @internal Scales and zero points for ranges. */
export function fromRanges(lo: Float32Array, hi: Float32Array, codes: Codes): { scale: Float32Array; zero: Int32Array } {
  const scale = new Float32Array(lo.length)
  const zero = new Int32Array(lo.length)
  return run({
    call: 'quantizeParameters',
    numbers: [...codeArguments(codes, 'nearest-even', 0, 1), ...ruleArguments(codes), lo.length],
    operands: [lo, hi, scale, zero].map((view) => ({ view })),
    result: () => ({ scale, zero }),
  })
}

/** @internal */
export function asParameters(lo: Float32Array, hi: Float32Array, codes: Codes, shape: Shape): QuantizationParameters {
  const { scale, zero } = fromRanges(lo, hi, codes)
  const data = zerosOf(zero, shape, codes) as TypedArray
  return {
    scale: { type: 'float32', dims: shape.dims, data: scale },
    zeroPoint: { type: codes.type, dims: shape.dims, data },
    type: codes.type,
    bits: codes.bits,
    symmetric: codes.symmetric,
    convention: codes.torch ? 'torch' : 'onnx',
  }
}

const kParameterKeys = kSchemeKeys.filter((k) => k !== 'axis' && k !== 'blockSize')

/**
 * Scale and zero point for values between `min` and `max`, by the rule of {@link Scheme}. The range is widened to hold
 * 0; an empty one gives scale 1.
 *
 * @param min a number, or one for each group
 * @throws {WhittleError} `ERR_RANGE` on `min`, `max` for NaN or infinity, or where min > max
 * @example
 * quantizationParameters(-1, 3, { type: 'uint8' }).zeroPoint.data[0] // 64
 */
export function quantizationParameters(
  min: number | Float32Array,
  max: number | Float32Array,
  scheme?: Omit<Scheme, 'axis' | 'blockSize'>,
): QuantizationParameters {
  const codes = codesOf(options(scheme, 'options', kParameterKeys), false)
  const read = (value: unknown, parameter: string): Float32Array =>
    typeof value === 'number'
      ? Float32Array.of(finite(value, parameter, -3.4028234663852886e38, 3.4028234663852886e38))
      : (tensor(value, parameter, ['float32']).data as Float32Array)
  const lo = read(min, 'min')
  const hi = read(max, 'max')
  if (lo.length !== hi.length) throw new WhittleError('ERR_SHAPE', 'max', `max: expected ${lo.length} values as in min, got ${hi.length}`)
  for (let i = 0; i < lo.length; i++) {
    finite(lo[i], 'min')
    finite(hi[i], 'max', lo[i])
  }
  return asParameters(lo, hi, codes, { outer: 1, axis: lo.length, inner: 1, block: 0, dims: [lo.length], count: lo.length, along: 0 })
}

/** @internal The tensor and its groups. */
export function grouped(x: TensorLike | TypedArray, axis: unknown, blockSize?: unknown): { x: Tensor; shape: Shape; size: number } {
  const read = tensor(x, 'x', kFloatTypes)
  return { x: read, shape: shapeOf(read.dims, axis, blockSize), size: sizeOf(read.dims) }
}
