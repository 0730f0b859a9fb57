import { pin } from '../async'
import { WhittleError } from '../errors'
import { sizeOf, typedArrayName, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { boolean, fail, finite, integer } from '../validate'
import { fromRanges, prepareRanges } from './ranges'
import {
  codeArguments,
  codesOf,
  destination,
  kSchemeKeys,
  options,
  roundingOf,
  run,
  runAsync,
  scalesOf,
  shapeArguments,
  shapeOf,
  tensor,
  typeOfZero,
  zerosOf,
  type Codes,
  type Parameter,
  type Prepared,
  type Rounding,
  type Scheme,
  type Shape,
} from './scheme'

/** Options of {@link fakeQuantize}. */
export interface FakeQuantizeOptions extends Scheme {
  /** Scales to use; default: those that follow from the values. */
  readonly scale?: Parameter
  /** Only beside `scale`. Default 0. */
  readonly zeroPoint?: Parameter
  /** Lowest and highest code, in place of what `bits` and `type` say; both or none, and only beside `scale`. */
  readonly qmin?: number
  readonly qmax?: number
  readonly rounding?: Rounding
  readonly seed?: number
  /** Gradient of the loss by `y`, float32 of `x`'s size: asks for `gradX`. */
  readonly grad?: TensorLike | Float32Array
  /** True: the scale is learned, so `gradScale` and `gradZeroPoint` are computed too (LSQ). Needs `grad`. */
  readonly learned?: boolean
  /** Factor of `gradScale` and `gradZeroPoint`; LSQ takes `1 / sqrt(x.size · qmax)`. Default 1. */
  readonly gradientScale?: number
  readonly threads?: number
  /** Memory for `y`, or for `y` and `gradX`. */
  readonly out?: Float32Array | Tensor | { readonly y?: unknown; readonly gradX?: unknown }
}

/** What {@link fakeQuantize} answers. */
export interface FakeQuantized {
  /** float32, dims of `x`: quantized and back */
  readonly y: Tensor<Float32Array>
  readonly scale: Tensor<Float32Array>
  readonly zeroPoint: Tensor<Int32Array>
  /** straight-through: `grad` where the code was not clipped, else 0 */
  readonly gradX?: Tensor<Float32Array>
  /** one for each group */
  readonly gradScale?: Tensor<Float32Array>
  readonly gradZeroPoint?: Tensor<Float32Array>
}

/** @internal */
export const kFakeKeys = [
  ...kSchemeKeys,
  'scale',
  'zeroPoint',
  'qmin',
  'qmax',
  'rounding',
  'seed',
  'grad',
  'learned',
  'gradientScale',
  'threads',
  'out',
] as const

interface Parsed {
  readonly x: Tensor
  readonly shape: Shape
  readonly codes: Codes
  readonly threads: number
  /** null: they follow from the values */
  readonly scale: Float32Array | null
  readonly zero: Int32Array
  prepare(scale: Float32Array, zero: Int32Array): Prepared<FakeQuantized>
}

function zeros(value: unknown, shape: Shape, codes: Codes): Int32Array {
  const packed = zerosOf(value, shape, codes)
  const wide = new Int32Array(shape.count)
  if (!packed) return wide
  const bits = Math.min(8, packed.BYTES_PER_ELEMENT === 1 ? Number(/\d+/.exec(codes.type)![0]) : 8)
  if (bits === 8) wide.set(packed as Int8Array)
  else
    for (let i = 0; i < wide.length; i++) {
      const v = ((packed as Uint8Array)[Math.floor((i * bits) / 8)]! >> ((i * bits) % 8)) & (2 ** bits - 1)
      wide[i] = codes.signed && v >= 2 ** (bits - 1) ? v - 2 ** bits : v
    }
  return wide
}

// `hold` is `pin` where the values are read again after JavaScript had a chance to run.
function parse(input: unknown, given: unknown, hold = <T extends TypedArray>(view: T): T => view): Parsed {
  const o = options(given, 'options', kFakeKeys)
  const x = tensor(input, 'x', ['float32'])
  const shape = shapeOf(x.dims, o.axis, o.blockSize)
  const hasScale = o.scale !== undefined && o.scale !== null
  const hasZero = o.zeroPoint !== undefined && o.zeroPoint !== null
  if (hasZero && !hasScale) throw new WhittleError('ERR_RANGE', 'zeroPoint', 'zeroPoint: needs a scale beside it')
  let codes = codesOf(o, hasScale, typeOfZero(o.zeroPoint))
  const bounded = o.qmin !== undefined || o.qmax !== undefined
  if (bounded) {
    if (!hasScale) throw new WhittleError('ERR_RANGE', 'qmin', 'qmin: needs a scale beside it')
    const qmin = integer(o.qmin, 'qmin', -32768, 65534)
    codes = { ...codes, qmin, qmax: integer(o.qmax, 'qmax', qmin + 1, 65535) }
  }
  const [rounding, seed, threads] = roundingOf(o)
  let zero: Int32Array
  if (bounded && typeof o.zeroPoint === 'number')
    zero = new Int32Array(shape.count).fill(integer(o.zeroPoint, 'zeroPoint', codes.qmin, codes.qmax))
  else if (bounded && hasZero && ((o.zeroPoint as Tensor).type === 'int32' || typedArrayName(o.zeroPoint) === 'Int32Array')) {
    zero = tensor(o.zeroPoint, 'zeroPoint', ['int32']).data as Int32Array
    if (zero.length !== shape.count) fail('ERR_SHAPE', 'zeroPoint', `${shape.count} values, one for each group`, zero)
    for (const z of zero) integer(z, 'zeroPoint', codes.qmin, codes.qmax)
  } else if (typeof o.zeroPoint === 'number') {
    const low = codes.signed ? -(2 ** (codes.bits - 1)) : 0
    zero = new Int32Array(shape.count).fill(integer(o.zeroPoint, 'zeroPoint', low, low + 2 ** codes.bits - 1))
  } else zero = zeros(o.zeroPoint, shape, codes)

  const size = sizeOf(x.dims)
  let dy: Float32Array | null = null
  if (o.grad !== undefined && o.grad !== null) {
    dy = tensor(o.grad, 'grad', ['float32']).data as Float32Array
    if (dy.length !== size) fail('ERR_SHAPE', 'grad', `${size} elements, as x`, dy)
  }
  const learned = o.learned !== undefined && boolean(o.learned, 'learned')
  if (learned && !dy) throw new WhittleError('ERR_RANGE', 'learned', 'learned: needs grad, the gradient by y')
  const factor = o.gradientScale === undefined ? 1 : finite(o.gradientScale, 'gradientScale')
  const places: { y?: unknown; gradX?: unknown } =
    o.out === undefined || o.out === null
      ? {}
      : typedArrayName(o.out) || (o.out as Tensor).data !== undefined
        ? { y: o.out }
        : (options(o.out, 'out', ['y', 'gradX'] as const) as { y?: unknown; gradX?: unknown })
  const scaleIn = hasScale ? scalesOf(o.scale, shape) : null
  const inputs: TypedArray[] = [x.data, ...(dy ? [dy] : []), ...(scaleIn ? [scaleIn] : []), zero]
  const y = destination(places.y, 'out', 'float32', size, inputs)
  const dx = dy ? destination(places.gradX, 'out.gradX', 'float32', size, [...inputs, y.view]) : null
  const dscale = learned ? destination(undefined, 'gradScale', 'float32', shape.count, []) : null
  const dzero = learned ? destination(undefined, 'gradZeroPoint', 'float32', shape.count, []) : null
  const none = { view: null }
  const values = hold(x.data)
  if (dy) dy = hold(dy)
  return {
    x: { ...x, data: values },
    shape,
    codes,
    threads,
    scale: scaleIn,
    zero,
    prepare: (scale, zero) => ({
      call: 'fakeQuantize',
      numbers: [...shapeArguments(shape), ...codeArguments(codes, rounding, seed, threads), factor],
      operands: [{ view: values }, { view: scale }, { view: zero }, y, dy ? { view: dy } : none, dx ?? none, dscale ?? none, dzero ?? none],
      result: () => {
        const float = (dims: readonly number[], view: TypedArray): Tensor<Float32Array> => ({
          type: 'float32',
          dims,
          data: view as Float32Array,
        })
        return {
          y: float(x.dims, y.view),
          scale: float(shape.dims, scale),
          zeroPoint: { type: 'int32', dims: shape.dims, data: zero },
          ...(dx && { gradX: float(x.dims, dx.view) }),
          ...(dscale && { gradScale: float(shape.dims, dscale.view) }),
          ...(dzero && { gradZeroPoint: float(shape.dims, dzero.view) }),
        }
      },
    }),
  }
}

/**
 * Quantizes and comes back in float32, as training with quantization needs it, with the straight-through gradient and,
 * if `learned`, those of scale and zero point.
 *
 * With `v = x / scale` and `r = round(v) + zeroPoint`: `y = scale · (clip(r) − zeroPoint)`; `gradX = grad` where r was
 * not clipped, else 0; `gradScale = gradientScale · Σ grad · (round(v) − v, or the clipped code − zeroPoint)`;
 * `gradZeroPoint = gradientScale · Σ grad · (0, or −scale where clipped)`. Sums run in float64 and do not depend on the
 * number of threads.
 *
 * @param x float32, any rank; finite
 * @throws {WhittleError} as {@link quantize}; `ERR_SHAPE` on `grad`
 * @example
 * const { y, gradX } = fakeQuantize(w, { bits: 4, axis: 0, grad: gradOutput })
 * @see Jacob et al. 2018; Esser et al., Learned Step Size Quantization, 2020
 */
export function fakeQuantize(x: TensorLike | Float32Array, options?: FakeQuantizeOptions): FakeQuantized {
  const p = parse(x, options)
  if (p.scale) return run(p.prepare(p.scale, p.zero))
  const { lo, hi } = run(prepareRanges(p.x, p.shape, p.threads))
  const { scale, zero } = fromRanges(lo, hi, p.codes)
  return run(p.prepare(scale, zero))
}

/** {@link fakeQuantize} on another thread. */
export async function fakeQuantizeAsync(x: TensorLike | Float32Array, options?: FakeQuantizeOptions): Promise<FakeQuantized> {
  const p = parse(x, options, pin)
  if (p.scale) return runAsync(p.prepare(p.scale, p.zero))
  const { lo, hi } = await runAsync(prepareRanges(p.x, p.shape, p.threads))
  const { scale, zero } = fromRanges(lo, hi, p.codes)
  return runAsync(p.prepare(scale, zero))
}
