import { WhittleError } from '../../errors'
import type { TypedArray } from '../../tensor'
import { boolean, fail, finite, integer, options } from '../../validate'
import { isDeviceTensor, type DeviceTensor } from '../device'
import { kFakeKeys, type FakeQuantizeOptions } from '../fakequantize'
import { fromRanges } from '../ranges'
import { codeArguments, codesOf, floatCode, roundingOf, scalesOf, shapeArguments, shapeOf } from '../scheme'
import { runAsync, runSync, type Routine, type Turn } from './call'

/** Options of `fakeQuantize` for a tensor on a GPU; scales and zero points are numbers or tensors on the same one, zero points int32. */
export interface DeviceFakeQuantizeOptions extends Omit<FakeQuantizeOptions, 'scale' | 'zeroPoint' | 'grad' | 'out'> {
  readonly scale?: number | DeviceTensor
  readonly zeroPoint?: number | DeviceTensor
  readonly grad?: DeviceTensor
  /** Memory for `y`, or for `y` and `gradX`. */
  readonly out?: DeviceTensor | { readonly y?: DeviceTensor; readonly gradX?: DeviceTensor }
}

/** `FakeQuantized` on a GPU; each tensor is disposed of by itself. */
export interface DeviceFakeQuantized {
  readonly y: DeviceTensor
  readonly scale: DeviceTensor
  readonly zeroPoint: DeviceTensor
  readonly gradX?: DeviceTensor
  readonly gradScale?: DeviceTensor
  readonly gradZeroPoint?: DeviceTensor
}

function* fake(turn: Turn, input: unknown, given: unknown): Routine<DeviceFakeQuantized> {
  const o = options(given, 'options', kFakeKeys)
  const x = turn.operand(input, 'x', ['float32'])
  const shape = shapeOf(x.dims, o.axis, o.blockSize)
  const hasScale = o.scale !== undefined && o.scale !== null
  const hasZero = o.zeroPoint !== undefined && o.zeroPoint !== null
  if (hasZero && !hasScale) throw new WhittleError('ERR_RANGE', 'zeroPoint', 'zeroPoint: needs a scale beside it')
  let codes = codesOf(o, hasScale)
  let low = codes.signed ? -(2 ** (codes.bits - 1)) : 0
  let high = low + 2 ** codes.bits - 1
  if (o.qmin !== undefined || o.qmax !== undefined) {
    if (!hasScale) throw new WhittleError('ERR_RANGE', 'qmin', 'qmin: needs a scale beside it')
    low = integer(o.qmin, 'qmin', -32768, 65534)
    high = integer(o.qmax, 'qmax', low + 1, 65535)
    codes = { ...codes, qmin: low, qmax: high }
  }
  const [rounding, seed, threads] = roundingOf(o)
  const grad = o.grad === undefined || o.grad === null ? null : turn.operandOf(o.grad, 'grad', ['float32'], x.dims, false)
  const learned = o.learned !== undefined && boolean(o.learned, 'learned')
  if (learned && !grad) throw new WhittleError('ERR_RANGE', 'learned', 'learned: needs grad, the gradient by y')
  const factor = o.gradientScale === undefined ? 1 : finite(o.gradientScale, 'gradientScale')
  const out = o.out ?? undefined
  if (out !== undefined && (typeof out !== 'object' || Array.isArray(out))) fail('ERR_DTYPE', 'out', 'a device tensor or { y, gradX }', out)
  const places = isDeviceTensor(out) || ArrayBuffer.isView(out) ? { y: out } : (options(out, 'out', ['y', 'gradX']) as { y?: unknown; gradX?: unknown })

  let scaleFrom: TypedArray | undefined
  let zeroFrom: TypedArray | undefined
  let scale: DeviceTensor | undefined
  let zero: DeviceTensor | undefined
  if (typeof o.scale === 'number') scaleFrom = scalesOf(o.scale, shape)
  else if (hasScale) scale = turn.operandOf(o.scale, 'scale', ['float32'], shape.dims, false)
  if (typeof o.zeroPoint === 'number') zeroFrom = new Int32Array(shape.count).fill(integer(o.zeroPoint, 'zeroPoint', low, high))
  else if (hasZero) zero = turn.operandOf(o.zeroPoint, 'zeroPoint', ['int32'], shape.dims, false)
  else zeroFrom = new Int32Array(shape.count)

  const y = turn.result(places.y, 'out', 'float32', x.dims)
  const gradX = grad && turn.result(places.gradX, 'out.gradX', 'float32', x.dims)
  scale ??= turn.make('scale', 'float32', shape.dims)
  zero ??= turn.make('zeroPoint', 'int32', shape.dims)
  const gradScale = learned ? turn.make('gradScale', 'float32', shape.dims) : null
  const gradZeroPoint = learned ? turn.make('gradZeroPoint', 'float32', shape.dims) : null
  if (!hasScale && shape.count > 0) {
    // A few numbers a group: their parameters are found on the host, as for the CPU's function.
    const result = new Float64Array(2 * shape.count)
    yield { name: 'cudaRanges', numbers: [...shapeArguments(shape), floatCode('float32')], tensors: [x], result, parameter: 'x' }
    const found = fromRanges(Float32Array.from(result.subarray(0, shape.count)), Float32Array.from(result.subarray(shape.count)), codes)
    scaleFrom = found.scale
    zeroFrom = found.zero
  }
  if (scaleFrom && shape.count > 0) yield { to: scale, from: scaleFrom }
  if (zeroFrom && shape.count > 0) yield { to: zero, from: zeroFrom }
  yield {
    name: 'cudaFakeQuantize',
    numbers: [...shapeArguments(shape), ...codeArguments(codes, rounding, seed, threads).slice(0, -1), factor],
    tensors: [x, scale, zero, y, grad, gradX, gradScale, gradZeroPoint],
    parameter: 'x',
    refused: (status) => {
      if (status === 3) throw new WhittleError('ERR_RANGE', 'scale', 'scale: expected numbers that are finite and above 0, and with their codes in range')
    },
  }
  return { y, scale, zeroPoint: zero, ...(gradX && { gradX }), ...(gradScale && { gradScale }), ...(gradZeroPoint && { gradZeroPoint }) }
}

/**
 * `fakeQuantize` on a GPU: values and `gradX` have the CPU's bits, sums over a group run in float64 as there, in another order. Zero
 * points on the device are taken as they are.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere
 */
export const fakeQuantize = (x: DeviceTensor, options?: DeviceFakeQuantizeOptions): DeviceFakeQuantized => runSync((turn) => fake(turn, x, options))

/** {@link fakeQuantize} off the JavaScript thread. */
export const fakeQuantizeAsync = async (x: DeviceTensor, options?: DeviceFakeQuantizeOptions): Promise<DeviceFakeQuantized> =>
  runAsync((turn) => fake(turn, x, options))
