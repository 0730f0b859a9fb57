import type { Graph } from '../graph'
import { Initializer } from '../initializer'
import { Node } from '../node'
import type { Axis, CoupleContext, Cut } from './op'

/** Axes of a value that are broadcast against the output: those that have its size go with it, index by index. */
export function broadcastInput(c: CoupleContext, input: number, role: 'scale' | undefined = 'scale'): void {
  const dims = c.inputs[input]
  const out = c.outputs[0]
  if (!dims || !out) return
  const shift = out.length - dims.length
  dims.forEach((size, axis) => {
    if (axis + shift < 0 || size !== out[axis + shift]) return
    c.couple(c.in(input, axis), c.out(0, axis + shift))
    if (role && c.constant(input)) c.weight(input, axis, role)
  })
}

/** Every element by itself: all operands go with the result, numpy's broadcasting. */
export function elementwiseChannels(c: CoupleContext): void {
  c.node.inputs.forEach((name, i) => {
    if (name) broadcastInput(c, i)
  })
}

/** The axes that `keeps` accepts pass from input 0 to every output of the same rank; others need all of their indices. */
export function passing(keeps: (c: CoupleContext, axis: number, rank: number) => boolean): (c: CoupleContext) => void {
  return (c) => {
    const x = c.inputs[0]
    if (!x) return
    x.forEach((size, axis) => {
      if (!keeps(c, axis, x.length)) return
      c.outputs.forEach((out, o) => {
        if (out?.length === x.length && out[axis] === size) c.couple(c.in(0, axis), c.out(o, axis))
      })
    })
  }
}

/** What a window slides over is spatial: images and channels pass. */
export const batchAndChannels = passing((_c, axis) => axis < 2)

export const everyAxis = passing(() => true)

/** Axis `of` counted from the front. */
export const fromFront = (axis: number, rank: number): number => (axis < 0 ? axis + rank : axis)

interface Run {
  readonly from: readonly number[]
  readonly to: readonly number[]
}

/** Runs of axes that hold the same elements before and after a reshape; axes of size 1 are left out. */
function runsOf(x: readonly number[], y: readonly number[]): Run[] | undefined {
  const runs: Run[] = []
  let [i, j] = [0, 0]
  while (i < x.length && j < y.length) {
    const [firstX, firstY] = [i, j]
    let [p, q] = [x[i++] as number, y[j++] as number]
    while (p !== q)
      if (p < q && i < x.length) p *= x[i++] as number
      else if (q < p && j < y.length) q *= y[j++] as number
      else return undefined
    const axes = (dims: readonly number[], from: number, to: number): number[] =>
      Array.from({ length: to - from }, (_, k) => from + k).filter((k) => dims[k] !== 1)
    runs.push({ from: axes(x, firstX, i), to: axes(y, firstY, j) })
  }
  return [...x.slice(i), ...y.slice(j)].every((d) => d === 1) ? runs : undefined
}

/**
 * A reshape: an axis that stays goes with itself. Where one is split into several (or several become one), whole indices of
 * one of these are what can go: heads of an attention, maps of a flattened image. Which one of them is `c.pick`'s choice.
 * Where several become several others, what can go is a factor of both: [batch, heads · width] as [batch · heads, width].
 */
export function reshapeChannels(c: CoupleContext): void {
  const [x, y] = [c.inputs[0], c.outputs[0]]
  if (!x || !y || x.some((d) => d === 0)) return
  for (const { from, to } of runsOf(x, y) ?? []) {
    if (from.length === 1 && to.length === 1) c.couple(c.in(0, from[0]!), c.out(0, to[0]!))
    if (from.length === 1 && to.length > 1) {
      const part = (k: number): ((i: number) => number) => {
        const inner = to.slice(k + 1).reduce((n, axis) => n * y[axis]!, 1)
        return (i) => Math.floor(i / inner) % y[to[k]!]!
      }
      const k = c.pick(to.map((axis) => c.out(0, axis)), { whole: c.in(0, from[0]!), part })
      c.couple(c.in(0, from[0]!), c.out(0, to[k]!), part(k))
    }
    if (from.length > 1 && to.length === 1) {
      const k = c.pick(from.map((axis) => c.in(0, axis)))
      const inner = from.slice(k + 1).reduce((n, axis) => n * x[axis]!, 1)
      c.couple(c.out(0, to[0]!), c.in(0, from[k]!), (i) => Math.floor(i / inner) % x[from[k]!]!)
    }
    if (from.length > 1 && to.length > 1) regrouped(c, from, to)
  }
}

