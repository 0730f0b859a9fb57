import { gemm } from '../../kernels/gemm'
import { paged, touched } from '../paged'
import { inverseFactor } from '../second/linear'

/** From this size on products are taken in float32, so many terms at a time, and summed in float64 beyond; as `second/blocked.ts` does. */
const kLarge = 512
const kDepth = 512

/** Values of a block of rows that is worked on at once. */
const kBlock = 2 ** 20

/**
 * @internal Least squares of rows: products of inputs with each other and with the outputs that are wanted, of each group. What is large lies in
 * temporary files, see `paged`.
 */
export class Sums {
  rows = 0
  readonly #groups: number
  readonly #size: number
  readonly #outputs: number
  /** [groups, size, size]; [groups, outputs, size]; [groups, size]; [groups, outputs] */
  readonly #xx: Float64Array
  readonly #yx: Float64Array
  readonly #x: Float64Array
  readonly #y: Float64Array
  #room = new Float32Array(0)

  /** @throws `ERR_OUT_OF_MEMORY` `calibration` */
  constructor(groups: number, size: number, outputs: number) {
    this.#groups = groups
    this.#size = size
    this.#outputs = outputs
    this.#xx = paged('float64', groups * size * size, 'calibration') as Float64Array
    this.#yx = paged('float64', groups * outputs * size, 'calibration') as Float64Array
    this.#x = new Float64Array(groups * size)
    this.#y = new Float64Array(groups * outputs)
  }

