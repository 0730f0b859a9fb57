import type { Dim, ElementType } from '../types'
import type { InferContext } from './op'

/** A result as its type holds it; `null` where that cannot be known exactly. */
function rounded(v: number, type: ElementType): number | null {
  switch (type) {
    case 'float32':
      return Math.fround(v)
    case 'float64':
      return v
    case 'bool':
      return v ? 1 : 0
    case 'int64':
      return Number.isSafeInteger(v) ? v : null
    case 'int32':
      return Number.isInteger(v) && Math.abs(v) < 2 ** 31 ? v : null
    default:
      return null
  }
}

/** Content of an elementwise result of type `type`, as far as the content of the operands tells it. */
export function mapped(c: InferContext, type: ElementType, rank: number | undefined, f: (...operands: number[]) => number): Dim[] | undefined {
  if (rank === undefined || rank > 1) return undefined
  const operands = c.node.inputs.map((_, i) => c.data(i))
  if (operands.some((o) => o === undefined)) return undefined
  const all = operands as (readonly Dim[])[]
  const n = all.some((o) => o.length === 0) ? 0 : Math.max(...all.map((o) => o.length))
  if (all.some((o) => o.length !== 1 && o.length !== n)) return undefined
  return Array.from({ length: n }, (_, i) => {
    const given = all.map((o) => o[o.length === 1 ? 0 : i] as Dim)
    return given.every((d) => typeof d === 'number') ? rounded(f(...(given as number[])), type) : null
  })
}

/** Where: a known condition tells the choice even where the choice itself is a symbol. */
export function chosen(c: InferContext, rank: number | undefined): Dim[] | undefined {
  const [when, a, b] = [c.data(0), c.data(1), c.data(2)]
  if (!when || !a || !b || rank === undefined || rank > 1) return undefined
  const n = Math.max(when.length, a.length, b.length)
  if ([when, a, b].some((o) => o.length !== 1 && o.length !== n)) return undefined
  const at = (o: readonly Dim[], i: number): Dim => o[o.length === 1 ? 0 : i] as Dim
  return Array.from({ length: n }, (_, i) => {
    const w = at(when, i)
    return typeof w === 'number' ? at(w ? a : b, i) : null
  })
}

/** Content after a conversion. */
export function converted(c: InferContext, to: ElementType): Dim[] | undefined {
  const from = c.type(0)
  const data = c.data(0)
  if (!data) return undefined
  const truncate = (from === 'float32' || from === 'float64') && (to === 'int64' || to === 'int32')
  return data.map((d) => (typeof d === 'number' ? rounded(truncate ? Math.trunc(d) : d, to) : to === 'int64' || to === 'int32' ? d : null))
}

/** Content of a sum, product or extreme over all of a small vector. */
export function folded(c: InferContext, f: (a: number, b: number) => number, first: number): Dim[] | undefined {
  const data = c.data(0)
  if (!data || (c.dims(0)?.length ?? 2) > 1 || !data.every((d) => typeof d === 'number')) return undefined
  return [rounded((data as number[]).reduce(f, first), c.type(0))]
}
