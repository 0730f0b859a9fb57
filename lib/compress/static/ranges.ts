import { WhittleError } from '../../errors'
import { Observer, type ObserverMethod } from '../../kernels/observer'
import type { Model } from '../../model/model'
import type { Calibration } from '../calibration'
import type { Run } from '../progress'

/** Type of the codes of activations: around a zero point, or around 0. */
export type ActivationType = 'uint8' | 'int8'

/** How a range follows from what was seen; see `Observer`. */
export interface RangeOptions {
  readonly type: ActivationType
  readonly method: ObserverMethod
  readonly percentile: number
  readonly threads?: number
}

/** Scale and zero point of one value. */
export interface Code {
  readonly type: ActivationType
  readonly scale: number
  readonly zero: number
  /** Whether the value never had more than one number a channel: what pooling over the whole image leaves. */
  readonly pooled?: boolean
}

/**
 * Codes for values of the outermost graph, from running the model over the calibration inputs once. Each value is watched by
 * an observer of bounded memory; no value is held.
 *
 * @throws `ERR_RANGE` on `calibration` where there is none, or a value is NaN or infinite, by its name
 */
export async function observeRanges(
  model: Model,
  values: Iterable<string>,
  calibration: Calibration,
  run: Run,
  { type, method, percentile, threads }: RangeOptions,
): Promise<Map<string, Code>> {
  const make = { type, symmetric: type === 'int8', method, ...(method === 'percentile' ? { percentile } : {}) }
  const observers = new Map([...values].map((name) => [name, new Observer(make)]))
  const settings = threads === undefined ? {} : { threads }
  const spread = new Set<string>()
  await calibration.each(model, [...observers.keys()], run, (found, index) => {
    for (const [name, observer] of observers) {
      const value = found.get(name)!
      if (value.dims.length < 3 || value.dims.slice(2).some((d) => d !== 1)) spread.add(name)
      try {
        observer.observe(value)
      } catch (cause) {
        if (!(cause instanceof WhittleError) || cause.code !== 'ERR_RANGE') throw cause
        throw new WhittleError('ERR_RANGE', 'calibration', `calibration: set ${index} makes ${name} NaN or infinite`, { cause })
      }
    }
  }, settings)
  return new Map(
    [...observers].map(([name, observer]) => {
      const p = observer.parameters()
      return [name, { type, scale: p.scale.data[0] as number, zero: p.zeroPoint ? Number(p.zeroPoint.data[0]) : 0, pooled: !spread.has(name) }]
    }),
  )
}
