import { fail, finite, options } from '../validate'

/** Picojoules of one multiplication with its addition, by the type that is multiplied, and of one byte moved. */
export interface EnergyTable {
  readonly float32: number
  readonly float16: number
  readonly int8: number
  readonly int4: number
  /** a byte from or to main memory */
  readonly byte: number
}

/**
 * Horowitz, Computing's Energy Problem, 2014 (45 nm, 0.9 V): float32 3.7 + 0.9, float16 1.1 + 0.4, int8 0.2 with a 32-bit
 * addition of 0.1, 1.3 nJ for 64 bits of DRAM. int4 is not in that table: a quarter of int8's multiplication is assumed.
 */
export const kEnergy: EnergyTable = { float32: 4.6, float16: 1.5, int8: 0.3, int4: 0.15, byte: 162.5 }

/** What {@link energyEstimate} answers, in joules. */
export interface EnergyEstimate {
  readonly joules: number
  readonly compute: number
  readonly memory: number
  /** Always true: no sensor was read. */
  readonly estimate: true
  /** What the figures assume. */
  readonly table: EnergyTable
}

/**
 * An estimate (not a measurement) of the energy of one run: multiplications by type and bytes moved, each times what it
 * cost in a 45 nm process. It ranks models; it does not predict what a machine draws.
 *
 * @param work.macs multiplications with their additions, by type
 * @param work.bytes bytes that come from or go to main memory; weights alone where activations stay in caches
 * @param table other costs, such as those of a newer process
 * @example
 * energyEstimate({ macs: { int8: 702e6 }, bytes: 2.9e6 }).joules
 */
export function energyEstimate(
  work: { readonly macs: Partial<Record<Exclude<keyof EnergyTable, 'byte'>, number>>; readonly bytes: number },
  table?: Partial<EnergyTable>,
): EnergyEstimate {
  const types = ['float32', 'float16', 'int8', 'int4'] as const
  if (work === undefined) fail('ERR_DTYPE', 'work', 'an object', work)
  const given = options(work, 'work', ['macs', 'bytes'])
  const macs = options(given.macs, 'work.macs', types)
  const own = options(table, 'table', [...types, 'byte'])
  const costs = { ...kEnergy }
  for (const [name, value] of Object.entries(own)) costs[name as 'byte'] = finite(value, `table.${name}`, 0)
  let compute = 0
  for (const type of types) if (macs[type] !== undefined) compute += finite(macs[type], `work.macs.${type}`, 0) * costs[type] * 1e-12
  const memory = finite(given.bytes, 'work.bytes', 0) * costs.byte * 1e-12
  return { joules: compute + memory, compute, memory, estimate: true, table: costs }
}
