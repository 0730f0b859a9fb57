import type { Graph } from '../../model/graph'
import type { Node } from '../../model/node'
import { ownerOf, weightInputsOf, type Weight } from '../../model/weights'

/** A weight that can be taken apart: a matrix, or the kernel of a convolution. */
export interface FactorLayer {
  readonly weight: Weight
  /** Every node that multiplies by it, all in the same way. */
  readonly users: readonly Node[]
  /** Which input of these it is. */
  readonly index: number
  /** The weight as a matrix, and where on it the inputs are summed. */
  readonly rows: number
  readonly columns: number
  readonly inputs: 'rows' | 'columns'
  readonly conv?: {
    readonly outputs: number
    /** Of one group. */
    readonly inputs: number
    readonly group: number
    readonly kernel: readonly number[]
    /** Of the node with the largest. */
    readonly strides: readonly number[]
  }
}

/** What a weight is for factorization, or why it is nothing. */
export function factorLayerOf(weight: Weight, root: Graph): FactorLayer | string {
  const { initializer, graph, op } = weight
  const { name, dims } = initializer
  if (graph.isOutput(name)) return 'it is an output of the graph'
  const users: Node[] = []
  let index = -1
  let same = true
  root.walk((node, inner) => {
    node.inputs.forEach((input, i) => {
      if (input !== name || ownerOf(inner, input) !== graph) return
      if (users.length === 0) index = i
      if (i !== index || node.opType !== op || !weightInputsOf(node).includes(i)) same = false
      users.push(node)
    })
    for (const g of node.subgraphs())
      if (g.isOutput(name) && !g.defines(name) && ownerOf(g, name) === graph) same = false
  })
  const first = users[0]
  if (!first) return 'no node multiplies by it'
  if (!same || new Set(users).size !== users.length) return 'nodes of other kinds read it too'
  const base = { weight, users, index }
  if (op === 'MatMul') {
    if (dims.length !== 2) return 'it is a stack of matrices'
    return { ...base, rows: dims[0]!, columns: dims[1]!, inputs: index === 1 ? 'rows' : 'columns' }
  }
  if (op === 'Gemm') {
    if (index !== 1) return 'it is the left side of a Gemm'
    const turned = first.int('transB', 0) !== 0
    if (users.some((u) => (u.int('transB', 0) !== 0) !== turned)) return 'nodes of other kinds read it too'
    return { ...base, rows: dims[0]!, columns: dims[1]!, inputs: turned ? 'columns' : 'rows' }
  }
  if (op !== 'Conv' || dims.length < 3) return `weights of ${op} are not factorized`
  const group = first.int('group', 1)
  if (users.some((u) => u.int('group', 1) !== group)) return 'nodes of other kinds read it too'
  const [outputs, channels, ...kernel] = dims as [number, number, ...number[]]
  const strides = kernel.map((_, i) => Math.max(...users.map((u) => u.ints('strides')?.[i] ?? 1)))
  const conv = { outputs, inputs: channels, group, kernel, strides }
  return { ...base, rows: outputs, columns: initializer.elementCount / outputs, inputs: 'columns', conv }
}
