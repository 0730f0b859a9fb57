import path from 'node:path'

import { WhittleError } from '../errors'
import type { Model as ModelType } from '../model/model'
import { Model } from '../model/model'
import { foldConstantsOf } from '../model/fold'
import { chosenWeights, weights } from '../model/weights'
import type { CompressReport, ModelFigures, StepReport } from '../report/types'
import { fail, nearest, oneOf, options as checkOptions } from '../validate'
import { version } from '../version'
import { KeepBudget } from './computed'
import { planSteps } from './auto'
import { settle, type Built } from './backoff'
import { Calibration, type CalibrationData } from './calibration'
import { exposeWeights } from './fold/exposed'
import { retie, tiesOf } from './fold/retie'
import { checkMeasurable, measure, type Evaluate } from './gate'
import { inFileBytes, narrow, widen } from './half/widen'
import { passOf, type ResolvedStep } from './passes'
import { backToHalf } from './passes/quantize_half'
import { Run, type Progress } from './progress'
import { resolveLimits, resolveRecipe, type AutoRecipe, type Limits, type Preset, type Recipe } from './recipe'

export interface CompressOptions {
  /** Inputs to calibrate on, for steps that need them; with them the report tells each layer's signal-to-noise ratio. */
  readonly calibration?: CalibrationData
  /**
   * Judges the original, then the result. Its figures go to the report and are what `limits` bound. Where the limit on accuracy
   * is missed it judges further models, in which the worst layers are left as they were: 1, 2, 4, … of them until it is met.
   */
  readonly evaluate?: Evaluate
  /** Added to the recipe's own limits; the same name here wins. */
  readonly limits?: Limits
  /**
   * What the result will be saved as: its size is that of an ONNX file (default) or of a `.whittle` container, in the report and
   * for the limit on bytes. Save the model under a name that fits.
   */
  readonly container?: 'onnx' | 'whittle'
  readonly onProgress?: (progress: Progress) => void
  /** Stops the work between two weights, with `ERR_ABORTED`. */
  readonly signal?: AbortSignal
}

/** What `compress` gives. */
export interface CompressResult {
  /** A new model; the one that went in is as it was. Reads weights out of the original's file until it is saved. */
  readonly model: ModelType
  readonly report: CompressReport
}

/**
 * Makes a model smaller by the steps of a recipe. Nothing is written: save the model that comes back.
 *
 * Weights in `Constant` nodes, and those that nodes compute from constants alone (a transposed matrix, gates of an LSTM that were put in
 * another order), become initializers first, and the opset is raised to what the written ops need and no
 * further. A model that computes in float16 or bfloat16 is worked on in float32; its inputs and outputs keep their types. After
 * steps that leave floats (fold, prune, factorize …) a float16 model computes in float16 again; with codes in it, it comes back in
 * float32 between Casts, what did not become codes stored in the 16 bits that it had.
 *
 * Memory: the process grows by three times the largest tensor (as float32) and 128 MB at most, whatever the size of the model. Tensors are
 * worked on one at a time; results beyond 8 MB are computed again while the model is saved, or lie in a temporary file. So do second moments
 * of layers' inputs and copies of large tensors, of which memory has what is being worked on. Models with more than 64 MB of weights are run
 * piece by piece, the values in between in such a file. Files have no name, go with the process however it ends, and have their room before
 * it is used; where `os.tmpdir()` has none, and on Windows and in Electron, ordinary memory serves instead, and a model of many results takes more.
 *
 * More may be taken by: `slice`, which holds four float64 matrices of n × n for a stream of n channels; `factorize` but for ranks up to an eighth of
 * the shorter side, which holds several float64 copies of a weight; calibration of a model with an `If` or
 * `Loop`, whose weights count together as one tensor; and what a caller brings along: calibration inputs, the values that a piece makes of one
 * set of them, what `evaluate` takes.
 *
 * @param input a path, the bytes of an ONNX file, or a {@link Model} (which is not changed)
 * @param recipe `'int8-weights'`, `'int4-weights'`, or a recipe; see `Recipe`
 * @throws {WhittleError} `ERR_LIMIT` if a limit is not met; `ERR_ABORTED`; `ERR_RANGE` and `ERR_DTYPE` on the recipe,
 * on a limit that nothing measures, and on weights with NaN or infinities, by name; `ERR_MODEL_FORMAT` and `ERR_IO` as
 * `Model.load`. What `evaluate` and `onProgress` throw comes through as it is.
 *
 * @example
 * const { model, report } = await compress('in.onnx', 'int8-weights')
 * await model.save('out.onnx')
 * console.log(report.before.bytes, report.after.bytes)
 */