  /** `fill` writes chosen vectors as [groups, size, count]; `y` [groups · outputs, at.length] */
  add(fill: (out: Float32Array, at: Int32Array, count: number) => void, at: Int32Array, y: Float32Array): void {
    const [groups, size, outputs] = [this.#groups, this.#size, this.#outputs]
    const most = Math.max(16, Math.min(at.length, Math.floor(2 ** 22 / (groups * size))))
    const x = new Float32Array(groups * size * Math.min(most, at.length))
    for (let from = 0; from < at.length; from += most) {
      const n = Math.min(most, at.length - from)
      fill(x, at.subarray(from, from + n), n)
      for (let g = 0; g < groups; g++) {
        const own = x.subarray(g * size * n, (g + 1) * size * n)
        this.#products(own, n, n, own, size, n, this.#xx, g * size * size)
        const wanted = y.subarray(g * outputs * at.length + from, (g + 1) * outputs * at.length)
        this.#products(wanted, at.length, n, own, outputs, n, this.#yx, g * outputs * size)
        for (let k = 0; k < size; k++) for (let j = 0; j < n; j++) this.#x[g * size + k]! += own[k * n + j]!
        for (let o = 0; o < outputs; o++) for (let j = 0; j < n; j++) this.#y[g * outputs + o]! += wanted[o * at.length + j]!
      }
    }
    this.rows += at.length
  }

  /** Adds a · bᵀ, a [rows, n] with its rows `lda` apart and b [size, n], to `sums` from `to` on. */
  #products(a: Float32Array, lda: number, n: number, b: Float32Array, rows: number, ldb: number, sums: Float64Array, to: number): void {
    const size = this.#size
    const step = Math.max(1, Math.min(rows, Math.floor((2 * kBlock) / size)))
    if (this.#room.length < step * size) this.#room = new Float32Array(step * size)
    for (let r = 0; r < rows; r += step) {
      const count = Math.min(step, rows - r)
      const out = this.#room.subarray(0, count * size)
      gemm(a.subarray(r * lda), b, { aDims: [count, n], bDims: [size, n], lda, ldb, transposeB: true, out })
      for (let i = 0, o = to + r * size; i < out.length; i++, o++) sums[o]! += out[i]!
      touched(8 * out.length)
    }
  }

  /** Changes `weights` [groups · outputs, size]; answers the bias, `undefined` where sums are not finite. To be called once, with all sums. */
  solve(weights: Float32Array, oldBias: Float32Array, intercept: boolean, ridge: number): Float32Array | undefined {
    const [groups, size, outputs, rows] = [this.#groups, this.#size, this.#outputs, this.rows]
    const bias = Float32Array.from(oldBias)
    const step = Math.max(1, Math.min(outputs, Math.floor(kBlock / size)))
    for (let g = 0; g < groups; g++) {
      const h = this.#xx.subarray(g * size * size, (g + 1) * size * size)
      const mean = this.#x.subarray(g * size, (g + 1) * size).map((v) => v / rows)
      let trace = 0
      for (let i = 0; i < size; i++) {
        // Centred where a bias takes the means.
        if (intercept) for (let j = 0; j < size; j++) h[i * size + j]! -= rows * mean[i]! * mean[j]!
        trace += h[i * size + i]!
        touched(8 * size)
      }
      if (!Number.isFinite(trace)) return undefined
      // Few vectors tell little: the old weights then count more.
      const { factor } = inverseFactor(h, size, ridge * Math.max(1, (4 * size) / rows))
      for (let o = 0; o < outputs; o += step) {
        const count = Math.min(step, outputs - o)
        const first = g * outputs + o
        const w = weights.subarray(first * size, (first + count) * size)
        const right = this.#yx.slice(first * size, (first + count) * size)
        touched(12 * right.length)
        for (let r = 0; r < count; r++)
          for (let i = 0; i < size; i++) right[r * size + i]! -= intercept ? this.#y[first + r]! * mean[i]! : oldBias[first + r]! * this.#x[g * size + i]!
        // What is wanted less what the old weights make: the change is what is solved for.
        addProduct(right, Float64Array.from(w), h, count, size, -1)
        const change = applied(factor, size, right, count)
        for (let r = 0; r < count; r++) {
          let shift = this.#y[first + r]! / rows
          for (let i = 0; i < size; i++) {
            const v = w[r * size + i]! + change[r * size + i]!
            if (!Number.isFinite(v)) return undefined
            w[r * size + i] = v
            shift -= v * mean[i]!
          }
          if (intercept) bias[first + r] = shift
        }
        touched(4 * w.length)
      }
    }
    return bias
  }
}

/** `out` [rows, n] += `sign` · a · m for a symmetric m [n, n]. */
function addProduct(out: Float64Array, a: Float64Array, m: Float64Array, rows: number, n: number, sign: number): void {
  if (n < kLarge) {
    for (let r = 0; r < rows; r++)
      for (let i = 0; i < n; i++) {
        let s = 0
        for (let j = 0; j < n; j++) s += m[i * n + j]! * a[r * n + j]!
        out[r * n + i]! += sign * s
      }
    return
  }
  const product = new Float32Array(rows * n)
  const panel = new Float32Array(kDepth * n)
  const left = Float32Array.from(a)
  for (let k = 0; k < n; k += kDepth) {
    const depth = Math.min(kDepth, n - k)
    narrow(panel, m, n, k, depth)
    gemm(left.subarray(k), panel.subarray(0, depth * n), { aDims: [rows, depth], bDims: [depth, n], lda: n, out: product })
    for (let i = 0; i < product.length; i++) out[i]! += sign * product[i]!
  }
}

/** Rows v of [rows, n] times Uᵀ U, for an upper triangle U with zeros below. */
function applied(u: Float64Array, n: number, v: Float64Array, rows: number): Float64Array {
  const out = new Float64Array(rows * n)
  if (n < kLarge) {
    for (let r = 0; r < rows; r++)
      for (let i = 0; i < n; i++) {
        let b = 0
        for (let j = i; j < n; j++) b += u[i * n + j]! * v[r * n + j]!
        for (let j = i; j < n; j++) out[r * n + j]! += u[i * n + j]! * b
      }
    return out
  }
  const panel = new Float32Array(kDepth * n)
  const left = Float32Array.from(v)
  const small = new Float32Array(rows * kDepth)
  const wide = new Float32Array(rows * n)
  for (let i = 0; i < n; i += kDepth) {
    const depth = Math.min(kDepth, n - i)
    narrow(panel, u, n, i, depth)
    const between = new Float64Array(rows * depth)
    for (let k = i; k < n; k += kDepth) {
      const terms = Math.min(kDepth, n - k)
      const part = small.subarray(0, rows * depth)
      gemm(left.subarray(k), panel.subarray(k), { aDims: [rows, terms], bDims: [depth, terms], lda: n, ldb: n, transposeB: true, out: part })
      for (let j = 0; j < part.length; j++) between[j]! += part[j]!
    }
    gemm(Float32Array.from(between), panel.subarray(0, depth * n), { aDims: [rows, depth], bDims: [depth, n], out: wide })
    for (let j = 0; j < wide.length; j++) out[j]! += wide[j]!
  }
  return out
}

/** Rows k … k + depth of m [n, n], in float32. */
function narrow(out: Float32Array, m: Float64Array, n: number, k: number, depth: number): void {
  for (let i = 0, from = k * n; i < depth * n; i++, from++) out[i] = m[from]!
  touched(8 * depth * n)
}
