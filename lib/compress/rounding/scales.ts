import { sizeOf } from '../../tensor'
import type { Grid } from './grid'

/** How scales follow from values: the largest magnitude meets the grid's end, or least squared error. */
export type Fit = 'absmax' | 'mse'

/** @internal The values that share a scale, as {@link Groups} walks them. */
export interface Cut {
  readonly dims: readonly number[]
  readonly axis: number
  /** 0: a scale for each index of `axis`. */
  readonly blockSize: number
  /** A scale for all, whatever `axis` and `blockSize` say. */
  readonly whole?: boolean
}

/** @internal Walks a tensor scale by scale. */
export class Groups {
  readonly count: number
  /** Values that share a scale. */
  readonly size: number
  readonly #outer: number
  readonly #length: number
  readonly #inner: number
  readonly #block: number

  constructor({ dims, axis, blockSize, whole }: Cut) {
    const all = sizeOf(dims)
    this.#outer = whole ? 1 : sizeOf(dims.slice(0, axis))
    this.#length = whole ? 1 : dims[axis]!
    this.#inner = whole ? all : sizeOf(dims.slice(axis + 1))
    this.#block = whole ? 0 : blockSize
    this.count = this.#block ? all / this.#block : this.#length
    this.size = this.count ? all / this.count : 0
  }

  /** Index of the first value of each run of group `g`, how many runs, their length, and the steps between. */
  #runs(g: number): { start: number; runs: number; between: number; length: number; step: number } {
    const inner = this.#inner
    const row = this.#length * inner
    if (!this.#block) return { start: g * inner, runs: this.#outer, between: row, length: inner, step: 1 }
    const perOuter = (this.#length / this.#block) * inner
    const outer = Math.floor(g / perOuter)
    const rest = g - outer * perOuter
    const cut = Math.floor(rest / inner)
    return { start: outer * row + cut * this.#block * inner + (rest - cut * inner), runs: 1, between: 0, length: this.#block, step: inner }
  }

  gather(values: ArrayLike<number>, g: number, into: Float64Array): void {
    const { start, runs, between, length, step } = this.#runs(g)
    for (let r = 0, n = 0; r < runs; r++) for (let i = 0, at = start + r * between; i < length; i++, at += step) into[n++] = values[at]!
  }

  /** Writes `of(index among the group's values)` to the places of group `g`. */
  scatter(out: { [index: number]: number }, g: number, of: (n: number) => number): void {
    const { start, runs, between, length, step } = this.#runs(g)
    for (let r = 0, n = 0; r < runs; r++) for (let i = 0, at = start + r * between; i < length; i++, at += step) out[at] = of(n++)
  }
}

/** @internal A scale for each group; float32 values, above 0. `powers` makes them powers of two (fixed point). */
export function fitScales(values: ArrayLike<number>, cut: Cut, grid: Grid, fit: Fit, powers: boolean): Float32Array {
  const groups = new Groups(cut)
  const scales = new Float32Array(groups.count)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < scales.length; g++) {
    groups.gather(values, g, group)
    const free = fitOne(group, grid, fit)
    scales[g] = normal(powers ? nearestPower(group, grid, free) : free)
  }
  return scales
}

/** An empty or zero range has scale 1; a range of subnormal numbers one that is a normal number. */
const normal = (scale: number): number => (scale > 0 ? Math.max(Math.fround(scale), 2 ** -126) : 1)

function fitOne(group: Float64Array, grid: Grid, fit: Fit): number {
  let most = 0
  for (const v of group) most = Math.max(most, Math.abs(v))
  if (most === 0) return 1
  // Both have a definition of their own, whatever the fit.
  if (grid.format === 'binary') return meanMagnitude(group, 0)
  if (grid.format === 'ternary') return meanMagnitude(group, 0.7 * meanMagnitude(group, 0))
  return fit === 'absmax' ? most / grid.top : searched(group, grid, most)
}

/** Mean |w| of those beyond a threshold. */
function meanMagnitude(group: Float64Array, beyond: number): number {
  let sum = 0
  let count = 0
  for (const v of group)
    if (Math.abs(v) > beyond || beyond === 0) {
      sum += Math.abs(v)
      count++
    }
  return count ? sum / count : 0
}

const kCoarse = 64
const kFine = 16

/**
 * The scale of least squared error (OMSE: Choukroun et al., Low-bit Quantization of Neural Networks, 2019): clip ranges from
 * the whole to a 64th of it, then finer around the best, then codes and their least-squares scale in turn.
 */
function searched(group: Float64Array, grid: Grid, most: number): number {
  const whole = most / grid.top
  let best = whole
  let least = errorOf(group, grid, whole)
  const consider = (scale: number): boolean => {
    const error = errorOf(group, grid, scale, least)
    if (!(error < least)) return false
    least = error
    best = scale
    return true
  }
  for (let i = kCoarse - 1; i > 0; i--) consider((whole * i) / kCoarse)
  const center = best
  for (let i = 1 - kFine; i < kFine; i++) consider(center + (whole * i) / (kCoarse * kFine))
  for (let turn = 0; turn < 8; turn++) {
    let wv = 0
    let vv = 0
    for (const w of group) {
      const v = grid.value(grid.code(w / best))
      wv += w * v
      vv += v * v
    }
    if (!(wv > 0) || !consider(wv / vv)) break
  }
  return best
}

/** Σ (w − s·v)², given up beyond `limit`. */
function errorOf(group: Float64Array, grid: Grid, scale: number, limit = Infinity): number {
  let sum = 0
  for (let i = 0; i < group.length; i++) {
    const w = group[i]!
    const d = w - scale * grid.value(grid.code(w / scale))
    sum += d * d
    if ((i & 63) === 63 && sum >= limit) return sum
  }
  return sum
}

function nearestPower(group: Float64Array, grid: Grid, scale: number): number {
  const low = 2 ** Math.floor(Math.log2(scale))
  let best = low
  for (const candidate of [low * 2, low / 2])
    if (errorOf(group, grid, candidate) < errorOf(group, grid, best)) best = candidate
  return best
}

/** @internal Code of the nearest value for each weight; for `int` the values themselves. */
export function nearestCodes(values: ArrayLike<number>, cut: Cut, grid: Grid, scales: Float32Array): Int8Array {
  const groups = new Groups(cut)
  const codes = new Int8Array(values.length)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < groups.count; g++) {
    groups.gather(values, g, group)
    const scale = scales[g]!
    if (grid.format === 'ternary') {
      const threshold = 0.7 * meanMagnitude(group, 0)
      groups.scatter(codes, g, (n) => (Math.abs(group[n]!) > threshold ? (group[n]! > 0 ? 2 : 0) : 1))
    } else if (grid.format === 'binary') groups.scatter(codes, g, (n) => (group[n]! >= 0 ? 1 : 0))
    else groups.scatter(codes, g, (n) => grid.code(Math.fround(group[n]! / scale)))
  }
  return codes
}

/** @internal What codes and scales stand for, in float32 as runtimes compute it. */
export function valuesOf(codes: Int8Array, cut: Cut, grid: Grid, scales: Float32Array, out = new Float32Array(codes.length)): Float32Array {
  const groups = new Groups(cut)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < groups.count; g++) {
    groups.gather(codes, g, group)
    const scale = scales[g]!
    // Places of more than 128 levels do not fit the sign of a byte.
    groups.scatter(out, g, (n) => Math.fround(grid.value(grid.levels ? group[n]! & 255 : group[n]!)) * scale)
  }
  return out
}
