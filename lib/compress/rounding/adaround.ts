import { gemm } from '../../kernels/gemm'
import { ease, pagedFloats, touched } from '../paged'
import { copied } from '../second/gptq'
import { diagonalOf } from '../second/linear'
import { layerError } from '../second/update'
import { nearestLevel } from './levels'

/** @internal */
export interface AdaRoundOptions {
  /** 2 to 8. Codes are ±(2^(bits−1)−1). */
  readonly bits: number
  /** [rows, blocks] */
  readonly scale: Float32Array
  /** Columns that share a scale; 0 is one scale a row. */
  readonly blockSize: number
  /**
   * The values that a weight of a row and block may take, ascending, instead of scaled integers; codes are their places. Each
   * weight then goes to one of the two about it. `bits` and `scale` are not looked at.
   */
  readonly levels?: (row: number, block: number) => Float64Array
  /** Steps of Adam. Default 250. */
  readonly iterations?: number
}

/** @internal */
export interface AdaRounded {
  /** [rows, columns]; places beyond 127 as their low byte. */
  readonly codes: Int8Array
  /** tr(ΔW H ΔWᵀ) */
  readonly error: number
}

/** Of the rectified sigmoid. */
const kZeta = 1.1
const kGamma = -0.1
const kLambda = 0.01
const kRate = 0.02
/** Share of the steps before the regulariser sets in, whose exponent then falls from the first to the second. */
const kWarm = 0.2
const kBeta = [20, 2] as const
/** Values that are learned at a time. */
const kPart = 2 ** 20

/**
 * @internal Learns for each weight whether it is rounded down or up, so that the layer's outputs move least: the squared error
 * (Ŵ−W) H (Ŵ−W)ᵀ over rectified sigmoids between both codes, by Adam, with the regulariser that drives them to 0 or 1. H
 * stands for all calibration inputs, so none is run again. Errors count in steps of the scale, over the mean of H's diagonal.
 * What it learned is then put right weight by weight while that lowers the error: inputs with a large mean leave Adam far from
 * the end after any number of steps that is affordable.
 *
 * Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, 2020.
 *
 * @param weights [rows, columns], finite
 * @param hessian Σ x xᵀ of the inputs, [columns, columns]
 */
export function adaround(weights: Float32Array, rows: number, columns: number, hessian: Float64Array, options: AdaRoundOptions): AdaRounded {
  const { iterations = 250 } = options
  const codes = new Int8Array(rows * columns)
  let trace = 0
  for (const v of diagonalOf(hessian, columns)) trace += v
  const unit = trace > 0 ? columns / trace : 0
  const h = narrowed(hessian, columns, (v) => v * unit)
  const step = Math.max(1, Math.floor(kPart / columns))
  for (let r = 0; r < rows; r += step)
    new Part(weights, codes, Math.min(step, rows - r), columns, r, h, options).learn(unit > 0 ? iterations : 0)
  ease()
  const delta = copied(weights, columns)
  if (options.levels) {
    const values = valueAt(columns, options.blockSize, options.levels)
    for (let i = 0; i < delta.length; i++) delta[i]! -= values(i)[codes[i]! & 255]!
  } else {
    const scale = scaleAt(columns, options)
    for (let i = 0; i < delta.length; i++) delta[i]! -= codes[i]! * scale(i)
  }
  return { codes, error: layerError(delta, rows, columns, hessian) }
}

/** @internal H in float32, each entry as `of` has it. */
export function narrowed(hessian: Float64Array, n: number, of: (v: number, i: number) => number): Float32Array {
  const out = pagedFloats(n * n)
  for (let r = 0, i = 0; r < n; r++) {
    for (const end = i + n; i < end; i++) out[i] = of(hessian[i]!, i)
    touched(12 * n)
  }
  return out
}

/** The scale of element i. */
function scaleAt(columns: number, { scale, blockSize }: AdaRoundOptions): (i: number) => number {
  const blocks = blockSize > 0 ? Math.ceil(columns / blockSize) : 1
  return (i) => {
    const row = Math.floor(i / columns)
    return scale[row * blocks + (blockSize > 0 ? Math.floor((i - row * columns) / blockSize) : 0)]!
  }
}

