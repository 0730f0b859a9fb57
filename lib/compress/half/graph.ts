import { attribute, Initializer, Node, ValueInfo, type DataSource, type Graph } from '../../model/graph'
import { reads } from '../../model/graph'

const kFloat = 1
const kHalf = 10

/** @internal What each float32 value and node of the outermost graph becomes. */
export interface HalfPlan {
  readonly graph: Graph
  /** Nodes that stay in float32. */
  readonly full: ReadonlySet<Node>
  /** Whether a value of the outermost graph is float32 before. */
  isFloat(value: string): boolean
  /** The float16 values of an initializer that float16 nodes read. */
  halvesOf(initializer: Initializer): DataSource
  /** What inputs and outputs of the model are. */
  readonly io: 'float32' | 'float16'
}

/**
 * @internal Turns the outermost graph into float16: initializers, values, the model's inputs and outputs where asked for. Between it and
 * the nodes that stay in float32, whose subgraphs stay as they are, lie Casts, one for each value and type. Returns how many.
 */
export function toHalf({ graph, full, isFloat, halvesOf, io }: HalfPlan): number {
  const made: Node[] = []
  const values = new Set<string>()
  for (const node of graph.nodes) for (const name of [...reads(node), ...node.outputs]) if (name && isFloat(name)) values.add(name)
  for (const { name } of [...graph.inputs, ...graph.outputs]) if (isFloat(name)) values.add(name)
  const halfNodes = new Set(graph.nodes.filter((n) => !full.has(n)))
  const cast = (from: string, to: string, type: number): void => {
    made.push(new Node({ opType: 'Cast', name: graph.uniqueName(`${to}_cast`), inputs: [from], outputs: [to], attributes: { to: attribute.int(type) } }))
  }
  for (const value of values) {
    const readers = graph.users(value)
    const [wanting, rest] = [readers.filter((n) => halfNodes.has(n)), readers.filter((n) => !halfNodes.has(n))]
    const stored = graph.initializers.get(value)
    const producer = graph.producer(value)
    const isOutput = graph.isOutput(value)
    if (stored) {
      if (wanting.length === 0) continue
      if (isOutput) {
        const half = graph.uniqueName(`${value}_half`)
        cast(value, half, kHalf)
        graph.replaceUses(value, half, { in: wanting })
        continue
      }
      if (graph.isInput(value)) graph.inputs = graph.inputs.filter((i) => i.name !== value)
      graph.initializers.delete(value)
      graph.valueInfo.delete(value)
      graph.addInitializer(new Initializer(value, 'float16', stored.dims, halvesOf(stored)))
      if (rest.length) {
        const float = graph.uniqueName(`${value}_float`)
        cast(value, float, kFloat)
        graph.replaceUses(value, float, { in: rest })
      }
      continue
    }
    const isHalf = producer ? halfNodes.has(producer) : io === 'float16'
    const wanted = io === 'float16'
    // An output keeps its name: what is made of another type gets one of its own.
    let name = value
    if (isOutput && producer && isHalf !== wanted) {
      name = graph.uniqueName(`${value}_${isHalf ? 'half' : 'float'}`)
      producer.outputs = producer.outputs.map((o) => (o === value ? name : o))
      cast(name, value, wanted ? kHalf : kFloat)
      graph.replaceUses(value, name, { in: isHalf ? wanting : rest })
    } else {
      const others = isHalf ? rest : wanting
      if (others.length) {
        const other = graph.uniqueName(`${value}_${isHalf ? 'float' : 'half'}`)
        cast(value, other, isHalf ? kFloat : kHalf)
        graph.replaceUses(value, other, { in: others })
      }
    }
    if (isHalf || name !== value) graph.valueInfo.delete(value)
  }
  if (io === 'float16') {
    const half = (info: ValueInfo): ValueInfo => (isFloat(info.name) ? new ValueInfo(info.name, 'float16', info.dims) : info)
    graph.inputs = graph.inputs.map((i) => (graph.initializers.has(i.name) ? i : half(i)))
    graph.outputs = graph.outputs.map((o) => (graph.initializers.has(o.name) ? o : half(o)))
  }
  for (const node of halfNodes) if (node.is('Cast') && node.int('to', 0) === kFloat) node.attributes.set('to', attribute.int(kHalf))
  graph.setNodes([...graph.nodes, ...made])
  graph.sort()
  return made.length
}
