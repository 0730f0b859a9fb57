import { sizeOf } from '../tensor'
import type { Graph } from './graph'
import { malformed } from './bytes'
import { Initializer } from './initializer'
import type { Node } from './node'
import { unpacksCodes, weightInputsOf, weightViewOf, type WeightView } from './weights'

/**
 * A weight that lies in the file as integer codes and scales and becomes float by standard ops. Both storages are
 * known: `qdq` is `DequantizeLinear`, `folded` is `Cast` → `Mul` (int8) or `Cast` → `Gather` of a table of 256 rows →
 * `Mul` (a few bits; several tables are added up), each with a `Reshape` after it where blocks ask for one. Planes of signs with
 * a scale each are summed by `ReduceSum` over the first axis. A codebook is `Cast` → `Gather` with scale 1.
 */
export interface QuantizedWeight {
  /** The float value that nodes read. */
  readonly value: string
  readonly graph: Graph
  readonly dims: readonly number[]
  readonly storage: 'folded' | 'qdq'
  /** Bits of a stored code: 8 or 4, of tables what their bytes come to. */
  readonly bits: number
  /** Of {@link tables} the bytes of the first. */
  readonly codes: Initializer
  /**
   * Where values are looked up in tables of another kind than pairs of 4-bit integers: bytes and the values of each byte's
   * codes, [256, codes in a byte]. A value is the sum over these, times its scale.
   */
  readonly tables?: readonly CodeTable[]
  readonly scales: Initializer
  readonly zeroPoints: Initializer | undefined
  /** Dims of the codes in which the scales broadcast by numpy's rules once they have {@link scaleDims}. */
  readonly codeDims: readonly number[]
  readonly scaleDims: readonly number[]
  /** What codes and scales give has these dims, and its axes change places: [dims, order]. */
  readonly turned?: readonly [dims: readonly number[], order: readonly number[]]
  /** Codes and scales have a first axis of this length over which their products are summed. */
  readonly terms?: number
}

/** Bytes, and what they stand for. */
export interface CodeTable {
  readonly bytes: Initializer
  readonly table: Initializer
}

/** A {@link QuantizedWeight} and the first node that computes with it. */
export interface QuantizedLayer extends QuantizedWeight {
  /** The node's name, or the weight's where the node has none. */
  readonly name: string
  readonly op: string
  readonly view: WeightView
}

/** The quantized weights of a graph and its subgraphs, each once, in the order in which nodes first read them. */
export function quantizedWeights(graph: Graph): QuantizedLayer[] {
  const found = new Map<string, QuantizedLayer>()
  graph.walk((node, inner) => {
    for (const index of weightInputsOf(node)) {
      const value = node.inputs[index]
      if (!value || found.has(value)) continue
      const weight = quantizedWeight(inner, value)
      const view = weight && weightViewOf(node, index, weight.dims)
      if (weight && view) found.set(value, { ...weight, name: node.name || value, op: node.opType, view })
    }
  })
  return [...found.values()]
}

/** The quantized weight behind a value, `undefined` if it is anything else. */
export function quantizedWeight(graph: Graph, value: string): QuantizedWeight | undefined {
  let home: Graph | undefined = graph
  while (home && !home.defines(value)) home = home.parent
  const made = home?.producer(value)
  if (!home || !made) return undefined
  if (made.is('Transpose')) return transposed(home, made, value)
  if (!made.is('Reshape')) return core(home, made, value)
  const shape = made.inputs[1] ? home.constant(made.inputs[1]) : undefined
  const inner = made.inputs[0] ? home.producer(made.inputs[0]) : undefined
  const found = inner && core(home, inner, value)
  if (!found || shape?.type !== 'int64' || shape.dims.length !== 1) return undefined
  const dims = Array.from(shape.readSync().data as BigInt64Array, Number)
  return sizeOf(dims) === sizeOf(found.dims) ? { ...found, dims } : undefined
}

