import { WhittleError } from '../../errors'
import type { Node } from '../../model'
import { sizeOf } from '../../tensor'
import type { Lower, Lowering } from '../lowering'
import { identity, type Value } from '../value'
import { affineOf } from './epilogue'
import { axisOf } from './layout'
import { kReduce, reduceAxes } from './pool'

function softmax(log: boolean): Lower {
  return (node, l) => {
    const v = l.value(node.inputs[0] as string, node)
    l.float(v, node)
    const rank = v.dims.length
    const axis = axisOf(node.int('axis', -1), rank)
    // The axis must lie innermost; the others may stay as they are.
    const x = l.inOrder(v, v.order[rank - 1] === axis ? v.order : [...v.order.filter((a) => a !== axis), axis], node)
    const out = l.make('float32', x.dims, x.order)
    const n = x.dims[axis] as number
    l.program.step('softmax', node.label, n === 0 ? 0 : sizeOf(x.dims) / n, n, log ? 1 : 0, x.memory, out.memory)
    l.define(node.outputs[0] as string, out, node)
  }
}

/** LayerNormalization, and RMSNormalization, which takes no mean off and has no shift. */
const layerNorm = (centered: boolean): Lower => (node, l) => {
  if (node.outputs[1] || node.outputs[2]) l.unsupported(node, 'the outputs Mean and InvStdDev')
  const v = l.value(node.inputs[0] as string, node)
  l.float(v, node)
  const rank = v.dims.length
  const axis = axisOf(node.int('axis', -1), rank)
  const inner = identity(rank).slice(axis)
  const order = [...v.order.filter((a) => a < axis), ...inner]
  const x = l.inOrder(v, order, node)
  const n = sizeOf(v.dims.slice(axis))
  const part = (name: string | undefined): Parameters<typeof l.program.step>[2] => {
    if (!name) return null
    const t = l.rowMajor(l.lazy(name, node), node)
    if (sizeOf(t.dims) !== n) l.unsupported(node, `a scale of ${sizeOf(t.dims)} for ${n} elements`)
    return t.memory
  }
  const out = l.make('float32', v.dims, order)
  const rows = n === 0 ? 0 : sizeOf(v.dims) / n
  const name = node.outputs[0] as string
  const range = l.rangeFor(name)
  l.program.step('layer_norm', node.label, rows, n, centered ? 1 : 0, node.float('epsilon', 1e-5), x.memory, part(node.inputs[1]), part(node.inputs[2]), out.memory, range)
  l.define(name, range ? { ...out, range } : out, node)
}

/** One that no convolution took along: a scale and a shift for each channel. */
const batchNorm: Lower = (node, l) => {
  const name = node.inputs[0] as string
  const x = l.lazy(name, node)
  l.float(x, node)
  const channels = x.dims[1] as number
  const map = affineOf(l, node, name, 1, channels)
  if (!map) return l.unsupported(node, 'statistics that are computed')
  const dims = l.dims(node.outputs[0] as string, node)
  const vector = (what: string, data: Float64Array) => ({
    kind: 'value' as const,
    type: 'float32' as const,
    dims: [channels, ...dims.slice(2).map(() => 1)],
    order: identity(dims.length - 1),
    memory: l.constants.raw(`${what} ${node.outputs[0]}`, () => Float32Array.from(data)),
  })
  const scaled = { op: 'mul', a: x, b: vector('scale', map.multiply) }
  const expression = { op: 'add', a: scaled, b: vector('shift', map.add) }
  l.define(node.outputs[0] as string, { kind: 'value', type: 'float32', dims, order: identity(dims.length), memory: undefined, expression }, node)
}

/** Each group of channels of a sample normalized, then a scale and a shift a channel. */
function groupNorm(instance: boolean): Lower {
  return (node, l) => {
    const name = node.outputs[0] as string
    const v = l.lazy(node.inputs[0] as string, node)
    l.float(v, node)
    const { dims } = v
    const channels = dims[1]
    const groups = instance ? channels : node.int('num_groups', 1)
    if (channels === undefined || groups === undefined || groups < 1 || channels % groups !== 0)
      throw new WhittleError('ERR_MODEL_FORMAT', node.label, `${node.opType} ${node.label}: ${channels ?? 'no'} channels in ${groups ?? 'no'} groups`)
    const n = sizeOf(dims) / ((dims[0] as number) * groups || 1)
    const x = l.rowMajor(v, node)
    const normal = l.make('float32', dims)
    l.program.step('layer_norm', node.label, n === 0 ? 0 : (dims[0] as number) * groups, n, 1, node.float('epsilon', 1e-5), x.memory, null, null, normal.memory, null)
    const vector = (i: number): Value => {
      const t = l.constant(node.inputs[i], node)
      if (!t || t.type !== 'float32' || (t.data.length !== channels && t.data.length !== groups)) return l.unsupported(node, 'a scale or bias of another form')
      // Up to opset 20 a group has one scale, from 21 on a channel.
      const data = (): Float32Array => Float32Array.from({ length: channels }, (_, c) => Number(t.data[t.data.length === channels ? c : Math.floor((c * groups) / channels)]))
      const memory = l.constants.raw(`group ${i} ${name}`, data)
      return { kind: 'value', type: 'float32', dims: [channels, ...dims.slice(2).map(() => 1)], order: identity(dims.length - 1), memory }
    }
    const scaled = { op: 'mul', a: normal, b: vector(1) }
    l.define(name, { kind: 'value', type: 'float32', dims, order: identity(dims.length), memory: undefined, expression: { op: 'add', a: scaled, b: vector(2) } }, node)
  }
}

/** Every element reduced by itself. */
function eachAlone(l: Lowering, node: Node, kind: number): void {
  const name = node.outputs[0] as string
  const x = l.lazy(node.inputs[0] as string, node)
  l.float(x, node)
  const op = kind === kReduce.l1 || kind === kReduce.l2 ? 'abs' : kind === kReduce.sumSquare ? 'square' : kind === kReduce.logSum ? 'log' : 'copy'
  l.define(name, { kind: 'value', type: 'float32', dims: x.dims, order: x.order, memory: undefined, expression: { op, a: x } }, node)
}

function reduce(kind: number): Lower {
  return (node, l) => {
    const rank = l.dims(node.inputs[0] as string, node).length
    const given = node.inputs[1] ? l.ints(node.inputs[1], node) : node.ints('axes')
    if (node.inputs[1] && !given) return l.unsupported(node, 'axes that are computed')
    if ((!given || given.length === 0) && node.int('noop_with_empty_axes', 0)) return eachAlone(l, node, kind)
    reduceAxes(l, node, kind, given && given.length > 0 ? given.map((a) => axisOf(a, rank)) : identity(rank))
  }
}

export const norm: Readonly<Record<string, Lower>> = {
  Softmax: softmax(false),
  LogSoftmax: softmax(true),
  LayerNormalization: layerNorm(true),
  RMSNormalization: layerNorm(false),
  BatchNormalization: batchNorm,
  GroupNormalization: groupNorm(false),
  InstanceNormalization: groupNorm(true),
  ReduceSum: reduce(kReduce.sum),
  ReduceMean: reduce(kReduce.mean),
  ReduceMax: reduce(kReduce.max),
  ReduceMin: reduce(kReduce.min),
  ReduceL1: reduce(kReduce.l1),
  ReduceL2: reduce(kReduce.l2),
  ReduceSumSquare: reduce(kReduce.sumSquare),
  ReduceLogSum: reduce(kReduce.logSum),
  ReduceLogSumExp: reduce(kReduce.logSumExp),
  ReduceProd: reduce(kReduce.prod),
}
