// How a tensor is cut into groups that share a scale, and which codes there are: shared by quantize, dequantize,
// fakeQuantize and Observer.
import { pin, pinOutput } from '../async'
import { WhittleError } from '../errors'
import { check, native, type NativeBinding } from '../native'
import { allocate, bitsOf, sizeOf, typedArrayName, type DataType, type Tensor, type TypedArray } from '../tensor'
import { boolean, fail, finite, integer, oneOf, options, output, tensor, typedArray } from '../validate'

/** Element types that quantized codes can have. */
export type CodeType = 'int8' | 'uint8' | 'int4' | 'uint4' | 'int2' | 'uint2' | 'int16' | 'uint16'

/** How `x / scale` becomes an integer. */
export type Rounding = 'nearest-even' | 'toward-zero' | 'stochastic'

/** Whose rule turns a range into a scale: see {@link Scheme.convention}. */
export type Convention = 'onnx' | 'torch'

/** Which codes there are and which elements share a scale. */
export interface Scheme {
  /** 2 to 8, or 16. Default: the width of `type`, else 8. */
  readonly bits?: number
  /**
   * Type of the codes. Default: the narrowest of int2, int4, int8, int16 (or their unsigned kin, if not `symmetric`)
   * that holds `bits`. int4 and int2 codes are packed.
   */
  readonly type?: CodeType
  /**
   * True: `scale = absmax / (2^(bits−1) − 1)`, codes ±(2^(bits−1) − 1) around a zero point of 0 (unsigned: 2^(bits−1)).
   * False: the range, widened to hold 0, is spread over all codes. Default: true unless `type` is unsigned.
   */
  readonly symmetric?: boolean
  /** One scale for each index of this axis; negative counts from the last. Default: one for the whole tensor. */
  readonly axis?: number | null
  /** One scale for each run of this many indices along `axis` (default axis: the last), as in ONNX opset 21. */
  readonly blockSize?: number | null
  /** Raises computed scales to a power of two (fixed point, Q-format). Default false. */
  readonly powerOfTwo?: boolean
  /**
   * `onnx` (default): symmetric codes are ±127 with scale absmax/127; a range of 0 gives scale 1. `torch`: symmetric
   * codes are −128…127 with scale absmax/127.5; scales are at least 2^-23.
   */
  readonly convention?: Convention
}

/** A scale or zero point as callers may give it: one number, or one for each group. */
export type Parameter = number | TypedArray | Tensor

/** @internal */
export interface Shape {
  readonly outer: number
  readonly axis: number
  readonly inner: number
  readonly block: number
  /** dims of scale and zero point */
  readonly dims: readonly number[]
  readonly count: number
  /** `axis` counted from the first, or null */
  readonly along: number | null
}

/** @internal */
export interface Codes {
  readonly type: CodeType
  readonly bits: number
  readonly signed: boolean
  readonly symmetric: boolean
  readonly qmin: number
  readonly qmax: number
  readonly middle: number
  readonly powerOfTwo: boolean
  readonly torch: boolean
}

/** @internal */
export const kSchemeKeys = ['bits', 'type', 'symmetric', 'axis', 'blockSize', 'powerOfTwo', 'convention'] as const
/** @internal */
export const kCodeTypes = ['int8', 'uint8', 'int4', 'uint4', 'int2', 'uint2', 'int16', 'uint16'] as const
/** @internal */
export const kFloatTypes = ['float32', 'float16', 'bfloat16'] as const

/** @internal The groups of a tensor of `dims`. */
export function shapeOf(dims: readonly number[], axis: unknown, blockSize: unknown): Shape {
  const block = blockSize === undefined || blockSize === null ? 0 : integer(blockSize, 'blockSize', 1, 2 ** 31 - 1)
  if ((axis === undefined || axis === null) && !block)
    return { outer: 1, axis: 1, inner: sizeOf(dims), block: 0, dims: [1], count: 1, along: null }
  if (dims.length === 0) throw new WhittleError('ERR_SHAPE', 'x.dims', 'x.dims: expected at least one axis, got []')
  let along = axis === undefined || axis === null ? -1 : integer(axis, 'axis', -dims.length, dims.length - 1)
  if (along < 0) along += dims.length
  const length = dims[along] as number
  const shape = {
    outer: sizeOf(dims.slice(0, along)),
    axis: length,
    inner: sizeOf(dims.slice(along + 1)),
    block,
    along,
  }
  const grouped = block ? dims.map((d, i) => (i === along ? Math.ceil(d / block) : d)) : [length]
  return { ...shape, dims: grouped, count: sizeOf(grouped) }
}

