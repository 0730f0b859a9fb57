// Factorizations by their definitions, in double precision over plain arrays. Slow on purpose.

const { abs, sqrt, max } = Math
export type Numbers = ArrayLike<number>

const at = (x: Numbers, i: number) => x[i] as number

/** [m, k] · [k, n] */
export function product(a: Numbers, b: Numbers, m: number, k: number, n: number): number[] {
  const c = new Array<number>(m * n).fill(0)
  for (let i = 0; i < m; i++)
    for (let p = 0; p < k; p++) for (let j = 0; j < n; j++) c[i * n + j] = at(c, i * n + j) + at(a, i * k + p) * at(b, p * n + j)
  return c
}

export function transpose(a: Numbers, m: number, n: number): number[] {
  return Array.from({ length: m * n }, (_, i) => at(a, (i % m) * n + ((i / m) | 0)))
}

export function norm(x: Numbers): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += at(x, i) ** 2
  return sqrt(sum)
}

export function distance(a: Numbers, b: Numbers): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (at(a, i) - at(b, i)) ** 2
  return sqrt(sum)
}

/** One iteration, W then H. */
export function multiplicative(a: Numbers, w: number[], h: number[], m: number, n: number, rank: number): void {
  const ht = transpose(h, rank, n)
  const up = product(a, ht, m, n, rank)
  const down = product(w, product(h, ht, rank, n, rank), m, rank, rank)
  w.forEach((v, i) => (w[i] = (v * at(up, i)) / at(down, i)))
  const wt = transpose(w, m, rank)
  const num = product(wt, a, rank, m, n)
  const den = product(product(wt, w, rank, m, rank), h, rank, rank, n)
  h.forEach((v, i) => (h[i] = (v * at(num, i)) / at(den, i)))
}

/** One iteration, columns of W then rows of H, each solved for alone; one whose partner is 0 stays. */
export function hals(a: Numbers, w: number[], h: number[], m: number, n: number, rank: number): void {
  for (let r = 0; r < rank; r++) {
    const rest = distanceTo(a, product(w, h, m, rank, n))
    let own = 0
    for (let j = 0; j < n; j++) own += at(h, r * n + j) ** 2
    if (own === 0) continue
    for (let i = 0; i < m; i++) {
      let sum = 0
      for (let j = 0; j < n; j++) sum += at(rest, i * n + j) * at(h, r * n + j)
      w[i * rank + r] = max(0, at(w, i * rank + r) + sum / own)
    }
  }
  for (let r = 0; r < rank; r++) {
    const rest = distanceTo(a, product(w, h, m, rank, n))
    let own = 0
    for (let i = 0; i < m; i++) own += at(w, i * rank + r) ** 2
    if (own === 0) continue
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let i = 0; i < m; i++) sum += at(rest, i * n + j) * at(w, i * rank + r)
      h[r * n + j] = max(0, at(h, r * n + j) + sum / own)
    }
  }
}

const distanceTo = (a: Numbers, b: Numbers) => Array.from(a, (v, i) => v - at(b, i))

/** Σᵣ weightᵣ Πₖ factorₖ[iₖ, r] for every element of a tensor of these dims. */
export function cpTensor(dims: readonly number[], factors: readonly Numbers[], weights: Numbers): number[] {
  const rank = weights.length
  return everyIndex(dims).map((index) => {
    let sum = 0
    for (let r = 0; r < rank; r++) sum += index.reduce((p, i, k) => p * at(factors[k] as Numbers, i * rank + r), at(weights, r))
    return sum
  })
}

function everyIndex(dims: readonly number[]): number[][] {
  return dims.reduce<number[][]>((list, d) => list.flatMap((l) => Array.from({ length: d }, (_, i) => [...l, i])), [[]])
}

/** The tensor times a matrix [rows, dims[mode]] along a mode. */
export function modeProduct(x: Numbers, dims: readonly number[], mode: number, matrix: Numbers, rows: number): number[] {
  const inner = dims.slice(mode + 1).reduce((a, b) => a * b, 1)
  const d = dims[mode] as number
  const outer = dims.slice(0, mode).reduce((a, b) => a * b, 1)
  const out: number[] = []
  for (let o = 0; o < outer; o++)
    for (let r = 0; r < rows; r++)
      for (let q = 0; q < inner; q++) {
        let sum = 0
        for (let i = 0; i < d; i++) sum += at(matrix, r * d + i) * at(x, (o * d + i) * inner + q)
        out.push(sum)
      }
  return out
}

/** Squared singular values of an unfolding, descending: Jacobi's rotations of its Gram matrix. */
export function spectrum(x: Numbers, dims: readonly number[], mode: number): number[] {
  const inner = dims.slice(mode + 1).reduce((a, b) => a * b, 1)
  const d = dims[mode] as number
  const g = Array.from({ length: d }, () => new Array<number>(d).fill(0))
  for (let i = 0; i < x.length; i++) {
    const a = ((i / inner) | 0) % d
    for (let b = 0; b < d; b++) (g[a] as number[])[b] = at(g[a] as number[], b) + at(x, i) * at(x, i + (b - a) * inner)
  }
  for (let round = 0; round < 50; round++)
    for (let p = 0; p < d; p++)
      for (let q = p + 1; q < d; q++) {
        const [gp, gq] = [g[p] as number[], g[q] as number[]]
        if (abs(at(gp, q)) < 1e-300) continue
        const z = (at(gq, q) - at(gp, p)) / (2 * at(gp, q))
        const t = (z >= 0 ? 1 : -1) / (abs(z) + sqrt(1 + z * z))
        const [c, s] = [1 / sqrt(1 + t * t), t / sqrt(1 + t * t)]
        for (const row of g) [row[p], row[q]] = [c * at(row, p) - s * at(row, q), s * at(row, p) + c * at(row, q)]
        for (let j = 0; j < d; j++) [gp[j], gq[j]] = [c * at(gp, j) - s * at(gq, j), s * at(gp, j) + c * at(gq, j)]
      }
  return g.map((row, i) => max(0, at(row, i))).sort((a, b) => b - a)
}

/** A convolution of one image [in, height, width] with weights [out, in, kh, kw], no padding, stride 1. */
export function convolve(x: Numbers, [channels, height, width]: readonly [number, number, number], w: Numbers, dims: readonly number[]): number[] {
  const [out, into, kh, kw] = dims as [number, number, number, number]
  if (into !== channels) throw new Error('channels differ')
  const result: number[] = []
  for (let o = 0; o < out; o++)
    for (let y = 0; y + kh <= height; y++)
      for (let c = 0; c + kw <= width; c++) {
        let sum = 0
        for (let i = 0; i < into; i++)
          for (let u = 0; u < kh; u++)
            for (let v = 0; v < kw; v++) sum += at(w, ((o * into + i) * kh + u) * kw + v) * at(x, (i * height + y + u) * width + c + v)
        result.push(sum)
      }
  return result
}