/** The levels of element i. */
function valueAt(columns: number, blockSize: number, levels: NonNullable<AdaRoundOptions['levels']>): (i: number) => Float64Array {
  let last = -1
  let values: Float64Array = new Float64Array(0)
  return (i) => {
    const row = Math.floor(i / columns)
    const block = blockSize > 0 ? Math.floor((i - row * columns) / blockSize) : 0
    const key = row * columns + block
    if (key !== last) {
      values = levels(row, block)
      last = key
    }
    return values
  }
}

/** Some rows. */
class Part {
  readonly #rows: number
  readonly #columns: number
  readonly #h: Float32Array
  /** Codes, from the first of these rows on. */
  readonly #codes: Int8Array
  readonly #top: number
  /** Weights in steps of their scale, and the codes below them; of levels the share of the way from the one below, and 0. */
  readonly #w: Float32Array
  readonly #low: Float32Array
  /** Of levels the place of the one below. */
  readonly #place: Uint8Array | undefined
  /** What {@link #slopes} gave last. */
  readonly #slope: Float32Array
  /** Steps of each value, over the largest of its row. */
  readonly #weight: Float32Array

  constructor(weights: Float32Array, codes: Int8Array, rows: number, columns: number, from: number, h: Float32Array, options: AdaRoundOptions) {
    this.#rows = rows
    this.#columns = columns
    this.#h = h
    this.#codes = codes.subarray(from * columns, (from + rows) * columns)
    this.#top = 2 ** (options.bits - 1) - 1
    const n = rows * columns
    this.#w = new Float32Array(n)
    this.#slope = new Float32Array(n)
    this.#low = new Float32Array(n)
    this.#weight = new Float32Array(n)
    if (options.levels) {
      this.#place = new Uint8Array(n)
      this.#between(weights, from, options.levels, options.blockSize)
      return
    }
    const scale = scaleAt(columns, options)
    for (let r = 0; r < rows; r++) {
      let most = 0
      for (let c = 0; c < columns; c++) most = Math.max(most, scale((from + r) * columns + c))
      for (let c = 0; c < columns; c++) {
        const i = r * columns + c
        const s = scale(from * columns + i)
        this.#w[i] = weights[from * columns + i]! / s
        this.#weight[i] = s / most
        // The two codes about the weight; beyond the range its end and the one before.
        this.#low[i] = Math.max(-this.#top, Math.min(this.#top - 1, Math.floor(this.#w[i]!)))
      }
    }
  }

