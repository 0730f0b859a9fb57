import type { Node } from '../../model'
import type { Lower, Lowering } from '../lowering'
import type { Memory } from '../program'
import { stridesOf, type Value } from '../value'

interface Operand {
  readonly memory: Memory
  /** elements between neighbours along batch, head, row, column */
  readonly strides: readonly number[]
}

/** A stack of matrices as four axes; `lead` is batch and head of the result. An axis of size 1 repeats. */
function operand(l: Lowering, v: Value, node: Node, contiguous: boolean): Operand {
  let x = l.inMemory(v, node)
  let own = stridesOf(x.dims, x.order)
  const rank = x.dims.length
  if (contiguous && ![rank - 1, rank - 2].some((i) => own[i] === 1)) {
    x = l.rowMajor(x, node)
    own = stridesOf(x.dims, x.order)
  }
  const strides = [0, 1, 2, 3].map((i) => {
    const at = i - (4 - rank)
    return at < 0 || (x.dims[at] === 1 && (i < 2 || !contiguous)) ? 0 : (own[at] as number)
  })
  return { memory: x.memory, strides }
}

const attention: Lower = (node, l) => {
  const [q, k, v] = node.inputs.slice(0, 3).map((name) => l.lazy(name, node)) as [Value, Value, Value]
  const mask = node.inputs[3] ? l.lazy(node.inputs[3], node) : undefined
  for (const x of [q, k, v, ...(mask ? [mask] : [])]) l.float(x, node)
  const name = node.outputs[0] as string
  const dims = l.dims(name, node)
  const rank = dims.length
  const [rows, wide] = dims.slice(-2) as [number, number]
  const [depth, keys] = k.dims.slice(-2) as [number, number]
  const [batch, heads] = (rank === 3 ? [1, dims[0]] : [dims[0], dims[1]]) as [number, number]
  // Heads lie side by side in a row, as what follows wants them.
  const order = rank === 4 ? [0, 2, 1, 3] : [0, 1, 2]
  const out = l.make('float32', dims, order)
  const strides = stridesOf(dims, order)
  const parts = [q, k, v].map((x) => operand(l, x, node, true))
  const masked = mask && operand(l, mask, node, false)
  l.program.step(
    'attention',
    node.label,
    ...[batch, heads, rows, keys, depth, wide],
    node.float('scale', 1),
    node.int('forgiving', 0),
    ...parts.flatMap((p) => [...p.strides, p.memory]),
    ...(masked ? masked.strides : [0, 0, 0, 0]),
    masked ? masked.memory : null,
    ...(rank === 4 ? strides.slice(0, 3) : [0, ...strides.slice(0, 2)]),
    out.memory,
  )
  l.define(name, out, node)
}

export const attentions: Readonly<Record<string, Lower>> = { 'whittle:Attention': attention }
