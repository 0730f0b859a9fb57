import { codebookEncode } from '../../kernels/codebook'
import { MemorySource, type DataSource } from '../../model/graph'
import type { Weight } from '../../model/weights'
import { percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { sizeOf } from '../../tensor'
import { ComputedSource, nonFiniteText, relativeError, sparsityOf } from '../computed'
import { fromRows, type LayerMoments } from '../moments'
import { describeWeight, type Memory } from '../passes/pass'
import { levelChoices, roundCalibrated, type CalibratedMethod } from './calibrated'
import { pack, type Plane } from './packing'
import { Groups, type Cut } from './scales'
import { tableFor, type Sharing } from './table'
import { learnPieces, nearestPieces, piecesInto, piecesOf, readerOf, type PieceReader, type Pieces } from './vectors'

/** @internal What a codebook step asks of a weight; see `CodebookStep`. */
export interface SharedStep extends Sharing {
  readonly subvector: number
  readonly scale: 'none' | 'channel'
  readonly method: 'nearest' | CalibratedMethod
  readonly maxError: number
  readonly nonFinite: 'error' | 'keep'
}

/** @internal Values that are looked up, and where their indices lie. */
export interface Shared {
  /** Ascending; of pieces [values, size of a piece]. */
  readonly table: Float32Array
  readonly bits: number
  /** Indices in a byte. */
  readonly perByte: number
  readonly indices: DataSource
  readonly pieces: Pieces | undefined
  /** One an output channel. */
  readonly scales: Float32Array | undefined
}

/** Bytes of the nodes and names of one weight, about. */
const kOverhead = 160
/** Turns of scales by least squares and indices. */
const kTurns = 2

/** @internal One weight as indices, or why it stays. */
export function shareWeights(
  weight: Weight,
  step: SharedStep,
  { keep, scratch }: Memory,
  given: LayerMoments | undefined,
  weighted: boolean,
): { report: LayerReport; shared?: Shared } {
  const { initializer, view } = weight
  const base = describeWeight(weight)
  const stays = (reason: string, error?: number): { report: LayerReport } => ({
    report: { ...base, action: 'kept', reason, bytesAfter: base.bytesBefore, ...(error === undefined ? {} : { error }) },
  })
  if (initializer.type !== 'float32') return stays(`${initializer.type} weights are not shared`)
  const count = initializer.elementCount
  const pieces = step.subvector > 1 ? piecesOf(view, step.subvector) : undefined
  if (step.subvector > 1 && !pieces) return stays(`no piece of 2 to ${step.subvector} values divides its sums`)
  const size = pieces?.size ?? 1
  const perByte = pieces ? 1 : perByteOf(step.bits, count)
  const cut: Cut = { dims: view.dims, axis: view.outputAxis, blockSize: 0 }
  const channels = step.scale === 'channel' ? view.dims[view.outputAxis]! : 0
  const bytesAfter = count / size / perByte + 4 * (perByte > 1 ? 256 * perByte : size * 2 ** step.bits) + 4 * channels
  if (bytesAfter + kOverhead >= base.bytesBefore) return stays('indices and table would not be smaller')
  const values = scratch.read(initializer).data as Float32Array
  const bad = nonFiniteText(initializer.name, values, step.nonFinite, " (nonFinite: 'keep' in the codebook step leaves such weights float)")
  if (bad) return stays(bad)

  const importance = weighted && given ? importanceOf(given, count) : undefined
  let scales = step.scale === 'channel' ? rootsOf(values, cut) : undefined
  // Memory that is used again from tensor to tensor: weights may be a large part of what there is.
  const space = (): Float32Array => scratch.floats('divided', count)
  const coder = pieces ? pieceCoder(values, scales, step, view.dims, pieces, cut, importance) : valueCoder(values, scales, step, cut, importance, space)
  const { table } = coder
  let codes = coder.encode(values, scales)
  for (let turn = 0; scales && turn < kTurns; turn++) {
    scales = leastSquares(values, coder.decode(codes, scratch.floats('floats', count)), cut, importance, scales)
    codes = coder.encode(values, scales)
  }
  let outputError: number | undefined
  if (step.method !== 'nearest' && given?.moments && given.layout) {
    const own = scales
    const levels = (group: number) => ({ values: Float64Array.from(table, (v) => Math.fround(v * (own ? own[group]! : 1))) })
    const choices = levelChoices({ ...cut, whole: !own }, given.layout, count, own ? own.length : 1, levels)
    const found = roundCalibrated(values, choices, step.method, given.layout, given.moments)
    codes = new Uint8Array(found.codes.buffer as ArrayBuffer, found.codes.byteOffset, count)
    outputError = found.outputError
  }
  const back = coder.decode(codes, scratch.floats('floats', count))
  if (scales) multiply(back, cut, scales)
  const error = relativeError(values, back)
  if (error > step.maxError) return stays(`its relative error ${percent(error)} is over ${percent(step.maxError)}`, error)
  const filed = (all: Uint8Array): Uint8Array =>
    perByte === 1 ? all : pack(new Int8Array(all.buffer as ArrayBuffer, all.byteOffset, all.length), planeOf(table, step.bits, perByte))
  const first = filed(codes)
  const final = scales
  // What calibration found cannot be found again without it; nor are errors' weights, as many as values, held for that.
  const indices =
    outputError !== undefined || (pieces && importance)
      ? keep.hold(first)
      : keep.take(first.byteLength)
        ? new MemorySource(first)
        : new ComputedSource(first.byteLength, () => filed(coder.encode(scratch.read(initializer).data as Float32Array, final)))
  const why = given && !given.moments ? `${given.reason}: ${step.method === 'nearest' ? 'all errors weigh the same' : 'the nearest values'}` : undefined
  return {
    report: {
      ...base,
      action: 'quantized',
      bits: step.bits / size,
      bytesAfter,
      error,
      ...(outputError === undefined ? {} : { outputError }),
      sparsity: sparsityOf(back),
      ...(why ? { reason: why } : {}),
    },
    shared: { table, bits: step.bits, perByte, indices, pieces, scales },
  }
}

/** Indices of a weight and back; in the order of the tensor, of pieces in theirs. */
interface Coder {
  readonly table: Float32Array
  encode(values: Float32Array, scales: Float32Array | undefined): Uint8Array
  decode(codes: Uint8Array, out: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer>
}

function valueCoder(values: Float32Array, scales: Float32Array | undefined, step: SharedStep, cut: Cut, importance: Float32Array | undefined, space: () => Float32Array): Coder {
  const table = tableFor(scales ? divided(values, cut, scales, space()) : values, step, importance)
  return {
    table,
    encode: (from, by) => codebookEncode(by ? divided(from, cut, by, space()) : from, table).indices.data as Uint8Array,
    decode(codes, out) {
      for (let i = 0; i < out.length; i++) out[i] = table[codes[i]!]!
      return out
    },
  }
}

function pieceCoder(
  values: Float32Array,
  scales: Float32Array | undefined,
  { bits, seed }: SharedStep,
  dims: readonly number[],
  pieces: Pieces,
  cut: Cut,
  importance: Float32Array | undefined,
): Coder {
  const { size } = pieces
  // A power of two keeps squares within float32.
  const most = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
  const unit = scales || most === 0 ? 1 : 2 ** Math.max(-100, Math.floor(Math.log2(most)))
  const inner = sizeOf(cut.dims.slice(cut.axis + 1))
  const channels = cut.dims[cut.axis]!
  const scaled = (from: Float32Array, by: Float32Array | undefined): PieceReader =>
    readerOf(from, dims, pieces, by ? (v, at) => v / by[Math.floor(at / inner) % channels]! : (v) => v / unit)
  const weight = importance && readerOf(importance, dims, pieces, (v) => v)
  const small = learnPieces(scaled(values, scales), size, 2 ** bits, seed, weight)
  const table = small.map((v) => v * unit)
  return {
    table,
    encode: (from, by) => nearestPieces(scaled(from, by), small, size, weight),
    decode(codes, out) {
      piecesInto(out, dims, codes, table, pieces)
      return out
    },
  }
}

/** Roots of the mean squares of channels; of zeros 1. */
function rootsOf(values: Float32Array, cut: Cut): Float32Array {
  return perChannel(cut, (group) => {
    let sum = 0
    for (const v of group(values)) sum += v * v
    return Math.sqrt(sum / Math.max(1, group(values).length)) || 1
  })
}

/** The scale of each channel for which looked-up values are nearest to the weights. */
function leastSquares(values: Float32Array, back: Float32Array, cut: Cut, importance: Float32Array | undefined, before: Float32Array): Float32Array {
  return perChannel(cut, (group, channel) => {
    const [w, v] = [group(values).slice(), group(back).slice()]
    const h = importance && group(importance)
    let [up, down] = [0, 0]
    for (let i = 0; i < w.length; i++) {
      const weight = h ? h[i]! : 1
      up += weight * w[i]! * v[i]!
      down += weight * v[i]! * v[i]!
    }
    return up > 0 && down > 0 ? up / down : before[channel]!
  })
}

/** `of` may ask for one tensor's values of the channel at a time. */
function perChannel(cut: Cut, of: (group: (data: Float32Array) => Float64Array, channel: number) => number): Float32Array {
  const groups = new Groups(cut)
  const buffer = new Float64Array(groups.size)
  return Float32Array.from({ length: groups.count }, (_, channel) => {
    const value = of((data) => {
      groups.gather(data, channel, buffer)
      return buffer
    }, channel)
    return Math.max(Math.fround(value), 2 ** -126)
  })
}

function divided(values: Float32Array, cut: Cut, scales: Float32Array, out: Float32Array): Float32Array {
  const groups = new Groups(cut)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < groups.count; g++) {
    groups.gather(values, g, group)
    groups.scatter(out, g, (n) => group[n]! / scales[g]!)
  }
  return out
}

/** In float32, as runtimes do. */
function multiply(values: Float32Array, cut: Cut, scales: Float32Array): void {
  const groups = new Groups(cut)
  const group = new Float64Array(groups.size)
  for (let g = 0; g < groups.count; g++) {
    groups.gather(values, g, group)
    groups.scatter(values, g, (n) => group[n]! * scales[g]!)
  }
}

/** Indices that share a byte: as many as fit and divide the number of values, where the larger table pays. */
function perByteOf(bits: number, count: number): number {
  let per = Math.floor(8 / bits)
  while (count % per) per--
  return per > 1 && count - count / per > 4 * 256 * per ? per : 1
}

/** @internal A byte's indices into the table. */
export const planeOf = (table: Float32Array, bits: number, perByte: number): Plane => ({
  shift: 0,
  levels: Array.from({ length: 2 ** bits }, (_, i) => table[Math.min(i, table.length - 1)]!),
  perByte,
})

/** What an error of each value weighs; nothing where the inputs are not known. Of the second moments the diagonal counts. */
function importanceOf({ layout, moments: known }: LayerMoments, count: number): Float32Array | undefined {
  if (!known || !layout) return undefined
  const { groups, size, outputs } = layout
  if (groups * size * outputs !== count) return undefined
  const at = (g: number, i: number): number => known.hessian[(g * size + i) * size + i]!
  let most = 0
  for (let g = 0; g < groups; g++) for (let i = 0; i < size; i++) most = Math.max(most, at(g, i))
  if (!(most > 0)) return undefined
  const rows = new Float32Array(count)
  for (let g = 0; g < groups; g++)
    for (let o = 0; o < outputs; o++)
      // What no input ever reached still has a value.
      for (let i = 0; i < size; i++) rows[(g * outputs + o) * size + i] = at(g, i) / most + 1e-6
  return fromRows(rows, layout)
}