/** Pieces of a codebook lie along a product's sums. */
function transposed(home: Graph, node: Node, value: string): QuantizedWeight | undefined {
  const found = node.inputs[0] && home.producer(node.inputs[0])?.is('Transpose') !== true ? quantizedWeight(home, node.inputs[0]) : undefined
  const order = node.ints('perm')
  if (!found?.tables || found.graph !== home || order?.length !== found.dims.length) return undefined
  return { ...found, value, dims: order.map((i) => found.dims[i]!), turned: [found.dims, order] }
}

function core(graph: Graph, node: Node, value: string): QuantizedWeight | undefined {
  return node.is('DequantizeLinear')
    ? dequantized(graph, node, value)
    : node.is('Mul')
      ? folded(graph, node, value)
      : node.is('ReduceSum')
        ? summed(graph, node, value)
        : node.is('Gather')
        ? shared(graph, value)
        : undefined
}

const constant = (graph: Graph, name: string | undefined): Initializer | undefined =>
  name ? graph.constant(name) : undefined

function dequantized(graph: Graph, node: Node, value: string): QuantizedWeight | undefined {
  const codes = constant(graph, node.inputs[0])
  const scales = constant(graph, node.inputs[1])
  const zeroPoints = constant(graph, node.inputs[2])
  if (!codes || scales?.type !== 'float32' || (node.inputs[2] && !zeroPoints)) return undefined
  const bits = { int8: 8, uint8: 8, int4: 4, uint4: 4 }[codes.type as string]
  if (!bits) return undefined
  const base = { value, graph, dims: codes.dims, storage: 'qdq' as const, bits, codes, scales, zeroPoints }
  if (scales.elementCount === 1) return { ...base, codeDims: codes.dims, scaleDims: [] }
  const rank = codes.dims.length
  const given = node.int('axis', 1)
  const axis = given < 0 ? given + rank : given
  const size = codes.dims[axis]
  if (size === undefined) return undefined
  const block = node.int('block_size', 0)
  if (!block)
    return scales.elementCount === size
      ? { ...base, codeDims: codes.dims, scaleDims: codes.dims.map((_, i) => (i === axis ? size : 1)) }
      : undefined
  if (size % block || scales.elementCount !== codes.elementCount / block) return undefined
  const cut = (last: number): number[] => codes.dims.flatMap((d, i) => (i === axis ? [d / block, last] : [d]))
  return { ...base, codeDims: cut(block), scaleDims: cut(1) }
}

function folded(graph: Graph, node: Node, value: string): QuantizedWeight | undefined {
  const [a, b] = node.inputs
  const scales = constant(graph, b) ?? constant(graph, a)
  const other = constant(graph, b) ? a : b
  if (scales?.type !== 'float32' || !other) return undefined
  const base = { value, graph, storage: 'folded' as const, scales, zeroPoints: undefined, scaleDims: scales.dims }
  const made = graph.producer(other)
  if (made?.is('Cast')) {
    const codes = constant(graph, made.inputs[0])
    if ((codes?.type !== 'int8' && codes?.type !== 'uint8') || made.int('to', 0) !== 1) return undefined
    return broadcasts(scales.dims, codes.dims)
      ? { ...base, dims: codes.dims, bits: 8, codes, codeDims: codes.dims }
      : undefined
  }
  const found = tablesOf(graph, other)
  if (!found || !broadcasts(scales.dims, found.codeDims)) return undefined
  const { tables, codeDims } = found
  const [{ bytes, table }] = tables as [CodeTable]
  const bits = tables.reduce((sum, t) => sum + 8 / (t.table.dims[1] ?? 1), 0)
  const core = { ...base, dims: codeDims, bits, codes: bytes, codeDims }
  return tables.length === 1 && isPairTable(table) ? core : { ...core, tables }
}

