import { checkGraph, foldConstantNodes, inferShapes, Node, raiseOpset, type Graph, type Model } from '../model'
import { mergeBranches } from '../model/branches'
import { expandEinsum } from '../model/einsum'
import { fuseLayerNorm } from '../model/layernorm'
import { fuseRmsNorm } from '../model/rms'
import { foldConstants } from './fold'
import { fuseActivations } from './fuse/activations'
import { fuseAttention } from './fuse/attention'
import { expandFormulas } from './fuse/formulas'
import { foldKnown } from './fuse/known'
import { expandQOperators } from './fuse/qoperator'
import { gatherWeights } from './fuse/weights'
import { widen } from './widen'

/** The opset that lowering reads; later ones differ in nothing that a session supports. */
const kOpset = 18

/**
 * A copy of the model in the form that lowering reads: one opset, constants as initializers, formulas as nodes unless
 * every value is to keep its name.
 */
export function prepare(model: Model, plain = false): Model {
  const copy = model.clone()
  const opset = copy.opsets.get('') ?? 1
  checkGraph(copy.graph, 'model')
  for (const graph of copy.graph.graphs()) constantsOfOutputs(graph)
  foldConstantNodes(copy)
  widen(copy)
  if (opset < kOpset) raiseOpset(copy, kOpset)
  copy.graph.sort()
  gatherWeights(copy)
  expandQOperators(copy.graph)
  if (plain) return copy
  copy.graph.removeDeadNodes()
  return prepareBody(copy)
}

/** A constant that is itself an output becomes a copy of one, which folds like any other. */
function constantsOfOutputs(graph: Graph): void {
  for (const node of graph.nodes) {
    const name = node.outputs[0]
    if (!node.is('Constant') || !name || !graph.isOutput(name)) continue
    const own = graph.uniqueName(`${name}_constant`)
    node.outputs = [own]
    graph.addNode(new Node({ opType: 'Identity', inputs: [own], outputs: [name] }), { after: node })
  }
}

/** What is left to do for the body of a loop, whose model is prepared already: what is known is folded, and ops and formulas become those that kernels know. */
export function prepareBody(model: Model): Model {
  model.graph.sort()
  foldKnown(model)
  expandEinsum(model)
  expandFormulas(model)
  foldConstants(model.graph, inferShapes(model.graph, model.opsets), new Map())
  fuse(model)
  return model
}

/** Formulas become nodes. */
export function fuse(model: Model): void {
  mergeBranches(model.graph, model.opsets.get('') ?? 1)
  fuseActivations(model.graph)
  fuseLayerNorm(model.graph)
  fuseRmsNorm(model.graph)
  fuseAttention(model)
  model.graph.removeDeadNodes()
}
