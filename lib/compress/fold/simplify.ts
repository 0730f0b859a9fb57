import { attribute, Node, type Graph } from '../../model/graph'
import { gelu, hardSwish } from '../../model/formulas'
import { fuseLayerNorm } from '../../model/layernorm'
import { madeBy, replace, scalarOf } from '../../model/match'
import type { Shapes } from '../../model/ops/infer'
import { elementCodeOf, type Dim } from '../../model/types'

/** Takes out a node that hands on `x`, where names of outputs allow it. */
function bypass(graph: Graph, node: Node, x: string): boolean {
  const y = node.outputs[0] as string
  if (!graph.isOutput(y)) {
    // A subgraph's result cannot be a value of the graph around it.
    graph.replaceUses(y, x)
    graph.removeNode(node)
    graph.valueInfo.delete(y)
    return true
  }
  const maker = graph.producer(x)
  if (!maker || graph.isOutput(x) || graph.users(x).some((u) => u !== node && u.subgraphs().length > 0)) return false
  const others = graph.users(x).filter((u) => u !== node)
  graph.removeNode(node)
  maker.outputs = maker.outputs.map((o) => (o === x ? y : o))
  graph.replaceUses(x, y, { in: others })
  graph.valueInfo.delete(x)
  return true
}

const sameDims = (a: readonly Dim[] | null | undefined, b: readonly Dim[] | null | undefined): boolean =>
  !!a && !!b && a.length === b.length && a.every((d, i) => typeof d === 'number' && d === b[i])

/** Values of a constant list of axes or sizes. */
function ints(graph: Graph, name: string | undefined): readonly number[] | undefined {
  const c = name ? graph.constant(name) : undefined
  return c && (c.type === 'int64' || c.type === 'int32') ? Array.from(c.readSync().data as Iterable<bigint | number>, Number) : undefined
}

/** The value that a node hands on unchanged, if it does. */
function unchanged(graph: Graph, node: Node, shapes: Shapes): string | undefined {
  const x = node.inputs[0]
  if (!x) return undefined
  const from = shapes.get(x, graph)
  const to = shapes.get(node.outputs[0] as string, graph)
  const single = node.outputs.slice(1).every((o) => !o || (graph.users(o).length === 0 && !graph.isOutput(o)))
  switch (node.opType) {
    case 'Identity':
      return x
    case 'Dropout':
      // From opset 12 on an input says whether this is training; ratio 0 is none.
      return single && (!node.inputs[2] || constantFalse(graph, node.inputs[2])) ? x : undefined
    case 'Cast':
      return from && from.type !== 'undefined' && elementCodeOf(from.type) === node.int('to', 0) ? x : undefined
    case 'Transpose':
      return node.ints('perm')?.every((p, i) => p === i) ? x : undefined
    case 'Reshape':
    case 'Flatten':
    case 'Squeeze':
    case 'Unsqueeze':
    case 'Expand':
      return sameDims(from?.dims, to?.dims) ? x : undefined
    case 'Concat':
    case 'Sum':
    case 'Max':
    case 'Min':
      return node.inputs.length === 1 ? x : undefined
    case 'Pad':
      return (node.ints('pads') ?? ints(graph, node.inputs[1]))?.every((p) => p === 0) ? x : undefined
    case 'Mul':
    case 'Div':
    case 'Add':
    case 'Sub':
      return neutral(graph, node, shapes)
    default:
      return undefined
  }
}

function constantFalse(graph: Graph, name: string): boolean {
  const c = graph.constant(name)
  return c?.type === 'bool' && c.elementCount === 1 && !c.readSync().data[0]
}

/** x of x · 1, x / 1, x + 0, x − 0 with a scalar that adds no axis. */
function neutral(graph: Graph, node: Node, shapes: Shapes): string | undefined {
  const want = node.is('Mul', 'Div') ? 1 : 0
  const [a, b] = node.inputs as [string, string]
  const sides = node.is('Mul', 'Add') ? [[a, b] as const, [b, a] as const] : [[a, b] as const]
  for (const [x, c] of sides) {
    const constant = graph.constant(c)
    if (!constant || graph.isInput(c) || scalarOf(graph, c) !== want) continue
    const rank = shapes.get(x, graph)?.dims?.length
    if (constant.dims.length === 0 || (rank !== undefined && constant.dims.length <= rank)) return x
  }
  return undefined
}

