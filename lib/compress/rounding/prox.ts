import { gemm } from '../../kernels/gemm'
import { diagonalOf } from '../second/linear'
import { narrowed } from './adaround'
import { nearestLevel } from './levels'

/** @internal */
export interface ProxOptions {
  /** Columns that share levels; 0 is a row. */
  readonly blockSize: number
  /** The values that a weight of a row and block may take, ascending; valid until another row's of the same block are asked for. */
  readonly levels: (row: number, block: number) => Float64Array
  /** Strength of the regulariser at the end of the path, in gaps between levels. */
  readonly lambda: number
  /** Steps along the path. Default 100. */
  readonly iterations?: number
}

/** Added to the diagonal, as a share of its mean. */
const kDamping = 0.01
/** Most of the last step that the next begins with. */
const kMomentum = 0.95
/** Values that are moved at a time. */
const kPart = 2 ** 20

/** @internal Strengths among which folds choose. */
export const kLambdas: readonly number[] = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4]

/**
 * @internal min ½ (Q−W) H (Q−W)ᵀ + λₜ R(Q), R the distance of each value to the nearest level in gaps between the two about it, by
 * proximal gradient steps with Nesterov's momentum from Q = W, λₜ growing linearly from 0 to λ: values that reach a level stay there while it holds them, and
 * those that are still between levels make up for what the others cost. What is between at the end goes to the nearest level; a row that
 * rounding W to nearest leaves nearer gets that.
 *
 * Steps are divided by H's diagonal and by the largest eigenvalue of H so scaled; H counts in units of its mean diagonal.
 *
 * Bai, Wang, Liberty, ProxQuant: Quantized Neural Networks via Proximal Operators, 2019, with a layer's outputs in the place of the training loss.
 *
 * @param weights [rows, columns], finite
 * @param hessian Σ x xᵀ of the inputs, [columns, columns]
 * @returns places among the levels, [rows, columns], beyond 127 as their low byte; and tr(ΔW H ΔWᵀ)
 */
export function prox(weights: Float32Array, rows: number, columns: number, hessian: Float64Array, options: ProxOptions): { readonly codes: Int8Array; readonly error: number } {
  const { blockSize, levels, lambda, iterations = 100 } = options
  let trace = 0
  for (const v of diagonalOf(hessian, columns)) trace += v
  const unit = trace > 0 ? columns / trace : 0
  const h = narrowed(hessian, columns, (v, i) => v * unit + (i % (columns + 1) === 0 ? kDamping : 0))
  const most = 1.02 * largestEigenvalue(h, columns)
  const pace = Float64Array.from({ length: columns }, (_, c) => 1 / (most * h[c * columns + c]!))
  const codes = new Int8Array(rows * columns)
  const blocks = blockSize ? Math.ceil(columns / blockSize) : 1
  const step = Math.max(1, Math.floor(kPart / columns))
  let error = 0
  for (let from = 0; from < rows; from += step) {
    const count = Math.min(step, rows - from)
    const w = weights.subarray(from * columns, (from + count) * columns)
    const own: Float64Array[] = []
    const open = (r: number): void => {
      for (let b = 0; b < blocks; b++) own[b] = levels(from + r, b)
    }
    const of = (c: number): Float64Array => own[blockSize ? Math.floor(c / blockSize) : 0]!
    const q = w.slice()
    const last = w.slice()
    const ahead = new Float32Array(q.length)
    const delta = new Float32Array(q.length)
    const out = new Float32Array(q.length)
    const slope = (): Float32Array => gemm(delta, h, { aDims: [count, columns], bDims: [columns, columns], out }).data as Float32Array
    for (let t = 1; t <= iterations; t++) {
      const beta = Math.min(kMomentum, (t - 1) / (t + 2))
      for (let i = 0; i < q.length; i++) {
        ahead[i] = q[i]! + beta * (q[i]! - last[i]!)
        delta[i] = ahead[i]! - w[i]!
      }
      last.set(q)
      const g = slope()
      const strength = (lambda * t) / iterations
      for (let r = 0, i = 0; r < count; r++) {
        open(r)
        for (let c = 0; c < columns; c++, i++) {
          const values = of(c)
          const z = ahead[i]! - pace[c]! * g[i]!
          const at = nearestLevel(values, z)
          const level = values[at]!
          const away = z - level
          const reach = strength * pace[c]! * gapAt(values, at, away)
          q[i] = Math.abs(away) <= reach ? level : z - Math.sign(away) * reach
        }
      }
    }
    const rounded = (from: Float32Array): { places: Uint8Array; errors: Float64Array } => {
      const places = new Uint8Array(q.length)
      for (let r = 0, i = 0; r < count; r++) {
        open(r)
        for (let c = 0; c < columns; c++, i++) {
          const values = of(c)
          places[i] = nearestLevel(values, from[i]!)
          delta[i] = values[places[i]!]! - w[i]!
        }
      }
      const g = slope()
      const errors = new Float64Array(count)
      for (let r = 0, i = 0; r < count; r++) for (let c = 0; c < columns; c++, i++) errors[r]! += (g[i]! - kDamping * delta[i]!) * delta[i]!
      return { places, errors }
    }
    const [path, plain] = [rounded(q), rounded(w)]
    for (let r = 0; r < count; r++) {
      const better = path.errors[r]! <= plain.errors[r]! ? path : plain
      codes.set(better.places.subarray(r * columns, (r + 1) * columns), (from + r) * columns)
      error += Math.max(0, better.errors[r]!)
    }
  }
  return { codes, error: unit > 0 ? error / unit : 0 }
}

/** The gap on the side of a level where a value lies; beyond the ends the one before. */
function gapAt(values: Float64Array, at: number, away: number): number {
  const to = away >= 0 ? at + 1 : at - 1
  const other = values[to] ?? values[away >= 0 ? at - 1 : at + 1]
  return other === undefined ? 0 : Math.abs(other - values[at]!)
}

/** Of D^-½ H D^-½, D the diagonal of H; by power iteration from the vector of ones. */
function largestEigenvalue(h: Float32Array, n: number): number {
  const root = Float64Array.from({ length: n }, (_, i) => Math.sqrt(h[i * n + i]!))
  let x = new Float64Array(n).fill(1 / Math.sqrt(n))
  let value = 1
  for (let turn = 0; turn < 30; turn++) {
    const y = new Float64Array(n)
    for (let i = 0; i < n; i++) {
      let sum = 0
      for (let j = 0; j < n; j++) sum += (h[i * n + j]! / root[j]!) * x[j]!
      y[i] = sum / root[i]!
    }
    const norm = Math.sqrt(y.reduce((s, v) => s + v * v, 0))
    if (!(norm > 0)) break
    value = Math.max(1, norm)
    x = y.map((v) => v / norm)
  }
  // Thirty turns may fall short; the trace bounds the rest.
  return Math.min(n, value * 1.1)
}
