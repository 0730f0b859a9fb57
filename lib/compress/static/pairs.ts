import { Initializer, Node, type Graph } from '../../model/graph'
import type { Tensor } from '../../tensor'
import type { Code } from './ranges'

const scalar = (type: 'float32' | 'uint8' | 'int8', value: number): Tensor => ({
  type,
  dims: [],
  data: type === 'float32' ? Float32Array.of(value) : type === 'uint8' ? Uint8Array.of(value) : Int8Array.of(value),
})

/**
 * Puts a QuantizeLinear and a DequantizeLinear behind `value`; the nodes `readers` read what comes out. Returns its name. Names are
 * short and zero points shared: of a small model's file the pairs are a good part.
 */
export function insertPair(graph: Graph, value: string, code: Code, readers: readonly Node[]): string {
  const scale = graph.uniqueName('s')
  graph.addInitializer(Initializer.from(scale, scalar('float32', code.scale)))
  const zero = zeroOf(graph, code)
  const first = graph.nodes.find((n) => readers.includes(n)) as Node
  const codes = graph.uniqueName('q')
  const back = graph.uniqueName('dq')
  graph.addNode(new Node({ opType: 'QuantizeLinear', inputs: [value, scale, zero], outputs: [codes] }), { before: first })
  graph.addNode(new Node({ opType: 'DequantizeLinear', inputs: [codes, scale, zero], outputs: [back] }), { before: first })
  for (const node of readers) node.inputs = node.inputs.map((i) => (i === value ? back : i))
  return back
}

/** A zero point that is there already, or a new one. */
function zeroOf(graph: Graph, { type, zero }: Code): string {
  const name = `${type}_${zero < 0 ? `m${-zero}` : zero}`
  const found = graph.initializers.get(name)
  if (found && found.type === type && found.dims.length === 0 && !graph.isInput(name) && Number(found.readSync().data[0]) === zero) return name
  const made = graph.uniqueName(name)
  graph.addInitializer(Initializer.from(made, scalar(type, zero)))
  return made
}
