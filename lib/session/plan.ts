import { WhittleError } from '../errors'
import { inferShapes, ValueInfo, type Graph, type Model, type Node, type Shapes } from '../model'
import { isDataType, type DataType } from '../tensor'
import { lowerOf } from './lower'
import { knownTensor, Lowering } from './lowering'
import type { Constants, Program } from './program'
import { identity, isRowMajor } from './value'

export interface Output {
  readonly name: string
  readonly type: DataType
  readonly dims: readonly number[]
}

export interface Lowered {
  readonly program: Program
  /** inputs that the plan reads, in order */
  readonly inputs: readonly string[]
  readonly outputs: readonly Output[]
}

/** Nodes whose results reach `wanted` and must run; what inference knows whole need not. */
function liveNodes(graph: Graph, shapes: Shapes, wanted: ReadonlySet<string>): Set<Node> {
  const live = new Set<Node>()
  const stack = [...wanted]
  while (stack.length > 0) {
    const name = stack.pop() as string
    if (knownTensor(shapes.get(name, graph))) continue
    const node = graph.producer(name)
    if (!node || live.has(node)) continue
    live.add(node)
    stack.push(...node.inputs.filter((i) => i))
  }
  return live
}

/** Makes the plan of a prepared model for inputs of these dims. `fetch` names the values to be had. */
export function lower(model: Model, dims: ReadonlyMap<string, readonly number[]>, fetch: readonly string[], constants: Constants): Lowered {
  const graph = model.graph.clone()
  graph.valueInfo.clear()
  graph.outputs = graph.outputs.map((o) => new ValueInfo(o.name, o.type, null))
  graph.inputs = graph.inputs.map((i) => {
    const known = dims.get(i.name)
    return known ? new ValueInfo(i.name, i.type, known) : i
  })
  const shapes = inferShapes(graph, model.opsets, { strict: true })
  const wanted = new Set(fetch)
  const live = liveNodes(graph, shapes, wanted)
  for (const node of graph.nodes)
    if (live.has(node) && !lowerOf(node))
      throw new WhittleError(
        'ERR_UNSUPPORTED_OP',
        node.label,
        `${node.domain ? `${node.domain}.` : ''}${node.opType} ${node.label}: sessions have no kernel for this op`,
      )
  const l = new Lowering(graph, shapes, constants, wanted, live)
  const inputs: string[] = []
  for (const i of graph.inputs) {
    const known = dims.get(i.name)
    if (!known || !isDataType(i.type)) continue
    const read = wanted.has(i.name) || l.users(i.name).length > 0
    if (!read) continue
    inputs.push(i.name)
    l.defineInput(i.name, i.type, known)
  }
  for (const node of graph.topologicalOrder()) if (live.has(node) && !l.taken.has(node)) (lowerOf(node) as NonNullable<ReturnType<typeof lowerOf>>)(node, l)

  const bound = new Set<unknown>()
  const outputs = fetch.map((name): Output => {
    const node = graph.producer(name) ?? (graph.nodes[0] as Node)
    let v = l.inMemory(l.lazy(name, node), node)
    // An output has memory of its own, row-major.
    if (v.memory.place !== 'arena' || bound.has(v.memory) || !isRowMajor(v.dims, v.order)) {
      const memory = l.program.memory(v.type, v.dims.reduce((a, b) => a * b, 1))
      l.copy(v, memory, identity(v.dims.length), node)
      v = { ...v, memory, order: identity(v.dims.length) }
    }
    bound.add(v.memory)
    l.program.bindOutput(v.memory)
    return { name, type: v.type, dims: v.dims }
  })
  return { program: l.program, inputs, outputs }
}
