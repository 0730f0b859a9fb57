import { createRequire } from 'node:module'
import path from 'node:path'
import { WhittleError } from '../errors'
import { foldConstantNodes, Graph, inferShapes, Model, Node, reads, ValueInfo } from '../model'
import { isDataType, type Tensor } from '../tensor'
import { tensorOf, type Foreign } from './hosts'

/** The part of onnxruntime-node that is used. */
interface Runtime {
  readonly InferenceSession: { create(bytes: Uint8Array, options: object): Promise<RuntimeSession> }
  readonly Tensor: new (type: string, data: unknown, dims: readonly number[]) => object
}

interface RuntimeSession {
  run(feeds: Record<string, object>): Promise<Record<string, Tensor>>
  release(): Promise<void>
}

/** onnxruntime-node as the user's folder or this package has it. */
function load(): Runtime {
  for (const from of [path.join(process.cwd(), 'package.json'), __filename])
    try {
      return createRequire(from)('onnxruntime-node') as Runtime
    } catch (error) {
      const { code, message } = error as { code?: string; message?: string }
      if (code !== 'MODULE_NOT_FOUND' || !message?.includes('onnxruntime-node'))
        throw new WhittleError('ERR_DEVICE', 'options.fallback', `options.fallback: onnxruntime-node cannot be loaded: ${message}`)
    }
  throw new WhittleError('ERR_DEVICE', 'options.fallback', "options.fallback: 'onnxruntime' needs the package onnxruntime-node: npm install onnxruntime-node")
}

/** Op and domain of the node that stands for a part. */
export const kForeign = { opType: 'Onnxruntime', domain: 'whittle' } as const

/** Nodes that hang together and run in onnxruntime as a model of their own. */
class Part {
  readonly label: string
  /** as plans and profiles tell of it */
  readonly steps: readonly [{ readonly op: string; readonly node: string }]
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly #runtime: Runtime
  readonly #threads: number
  readonly #model: Model
  /** runs under way, which keep the sessions */
  readonly #running = new Set<Promise<void>>()
  /** by the types of the inputs */
  readonly #sessions = new Map<string, Promise<RuntimeSession>>()

  /** `copies`: of the nodes, free to be put into a graph of their own */
  constructor(runtime: Runtime, threads: number, source: Model, nodes: readonly Node[], copies: readonly Node[]) {
    this.#runtime = runtime
    this.#threads = threads
    const { graph } = source
    this.label = nodes.map((n) => n.label).join(' + ')
    this.steps = [{ op: 'onnxruntime', node: this.label }]
    const own = new Set(nodes.flatMap((n) => n.outputs))
    const inside = new Set(nodes)
    const used = [...new Set(nodes.flatMap((n) => [...reads(n)]))].filter((name) => name && !own.has(name))
    this.inputs = used.filter((name) => !graph.constant(name))
    this.outputs = [...own].filter((name) => name && (graph.isOutput(name) || graph.users(name).some((u) => !inside.has(u))))
    const part = new Graph('part')
    for (const name of used) {
      const constant = graph.constant(name)
      if (constant) part.addInitializer(constant)
    }
    for (const { name, opType, domain, inputs, outputs, attributes } of copies)
      part.addNode(new Node({ name, opType, domain, inputs, outputs, attributes }))
    part.outputs = this.outputs.map((name) => graph.outputs.find((o) => o.name === name) ?? new ValueInfo(name, 'undefined', null, 'unknown'))
    const { irVersion, opsets, functions } = source
    this.#model = new Model({ graph: part, irVersion, opsets, functions } as ConstructorParameters<typeof Model>[0])
  }

  /** Makes the session at once, so that what onnxruntime refuses is known early. */
  async open(types: readonly string[]): Promise<void> {
    await this.#session(types)
  }

