import { WhittleError } from '../errors'
import { Node } from '../model'
import { isDataType, type DataType } from '../tensor'
import { lowerOf } from './lower'
import { Lowering } from './lowering'
import type { Constants, Program } from './program'
import type { Special } from './specialize'
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

/** Makes the plan of a graph whose shapes are all known. `fetch` names the values to be had, `live` the nodes to run. */
export function lower(special: Special, fetch: readonly string[], live: ReadonlySet<Node>, constants: Constants): Lowered {
  const { graph, shapes } = special
  const wanted = new Set(fetch)
  const l = new Lowering(graph, shapes, constants, wanted, live)
  const inputs: string[] = []
  for (const i of graph.inputs) {
    if (!isDataType(i.type) || !(wanted.has(i.name) || l.users(i.name).length > 0)) continue
    inputs.push(i.name)
    l.defineInput(i.name, i.type, i.dims as readonly number[])
  }
  for (const node of graph.topologicalOrder()) if (live.has(node) && !l.taken.has(node)) kernelOf(node)(node, l)
  const bound = new Set<unknown>()
  const outputs = fetch.map((name): Output => {
    const node = graph.producer(name) ?? new Node({ opType: 'Identity', inputs: [name], outputs: [name] })
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

/** How a node becomes steps; throws `ERR_UNSUPPORTED_OP` where there is no way. */
export function kernelOf(node: Node): NonNullable<ReturnType<typeof lowerOf>> {
  const found = lowerOf(node)
  if (found) return found
  const op = `${node.domain ? `${node.domain}.` : ''}${node.opType}`
  throw new WhittleError('ERR_UNSUPPORTED_OP', node.label, `${op} ${node.label}: sessions have no kernel for this op`)
}

