// A protobuf writer for tests, independent of the library's: it makes models of any form, wrong ones too.

export type Part = Uint8Array

export function varint(value: number | bigint): Part {
  const out: number[] = []
  let v = BigInt.asUintN(64, BigInt(value))
  do {
    out.push(Number(v & 127n) | (v > 127n ? 128 : 0))
    v >>= 7n
  } while (v > 0n)
  return Uint8Array.from(out)
}

export function cat(...parts: readonly (Part | readonly Part[])[]): Part {
  return Uint8Array.from(Buffer.concat(parts.flat() as Uint8Array[]))
}

const tag = (no: number, wire: number): Part => varint(no * 8 + wire)

export const int = (no: number, value: number | bigint): Part => cat(tag(no, 0), varint(value))

export const blob = (no: number, value: Part | string): Part => {
  const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value
  return cat(tag(no, 2), varint(bytes.length), bytes)
}

export const message = (no: number, ...parts: readonly (Part | readonly Part[])[]): Part => blob(no, cat(...parts))

export const fixed32 = (no: number, value: number): Part => cat(tag(no, 5), new Uint8Array(Float32Array.of(value).buffer))

export const fixed64 = (no: number, value: number): Part => cat(tag(no, 1), new Uint8Array(Float64Array.of(value).buffer))

export const group = (no: number, ...parts: readonly Part[]): Part => cat(tag(no, 3), ...parts, tag(no, 4))

export const packed = (no: number, values: readonly (number | bigint)[]): Part => blob(no, cat(...values.map(varint)))

export const raw = (data: ArrayBufferView): Part => new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)

/** TensorProto.DataType */
export const kType = {
  float: 1, uint8: 2, int8: 3, uint16: 4, int16: 5, int32: 6, int64: 7, string: 8, bool: 9, float16: 10, double: 11,
  uint32: 12, uint64: 13, complex64: 14, bfloat16: 16, float8e4m3fn: 17, uint4: 21, int4: 22, uint2: 25, int2: 26,
} as const

export interface TensorFields {
  name?: string
  type: number
  dims?: readonly (number | bigint)[]
  data?: readonly Part[]
}

export const tensor = ({ name, type, dims = [], data = [] }: TensorFields): Part =>
  cat(dims.map((d) => int(1, d)), int(2, type), name === undefined ? [] : blob(8, name), data)

export const floats = (name: string, dims: readonly number[], values: readonly number[]): Part =>
  tensor({ name, type: kType.float, dims, data: [blob(9, raw(Float32Array.from(values)))] })

export const int64s = (name: string, dims: readonly number[], values: readonly number[]): Part =>
  tensor({ name, type: kType.int64, dims, data: [blob(9, raw(BigInt64Array.from(values, BigInt)))] })

export const external = (name: string, type: number, dims: readonly number[], entries: Record<string, string>): Part =>
  tensor({
    name, type, dims,
    data: [...Object.entries(entries).map(([k, v]) => message(13, blob(1, k), blob(2, v))), int(14, 1)],
  })

/** ValueInfoProto; `dims` of `undefined` leaves the shape out. */
export const value = (name: string, type: number = kType.float, dims?: readonly (number | string | null)[]): Part => {
  const dim = (d: number | string | null): Part => (d === null ? new Uint8Array(0) : typeof d === 'number' ? int(1, d) : blob(2, d))
  const shape = dims ? [message(2, dims.map((d) => message(1, dim(d))))] : []
  return cat(blob(1, name), message(2, message(1, int(1, type), ...shape)))
}

export type AttributeValue =
  | { int: number | bigint } | { float: number } | { string: string } | { tensor: Part } | { graph: Part }
  | { ints: readonly (number | bigint)[] } | { floats: readonly number[] }

export const attribute = (name: string, v: AttributeValue): Part => {
  if ('int' in v) return cat(blob(1, name), int(3, v.int), int(20, 2))
  if ('float' in v) return cat(blob(1, name), fixed32(2, v.float), int(20, 1))
  if ('string' in v) return cat(blob(1, name), blob(4, v.string), int(20, 3))
  if ('tensor' in v) return cat(blob(1, name), blob(5, v.tensor), int(20, 4))
  if ('graph' in v) return cat(blob(1, name), blob(6, v.graph), int(20, 5))
  if ('ints' in v) return cat(blob(1, name), v.ints.map((i) => int(8, i)), int(20, 7))
  return cat(blob(1, name), v.floats.map((f) => fixed32(7, f)), int(20, 6))
}

export const node = (
  opType: string, inputs: readonly string[], outputs: readonly string[], attributes: Record<string, AttributeValue> = {}, name = '',
): Part =>
  cat(
    inputs.map((i) => blob(1, i)), outputs.map((o) => blob(2, o)), name ? blob(3, name) : [], blob(4, opType),
    Object.entries(attributes).map(([key, v]) => blob(5, attribute(key, v))),
  )

export interface GraphFields {
  nodes?: readonly Part[]
  initializers?: readonly Part[]
  inputs?: readonly Part[]
  outputs?: readonly Part[]
  name?: string
}

export const graph = ({ nodes = [], initializers = [], inputs = [], outputs = [], name = 'g' }: GraphFields): Part =>
  cat(
    nodes.map((n) => blob(1, n)), blob(2, name), initializers.map((t) => blob(5, t)),
    inputs.map((v) => blob(11, v)), outputs.map((v) => blob(12, v)),
  )

export const model = (g: Part | GraphFields, opset = 13, ir = 8): Part =>
  cat(int(1, ir), blob(7, ArrayBuffer.isView(g) ? (g as Part) : graph(g)), message(8, blob(1, ''), int(2, opset)))
