import { elementTypeOf, type Dim } from '../types'
import { chosen, converted, mapped } from './data'
import { batchAndChannels, elementwiseChannels, everyAxis, fromFront, passing } from './couple'
import { broadcast, op, type CoupleContext, type InferContext, type Op, type Ops } from './op'

const sameShape = (c: InferContext): void => c.set(0, c.type(0), c.dims(0))
const same = op(sameShape)
const each = op(sameShape, elementwiseChannels)
const sameBool = op((c) => c.set(0, 'bool', c.dims(0)), elementwiseChannels)

/** Softmax and its kind take the axis whole; before opset 13 all from it on. */
function softmaxKeeps(c: CoupleContext, axis: number, rank: number): boolean {
  const at = fromFront(c.node.int('axis', c.opset < 13 ? 1 : -1), rank)
  return c.opset < 13 ? axis < at : axis !== at
}

/** Scale and bias a channel, statistics a channel and image. */
function instanceChannels(c: CoupleContext): void {
  batchAndChannels(c)
  for (const i of [1, 2]) {
    c.couple(c.in(i, 0), c.in(0, 1))
    c.weight(i, 0, 'scale')
  }
}

function all(c: InferContext): (readonly Dim[] | null)[] {
  return c.node.inputs.map((_, i) => c.dims(i))
}

/** Ops of opset 6 and before broadcast only if told to, and align at `axis`: the first operand has the shape. */
function shape(c: InferContext): readonly Dim[] | null {
  return c.opset < 7 && c.node.inputs.length === 2 ? c.dims(0) : broadcast(c, all(c))
}

/** Arithmetic also follows shapes in the making: `Shape` → `Mul` → `Concat` → `Reshape`. */
function arithmetic(f: (...operands: number[]) => number): Op {
  return op((c) => {
    const dims = shape(c)
    c.set(0, c.type(0), dims, mapped(c, c.type(0), dims?.length, f))
  }, alignedChannels)
}

/** Before opset 7 operands align elsewhere: nothing is said then. */
function alignedChannels(c: CoupleContext): void {
  if (c.opset >= 7) elementwiseChannels(c)
}

function compare(f: (...operands: number[]) => boolean): Op {
  return op((c) => {
    const dims = shape(c)
    c.set(0, 'bool', dims, mapped(c, 'bool', dims?.length, (...o) => Number(f(...o))))
  }, alignedChannels)
}

/** The sign of the divisor. */
function modulo(a: number, b: number): number {
  return a - Math.floor(a / b) * b
}

function ops(names: string, what: Op): Ops {
  return Object.fromEntries(names.split(' ').map((n) => [n, what]))
}

export const elementwise: Ops = {
  ...ops(
    'Relu Sigmoid HardSigmoid HardSwish Clip Exp Log Erf Tanh LeakyRelu Elu Selu Celu Gelu Mish Swish Softplus ' +
      'Softsign ThresholdedRelu Round Sign Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh ' +
      'Atanh Shrink BitwiseNot PRelu',
    each,
  ),
  ...ops('MeanVarianceNormalization CumSum Trilu ReverseSequence ScatterElements ScatterND Scatter GroupNormalization', same),
  ...ops('Softmax LogSoftmax Hardmax', op(sameShape, passing(softmaxKeeps))),
  LRN: op(sameShape, passing((_c, axis) => axis !== 1)),
  LpNormalization: op(sameShape, passing((c, axis, rank) => axis !== fromFront(c.node.int('axis', -1), rank))),
  InstanceNormalization: op(sameShape, instanceChannels),
  ...ops('IsNaN IsInf', sameBool),
  Not: compare((a) => !a),
  And: compare((a, b) => Boolean(a && b)),
  Or: compare((a, b) => Boolean(a || b)),
  Xor: compare((a, b) => Boolean(a) !== Boolean(b)),
  Equal: compare((a, b) => a === b),
  Greater: compare((a, b) => a > b),
  Less: compare((a, b) => a < b),
  GreaterOrEqual: compare((a, b) => a >= b),
  LessOrEqual: compare((a, b) => a <= b),
  ...ops('Mean BitShift BitwiseAnd BitwiseOr BitwiseXor', op((c) => c.set(0, c.type(0), shape(c)), alignedChannels)),
  Sum: arithmetic((...all) => all.reduce((a, b) => a + b, 0)),
  Min: arithmetic(Math.min),
  Max: arithmetic(Math.max),
  Pow: arithmetic(Math.pow),
  Mod: op((c) => {
    const dims = shape(c)
    c.set(0, c.type(0), dims, c.node.int('fmod', 0) ? undefined : mapped(c, c.type(0), dims?.length, modulo))
  }, alignedChannels),
  Identity: op((c) => c.set(0, c.type(0), c.dims(0), c.data(0)), everyAxis),
  Neg: arithmetic((a) => 0 - a),
  Abs: arithmetic(Math.abs),
  Sqrt: arithmetic(Math.sqrt),
  Floor: arithmetic(Math.floor),
  Ceil: arithmetic(Math.ceil),
  Reciprocal: arithmetic((a) => 1 / a),
  Add: arithmetic((a, b) => a + b),
  Sub: arithmetic((a, b) => a - b),
  Mul: arithmetic((a, b) => a * b),
  Div: op((c) => {
    const dims = shape(c)
    const float = c.type(0).startsWith('float')
    c.set(0, c.type(0), dims, mapped(c, c.type(0), dims?.length, (a, b) => (float ? a / b : Math.trunc(a / b))))
  }, alignedChannels),
  Where: op((c) => {
    const dims = broadcast(c, all(c))
    c.set(0, c.type(1), dims, chosen(c, dims?.length))
  }, elementwiseChannels),
  Cast: op((c) => {
    const to = c.opset < 6 ? undefined : elementTypeOf(c.node.int('to', 0))
    c.set(0, to ?? 'undefined', c.dims(0), to && converted(c, to))
  }, everyAxis),
  CastLike: op((c) => c.set(0, c.type(1), c.dims(0))),
  Dropout: op((c) => {
    c.set(0, c.type(0), c.dims(0))
    c.set(1, c.opset < 10 ? c.type(0) : 'bool', c.dims(0))
  }, everyAxis),
}
