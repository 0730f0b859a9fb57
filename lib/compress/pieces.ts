import { Graph, Initializer, MemorySource, reads, ValueInfo, type Node } from '../model/graph'
import { Model } from '../model/model'
import type { Tensor, TensorLike, TypedArray } from '../tensor'
import type { Inputs, Look } from './calibration'
import type { Scratch } from './computed'
import { ease, touched } from './paged'
import type { Run } from './progress'
import { Runner } from './runner'
import { SpillFile } from './spill'
import type { DataSource } from '../model/graph'

/** Sets of inputs that go through a piece before the next piece is made. */
const kSets = 8
/** Values of fewer bytes are held. */
const kSmall = 4096

/** @internal Values that lie in a temporary file, where one can be written, until they are asked for. */
export class Values {
  readonly #file = new SpillFile()

  /** The caller may overwrite the value afterwards. */
  put(value: TensorLike | TypedArray): Kept {
    const data = ArrayBuffer.isView(value) ? value : value.data
    if (!ArrayBuffer.isView(data)) return { like: value, data }
    const array = data as TypedArray
    const { byteLength } = array
    const source =
      byteLength < kSmall
        ? undefined
        : this.#file.add(new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, byteLength))
    const like = ArrayBuffer.isView(value) ? undefined : { type: value.type, dims: value.dims }
    return source ? { like, source, of: array.constructor as Constructor } : { like, data: array.slice() }
  }

  get(kept: Kept): TensorLike | TypedArray {
    const data =
      'source' in kept ? new kept.of(kept.source.readSync(0, kept.source.byteLength).buffer as ArrayBuffer) : kept.data
    return kept.like ? ({ ...kept.like, data } as TensorLike) : (data as TypedArray)
  }

  /** Its room is used again. */
  free(kept: Kept): void {
    if ('source' in kept) this.#file.free(kept.source)
  }

  close(): void {
    this.#file.close()
  }
}

type Constructor = new (buffer: ArrayBuffer) => TypedArray

/** @internal One value of {@link Values}. */
export type Kept = { readonly like: object | undefined } & (
  { readonly data: unknown } | { readonly source: DataSource; readonly of: Constructor }
)

/** Of fewer bytes a weight is read as it is. */
const kLarge = 1e6

/**
 * @internal The same weights, those that are large and not in memory yet read into memory of `scratch`: valid until it is asked again. A
 * session that reads each for itself leaves a copy behind that is only collected some time later. Only computed ones need memory beside that
 * of the steps, where they are made.
 */
export function gathered(weights: readonly Initializer[], scratch: Scratch): Initializer[] {
  const isLarge = ({ source, byteLength }: Initializer): boolean => source.kind !== 'memory' && byteLength >= kLarge
  const room = ({ byteLength }: Initializer): number => Math.ceil(byteLength / 64) * 64
  const slot = weights.some((w) => isLarge(w) && w.source.kind === 'computed') ? 'weights' : 'floats'
  const bytes = scratch.bytes(slot, weights.filter(isLarge).reduce((sum, w) => sum + room(w), 0))
  let at = 0
  return weights.map((w) => {
    if (!isLarge(w)) return w
    ease()
    const own = bytes.subarray(at, at + w.byteLength)
    let done = 0
    for (const piece of w.chunksSync()) {
      own.set(piece, done)
      done += piece.byteLength
      touched(piece.byteLength)
    }
    at += room(w)
    return new Initializer(w.name, w.type, w.dims, new MemorySource(own))
  })
}

/** @internal A model for a session, its large weights in memory of `scratch` as {@link gathered} has them. */
export function heldIn(scratch: Scratch, model: Model): Model {
  const copy = model.clone()
  for (const weight of gathered([...copy.graph.initializers.values()], scratch)) copy.graph.setInitializer(weight.name, weight)
  return copy
}

interface Piece {
  /** Those that depend on constants alone among them. */
  readonly nodes: ReadonlySet<Node>
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
}

