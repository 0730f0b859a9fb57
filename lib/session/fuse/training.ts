import { inferShapes, Initializer, Node, type Graph, type Model } from '../../model'

/**
 * A BatchNormalization that takes mean and variance of what it is given (`training_mode`), and whose running statistics nobody reads, as
 * the formula of ONNX's specification. Exporters write standardized weights so, and a formula of constants is computed once.
 */
export function expandTraining(model: Model): void {
  const { graph } = model
  if (!graph.nodes.some(isOwn)) return
  const shapes = inferShapes(graph, model.opsets)
  for (const node of graph.nodes) {
    if (!isOwn(node) || node.outputs.slice(1).some((o) => o && (graph.isOutput(o) || graph.users(o).length > 0))) continue
    const known = shapes.get(node.inputs[0] as string, graph)
    const rank = known?.dims?.length
    if (known?.type !== 'float32' || rank === undefined || rank < 2) continue
    expand(graph, node, rank)
  }
}

function isOwn(node: Node): boolean {
  return node.is('BatchNormalization') && node.int('training_mode', 0) === 1
}

function expand(graph: Graph, node: Node, rank: number): void {
  const [x, scale, bias] = node.inputs as [string, string, string]
  const label = node.outputs[0] as string
  const after = graph.nodes[graph.nodes.indexOf(node) + 1]
  const constant = (what: string, type: 'int64' | 'float32', values: readonly number[]): string => {
    const name = graph.uniqueName(`${label}_${what}`)
    const data = type === 'int64' ? BigInt64Array.from(values, BigInt) : Float32Array.from(values)
    graph.addInitializer(Initializer.from(name, { type, dims: type === 'int64' ? [values.length] : [], data }))
    return name
  }
  const add = (opType: string, what: string, ...inputs: string[]): string => {
    const out = what ? graph.uniqueName(`${label}_${what}`) : label
    graph.addNode(new Node({ opType, name: node.name, inputs, outputs: [out] }), after ? { before: after } : {})
    return out
  }
  graph.removeNode(node)
  const axes = constant('axes', 'int64', [...Array(rank).keys()].filter((a) => a !== 1))
  const inner = rank > 2 ? constant('inner', 'int64', [...Array(rank - 2).keys()].map((a) => a + 1)) : ''
  const perChannel = (name: string, what: string): string => (inner ? add('Unsqueeze', what, name, inner) : name)
  const centered = add('Sub', 'centered', x, add('ReduceMean', 'mean', x, axes))
  const variance = add('ReduceMean', 'variance', add('Mul', 'squares', centered, centered), axes)
  const deviation = add('Sqrt', 'deviation', add('Add', 'shifted', variance, constant('epsilon', 'float32', [node.float('epsilon', 1e-5)])))
  const scaled = add('Mul', 'scaled', add('Div', 'normal', centered, deviation), perChannel(scale, 'scale'))
  add('Add', '', scaled, perChannel(bias, 'bias'))
}
