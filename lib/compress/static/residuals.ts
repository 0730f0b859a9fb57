import type { Graph, Node } from '../../model/graph'
import type { CodedLayer } from './layers'
import { insertPair } from './pairs'
import type { Code } from './ranges'

/** What an addition behind a convolution reads as codes: its other side, which is in memory when the convolution runs. */
export interface Residual {
  readonly node: Node
  readonly value: string
}

/** The value that a convolution's sums become: behind a normalization that alone reads them. */
function sumsOf(graph: Graph, { node }: CodedLayer): string {
  let y = node.outputs[0] as string
  for (;;) {
    const [only, ...more] = graph.users(y)
    if (!only?.is('BatchNormalization') || more.length > 0 || only.inputs[0] !== y || graph.isOutput(y)) return y
    y = only.outputs[0] as string
  }
}

/**
 * Additions of what a convolution that reads codes makes and of a value that is codes already, or could be: the result of an earlier such
 * convolution. Where the value is also wanted as floats, nothing would be gained.
 */
export function residuals(graph: Graph, layers: readonly CodedLayer[], codes?: ReadonlyMap<string, Code>): Residual[] {
  const nodes = graph.topologicalOrder()
  const place = new Map(nodes.map((n, i) => [n, i]))
  const coded = new Set(layers.map((l) => l.node))
  const inputs = new Set(layers.map((l) => l.input))
  const made = new Map<string, number>()
  for (const l of layers) {
    const y = sumsOf(graph, l)
    if (l.node.is('Conv') && l.node.int('group', 1) === 1 && graph.users(y).length === 1 && !graph.isOutput(y)) made.set(y, place.get(l.node)!)
  }
  return nodes.flatMap((node) => {
    const [a, b] = node.inputs
    if (!node.is('Add') || !a || !b || a === b) return []
    const last = (made.get(a) ?? -1) > (made.get(b) ?? -1) ? a : b
    const value = last === a ? b : a
    if (!made.has(last) || (!inputs.has(value) && !made.has(value)) || graph.isOutput(value)) return []
    // A single pixel is too small to gain by codes.
    if (codes && codes.get(value)?.pooled !== false) return []
    return graph.users(value).every((n) => coded.has(n) || n.is('Add')) ? [{ node, value }] : []
  })
}

/** Puts codes on what layers read, and on what is added to their results. */
export function insertPairs(graph: Graph, layers: readonly CodedLayer[], codes: ReadonlyMap<string, Code>, added: readonly Residual[]): void {
  const readers = [...layers.map((l) => ({ node: l.node, value: l.input })), ...added]
  for (const value of new Set(readers.map((r) => r.value)))
    insertPair(graph, value, codes.get(value)!, readers.filter((r) => r.value === value).map((r) => r.node))
}
