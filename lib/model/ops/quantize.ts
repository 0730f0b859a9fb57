import { elementTypeOf } from '../types'
import { op, type Ops } from './op'

export const quantization: Ops = {
  QuantizeLinear: op((c) => {
    const asked = elementTypeOf(c.node.int('output_dtype', 0))
    c.set(0, c.has(2) ? c.type(2) : asked && asked !== 'undefined' ? asked : 'uint8', c.dims(0))
  }),
  DequantizeLinear: op((c) => {
    const asked = elementTypeOf(c.node.int('output_dtype', 0))
    c.set(0, asked && asked !== 'undefined' ? asked : c.type(1), c.dims(0))
  }),
  DynamicQuantizeLinear: op((c) => {
    c.set(0, 'uint8', c.dims(0))
    c.set(1, 'float32', [])
    c.set(2, 'uint8', [])
  }),
}
