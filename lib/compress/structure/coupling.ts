import type { Graph } from '../../model/graph'
import type { Node } from '../../model/node'
import { opOf } from '../../model/ops'
import { captured } from '../../model/graph'
import type { Shapes } from '../../model/ops/infer'
import type { Axis, CoupleContext, Role, Split } from '../../model/ops/op'

/** @internal One axis of a weight with a role: who uses it, and how. */
export interface WeightAxis {
  readonly role: Role
  readonly node: Node
}

interface Place {
  readonly value: string
  readonly axis: number
  readonly size: number
  readonly base: number
}


const kBits: Readonly<Record<Role, number>> = { output: 1, input: 2, scale: 4, gamma: 8 }

/**
 * @internal Which indices of which axes of which values can only be removed together: a union-find over all of them, built from
 * the `channels` rules of the ops (Fang et al., DepGraph: Towards Any Structural Pruning, 2023, index by index).
 */
export class Coupling {
  readonly graph: Graph
  readonly #shapes: Shapes
  readonly #places = new Map<string, Place>()
  /** What blocks a set, by its root: 0 nothing, else the place in #reasons plus 1; negative if only the choice at a reshape does. */
  #blocks = new Int32Array(1 << 16)
  readonly #reasons: string[] = []
  readonly #reasonIds = new Map<string, number>()
  readonly roles = new Map<string, WeightAxis>()
  #parent = new Int32Array(1 << 16)
  #flags = new Uint8Array(1 << 16)
  #count = 0

  private constructor(graph: Graph, shapes: Shapes) {
    this.graph = graph
    this.#shapes = shapes
  }

