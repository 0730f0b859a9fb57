import { attribute, type Graph, type Node } from './graph'
import { factors, madeBy, replace, scalarOf } from './match'

/** x, the nodes that make x / √(mean(x²) + ε) along the last axis, first to last, and what ε is. */
export interface RmsFormula {
  readonly x: string
  readonly epsilon: number
  readonly nodes: readonly Node[]
  /** the constant vector that the last of the nodes multiplies by, if one does */
  readonly scale?: string
}

/**
 * The root-mean-square normalization that ends at `node`, as exporters write it (Llama's: Pow, ReduceMean, Add, Sqrt, Div or
 * Reciprocal, Mul). One that a product with a scale follows is found there, with it.
 */
export function rmsFormula(graph: Graph, node: Node): RmsFormula | undefined {
  const scaled = scaledBy(graph, node)
  if (scaled) return scaled
  const formula = formulaOf(graph, node)
  const y = node.outputs[0] as string
  const reader = graph.users(y)[0]
  return formula && alone(graph, y) && reader && scaledBy(graph, reader) ? undefined : formula
}

/** Root-mean-square normalizations that exporters write as formulas become one RMSNormalization each. Returns how many. */
export function fuseRmsNorm(graph: Graph): number {
  let count = 0
  for (const node of [...graph.nodes]) {
    const found = graph.nodes.includes(node) ? rmsFormula(graph, node) : undefined
    if (!found) continue
    const inputs = found.scale === undefined ? [found.x] : [found.x, found.scale]
    replace(graph, node, 'RMSNormalization', inputs, { axis: attribute.int(-1), epsilon: attribute.float(found.epsilon) })
    count++
  }
  return count
}

/** The formula times a constant vector. */
function scaledBy(graph: Graph, node: Node): RmsFormula | undefined {
  if (!node.is('Mul')) return undefined
  for (const [y, gamma] of factors(node)) {
    const c = graph.constant(gamma)
    if (c?.type !== 'float32' || c.dims.length !== 1 || c.elementCount < 2 || !alone(graph, y)) continue
    const formula = formulaOf(graph, graph.producer(y))
    if (formula) return { ...formula, nodes: [...formula.nodes, node], scale: gamma }
  }
  return undefined
}

function alone(graph: Graph, value: string): boolean {
  const users = graph.users(value)
  return users.length === 1 && users[0]!.subgraphs().length === 0 && !graph.isOutput(value)
}

/** x · r or x / √…, r = 1 / √(mean(x²) + ε) as Reciprocal or Div. */
function formulaOf(graph: Graph, last: Node | undefined): RmsFormula | undefined {
  if (!last?.is('Mul', 'Div')) return undefined
  const sides = last.is('Mul') ? factors(last) : [[last.inputs[0]!, last.inputs[1]!] as const]
  for (const [x, other] of sides) {
    if (!alone(graph, other)) continue
    const inverse = last.is('Mul') ? madeBy(graph, other, 'Reciprocal', 'Div') : undefined
    if (last.is('Mul') && !inverse) continue
    if (inverse?.is('Div') && scalarOf(graph, inverse.inputs[0]) !== 1) continue
    const root = madeBy(graph, inverse ? inverse.inputs[inverse.is('Div') ? 1 : 0] : other, 'Sqrt')
    const sum = madeBy(graph, root?.inputs[0], 'Add')
    if (!root || !sum) continue
    for (const [mean, e] of factors(sum)) {
      const epsilon = graph.constant(e)?.type === 'float32' ? scalarOf(graph, e) : undefined
      const reduce = madeBy(graph, mean, 'ReduceMean')
      const square = madeBy(graph, reduce?.inputs[0], 'Pow', 'Mul')
      if (epsilon === undefined || !(epsilon >= 0) || !reduce || !square || !alongLast(graph, reduce)) continue
      const squared = square.is('Pow') ? scalarOf(graph, square.inputs[1]) === 2 : square.inputs[1] === x
      if (!squared || square.inputs[0] !== x) continue
      const nodes = [square, reduce, sum, root, ...(inverse ? [inverse] : []), last]
      if (nodes.slice(0, -1).every((n) => alone(graph, n.outputs[0]!))) return { x, epsilon, nodes }
    }
  }
  return undefined
}

function alongLast(graph: Graph, node: Node): boolean {
  const c = node.inputs[1] ? graph.constant(node.inputs[1]) : undefined
  const axes = c ? Array.from(c.readSync().data as Iterable<number | bigint>, Number) : node.ints('axes')
  return axes?.length === 1 && axes[0] === -1 && node.int('keepdims', 1) === 1
}
