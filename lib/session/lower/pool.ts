import type { Node } from '../../model'
import { sizeOf } from '../../tensor'
import { valueOf, wholeCode, type Code } from '../codes'
import { codeAhead } from '../expression'
import type { Lower, Lowering } from '../lowering'
import type { Memory } from '../program'
import type { Quantized } from '../value'
import { channelsLast, imageOf, isStill, kStill, planar, slidesOf, type Slide, type Window } from './window'

function pool(average: boolean): Lower {
  return (node, l) => {
    if (node.outputs[1]) l.unsupported(node, 'the positions of maxima')
    const name = node.outputs[0] as string
    const dims = l.dims(node.inputs[0] as string, node)
    const outDims = l.dims(name, node)
    const slides = slidesOf(node, l, node.ints('kernel_shape', []), dims.slice(2), outDims.slice(2))
    const order = channelsLast(dims.length)
    const given = l.lazy(node.inputs[0] as string, node)
    l.float(given, node)
    // The largest code stands for the largest value, where the result is codes of the same kind.
    const code = average || l.constants.device ? undefined : sameCode(wholeCode(given), codeAhead(l, name, false)?.code)
    const x = l.inOrder(code ? (given.quantized as Quantized).codes : given, order, node)
    const padded = node.int('count_include_pad', 0)
    const [n, h, wide, c] = imageOf(dims)
    const [, oh, ow] = imageOf(outDims)
    const step = (sizes: readonly number[], w: Window, from: Memory, to: Memory): void =>
      l.program.step('pool', node.label, ...sizes, ...[...w.kernel, ...w.strides, ...w.dilations, ...w.pads], average ? 1 : 0, padded, code ? (code.type === 'int8' ? 2 : 1) : 0, from, to)
    const out = l.make(x.type, outDims, order)
    const deep = slides.length === 3 ? (slides.shift() as Slide) : kStill
    if (isStill(deep)) step([n, h, wide, c, oh, ow], planar(slides), x.memory, out.memory)
    else {
      // Windows are boxes: over the planes first, then over the depth, as images of one row for each plane.
      const flat = slides.every(isStill)
      const planes = flat ? x.memory : l.program.memory(x.type, n * oh * ow * c)
      if (!flat) step([n, h, wide, c, oh, ow], planar(slides), x.memory, planes)
      step([dims[0] as number, dims[2] as number, oh * ow, c, outDims[2] as number, oh * ow], planar([deep, kStill]), planes, out.memory)
    }
    l.define(name, code ? valueOf(out, code) : out, node)
  }
}

const sameCode = (a: Code | undefined, b: Code | undefined): Code | undefined =>
  a && b && a.type === b.type && a.scale === b.scale && a.zero === b.zero ? a : undefined

/** core/norm.h: ReduceKind */
export const kReduce = { sum: 0, mean: 1, max: 2, min: 3, l1: 4, l2: 5, sumSquare: 6, logSum: 7, logSumExp: 8, prod: 9 } as const

function global(kind: number): Lower {
  return (node, l) => reduceAxes(l, node, kind, null)
}

/** Reduces all but the first two axes (`axes` null) or those named. */
export function reduceAxes(l: Lowering, node: Node, kind: number, axes: readonly number[] | null): void {
  const name = node.outputs[0] as string
  let x = l.value(node.inputs[0] as string, node)
  l.float(x, node)
  const rank = x.dims.length
  const gone = new Set(axes ?? Array.from({ length: rank - 2 }, (_, i) => i + 2))
  const dims = l.dims(name, node)
  if (gone.size === 0) return l.define(name, { ...x, dims }, node)
  // One run of reduced axes in memory is read where it lies; otherwise they go last.
  const runs = (order: readonly number[]): number => {
    const kept = order.filter((a) => x.dims[a] !== 1)
    let count = 0
    kept.forEach((a, i) => {
      if (gone.has(a) && (i === 0 || !gone.has(kept[i - 1] as number))) count++
    })
    return count
  }
  if (runs(x.order) > 1) x = l.inOrder(x, [...x.order.filter((a) => !gone.has(a)), ...x.order.filter((a) => gone.has(a))], node)
  const far = x.order.filter((a) => x.dims[a] !== 1)
  const first = far.findIndex((a) => gone.has(a))
  const product = (list: readonly number[]): number => sizeOf(list.map((a) => x.dims[a] as number))
  const n = product([...gone])
  const outer = first < 0 ? sizeOf(x.dims) : product(far.slice(0, first))
  const inner = first < 0 ? 1 : product(far.slice(first).filter((a) => !gone.has(a)))
  const kept = rank === dims.length
  const rest = x.order.filter((a) => !gone.has(a))
  // Where reduced axes are dropped the others move up.
  const place = new Map(
    Array.from({ length: rank }, (_, a) => a)
      .filter((a) => !gone.has(a))
      .map((a, i) => [a, kept ? a : i]),
  )
  const order = [...(kept ? [...gone] : []), ...rest.map((a) => place.get(a) as number)]
  const out = l.make('float32', dims, order)
  l.program.step('reduce', node.label, kind, outer, n, inner, x.memory, out.memory)
  l.define(name, out, node)
}

export const pooling: Readonly<Record<string, Lower>> = {
  MaxPool: pool(false),
  AveragePool: pool(true),
  GlobalAveragePool: global(kReduce.mean),
  GlobalMaxPool: global(kReduce.max),
}
