import { createHash } from 'node:crypto'

import { WhittleError } from '../../errors'
import { Graph, graphsOf, Initializer, ValueInfo, type Node } from '../../model/graph'
import { Model } from '../../model/model'
import type { Shapes } from '../../model/ops/infer'
import { ownerOf } from '../../model/weights'
import { Session } from '../../session'
import { bitsOf, isDataType, sizeOf, type Tensor } from '../../tensor'
import type { KeepBudget } from '../computed'

/** A result may be this much larger than what it is made of, or this small. */
const kGrowth = 1
const kSmall = 64 << 10

/** From this size on results of branches are looked for in other branches. */
const kShared = 1 << 10

/** How weights are stored is not undone, and chance is not a constant. */
const kKept = new Set(
  'DequantizeLinear QuantizeLinear DynamicQuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout'.split(' '),
)

function bytesOf(shapes: Shapes, graph: Graph, name: string): number {
  const c = graph.constant(name)
  if (c) return c.byteLength
  const known = shapes.get(name, graph)
  if (!known?.dims?.every((d) => typeof d === 'number') || !isDataType(known.type)) return Infinity
  return (sizeOf(known.dims as number[]) * bitsOf(known.type)) / 8
}

/** Nodes of one graph that depend on constants alone and give no more bytes than they need, in order. */
export function constantNodes(graph: Graph, shapes: Shapes): Node[] {
  const made = new Set<string>()
  const nodes: Node[] = []
  for (const node of graph.topologicalOrder()) {
    const given = node.inputs.filter((i) => i)
    const a = [...node.attributes.values()]
    if (!node.is() || kKept.has(node.opType) || given.length === 0 || a.some((v) => graphsOf(v).length > 0 || v.reference)) continue
    if (!given.every((i) => made.has(i) || (graph.constant(i) && !isReplaceable(graph, i)))) continue
    // 8- and 4-bit weights become float by Cast or a table of pairs: that is a storage.
    if (node.is('Cast', 'Gather') && given.some((i) => isCodes(graph.constant(i)))) continue
    const before = given.reduce((sum, i) => sum + (stays(graph, i) ? 0 : bytesOf(shapes, graph, i)), 0)
    const after = node.outputs.reduce((sum, o) => sum + (o ? bytesOf(shapes, graph, o) : 0), 0)
    if (!(after <= Math.max(kSmall, before * kGrowth))) continue
    nodes.push(node)
    for (const o of node.outputs) if (o) made.add(o)
  }
  return nodes
}

/** Whether a constant is needed all the same, by a node that is not computed from constants. */
function stays(graph: Graph, name: string): boolean {
  const owner = ownerOf(graph, name)
  if (!owner || owner.initializers.get(name)!.byteLength <= kSmall) return false
  if (owner.isOutput(name)) return true
  let others = false
  owner.walk((n, inner) => {
    if (n.inputs.includes(name) && !n.inputs.every((i) => !i || inner.constant(i)) && ownerOf(inner, name) === owner) others = true
  })
  return others
}

function isReplaceable(graph: Graph, name: string): boolean {
  for (let g: Graph | undefined = graph; g; g = g.parent) if (g.initializers.has(name)) return g.isInput(name)
  return false
}

function isCodes(c: Initializer | undefined): boolean {
  if (!c) return false
  return (c.type === 'int8' || c.type === 'uint8' || c.type === 'int4' || c.type === 'uint4') && c.elementCount > 1
}

/**
 * Computes once what depends on nothing but constants, in all graphs of a model. What grows by it, quantized weights and what
 * cannot be computed here stay. Returns how many nodes are gone.
 */
export async function foldConstants(model: Model, shapes: Shapes): Promise<number> {
  let count = 0
  const shared = new Map<string, string>()
  for (const graph of model.graph.graphs()) {
    const nodes = constantNodes(graph, shapes)
    if (nodes.length === 0) continue
    // An output must be made by a node: that one stays, and reads constants.
    const gone = new Set(nodes.filter((n) => n.outputs.every((o) => !o || !graph.isOutput(o))))
    const wanted = [...gone].flatMap((n) => n.outputs).filter((o) => o && graph.users(o).some((u) => !gone.has(u)))
    const results = (await computeConstants(model, graph, nodes, wanted)) ?? new Map<string, Tensor>()
    const ready = new Set(results.keys())
    if (ready.size === 0) continue
    const out = new Set<Node>()
    for (const n of [...gone].reverse()) if (n.outputs.every((o) => !o || ready.has(o) || graph.users(o).every((u) => out.has(u)))) out.add(n)
    graph.setNodes(graph.nodes.filter((n) => !out.has(n)))
    for (const n of out) for (const o of n.outputs) if (ready.has(o)) placeConstant(model.graph, graph, o, results.get(o) as Tensor, shared)
    count += out.size
  }
  return count
}

/**
 * Puts a computed value, of which no node is left, into its graph; what a branch computes where all can read it, once: branches compute the
 * same of what is around them. With a budget what goes beyond it lies in a file.
 */
export function placeConstant(root: Graph, graph: Graph, value: string, tensor: Tensor, shared: Map<string, string>, keep?: KeepBudget): void {
  const plain = Initializer.from(value, tensor)
  const made = keep ? new Initializer(value, plain.type, plain.dims, keep.hold(plain.source.readSync(0, plain.byteLength))) : plain
  if (graph === root || made.byteLength < kShared) return void graph.addInitializer(made)
  const key = `${made.type} ${made.dims.join('x')} ${createHash('sha256').update(made.source.readSync(0, made.byteLength)).digest('hex')}`
  let name = shared.get(key)
  if (name === undefined) {
    name = root.uniqueName(made.name)
    root.addInitializer(made.renamed(name))
    shared.set(key, name)
  }
  graph.replaceUses(made.name, name)
  graph.valueInfo.delete(made.name)
}

/** The values that nodes of `home` compute from constants; `undefined` where they cannot be computed here. */
export async function computeConstants(model: Model, home: Graph, nodes: readonly Node[], wanted: readonly string[]): Promise<Map<string, Tensor> | undefined> {
  const graph = new Graph('constants')
  for (const name of new Set(nodes.flatMap((n) => n.inputs))) {
    const c = name ? home.constant(name) : undefined
    if (c) graph.addInitializer(c.renamed(name))
  }
  // The nodes of a clone: a node is in one graph only.
  const names = new Set(nodes.flatMap((n) => n.outputs.filter((o) => o)))
  const clone = home.clone()
  const copies = clone.nodes.filter((n) => n.outputs.some((o) => names.has(o)))
  clone.setNodes([])
  graph.setNodes(copies)
  graph.outputs = wanted.map((name) => new ValueInfo(name, 'undefined', null, 'unknown'))
  graph.sort()
  try {
    const session = await Session.create(new Model({ graph, opsets: [...model.opsets], irVersion: Math.max(4, model.irVersion) }), { threads: 1 })
    try {
      return new Map(Object.entries(await session.run({})))
    } finally {
      session.dispose()
    }
  } catch (error) {
    // What cannot be computed stays as it is: the runtime that reads the file may know more.
    if ((error as WhittleError).name !== 'WhittleError' && (error as Error).name !== 'WhittleError') throw error
    return undefined
  }
}
