import { attribute, inferShapes, Initializer, Node, ValueInfo, type Graph, type Model, type Shapes } from '../model'
import { fromBfloats, fromHalves } from '../model/half'
import { elementCodeOf, type ElementType } from '../model/types'
import type { Tensor } from '../tensor'

/** Ops that move float16 values or turn them into others; everything else computes. */
const kMoves = new Set([
  'Cast', 'CastLike', 'Concat', 'Constant', 'DequantizeLinear', 'Expand', 'Flatten', 'Gather', 'Identity', 'Reshape', 'Shape', 'Size', 'Slice',
  'Split', 'Squeeze', 'Transpose', 'Unsqueeze',
]) // prettier-ignore

/** @internal float16 or bfloat16. */
export const isShort = (type: string | undefined): type is 'float16' | 'bfloat16' => type === 'float16' || type === 'bfloat16'

const kFloat = elementCodeOf('float32')
const kShort = new Set([elementCodeOf('float16'), elementCodeOf('bfloat16')])

/**
 * A model that computes in float16 or bfloat16, in float32 instead: there are no kernels of such types, and what they would round is not
 * rounded. Weights are widened, which is exact; inputs and outputs keep their types behind Casts, values between are float32. A model
 * that only stores such types stays as it is. `model` is edited.
 *
 * @param widened makes the float32 form of a tensor of the file; the default reads it at once
 * @returns the ops that computed so; nothing where none did
 */
export function widen(model: Model, widened: (short: Initializer) => Initializer | Tensor = read): ReadonlySet<string> | undefined {
  const graphs = model.graph.graphs()
  if (!graphs.some(mentionsShort)) return undefined
  const types = inferShapes(model.graph, model.opsets)
  const ops = computingShort(model.graph, types)
  if (![...ops].some((op) => !kMoves.has(op))) return undefined
  const edges = new Map<string, ElementType>()
  for (const v of [...model.graph.inputs, ...model.graph.outputs]) {
    const type = model.graph.initializers.get(v.name)?.type ?? types.get(v.name, model.graph)?.type ?? v.type
    if (isShort(type)) edges.set(v.name, type)
  }
  for (const graph of graphs) {
    for (const initializer of [...graph.initializers.values()])
      if (isShort(initializer.type) && (graph.parent || !graph.isOutput(initializer.name))) graph.setInitializer(initializer.name, widened(initializer))
    for (const [name, info] of [...graph.valueInfo])
      if (isShort(info.type)) graph.valueInfo.set(name, floatOf(info))
    for (const node of graph.nodes) retype(node)
    if (!graph.parent) continue
    graph.inputs = graph.inputs.map(floatOf)
    graph.outputs = graph.outputs.map(floatOf)
  }
  castEdges(model.graph, edges)
  return ops
}

function mentionsShort(graph: Graph): boolean {
  return (
    [...graph.initializers.values(), ...graph.inputs].some((v) => isShort(v.type)) ||
    graph.nodes.some((n) => n.is('Cast') && kShort.has(n.int('to', 0)))
  )
}

/** Types of the ops that read or make such values. */
function computingShort(root: Graph, types: Shapes): Set<string> {
  const found = new Set<string>()
  root.walk((node, graph) => {
    const short = (name: string): boolean => name !== '' && isShort(types.get(name, graph)?.type)
    if (node.inputs.some(short) || node.outputs.some(short)) found.add(node.opType)
  })
  return found
}

/** @internal The values of a float16 or bfloat16 tensor. */
export function floatsOf({ type, data }: Pick<Tensor, 'type' | 'data'>): Float32Array {
  // Engines that have Float16Array read halves as such.
  const words = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2)
  return type === 'bfloat16' ? fromBfloats(words) : fromHalves(words)
}

function read(initializer: Initializer): Tensor {
  const tensor = initializer.readSync()
  return { type: 'float32', dims: tensor.dims, data: floatsOf(tensor) as Float32Array<ArrayBuffer> }
}

const floatOf = (info: ValueInfo): ValueInfo => (isShort(info.type) ? new ValueInfo(info.name, 'float32', info.dims) : info)

/** What a node makes by an attribute. */
function retype(node: Node): void {
  const name = node.is('Cast') ? 'to' : node.is('EyeLike', 'RandomNormal', 'RandomNormalLike', 'RandomUniform', 'RandomUniformLike', 'Bernoulli') ? 'dtype' : undefined
  if (name && kShort.has(node.int(name, 0))) node.attributes.set(name, attribute.int(kFloat))
  const value = node.is('ConstantOfShape') ? node.attributes.get('value') : undefined
  if (value?.type === 'tensor' && isShort(value.value.type))
    node.attributes.set('value', attribute.tensor(Initializer.from(value.value.name, read(value.value))))
}

/** Inputs and outputs of the model keep their types. */
function castEdges(graph: Graph, shorts: ReadonlyMap<string, ElementType>): void {
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
    if (!shorts.has(name) || graph.initializers.has(name)) continue
    const float = graph.uniqueName(`${name}_float`)
    graph.replaceUses(name, float)
    made.push(cast(name, float, kFloat))
  }
  for (const { name } of graph.outputs) {
    const [type, producer] = [shorts.get(name), graph.producer(name)]
    if (type === undefined) continue
    const float = graph.uniqueName(`${name}_float`)
    // A constant that is an output stays as it is.
    if (graph.initializers.has(name)) {
      if (graph.replaceUses(name, float) > 0) made.push(cast(name, float, kFloat))
      continue
    }
    if (!producer) continue
    graph.replaceUses(name, float)
    producer.outputs = producer.outputs.map((o) => (o === name ? float : o))
    made.push(cast(float, name, elementCodeOf(type)))
  }
  graph.setNodes([...graph.nodes, ...made])
}
