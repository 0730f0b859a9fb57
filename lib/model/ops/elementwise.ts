import { elementTypeOf, type Dim } from '../types'
import { broadcast, op, type InferContext, type Op, type Ops } from './op'

const same = op((c) => c.set(0, c.type(0), c.dims(0)))
const sameBool = op((c) => c.set(0, 'bool', c.dims(0)))

function all(c: InferContext): (readonly Dim[] | null)[] {
  return c.node.inputs.map((_, i) => c.dims(i))
}

/** Ops of opset 6 and before broadcast only if told to, and align at `axis`: the first operand has the shape. */
function shape(c: InferContext): readonly Dim[] | null {
  return c.opset < 7 && c.node.inputs.length === 2 ? c.dims(0) : broadcast(c, all(c))
}

const compare = op((c) => c.set(0, 'bool', shape(c)))
const variadic = op((c) => c.set(0, c.type(0), shape(c)))

/** Arithmetic also follows shapes in the making: `Shape` → `Mul` → `Concat` → `Reshape`. */
function arithmetic(f: (a: number, b: number) => number): Op {
  return op((c) => {
    const dims = shape(c)
    const a = c.data(0)
    const b = c.data(1)
    let data: Dim[] | undefined
    if (a && b && dims && dims.length <= 1 && c.type(0) !== 'float32') {
      const n = Math.max(a.length, b.length)
      if (a.length === b.length || a.length === 1 || b.length === 1)
        data = Array.from({ length: n }, (_, i) => {
          const x = a[a.length === 1 ? 0 : i]
          const y = b[b.length === 1 ? 0 : i]
          const z = typeof x === 'number' && typeof y === 'number' ? f(x, y) : null
          return z !== null && Number.isSafeInteger(z) ? z : null
        })
    }
    c.set(0, c.type(0), dims, data)
  })
}

function ops(names: string, what: Op): Ops {
  return Object.fromEntries(names.split(' ').map((n) => [n, what]))
}

export const elementwise: Ops = {
  ...ops(
    'Relu Sigmoid HardSigmoid HardSwish Clip Sqrt Exp Log Abs Erf Tanh LeakyRelu Elu Selu Celu Gelu Mish Swish Softplus ' +
      'Softsign ThresholdedRelu Floor Ceil Round Sign Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh ' +
      'Atanh Shrink BitwiseNot LRN LpNormalization MeanVarianceNormalization InstanceNormalization Softmax LogSoftmax ' +
      'Hardmax CumSum Trilu ReverseSequence ScatterElements ScatterND Scatter GroupNormalization PRelu',
    same,
  ),
  ...ops('Not IsNaN IsInf', sameBool),
  ...ops('And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual', compare),
  ...ops('Sum Mean Min Max Pow Mod BitShift BitwiseAnd BitwiseOr BitwiseXor', variadic),
  Identity: op((c) => c.set(0, c.type(0), c.dims(0), c.data(0))),
  Neg: op((c) => c.set(0, c.type(0), c.dims(0), c.data(0)?.map((d) => (typeof d === 'number' ? 0 - d : null)))),
  Add: arithmetic((a, b) => a + b),
  Sub: arithmetic((a, b) => a - b),
  Mul: arithmetic((a, b) => a * b),
  Div: arithmetic((a, b) => Math.trunc(a / b)),
  Where: op((c) => c.set(0, c.type(1), broadcast(c, all(c)))),
  Cast: op((c) => {
    const to = c.opset < 6 ? undefined : elementTypeOf(c.node.int('to', 0))
    c.set(0, to ?? 'undefined', c.dims(0), to === 'int64' || to === 'int32' ? c.data(0) : undefined)
  }),
  CastLike: op((c) => c.set(0, c.type(1), c.dims(0))),
  Dropout: op((c) => {
    c.set(0, c.type(0), c.dims(0))
    c.set(1, c.opset < 10 ? c.type(0) : 'bool', c.dims(0))
  }),
}
