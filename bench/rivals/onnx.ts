/** Just enough of the ONNX wire format to hand a rival a small model, independent of the library under test. */
export type OnnxType = 'float32' | 'uint8' | 'int8' | 'int32' | 'int64' | 'bool'

const kTypes: Record<OnnxType, number> = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, bool: 9 }

export interface OnnxNode {
  readonly op: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  /** Integers, `{ float }`, strings, lists of integers. */
  readonly attributes?: Readonly<Record<string, number | { readonly float: number } | string | readonly number[]>>
  readonly domain?: string
}

export interface OnnxValue {
  readonly type: OnnxType
  readonly dims: readonly number[]
}

export interface OnnxModel {
  readonly opset: number
  readonly nodes: readonly OnnxNode[]
  readonly inputs: Readonly<Record<string, OnnxValue>>
  readonly outputs: Readonly<Record<string, OnnxValue>>
  readonly initializers?: Readonly<Record<string, OnnxValue & { readonly data: ArrayBufferView }>>
}

function varint(value: number): Buffer {
  const out: number[] = []
  let v = BigInt.asUintN(64, BigInt(value))
  do {
    const low = Number(v & 127n)
    v >>= 7n
    out.push(v > 0n ? low | 128 : low)
  } while (v > 0n)
  return Buffer.from(out)
}

const integer = (field: number, value: number) => Buffer.concat([varint(field * 8), varint(value)])
const bytes = (field: number, value: Uint8Array) => Buffer.concat([varint(field * 8 + 2), varint(value.length), value])
const text = (field: number, value: string) => bytes(field, Buffer.from(value))

function float(field: number, value: number): Buffer {
  const b = Buffer.alloc(4)
  b.writeFloatLE(value)
  return Buffer.concat([varint(field * 8 + 5), b])
}

function attribute(name: string, value: number | { readonly float: number } | string | readonly number[]): Buffer {
  if (typeof value === 'number') return Buffer.concat([text(1, name), integer(3, value), integer(20, 2)])
  if (typeof value === 'string') return Buffer.concat([text(1, name), text(4, value), integer(20, 3)])
  if ('float' in value) return Buffer.concat([text(1, name), float(2, value.float), integer(20, 1)])
  return Buffer.concat([text(1, name), ...value.map((v) => integer(8, v)), integer(20, 7)])
}

function valueInfo(name: string, v: OnnxValue): Buffer {
  const shape = Buffer.concat(v.dims.map((d) => bytes(1, integer(1, d))))
  return Buffer.concat([
    text(1, name),
    bytes(2, bytes(1, Buffer.concat([integer(1, kTypes[v.type]), bytes(2, shape)]))),
  ])
}

/** The model's bytes (ModelProto, IR version 8). */
export function encodeOnnx(model: OnnxModel): Uint8Array {
  const nodes = model.nodes.map((n) =>
    bytes(
      1,
      Buffer.concat([
        ...n.inputs.map((i) => text(1, i)),
        ...n.outputs.map((o) => text(2, o)),
        text(4, n.op),
        ...Object.entries(n.attributes ?? {}).map(([k, v]) => bytes(5, attribute(k, v))),
        ...(n.domain ? [text(7, n.domain)] : []),
      ]),
    ),
  )
  const initializers = Object.entries(model.initializers ?? {}).map(([name, t]) =>
    bytes(
      5,
      Buffer.concat([
        ...t.dims.map((d) => integer(1, d)),
        integer(2, kTypes[t.type]),
        text(8, name),
        bytes(9, new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength)),
      ]),
    ),
  )
  const graph = Buffer.concat([
    ...nodes,
    text(2, 'bench'),
    ...initializers,
    ...Object.entries(model.inputs).map(([n, v]) => bytes(11, valueInfo(n, v))),
    ...Object.entries(model.outputs).map(([n, v]) => bytes(12, valueInfo(n, v))),
  ])
  const opsets = [bytes(8, integer(2, model.opset))]
  for (const domain of new Set(model.nodes.flatMap((n) => (n.domain ? [n.domain] : []))))
    opsets.push(bytes(8, Buffer.concat([text(1, domain), integer(2, 1)])))
  return Buffer.concat([integer(1, 8), bytes(7, graph), ...opsets])
}
