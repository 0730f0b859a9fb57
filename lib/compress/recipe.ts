import { WhittleError } from '../errors'
import { fail, finite, nearest, oneOf, options, string } from '../validate'
import { passes, type ResolvedStep, type Step, type Storage } from './passes'

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
  /** Weight tensors that no step changes. A report's recipe names those that the gate backed off from. */
  readonly spared?: readonly string[]
}

/** What a search makes as small as it can. */
export type Objective = 'bytes' | 'latency'

/**
 * Steps, their strength and order found by trying, under the limits; needs `evaluate`. What was found depends on time spent; the
 * report's recipe holds it, and that gives the same bytes again.
 */
export interface AutoRecipe {
  readonly plan: 'auto'
  readonly name?: string
  readonly limits?: Limits
  /** What is to be as small as it can: size (default) or latency, as `evaluate` measures it. */
  readonly objective?: Objective
  /**
   * Default 300. After this many seconds nothing new is tried, and what is being built is given up between two layers, once there is a model that
   * keeps the limits.
   */
  readonly seconds?: number
}

const kPresets = {
  'int8-weights': [{ step: 'dedupe' }, { step: 'quantize', bits: 8, storage: 'folded' }],
  'int4-weights': [{ step: 'dedupe' }, { step: 'quantize', bits: 4, blockSize: 32, storage: 'folded' }],
  // 8-bit weights and activations; needs calibration inputs.
  balanced: [{ step: 'fold' }, { step: 'dedupe' }, { step: 'quantize', activations: 'static', repair: false }, { step: 'repair' }],
  // The same with codes for every layer, the first one's image too.
  speed: [
    { step: 'fold' },
    { step: 'dedupe' },
    { step: 'quantize', activations: 'static', minChannels: 1, repair: false },
    { step: 'repair' },
  ],
  // The smallest `.whittle` file; needs calibration inputs.
  size: [
    { step: 'fold' },
    { step: 'dedupe' },
    { step: 'quantize', coding: 'entropy', bits: 4.5, method: 'gptq', storage: 'folded' },
  ],
  // What transformers.js looks for beside a model, by dtype: q8, q4 and fp16.
  // Weights that no product in integers reads (convolutions, embeddings, recurrent cells, Gemm) take a quarter too.
  'transformers.js': [
    { step: 'fold' },
    { step: 'dedupe' },
    { step: 'quantize', activations: 'dynamic' },
    { step: 'quantize' },
  ],
  'transformers.js-q4': [
    { step: 'dedupe' },
    { step: 'quantize', bits: 4, blockSize: 32, method: 'omse', layers: { ops: ['MatMul', 'Gemm'], optional: true } },
  ],
  'transformers.js-fp16': [{ step: 'dedupe' }, { step: 'quantize', format: 'float16', activations: 'float16' }],
} as const satisfies Record<string, readonly Step[]>

/** Names of the recipes that come with the package. */
export type Preset = keyof typeof kPresets

/** Names that the readers of a preset's files expect, for presets that are made for one. */
export const presetFiles: Readonly<Partial<Record<Preset, string>>> = {
  'transformers.js': 'model_quantized.onnx',
  'transformers.js-q4': 'model_q4.onnx',
  'transformers.js-fp16': 'model_fp16.onnx',
}

/** Every {@link Preset}. */
export const presets = Object.freeze(Object.keys(kPresets)) as readonly Preset[]

/** @internal */
export interface ResolvedRecipe {
  readonly name: string
  readonly limits: Limits
  readonly steps: readonly ResolvedStep[]
  readonly spared?: readonly string[]
  readonly auto?: { readonly objective: Objective; readonly seconds: number }
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
        `recipe: no preset is called ${JSON.stringify(value)}${nearest(value, presets)}; there are ${presets.join(', ')}`,
      )
    return {
      name: value,
      limits: {},
      steps: (kPresets[value as Preset] as readonly Step[]).map((s, i) => resolveStep(s, `recipe.steps[${i}]`)),
    }
  }
  if (value === undefined) fail('ERR_DTYPE', 'recipe', 'a preset name or a recipe', value)
  if ((value as { plan?: unknown } | null)?.plan !== undefined) return resolveAuto(value)
  const given = options(value, 'recipe', ['name', 'limits', 'steps', 'spared'])
  if (!Array.isArray(given.steps)) fail('ERR_DTYPE', 'recipe.steps', 'a list of steps', given.steps)
  if (given.steps.length === 0)
    throw new WhittleError('ERR_RANGE', 'recipe.steps', 'recipe.steps: expected at least one step, got none')
  return {
    name: given.name === undefined ? 'recipe' : string(given.name, 'recipe.name'),
    limits: resolveLimits(given.limits, 'recipe.limits'),
    steps: given.steps.map((s: unknown, i: number) => resolveStep(s, `recipe.steps[${i}]`)),
    ...(given.spared === undefined ? {} : { spared: names(given.spared, 'recipe.spared') }),
  }
}

