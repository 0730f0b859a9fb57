import { paged, touched } from '../paged'
import { Blocked, reverseUpper } from './blocked'

/** Rows and columns that are finished together: two such panels of float64 stay in cache. */
const kBlock = 64
const kDepth = 128

/** From this size on products are taken in float32, see {@link Blocked}: many times as fast. */
const kLarge = 512

/** @internal */
export function diagonalOf(hessian: Float64Array, n: number): Float64Array {
  const out = new Float64Array(n)
  for (let i = 0; i < n; i++) {
    out[i] = hessian[i * n + i]!
    touched(8 * n)
  }
  return out
}

/**
 * @internal The upper triangular U with (H + λI)⁻¹ = Uᵀ U, [n, n] row-major: what GPTQ and SparseGPT walk along. One
 * Cholesky factorization and one triangular inverse, n³/3 products, in float64 (large n: see {@link kLarge}): the factor of the inverse is the inverse of the
 * factor of H taken from its last row and column to its first. λ is `damping` times the mean of H's diagonal (1 where that
 * is 0), and ten times that as often as H proves not to be positive definite.
 *
 * @returns U, and the λ that was added
 */
export function inverseFactor(hessian: Float64Array, n: number, damping: number): { readonly factor: Float64Array; readonly lambda: number } {
  let trace = 0
  for (const v of diagonalOf(hessian, n)) trace += v
  const mean = trace > 0 ? trace / n : 1
  const a = paged('float64', n * n, 'hessian') as Float64Array
  const diagonal = new Float64Array(n)
  const blocked = n >= kLarge ? new Blocked(a, n, diagonal) : undefined
  for (let lambda = mean * damping; ; lambda = Math.max(lambda * 10, mean * 1e-8)) {
    for (let r = 0, i = 0, j = n * n - 1; r < n; r++) {
      for (const end = i + n; i < end; i++, j--) a[i] = hessian[j]!
      a[r * n + r]! += lambda
      touched(16 * n)
    }
    if (!(blocked ? blocked.cholesky() : cholesky(a, n, diagonal))) continue
    if (blocked) blocked.invert()
    else invert(a, n, diagonal)
    // X is the inverse of the factor of the reversed matrix, its transpose in the upper triangle: reverse it again.
    reverseUpper(a, n)
    return { factor: a, lambda }
  }
}

/**
 * A ← its lower Cholesky factor, from and in the lower triangle; the factor's diagonal goes to `diagonal`. False where a
 * pivot is not positive.
 */
function cholesky(a: Float64Array, n: number, diagonal: Float64Array): boolean {
  for (let j0 = 0; j0 < n; j0 += kBlock) {
    const j1 = Math.min(n, j0 + kBlock)
    for (let k = 0; k < j0; k += kDepth) subtract(a, n, j0, n, j0, j1, k, Math.min(j0, k + kDepth))
    for (let j = j0; j < j1; j++) {
      let d = a[j * n + j]!
      for (let k = j0; k < j; k++) d -= a[j * n + k]! * a[j * n + k]!
      if (!(d > 0) || !Number.isFinite(d)) return false
      const root = Math.sqrt(d)
      diagonal[j] = root
      a[j * n + j] = root
      for (let i = j + 1; i < n; i++) {
        let s = a[i * n + j]!
        for (let k = j0; k < j; k++) s -= a[i * n + k]! * a[j * n + k]!
        a[i * n + j] = s / root
      }
    }
  }
  return true
}

/** Panels of {@link subtract}, four rows interleaved: rows of a matrix lie powers of two apart, which a cache bears badly. */
const left = new Float64Array(4 * kDepth)
const right = new Float64Array(kBlock * kDepth)

/** Rows r0 … r0+3, those from r1 on as zeros, columns k0 … k1. */
function pack(into: Float64Array, at: number, a: Float64Array, n: number, r0: number, r1: number, k0: number, k1: number): void {
  for (let r = 0; r < 4; r++)
    if (r0 + r < r1) for (let k = k0, o = at + r, p = (r0 + r) * n + k0; k < k1; k++, o += 4, p++) into[o] = a[p]!
    else for (let k = k0, o = at + r; k < k1; k++, o += 4) into[o] = 0
}