export async function compress(
  input: string | Uint8Array | ArrayBuffer | ModelType,
  recipe: Preset | Recipe | AutoRecipe,
  options: CompressOptions = {},
): Promise<CompressResult> {
  const start = performance.now()
  const { calibration, evaluate, limits: given, container, onProgress, signal } = readOptions(options)
  const resolved = resolveRecipe(recipe)
  const limits = { ...resolved.limits, ...resolveLimits(given, 'limits') }
  if (resolved.auto) checkJudge(evaluate, limits)
  checkMeasurable(limits, evaluate)
  checkNeeds(resolved.steps, calibration)
  const run = new Run(onProgress, signal)
  await run.tell('load', 0, 1, typeof input === 'string' ? input : '')
  const loaded = isModel(input) ? undefined : await Model.load(input)
  const original = loaded ?? (input as ModelType)
  try {
    await run.tell('load', 1, 1)
    const before: ModelFigures = {
      ...sizeOfModel(original),
      ...(evaluate ? await measure(original.clone(), 'original', evaluate, limits, run) : {}),
    }
    const judge =
      evaluate && before.accuracy !== undefined
        ? {
            accuracy: async (model: ModelType) => (await measure(model.clone(), 'compressed', evaluate, { accuracyDrop: 0 }, run)).accuracy!,
            least: before.accuracy - (limits.accuracyDrop ?? Infinity),
          }
        : undefined
    const base = original.clone()
    // What a branch of an If answers may be a weight.
    foldConstantsOf(base, (graph) => graph.parent !== undefined)
    const ties = tiesOf(base)
    await exposeWeights(base, new KeepBudget())
    const halves = widen(base)
    const build = async (chosen: readonly ResolvedStep[], spared: ReadonlySet<string>, own = run): Promise<Built> => {
      const model = base.clone()
      const context = { run: own, calibration, spared, judge, original: base, memory: { keep: new KeepBudget(), scratch: own.scratch } }
      const steps: StepReport[] = []
      for (const step of chosen) {
        const began = performance.now()
        const { layers, summary } = await passOf(step)
          .apply(model, step, context)
          .catch((error: unknown) => placed(error, chosen.indexOf(step)))
        steps.push({ step: step.step, summary, seconds: secondsSince(began), layers: inFileBytes(layers, halves) })
      }
      own.check()
      model.graph.removeDeadInitializers()
      if (halves.computed === 'float16' && chosen.every((s) => kFloatSteps.has(s.step))) await backToHalf(model, { ...context, calibration: undefined }, halves.ops!)
      else narrow(model, halves)
      retie(model, ties)
      model.check()
      const size = sizeOfModel(model)
      return { model, steps, size: container === 'whittle' ? { ...size, bytes: await model.packedLength(signal) } : size }
    }
    const always = spareable(base, resolved.spared ?? [])
    const planned =
      resolved.auto && evaluate
        ? await planSteps({ ...resolved.auto, before, limits, evaluate, calibrated: calibration !== undefined, container: container ?? 'onnx', run }, (steps, timed) =>
            build(steps, always, timed),
          )
        : { steps: resolved.steps, found: undefined, attempts: [] }
    const settled = await settle({ original: base, before, limits, evaluate, calibration, run, found: planned.found }, (spared) =>
      build(planned.steps, new Set([...always, ...spared])),
    )
    const spared = [...always, ...(settled.attempts.at(-1)?.spared ?? [])]
    return {
      model: settled.model,
      report: {
        version: version(),
        model: typeof input === 'string' ? path.parse(input).name : 'model',
        recipe: { name: resolved.name, limits, steps: planned.steps, ...(spared.length > 0 ? { spared } : {}) },
        before,
        after: settled.after,
        steps: settled.steps,
        limits: settled.limits,
        blame: settled.blame,
        attempts: [...planned.attempts, ...settled.attempts],
        seconds: secondsSince(start),
      },
    }
  } catch (error) {
    loaded?.close()
    throw error
  }
}

