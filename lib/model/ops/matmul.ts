import type { Dim, ElementType } from '../types'
import { broadcastInput } from './couple'
import { equationOf } from './equation'
import { bad, broadcast, op, type CoupleContext, type InferContext, type Ops } from './op'

function matmul(c: InferContext, ia: number, ib: number, type: ElementType): void {
  const a = c.dims(ia)
  const b = c.dims(ib)
  if (!a || !b) return c.set(0, type, null)
  if (a.length === 0 || b.length === 0) bad(c, 'a scalar operand')
  const [k1, k2] = [a[a.length - 1], b.length === 1 ? b[0] : b[b.length - 2]]
  if (typeof k1 === 'number' && typeof k2 === 'number' && k1 !== k2) bad(c, `inner sizes ${k1} and ${k2}`)
  const batch = broadcast(c, [a.slice(0, -2), b.slice(0, -2)]) as Dim[]
  const rows = a.length === 1 ? [] : [a[a.length - 2] as Dim]
  const columns = b.length === 1 ? [] : [b[b.length - 1] as Dim]
  c.set(0, type, [...batch, ...rows, ...columns])
}

/** The sum of products: what goes from an activation goes from the weight. Between two activations nothing can go. */
function inner(c: CoupleContext, axisA: number, axisB: number): void {
  const [a, b] = [c.constant(0) !== undefined, c.constant(1) !== undefined]
  if (a === b) return
  c.couple(c.in(0, axisA), c.in(1, axisB))
  c.weight(a ? 0 : 1, a ? axisA : axisB, 'input')
}

function matmulChannels(c: CoupleContext): void {
  const [a, b, y] = [c.inputs[0], c.inputs[1], c.outputs[0]]
  if (!a || !b || !y || a.length === 0 || b.length === 0) return
  inner(c, a.length - 1, Math.max(0, b.length - 2))
  const columns = b.length > 1 ? 1 : 0
  const rows = a.length > 1 ? 1 : 0
  if (rows) {
    c.couple(c.in(0, a.length - 2), c.out(0, y.length - 1 - columns))
    if (c.constant(0)) c.weight(0, a.length - 2, 'output')
  }
  if (columns) {
    c.couple(c.in(1, b.length - 1), c.out(0, y.length - 1))
    if (c.constant(1)) c.weight(1, b.length - 1, 'output')
  }
  const batch = y.length - rows - columns
  for (const [i, dims] of [a, b].entries()) {
    const own = Math.max(0, dims.length - 2)
    for (let axis = 0; axis < own; axis++) {
      const at = batch - own + axis
      if (dims[axis] !== y[at]) continue
      c.couple(c.in(i, axis), c.out(0, at))
      if (c.constant(i)) c.weight(i, axis, 'scale')
    }
  }
}

function gemmChannels(c: CoupleContext): void {
  const [ta, tb] = [c.node.int('transA', 0) !== 0 ? 1 : 0, c.node.int('transB', 0) !== 0 ? 1 : 0]
  inner(c, 1 - ta, tb)
  c.couple(c.in(0, ta), c.out(0, 0))
  c.couple(c.in(1, 1 - tb), c.out(0, 1))
  if (c.constant(0)) c.weight(0, ta, 'output')
  if (c.constant(1)) c.weight(1, 1 - tb, 'output')
  if (c.node.inputs[2]) broadcastInput(c, 2)
}

/** Axes of one letter have one size, or repeat where theirs is 1. */
function einsum(c: InferContext): void {
  const dims = c.node.inputs.map((_, i) => c.dims(i))
  const { terms, result } = equationOf(c.node, dims.map((d) => d?.length)) ?? {}
  if (!terms || !result) {
    if (dims.every((d) => d !== null)) bad(c, `the equation ${c.node.string('equation', '')} for operands of ${dims.map((d) => d?.length).join(', ')} axes`)
    return c.set(0, c.type(0), null)
  }
  const size = (letter: string): Dim => {
    const found = terms.flatMap((t, i) => t.flatMap((x, k) => (x === letter ? [dims[i]?.[k] ?? null] : [])))
    const known = found.filter((d): d is number => typeof d === 'number')
    const [most = 1] = known.filter((d) => d !== 1)
    if (known.some((d) => d !== most && d !== 1)) bad(c, `sizes ${known.join(' and ')} of ${letter}`)
    return known.length === found.length || most !== 1 ? most : found.every((d) => d === found[0]) ? (found[0] as Dim) : null
  }
  c.set(0, c.type(0), result.map(size))
}

export const matmuls: Ops = {
  Einsum: op(einsum),
  MatMul: op((c) => matmul(c, 0, 1, c.type(0)), matmulChannels),
  MatMulInteger: op((c) => matmul(c, 0, 1, 'int32')),
  QLinearMatMul: op((c) => matmul(c, 0, 3, c.type(7))),
  'com.microsoft:MatMulNBits': op((c) => {
    const a = c.dims(0)
    const [k, n] = [c.node.int('K', 0), c.node.int('N', 0)]
    const last = a?.[a.length - 1]
    if (a?.length === 0 || (typeof last === 'number' && last !== k)) bad(c, `rows of ${last ?? 'a scalar'} for K = ${k}`)
    c.set(0, c.type(0), a && [...a.slice(0, -1), n])
  }),
  Gemm: op((c) => {
    const a = c.dims(0)
    const b = c.dims(1)
    if ((a && a.length !== 2) || (b && b.length !== 2)) bad(c, 'operands must be matrices')
    const [ta, tb] = [c.node.int('transA', 0) !== 0, c.node.int('transB', 0) !== 0]
    const [k1, k2] = [a?.[ta ? 0 : 1], b?.[tb ? 1 : 0]]
    if (typeof k1 === 'number' && typeof k2 === 'number' && k1 !== k2) bad(c, `inner sizes ${k1} and ${k2}`)
    c.set(0, c.type(0), [a?.[ta ? 1 : 0] ?? null, b?.[tb ? 0 : 1] ?? null])
  }, gemmChannels),
}
