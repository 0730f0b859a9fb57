import { Node, type Attribute, type Graph } from './graph'

/** Small matchers of exported formulas, and the replacement of what they find. */

/** The one number of a constant scalar. */
export function scalarOf(graph: Graph, name: string | undefined): number | undefined {
  const c = name ? graph.constant(name) : undefined
  if (!c || c.elementCount !== 1 || !['float32', 'float64', 'int32', 'int64'].includes(c.type)) return undefined
  return Number(c.readSync().data[0])
}

export function close(a: number | undefined, b: number): boolean {
  return a !== undefined && Math.abs(a - b) <= 1e-6 * Math.abs(b)
}

/** The node that makes `name`, if it is of that op. */
export function madeBy(graph: Graph, name: string | undefined, ...ops: string[]): Node | undefined {
  const node = name ? graph.producer(name) : undefined
  return node?.is(...ops) ? node : undefined
}

/** The operand of a commutative node that goes with a constant scalar close to `value`. */
export function besides(graph: Graph, node: Node | undefined, value: number): string | undefined {
  if (!node) return undefined
  const [a, b] = node.inputs as [string, string]
  if (close(scalarOf(graph, b), value)) return a
  return (node.opType === 'Add' || node.opType === 'Mul') && close(scalarOf(graph, a), value) ? b : undefined
}

/** x of `x / value` or `x * (1 / value)`. */
export function dividedBy(graph: Graph, name: string | undefined, value: number): string | undefined {
  return besides(graph, madeBy(graph, name, 'Div'), value) ?? besides(graph, madeBy(graph, name, 'Mul'), 1 / value)
}

/** The two operands of a Mul, in both orders. */
export function factors(node: Node): readonly (readonly [string, string])[] {
  const [a, b] = node.inputs as [string, string]
  return [
    [a, b],
    [b, a],
  ]
}

/** Puts one node in the place of `node`, whose output keeps its name. */
export function replace(graph: Graph, node: Node, opType: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}, domain = ''): void {
  const outputs = node.outputs
  const at = graph.nodes.indexOf(node)
  const before = graph.nodes[at + 1]
  graph.removeNode(node)
  graph.addNode(new Node({ name: node.name, opType, domain, inputs, outputs, attributes }), before ? { before } : {})
}
