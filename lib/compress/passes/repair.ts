import type { Model } from '../../model/model'
import { count, percent } from '../../report/format'
import { boolean, integer, options } from '../../validate'
import { correctBias, kBiasSets } from '../static/bias'
import { reestimate } from '../static/statistics'
import type { Context, Pass, PassResult } from './pass'

/**
 * Bias correction: what quantized layers are wrong on average, by channel, is taken up by their biases and by the scales of their
 * codes, one layer after the other, where it holds on calibration inputs that it was not estimated on. Compares with the model that
 * was given, by the names of values. Before it, where asked, batch normalizations that were not folded get the means and variances of
 * what now comes in, as pruned models need.
 *
 * Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019.
 */
export interface RepairStep {
  readonly step: 'repair'
  /** Calibration inputs that corrections are estimated on. Default 16. */
  readonly sets?: number
  /** Whether biases and scales are corrected. Default true. */
  readonly biases?: boolean
  /** Whether means and variances of batch normalizations are estimated anew. Default false. */
  readonly batchNorm?: boolean
}

/** @internal */
export type ResolvedRepair = Required<RepairStep>

/** @internal */
export const repairPass: Pass<ResolvedRepair> = {
  name: 'repair',
  resolve(value, parameter) {
    const given = options(value, parameter, ['step', 'sets', 'biases', 'batchNorm'])
    return {
      step: 'repair',
      sets: given.sets === undefined ? kBiasSets : integer(given.sets, `${parameter}.sets`, 1, 2 ** 20),
      biases: given.biases === undefined ? true : boolean(given.biases, `${parameter}.biases`),
      batchNorm: given.batchNorm === undefined ? false : boolean(given.batchNorm, `${parameter}.batchNorm`),
    }
  },
  needs: () => ['calibration'],
  apply,
}

async function apply(model: Model, step: ResolvedRepair, { run, calibration, original }: Context): Promise<PassResult> {
  const norms = step.batchNorm ? await reestimate(model, calibration!, run, step.sets) : 0
  const told = step.batchNorm ? `Estimated ${count(norms)} batch normalizations anew. ` : ''
  if (!step.biases) return { layers: [], summary: told.trim() || 'Repaired nothing: neither biases nor batch normalizations were asked for.' }
  const done = await correctBias(original, model, calibration!, run, { sets: step.sets })
  const most = done.reduce((m, c) => Math.max(m, c.change), 0)
  return { layers: [], summary: `${told}Corrected the biases of ${count(done.length)} quantized layers, by up to ${percent(most)} of what they make.` }
}