/** Products of codes and scales, summed over their first axis. */
function summed(graph: Graph, node: Node, value: string): QuantizedWeight | undefined {
  const axes = constant(graph, node.inputs[1])
  const made = node.inputs[0] ? graph.producer(node.inputs[0]) : undefined
  if (axes?.type !== 'int64' || axes.elementCount !== 1 || node.int('keepdims', 1) !== 0 || !made?.is('Mul')) return undefined
  if ((axes.readSync().data as BigInt64Array)[0] !== 0n) return undefined
  const found = folded(graph, made, value)
  const [terms, ...dims] = found?.codeDims ?? []
  return found && terms ? { ...found, dims, terms, bits: found.bits * terms } : undefined
}

/** Indices into a codebook: values that are looked up and scaled no further. */
function shared(graph: Graph, value: string): QuantizedWeight | undefined {
  const found = tablesOf(graph, value)
  if (!found) return undefined
  const { tables, codeDims } = found
  const [{ bytes, table }] = tables as [CodeTable]
  const scales = Initializer.from('', { type: 'float32', dims: [], data: Float32Array.of(1) })
  const bits = 8 / (table.dims[1] ?? 1)
  return { value, graph, storage: 'folded', dims: codeDims, bits, codes: bytes, codeDims, tables, scales, zeroPoints: undefined, scaleDims: [] }
}

/** The tables whose sum a value is. */
function tablesOf(graph: Graph, name: string): { tables: CodeTable[]; codeDims: number[] } | undefined {
  let made = graph.producer(name)
  if (made?.is('Add')) {
    const [a, b] = [tablesOf(graph, made.inputs[0]!), tablesOf(graph, made.inputs[1]!)]
    if (!a || !b || a.codeDims.join() !== b.codeDims.join()) return undefined
    return { tables: [...a.tables, ...b.tables], codeDims: a.codeDims }
  }
  let codeDims: number[] | undefined
  if (made?.is('Reshape')) {
    const shape = constant(graph, made.inputs[1])
    if (shape?.type !== 'int64') return undefined
    codeDims = Array.from(shape.readSync().data as BigInt64Array, Number)
    made = made.inputs[0] ? graph.producer(made.inputs[0]) : undefined
  }
  if (!made || !unpacksCodes(made, graph)) return undefined
  const table = constant(graph, made.inputs[0])
  const bytes = constant(graph, graph.producer(made.inputs[1]!)!.inputs[0])
  if (table?.type !== 'float32' || bytes?.type !== 'uint8') return undefined
  // A row for every byte, or a codebook with a value or a piece an index.
  if (table.dims.length > 2 || table.elementCount === 0) return undefined
  const perByte = table.dims[1] ?? 1
  codeDims ??= table.dims.length === 1 ? [...bytes.dims] : [...bytes.dims, perByte]
  return sizeOf(codeDims) === bytes.elementCount * perByte ? { tables: [{ bytes, table }], codeDims } : undefined
}

const signed = (nibble: number): number => (nibble < 8 ? nibble : nibble - 16)

/** The table that unpacks 4-bit integers, two to a byte, low nibble first. */
function isPairTable(table: Initializer): boolean {
  if (table.dims[1] !== 2) return false
  const data = table.readSync().data as Float32Array
  return data.every((v, i) => v === signed(((i >> 1) >> (i & 1 ? 4 : 0)) & 15))
}

/** True if `small` broadcasts to exactly `large`. */
function broadcasts(small: readonly number[], large: readonly number[]): boolean {
  const lead = large.length - small.length
  return lead >= 0 && small.every((d, i) => d === 1 || d === large[lead + i])
}

/** What is multiplied by the scales, one a number: codes, zero point not taken off, or what tables give. */
export function readCodes({ codes, bits, tables }: QuantizedWeight): Int8Array | Uint8Array | Int16Array | Float32Array {
  if (tables) return lookedUp(tables)
  const { data, type } = codes.readSync()
  if (bits === 8) return data as Int8Array | Uint8Array
  const bytes = data as Uint8Array
  const isSigned = type !== 'uint4'
  const count = type === 'uint8' ? bytes.length * 2 : codes.elementCount
  const out = new Int16Array(count)
  for (let i = 0; i < count; i++) {
    const nibble = i & 1 ? bytes[i >> 1]! >> 4 : bytes[i >> 1]! & 15
    out[i] = isSigned ? signed(nibble) : nibble
  }
  return out
}

