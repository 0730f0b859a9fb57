import type { Dim } from '../types'
import { axisOf, broadcast, op, type Ops } from './op'

export const norm: Ops = {
  // softmax(scale * q k + mask) v over matrices in the last two axes; k lies transposed. Sessions make it of what exporters write.
  'whittle:Attention': op((c) => {
    const [q, v] = [c.dims(0), c.dims(2)]
    if (!q || !v) return c.set(0, c.type(0), null)
    const lead = broadcast(c, [0, 1, 2, 3].filter((i) => c.has(i)).map((i) => c.dims(i)?.slice(0, -2) ?? []))
    c.set(0, c.type(0), lead && [...lead, q[q.length - 2] as Dim, v[v.length - 1] as Dim])
  }),
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
