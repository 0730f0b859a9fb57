import { WhittleError } from '../errors'
import type { Tensor } from '../tensor'
import { Initializer } from './initializer'
import { Node, WatchedMap, editCount, noteEdit, type Attribute } from './node'
import { ValueInfo } from './types'

export { attribute, graphsOf, Node } from './node'
export type { Attribute, Int, NodeFields } from './node'
export { Initializer, MemorySource } from './initializer'
export type { DataSource } from './initializer'
export { ValueInfo } from './types'
export type { Dim, ElementType, ValueType } from './types'

interface Index {
  readonly edits: number
  readonly users: Map<string, Node[]>
}

/**
 * The one intermediate form: nodes over named values, in the manner of ONNX. Names are unique in a graph, and a
 * subgraph (`If`, `Loop`, `Scan`) sees the values of the graphs around it.
 *
 * @example
 * const y = graph.uniqueName('scaled')
 * graph.addInitializer(Initializer.from(s, scale))
 * graph.addNode(new Node({ opType: 'Mul', inputs: [x, s], outputs: [y] }), { before: consumer })
 * graph.replaceUses(x, y, { in: [consumer] })
 */
export class Graph {
  name: string
  /** By name. `set` only under the initializer's own name; {@link addInitializer} and {@link setInitializer} see to that. */
  readonly initializers: Map<string, Initializer>
  /** Annotations of inner values, by name. They may be missing, and a pass that changes a value drops its entry. */
  readonly valueInfo: Map<string, ValueInfo>
  /** Names of sparse initializers. Their data is kept byte for byte, and not understood. */
  sparseInitializers: readonly { readonly name: string; readonly origin: unknown }[] = []
  /** The graph around this subgraph. */
  parent: Graph | undefined
  /** @internal the file's own record */
  origin: unknown
  #inputs: readonly ValueInfo[] = []
  #outputs: readonly ValueInfo[] = []
  #nodes: Node[] = []
  #index: Index | undefined
  readonly #producers = new Map<string, Node>()
  /** every name that was ever used; kept at the outermost graph */
  #names = new Set<string>()

  constructor(name = '') {
    this.name = name
    const initializers = new WatchedMap<Initializer>()
    initializers.onSet = (key, value) => {
      if (key !== value.name)
        throw new WhittleError('ERR_RANGE', key, `initializer ${value.name} cannot be stored under ${key}`)
      this.noteNames([key])
    }
    // An initializer of a subgraph may hide a value of an outer graph; others change nobody's readers or makers.
    initializers.onChange = () => {
      if (this.parent) noteEdit()
    }
    this.initializers = initializers
    const valueInfo = new WatchedMap<ValueInfo>()
    valueInfo.onSet = (key) => this.noteNames([key])
    this.valueInfo = valueInfo
  }

  /** The array is frozen: assign a new one. */
  get inputs(): readonly ValueInfo[] {
    return this.#inputs
  }

  set inputs(values: readonly ValueInfo[]) {
    noteEdit()
    this.#inputs = Object.freeze([...values])
    this.noteNames(values.map((v) => v.name))
  }

  /** The array is frozen: assign a new one. */
  get outputs(): readonly ValueInfo[] {
    return this.#outputs
  }

  set outputs(values: readonly ValueInfo[]) {
    noteEdit()
    this.#outputs = Object.freeze([...values])
    this.noteNames(values.map((v) => v.name))
  }

  /**
   * In the order of the file, which for valid models is an order of execution. An edit makes a new array, so that a loop
   * over this one may add and remove nodes.
   */
  get nodes(): readonly Node[] {
    return this.#nodes
  }

  /** The outermost graph. */
  get root(): Graph {
    let g: Graph = this
    while (g.parent) g = g.parent
    return g
  }

  /** The node of this graph (not of an outer one) that makes `value`; `undefined` for inputs and initializers. */
  producer(value: string): Node | undefined {
    return this.#producers.get(value)
  }

  /**
   * The nodes that read `value` of this graph, each once. A node whose subgraph reads it counts as a reader: the
   * subgraph's own nodes are not listed.
   */
  users(value: string): readonly Node[] {
    return this.#indexed().users.get(value) ?? []
  }

  /** True if `value` is one of the graph's outputs: its name must then stay. */
  isOutput(value: string): boolean {
    return this.outputs.some((o) => o.name === value)
  }

