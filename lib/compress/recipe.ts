import { parseDocument } from 'yaml'

import { WhittleError } from '../errors'
import type { Pattern, Scope } from '../kernels/select'
import { fail, finite, integer, oneOf, options, string } from '../validate'
import { parseSelector, type LayerSelector, type Layers } from './selectors'

/** How quantized weights are written; see {@link QuantizeStep.storage}. */
export type Storage = 'folded' | 'qdq'

/**
 * Weight-only quantization in standard ONNX ops: symmetric, codes ±(2^(bits−1)−1), nearest even, true division.
 */
export interface QuantizeStep {
  readonly step: 'quantize'
  /** 2 to 8, default 8. 5 to 8 bits lie in an int8 tensor, 2 to 4 bits two values to a byte. */
  readonly bits?: number
  /**
   * `'folded'` (default) writes ops that onnxruntime evaluates once, when it loads the model (int8: `Cast` → `Mul`,
   * at the opset the file has): the run is as fast as float. `'qdq'` writes `DequantizeLinear` (opset 13, blocks 21),
   * which tools look for, but which onnxruntime evaluates anew in every run unless the session option
   * `extra: { session: { disable_quant_qdq: '1' } }` is set.
   */
  readonly storage?: Storage
  /**
   * Values along the reduction that share a scale; 0 is one scale an output channel. Default 0 for 5 to 8 bits and 32
   * for fewer. A weight whose reduction it does not divide takes the largest divisor below it, down to 8; without one it
   * falls back to int8 per channel, and the report says so.
   */
  readonly blockSize?: number
  /**
   * Largest relative error ‖w − ŵ‖₂ / ‖w‖₂ of one weight; beyond it the weight stays float and the report names it.
   * Default by bits, 8 to 2: 0.03, 0.05, 0.08, 0.12, 0.15, 0.35, 0.8. It keeps
   * single weights from breaking; how many small errors a network bears only `evaluate` can tell.
   */
  readonly maxError?: number
  /** A weight with NaN or an infinity: `'error'` (default) throws `ERR_RANGE` with its name, `'keep'` leaves it float. */
  readonly nonFinite?: 'error' | 'keep'
  /** Default: every Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU and RNN weight of at least 256 values. */
  readonly layers?: Layers
}

/** Magnitude pruning: the least important weights become zero; shapes stay. */
export interface PruneStep {
  readonly step: 'prune'
  /** Share of weights to remove, 0 to 1. Needed, except with an `n:m` pattern, which implies it. */
  readonly sparsity?: number
  /** Default `'unstructured'`. `'n:m'` keeps n of every m values along the reduction. Blocks are rows × columns of the weight seen as [outputs, reduction]. */
  readonly pattern?: Pattern
  /**
   * `'uniform'` (default): the ratio holds in every layer; `'global'`: one threshold for all chosen layers;
   * `'balanced'`: the ratio holds in every row.
   */
  readonly scope?: Scope
  /** Score: `'l1'` (default, absolute value) or `'l2'`; they differ where a block or channel is scored as one. */
  readonly criterion?: 'l1' | 'l2'
  /**
   * What the columns of blocks and the groups of `n:m` run along. `'reduction'` (default): all products of a sum as they lie,
   * which in a convolution larger than 1 x 1 are taps of one input channel after the other. `'inputs'`: input channels, each tap
   * of a kernel apart; the form that `Session` runs fastest.
   */
  readonly along?: 'reduction' | 'inputs'
  /** Default: Conv, ConvTranspose, Gemm and MatMul weights of at least 256 values. */
  readonly layers?: Layers
}

/** Equal initializers are stored once. Changes no number. */
export interface DedupeStep {
  readonly step: 'dedupe'
}

export type Step = QuantizeStep | PruneStep | DedupeStep

/** Bounds that the result must keep; see `compress`. */
export interface Limits {
  /** Largest loss against the original, in the unit that `evaluate` returns (0.003 is 0.3 points of a share). */
  readonly accuracyDrop?: number
  /** Largest size of the written model, external data included. */
  readonly bytes?: number
  /** Largest latency in milliseconds, as `evaluate` measures it. */
  readonly latency?: number
}

/** What to do to a model, in order. Also a JSON or YAML document with the same fields. */
export interface Recipe {
  /** For the report only. */
  readonly name?: string
  readonly limits?: Limits
  readonly steps: readonly Step[]
}

const kPresets = {
  'int8-weights': [{ step: 'dedupe' }, { step: 'quantize', bits: 8, storage: 'folded' }],
  'int4-weights': [{ step: 'dedupe' }, { step: 'quantize', bits: 4, blockSize: 32, storage: 'folded' }],
} as const satisfies Record<string, readonly Step[]>

