import { folded } from './data'
import { fromFront } from './couple'
import { axisOf, op, unknown, type CoupleContext, type InferContext, type Ops } from './op'

/** The opset in which an op's `axes` became an input. */
export function axesInputSince(opType: string): number {
  return opType === 'ReduceSum' ? 13 : 18
}

function reduce(c: InferContext): void {
  const x = c.dims(0)
  const keep = c.node.int('keepdims', 1) !== 0
  const asInput = c.opset >= axesInputSince(c.node.opType)
  const axes = asInput ? (c.has(1) ? c.numbers(1) : []) : c.node.ints('axes', [])
  if (!x || !axes) return c.set(0, c.type(0), x && keep ? unknown(x.length) : null)
  if (axes.length === 0 && c.node.int('noop_with_empty_axes', 0) !== 0) return c.set(0, c.type(0), x)
  const gone = new Set(axes.length === 0 ? x.map((_, i) => i) : axes.map((a) => axisOf(c, a, x.length)))
  const how = kFolds[c.node.opType]
  const data = how && gone.size === x.length ? folded(c, ...how) : undefined
  c.set(0, c.type(0), keep ? x.map((d, i) => (gone.has(i) ? 1 : d)) : x.filter((_, i) => !gone.has(i)), data)
}

/** Reductions that occur in the making of shapes. */
const kFolds: Readonly<Record<string, readonly [f: (a: number, b: number) => number, first: number]>> = {
  ReduceSum: [(a, b) => a + b, 0],
  ReduceProd: [(a, b) => a * b, 1],
  ReduceMax: [Math.max, -Infinity],
  ReduceMin: [Math.min, Infinity],
}

function arg(c: InferContext): void {
  const x = c.dims(0)
  const keep = c.node.int('keepdims', 1) !== 0
  const axis = x ? axisOf(c, c.node.int('axis', 0), x.length) : 0
  c.set(0, 'int64', x && (keep ? x.map((d, i) => (i === axis ? 1 : d)) : x.filter((_, i) => i !== axis)))
}

/** Axes that are not reduced pass. */
function reduceChannels(c: CoupleContext): void {
  const x = c.inputs[0]
  if (!x) return
  const asInput = c.node.opType.startsWith('Reduce') && c.opset >= axesInputSince(c.node.opType)
  const given = c.node.opType.startsWith('Arg') ? [c.node.int('axis', 0)] : asInput ? (c.node.inputs[1] ? c.numbers(1) : []) : c.node.ints('axes', [])
  if (!given) return
  const none = given.length === 0 && c.node.int('noop_with_empty_axes', 0) !== 0
  const gone = new Set(given.length === 0 && !none ? x.keys() : given.map((a) => fromFront(a, x.length)))
  const keep = c.node.int('keepdims', 1) !== 0
  let to = 0
  x.forEach((_, axis) => {
    if (!gone.has(axis)) c.couple(c.in(0, axis), c.out(0, to++))
    else if (keep) to++
  })
}

export const reductions: Ops = {
  ...Object.fromEntries(
    ['Sum', 'Mean', 'Max', 'Min', 'Prod', 'L1', 'L2', 'LogSum', 'LogSumExp', 'SumSquare'].map((n) => [
      `Reduce${n}`,
      op(reduce, reduceChannels),
    ]),
  ),
  ArgMax: op(arg, reduceChannels),
  ArgMin: op(arg, reduceChannels),
}
