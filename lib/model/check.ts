import { WhittleError } from '../errors'
import type { Graph } from './graph'

/**
 * Checks that a graph does not contradict itself: every value has one maker, everything read exists, nothing depends on
 * itself. Throws `ERR_MODEL_FORMAT` and names the value and the node.
 */
export function checkGraph(graph: Graph, label = graph.name): void {
  check(graph, label, undefined)
}

interface Scope {
  readonly names: ReadonlySet<string>
  readonly outer: Scope | undefined
}

function check(graph: Graph, label: string, outer: Scope | undefined): void {
  const fail = (parameter: string, message: string): never => {
    throw new WhittleError(
      'ERR_MODEL_FORMAT',
      parameter,
      `${label}: ${graph.name ? `graph ${graph.name}: ` : ''}${message}`,
    )
  }
  const names = new Set<string>()
  for (const i of graph.inputs) {
    if (names.has(i.name)) fail(i.name, `two inputs named ${i.name}`)
    names.add(i.name)
  }
  // Up to IR version 3 an initializer is an input too, and gives its default.
  for (const name of graph.initializers.keys()) names.add(name)
  const sparse = new Set<string>()
  for (const s of graph.sparseInitializers) {
    if (sparse.has(s.name) || graph.initializers.has(s.name)) fail(s.name, `two initializers named ${s.name}`)
    sparse.add(s.name)
    names.add(s.name)
  }
  for (const node of graph.nodes)
    for (const o of node.outputs) {
      if (o && names.has(o)) fail(node.label, `node ${node.label}: the value ${o} is made twice`)
      if (o) names.add(o)
    }
  const scope: Scope = { names, outer }
  const known = (name: string): boolean => {
    for (let s: Scope | undefined = scope; s; s = s.outer) if (s.names.has(name)) return true
    return false
  }
  for (const node of graph.nodes) {
    for (const i of node.inputs)
      if (i && !known(i)) fail(node.label, `node ${node.label}: its input ${i} does not exist`)
    for (const g of node.subgraphs()) check(g, label, scope)
  }
  const outputs = new Set<string>()
  for (const o of graph.outputs) {
    if (!known(o.name)) fail(o.name, `the output ${o.name} does not exist`)
    if (outputs.has(o.name) && !outer) fail(o.name, `two outputs named ${o.name}`)
    outputs.add(o.name)
  }
  graph.topologicalOrder()
}