interface Made {
  readonly inputs: Inputs
  readonly found: Readonly<Record<string, Tensor>>
}

/**
 * @internal A model whose weights are more than a session should hold, run a piece after the other: memory has the weights of one piece
 * and the values that it reads and makes for one set of inputs. Eight sets go through a piece before the next is made;
 * their values lie in a temporary file meanwhile.
 */
export class Pieces {
  /** Bytes of weights that a session may hold: a model with more is cut into pieces. */
  static limit = 64e6
  /** Bytes of weights of one piece at most, or what one node needs, beside which a session holds them as its kernels want them. */
  static piece = 32e6

  readonly #model: Model
  readonly #names: readonly string[]
  readonly #pieces: readonly Piece[]

  private constructor(model: Model, names: readonly string[], pieces: readonly Piece[]) {
    this.#model = model
    this.#names = names
    this.#pieces = pieces
  }

  /** Pieces that make the values `names`; nothing where a session may hold the model, or it cannot be cut. */
  static of(model: Model, names: readonly string[]): Pieces | undefined {
    const { graph } = model
    const bytesOf = (name: string): number => graph.initializers.get(name)!.byteLength
    if ([...graph.initializers.keys()].reduce((sum, name) => sum + bytesOf(name), 0) <= Pieces.limit) return undefined
    // Between pieces there are tensors only.
    if (model.functions.length > 0 || graph.sparseInitializers.length > 0) return undefined
    if (graph.nodes.some((n) => /Sequence|Optional/.test(n.opType))) return undefined
    const asked = new Set(names)
    const constant = new Set<Node>()
    const ofConstants = (name: string): boolean => graph.initializers.has(name) || constant.has(graph.producer(name)!)
    const order = graph.topologicalOrder()
    for (const node of order) {
      const read = [...reads(node)]
      if (read.length > 0 && read.every(ofConstants) && !node.outputs.some((o) => asked.has(o))) constant.add(node)
    }
    const needed = new Set<Node>()
    const behind = (names: Iterable<string>, found: Set<Node>, among: (node: Node) => boolean): Set<Node> => {
      const open = [...names]
      for (let name = open.pop(); name !== undefined; name = open.pop()) {
        const maker = graph.producer(name)
        if (!maker || found.has(maker) || !among(maker)) continue
        found.add(maker)
        open.push(...reads(maker))
      }
      return found
    }
    behind(names, needed, () => true)
    const parts: { own: Node[]; all: Set<Node>; weights: Set<string>; bytes: number }[] = []
    for (const node of order) {
      if (!needed.has(node) || constant.has(node)) continue
      const all = behind(reads(node), new Set([node]), (n) => constant.has(n))
      const weights = new Set([...all].flatMap((n) => [...reads(n)].filter((r) => graph.initializers.has(r))))
      const last = parts.at(-1)
      const more = [...weights].reduce((sum, w) => sum + (last?.weights.has(w) ? 0 : bytesOf(w)), 0)
      if (last && (more === 0 || last.bytes + more <= Math.min(Pieces.piece, Pieces.limit))) {
        last.own.push(node)
        last.bytes += more
        for (const n of all) last.all.add(n)
        for (const w of weights) last.weights.add(w)
      } else parts.push({ own: [node], all, weights, bytes: more })
    }
    if (parts.length < 2) return undefined
    const later = new Set(names)
    const pieces = parts.reverse().map(({ own, all }): Piece => {
      const made = new Set(own.flatMap((n) => n.outputs.filter((o) => o)))
      const outputs = [...made].filter((o) => later.has(o))
      const inputs = [...new Set(own.flatMap((n) => [...reads(n)]))].filter((r) => !made.has(r) && !ofConstants(r))
      for (const name of inputs) later.add(name)
      return { nodes: all, inputs, outputs }
    })
    return new Pieces(model, names, pieces.reverse())
  }