  /** True if `value` is one of the graph's inputs. Files of IR version 3 list initializers there too. */
  isInput(value: string): boolean {
    return this.inputs.some((i) => i.name === value)
  }

  /** The initializer that `value` names, looked up through the graphs around; `undefined` if it is anything else. */
  constant(value: string): Initializer | undefined {
    for (let g: Graph | undefined = this; g; g = g.parent) {
      const found = g.initializers.get(value)
      if (found) return found
      if (g.defines(value)) return undefined
    }
    return undefined
  }

  /** True if the graph itself has a value of that name. */
  defines(value: string): boolean {
    return (
      this.initializers.has(value) ||
      this.producer(value) !== undefined ||
      this.isInput(value) ||
      this.sparseInitializers.some((s) => s.name === value)
    )
  }

  /** A name that nothing in the whole model has: `hint`, or `hint_1`, `hint_2`, … It is reserved from then on. */
  uniqueName(hint: string): string {
    const names = this.#scope()
    let name = hint || 'value'
    for (let i = 1; names.has(name); i++) name = `${hint || 'value'}_${i}`
    names.add(name)
    return name
  }

  /** Inserts a node before or after another one of this graph; at the end by default. Returns it. */
  addNode(node: Node, where: { before?: Node; after?: Node } = {}): Node {
    if (node.graph) throw new WhittleError('ERR_RANGE', node.label, `node ${node.label} is in a graph already`)
    for (const o of node.outputs)
      if (o && this.defines(o))
        throw new WhittleError('ERR_RANGE', node.label, `node ${node.label}: output ${o} exists already`)
    const anchor = where.before ?? where.after
    let at = this.#nodes.length
    if (anchor) {
      at = this.#nodes.indexOf(anchor)
      if (at < 0)
        throw new WhittleError('ERR_RANGE', 'where', `where: node ${anchor.label} is not in graph ${this.name}`)
      if (!where.before) at++
    }
    this.#nodes = this.#nodes.toSpliced(at, 0, node)
    this.#take(node)
    return node
  }

  /** Takes a node out. Its inputs and outputs are left as they are. */
  removeNode(node: Node): void {
    const at = this.#nodes.indexOf(node)
    if (at < 0) throw new WhittleError('ERR_RANGE', 'node', `node ${node.label} is not in graph ${this.name}`)
    this.#nodes = this.#nodes.toSpliced(at, 1)
    this.#release(node)
    noteEdit()
  }

