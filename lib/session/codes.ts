import type { Node } from '../model'
import { sizeOf, type DataType, type Tensor } from '../tensor'
import type { Lowering } from './lowering'
import type { Argument, Memory } from './program'
import { identity, type Quantized, type Value } from './value'

/** How one value is written as codes: its type, and a scale and zero point for all of it. */
export interface Code {
  readonly type: DataType
  readonly scale: number
  readonly zero: number
}

/** Floats as they are. */
export const kNoCode: Code = { type: 'float32', scale: 1, zero: 0 }

const kBits: Partial<Record<DataType, number>> = { int4: 4, uint4: 4, int8: 8, uint8: 8, int16: 16, uint16: 16, int32: 32 }

/** Bits and sign of codes, as steps take them. */
export function codeBits(l: Lowering, type: DataType, node: Node): [bits: number, signed: number] {
  const bits = kBits[type]
  return bits === undefined ? l.unsupported(node, `codes of type ${type}`) : [bits, type.startsWith('u') ? 0 : 1]
}

/** The codes of a tensor, one number each. */
export function codesOf(t: Tensor): Int32Array {
  const n = sizeOf(t.dims)
  if (t.type === 'int4' || t.type === 'uint4') {
    const bytes = t.data as Uint8Array
    const signed = t.type === 'int4'
    return Int32Array.from({ length: n }, (_, i) => {
      const v = ((bytes[i >> 1] as number) >> ((i & 1) * 4)) & 15
      return signed && v >= 8 ? v - 16 : v
    })
  }
  // As a list of numbers: mapping typed arrays through a function takes a hundred times as long.
  return t.type === 'int64' || t.type === 'uint64' ? Int32Array.from(t.data as Iterable<bigint>, Number) : new Int32Array(t.data as unknown as ArrayLike<number>)
}

/**
 * Where the scales of a tensor of `dims` lie: [outer, axis, inner, block]. A block of 1 is a scale for each index of the
 * axis, of which there is one where the scale is for the whole tensor.
 */
export function geometryOf(
  l: Lowering,
  node: Node,
  dims: readonly number[],
  scaleDims: readonly number[],
): [outer: number, axis: number, inner: number, block: number] {
  const block = node.int('block_size', 0)
  if (block === 0 && sizeOf(scaleDims) === 1) return [1, 1, sizeOf(dims), 1]
  const given = node.int('axis', 1)
  const axis = given < 0 ? given + dims.length : given
  const size = dims[axis]
  if (size === undefined) return l.unsupported(node, `an axis ${given} of a tensor of rank ${dims.length}`)
  const [outer, inner] = [sizeOf(dims.slice(0, axis)), sizeOf(dims.slice(axis + 1))]
  const want = block === 0 ? [size] : dims.map((d, i) => (i === axis ? Math.ceil(d / block) : d))
  if (sizeOf(scaleDims) !== sizeOf(want)) return l.unsupported(node, `scales [${scaleDims.join(', ')}] for a tensor [${dims.join(', ')}]`)
  // A block of one index is a scale an element, which a block of 2 cannot say and one of 1 does not mean.
  if (block === 1) return [outer * size * inner, 1, 1, 2]
  return [outer, size, inner, block === 0 ? 1 : block]
}

/** scale * (code - zero) of a constant. */
export function dequantized(codes: Int32Array, scale: Float32Array, zero: Int32Array | undefined, geometry: readonly number[]): Float32Array {
  const [outer, axis, inner, block] = geometry as [number, number, number, number]
  const blocks = Math.ceil(axis / block)
  const out = new Float32Array(codes.length)
  let i = 0
  for (let o = 0; o < outer; o++)
    for (let a = 0; a < axis; a++) {
      const first = block === 1 ? a : (o * blocks + Math.floor(a / block)) * inner
      for (let k = 0; k < inner; k++, i++) {
        const s = block === 1 ? a : first + k
        out[i] = Math.fround((codes[i] as number) - (zero?.[s] ?? 0)) * (scale[s] as number)
      }
    }
  return out
}

/** Writes the step that makes floats of codes with one scale for all. */
export function emitDequantize(l: Lowering, v: Value, q: Quantized, node: Node): Value & { readonly memory: Memory } {
  const codes = l.inMemory(q.codes, node)
  const out = l.make('float32', v.dims, codes.order)
  const [bits, signed] = codeBits(l, codes.type, node)
  const { scale, zero } = parameters(l, q.scale[0] as number, q.zero[0] as number, codes.type)
  l.program.step('dequantize', node.label, 1, 1, sizeOf(v.dims), 1, bits, signed, codes.memory, scale, zero, out.memory)
  return out
}

/** One scale and zero point as constants. */
export function parameters(l: Lowering, scale: number, zero: number, type: DataType): { scale: Argument; zero: Argument } {
  const bytes = type === 'int4' || type === 'uint4' ? Uint8Array.of(zero & 15) : type === 'int32' ? Int32Array.of(zero) : type.endsWith('16') ? Int16Array.of(zero) : Int8Array.of(zero)
  return {
    scale: l.constants.raw(`scale ${scale}`, () => Float32Array.of(scale)),
    zero: zero === 0 ? null : l.constants.raw(`zero ${type} ${zero}`, () => bytes),
  }
}

/** The scale and zero point that a QuantizeLinear writes the whole of a tensor with, where they are constants. */
export function codeOf(l: Lowering, node: Node): Code | undefined {
  const scale = l.constant(node.inputs[1], node)
  if (!scale || scale.type !== 'float32' || sizeOf(scale.dims) !== 1 || node.int('block_size', 0) !== 0) return undefined
  const zero = node.inputs[2] ? l.constant(node.inputs[2], node) : undefined
  if (node.inputs[2] && !zero) return undefined
  const s = scale.data[0] as number
  if (!(s > 0 && s < Infinity)) return undefined
  return { type: l.type(node.outputs[0] as string, node), scale: s, zero: zero ? (codesOf(zero)[0] as number) : 0 }
}

/** Codes of one kind, as the floats they stand for. */
export function valueOf(codes: Value, { scale, zero }: Code): Value {
  return quantizedValue(codes.dims, { codes, scale: Float32Array.of(scale), zero: Int32Array.of(zero), axis: 1 })
}

/** What codes that are not computed to floats yet stand for, where they are 8 bits wide and have one scale. */
export function wholeCode(v: Value): Code | undefined {
  const q = v.memory || v.constant ? undefined : v.quantized
  if (!q || q.scale.length !== 1 || (q.codes.type !== 'int8' && q.codes.type !== 'uint8')) return undefined
  const scale = q.scale[0] as number
  return scale > 0 && scale < Infinity ? { type: q.codes.type, scale, zero: q.zero[0] as number } : undefined
}

/** A value that is codes of `dims` in row-major order, as the float value they stand for. */
export function quantizedValue(dims: readonly number[], q: Quantized, constant?: Value['constant']): Value {
  return {
    kind: 'value',
    type: 'float32',
    dims,
    order: constant ? identity(dims.length) : q.codes.order,
    memory: undefined,
    quantized: q,
    ...(constant && { constant }),
  }
}
