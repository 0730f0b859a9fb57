import type { Model } from '../../model/model'
import type { Node } from '../../model/node'
import { inferShapes, type Shapes } from '../../model/ops/infer'
import { sizeOf } from '../../tensor'

/**
 * @internal Multiplications and additions of products and convolutions of the outermost graph, by node output, for inputs of
 * `dims`; what has no known shape counts nothing.
 */
export function macsOf(model: Model, dims: ReadonlyMap<string, readonly number[]>): Map<string, number> {
  const shapes = inferShapes(model.graph, model.opsets, { dims })
  const found = new Map<string, number>()
  for (const node of model.graph.nodes) {
    const macs = nodeMacs(node, model, shapes)
    if (macs > 0) found.set(node.outputs[0] ?? '', macs)
  }
  return found
}

/** @internal Sum of {@link macsOf}, of one sample where the model leaves the first axis of its inputs open. */
export function totalMacs(model: Model, dims: ReadonlyMap<string, readonly number[]>): number {
  const one = new Map(
    model.graph.inputs.flatMap((i): [string, readonly number[]][] => {
      const given = dims.get(i.name)
      return given ? [[i.name, typeof i.dims?.[0] === 'number' ? given : given.map((d, axis) => (axis === 0 ? 1 : d))]] : []
    }),
  )
  let sum = 0
  for (const n of macsOf(model, one).values()) sum += n
  return sum
}

function nodeMacs(node: Node, { graph }: Model, shapes: Shapes): number {
  const dims = (name: string | undefined): readonly number[] | undefined => {
    const found = name ? shapes.get(name, graph)?.dims : undefined
    return found?.every((d) => typeof d === 'number') ? (found as readonly number[]) : undefined
  }
  const [a, b, y] = [dims(node.inputs[0]), dims(node.inputs[1]), dims(node.outputs[0])]
  if (!a || !b) return 0
  if (node.is('Conv')) return y ? sizeOf(y) * sizeOf(b.slice(1)) : 0
  if (node.is('ConvTranspose')) return sizeOf(a) * sizeOf(b.slice(1))
  if (node.is('MatMul')) return y ? sizeOf(y) * a[a.length - 1]! : 0
  if (node.is('Gemm')) return y ? sizeOf(y) * a[node.int('transA', 0) ? 0 : 1]! : 0
  if (node.is('LSTM', 'GRU', 'RNN')) {
    const recurrent = dims(node.inputs[2])
    return a.length === 3 ? a[0]! * a[1]! * (sizeOf(b) + (recurrent ? sizeOf(recurrent) : 0)) : 0
  }
  return 0
}
