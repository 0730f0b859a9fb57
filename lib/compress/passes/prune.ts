import { WhittleError } from '../../errors'
import {
  applyMask,
  GlobalThreshold,
  importance,
  mask,
  type Criterion,
  type ImportanceOptions,
  type MaskOptions,
  type Pattern,
  type Scope,
} from '../../kernels/select'
import { Initializer, MemorySource } from '../../model/graph'
import type { Model } from '../../model/model'
import { SafeTensors } from '../../model/safetensors'
import { chosenWeights, weights, type Weight } from '../../model/weights'
import { count, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { sizeOf, type Tensor } from '../../tensor'
import { boolean, fail, finite, integer, oneOf, options, string } from '../../validate'
import { ComputedSource, nonFiniteText, relativeError, sparsityOf, transposed, type Scratch } from '../computed'
import { ease } from '../paged'
import type { Run } from '../progress'
import { pruneCalibrated, type CalibratedPrune, type Gradients } from '../second/prune'
import { parseSelector, type LayerSelector, type Layers } from '../selectors'
import { chooseLayers, describeWeight, type Context, type Pass, type PassResult } from './pass'

/** The least important weights become zero; shapes stay. */
export interface PruneStep {
  readonly step: 'prune'
  /**
   * Share of weights to remove, 0 to 1. Needed, except with an `n:m` pattern, which implies it. `'auto'` finds a share for each
   * layer, so that `target` of all chosen weights go and the layers' outputs move least: a scan of every layer at nine shares
   * over the calibration inputs.
   */
  readonly sparsity?: number | 'auto'
  /** Instead of `sparsity`: what scores this or less goes (with `'l1'` |w| ≤ threshold; of a block the sum), in every layer alike. Not with `n:m` or calibration inputs. */
  readonly threshold?: number
  /** Of `sparsity: 'auto'`: share of all chosen weights to remove. */
  readonly target?: number
  /** Default `'unstructured'`. `'n:m'` keeps n of every m values along the reduction. Blocks are rows × columns of the weight seen as [outputs, reduction]. */
  readonly pattern?: Pattern
  /**
   * `'uniform'` (default): the ratio holds in every layer; `'global'`: one threshold for all chosen layers;
   * `'balanced'`: the ratio holds in every row (default for `'wanda'`). With calibration inputs not `'global'`, whose place
   * `sparsity: 'auto'` takes.
   */
  readonly scope?: Scope
  /**
   * Score of a weight; that of a block is the sum.
   *
   * From weights alone: `'l1'` (default, absolute value) or `'l2'`, which differ where a block or channel is scored as one;
   * `'random'` (the control); `'sensitivity'`, |g·w| with given `gradients` (SNIP 2019).
   *
   * With calibration inputs x, H = Σ x xᵀ: `'wanda'`, |w|·‖x‖₂ (Sun 2023); `'obd'`, ½ Hᵢᵢ w² (LeCun 1990); `'obs'`, w² / 2[H⁻¹]ᵢᵢ
   * (Hassibi 1993); `'sparsegpt'`, the same for weights as they are after those before them were removed (Frantar 2023). The last two
   * correct the weights that stay. Kernels of depthwise convolutions are few numbers each: there `'sparsegpt'` is `'obs'`.
   */
  readonly criterion?: 'l1' | 'l2' | 'random' | 'sensitivity' | 'wanda' | 'obd' | 'obs' | 'sparsegpt'
  /** Whether the weights that stay are fitted to the layer's outputs over the calibration inputs. Default: as `criterion` says. */
  readonly update?: boolean
  /** Of `'obs'`, `'sparsegpt'` and `update`: added to H's diagonal, as a share of its mean. Default 0.01. */
  readonly damping?: number
  /**
   * With calibration inputs: `true` (default) has each layer see what pruning the layers before it left of its inputs, in up to
   * eight runs over the calibration inputs; `false` takes the original inputs of all layers, in one run.
   */
  readonly sequential?: boolean
  /** Of `'sensitivity'`: a safetensors file with the gradient of the loss for each chosen weight, by its name. */
  readonly gradients?: string
  /** Of `'random'`, default 0. */
  readonly seed?: number
  /**
   * What the columns of blocks and the groups of `n:m` run along. `'reduction'` (default): all products of a sum as they lie,
   * which in a convolution larger than 1 x 1 are taps of one input channel after the other. `'inputs'`: input channels, each tap
   * of a kernel apart; the form that `Session` runs fastest.
   */
  readonly along?: 'reduction' | 'inputs'
  /** Default: Conv, ConvTranspose, Gemm and MatMul weights of at least 256 values. */
  readonly layers?: Layers
}

/** @internal Fields that do not matter to a step are absent. */
export type ResolvedPrune = Required<Omit<PruneStep, 'layers' | kSometimes>> & Pick<PruneStep, kSometimes> & { readonly layers: LayerSelector }
type kSometimes = 'sparsity' | 'threshold' | 'target' | 'update' | 'damping' | 'sequential' | 'gradients' | 'seed'

const kMinElements = 256
const kOps = ['Conv', 'ConvTranspose', 'Gemm', 'MatMul']

/** How the groups of a pattern lie in one weight, in the words of the select kernels. */
interface Plan {
  readonly weight: Weight
  /** The weight's dims for scores and masks; blocks are those of a matrix, for which batches lie one below the other. */
  readonly matrix: readonly number[]
  /** How `importance` scores a group; elements where nothing is said. */
  readonly score: ImportanceOptions
  /** The gradient of the loss, as the tensor lies. */
  readonly gradient?: () => Float32Array
  /** What paints a choice of groups over the weight; `undefined` where groups are elements. */
  readonly paint?: Pick<MaskOptions, 'pattern' | 'axis'>
  /** Which axis of the scores counts rows of outputs. */
  readonly rows: number
  /** Where input channels come before taps, [outputs, channels, taps], and are to lie behind them: as [outputs, taps, channels]. */
  readonly turn?: readonly [channels: number, taps: number]
  /** Of an n:m pattern: the axis that the runs lie along. */
  readonly runs?: Pick<MaskOptions, 'pattern' | 'axis'>
}

/** @internal Magnitude pruning: weights become +0, shapes stay. */
export const prunePass: Pass<ResolvedPrune> = { name: 'prune', resolve: resolvePrune, needs: (step) => (isCalibrated(step) ? ['calibration'] : []), apply }

async function apply(model: Model, step: ResolvedPrune, context: Context): Promise<PassResult> {
  const { run, memory: { keep, scratch } } = context
  const all = isCalibrated(step) ? weights(model.graph) : [...weights(model.graph), ...chosenWeights(model.graph)]
  const chosen = chooseLayers(all, step.layers, kMinElements, { ops: kOps, spared: context.spared })
  const gradients = await gradientsOf(step, chosen)
  if (isCalibrated(step)) {
    const { target = 0, update = false, damping = 0.01, sequential = true, seed = 0 } = step
    const layers = await pruneCalibrated(model, chosen, { ...step, target, update, damping, sequential, seed } as CalibratedPrune, gradients, context)
    return { layers, summary: summarize(layers, step) }
  }
  const { sparsity, threshold } = step as { sparsity: number; threshold?: number }
  const plans = chosen.map((weight, i) => planFor(weight, step, i, gradients))
  const possible = plans.filter((p): p is Plan => typeof p === 'object')
  const chooser = threshold === undefined ? await chooserFor(possible, { ...step, sparsity }, scratch, run) : () => ({ threshold })
  const layers: LayerReport[] = []
  for (const [i, weight] of chosen.entries()) {
    await run.tell('prune', i, chosen.length, weight.name)
    const plan = plans[i]!
    const base = describeWeight(weight)
    if (typeof plan === 'string') {
      layers.push({ ...base, action: 'kept', reason: plan, bytesAfter: base.bytesBefore })
      continue
    }
    const { initializer, graph } = weight
    const compute = (again: boolean): Float32Array => pruned(plan, chooser, scratch, again)
    const data = compute(true)
    const error = relativeError(scratch.read(initializer).data as Float32Array, data)
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
    const source = keep.take(bytes.byteLength)
      ? new MemorySource(bytes.slice())
      : new ComputedSource(bytes.byteLength, (again) => {
          const data = compute(again)
          return new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
        })
    graph.setInitializer(initializer.name, new Initializer(initializer.name, 'float32', initializer.dims, source))
    layers.push({ ...base, action: 'pruned', bytesAfter: base.bytesBefore, sparsity: sparsityOf(data), error })
  }
  await run.tell('prune', chosen.length, chosen.length)
  return { layers, summary: summarize(layers, step) }
}

function summarize(layers: readonly LayerReport[], step: ResolvedPrune): string {
  const shape = typeof step.pattern === 'string' ? step.pattern : `blocks of ${step.pattern.block.join('×')}`
  const done = layers.filter((l) => l.action === 'pruned')
  const kept = layers.length - done.length
  const zeros = done.reduce((sum, l) => sum + l.sparsity! * l.elements, 0)
  const total = done.reduce((sum, l) => sum + l.elements, 0)
  const how = step.sparsity === 'auto' ? 'by sensitivity' : step.threshold === undefined ? step.scope : `up to ${step.threshold}`
  const by = step.criterion === 'l1' ? '' : `, ${step.criterion}`
  return (
    `Pruned ${done.length} of ${layers.length} weights (${shape}, ${how}${by}): ` +
    `${percent(total ? zeros / total : 0, 1)} of ${count(total)} values are zero${kept ? `; ${kept} stayed as they were` : ''}.`
  )
}

const isCalibrated = (step: ResolvedPrune): boolean => step.sequential !== undefined

/** Gradients that the step's file holds for the chosen weights. */
async function gradientsOf({ gradients }: ResolvedPrune, chosen: readonly Weight[]): Promise<Gradients> {
  if (gradients === undefined) return () => undefined
  const file = await SafeTensors.load(gradients)
  for (const { initializer } of chosen) {
    const found = file.tensors.get(initializer.name)
    const dims = `float32 [${initializer.dims.join(', ')}]`
    if (found?.type !== 'float32' || found.dims.join() !== initializer.dims.join())
      throw new WhittleError('ERR_RANGE', 'gradients', `gradients: expected ${dims} for ${initializer.name}, got ${found ? `${found.type} [${found.dims.join(', ')}]` : 'nothing'}`)
  }
  return (weight) => file.tensors.get(weight)!.readSync().data as Float32Array
}

/** The plan for one weight, or why the pattern does not suit it. */
function planFor(weight: Weight, step: ResolvedPrune, number: number, gradients: Gradients): Plan | string {
  const { pattern } = step
  const criterion = step.criterion as Criterion
  const score = criterion === 'random' ? { criterion, seed: step.seed! + number } : { criterion }
  const base = { weight, ...(criterion === 'sensitivity' ? { gradient: (): Float32Array => gradients(weight.initializer.name)! } : {}) }
  const { initializer, view } = weight
  const { dims, outputAxis, reductionAxis } = view
  const taps = weight.op === 'Conv' ? sizeOf(initializer.dims.slice(2)) : 1
  if (step.along === 'inputs' && taps > 1 && pattern !== 'unstructured' && pattern !== 'channel') {
    const [outputs, channels] = initializer.dims as [number, number]
    // Channels behind taps, so that groups of channels are neighbours.
    const plan = planFor({ ...weight, op: 'Gemm', view: { dims: [outputs, taps * channels], outputAxis: 0, reductionAxis: 1 } }, step, number, gradients)
    if (typeof plan === 'string') return plan
    const width = typeof pattern === 'string' ? Number(pattern.split(':')[1]) : pattern.block[1]
    if (channels % width) return `${width} does not divide its ${channels} input channels`
    return { ...plan, weight, turn: [channels, taps] }
  }
  if (initializer.type !== 'float32') return `${initializer.type} weights are not pruned`
  if (pattern === 'unstructured') return { ...base, matrix: dims, score, rows: outputAxis }
  if (pattern === 'channel')
    return {
      ...base,
      matrix: dims,
      score: { ...score, axis: outputAxis },
      paint: { pattern, axis: outputAxis },
      rows: 0,
    }
  if (reductionAxis < 0) return `its reduction lies on several axes, which the pattern needs on one`
  if (typeof pattern === 'string') {
    const m = Number(pattern.split(':')[1])
    if (dims[reductionAxis]! % m) return `${m} does not divide its reduction of ${dims[reductionAxis]}`
    return { ...base, matrix: dims, score, rows: outputAxis, runs: { pattern, axis: reductionAxis } }
  }
  // Blocks are outputs × reduction; where outputs are the columns the block lies on its side.
  const sideways = reductionAxis < outputAxis
  const [r, c] = pattern.block
  if (dims[outputAxis]! % r || dims[reductionAxis]! % c)
    return `blocks of ${r}×${c} do not divide ${dims[outputAxis]} outputs × ${dims[reductionAxis]}`
  const block: readonly [number, number] = sideways ? [c, r] : [r, c]
  const matrix = [sizeOf(dims) / dims[dims.length - 1]!, dims[dims.length - 1]!]
  return { ...base, matrix, score: { ...score, block }, paint: { pattern: { block } }, rows: sideways ? 1 : 0 }
}

/** Options that choose the groups of the i-th plan out of its scores. */
type Chooser = (plan: Plan) => MaskOptions

async function chooserFor(plans: readonly Plan[], step: ResolvedPrune & { sparsity: number }, scratch: Scratch, run: Run): Promise<Chooser> {
  const { sparsity, scope } = step
  if (plans[0]?.runs) return ({ runs }) => ({ ...runs })
  if (scope === 'uniform') return () => ({ sparsity })
  if (scope === 'balanced') return ({ rows }) => ({ sparsity, scope, axis: rows })
  if (plans.length === 0) return () => ({ sparsity })
  const search = new GlobalThreshold(sparsity)
  do {
    for (const plan of plans) {
      await run.tell('prune', 0, plans.length, plan.weight.name)
      search.add(scoresOf(plan, valuesOf(plan, scratch), scratch))
      ease()
    }
  } while (search.next())
  const { threshold, equal } = search.result()
  const index = new Map(plans.map((plan, i) => [plan, i]))
  return (plan) => ({ threshold, equal: equal[index.get(plan)!]! })
}

/** The weight as the plan's matrix; valid until the next read. */
function valuesOf(plan: Plan, scratch: Scratch): Tensor<Float32Array> {
  const { initializer } = plan.weight
  const data = scratch.read(initializer).data as Float32Array
  nonFiniteText(initializer.name, data)
  return { type: 'float32', dims: plan.matrix, data: plan.turn ? transposed(data, ...plan.turn) : data }
}

function scoresOf(plan: Plan, values: Tensor<Float32Array>, scratch: Scratch): Tensor<Float32Array> {
  const grouped = plan.score.axis !== undefined || plan.score.block !== undefined
  const gradient = plan.gradient?.()
  const score = gradient ? { ...plan.score, grad: { ...values, data: plan.turn ? transposed(gradient, ...plan.turn) : gradient } } : plan.score
  return importance(values, grouped ? score : { ...score, out: scratch.floats('floats', values.data.length) })
}

/** `again`: in memory that the next call uses again. */
function pruned(plan: Plan, chooser: Chooser, scratch: Scratch, again: boolean): Float32Array {
  const values = valuesOf(plan, scratch)
  ease()
  const scores = scoresOf(plan, values, scratch)
  ease()
  const choice = mask(scores, { ...chooser(plan), out: scratch.bytes('choice', sizeOf(scores.dims)) })
  ease()
  // A choice of groups, taken for scores of 0 and 1, paints the mask of elements.
  const kept = plan.paint
    ? mask(
        { type: 'float32', dims: choice.dims, data: Float32Array.from(choice.data) },
        { ...plan.paint, threshold: 0.5, dims: values.dims, out: scratch.bytes('mask', values.data.length) },
      )
    : choice
  const { data } = applyMask(values, kept, again ? { out: scratch.floats('pruned', values.data.length) } : {})
  ease()
  return plan.turn ? transposed(data, plan.turn[1], plan.turn[0]) : data
}

/** @internal */
export const kZeroKeys = ['step', 'sparsity', 'threshold', 'target', 'pattern', 'scope', 'criterion', 'update', 'damping', 'sequential', 'gradients', 'seed', 'along', 'layers'] as const
const kCriteria = ['l1', 'l2', 'random', 'sensitivity', 'wanda', 'obd', 'obs', 'sparsegpt'] as const
const kUpdating: readonly string[] = ['obs', 'sparsegpt']
const kFromCalibration: readonly string[] = ['wanda', 'obd', ...kUpdating]

function resolvePrune(value: object, parameter: string): ResolvedPrune {
  const given = options(value, parameter, kZeroKeys)
  const pattern = resolvePattern(given.pattern, `${parameter}.pattern`)
  const criterion = given.criterion === undefined ? 'l1' : oneOf(given.criterion, `${parameter}.criterion`, kCriteria)
  const updates = kUpdating.includes(criterion)
  const update = given.update === undefined ? updates : boolean(given.update, `${parameter}.update`)
  if (criterion === 'sparsegpt' && !update) fail('ERR_RANGE', `${parameter}.update`, "true or nothing with 'sparsegpt', whose score needs it ('obs' does without)", update)
  const calibrated = update || given.sparsity === 'auto' || kFromCalibration.includes(criterion)
  const { sparsity, threshold, scope } = resolveAmount(given, pattern, criterion, calibrated, parameter)
  if (pattern === 'channel' && calibrated)
    fail('ERR_RANGE', `${parameter}.pattern`, "'unstructured', 'n:m' or blocks with what needs calibration inputs", pattern)
  const only = (key: (typeof kZeroKeys)[number], needed: boolean, where: string): void => {
    if (given[key] !== undefined && !needed) fail('ERR_RANGE', `${parameter}.${key}`, `nothing but with ${where}`, given[key])
  }
  only('target', sparsity === 'auto', "sparsity: 'auto'")
  only('damping', calibrated, 'what needs calibration inputs')
  only('sequential', calibrated, 'what needs calibration inputs')
  only('gradients', criterion === 'sensitivity', "criterion: 'sensitivity'")
  only('seed', criterion === 'random', "criterion: 'random'")
  return {
    step: 'prune',
    ...(sparsity === undefined ? {} : { sparsity }),
    ...(threshold === undefined ? {} : { threshold }),
    ...(sparsity === 'auto' ? { target: finite(given.target, `${parameter}.target`, 0, 1) } : {}),
    pattern,
    scope,
    criterion,
    along: given.along === undefined ? 'reduction' : oneOf(given.along, `${parameter}.along`, ['reduction', 'inputs']),
    ...(calibrated
      ? {
          update,
          damping: given.damping === undefined ? 0.01 : finite(given.damping, `${parameter}.damping`, 1e-9, 1e9),
          sequential: given.sequential === undefined ? true : boolean(given.sequential, `${parameter}.sequential`),
        }
      : {}),
    ...(criterion === 'sensitivity' ? { gradients: string(given.gradients, `${parameter}.gradients`) } : {}),
    ...(criterion === 'random' ? { seed: given.seed === undefined ? 0 : integer(given.seed, `${parameter}.seed`, 0, 2 ** 31 - 1) } : {}),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}

type Amount = Pick<ResolvedPrune, 'sparsity' | 'threshold' | 'scope'>

function resolveAmount(given: Partial<Record<(typeof kZeroKeys)[number], unknown>>, pattern: Pattern, criterion: string, calibrated: boolean, parameter: string): Amount {
  const scope =
    given.scope === undefined ? (criterion === 'wanda' ? 'balanced' : 'uniform') : oneOf(given.scope, `${parameter}.scope`, ['global', 'uniform', 'balanced'])
  if (given.threshold !== undefined) {
    const only = (key: 'sparsity' | 'scope' | 'pattern', wrong: boolean, what: string): void => {
      if (wrong) fail('ERR_RANGE', `${parameter}.${key}`, `${what} beside threshold`, given[key])
    }
    only('sparsity', given.sparsity !== undefined, 'nothing')
    only('scope', given.scope !== undefined && scope !== 'global', "'global' or nothing")
    only('pattern', typeof pattern === 'string' && pattern.includes(':'), 'another pattern than n:m')
    if (calibrated) fail('ERR_RANGE', `${parameter}.threshold`, 'nothing with what needs calibration inputs', given.threshold)
    return { threshold: finite(given.threshold, `${parameter}.threshold`, 0), scope: 'global' }
  }
  if (typeof pattern === 'string' && pattern.includes(':')) {
    const [n, m] = pattern.split(':').map(Number) as [number, number]
    const sparsity = given.sparsity === undefined || given.sparsity === 'auto' ? given.sparsity : finite(given.sparsity, `${parameter}.sparsity`, 0, 1)
    if (sparsity !== undefined && (sparsity === 'auto' || Math.abs(sparsity - (1 - n / m)) > 1e-9))
      fail('ERR_RANGE', `${parameter}.sparsity`, `${1 - n / m}, which the pattern ${pattern} implies, or nothing`, sparsity)
    if (given.scope !== undefined && scope !== 'uniform')
      fail('ERR_RANGE', `${parameter}.scope`, `nothing: the pattern ${pattern} holds in every group`, given.scope)
    return { sparsity: 1 - n / m, scope: 'uniform' }
  }
  if (given.sparsity === undefined) fail('ERR_RANGE', `${parameter}.sparsity`, "a share from 0 to 1, or 'auto' (or a threshold)", given.sparsity)
  if (pattern === 'channel' && scope === 'balanced')
    fail('ERR_RANGE', `${parameter}.scope`, "'global' or 'uniform' for the pattern 'channel'", scope)
  if (calibrated && scope === 'global')
    fail('ERR_RANGE', `${parameter}.scope`, "'uniform' or 'balanced' with calibration inputs (sparsity: 'auto' finds a share for each layer)", scope)
  return { sparsity: given.sparsity === 'auto' ? 'auto' : finite(given.sparsity, `${parameter}.sparsity`, 0, 1), scope }
}

function resolvePattern(value: unknown, parameter: string): Pattern {
  if (value === undefined || value === 'unstructured' || value === 'channel') return value ?? 'unstructured'
  if (typeof value === 'string') {
    const found = /^([1-9]\d{0,3}):([1-9]\d{0,3})$/.exec(value)
    if (!found || Number(found[1]) >= Number(found[2]))
      fail(
        'ERR_RANGE',
        parameter,
        "'unstructured', 'channel', { block: [rows, columns] } or 'n:m' with n < m, e.g. '2:4'",
        value,
      )
    return value as `${number}:${number}`
  }
  const { block } = options(value, parameter, ['block'])
  if (!Array.isArray(block) || block.length !== 2)
    fail('ERR_DTYPE', `${parameter}.block`, 'two numbers, [rows, columns]', block)
  return {
    block: [integer(block[0], `${parameter}.block[0]`, 1, 65536), integer(block[1], `${parameter}.block[1]`, 1, 65536)],
  }
}
