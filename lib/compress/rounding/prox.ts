import { gemm } from '../../kernels/gemm'
import { diagonalOf } from '../second/linear'
import { narrowed } from './adaround'

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
/** Values that are moved at a time, and the fewest rows of them: what is held of them stays in cache, and H is read for many rows. */
const kPart = 2 ** 17
const kRows = 64
/** Levels that are held at a time: 8 MB of them and what belongs to them. */
const kTable = 2 ** 18

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
 * @param metric of the inputs of these columns
 * @returns places among the levels, [rows, columns], beyond 127 as their low byte; and tr(ΔW H ΔWᵀ)
 */
export function prox(weights: Float32Array, rows: number, columns: number, metric: Metric, options: ProxOptions): { readonly codes: Int8Array; readonly error: number } {
  const { blockSize, levels, lambda, iterations = 100 } = options
  const { h, pace, unit } = metric
  const codes = new Int8Array(rows * columns)
  const blocks = blockSize ? Math.ceil(columns / blockSize) : 1
  let each = 0
  for (let b = 0; b < blocks; b++) each += rows > 0 ? levels(0, b).length + 1 : 0
  const step = Math.max(1, Math.min(Math.max(kRows, Math.floor(kPart / columns)), Math.floor(kTable / each)))
  let error = 0
  for (let from = 0; from < rows; from += step) {
    const count = Math.min(step, rows - from)
    const w = weights.subarray(from * columns, (from + count) * columns)
    const table = tableOf(count, blocks, (row, block) => levels(from + row, block))
    const { start, values } = table
    // Where a value's nearest level lies in the table: it hardly moves from one step to the next.
    const place = new Int32Array(w.length)
    for (let r = 0, i = 0; r < count; r++) for (let c = 0; c < columns; c++, i++) place[i] = start[r * blocks + (blockSize ? Math.floor(c / blockSize) : 0)]!
    let q = w.slice()
    let last = w.slice()
    const ahead = new Float32Array(q.length)
    const delta = new Float32Array(q.length)
    const out = new Float32Array(q.length)
    const slope = (): Float32Array => gemm(delta, h, { aDims: [count, columns], bDims: [columns, columns], out }).data as Float32Array
    for (let t = 1; t <= iterations; t++) {
      const beta = Math.min(kMomentum, (t - 1) / (t + 2))
      lead(q, last, w, beta, ahead, delta)
      ;[q, last] = [last, q]
      move(ahead, slope(), q, place, table, pace, (lambda * t) / iterations)
    }
    const rounded = (from: Float32Array): { places: Uint8Array; errors: Float64Array } => {
      nearest(from, place, table)
      const places = new Uint8Array(from.length)
      for (let r = 0, i = 0; r < count; r++)
        for (let c = 0; c < columns; c++, i++) {
          const at = place[i]!
          places[i] = at - start[r * blocks + (blockSize ? Math.floor(c / blockSize) : 0)]!
          delta[i] = values[at]! - w[i]!
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

/** Where the next step is taken from, and how far that is from the weights. */
function lead(q: Float32Array, last: Float32Array, w: Float32Array, beta: number, ahead: Float32Array, delta: Float32Array): void {
  for (let i = 0; i < q.length; i++) {
    ahead[i] = q[i]! + beta * (q[i]! - last[i]!)
    delta[i] = ahead[i]! - w[i]!
  }
}

/** A step along the gradient, and towards the nearest levels. */
function move(ahead: Float32Array, gradient: Float32Array, q: Float32Array, place: Int32Array, { values, middles, gaps }: Table, pace: Float64Array, strength: number): void {
  for (let i = 0, columns = pace.length; i < q.length;)
    for (let c = 0; c < columns; c++, i++) {
      const p = pace[c]!
      const z = ahead[i]! - p * gradient[i]!
      let at = place[i]!
      while (z > middles[at + 1]!) at++
      while (z <= middles[at]!) at--
      place[i] = at
      const level = values[at]!
      const away = z - level
      const reach = strength * p * gaps[2 * at + Number(away >= 0)]!
      // Without a branch: which way a value goes is hard to foresee.
      q[i] = level + Math.max(away - reach, 0) + Math.min(away + reach, 0)
    }
}

function nearest(from: Float32Array, place: Int32Array, { middles }: Table): void {
  for (let i = 0; i < from.length; i++) {
    const z = from[i]!
    let at = place[i]!
    while (z > middles[at + 1]!) at++
    while (z <= middles[at]!) at--
    place[i] = at
  }
}

/** @internal What steps along a path are measured in: made once for all that have the same inputs. */
export interface Metric {
  /** H in units of its mean diagonal, damped, [columns, columns]. */
  readonly h: Float32Array
  /** Length of a step in each column. */
  readonly pace: Float64Array
  /** What H was multiplied with. */
  readonly unit: number
}

/** @internal @param hessian Σ x xᵀ of the inputs, [columns, columns] */
export function metricOf(hessian: Float64Array, columns: number): Metric {
  let trace = 0
  for (const v of diagonalOf(hessian, columns)) trace += v
  const unit = trace > 0 ? columns / trace : 0
  const h = narrowed(hessian, columns, (v, i) => v * unit + (i % (columns + 1) === 0 ? kDamping : 0))
  const most = 1.02 * largestEigenvalue(h, columns)
  return { h, pace: Float64Array.from({ length: columns }, (_, c) => 1 / (most * h[c * columns + c]!)), unit }
}

type Table = ReturnType<typeof tableOf>

/**
 * The levels of all rows and blocks, one after the other. A level is nearest to what lies above the middle at its own place and not above the
 * next one's; `gaps` are those to its neighbours below and above, at an end the one inwards.
 */
function tableOf(rows: number, blocks: number, levels: ProxOptions['levels']) {
  const start = new Int32Array(rows * blocks)
  let room = 0
  for (let k = 0; k < start.length; k++) {
    start[k] = room
    room += levels(Math.floor(k / blocks), k % blocks).length + 1
  }
  const [values, middles, gaps] = [room, room, 2 * room].map((n) => new Float64Array(n)) as [Float64Array, Float64Array, Float64Array]
  for (let k = 0; k < start.length; k++) {
    const own = levels(Math.floor(k / blocks), k % blocks)
    const [from, end] = [start[k]!, own.length - 1]
    middles[from] = -Infinity
    middles[from + own.length] = Infinity
    for (let at = 0; at <= end; at++) {
      values[from + at] = own[at]!
      if (at < end) middles[from + at + 1] = (own[at]! + own[at + 1]!) / 2
      for (const side of [0, 1]) gaps[2 * (from + at) + side] = gapAt(own, at, side - 0.5)
    }
  }
  return { start, values, middles, gaps }
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
  const scaled = new Float64Array(n)
  let value = 1
  for (let turn = 0; turn < 30; turn++) {
    const y = new Float64Array(n)
    for (let j = 0; j < n; j++) scaled[j] = x[j]! / root[j]!
    for (let i = 0; i < n; i++) {
      let sum = 0
      for (let j = 0, at = i * n; j < n; j++) sum += h[at + j]! * scaled[j]!
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
