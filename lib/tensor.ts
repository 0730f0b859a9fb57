import { WhittleError } from './errors'

/** Element types of a {@link Tensor}; the names are onnxruntime's, extended by the packed and 16-bit types. */
export type DataType =
  | 'float32'
  | 'float64'
  | 'float16'
  | 'bfloat16'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'bool'
  | 'int4'
  | 'uint4'
  | 'int2'
  | 'uint2'

/** Any typed array that can hold tensor data. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array

/**
 * A dense, contiguous, row-major tensor: the fields of onnxruntime's `Tensor`, so either is accepted and a returned
 * one can be fed to it. `float16` and `bfloat16` are bit patterns in a `Uint16Array` (or a `Float16Array` where the
 * engine has it); `int4`/`uint4` lie two to a byte and `int2`/`uint2` four to a byte in a `Uint8Array`, lowest bits
 * first, the unused bits zero, while `dims` count elements; `bool` is a `Uint8Array`.
 */
export interface Tensor<T extends TypedArray = TypedArray> {
  readonly type: DataType
  readonly dims: readonly number[]
  readonly data: T
}

/** What functions accept as a tensor: ours, onnxruntime's, or anything of that form. */
export interface TensorLike {
  readonly type: string
  readonly dims: readonly number[]
  readonly data: unknown
  readonly location?: string
}

interface TypeFacts {
  /** bits of one element */
  readonly bits: number
  /** names of the typed arrays that may carry it; the first is what we return */
  readonly arrays: readonly string[]
}

const kTypes: Record<DataType, TypeFacts> = {
  float32: { bits: 32, arrays: ['Float32Array'] },
  float64: { bits: 64, arrays: ['Float64Array'] },
  float16: { bits: 16, arrays: ['Uint16Array', 'Float16Array'] },
  bfloat16: { bits: 16, arrays: ['Uint16Array'] },
  int8: { bits: 8, arrays: ['Int8Array'] },
  uint8: { bits: 8, arrays: ['Uint8Array', 'Uint8ClampedArray'] },
  int16: { bits: 16, arrays: ['Int16Array'] },
  uint16: { bits: 16, arrays: ['Uint16Array'] },
  int32: { bits: 32, arrays: ['Int32Array'] },
  uint32: { bits: 32, arrays: ['Uint32Array'] },
  int64: { bits: 64, arrays: ['BigInt64Array'] },
  uint64: { bits: 64, arrays: ['BigUint64Array'] },
  bool: { bits: 8, arrays: ['Uint8Array'] },
  int4: { bits: 4, arrays: ['Uint8Array'] },
  uint4: { bits: 4, arrays: ['Uint8Array'] },
  int2: { bits: 2, arrays: ['Uint8Array'] },
  uint2: { bits: 2, arrays: ['Uint8Array'] },
}

const kConstructors = {
  Float32Array,
  Float64Array,
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  BigInt64Array,
  BigUint64Array,
}

/** True for a name in {@link DataType}. */
export function isDataType(type: unknown): type is DataType {
  return typeof type === 'string' && Object.hasOwn(kTypes, type)
}

/** Bits of one element of `type`: 2, 4, 8, 16, 32 or 64. */
export function bitsOf(type: DataType): number {
  return kTypes[type].bits
}

/** Names of the typed arrays that may carry `type`; results use the first. */
export function arrayNamesOf(type: DataType): readonly string[] {
  return kTypes[type].arrays
}

/** Number of elements of `dims`; 1 for `[]`. Exact below 2⁵³, no overflow check beyond. */
export function sizeOf(dims: readonly number[]): number {
  let n = 1
  for (const d of dims) n *= d
  return n
}

/** Bytes that `count` elements of `type` take, sub-byte types packed. */
export function byteLengthOf(type: DataType, count: number): number {
  return Math.ceil((count * kTypes[type].bits) / 8)
}

// The getter of all typed arrays, which reads what they are and no property: called by itself it costs the same whatever
// classes it has met, and answers undefined for anything else.
const tagOf = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype) as object, Symbol.toStringTag)
  ?.get as (this: unknown) => unknown

/**
 * The typed-array class name of `value`, or `''`. Works across realms (vm contexts, workers, jest), where `instanceof`
 * does not.
 */
export function typedArrayName(value: unknown): string {
  return (tagOf.call(value) as string | undefined) ?? ''
}

/** A zero-filled typed array for `count` elements of `type`. Throws `ERR_OUT_OF_MEMORY` where V8 refuses the size. */
export function allocate(type: DataType, count: number, parameter = 'out'): TypedArray {
  const constructor = kConstructors[kTypes[type].arrays[0] as keyof typeof kConstructors]
  const length = bitsOf(type) < 8 ? byteLengthOf(type, count) : count
  try {
    return new constructor(length)
  } catch (cause) {
    throw new WhittleError('ERR_OUT_OF_MEMORY', parameter, `${parameter}: cannot allocate ${length} elements of ${type}`, { cause })
  }
}

/** A typed array of `type` over bytes of `buffer`, without a copy. `byteOffset` must suit the element size. */
export function viewAs(type: DataType, buffer: ArrayBufferLike, byteOffset: number, count: number): TypedArray {
  const constructor = kConstructors[kTypes[type].arrays[0] as keyof typeof kConstructors]
  const length = bitsOf(type) < 8 ? byteLengthOf(type, count) : count
  return new constructor(buffer as ArrayBuffer, byteOffset, length)
}
