import { attribute, inferShapes, type Graph, type Model } from '../../model'
import { factors, madeBy, replace, scalarOf } from '../../model/match'

/** A value without the constant factors that it is multiplied with, and their product. */
function withoutScale(graph: Graph, name: string): readonly [name: string, scale: number] {
  let scale = 1
  for (;;) {
    const node = madeBy(graph, name, 'Mul', 'Div')
    if (!node) return [name, scale]
    const [a, b] = node.inputs as [string, string]
    const right = scalarOf(graph, b)
    const left = node.opType === 'Mul' ? scalarOf(graph, a) : undefined
    if (right !== undefined) {
      scale *= node.opType === 'Mul' ? right : 1 / right
      name = a
    } else if (left !== undefined) {
      scale *= left
      name = b
    } else return [name, scale]
  }
}

interface Scores {
  readonly q: string
  readonly k: string
  readonly scale: number
}

/** The product of queries and keys behind `name`; nothing else may read what lies between. */
function scoresOf(graph: Graph, name: string): Scores | undefined {
  const [inner, outer] = withoutScale(graph, name)
  const product = madeBy(graph, inner, 'MatMul')
  if (!product) return undefined
  const [q, qScale] = withoutScale(graph, product.inputs[0] as string)
  const [k, kScale] = withoutScale(graph, product.inputs[1] as string)
  return { q, k, scale: outer * qScale * kScale }
}

/**
 * softmax(scale * q k + mask) v, as exporters write it, becomes one node. The scores are never all in memory, and q, k, v
 * are read where they lie, so that the transposes of heads cost nothing.
 */
export function fuseAttention(model: Model): void {
  const graph = model.graph
  if (!graph.nodes.some((n) => n.is('Softmax'))) return
  const shapes = inferShapes(graph, model.opsets)
  const rank = (name: string): number => shapes.get(name, graph)?.dims?.length ?? 0
  const only = (name: string): boolean => graph.users(name).length === 1 && !graph.isOutput(name)
  for (const node of graph.nodes) {
    if (!node.is('MatMul')) continue
    const [p, v] = node.inputs as [string, string]
    const softmax = madeBy(graph, p, 'Softmax')
    const axis = softmax?.int('axis', -1)
    const n = rank(v)
    if (!softmax || !only(p) || (n !== 3 && n !== 4) || (axis !== -1 && axis !== n - 1)) continue
    const masked = softmax.inputs[0] as string
    if (!only(masked)) continue
    let scores = scoresOf(graph, masked)
    let mask: string | undefined
    const sum = scores ? undefined : madeBy(graph, masked, 'Add')
    if (sum)
      for (const [x, m] of factors(sum)) {
        const found = only(x) ? scoresOf(graph, x) : undefined
        if (!found || (shapes.get(m, graph)?.dims?.length ?? 9) > n) continue
        scores = found
        mask = m
        break
      }
    if (!scores || rank(scores.q) !== n || rank(scores.k) !== n || shapes.get(scores.q, graph)?.type !== 'float32') continue
    const inputs = mask === undefined ? [scores.q, scores.k, v] : [scores.q, scores.k, v, mask]
    replace(graph, node, 'Attention', inputs, { scale: attribute.float(scores.scale) }, 'whittle')
  }
}
