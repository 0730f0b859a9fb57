import { sizeOf } from '../tensor'
import type { Graph } from './graph'
import type { Initializer } from './initializer'
import type { Node } from './node'

/**
 * How a weight tensor multiplies: seen as `dims` (the same values in the same order), `outputAxis` counts the output
 * channels and `reductionAxis` the products that are summed; -1 if these do not lie on one axis.
 */
export interface WeightView {
  readonly dims: readonly number[]
  readonly outputAxis: number
  readonly reductionAxis: number
}

/** A weight tensor and the first node that computes with it. */
export interface Weight {
  /** The node's name, or the weight's where the node has none. */
  readonly name: string
  readonly op: string
  readonly node: Node
  /** The initializer, and the graph that owns it (an outer one, perhaps). */
  readonly initializer: Initializer
  readonly graph: Graph
  readonly view: WeightView
  /** Names of further nodes that read the same tensor. */
  readonly sharedBy: readonly string[]
}

const rowsFirst = (dims: readonly number[], lead: number): WeightView => ({
  dims: [sizeOf(dims.slice(0, lead)), sizeOf(dims.slice(lead))],
  outputAxis: 0,
  reductionAxis: 1,
})

/** [batch…, K, N], outputs last. */
function columnsLast(dims: readonly number[]): WeightView {
  const r = dims.length
  if (r === 2) return { dims, outputAxis: 1, reductionAxis: 0 }
  return { dims: [sizeOf(dims.slice(0, r - 2)), dims[r - 2]!, dims[r - 1]!], outputAxis: 2, reductionAxis: 1 }
}

/** [batch…, outputs, K]. */
const rowsThenReduction = (dims: readonly number[]): WeightView => rowsFirst(dims, dims.length - 1)

type Viewer = (node: Node, dims: readonly number[]) => WeightView | undefined

const recurrent = (index: number): readonly [number, Viewer] => [
  index,
  (_n, d) => (d.length === 3 ? rowsThenReduction(d) : undefined),
]

/** By op type: which inputs are weights, and how each is seen. */
const kWeightInputs: Readonly<Record<string, readonly (readonly [index: number, view: Viewer])[]>> = {
  Conv: [[1, (_n, d) => (d.length >= 3 ? rowsFirst(d, 1) : undefined)]],
  ConvTranspose: [
    [
      1,
      (_n, d) =>
        d.length >= 3 ? { dims: [d[0]!, d[1]!, sizeOf(d.slice(2))], outputAxis: 1, reductionAxis: -1 } : undefined,
    ],
  ],
  Gemm: [
    [1, (n, d) => (d.length !== 2 ? undefined : n.int('transB', 0) ? rowsThenReduction(d) : columnsLast(d))],
    [0, (n, d) => (d.length !== 2 ? undefined : n.int('transA', 0) ? columnsLast(d) : rowsThenReduction(d))],
  ],
  MatMul: [
    [1, (_n, d) => (d.length >= 2 ? columnsLast(d) : undefined)],
    [0, (_n, d) => (d.length >= 2 ? rowsThenReduction(d) : undefined)],
  ],
  Gather: [[0, (n, d) => (d.length >= 2 && n.int('axis', 0) === 0 ? rowsFirst(d, 1) : undefined)]],
  LSTM: [recurrent(1), recurrent(2)],
  GRU: [recurrent(1), recurrent(2)],
  RNN: [recurrent(1), recurrent(2)],
}

/** Op types that have weights in the sense of {@link weights}. */
export const weightOps: readonly string[] = Object.keys(kWeightInputs)

/**
 * The weight tensors of a graph and its subgraphs, each once, in the order in which nodes first read them. Only
 * floating-point initializers of the ops in {@link weightOps} count: biases and norm parameters do not.
 */
