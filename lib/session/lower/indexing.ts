import { WhittleError } from '../../errors'
import type { Node } from '../../model'
import { bitsOf, sizeOf } from '../../tensor'
import type { Lower, Lowering } from '../lowering'
import type { Memory } from '../program'
import type { Value } from '../value'
import { emitTyped } from './typed'
import { axisOf } from './layout'

// core/plan/indexing.cpp
const kJoins: Readonly<Record<string, number>> = { none: 0, add: 1, mul: 2, max: 3, min: 4 }

type Given = Value & { readonly memory: Memory }

function bad(node: Node, what: string): never {
  throw new WhittleError('ERR_MODEL_FORMAT', node.label, `${node.opType} ${node.label}: ${what}`)
}

/** Data and indices, row-major. */
function operands(l: Lowering, node: Node): [x: Given, index: Given] {
  const [x, index] = [0, 1].map((i) => l.rowMajor(l.lazy(node.inputs[i] as string, node), node)) as [Given, Given]
  if (index.type !== 'int64' && index.type !== 'int32') l.unsupported(node, `indices of type ${index.type}`)
  return [x, index]
}

const bytesOf = (v: Value): number => bitsOf(v.type) / 8
const wide = (v: Value): number => (v.type === 'int64' ? 1 : 0)

/** What the steps of one element an index have in common. */
function elements(l: Lowering, node: Node, x: Given, index: Given): readonly number[] {
  const rank = x.dims.length
  const axis = axisOf(node.int('axis', 0), rank)
  if (index.dims.length !== rank || rank === 0 || index.dims.some((d, k) => k !== axis && d > (x.dims[k] as number)))
    bad(node, `indices of [${index.dims.join(', ')}] for data of [${x.dims.join(', ')}]`)
  if (rank > 8) l.unsupported(node, `a tensor of rank ${rank}`)
  return [rank, ...x.dims, rank, ...index.dims, axis, bytesOf(x), wide(index)]
}

const gatherElements: Lower = (node, l) => {
  const [x, index] = operands(l, node)
  const out = l.make(x.type, index.dims)
  l.program.step('gather_elements', node.label, ...elements(l, node, x, index), x.memory, index.memory, out.memory)
  l.define(node.outputs[0] as string, out, node)
}

const scatterElements: Lower = (node, l) => {
  const [x, index] = operands(l, node)
  const updates = l.rowMajor(l.lazy(node.inputs[2] as string, node), node)
  if (updates.dims.join() !== index.dims.join() || updates.type !== x.type) bad(node, `updates of ${updates.type} [${updates.dims.join(', ')}]`)
  const out = l.make(x.type, x.dims)
  l.program.step('scatter_elements', node.label, ...elements(l, node, x, index), kJoins[node.string('reduction', 'none')] ?? 0, x.memory, index.memory, updates.memory, out.memory)
  l.define(node.outputs[0] as string, out, node)
}

/** What the steps of one slice an index have in common: the axes after `batch` that rows of the indices name. */
function slices(node: Node, x: Given, index: Given, batch: number): { numbers: readonly number[]; rows: number; inner: readonly number[] } {
  const depth = index.dims[index.dims.length - 1]
  if (depth === undefined || batch + depth > x.dims.length || index.dims.slice(0, batch).join() !== x.dims.slice(0, batch).join())
    bad(node, `indices of [${index.dims.join(', ')}] for data of [${x.dims.join(', ')}]`)
  const inner = x.dims.slice(batch + depth)
  const rows = sizeOf(index.dims.slice(0, -1))
  return { numbers: [rows, depth, ...x.dims.slice(batch, batch + depth), sizeOf(inner) * bytesOf(x), wide(index)], rows, inner }
}

const gatherND: Lower = (node, l) => {
  const [x, index] = operands(l, node)
  const batch = node.int('batch_dims', 0)
  const { numbers, inner } = slices(node, x, index, batch)
  const out = l.make(x.type, [...index.dims.slice(0, -1), ...inner])
  l.program.step('gather_nd', node.label, ...numbers, sizeOf(x.dims.slice(0, batch)), x.memory, index.memory, out.memory)
  l.define(node.outputs[0] as string, out, node)
}

const scatterND: Lower = (node, l) => {
  const [x, index] = operands(l, node)
  const updates = l.rowMajor(l.lazy(node.inputs[2] as string, node), node)
  const { numbers, rows, inner } = slices(node, x, index, 0)
  if (sizeOf(updates.dims) !== rows * sizeOf(inner) || updates.type !== x.type) bad(node, `updates of ${updates.type} [${updates.dims.join(', ')}]`)
  const out = l.make(x.type, x.dims)
  l.program.step('scatter_nd', node.label, ...numbers, kJoins[node.string('reduction', 'none')] ?? 0, x.memory, index.memory, updates.memory, out.memory)
  l.define(node.outputs[0] as string, out, node)
}

const topK: Lower = (node, l) => {
  const x = l.rowMajor(l.lazy(node.inputs[0] as string, node), node)
  const count = node.inputs[1] ? l.ints(node.inputs[1], node) : [node.int('k', 0)]
  if (!count) return l.unsupported(node, 'a number that is computed')
  const axis = axisOf(node.int('axis', -1), x.dims.length)
  const [n, k] = [x.dims[axis] as number, count[0] as number]
  if (!(k >= 0 && k <= n)) bad(node, `the best ${k} of ${n}`)
  const dims = x.dims.map((d, i) => (i === axis ? k : d))
  const [values, index] = [l.make(x.type, dims), l.make('int64', dims)]
  const [outer, inner] = [sizeOf(x.dims.slice(0, axis)), sizeOf(x.dims.slice(axis + 1))]
  const type = ['float32', 'int64', 'int32'].indexOf(x.type)
  if (type < 0) return l.unsupported(node, `data of type ${x.type}`)
  l.program.step('top_k', node.label, outer, n, inner, k, node.int('largest', 1) ? 1 : 0, type, x.memory, values.memory, index.memory)
  node.outputs.forEach((name, i) => {
    if (name) l.define(name, i === 0 ? values : index, node)
  })
}

/** A triangle stays, the rest becomes zero. */
const trilu: Lower = (node, l) => {
  const x = l.lazy(node.inputs[0] as string, node)
  const shift = node.inputs[1] ? l.ints(node.inputs[1], node)?.[0] : 0
  if (shift === undefined) return l.unsupported(node, 'a diagonal that is computed')
  const [rows, cols] = x.dims.slice(-2) as [number, number]
  const upper = node.int('upper', 1) !== 0
  const mask = (): Uint8Array =>
    Uint8Array.from({ length: rows * cols }, (_, i) => {
      const d = (i % cols) - Math.floor(i / cols)
      return Number(upper ? d >= shift : d <= shift)
    })
  const keep: Value = { kind: 'value', type: 'bool', dims: [rows, cols], order: [0, 1], memory: l.constants.raw(`triangle ${rows} ${cols} ${upper} ${shift}`, mask) }
  const zero: Value = { kind: 'value', type: x.type, dims: [], order: [], memory: l.constants.raw('eight bytes of zero', () => new Uint8Array(8)) }
  emitTyped(l, node, 'where', [keep, x, zero], x.type, x.type)
}

export const indexing: Readonly<Record<string, Lower>> = {
  GatherElements: gatherElements,
  ScatterElements: scatterElements,
  Scatter: scatterElements,
  GatherND: gatherND,
  ScatterND: scatterND,
  TopK: topK,
  Trilu: trilu,
}
