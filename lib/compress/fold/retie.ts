import { Node, type Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import { sizeOf } from '../../tensor'

/** A matrix that the file made by turning another one, which other nodes read too: a table of embeddings that is the head as well. */
export interface Tie {
  readonly value: string
  readonly from: string
  readonly node: Node
}

/** @internal The ties of a model, to be looked for before its weights are exposed. */
export function tiesOf({ graph }: Model): Tie[] {
  return graph.nodes.flatMap((node) => {
    const [from, value] = [node.inputs[0] ?? '', node.outputs[0] ?? '']
    const turned = node.is('Transpose') && graph.initializers.get(from)?.dims.length === 2
    return turned && !graph.isInput(from) && !graph.isOutput(value) && node.ints('perm', [1, 0])[0] === 1 && graph.users(from).length > 1 ? [{ value, from, node }] : []
  })
}

/**
 * @internal Where no step told two tied matrices apart, one is stored and the other made of it again. So are int8 codes of weights alone, and
 * those of integer products; where activations are codes too (`QuantizeLinear` before the product) both stay, since runtimes look for them there.
 */
export function retie({ graph }: Model, ties: readonly Tie[]): void {
  for (const tie of ties) {
    const { value, from } = tie
    if (graph.isOutput(value)) continue
    if (isTurned(graph, value, from, /float/)) {
      graph.initializers.delete(value)
      graph.setNodes([turn(tie, from, value), ...graph.nodes])
    } else retieCodes(graph, tie)
  }
}

const turn = ({ node }: Tie, from: string, to: string): Node => new Node({ opType: 'Transpose', name: node.name, inputs: [from], outputs: [to], attributes: new Map(node.attributes) })

/** Codes of the table [rows, size], with a scale a row, that the head has too. */
function retieCodes(graph: Graph, tie: Tie): void {
  const table = codesOf(graph, tie.from)
  if (!table) return
  const head = codesOf(graph, tie.value)
  if (!head) {
    // Of MatMulInteger, which multiplies by the codes themselves.
    const codes = [...graph.initializers.values()].find((i) => i.type === 'int8' && i.name !== table.codes && graph.users(i.name).every((n) => n.is('MatMulInteger') && n.inputs[1] === i.name) && isTurned(graph, i.name, table.codes, /^int8$/))
    if (!codes || graph.users(codes.name).length === 0) return
    graph.initializers.delete(codes.name)
    graph.setNodes([turn(tie, table.codes, codes.name), ...graph.nodes])
    return
  }
  const isStatic = graph.users(tie.value).some((n) => n.inputs.some((i) => graph.producer(i)?.is('DequantizeLinear')))
  if (isStatic || !isTurned(graph, head.codes, table.codes, /^int8$/) || !sameValues(graph, head.scales, table.scales)) return
  for (const name of [head.codes, head.scales]) if (graph.users(name).length === 1) graph.initializers.delete(name)
  const nodes = graph.nodes.filter((n) => !head.nodes.includes(n))
  const made = nodes.findIndex((n) => n.outputs[0] === tie.from)
  graph.setNodes([...nodes.slice(0, made + 1), turn(tie, tie.from, tie.value), ...nodes.slice(made + 1)])
}

/** What a value is Cast and Mul of, where nothing else reads what lies between. */
function codesOf(graph: Graph, value: string): { readonly codes: string; readonly scales: string; readonly nodes: readonly Node[] } | undefined {
  const mul = graph.producer(value)
  const cast = mul?.is('Mul') ? graph.producer(mul.inputs[0] ?? '') : undefined
  const [codes, scales] = [cast?.inputs[0] ?? '', mul?.inputs[1] ?? '']
  if (!mul || !cast?.is('Cast') || graph.users(cast.outputs[0]!).length !== 1) return undefined
  return graph.initializers.get(codes)?.type === 'int8' && graph.initializers.has(scales) ? { codes, scales, nodes: [cast, mul] } : undefined
}

function sameValues(graph: Graph, a: string, b: string): boolean {
  const [x, y] = [a, b].map((name) => graph.initializers.get(name)!.readSync().data as ArrayLike<number>) as [ArrayLike<number>, ArrayLike<number>]
  return x.length === y.length && Array.from(x).every((v, i) => v === y[i])
}

function isTurned(graph: Graph, value: string, from: string, types: RegExp): boolean {
  const [a, b] = [graph.initializers.get(from), graph.initializers.get(value)]
  if (!a || !b || a.type !== b.type || !types.test(a.type) || a.dims.length !== 2 || a.dims[0] !== b.dims[1] || a.dims[1] !== b.dims[0]) return false
  const [rows, columns] = a.dims as [number, number]
  const [x, y] = [a.readSync().data as ArrayLike<number>, b.readSync().data as ArrayLike<number>]
  if (x.length !== sizeOf(a.dims) || y.length !== x.length) return false
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) if (!Object.is(x[i * columns + j], y[j * rows + i])) return false
  return true
}
