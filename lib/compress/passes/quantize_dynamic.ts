import type { Model } from '../../model/model'
import { formOptions, oneOf, options } from '../../validate'
import { parseSelector, type LayerSelector, type Layers } from '../selectors'
import { weights } from '../../model/weights'
import { count } from '../../report/format'
import { codedLayers } from '../static/layers'
import { computeDynamically } from '../static/dynamic'
import { raiseIrVersion } from '../../model/fold'
import { raiseOpset } from '../../model/opset'
import { applyStatic, isStatic, kStaticKeys, resolveStatic, type ResolvedStatic } from './quantize_static'
import { applyHalf, isHalf, kHalfKeys, resolveHalf, type ResolvedHalf } from './quantize_half'
import { chooseLayers, describeWeight, type Context, type Pass, type PassResult } from './pass'
import { kWeightKeys, type QuantizeStep, type ResolvedQuantize } from './quantize'

/**
 * Dynamic 8-bit quantization of products with constant matrices: weights as int8 with a scale for each column, activations
 * as uint8 with a scale that each run finds for itself. Needs no calibration; suits transformers.
 */
export interface DynamicQuantizeStep extends QuantizeStep {
  readonly activations: 'dynamic'
  /** Default: every MatMul and Gemm by a constant matrix of at least 256 values. No other field of {@link QuantizeStep} is taken. */
  readonly layers?: Layers
}

/** @internal */
export type ResolvedDynamic = Required<Pick<DynamicQuantizeStep, 'step' | 'activations'>> & { readonly layers: LayerSelector }

const kMinElements = 256

const kDynamicKeys = ['step', 'activations', 'layers'] as const

const isDynamic = (value: object): value is ResolvedDynamic => (value as { activations?: unknown }).activations === 'dynamic'

function resolveDynamic(value: object, parameter: string): ResolvedDynamic {
  const given = options(value, parameter, kDynamicKeys)
  return { step: 'quantize', activations: 'dynamic', layers: parseSelector(given.layers, `${parameter}.layers`) }
}

async function applyDynamic(model: Model, step: ResolvedDynamic, { run, spared, memory }: Context): Promise<PassResult> {
  raiseIrVersion(model, 4)
  raiseOpset(model, 13)
  model.graph.sort()
  const chosen = chooseLayers(weights(model.graph), step.layers, kMinElements, { ops: ['MatMul', 'Gemm'], spared })
  const coded = codedLayers(model.graph, { products: true })
  const layers = chosen.filter((w) => coded.some((l) => l.weight.name === w.initializer.name))
  await run.tell('quantize', 0, layers.length)
  const errors = computeDynamically(model.graph, coded.filter((l) => layers.some((w) => w.initializer.name === l.weight.name)), memory)
  await run.tell('quantize', layers.length, layers.length)
  const reports = layers.map((w) => {
    const base = describeWeight(w)
    const { axis } = coded.find((l) => l.weight.name === w.initializer.name) as { axis: number }
    return { ...base, action: 'quantized' as const, bits: 8, bytesAfter: base.elements + 4 * (base.dims[axis] as number), error: errors.get(w.initializer.name) ?? 0 }
  })
  return { layers: reports, summary: `Quantized ${count(reports.length)} products to 8 bits, activations as each run finds them.` }
}

/** What a step takes, by what its `activations` are. */
const kForms = {
  "with activations: 'none'": ['activations', ...kWeightKeys],
  "with activations: 'static'": [...kWeightKeys, ...kStaticKeys],
  "with activations: 'dynamic'": kDynamicKeys,
  "with activations: 'float16'": kHalfKeys,
} as const

/** @internal The quantize step: weights alone, or activations too. */
export function withActivations(pass: Pass<ResolvedQuantize>): Pass<ResolvedQuantize | ResolvedStatic | ResolvedDynamic | ResolvedHalf> {
  return {
    name: 'quantize',
    resolve(value, parameter) {
      const { activations, ...rest } = value as { activations?: unknown }
      const kind = activations === undefined ? 'none' : oneOf(activations, `${parameter}.activations`, ['none', 'static', 'dynamic', 'float16'] as const)
      formOptions(value, parameter, kForms, `with activations: '${kind}'`)
      if (kind === 'static') return resolveStatic(pass, value, parameter)
      if (kind === 'float16') return resolveHalf(value, parameter)
      return kind === 'dynamic' ? resolveDynamic(value, parameter) : pass.resolve(rest, parameter)
    },
    needs: (step) => (isStatic(step) ? ['calibration'] : isDynamic(step) || isHalf(step) ? [] : pass.needs(step)),
    apply: (model, step, context) =>
      isStatic(step) ? applyStatic(pass, model, step, context) : isDynamic(step) ? applyDynamic(model, step, context) : isHalf(step) ? applyHalf(model, step, context) : pass.apply(model, step, context),
  }
}