  async run(known: (name: string) => Tensor): Promise<readonly Tensor[]> {
    const given = this.inputs.map((name) => tensorOf(name, known(name)))
    const session = await this.#session(given.map((t) => t.type))
    let results: Record<string, Tensor>
    try {
      const feeds = this.inputs.map((name, i) => {
        const { type, data, dims } = given[i] as Tensor
        return [name, new this.#runtime.Tensor(type, data, dims)] as const
      })
      const running = session.run(Object.fromEntries(feeds))
      const done = running.then(
        () => void this.#running.delete(done),
        () => void this.#running.delete(done),
      )
      this.#running.add(done)
      results = await running
    } catch (error) {
      return this.#refuse('onnxruntime-node failed', error)
    }
    return this.outputs.map((name) => {
      const { type, dims, data } = results[name] as Tensor
      if (!isDataType(type)) this.#refuse(`${name} leaves onnxruntime-node`, new Error(`as a value of type ${String(type)}`))
      return { type, dims: [...dims], data }
    })
  }

  async release(): Promise<void> {
    await Promise.all(this.#running)
    for (const s of this.#sessions.values())
      await s.then(
        (session) => session.release(),
        () => undefined,
      )
    this.#sessions.clear()
  }

  #session(types: readonly string[]): Promise<RuntimeSession> {
    const key = types.join()
    const found = this.#sessions.get(key)
    if (found) return found
    const copy = this.#model.clone()
    copy.graph.inputs = this.inputs.map((name, i) => new ValueInfo(name, types[i] as ValueInfo['type'], null))
    const made = this.#create(copy)
    this.#sessions.set(key, made)
    return made
  }

  async #create(model: Model): Promise<RuntimeSession> {
    const threads = this.#threads > 0 ? { intraOpNumThreads: this.#threads, interOpNumThreads: 1 } : {}
    try {
      // Its threads do not spin while ours work.
      return await this.#runtime.InferenceSession.create(model.toBytes(), { ...threads, logSeverityLevel: 4, extra: { session: { force_spinning_stop: '1' } } })
    } catch (error) {
      return this.#refuse('onnxruntime-node refuses it', error)
    }
  }

  #refuse(what: string, error: unknown): never {
    throw new WhittleError('ERR_UNSUPPORTED_OP', this.label, `${this.label}: ${what}: ${(error as Error).message}`)
  }
}

/**
 * What of a model runs in onnxruntime-node: nodes that sessions have no kernel for, those that hang together as one part.
 * A node with subgraphs goes there whole.
 */
export class Fallback implements Foreign {
  readonly #runtime = load()
  readonly #threads: number
  readonly #source: Model
  readonly #nodes = new Set<Node>()
  #parts: Part[] = []
  #old: Part[] = []

