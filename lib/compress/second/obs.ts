import { gemm } from '../../kernels/gemm'
import { pagedFloats, touched } from '../paged'
import { diagonalOf } from './linear'

/** @internal [H⁻¹]ᵢᵢ, of the factor that `inverseFactor` gives. */
export function inverseDiagonal(factor: Float64Array, n: number): Float64Array {
  const out = new Float64Array(n)
  for (let k = 0; k < n; k++) {
    for (let i = k; i < n; i++) out[i]! += factor[k * n + i]! ** 2
    touched(8 * n)
  }
  return out
}

/** Products that the exact solution for all rows may take before the iteration does it in fewer. */
const kExact = 2e8

/**
 * @internal The weights that stay, fitted so that the layer's outputs move least while the rest is zero: the weight update of
 * Optimal Brain Surgeon for all that is removed at once, minimizing (w' − w)ᵀ (H + λI) (w' − w) row by row. Exactly (Cholesky) for
 * short rows; by conjugate gradients for long ones, which end near it and never above where they began.
 *
 * Hassibi, Stork and Wolff, Optimal Brain Surgeon and General Network Pruning, 1993.
 *
 * @param kept [rows, columns], 0 for weights that are to be zero
 * @param iterations most steps of the conjugate gradients
 */
export function refit(weights: Float32Array, kept: Uint8Array, rows: number, columns: number, hessian: Float64Array, damping = 0.01, iterations = 40): Float32Array {
  let trace = 0
  for (const v of diagonalOf(hessian, columns)) trace += v
  const lambda = (trace > 0 ? trace / columns : 1) * damping
  return rows * columns ** 3 <= kExact
    ? refitExactly(weights, kept, rows, columns, hessian, lambda)
    : refitByGradients(weights, kept, rows, columns, hessian, lambda, iterations)
}

/** w_S ← w_S + H_SS⁻¹ H_SR w_R for the kept S and the removed R. */
function refitExactly(weights: Float32Array, kept: Uint8Array, rows: number, n: number, h: Float64Array, lambda: number): Float32Array {
  const out = new Float32Array(weights.length)
  const a = new Float64Array(n * n)
  const b = new Float64Array(n)
  const stay = new Int32Array(n)
  for (let r = 0; r < rows; r++) {
    const base = r * n
    let s = 0
    for (let i = 0; i < n; i++) if (kept[base + i]) stay[s++] = i
    for (let i = 0; i < s; i++) {
      const from = stay[i]! * n
      let right = 0
      for (let k = 0; k < n; k++) if (!kept[base + k]) right += h[from + k]! * weights[base + k]!
      b[i] = right
      for (let j = 0; j <= i; j++) a[i * n + j] = h[from + stay[j]!]!
      a[i * n + i]! += lambda
    }
    const solved = solve(a, b, s, n)
    for (let i = 0; i < s; i++) out[base + stay[i]!] = weights[base + stay[i]!]! + (solved ? b[i]! : 0)
  }
  return out
}

/** A x = b by Cholesky in place, A's lower triangle with rows `stride` apart; false where A is not positive definite. */
function solve(a: Float64Array, b: Float64Array, n: number, stride: number): boolean {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let s = a[i * stride + j]!
      for (let k = 0; k < j; k++) s -= a[i * stride + k]! * a[j * stride + k]!
      if (j < i) a[i * stride + j] = s / a[j * stride + j]!
      else if (s > 0) a[i * stride + i] = Math.sqrt(s)
      else return false
    }
    let y = b[i]!
    for (let k = 0; k < i; k++) y -= a[i * stride + k]! * b[k]!
    b[i] = y / a[i * stride + i]!
  }
  for (let i = n - 1; i >= 0; i--) {
    let x = b[i]!
    for (let k = i + 1; k < n; k++) x -= a[k * stride + i]! * b[k]!
    b[i] = x / a[i * stride + i]!
  }
  return true
}

/** Conjugate gradients on all rows at once, preconditioned by the diagonal; each row stops for itself. */
function refitByGradients(weights: Float32Array, kept: Uint8Array, rows: number, n: number, h: Float64Array, lambda: number, iterations: number): Float32Array {
  const narrow = pagedFloats(n * n)
  const diagonal = new Float32Array(n)
  for (let r = 0, i = 0; r < n; r++) {
    for (const end = i + n; i < end; i++) narrow[i] = h[i]!
    narrow[r * n + r]! += lambda
    diagonal[r] = narrow[r * n + r]!
    touched(12 * n)
  }
  const out = pagedFloats(weights.length)
  // Rows in parts: the iteration holds five matrices of them.
  const step = Math.max(1, Math.min(rows, Math.floor(2 ** 21 / n)))
  for (let from = 0; from < rows; from += step) {
    const count = Math.min(step, rows - from)
    const w = weights.subarray(from * n, (from + count) * n)
    const m = kept.subarray(from * n, (from + count) * n)
    const x = out.subarray(from * n, (from + count) * n)
    const product = (v: Float32Array, out: Float32Array): Float32Array => gemm(v, narrow, { aDims: [count, n], bDims: [n, n], out }).data
    // x = w on what stays; the residual is H (w − x) there.
    const gone = new Float32Array(w.length)
    for (let i = 0; i < w.length; i++) if (m[i]) x[i] = w[i]!
    else gone[i] = w[i]!
    const r = product(gone, new Float32Array(w.length))
    const z = new Float32Array(w.length)
    const p = new Float32Array(w.length)
    // What was taken away is not needed any more.
    const products = gone
    const energy = new Float64Array(count)
    const first = new Float64Array(count)
    for (let row = 0; row < count; row++) {
      for (let k = 0, i = row * n; k < n; k++, i++) {
        if (!m[i]) r[i] = 0
        p[i] = z[i] = r[i]! / diagonal[k]!
        energy[row]! += r[i]! * z[i]!
      }
      first[row] = energy[row]!
    }
    for (let iteration = 0; iteration < iterations; iteration++) {
      const q = product(p, products)
      let running = 0
      for (let row = 0; row < count; row++) {
        const e = energy[row]!
        if (!(e > 1e-8 * first[row]!)) continue
        let curve = 0
        for (let i = row * n; i < (row + 1) * n; i++) curve += p[i]! * q[i]!
        if (!(curve > 0)) {
          energy[row] = 0
          continue
        }
        running++
        const alpha = e / curve
        let next = 0
        for (let k = 0, i = row * n; k < n; k++, i++) {
          if (!m[i]) continue
          x[i]! += alpha * p[i]!
          r[i]! -= alpha * q[i]!
          z[i] = r[i]! / diagonal[k]!
          next += r[i]! * z[i]!
        }
        const beta = next / e
        for (let i = row * n; i < (row + 1) * n; i++) if (m[i]) p[i] = z[i]! + beta * p[i]!
        energy[row] = next
      }
      if (running === 0) break
    }
  }
  return out
}