/** Names of the recipes that come with the package. */
export type Preset = keyof typeof kPresets

/** Every {@link Preset}. */
export const presets = Object.freeze(Object.keys(kPresets)) as readonly Preset[]

/** Error budget by bits, see {@link QuantizeStep.maxError}. */
const kMaxError: Readonly<Record<number, number>> = { 8: 0.03, 7: 0.05, 6: 0.08, 5: 0.12, 4: 0.15, 3: 0.35, 2: 0.8 }

/** @internal A step with every default written out: what the report holds, so that it replays exactly. */
export type ResolvedQuantize = Required<Omit<QuantizeStep, 'layers'>> & { readonly layers: LayerSelector }

/** @internal */
export type ResolvedPrune = Required<Omit<PruneStep, 'layers'>> & { readonly layers: LayerSelector }

/** @internal */
export type ResolvedStep = ResolvedQuantize | ResolvedPrune | DedupeStep

/** @internal */
export interface ResolvedRecipe {
  readonly name: string
  readonly limits: Limits
  readonly steps: readonly ResolvedStep[]
}

/**
 * Checks a recipe (preset name or object) and writes every default out.
 *
 * @throws `ERR_RANGE` or `ERR_DTYPE` naming the field, e.g. `recipe.steps[1].bits`; unknown fields are refused.
 */
export function resolveRecipe(value: unknown): ResolvedRecipe {
  if (typeof value === 'string') {
    if (!Object.hasOwn(kPresets, value))
      throw new WhittleError(
        'ERR_RANGE',
        'recipe',
        `recipe: no preset is called ${JSON.stringify(value)}; there are ${presets.join(', ')}`,
      )
    return {
      name: value,
      limits: {},
      steps: kPresets[value as Preset].map((s, i) => resolveStep(s, `recipe.steps[${i}]`)),
    }
  }
  if (value === undefined) fail('ERR_DTYPE', 'recipe', 'a preset name or a recipe', value)
  const given = options(value, 'recipe', ['name', 'limits', 'steps'])
  if (!Array.isArray(given.steps)) fail('ERR_DTYPE', 'recipe.steps', 'a list of steps', given.steps)
  if (given.steps.length === 0)
    throw new WhittleError('ERR_RANGE', 'recipe.steps', 'recipe.steps: expected at least one step, got none')
  return {
    name: given.name === undefined ? 'recipe' : string(given.name, 'recipe.name'),
    limits: resolveLimits(given.limits, 'recipe.limits'),
    steps: given.steps.map((s: unknown, i: number) => resolveStep(s, `recipe.steps[${i}]`)),
  }
}

/** @internal */
export function resolveLimits(value: unknown, parameter: string): Limits {
  const given = options(value, parameter, ['accuracyDrop', 'bytes', 'latency'])
  const number = (key: 'accuracyDrop' | 'bytes' | 'latency'): object =>
    given[key] === undefined ? {} : { [key]: finite(given[key], `${parameter}.${key}`, 0) }
  return { ...number('accuracyDrop'), ...number('bytes'), ...number('latency') }
}

const kSteps = ['quantize', 'prune', 'dedupe'] as const

function resolveStep(value: unknown, parameter: string): ResolvedStep {
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    fail('ERR_DTYPE', parameter, "a step such as { step: 'quantize' }", value)
  const kind = oneOf((value as { step?: unknown }).step, `${parameter}.step`, kSteps)
  if (kind === 'quantize') return resolveQuantize(value, parameter)
  if (kind === 'prune') return resolvePrune(value, parameter)
  options(value, parameter, ['step'])
  return { step: 'dedupe' }
}

