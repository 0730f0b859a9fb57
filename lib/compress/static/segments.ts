import { Graph, reads, ValueInfo, type Initializer, type Node } from '../../model/graph'
import { Model } from '../../model/model'
import type { Scratch } from '../computed'
import { gathered, Pieces } from '../pieces'
import { Runner } from '../runner'
import type { Tensor } from '../../tensor'

/**
 * Runs a model piece by piece over several sets of inputs at once, so that what comes early can be changed before what
 * comes later is computed, and nothing is computed twice. Holds the values that later pieces need, for every set. Pieces of the same
 * `scratch` take turns: what one computes is done before another begins.
 */
export class Segments {
  readonly #model: Model
  readonly #order: readonly Node[]
  /** Nodes that depend on constants alone; each piece has its own. */
  readonly #constant = new Set<Node>()
  readonly #threads: { threads?: number }
  readonly #values: Map<string, Tensor>[]
  /** Values that will be asked for, in whichever order. */
  readonly #asked: Set<string>
  readonly #scratch: Scratch
  #at = 0

  constructor(model: Model, sets: readonly ReadonlyMap<string, Tensor>[], { asked = [], threads, scratch }: { readonly asked?: Iterable<string>; readonly threads?: number; readonly scratch: Scratch }) {
    this.#model = model
    this.#asked = new Set(asked)
    this.#scratch = scratch
    this.#threads = threads === undefined ? {} : { threads }
    this.#values = sets.map((s) => new Map(s))
    const graph = model.graph
    const order = graph.topologicalOrder()
    for (const node of order) {
      const reads = readsOf(node)
      if (reads.length > 0 && reads.every((r) => graph.constant(r) || this.#constant.has(graph.producer(r)!))) this.#constant.add(node)
    }
    this.#order = order.filter((n) => !this.#constant.has(n))
  }

  /**
   * Computes up to `node`, itself included, and answers its first output for every set. Nodes must be asked for in order, unless the
   * value is one that the constructor was told of; that is given once.
   */
  async upTo(node: Node): Promise<Tensor[]> {
    const end = this.#order.indexOf(node) + 1
    const value = node.outputs[0] as string
    if (end > this.#at) {
      // No session holds more weights than those of a piece.
      while (this.#at < end) {
        const from = this.#at
        for (let bytes = 0; this.#at < end; this.#at++) {
          const { weights } = this.#needs([this.#order[this.#at]!])
          for (const w of weights) bytes += w.byteLength
          if (bytes > Pieces.limit && this.#at > from) break
        }
        await this.#compute(this.#order.slice(from, this.#at), value)
      }
    }
    this.#asked.delete(value)
    return this.#values.map((v) => v.get(value)!)
  }

  /** Puts another tensor in the place of one that was computed. */
  replace(value: string, tensors: readonly Tensor[]): void {
    tensors.forEach((t, i) => this.#values[i]!.set(value, t))
  }

  /** With the constant nodes that lead to them, and the constants that all of these read. */
  #needs(nodes: readonly Node[]): { readonly all: ReadonlySet<Node>; readonly weights: Initializer[] } {
    const graph = this.#model.graph
    const all = new Set(nodes)
    const open = nodes.flatMap(readsOf)
    for (let name = open.pop(); name !== undefined; name = open.pop()) {
      const maker = graph.producer(name)
      if (!maker || !this.#constant.has(maker) || all.has(maker)) continue
      all.add(maker)
      open.push(...readsOf(maker))
    }
    const weights = new Map<string, Initializer>()
    for (const node of all)
      for (const r of readsOf(node)) {
        const c = graph.constant(r)
        if (c && !this.#values[0]!.has(r)) weights.set(c.name, c)
      }
    return { all, weights: [...weights.values()] }
  }

  async #compute(nodes: readonly Node[], value: string): Promise<void> {
    const graph = this.#model.graph
    const later = new Set([value, ...this.#asked, ...this.#order.slice(this.#at).flatMap(readsOf)])
    const made = new Set(nodes.flatMap((n) => n.outputs.filter((o) => o)))
    const outputs = [...made].filter((o) => later.has(o))
    const { all, weights } = this.#needs(nodes)
    const wanted = new Set([...all].map((n) => n.outputs.find((o) => o) as string))
    const piece = new Graph('piece')
    const first = this.#values[0]!
    const given = [...new Set(nodes.flatMap(readsOf))].filter((r) => !made.has(r) && first.has(r))
    piece.inputs = given.map((name) => new ValueInfo(name, first.get(name)!.type, null))
    for (const weight of gathered(weights, this.#scratch)) piece.addInitializer(weight)
    const clone = graph.clone()
    const copies = clone.nodes.filter((n) => wanted.has(n.outputs.find((o) => o) as string))
    clone.setNodes([])
    piece.setNodes(copies)
    piece.outputs = outputs.map((name) => new ValueInfo(name, 'undefined', null, 'unknown'))
    piece.sort()
    const session = await Runner.create(new Model({ graph: piece, opsets: [...this.#model.opsets], irVersion: Math.max(4, this.#model.irVersion) }), [], this.#threads)
    try {
      for (const values of this.#values) {
        const found = await session.run(Object.fromEntries(given.map((name) => [name, values.get(name)!])))
        for (const name of [...values.keys()]) if (!later.has(name)) values.delete(name)
        for (const name of outputs) values.set(name, found[name]!)
      }
    } finally {
      session.dispose()
    }
  }
}

const readsOf = (node: Node): string[] => [...reads(node)]
