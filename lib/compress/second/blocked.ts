import { gemm } from '../../kernels/gemm'
import { touched } from '../paged'

/**
 * Terms of a product that are summed in float32; what lies further apart is summed in float64. Off by no more than the moments
 * themselves are.
 */
const kDepth = 512
/** Columns that are finished together: products with all before them are taken once for so many. */
const kOuter = 256
/** What touching a few columns of a row brings into memory, in bytes: systems map some pages about the one. */
const kThin = 32768
/** Of these: solved in float64, row by row. */
const kInner = 64

/**
 * @internal Cholesky factorization and inverse of large matrices in place, float64 with products in float32 (see {@link kDepth}). All
 * memory besides the matrix is taken once: three panels of n rows.
 */
export class Blocked {
  readonly #a: Float64Array
  readonly #n: number
  readonly #diagonal: Float64Array
  readonly #left: Float32Array
  readonly #right = new Float32Array(kOuter * kDepth)
  readonly #product: Float32Array
  /** Four rows of a panel, interleaved, and the corner that they are solved with. */
  readonly #rows = new Float64Array(4 * kInner)
  readonly #corner = new Float64Array(kInner * kInner)

  /** `a` [n, n] is worked on in place; the factor's diagonal goes to `diagonal`. */
  constructor(a: Float64Array, n: number, diagonal: Float64Array) {
    this.#a = a
    this.#n = n
    this.#diagonal = diagonal
    this.#left = new Float32Array(n * kDepth)
    this.#product = new Float32Array(n * kOuter)
  }

  /** The lower Cholesky factor, from and in the lower triangle. False where a pivot is not positive. */
  cholesky(): boolean {
    const n = this.#n
    for (let o0 = 0; o0 < n; o0 += kOuter) {
      const o1 = Math.min(n, o0 + kOuter)
      for (let k = 0; k < o0; k += kDepth) this.#subtract(o0, n, o0, o1, k, Math.min(o0, k + kDepth), false)
      for (let j0 = o0; j0 < o1; j0 += kInner) {
        const j1 = Math.min(o1, j0 + kInner)
        if (j0 > o0) this.#subtract(j0, n, j0, j1, o0, j0, false)
        if (!this.#factor(j0, j1)) return false
        this.#solve(j1, n, j0, j1)
      }
    }
    return true
  }

  /**
   * X = L⁻¹ of the factor in the strict lower triangle and the diagonal: its transpose goes to the upper triangle, diagonal
   * included, so that row j holds column j of X.
   */
  invert(): void {
    const n = this.#n
    const a = this.#a
    for (let o0 = 0; o0 < n; o0 += kOuter) {
      const o1 = Math.min(n, o0 + kOuter)
      // X[i, j] ← −Σ L[i, k] X[k, j], i in the block, rows j above it first.
      for (let j = 0; j < o1; j++) {
        a.fill(0, j * n + Math.max(o0, j + 1), j * n + o1)
        touched(kThin)
      }
      for (let k = 0; k < o0; k += kDepth) this.#subtract(0, Math.min(o0, k + kDepth), o0, o1, k, Math.min(o0, k + kDepth), true)
      for (let i0 = o0; i0 < o1; i0 += kInner) {
        const i1 = Math.min(o1, i0 + kInner)
        if (i0 > o0) this.#subtract(0, i0, i0, i1, o0, i0, true)
        this.#load(i0, i1)
        this.#solve(0, i1, i0, i1)
      }
    }
  }

  /** A[i, j] −= Σ A[i, k] · A[j, k] over k0 ≤ k < k1. `upper`: as if A[i, k] were zero left of the diagonal. */
  #subtract(i0: number, i1: number, j0: number, j1: number, k0: number, k1: number, upper: boolean): void {
    const n = this.#n
    const a = this.#a
    const [rows, columns, depth] = [i1 - i0, j1 - j0, k1 - k0]
    const left = this.#left.subarray(0, rows * depth)
    const right = this.#right.subarray(0, columns * depth)
    narrow(left, a, n, i0, i1, k0, k1, upper)
    narrow(right, a, n, j0, j1, k0, k1, false)
    const out = this.#product.subarray(0, rows * columns)
    gemm(left, right, { aDims: [rows, depth], bDims: [columns, depth], transposeB: true, out })
    for (let i = 0; i < rows; i++) {
      for (let j = 0, to = (i0 + i) * n + j0, from = i * columns; j < columns; j++) a[to + j]! -= out[from + j]!
      touched(kThin)
    }
  }

