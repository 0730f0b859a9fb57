import { Initializer, type Graph, type Node } from '../../model/graph'
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
  for (const [node, at] of stream.layouts) {
    const known = intsOf(graph, node.inputs[1])
    const concat = known ? undefined : graph.producer(node.inputs[1] ?? '')
    const last = concat?.is('Concat') && at === -1 ? concat.inputs.length - 1 : -1
    const list = known ?? (last >= 0 ? intsOf(graph, concat!.inputs[last]) : undefined)
    const size = list?.at(at)
    if (size === undefined) return `${node.opType} ${node.label} computes how many channels there are`
    if (size === stream.width)
      edits.push({ node: known ? node : concat!, input: known ? 1 : last, index: list!.length + at })
    else if (size > 1) return `${node.opType} ${node.label} gives ${size} channels`
  }
  for (const node of stream.shapes) {
    const value = node.inputs[0]!
    const rank = shapes.get(value, graph)?.dims?.length
    const place = rank === undefined ? undefined : rank + (stream.values.get(value) ?? -1)
    if (
      !node.is('Shape') ||
      rank === undefined ||
      place === undefined ||
      !graph.users(node.outputs[0]!).every((u) => spares(graph, node, u, rank, place))
    )
      return `${node.opType} ${node.label} reads how many channels there are`
  }
  return edits
}

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
