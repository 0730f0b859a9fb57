import { ease, paged, pagedFloats, touched } from '../paged'
import { fromRows, kMapped, toRows, type Moments, type RowLayout } from '../moments'
import { gptq } from '../second/gptq'
import { layerError } from '../second/update'
import { adaround } from './adaround'
import { gridOf } from './grid'
import type { Levels } from './levels'
import { kLambdas, metricOf, prox } from './prox'
import { valuesOf, type Cut } from './scales'

/** How calibrated codes are found. */
export type CalibratedMethod = 'gptq' | 'adaround' | 'prox'

/** @internal Rounding that looks at what a layer's inputs were. */
export interface Calibrated {
  /** In the order of the tensor; beyond 127 as their low byte. */
  readonly codes: Int8Array
  /** Σ(y − ŷ)² / Σ(y − ȳ)² of the outputs over all calibration inputs. */
  readonly outputError: number
  /** Of `'prox'`: the strength that folds chose. */
  readonly lambda?: number
}

/** @internal What values the weights of a matrix of rows may take. */
export interface Choices {
  /** Columns that share a scale or levels; 0: a row does. */
  readonly blockSize: number
  /** Of integers: their bits, and the scales, [rows, blocks]. */
  readonly bits?: number
  readonly scale?: Float32Array
  /** Of anything else; rows of all groups counted through. Valid until another row's of the same block are asked for. */
  readonly levels?: (row: number, block: number) => Levels
}

/** Numbers of the layout's scales as [rows, blocks] of the weight seen as rows. */
function placesOf(layout: Cut, rows: RowLayout, count: number, scales: number): { at: Float32Array; blockSize: number } {
  const { groups, outputs, size } = rows
  const all = groups * outputs
  if (layout.whole) return { at: new Float32Array(all), blockSize: 0 }
  const numbers = Float32Array.from({ length: scales }, (_, i) => i)
  const spread = toRows(valuesOf(new Int8Array(count).fill(1), layout, gridOf('int', 8), numbers, pagedFloats(count)), rows)
  const blockSize = layout.blockSize < size ? layout.blockSize : 0
  const blocks = blockSize ? size / blockSize : 1
  return { at: Float32Array.from({ length: all * blocks }, (_, i) => spread[Math.floor(i / blocks) * size + (i % blocks) * blockSize]!), blockSize }
}

/** @internal Integers of given scales, in the order of the layout. */
export function integerChoices(layout: Cut, rows: RowLayout, count: number, scales: Float32Array, bits: number): Choices {
  const { at, blockSize } = placesOf(layout, rows, count, scales.length)
  return { blockSize, bits, scale: at.map((i) => scales[i]!) }
}

/** @internal Levels by the number of the layout's group; those of one row are held, in `into` where they had their place before. */
export function levelChoices(layout: Cut, rows: RowLayout, count: number, groups: number, levelsOf: (group: number, into?: Float64Array) => Levels): Choices {
  const { at, blockSize } = placesOf(layout, rows, count, groups)
  const blocks = blockSize ? rows.size / blockSize : 1
  const of = held(levelsOf)
  return { blockSize, levels: (row, block) => of(at[row * blocks + block]!, block) }
}

/** What was made last for each block: short blocks have more levels in all than a weight has values. */
function held<T extends { readonly values: Float64Array }>(make: (key: number, into?: Float64Array) => T): (key: number, block: number) => T {
  const known: { readonly key: number; readonly made: T }[] = []
  return (key, block) => {
    const last = known[block]
    if (last?.key === key) return last.made
    const made = make(key, last?.made.values)
    known[block] = { key, made }
    return made
  }
}

/**
 * @internal Codes for given scales or levels: by GPTQ, columns with the largest inputs first, AdaRound, or ProxQuant; one matrix for
 * each group of the layer.
 *
 * @param folds of `'prox'`: the moments of disjoint parts of the inputs, which choose its λ
 */
