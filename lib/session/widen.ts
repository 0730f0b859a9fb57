import { attribute, inferShapes, Initializer, Node, ValueInfo, type Graph, type Model, type Shapes } from '../model'
import { fromHalves } from '../model/half'
import type { Tensor } from '../tensor'

const kFloat = 1
const kHalf = 10

/** Ops that move float16 values or turn them into others; everything else computes. */
const kMoves = new Set([
  'Cast', 'CastLike', 'Concat', 'Constant', 'DequantizeLinear', 'Expand', 'Flatten', 'Gather', 'Identity', 'Reshape', 'Shape', 'Size', 'Slice',
  'Split', 'Squeeze', 'Transpose', 'Unsqueeze',
]) // prettier-ignore

/**
 * A model that computes in float16, in float32 instead: there are no float16 kernels, and what they would round is not rounded.
 * Weights are widened, which is exact; inputs and outputs keep their types behind Casts, values between are float32. A model
 * that only stores float16 stays as it is. `model` is edited.
 */
export function widen(model: Model): void {
  const graphs = model.graph.graphs()
  if (!graphs.some(mentionsHalf)) return
  const types = inferShapes(model.graph, model.opsets)
  if (!computesInHalf(model.graph, types)) return
  const isHalf = (v: ValueInfo): boolean => (types.get(v.name, model.graph)?.type ?? v.type) === 'float16'
  const edges = [...model.graph.inputs, ...model.graph.outputs].filter(isHalf).map((v) => v.name)
  for (const graph of graphs) {
    for (const initializer of [...graph.initializers.values()])
      if (initializer.type === 'float16') graph.setInitializer(initializer.name, widened(initializer))
    for (const [name, info] of [...graph.valueInfo])
      if (info.type === 'float16') graph.valueInfo.set(name, floatOf(info))
    for (const node of graph.nodes) retype(node)
    if (!graph.parent) continue
    graph.inputs = graph.inputs.map(floatOf)
    graph.outputs = graph.outputs.map(floatOf)
  }
  castEdges(model.graph, new Set(edges))
}

function mentionsHalf(graph: Graph): boolean {
  return (
    [...graph.initializers.values(), ...graph.inputs].some((v) => v.type === 'float16') ||
    graph.nodes.some((n) => n.is('Cast') && n.int('to', 0) === kHalf)
  )
}

function computesInHalf(root: Graph, types: Shapes): boolean {
  let found = false
  root.walk((node, graph) => {
    const half = (name: string): boolean => name !== '' && types.get(name, graph)?.type === 'float16'
    found ||= !kMoves.has(node.opType) && (node.inputs.some(half) || node.outputs.some(half))
  })
  return found
}

function widened(initializer: Initializer): Tensor {
  const { dims, data } = initializer.readSync()
  return { type: 'float32', dims, data: fromHalves(new Uint16Array(data.buffer, data.byteOffset, data.length)) }
}

const floatOf = (info: ValueInfo): ValueInfo =>
  info.type === 'float16' ? new ValueInfo(info.name, 'float32', info.dims) : info

/** What a node makes by an attribute. */
function retype(node: Node): void {
  const name = node.is('Cast') ? 'to' : node.is('EyeLike') ? 'dtype' : undefined
  if (name && node.int(name, 0) === kHalf) node.attributes.set(name, attribute.int(kFloat))
  const value = node.is('ConstantOfShape') ? node.attributes.get('value') : undefined
  if (value?.type === 'tensor' && value.value.type === 'float16')
    node.attributes.set('value', attribute.tensor(Initializer.from(value.value.name, widened(value.value))))
}

/** Inputs and outputs of the model keep their types. */
function castEdges(graph: Graph, halves: ReadonlySet<string>): void {
  const cast = (from: string, to: string, type: number): Node =>
    new Node({
      opType: 'Cast',
      name: graph.uniqueName(`${to}_cast`),
      inputs: [from],
      outputs: [to],
      attributes: { to: attribute.int(type) },
    })
  const made: Node[] = []
  for (const { name } of graph.inputs) {
    if (!halves.has(name) || graph.initializers.has(name)) continue
    const float = graph.uniqueName(`${name}_float`)
    graph.replaceUses(name, float)
    made.push(cast(name, float, kFloat))
  }
  for (const { name } of graph.outputs) {
    const producer = graph.producer(name)
    if (!halves.has(name) || !producer) continue
    const float = graph.uniqueName(`${name}_float`)
    graph.replaceUses(name, float)
    producer.outputs = producer.outputs.map((o) => (o === name ? float : o))
    made.push(cast(float, name, kHalf))
  }
  graph.setNodes([...graph.nodes, ...made])
}