  /** Of the corner at j0 the factor, in place. */
  #factor(j0: number, j1: number): boolean {
    const n = this.#n
    const a = this.#a
    for (let j = j0; j < j1; j++) {
      let d = a[j * n + j]!
      for (let k = j0; k < j; k++) d -= a[j * n + k]! * a[j * n + k]!
      if (!(d > 0) || !Number.isFinite(d)) return false
      const root = Math.sqrt(d)
      this.#diagonal[j] = root
      a[j * n + j] = root
      for (let i = j + 1; i < j1; i++) {
        let s = a[i * n + j]!
        for (let k = j0; k < j; k++) s -= a[i * n + k]! * a[j * n + k]!
        a[i * n + j] = s / root
      }
    }
    this.#load(j0, j1)
    return true
  }

  #load(j0: number, j1: number): void {
    for (let j = j0; j < j1; j++) for (let k = j0; k < j; k++) this.#corner[(j - j0) * kInner + k - j0] = this.#a[j * this.#n + k]!
  }

  /**
   * Rows r0 … r1 of the columns c0 … c1 times the inverse transpose of the corner, four at a time. A row that runs through the corner
   * itself is a row of the identity, and only what lies on and right of its diagonal is written.
   */
  #solve(r0: number, r1: number, c0: number, c1: number): void {
    const n = this.#n
    const a = this.#a
    const width = c1 - c0
    const v = this.#rows
    const corner = this.#corner
    for (let r = r0; r < r1; r += 4) {
      const count = Math.min(4, r1 - r)
      for (let q = 0; q < 4; q++) {
        const row = r + q
        const inside = row >= c0 && row < c1
        for (let k = 0, o = q, p = row * n + c0; k < width; k++, o += 4, p++) v[o] = q >= count ? 0 : inside ? (row - c0 === k ? 1 : 0) : a[p]!
      }
      for (let j = 0; j < width; j++) {
        let s0 = v[4 * j]!
        let s1 = v[4 * j + 1]!
        let s2 = v[4 * j + 2]!
        let s3 = v[4 * j + 3]!
        for (let k = 0, c = j * kInner, o = 0; k < j; k++, c++, o += 4) {
          const l = corner[c]!
          s0 -= v[o]! * l
          s1 -= v[o + 1]! * l
          s2 -= v[o + 2]! * l
          s3 -= v[o + 3]! * l
        }
        const d = this.#diagonal[c0 + j]!
        v[4 * j] = s0 / d
        v[4 * j + 1] = s1 / d
        v[4 * j + 2] = s2 / d
        v[4 * j + 3] = s3 / d
      }
      for (let q = 0; q < count; q++) {
        const row = r + q
        const first = row >= c0 && row < c1 ? row - c0 : 0
        for (let k = first, o = 4 * first + q, p = row * n + c0 + first; k < width; k++, o += 4, p++) a[p] = v[o]!
      }
      touched(count * kThin)
    }
  }
}

/** Rows r0 … r1, columns k0 … k1, in float32. */
function narrow(out: Float32Array, a: Float64Array, n: number, r0: number, r1: number, k0: number, k1: number, upper: boolean): void {
  const depth = k1 - k0
  for (let r = r0; r < r1; r++) {
    const o = (r - r0) * depth
    const first = upper ? Math.min(depth, Math.max(0, r - k0)) : 0
    out.fill(0, o, o + first)
    for (let k = first, p = r * n + k0; k < depth; k++) out[o + k] = a[p + k]!
    touched(kThin)
  }
}

/** Entries of a tile: both sides of an exchange lie in few lines of cache. */
const kTile = 32

/** @internal Turns the upper triangle [n, n] about its other diagonal, in place: A[i, j] ↔ A[n − 1 − j, n − 1 − i]. The lower one becomes zero. */
export function reverseUpper(a: Float64Array, n: number): void {
  for (let i0 = 0; i0 < n; i0 += kTile)
    for (let j0 = i0; j0 < n - i0; j0 += kTile) {
      for (let i = i0; i < Math.min(n, i0 + kTile); i++)
        for (let j = Math.max(i, j0); j < Math.min(n - i, j0 + kTile); j++) {
          const p = i * n + j
          const q = (n - 1 - j) * n + (n - 1 - i)
          const t = a[p]!
          a[p] = a[q]!
          a[q] = t
        }
      touched(kTile * kThin)
    }
  for (let i = 1; i < n; i++) {
    a.fill(0, i * n, i * n + i)
    touched(8 * i)
  }
}
