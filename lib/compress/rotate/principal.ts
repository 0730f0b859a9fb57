import { gemm } from '../../kernels/gemm'
import { check, native } from '../../native'
import { ease, paged, pagedFloats, touched } from '../paged'
import { dense, type Basis } from './basis'

declare module '../../native' {
  interface NativeBinding {
    /** Eigenvalues, ascending, and eigenvectors as rows; of `a` the lower triangle is read, and all is destroyed. */
    symmetricEigen(n: number, a: Float64Array, values: Float64Array, vectors: Float64Array): number
  }
}

/** Vectors whose products are summed in float32 before they go to the float64 sum. */
const kChunk = 256

/** Rows of the products that are made at once. */
const kPanel = 512

/** Columns that are worked on at once. */
const kColumns = 64

/** What touching a few elements of a row brings into memory, in bytes. */
const kThin = 4096

/** Second moments Σ x xᵀ and Σ x of vectors, in float64. */
export class SecondMoments {
  readonly size: number
  readonly products: Float64Array
  readonly sum: Float64Array
  rows = 0

  constructor(size: number) {
    this.size = size
    this.products = paged('float64', size * size, 'calibration') as Float64Array
    this.sum = new Float64Array(size)
  }

  /** Takes in [rows, size]. */
  add(data: Float32Array): void {
    const n = this.size
    for (let at = 0; at < data.length; at += kChunk * n) {
      const x = data.subarray(at, at + kChunk * n)
      const rows = x.length / n
      for (let i = 0; i < x.length; i++) this.sum[i % n]! += x[i]!
      for (let p = 0; p < n; p += kPanel) {
        const height = Math.min(kPanel, n - p)
        const made = gemm(x.subarray(p), x, { aDims: [rows, height], bDims: [rows, n], lda: n, transposeA: true }).data as Float32Array
        for (let i = 0, to = p * n; i < made.length; i++, to++) this.products[to]! += made[i]!
        touched(8 * made.length)
      }
      this.rows += rows
    }
  }
}

/** How many directions to keep: a number, or as many as hold a share of the sum of squares. */
export type Keep = { readonly channels: number } | { readonly energy: number; readonly roundTo: number }

export interface Principal {
  readonly basis: Basis
  /** Share of the sum of squares that the kept directions hold. */
  readonly energy: number
}

/**
 * The directions in which vectors reach farthest, as SliceGPT takes them (Ashkboos 2024): eigenvectors of Σ x xᵀ with the largest
 * eigenvalues. With `centered` the vectors have mean 0, and so has what the basis makes of them, which a LayerNormalization of the
 * smaller width relies on: r directions then take r + 1 channels, and all n channels hold n − 1.
 *
 * The products are worked on in place: moments serve once. Beside them memory has three matrices of their size for the eigenvectors.
 *
 * @throws `ERR_OUT_OF_MEMORY`
 */
export function principal({ size: n, products }: SecondMoments, keep: Keep, centered: boolean): Principal {
  const inner = centered ? n - 1 : n
  if (centered) toInside(products, n)
  const values = new Float64Array(inner)
  const vectors = paged('float64', inner * inner) as Float64Array
  ease()
  check(native().symmetricEigen(inner, products.subarray(0, inner * inner), values, vectors), 'principal')
  ease()
  // Descending; what rounding left below 0 is 0.
  const s = values.reverse().map((v) => Math.max(0, v))
  let total = 0
  for (const value of s) total += value
  let k = n
  if ('channels' in keep) k = keep.channels
  else {
    let r = 0
    for (let held = 0; r < inner && held < keep.energy * total; r++) held += s[r]!
    k = Math.min(n, Math.ceil((Math.max(1, r) + (centered ? 1 : 0)) / keep.roundTo) * keep.roundTo)
  }
  const r = Math.min(inner, centered ? k - 1 : k)
  let held = 0
  for (let i = 0; i < r; i++) held += s[i]!
  // Directions as columns; with `centered` rows and columns reflected, so that neither has a mean.
  const off = n - inner
  const m = pagedFloats(n * k)
  const columns = new Float64Array(kColumns * n)
  for (let i0 = 0; i0 < r; i0 += kColumns) {
    const width = Math.min(kColumns, r - i0)
    columns.fill(0)
    for (let c = 0; c < width; c++) {
      const column = columns.subarray(c * n, c * n + n)
      const at = (inner - 1 - i0 - c) * inner
      column.set(vectors.subarray(at, at + inner), off)
      pointUp(column)
      if (centered) reflect(column)
    }
    for (let j = 0; j < n; j++) for (let c = 0; c < width; c++) m[j * k + i0 + c + off] = columns[c * n + j]!
    touched(8 * width * inner + kThin * n)
  }
  if (centered) {
    const row = new Float64Array(k)
    for (let j = 0; j < n; j++) {
      row.set(m.subarray(j * k, j * k + k))
      reflect(row)
      m.set(row, j * k)
      touched(4 * k)
    }
  }
  return { basis: dense(m, n, k), energy: total > 0 ? held / total : 1 }
}

/** Of the two directions the one whose largest element is positive, the first of equals. */
function pointUp(x: Float64Array): void {
  let most = 0
  for (let i = 1; i < x.length; i++) if (Math.abs(x[i]!) > Math.abs(x[most]!)) most = i
  if (x[most]! < 0) for (let i = 0; i < x.length; i++) x[i] = -x[i]!
}

/** The reflection that swaps the first unit vector and (1, …, 1)/√n. */
function reflect(x: Float64Array): void {
  const n = x.length
  if (n === 1) return
  const one = 1 / Math.sqrt(n)
  // u = e₁ − 1/√n, ‖u‖² = 2 − 2/√n
  let dot = x[0]!
  for (let i = 0; i < n; i++) dot -= one * x[i]!
  const f = dot / (1 - one)
  for (let i = 0; i < n; i++) x[i]! += f * one
  x[0]! -= f
}

/** Moments [n, n] of vectors without a mean in their own coordinates, [n − 1, n − 1], in place. */
function toInside(g: Float64Array, n: number): void {
  for (let i = 0; i < n; i++) {
    reflect(g.subarray(i * n, i * n + n))
    touched(8 * n)
  }
  const block = new Float64Array(kColumns * n)
  for (let j = 0; j < n; j += kColumns) {
    const width = Math.min(kColumns, n - j)
    for (let i = 0; i < n; i++) for (let c = 0; c < width; c++) block[c * n + i] = g[i * n + j + c]!
    for (let c = 0; c < width; c++) reflect(block.subarray(c * n, c * n + n))
    for (let i = 0; i < n; i++) for (let c = 0; c < width; c++) g[i * n + j + c] = block[c * n + i]!
    touched(kThin * n)
  }
  // Eigenvectors follow from the lower triangle: both halves count. Rows move up, behind those that are read.
  for (let i0 = 0; i0 < n; i0 += kColumns)
    for (let j0 = 0; j0 <= i0; j0 += kColumns) {
      for (let i = i0; i < Math.min(n, i0 + kColumns); i++)
        for (let j = j0; j < Math.min(i, j0 + kColumns); j++) g[i * n + j] = 0.5 * (g[i * n + j]! + g[j * n + i]!)
      touched(2 * kColumns * kThin)
    }
  for (let i = 1; i < n; i++) {
    g.copyWithin((i - 1) * (n - 1), i * n + 1, (i + 1) * n)
    touched(16 * n)
  }
}
