import type { Model } from '../../model/model'
import { count, percent } from '../../report/format'
import { integer, options } from '../../validate'
import { correctBias } from '../static/bias'
import type { Context, Pass, PassResult } from './pass'

/**
 * Bias correction: what quantized layers are wrong on average, by channel, is taken up by their biases, one layer after the other.
 * Compares with the model that was given, by the names of values.
 *
 * Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019.
 */
export interface RepairStep {
  readonly step: 'repair'
  /** Calibration inputs that means are taken over. Default 16. */
  readonly sets?: number
}

/** @internal */
export type ResolvedRepair = Required<RepairStep>

/** @internal */
export const repairPass: Pass<ResolvedRepair> = {
  name: 'repair',
  resolve(value, parameter) {
    const given = options(value, parameter, ['step', 'sets'])
    return { step: 'repair', sets: given.sets === undefined ? 16 : integer(given.sets, `${parameter}.sets`, 1, 2 ** 20) }
  },
  needs: () => ['calibration'],
  apply,
}

async function apply(model: Model, step: ResolvedRepair, { run, calibration, original }: Context): Promise<PassResult> {
  const done = await correctBias(original, model, calibration!, run, { sets: step.sets })
  const most = done.reduce((m, c) => Math.max(m, c.change), 0)
  return { layers: [], summary: `Corrected the biases of ${count(done.length)} quantized layers, by up to ${percent(most)} of what they make.` }
}
