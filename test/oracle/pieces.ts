import type { Spec } from '../nets'

/** Rows along which an op sums, by the op's definition; independent of the implementation. */
export interface Rows {
  /** Values of a row. */
  readonly length: number
  readonly rows: readonly { readonly channel: number; readonly values: number[] }[]
}

/** A transposed convolution sums over several axes: its rows are the taps of one filter. */
export function rowsAlongSums({ op, dims, attributes = {}, at = 1 }: Pick<Spec, 'op' | 'dims' | 'attributes' | 'at'>, data: Float32Array): Rows {
  const last = dims.at(-1)!
  const rows: { channel: number; values: number[] }[] = []
  const size = (list: readonly number[]): number => list.reduce((a, b) => a * b, 1)
  const transposed = op === 'MatMul' ? at === 1 : op === 'Gemm' && attributes['transB'] === undefined
  if (transposed) {
    const k = dims.at(-2)!
    for (let b = 0; b < size(dims.slice(0, -2)); b++)
      for (let n = 0; n < last; n++) rows.push({ channel: n, values: Array.from({ length: k }, (_, i) => data[(b * k + i) * last + n]!) })
    return { length: k, rows }
  }
  const length = op === 'ConvTranspose' ? size(dims.slice(2)) : op === 'Conv' || op === 'Gather' ? size(dims.slice(1)) : last
  for (let r = 0; r < data.length / length; r++)
    rows.push({ channel: op === 'ConvTranspose' ? r % dims[1]! : r, values: Array.from(data.subarray(r * length, (r + 1) * length)) })
  return { length, rows }
}

/** Squared distance to the nearest. */
export function nearestOf(book: readonly (readonly number[])[], x: readonly number[]): number {
  return book.reduce((least, c) => Math.min(least, x.reduce((s, v, j) => s + (v - c[j]!) ** 2, 0)), Infinity)
}
