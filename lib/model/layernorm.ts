import { attribute, type Graph, type Node } from './graph'
import { factors, madeBy, replace, scalarOf } from './match'

/** Axes of a reduction, where they are constants. */
function axesOf(graph: Graph, node: Node): readonly number[] | undefined {
  if (!node.inputs[1]) return node.ints('axes')
  const c = graph.constant(node.inputs[1])
  return c && Array.from(c.readSync().data as Iterable<number | bigint>, Number)
}

interface Found {
  readonly x: string
  readonly epsilon: number
  readonly centered: string
}

/** x, epsilon of (x - mean) / sqrt(mean((x - mean)^2) + epsilon) along the last axis. */
function normalized(graph: Graph, name: string | undefined): Found | undefined {
  const div = madeBy(graph, name, 'Div')
  const sub = madeBy(graph, div?.inputs[0], 'Sub')
  const root = madeBy(graph, div?.inputs[1], 'Sqrt')
  const add = madeBy(graph, root?.inputs[0], 'Add')
  if (!div || !sub || !add) return undefined
  const last = (n: Node | undefined): boolean => {
    const axes = n && axesOf(graph, n)
    return axes?.length === 1 && axes[0] === -1 && n?.int('keepdims', 1) === 1
  }
  const mean = madeBy(graph, sub.inputs[1], 'ReduceMean')
  if (!mean || mean.inputs[0] !== sub.inputs[0] || !last(mean)) return undefined
  for (const [v, e] of factors(add)) {
    const epsilon = scalarOf(graph, e)
    const variance = madeBy(graph, v, 'ReduceMean')
    if (epsilon === undefined || !variance || !last(variance)) continue
    const square = madeBy(graph, variance.inputs[0], 'Pow', 'Mul')
    if (!square) continue
    const squared = square.opType === 'Pow' ? scalarOf(graph, square.inputs[1]) === 2 : square.inputs[0] === square.inputs[1]
    // Exporters compute x - mean once or twice.
    const again = madeBy(graph, square.inputs[0], 'Sub')
    if (squared && again && again.inputs[0] === sub.inputs[0] && again.inputs[1] === sub.inputs[1])
      return { x: sub.inputs[0] as string, epsilon, centered: sub.outputs[0] as string }
  }
  return undefined
}

/** A constant vector along the last axis. */
function vector(graph: Graph, name: string): number | undefined {
  const c = graph.constant(name)
  const n = c?.dims[c.dims.length - 1]
  return c && c.type === 'float32' && n !== undefined && c.elementCount === n && c.dims.length === 1 ? n : undefined
}

/** Layer normalizations that exporters write as formulas become one node each (opset 17). Returns how many. */
export function fuseLayerNorm(graph: Graph): number {
  let count = 0
  for (const node of graph.nodes) {
    if (!node.is('Add')) continue
    for (const [scaled, beta] of factors(node)) {
      const n = vector(graph, beta)
      const mul = madeBy(graph, scaled, 'Mul')
      if (n === undefined || !mul || graph.users(scaled).length !== 1) continue
      for (const [y, gamma] of factors(mul)) {
        const found = vector(graph, gamma) === n ? normalized(graph, y) : undefined
        if (!found) continue
        replace(graph, node, 'LayerNormalization', [found.x, gamma, beta], { epsilon: attribute.float(found.epsilon), axis: attribute.int(-1) })
        count++
        break
      }
      if (!graph.nodes.includes(node)) break
    }
  }
  return count
}
