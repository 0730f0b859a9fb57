import { allocate, bitsOf, sizeOf } from '../../tensor'
import type { Lower } from '../lowering'
import { identity, stridesOf } from '../value'
import { axisOf } from './layout'
import { rowsOfStored } from './weight'

const gather: Lower = (node, l) => {
  if (rowsOfStored(node, l)) return
  const name = node.outputs[0] as string
  const x = l.rowMajor(l.lazy(node.inputs[0] as string, node), node)
  const index = l.rowMajor(l.lazy(node.inputs[1] as string, node), node)
  if (index.type !== 'int64' && index.type !== 'int32') return l.unsupported(node, `indices of type ${index.type}`)
  const axis = axisOf(node.int('axis', 0), x.dims.length)
  const out = l.make(x.type, l.dims(name, node))
  const inner = (sizeOf(x.dims.slice(axis + 1)) * bitsOf(x.type)) / 8
  l.program.step(
    'gather',
    node.label,
    sizeOf(x.dims.slice(0, axis)),
    x.dims[axis] as number,
    inner,
    sizeOf(index.dims),
    index.type === 'int64' ? 1 : 0,
    x.memory,
    index.memory,
    out.memory,
  )
  l.define(name, out, node)
}

function argBest(least: boolean): Lower {
  return (node, l) => {
    const name = node.outputs[0] as string
    const x = l.rowMajor(l.lazy(node.inputs[0] as string, node), node)
    l.float(x, node)
    const axis = axisOf(node.int('axis', 0), x.dims.length)
    const out = l.make('int64', l.dims(name, node))
    const [outer, inner] = [sizeOf(x.dims.slice(0, axis)), sizeOf(x.dims.slice(axis + 1))]
    l.program.step('arg_best', node.label, outer, x.dims[axis] as number, inner, least ? 1 : 0, node.int('select_last_index', 0), x.memory, out.memory)
    l.define(name, out, node)
  }
}

const cumSum: Lower = (node, l) => {
  const x = l.rowMajor(l.lazy(node.inputs[0] as string, node), node)
  l.float(x, node)
  const given = l.ints(node.inputs[1], node)
  if (!given) return l.unsupported(node, 'an axis that is computed')
  const axis = axisOf(given[0] as number, x.dims.length)
  const out = l.make('float32', x.dims)
  const [outer, inner] = [sizeOf(x.dims.slice(0, axis)), sizeOf(x.dims.slice(axis + 1))]
  l.program.step('cumulate', node.label, outer, x.dims[axis] as number, inner, node.int('exclusive', 0), node.int('reverse', 0), x.memory, out.memory)
  l.define(node.outputs[0] as string, out, node)
}

/** Repeats by a copy whose repeated axes stand still. */
const tile: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const x = l.value(node.inputs[0] as string, node)
  const dims = l.dims(name, node)
  const out = l.make(x.type, dims)
  const [from, to] = [stridesOf(x.dims, x.order), stridesOf(dims, out.order)]
  const times = dims.map((d, i) => (x.dims[i] ? d / (x.dims[i] as number) : 0))
  const walked = times.flatMap((t, i) => (t === 1 ? [] : [{ n: t, from: 0, to: (to[i] as number) * (x.dims[i] as number) }]))
  const all = [...walked, ...x.dims.map((n, i) => ({ n, from: from[i] as number, to: to[i] as number })).filter((a) => a.n !== 1)]
  if (sizeOf(dims) > 0) l.stridedCopy(x, all.map((a) => a.n), all.map((a) => a.from), 0, out.memory, all.map((a) => a.to), 0, node)
  l.define(name, out, node)
}

/** DepthToSpace and SpaceToDepth: a transpose of the image seen with six axes. */
function spaceAndDepth(toSpace: boolean): Lower {
  return (node, l) => {
    const name = node.outputs[0] as string
    const x = l.rowMajor(l.lazy(node.inputs[0] as string, node), node)
    const b = node.int('blocksize', 1)
    const [n, c, h, w] = x.dims as [number, number, number, number]
    const out = l.make(x.type, l.dims(name, node))
    const columnsFirst = node.string('mode', 'DCR') === 'CRD'
    const seen = toSpace ? (columnsFirst ? [n, c / (b * b), b, b, h, w] : [n, b, b, c / (b * b), h, w]) : [n, c, h / b, b, w / b, b]
    // places of the axes of `seen` in the result, outermost first
    const perm = toSpace ? (columnsFirst ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2]) : [0, 3, 5, 1, 2, 4]
    const from = stridesOf(seen, identity(6))
    const moved = perm.map((p) => seen[p] as number)
    if (sizeOf(seen) > 0) l.stridedCopy(x, moved, perm.map((p) => from[p] as number), 0, out.memory, stridesOf(moved, identity(6)), 0, node)
    l.define(name, out, node)
  }
}

const constantOfShape: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const dims = l.dims(name, node)
  const value = node.attributes.get('value')
  const filled = value?.type === 'tensor' ? value.value.readSync() : { type: 'float32' as const, dims: [1], data: Float32Array.of(0) }
  const one = { kind: 'value' as const, type: filled.type, dims: [], order: [], memory: undefined, constant: { key: `${name} value`, read: () => filled } }
  const x = l.inMemory(one, node)
  const out = l.make(filled.type, dims)
  if (sizeOf(dims) > 0) l.stridedCopy(x, dims, dims.map(() => 0), 0, out.memory, stridesOf(dims, out.order), 0, node)
  l.define(name, out, node)
}

const range: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const [start, limit, step] = node.inputs.map((i) => l.constant(i, node))
  const type = l.type(name, node)
  if (!start || !limit || !step) return l.unsupported(node, 'a range whose bounds are computed')
  const n = sizeOf(l.dims(name, node))
  const data = allocate(type, n)
  const [first, by] = [start.data[0] as number, step.data[0] as number]
  for (let i = 0; i < n; i++) data[i] = (type === 'int64' ? BigInt(first) + BigInt(i) * BigInt(by) : first + i * by) as never
  const memory = l.constants.raw(`range ${type} ${first} ${by} ${n}`, () => data)
  l.define(name, { kind: 'value', type, dims: [n], order: [0], memory }, node)
}

export const picking: Readonly<Record<string, Lower>> = {
  Gather: gather,
  ArgMax: argBest(false),
  ArgMin: argBest(true),
  CumSum: cumSum,
  Tile: tile,
  Range: range,
  DepthToSpace: spaceAndDepth(true),
  SpaceToDepth: spaceAndDepth(false),
  ConstantOfShape: constantOfShape,
}
