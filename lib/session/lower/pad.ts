import { bitsOf, sizeOf } from '../../tensor'
import type { Node } from '../../model'
import type { Lower, Lowering } from '../lowering'
import type { Memory } from '../program'
import { identity, stridesOf, type Value } from '../value'
import { axisOf } from './layout'

/** Where place `i` (perhaps outside) of an axis of `size` takes its element from. */
function source(mode: string, i: number, size: number): number {
  if (mode === 'edge') return Math.min(Math.max(i, 0), size - 1)
  if (mode === 'wrap') return ((i % size) + size) % size
  if (size === 1) return 0
  const period = 2 * (size - 1)
  const at = ((i % period) + period) % period
  return at < size ? at : period - at
}

/** Elements of an index that go up or down by one, or stay. */
interface Run {
  readonly at: number
  readonly first: number
  readonly step: number
  length: number
}

function runsOf(index: readonly number[]): Run[] {
  const runs: Run[] = []
  for (let i = 0; i < index.length; ) {
    const first = index[i] as number
    const step = (index[i + 1] ?? first) - first
    const run = { at: i, first, step, length: 1 }
    if (Math.abs(step) <= 1) while (i + run.length < index.length && index[i + run.length] === first + run.length * step) run.length++
    runs.push(run)
    i += run.length
  }
  return runs
}

/** Most runs of an index that are copied one by one. */
const kRuns = 6

/** Picks along one axis by an index that is known. */
function pickAlong(l: Lowering, node: Node, v: Value, axis: number, index: readonly number[]): Value & { readonly memory: Memory } {
  const runs = runsOf(index)
  if (runs.length <= kRuns && bitsOf(v.type) >= 8 && v.dims.length <= 8) {
    const x = l.inMemory(v, node)
    const out = l.make(x.type, x.dims.map((d, i) => (i === axis ? index.length : d)), x.order)
    const [own, strides] = [stridesOf(x.dims, x.order), stridesOf(out.dims, x.order)]
    if (sizeOf(out.dims) > 0)
      for (const { at, first, step, length } of runs) {
        const dims = x.dims.map((d, i) => (i === axis ? length : d))
        const from = own.map((s, i) => (i === axis ? s * step : s))
        l.stridedCopy(x, dims, from, first * (own[axis] as number), out.memory, strides, at * (strides[axis] as number), node)
      }
    return out
  }
  const x = l.rowMajor(v, node)
  const dims = x.dims.map((d, i) => (i === axis ? index.length : d))
  const out = l.make(x.type, dims)
  const inner = (sizeOf(x.dims.slice(axis + 1)) * bitsOf(x.type)) / 8
  const table = l.constants.raw(`index ${index.join()}`, () => Int32Array.from(index))
  l.program.step('gather', node.label, sizeOf(x.dims.slice(0, axis)), x.dims[axis] as number, inner, index.length, 0, x.memory, table, out.memory)
  return out
}

/** A value that is one number everywhere. */
export function filled(l: Lowering, node: Node, value: Value, dims: readonly number[], order: readonly number[] = identity(dims.length)): Value & { readonly memory: Memory } {
  const x = l.inMemory(value, node)
  const out = l.make(x.type, dims, order)
  if (sizeOf(dims) > 0) l.stridedCopy(x, dims, dims.map(() => 0), 0, out.memory, stridesOf(dims, order), 0, node)
  return out
}

const pad: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const v = l.lazy(node.inputs[0] as string, node)
  const rank = v.dims.length
  const mode = node.string('mode', 'constant')
  const pads = l.ints(node.inputs[1], node)
  const axes = node.inputs[3] ? l.ints(node.inputs[3], node) : identity(rank)
  if (!pads || !axes) return l.unsupported(node, 'padding that is computed')
  const dims = l.dims(name, node)
  const before = v.dims.map(() => 0)
  axes.forEach((a, i) => (before[axisOf(a, rank)] = pads[i] as number))

  if (mode !== 'constant') {
    let x: Value = v
    before.forEach((b, axis) => {
      const [from, to] = [v.dims[axis] as number, dims[axis] as number]
      if (b === 0 && from === to) return
      if (from === 0) l.unsupported(node, `padding an empty axis by ${mode}`)
      x = pickAlong(l, node, x, axis, Array.from({ length: to }, (_, i) => source(mode, i - b, from)))
    })
    return l.define(name, x, node)
  }

  const x = l.inMemory(v, node)
  const own = stridesOf(x.dims, x.order)
  const value = node.inputs[2] ? l.scalar(node.inputs[2], node) : 0
  let out: Value & { readonly memory: Memory }
  if (value !== undefined && x.type === 'float32') {
    out = l.make('float32', dims, x.order)
    l.program.step('fill', node.label, sizeOf(dims), value, out.memory)
  } else if (node.inputs[2]) out = filled(l, node, l.lazy(node.inputs[2], node), dims, x.order)
  else {
    const bytes = bitsOf(x.type) / 8
    const zero = l.constants.raw(`${bytes} zero bytes`, () => new Uint8Array(bytes))
    out = filled(l, node, { kind: 'value', type: x.type, dims: [], order: [], memory: zero }, dims, x.order)
  }
  const strides = stridesOf(dims, out.order)
  // Negative padding cuts.
  const begin = before.map((b) => Math.max(0, -b))
  const shown = x.dims.map((d, i) => Math.min(d - (begin[i] as number), (dims[i] as number) - Math.max(0, before[i] as number)))
  if (shown.every((d) => d > 0))
    l.stridedCopy(
      x,
      shown,
      own,
      begin.reduce((s, b, i) => s + b * (own[i] as number), 0),
      out.memory,
      strides,
      before.reduce((s, b, i) => s + Math.max(0, b) * (strides[i] as number), 0),
      node,
    )
  l.define(name, out, node)
}

export const padding: Readonly<Record<string, Lower>> = { Pad: pad }
