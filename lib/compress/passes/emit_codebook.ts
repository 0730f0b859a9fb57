import { attribute, Initializer, Node } from '../../model/graph'
import type { Weight } from '../../model/weights'
import { sizeOf } from '../../tensor'
import { tableOf } from '../rounding/packing'
import { planeOf, type Shared } from '../rounding/shared'
import { exchangedDims } from '../rounding/vectors'
import { channelScaleDims } from './emit'

const kInt32 = 6

/**
 * @internal Puts indices, table and the nodes that look up in the weight's place; readers keep its name. The nodes go before all others.
 */
export function lookUp({ graph, initializer, view }: Weight, { table, bits, perByte, indices, pieces, scales }: Shared): Node[] {
  const { name, dims } = initializer
  if (graph.isInput(name)) graph.inputs = graph.inputs.filter((i) => i.name !== name)
  graph.initializers.delete(name)
  graph.valueInfo.delete(name)
  const add = (tensor: Initializer): void => void graph.addInitializer(tensor)
  const codes = graph.uniqueName(`${name}_q`)
  const book = graph.uniqueName(`${name}_codebook`)
  const nodes: Node[] = []
  /** The last node gives the weight its name. */
  const then = (opType: string, end: string, last: boolean, inputs: (made: string) => string[], attributes = {}): void => {
    const output = last ? name : graph.uniqueName(`${name}_${end}`)
    nodes.push(new Node({ opType, inputs: inputs(nodes.at(-1)?.outputs[0] ?? codes), outputs: [output], attributes }))
  }
  then('Cast', 'i', false, (made) => [made], { to: attribute.int(kInt32) })
  const turned = pieces?.turned === true
  const size = pieces?.size ?? perByte
  const cut = size > 1
  then('Gather', 'f', !cut && !scales, (made) => [book, made], { axis: attribute.int(0) })
  if (cut) {
    const seen = turned ? exchangedDims(dims) : dims
    const whole = seen.at(-1)! % size === 0
    add(new Initializer(codes, 'uint8', whole ? [...seen.slice(0, -1), seen.at(-1)! / size] : [sizeOf(dims) / size], indices))
    const rows = pieces ? table : tableOf(planeOf(table, bits, perByte))
    add(Initializer.from(book, { type: 'float32', dims: [rows.length / size, size], data: rows }))
    const shape = graph.uniqueName(`${name}_shape`)
    add(Initializer.from(shape, { type: 'int64', dims: [dims.length], data: BigInt64Array.from(seen, BigInt) }))
    then('Reshape', 'c', !scales && !turned, (made) => [made, shape])
  } else {
    add(new Initializer(codes, 'uint8', dims, indices))
    add(Initializer.from(book, { type: 'float32', dims: [table.length], data: table }))
  }
  if (scales) {
    const s = graph.uniqueName(`${name}_s`)
    add(Initializer.from(s, { type: 'float32', dims: turned ? [scales.length, 1] : channelScaleDims(dims, view), data: scales }))
    then('Mul', 'm', !turned, (made) => [made, s])
  }
  if (turned) then('Transpose', 't', true, (made) => [made], { perm: attribute.ints(exchangedDims(dims.map((_, i) => i))) })
  return nodes
}
