import type { Dim } from '../types'
import { everyAxis, fromFront, passing } from './couple'
import { axisOf, broadcast, op, type CoupleContext, type Ops } from './op'

/** Channels are on their own: four numbers each. While training they are too, but statistics are outputs then. */
function batchNormChannels(c: CoupleContext): void {
  if (c.node.int('training_mode', 0) || c.node.outputs.length > 1) return
  everyAxis(c)
  for (const i of [1, 2, 3, 4]) {
    c.couple(c.in(i, 0), c.in(0, 1))
    c.weight(i, 0, i === 1 ? 'gamma' : 'scale')
  }
}

const outsideOfNorm = passing((c, axis, rank) => axis < fromFront(c.node.int('axis', -1), rank))

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
  }, batchNormChannels),
  LayerNormalization: op((c) => {
    const x = c.dims(0)
    c.set(0, c.type(0), x)
    const axis = x ? axisOf(c, c.node.int('axis', -1), x.length) : 0
    for (let i = 1; i < c.node.outputs.length; i++) c.set(i, 'float32', x && x.map((d, j) => (j < axis ? d : 1)))
  }, outsideOfNorm),
  RMSNormalization: op((c) => c.set(0, c.type(0), c.dims(0)), outsideOfNorm),
}
