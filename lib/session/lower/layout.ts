import type { Node } from '../../model'
import { sizeOf } from '../../tensor'
import { codeAhead, emitCodes } from '../expression'
import type { Lower, Lowering } from '../lowering'
import { identity, isRowMajor, stridesOf, type Value } from '../value'
import { turnStored } from './weight'

/** The same memory under other dims. Only axes of size 1 may come and go unless memory is row-major. */
function relabel(l: Lowering, node: Node, v: Value, dims: readonly number[]): void {
  const name = node.outputs[0] as string
  const x = l.inMemory(v, node)
  const far = (d: readonly number[]): number[] => d.flatMap((n, i) => (n === 1 ? [] : [i]))
  const [from, to] = [far(x.dims), far(dims)]
  const same = from.length === to.length && from.every((axis, i) => x.dims[axis] === dims[to[i] as number])
  const base = { kind: 'value' as const, type: x.type, dims }
  if (!isRowMajor(x.dims, x.order) && same) {
    const moved = new Map(from.map((axis, i) => [axis, to[i] as number]))
    const order = x.order.flatMap((axis) => moved.get(axis) ?? [])
    const ones = identity(dims.length).filter((axis) => dims[axis] === 1)
    return l.define(name, { ...base, order: [...ones, ...order], memory: x.memory }, node)
  }
  const flat = l.rowMajor(x, node)
  l.define(name, { ...base, order: identity(dims.length), memory: flat.memory }, node)
}

const reshape: Lower = (node, l) => relabel(l, node, l.lazy(node.inputs[0] as string, node), l.dims(node.outputs[0] as string, node))

const transpose: Lower = (node, l) => {
  if (turnStored(node, l)) return
  const x = l.value(node.inputs[0] as string, node)
  const perm = node.ints('perm') ?? identity(x.dims.length).reverse()
  const place = new Map(perm.map((axis, i) => [axis, i]))
  const order = x.order.map((axis) => place.get(axis) as number)
  l.define(node.outputs[0] as string, { kind: 'value', type: x.type, dims: perm.map((a) => x.dims[a] as number), order, memory: x.memory }, node)
}

/** The order that most of the operands lie in, so that few are moved. */
function commonOrder(values: readonly Value[]): readonly number[] {
  return values.find((v) => !v.constant)?.order ?? identity(values[0]?.dims.length ?? 0)
}

const concat: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const dims = l.dims(name, node)
  const axis = axisOf(node.int('axis', 0), dims.length)
  // Codes are concatenated where codes is all that is made of the result.
  const ahead = codeAhead(l, name, false)
  const parts = node.inputs.map((i) => (ahead ? emitCodes(l, l.lazy(i, node), ahead.code, node) : l.value(i, node)))
  const out = l.make(ahead?.code.type ?? l.type(name, node), dims, commonOrder(parts))
  const strides = stridesOf(dims, out.order)
  let at = 0
  for (const x of parts) {
    if (sizeOf(x.dims) > 0)
      l.stridedCopy(x, x.dims, stridesOf(x.dims, x.order), 0, out.memory, strides, at * (strides[axis] as number), node)
    at += x.dims[axis] as number
  }
  if (ahead) l.taken.add(ahead.by)
  l.define(ahead ? (ahead.by.outputs[0] as string) : name, out, node)
}

/** A box of `x` that starts at `begin` and goes by `steps`, as a value of its own. */
function box(l: Lowering, node: Node, name: string, begin: readonly number[], steps: readonly number[]): void {
  const x = l.value(node.inputs[0] as string, node)
  const dims = l.dims(name, node)
  const own = stridesOf(x.dims, x.order)
  if (dims.every((d, i) => d === x.dims[i]) && steps.every((s) => s === 1)) return l.define(name, { ...x, dims }, node)
  const out = l.make(x.type, dims, x.order)
  const offset = begin.reduce((sum, b, i) => sum + b * (own[i] as number), 0)
  if (sizeOf(dims) > 0)
    l.stridedCopy(x, dims, own.map((s, i) => s * (steps[i] as number)), offset, out.memory, stridesOf(dims, out.order), 0, node)
  l.define(name, out, node)
}

const slice: Lower = (node, l) => {
  const x = l.dims(node.inputs[0] as string, node)
  const starts = l.ints(node.inputs[1], node)
  const ends = l.ints(node.inputs[2], node)
  const given = node.inputs[3] ? l.ints(node.inputs[3], node) : starts?.map((_, i) => i)
  const givenSteps = node.inputs[4] ? l.ints(node.inputs[4], node) : starts?.map(() => 1)
  if (!starts || !ends || !given || !givenSteps) return l.unsupported(node, 'a slice whose bounds are computed')
  const begin = x.map(() => 0)
  const steps = x.map(() => 1)
  given.forEach((a, i) => {
    const axis = axisOf(a, x.length)
    const d = x[axis] as number
    const s = starts[i] as number
    const step = givenSteps[i] as number
    const from = s < 0 ? s + d : s
    begin[axis] = step > 0 ? Math.min(Math.max(from, 0), d) : Math.min(Math.max(from, 0), d - 1)
    steps[axis] = step
  })
  box(l, node, node.outputs[0] as string, begin, steps)
}

const split: Lower = (node, l) => {
  const x = l.dims(node.inputs[0] as string, node)
  const axis = axisOf(node.int('axis', 0), x.length)
  let at = 0
  for (const name of node.outputs) {
    if (!name) return l.unsupported(node, 'a part that is not named')
    const begin = x.map((_, i) => (i === axis ? at : 0))
    if (l.users(name).length > 0 || l.isWanted(name)) box(l, node, name, begin, x.map(() => 1))
    at += l.dims(name, node)[axis] as number
  }
}

const expand: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const x = l.value(node.inputs[0] as string, node)
  const dims = l.dims(name, node)
  const out = l.make(x.type, dims)
  const own = stridesOf(x.dims, x.order)
  const strides = dims.map((_, i) => {
    const at = i - (dims.length - x.dims.length)
    return at < 0 || x.dims[at] === 1 ? 0 : (own[at] as number)
  })
  if (sizeOf(dims) > 0) l.stridedCopy(x, dims, strides, 0, out.memory, stridesOf(dims, out.order), 0, node)
  l.define(name, out, node)
}

const alias: Lower = (node, l) => l.define(node.outputs[0] as string, l.lazy(node.inputs[0] as string, node), node)

const dropout: Lower = (node, l) => {
  const mask = node.outputs[1]
  if (mask && (l.isWanted(mask) || l.users(mask).length > 0)) return l.unsupported(node, 'the mask')
  if (node.inputs[2] && l.scalar(node.inputs[2], node) !== 0) return l.unsupported(node, 'dropout while training')
  alias(node, l)
}

export function axisOf(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis
}

export const layout: Readonly<Record<string, Lower>> = {
  Reshape: reshape,
  Squeeze: reshape,
  Unsqueeze: reshape,
  Flatten: reshape,
  Transpose: transpose,
  Concat: concat,
  Slice: slice,
  Split: split,
  Expand: expand,
  Identity: alias,
  Dropout: dropout,
}
