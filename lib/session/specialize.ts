import { inferShapes, Initializer, Node, ValueInfo, type Graph, type Model, type Shapes } from '../model'
import type { DataType } from '../tensor'
import { foldConstants, type Folded } from './fold'
import { fuse } from './prepare'
import { knownTensor } from './lowering'

/** What is known of a value before a plan is made. */
export interface Known {
  readonly type: DataType
  readonly dims: readonly number[]
  /** content, where the plan depends on it */
  readonly content?: readonly number[] | undefined
  /** there is no data yet */
  readonly blind?: boolean
}

/** A graph for one set of input shapes (and contents, where they matter), `If` nodes of known condition gone. */
export interface Special {
  readonly graph: Graph
  readonly shapes: Shapes
}

/** The graph of a model for inputs as they are known. What makes a known value is taken out. */
export function specialize(model: Model, known: ReadonlyMap<string, Known>, folded: Folded, fetched: readonly string[]): Special {
  const copy = model.clone()
  const { graph } = copy
  graph.valueInfo.clear()
  graph.outputs = graph.outputs.map((o) => new ValueInfo(o.name, o.type, null))
  const made = graph.nodes.filter((n) => n.outputs.some((o) => o && known.has(o)))
  for (const node of made) graph.removeNode(node)
  const inputs = graph.inputs.filter((i) => !known.has(i.name))
  graph.inputs = [...inputs, ...[...known].map(([name, k]) => new ValueInfo(name, k.type, k.dims))]
  const contents = new Map([...known].flatMap(([name, k]) => (k.content ? [[name, k.content] as const] : [])))
  const infer = (strict: boolean): Shapes => inferShapes(graph, copy.opsets, { strict, contents, carry: true })
  let inlined = false
  while (graph.nodes.some((n) => n.is('If'))) {
    const shapes = infer(false)
    let count = 0
    for (const node of graph.nodes) {
      if (!node.is('If')) continue
      const name = node.inputs[0] as string
      const initializer = graph.constant(name)
      const condition = knownTensor(shapes.get(name, graph)) ?? (initializer?.elementCount === 1 ? initializer.readSync() : undefined)
      if (!condition || condition.data.length !== 1) continue
      inline(graph, node, Boolean(condition.data[0]))
      count++
    }
    if (count === 0) break
    inlined = true
  }
  if (inlined) {
    graph.sort()
    // What is fetched stays, used by the branch that was taken or not.
    const { outputs } = graph
    graph.outputs = [...outputs, ...fetched.filter((name) => graph.producer(name) && !graph.isOutput(name)).map((name) => new ValueInfo(name, 'float32', null))]
    foldConstants(graph, infer(false), folded)
    fuse(copy)
    graph.outputs = outputs
  }
  return { graph, shapes: infer(true) }
}

/** Puts the nodes of one branch in the place of an `If`. */
function inline(graph: Graph, node: Node, condition: boolean): void {
  const which = condition ? 'then_branch' : 'else_branch'
  const a = node.attributes.get(which)
  if (a?.type !== 'graph') return
  const branch = a.value
  const before = graph.nodes[graph.nodes.indexOf(node) + 1]
  const where = before ? { before } : {}
  // Names are good for the whole model: weights are known by them in every plan.
  const prefix = `${node.outputs.find((o) => o) ?? node.name}.${condition ? 'then' : 'else'}.`
  const names = new Map<string, string>()
  const own = (name: string): void => void names.set(name, prefix + name)
  branch.initializers.forEach((_, name) => own(name))
  for (const n of branch.nodes) for (const o of n.outputs) if (o) own(o)
  graph.removeNode(node)
  const results = branch.outputs.map((o) => o.name)
  const rename = (name: string): string => names.get(name) ?? name
  for (const [name, t] of branch.initializers) graph.addInitializer(new Initializer(rename(name), t.type, t.dims, t.source))
  for (const n of branch.nodes) graph.addNode(renamed(n, rename), where)
  node.outputs.forEach((o, i) => {
    const from = results[i]
    if (o && from !== undefined)
      graph.addNode(new Node({ opType: 'Identity', name: `${node.label}.${which}`, inputs: [rename(from)], outputs: [o] }), where)
  })
}

/** A copy of a node under other names of values, in its subgraphs too. */
function renamed(n: Node, rename: (name: string) => string): Node {
  const attributes = [...n.attributes].map(([key, a]) => {
    if (a.type === 'graph') return [key, { ...a, value: renamedGraph(a.value, rename) }] as const
    if (a.type === 'graphs') return [key, { ...a, value: a.value.map((g) => renamedGraph(g, rename)) }] as const
    return [key, a] as const
  })
  const to = (name: string): string => (name ? rename(name) : name)
  return new Node({ name: n.name, opType: n.opType, domain: n.domain, inputs: n.inputs.map(to), outputs: n.outputs.map(to), attributes })
}

function renamedGraph(graph: Graph, rename: (name: string) => string): Graph {
  const copy = graph.clone()
  const own = new Set([...copy.initializers.keys(), ...copy.inputs.map((i) => i.name), ...copy.nodes.flatMap((n) => n.outputs)])
  const to = (name: string): string => (own.has(name) ? name : rename(name))
  copy.setNodes(copy.nodes.map((n) => renamed(n, to)))
  copy.outputs = copy.outputs.map((o) => o.renamed(to(o.name)))
  return copy
}