  /** The values of each set of inputs, in order. Up to eight sets are read ahead. With `look` nothing is held: it hears of each value when it is made. */
  async *run(
    sets: AsyncIterable<Inputs>,
    { run, threads, look }: { readonly run: Run; readonly threads?: number | undefined; readonly look?: Look },
  ): AsyncGenerator<Made, void, void> {
    const values = new Values()
    const settings = threads === undefined ? {} : { threads }
    try {
      let batch: Map<string, Kept>[] = []
      const finish = async function* (this: Pieces) {
        for (const [i] of this.#pieces.entries()) await this.#through(i, batch, values, run, settings, look)
        for (const set of batch) {
          const get = (name: string): [string, never] => [name, values.get(set.get(name)!) as never]
          const inputs = Object.fromEntries([...set.keys()].filter((n) => !this.#names.includes(n)).map(get)) as Inputs
          yield { inputs, found: look ? {} : (Object.fromEntries(this.#names.map(get)) as Record<string, Tensor>) }
          for (const kept of set.values()) values.free(kept)
        }
        batch = []
      }.bind(this)
      for await (const inputs of sets) {
        batch.push(new Map(Object.entries(inputs).map(([name, value]) => [name, values.put(value)])))
        if (batch.length === kSets) yield* finish()
      }
      if (batch.length > 0) yield* finish()
    } finally {
      values.close()
    }
  }

  async #through(
    index: number,
    batch: readonly Map<string, Kept>[],
    values: Values,
    run: Run,
    settings: { threads?: number },
    look: Look | undefined,
  ): Promise<void> {
    const piece = this.#pieces[index]!
    const own = new Set(this.#model.inputs.map((i) => i.name))
    const later = new Set([...(look ? [] : this.#names), ...own, ...this.#pieces.slice(index + 1).flatMap((p) => p.inputs)])
    let runner: Runner | undefined
    try {
      for (const set of batch) {
        run.check()
        // What the model does not have is told by the first session.
        const strange = index === 0 ? [...set.keys()].filter((n) => !own.has(n)) : []
        const feeds = Object.fromEntries(
          [...piece.inputs.filter((n) => set.has(n)), ...strange].map((n) => [n, values.get(set.get(n)!)]),
        )
        runner ??= await Runner.create(this.#modelOf(piece, feeds, run.scratch), [], settings)
        const found = await runner.run(feeds, run.signal ? { signal: run.signal } : {})
        for (const name of piece.outputs) {
          if (look && this.#names.includes(name)) look(found[name]!, name)
          if (later.has(name)) set.set(name, values.put(found[name]!))
        }
        for (const [name, kept] of set) {
          if (later.has(name) || strange.includes(name)) continue
          values.free(kept)
          set.delete(name)
        }
      }
    } finally {
      runner?.dispose()
    }
  }

  #modelOf({ nodes, inputs, outputs }: Piece, feeds: Inputs, scratch: Scratch): Model {
    const { graph } = this.#model
    const piece = new Graph('piece')
    piece.inputs = inputs.map(
      (name) => graph.inputs.find((i) => i.name === name) ?? new ValueInfo(name, (feeds[name] as Tensor).type, null),
    )
    const weights = [...new Set([...nodes].flatMap((n) => [...reads(n)]))].flatMap((name) => graph.initializers.get(name) ?? [])
    for (const weight of gathered(weights, scratch)) piece.addInitializer(weight)
    const chosen = new Set(graph.nodes.flatMap((n, i) => (nodes.has(n) ? [i] : [])))
    const copy = graph.clone()
    const copies = copy.nodes.filter((_, i) => chosen.has(i))
    copy.setNodes([])
    piece.setNodes(copies)
    piece.outputs = outputs.map((name) => new ValueInfo(name, 'undefined', null, 'unknown'))
    piece.sort()
    return new Model({ graph: piece, opsets: [...this.#model.opsets], irVersion: Math.max(4, this.#model.irVersion) })
  }
}
