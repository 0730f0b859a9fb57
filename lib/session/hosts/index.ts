import type { Graph, Node, Shapes } from '../../model'
import { control } from './control'
import { bakeries, conversions, weights } from './convert'
import { foreignPart, type Host } from './host'
import { images, pools } from './image'
import { losses } from './loss'
import { patches, regions } from './patch'
import { oddPicking, picking } from './pick'
import { draws, dropouts } from './random'
import { cumulation, layerNorms, reductions, sums, training } from './reduce'
import { handing, kSequence, sequences } from './sequence'
import { signals } from './signal'
import { wides } from './wide'

export { kSequence, tensorOf } from './sequence'
export type { Foreign, Host, HostRun, HostScope, Inner } from './host'

/** What always runs here: control flow, results whose shape depends on data, and ops that are rare. */
const kAlways: Readonly<Record<string, Host>> = { ...control, ...picking, ...sums, ...losses, ...signals, ...patches, ...draws, ...sequences }
const kElse: Readonly<Record<string, Host>> = { ...reductions, ...cumulation, ...layerNorms, ...images, ...regions, ...pools, ...conversions, ...bakeries, ...oddPicking, ...dropouts, ...handing, ...wides }

/** How a node runs that no plan can take; undefined for one that a plan takes. */
export function hostOf(node: Node, graph: Graph, shapes: Shapes): Host | undefined {
  if (isForeign(node)) return foreignPart
  if (!node.is()) return undefined
  if (Object.hasOwn(kAlways, node.opType)) return kAlways[node.opType]
  if (node.opType === 'BatchNormalization' && node.int('training_mode', 0)) return training['BatchNormalization']
  return Object.hasOwn(kElse, node.opType) && isOdd(node, graph, shapes) ? kElse[node.opType] : undefined
}

/** A constant, or one that lies as codes, which lowering reads. */
function isWeight(graph: Graph, name: string): boolean {
  if (graph.constant(name)) return true
  const maker = graph.producer(name)
  return maker?.is('DequantizeLinear') === true && maker.inputs.every((i) => !i || graph.constant(i))
}

/** A form of a common op that has no kernel. */
function isOdd(node: Node, graph: Graph, shapes: Shapes): boolean {
  const type = (i: number): string | undefined => (node.inputs[i] ? shapes.get(node.inputs[i], graph)?.type : undefined)
  const short = (t: string | undefined): boolean => t === 'float16' || t === 'bfloat16'
  const four = (t: string | undefined): boolean => t === 'int4' || t === 'uint4'
  const op = node.opType
  if (op in reductions || op in cumulation) return type(0) !== 'float32'
  if (op in wides) return ['float64', 'int8', 'int32', 'int64', 'uint32', 'uint64'].includes(type(0) ?? '')
  switch (op) {
    case 'LayerNormalization':
      return Boolean(node.outputs[1] || node.outputs[2])
    case 'GridSample':
      return [0, 1].some((i) => type(i) !== 'float32') || shapes.get(node.inputs[0] as string, graph)?.dims?.length !== 4
    case 'RoiAlign':
      return [0, 1].some((i) => type(i) !== 'float32') || type(2) !== 'int64'
    case 'MaxPool':
    case 'AveragePool':
      return Boolean(node.outputs[1]) || type(0) !== 'float32' || (node.ints('kernel_shape')?.length ?? 0) > 3
    case 'Transpose':
    case 'GatherElements':
    case 'GatherND':
      return four(type(0))
    case 'ScatterElements':
    case 'Scatter':
    case 'ScatterND':
      return four(type(0)) || (node.string('reduction', 'none') !== 'none' && type(0) !== 'float32')
    case 'TopK':
      return !['float32', 'int64', 'int32'].includes(type(0) ?? '')
    case 'Trilu':
      return four(type(0)) || short(type(0))
    case 'GroupNormalization':
    case 'InstanceNormalization':
      return type(0) !== 'float32' || ![1, 2].every((i) => graph.constant(node.inputs[i] ?? ''))
    case 'Cast':
    case 'CastLike':
      return [type(0), shapes.get(node.outputs[0] as string, graph)?.type].some((t) => four(t)) || short(type(0)) || short(shapes.get(node.outputs[0] as string, graph)?.type)
    case 'Pow':
      return type(0) !== type(1)
    case 'Min':
    case 'Max':
    case 'Mod':
      return short(type(0)) && node.inputs.length === 2
    case 'Clip':
      return !/^(float32|u?int(8|16|32|64))$/.test(type(0) ?? '')
    case 'IsInf':
      return (node.int('detect_positive', 1) !== 0) === (node.int('detect_negative', 1) !== 0)
    case 'Identity':
      return type(0) === kSequence
    case 'Dropout':
      return Boolean(node.outputs[1]) || isTraining(node, graph)
    default: {
      if (node.int('training_mode', 0)) return false
      return (weights[op] ?? []).some((i) => node.inputs[i] && !isWeight(graph, node.inputs[i]))
    }
  }
}

/** Whether a Dropout may be told to drop anything. */
function isTraining(node: Node, graph: Graph): boolean {
  const name = node.inputs[2]
  return Boolean(name) && Number(graph.constant(name as string)?.readSync().data[0] ?? 1) !== 0
}

/** Whether a node stands for a part that another runtime runs. */
function isForeign(node: Node): boolean {
  return node.domain === 'whittle' && node.opType === 'Onnxruntime'
}

/** Whether a form of the op can run here. */
export function hasHost(node: Node): boolean {
  if (isForeign(node)) return true
  return node.is() && (Object.hasOwn(kAlways, node.opType) || Object.hasOwn(kElse, node.opType))
}
