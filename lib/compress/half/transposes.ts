import { attribute, Initializer, Node, type Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import { inferShapes } from '../../model/ops/infer'

/**
 * @internal Products that read a transpose which brings the second axis to the front get an axis of one before it, which goes away behind
 * the product: a view twice, no arithmetic. onnxruntime 1.30 ends the process on float16 ones whose other factor has another rank: its
 * MatmulTransposeFusion swaps the transpose with the Cast to float32 between them, sees then that the ranks differ, and leaves a graph
 * without the edges of what it put in. Returns how many products.
 */
export function shieldTransposes({ graph, opsets }: Model): number {
  const shapes = inferShapes(graph, opsets)
  const rank = (value: string): number => shapes.get(value, graph)?.dims?.length ?? 0
  const products = graph.nodes.filter((n) => n.is('MatMul') && new Set(n.inputs.map(rank)).size === 2 && n.inputs.some((i) => leads(graph, i)))
  if (products.length === 0) return 0
  const axis = axisGiver(graph, opsets.get('') ?? 0)
  const made: Node[] = []
  const shielded = new Map<string, string>()
  const shield = (value: string): string => {
    const known = shielded.get(value)
    if (known !== undefined) return known
    const name = graph.uniqueName(`${value}_in`)
    made.push(axis('Unsqueeze', value, name))
    shielded.set(value, name)
    return name
  }
  for (const node of products) {
    const ranks = node.inputs.map(rank)
    const most = Math.max(...ranks)
    const led = node.inputs.map((i) => leads(graph, i))
    node.inputs = node.inputs.map((i, k) => (led[k] ? shield(i) : i))
    if (!ranks.some((r, k) => led[k] && r === most)) continue
    const out = node.outputs[0]!
    const name = graph.uniqueName(`${out}_in`)
    node.outputs = [name]
    made.push(axis('Squeeze', name, out))
  }
  graph.setNodes([...graph.nodes, ...made])
  graph.sort()
  return products.length
}

/** Whether a transpose with its second axis in front makes `value`, Casts aside. */
function leads(graph: Graph, value: string): boolean {
  let node = graph.producer(value)
  while (node?.is('Cast', 'Identity')) node = graph.producer(node.inputs[0]!)
  const perm = node?.is('Transpose') ? node.ints('perm') : undefined
  return perm !== undefined && perm.length > 2 && Number(perm[0]) === 1
}

/** Makers of nodes that add or drop the first axis. */
function axisGiver(graph: Graph, opset: number): (op: 'Squeeze' | 'Unsqueeze', from: string, to: string) => Node {
  const axes = opset < 13 ? undefined : graph.uniqueName('first_axis')
  if (axes !== undefined) graph.addInitializer(Initializer.from(axes, { type: 'int64', dims: [1], data: BigInt64Array.of(0n) }))
  return (opType, from, to) =>
    new Node({ opType, name: graph.uniqueName(to), inputs: axes === undefined ? [from] : [from, axes], outputs: [to], attributes: axes === undefined ? { axes: attribute.ints([0]) } : {} })
}
