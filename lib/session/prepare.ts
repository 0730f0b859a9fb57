import { WhittleError } from '../errors'
import { foldConstantNodes, raiseOpset, type Model } from '../model'
import { fuseActivations } from './fuse/activations'
import { fuseAttention } from './fuse/attention'
import { foldKnown } from './fuse/known'
import { fuseLayerNorm } from './fuse/layernorm'

/** The opset that lowering reads; later ones differ in nothing that a session supports. */
const kOpset = 18

/** A copy of the model in the form that lowering reads: one opset, constants as initializers, formulas as nodes. */
export function prepare(model: Model): Model {
  const copy = model.clone()
  const opset = copy.opsets.get('') ?? 1
  if (opset < 7) throw new WhittleError('ERR_UNSUPPORTED_OP', 'model', `model: opset ${opset}; sessions run opset 7 and later`)
  foldConstantNodes(copy)
  if (opset < kOpset) raiseOpset(copy, kOpset)
  copy.graph.sort()
  fuseActivations(copy.graph)
  fuseLayerNorm(copy.graph)
  foldKnown(copy)
  fuseAttention(copy)
  copy.graph.removeDeadNodes()
  return copy
}