const kStorage: readonly (readonly [number, CodeType, CodeType])[] = [
  [2, 'int2', 'uint2'],
  [4, 'int4', 'uint4'],
  [8, 'int8', 'uint8'],
  [16, 'int16', 'uint16'],
]

/**
 * @internal The codes that a scheme asks for. `given` says that the caller brings the scales: the codes are then all of
 * the type's, unless `symmetric` is asked for by name.
 */
export function codesOf(o: Partial<Record<keyof Scheme, unknown>>, given: boolean, zeroType?: CodeType): Codes {
  const symmetricAsked = o.symmetric === undefined ? undefined : boolean(o.symmetric, 'symmetric')
  let type = o.type === undefined ? zeroType : oneOf(o.type, 'type', kCodeTypes)
  const bits = o.bits === undefined ? (type ? bitsOf(type) : 8) : integer(o.bits, 'bits', 2, 16)
  if (bits > 8 && bits !== 16) fail('ERR_RANGE', 'bits', 'an integer from 2 to 8, or 16', bits)
  if (type === undefined) {
    const row = kStorage.find(([width]) => width === bits) ?? kStorage[2]!
    type = (symmetricAsked ?? true) ? row[1] : row[2]
  }
  // 3 bits in an int8 are fine; a 4-bit byte is packed, so only 4-bit codes go there.
  if (bits > bitsOf(type) || (bits < bitsOf(type) && bitsOf(type) !== 8))
    fail('ERR_RANGE', 'bits', `what ${type} holds`, bits)
  const signed = !type.startsWith('u')
  const symmetric = symmetricAsked ?? signed
  const torch = o.convention !== undefined && oneOf(o.convention, 'convention', ['onnx', 'torch'] as const) === 'torch'
  const powerOfTwo = o.powerOfTwo !== undefined && boolean(o.powerOfTwo, 'powerOfTwo')
  const span = 2 ** bits
  let qmin = signed ? -span / 2 : 0
  if (symmetric && !torch && (!given || symmetricAsked)) qmin += 1
  return {
    type,
    bits,
    signed,
    symmetric,
    qmin,
    qmax: signed ? span / 2 - 1 : span - 1,
    middle: signed ? 0 : span / 2,
    powerOfTwo,
    torch,
  }
}

/** @internal */
export function typeOfZero(value: unknown): CodeType | undefined {
  const type = (value as { type?: unknown } | null | undefined)?.type
  return kCodeTypes.includes(type as CodeType) ? (type as CodeType) : undefined
}

/** @internal A float32 for each group. */
export function scalesOf(value: unknown, shape: Shape, parameter = 'scale'): Float32Array {
  let data: TypedArray
  if (typeof value === 'number') data = Float32Array.of(finite(value, parameter, Number.MIN_VALUE))
  else data = tensor(value, parameter, ['float32']).data
  if (data.length !== shape.count) fail('ERR_SHAPE', parameter, `${shape.count} values, one for each group`, data)
  return data as Float32Array
}

/** @internal A code for each group, in the storage of the codes; null where none is given. */
export function zerosOf(value: unknown, shape: Shape, codes: Codes, parameter = 'zeroPoint'): TypedArray | null {
  if (value === undefined || value === null) return null
  const lowest = codes.signed ? -(2 ** (codes.bits - 1)) : 0
  const highest = lowest + 2 ** codes.bits - 1
  const packed = bitsOf(codes.type) < 8
  if (typeof value === 'number' || typedArrayName(value) === 'Int32Array' || (value as Tensor).type === 'int32') {
    const wide =
      typeof value === 'number' ? [integer(value, parameter, lowest, highest)] : (tensor(value, parameter, ['int32']).data as Int32Array)
    if (wide.length !== shape.count) fail('ERR_SHAPE', parameter, `${shape.count} values, one for each group`, value)
    const data = allocate(codes.type, shape.count, parameter) as Uint8Array
    const width = bitsOf(codes.type)
    const each = 8 / width
    const mask = 2 ** width - 1
    for (let i = 0; i < wide.length; i++) {
      const z = integer(wide[i], parameter, lowest, highest)
      if (packed) data[Math.floor(i / each)]! |= (z & mask) << (width * (i % each))
      else data[i] = z
    }
    return data
  }
  const given: Tensor =
    packed && typedArrayName(value)
      ? { type: codes.type, dims: shape.dims, data: typedArray(value, parameter, [codes.type]) }
      : tensor(value, parameter, [codes.type])
  const want = packed ? Math.ceil((shape.count * bitsOf(codes.type)) / 8) : shape.count
  if (given.data.length !== want || (!packed && sizeOf(given.dims) !== shape.count))
    fail('ERR_SHAPE', parameter, `${shape.count} values, one for each group`, given.data)
  if (codes.bits < bitsOf(codes.type)) for (const z of given.data as Int8Array) integer(z, parameter, lowest, highest)
  return given.data
}

