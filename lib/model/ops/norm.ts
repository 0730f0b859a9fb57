import type { Dim } from '../types'
import { axisOf, op, type Ops } from './op'

export const norm: Ops = {
  BatchNormalization: op((c) => {
    c.set(0, c.type(0), c.dims(0))
    const x = c.dims(0)
    for (let i = 1; i < c.node.outputs.length; i++) c.set(i, c.type(0), x && x.length > 1 ? [x[1] as Dim] : null)
  }),
  LayerNormalization: op((c) => {
    const x = c.dims(0)
    c.set(0, c.type(0), x)
    const axis = x ? axisOf(c, c.node.int('axis', -1), x.length) : 0
    for (let i = 1; i < c.node.outputs.length; i++) c.set(i, 'float32', x && x.map((d, j) => (j < axis ? d : 1)))
  }),
  RMSNormalization: op((c) => c.set(0, c.type(0), c.dims(0))),
}
