import { attribute, Initializer, Node, type Graph } from '../../model/graph'
import { factors, madeBy, scalarOf } from '../../model/match'
import type { Shapes } from '../../model/ops/infer'

/** x, the nodes that make x / √(mean(x²) + ε), first to last, and what ε is. */
interface Formula {
  readonly x: string
  readonly epsilon: number
  readonly nodes: readonly Node[]
}

/** A formula while one node stands for it. */
interface Stand {
  readonly node: Node
  readonly nodes: readonly Node[]
  readonly x: string
  readonly scale: string
  readonly epsilon: number
  /** Whether the last of the nodes multiplies by the scale. */
  readonly scaled: boolean
}

/**
 * Root-mean-square normalizations that exporters write as formulas (Llama's: Pow, ReduceMean, Add, Sqrt, Div or Reciprocal, Mul),
 * as one RMSNormalization each, so that streams are followed through them. Runtimes know that op from opset 23 on: what this
 * returns writes formulas again, those that nobody changed as they were.
 */
export function gatherRms(graph: Graph, shapes: Shapes): () => void {
  const stands: Stand[] = []
  for (const node of graph.nodes) {
    if (node.graph !== graph || !node.is('Mul', 'Div')) continue
    const found = scaledBy(graph, node) ?? plain(graph, node, shapes)
    if (!found) continue
    const { formula, scale } = found
    const stand = new Node({
      opType: 'RMSNormalization',
      name: node.name,
      inputs: [formula.x, scale],
      outputs: node.outputs,
      attributes: { axis: attribute.int(-1), epsilon: attribute.float(formula.epsilon) },
    })
    const place = after(graph, node)
    for (const n of formula.nodes) graph.removeNode(n)
    graph.addNode(stand, place ? { before: place } : {})
    const epsilon = stand.float('epsilon', 0)
    stands.push({ node: stand, nodes: formula.nodes, x: formula.x, scale, epsilon, scaled: found.scaled })
  }
  return () => {
    for (const stand of stands) spellOut(graph, stand)
  }
}

const after = (graph: Graph, node: Node): Node | undefined => graph.nodes[graph.nodes.indexOf(node) + 1]

type Found = { readonly formula: Formula; readonly scale: string; readonly scaled: boolean }

/** The formula times a constant vector. */
function scaledBy(graph: Graph, node: Node): Found | undefined {
  if (!node.is('Mul')) return undefined
  for (const [y, gamma] of factors(node)) {
    const c = graph.constant(gamma)
    if (c?.type !== 'float32' || c.dims.length !== 1 || c.elementCount < 2 || !alone(graph, y)) continue
    const formula = formulaOf(graph, graph.producer(y))
    if (formula) return { formula: { ...formula, nodes: [...formula.nodes, node] }, scale: gamma, scaled: true }
  }
  return undefined
}

/** The formula whose scale went into the products behind it. */
function plain(graph: Graph, node: Node, shapes: Shapes): Found | undefined {
  const formula = formulaOf(graph, node)
  const n = formula && shapes.get(formula.x, graph)?.dims?.at(-1)
  if (!formula || typeof n !== 'number' || n < 2) return undefined
  const [reader] = graph.users(node.outputs[0]!)
  // That one is found with its scale.
  if (alone(graph, node.outputs[0]!) && reader?.is('Mul') && scaledBy(graph, reader)) return undefined
  const scale = graph.uniqueName(`${node.outputs[0]}_one`)
  graph.addInitializer(Initializer.from(scale, { type: 'float32', dims: [n], data: new Float32Array(n).fill(1) }))
  return { formula, scale, scaled: false }
}

function alone(graph: Graph, value: string): boolean {
  const users = graph.users(value)
  return users.length === 1 && users[0]!.subgraphs().length === 0 && !graph.isOutput(value)
}

/** x · r or x / √…, r = 1 / √(mean(x²) + ε) as Reciprocal or Div. */
function formulaOf(graph: Graph, last: Node | undefined): Formula | undefined {
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
      const epsilon = scalarOf(graph, e)
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

function spellOut(graph: Graph, stand: Stand): void {
  const { node, nodes, scaled } = stand
  const [x, scale] = node.inputs as [string, string]
  const output = node.outputs[0]!
  const epsilon = node.float('epsilon', 0)
  const place = after(graph, node)
  graph.removeNode(node)
  const same =
    x === stand.x && scale === stand.scale && epsilon === stand.epsilon && output === nodes.at(-1)!.outputs[0]
  const put = (n: Node): unknown => graph.addNode(n, place ? { before: place } : {})
  if (same) nodes.forEach(put)
  else {
    // Values of another basis are others.
    const names = new Map([
      [stand.x, x],
      [stand.scale, scale],
    ])
    for (const [i, old] of nodes.entries()) {
      const made = old.outputs[0]!
      const last = i === nodes.length - 1
      if (old.is('Add') && epsilon !== stand.epsilon) {
        const e = old.inputs.find((v) => graph.constant(v))!
        const name = graph.uniqueName(`${e}_epsilon`)
        graph.addInitializer(
          Initializer.from(name, { type: 'float32', dims: graph.constant(e)!.dims, data: Float32Array.of(epsilon) }),
        )
        names.set(e, name)
      }
      const inputs = old.inputs.map((v) => names.get(v) ?? v)
      const to = last ? output : graph.uniqueName(`${made}_turned`)
      names.set(made, to)
      graph.valueInfo.delete(made)
      put(
        new Node({
          opType: old.opType,
          name: old.name,
          inputs,
          outputs: [to],
          attributes: Object.fromEntries(old.attributes),
        }),
      )
    }
  }
  if (!scaled && graph.users(stand.scale).length === 0) graph.initializers.delete(stand.scale)
  if (!scaled && scale !== stand.scale && graph.users(scale).length === 0) graph.initializers.delete(scale)
}
