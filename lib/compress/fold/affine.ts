import { Initializer, type Graph, type Node } from '../../model/graph'
import type { Shapes } from '../../model/ops/infer'
import type { Memory } from '../passes/pass'
import { linearsOf, type Linear } from './linear'

/** y = s x + t for each channel, as one node computes it. */
interface Affine {
  readonly x: string
  readonly scale: Float64Array
  readonly shift: Float64Array | undefined
}

/** A constant that has one value for each index of `axis`, or one for all. `rank` undefined: the axis is the last one. */
function channels(graph: Graph, name: string | undefined, count: number, rank: number | undefined): Float64Array | undefined {
  const c = name && !graph.isInput(name) ? graph.constant(name) : undefined
  if (c?.type !== 'float32' || (c.elementCount !== 1 && c.elementCount !== count)) return undefined
  // More axes than the other operand would change the result's shape.
  if (c.dims.length > (rank ?? 1)) return undefined
  if (c.elementCount > 1) {
    const axis = rank === undefined ? c.dims.length - 1 : 1 - (rank - c.dims.length)
    if (c.dims[axis] !== count) return undefined
  }
  const data = c.readSync().data as Float32Array
  if (!data.every(Number.isFinite)) return undefined
  return c.elementCount === count ? Float64Array.from(data) : new Float64Array(count).fill(data[0] as number)
}

/** A BatchNormalization, Mul, Add, Sub or Div of constants, of a value with `count` channels on axis 1 (the last one without a rank). */
export function affineOf(graph: Graph, node: Node, count: number, rank: number | undefined, opset: number): Affine | undefined {
  if (node.is('BatchNormalization')) return rank === undefined || rank < 2 ? undefined : normalization(graph, node, count, opset)
  if (!node.is('Mul', 'Add', 'Sub', 'Div')) return undefined
  if (opset < 7 && node.int('broadcast', 0)) return undefined
  const [a, b] = node.inputs as [string, string]
  const right = channels(graph, b, count, rank)
  const left = right ? undefined : channels(graph, a, count, rank)
  const c = right ?? left
  if (!c) return undefined
  const x = right ? a : b
  const one = new Float64Array(count).fill(1)
  switch (node.opType) {
    case 'Mul':
      return { x, scale: c, shift: undefined }
    case 'Add':
      return { x, scale: one, shift: c }
    case 'Sub':
      return right ? { x, scale: one, shift: c.map((v) => -v) } : { x, scale: one.fill(-1), shift: c }
    default:
      return right && c.every((v) => v !== 0) ? { x, scale: c.map((v) => 1 / v), shift: undefined } : undefined
  }
}

/** w' = γ w / √(σ² + ε), b' = β + (b − μ) γ / √(σ² + ε). */
function normalization(graph: Graph, node: Node, count: number, opset: number): Affine | undefined {
  if (node.int('training_mode', 0) || (opset < 7 && !node.int('is_test', 0)) || node.int('spatial', 1) !== 1) return undefined
  if (node.outputs.slice(1).some((o) => o && (graph.users(o).length > 0 || graph.isOutput(o)))) return undefined
  const [gamma, beta, mean, variance] = [1, 2, 3, 4].map((i) => {
    const c = node.inputs[i] ? graph.constant(node.inputs[i]) : undefined
    if (c?.type !== 'float32' || c.elementCount !== count || graph.isInput(c.name)) return undefined
    return Float64Array.from(c.readSync().data as Float32Array)
  })
  if (!gamma || !beta || !mean || !variance) return undefined
  const epsilon = node.float('epsilon', 1e-5)
  const scale = gamma.map((g, i) => g / Math.sqrt((variance[i] as number) + epsilon))
  const shift = beta.map((v, i) => v - (mean[i] as number) * (scale[i] as number))
  if (!scale.every(Number.isFinite) || !shift.every(Number.isFinite)) return undefined
  return { x: node.inputs[0] as string, scale, shift }
}

const isOne = (s: Float64Array): boolean => s.every((v) => v === 1)

/**
 * Folds scales and shifts by channel (batch normalization among them) into the convolutions and products before and behind
 * them, where that is exact: a shift goes forward only where nothing is padded; its scale goes forward past it. Returns how
 * many nodes are gone.
 */
export function foldAffine(graph: Graph, opset: number, shapes: Shapes, memory: Memory): number {
  const layers = linearsOf(graph)
  let count = 0
  const rankOf = (layer: Linear): number | undefined => layer.rank ?? matrixRank(shapes, graph, layer.output)
  for (const layer of layers.values())
    while (foldBehind(graph, layer, rankOf(layer), opset)) count++
  // From the end, so that what is handed on arrives where it can be folded.
  for (const node of [...graph.nodes].reverse())
    if (node.graph === graph && node.is('BatchNormalization', 'Mul', 'Add', 'Sub', 'Div')) count += foldAhead(graph, node, layers, opset, shapes)
  for (const layer of layers.values()) layer.write(memory)
  return count
}