/** Several axes that become several others: indices of the innermost factor of an axis on the side that ends in the finer one. */
function regrouped(c: CoupleContext, from: readonly number[], to: readonly number[]): void {
  const [x, y] = [from.map((axis) => c.in(0, axis)), to.map((axis) => c.out(0, axis))]
  const [fine, coarse] = x[x.length - 1]!.size < y[y.length - 1]!.size ? [x, y] : [y, x]
  const choice = fine[c.pick(fine)]!
  // Elements between two neighbours, on each side: a factor is what lies between two such numbers.
  const stride = fine.slice(fine.indexOf(choice) + 1).reduce((n, a) => n * a.size, 1)
  let inner = 1
  for (const axis of [...coarse].reverse()) {
    const outer = inner * axis.size
    if (stride >= inner && stride < outer) {
      const size = Math.min(outer / stride, choice.size)
      if (stride % inner !== 0 || outer % stride !== 0 || choice.size % size !== 0) return
      const step = stride / inner
      c.couple(choice, axis, (i) => (i % size) * step)
      c.couple(axis, choice, (j) => Math.floor(j / step) % size)
      return
    }
    inner = outer
  }
}

const constantBehind = (graph: Graph, name: string): readonly number[] | undefined => {
  for (let value = name; ; ) {
    const found = graph.constant(value)
    if (found) return (found.type === 'int64' || found.type === 'int32') && found.dims.length <= 1 ? Array.from(found.readSync().data as BigInt64Array, Number) : undefined
    const producer = graph.producer(value)
    if (!producer?.is('Cast', 'Identity', 'Squeeze', 'Unsqueeze') || !producer.inputs[0]) return undefined
    value = producer.inputs[0]
  }
}

/** @internal A constant of its own for one node. */
export function ownConstant(graph: Graph, hint: string, values: readonly number[], type: 'int64' | 'int32' = 'int64'): string {
  const name = graph.uniqueName(hint)
  const data = type === 'int64' ? BigInt64Array.from(values, BigInt) : Int32Array.from(values)
  graph.addInitializer(Initializer.from(name, { type, dims: [values.length], data }))
  return name
}

/**
 * Input `input` of the node says the output's size on axes `axes` (entry by entry). Numbers in it that name a size which
 * changed are written anew; what the graph computes out of other shapes follows by itself.
 */
export function rewriteSizes(cut: Cut, input: number, axes: readonly number[]): void {
  const { node, graph } = cut
  const name = node.inputs[input]
  if (!name) return
  const changed = axes.map((axis) => cut.size(cut.out(0, axis)))
  if (changed.every((n) => n === undefined)) return
  const constant = graph.constant(name)
  if (constant) {
    const old = Array.from(constant.readSync().data as BigInt64Array, Number)
    const next = old.map((v, i) => (v > 0 ? (changed[i] ?? v) : v))
    if (next.some((v, i) => v !== old[i])) node.setInput(input, ownConstant(graph, `${node.label}_sizes`, next))
    return
  }
  // A list put together out of pieces: numbers among them are replaced in a list of the node's own.
  const between: Node[] = []
  let producer = graph.producer(name)
  while (producer?.is('Cast', 'Identity')) {
    between.unshift(producer)
    producer = graph.producer(producer.inputs[0] ?? '')
  }
  if (!producer?.is('Concat')) return
  let at = 0
  let touched = false
  const pieces = producer.inputs.map((piece) => {
    const values = constantBehind(graph, piece)
    const length = values?.length ?? cut.lengthOf(piece) ?? 1
    const next = values?.map((v, i) => (v > 0 ? (changed[at + i] ?? v) : v))
    at += length
    if (!next || next.every((v, i) => v === values?.[i])) return piece
    touched = true
    return ownConstant(graph, `${piece}_cut`, next, cut.typeOf(piece) === 'int32' ? 'int32' : 'int64')
  })
  if (!touched) return
  let value = graph.uniqueName(`${name}_cut`)
  graph.addNode(new Node({ opType: 'Concat', name: graph.uniqueName(`${producer.label}_cut`), inputs: pieces, outputs: [value], attributes: producer.attributes }), { before: node })
  for (const step of between) {
    const next = graph.uniqueName(`${name}_cut`)
    graph.addNode(new Node({ opType: step.opType, name: graph.uniqueName(`${step.label}_cut`), inputs: [value], outputs: [next], attributes: step.attributes }), { before: node })
    value = next
  }
  node.setInput(input, value)
}

