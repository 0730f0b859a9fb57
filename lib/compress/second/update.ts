import { gemm } from '../../kernels/gemm'
import { allocate } from '../../tensor'
import { ease, touched } from '../paged'

/**
 * @internal Walks a matrix [rows, columns] a stretch of columns at a time, carrying what its owner changes in them over to the
 * columns behind: within a stretch the owner does it, in float64 row by row, and {@link close} does it for all behind with one
 * product in float32.
 */
export class Compensation {
  /** Of the open stretch, [rows, width]: what was lost of each weight, divided by the factor's diagonal. */
  errors = new Float32Array(0)
  readonly #w: Float32Array
  readonly #rows: number
  readonly #columns: number
  readonly #factor: Float64Array
  #from = 0
  #to = 0
  #row = new Float64Array(0)
  /** Used again from stretch to stretch. */
  #room = new Float32Array(0)
  #behind = new Float32Array(0)
  #product = new Float32Array(0)

  /** `w` is changed; `factor` as `inverseFactor` gives it. */
  constructor(w: Float32Array, rows: number, columns: number, factor: Float64Array) {
    this.#w = w
    this.#rows = rows
    this.#columns = columns
    this.#factor = factor
  }

  /** Buffers for the stretch: one row of it, and the corner of the factor that belongs to it, [width, width]. */
  open(from: number, to: number): { readonly row: Float64Array; readonly corner: Float64Array; readonly width: number } {
    this.#from = from
    this.#to = to
    const width = to - from
    this.#row = new Float64Array(width)
    const count = this.#rows * width
    if (this.#room.length < count) this.#room = new Float32Array(count)
    this.errors = this.#room.subarray(0, count).fill(0)
    const corner = new Float64Array(width * width)
    for (let i = 0; i < width; i++)
      for (let j = i; j < width; j++) corner[i * width + j] = this.#factor[(from + i) * this.#columns + from + j]!
    touched(8 * width * this.#columns)
    return { row: this.#row, corner, width }
  }

  /** Brings one row of the stretch into its buffer. */
  load(row: number): Float64Array {
    const base = row * this.#columns + this.#from
    for (let j = 0; j < this.#row.length; j++) this.#row[j] = this.#w[base + j]!
    touched(4 * this.#columns)
    return this.#row
  }

  /** Takes the errors of the stretch times the factor from all columns behind it. */
  close(): void {
    const columns = this.#columns
    const rest = columns - this.#to
    if (rest === 0) return
    const width = this.#to - this.#from
    if (this.#behind.length < width * rest) this.#behind = new Float32Array(width * rest)
    const factor = this.#behind.subarray(0, width * rest)
    for (let i = 0; i < width; i++)
      for (let j = 0, from = (this.#from + i) * columns + this.#to; j < rest; j++) factor[i * rest + j] = this.#factor[from + j]!
    touched(8 * width * rest)
    // In parts, so that no second matrix of this size is held.
    const step = Math.max(1, Math.min(this.#rows, Math.floor(2 ** 22 / rest)))
    if (this.#product.length < step * rest) this.#product = new Float32Array(step * rest)
    for (let r = 0; r < this.#rows; r += step) {
      const n = Math.min(step, this.#rows - r)
      const out = this.#product.subarray(0, n * rest)
      gemm(this.errors.subarray(r * width, (r + n) * width), factor, { aDims: [n, width], bDims: [width, rest], out })
      for (let i = 0; i < n; i++) {
        const to = (r + i) * columns + this.#to
        for (let j = 0, from = i * rest; j < rest; j++) this.#w[to + j]! -= out[from + j]!
        touched(4 * rest)
      }
    }
  }
}

/** @internal Takes the error of column j from the columns behind it, within a stretch. A function of its own: it is where the time goes. */
export function carry(row: Float64Array, corner: Float64Array, j: number, width: number, error: number): void {
  for (let k = j + 1, c = j * width + k; k < width; k++, c++) row[k]! -= error * corner[c]!
}

/** @internal tr(W H Wᵀ) of a matrix [rows, columns]: the squares of W x summed over all the vectors that H was made of. */
export function layerError(w: Float32Array, rows: number, columns: number, hessian: Float64Array): number {
  let total = 0
  // Columns of H in parts, so that no second matrix of this size is held.
  const step = Math.max(1, Math.min(columns, Math.floor(2 ** 22 / Math.max(rows, columns))))
  const room = allocate('float32', step * columns, 'hessian') as Float32Array
  const product = allocate('float32', step * rows, 'hessian') as Float32Array
  for (let c = 0; c < columns; c += step) {
    const n = Math.min(step, columns - c)
    const part = room.subarray(0, n * columns)
    const data = product.subarray(0, n * rows)
    for (let k = 0; k < n; k++) {
      for (let i = k * columns; i < (k + 1) * columns; i++) part[i] = hessian[c * columns + i]!
      touched(8 * columns)
    }
    gemm(w, part, { aDims: [rows, columns], bDims: [n, columns], transposeB: true, out: data })
    ease()
    for (let r = 0; r < rows; r++) {
      for (let j = 0; j < n; j++) total += data[r * n + j]! * w[r * columns + c + j]!
      touched(4 * columns)
    }
  }
  return Math.max(0, total)
}
