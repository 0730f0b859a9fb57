import type { Node } from '../../model'
import type { DataType } from '../../tensor'
import type { Lower, Lowering } from '../lowering'
import { typedNumber } from '../program'
import { identity, stridesOf, type Value } from '../value'

// core/typed.h: ElementKind
const kKinds: readonly DataType[] = ['float32', 'float64', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'bool']

function kindOf(type: DataType, l: Lowering, node: Node): number {
  const kind = kKinds.indexOf(type)
  return kind < 0 ? l.unsupported(node, `data of type ${type}`) : kind
}

/** Writes one operation over broadcast operands of any type; `type` is that of the operands the operation computes with. */
export function emitTyped(l: Lowering, node: Node, op: string, operands: readonly Value[], type: DataType, result: DataType): void {
  l.define(node.outputs[0] as string, makeTyped(l, node, op, operands, type, result), node)
}

/** The same, of the shape of the node's result, which it may be a part of. */
function makeTyped(l: Lowering, node: Node, op: string, operands: readonly Value[], type: DataType, result: DataType): Value {
  const dims = l.dims(node.outputs[0] as string, node)
  const values = operands.map((v) => l.inMemory(v, node))
  // The result lies like the first operand of its own shape.
  const model = values.find((v) => v.dims.length === dims.length && v.dims.every((d, i) => d === dims[i]))
  const order = model?.order ?? identity(dims.length)
  const out = l.make(result, dims, order)
  const parts = values.flatMap((v) => {
    const own = stridesOf(v.dims, v.order)
    const strides = order.map((axis) => {
      const at = axis - (dims.length - v.dims.length)
      return at < 0 || v.dims[at] === 1 ? 0 : (own[at] as number)
    })
    return [...strides, v.memory]
  })
  if (dims.length > 8) l.unsupported(node, `a tensor of rank ${dims.length}`)
  const kinds = [kindOf(type, l, node), kindOf(result, l, node)]
  l.program.step('typed', node.label, typedNumber(op), ...kinds, dims.length, ...order.map((a) => dims[a] as number), ...parts, out.memory)
  return out
}

/** An operation whose operands share a type. */
export function typed(op: string, logical = false): Lower {
  return (node, l) => {
    const values = node.inputs.map((i) => l.lazy(i, node))
    const type = (values[0] as Value).type
    const other = values.find((v) => v.type !== type)
    if (other) return l.unsupported(node, `operands of type ${type} and ${other.type}`)
    emitTyped(l, node, op, values, type, logical ? 'bool' : type)
  }
}

/** float32 goes the fast way, other types element by element. */
export function orTyped(fast: Lower, op: string): Lower {
  const slow = typed(op)
  return (node, l) => (l.type(node.inputs[0] as string, node) === 'float32' ? fast(node, l) : slow(node, l))
}

/** Clips integers: at the lower bound first. */
export const clipTyped: Lower = (node, l) => {
  const [given, low, high] = [0, 1, 2].map((i) => (node.inputs[i] ? l.lazy(node.inputs[i], node) : undefined))
  let x = given as Value
  if (low) x = makeTyped(l, node, 'max', [x, low], x.type, x.type)
  if (high) x = makeTyped(l, node, 'min', [x, high], x.type, x.type)
  l.define(node.outputs[0] as string, x, node)
}

const cast: Lower = (node, l) => {
  const x = l.lazy(node.inputs[0] as string, node)
  const to = l.type(node.outputs[0] as string, node)
  if (x.type === to) return l.define(node.outputs[0] as string, x, node)
  emitTyped(l, node, 'cast', [x], x.type, to)
}

const isInf: Lower = (node, l) => {
  const [positive, negative] = [node.int('detect_positive', 1) !== 0, node.int('detect_negative', 1) !== 0]
  if (positive === negative) return l.unsupported(node, 'infinities of both signs, or of none')
  typed(positive ? 'is_positive_inf' : 'is_negative_inf', true)(node, l)
}

export const typedOps: Readonly<Record<string, Lower>> = {
  Equal: typed('equal', true),
  Less: typed('less', true),
  LessOrEqual: typed('less_equal', true),
  Greater: typed('greater', true),
  GreaterOrEqual: typed('greater_equal', true),
  And: typed('bit_and', true),
  Or: typed('bit_or', true),
  Xor: typed('bit_xor', true),
  Not: typed('logical_not', true),
  BitwiseAnd: typed('bit_and'),
  BitwiseOr: typed('bit_or'),
  BitwiseXor: typed('bit_xor'),
  BitwiseNot: typed('bit_not'),
  BitShift: (node, l) => typed(node.string('direction', '') === 'LEFT' ? 'shift_left' : 'shift_right')(node, l),
  Mod: (node, l) => typed(node.int('fmod', 0) ? 'fmod' : 'mod')(node, l),
  IsNaN: typed('is_nan', true),
  IsInf: isInf,
  Cast: cast,
  CastLike: cast,
  Where: (node, l) => {
    const [c, a, b] = node.inputs.map((i) => l.lazy(i, node)) as [Value, Value, Value]
    emitTyped(l, node, 'where', [c, a, b], a.type, a.type)
  },
}
