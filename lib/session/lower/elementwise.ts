import type { Node } from '../../model'
import { fits } from '../expression'
import type { Lower, Lowering } from '../lowering'
import { isValue, type Expression, type Value } from '../value'
import { clipTyped } from './typed'

function operand(l: Lowering, name: string, node: Node): Expression | Value {
  const v = l.lazy(name, node)
  l.float(v, node)
  return v
}

/** Gives a node's result as an expression; operands are computed first where the whole would be too long. */
export function defineExpression(l: Lowering, node: Node, x: Expression): void {
  const name = node.outputs[0] as string
  const settle = (e: Expression | Value): Expression | Value => (isValue(e) ? l.inMemory(e, node) : { ...e, a: settle(e.a), ...(e.b && { b: settle(e.b) }) })
  const expression = fits(x) ? x : (settle(x) as Expression)
  const dims = l.dims(name, node)
  const v: Value = { kind: 'value', type: 'float32', dims, order: dims.map((_, i) => i), memory: undefined, expression }
  l.define(name, v, node)
}

function unary(op: string, parameters: (node: Node, l: Lowering) => readonly [p: number, q: number] = () => [0, 0]): Lower {
  return (node, l) => {
    const [p, q] = parameters(node, l)
    defineExpression(l, node, { op, a: operand(l, node.inputs[0] as string, node), p, q })
  }
}

/** With a scalar constant on the right, addition and multiplication need no second operand. */
function binary(op: string, scalar?: (c: number) => readonly [p: number, q: number]): Lower {
  return (node, l) => {
    const [x, y] = node.inputs as [string, string]
    if (scalar)
      for (const [v, c] of op === 'sub' ? [[x, y]] : [[x, y], [y, x]]) {
        const n = l.scalar(c, node)
        if (n === undefined || l.constant(v, node)) continue
        // The scalar must not raise the rank.
        if ((l.constant(c as string, node)?.dims.length ?? 0) > l.dims(v as string, node).length) continue
        const [p, q] = scalar(n)
        return defineExpression(l, node, { op: 'affine', a: operand(l, v as string, node), p, q })
      }
    defineExpression(l, node, { op, a: operand(l, x, node), b: operand(l, y, node) })
  }
}

function variadic(op: string, mean = false): Lower {
  return (node, l) => {
    const all = node.inputs.map((name) => operand(l, name, node))
    let x: Expression | Value = all[0] as Expression | Value
    for (const y of all.slice(1)) x = { op, a: x, b: y }
    if (mean) x = { op: 'affine', a: x, p: 1 / all.length, q: 0 }
    defineExpression(l, node, isValue(x) ? { op: 'copy', a: x } : x)
  }
}

const pow: Lower = (node, l) => {
  const e = l.scalar(node.inputs[1], node)
  const a = operand(l, node.inputs[0] as string, node)
  if (l.type(node.inputs[1] as string, node) !== 'float32' && e === undefined) l.unsupported(node, 'an exponent that is not float32')
  if (e === 2) return defineExpression(l, node, { op: 'square', a })
  if (e === 0.5) return defineExpression(l, node, { op: 'sqrt', a })
  if (e === -1) return defineExpression(l, node, { op: 'reciprocal', a })
  if (e === 3) return defineExpression(l, node, { op: 'mul', a: { op: 'square', a }, b: a })
  if (e === 4) return defineExpression(l, node, { op: 'square', a: { op: 'square', a } })
  if (e === -0.5) return defineExpression(l, node, { op: 'reciprocal', a: { op: 'sqrt', a } })
  if (e === -2) return defineExpression(l, node, { op: 'reciprocal', a: { op: 'square', a } })
  if (e === 1) return defineExpression(l, node, { op: 'copy', a })
  defineExpression(l, node, { op: 'pow', a, b: operand(l, node.inputs[1] as string, node) })
}

/** Bounds of a Clip, or undefined where they are no constants. */
export function clipBounds(node: Node, l: Lowering): readonly [number, number] | undefined {
  const low = node.inputs[1] ? l.scalar(node.inputs[1], node) : -Infinity
  const high = node.inputs[2] ? l.scalar(node.inputs[2], node) : Infinity
  return low === undefined || high === undefined ? undefined : [low, high]
}

const clip: Lower = (node, l) => {
  if (l.type(node.inputs[0] as string, node) !== 'float32') return clipTyped(node, l)
  const bounds = clipBounds(node, l)
  const a = operand(l, node.inputs[0] as string, node)
  if (bounds) return defineExpression(l, node, { op: 'clip', a, p: bounds[0], q: bounds[1] })
  let x: Expression | Value = a
  if (node.inputs[1]) x = { op: 'max', a: x, b: operand(l, node.inputs[1], node) }
  if (node.inputs[2]) x = { op: 'min', a: x, b: operand(l, node.inputs[2], node) }
  defineExpression(l, node, x as Expression)
}

const plain = (names: string): Record<string, Lower> =>
  Object.fromEntries(
    names.split(' ').map((n) => {
      const [onnx, ours] = n.split(':') as [string, string | undefined]
      return [onnx, unary(ours ?? onnx.toLowerCase())]
    }),
  )

export const elementwise: Readonly<Record<string, Lower>> = {
  ...plain(
    'Neg Abs Sqrt Exp Log Erf Tanh Sigmoid Softplus Softsign Floor Ceil Round Sign Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh ' +
      'Asinh Acosh Atanh HardSwish Mish Swish:silu',
  ),
  Relu: unary('clip', () => [0, Infinity]),
  Clip: clip,
  Gelu: (node, l) => defineExpression(l, node, { op: geluOf(node), a: operand(l, node.inputs[0] as string, node) }),
  HardSigmoid: unary('hardsigmoid', (node) => [node.float('alpha', Math.fround(0.2)), node.float('beta', 0.5)]),
  LeakyRelu: unary('leaky', (node) => [node.float('alpha', Math.fround(0.01)), 0]),
  Elu: unary('elu', (node) => [node.float('alpha', 1), 0]),
  Celu: unary('celu', (node) => [node.float('alpha', 1), 0]),
  Selu: unary('selu', (node) => [
    node.float('alpha', Math.fround(1.67326319217681884765625)),
    node.float('gamma', Math.fround(1.05070102214813232421875)),
  ]),
  ThresholdedRelu: unary('thresholded', (node) => [node.float('alpha', 1), 0]),
  Shrink: unary('shrink', (node) => [node.float('lambd', 0.5), node.float('bias', 0)]),
  Add: binary('add', (c) => [1, c]),
  Sub: binary('sub', (c) => [1, -c]),
  Mul: binary('mul', (c) => [c, 0]),
  Div: binary('div'),
  PRelu: binary('prelu'),
  Pow: pow,
  Sum: variadic('add'),
  Mean: variadic('add', true),
  Min: variadic('min'),
  Max: variadic('max'),
}

export function geluOf(node: Node): string {
  return node.string('approximate', 'none') === 'tanh' ? 'gelu_tanh' : 'gelu'
}