/** Takes out what changes nothing, and pairs of Transpose, Reshape and Cast that amount to one. Returns how many nodes are gone. */
export function removeNoOps(graph: Graph, shapes: Shapes): number {
  let count = 0
  for (const node of graph.nodes) {
    if (node.graph !== graph || !node.is() || !node.outputs[0]) continue
    const x = unchanged(graph, node, shapes)
    // The result of a branch must be made in it.
    if (x !== undefined && (graph.defines(x) || !graph.isOutput(node.outputs[0])) && bypass(graph, node, x)) count++
    else if (merged(graph, node)) count++
  }
  return count + graph.removeDeadNodes().length
}

/** A Transpose or Reshape of another one reads what that one reads. */
function merged(graph: Graph, node: Node): boolean {
  if (node.is('Transpose')) {
    const before = madeBy(graph, node.inputs[0], 'Transpose')
    const [p, q] = [before?.ints('perm'), node.ints('perm')]
    if (!before || !p || !q || p.length !== q.length || before.inputs[0] === '') return false
    node.attributes.set('perm', attribute.ints(q.map((i) => p[i] as number)))
    node.setInput(0, before.inputs[0] as string)
    if (q.every((i, j) => p[i] === j)) bypass(graph, node, before.inputs[0] as string)
    return true
  }
  if (node.is('Reshape')) {
    const before = madeBy(graph, node.inputs[0], 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze')
    const shape = ints(graph, node.inputs[1])
    // A zero copies a size of the input, which would be another one.
    if (!before || !shape || (shape.includes(0) && !node.int('allowzero', 0))) return false
    node.setInput(0, before.inputs[0] as string)
    return true
  }
  return false
}

/** The forms that activations are written in. */
export type ActivationForm = 'HardSwish' | 'HardSigmoid'

/**
 * Activations that exporters took apart become one op again where the opset has it: hard swish as `HardSwish` (14) or as
 * `HardSigmoid` times x (6), GELU (20), layer normalization (17). Returns how many were found.
 */
export function recognize(graph: Graph, opset: number, form: ActivationForm): number {
  let count = 0
  for (const node of graph.nodes) {
    if (node.graph !== graph || !node.is('Mul', 'Div')) continue
    const x = hardSwish(graph, node)
    const smooth = x || opset < 20 ? undefined : gelu(graph, node)
    if (smooth) replace(graph, node, 'Gelu', [smooth], { approximate: attribute.string('none') })
    else if (x && opset >= 14 && form === 'HardSwish') replace(graph, node, 'HardSwish', [x])
    else if (x && opset >= 6) {
      if (node.is('Mul') && node.inputs.some((i) => madeBy(graph, i, 'HardSigmoid'))) continue
      const gate = graph.uniqueName('gate')
      const attributes = { alpha: attribute.float(Math.fround(1 / 6)), beta: attribute.float(0.5) }
      graph.addNode(new Node({ opType: 'HardSigmoid', inputs: [x], outputs: [gate], attributes }), { before: node })
      replace(graph, node, 'Mul', [x, gate])
    } else continue
    count++
  }
  if (opset >= 17) count += fuseLayerNorm(graph)
  if (count > 0) graph.removeDeadNodes()
  return count
}

/** Attributes of convolutions and poolings that say what holds without them. */
export function dropDefaults(graph: Graph): void {
  for (const node of graph.nodes) {
    if (!node.is('Conv', 'ConvTranspose', 'MaxPool', 'AveragePool')) continue
    const all = (name: string, value: number): boolean => node.ints(name)?.every((v) => v === value) ?? false
    if (all('dilations', 1)) node.attributes.delete('dilations')
    if (all('strides', 1)) node.attributes.delete('strides')
    if (all('pads', 0) && node.string('auto_pad', 'NOTSET') === 'NOTSET') node.attributes.delete('pads')
    if (node.attributes.has('group') && node.int('group', 1) === 1) node.attributes.delete('group')
  }
}
