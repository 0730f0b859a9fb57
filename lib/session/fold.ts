import { WhittleError } from '../errors'
import { Initializer, type Graph, type Node, type Shapes } from '../model'
import { check, native } from '../native'
import { allocate, bitsOf, isDataType, sizeOf, type Tensor } from '../tensor'
import { lowerOf } from './lower'
import { lower } from './plan'
import { Constants } from './program'

/** Results that were computed once for all plans of a session, by name. */
export type Folded = Map<string, Initializer>

/** A result may be this much larger than what it is made of, or this small; that of constant indices (biases of attention by places) larger. */
const kGrowth = 2
const kGathered = 4
const kSmall = 64 << 10

/** What must stay as it is: how weights are stored decides which kernel takes them. */
const kKept = new Set(['DequantizeLinear', 'QuantizeLinear', 'DynamicQuantizeLinear'])

function bytesOf(shapes: Shapes, graph: Graph, name: string): number {
  const known = shapes.get(name, graph)
  if (!known?.dims?.every((d) => typeof d === 'number') || !isDataType(known.type)) return Infinity
  return (sizeOf(known.dims as number[]) * bitsOf(known.type)) / 8
}

/** Computes what depends on nothing but weights (their slices, joined and turned), so that runs need not. */
export function foldConstants(graph: Graph, shapes: Shapes, folded: Folded): void {
  const nodes = new Set<Node>()
  const made = new Set<string>()
  for (const node of graph.topologicalOrder()) {
    const given = node.inputs.filter((i) => i)
    if (!node.is() || kKept.has(node.opType) || given.length === 0 || node.subgraphs().length > 0 || !lowerOf(node)) continue
    if (!given.every((i) => graph.constant(i) || made.has(i))) continue
    const before = given.reduce((sum, i) => sum + bytesOf(shapes, graph, i), 0)
    const after = node.outputs.reduce((sum, o) => sum + (o ? bytesOf(shapes, graph, o) : 0), 0)
    if (!(after <= Math.max(kSmall, before * (node.is('Gather') ? kGathered : kGrowth)))) continue
    nodes.add(node)
    for (const o of node.outputs) if (o) made.add(o)
  }
  const wanted = (): string[] => [...nodes].flatMap((n) => n.outputs.filter((o) => o && (graph.isOutput(o) || graph.users(o).some((u) => !nodes.has(u)))))
  for (;;) {
    if (nodes.size === 0) return
    const missing = wanted().filter((name) => !folded.has(name))
    try {
      if (missing.length > 0) compute(graph, shapes, missing, nodes).forEach((t, i) => folded.set(missing[i] as string, Initializer.from(missing[i] as string, t)))
      break
    } catch (error) {
      // What cannot be computed now is refused, by name, when it is planned; so is what is made of it.
      if (!(error instanceof WhittleError)) throw error
      const culprit = [...nodes].find((n) => n.label === error.parameter)
      if (!culprit) return
      drop(graph, culprit, nodes)
    }
  }
  const names = wanted()
  graph.setNodes(graph.nodes.filter((n) => !nodes.has(n)))
  for (const name of names) graph.addInitializer(folded.get(name) as Initializer)
}

/** Takes a node out, and those that need its results. */
function drop(graph: Graph, node: Node, nodes: Set<Node>): void {
  if (!nodes.delete(node)) return
  for (const o of node.outputs) if (o) for (const user of graph.users(o)) drop(graph, user, nodes)
}

function compute(graph: Graph, shapes: Shapes, names: readonly string[], nodes: ReadonlySet<Node>): readonly Tensor[] {
  const session = native().sessionNew(0, -1)
  if (!session) throw new Error('whittle: a session was refused')
  const lowered = lower({ graph, shapes }, names, nodes, new Constants(session))
  const numbers = lowered.program.encode()
  const plan = native().sessionPlan(session, numbers.length, numbers)
  if (typeof plan !== 'number') throw new Error(`whittle: a plan was refused: ${plan}`)
  const tensors = lowered.outputs.map((o): Tensor => ({ type: o.type, dims: o.dims, data: allocate(o.type, sizeOf(o.dims)) }))
  check(native().sessionRun(session, plan, [], tensors.map((t) => t.data), 0, null, null, null, 0, 0), 'model')
  return tensors
}
