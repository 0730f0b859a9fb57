import { attribute } from '../node'
import { broadcastInput, everyAxis, fromFront, leaveAll, ownConstant, passing, reshapeChannels, rewriteSizes, shapeReaders } from './couple'
import type { CoupleContext, Cut } from './op'

/** A reshape's target in input 1, or in an attribute before opset 5. */
function reshape(c: CoupleContext): void {
  reshapeChannels(c)
  if (c.inputs[1]?.length === 1) c.leave(c.in(1, 0))
  const rank = c.outputs[0]?.length ?? 0
  const axes = Array.from({ length: rank }, (_, i) => i)
  c.onCut((cut) => {
    if (cut.opset >= 5) return rewriteSizes(cut, 1, axes)
    const old = cut.node.ints('shape', [])
    cut.node.attributes.set('shape', attribute.ints(old.map((v, i) => (v > 0 ? (cut.size(cut.out(0, i)) ?? v) : v))))
  })
}

/** Axes that are 1, taken out or put in. */
function squeezed(c: CoupleContext): void {
  reshapeChannels(c)
  if (c.inputs[1]?.length === 1) c.leave(c.in(1, 0))
}

/** A list that is an attribute up to some opset and an input from then on. */
function listOf(c: CoupleContext, name: string, input: number, since: number): readonly number[] | undefined {
  return c.opset >= since ? c.numbers(input) : c.node.ints(name)
}

/** A run of indices out of each axis, step 1: the run of what stays is found anew. */
function slice(c: CoupleContext): void {
  const [x, y] = [c.inputs[0], c.outputs[0]]
  if (!x || !y) return
  for (const i of [1, 2, 3, 4]) if (c.inputs[i]?.length === 1) c.leave(c.in(i, 0))
  const starts = listOf(c, 'starts', 1, 10)
  const ends = listOf(c, 'ends', 2, 10)
  const given = c.opset >= 10 ? (c.node.inputs[3] ? c.numbers(3) : undefined) : c.node.ints('axes')
  const steps = c.opset >= 10 && c.node.inputs[4] ? c.numbers(4) : undefined
  if (!starts || !ends || (c.opset >= 10 && ((c.node.inputs[3] && !given) || (c.node.inputs[4] && !steps)))) return
  const axes = (given ?? starts.map((_, i) => i)).map((a) => fromFront(a, x.length))
  const from = (k: number): number => Math.min(Math.max(starts[k]! < 0 ? starts[k]! + x[axes[k]!]! : starts[k]!, 0), x[axes[k]!]!)
  x.forEach((size, axis) => {
    const k = axes.indexOf(axis)
    if (k < 0) return c.couple(c.in(0, axis), c.out(0, axis))
    if ((steps?.[k] ?? 1) !== 1) return
    const first = from(k)
    c.couple(c.in(0, axis), c.out(0, axis), (i) => (i >= first && i - first < y[axis]! ? i - first : -1))
    if (y[axis] !== size) c.leave(c.in(0, axis))
  })
  c.onCut((cut) => {
    const [begin, end] = [[...starts], [...ends]]
    let changed = false
    axes.forEach((axis, k) => {
      const kept = cut.kept(cut.in(0, axis))
      const [first, last] = [from(k), from(k) + y[axis]!]
      if (!kept) return
      changed = true
      begin[k] = kept.filter((i) => i < first).length
      end[k] = kept.filter((i) => i < last).length
    })
    if (changed) writeLists(cut, { starts: [1, begin], ends: [2, end] }, 10)
  })
}

function writeLists({ node, graph, opset }: Cut, lists: Readonly<Record<string, readonly [input: number, values: readonly number[]]>>, since: number): void {
  for (const [name, [input, values]] of Object.entries(lists))
    if (opset < since) node.attributes.set(name, attribute.ints(values))
    else node.setInput(input, ownConstant(graph, `${node.label}_${name}`, values))
}

function concat(c: CoupleContext): void {
  const y = c.outputs[0]
  if (!y) return
  const along = fromFront(c.node.int('axis', c.opset < 4 ? 1 : 0), y.length)
  let at = 0
  c.inputs.forEach((dims, i) => {
    if (dims?.length !== y.length) return
    const first = at
    dims.forEach((_, axis) => c.couple(c.in(i, axis), c.out(0, axis), axis === along ? (k) => first + k : undefined))
    at += dims[along]!
  })
}

