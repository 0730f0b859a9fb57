import { mask } from '../../kernels/select'
import { pagedFloats, touched } from '../paged'
import { copied } from './gptq'
import { inverseFactor } from './linear'
import { carry, Compensation, layerError } from './update'

/** @internal What goes: single weights, all but n of every m columns, or blocks of rows × columns. */
export type SecondPattern = 'unstructured' | { readonly n: number; readonly m: number } | { readonly block: readonly [number, number] }

/** @internal */
export interface SparseGptOptions {
  readonly pattern: SecondPattern
  /** Share that goes; an n of m implies its own. */
  readonly sparsity: number
  /** The same share of every row (row of blocks), instead of every stretch of columns as a whole. */
  readonly balanced?: boolean
  /** Added to the diagonal, as a share of its mean. Default 0.01. */
  readonly damping?: number
  /** What `inverseFactor` makes of the second moments, where the caller has it. */
  readonly factor?: Float64Array
}

/** @internal */
export interface Pruned {
  /** [rows, columns], what is gone exactly 0. */
  readonly weights: Float32Array
  /** tr(ΔW H ΔWᵀ): how much the layer's outputs moved over all calibration vectors, squared. */
  readonly error: number
}

/** Columns among which a ratio is kept, and whose corrections are applied together. */
const kStretch = 128

/**
 * @internal Removes weights column by column, each time moving what they did to the columns behind, along the inverse of the
 * inputs' second moments. What goes is chosen anew for every 128 columns (n of m: for every m), by w² / [U]²ⱼⱼ of the weights
 * as they are by then.
 *
 * Frantar and Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023.
 *
 * @param weights [rows, columns], finite; not changed
 * @param hessian Σ x xᵀ of the inputs, [columns, columns]; not changed
 */
export function sparsegpt(weights: Float32Array, rows: number, columns: number, hessian: Float64Array, options: SparseGptOptions): Pruned {
  const { pattern, sparsity, balanced = false, damping = 0.01 } = options
  const factor = options.factor ?? inverseFactor(hessian, columns, damping).factor
  const w = copied(weights, columns)
  const runs = typeof pattern === 'object' && 'm' in pattern ? pattern : undefined
  const unit = runs ? runs.m : typeof pattern === 'object' && 'block' in pattern ? pattern.block[1] : 1
  const step = Math.max(unit, Math.floor(kStretch / unit) * unit)
  const compensation = new Compensation(w, rows, columns, factor)
  for (let from = 0; from < columns; from += step) {
    const { row, corner, width } = compensation.open(from, Math.min(columns, from + step))
    const { errors } = compensation
    const kept = runs ? new Uint8Array(rows * width) : chosen(compensation, rows, corner, width, pattern as Exclude<SecondPattern, { m: number }>, sparsity, balanced)
    for (let r = 0; r < rows; r++) {
      compensation.load(r)
      for (let j = 0; j < width; j++) {
        if (runs && j % runs.m === 0) keepBest(kept, r * width + j, row, j, corner, width, runs)
        if (kept[r * width + j] !== 0) continue
        const error = row[j]! / corner[j * width + j]!
        errors[r * width + j] = error
        if (error !== 0) carry(row, corner, j, width, error)
        row[j] = 0
      }
      for (let j = 0; j < width; j++) w[r * columns + from + j] = row[j]!
      touched(4 * columns)
    }
    compensation.close()
  }
  return { weights: w, error: layerError(differences(weights, w, columns), rows, columns, hessian) }
}

/** The mask of one stretch. */
function chosen(
  compensation: Compensation,
  rows: number,
  corner: Float64Array,
  width: number,
  pattern: 'unstructured' | { readonly block: readonly [number, number] },
  sparsity: number,
  balanced: boolean,
): Uint8Array {
  const scores = new Float32Array(rows * width)
  for (let r = 0; r < rows; r++) {
    const row = compensation.load(r)
    for (let j = 0; j < width; j++) scores[r * width + j] = saliency(row[j]!, corner[j * width + j]!)
  }
  const scope = balanced ? 'balanced' : 'uniform'
  return mask({ type: 'float32', dims: [rows, width], data: scores }, { sparsity, scope, pattern }).data
}

/** w² / d², where a float32 holds it. */
function saliency(w: number, d: number): number {
  return Math.min(3e38, (w / d) ** 2)
}

/** Keeps the n best of m columns; of equal ones the first. */
function keepBest(kept: Uint8Array, at: number, row: Float64Array, j: number, corner: Float64Array, width: number, { n, m }: { readonly n: number; readonly m: number }): void {
  const score = (k: number): number => saliency(row[j + k]!, corner[(j + k) * width + j + k]!)
  const order = Array.from({ length: m }, (_, k) => k).sort((a, b) => score(b) - score(a) || a - b)
  for (let k = 0; k < n; k++) kept[at + order[k]!] = 1
}

/** @internal */
export function differences(a: Float32Array, b: Float32Array, columns: number): Float32Array {
  const out = pagedFloats(a.length)
  for (let i = 0; i < a.length;) {
    for (const end = Math.min(a.length, i + columns); i < end; i++) out[i] = a[i]! - b[i]!
    touched(12 * columns)
  }
  return out
}
