import type { Graph } from '../model/graph'
import type { Model } from '../model/model'
import type { Node } from '../model/node'
import type { Shapes } from '../model/ops/infer'
import { quantizedWeights } from '../model/quantized'

/** What one node multiplies. */
export interface NodeMacs {
  readonly node: Node
  readonly graph: Graph
  readonly macs: number
  readonly type: 'float32' | 'float16' | 'int8' | 'int4'
}

/** Reads the dims of a value, all of them known, else `undefined`. */
type DimsOf = (value: string | undefined, graph: Graph) => readonly number[] | undefined

const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)

/** Multiplications with additions by op; `undefined` where a shape is not known. Ops that are not here have none that count. */
const kCounts: Readonly<Record<string, (node: Node, graph: Graph, dims: DimsOf) => number | undefined>> = {
  Conv: (n, g, d) => convolution(n, g, d, n.inputs[1]),
  FusedConv: (n, g, d) => convolution(n, g, d, n.inputs[1]),
  ConvInteger: (n, g, d) => convolution(n, g, d, n.inputs[1]),
  QLinearConv: (n, g, d) => convolution(n, g, d, n.inputs[3]),
  ConvTranspose: (n, g, d) => {
    const [x, w] = [d(n.inputs[0], g), d(n.inputs[1], g)]
    return x && w && size(x) * size(w.slice(1))
  },
  Gemm: (n, g, d) => {
    const [a, y] = [d(n.inputs[0], g), d(n.outputs[0], g)]
    return a && y && size(y) * a[n.int('transA', 0) ? 0 : 1]!
  },
  MatMul: (n, g, d) => product(d(n.inputs[0], g), d(n.outputs[0], g)),
  FusedMatMul: (n, g, d) => {
    const [a, y] = [d(n.inputs[0], g), d(n.outputs[0], g)]
    return a && y && size(y) * (a.at(n.int('transA', 0) ? -2 : -1) ?? 1)
  },
  MatMulInteger: (n, g, d) => product(d(n.inputs[0], g), d(n.outputs[0], g)),
  QLinearMatMul: (n, g, d) => product(d(n.inputs[0], g), d(n.outputs[0], g)),
  MatMulNBits: (n, g, d) => {
    const y = d(n.outputs[0], g)
    const x = d(n.inputs[0], g)
    return y ? size(y) * n.int('K', 0) : x && size(x) * n.int('N', 0)
  },
  LSTM: recurrent,
  GRU: recurrent,
  RNN: recurrent,
}

function convolution(n: Node, g: Graph, d: DimsOf, weight: string | undefined): number | undefined {
  const [w, y] = [d(weight, g), d(n.outputs[0], g)]
  return w && y && size(y) * size(w.slice(1))
}

function product(a: readonly number[] | undefined, y: readonly number[] | undefined): number | undefined {
  return a && y && size(y) * (a.at(-1) ?? 1)
}

/** Every step of every sequence multiplies both weights: [directions, gates · hidden, input] and [directions, gates · hidden, hidden]. */
function recurrent(n: Node, g: Graph, d: DimsOf): number | undefined {
  const [x, w, r] = [d(n.inputs[0], g), d(n.inputs[1], g), d(n.inputs[2], g)]
  return x && w && r && x[0]! * x[1]! * (size(w) + size(r))
}

/**
 * @internal Multiplications of every node of the model, those of subgraphs counted once.
 *
 * @param seen dims of values that a run had, where inference does not know them
 * @returns the counts, and the nodes whose shapes are not known
 */
export function countMacs(model: Model, shapes: Shapes, seen?: ReadonlyMap<string, readonly number[]>): { counts: NodeMacs[]; unknown: Node[]; inner: boolean } {
  const counts: NodeMacs[] = []
  const unknown: Node[] = []
  // Codes that a table gives floats for are no numbers to multiply.
  const codes = new Set(quantizedWeights(model.graph).flatMap((w) => (w.tables ? [] : [w.value])))
  let inner = false
  const dimsOf: DimsOf = (value, graph) => {
    if (!value) return undefined
    const dims = shapes.get(value, graph)?.dims
    if (dims?.every((d) => typeof d === 'number')) return dims as readonly number[]
    return graph === model.graph ? seen?.get(value) : undefined
  }
  model.graph.walk((node, graph) => {
    const count = Object.hasOwn(kCounts, node.opType) && ['', 'com.microsoft'].includes(node.domain) ? kCounts[node.opType] : undefined
    if (!count) return
    const macs = count(node, graph, dimsOf)
    if (macs === undefined) return void unknown.push(node)
    if (graph !== model.graph) inner = true
    counts.push({ node, graph, macs, type: typeOf(node, graph, shapes, codes) })
  })
  return { counts, unknown, inner }
}

function typeOf(node: Node, graph: Graph, shapes: Shapes, codes: ReadonlySet<string>): NodeMacs['type'] {
  if (/Integer$|^QLinear/.test(node.opType)) return 'int8'
  // With codes on both sides the product is one of integers, however they are stored; weights alone are made float first.
  const coded = (value: string | undefined): boolean => Boolean(value && (codes.has(value) || graph.producer(value)?.is('DequantizeLinear')))
  if (coded(node.inputs[0]) && coded(node.inputs[1])) return 'int8'
  const type = node.inputs[0] ? shapes.get(node.inputs[0], graph)?.type : undefined
  return type === 'float16' || type === 'bfloat16' ? 'float16' : 'float32'
}
