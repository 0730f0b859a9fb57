import { gemm } from '../../kernels/gemm'
import { svd } from '../../kernels/svd'
import { allocate } from '../../tensor'
import { dense, type Basis } from './basis'

/** Vectors whose products are summed in float32 before they go to the float64 sum. */
const kChunk = 256

/** Second moments Σ x xᵀ and Σ x of vectors, in float64. */
export class SecondMoments {
  readonly size: number
  readonly products: Float64Array
  readonly sum: Float64Array
  rows = 0

  constructor(size: number) {
    this.size = size
    this.products = allocate('float64', size * size, 'calibration') as Float64Array
    this.sum = new Float64Array(size)
  }

  /** Takes in [rows, size]. */
  add(data: Float32Array): void {
    const n = this.size
    for (let at = 0; at < data.length; at += kChunk * n) {
      const x = data.subarray(at, at + kChunk * n)
      const rows = x.length / n
      for (let i = 0; i < x.length; i++) this.sum[i % n]! += x[i]!
      const chunk = { type: 'float32', dims: [rows, n], data: x } as const
      const made = gemm(chunk, chunk, { transposeA: true }).data as Float32Array
      for (let i = 0; i < made.length; i++) this.products[i]! += made[i]!
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
 */
export function principal({ size: n, products }: SecondMoments, keep: Keep, centered: boolean): Principal {
  const inner = centered ? n - 1 : n
  const g = centered ? insideOf(products, n) : products
  const { s, v } = svd({ type: 'float64', dims: [inner, inner], data: g }, { method: 'full' })
  let total = 0
  for (const value of s.data) total += value
  let k = n
  if ('channels' in keep) k = keep.channels
  else {
    let r = 0
    for (let held = 0; r < inner && held < keep.energy * total; r++) held += s.data[r]!
    k = Math.min(n, Math.ceil((Math.max(1, r) + (centered ? 1 : 0)) / keep.roundTo) * keep.roundTo)
  }
  const r = Math.min(inner, centered ? k - 1 : k)
  let held = 0
  for (let i = 0; i < r; i++) held += s.data[i]!
  // Directions as columns; with `centered` rows and columns reflected, so that neither has a mean.
  const off = n - inner
  const m = new Float64Array(n * k)
  for (let j = 0; j < inner; j++) for (let i = 0; i < r; i++) m[(j + off) * k + i + off] = v.data[j * inner + i]!
  if (centered) {
    for (let j = 0; j < n; j++) reflect(m.subarray(j * k, j * k + k))
    reflectColumns(m, n, k)
  }
  return { basis: dense(Float32Array.from(m), n, k), energy: total > 0 ? held / total : 1 }
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

function reflectColumns(m: Float64Array, rows: number, columns: number): void {
  const column = new Float64Array(rows)
  for (let j = 0; j < columns; j++) {
    for (let i = 0; i < rows; i++) column[i] = m[i * columns + j]!
    reflect(column)
    for (let i = 0; i < rows; i++) m[i * columns + j] = column[i]!
  }
}

/** The moments in coordinates of vectors without a mean: [n − 1, n − 1]. */
function insideOf(products: Float64Array, n: number): Float64Array {
  const g = products.slice()
  for (let i = 0; i < n; i++) reflect(g.subarray(i * n, i * n + n))
  reflectColumns(g, n, n)
  const out = new Float64Array((n - 1) * (n - 1))
  for (let i = 1; i < n; i++)
    for (let j = 1; j < n; j++) out[(i - 1) * (n - 1) + j - 1] = 0.5 * (g[i * n + j]! + g[j * n + i]!)
  return out
}
