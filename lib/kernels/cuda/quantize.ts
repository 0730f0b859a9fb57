import { WhittleError } from '../../errors'
import { bitsOf, byteLengthOf, type TypedArray } from '../../tensor'
import { dims as checkDims, fail, oneOf, options } from '../../validate'
import { isDeviceTensor, type DeviceTensor } from '../device'
import type { DequantizeOptions, QuantizeOptions } from '../quantize'
import {
  codeArguments,
  codesOf,
  floatCode,
  kCodeTypes,
  kFloatTypes,
  kSchemeKeys,
  roundingOf,
  ruleArguments,
  scalesOf,
  shapeArguments,
  shapeOf,
  typeOfZero,
  zerosOf,
  type Codes,
  type CodeType,
  type Shape,
} from '../scheme'
import { runAsync, runSync, type Routine, type Turn } from './call'

/** A `QuantizedTensor` whose codes, scales and zero points lie on a GPU; each is disposed of by itself. */
export interface DeviceQuantized {
  readonly type: CodeType
  readonly dims: readonly number[]
  /** The codes. */
  readonly data: DeviceTensor
  readonly scale: DeviceTensor
  readonly zeroPoint: DeviceTensor
  readonly axis: number | null
  readonly blockSize: number | null
  readonly bits: number
}

/** Options of `quantize` for a tensor on a GPU; scales and zero points are numbers or tensors on the same one. */
export interface DeviceQuantizeOptions extends Omit<QuantizeOptions, 'scale' | 'zeroPoint' | 'out'> {
  readonly scale?: number | DeviceTensor
  readonly zeroPoint?: number | DeviceTensor
  /** Memory for the codes, or for codes, scales and zero points. */
  readonly out?: DeviceTensor | { readonly data: DeviceTensor; readonly scale?: DeviceTensor; readonly zeroPoint?: DeviceTensor }
}

/** Options of `dequantize` for codes on a GPU. */
export interface DeviceDequantizeOptions extends Omit<DequantizeOptions, 'out'> {
  readonly out?: DeviceTensor
}

/** What `dequantize` takes on a GPU: a {@link DeviceQuantized}, or codes and scales from elsewhere. */
export interface DeviceQuantizedLike {
  readonly data: DeviceTensor
  readonly scale: number | DeviceTensor
  readonly zeroPoint?: number | DeviceTensor | null
  readonly axis?: number | null
  readonly blockSize?: number | null
  readonly bits?: number
}

/** A parameter that came as a number: on the device at the first step. */
interface Placed {
  readonly tensor: DeviceTensor
  readonly from?: TypedArray
}

// A number goes the way that it goes on the CPU, and then to the device.
function scaleTensor(turn: Turn, value: unknown, shape: Shape, parameter: string): Placed {
  if (typeof value === 'number') return { tensor: turn.make(parameter, 'float32', shape.dims), from: scalesOf(value, shape, parameter) }
  return { tensor: turn.operandOf(value, parameter, ['float32'], shape.dims, false) }
}

function zeroTensor(turn: Turn, value: unknown, shape: Shape, codes: Codes, parameter: string): Placed | null {
  if (value === undefined || value === null) return null
  if (typeof value === 'number') {
    const from = zerosOf(value, shape, codes, parameter) as TypedArray
    return { tensor: turn.make(parameter, codes.type, shape.dims), from }
  }
  return { tensor: turn.operandOf(value, parameter, [codes.type], shape.dims, false) }
}

function* upload(...placed: readonly (Placed | null)[]): Routine<void> {
  for (const p of placed) if (p?.from && p.from.length > 0) yield { to: p.tensor, from: p.from }
}

// A value out of range can only be a scale.
const parameterOf = (scale: string) => (status: number) => {
  if (status === 3) throw new WhittleError('ERR_RANGE', scale, `${scale}: expected numbers that are finite and above 0, and with their codes in range`)
}

