import { WhittleError } from '../errors'
import { Node, type Graph } from '../model'
import { isDataType, sizeOf, type DataType } from '../tensor'
import { lowerOf } from './lower'
import { Lowering } from './lowering'
import type { Constants, Memory, Program } from './program'
import type { Special } from './specialize'
import { identity, isRowMajor } from './value'

export interface Output {
  readonly name: string
  readonly type: DataType
  readonly dims: readonly number[]
}

/** A value that is looked at while the plan runs. */
export interface Tap extends Output {
  readonly memory: Memory
  /** steps that are done by then; the next one may overwrite it */
  readonly after: number
}

export interface Lowered {
  readonly program: Program
  /** inputs that the plan reads, in order */
  readonly inputs: readonly string[]
  readonly outputs: readonly Output[]
  readonly taps: readonly Tap[]
}

/**
 * Makes the plan of a graph whose shapes are all known. `fetch` names the values to be had, `live` the nodes to run,
 * `tapped` values to be looked at on the way.
 */
export function lower(special: Special, fetch: readonly string[], live: ReadonlySet<Node>, constants: Constants, tapped: readonly string[] = []): Lowered {
  const { graph, shapes } = special
  const wanted = new Set([...fetch, ...tapped])
  const l = new Lowering(graph, shapes, constants, wanted, live)
  const inputs: string[] = []
  for (const i of graph.inputs) {
    if (!isDataType(i.type) || !(wanted.has(i.name) || l.users(i.name).length > 0)) continue
    inputs.push(i.name)
    l.defineInput(i.name, i.type, i.dims as readonly number[])
  }
  const taps: Tap[] = []
  const waiting = new Set(tapped)
  for (const node of codesFirst(graph)) {
    if (!live.has(node) || l.taken.has(node)) continue
    kernelOf(node)(node, l)
    l.done.add(node)
    for (const name of waiting) {
      if (!l.has(name)) continue
      taps.push(tapOf(name, graph.producer(name) ?? node, l))
      waiting.delete(name)
    }
  }
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
  return { program: l.program, inputs, outputs, taps }
}

/** In order of execution; what makes codes of a value, or a value of codes, comes as early as it can, so that whatever follows finds codes. */
function codesFirst(graph: Graph): Set<Node> {
  const order = new Set<Node>()
  const add = (node: Node): void => {
    if (order.has(node)) return
    order.add(node)
    for (const name of node.outputs)
      for (const user of name ? graph.users(name) : [])
        if (user.is('QuantizeLinear', 'DequantizeLinear') && user.inputs[0] === name && user.inputs.slice(1).every((i) => !i || graph.constant(i))) add(user)
  }
  graph.topologicalOrder().forEach(add)
  return order
}

function tapOf(name: string, node: Node, l: Lowering): Tap {
  const v = l.inMemory(l.lazy(name, node), node)
  let { memory } = v
  if (memory.place !== 'arena' || !isRowMajor(v.dims, v.order)) {
    memory = l.program.memory(v.type, sizeOf(v.dims))
    l.copy(v, memory, identity(v.dims.length), node)
  }
  l.program.keep(memory)
  return { name, type: v.type, dims: v.dims, memory, after: l.program.steps.length }
}

/** How a node becomes steps; throws `ERR_UNSUPPORTED_OP` where there is no way. */
export function kernelOf(node: Node): NonNullable<ReturnType<typeof lowerOf>> {
  const found = lowerOf(node)
  if (found) return found
  const op = `${node.domain ? `${node.domain}.` : ''}${node.opType}`
  throw new WhittleError('ERR_UNSUPPORTED_OP', node.label, `${op} ${node.label}: sessions have no kernel for this op`)
}