/** Steps after which weights and values are floats. */
const kFloatSteps = new Set<ResolvedStep['step']>(['fold', 'equalize', 'rotate', 'slice', 'prune', 'factorize', 'repair', 'dedupe'])

/** A search without a judge, or without anything that holds it, would cut the model to nothing. */
function checkJudge(evaluate: Evaluate | undefined, limits: Limits): void {
  if (!evaluate)
    throw new WhittleError('ERR_RANGE', 'options.evaluate', "options.evaluate: recipe.plan 'auto' needs a function that judges models, got none")
  if (limits.accuracyDrop === undefined)
    throw new WhittleError('ERR_RANGE', 'limits.accuracyDrop', "limits.accuracyDrop: recipe.plan 'auto' needs it, got none")
}

/** The names, each of which must be an initializer's. */
function spareable(model: ModelType, names: readonly string[]): Set<string> {
  const known = new Set([...weights(model.graph), ...chosenWeights(model.graph)].map((w) => w.initializer.name))
  for (const [i, name] of names.entries())
    if (!known.has(name))
      throw new WhittleError('ERR_RANGE', `recipe.spared[${i}]`, `recipe.spared[${i}]: no weight is called ${JSON.stringify(name)}${nearest(name, [...known])}`)
  return new Set(names)
}

/** Says before any work is done what a step lacks. */
function checkNeeds(steps: readonly ResolvedStep[], calibration: Calibration | undefined): void {
  for (const [i, step] of steps.entries())
    if (!calibration && passOf(step).needs(step).includes('calibration'))
      throw new WhittleError(
        'ERR_RANGE',
        'options.calibration',
        `options.calibration: recipe.steps[${i}] (${step.step}) needs inputs to calibrate on, got none`,
      )
}

/** A selector does not know whose it is. */
function placed(error: unknown, index: number): never {
  if (!(error instanceof WhittleError) || error.parameter !== 'layers') throw error
  const step = `recipe.steps[${index}].`
  throw new WhittleError(error.code, `${step}layers`, `${step}${error.message}`, { cause: error })
}

const secondsSince = (start: number): number => Math.round(performance.now() - start) / 1000

function sizeOfModel(model: ModelType): { bytes: number; parameters: number } {
  return { bytes: model.byteLength(), parameters: model.summary().parameters }
}

function isModel(input: unknown): input is ModelType {
  return (
    input !== null && typeof input === 'object' && typeof (input as ModelType).clone === 'function' && 'graph' in input
  )
}

interface Options extends Omit<CompressOptions, 'calibration'> {
  readonly calibration: Calibration | undefined
}

function readOptions(value: unknown): Options {
  const given = checkOptions(value, 'options', ['calibration', 'evaluate', 'limits', 'container', 'onProgress', 'signal'])
  if (given.container !== undefined) oneOf(given.container, 'options.container', ['onnx', 'whittle'])
  for (const name of ['evaluate', 'onProgress'] as const)
    if (given[name] !== undefined && typeof given[name] !== 'function')
      fail('ERR_DTYPE', `options.${name}`, 'a function', given[name])
  const { signal, calibration } = given as { signal?: unknown; calibration?: unknown }
  if (signal !== undefined && typeof (signal as AbortSignal | null)?.aborted !== 'boolean')
    fail('ERR_DTYPE', 'options.signal', 'an AbortSignal', signal)
  return { ...(given as CompressOptions), calibration: calibration === undefined ? undefined : Calibration.from(calibration) }
}
