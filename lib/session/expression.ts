import type { Node } from '../model'
import { sizeOf } from '../tensor'
import type { Lowering } from './lowering'
import { elementwiseNumber, type Memory } from './program'
import { codeBits, codeOf, kNoCode, parameters, wholeCode, type Code } from './codes'
import { identity, isValue, stridesOf, type Expression, type Quantized, type Value } from './value'

// core/elementwise.h
const kRegisters = 24
const kRank = 8
/** A value this many times smaller than the result is computed once, not for everything that it is spread over. */
const kSpread = 8

/** Values and operations in an expression, each once. */
function weigh(x: Expression | Value, seen = new Set<Expression | Value>()): Set<Expression | Value> {
  if (seen.has(x)) return seen
  seen.add(x)
  if (!isValue(x)) {
    weigh(x.a, seen)
    if (x.b) weigh(x.b, seen)
  } else if (x.expression && !x.memory) {
    seen.delete(x)
    weigh(x.expression, seen)
  }
  return seen
}

/** Whether an expression still fits the registers of one pass. */
export function fits(x: Expression): boolean {
  return weigh(x).size <= kRegisters
}

/** Writes the step that computes an expression; `as`: its result is codes of this type, scale and zero point. */
export function emitExpression(l: Lowering, v: Value, node: Node, as?: Code): Value & { readonly memory: Memory } {
  const root = v.expression as Expression
  const rank = v.dims.length
  const leaves: (Value & { readonly memory: Memory })[] = []
  const codes: Code[] = []
  const registers = new Map<Expression | Value, number>()
  const order: Expression[] = []
  const inside = (x: Value): boolean => x.expression !== undefined && !x.memory && sizeOf(x.dims) * kSpread > sizeOf(v.dims)
  const visit = (x: Expression | Value): void => {
    if (registers.has(x)) return
    if (isValue(x)) {
      if (inside(x)) {
        visit(x.expression as Expression)
        registers.set(x, -1)
        return
      }
      registers.set(x, leaves.length)
      const narrow = wholeCode(x)
      leaves.push(l.inMemory(narrow ? (x.quantized as Quantized).codes : x, node))
      codes.push(narrow ?? kNoCode)
      return
    }
    visit(x.a)
    if (x.b) visit(x.b)
    order.push(x)
    registers.set(x, -1)
  }
  visit(root)
  // Results take the registers after the leaves.
  order.forEach((x, i) => registers.set(x, leaves.length + i))
  const register = (x: Expression | Value): number => registers.get(isValue(x) && inside(x) ? (x.expression as Expression) : x) as number

  // The result lies like the first operand that is as large; smaller ones repeat.
  const size = sizeOf(v.dims)
  const model = leaves.find((x) => x.dims.length === rank && sizeOf(x.dims) === size && !x.constant)
  const axes = model ? model.order : identity(rank)
  if (rank > kRank) l.unsupported(node, `a tensor of rank ${rank}`)
  const out = l.make((as?.type ?? 'float32') as 'float32', v.dims, axes)
  const coded = as !== undefined || codes.some((c) => c !== kNoCode)
  const code = (c: Code): number[] => (coded ? [c.type === 'int8' ? 1 : c.type === 'uint8' ? 2 : 0, c.scale, c.zero] : [])
  const strides = leaves.flatMap((x) => {
    const own = stridesOf(x.dims, x.order)
    return axes.map((axis) => {
      const at = axis - (rank - x.dims.length)
      return at < 0 || x.dims[at] === 1 ? 0 : (own[at] as number)
    })
  })
  const operands = leaves.flatMap((x, i) => [...strides.slice(i * rank, (i + 1) * rank), ...code(codes[i] as Code), x.memory])
  const steps = order.flatMap((x, i) => [
    elementwiseNumber(x.op),
    register(x.a),
    register(x.b ?? x.a),
    leaves.length + i,
    x.p ?? 0,
    x.q ?? 0,
  ])
  l.program.step(
    coded ? 'elementwise_codes' : 'elementwise',
    node.label,
    rank,
    ...axes.map((a) => v.dims[a] as number),
    leaves.length,
    ...operands,
    order.length,
    ...steps,
    ...code(as ?? kNoCode),
    out.memory,
  )
  return out
}

/** Writes the step that makes codes of a value, in the order in which it lies. */
export function emitCodes(l: Lowering, v: Value, code: Code, node: Node): Value & { readonly memory: Memory } {
  if (!v.memory && !v.constant) {
    const q = v.quantized
    if (q && q.scale.length === 1 && q.codes.type === code.type && q.scale[0] === code.scale && q.zero[0] === code.zero) return l.inMemory(q.codes, node)
    return emitExpression(l, v.expression ? v : { ...v, expression: { op: 'copy', a: v } }, node, code)
  }
  const x = l.inMemory(v, node)
  const out = l.make(code.type, v.dims, x.order)
  const { scale, zero } = parameters(l, code.scale, code.zero, code.type)
  l.program.step('quantize', node.label, 1, 1, sizeOf(v.dims), 1, ...codeBits(l, code.type, node), x.memory, scale, zero, out.memory)
  return out
}

/** The 8-bit codes that are all that is made of `name`, by a QuantizeLinear or, where `joined`, one behind a concatenation. */
export function codeAhead(l: Lowering, name: string, joined: boolean): { readonly code: Code; readonly by: Node } | undefined {
  const by = l.soleUser(name)
  if (joined && by?.is('Concat')) return codeAhead(l, by.outputs[0] as string, false)
  if (!by?.is('QuantizeLinear') || by.inputs[0] !== name || by.int('precision', 0) > 1 || l.type(name, by) !== 'float32') return undefined
  const code = codeOf(l, by)
  return code && (code.type === 'int8' || code.type === 'uint8') ? { code, by } : undefined
}

/** The 8-bit codes that are made of the maxima over windows of `name`, where that is all that reads it: as well made before. */
export function codeBehindPool(l: Lowering, name: string): Code | undefined {
  const pool = l.constants.device ? undefined : l.soleUser(name)
  return pool?.is('MaxPool') && !pool.outputs[1] ? codeAhead(l, pool.outputs[0] as string, false)?.code : undefined
}
