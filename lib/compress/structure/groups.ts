import type { Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import type { Node } from '../../model/node'
import { inferShapes, type Shapes } from '../../model/ops/infer'
import type { Role } from '../../model/ops/op'
import { elementBitsOf } from '../../model/types'
import { Coupling, key } from './coupling'
import { otherSizes } from './sizes'

/** @internal What goes with a unit in one weight: `per` indices of one axis for each unit. */
export interface Member {
  readonly tensor: string
  readonly axis: number
  readonly role: Role
  /** A node that uses the weight so. */
  readonly node: Node
  readonly per: number
  /** [units, per] */
  readonly indices: Int32Array
}

/** @internal Filters and channels of convolutions, neurons of products, heads of attention. */
export type Kind = 'filter' | 'neuron' | 'head'

/** @internal Units that can be removed from the same weights in the same way; each by itself. */
export interface Group {
  /** Of the first node that makes the channels. */
  readonly name: string
  readonly kind: Kind
  readonly units: number
  /** Channels that one unit is, in the weight that makes them. */
  readonly width: number
  readonly members: readonly Member[]
  /** The set of each unit in the coupling. */
  readonly roots: Int32Array
}

/** @internal The model seen by its removable parts. */
export interface Structure {
  readonly coupling: Coupling
  readonly groups: readonly Group[]
  /** Weights (tensor names) with channels that cannot go, and why. */
  readonly kept: ReadonlyMap<string, string>
  /** Sizes of the inputs that shapes were inferred with. */
  readonly dims: ReadonlyMap<string, readonly number[]>
  readonly shapes: Shapes
  /** The same for inputs of other sizes, where the model leaves them open. */
  readonly other: { readonly dims: ReadonlyMap<string, readonly number[]>; readonly shapes: Shapes } | undefined
}

const kMaking = ['Conv', 'ConvTranspose', 'Gemm', 'MatMul']

/** @internal Everything that can be removed from the outermost graph. `dims`: sizes of inputs, where they are known better than the model says. */
export function structureOf(model: Model, dims?: ReadonlyMap<string, readonly number[]>): Structure {
  const { graph, opsets } = model
  const sizes = dims ?? guessDims(model)
  const shapes = inferShapes(graph, opsets, { dims: sizes })
  const others = otherSizes(model, sizes)
  const coupling = Coupling.of(graph, opsets, shapes)
  const order = new Map(graph.nodes.map((n, i) => [n, i]))
  const sets = new Map<number, { readonly place: string; readonly indices: number[] }[]>()
  const places: { readonly tensor: string; readonly axis: number; readonly role: Role; readonly node: Node }[] = []
  const placeIds = new Map<string, number>()
  const kept = new Map<string, string>()
  const packed = new Map<number, string>()
  for (const place of coupling.places()) {
    const tensor = graph.initializers.get(place.value)
    if (tensor && (elementBitsOf(tensor.type) === 0 || elementBitsOf(tensor.type) % 8 !== 0))
      for (const root of coupling.rootsOf(place)) packed.set(root, `${tensor.type} weights are not cut`)
  }
  for (const place of coupling.places()) {
    const { value, axis, size } = place
    const tensor = graph.initializers.get(value)
    if (!tensor || size < 1) continue
    const roots = coupling.rootsOf(place)
    const found = coupling.roles.get(key(value, axis))
    const id = String(places.push({ tensor: value, axis, role: found?.role ?? 'scale', node: found?.node ?? (graph.users(value)[0] as Node) }) - 1)
    placeIds.set(key(value, axis), Number(id))
    let free = 0
    let reason = ''
    for (let i = 0; i < size; i++) {
      const root = roots[i]!
      const why = packed.get(root) ?? coupling.blocked(root)
      if (why) reason ||= why
      else {
        free++
        const set = sets.get(root) ?? []
        if (set.length === 0) sets.set(root, set)
        const last = set[set.length - 1]
        if (last?.place === id) last.indices.push(i)
        else set.push({ place: id, indices: [i] })
      }
    }
    if (free === 0 && found?.role === 'output' && size > 1 && kMaking.includes(found.node.opType)) kept.set(value, reason)
  }
  const bySignature = new Map<string, { root: number; set: { readonly place: string; readonly indices: number[] }[] }[]>()
  for (const [root, set] of sets) {
    set.sort((a, b) => Number(a.place) - Number(b.place))
    const signature = set.map((s) => `${s.place}:${s.indices.length}`).join()
    const all = bySignature.get(signature)
    if (all) all.push({ root, set })
    else bySignature.set(signature, [{ root, set }])
  }
  const groups: (Group & { readonly at: number })[] = []
  for (const units of bySignature.values()) {
    const members: Member[] = (units[0]?.set ?? []).map((s, k) => {
      const place = places[Number(s.place)]!
      const per = s.indices.length
      const indices = new Int32Array(units.length * per)
      units.forEach(({ set }, u) => indices.set(set[k]!.indices, u * per))
      return { ...place, per, indices }
    })
    const makers = members.filter((m) => m.role === 'output').sort((a, b) => order.get(a.node)! - order.get(b.node)!)
    const first = makers[0]
    if (!first || !members.some((m) => m.role === 'input')) continue
    const convolution = makers.some((m) => m.node.is('Conv', 'ConvTranspose'))
    const width = Math.min(...makers.map((m) => m.per))
    const kind: Kind = convolution ? 'filter' : width > 1 ? 'head' : 'neuron'
    groups.push({ name: first.node.name || first.tensor, kind, units: units.length, width, members, roots: Int32Array.from(units, (u) => u.root), at: order.get(first.node)! })
  }
  groups.sort((a, b) => a.at - b.at)
  return { coupling, groups: groups.map(({ at: _at, ...g }) => g), kept, dims: sizes, shapes, other: others && { dims: others, shapes: inferShapes(graph, opsets, { dims: others }) } }
}

/** Sizes for inputs whose model leaves them open: those for which most shapes come out. */
function guessDims(model: Model): ReadonlyMap<string, readonly number[]> {
  const { graph, opsets } = model
  const open = graph.inputs.filter((i) => !graph.initializers.has(i.name) && i.dims)
  const given = (batch: number, other: number, sequence = Math.min(other, 13)): Map<string, readonly number[]> => {
    const symbols = new Map<string, number>()
    return new Map(
      open.map((i) => [
        i.name,
        i.dims!.map((d, axis) => {
          if (typeof d === 'number') return d
          const guess = axis === 0 ? batch : i.dims!.length >= 4 ? other : sequence
          if (d === null) return guess
          if (!symbols.has(d)) symbols.set(d, guess)
          return symbols.get(d)!
        }),
      ]),
    )
  }
  if (open.every((i) => i.dims!.every((d) => typeof d === 'number'))) return given(1, 1)
  // An odd batch is rarely mistaken for another size. Images: what networks with many strides take.
  let best: { readonly dims: Map<string, readonly number[]>; readonly unknown: number } | undefined
  const tried = (dims: Map<string, readonly number[]>): boolean => {
    const unknown = unknownsOf(graph, inferShapes(graph, opsets, { dims }))
    if (!best || unknown < best.unknown) best = { dims, unknown }
    return unknown === 0
  }
  for (const batch of [7, 1]) for (const other of [320, 224, 256, 640, 64, 32]) if (tried(given(batch, other))) return best!.dims
  // Exporters write the length that they were shown into sizes of what a model says is open.
  for (const n of writtenSizes(graph)) for (const [first, other] of [[7, n], [1, n], [n, 7]] as const) if (tried(given(first, other, other))) return best!.dims
  return best!.dims
}

/** Numbers that the graph's sizes are put together from, the most frequent first. */
function writtenSizes(graph: Graph): number[] {
  const times = new Map<number, number>()
  for (const node of graph.nodes)
    for (const name of node.is('Concat') ? node.inputs : node.is('Reshape', 'Expand') ? [node.inputs[1] ?? ''] : []) {
      const found = graph.constant(name)
      if (found?.type !== 'int64' || found.elementCount > 8) continue
      for (const v of found.readSync().data as BigInt64Array) if (v > 1n && v <= 4096n) times.set(Number(v), (times.get(Number(v)) ?? 0) + 1)
    }
  return [...times].sort((a, b) => b[1] - a[1] || b[0] - a[0]).slice(0, 8).map(([n]) => n)
}

function unknownsOf(graph: Graph, shapes: Shapes): number {
  let n = 0
  for (const node of graph.nodes)
    for (const o of node.outputs) if (o && !shapes.get(o, graph)?.dims?.every((d) => typeof d === 'number' && d > 0)) n++
  return n
}