  #between(weights: Float32Array, from: number, levels: NonNullable<AdaRoundOptions['levels']>, blockSize: number): void {
    const values = valueAt(this.#columns, blockSize, levels)
    const place = this.#place!
    for (let r = 0; r < this.#rows; r++) {
      let most = 0
      const base = r * this.#columns
      for (let i = base; i < base + this.#columns; i++) {
        const at = from * this.#columns + i
        const own = values(at)
        const v = weights[at]!
        let low = nearestLevel(own, v)
        place[i] = low
        // A zero that may stay one does: pruned layers stay pruned.
        if (v === 0 && own[low] === 0) continue
        if (low > 0 && (own[low]! > v || low === own.length - 1)) low--
        const step = own.length > 1 ? own[low + 1]! - own[low]! : 0
        place[i] = low
        // Of equal neighbours either will do.
        this.#w[i] = step > 0 ? (v - own[low]!) / step : 0
        this.#weight[i] = step
        most = Math.max(most, step)
      }
      if (most > 0) for (let i = base; i < base + this.#columns; i++) this.#weight[i]! /= most
    }
  }

  learn(iterations: number): void {
    ease()
    const n = this.#w.length
    const up = new Float32Array(n)
    const v = new Float32Array(n)
    const first = new Float32Array(n)
    const second = new Float32Array(n)
    const sigmoid = new Float32Array(n)
    const error = new Float32Array(n)
    for (let i = 0; i < n; i++) {
      const rest = Math.min(1, Math.max(0, this.#w[i]! - this.#low[i]!))
      up[i] = rest
      const s = (sigmoid[i] = (rest - kGamma) / (kZeta - kGamma))
      v[i] = Math.log(s / (1 - s))
    }
    const share = this.#weight
    for (let t = 1; t <= iterations; t++) {
      const late = (t / iterations - kWarm) / (1 - kWarm)
      const beta = kBeta[1] + (kBeta[0] - kBeta[1]) * 0.5 * (1 + Math.cos(Math.max(0, late) * Math.PI))
      const slope = this.#slopes(up, error)
      const [a, b] = [1 - 0.9 ** t, 1 - 0.999 ** t]
      for (let i = 0; i < n; i++) {
        const s = sigmoid[i]!
        const stretched = s * (kZeta - kGamma) + kGamma
        // Where the sigmoid is cut off, nothing pulls any more.
        let g = 0
        if (stretched > 0 && stretched < 1) {
          const from = 2 * up[i]! - 1
          g = 2 * slope[i]! * share[i]!
          if (late > 0) {
            const pull = 2 * kLambda * beta * Math.exp((beta - 1) * Math.log(Math.abs(from) + 1e-12))
            g -= from < 0 ? -pull : pull
          }
          g *= (kZeta - kGamma) * s * (1 - s)
        }
        const m = (first[i] = 0.9 * first[i]! + 0.1 * g)
        const q = (second[i] = 0.999 * second[i]! + 0.001 * g * g)
        v[i]! -= (kRate * (m / a)) / (Math.sqrt(q / b) + 1e-8)
        const now = (sigmoid[i] = 1 / (1 + Math.exp(-v[i]!)))
        up[i] = Math.min(1, Math.max(0, now * (kZeta - kGamma) + kGamma))
      }
    }
    this.#settle(up, error)
  }

  /** (ŵ − w) H in weighted steps. */
  #slopes(up: Float32Array, error: Float32Array): Float32Array {
    const [low, w, weight] = [this.#low, this.#w, this.#weight]
    for (let i = 0; i < up.length; i++) error[i] = (low[i]! + up[i]! - w[i]!) * weight[i]!
    const size = this.#columns
    return gemm(error, this.#h, { aDims: [this.#rows, size], bDims: [size, size], out: this.#slope }).data as Float32Array
  }

  #settle(up: Float32Array, error: Float32Array): void {
    const n = up.length
    const nearest = new Float32Array(n)
    for (let i = 0; i < n; i++) {
      // Half to even, as nearest rounding has it.
      const rest = this.#w[i]! - this.#low[i]!
      nearest[i] = rest > 0.5 || (rest === 0.5 && this.#low[i]! % 2 !== 0) ? 1 : 0
      up[i] = up[i]! >= 0.5 ? 1 : 0
    }
    this.#descend(up, this.#slopes(up, error), error)
    this.#descend(nearest, this.#slopes(nearest, error), error)
    const learned = this.#errors(up, error)
    const plain = this.#errors(nearest, error)
    for (let r = 0, i = 0; r < this.#rows; r++) {
      const best = learned[r]! <= plain[r]! ? up : nearest
      for (let c = 0; c < this.#columns; c++, i++) this.#codes[i] = this.#place ? this.#place[i]! + (this.#weight[i]! > 0 ? best[i]! : 0) : this.#low[i]! + best[i]!
    }
  }

  /** Turns single roundings of each row round, the one that helps most first, until none helps; `slope` is (ŵ − w) H. */
  #descend(up: Float32Array, slope: Float32Array, error: Float32Array): void {
    const size = this.#columns
    const h = this.#h
    const weight = this.#weight
    const g = new Float64Array(size)
    for (let r = 0; r < this.#rows; r++) {
      const base = r * size
      for (let c = 0; c < size; c++) g[c] = slope[base + c]!
      for (let turn = 0; turn < 4 * size; turn++) {
        let gain = 1e-7
        let at = -1
        let by = 0
        for (let c = 0; c < size; c++) {
          const move = (1 - 2 * up[base + c]!) * weight[base + c]!
          const less = -move * (2 * g[c]! + move * h[c * size + c]!)
          if (less > gain) {
            gain = less
            at = c
            by = move
          }
        }
        if (at < 0) break
        up[base + at] = 1 - up[base + at]!
        error[base + at]! += by
        for (let c = 0, from = at * size; c < size; c++) g[c]! += by * h[from + c]!
      }
    }
  }

  /** Each row's (ŵ − w) H (ŵ − w)ᵀ. */
  #errors(up: Float32Array, error: Float32Array): Float64Array {
    const slope = this.#slopes(up, error)
    const sums = new Float64Array(this.#rows)
    for (let r = 0, i = 0; r < this.#rows; r++) for (let c = 0; c < this.#columns; c++, i++) sums[r]! += slope[i]! * error[i]!
    return sums
  }
}
