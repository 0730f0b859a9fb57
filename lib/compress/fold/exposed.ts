import { Graph, type Initializer, type Node } from '../../model/graph'
import type { Model } from '../../model/model'
import { inferShapes } from '../../model/ops/infer'
import { chosenWeights, ownerOf, weightInputsOf, weights, weightViewOf } from '../../model/weights'
import type { LayerReport } from '../../report/types'
import { sizeOf } from '../../tensor'
import type { KeepBudget } from '../computed'
import { computeConstants, constantNodes, placeConstant } from './constants'

/** Ops by which codes become floats: what they give is quantized already. */
const kDecoding = ['DequantizeLinear', 'Cast']

/**
 * Weights that an exporter left as a chain of nodes on constants (gates of an LSTM sliced and joined in another order, a
 * transposed matrix) become initializers, so that steps meet them; biases of the same nodes too. Each is computed alone.
 */
export async function exposeWeights(model: Model, keep: KeepBudget): Promise<void> {
  for (const graph of model.graph.graphs()) bypassCopies(graph)
  if (computedInputs(model.graph).length === 0) return
  const shapes = inferShapes(model.graph, model.opsets)
  const shared = new Map<string, string>()
  for (const graph of model.graph.graphs()) {
    const wanted = new Set(computedInputs(graph).flatMap(({ node }) => node.inputs))
    const constant = constantNodes(graph, shapes)
    for (const maker of constant.filter((n) => n.outputs.some((o) => wanted.has(o)))) {
      if (maker.outputs.some((o) => o && graph.isOutput(o))) continue
      const read = maker.outputs.filter((o) => o && graph.users(o).length > 0)
      const results = await computeConstants(model, graph, chainOf(graph, maker, constant), read)
      if (!results) continue
      graph.removeNode(maker)
      for (const name of read) placeConstant(model.graph, graph, name, results.get(name)!, shared, keep)
    }
    graph.removeDeadNodes(new Set(constant))
  }
  model.graph.removeDeadInitializers()
}

/** One name for what layers share: exporters store equal weights once and give each layer an `Identity` of them. */
function bypassCopies(graph: Graph): void {
  const copied = new Set(computedInputs(graph).filter((c) => c.graph === graph).map(({ node, index }) => node.inputs[index]!))
  for (const name of copied) {
    const maker = graph.producer(name)
    const from = maker?.inputs[0] ?? ''
    if (!maker?.is('Identity') || graph.isOutput(name) || !ownerOf(graph, from)) continue
    graph.replaceUses(name, from)
    graph.removeNode(maker)
    graph.valueInfo.delete(name)
  }
}

/** What a step on weights says of those that it cannot reach: floats that nodes compute from constants which are no weights by themselves. */
export function unreached(model: Model): LayerReport[] {
  const computed = computedInputs(model.graph)
  if (computed.length === 0) return []
  const shapes = inferShapes(model.graph, model.opsets)
  const known = new Set([...weights(model.graph), ...chosenWeights(model.graph)].map((w) => w.initializer))
  const found = new Map<string, LayerReport>()
  for (const { node, graph, index } of computed) {
    const weight = node.inputs[index]!
    const { sources, ops } = originOf(graph, weight)!
    const given = shapes.get(weight, graph)
    const dims = given?.dims?.every((d) => typeof d === 'number') ? (given.dims as number[]) : undefined
    if (given?.type !== 'float32' || sources.some((s) => known.has(s)) || (dims && !weightViewOf(node, index, dims))) continue
    const elements = dims ? sizeOf(dims) : sources.reduce((sum, s) => sum + (s.type === 'float32' ? s.elementCount : 0), 0)
    const reason = `the model computes it (${[...ops].sort().join(', ')}) from constants, which stayed as they are`
    found.set(`${weight} ${node.label}`, { name: node.name || weight, op: node.opType, weight, dims: dims ?? [], elements, action: 'kept', reason, bytesBefore: 4 * elements, bytesAfter: 4 * elements })
  }
  return [...found.values()]
}

interface Computed {
  readonly node: Node
  readonly graph: Graph
  readonly index: number
}

/** Inputs for weights, of nodes of this graph and those inside, that nodes compute from constants alone. */
function computedInputs(graph: Graph): Computed[] {
  const found: Computed[] = []
  graph.walk((node, inner) => {
    for (const index of weightInputsOf(node)) {
      const value = node.inputs[index]
      if (value && !ownerOf(inner, value) && originOf(inner, value)) found.push({ node, graph: inner, index })
    }
  })
  return found
}

interface Origin {
  readonly sources: readonly Initializer[]
  readonly ops: ReadonlySet<string>
}

/** The constants that a value is computed from and by which ops; `undefined` where there is anything else in it, or codes. */
function originOf(graph: Graph, value: string): Origin | undefined {
  const sources = new Set<Initializer>()
  const ops = new Set<string>()
  const seen = new Set<Node>()
  const visit = (name: string, at: Graph): boolean => {
    const owner = ownerOf(at, name)
    if (owner) {
      if (owner.isInput(name)) return false
      sources.add(owner.initializers.get(name)!)
      return true
    }
    let home: Graph | undefined = at
    while (home && !home.defines(name)) home = home.parent
    const maker = home?.producer(name)
    if (!home || !maker || (maker.is(...kDecoding) && ownerOf(home, maker.inputs[0] ?? '') !== undefined)) return false
    if (seen.has(maker)) return true
    seen.add(maker)
    ops.add(maker.opType)
    const branches = maker.subgraphs()
    if (branches.length === 0) return maker.inputs.some((i) => i) && maker.inputs.every((i) => !i || visit(i, home))
    // Which branch is taken is not a part of the value.
    return maker.is('If') && branches.every((g) => visit(g.outputs[maker.outputs.indexOf(name)]!.name, g))
  }
  return visit(value, graph) && sources.size > 0 ? { sources: [...sources], ops } : undefined
}

/** A node and those before it among `constant`, in order. */
function chainOf(graph: Graph, last: Node, constant: readonly Node[]): Node[] {
  const chain = new Set<Node>([last])
  for (const node of [...constant].reverse())
    if (node.outputs.some((o) => o && graph.users(o).some((u) => chain.has(u)))) chain.add(node)
  return constant.filter((n) => chain.has(n))
}
