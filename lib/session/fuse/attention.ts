import { attribute, inferShapes, Node, type Graph, type Model, type Shapes } from '../../model'
import { elementCodeOf } from '../../model/types'
import { factors, madeBy, replace, scalarOf } from '../../model/match'

const kFloat32 = elementCodeOf('float32')

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
 * The value whose last two axes `name` has the other way round, where torch's exporter makes one axis of batch and heads for it:
 * `Reshape`, `Transpose`, `Reshape` of a tensor of four axes.
 */
function turnedInThree(graph: Graph, shapes: Shapes, name: string): string | undefined {
  const back = madeBy(graph, name, 'Reshape')
  const turn = madeBy(graph, back?.inputs[0], 'Transpose')
  const flat = madeBy(graph, turn?.inputs[0], 'Reshape')
  const x = flat?.inputs[0]
  if (!x || turn?.ints('perm')?.join() !== '0,2,1') return undefined
  const [from, three, to] = [x, flat.outputs[0] as string, name].map((n) => shapes.get(n, graph)?.dims ?? [])
  const [, heads, rows, columns] = from ?? []
  const same = [[to?.[1], heads], [to?.[2], columns], [to?.[3], rows], [three?.[1], rows], [three?.[2], columns]] as const // prettier-ignore
  return from?.length === 4 && to?.length === 4 && three?.length === 3 && same.every(([a, b]) => a !== null && a === b) ? x : undefined
}

/** What a value is before Casts that change nothing, as `softmax(dtype=float32).to(type)` leaves them; nothing else may read what lies between. */
function uncast(graph: Graph, shapes: Shapes, name: string): string {
  for (;;) {
    const cast = madeBy(graph, name, 'Cast')
    const x = cast?.inputs[0]
    if (!x || cast.int('to', 0) !== kFloat32 || shapes.get(x, graph)?.type !== 'float32' || graph.users(x).length !== 1 || graph.isOutput(x)) return name
    name = x
  }
}

/** The softmax behind a product with values, and whether rows that it cannot weigh count as zeros: NaN is, as torch writes it, not handed on. */
function softmaxOf(graph: Graph, name: string): readonly [softmax: Node | undefined, forgiving: boolean] {
  const choice = madeBy(graph, name, 'Where')
  if (!choice) return [madeBy(graph, name, 'Softmax'), false]
  const [condition, zero, weights] = choice.inputs as [string, string, string]
  const test = madeBy(graph, condition, 'IsNaN')
  const known = test?.inputs[0] === weights && scalarOf(graph, zero) === 0 && graph.users(weights).length === 2 && !graph.isOutput(weights)
  return [known && graph.users(condition).length === 1 && !graph.isOutput(condition) ? madeBy(graph, weights, 'Softmax') : undefined, true]
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
    const [softmax, forgiving] = softmaxOf(graph, uncast(graph, shapes, p))
    const axis = softmax?.int('axis', -1)
    const n = rank(v)
    if (!softmax || !only(p) || (n !== 3 && n !== 4) || (axis !== -1 && axis !== n - 1)) continue
    const masked = uncast(graph, shapes, softmax.inputs[0] as string)
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
    let { k } = scores
    const before = turnedInThree(graph, shapes, k)
    if (before) {
      k = graph.uniqueName(`${before}_turned`)
      graph.addNode(new Node({ opType: 'Transpose', name: k, inputs: [before], outputs: [k], attributes: { perm: attribute.ints([0, 1, 3, 2]) } }), { before: node })
    }
    const inputs = mask === undefined ? [scores.q, k, v] : [scores.q, k, v, mask]
    replace(graph, node, 'Attention', inputs, { scale: attribute.float(scores.scale), forgiving: attribute.int(Number(forgiving)) }, 'whittle')
  }
}