  constructor(model: Model, threads: number) {
    this.#source = model.clone()
    this.#threads = threads
    foldConstantNodes(this.#source)
  }

  /** Whether an error was about a node that can go to onnxruntime instead; it does from now on. `all`: with all of its op. */
  take(error: unknown, all: boolean): boolean {
    const { code, parameter } = error as Partial<WhittleError>
    if (code !== 'ERR_UNSUPPORTED_OP' || !parameter) return false
    const before = this.#nodes.size
    const { nodes } = this.#source.graph
    const found = this.#find(parameter)
    const ops = new Set(found.map((n) => `${n.domain}:${n.opType}`))
    for (const n of nodes) if (found.includes(n) || (all && ops.has(`${n.domain}:${n.opType}`) && n.subgraphs().length === 0)) this.#nodes.add(n)
    return this.#nodes.size > before
  }

  /** The model with one node in the place of each part. */
  model(): Model {
    const copy = this.#source.clone()
    // What calls them goes to onnxruntime.
    copy.functions.length = 0
    this.#old.push(...this.#parts)
    const groups = this.#partition()
    const place = new Map(this.#source.graph.nodes.map((n, i) => [n, i]))
    const copies = copy.graph.nodes
    const copyOf = (n: Node): Node => copies[place.get(n) as number] as Node
    this.#parts = groups.map((nodes) => new Part(this.#runtime, this.#threads, this.#source, nodes, nodes.map(copyOf)))
    if (this.#parts.length === 0) return copy
    const gone = new Set(this.#parts.flatMap((p) => p.outputs))
    const moved = new Set([...this.#nodes].map(copyOf))
    const kept = copies.filter((n) => !moved.has(n))
    const stand = this.#parts.map((p) => new Node({ ...kForeign, name: p.label, inputs: p.inputs, outputs: p.outputs }))
    for (const name of gone) copy.graph.valueInfo.delete(name)
    copy.graph.setNodes([...kept, ...stand])
    copy.graph.sort()
    return copy
  }

  /** Makes the parts whose inputs are of known type. */
  async open(): Promise<void> {
    const { graph, opsets } = this.#source
    const shapes = inferShapes(graph, opsets)
    for (const part of this.#parts) {
      const types = part.inputs.map((name) => shapes.get(name, graph)?.type)
      if (types.every((t) => t && t !== 'undefined')) await part.open(types as string[])
    }
    const old = this.#old
    this.#old = []
    for (const part of old) await part.release()
  }

  /** One for each part. */
  get steps(): readonly Part['steps'][] {
    return this.#parts.map((p) => p.steps)
  }

  async run(node: Node, known: (name: string) => Tensor): Promise<readonly (Tensor | undefined)[]> {
    const part = [...this.#parts, ...this.#old].find((p) => p.label === node.name) as Part
    const results = await part.run(known)
    return node.outputs.map((o) => results[part.outputs.indexOf(o)])
  }

  release(): void {
    for (const part of [...this.#parts, ...this.#old]) void part.release()
  }

  /** Nodes of the given graph that a message names, perhaps after they were moved out of a branch or changed their op. */
  #find(label: string): readonly Node[] {
    const { graph } = this.#source
    const all = graph.nodes
    const named = all.filter((n) => n.label === label)
    if (named.length > 0) return named
    const around = all.filter((n) => n.subgraphs().some((g) => holds(g, label)))
    if (around.length > 0) return around
    const value = /\((.+)\)$/.exec(label)?.[1]
    if (!value) return []
    const maker = graph.producer(value) ?? graph.producer(value.replace(/\.(then|else)\..*$/, ''))
    return maker ? [maker] : all.filter((n) => n.subgraphs().some((g) => g.graphs().some((h) => h.defines(value))))
  }

  /** Groups that hang together; nothing native lies between two nodes of a group. */
  #partition(): Node[][] {
    const { graph } = this.#source
    if (this.#nodes.size === 0) return []
    // Strings and the like, which only they can read.
    for (const n of graph.nodes) {
      if (!n.is('Constant')) continue
      const users = n.outputs.flatMap((o) => graph.users(o))
      if (users.length > 0 && users.every((u) => this.#nodes.has(u))) this.#nodes.add(n)
    }
    // Levels go up by one with each change between native and foreign nodes along a way.
    const level = new Map<Node, number>()
    const group = new Map<Node, Node>()
    const root = (n: Node): Node => {
      let at = n
      for (let next = group.get(at); next && next !== at; next = group.get(at)) at = next
      return at
    }
    for (const n of graph.topologicalOrder()) {
      const foreign = this.#nodes.has(n)
      let most = foreign ? 1 : 0
      const before: Node[] = []
      for (const name of reads(n)) {
        const maker = graph.producer(name)
        if (!maker) continue
        before.push(maker)
        most = Math.max(most, (level.get(maker) as number) + (this.#nodes.has(maker) === foreign ? 0 : 1))
      }
      level.set(n, most)
      if (!foreign) continue
      group.set(n, n)
      for (const b of before) if (this.#nodes.has(b) && level.get(b) === most) group.set(root(b), n)
    }
    const groups = new Map<Node, Node[]>()
    for (const n of graph.topologicalOrder()) {
      if (!this.#nodes.has(n)) continue
      const at = root(n)
      groups.set(at, [...(groups.get(at) ?? []), n])
    }
    return [...groups.values()]
  }
}

function holds(graph: Graph, label: string): boolean {
  let found = false
  graph.walk((n) => {
    if (n.label === label) found = true
  })
  return found
}
