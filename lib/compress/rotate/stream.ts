import type { Graph, Initializer, Node } from '../../model/graph'
import type { Shapes } from '../../model/ops/infer'
import { scalarOf } from '../../model/match'
import { ownerOf } from '../../model/weights'
import type { Linear } from '../fold/linear'

/** A normalization by mean and deviation (or root mean square) of the last axis, then times `scale`, plus `shift`. */
export interface Norm {
  readonly node: Node
  readonly scale: Float64Array
  readonly shift: Float64Array | undefined
  readonly centers: boolean
}

/** A layer that reads the stream, behind a normalization or as it is. */
export interface Reader {
  readonly layer: Linear
  readonly norm: Norm | undefined
}

/** Where the stream meets a node that no basis folds into. */
export interface Loose {
  readonly value: string
  /** `undefined`: an output of the model. */
  readonly node: Node | undefined
  readonly side: 'write' | 'read'
  /** Behind this normalization. */
  readonly norm: Norm | undefined
  readonly reason: string
}

/**
 * Values that must all be in one basis, since additions, normalizations and selections tie them together: with a transformer's
 * blocks between normalizations and sums, its residual stream.
 */
export interface Stream {
  readonly width: number
  /** Their channels lie on the last axis, or on this one from the end. */
  readonly values: ReadonlyMap<string, number>
  /** What normalizations make of them, by name. */
  readonly normed: ReadonlyMap<string, Norm>
  readonly norms: readonly Norm[]
  /** Normalizations that write what they read, as blocks with the normalization behind the sum have them: one scale for all channels. */
  readonly through: readonly Norm[]
  readonly writers: readonly Linear[]
  readonly readers: readonly Reader[]
  /** Embeddings: rows are picked from them. */
  readonly tables: readonly Initializer[]
  /** Constants that are added, or joined on. */
  readonly constants: readonly { readonly node: Node; readonly index: number }[]
  readonly loose: readonly Loose[]
  /** Reshape and Expand on the way, and where their results have the channels. */
  readonly layouts: ReadonlyMap<Node, number>
  /** Nodes that read only sizes. */
  readonly shapes: readonly Node[]
  /** What makes any other basis impossible. */
  readonly obstacles: readonly string[]
}

const kSums = ['Add', 'Sub', 'Sum']
const kLayout = [
  'Identity',
  'Dropout',
  'Reshape',
  'Flatten',
  'Squeeze',
  'Unsqueeze',
  'Expand',
  'Transpose',
  'Gather',
  'Slice',
  'Split',
  'Concat',
  'ReduceMean',
  'ReduceSum',
]

/** A constant vector along the last axis, or one number for it. */
function vectorOf(graph: Graph, name: string | undefined, n: number): Float64Array | undefined {
  const c = name ? graph.constant(name) : undefined
  if (c?.type !== 'float32' || graph.isInput(c.name) || c.elementCount !== n || c.dims.at(-1) !== n) return undefined
  return Float64Array.from(c.readSync().data as Float32Array)
}

export class Finder {
  readonly #graph: Graph
  readonly #shapes: Shapes
  /** By node, and by the value that each makes. */
  readonly #layers: ReadonlyMap<Node, Linear>
  readonly #makers: ReadonlyMap<string, Linear>
  readonly #spared: ReadonlySet<string>

  constructor(graph: Graph, shapes: Shapes, layers: ReadonlyMap<Node, Linear>, spared: ReadonlySet<string>) {
    this.#graph = graph
    this.#shapes = shapes
    this.#spared = spared
    this.#layers = new Map([...layers].filter(([, l]) => !spared.has(l.weight.name)))
    this.#makers = new Map([...this.#layers.values()].map((l) => [l.output, l]))
  }