/** What computes sizes out of sizes. */
const kSizeArithmetic = ['Add', 'Sub', 'Mul', 'Div', 'Neg', 'Equal', 'Where', 'Min', 'Max'] as const

/**
 * Sizes that a graph reads off a value and computes with, other than to shape further values, are part of its formula: such axes
 * must keep theirs.
 */
export function shapeReaders(c: CoupleContext): void {
  const x = c.inputs[0]
  if (!x) return
  const start = fromFront(c.node.int('start', 0), x.length)
  const end = fromFront(c.node.int('end', x.length), x.length)
  const entries = x.map((_, i) => i).slice(Math.max(0, start), Math.max(0, end))
  const free = new Set(x.keys())
  const seen = new Set<string>()
  const walk = (value: string, carried: readonly number[]): void => {
    const key = `${value} ${carried.join()}`
    if (seen.has(key)) return
    seen.add(key)
    if (c.graph.isOutput(value)) for (const axis of carried) free.delete(axis)
    for (const user of c.graph.users(value)) {
      const output = user.outputs[0] ?? ''
      const data = user.inputs[0] === value
      if (user.is('Unsqueeze', 'Squeeze', 'Identity') && data) walk(output, carried)
      else if (user.is('Cast') && data && [6, 7].includes(user.int('to', 0))) walk(output, carried)
      // Sums and products of sizes are sizes; what becomes of them is seen where they are used, and checked when they change.
      else if (user.is('Concat', ...kSizeArithmetic)) walk(output, carried)
      // Of a list its length counts.
      else if (user.is('Shape')) continue
      else if (user.is('Gather') && data) {
        const picks = constantBehind(c.graph, user.inputs[1] ?? '')
        // After a Concat the entries' places are not known here: then all are carried on.
        walk(output, picks && carried.length === entries.length ? picks.map((p) => carried[fromFront(p, carried.length)]).filter((p) => p !== undefined) : carried)
      } else if (user.is('Slice') && data) {
        const [from, to] = user.inputs.length > 2 ? [constantBehind(c.graph, user.inputs[1] ?? ''), constantBehind(c.graph, user.inputs[2] ?? '')] : [user.ints('starts'), user.ints('ends')]
        walk(output, from?.length === 1 && to?.length === 1 && carried.length === entries.length ? carried.slice(from[0], to[0]) : carried)
      } else if (!(user.is('Reshape', 'Expand') && user.inputs[1] === value && !data) && !(user.is('Resize') && user.inputs[3] === value))
        for (const axis of carried) free.delete(axis)
    }
  }
  walk(c.node.outputs[0] ?? '', entries)
  for (const axis of free) c.leave(c.in(0, axis))
  c.leave(c.out(0, 0))
}

/** Axes without anything to say on channels: sizes in the making. */
export function leaveAll(c: CoupleContext): void {
  const each = (dims: readonly number[] | undefined, of: (axis: number) => Axis): void => dims?.forEach((_, axis) => c.leave(of(axis)))
  c.inputs.forEach((dims, i) => each(dims, (axis) => c.in(i, axis)))
  c.outputs.forEach((dims, o) => each(dims, (axis) => c.out(o, axis)))
}
