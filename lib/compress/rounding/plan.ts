import type { Weight } from '../../model/weights'
import { layoutOf, type Layout, type Storage } from '../passes/emit'
import { gridOf, type Grid } from './grid'
import type { CalibratedMethod } from './calibrated'
import type { Rounding } from './weight'

/** See `QuantizeStep.method`. */
export type Method = 'nearest' | 'omse' | CalibratedMethod

/** @internal What a step asks of a weight's codes. */
export interface Asked {
  readonly format: Grid['format']
  readonly bits: number
  readonly blockSize: number
  readonly storage: Storage
  readonly scale: 'float' | 'pow2'
  readonly method: Method
  /** See `Wanted`. */
  readonly unpacked?: boolean
}

/** @internal How a weight is coded; where it gets another layout than was asked for, 8-bit integers take the place of few bits. */
export function planOf(
  weight: Weight,
  { format, bits, blockSize, storage, method, scale, unpacked = false }: Asked,
): { layout: Layout; rounding: Rounding; reason?: string } {
  const grid = gridOf(format, bits)
  const { layout, reason } = layoutOf(weight, { grid, bits, blockSize, storage, unpacked })
  const instead = layout.container === 'int8' && (grid.levels !== undefined || bits <= 4)
  return {
    layout,
    rounding: {
      ...(instead ? { grid: gridOf('int', 8), bits: 8 } : { grid, bits }),
      fit: method === 'nearest' ? 'absmax' : 'mse',
      powers: scale === 'pow2',
    },
    ...(reason ? { reason } : {}),
  }
}