function* encode(turn: Turn, input: unknown, given: unknown): Routine<DeviceQuantized> {
  const o = options(given, 'options', [...kSchemeKeys, 'scale', 'zeroPoint', 'rounding', 'seed', 'threads', 'out'] as const)
  const x = turn.operand(input, 'x', kFloatTypes)
  const hasScale = o.scale !== undefined && o.scale !== null
  const hasZero = o.zeroPoint !== undefined && o.zeroPoint !== null
  if (hasZero && !hasScale) throw new WhittleError('ERR_RANGE', 'zeroPoint', 'zeroPoint: needs a scale beside it')
  const shape = shapeOf(x.dims, o.axis, o.blockSize)
  const codes = codesOf(o, hasScale, isDeviceTensor(o.zeroPoint) ? typeOfZero({ type: o.zeroPoint.type }) : undefined)
  const [rounding, seed, threads] = roundingOf(o)
  const out = o.out ?? undefined
  if (out !== undefined && (typeof out !== 'object' || Array.isArray(out))) fail('ERR_DTYPE', 'out', 'a device tensor or { data, scale, zeroPoint }', out)
  const bare = isDeviceTensor(out) || ArrayBuffer.isView(out) ? { data: out } : ((out ?? {}) as { data?: unknown; scale?: unknown; zeroPoint?: unknown })
  const scaleIn = hasScale ? scaleTensor(turn, o.scale, shape, 'scale') : null
  const zeroIn = zeroTensor(turn, o.zeroPoint, shape, codes, 'zeroPoint')
  const q = turn.result(bare.data, bare.data === out ? 'out' : 'out.data', codes.type, x.dims)
  const scale = scaleIn?.tensor ?? turn.result(bare.scale, 'out.scale', 'float32', shape.dims)
  const zero = zeroIn?.tensor ?? turn.result(hasScale ? undefined : bare.zeroPoint, 'out.zeroPoint', codes.type, shape.dims)
  // What a caller's scale means without zero points, for those who read the result.
  const zeros = hasScale && !zeroIn ? { tensor: zero, from: new Uint8Array(byteLengthOf(codes.type, shape.count)) } : null
  yield* upload(scaleIn, zeroIn, zeros)
  yield {
    name: 'cudaQuantize',
    numbers: [...shapeArguments(shape), ...codeArguments(codes, rounding, seed, threads).slice(0, -1), ...ruleArguments(codes), !hasScale, floatCode(x.type)],
    tensors: [x, scale, hasScale && !zeroIn ? null : zero, q],
    parameter: 'x',
    refused: parameterOf('scale'),
  }
  return { type: codes.type, dims: x.dims, data: q, scale, zeroPoint: zero, axis: shape.along, blockSize: shape.block || null, bits: codes.bits }
}

function* decode(turn: Turn, input: unknown, given: unknown): Routine<DeviceTensor> {
  const o = options(given, 'options', ['type', 'threads', 'out'] as const)
  if (isDeviceTensor(input)) fail('ERR_DTYPE', 'q.scale', 'codes with a scale for each group', undefined)
  const like = input as { [K in keyof DeviceQuantizedLike]?: unknown } & { dims?: unknown; type?: unknown }
  const q = turn.operand(like.data, 'q.data', kCodeTypes)
  if (like.dims !== undefined && !sameList(checkDims(like.dims, 'q.dims'), q.dims)) fail('ERR_SHAPE', 'q.dims', `[${q.dims.join(', ')}], as the codes have`, like.dims)
  if (like.type !== undefined && like.type !== q.type) fail('ERR_DTYPE', 'q.type', `${q.type}, as the codes are`, like.type)
  const type = o.type === undefined ? 'float32' : oneOf(o.type, 'type', kFloatTypes)
  const shape = shapeOf(q.dims, like.axis, like.blockSize)
  const codes = codesOf({ type: q.type, bits: like.bits }, true)
  if (like.scale === undefined) fail('ERR_DTYPE', 'q.scale', 'a scale for each group', like.scale)
  const scale = scaleTensor(turn, like.scale, shape, 'q.scale')
  const zero = zeroTensor(turn, like.zeroPoint, shape, codes, 'q.zeroPoint')
  roundingOf({ threads: o.threads })
  const y = turn.result(o.out, 'out', type, q.dims)
  yield* upload(scale, zero)
  yield {
    name: 'cudaDequantize',
    numbers: [...shapeArguments(shape), bitsOf(codes.type), codes.signed, codes.qmin, codes.qmax, floatCode(type)],
    tensors: [q, scale.tensor, zero?.tensor ?? null, y],
    parameter: 'q.data',
    refused: parameterOf('q.scale'),
  }
  // What was brought for this call alone.
  for (const p of [scale, zero]) if (p?.from) p.tensor.dispose()
  return y
}

const sameList = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((d, i) => d === b[i])

/**
 * `quantize` on a GPU: codes, scales and zero points have the CPU's bits.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere
 */
export const quantize = (x: DeviceTensor, options?: DeviceQuantizeOptions): DeviceQuantized => runSync((turn) => encode(turn, x, options))

/** {@link quantize} off the JavaScript thread. */
export const quantizeAsync = async (x: DeviceTensor, options?: DeviceQuantizeOptions): Promise<DeviceQuantized> =>
  runAsync((turn) => encode(turn, x, options))

/** `dequantize` on a GPU, with the CPU's bits. */
export const dequantize = (q: DeviceQuantized | DeviceQuantizedLike, options?: DeviceDequantizeOptions): DeviceTensor =>
  runSync((turn) => decode(turn, q, options))

/** {@link dequantize} off the JavaScript thread. */
export const dequantizeAsync = async (q: DeviceQuantized | DeviceQuantizedLike, options?: DeviceDequantizeOptions): Promise<DeviceTensor> =>
  runAsync((turn) => decode(turn, q, options))
