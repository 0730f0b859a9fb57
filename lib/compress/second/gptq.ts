import { paged, pagedFloats, touched } from '../paged'
import { nearestLevel } from '../rounding/levels'
import { diagonalOf, inverseFactor } from './linear'
import { carry, Compensation, layerError } from './update'

/** @internal */
export interface GptqOptions {
  /** 2 to 8. Codes are ±(2^(bits−1)−1). */
  readonly bits: number
  /** Columns that share a scale; 0 (default) is one scale a row. The last block may be shorter. */
  readonly blockSize?: number
  /**
   * How a scale follows from the values that share it: their largest magnitude (`'nearest'`, default), or the clipped range
   * with the least square error (`'omse'`).
   */
  readonly range?: 'nearest' | 'omse'
  /** Scales to be used, [rows, blocks], instead of finding them. */
  readonly scale?: Float32Array
  /**
   * The values that a weight of a row and block may take, ascending, instead of scaled integers. Codes are their places. Answers may be
   * overwritten when another row's of the same block are asked for.
   */
  readonly levels?: (row: number, block: number) => Float64Array
  /** Added to the diagonal, as a share of its mean. Default 0.01. */
  readonly damping?: number
  /**
   * Columns with the largest inputs first. Blocks then have scales of the weights as given, else of the weights as they are when
   * a block's turn comes. Default false.
   */
  readonly order?: boolean
  /** Weights that are 0 stay 0, whatever others would have them take over: pruned layers stay pruned. Default true. */
  readonly keepZeros?: boolean
}

/** @internal */
export interface GptqResult {
  /** [rows, columns]; places beyond 127 as their low byte. */
  readonly codes: Int8Array
  /** [rows, ⌈columns / blockSize⌉]; [rows] without blocks. Of levels 1. */
  readonly scale: Float32Array
  /** tr(ΔW H ΔWᵀ): how much the layer's outputs moved over all calibration vectors, squared. */
  readonly error: number
  /** tr(ΔW H ΔWᵀ) / tr(W H Wᵀ); 0 where both are. */
  readonly relative: number
}

/** Columns whose corrections are applied together to those behind them. */
const kLazy = 128

/**
 * @internal Rounds a matrix column by column to symmetric codes, each time moving what the rounding cost to the columns
 * that are not rounded yet, along the inverse of the inputs' second moments.
 *
 * Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, 2022.
 *
 * @param weights [rows, columns], finite; not changed
 * @param hessian Σ x xᵀ of the inputs, [columns, columns]; not changed
 */
export function gptq(weights: Float32Array, rows: number, columns: number, hessian: Float64Array, options: GptqOptions): GptqResult {
  const { bits, blockSize = 0, range = 'nearest', damping = 0.01, order = false, keepZeros = true } = options
  const top = 2 ** (bits - 1) - 1
  const size = blockSize > 0 ? Math.min(blockSize, columns) : columns
  const blocks = Math.ceil(columns / size)
  const scale = new Float32Array(rows * blocks)
  const search = range === 'omse' ? leastSquareScale : absmaxScale
  const at = order ? byDiagonal(hessian, columns) : undefined
  const w = at ? permuted(weights, rows, columns, at) : copied(weights, columns)
  const { factor } = inverseFactor(at ? permutedBoth(hessian, columns, at) : hessian, columns, damping)
  // A block's own turn is a time of its own only where columns keep their order.
  const levels = options.levels && listed(options.levels)
  const fixed = levels ? scale.fill(1) : options.scale ?? (order || blocks === 1 ? scalesOf(weights, rows, columns, size, top, search) : undefined)
  if (fixed) scale.set(fixed)
  const codes = paged('int8', rows * columns, 'weights') as Int8Array
  const compensation = new Compensation(w, rows, columns, factor)
  for (const [from, to] of stretches(columns, fixed ? columns : size)) {
    const { row, corner, width } = compensation.open(from, to)
    const { errors } = compensation
    for (let r = 0; r < rows; r++) {
      compensation.load(r)
      for (let j = 0; j < width; j++) {
        const column = from + j
        const block = Math.floor((at ? at[column]! : column) / size)
        // A block begins in its first stretch; if it reaches beyond, all that came before is already in the rest of it.
        if (!fixed && column % size === 0) scale[r * blocks + block] = search(blockOf(w, r * columns, column, Math.min(columns, column + size), row, from, to), top)
        const s = scale[r * blocks + block]!
        const value = row[j]!
        const zero = keepZeros && weights[r * columns + (at ? at[column]! : column)] === 0
        let near: number
        if (levels) {
          const own = levels(r, block)
          const place = zero && own.zero >= 0 ? own.zero : nearestLevel(own.values, value)
          codes[r * columns + column] = place
          near = own.values[place]!
        } else {
          const code = zero ? 0 : codeOf(value, s, top)
          codes[r * columns + column] = code
          near = Math.fround(code * s)
        }
        const error = (value - near) / corner[j * width + j]!
        errors[r * width + j] = error
        if (error !== 0) carry(row, corner, j, width, error)
      }
      // The row of the weight as given, and of the codes.
      touched(5 * columns)
    }
    compensation.close()
  }
  const placed = at ? unpermuted(codes, rows, columns, at) : codes
  const delta = w
  let index = 0
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, index++) {
      const block = Math.floor(c / size)
      delta[index] = weights[index]! - (levels ? levels(r, block).values[placed[index]! & 255]! : placed[index]! * scale[r * blocks + block]!)
    }
    touched(9 * columns)
  }
  const error = layerError(delta, rows, columns, hessian)
  const all = layerError(weights, rows, columns, hessian)
  return { codes: placed, scale, error, relative: all > 0 ? error / all : 0 }
}

