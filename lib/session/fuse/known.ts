import { inferShapes, Initializer, type Model, type Node } from '../../model'
import type { Tensor } from '../../tensor'
import { knownTensor } from '../lowering'

/** What inference knows without the sizes of inputs becomes constants: scales that are worked out from a shape, for one. */
export function foldKnown(model: Model): void {
  const graph = model.graph
  const shapes = inferShapes(graph, model.opsets)
  const keep: Node[] = []
  const known: Initializer[] = []
  for (const node of graph.nodes) {
    const tensors = node.outputs.map((o) => (o && !graph.isOutput(o) ? knownTensor(shapes.get(o, graph)) : undefined))
    if (tensors.every((t) => t)) node.outputs.forEach((o, i) => known.push(Initializer.from(o, tensors[i] as Tensor)))
    else keep.push(node)
  }
  if (known.length === 0) return
  graph.setNodes(keep)
  for (const t of known) graph.addInitializer(t)
}
