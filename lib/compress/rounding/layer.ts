import { MemorySource, type DataSource } from '../../model/graph'
import { fromHalves, toHalves } from '../../model/half'
import type { Weight } from '../../model/weights'
import { percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { ComputedSource, firstNonFinite, nonFiniteText, relativeError, sparsityOf, type KeepBudget } from '../computed'
import { ease } from '../paged'
import { addedBytes, bytesOf, type Layout, type Storage } from '../passes/emit'
import { describeWeight, type Memory } from '../passes/pass'
import { integerChoices, levelChoices, roundCalibrated, type CalibratedMethod } from './calibrated'
import { entropyOf } from './entropy'
import type { Format } from './grid'
import type { Seen } from './inspected'
import { packedBits } from './packing'
import { planOf, type Method } from './plan'
import { Groups } from './scales'
import { back, filed, levelsOf, roundToNearest, scalesOf, type Coded } from './weight'

/** @internal What one weight is asked to become; see `QuantizeStep`. */
export interface Exact {
  readonly format: Format
  readonly bits: number
  readonly method: Method
  readonly coding: 'fixed' | 'entropy'
  readonly scale: 'float' | 'pow2'
  readonly storage: Storage
  readonly blockSize: number
  readonly maxError: number
  readonly nonFinite: 'error' | 'keep'
  readonly unpacked?: boolean
}

/** Bytes that the node and names of a weight in float16 take in the file, about. */
const kHalfOverhead = 160
/** Bytes of scales that are held whatever the budget: those of channels. */
const kFewScales = 65536

/** @internal Whether codes follow from what a layer's inputs are. */
export const isCalibrated = (method: Method): method is CalibratedMethod => method !== 'nearest' && method !== 'omse'

/** @internal What takes a weight's place. */
export type Replacement =
  | { readonly halves: DataSource }
  | { readonly layout: Layout; readonly sources: readonly DataSource[]; readonly scales: DataSource }

/** @internal Codes, scales and error of one weight; no result where it stays as it is. */
export function quantizeWeight(
  weight: Weight,
  step: Exact,
  { scratch, keep }: Memory,
  common: number | undefined,
  seen: Seen | undefined,
): { report: LayerReport; result?: Replacement } {
  const { initializer } = weight
  const base = describeWeight(weight)
  const kept = (reason: string, error?: number): { report: LayerReport } => ({
    report: {
      ...base,
      action: 'kept',
      reason,
      bytesAfter: base.bytesBefore,
      ...(error === undefined ? {} : { error }),
    },
  })
  if (initializer.type !== 'float32') return kept(`${initializer.type} weights are not quantized`)
  const { format } = step
  const plan = format === 'float16' ? undefined : planOf(weight, { ...step, format, bits: step.coding === 'entropy' ? 8 : step.bits })
  const bytesAfter = plan ? bytesOf(plan.layout) : base.bytesBefore / 2
  const more = plan ? addedBytes(weight, plan.layout) : kHalfOverhead
  if (bytesAfter + more >= base.bytesBefore) return kept('codes and scales would not be smaller')

  const values = scratch.read(initializer).data as Float32Array
  const bad = nonFiniteText(initializer.name, values, step.nonFinite, " (nonFinite: 'keep' in the quantize step leaves such weights float)")
  if (bad) return kept(bad)
  const reread = (): Float32Array => scratch.read(initializer).data as Float32Array
  if (!plan) {
    const halves = toHalves(values)
    const floats = fromHalves(halves)
    if (firstNonFinite(floats) >= 0) return kept('it has values beyond 65504, the largest float16')
    const error = relativeError(values, floats)
    if (error > step.maxError) return kept(overBudget(error, step.maxError), error)
    const [source] = kept8(keep, bytesAfter, [halves], () => [toHalves(reread())])
    return {
      report: { ...base, action: 'quantized', bits: 16, bytesAfter, error, sparsity: sparsityOf(floats) },
      result: { halves: source! },
    }
  }
  const { layout: asked, rounding, reason } = plan
  const scales = common === undefined ? undefined : commonScales(values, asked, common)
  const layout: Layout = scales?.length === 1 ? { ...asked, whole: true, scaleDims: [] } : asked
  let coded: Coded
  let outputError: number | undefined
  let lambda: number | undefined
  const calibrated = isCalibrated(step.method) ? step.method : undefined
  if (calibrated && seen?.moments && seen.layout) {
    const given = scales ?? scalesOf(values, layout, rounding)
    const levels = levelsOf(rounding, given)
    const choices = levels
      ? levelChoices(layout, seen.layout, values.length, given.length / (layout.terms ?? 1), levels)
      : integerChoices(layout, seen.layout, values.length, given, rounding.bits)
    const found = roundCalibrated(values, choices, calibrated, seen.layout, seen.moments, seen.folds)
    coded = { codes: found.codes, scales: given }
    ease()
    outputError = found.outputError
    lambda = found.lambda
  } else coded = roundToNearest(values, layout, rounding, scales)
  ease()
  const floats = back(coded, layout, rounding, scratch.floats('floats', values.length))
  const error = relativeError(values, floats)
  if (error > step.maxError) return kept(overBudget(error, step.maxError), error)
  // What a source refers to is held until the model is saved: nothing that is as large as the weight.
  const held = scaleSource(coded.scales, keep)
  const again = (): Coded => roundToNearest(reread(), layout, rounding, new Float32Array(held.readSync(0, held.byteLength).slice().buffer))
  // What calibration found cannot be found again without it.
  const sources =
    outputError === undefined
      ? kept8(keep, bytesAfter, filed(coded.codes, layout), () => filed(again().codes, layout))
      : filed(coded.codes, layout).map((bytes) => keep.hold(bytes))
  const why = [reason, lambda === undefined ? undefined : `λ ${lambda} by cross-validation`, calibrated && outputError === undefined ? `${seen?.reason ?? 'its inputs cannot be seen'}: rounded to nearest` : undefined]
  const told = why.filter((r) => r).join('; ')
  return {
    report: {
      ...base,
      action: 'quantized',
      bits:
        common !== undefined
          ? Math.round(1000 * entropyOf(coded.codes)) / 1000
          : layout.packing && rounding.grid.levels
            ? packedBits(layout.packing)
            : rounding.bits,
      ...(layout.blockSize ? { blockSize: layout.blockSize } : {}),
      ...(told ? { reason: told } : {}),
      bytesAfter: bytesOf(layout),
      error,
      ...(outputError === undefined ? {} : { outputError }),
      sparsity: sparsityOf(floats),
    },
    result: { layout, sources, scales: held },
  }
}

/** One scale for all, or where channels reach beyond 127 of its steps one a channel. */
function commonScales(values: Float32Array, layout: Layout, step: number): Float32Array {
  const groups = new Groups(layout)
  const group = new Float64Array(groups.size)
  const common = Math.max(Math.fround(step), 2 ** -126)
  const scales = new Float32Array(groups.count)
  for (let g = 0; g < scales.length; g++) {
    groups.gather(values, g, group)
    let most = 0
    for (const v of group) most = Math.max(most, Math.abs(v))
    scales[g] = Math.max(common, most / 127)
  }
  return scales.every((s) => s === common) ? Float32Array.of(common) : scales
}

const overBudget = (error: number, most: number): string => `its relative error ${percent(error)} is over ${percent(most)}`

/** Scales of short blocks are an eighth of a weight. */
function scaleSource(scales: Float32Array, keep: KeepBudget): DataSource {
  const bytes = new Uint8Array(scales.buffer as ArrayBuffer, scales.byteOffset, scales.byteLength)
  return bytes.byteLength < kFewScales ? new MemorySource(bytes) : keep.hold(bytes)
}

/** Sources of bytes that are held while the budget lasts, else computed when they are read, `compute` giving all at once. */
function kept8(keep: KeepBudget, bytes: number, made: readonly Piece[], compute: () => readonly Piece[]): DataSource[] {
  const raw = (p: Piece): Uint8Array => new Uint8Array(p.buffer as ArrayBuffer, p.byteOffset, p.byteLength)
  if (keep.take(bytes)) return made.map((p) => new MemorySource(raw(p)))
  return made.map(({ byteLength }, i) => new ComputedSource(byteLength, () => raw(compute()[i]!)))
}

type Piece = Uint8Array | Uint16Array

