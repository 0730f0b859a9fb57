import { Node, type Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import { sizeOf } from '../../tensor'

/** A matrix that the file made by turning another one, which other nodes read too: a table of embeddings that is the head as well. */
export interface Tie {
  readonly value: string
  readonly from: string
  readonly node: Node
}

/** @internal The ties of a model, to be looked for before its weights are exposed. */
export function tiesOf({ graph }: Model): Tie[] {
  return graph.nodes.flatMap((node) => {
    const [from, value] = [node.inputs[0] ?? '', node.outputs[0] ?? '']
    const turned = node.is('Transpose') && graph.initializers.get(from)?.dims.length === 2
    return turned && !graph.isInput(from) && !graph.isOutput(value) && node.ints('perm', [1, 0])[0] === 1 && graph.users(from).length > 1 ? [{ value, from, node }] : []
  })
}

/** @internal Where no step told two tied matrices apart, one is stored and the other made of it again. Codes stay as they are, which runtimes multiply by. */
export function retie({ graph }: Model, ties: readonly Tie[]): void {
  for (const { value, from, node } of ties) {
    if (!isTurned(graph, value, from) || graph.isOutput(value)) continue
    graph.initializers.delete(value)
    graph.setNodes([new Node({ opType: 'Transpose', name: node.name, inputs: [from], outputs: [value], attributes: new Map(node.attributes) }), ...graph.nodes])
  }
}

function isTurned(graph: Graph, value: string, from: string): boolean {
  const [a, b] = [graph.initializers.get(from), graph.initializers.get(value)]
  if (!a || !b || a.type !== b.type || !/float/.test(a.type) || a.dims.length !== 2 || a.dims[0] !== b.dims[1] || a.dims[1] !== b.dims[0]) return false
  const [rows, columns] = a.dims as [number, number]
  const [x, y] = [a.readSync().data as ArrayLike<number>, b.readSync().data as ArrayLike<number>]
  if (x.length !== sizeOf(a.dims) || y.length !== x.length) return false
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) if (!Object.is(x[i * columns + j], y[j * rows + i])) return false
  return true
}
