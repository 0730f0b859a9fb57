import { foldConstantNodes } from '../../model/fold'
import type { Model } from '../../model/model'
import { finite, fail, integer, oneOf, options as checkOptions } from '../../validate'
import { Calibration, type CalibrationData } from '../calibration'
import { widen } from '../half/widen'
import { KeepBudget, Scratch } from '../computed'
import { measure, type Evaluate } from '../gate'
import { Run, type Progress } from '../progress'
import { parseSelector, type Layers } from '../selectors'
import { removeUnits } from './apply'
import { structureOf } from './groups'
import { totalMacs } from './macs'
import { Outputs } from './outputs'
import { chooseGroups, inputDims, isActivity, kCriteria, scored, type Structured, type StructuredCriterion } from './plan'
import { chooseUnits } from './select'

/** Options of {@link pruningSensitivity}. */
export interface PruningSensitivityOptions {
  /** Inputs on which the outputs of the pruned models are compared with the original's. Needed, unless there is `evaluate`. */
  readonly calibration?: CalibrationData
  /** Accuracy of a model; called for every group and ratio. */
  readonly evaluate?: Evaluate
  /** Shares of a group's units that are removed, default 0.1, 0.25, 0.5 and 0.75. */
  readonly ratios?: readonly number[]
  /** As in the `prune` step; default `'all'`. */
  readonly structure?: Structured
  /** As in the `prune` step, except `'taylor'`; default `'l1'`. */
  readonly criterion?: Exclude<StructuredCriterion, 'taylor'>
  readonly layers?: Layers
  /** Seed of the criterion `'random'`, default 0. */
  readonly seed?: number
  readonly onProgress?: (progress: Progress) => void
  readonly signal?: AbortSignal
}

/** What pruning one group of coupled layers does, all others left as they are. */
export interface GroupSensitivity {
  /** The first layer that makes the channels. */
  readonly layer: string
  readonly kind: 'filter' | 'neuron' | 'head'
  readonly units: number
  /** Weight tensors that lose indices. */
  readonly weights: readonly string[]
  readonly points: readonly GroupPoint[]
}

/** One ratio of one group. */
export interface GroupPoint {
  readonly ratio: number
  /** Units that are left. */
  readonly left: number
  /** Multiplications of the whole model, as a share of the original's. */
  readonly macs: number
  /** Signal-to-noise ratio of the model's outputs in dB; `null` for no noise at all, −∞ is told as −300. */
  readonly snr?: number | null
  readonly accuracy?: number
}

/**
 * How much each group of coupled layers bears: one group and ratio at a time are pruned structurally, and the outputs (or the
 * accuracy) compared with the original's. From the curves follow ratios for the groups, or layers to leave alone.
 *
 * @throws {WhittleError} `ERR_RANGE` where there is neither calibration nor evaluate, and on options; `ERR_ABORTED`; what calibration and
 * evaluate throw
 *
 * @example
 * const groups = await pruningSensitivity(model, { calibration: lines, ratios: [0.25, 0.5] })
 * for (const g of groups) console.log(g.layer, g.points.map((p) => p.snr))
 */
export async function pruningSensitivity(model: Model, options: PruningSensitivityOptions): Promise<GroupSensitivity[]> {
  const o = checkOptions(options, 'options', ['calibration', 'evaluate', 'ratios', 'structure', 'criterion', 'layers', 'seed', 'onProgress', 'signal'])
  const calibration = o.calibration === undefined ? undefined : Calibration.from(o.calibration)
  const evaluate = o.evaluate as Evaluate | undefined
  if (evaluate !== undefined && typeof evaluate !== 'function') fail('ERR_DTYPE', 'options.evaluate', 'a function', evaluate)
  if (!calibration && !evaluate) fail('ERR_RANGE', 'options.calibration', 'inputs to compare outputs on, or an evaluate function', o.calibration)
  const given = o.ratios ?? [0.1, 0.25, 0.5, 0.75]
  if (!Array.isArray(given) || given.length === 0) fail('ERR_DTYPE', 'options.ratios', 'a list of shares', given)
  const ratios = (given as unknown[]).map((r, i) => finite(r, `options.ratios[${i}]`, 0, 0.999))
  const criterion = o.criterion === undefined ? 'l1' : oneOf(o.criterion, 'options.criterion', kCriteria.filter((c) => c !== 'taylor'))
  if (isActivity(criterion) && !calibration) fail('ERR_RANGE', 'options.calibration', `inputs to calibrate on, for the criterion '${criterion}'`, undefined)
  const wish = {
    structure: o.structure === undefined ? 'all' : oneOf(o.structure, 'options.structure', ['filter', 'channel', 'neuron', 'head', 'all']),
    criterion,
    seed: o.seed === undefined ? 0 : integer(o.seed, 'options.seed', 0, 2 ** 32 - 1),
    layers: parseSelector(o.layers, 'options.layers'),
  } as const
  const run = new Run(o.onProgress as PruningSensitivityOptions['onProgress'], o.signal as AbortSignal | undefined)

  const base = model.clone()
  foldConstantNodes(base)
  widen(base)
  const structure = structureOf(base, await inputDims(base, calibration))
  const outputs = calibration ? await Outputs.of(base, calibration, run) : undefined
  const { chosen, reasons } = chooseGroups(base, structure, wish, new Set())
  const { groups, scores } = await scored(base, chosen, wish, { run, calibration, memory: { scratch: new Scratch() } }, reasons)
  const macs = totalMacs(base, structure.dims)
  const found: GroupSensitivity[] = []
  for (const [g, group] of groups.entries()) {
    const points: GroupPoint[] = []
    for (const [r, ratio] of ratios.entries()) {
      await run.tell('prune', g * ratios.length + r, groups.length * ratios.length, group.name)
      const units = chooseUnits([group], [scores[g]!], { sparsity: ratio, scope: 'uniform', roundTo: 1, minChannels: 1 })[0]!
      const small = base.clone()
      if (removeUnits(small, structure, [{ group, units }], new KeepBudget(0)).size > 0) continue
      const noise = await outputs?.noise(small)
      const accuracy = evaluate && (await measure(small.clone(), 'compressed', evaluate, {}, run)).accuracy
      points.push({
        ratio,
        left: group.units - units.length,
        macs: macs > 0 ? totalMacs(small, structure.dims) / macs : 1,
        ...(noise === undefined ? {} : { snr: noise === 0 ? null : Math.max(-300, -10 * Math.log10(noise)) }),
        ...(accuracy === undefined ? {} : { accuracy }),
      })
    }
    found.push({ layer: group.name, kind: group.kind, units: group.units, weights: [...new Set(group.members.map((m) => m.tensor))], points })
  }
  await run.tell('prune', 1, 1)
  return found
}
