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
  return halfTimes(graph, node, (name) => {
    const erf = madeBy(graph, besides(graph, madeBy(graph, name, 'Add'), 1), 'Erf')
    return erf && dividedBy(graph, erf.inputs[0], Math.SQRT2)
  })
}

/** x of x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, the approximation that GPT-2 and its kind compute (Hendrycks and Gimpel, 2016). */
export function geluTanh(graph: Graph, node: Node): string | undefined {
  return halfTimes(graph, node, (name) => {
    const tanh = madeBy(graph, besides(graph, madeBy(graph, name, 'Add'), 1), 'Tanh')
    const sum = madeBy(graph, besides(graph, madeBy(graph, tanh?.inputs[0], 'Mul'), Math.sqrt(2 / Math.PI)), 'Add')
    if (!sum) return undefined
    for (const [x, term] of factors(sum)) {
      const cube = besides(graph, madeBy(graph, term, 'Mul'), 0.044715)
      if (cube && cubed(graph, cube) === x) return x
    }
    return undefined
  })
}

/** x of x^3. */
function cubed(graph: Graph, name: string): string | undefined {
  const power = madeBy(graph, name, 'Pow')
  if (power) return scalarOf(graph, power.inputs[1]) === 3 ? power.inputs[0] : undefined
  const product = madeBy(graph, name, 'Mul')
  if (product)
    for (const [x, square] of factors(product)) {
      const by = madeBy(graph, square, 'Mul', 'Pow')
      if (by?.inputs[0] === x && (by.is('Mul') ? by.inputs[1] === x : scalarOf(graph, by.inputs[1]) === 2)) return x
    }
  return undefined
}

/** x of x * s / 2, in whichever order, where `inner` finds the same x in s. */
function halfTimes(graph: Graph, node: Node, inner: (s: string | undefined) => string | undefined): string | undefined {
  // (x * s) * 0.5
  const whole = madeBy(graph, dividedBy(graph, node.outputs[0], 2), 'Mul')
  if (whole) for (const [x, s] of factors(whole)) if (inner(s) === x) return x
  if (!node.is('Mul')) return undefined
  for (const [a, b] of factors(node)) {
    // (x * 0.5) * s, x * (s * 0.5)
    const half = dividedBy(graph, a, 2)
    if (half && inner(b) === half) return half
    const s = dividedBy(graph, b, 2)
    if (s && inner(s) === a) return a
  }
  return undefined
}
