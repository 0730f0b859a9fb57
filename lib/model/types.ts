import { bitsOf, isDataType, type DataType } from '../tensor'

/** Element types a model file may hold: every {@link DataType}, and those that are carried but cannot be computed with. */
export type ElementType =
  | DataType
  | 'undefined'
  | 'string'
  | 'complex64'
  | 'complex128'
  | 'float8e4m3fn'
  | 'float8e4m3fnuz'
  | 'float8e5m2'
  | 'float8e5m2fnuz'
  | 'float4e2m1'
  | 'float8e8m0'

/** ONNX `TensorProto.DataType` numbers, by position. */
const kElementTypes: readonly ElementType[] = [
  'undefined',
  'float32',
  'uint8',
  'int8',
  'uint16',
  'int16',
  'int32',
  'int64',
  'string',
  'bool',
  'float16',
  'float64',
  'uint32',
  'uint64',
  'complex64',
  'complex128',
  'bfloat16',
  'float8e4m3fn',
  'float8e4m3fnuz',
  'float8e5m2',
  'float8e5m2fnuz',
  'uint4',
  'int4',
  'float4e2m1',
  'float8e8m0',
  'uint2',
  'int2',
]

const kExtraBits: Partial<Record<ElementType, number>> = {
  complex64: 64,
  complex128: 128,
  float8e4m3fn: 8,
  float8e4m3fnuz: 8,
  float8e5m2: 8,
  float8e5m2fnuz: 8,
  float4e2m1: 4,
  float8e8m0: 8,
}

/** The element type of an ONNX `data_type` number; `undefined` (the value) for a number that no known version defines. */
export function elementTypeOf(code: number): ElementType | undefined {
  return kElementTypes[code]
}

/** The ONNX `data_type` number of an element type. */
export function elementCodeOf(type: ElementType): number {
  return kElementTypes.indexOf(type)
}

/** Bits of one stored element; 0 for `string` and `undefined`, which have no fixed size. */
export function elementBitsOf(type: ElementType): number {
  return isDataType(type) ? bitsOf(type) : (kExtraBits[type] ?? 0)
}

/** One dimension of a value: a size, a symbol that stands for a size (`'batch'`), or `null` if nothing is known. */
export type Dim = number | string | null

/** A value's element type and shape. `dims: null` means that even the rank is unknown. */
export interface ValueType {
  readonly type: ElementType
  readonly dims: readonly Dim[] | null
}

/** A named value: a graph input, an output, or an annotation of what lies between. */
export class ValueInfo {
  readonly name: string
  /** `'undefined'` where the file does not say, and for values that are not tensors. */
  readonly type: ElementType
  /** `null` where the file does not say. */
  readonly dims: readonly Dim[] | null
  /** What the value is; only tensors have a {@link type} and {@link dims}. */
  readonly kind: 'tensor' | 'sparse' | 'sequence' | 'map' | 'optional' | 'opaque' | 'unknown'
  /** @internal the file's own record */
  readonly origin: unknown

  constructor(
    name: string,
    type: ElementType,
    dims: readonly Dim[] | null,
    kind: ValueInfo['kind'] = 'tensor',
    origin?: unknown,
  ) {
    this.name = name
    this.type = type
    this.dims = dims === null ? null : Object.freeze([...dims])
    this.kind = kind
    this.origin = origin
  }

  /** The same value under another name. */
  renamed(name: string): ValueInfo {
    return name === this.name ? this : new ValueInfo(name, this.type, this.dims, this.kind, this.origin)
  }
}
