/** GPTQ, SparseGPT and OBS as the papers write them: float64, one column at a time, the inverse by elimination. */

type Matrix = number[][]

export function inverse(a: Matrix): Matrix {
  const n = a.length
  const m = a.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))])
  for (let c = 0; c < n; c++) {
    let p = c
    for (let r = c; r < n; r++) if (Math.abs(m[r]![c]!) > Math.abs(m[p]![c]!)) p = r
    const pivot = m[p]!
    m[p] = m[c]!
    const scale = pivot[c]!
    m[c] = pivot.map((v) => v / scale)
    for (let r = 0; r < n; r++) {
      const f = m[r]![c]!
      if (r === c || f === 0) continue
      const row = m[r]!
      for (let j = c; j < 2 * n; j++) row[j]! -= f * m[c]![j]!
    }
  }
  return m.map((row) => row.slice(n))
}

/** U with A = Uᵀ U. */
function upperFactor(a: Matrix): Matrix {
  const n = a.length
  const u = a.map((row) => row.map(() => 0))
  for (let i = 0; i < n; i++)
    for (let j = i; j < n; j++) {
      let s = a[i]![j]!
      for (let k = 0; k < i; k++) s -= u[k]![i]! * u[k]![j]!
      u[i]![j] = i === j ? Math.sqrt(s) : s / u[i]![i]!
    }
  return u
}

const factors = new WeakMap<Matrix, Matrix>()

function factorOf(h: Matrix): Matrix {
  const known = factors.get(h) ?? upperFactor(inverse(damped(h, 0.01)))
  factors.set(h, known)
  return known
}

export const matrixOf = (data: ArrayLike<number>, rows: number, columns: number): Matrix =>
  Array.from({ length: rows }, (_, r) => Array.from({ length: columns }, (_, c) => data[r * columns + c]!))

export function damped(h: Matrix, damping: number): Matrix {
  const mean = h.reduce((s, row, i) => s + row[i]!, 0) / h.length || 1
  return h.map((row, i) => row.map((v, j) => (i === j ? v + damping * mean : v)))
}

export function traceError(a: Matrix, b: Matrix, h: Matrix): number {
  let total = 0
  a.forEach((row, r) => {
    const d = row.map((v, c) => v - b[r]![c]!)
    d.forEach((x, i) => d.forEach((y, j) => void (total += x * y * h[i]![j]!)))
  })
  return total
}

const even = (x: number): number => {
  const low = Math.floor(x)
  return x - low === 0.5 ? low + (low % 2 === 0 ? 0 : 1) : Math.round(x)
}

const nearest = (v: number, s: number, top: number): number => s * Math.max(-top, Math.min(top, even(v / s)))
const absmax = (values: readonly number[], top: number): number => values.reduce((m, v) => Math.max(m, Math.abs(v)), 0) / top || 1

export function plainNearest(w: Matrix, bits: number, block: number): Matrix {
  const top = 2 ** (bits - 1) - 1
  return w.map((row) => row.map((v, c) => {
    const from = Math.floor(c / block) * block
    return nearest(v, absmax(row.slice(from, from + block), top), top)
  }))
}

/** With `order` columns go by falling diagonal and scales come from the weights as given. */
export function plainGptq(w: Matrix, h: Matrix, bits: number, block: number, order = false): Matrix {
  const n = h.length
  const top = 2 ** (bits - 1) - 1
  const at = h.map((_, i) => i)
  if (order) at.sort((a, b) => h[b]![b]! - h[a]![a]! || a - b)
  const u = order ? factorOf(at.map((i) => at.map((j) => h[i]![j]!))) : factorOf(h)
  return w.map((given) => {
    const row = at.map((c) => given[c]!)
    const out = new Array<number>(n)
    let s = absmax(given.slice(0, block), top)
    for (let j = 0; j < n; j++) {
      const from = Math.floor(at[j]! / block) * block
      if (order) s = absmax(given.slice(from, from + block), top)
      else if (j % block === 0) s = absmax(row.slice(j, j + block), top)
      const q = nearest(row[j]!, s, top)
      const error = (row[j]! - q) / u[j]![j]!
      for (let k = j; k < n; k++) row[k]! -= error * u[j]![k]!
      out[at[j]!] = q
    }
    return out
  })
}

/** `choose` gets the scores of rows × columns from..to and answers what goes; it is asked every `stretch` columns. */
export function plainSparse(w: Matrix, h: Matrix, stretch: number, choose: (scores: Matrix) => boolean[][]): Matrix {
  const n = h.length
  const u = factorOf(h)
  const rows = w.map((row) => [...row])
  let gone: boolean[][] = []
  for (let j = 0; j < n; j++) {
    if (j % stretch === 0) gone = choose(rows.map((row) => row.slice(j, j + stretch).map((v, i) => (v / u[j + i]![j + i]!) ** 2)))
    rows.forEach((row, r) => {
      if (!gone[r]![j % stretch]) return
      const error = row[j]! / u[j]![j]!
      for (let k = j; k < n; k++) row[k]! -= error * u[j]![k]!
      row[j] = 0
    })
  }
  return rows
}

/** The least of all scores go, later ones first among equals. */
export function leastOf(scores: Matrix, ratio: number): boolean[][] {
  const flat = scores.flatMap((row, r) => row.map((v, c) => ({ v, r, c })))
  flat.sort((a, b) => a.v - b.v || b.r - a.r || b.c - a.c)
  const gone = scores.map((row) => row.map(() => false))
  for (const { r, c } of flat.slice(0, even(ratio * flat.length))) gone[r]![c] = true
  return gone
}

/** The kept weights of a row that minimize the error, by the normal equations. */
export function plainRefit(w: readonly number[], kept: readonly boolean[], h: Matrix): number[] {
  const stay = w.map((_, i) => i).filter((i) => kept[i])
  const inner = inverse(stay.map((i) => stay.map((j) => h[i]![j]!)))
  const right = stay.map((i) => w.reduce((s, v, k) => s + h[i]![k]! * v, 0))
  const out = w.map(() => 0)
  stay.forEach((i, a) => void (out[i] = right.reduce((s, v, b) => s + inner[a]![b]! * v, 0)))
  return out
}
