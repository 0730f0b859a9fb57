import { fromRows, toRows, type Moments, type RowLayout } from '../moments'
import { gptq } from '../second/gptq'
import { layerError } from '../second/update'
import { adaround } from './adaround'
import { gridOf } from './grid'
import type { Levels } from './levels'
import { valuesOf, type Cut } from './scales'

/** How calibrated codes are found. */
export type CalibratedMethod = 'gptq' | 'adaround'

/** @internal Rounding that looks at what a layer's inputs were. */
export interface Calibrated {
  /** In the order of the tensor; beyond 127 as their low byte. */
  readonly codes: Int8Array
  /** Σ(y − ŷ)² / Σ(y − ȳ)² of the outputs over all calibration inputs. */
  readonly outputError: number
}

/** @internal What values the weights of a matrix of rows may take. */
export interface Choices {
  /** Columns that share a scale or levels; 0: a row does. */
  readonly blockSize: number
  /** Of integers: their bits, and the scales, [rows, blocks]. */
  readonly bits?: number
  readonly scale?: Float32Array
  /** Of anything else; rows of all groups counted through. */
  readonly levels?: (row: number, block: number) => Levels
}

/** Numbers of the layout's scales as [rows, blocks] of the weight seen as rows. */
function placesOf(layout: Cut, rows: RowLayout, count: number, scales: number): { at: Float32Array; blockSize: number } {
  const { groups, outputs, size } = rows
  const all = groups * outputs
  if (layout.whole) return { at: new Float32Array(all), blockSize: 0 }
  const numbers = Float32Array.from({ length: scales }, (_, i) => i)
  const spread = toRows(valuesOf(new Int8Array(count).fill(1), layout, gridOf('int', 8), numbers), rows)
  const blockSize = layout.blockSize < size ? layout.blockSize : 0
  const blocks = blockSize ? size / blockSize : 1
  return { at: Float32Array.from({ length: all * blocks }, (_, i) => spread[Math.floor(i / blocks) * size + (i % blocks) * blockSize]!), blockSize }
}

/** @internal Integers of given scales, in the order of the layout. */
export function integerChoices(layout: Cut, rows: RowLayout, count: number, scales: Float32Array, bits: number): Choices {
  const { at, blockSize } = placesOf(layout, rows, count, scales.length)
  return { blockSize, bits, scale: at.map((i) => scales[i]!) }
}

/** @internal Levels by the number of the layout's group. */
export function levelChoices(layout: Cut, rows: RowLayout, count: number, groups: number, levelsOf: (group: number) => Levels): Choices {
  const { at, blockSize } = placesOf(layout, rows, count, groups)
  const blocks = blockSize ? rows.size / blockSize : 1
  return { blockSize, levels: (row, block) => levelsOf(at[row * blocks + block]!) }
}

/**
 * @internal Codes for given scales or levels: by GPTQ, columns with the largest inputs first, or AdaRound; one matrix for each
 * group of the layer.
 */
export function roundCalibrated(values: Float32Array, choices: Choices, method: CalibratedMethod, rows: RowLayout, { hessian, sum, rows: vectors }: Moments): Calibrated {
  const { groups, outputs, size } = rows
  const weights = toRows(values, rows)
  const { blockSize, bits = 8, scale, levels } = choices
  const codes = new Float32Array(weights.length)
  const blocks = blockSize ? size / blockSize : 1
  let error = 0
  let power = 0
  for (let g = 0; g < groups; g++) {
    const from = g * outputs * size
    const w = weights.subarray(from, from + outputs * size)
    const h = hessian.subarray(g * size * size, (g + 1) * size * size)
    const of = levels && ((row: number, block: number): Levels => levels(g * outputs + row, block))
    const s = scale ? scale.subarray(g * outputs * blocks, (g + 1) * outputs * blocks) : new Float32Array(outputs * blocks).fill(1)
    const given = { bits, blockSize, scale: s, ...(of ? { levels: (row: number, block: number) => of(row, block).values } : {}) }
    const found = method === 'gptq' ? gptq(w, outputs, size, h, { ...given, order: true }) : adaround(w, outputs, size, h, given)
    for (let i = 0; i < w.length; i++) {
      const place = found.codes[i]!
      if (!of) codes[from + i] = place
      else {
        const row = Math.floor(i / size)
        const own = of(row, blockSize ? Math.floor((i - row * size) / blockSize) : 0).codes
        codes[from + i] = own ? own[place & 255]! : place & 255
      }
    }
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