export function weights(graph: Graph): Weight[] {
  const found = new Map<Initializer, Weight & { sharedBy: string[] }>()
  graph.walk((node, inner) => {
    for (const index of weightInputsOf(node)) {
      const value = node.inputs[index]
      const home = value ? ownerOf(inner, value) : undefined
      const initializer = home?.initializers.get(value!)
      if (!initializer || !isFloat(initializer) || unpacksCodes(node, inner)) continue
      const name = node.name || initializer.name
      const known = found.get(initializer)
      if (known) known.sharedBy.push(name)
      else {
        const seen = weightViewOf(node, index, initializer.dims)
        if (seen)
          found.set(initializer, { name, op: node.opType, node, initializer, graph: home!, view: seen, sharedBy: [] })
      }
    }
  })
  return [...found.values()]
}

/**
 * @internal Weight tensors that nodes read through an `If`: its branches answer constants (their own, or those around them by `Identity`),
 * and the condition chooses between them. {@link weights} does not have them, since no node names them as its input.
 */
export function chosenWeights(graph: Graph): Weight[] {
  const direct = new Set(weights(graph).map((w) => w.initializer))
  const found = new Map<Initializer, Weight & { sharedBy: string[] }>()
  graph.walk((node, inner) => {
    for (const index of weightInputsOf(node))
      for (const { home, initializer } of choicesOf(inner, node.inputs[index] ?? '')) {
        if (direct.has(initializer) || !isFloat(initializer) || home.isInput(initializer.name)) continue
        const name = node.name || initializer.name
        const known = found.get(initializer)
        const view = weightViewOf(node, index, initializer.dims)
        if (known) known.sharedBy.push(name)
        else if (view) found.set(initializer, { name, op: node.opType, node, initializer, graph: home, view, sharedBy: [] })
      }
  })
  return [...found.values()]
}

/** The constants that an `If` chooses between where it makes `value`. */
function choicesOf(graph: Graph, value: string): { home: Graph; initializer: Initializer }[] {
  let home: Graph | undefined = graph
  while (home && !home.defines(value)) home = home.parent
  const maker = home?.producer(value)
  if (!maker?.is('If')) return []
  return maker.subgraphs().flatMap((branch) => {
    let [at, name]: [Graph | undefined, string] = [branch, branch.outputs[maker.outputs.indexOf(value)]?.name ?? '']
    for (let copy = at.producer(name); copy?.is('Identity'); copy = at?.producer(name)) {
      name = copy.inputs[0] ?? ''
      while (at && !at.defines(name)) at = at.parent
    }
    const initializer = at?.initializers.get(name)
    return at && initializer ? [{ home: at, initializer }] : choicesOf(branch, name)
  })
}

/** @internal Which inputs of a node are weights, by its op. */
export function weightInputsOf(node: Node): readonly number[] {
  return node.is(...weightOps) ? kWeightInputs[node.opType]!.map(([index]) => index) : []
}

/** @internal How a tensor of `dims` is seen as input `index` of a node; `undefined` if it is no weight there. */
export function weightViewOf(node: Node, index: number, dims: readonly number[]): WeightView | undefined {
  const found = kWeightInputs[node.opType]?.find(([i]) => i === index)
  return found?.[1](node, dims)
}

/**
 * @internal Whether a node is a Gather that unpacks the codes of a weight: its indices are constant bytes, cast. What it
 * gathers from is a table of values, no weight.
 */
export function unpacksCodes(node: Node, graph: Graph): boolean {
  if (!node.is('Gather') || node.int('axis', 0) !== 0 || !node.inputs[1]) return false
  const cast = graph.producer(node.inputs[1])
  return cast?.is('Cast') === true && ownerOf(graph, cast.inputs[0] ?? '')?.initializers.get(cast.inputs[0]!)?.type === 'uint8'
}

function isFloat(initializer: Initializer): boolean {
  return ['float32', 'float16', 'bfloat16', 'float64'].includes(initializer.type)
}

/** The graph, this or an outer one, whose initializer `value` is; `undefined` if it is anything else. */
export function ownerOf(graph: Graph, value: string): Graph | undefined {
  for (let g: Graph | undefined = graph; g; g = g.parent) {
    if (g.initializers.has(value)) return g
    if (g.defines(value)) return undefined
  }
  return undefined
}