/** A[i, j] −= Σ A[i, k] · A[j, k] over k0 ≤ k < k1; at most {@link kBlock} columns j and {@link kDepth} products. */
function subtract(a: Float64Array, n: number, i0: number, i1: number, j0: number, j1: number, k0: number, k1: number): void {
  const depth = k1 - k0
  for (let j = j0; j < j1; j += 4) pack(right, (j - j0) * depth, a, n, j, j1, k0, k1)
  for (let i = i0; i < i1; i += 4) {
    pack(left, 0, a, n, i, i1, k0, k1)
    for (let j = j0; j < j1; j += 4) tile(a, n, i, Math.min(i1, i + 4), j, Math.min(j1, j + 4), (j - j0) * depth, depth)
  }
}

const sums = new Float64Array(16)

function tile(a: Float64Array, n: number, i0: number, i1: number, j0: number, j1: number, at: number, depth: number): void {
  let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0 // prettier-ignore
  let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0 // prettier-ignore
  for (let p = 0, q = at; p < 4 * depth; p += 4, q += 4) {
    const x = right[q]!
    const y = right[q + 1]!
    const z = right[q + 2]!
    const w = right[q + 3]!
    let v = left[p]!
    s00 += v * x
    s01 += v * y
    s02 += v * z
    s03 += v * w
    v = left[p + 1]!
    s10 += v * x
    s11 += v * y
    s12 += v * z
    s13 += v * w
    v = left[p + 2]!
    s20 += v * x
    s21 += v * y
    s22 += v * z
    s23 += v * w
    v = left[p + 3]!
    s30 += v * x
    s31 += v * y
    s32 += v * z
    s33 += v * w
  }
  sums[0] = s00; sums[1] = s01; sums[2] = s02; sums[3] = s03; sums[4] = s10; sums[5] = s11; sums[6] = s12; sums[7] = s13 // prettier-ignore
  sums[8] = s20; sums[9] = s21; sums[10] = s22; sums[11] = s23; sums[12] = s30; sums[13] = s31; sums[14] = s32; sums[15] = s33 // prettier-ignore
  for (let i = i0; i < i1; i++) for (let j = j0; j < j1; j++) a[i * n + j]! -= sums[4 * (i - i0) + j - j0]!
}

function dot(a: Float64Array, p: number, q: number, k0: number, k1: number): number {
  let s = 0
  for (let k = k0; k < k1; k++) s += a[p + k]! * a[q + k]!
  return s
}

/**
 * X = L⁻¹ of the factor in the strict lower triangle and `diagonal`: its transpose goes to the upper triangle, diagonal
 * included, so that row j holds column j of X.
 */
function invert(a: Float64Array, n: number, diagonal: Float64Array): void {
  for (let i0 = 0; i0 < n; i0 += kBlock) {
    const i1 = Math.min(n, i0 + kBlock)
    // Rows j above the block, with what of X is known: X[i, j] ← −Σ L[i, k] X[k, j], i in the block.
    for (let j = 0; j < i0; j++) a.fill(0, j * n + i0, j * n + i1)
    for (let k0 = 0; k0 < i0; k0 += kDepth) {
      const k1 = Math.min(i0, k0 + kDepth)
      if (k0 > 0) subtract(a, n, 0, k0, i0, i1, k0, k1)
      for (let j = k0; j < k1; j++) for (let i = i0; i < i1; i++) a[j * n + i]! -= dot(a, j * n, i * n, j, k1)
    }
    for (let j = 0; j < i1; j++)
      for (let i = Math.max(i0, j); i < i1; i++) {
        if (i === j) {
          a[j * n + j] = 1 / diagonal[j]!
          continue
        }
        let s = j < i0 ? a[j * n + i]! : 0
        for (let k = Math.max(i0, j); k < i; k++) s -= a[i * n + k]! * a[j * n + k]!
        a[j * n + i] = s / diagonal[i]!
      }
  }
}
