// Scores, masks and schedules by their definitions, in double precision: sort, count, compare. Slow on purpose.

// Under jest every look-up of a global costs as much as a hundred additions.
const { abs, floor, max, sqrt } = Math

export interface Matrixish {
  readonly dims: readonly number[]
  readonly data: ArrayLike<number>
}

const product = (values: readonly number[]) => values.reduce((a, b) => a * b, 1)

/** round(r·n) to nearest even, from the decimal meaning of "nearest". */
export function removedCount(ratio: number, n: number): number {
  const exact = ratio * n
  const low = floor(exact)
  const below = exact - low
  const above = low + 1 - exact
  if (below < above) return low
  if (below > above) return low + 1
  return low % 2 === 0 ? low : low + 1
}

/** Every element's index along `axis`. */
export function groupAlong(dims: readonly number[], axis: number): number[] {
  const inner = product(dims.slice(axis + 1))
  return Array.from({ length: product(dims) }, (_, i) => floor(i / inner) % (dims[axis] as number))
}

/** Every element's block number, blocks in row-major order. */
export function groupByBlock(dims: readonly number[], r: number, c: number): number[] {
  const cols = product(dims.slice(1))
  return Array.from({ length: product(dims) }, (_, i) => {
    const row = floor(i / cols)
    const col = i % cols
    return floor(row / r) * (cols / c) + floor(col / c)
  })
}

export type OracleCriterion = 'l1' | 'l2' | 'square' | 'linf' | 'sensitivity' | 'taylor' | 'sum'

/** Scores of groups; `group[i]` is the group of element i. Also answers Σ|term|, for error bounds. */
export function groupScores(
  criterion: OracleCriterion,
  w: ArrayLike<number>,
  g: ArrayLike<number> | undefined,
  group: readonly number[],
  count: number,
): { scores: number[]; magnitude: number[] } {
  const sums = new Array<number>(count).fill(0)
  const magnitude = new Array<number>(count).fill(0)
  const terms: Record<OracleCriterion, (x: number, gx: number) => number> = {
    sum: (x) => x,
    l1: (x) => abs(x),
    l2: (x) => x * x,
    square: (x) => x * x,
    linf: (x) => abs(x),
    sensitivity: (_, gx) => abs(gx),
    taylor: (_, gx) => gx,
  }
  const termOf = terms[criterion]
  for (let i = 0; i < group.length; i++) {
    const a = group[i] as number
    const x = w[i] as number
    const term = termOf(x, g ? (g[i] as number) * x : 0)
    sums[a] = criterion === 'linf' ? max(sums[a] as number, term) : (sums[a] as number) + term
    magnitude[a] = (magnitude[a] as number) + abs(term)
  }
  const scores = sums.map((s) => (criterion === 'l2' ? sqrt(s) : criterion === 'taylor' ? s * s : s))
  return { scores, magnitude }
}

/** Σⱼ ‖wᵢ − wⱼ‖₂ over groups. */
export function geometricMedian(w: ArrayLike<number>, group: readonly number[], count: number): number[] {
  const members: number[][] = Array.from({ length: count }, () => [])
  group.forEach((a, i) => (members[a] as number[]).push(w[i] as number))
  return members.map((x) =>
    members.reduce((sum, y) => sum + sqrt(x.reduce((d, v, i) => d + (v - (y[i] as number)) ** 2, 0)), 0),
  )
}

/** 1 for the `keep` largest of the elements in `among`; of equals the earlier ones. By a full sort. */
function keepLargest(scores: ArrayLike<number>, among: readonly number[], keep: number, out: number[]): void {
  const order = [...among].sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b)
  order.forEach((i, rank) => (out[i] = rank < keep ? 1 : 0))
}

/** Removes round-half-even(ratio·n) of all elements. */
export function maskLargest(scores: ArrayLike<number>, ratio: number): number[] {
  const out: number[] = []
  const n = scores.length
  keepLargest(scores, Array.from({ length: n }, (_, i) => i), n - removedCount(ratio, n), out)
  return out
}

/** The same within every group. */
export function maskBalanced(scores: ArrayLike<number>, ratio: number, group: readonly number[], count: number): number[] {
  const out: number[] = []
  const members: number[][] = Array.from({ length: count }, () => [])
  group.forEach((a, i) => (members[a] as number[]).push(i))
  for (const m of members) keepLargest(scores, m, m.length - removedCount(ratio, m.length), out)
  return out
}

/** Keeps n of every run of m along `axis`. */
export function maskRuns(t: Matrixish, n: number, m: number, axis: number): number[] {
  const inner = product(t.dims.slice(axis + 1))
  const along = groupAlong(t.dims, axis)
  const runs = new Map<string, number[]>()
  along.forEach((a, i) => {
    const outer = floor(i / (inner * (t.dims[axis] as number)))
    const key = `${outer} ${floor(a / m)} ${i % inner}`
    if (!runs.has(key)) runs.set(key, [])
    ;(runs.get(key) as number[]).push(i)
  })
  const out: number[] = []
  for (const run of runs.values()) keepLargest(t.data, run, n, out)
  return out
}

/** SplitMix64 of (seed, index), its upper 24 bits as a fraction. */
export function randomScores(seed: number, n: number): number[] {
  const low64 = (v: bigint) => BigInt.asUintN(64, v)
  return Array.from({ length: n }, (_, i) => {
    let z = low64(BigInt(seed) + BigInt(i + 1) * 0x9e3779b97f4a7c15n)
    z = low64((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
    z = low64((z ^ (z >> 27n)) * 0x94d049bb133111ebn)
    z ^= z >> 31n
    return Number(z >> 40n) / 2 ** 24
  })
}
