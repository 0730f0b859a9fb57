import type { Dim, Graph, Node } from '../../model/graph'
import type { Shapes } from '../../model/ops/infer'
import type { Linear } from '../fold/linear'

/** The values of an attention: what makes them, and what reads the mixtures of them; nothing but sums over words lies between. */
export interface Heads {
  readonly values: Linear
  readonly output: Linear
  /** Channels of one head. */
  readonly depth: number
  /** Which blocks of `depth` channels of `values` are the values, where one layer makes queries and keys as well. */
  readonly chosen: readonly boolean[]
  /** Every value from the one layer to the other. */
  readonly between: readonly string[]
}

/** What narrows channels down on the way back: those c for which `keeps`. */
type Pick = (channel: number) => boolean

/** Heads of every attention whose values a basis may be put into; else the reason, by the product that mixes them. */
export function headsOf(
  graph: Graph,
  shapes: Shapes,
  layers: ReadonlyMap<Node, Linear>,
): { readonly found: Heads[]; readonly refused: ReadonlyMap<Linear, string> } {
  const makers = new Map([...layers.values()].map((l) => [l.output, l]))
  const found: Heads[] = []
  const refused = new Map<Linear, string>()
  for (const node of graph.nodes) {
    if (!node.is('MatMul') || node.inputs.some((i) => graph.constant(i))) continue
    const depth = shapes.get(node.inputs[1]!, graph)?.dims?.at(-1)
    if (typeof depth !== 'number' || depth < 2) continue
    const source = back(graph, shapes, makers, node.inputs[1]!, depth)
    if (!source) continue
    const target = ahead(graph, shapes, layers, node.outputs[0]!, depth)
    if (typeof target === 'string') {
      refused.set(source.layer, target)
      continue
    }
    const chosen = Array.from({ length: source.layer.outputs / depth }, (_, b) => source.pick(b * depth))
    const whole = Array.from({ length: source.layer.outputs }, (_, c) => source.pick(c)).every(
      (p, c) => p === chosen[Math.floor(c / depth)],
    )
    if (!whole || chosen.filter(Boolean).length * depth !== target.layer.inputs)
      refused.set(source.layer, 'its heads are read more than once')
    else
      found.push({
        values: source.layer,
        output: target.layer,
        depth,
        chosen,
        between: [...source.between, ...target.between],
      })
  }
  return { found, refused }
}

/** What reads a value, but for its size. */
const readersOf = (graph: Graph, value: string): Node[] => graph.users(value).filter((u) => !u.is('Shape', 'Size'))

const alone = (graph: Graph, value: string): boolean =>
  readersOf(graph, value).length === 1 && !graph.isOutput(value) && readersOf(graph, value)[0]!.subgraphs().length === 0

/** From the values of an attention back to the layer that makes them, channels of a head staying together on the last axis. */
function back(
  graph: Graph,
  shapes: Shapes,
  makers: ReadonlyMap<string, Linear>,
  value: string,
  depth: number,
): { readonly layer: Linear; readonly pick: Pick; readonly between: readonly string[] } | undefined {
  const picks: ((layer: Linear) => Pick | undefined)[] = []
  let v = value
  /** A selection on an axis other than the last one, to be found among the channels. */
  let chosen: { axis: number; index: number } | undefined
  /** A value whose other readers have other channels. */
  let divided: string | undefined
  const between: string[] = []
  for (;;) {
    between.push(v)
    const layer = makers.get(v)
    if (layer) {
      if (chosen || layer.node.is('Conv', 'ConvTranspose') || layer.outputs % depth) return undefined
      if (v !== divided && !alone(graph, v)) return undefined
      const own = picks.map((p) => p(layer))
      return own.every((p) => p !== undefined)
        ? {
            layer,
            pick: (c) => own.every((p) => p(c)),
            between: layer.adder ? [...between, layer.node.outputs[0]!] : between,
          }
        : undefined
    }
    const node = graph.producer(v)
    const x = node?.inputs[0]
    const [from, to] = [x, v].map((n) => (n ? shapes.get(n, graph)?.dims : undefined))
    if (!node || !x || !from || !to) return undefined
    if (v !== divided && !alone(graph, v)) return undefined
    if (node.is('Identity')) v = x
    else if (node.is('Transpose')) {
      const perm = node.ints('perm')
      if (!perm || perm.at(-1) !== perm.length - 1) return undefined
      if (chosen) chosen = { ...chosen, axis: perm[chosen.axis]! }
      v = x
    } else if (node.is('Reshape')) {
      const [n, d] = [from.at(-1), to.at(-1)]
      if (typeof n !== 'number' || typeof d !== 'number' || (n !== d && n % d !== 0)) return undefined
      if (chosen) {
        // Axes behind the chosen one, and it, must be parts of the last axis before.
        const inner = to.slice(chosen.axis + 1)
        const size = to[chosen.axis]
        if (typeof size !== 'number' || inner.some((i) => typeof i !== 'number')) return undefined
        const stride = (inner as number[]).reduce((a, b) => a * b, 1)
        if (n % (stride * size) !== 0) return undefined
        const { index } = chosen
        picks.push((l) => (l.outputs === n ? (c) => Math.floor(c / stride) % size === index : undefined))
        chosen = undefined
      }
      v = x
    } else if (node.is('Split')) {
      const rank = from.length
      const axis = (node.int('axis', 0) + rank) % rank
      const at = node.outputs.indexOf(v)
      const sizes = node.outputs.map((o) => shapes.get(o, graph)?.dims?.[axis])
      if (chosen || sizes.some((s) => typeof s !== 'number')) return undefined
      const start = (sizes as number[]).slice(0, at).reduce((a, b) => a + b, 0)
      const size = sizes[at] as number
      const whole = from[axis]
      if (axis === rank - 1)
        picks.push((l) => (l.outputs === whole ? (c) => c >= start && c < start + size : undefined))
      else if (size === 1) {
        chosen = { axis, index: start }
      } else return undefined
      v = x
    } else if (node.is('Squeeze')) {
      // Only the axis of size 1 that a selection left, in front of others.
      if (chosen || from.length !== to.length + 1 || from[0] !== 1 || !from.slice(1).every((d, i) => d === to[i]))
        return undefined
      v = x
    } else if (node.is('Gather', 'Slice')) {
      const own = pickOf(graph, node, x, from)
      if (chosen || !own || own.axis === from.length - 1 || own.indices.length !== 1 || graph.isOutput(x))
        return undefined
      const [index] = own.indices
      const apart = (other: Node): boolean => {
        const pick = other.is('Shape', 'Size') ? undefined : pickOf(graph, other, x, from)
        return other.is('Shape', 'Size') || (pick?.axis === own.axis && !pick.indices.includes(index!))
      }
      if (!graph.users(x).every((u) => u === node || apart(u))) return undefined
      chosen = { axis: own.axis, index: index! }
      divided = x
      v = x
    } else return undefined
  }
}

