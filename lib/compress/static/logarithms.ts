import type { Graph, Node } from '../../model/graph'

/** Ops behind which errors that are small beside the largest value may still be as large as the small ones. */
const kLinear =
  'Conv MatMul Gemm Add Sub Mul Div Pow Abs Sqrt Sum Mean Clip Max Min ReduceSum ReduceMean ReduceSumSquare ReduceL2 Reshape Transpose Squeeze Unsqueeze Flatten Slice Concat Pad Cast Identity'.split(' ')

/**
 * Layers of which a logarithm is taken, as of the power spectrum of a sound: one step of 8 bits for a whole value is many times what small
 * values are, and the logarithm tells all of them alike. Followed backward through what is linear, powers and clips; an activation ends it.
 */
export function behindLogarithms(graph: Graph): Set<Node> {
  const found = new Set<Node>()
  const follow = graph.nodes.filter((n) => n.is('Log')).map((n) => n.inputs[0] ?? '')
  for (let value = follow.pop(); value !== undefined; value = follow.pop()) {
    const node = value ? graph.producer(value) : undefined
    if (!node?.is(...kLinear) || found.has(node)) continue
    found.add(node)
    follow.push(...node.inputs)
  }
  return found
}
