import type { Graph, Initializer, Node } from '../../model/graph'
import { behindLogarithms } from './logarithms'

/** A node whose weights and input can be codes. */
export interface CodedLayer {
  readonly node: Node
  /** The value that becomes codes. */
  readonly input: string
  readonly weight: Initializer
  /** Axis of the weight along which there is a scale each. */
  readonly axis: number
  readonly bias: string | undefined
}

interface CodedOptions {
  /** Names of nodes. */
  readonly exclude?: ReadonlySet<string>
  readonly minChannels?: number
  readonly products?: boolean
  readonly logarithms?: boolean
}

/**
 * Convolutions of one group or one channel a group, Gemm and MatMul with constant float32 weights and a computed input. With
 * `products` no convolutions, but Gemm with any alpha and beta. Convolutions with fewer input channels than `minChannels` are left out, and so are layers
 * behind logarithms (see {@link behindLogarithms}); with `logarithms` the answer is those instead of the others.
 */
export function codedLayers(graph: Graph, { exclude, minChannels = 1, products = false, logarithms = false }: CodedOptions = {}): CodedLayer[] {
  const found: CodedLayer[] = []
  const spectra = behindLogarithms(graph)
  for (const node of graph.nodes) {
    if (exclude?.has(node.name) || spectra.has(node) !== logarithms) continue
    const weight = node.inputs[1] ? graph.constant(node.inputs[1]) : undefined
    const input = node.inputs[0]
    if (!weight || weight.type !== 'float32' || !input || graph.constant(input) || graph.isInput(weight.name)) continue
    if (node.is('MatMul') && weight.dims.length === 2) found.push({ node, input, weight, axis: 1, bias: undefined })
    const bias = node.inputs[2] || undefined
    if (node.is('Gemm') && node.int('transA', 0) === 0 && (products || (node.float('alpha', 1) === 1 && node.float('beta', 1) === 1)))
      found.push({ node, input, weight, axis: node.int('transB', 0) ? 0 : 1, bias })
    if (products || !node.is('Conv')) continue
    const group = node.int('group', 1)
    const [oc, ic] = weight.dims as [number, number]
    const depthwise = group > 1 && ic === 1 && oc === group
    if (depthwise || (group === 1 && ic >= minChannels)) found.push({ node, input, weight, axis: 0, bias })
  }
  return found
}