  /** `shapes` with numbers wherever they can be known; values without stay whole. */
  static of(graph: Graph, opsets: ReadonlyMap<string, number>, shapes: Shapes): Coupling {
    const picks: Picks = new Map()
    for (let round = 0; ; round++) {
      const coupling = new Coupling(graph, shapes)
      const made = coupling.#build(opsets, picks)
      if (round >= 32 || !coupling.#advance(made, picks)) return coupling
    }
  }

  /** Sizes of a value, where all are known. */
  dims(value: string): readonly number[] | undefined {
    const constant = this.graph.initializers.get(value)
    if (constant) return constant.dims
    const dims = this.#shapes.get(value, this.graph)?.dims
    return dims?.every((d) => typeof d === 'number') ? (dims as readonly number[]) : undefined
  }

  typeOf(value: string): string {
    return this.#shapes.get(value, this.graph)?.type ?? 'undefined'
  }

  /** What a node's rule may read. */
  views(node: Node): Pick<CoupleContext, 'inputs' | 'outputs' | 'constant' | 'numbers'> {
    const [inputs, outputs] = [node.inputs, node.outputs]
    return {
      inputs: inputs.map((n) => (n ? this.dims(n) : undefined)),
      outputs: outputs.map((n) => (n ? this.dims(n) : undefined)),
      constant: (i) => (inputs[i] ? this.graph.constant(inputs[i]) : undefined),
      numbers: (i) => {
        const data = inputs[i] ? this.#shapes.get(inputs[i], this.graph)?.data : undefined
        return data?.every((d) => typeof d === 'number') ? (data as readonly number[]) : undefined
      },
    }
  }

  /** Every axis that was looked at. */
  places(): Iterable<Place> {
    return this.#places.values()
  }

  /** The sets of the indices of a place. */
  rootsOf({ base, size }: Place): Int32Array {
    return Int32Array.from({ length: size }, (_, i) => this.#find(base + i))
  }

  /** The set that an index belongs to. */
  root(value: string, axis: number, index: number): number | undefined {
    const place = this.#places.get(key(value, axis))
    return place && this.#find(place.base + index)
  }

  /** Why a set cannot go: `undefined` if it can. */
  blocked(root: number): string | undefined {
    const found = this.#blocks[root] as number
    if (found) return this.#reasons[Math.abs(found) - 1]
    if (!((this.#flags[root] as number) & kBits.output)) return 'no weight makes these channels'
    return (this.#flags[root] as number) & kBits.input ? undefined : 'no weight reads these channels'
  }

  #build(opsets: ReadonlyMap<string, number>, picks: Picks): Choice[] {
    const made: Choice[] = []
    const { graph } = this
    for (const i of graph.inputs) if (!graph.initializers.has(i.name)) this.#blockValue(i.name, `${i.name} is an input of the model`)
    for (const node of graph.nodes) this.#visit(node, opsets.get(node.domain) ?? 1, picks, made)
    for (const o of graph.outputs) this.#blockValue(o.name, `${o.name} is an output of the model`)
    return made
  }

  #visit(node: Node, opset: number, picks: Picks, made: Choice[]): void {
    const rule = opOf(node)?.channels
    const subgraphs = node.subgraphs()
    const names = [...node.inputs, ...node.outputs].filter((n) => n)
    const label = `${node.opType} ${node.label}`
    if (!rule || subgraphs.length > 0 || names.some((n) => !this.dims(n))) this.#noteMaker(node)
    if (!rule || subgraphs.length > 0) {
      const inner = new Set<string>()
      for (const g of subgraphs) captured(g, inner)
      for (const n of [...names, ...inner]) this.#blockValue(n, `${label} couples them in a way that is not known`)
      return
    }
    if (names.some((n) => !this.dims(n))) {
      for (const n of names) this.#blockValue(n, `shapes at ${label} are not known without running the model`)
      return
    }
    const mentioned = new Set<string>()
    const axisOf = (value: string, axis: number): Axis => {
      const place = this.#place(value, axis)
      if (!place) throw new RangeError(`${label}: no axis ${axis} of ${value}`)
      return place
    }
    const input = (i: number, axis: number): Axis => axisOf(node.inputs[i] ?? '', axis)
    let pickCount = 0
    const context: CoupleContext = {
      node,
      graph: this.graph,
      opset,
      ...this.views(node),
      in: input,
      out: (o, axis) => axisOf(node.outputs[o] ?? '', axis),
      couple: (a, b, map) => {
        mentioned.add(key(a.value, a.axis)).add(key(b.value, b.axis))
        const [p, q] = [this.#place(a.value, a.axis) as Place, this.#place(b.value, b.axis) as Place]
        if (!map && p.size !== q.size) throw new RangeError(`${label}: ${p.size} and ${q.size} channels`)
        for (let i = 0; i < p.size; i++) {
          const j = map ? map(i) : i
          if (j >= 0) this.#union(p.base + i, q.base + j)
        }
      },
      leave: (a) => void mentioned.add(key(a.value, a.axis)),
      weight: (i, axis, role) => {
        const place = this.#place(node.inputs[i] ?? '', axis)
        if (!place || !this.graph.constant(place.value)) return
        const known = this.roles.get(key(place.value, axis))
        if (!known || (known.role === 'scale' && role !== 'scale')) this.roles.set(key(place.value, axis), { role, node })
        for (let k = 0; k < place.size; k++) {
          const root = this.#find(place.base + k)
          this.#flags[root] = (this.#flags[root] as number) | kBits[role]
        }
      },
      pick: (axes, split) => {
        const id = `${node.outputs[0]}\0${pickCount++}`
        const given = picks.get(id)
        // Which are likeliest may change from round to round; what was tried does not.
        const order = this.#likeliest(axes, split).filter((i) => !given?.has(i))
        const choice = order[0]!
        axes.forEach((a, i) => {
          mentioned.add(key(a.value, a.axis))
          if (i !== choice) this.#blockAxis(a, `${label} takes them as parts of others`, true)
        })
        made.push({ id, axis: axes[choice]!, choice, last: order.length === 1 })
        return choice
      },
      onCut: () => undefined,
    }
    try {
      rule(context)
    } catch (error) {
      // A file that contradicts itself: shape inference or the runtime will say so; here nothing is cut.
      if (!(error instanceof RangeError)) throw error
      mentioned.clear()
    }
    // What the rule did not mention it needs whole.
    for (const n of names) this.dims(n)?.forEach((_, axis) => {
      if (!mentioned.has(key(n, axis))) this.#blockAxis({ value: n, axis }, `${label} needs all of them`, false)
    })
  }

  /**
   * The axes that a reshape may choose among, those first that lead somewhere: an axis that is blocked as a whole does not, or only where
   * another reshape chooses anew; where indices that are split hang together already, parts that keep such sets apart come before those
   * that join them all.
   */
  #likeliest(axes: readonly Axis[], split?: Split): number[] {
    const stuck = axes.map((a) => {
      const place = this.#place(a.value, a.axis)
      const blocks = place ? Array.from(this.rootsOf(place), (r) => this.#blocks[r] as number) : []
      return blocks.length === 0 || blocks.includes(0) ? 0 : blocks.some((b) => b < 0) ? 1 : 2
    })
    const whole = split && this.#place(split.whole.value, split.whole.axis)
    const roots = whole ? this.rootsOf(whole) : new Int32Array(0)
    const joined = new Set(roots).size < roots.length
    const apart = axes.map((_, k) => (split && joined ? setsApart(roots, split.part(k)) : 0))
    return axes.map((_, k) => k).sort((a, b) => stuck[a]! - stuck[b]! || apart[b]! - apart[a]! || a - b)
  }

  /** The weight of a layer whose rule cannot be asked: it stays, and is told. */
  #noteMaker(node: Node): void {
    const weight = node.inputs[1]
    if (!weight || !node.is('Conv', 'ConvTranspose', 'MatMul', 'Gemm') || !this.graph.initializers.has(weight)) return
    const rank = this.dims(weight)!.length
    const axis = node.is('Conv') ? 0 : node.is('ConvTranspose') ? 1 : node.is('Gemm') && node.int('transB', 0) ? 0 : rank - 1
    if (axis < rank && !this.roles.has(key(weight, axis))) this.roles.set(key(weight, axis), { role: 'output', node })
  }

  /** Another factor for the first reshape whose choice led nowhere; false if all choices stand. */
  #advance(made: readonly Choice[], picks: Picks): boolean {
    const state = (p: Choice): 'good' | 'soft' | 'hard' => {
      const a = p.axis
      let soft = false
      for (let i = 0; i < a.size; i++) {
        const root = this.root(a.value, a.axis, i) as number
        if (this.blocked(root) === undefined) return 'good'
        soft ||= (this.#blocks[root] as number) < 0
      }
      return soft ? 'soft' : 'hard'
    }
    let any = false
    for (const wish of ['hard', 'soft'] as const) {
      for (const p of made) {
        if (p.last || state(p) !== wish) continue
        picks.set(p.id, new Set(picks.get(p.id)).add(p.choice))
        any = true
        if (wish === 'soft') return true
      }
      if (any) return true
    }
    return false
  }

  #place(value: string, axis: number): Place | undefined {
    const id = key(value, axis)
    const known = this.#places.get(id)
    if (known) return known
    const size = this.dims(value)?.[axis]
    if (size === undefined) return undefined
    const place = { value, axis, size, base: this.#count }
    this.#count += size
    if (this.#count > this.#parent.length) {
      const room = Math.max(this.#count, 2 * this.#parent.length)
      const [parent, flags, blocks] = [new Int32Array(room), new Uint8Array(room), new Int32Array(room)]
      parent.set(this.#parent)
      flags.set(this.#flags)
      blocks.set(this.#blocks)
      this.#parent = parent
      this.#flags = flags
      this.#blocks = blocks
    }
    for (let i = place.base; i < this.#count; i++) this.#parent[i] = i
    this.#places.set(id, place)
    return place
  }

  #find(i: number): number {
    const parent = this.#parent
    let root = i
    while (parent[root] !== root) root = parent[root] as number
    while (parent[i] !== root) {
      const next = parent[i] as number
      parent[i] = root
      i = next
    }
    return root
  }

  #union(a: number, b: number): void {
    const [p, q] = [this.#find(a), this.#find(b)]
    if (p === q) return
    const [to, from] = p < q ? [p, q] : [q, p]
    this.#parent[from] = to
    this.#flags[to] = (this.#flags[to] as number) | (this.#flags[from] as number)
    const block = this.#blocks[from] as number
    const own = this.#blocks[to] as number
    if (own === 0 || (own < 0 && block > 0)) this.#blocks[to] = block || own
  }

  #blockValue(value: string, reason: string): void {
    this.dims(value)?.forEach((_, axis) => this.#blockAxis({ value, axis }, reason, false))
  }

  #blockAxis({ value, axis }: Spot, reason: string, soft: boolean): void {
    const place = this.#place(value, axis)
    if (!place) return
    let id = this.#reasonIds.get(reason)
    if (!id) this.#reasonIds.set(reason, (id = this.#reasons.push(reason)))
    for (let i = 0; i < place.size; i++) {
      const root = this.#find(place.base + i)
      const own = this.#blocks[root] as number
      if (own === 0 || (own < 0 && !soft)) this.#blocks[root] = soft ? -id : id
    }
  }
}

/** How many sets are left where indices hang together by `roots` and by the part that they belong to. */
function setsApart(roots: Int32Array, part: (i: number) => number): number {
  const parent = new Map<string, string>()
  const find = (id: string): string => {
    let root = id
    for (let up = parent.get(root); up !== undefined && up !== root; up = parent.get(root)) root = up
    return root
  }
  roots.forEach((root, i) => {
    const [a, b] = [find(`r${root}`), find(`p${part(i)}`)]
    parent.set(a, a)
    parent.set(b, a)
  })
  return [...parent].filter(([id, up]) => id === up).length
}

interface Spot {
  readonly value: string
  readonly axis: number
}

/** Of each choice at a reshape the axes that led nowhere. */
type Picks = Map<string, ReadonlySet<number>>

interface Choice {
  readonly id: string
  readonly axis: Axis
  /** Which of the axes it is. */
  readonly choice: number
  /** Whether all others were tried. */
  readonly last: boolean
}

/** @internal */
export const key = (value: string, axis: number): string => `${value}\0${axis}`