/** Products have their channels on the last axis, which is axis 1 of a matrix. */
function matrixRank(shapes: Shapes, graph: Graph, value: string): number | undefined {
  return shapes.get(value, graph)?.dims?.length === 2 ? 2 : undefined
}

function foldBehind(graph: Graph, layer: Linear, rank: number | undefined, opset: number): boolean {
  const y = layer.output
  const users = graph.users(y)
  const node = users[0]
  if (users.length !== 1 || !node || graph.isOutput(y) || node.graph !== graph) return false
  const affine = affineOf(graph, node, layer.outputs, rank, opset)
  if (!affine || affine.x !== y) return false
  if (layer.node.is('MatMul') && !layer.adder && affine.shift) return false
  layer.scaleOutputs(affine.scale, affine.shift)
  const last = layer.adder ?? layer.node
  const out = node.outputs[0] as string
  graph.removeNode(node)
  graph.valueInfo.delete(y)
  last.outputs = [out]
  return true
}

function foldAhead(graph: Graph, node: Node, layers: ReadonlyMap<Node, Linear>, opset: number, shapes: Shapes): number {
  const y = node.outputs[0] as string
  const users = graph.users(y)
  if (users.length === 0 || graph.isOutput(y)) return 0
  const readers = users.map((u) => layers.get(u))
  if (!readers.every((l): l is Linear => l !== undefined && l.data === y && l.node.inputs.filter((i) => i === y).length === 1)) return 0
  const first = readers[0] as Linear
  const rank = first.rank ?? matrixRank(shapes, graph, y)
  if (readers.some((l) => l.inputs !== first.inputs || (l.rank ?? matrixRank(shapes, graph, y)) !== rank)) return 0
  const affine = affineOf(graph, node, first.inputs, rank, opset)
  if (!affine || !keepsShape(graph, node, affine.x, first.inputs, rank, shapes)) return 0
  const { scale, shift } = affine
  const shifts = shift?.some((v) => v !== 0) ?? false
  // A product without a bias would need a node for it: nothing is won then.
  const takes = (l: Linear): boolean => !shifts || (!l.padded && !(l.node.is('MatMul') && !l.adder))
  if (readers.every(takes)) {
    for (const l of readers) {
      l.scaleInputs(scale, shifts ? shift : undefined)
      l.node.inputs = l.node.inputs.map((i) => (i === y ? affine.x : i))
    }
    graph.removeNode(node)
    graph.valueInfo.delete(y)
    return 1
  }
  if (!node.is('Add', 'Sub') || !isOne(scale)) return 0
  return pass(graph, node, affine, readers, rank, opset, shapes)
}

/** s x + t before what pads: becomes x + t/s, and s goes on. */
function pass(
  graph: Graph,
  node: Node,
  after: Affine,
  readers: readonly Linear[],
  rank: number | undefined,
  opset: number,
  shapes: Shapes,
): number {
  const before = graph.producer(after.x)
  if (!before?.is('Mul', 'Div') || graph.users(after.x).length !== 1 || graph.isOutput(after.x)) return 0
  const count = after.scale.length
  const first = affineOf(graph, before, count, rank, opset)
  if (!first || !first.scale.every((v) => v !== 0) || !keepsShape(graph, before, first.x, count, rank, shapes)) return 0
  const t = Float32Array.from(after.shift as Float64Array, (v, i) => v / (first.scale[i] as number))
  if (!t.every(Number.isFinite)) return 0
  const same = t.every((v) => v === t[0])
  const name = graph.uniqueName(`${node.outputs[0]}_shift`)
  const dims = same ? [] : rank === undefined ? [count] : [count, ...new Array<number>(rank - 2).fill(1)]
  graph.addInitializer(Initializer.from(name, { type: 'float32', dims, data: same ? t.slice(0, 1) : t }))
  node.opType = 'Add'
  node.inputs = [first.x, name]
  graph.valueInfo.delete(node.outputs[0] as string)
  for (const l of readers) l.scaleInputs(first.scale)
  graph.removeNode(before)
  return 1
}

/** Whether x has the shape of the node's result: the constant beside it then broadcasts to x, not x to it. */
function keepsShape(graph: Graph, node: Node, x: string, count: number, rank: number | undefined, shapes: Shapes): boolean {
  if (node.is('BatchNormalization')) return true
  const other = node.inputs.find((i) => i !== x)
  const c = other ? graph.constant(other) : undefined
  if (!c || (c.elementCount === 1 && c.dims.length <= 1)) return c !== undefined
  const dims = shapes.get(x, graph)?.dims
  if (!dims || dims.length < c.dims.length) return false
  return c.elementCount === 1 || dims[rank === undefined ? dims.length - 1 : 1] === count
}
