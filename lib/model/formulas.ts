import type { Graph, Node } from './graph'
import { besides, close, dividedBy, factors, madeBy, scalarOf } from './match'

/** x of clip(x + 3, 0, 6). */
function shiftedClip(graph: Graph, name: string | undefined): string | undefined {
  const clip = madeBy(graph, name, 'Clip')
  if (!clip) return undefined
  // Bounds were attributes before opset 11.
  const bound = (index: number, name: string): number | undefined => (clip.inputs[index] ? scalarOf(graph, clip.inputs[index]) : clip.float(name))
  if (bound(1, 'min') !== 0 || bound(2, 'max') !== 6) return undefined
  return besides(graph, madeBy(graph, clip.inputs[0], 'Add'), 3)
}

/** x of a hard swish that was exported as its formula, whichever way it was put together. */
export function hardSwish(graph: Graph, node: Node): string | undefined {
  const product = dividedBy(graph, node.outputs[0], 6)
  const inner = madeBy(graph, product, 'Mul')
  if (inner) for (const [x, c] of factors(inner)) if (shiftedClip(graph, c) === x) return x
  if (!node.is('Mul')) return undefined
  for (const [x, c] of factors(node)) {
    const over = dividedBy(graph, c, 6)
    if (over && shiftedClip(graph, over) === x) return x
    const sigmoid = madeBy(graph, c, 'HardSigmoid')
    if (sigmoid && sigmoid.inputs[0] === x && close(sigmoid.float('alpha', 0.2), 1 / 6) && sigmoid.float('beta', 0.5) === 0.5) return x
  }
  return undefined
}

/** x of x * sigmoid(x). */
export function silu(graph: Graph, node: Node): string | undefined {
  if (!node.is('Mul')) return undefined
  for (const [x, s] of factors(node)) if (madeBy(graph, s, 'Sigmoid')?.inputs[0] === x) return x
  return undefined
}

/** x of x * (1 + erf(x / sqrt 2)) / 2, whichever way it was put together. */
export function gelu(graph: Graph, node: Node): string | undefined {
  const phi = (name: string | undefined): string | undefined => {
    const erf = madeBy(graph, besides(graph, madeBy(graph, name, 'Add'), 1), 'Erf')
    return erf && dividedBy(graph, erf.inputs[0], Math.SQRT2)
  }
  // (x * (1 + erf)) * 0.5
  const whole = madeBy(graph, dividedBy(graph, node.outputs[0], 2), 'Mul')
  if (whole) for (const [x, s] of factors(whole)) if (phi(s) === x) return x
  if (!node.is('Mul')) return undefined
  for (const [a, b] of factors(node)) {
    // (x * 0.5) * (1 + erf), x * ((1 + erf) * 0.5)
    const half = dividedBy(graph, a, 2)
    if (half && phi(b) === half) return half
    const s = dividedBy(graph, b, 2)
    if (s && phi(s) === a) return a
  }
  return undefined
}
