/** A layer that shares in a budget: a matrix of two sides and its singular values, falling. */
export interface Shared {
  readonly rows: number
  readonly columns: number
  readonly spectrum: ArrayLike<number>
}

/** What a layer gets: a rank, or all of itself. */
export type Allotment = number | 'whole'

/**
 * Ranks of layers that together hold at most `share` of their numbers, such that what they lose of their squared norms, each
 * layer's as a part of its own, adds up to little: the next singular value that brings most for the numbers that it takes comes
 * next. Gains of one layer fall from rank to rank, so only where the last one fits no more can another choice be better. A
 * layer whose factors would hold as many numbers as itself gets itself. Every layer gets rank 1 at least, over the budget too.
 */
export function allot(layers: readonly Shared[], share: number): Allotment[] {
  const budget = share * layers.reduce((n, l) => n + l.rows * l.columns, 0)
  const states = layers.map(({ rows, columns, spectrum }) => {
    const each = rows + columns
    const squares = Float64Array.from(spectrum, (s) => s * s)
    const total = squares.reduce((a, b) => a + b, 0)
    // The last rank that saves anything.
    const most = Math.max(0, Math.ceil((rows * columns) / each) - 1)
    const rank = Math.min(1, most)
    const left = total - (rank ? squares[0]! : 0)
    return { rows, columns, each, squares, total, most, rank, left, whole: most === 0, open: most > 0 }
  })
  let used = states.reduce((n, s) => n + (s.whole ? s.rows * s.columns : s.each), 0)
  for (;;) {
    let best: (typeof states)[number] | undefined
    let next = { gain: 0, numbers: 0 }
    let most = -1
    for (const s of states) {
      if (!s.open) continue
      const step = stepOf(s)
      const density = step.gain / (s.total > 0 ? s.total : 1) / step.numbers
      if (density > most) [most, best, next] = [density, s, step]
    }
    if (!best) break
    const { gain, numbers } = next
    if (used + numbers > budget || gain <= 0) {
      best.open = false
      continue
    }
    used += numbers
    best.left -= gain
    if (best.rank < best.most) best.rank++
    else [best.whole, best.open] = [true, false]
  }
  return states.map((s) => (s.whole ? 'whole' : s.rank))
}

/** What the next rank of a layer, or at last the layer itself, brings and takes. */
function stepOf(s: {
  rows: number
  columns: number
  each: number
  squares: Float64Array
  most: number
  rank: number
  left: number
}) {
  return s.rank < s.most
    ? { gain: s.squares[s.rank] ?? 0, numbers: s.each }
    : { gain: Math.max(0, s.left), numbers: s.rows * s.columns - s.rank * s.each }
}