/** The axis and the indices of x that a Gather or Slice of one axis takes, where they are constants. */
function pickOf(
  graph: Graph,
  node: Node,
  x: string,
  dims: readonly Dim[],
): { readonly axis: number; readonly indices: readonly number[] } | undefined {
  const ints = (i: number): number[] | undefined => {
    const c = graph.constant(node.inputs[i] ?? '')
    return c?.type === 'int64' ? Array.from(c.readSync().data as BigInt64Array, Number) : undefined
  }
  if (node.inputs.lastIndexOf(x) !== 0) return undefined
  const place = (axis: number): number => (axis < 0 ? axis + dims.length : axis)
  if (node.is('Gather')) {
    const axis = place(node.int('axis', 0))
    const size = dims[axis]
    const taken = ints(1)
    return taken && typeof size === 'number' ? { axis, indices: taken.map((i) => (i < 0 ? i + size : i)) } : undefined
  }
  if (!node.is('Slice')) return undefined
  const [starts, ends, axes] = [ints(1), ints(2), ints(3)]
  if (starts?.length !== 1 || ends?.length !== 1 || axes?.length !== 1) return undefined
  if (node.inputs[4] && ints(4)?.[0] !== 1) return undefined
  const axis = place(axes[0]!)
  const size = dims[axis]
  if (typeof size !== 'number') return undefined
  const [from, to] = [starts[0]!, ends[0]!].map((i) => Math.max(0, Math.min(size, i < 0 ? i + size : i))) as [
    number,
    number,
  ]
  return { axis, indices: Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i) }
}

/** From mixtures of values ahead to the layer that reads them. */
function ahead(
  graph: Graph,
  shapes: Shapes,
  layers: ReadonlyMap<Node, Linear>,
  value: string,
  depth: number,
): { readonly layer: Linear; readonly between: readonly string[] } | string {
  let v = value
  const between: string[] = []
  for (;;) {
    between.push(v)
    if (!alone(graph, v)) return `${v} is read more than once`
    const node = readersOf(graph, v)[0]!
    const layer = layers.get(node)
    if (
      layer &&
      layer.data === v &&
      node.inputs.filter((i) => i === v).length === 1 &&
      !node.is('Conv', 'ConvTranspose')
    )
      return layer.inputs % depth ? `${node.label} has no heads of ${depth}` : { layer, between }
    const y = node.outputs[0]!
    const [n, m] = [v, y].map((o) => shapes.get(o, graph)?.dims?.at(-1))
    const perm = node.ints('perm')
    const keeps =
      node.is('Identity') ||
      (node.is('Transpose') && perm?.at(-1) === perm!.length - 1) ||
      (node.is('Reshape') && typeof n === 'number' && typeof m === 'number' && m % n === 0 && n % depth === 0)
    if (!keeps || node.inputs.lastIndexOf(v) !== 0)
      return `${node.opType} ${node.label} lies between its heads and the product behind them`
    v = y
  }
}
