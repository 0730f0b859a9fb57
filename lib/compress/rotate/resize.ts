import { Initializer, type Dim, type Graph, type Node } from '../../model/graph'
import type { Shapes } from '../../model/ops/infer'
import type { Stream } from './stream'

/** A constant of sizes in which one is the number of channels. */
export interface SizeEdit {
  readonly node: Node
  readonly input: number
  readonly index: number
}

const intsOf = (graph: Graph, name: string | undefined): number[] | undefined => {
  const c = name ? graph.constant(name) : undefined
  return c && ['int64', 'int32'].includes(c.type) && c.dims.length <= 1
    ? Array.from(c.readSync().data as Iterable<bigint | number>, Number)
    : undefined
}

/** What must be edited where a stream gets another number of channels; else why that cannot be. */
export function sizesOf(graph: Graph, shapes: Shapes, stream: Stream): SizeEdit[] | string {
  const edits: SizeEdit[] = []
  /** Slices of shapes that hand the number of channels on to where it belongs. */
  const right = new Set<Node>()
  for (const [node, at] of stream.layouts) {
    const rank = shapes.get(node.outputs[0]!, graph)?.dims?.length
    const known = intsOf(graph, node.inputs[1])
    const maker = known ? undefined : graph.producer(node.inputs[1] ?? '')
    const chosen = node.is('Expand') && maker?.is('Where')
    const concat = chosen ? graph.producer(maker!.inputs[2]!) : maker
    const part =
      concat?.is('Concat') && rank !== undefined ? partOf(graph, shapes, stream, concat, rank, rank + at) : undefined
    if (part && 'slice' in part) {
      right.add(part.slice)
      continue
    }
    const edit = known ? { node, input: 1, index: known.length + at } : part
    const size = edit && intsOf(graph, edit.node.inputs[edit.input])?.[edit.index]
    if (size === undefined) return `${node.opType} ${node.label} computes how many channels there are`
    // Exporters put 1 for a −1 of an expansion, which keeps a size.
    const ones =
      chosen &&
      (intsOf(graph, maker!.inputs[1])?.every((v) => v === 1) ??
        graph.producer(maker!.inputs[1]!)?.is('ConstantOfShape'))
    if (chosen && (size > 1 || !ones)) return `${node.opType} ${node.label} computes how many channels there are`
    if (size === stream.width) edits.push(edit!)
    else if (size > 1) return `${node.opType} ${node.label} gives ${size} channels`
  }
  for (const node of stream.shapes) {
    const value = node.inputs[0]!
    const rank = shapes.get(value, graph)?.dims?.length
    const place = rank === undefined ? undefined : rank + (stream.values.get(value) ?? -1)
    const spared = (u: Node): boolean => right.has(u) || spares(graph, node, u, rank!, place!)
    if (!node.is('Shape') || place === undefined || !graph.users(node.outputs[0]!).every(spared))
      return `${node.opType} ${node.label} reads how many channels there are`
  }
  return edits
}

/** Which input of a Concat of sizes is number `index` of `rank`: a constant, or a slice of the shape of a value of the stream. */
function partOf(
  graph: Graph,
  shapes: Shapes,
  stream: Stream,
  concat: Node,
  rank: number,
  index: number,
): SizeEdit | { readonly slice: Node } | undefined {
  const lengths = concat.inputs.map((i) => intsOf(graph, i)?.length ?? sizeOf1(shapes.get(i, graph)?.dims))
  // One length that is not known follows from the others.
  const unknown = lengths.filter((l) => l === undefined).length
  if (unknown > 1) return undefined
  const rest = rank - lengths.reduce<number>((a, l) => a + (l ?? 0), 0)
  let from = 0
  for (const [input, name] of concat.inputs.entries()) {
    const length = lengths[input] ?? rest
    if (index < from + length) {
      if (intsOf(graph, name)) return { node: concat, input, index: index - from }
      const slice = graph.producer(name)
      const shape = slice?.is('Slice') ? graph.producer(slice.inputs[0]!) : undefined
      const value = shape?.inputs[0]
      const at =
        value === undefined ? undefined : (stream.values.get(value) ?? (stream.normed.has(value) ? -1 : undefined))
      const start = slice && intsOf(graph, slice.inputs[1])
      const dims = value === undefined ? undefined : shapes.get(value, graph)?.dims
      const plain = slice?.inputs[4] === undefined || intsOf(graph, slice.inputs[4])?.[0] === 1
      const alone = graph.users(name).every((u) => u === concat)
      if (!shape?.is('Shape') || at === undefined || start?.length !== 1 || !dims || !plain || !alone) return undefined
      const first = start[0]! < 0 ? start[0]! + dims.length : start[0]!
      return first + index - from === dims.length + at ? { slice: slice! } : undefined
    }
    from += length
  }
  return undefined
}

const sizeOf1 = (dims: readonly Dim[] | null | undefined): number | undefined =>
  dims?.length === 1 && typeof dims[0] === 'number' ? dims[0] : undefined

/** Whether a reader of a shape takes none but other sizes than that at `place`. */
function spares(graph: Graph, shape: Node, reader: Node, rank: number, place: number): boolean {
  if (graph.isOutput(shape.outputs[0]!) || shape.attributes.has('start') || shape.attributes.has('end')) return false
  if (reader.is('Gather')) {
    const at = intsOf(graph, reader.inputs[1])
    return reader.inputs[0] === shape.outputs[0] && at?.every((i) => (i < 0 ? i + rank : i) !== place) === true
  }
  if (!reader.is('Slice')) return false
  const [start, end] = [intsOf(graph, reader.inputs[1]), intsOf(graph, reader.inputs[2])]
  const step = reader.inputs[4] ? intsOf(graph, reader.inputs[4]) : [1]
  if (start?.length !== 1 || end?.length !== 1 || step?.[0] !== 1) return false
  const [from, to] = [start[0]!, end[0]!].map((i) => (i < 0 ? i + rank : i)) as [number, number]
  return place < from || place >= to
}

export function resize(graph: Graph, edits: readonly SizeEdit[], size: number): void {
  const done = new Map<Node, string>()
  for (const { node, input, index } of edits) {
    // A Concat of sizes may serve several.
    if (done.has(node)) continue
    const c = graph.constant(node.inputs[input]!)!
    const { data } = c.readSync()
    const made = data.slice()
    made[index] = (c.type === 'int64' ? BigInt(size) : size) as never
    const name = graph.uniqueName(`${c.name}_sliced`)
    graph.addInitializer(Initializer.from(name, { type: c.type as 'int64', dims: c.dims, data: made }))
    node.setInput(input, name)
    done.set(node, name)
  }
}
