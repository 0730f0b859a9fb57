import type { Dim } from '../types'
import { op, type CoupleContext, type InferContext, type Ops } from './op'

function recurrent(c: InferContext): void {
  const x = c.dims(0)
  const hidden: Dim = c.node.int('hidden_size') ?? c.dims(2)?.[2] ?? null
  const directions = c.node.string('direction', 'forward') === 'bidirectional' ? 2 : 1
  const batchFirst = c.node.int('layout', 0) === 1
  const [steps, batch]: [Dim, Dim] = x ? [x[batchFirst ? 1 : 0] as Dim, x[batchFirst ? 0 : 1] as Dim] : [null, null]
  c.set(0, c.type(0), batchFirst ? [batch, steps, directions, hidden] : [steps, directions, batch, hidden])
  const last: Dim[] = batchFirst ? [batch, directions, hidden] : [directions, batch, hidden]
  c.set(1, c.type(0), last)
  if (c.node.opType === 'LSTM') c.set(2, c.type(0), last)
}

/** What a cell reads can lose features; what it remembers cannot. */
function inputFeatures(c: CoupleContext): void {
  c.couple(c.in(0, 2), c.in(1, 2))
  c.weight(1, 2, 'input')
}

export const recurrents: Ops = { LSTM: op(recurrent, inputFeatures), GRU: op(recurrent, inputFeatures), RNN: op(recurrent, inputFeatures) }
