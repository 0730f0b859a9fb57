import { dequantize, quantize } from '../kernels/quantize'
import { svd } from '../kernels/svd'
import type { WeightView } from '../model/weights'
import type { LayerAnalysis, MaskPicture, Spectrum } from '../report/analysis'
import type { Scratch } from '../compress/computed'
import { sizeOf } from '../tensor'
import { Stream } from './histogram'

/** Bits whose error is told. */
export const kBits = [2, 3, 4, 5, 6, 7, 8] as const

/** Larger matrices have only their leading singular values computed. */
const kFullSide = 640
const kLeading = 64
/** And still larger ones none. */
const kMostElements = 64e6
const kMostValues = 96
/** A picture of zeros has at most so many cells on a side. */
const kCells = 48

type Figures = Pick<LayerAnalysis, 'values' | 'snrByBits' | 'spectrum' | 'mask'>

/** @internal What the values of one weight tell. `note` hears what was left out. */
export function weightFigures(name: string, data: Float32Array, view: WeightView, scratch: Scratch, spectra: boolean, note: (text: string) => void): Figures {
  const stream = new Stream()
  stream.add(data, name)
  const spectrum = spectra ? spectrumOf(data, view, stream.squares, (why) => note(`${name}: no singular values, ${why}`)) : undefined
  const mask = stream.zeros > 0 ? maskOf(data, view) : undefined
  return {
    values: stream.distribution(4, true),
    snrByBits: Object.fromEntries(kBits.map((bits) => [bits, snrAt(data, view, bits, scratch)])),
    ...(spectrum ? { spectrum } : {}),
    ...(mask ? { mask } : {}),
  }
}

/** @internal The weight at so many bits, symmetric, one scale an output channel; valid until the scratch is used again. */
export function roundedTo(data: Float32Array, view: WeightView, bits: number, scratch: Scratch): Float32Array {
  const q = quantize({ type: 'float32', dims: view.dims, data }, { bits, type: 'int8', symmetric: true, axis: view.outputAxis })
  return dequantize(q, { out: scratch.floats('rounded', data.length) }).data as Float32Array
}

/** @internal 10·log₁₀(Σx² / Σ(x − y)²); `null` for no noise, 0 where there is no signal either. */
export function snrOf(x: ArrayLike<number>, y: ArrayLike<number>): number | null {
  let [signal, noise] = [0, 0]
  for (let i = 0; i < x.length; i++) {
    const d = x[i]! - y[i]!
    signal += x[i]! * x[i]!
    noise += d * d
  }
  return toDecibels(signal, noise)
}

/** @internal */
export function toDecibels(signal: number, noise: number): number | null {
  if (noise === 0) return null
  // Where the outputs were all zero any noise is too much; JSON has no −Infinity.
  return signal === 0 ? -300 : Math.round(1000 * Math.log10(signal / noise)) / 100
}

function snrAt(data: Float32Array, view: WeightView, bits: number, scratch: Scratch): number | null {
  return data.length ? snrOf(data, roundedTo(data, view, bits, scratch)) : null
}

/** The weight as a matrix: outputs against all that one output sums; which of the two are rows makes no difference. */
function matrixOf({ dims, outputAxis }: WeightView): readonly [number, number] {
  const last = dims.at(-1) ?? 1
  return outputAxis === 0 ? [dims[0]!, sizeOf(dims.slice(1))] : [sizeOf(dims) / Math.max(last, 1), last]
}

function spectrumOf(data: Float32Array, view: WeightView, squares: number, leftOut: (why: string) => void): Spectrum | undefined {
  const [m, n] = matrixOf(view)
  const side = Math.min(m, n)
  if (side < 2) return undefined
  if (data.length > kMostElements) return void leftOut(`${data.length} values are too many`)
  if (squares === 0) return void leftOut('all values are zero')
  const full = side <= kFullSide
  const { s } = svd({ type: 'float32', dims: [m, n], data }, full ? { vectors: false } : { vectors: false, rank: kLeading, method: 'randomized' })
  const values = Array.from(s.data as Float32Array)
  const rankFor = (share: number): number | null => {
    let sum = 0
    for (let i = 0; i < values.length; i++) {
      sum += values[i]! ** 2
      if (sum >= share * squares * (1 - 1e-6)) return i + 1
    }
    return full ? values.length : null
  }
  const at = spread(values.length, kMostValues)
  return {
    shape: [m, n],
    at,
    values: at.map((i) => Number(values[i]!.toPrecision(5))),
    computed: values.length,
    rank90: rankFor(0.9),
    rank99: rankFor(0.99),
    breakEven: Math.floor((m * n) / (m + n)),
  }
}

/** At most `most` indices below `n`, the first and the last among them, closer together at the start. */
function spread(n: number, most: number): number[] {
  if (n <= most) return Array.from({ length: n }, (_, i) => i)
  const found = new Set<number>()
  for (let i = 0; i < most; i++) found.add(Math.round((i / (most - 1)) ** 2 * (n - 1)))
  return [...found]
}

function maskOf(data: Float32Array, view: WeightView): MaskPicture | undefined {
  const [m, n] = matrixOf(view)
  if (m < 1 || n < 1) return undefined
  const cell = [Math.ceil(m / kCells), Math.ceil(n / kCells)] as const
  const [rows, columns] = [Math.ceil(m / cell[0]), Math.ceil(n / cell[1])]
  const filled = new Float64Array(rows * columns)
  const counted = new Float64Array(rows * columns)
  for (let i = 0; i < m; i++) {
    const row = Math.floor(i / cell[0]) * columns
    for (let j = 0; j < n; j++) {
      const at = row + Math.floor(j / cell[1])
      counted[at]!++
      if (data[i * n + j] !== 0) filled[at]!++
    }
  }
  const digit = (i: number): number => (filled[i] === 0 ? 0 : Math.max(1, Math.round((9 * filled[i]!) / counted[i]!)))
  return { rows, columns, cells: Array.from(filled, (_, i) => digit(i)).join(''), cell }
}