function resolveQuantize(value: object, parameter: string): ResolvedQuantize {
  const given = options(value, parameter, ['step', 'bits', 'storage', 'blockSize', 'maxError', 'nonFinite', 'layers'])
  const bits = given.bits === undefined ? 8 : integer(given.bits, `${parameter}.bits`, 2, 8)
  const blockSize =
    given.blockSize === undefined
      ? bits <= 4
        ? 32
        : 0
      : integer(given.blockSize, `${parameter}.blockSize`, 0, 2 ** 20)
  if (blockSize > 0 && blockSize < 8)
    fail('ERR_RANGE', `${parameter}.blockSize`, '0 (per channel) or at least 8', blockSize)
  return {
    step: 'quantize',
    bits,
    storage: given.storage === undefined ? 'folded' : oneOf(given.storage, `${parameter}.storage`, ['folded', 'qdq']),
    blockSize,
    maxError: given.maxError === undefined ? kMaxError[bits]! : finite(given.maxError, `${parameter}.maxError`, 0),
    nonFinite:
      given.nonFinite === undefined ? 'error' : oneOf(given.nonFinite, `${parameter}.nonFinite`, ['error', 'keep']),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}

function resolvePrune(value: object, parameter: string): ResolvedPrune {
  const given = options(value, parameter, ['step', 'sparsity', 'pattern', 'scope', 'criterion', 'along', 'layers'])
  const pattern = resolvePattern(given.pattern, `${parameter}.pattern`)
  const scope =
    given.scope === undefined ? 'uniform' : oneOf(given.scope, `${parameter}.scope`, ['global', 'uniform', 'balanced'])
  let sparsity = given.sparsity === undefined ? undefined : finite(given.sparsity, `${parameter}.sparsity`, 0, 1)
  if (typeof pattern === 'string' && pattern.includes(':')) {
    const [n, m] = pattern.split(':').map(Number) as [number, number]
    if (sparsity !== undefined && Math.abs(sparsity - (1 - n / m)) > 1e-9)
      fail(
        'ERR_RANGE',
        `${parameter}.sparsity`,
        `${1 - n / m}, which the pattern ${pattern} implies, or nothing`,
        sparsity,
      )
    if (given.scope !== undefined && scope !== 'uniform')
      fail('ERR_RANGE', `${parameter}.scope`, `nothing: the pattern ${pattern} holds in every group`, given.scope)
    sparsity = 1 - n / m
  }
  if (sparsity === undefined) fail('ERR_RANGE', `${parameter}.sparsity`, 'a share from 0 to 1', sparsity)
  if (pattern === 'channel' && scope === 'balanced')
    fail('ERR_RANGE', `${parameter}.scope`, "'global' or 'uniform' for the pattern 'channel'", scope)
  return {
    step: 'prune',
    sparsity,
    pattern,
    scope,
    criterion: given.criterion === undefined ? 'l1' : oneOf(given.criterion, `${parameter}.criterion`, ['l1', 'l2']),
    along: given.along === undefined ? 'reduction' : oneOf(given.along, `${parameter}.along`, ['reduction', 'inputs']),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
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

/**
 * Reads a recipe document, JSON or YAML (JSON is a part of YAML, so one parser reads both).
 *
 * @throws `ERR_RANGE` with line and column where the text is not YAML; then as {@link resolveRecipe}.
 */
export function parseRecipe(text: string, parameter = 'recipe'): Recipe {
  const document = parseDocument(string(text, parameter), { prettyErrors: true, uniqueKeys: true })
  const error = document.errors[0]
  if (error)
    throw new WhittleError('ERR_RANGE', parameter, `${parameter}: ${error.message.split('\n')[0]!.replace(/:$/, '')}`, {
      cause: error,
    })
  let value: unknown
  try {
    value = document.toJS({ maxAliasCount: 100 })
  } catch (cause) {
    throw new WhittleError('ERR_RANGE', parameter, `${parameter}: ${(cause as Error).message}`, { cause })
  }
  resolveRecipe(value)
  return value as Recipe
}

/** Changes that the command line makes to a recipe. */
export interface Overrides {
  readonly bits?: number
  readonly storage?: Storage
  readonly sparsity?: number
}

/**
 * The recipe with `overrides` applied: `bits` and `storage` to every quantize step (one is added if there is none),
 * `sparsity` to every prune step (one is put first if there is none).
 */
export function overrideRecipe(recipe: Recipe | Preset, overrides: Overrides): Recipe {
  const resolved = typeof recipe === 'string' ? { name: recipe, steps: kPresets[recipe] as readonly Step[] } : recipe
  let steps = [...resolved.steps]
  const { bits, storage, sparsity } = overrides
  if (bits !== undefined || storage !== undefined) {
    if (!steps.some((s) => s.step === 'quantize')) steps.push({ step: 'quantize' })
    steps = steps.map((s) => {
      if (s.step !== 'quantize') return s
      // A block size that suited the old bits need not suit the new ones: let the default decide.
      const { blockSize, ...rest } = s
      const keep = bits === undefined || bits <= 4 === (s.bits ?? 8) <= 4
      return {
        ...rest,
        ...(keep && blockSize !== undefined ? { blockSize } : {}),
        ...(bits === undefined ? {} : { bits }),
        ...(storage === undefined ? {} : { storage }),
      }
    })
  }
  if (sparsity !== undefined) {
    if (steps.some((s) => s.step === 'prune')) steps = steps.map((s) => (s.step === 'prune' ? { ...s, sparsity } : s))
    else steps.unshift({ step: 'prune', sparsity })
  }
  return { ...resolved, steps }
}