  /** Puts all nodes at once, in that order: for bulk edits, which one by one would take quadratic time. */
  setNodes(nodes: readonly Node[]): void {
    for (const n of nodes)
      if (n.graph && n.graph !== this)
        throw new WhittleError('ERR_RANGE', n.label, `node ${n.label} is in another graph`)
    for (const n of this.#nodes) this.#release(n)
    this.#nodes = [...nodes]
    for (const n of nodes) this.#take(n)
    noteEdit()
  }

  /** Adds an initializer under a name that the graph does not have yet. Returns it. */
  addInitializer(initializer: Initializer): Initializer {
    if (this.defines(initializer.name))
      throw new WhittleError(
        'ERR_RANGE',
        initializer.name,
        `${initializer.name}: the graph has a value of that name already`,
      )
    this.initializers.set(initializer.name, initializer)
    return initializer
  }

  /**
   * Puts new data behind the name of an existing initializer, type and dims included. An annotation of it in
   * {@link valueInfo} or {@link inputs} is brought up to date.
   */
  setInitializer(name: string, data: Initializer | Tensor): Initializer {
    const old = this.initializers.get(name)
    if (!old) throw new WhittleError('ERR_RANGE', name, `${name}: there is no such initializer`)
    const made = 'source' in data ? data : Initializer.from(name, data)
    // The old record lends its place in the file and the fields that are not about the data.
    const next = new Initializer(name, made.type, made.dims, made.source, made.origin ?? old.origin)
    this.initializers.set(name, next)
    const changed =
      next.type !== old.type || next.dims.length !== old.dims.length || next.dims.some((d, i) => d !== old.dims[i])
    if (changed) {
      const info = new ValueInfo(name, next.type, next.dims)
      if (this.valueInfo.has(name)) this.valueInfo.set(name, info)
      this.inputs = this.inputs.map((i) => (i.name === name ? info : i))
    }
    return next
  }

  /**
   * Makes every reader of `from` read `to` instead, in subgraphs too (not in those that have a value `from` of their
   * own). With `in`, only those nodes of this graph. The graph's outputs keep their names. Returns how many readers
   * changed.
   */
  replaceUses(from: string, to: string, options: { in?: readonly Node[] } = {}): number {
    if (!from) return 0
    let count = 0
    for (const node of options.in ?? this.users(from)) {
      let changed = false
      if (node.inputs.includes(from)) {
        node.inputs = node.inputs.map((i) => (i === from ? to : i))
        changed = true
      }
      for (const g of node.subgraphs()) if (!g.defines(from) && g.#replaceInner(from, to)) changed = true
      if (changed) count++
    }
    return count
  }

  #replaceInner(from: string, to: string): boolean {
    const changed = this.replaceUses(from, to) > 0
    if (!this.isOutput(from)) return changed
    this.outputs = this.outputs.map((o) => (o.name === from ? o.renamed(to) : o))
    return true
  }

  /** Drops initializers that nothing reads and that are no output, here and in subgraphs. Returns their names. */
  removeDeadInitializers(): string[] {
    const removed = [...this.initializers.keys()].filter(
      (name) => this.users(name).length === 0 && !this.isOutput(name),
    )
    const gone = new Set(removed)
    for (const name of removed) {
      this.initializers.delete(name)
      this.valueInfo.delete(name)
    }
    if (this.inputs.some((i) => gone.has(i.name))) this.inputs = this.inputs.filter((i) => !gone.has(i.name))
    for (const node of this.#nodes) for (const g of node.subgraphs()) removed.push(...g.removeDeadInitializers())
    return removed
  }

  /** Drops nodes none of whose outputs is read, until there are none; of all, or of those in `among`. Returns the dropped nodes. */
  removeDeadNodes(among?: ReadonlySet<Node>): Node[] {
    const removed: Node[] = []
    const readers = new Map<string, number>()
    const countOf = (value: string): number => readers.get(value) ?? this.users(value).length
    const isDead = (n: Node): boolean => (!among || among.has(n)) && n.outputs.every((o) => !o || (!this.isOutput(o) && countOf(o) === 0))
    const gone = new Set<Node>()
    for (let dead = this.#nodes.filter(isDead); dead.length > 0; ) {
      for (const n of dead) gone.add(n)
      removed.push(...dead)
      // What only these read may be next.
      const makers = new Set<Node>()
      for (const n of dead)
        for (const value of reads(n)) {
          readers.set(value, countOf(value) - 1)
          const maker = this.producer(value)
          if (maker && !gone.has(maker)) makers.add(maker)
        }
      dead = [...makers].filter(isDead)
    }
    if (removed.length === 0) return removed
    this.setNodes(this.#nodes.filter((n) => !gone.has(n)))
    for (const n of removed) for (const o of n.outputs) this.valueInfo.delete(o)
    return removed
  }

  /** Calls back for every node, a node before those in its subgraphs. Nodes may be edited, added and removed meanwhile. */
  walk(callback: (node: Node, graph: Graph) => void): void {
    for (const node of [...this.#nodes]) {
      callback(node, this)
      for (const g of node.subgraphs()) g.walk(callback)
    }
  }

  /** This graph and all graphs in it, outer ones first. */
  graphs(): Graph[] {
    const found: Graph[] = [this]
    for (const node of this.#nodes) for (const g of node.subgraphs()) found.push(...g.graphs())
    return found
  }

  /**
   * The nodes in an order of execution, as near to the present order as can be. Throws `ERR_MODEL_FORMAT` and names a
   * node of the circle if there is one.
   */
  topologicalOrder(): Node[] {
    const position = new Map(this.#nodes.map((n, i) => [n, i]))
    const producers = this.#producers
    const state = new Map<Node, 1 | 2>()
    const order: Node[] = []
    // Depth first with a stack of our own: graphs are deep.
    for (const start of this.#nodes) {
      if (state.has(start)) continue
      const stack = [{ node: start, before: this.#dependencies(start, producers, position), at: 0 }]
      state.set(start, 1)
      while (stack.length > 0) {
        const top = stack[stack.length - 1] as (typeof stack)[number]
        const next = top.before[top.at++]
        if (next === undefined) {
          state.set(top.node, 2)
          order.push(top.node)
          stack.pop()
        } else if (state.get(next) === 1)
          throw new WhittleError(
            'ERR_MODEL_FORMAT',
            next.label,
            `graph ${this.name}: node ${next.label} depends on its own output`,
          )
        else if (!state.has(next)) {
          state.set(next, 1)
          stack.push({ node: next, before: this.#dependencies(next, producers, position), at: 0 })
        }
      }
    }
    return order
  }

  /** Puts the nodes, here and in subgraphs, into {@link topologicalOrder}. */
  sort(): void {
    const order = this.topologicalOrder()
    if (order.some((n, i) => n !== this.#nodes[i])) this.setNodes(order)
    for (const node of this.#nodes) for (const g of node.subgraphs()) g.sort()
  }

  /** A copy that can be edited freely. Weights and the file's own records are shared, not copied. */
  clone(): Graph {
    const copy = new Graph(this.name)
    copy.inputs = this.inputs
    copy.outputs = this.outputs
    copy.sparseInitializers = this.sparseInitializers
    copy.origin = this.origin
    for (const [key, value] of this.initializers) copy.initializers.set(key, value)
    for (const [key, value] of this.valueInfo) copy.valueInfo.set(key, value)
    copy.setNodes(
      this.#nodes.map((n) => {
        const { name, opType, domain, inputs, outputs } = n
        const attributes = [...n.attributes].map(([key, a]): [string, Attribute] => [key, cloneAttribute(a)])
        const made = new Node({ name, opType, domain, inputs, outputs, attributes })
        made.origin = n.origin
        return made
      }),
    )
    return copy
  }

  /** @internal Makes `graph` a subgraph of this one. */
  adopt(graph: Graph): void {
    if (graph.parent === this) return
    graph.parent = this
    const names = this.#scope()
    for (const name of graph.#names) names.add(name)
    noteEdit()
  }

  /** @internal A node's outputs were renamed. */
  noteOutputs(node: Node, before: readonly string[]): void {
    for (const o of before) if (this.#producers.get(o) === node) this.#producers.delete(o)
    for (const o of node.outputs) if (o) this.#producers.set(o, node)
    this.noteNames(node.outputs)
  }

  /** @internal */
  noteNames(names: Iterable<string>): void {
    const scope = this.#scope()
    for (const name of names) scope.add(name)
  }

  #scope(): Set<string> {
    return this.root.#names
  }

  #take(node: Node): void {
    node.graph = this
    for (const g of node.subgraphs()) this.adopt(g)
    for (const o of node.outputs) if (o) this.#producers.set(o, node)
    this.noteNames([node.name, ...node.inputs, ...node.outputs])
    noteEdit()
  }

  #release(node: Node): void {
    node.graph = undefined
    for (const o of node.outputs) if (this.#producers.get(o) === node) this.#producers.delete(o)
  }

  #dependencies(node: Node, producers: Map<string, Node>, position: Map<Node, number>): Node[] {
    const before = new Set<Node>()
    for (const value of reads(node)) {
      const p = producers.get(value)
      if (p) before.add(p)
    }
    return [...before].sort((a, b) => (position.get(a) as number) - (position.get(b) as number))
  }

  #indexed(): Index {
    const edits = editCount()
    if (this.#index?.edits === edits) return this.#index
    const users = new Map<string, Node[]>()
    for (const node of this.#nodes)
      for (const value of reads(node)) {
        const list = users.get(value)
        if (list) list.push(node)
        else users.set(value, [node])
      }
    this.#index = { edits, users }
    return this.#index
  }
}

/** The names that a node reads: its inputs, and what its subgraphs take from outside. */
export function reads(node: Node): Set<string> {
  const found = new Set<string>()
  for (const i of node.inputs) if (i) found.add(i)
  for (const g of node.subgraphs()) captured(g, found)
  return found
}

/** @internal Names that a subgraph takes from outside. */
export function captured(graph: Graph, into: Set<string>): void {
  const own = new Set<string>(graph.initializers.keys())
  for (const i of graph.inputs) own.add(i.name)
  for (const s of graph.sparseInitializers) own.add(s.name)
  for (const n of graph.nodes) for (const o of n.outputs) own.add(o)
  for (const n of graph.nodes) for (const value of reads(n)) if (!own.has(value)) into.add(value)
  for (const o of graph.outputs) if (!own.has(o.name)) into.add(o.name)
}

function cloneAttribute(a: Attribute): Attribute {
  if (a.type === 'graph') return { ...a, value: a.value.clone() }
  if (a.type === 'graphs') return { ...a, value: a.value.map((g) => g.clone()) }
  return a
}
