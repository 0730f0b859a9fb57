import { fromRows, toRows, type Moments, type RowLayout } from '../moments'
import type { Layout } from '../passes/emit'
import { gptq } from '../second/gptq'
import { layerError } from '../second/update'
import { adaround } from './adaround'
import { gridOf } from './grid'
import { valuesOf } from './scales'

/** @internal Rounding that looks at what a layer's inputs were. */
export interface Calibrated {
  /** In the order of the tensor. */
  readonly codes: Int8Array
  /** Σ(y − ŷ)² / Σ(y − ȳ)² of the outputs over all calibration inputs. */
  readonly outputError: number
}

/** @internal Scales as [rows, blocks] of the weight seen as rows. */
function scalesOfRows(layout: Layout, rows: RowLayout, scales: Float32Array, count: number): { scale: Float32Array; blockSize: number } {
  const { groups, outputs, size } = rows
  const all = groups * outputs
  if (layout.whole) return { scale: new Float32Array(all).fill(scales[0]!), blockSize: 0 }
  const spread = toRows(valuesOf(new Int8Array(count).fill(1), layout, gridOf('int', 8), scales), rows)
  const blockSize = layout.blockSize < size ? layout.blockSize : 0
  const blocks = blockSize ? size / blockSize : 1
  return { scale: Float32Array.from({ length: all * blocks }, (_, i) => spread[Math.floor(i / blocks) * size + (i % blocks) * blockSize]!), blockSize }
}

/**
 * @internal Codes for given scales: by GPTQ, columns with the largest inputs first, or AdaRound; one matrix for each group of
 * the layer.
 */
export function roundCalibrated(
  values: Float32Array,
  layout: Layout,
  scales: Float32Array,
  bits: number,
  method: 'gptq' | 'adaround',
  rows: RowLayout,
  { hessian, sum, rows: vectors }: Moments,
): Calibrated {
  const { groups, outputs, size } = rows
  const weights = toRows(values, rows)
  const { scale, blockSize } = scalesOfRows(layout, rows, scales, values.length)
  const codes = new Float32Array(weights.length)
  const perGroup = scale.length / groups
  let error = 0
  let power = 0
  for (let g = 0; g < groups; g++) {
    const from = g * outputs * size
    const w = weights.subarray(from, from + outputs * size)
    const h = hessian.subarray(g * size * size, (g + 1) * size * size)
    const s = scale.subarray(g * perGroup, (g + 1) * perGroup)
    const found =
      method === 'gptq'
        ? gptq(w, outputs, size, h, { bits, blockSize, scale: s, order: true })
        : adaround(w, outputs, size, h, { bits, blockSize, scale: s })
    codes.set(found.codes, from)
    error += found.error
    power += layerError(w, outputs, size, h)
    for (let r = 0; r < outputs; r++) {
      let total = 0
      for (let k = 0; k < size; k++) total += w[r * size + k]! * sum[g * size + k]!
      power -= (total * total) / vectors
    }
  }
  return { codes: Int8Array.from(fromRows(codes, rows)), outputError: power > 0 ? error / power : 0 }
}
