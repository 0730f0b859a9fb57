import { WhittleError } from '../../errors'
import { sizeOf, type Tensor } from '../../tensor'
import type { Node } from '../../model'
import { axisOf, numbers, operand, pick, plain, refuse, type Host } from './host'

/**
 * A list of tensors on its way through a run. It passes for a tensor of a type that no kernel knows, so that plans leave it alone and only the
 * nodes below look into it.
 */
interface Sequence extends Tensor {
  readonly items: readonly Tensor[]
}

/** @internal What inference is told of such a value. */
export const kSequence = 'sequence' as Tensor['type']

function sequence(items: readonly Tensor[]): Sequence {
  return { type: kSequence, dims: [items.length], data: new Uint8Array(0), items }
}

/** @internal A value that leaves the session's own parts. */
export function tensorOf(name: string, t: Tensor): Tensor {
  if (t.type === kSequence) throw new WhittleError('ERR_UNSUPPORTED_OP', name, `${name}: a sequence where sessions take and answer tensors`)
  return t
}

function itemsOf(node: Node, value: Tensor | undefined): readonly Tensor[] {
  if (value?.type !== kSequence) return refuse(node, `a tensor of ${value?.type ?? 'nothing'}, want a sequence`)
  return (value as Sequence).items
}

/** A position, counted from the front; `end`: one behind the last will do. */
function place(node: Node, at: Tensor, count: number, end: boolean): number {
  const i = Number(at.data[0])
  const last = end ? count : count - 1
  if (!(i >= -count && i <= last)) refuse(node, `position ${i} of a sequence of ${count}`)
  return i < 0 ? i + count : i
}

const insert = plain((node, list, item, at) => {
  const items = [...itemsOf(node, list)]
  const [first] = items
  const { type } = item as Tensor
  if (first && first.type !== type) refuse(node, `a tensor of ${type} among those of ${first.type}`)
  items.splice(at ? place(node, at, items.length, true) : items.length, 0, item as Tensor)
  return [sequence(items)]
})

const erase = plain((node, list, at) => {
  const items = [...itemsOf(node, list)]
  if (!at && items.length === 0) refuse(node, 'nothing to take out of a sequence of 0')
  items.splice(at ? place(node, at, items.length, false) : items.length - 1, 1)
  return [sequence(items)]
})

const itemAt = plain((node, list, at) => {
  const items = itemsOf(node, list)
  return [items[place(node, at as Tensor, items.length, false)]]
})

const length = plain((node, list) => [{ type: 'int64', dims: [], data: BigInt64Array.of(BigInt(itemsOf(node, list).length)) }])

/** Parts of equal size, the last of which may be smaller; parts of sizes that are listed; or single rows. */
const split = plain((node, given, parts) => {
  const x = given as Tensor
  const axis = axisOf(node, node.int('axis', 0), x.dims.length)
  const n = x.dims[axis] as number
  const sizes: number[] = []
  if (parts && parts.dims.length > 0) sizes.push(...Array.from(numbers(parts)))
  else {
    const each = parts ? Number(parts.data[0]) : 1
    if (!(each >= 1)) refuse(node, `parts of ${each}`)
    for (let at = 0; at < n; at += each) sizes.push(Math.min(each, n - at))
  }
  if (sizes.some((s) => s < 0) || sizes.reduce((a, b) => a + b, 0) !== n) refuse(node, `parts of ${sizes.join(', ')} of an axis of ${n}`)
  const [outer, inner] = [sizeOf(x.dims.slice(0, axis)), sizeOf(x.dims.slice(axis + 1))]
  const flat = !parts && node.int('keepdims', 1) === 0
  let at = 0
  return [
    sequence(
      sizes.map((size) => {
        const dims = x.dims.flatMap((d, i) => (i !== axis ? [d] : flat ? [] : [size]))
        const rows = Array.from({ length: size }, (_, i) => at + i)
        at += size
        return pick(x, outer, n, inner, rows, dims)
      }),
    ),
  ]
})

const concat = plain((node, list) => {
  const items = itemsOf(node, list)
  const [first] = items
  if (!first) return refuse(node, 'a sequence of 0, want one or more tensors')
  const fresh = node.int('new_axis', 0) !== 0
  const rank = first.dims.length + Number(fresh)
  const axis = axisOf(node, node.int('axis', 0), rank)
  const wide = items.map((t) => ({ ...t, dims: fresh ? [...t.dims.slice(0, axis), 1, ...t.dims.slice(axis)] : t.dims }))
  const others = (t: Tensor): string => [t.type, ...t.dims.map((d, i) => (i === axis ? 'any' : d))].join()
  const odd = wide.find((t) => others(t) !== others(wide[0] as Tensor))
  if (odd) refuse(node, `tensors of ${first.type} [${first.dims.join(', ')}] and ${odd.type} [${odd.dims.join(', ')}] along axis ${axis}`)
  const dims = [...(wide[0] as Tensor).dims]
  dims[axis] = wide.reduce((sum, t) => sum + (t.dims[axis] as number), 0)
  const outer = sizeOf(dims.slice(0, axis))
  const data = new (first.data.constructor as new (n: number) => Tensor['data'])(sizeOf(dims))
  let to = 0
  for (let o = 0; o < outer; o++)
    for (const t of wide) {
      const run = t.data.length / outer
      data.set(t.data.subarray(o * run, (o + 1) * run) as never, to)
      to += run
    }
  return [{ type: first.type, dims, data }]
})

const construct = plain((node, ...items) => {
  const list = items as Tensor[]
  const odd = list.find((t) => t.type !== list[0]?.type)
  if (odd) refuse(node, `a tensor of ${odd.type} among those of ${list[0]?.type}`)
  return [sequence(list)]
})

export const sequences: Readonly<Record<string, Host>> = {
  SequenceEmpty: plain(() => [sequence([])]),
  SequenceConstruct: construct,
  SequenceInsert: insert,
  SequenceErase: erase,
  SequenceAt: itemAt,
  SequenceLength: length,
  SplitToSequence: split,
  ConcatFromSequence: concat,
}

/** A list that is handed on as it is, through a branch or out of a loop's body. */
export const handing: Readonly<Record<string, Host>> = {
  Identity: (node, scope) => ({
    *run(known) {
      return [operand(node, scope, known, 0)]
    },
  }),
}
