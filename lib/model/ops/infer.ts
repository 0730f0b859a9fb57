import { WhittleError } from '../../errors'
import type { Graph } from '../graph'
import type { Dim, ElementType } from '../types'
import type { Node } from '../node'
import { kMaxData, readSmall, type Inferred, type InferContext, type Op } from './op'
import { opOf } from './index'

export interface InferOptions {
  /** Whether an op without inference, or with inputs that it does not accept, is an error. Default false: unknown. */
  strict?: boolean
  /** Sizes for symbols, such as `{ batch: 1 }`. */
  symbols?: Readonly<Record<string, number>>
  /** @internal With strict: ops without inference are unknown all the same. */
  carry?: boolean
  /** @internal Sizes of whole values of the outermost graph, by name; they go before what ops and the file say. */
  dims?: ReadonlyMap<string, readonly number[]>
  /** @internal Content of small inputs. */
  contents?: ReadonlyMap<string, readonly number[]>
}

/** The types and shapes that {@link inferShapes} found. */
export class Shapes {
  readonly #known = new Map<Graph, Map<string, Inferred>>()

  /** What is known of `value` as seen from `graph`; `undefined` if nothing is. */
  get(value: string, graph: Graph): Inferred | undefined {
    for (let g: Graph | undefined = graph; g; g = g.parent) {
      const found = this.#known.get(g)?.get(value)
      if (found) return found
      if (g.defines(value)) return undefined
    }
    return undefined
  }

  /** @internal */
  set(graph: Graph, value: string, what: Inferred): void {
    let map = this.#known.get(graph)
    if (!map) this.#known.set(graph, (map = new Map<string, Inferred>()))
    map.set(value, what)
  }
}

/**
 * Finds type and shape of every value that can be known without running the model. Symbolic sizes pass through; what is
 * not known is `null`. Nothing in the graph is changed.
 *
 * @example
 * const shapes = inferShapes(model.graph, model.opsets)
 * shapes.get('conv1_out', model.graph)?.dims   // [ 'batch', 64, 112, 112 ]
 */
export function inferShapes(graph: Graph, opsets: ReadonlyMap<string, number>, options: InferOptions = {}): Shapes {
  const shapes = new Shapes()
  inferGraph(graph, opsets, options, shapes)
  return shapes
}

function inferGraph(graph: Graph, opsets: ReadonlyMap<string, number>, options: InferOptions, shapes: Shapes): void {
  const bind = (dims: readonly Dim[] | null): readonly Dim[] | null =>
    dims && dims.map((d) => (typeof d === 'string' ? (options.symbols?.[d] ?? d) : d))
  for (const i of graph.inputs) if (i.kind === 'tensor') shapes.set(graph, i.name, { type: i.type, dims: (graph.parent ? undefined : options.dims?.get(i.name)) ?? bind(i.dims), data: graph.parent ? undefined : options.contents?.get(i.name) })
  for (const t of graph.initializers.values())
    shapes.set(graph, t.name, { type: t.type, dims: t.dims, data: readSmall(t) })
  const declared = new Map([...graph.valueInfo.values(), ...graph.outputs].map((v) => [v.name, v]))
  // Of a subgraph that does not fit, only what a run comes upon is an error.
  const inner = options.strict ? { ...options, strict: false } : options
  for (const node of graph.topologicalOrder()) {
    for (const g of node.subgraphs()) inferGraph(g, opsets, inner, shapes)
    const found = inferNode(node, graph, opsets, options, shapes)
    node.outputs.forEach((name, i) => {
      if (!name) return
      const info = declared.get(name)
      const got = found[i]
      const type = got && got.type !== 'undefined' ? got.type : (info?.type ?? 'undefined')
      const told = info?.kind === 'tensor' ? bind(info.dims) : null
      // The op's own word comes first; the file's annotation fills what it leaves open.
      const dims = got?.dims
        ? got.dims.map((d, j) => (d === null && told?.length === got.dims?.length ? (told?.[j] ?? null) : d))
        : told
      const given = graph.parent ? undefined : options.dims?.get(name)
      if (type !== 'undefined' || dims || given) shapes.set(graph, name, { type, dims: given ?? dims, data: got?.data })
    })
  }
}

function inferNode(
  node: Node,
  graph: Graph,
  opsets: ReadonlyMap<string, number>,
  options: InferOptions,
  shapes: Shapes,
): Inferred[] {
  const found: Inferred[] = []
  const op: Op | undefined = opOf(node)
  if (!op) {
    if (options.strict && !options.carry)
      throw new WhittleError(
        'ERR_UNSUPPORTED_OP',
        node.label,
        `${node.opType} ${node.label}: no shape inference for this op`,
      )
    return found
  }
  const input = (i: number): Inferred | undefined => {
    const name = node.inputs[i]
    return name ? shapes.get(name, graph) : undefined
  }
  const context: InferContext = {
    node,
    graph,
    opset: opsets.get(node.domain) ?? 1,
    has: (i) => Boolean(node.inputs[i]),
    type: (i): ElementType => input(i)?.type ?? 'undefined',
    dims: (i) => input(i)?.dims ?? null,
    data: (i) => input(i)?.data,
    numbers: (i) => {
      const data = input(i)?.data
      return data?.every((d) => typeof d === 'number') ? (data as readonly number[]) : undefined
    },
    constant: (i) => (node.inputs[i] ? graph.constant(node.inputs[i]) : undefined),
    inner: (g, name) => shapes.get(name, g),
    set: (i, type, dims, data) => {
      found[i] = { type, dims, data: data && data.length <= kMaxData ? data : undefined }
    },
  }
  try {
    op.infer(context)
  } catch (error) {
    if (options.strict || (error as Error).name !== 'WhittleError') throw error
    return []
  }
  return found
}
