import { WhittleError } from '../../errors'
import { raiseIrVersion } from '../../model/fold'
import { MemorySource, type DataSource } from '../../model/graph'
import type { Model } from '../../model/model'
import { inferShapes } from '../../model/ops/infer'
import { raiseOpset } from '../../model/opset'
import { weights, type Weight } from '../../model/weights'
import { bytes, milliseconds, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { boolean, fail, finite, integer, oneOf, options } from '../../validate'
import { svd } from '../../kernels'
import { ComputedSource, firstNonFinite, nonFiniteText, type KeepBudget } from '../computed'
import { allot, type Allotment, type Shared } from '../factorize/budget'
import { factorLayerOf, type FactorLayer } from '../factorize/layer'
import { factorize, macsOf, methodFor, type Factors, type Method } from '../factorize/methods'
import { measureBoth, placed } from '../factorize/measure'
import { rewrite, type Placed } from '../factorize/rewrite'
import { moments, type LayerMoments } from '../moments'
import { parseSelector, type LayerSelector, type Layers } from '../selectors'
import { chooseLayers, describeWeight, type Context, type Pass, type PassResult } from './pass'

/**
 * Takes layers apart into smaller ones in standard ONNX ops. The last of a chain has the bias, and its output keeps the name.
 * A layer stays as it is where its factors would not hold fewer numbers and take fewer multiplications.
 */
export interface FactorizeStep {
  readonly step: 'factorize'
  /**
   * `'svd'` (default): two matrices; a convolution becomes one with `rank` filters and a 1×1. `'tucker'`: Tucker-2 of a
   * convolution (1×1, k×k core, 1×1). `'cp'`: 1×1, k×1 and 1×k depthwise, 1×1. `'separable'`: k×1 and 1×k, depthwise kernels
   * too. `'decouple'`: depthwise k×k and 1×1. `'nmf'`: two matrices without negative values, of one without. `'auto'`: svd of
   * matrices and 1×1, Tucker-2 of larger kernels, separable of depthwise ones.
   *
   * @see Kim 2016 (Tucker-2), Lebedev 2015 (CP), Jaderberg 2014 (separable), Guo 2018 (network decoupling), Lee, Seung 2001 (NMF)
   */
  readonly method?: Method | 'auto'
  /** A rank for every layer, or `'vbmf'`: each layer's own by variational Bayes (not for cp, decouple and depthwise kernels). */
  readonly rank?: number | 'vbmf'
  /** Share of each layer's squared norm to keep, above 0, at most 1. Default, where no other rule is given: 0.95. */
  readonly energy?: number
  /** Relative error allowed in each layer, 0 to 1. */
  readonly error?: number
  /** Share of each layer's numbers to keep, above 0, at most 1. */
  readonly ratio?: number
  /**
   * Share of the numbers of all chosen layers together, above 0, at most 1 (svd only, without weighting): ranks are dealt out where
   * they save most of the layers' norms, and a layer may stay whole.
   */
  readonly budget?: number
  /**
   * `'none'` (default): the factors nearest to the weight; `'inputs'` (svd only): nearest in the layer's outputs on the calibration
   * inputs (SVD-LLM, 2024). Energy and error are then those of the outputs, with an allowance for directions that few inputs do not
   * show, and the factors are held until the model is saved.
   */
  readonly weighting?: 'none' | 'inputs'
  /**
   * True: a layer is taken apart only where its factors are also faster here, on `Session`. The one choice that depends on the
   * machine; the layers that were kept are named, so that a recipe can exclude them. Default false.
   */
  readonly measure?: boolean
  /** Start of the randomized methods. Default 0. */
  readonly seed?: number
  /** Largest relative error of one weight (with `weighting` of its outputs); beyond it the layer stays. Default 0.9. */
  readonly maxError?: number
  /** A weight with NaN or an infinity: `'error'` (default) throws `ERR_RANGE` with its name, `'keep'` leaves it. */
  readonly nonFinite?: 'error' | 'keep'
  /** Default: every Conv, Gemm and MatMul weight of at least 1024 values. */
  readonly layers?: Layers
}

type RuleName = 'rank' | 'energy' | 'error' | 'ratio' | 'budget'

/** @internal */
export type ResolvedFactorize = Required<Omit<FactorizeStep, 'layers' | RuleName>> &
  Pick<FactorizeStep, RuleName> & { readonly layers: LayerSelector }

const kMinElements = 1024
const kOps = ['Conv', 'Gemm', 'MatMul']

/** @internal */
export const factorizePass: Pass<ResolvedFactorize> = {
  name: 'factorize',
  resolve: resolveFactorize,
  needs: (step) => (step.weighting === 'inputs' ? ['calibration'] : []),
  apply,
}

async function apply(model: Model, step: ResolvedFactorize, context: Context): Promise<PassResult> {
  const { run, spared, calibration } = context
  const chosen = chooseLayers(weights(model.graph), step.layers, kMinElements, { ops: kOps, spared })
  const layers: LayerReport[] = []
  const dealt = step.budget === undefined ? undefined : await dealOut(model, chosen, step.budget, context)
  const one = async (weight: Weight, given?: LayerMoments): Promise<void> => {
    await run.tell('factorize', layers.length, chosen.length, weight.name)
    layers.push(await factorizeWeight(model, weight, step, context, given, dealt?.get(weight)))
  }
  if (step.weighting === 'inputs' && calibration)
    for await (const given of moments(model, chosen, calibration, { run })) await one(given.weight, given)
  else for (const weight of chosen) await one(weight)
  await run.tell('factorize', chosen.length, chosen.length)
  return { layers, summary: summarize(layers) }
}

/** What a budget gives to each layer that can be taken apart. */
async function dealOut(
  model: Model,
  chosen: readonly Weight[],
  budget: number,
  { run, memory: { scratch } }: Context,
): Promise<Map<Weight, Allotment>> {
  const able: Weight[] = []
  const shared: Shared[] = []
  for (const [i, weight] of chosen.entries()) {
    await run.tell('analyze', i, chosen.length, weight.name)
    const layer = weight.initializer.type === 'float32' ? factorLayerOf(weight, model.graph) : ''
    if (typeof layer === 'string' || (layer.conv && layer.conv.group !== 1)) continue
    const { rows, columns } = layer
    const data = scratch.read(weight.initializer).data as Float32Array
    if (firstNonFinite(data) >= 0 || data.every((v) => v === 0)) continue
    able.push(weight)
    shared.push({
      rows,
      columns,
      spectrum: svd({ type: 'float32', dims: [rows, columns], data }, { vectors: false }).s.data as Float32Array,
    })
  }
  const given = allot(shared, budget)
  return new Map(able.map((weight, i) => [weight, given[i]!]))
}

async function factorizeWeight(
  model: Model,
  weight: Weight,
  step: ResolvedFactorize,
  { memory: { keep, scratch } }: Context,
  given: LayerMoments | undefined,
  dealt: Allotment | undefined,
): Promise<LayerReport> {
  const { initializer } = weight
  const base = describeWeight(weight)
  const stays = (reason: string, found?: Factors): LayerReport => ({
    ...base,
    action: 'kept',
    reason,
    bytesAfter: base.bytesBefore,
    ...(found ? { error: found.error, ranks: found.ranks } : {}),
  })
  if (initializer.type !== 'float32') return stays(`${initializer.type} weights are not factorized`)
  const layer = factorLayerOf(weight, model.graph)
  if (typeof layer === 'string') return stays(layer)
  const values = scratch.read(initializer).data as Float32Array
  const bad = nonFiniteText(
    initializer.name,
    values,
    step.nonFinite,
    " (nonFinite: 'keep' in the factorize step leaves such weights)",
  )
  if (bad) return stays(bad)
  if (values.every((v) => v === 0)) return stays('it is zero everywhere')
  const method = step.method === 'auto' ? methodFor(layer) : step.method
  if (dealt === 'whole') return stays('the budget leaves it whole')
  const { rank = dealt, energy, error, ratio, seed } = step
  const known = given?.moments?.groups === 1 && given.moments.hessian.some((v) => v > 0) ? given.moments : undefined
  const split = (from: Float32Array): Factors | string =>
    factorize(from, layer, method, {
      rule: {
        ...(rank === undefined ? {} : { rank }),
        ...(energy === undefined ? {} : { energy }),
        ...(error === undefined ? {} : { error }),
        ...(ratio === undefined ? {} : { ratio }),
      },
      seed,
      ...(known ? { moments: known } : {}),
    })
  const found = split(values)
  if (typeof found === 'string') return stays(found)
  const count = found.stages.reduce((n, s) => n + s.data.length, 0)
  const text = `rank ${found.ranks.join(' × ')}`
  if (count >= values.length) return stays(`${text} holds ${count} numbers instead of ${values.length}`, found)
  const before = values.length
  const macs = macsOf(found.stages, layer)
  if (macs >= before) return stays(`${text} takes ${macs} multiplications a place instead of ${before}`, found)
  const far = found.outputError ?? found.error
  if (far > step.maxError)
    return stays(`${text}: its relative error ${percent(far)} is over ${percent(step.maxError)}`, found)
  if (step.measure) {
    const slow = await slower(model, layer, found)
    if (slow) return stays(slow, found)
  }
  if (layer.weight.op === 'Gemm') raiseOpset(model, 11)
  raiseIrVersion(model, 4)
  rewrite(
    layer,
    sourcesOf(
      found,
      known !== undefined,
      count * 4,
      keep,
      () => split(scratch.read(initializer).data as Float32Array) as Factors,
    ),
  )
  const unseen =
    given && !known
      ? `${given.reason ?? 'its inputs are zero, or of several groups'}: nearest to the weight instead`
      : undefined
  return {
    ...base,
    action: 'factorized',
    ranks: found.ranks,
    bytesAfter: count * 4,
    error: found.error,
    ...(unseen ? { reason: unseen } : {}),
  }
}

/** Why the factors would not be faster; nothing where they are. */
async function slower(model: Model, layer: FactorLayer, found: Factors): Promise<string | undefined> {
  const node = layer.users[0]!
  const input = node.inputs[layer.index === 1 ? 0 : 1]!
  const dims = inferShapes(model.graph, model.opsets).get(input, node.graph!)?.dims
  if (!dims?.every((d) => typeof d === 'number' && d > 0))
    return `the shape of its input ${input} is not known, so it cannot be measured`
  const stages = found.stages.map(({ data, ...rest }, i): Placed => ({
    ...rest,
    source: placed(`f${i}`, rest.dims, data),
  }))
  const { before, after } = await measureBoth(layer, stages, model, dims as number[], undefined)
  return after < before ? undefined : `its factors take ${milliseconds(after)} here, the layer ${milliseconds(before)}`
}

/** Small factors are held, large ones computed again when the model is saved, all of a layer at once, or lie in a file where they cannot be. */
function sourcesOf(
  found: Factors,
  hold: boolean,
  size: number,
  keep: KeepBudget,
  again: () => Factors,
): Placed[] {
  const raw = (f: Float32Array): Uint8Array => new Uint8Array(f.buffer as ArrayBuffer, f.byteOffset, f.byteLength)
  const held = !hold && keep.take(size)
  // A writer reads the factors of a layer one after the other: the last ones read stay until others are.
  return found.stages.map(({ data, ...rest }, i): Placed => {
    const source: DataSource = hold
      ? keep.hold(raw(data))
      : held
        ? new MemorySource(raw(data))
        : new ComputedSource(data.byteLength, () => raw(latest(again, i).stages[i]!.data))
    return { ...rest, source }
  })
}

let last: { readonly of: () => Factors; readonly found: Factors } | undefined

/** The factors that `again` makes, held from the reading of the first to that of the last. */
function latest(again: () => Factors, stage: number): Factors {
  const found = last?.of === again ? last.found : again()
  last = stage === found.stages.length - 1 ? undefined : { of: again, found }
  return found
}

function summarize(layers: readonly LayerReport[]): string {
  const done = layers.filter((l) => l.action === 'factorized')
  const kept = layers.length - done.length
  const sum = (pick: (l: LayerReport) => number): number => done.reduce((total, l) => total + pick(l), 0)
  return (
    `Factorized ${done.length} of ${layers.length} weights: ${bytes(sum((l) => l.bytesBefore))} became ` +
    `${bytes(sum((l) => l.bytesAfter))}${kept ? `; ${kept} stayed as they were` : ''}.`
  )
}

const kKeys = [
  'step', 'method', 'rank', 'energy', 'error', 'ratio', 'budget', 'weighting', 'measure', 'seed', 'maxError', 'nonFinite', 'layers',
] as const // prettier-ignore
const kMethods = ['svd', 'nmf', 'tucker', 'cp', 'separable', 'decouple', 'auto'] as const

function resolveFactorize(value: object, parameter: string): ResolvedFactorize {
  const given = options(value, parameter, kKeys)
  const method = given.method === undefined ? 'svd' : oneOf(given.method, `${parameter}.method`, kMethods)
  const rules = (['rank', 'energy', 'error', 'ratio', 'budget'] as const).filter((key) => given[key] !== undefined)
  if (rules.length > 1)
    throw new WhittleError(
      'ERR_RANGE',
      `${parameter}.${rules[1]}`,
      `${parameter}.${rules[1]}: give rank, energy, error, ratio or budget, one of them`,
    )
  const share = (key: 'energy' | 'ratio' | 'budget'): number => {
    const v = finite(given[key], `${parameter}.${key}`, 0, 1)
    return v > 0 ? v : fail('ERR_RANGE', `${parameter}.${key}`, 'a number above 0, at most 1', v)
  }
  const rank =
    given.rank === undefined
      ? undefined
      : given.rank === 'vbmf'
        ? 'vbmf'
        : typeof given.rank === 'string'
          ? fail('ERR_RANGE', `${parameter}.rank`, `an integer, or 'vbmf'`, given.rank)
          : integer(given.rank, `${parameter}.rank`, 1, 2 ** 24)
  if (rank === 'vbmf' && (method === 'cp' || method === 'decouple'))
    fail('ERR_RANGE', `${parameter}.rank`, `a number beside the method '${method}'`, rank)
  const weighting =
    given.weighting === undefined ? 'none' : oneOf(given.weighting, `${parameter}.weighting`, ['none', 'inputs'])
  if (weighting === 'inputs' && method !== 'svd')
    fail('ERR_RANGE', `${parameter}.weighting`, "'none' beside another method than 'svd'", weighting)
  if (given.budget !== undefined && (method !== 'svd' || weighting === 'inputs'))
    fail('ERR_RANGE', `${parameter}.budget`, "the method 'svd' without weighting beside it", given.budget)
  return {
    step: 'factorize',
    method,
    ...(rank === undefined ? {} : { rank }),
    ...(given.energy === undefined ? (rules.length ? {} : { energy: 0.95 }) : { energy: share('energy') }),
    ...(given.error === undefined ? {} : { error: finite(given.error, `${parameter}.error`, 0, 1) }),
    ...(given.ratio === undefined ? {} : { ratio: share('ratio') }),
    ...(given.budget === undefined ? {} : { budget: share('budget') }),
    weighting,
    measure: given.measure === undefined ? false : boolean(given.measure, `${parameter}.measure`),
    seed: given.seed === undefined ? 0 : integer(given.seed, `${parameter}.seed`, 0, 2 ** 32 - 1),
    maxError: given.maxError === undefined ? 0.9 : finite(given.maxError, `${parameter}.maxError`, 0),
    nonFinite:
      given.nonFinite === undefined ? 'error' : oneOf(given.nonFinite, `${parameter}.nonFinite`, ['error', 'keep']),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}