  /** The normalization that a node is, over `n` channels on the last axis. */
  normOf(node: Node, n?: number): Norm | undefined {
    if (!node.is('LayerNormalization', 'RMSNormalization') || node.outputs.slice(1).some(Boolean)) return undefined
    const graph = this.#graph
    const width = n ?? graph.constant(node.inputs[1] ?? '')?.elementCount
    const rank = this.#shapes.get(node.inputs[0]!, graph)?.dims?.length
    const axis = node.int('axis', -1)
    if (width === undefined || width < 2 || (axis !== -1 && axis + 1 !== rank)) return undefined
    const scale = vectorOf(graph, node.inputs[1], width)
    const shift = node.inputs[2] ? vectorOf(graph, node.inputs[2], width) : undefined
    if (!scale?.every(Number.isFinite) || (node.inputs[2] && !shift?.every(Number.isFinite))) return undefined
    return { node, scale, shift, centers: node.is('LayerNormalization') }
  }

  /** All that must turn with `seed`, a value with `width` channels on `axis` from the end. */
  find(seed: string, width: number, axis = -1): Stream {
    const graph = this.#graph
    const values = new Map<string, number>()
    const normed = new Map<string, Norm>()
    const norms: Norm[] = []
    const through: Norm[] = []
    const writers = new Set<Linear>()
    const readers: Reader[] = []
    const tables = new Map<string, Initializer>()
    const constants: { node: Node; index: number }[] = []
    const loose: Loose[] = []
    const layouts = new Map<Node, number>()
    const shapes = new Set<Node>()
    const obstacles = new Set<string>()
    const work: string[] = []
    const done = new Set<Node>()

    const enter = (value: string, at: number): void => {
      if (values.has(value)) {
        if (values.get(value) !== at) obstacles.add(`${value} has its channels on two axes`)
        return
      }
      values.set(value, at)
      work.push(value)
      const dims = this.#shapes.get(value, graph)?.dims
      const size = dims?.[dims.length + at]
      if (normed.has(value)) obstacles.add(`${value} is normalized and added`)
      if (dims && (dims.length < -at || (typeof size === 'number' && size !== width)))
        obstacles.add(`${value} has not ${width} channels`)
      // Products, tables and normalizations tell how many channels there are; of all else it must be known.
      else if (typeof size !== 'number' && !this.#makers.has(value) && value !== seed)
        obstacles.add(`how many channels ${value} has is not known`)
    }

    /** Input `index` of a node that sums or joins. */
    const operand = (node: Node, index: number, at: number): void => {
      const name = node.inputs[index]!
      const c = graph.constant(name)
      if (!c) return enter(name, at)
      const fits =
        c.type === 'float32' &&
        at === -1 &&
        !graph.isInput(name) &&
        (c.dims.at(-1) === width || (c.elementCount === 1 && node.is(...kSums)))
      if (!fits) obstacles.add(`${node.opType} ${node.label} takes in a constant that has not ${width} channels`)
      else if (!constants.some((k) => k.node === node && k.index === index)) constants.push({ node, index })
    }

    /** A node that hands channels on as they are. */
    const visit = (node: Node, at: number): void => {
      if (done.has(node)) return
      done.add(node)
      if (node.is('Reshape', 'Expand')) layouts.set(node, at)
      if (node.is(...kSums) || node.is('Concat')) node.inputs.forEach((_, i) => operand(node, i, at))
      else if (node.is('Mul', 'Div'))
        enter(
          node.inputs.find((i) => !graph.constant(i))!,
          at,
        )
      else operand(node, 0, this.#before(node, at))
      for (const o of node.outputs) if (o) enter(o, at)
    }

    const write = (value: string, at: number): void => {
      const node = graph.producer(value)
      const layer = this.#makers.get(value)
      const put = (reason: string): void => {
        // A product mixes the last axis.
        if (at === -1) loose.push({ value, node, side: 'write', norm: undefined, reason })
        else obstacles.add(reason)
      }
      if (!node) return put(`${value} is an input of the model`)
      if (layer) {
        const own = layer.node.is('Conv') ? 1 - layer.weight.dims.length : -1
        if (
          layer.outputs !== width ||
          own !== at ||
          (layer.node.is('Conv') && layer.node.int('group', 1) !== 1) ||
          layer.node.is('ConvTranspose')
        )
          obstacles.add(`${layer.node.opType} ${layer.node.label} writes channels that cannot be mixed`)
        writers.add(layer)
        return
      }
      const table = node.is('Gather') && node.int('axis', 0) === 0 ? graph.constant(node.inputs[0] ?? '') : undefined
      if (table) {
        const own =
          ownerOf(graph, table.name) === graph &&
          !graph.isInput(table.name) &&
          !graph.isOutput(table.name) &&
          table.type === 'float32'
        if (!own || table.dims.length !== 2 || table.dims[1] !== width || at !== -1)
          return put(`${value} is picked from ${table.name}, which is no table of ${width} channels`)
        if (this.#spared.has(table.name)) return put(`${table.name} is spared`)
        tables.set(table.name, table)
        return
      }
      if (node.is('LayerNormalization', 'RMSNormalization')) {
        const norm = this.#uniform(node, width)
        if (norm && at === -1) {
          if (!through.some((t) => t.node === node)) through.push(norm)
          return enter(node.inputs[0]!, -1)
        }
        return put(`${node.opType} ${node.label} writes ${value}, scaled by channel`)
      }
      const passes = this.#passes(node, value, undefined) !== undefined
      const moved = passes && at === -1 && !node.is(...kSums, 'Mul', 'Div', 'Concat') && this.#before(node, -1) !== -1
      if (!passes || (moved && !this.#fromConv(node.inputs[0]!, this.#before(node, -1), width)))
        return put(`${node.opType} ${node.label} writes ${value}${this.#why(node)}`)
      visit(node, at)
    }

    const read = (value: string, at: number, norm: Norm | undefined): void => {
      const put = (node: Node | undefined, reason: string): void => {
        if (at === -1) loose.push({ value, node, side: 'read', norm, reason })
        else obstacles.add(reason)
      }
      if (graph.isOutput(value)) put(undefined, `${value} is an output of the model`)
      for (const node of graph.users(value)) {
        const layer = this.#layers.get(node)
        if (layer && layer.data === value && node.inputs.filter((i) => i === value).length === 1) {
          const own = node.is('Conv') ? 1 - layer.weight.dims.length : -1
          const plain = !node.is('Conv', 'ConvTranspose') || (!norm && node.is('Conv') && node.int('group', 1) === 1)
          if (layer.inputs === width && own === at && plain) {
            readers.push({ layer, norm })
            continue
          }
        }
        if (node.is('Shape', 'Size')) {
          shapes.add(node)
          continue
        }
        if (!norm && node.is('LayerNormalization', 'RMSNormalization') && node.inputs[0] === value && at === -1) {
          const found = this.normOf(node, width)
          if (found && node.inputs.lastIndexOf(value) === 0) {
            const same = this.#uniform(node, width) && this.#joins(node.outputs[0]!)
            if (same) {
              if (!through.some((t) => t.node === node)) through.push(found)
              enter(node.outputs[0]!, -1)
            } else {
              norms.push(found)
              normed.set(node.outputs[0]!, found)
              work.push(node.outputs[0]!)
              if (values.has(node.outputs[0]!)) obstacles.add(`${node.outputs[0]} is normalized and added`)
            }
            continue
          }
        }
        const next = this.#passes(node, value, at)
        const moved = next !== undefined && next !== -1 && at === -1 && !done.has(node)
        if (
          next === undefined ||
          (moved && (norm || !this.#intoConvs(node.outputs[0]!, next, width))) ||
          (norm && node.inputs.length > 1 && node.is(...kSums, 'Concat', 'ReduceSum', 'Mul', 'Div'))
        ) {
          if (done.has(node)) obstacles.add(`${node.opType} ${node.label} mixes channels with others`)
          // Blocks that normalize behind the sum: each would need products of its own.
          else if (norm && node.is(...kSums))
            obstacles.add(`${node.opType} ${node.label} reads ${value}, scaled by channel`)
          else put(node, `${node.opType} ${node.label} reads ${value}${this.#why(node)}`)
          continue
        }
        if (!norm) {
          visit(node, next)
          continue
        }
        if (node.is('Reshape', 'Expand')) layouts.set(node, next)
        for (const o of node.outputs)
          if (o && !normed.has(o)) {
            normed.set(o, norm)
            work.push(o)
          }
      }
    }

    enter(seed, axis)
    while (work.length > 0) {
      const value = work.pop()!
      const norm = normed.get(value)
      if (norm) read(value, -1, norm)
      else {
        write(value, values.get(value)!)
        read(value, values.get(value)!, undefined)
      }
    }
    for (const t of tables.values())
      if (
        graph
          .users(t.name)
          .some(
            (u) =>
              !u.is('Gather') ||
              u.inputs[0] !== t.name ||
              u.inputs[1] === t.name ||
              u.int('axis', 0) !== 0 ||
              !values.has(u.outputs[0]!),
          )
      ) {
        tables.delete(t.name)
        for (const u of graph.users(t.name))
          if (values.has(u.outputs[0]!))
            loose.push({
              value: u.outputs[0]!,
              node: u,
              side: 'write',
              norm: undefined,
              reason: `${t.name} is read by other layers as well`,
            })
      }
    return {
      width,
      values,
      normed,
      norms,
      through,
      writers: [...writers],
      readers,
      tables: [...tables.values()],
      constants,
      loose,
      layouts,
      shapes: [...shapes],
      obstacles: [...obstacles],
    }
  }

  /** Why the weight of a node is not at hand. */
  #why(node: Node): string {
    const name = node.inputs.find((i) => this.#spared.has(i))
    if (name !== undefined) return `, whose weight ${name} is spared`
    const shared = node.is('MatMul', 'Gemm', 'Conv') && node.inputs[1] && this.#graph.constant(node.inputs[1])
    return shared && this.#graph.users(shared.name).length > 1 ? `, whose weight ${shared.name} others share` : ''
  }

  /** A normalization with one scale for all channels. */
  #uniform(node: Node, width: number): Norm | undefined {
    const norm = this.normOf(node, width)
    return norm?.scale.every((v) => v === norm.scale[0]) ? norm : undefined
  }

  /** Whether a convolution makes a value with channels on another axis than the last one. */
  #fromConv(value: string, at: number, width: number): boolean {
    const layer = this.#makers.get(value)
    if (layer) return layer.outputs === width && layer.node.is('Conv') && at === 1 - layer.weight.dims.length
    const node = this.#graph.producer(value)
    const passes = node?.is('Identity', 'Reshape', 'Transpose') && this.#passes(node, value, undefined) !== undefined
    return passes === true && this.#fromConv(node!.inputs[0]!, this.#before(node!, at), width)
  }

  /** Whether nothing but convolutions reads one. */
  #intoConvs(value: string, at: number, width: number): boolean {
    if (this.#graph.isOutput(value)) return false
    return this.#graph.users(value).every((node) => {
      const layer = this.#layers.get(node)
      if (layer)
        return (
          layer.data === value && layer.inputs === width && layer.node.is('Conv') && at === 1 - layer.weight.dims.length
        )
      const next = node.is('Identity', 'Reshape', 'Transpose') ? this.#passes(node, value, at) : undefined
      return next !== undefined && next !== -1 && this.#intoConvs(node.outputs[0]!, next, width)
    })
  }

  /** Whether a value is added to others, or normalized again. */
  #joins(value: string): boolean {
    return this.#graph.users(value).some((u) => u.is(...kSums, 'Concat', 'LayerNormalization', 'RMSNormalization'))
  }

  /** The axis from the end that a node hands the channels of `value` on at; with `at` undefined, whether it hands on channels at all. */
  #passes(node: Node, value: string, at: number | undefined): number | undefined {
    const graph = this.#graph
    if (node.subgraphs().length > 0) return undefined
    const rank = this.#shapes.get(node.inputs[0] ?? '', graph)?.dims?.length
    const last = at === undefined || at === -1
    if (node.is(...kSums)) return last ? -1 : undefined
    // Both operands may not be of the stream.
    if (node.is('Mul', 'Div')) {
      const c = node.inputs.findIndex((i) => scalarOf(graph, i) !== undefined && !graph.isInput(i))
      return c >= 0 &&
        (c === 1 || node.is('Mul')) &&
        node.inputs[1 - c] !== node.inputs[c] &&
        !graph.constant(node.inputs[1 - c]!)
        ? (at ?? -1)
        : undefined
    }
    if (!node.is(...kLayout)) return undefined
    if (node.is('Concat')) return last && rank !== undefined && this.#off(node.int('axis', 0), rank) ? -1 : undefined
    if (at !== undefined && node.inputs.lastIndexOf(value) !== 0) return undefined
    switch (node.opType) {
      case 'Identity':
        return at ?? -1
      case 'Dropout':
        return node.inputs[2] || node.outputs[1] ? undefined : (at ?? -1)
      case 'Transpose': {
        const perm = node.ints('perm')
        if (!perm) return undefined
        return at === undefined ? -1 : perm.indexOf(perm.length + at) - perm.length
      }
      case 'Gather':
        // Indices of any rank take the axis's place, before the last one.
        return last && rank !== undefined && this.#off(node.int('axis', 0), rank) ? -1 : undefined
      case 'Split':
        return last && rank !== undefined && this.#off(node.int('axis', 0), rank) ? -1 : undefined
      case 'Slice':
      case 'ReduceMean':
      case 'ReduceSum': {
        const slice = node.is('Slice')
        const name = node.inputs[slice ? 3 : 1]
        const axes = name ? this.#ints(name) : node.ints('axes')
        return last && rank !== undefined && axes?.length && axes.every((a) => this.#off(a, rank)) ? -1 : undefined
      }
      default:
        return this.#reshaped(node, at)
    }
  }

  /** The axis of the input that {@link #passes} brings to `at`. */
  #before(node: Node, at: number): number {
    if (node.is('Transpose')) {
      const perm = node.ints('perm')!
      return perm[perm.length + at]! - perm.length
    }
    if (at !== -1 && node.is('Reshape', 'Flatten')) {
      const [x, y] = [node.inputs[0]!, node.outputs[0]!].map((v) => this.#shapes.get(v, this.#graph)?.dims?.length)
      return x !== undefined && y !== undefined ? y + at - x : at
    }
    return at
  }

  #reshaped(node: Node, at: number | undefined): number | undefined {
    const [from, to] = [node.inputs[0]!, node.outputs[0]!].map((v) => this.#shapes.get(v, this.#graph)?.dims)
    if (!from || !to) return undefined
    const n = from[from.length + (at ?? -1)]
    if (at === undefined || at === -1) {
      if (typeof n === 'number' && n > 1 && to.at(-1) === n) return -1
      if (at === -1) return undefined
    }
    // Axes up to that of the channels are the same ones.
    if (!node.is('Reshape', 'Flatten')) return undefined
    if (at === undefined) return -1
    const place = from.length + at
    const same = to.length > place && from.slice(0, place + 1).every((d, i) => d === to[i] && d !== null)
    return same ? place - to.length : undefined
  }

  #off(axis: number, rank: number): boolean {
    return (axis < 0 ? axis + rank : axis) !== rank - 1
  }

  #ints(name: string): number[] | undefined {
    const c = this.#graph.constant(name)
    return c && ['int64', 'int32'].includes(c.type)
      ? Array.from(c.readSync().data as Iterable<bigint | number>, Number)
      : undefined
  }
}