function lookedUp(tables: readonly CodeTable[]): Float32Array {
  const [first] = tables as [CodeTable]
  const out = new Float32Array(first.bytes.elementCount * (first.table.dims[1] ?? 1))
  for (const { bytes, table } of tables) {
    const perByte = table.dims[1] ?? 1
    const values = table.readSync().data as Float32Array
    const data = bytes.readSync().data as Uint8Array
    const rows = values.length / perByte
    const beyond = rows < 256 ? data.findIndex((b) => b >= rows) : -1
    if (beyond >= 0) malformed(bytes.name, `index ${data[beyond]} at ${beyond} into a codebook of ${rows} values`)
    for (let i = 0; i < out.length; i++) out[i]! += values[data[Math.floor(i / perByte)]! * perByte + (i % perByte)]!
  }
  return out
}

/** The float32 values that the ops of a quantized weight compute, in the order of its `dims`. Reads all of it. */
export function readQuantized(weight: QuantizedWeight): Float32Array {
  const codes = readCodes(weight)
  const scales = weight.scales.readSync().data as Float32Array
  const zeros = weight.zeroPoints ? readCodes({ ...weight, codes: weight.zeroPoints }) : undefined
  const { codeDims } = weight
  const scaleDims = [...codeDims.map(() => 1), ...weight.scaleDims].slice(-codeDims.length || codeDims.length)
  // Strides of the scales over the dims of the codes; 0 where they broadcast.
  const strides: number[] = []
  let stride = 1
  for (let i = codeDims.length - 1; i >= 0; i--) {
    strides[i] = scaleDims[i] === 1 ? 0 : stride
    stride *= scaleDims[i] ?? 1
  }
  const out = new Float32Array(codes.length)
  const inner = codeDims.at(-1) ?? 1
  const step = strides.at(-1) ?? 0
  const at = codeDims.map(() => 0)
  for (let row = 0; row < out.length; row += inner) {
    let s = 0
    for (let i = 0; i < codeDims.length - 1; i++) s += at[i]! * strides[i]!
    for (let j = 0; j < inner; j++, s += step) out[row + j] = (codes[row + j]! - (zeros ? zeros[s]! : 0)) * scales[s]!
    for (let i = codeDims.length - 2; i >= 0; i--) {
      if (++at[i]! < codeDims[i]!) break
      at[i] = 0
    }
  }
  if (weight.turned) return permuted(out, ...weight.turned)
  return weight.terms ? sumOf(out, weight.terms) : out
}

function permuted(data: Float32Array, dims: readonly number[], order: readonly number[]): Float32Array {
  const strides = dims.map((_, i) => sizeOf(dims.slice(i + 1)))
  const out = new Float32Array(data.length)
  const at = order.map(() => 0)
  let from = 0
  for (let o = 0; o < out.length; o++) {
    out[o] = data[from]!
    for (let i = order.length - 1; i >= 0; i--) {
      const axis = order[i]!
      from += strides[axis]!
      if (++at[i]! < dims[axis]!) break
      from -= strides[axis]! * dims[axis]!
      at[i] = 0
    }
  }
  return out
}

/** Over the first axis, in float32, in its order. */
function sumOf(all: Float32Array, terms: number): Float32Array {
  const sum = new Float32Array(all.length / terms)
  for (let at = 0; at < all.length; at += sum.length) for (let i = 0; i < sum.length; i++) sum[i]! += all[at + i]!
  return sum
}

/** Bytes of codes, scales and zero points; tables, which weights share, not counted. */
export function quantizedBytes({ codes, tables, scales, zeroPoints }: QuantizedWeight): number {
  const bytes = tables ? tables.reduce((sum, t) => sum + t.bytes.byteLength, 0) : codes.byteLength
  return bytes + scales.byteLength + (zeroPoints?.byteLength ?? 0)
}