function split(c: CoupleContext): void {
  const x = c.inputs[0]
  if (!x) return
  const along = fromFront(c.node.int('axis', 0), x.length)
  let at = 0
  c.outputs.forEach((dims, o) => {
    if (!dims) return
    const first = at
    dims.forEach((_, axis) => c.couple(c.out(o, axis), c.in(0, axis), axis === along ? (k) => first + k : undefined))
    at += dims[along]!
  })
  if (c.inputs[1]?.length === 1) c.leave(c.in(1, 0))
  c.onCut((cut) => {
    if (cut.kept(cut.in(0, along)) === undefined) return
    const sizes = c.outputs.map((dims, o) => cut.size(cut.out(o, along)) ?? dims?.[along] ?? 0)
    // Equal parts need not stay equal: they are written out, which the count of parts then contradicts.
    cut.node.attributes.delete('num_outputs')
    writeLists(cut, { split: [1, sizes] }, 13)
  })
}

/** Single indices of the axis for all of a scalar's or a list's picks; other axes pass. Which were picked out cannot go. */
function gather(c: CoupleContext): void {
  const [x, picks] = [c.inputs[0], c.inputs[1]]
  if (!x || !picks) return
  const axis = fromFront(c.node.int('axis', 0), x.length)
  x.forEach((_, i) => {
    if (i === axis) return
    c.couple(c.in(0, i), c.out(0, i < axis ? i : i + picks.length - 1))
    if (c.constant(0)) c.weight(0, i, 'output')
  })
}

function pad(c: CoupleContext): void {
  const x = c.inputs[0]
  const pads = c.opset >= 11 ? c.numbers(1) : (c.node.ints('pads') ?? c.node.ints('paddings'))
  if (!x || !pads) return
  const axes = c.node.inputs[3] ? c.numbers(3)?.map((a) => fromFront(a, x.length)) : x.map((_, i) => i)
  if (!axes) return
  for (const i of [1, 3]) if (c.inputs[i]?.length === 1) c.leave(c.in(i, 0))
  passing((_c, axis) => {
    const k = axes.indexOf(axis)
    return k < 0 || (pads[k] === 0 && pads[k + axes.length] === 0)
  })(c)
}

function transpose(c: CoupleContext): void {
  const x = c.inputs[0]
  if (!x) return
  const order = c.node.ints('perm') ?? x.map((_, i) => x.length - 1 - i)
  order.forEach((axis, i) => c.couple(c.in(0, axis), c.out(0, i)))
}

function expand(c: CoupleContext): void {
  broadcastInput(c, 0)
  if (c.inputs[1]?.length === 1) c.leave(c.in(1, 0))
  const rank = c.outputs[0]?.length ?? 0
  const asked = c.inputs[1]?.[0] ?? 0
  // Along an axis that is made by repeating, all are the same.
  c.outputs[0]?.forEach((size, axis) => {
    if (size !== 1 && (c.inputs[0]?.[axis - rank + (c.inputs[0]?.length ?? 0)] ?? 1) === 1) c.leave(c.out(0, axis))
  })
  c.onCut((cut) => rewriteSizes(cut, 1, Array.from({ length: asked }, (_, i) => i + rank - asked)))
}

function tile(c: CoupleContext): void {
  const times = c.numbers(1)
  if (!times) return
  c.leave(c.in(1, 0))
  passing((_c, axis) => times[axis] === 1)(c)
}

/** Channels that share their place in a block go together. */
function space(fold: boolean): (c: CoupleContext) => void {
  return (c) => {
    c.couple(c.in(0, 0), c.out(0, 0))
    const [from, to] = fold ? [c.in(0, 1), c.out(0, 1)] : [c.out(0, 1), c.in(0, 1)]
    const block = from.size / to.size
    const columns = fold && c.node.string('mode', 'DCR') === 'CRD'
    c.couple(from, to, (i) => (columns ? Math.floor(i / block) : i % to.size))
  }
}

/** How the channels of each op that moves data are coupled. */
export const layoutChannels = {
  Reshape: reshape,
  Squeeze: squeezed,
  Unsqueeze: squeezed,
  Flatten: reshapeChannels,
  Slice: slice,
  Concat: concat,
  Split: split,
  Gather: gather,
  Pad: pad,
  Transpose: transpose,
  Expand: expand,
  Tile: tile,
  Shape: shapeReaders,
  DepthToSpace: space(true),
  SpaceToDepth: space(false),
  everyAxis,
  leaveAll,
} as const