/** Levels of one row, by block, and where zero is among them (-1: nowhere). */
function listed(of: NonNullable<GptqOptions['levels']>): (row: number, block: number) => { readonly values: Float64Array; readonly zero: number } {
  const known: { readonly row: number; readonly values: Float64Array; readonly zero: number }[] = []
  return (row, block) => {
    const last = known[block]
    if (last?.row === row) return last
    const values = of(row, block)
    return (known[block] = { row, values, zero: values.indexOf(0) })
  }
}

/** Stretches of columns that are worked on together: whole blocks where they are small, parts of one block else. */
function* stretches(columns: number, size: number): Generator<readonly [number, number]> {
  const step = size >= kLazy ? size : Math.floor(kLazy / size) * size
  for (let block = 0; block < columns; block += step) {
    const end = Math.min(columns, block + step)
    for (let from = block; from < end; from += kLazy) yield [from, Math.min(end, from + kLazy)]
  }
}

/** Code of the nearest level, halves to even. */
function codeOf(value: number, scale: number, top: number): number {
  // Adding and taking away 1.5 · 2⁵² rounds to an integer, halves to even.
  const code = Math.fround(value) / scale + 6755399441055744 - 6755399441055744
  return code > top ? top : code < -top ? -top : code
}

type ScaleSearch = (values: Float64Array, top: number) => number

function absmaxScale(values: Float64Array, top: number): number {
  let most = 0
  for (const v of values) {
    const m = v < 0 ? -v : v
    if (m > most) most = m
  }
  const scale = Math.fround(most / top)
  return scale > 0 ? scale : 1
}

/** The clipped range, of 40 between a fifth of the largest magnitude and all of it, whose codes have the least square error. */
function leastSquareScale(values: Float64Array, top: number): number {
  const full = absmaxScale(values, top)
  let best = full
  let least = Infinity
  for (let i = 0; i < 40; i++) {
    const scale = Math.fround(full * (1 - 0.02 * i))
    if (!(scale > 0)) break
    let sum = 0
    for (const v of values) {
      const d = v - codeOf(v, scale, top) * scale
      sum += d * d
      if (sum >= least) break
    }
    if (sum < least) {
      least = sum
      best = scale
    }
  }
  return best
}

function scalesOf(weights: Float32Array, rows: number, columns: number, size: number, top: number, search: ScaleSearch): Float32Array {
  const blocks = Math.ceil(columns / size)
  const out = new Float32Array(rows * blocks)
  for (let r = 0; r < rows; r++) {
    touched(4 * columns)
    for (let b = 0; b < blocks; b++)
      out[r * blocks + b] = search(Float64Array.from(weights.subarray(r * columns + b * size, r * columns + Math.min(columns, (b + 1) * size))), top)
  }
  return out
}

/** Values `start … end` of a row: those of the open stretch from its buffer. */
function blockOf(w: Float32Array, base: number, start: number, end: number, row: Float64Array, from: number, to: number): Float64Array {
  const out = new Float64Array(end - start)
  for (let c = start; c < end; c++) out[c - start] = c < to ? row[c - from]! : w[base + c]!
  return out
}

/** Columns by falling diagonal; equal ones in their order. */
function byDiagonal(hessian: Float64Array, n: number): Int32Array {
  const diagonal = diagonalOf(hessian, n)
  return Int32Array.from({ length: n }, (_, i) => i).sort((a, b) => diagonal[b]! - diagonal[a]! || a - b)
}

function permuted(values: Float32Array, rows: number, columns: number, at: Int32Array): Float32Array {
  const out = pagedFloats(values.length)
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) out[i] = values[r * columns + at[c]!]!
    touched(8 * columns)
  }
  return out
}

function unpermuted(values: Int8Array, rows: number, columns: number, at: Int32Array): Int8Array {
  const out = paged('int8', values.length, 'weights') as Int8Array
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) out[r * columns + at[c]!] = values[i]!
    touched(2 * columns)
  }
  return out
}

/** @internal A copy of a matrix, row after row. */
export function copied(values: Float32Array, columns: number): Float32Array {
  const out = pagedFloats(values.length)
  for (let i = 0; i < values.length; i += columns) {
    out.set(values.subarray(i, i + columns), i)
    touched(8 * columns)
  }
  return out
}

/** @internal Rows and columns of H in another order. */
export function permutedBoth(hessian: Float64Array, n: number, at: Int32Array): Float64Array {
  const out = paged('float64', n * n, 'hessian') as Float64Array
  for (let i = 0; i < n; i++) {
    for (let j = 0, from = at[i]! * n; j < n; j++) out[i * n + j] = hessian[from + at[j]!]!
    touched(16 * n)
  }
  return out
}
