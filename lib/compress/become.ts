import type { Model } from '../model/model'

/** @internal The graph of `from`, which is of no use afterwards, takes the place of the model's. */
export function become(model: Model, from: Model): void {
  const { graph } = model
  const nodes = from.graph.nodes
  from.graph.setNodes([])
  graph.setNodes(nodes)
  graph.initializers.clear()
  for (const [name, value] of from.graph.initializers) graph.initializers.set(name, value)
  graph.valueInfo.clear()
  for (const [name, value] of from.graph.valueInfo) graph.valueInfo.set(name, value)
  graph.inputs = from.graph.inputs
}
