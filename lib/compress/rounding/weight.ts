import { dequantize, quantize } from '../../kernels/quantize'
import type { Layout } from '../passes/emit'
import type { Grid } from './grid'
import type { Levels } from './levels'
import { pack } from './packing'
import { fitResidual, residualCodes, residualLevels, residualValues } from './residual'
import { fitScales, nearestCodes, valuesOf, type Fit } from './scales'

/** How the scales and codes of a weight are found from its values alone. */
export interface Rounding {
  readonly grid: Grid
  /** Of integers. */
  readonly bits: number
  readonly fit: Fit
  /** Scales are powers of two. */
  readonly powers: boolean
}

/** Codes, one a value in the order of the tensor, and scales in the order of the layout. */
export interface Coded {
  readonly codes: Int8Array
  readonly scales: Float32Array
}

/** @internal The scales of a weight. */
export function scalesOf(values: Float32Array, layout: Layout, { grid, bits, fit, powers }: Rounding): Float32Array {
  return grid.format === 'residual' ? fitResidual(values, layout, bits) : fitScales(values, layout, grid, fit, powers)
}

/** @internal What the values of group `group` may be, `into` their place where one is given; nothing for integers. */
export function levelsOf({ grid, bits }: Rounding, scales: Float32Array): ((group: number, into?: Float64Array) => Levels) | undefined {
  if (grid.format === 'residual') return (group) => residualLevels(scales, bits, group)
  if (!grid.levels) return undefined
  const levels = Float64Array.from(grid.levels, Math.fround)
  return (group, into = new Float64Array(levels.length)) => {
    for (let i = 0; i < into.length; i++) into[i] = Math.fround(levels[i]! * scales[group]!)
    return { values: into }
  }
}

/** @internal Every value to the nearest code. Scales are found where none are given. */
export function roundToNearest(values: Float32Array, layout: Layout, rounding: Rounding, given?: Float32Array): Coded {
  const { grid, bits, fit, powers } = rounding
  if (grid.levels) {
    const scales = given ?? scalesOf(values, layout, rounding)
    const codes = grid.format === 'residual' ? residualCodes(values, layout, bits, scales) : nearestCodes(values, layout, grid, scales)
    return { codes, scales }
  }
  const scale = given ?? (fit === 'absmax' && !powers && !layout.whole ? undefined : scalesOf(values, layout, rounding))
  const q = quantize(
    { type: 'float32', dims: layout.dims, data: values },
    {
      bits,
      type: 'int8',
      ...(layout.whole ? {} : { axis: layout.axis }),
      ...(layout.blockSize && !layout.whole ? { blockSize: layout.blockSize } : {}),
      ...(scale ? { scale } : {}),
    },
  )
  return { codes: q.data as Int8Array, scales: q.scale.data }
}

/** @internal What runtimes make of codes and scales. */
export function back({ codes, scales }: Coded, layout: Layout, { grid, bits }: Rounding, out: Float32Array<ArrayBuffer>): Float32Array {
  if (grid.format === 'residual') return residualValues(codes, layout, bits, scales, out)
  if (grid.levels) return valuesOf(codes, layout, grid, scales, out)
  const { dims, axis, blockSize, scaleDims, whole } = layout
  return dequantize(
    {
      type: 'int8',
      dims,
      data: codes,
      scale: { type: 'float32', dims: whole ? [1] : scaleDims, data: scales },
      zeroPoint: { type: 'int8', dims: whole ? [1] : scaleDims, data: new Int8Array(scales.length) },
      axis: whole ? null : axis,
      blockSize: whole ? null : blockSize || null,
      bits: 8,
    },
    { out },
  ).data as Float32Array
}

/** @internal The bytes that go to the file, a source of the layout each. */
export function filed(codes: Int8Array, { container, packing, terms }: Layout): Uint8Array[] {
  if (packing && terms) {
    const planes = packing.planes.map((p) => pack(codes, p))
    const joined = new Uint8Array(planes.reduce((sum, p) => sum + p.length, 0))
    planes.forEach((p, i) => joined.set(p, i * p.length))
    return [joined]
  }
  if (packing) return packing.planes.map((p) => pack(codes, p))
  const bytes = new Uint8Array(codes.buffer as ArrayBuffer, codes.byteOffset, codes.byteLength)
  if (container === 'int8') return [bytes]
  const pairs = new Uint8Array(bytes.length / 2)
  for (let i = 0; i < pairs.length; i++) pairs[i] = (bytes[2 * i]! & 15) | (bytes[2 * i + 1]! << 4)
  return [pairs]
}
