import type { Dim } from '../types'
import { bad, op, type CoupleContext, type InferContext, type Ops } from './op'
import { slide, windowOf } from './conv'
import { batchAndChannels } from './couple'

function pool(c: InferContext): void {
  const x = c.dims(0)
  const kernel = c.node.ints('kernel_shape')
  if (!kernel) bad(c, 'no kernel_shape')
  if (!x) return c.set(0, c.type(0), null)
  const n = x.length - 2
  if (kernel.length !== n) bad(c, `kernel_shape has ${kernel.length} entries for an input of rank ${x.length}`)
  const dims = [
    x[0] as Dim,
    x[1] as Dim,
    ...slide(c, x.slice(2), kernel, windowOf(c, n), c.node.int('ceil_mode', 0) === 1),
  ]
  c.set(0, c.type(0), dims)
  if (c.node.opType === 'MaxPool') c.set(1, 'int64', dims)
}

function global(c: InferContext): void {
  const x = c.dims(0)
  c.set(0, c.type(0), x && x.map((d, i) => (i < 2 ? d : 1)))
}

/** MaxPool's indices count through all channels. */
const pooled = (c: CoupleContext): void => {
  if (c.node.outputs.length === 1) batchAndChannels(c)
}

export const pooling: Ops = {
  MaxPool: op(pool, pooled),
  AveragePool: op(pool, pooled),
  LpPool: op(pool, pooled),
  GlobalAveragePool: op(global, pooled),
  GlobalMaxPool: op(global, pooled),
  GlobalLpPool: op(global, pooled),
}
