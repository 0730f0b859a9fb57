import { attribute, Initializer, Node, type Graph } from '../../model/graph'
import type { Shapes } from '../../model/ops/infer'
import { rmsFormula } from '../../model/rms'

/** A formula while one node stands for it. */
interface Stand {
  readonly node: Node
  readonly nodes: readonly Node[]
  readonly x: string
  readonly scale: string
  readonly epsilon: number
  /** Whether the last of the nodes multiplies by the scale. */
  readonly scaled: boolean
}

/**
 * Root-mean-square normalizations that exporters write as formulas (Llama's: Pow, ReduceMean, Add, Sqrt, Div or Reciprocal, Mul),
 * as one RMSNormalization each, so that streams are followed through them. Runtimes know that op from opset 23 on: what this
 * returns writes formulas again, those that nobody changed as they were.
 */
export function gatherRms(graph: Graph, shapes: Shapes): () => void {
  const stands: Stand[] = []
  for (const node of graph.nodes) {
    if (node.graph !== graph) continue
    const formula = rmsFormula(graph, node)
    const scale = formula?.scale ?? (formula && ones(graph, node, shapes.get(formula.x, graph)?.dims?.at(-1)))
    if (!formula || !scale) continue
    const stand = new Node({
      opType: 'RMSNormalization',
      name: node.name,
      inputs: [formula.x, scale],
      outputs: node.outputs,
      attributes: { axis: attribute.int(-1), epsilon: attribute.float(formula.epsilon) },
    })
    const place = after(graph, node)
    for (const n of formula.nodes) graph.removeNode(n)
    graph.addNode(stand, place ? { before: place } : {})
    const epsilon = stand.float('epsilon', 0)
    stands.push({ node: stand, nodes: formula.nodes, x: formula.x, scale, epsilon, scaled: formula.scale !== undefined })
  }
  return () => {
    for (const stand of stands) spellOut(graph, stand)
  }
}

const after = (graph: Graph, node: Node): Node | undefined => graph.nodes[graph.nodes.indexOf(node) + 1]

/** A scale that changes nothing: the formula's own went into the products behind it. */
function ones(graph: Graph, node: Node, n: number | string | undefined | null): string | undefined {
  if (typeof n !== 'number' || n < 2) return undefined
  const scale = graph.uniqueName(`${node.outputs[0]}_one`)
  graph.addInitializer(Initializer.from(scale, { type: 'float32', dims: [n], data: new Float32Array(n).fill(1) }))
  return scale
}

function spellOut(graph: Graph, stand: Stand): void {
  const { node, nodes, scaled } = stand
  const [x, scale] = node.inputs as [string, string]
  const output = node.outputs[0]!
  const epsilon = node.float('epsilon', 0)
  const place = after(graph, node)
  graph.removeNode(node)
  const same =
    x === stand.x && scale === stand.scale && epsilon === stand.epsilon && output === nodes.at(-1)!.outputs[0]
  const put = (n: Node): unknown => graph.addNode(n, place ? { before: place } : {})
  if (same) nodes.forEach(put)
  else {
    // Values of another basis are others.
    const names = new Map([
      [stand.x, x],
      [stand.scale, scale],
    ])
    for (const [i, old] of nodes.entries()) {
      const made = old.outputs[0]!
      const last = i === nodes.length - 1
      if (old.is('Add') && epsilon !== stand.epsilon) {
        const e = old.inputs.find((v) => graph.constant(v))!
        const name = graph.uniqueName(`${e}_epsilon`)
        graph.addInitializer(
          Initializer.from(name, { type: 'float32', dims: graph.constant(e)!.dims, data: Float32Array.of(epsilon) }),
        )
        names.set(e, name)
      }
      const inputs = old.inputs.map((v) => names.get(v) ?? v)
      const to = last ? output : graph.uniqueName(`${made}_turned`)
      names.set(made, to)
      graph.valueInfo.delete(made)
      put(
        new Node({
          opType: old.opType,
          name: old.name,
          inputs,
          outputs: [to],
          attributes: Object.fromEntries(old.attributes),
        }),
      )
    }
  }
  if (!scaled && graph.users(stand.scale).length === 0) graph.initializers.delete(stand.scale)
  if (!scaled && scale !== stand.scale && graph.users(scale).length === 0) graph.initializers.delete(scale)
}