export function roundCalibrated(
  values: Float32Array,
  choices: Choices,
  method: CalibratedMethod,
  rows: RowLayout,
  { hessian, sum, rows: vectors }: Moments,
  folds: readonly Moments[] = [],
): Calibrated {
  const { groups, outputs, size } = rows
  const weights = toRows(values, rows)
  const { blockSize, bits = 8, scale, levels } = choices
  const codes = paged('int8', weights.length, 'weights') as Int8Array
  const blocks = blockSize ? size / blockSize : 1
  const proxLevels = placesOfCodes(choices, blocks)
  const lambda = method === 'prox' ? chooseLambda(weights, rows, blockSize, proxLevels, folds) : undefined
  let error = 0
  let power = 0
  for (let g = 0; g < groups; g++) {
    const from = g * outputs * size
    const w = weights.subarray(from, from + outputs * size)
    const h = hessian.subarray(g * size * size, (g + 1) * size * size)
    const of = levels && ((row: number, block: number): Levels => levels(g * outputs + row, block))
    const s = scale ? scale.subarray(g * outputs * blocks, (g + 1) * outputs * blocks) : new Float32Array(outputs * blocks).fill(1)
    const given = { bits, blockSize, scale: s, ...(of ? { levels: (row: number, block: number) => of(row, block).values } : {}) }
    const found =
      lambda !== undefined
        ? prox(w, outputs, size, metricOf(h, size), { blockSize, lambda, levels: (row, block) => proxLevels(g * outputs + row, block) })
        : method === 'gptq'
          ? gptq(w, outputs, size, h, { ...given, order: true })
          : adaround(w, outputs, size, h, given)
    ease()
    for (let i = 0; i < w.length; i++) {
      const place = found.codes[i]!
      if (!of) codes[from + i] = lambda === undefined ? place : (place & 255) - (2 ** (bits - 1) - 1)
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
      touched(4 * size)
      power -= (total * total) / vectors
    }
  }
  return { codes: fromRows(codes, rows), outputError: power > 0 ? error / power : 0, ...(lambda === undefined ? {} : { lambda }) }
}

/** The values of scaled integers, or the levels that are given. */
function placesOfCodes({ levels, scale, bits = 8 }: Choices, blocks: number): (row: number, block: number) => Float64Array {
  if (levels) return (row, block) => levels(row, block).values
  const top = 2 ** (bits - 1) - 1
  const of = held((at: number, into = new Float64Array(2 * top + 1)) => {
    for (let i = 0; i < into.length; i++) into[i] = Math.fround((i - top) * scale![at]!)
    return { values: into }
  })
  return (row, block) => of(row * blocks + block, block).values
}

/** Rows, and groups, that choose λ. */
const kJudges = 64
const kGroups = 16

/**
 * The λ whose codes, found on all parts of the inputs but one, move the outputs least on that one, over all parts (k-fold
 * cross-validation). Of equally good ones the least.
 */
function chooseLambda(weights: Float32Array, { groups, outputs, size }: RowLayout, blockSize: number, levels: (row: number, block: number) => Float64Array, folds: readonly Moments[]): number {
  const errors = kLambdas.map(() => 0)
  const judged = Math.min(groups, kGroups)
  const count = Math.min(outputs, kJudges)
  for (let k = 0; k < judged; k++) {
    const g = Math.floor((k * groups) / judged)
    const at = Int32Array.from({ length: count }, (_, i) => g * outputs + Math.floor((i * outputs) / count))
    const w = new Float32Array(count * size)
    at.forEach((row, i) => w.set(weights.subarray(row * size, (row + 1) * size), i * size))
    const parts = folds.map(({ hessian }) => hessian.subarray(g * size * size, (g + 1) * size * size))
    const all = paged('float64', size * size, 'hessian', kMapped) as Float64Array
    const others = paged('float64', size * size, 'hessian', kMapped) as Float64Array
    for (const p of parts)
      for (let i = 0; i < all.length;) {
        for (const end = i + size; i < end; i++) all[i]! += p[i]!
        touched(16 * size)
      }
    for (const part of parts) {
      for (let i = 0; i < all.length;) {
        for (const end = i + size; i < end; i++) others[i] = all[i]! - part[i]!
        touched(24 * size)
      }
      const whole = layerError(w, count, size, part)
      const metric = metricOf(others, size)
      for (const [l, lambda] of kLambdas.entries()) {
        const of = (row: number, block: number): Float64Array => levels(at[row]!, block)
        const { codes } = prox(w, count, size, metric, { blockSize, lambda, levels: of })
        const delta = Float32Array.from(w, (v, i) => {
          const row = Math.floor(i / size)
          return of(row, blockSize ? Math.floor((i - row * size) / blockSize) : 0)[codes[i]! & 255]! - v
        })
        if (whole > 0) errors[l]! += layerError(delta, count, size, part) / whole
      }
    }
  }
  return kLambdas[errors.indexOf(Math.min(...errors))]!
}
