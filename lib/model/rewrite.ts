import { Initializer, Node, type Attribute, type Graph } from './graph'

/** Writes nodes in the place of one, which goes at once; {@link answer} ends it. */
export class Rewrite {
  readonly #graph: Graph
  readonly #node: Node
  readonly #label: string
  readonly #before: Node | undefined
  #last: Node | undefined
  #named = false

  constructor(graph: Graph, node: Node) {
    this.#graph = graph
    this.#node = node
    this.#label = node.outputs[0] as string
    this.#before = graph.nodes[graph.nodes.indexOf(node) + 1]
    graph.removeNode(node)
  }

  /** Adds a node and answers what it makes. `named`: it takes the old node's name, by which layers are chosen and reported; else the last one does. */
  add(opType: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}, named = false): string {
    const out = this.#graph.uniqueName(`${this.#label}_${opType.toLowerCase()}`)
    const node = new Node({ opType, name: named ? this.#node.name : out, inputs: [...inputs], outputs: [out], attributes })
    this.#graph.addNode(node, this.#before ? { before: this.#before } : {})
    this.#named ||= named
    this.#last = node
    return out
  }

  /** Makes `name` what the old node made. */
  answer(name: string): void {
    if (this.#last?.outputs[0] !== name) this.add('Identity', [name])
    const last = this.#last as Node
    last.outputs = [this.#label]
    if (!this.#named) last.name = this.#node.name
  }

  floats(dims: readonly number[], data: Float32Array): string {
    return this.#constant(Initializer.from(this.#graph.uniqueName(`${this.#label}_constant`), { type: 'float32', dims, data }))
  }

  ints(...values: number[]): string {
    const data = BigInt64Array.from(values, BigInt)
    return this.#constant(Initializer.from(this.#graph.uniqueName(`${this.#label}_constant`), { type: 'int64', dims: [values.length], data }))
  }

  #constant(made: Initializer): string {
    this.#graph.addInitializer(made)
    return made.name
  }
}