function resolveAuto(value: unknown): ResolvedRecipe {
  const given = options(value, 'recipe', ['plan', 'name', 'limits', 'objective', 'seconds'])
  oneOf(given.plan, 'recipe.plan', ['auto'])
  return {
    name: given.name === undefined ? 'auto' : string(given.name, 'recipe.name'),
    limits: resolveLimits(given.limits, 'recipe.limits'),
    steps: [],
    auto: {
      objective:
        given.objective === undefined ? 'bytes' : oneOf(given.objective, 'recipe.objective', ['bytes', 'latency']),
      seconds: given.seconds === undefined ? 300 : finite(given.seconds, 'recipe.seconds', 0),
    },
  }
}

function names(value: unknown, parameter: string): string[] {
  if (!Array.isArray(value)) fail('ERR_DTYPE', parameter, 'an array of names', value)
  return value.map((name: unknown, i) => string(name, `${parameter}[${i}]`))
}

/** @internal */
export function resolveLimits(value: unknown, parameter: string): Limits {
  const given = options(value, parameter, ['accuracyDrop', 'bytes', 'latency'])
  const number = (key: 'accuracyDrop' | 'bytes' | 'latency'): object =>
    given[key] === undefined ? {} : { [key]: finite(given[key], `${parameter}.${key}`, 0) }
  return { ...number('accuracyDrop'), ...number('bytes'), ...number('latency') }
}

function resolveStep(value: unknown, parameter: string): ResolvedStep {
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    fail('ERR_DTYPE', parameter, "a step such as { step: 'quantize' }", value)
  const { step } = value as { step?: unknown }
  const pass = passes.find((p) => p.name === step)
  if (!pass) {
    const names = passes.map((p) => p.name)
    fail(
      'ERR_RANGE',
      `${parameter}.step`,
      `one of ${names.map((n) => `'${n}'`).join(', ')}${nearest(step, names)}`,
      step,
    )
  }
  return pass.resolve(value, parameter)
}

/**
 * Reads a recipe document, JSON or YAML (JSON is a part of YAML, so one parser reads both).
 *
 * @throws `ERR_RANGE` with line and column where the text is not YAML; then as {@link resolveRecipe}.
 */
export function parseRecipe(text: string, parameter = 'recipe'): Recipe | AutoRecipe {
  // Loaded here: it takes 3 MB and most programs give objects.
  const { parseDocument } = require('yaml') as typeof import('yaml')
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
  return value as Recipe | AutoRecipe
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
export function overrideRecipe(recipe: Recipe | AutoRecipe | Preset, overrides: Overrides): Recipe | AutoRecipe {
  if (typeof recipe === 'object' && 'plan' in recipe) {
    const [given] = Object.keys(overrides)
    if (given !== undefined)
      throw new WhittleError(
        'ERR_RANGE',
        given,
        `${given}: expected nothing beside recipe.plan 'auto', which chooses it`,
      )
    return recipe
  }
  const resolved = typeof recipe === 'string' ? { name: recipe, steps: kPresets[recipe] as readonly Step[] } : recipe
  let steps = [...resolved.steps]
  const { bits, storage, sparsity } = overrides
  if (bits !== undefined || storage !== undefined) {
    if (!steps.some((s) => s.step === 'quantize')) steps.push({ step: 'quantize' })
    steps = steps.map((s) => {
      if (s.step !== 'quantize') return s
      // A block size that suited the old bits need not suit the new ones: let the default decide.
      const { blockSize, averageBits, bytes, ...rest } = s
      const mixed = { ...(averageBits === undefined ? {} : { averageBits }), ...(bytes === undefined ? {} : { bytes }) }
      const keep = bits === undefined || (s.bits !== 'auto' && bits <= 4 === (s.bits ?? 8) <= 4)
      return {
        ...rest,
        ...(keep && blockSize !== undefined ? { blockSize } : {}),
        ...(bits === undefined ? mixed : { bits }),
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
