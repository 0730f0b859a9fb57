import { mergeBranches } from '../../model/branches'
import { expandEinsum } from '../../model/einsum'
import { foldConstantNodes, raiseIrVersion } from '../../model/fold'
import type { Model } from '../../model/model'
import { kMaxOpset, raiseOpset } from '../../model/opset'
import { inferShapes } from '../../model/ops/infer'
import { foldKnown } from '../../session/fuse/known'
import { integer, oneOf, options } from '../../validate'
import { foldAffine } from '../fold/affine'
import { foldConstants } from '../fold/constants'
import { dropDefaults, recognize, removeNoOps, type ActivationForm } from '../fold/simplify'
import type { Context, Pass, PassResult } from './pass'

/**
 * Makes a graph simpler without changing what it computes but for the last bits of float32: computes constants, folds batch
 * normalization and scales and shifts by channel into the convolutions and products beside them, makes one convolution of those whose results are added up (RepVGG's and MobileOne's blocks), puts activations and
 * layer normalizations that an exporter took apart together again, and takes out what does nothing.
 */
export interface FoldStep {
  readonly step: 'fold'
  /**
   * Highest opset that the file may be raised to for an op that it could use; it is raised no higher than what is found
   * needs. Default 17, which has LayerNormalization; HardSwish needs 14, Gelu 20 (onnxruntime fuses GELU by itself).
   */
  readonly opset?: number
  /**
   * How a hard swish is written: `'HardSigmoid'` (default) times x, which any opset has and onnxruntime runs fastest, or
   * `'HardSwish'`.
   */
  readonly hardSwish?: ActivationForm
}

/** @internal */
export type ResolvedFold = Required<FoldStep>

/** @internal */
export const foldPass: Pass<ResolvedFold> = { name: 'fold', resolve, needs: () => [], apply }

function resolve(value: object, parameter: string): ResolvedFold {
  const given = options(value, parameter, ['step', 'opset', 'hardSwish'])
  return {
    step: 'fold',
    opset: given.opset === undefined ? 17 : integer(given.opset, `${parameter}.opset`, 7, kMaxOpset),
    hardSwish: given.hardSwish === undefined ? 'HardSigmoid' : oneOf(given.hardSwish, `${parameter}.hardSwish`, ['HardSigmoid', 'HardSwish'] as const),
  }
}

const kRounds = 8

async function apply(model: Model, step: ResolvedFold, { run, memory }: Context): Promise<PassResult> {
  const before = countNodes(model)
  foldConstantNodes(model)
  // Below 4 every initializer is listed as an input, which a caller may replace.
  raiseIrVersion(model, 4)
  model.graph.sort()
  expandEinsum(model)
  let recognized = 0
  let affine = 0
  for (let round = 0; round < kRounds; round++) {
    await run.tell('fold', round, kRounds)
    const start = countNodes(model)
    // What a caller may replace is known to nobody.
    if (!model.graph.inputs.some((i) => model.graph.initializers.has(i.name))) foldKnown(model)
    for (const graph of model.graph.graphs()) removeNoOps(graph, inferShapes(model.graph, model.opsets))
    await foldConstants(model, inferShapes(model.graph, model.opsets))
    for (const graph of model.graph.graphs()) mergeBranches(graph, model.opset)
    recognized += recognizeAll(model, step)
    for (const graph of model.graph.graphs()) affine += foldAffine(graph, model.opset, inferShapes(model.graph, model.opsets), memory)
    model.graph.removeDeadNodes()
    model.graph.removeDeadInitializers()
    if (countNodes(model) === start) break
  }
  for (const graph of model.graph.graphs()) dropDefaults(graph)
  await run.tell('fold', kRounds, kRounds)
  const after = countNodes(model)
  return {
    layers: [],
    summary: `Folded ${before} nodes to ${after}: ${affine} scales, shifts and batch normalizations into the layers beside them, ${recognized} activations and normalizations put together.`,
  }
}

/** Tries a copy at each opset that has another op to offer, and raises the model no higher than what is found needs. */
function recognizeAll(model: Model, step: ResolvedFold): number {
  let count = 0
  for (const opset of new Set([model.opset, ...[14, 17, 20].filter((o) => o > model.opset && o <= step.opset)])) {
    if (opset > model.opset) {
      const trial = model.clone()
      if (recognizeAt(trial, opset, step) === 0 || !raises(model, opset)) continue
    }
    count += recognizeAt(model, opset, step)
  }
  return count
}

function recognizeAt(model: Model, opset: number, step: ResolvedFold): number {
  let count = 0
  for (const graph of model.graph.graphs()) count += recognize(graph, opset, step.hardSwish)
  return count
}

/** Whether the model could be raised: an op that cannot be carried over keeps all where they are. */
function raises(model: Model, opset: number): boolean {
  try {
    raiseOpset(model, opset)
    return true
  } catch (error) {
    if ((error as Error).name !== 'WhittleError') throw error
    return false
  }
}

function countNodes(model: Model): number {
  let count = 0
  model.graph.walk(() => void count++)
  return count
}
