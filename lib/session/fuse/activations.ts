import { attribute, type Graph } from '../../model'
import { gelu, geluTanh, hardSwish, silu } from '../../model/formulas'
import { replace } from '../../model/match'

/** Activations that exporters write as formulas become one node each. */
export function fuseActivations(graph: Graph): void {
  for (const node of graph.nodes) {
    if (!node.is('Mul', 'Div')) continue
    const swish = hardSwish(graph, node)
    if (swish) {
      replace(graph, node, 'HardSwish', [swish])
      continue
    }
    const smooth = gelu(graph, node)
    if (smooth) {
      replace(graph, node, 'Gelu', [smooth], { approximate: attribute.string('none') })
      continue
    }
    const near = geluTanh(graph, node)
    if (near) {
      replace(graph, node, 'Gelu', [near], { approximate: attribute.string('tanh') })
      continue
    }
    const s = silu(graph, node)
    if (s) replace(graph, node, 'Swish', [s])
  }
}