/** @internal Bits of a float16 or bfloat16 as native code reads them. */
export function raw(x: Tensor): TypedArray {
  return typedArrayName(x.data) === 'Float16Array'
    ? new Uint16Array(x.data.buffer as ArrayBuffer, x.data.byteOffset, x.data.length)
    : x.data
}

/** @internal */
export const floatCode = (type: DataType): number => kFloatTypes.indexOf(type as 'float32')

/** @internal Native arguments that describe a shape, and codes with their rounding. */
export const shapeArguments = (s: Shape): number[] => [s.outer, s.axis, s.inner, s.block]
/** @internal */
export function codeArguments(c: Codes, rounding: Rounding, seed: number, threads: number): (number | boolean)[] {
  const mode = ['nearest-even', 'toward-zero', 'stochastic'].indexOf(rounding)
  return [bitsOf(c.type), c.signed, c.qmin, c.qmax, mode, seed % 2 ** 32, Math.floor(seed / 2 ** 32), threads]
}
/** @internal */
export const ruleArguments = (c: Codes): (number | boolean)[] => [c.symmetric, c.middle, c.torch, c.powerOfTwo]

/** @internal Reads `rounding`, `seed` and `threads`. */
export function roundingOf(o: Partial<Record<'rounding' | 'seed' | 'threads', unknown>>): [Rounding, number, number] {
  return [
    o.rounding === undefined ? 'nearest-even' : oneOf(o.rounding, 'rounding', ['nearest-even', 'toward-zero', 'stochastic'] as const),
    o.seed === undefined ? 0 : integer(o.seed, 'seed', 0),
    o.threads === undefined ? 0 : integer(o.threads, 'threads', 1, 256),
  ]
}

/** @internal An array that goes into a native call, or comes out of it. */
export interface Operand {
  readonly view: TypedArray | null
  /** set on results: the parameter to name, and whether the caller can see the memory yet */
  readonly out?: { readonly parameter: string; readonly fresh: boolean }
}

/** @internal A native call that is ready to go, synchronously or not. */
export interface Prepared<R> {
  readonly call: Calls
  readonly numbers: readonly (number | boolean)[]
  readonly operands: readonly Operand[]
  result(): R
}

type Calls = 'quantize' | 'dequantize' | 'fakeQuantize' | 'quantizeRanges' | 'quantizeParameters' | 'quantizeHistogram'
type Native = Record<Calls, (...args: unknown[]) => number> & Record<`${Calls}Async`, (...args: unknown[]) => Promise<number>>

declare module '../native' {
  interface NativeBinding extends Native {}
}

// A NaN is the tensor's fault; a value out of range can only be a scale.
function checked(status: number): void {
  check(status, status === 3 ? 'scale' : 'x')
}

/** @internal */
export function run<R>(p: Prepared<R>): R {
  checked((native() as NativeBinding)[p.call](...p.numbers, ...p.operands.map((o) => o.view)))
  return p.result()
}

/** @internal */
export async function runAsync<R>(p: Prepared<R>): Promise<R> {
  const commits: (() => unknown)[] = []
  const views = p.operands.map(({ view, out }) => {
    if (!view) return null
    if (!out) return pin(view)
    const pinned = pinOutput(view, out.parameter, out.fresh)
    commits.push(() => pinned.commit())
    return pinned.view
  })
  checked(await (native() as NativeBinding)[`${p.call}Async`](...p.numbers, ...views))
  for (const commit of commits) commit()
  return p.result()
}

/** @internal A caller's memory for a result, bare or in a tensor, else fresh memory. */
export function destination(value: unknown, parameter: string, type: DataType, count: number, inputs: readonly ArrayBufferView[]): Required<Operand> & { view: TypedArray } {
  if (value === undefined || value === null) return { view: allocate(type, count, parameter), out: { parameter, fresh: true } }
  const bare = typedArrayName(value) ? value : (value as { data?: unknown }).data
  if (bare === undefined) fail('ERR_DTYPE', parameter, 'a typed array or a tensor', value)
  return { view: output(bare, parameter, type, count, inputs), out: { parameter, fresh: false } }
}

/** @internal */
export { options, tensor }
