// Where the lanes of a warp meet again after a branch: the nearest instruction that every path to the end passes.
import { PtxError, type Kernel } from './parse'

export const isEnd = (op: string): boolean => op === 'ret' || op === 'exit' || op === 'trap'

export interface Flow {
  /** Of branches: the instruction they lead to; -1 elsewhere. */
  target: Int32Array
  /** Of branches: where their lanes meet; the instruction count where they do not. */
  meeting: Int32Array
}

export function flowOf(kernel: Kernel): Flow {
  const list = kernel.instructions
  const n = list.length
  const target = new Int32Array(n).fill(-1)
  const leaders = new Set([0])
  list.forEach((x, i) => {
    const op = x.op[0] as string
    if (op === 'bra') {
      const to = x.operands[0]
      const at = to?.kind === 'name' ? kernel.labels.get(to.name) : undefined
      if (at === undefined) throw new PtxError(`line ${x.line}: no label of ${x.text}`)
      target[i] = at
      leaders.add(at)
    }
    if (op === 'bra' || isEnd(op)) leaders.add(i + 1)
  })
  const starts = [...leaders].filter((i) => i < n).sort((a, b) => a - b)
  const blockOf = new Map(starts.map((s, b) => [s, b]))
  const end = starts.length
  const next = starts.map((_, b) => {
    const last = (starts[b + 1] ?? n) - 1
    const x = list[last]
    const op = x?.op[0] as string
    const after = blockOf.get(last + 1) ?? end
    if (op === 'bra')
      return x?.guard
        ? [blockOf.get(target[last] as number) ?? end, after]
        : [blockOf.get(target[last] as number) ?? end]
    return isEnd(op) ? (x?.guard ? [end, after] : [end]) : [after]
  })
  // Post-dominators, nearest first, by iteration over the reversed graph.
  const order: number[] = []
  const seen = new Set<number>()
  const visit = (b: number): void => {
    seen.add(b)
    for (const s of next[b] ?? []) if (!seen.has(s)) visit(s)
    order.push(b)
  }
  visit(0)
  if (!seen.has(end)) throw new PtxError(`kernel ${kernel.name} never ends`)
  const depth = new Map(order.map((b, i) => [b, i])) // the end comes first
  const above = new Map<number, number>([[end, end]])
  for (let changed = true; changed;) {
    changed = false
    for (const b of order) {
      if (b === end) continue
      let best: number | undefined
      for (const s of next[b] ?? []) {
        if (!above.has(s)) continue
        let x: number = s
        if (best === undefined) {
          best = x
          continue
        }
        let y: number = best
        while (x !== y) {
          while ((depth.get(x) as number) > (depth.get(y) as number)) x = above.get(x) as number
          while ((depth.get(y) as number) > (depth.get(x) as number)) y = above.get(y) as number
        }
        best = x
      }
      if (best !== undefined && above.get(b) !== best) {
        above.set(b, best)
        changed = true
      }
    }
  }
  const meeting = new Int32Array(n).fill(n)
  starts.forEach((_, b) => {
    const last = (starts[b + 1] ?? n) - 1
    if (list[last]?.op[0] === 'bra' && seen.has(b)) meeting[last] = starts[above.get(b) ?? end] ?? n
  })
  return { target, meeting }
}
