import { attribute, Initializer, Node, type Attribute, type DataSource } from '../../model/graph'
import type { FactorLayer } from './layer'
import type { Stage } from './methods'

/** A stage whose numbers lie wherever their source says. */
export interface Placed extends Omit<Stage, 'data'> {
  readonly source: DataSource
}

/** Puts a chain of layers in the place of one, for every node that reads its weight. Readers of its output notice nothing. */
export function rewrite(layer: FactorLayer, stages: readonly Placed[]): void {
  const { weight, users } = layer
  const { graph, initializer } = weight
  const names = stages.map(({ dims, source }, i) => {
    const name = graph.uniqueName(`${initializer.name}_f${i + 1}`)
    graph.addInitializer(new Initializer(name, 'float32', dims, source))
    return name
  })
  for (const node of users) chain(node, layer, stages, names)
  if (graph.isInput(initializer.name)) graph.inputs = graph.inputs.filter((i) => i.name !== initializer.name)
  graph.initializers.delete(initializer.name)
  graph.valueInfo.delete(initializer.name)
}

function chain(node: Node, layer: FactorLayer, stages: readonly Placed[], names: readonly string[]): void {
  const graph = node.graph!
  const last = stages.length - 1
  const output = node.outputs[0]!
  let value = node.inputs[layer.index === 1 ? 0 : 1]!
  const made = stages.map((stage, i) => {
    const out = i === last ? output : graph.uniqueName(`${output}_f${i + 1}`)
    const inputs = layer.index === 1 ? [value, names[i]!] : [names[i]!, value]
    const bias = node.inputs[2]
    if (i === last && node.is('Conv', 'Gemm') && bias) inputs.push(bias)
    value = out
    const name = i === last ? node.name : graph.uniqueName(`${node.name || node.opType}_f${i + 1}`)
    return new Node({
      opType: node.opType,
      name,
      inputs,
      outputs: [out],
      attributes: attributesOf(node, stage, i === 0, i === last),
    })
  })
  const nodes = [...graph.nodes]
  nodes.splice(nodes.indexOf(node), 1, ...made)
  graph.setNodes(nodes)
}

function attributesOf(
  node: Node,
  { dims, extent, group }: Placed,
  first: boolean,
  last: boolean,
): Record<string, Attribute> {
  if (node.is('MatMul')) return {}
  if (node.is('Gemm')) {
    // The first meets the inputs as they lie, the last scales and adds.
    const taken = [...(first ? ['transA'] : []), 'transB', ...(last ? ['alpha', 'beta'] : [])]
    return Object.fromEntries([...node.attributes].filter(([name]) => taken.includes(name)))
  }
  const kernel = dims.slice(2)
  const found: Record<string, Attribute> = { kernel_shape: attribute.ints(kernel) }
  if (group !== 1) found['group'] = attribute.int(group)
  if (extent === 'none') return found
  const rank = kernel.length
  const mine = (axis: number): boolean => extent === 'all' || (axis % rank === 0) === (extent === 'rows')
  const part = (name: string, other: number): void => {
    const list = node.ints(name)
    if (list) found[name] = attribute.ints(list.map((v, axis) => (mine(axis) ? v : other)))
  }
  part('strides', 1)
  part('dilations', 1)
  part('pads', 0)
  const auto = node.attributes.get('auto_pad')
  if (auto) found['auto_pad'] = auto
  return found
}
