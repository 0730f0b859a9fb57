import type { Initializer, Node } from '../../model/graph'
import { captured, reads } from '../../model/graph'
import type { Model } from '../../model/model'
import { inferShapes } from '../../model/ops/infer'
import type { Calibration } from '../calibration'
import type { Run } from '../progress'
import { stretches } from './halves'

/** @internal The largest float16. */
export const kMostHalf = 65504

/**
 * Ops that have no float16 form in ONNX, or had none in the runtimes that such files are made for (the list of transformers.js's own
 * converter is a part of it).
 */
const kFull = new Set(
  (
    'Bernoulli Celu Constant ConstantOfShape CumSum DFT DequantizeLinear DynamicQuantizeLinear EyeLike HammingWindow HannWindow BlackmanWindow If ' +
    'ImageDecoder IsInf Loop Max MelWeightMatrix Min Multinomial NonMaxSuppression QLinearConv QLinearMatMul QuantizeLinear RandomNormal ' +
    'RandomNormalLike RandomUniform RandomUniformLike Range Resize RoiAlign STFT Scan TfIdfVectorizer TopK Unique Upsample'
  ).split(' '),
)

/** @internal */
export interface KeepOptions {
  /** Further ops, by type. */
  readonly ops: readonly string[]
  /** Ops that the file had in float16: its runtime takes them so. */
  readonly taken?: ReadonlySet<string>
  /** Initializers that must keep their values. */
  readonly spared: ReadonlySet<string>
  /** Initializers with values that float16 does not hold. */
  readonly beyond: ReadonlySet<string>
  /** Largest magnitudes of values, as far as they were seen. */
  readonly seen: ReadonlyMap<string, number>
}

/** @internal Whether a value of the outermost graph is float32, or what else it is; `undefined` where that cannot be known. */
export function typesOf(model: Model): (value: string) => string | undefined {
  const { graph } = model
  const shapes = inferShapes(graph, model.opsets)
  const told = new Map([...graph.inputs, ...graph.outputs].map((i) => [i.name, i]))
  const known = new Map<string, string | undefined>()
  return (value) => {
    if (known.has(value)) return known.get(value)
    const stored = graph.initializers.get(value)
    const info = told.get(value) ?? graph.valueInfo.get(value)
    const inferred = shapes.get(value, graph)?.type
    const stated = info?.kind === 'tensor' && info.type !== 'undefined' ? info.type : undefined
    const type = stored?.type ?? stated ?? (inferred === 'undefined' ? undefined : inferred)
    known.set(value, type)
    return type
  }
}

/** @internal Nodes of the outermost graph that stay in float32, and why; nodes that have nothing to do with float32 are not named. */
export function keptNodes(model: Model, typeOf: (value: string) => string | undefined, { ops, taken, spared, beyond, seen }: KeepOptions): Map<Node, string> {
  const { graph } = model
  const opset = model.opsets.get('') ?? 0
  const kept = new Map<Node, string>()
  for (const node of graph.nodes) {
    const inputs = [...reads(node)]
    const outputs = node.outputs.filter((o) => o)
    const why = (): string | undefined => {
      if (node.domain !== '') return `ops of ${node.domain} are not known to take float16`
      if (ops.includes(node.opType)) return `${node.opType} was asked to stay`
      if (node.subgraphs().length) return 'graphs within it stay as they are'
      if ((kFull.has(node.opType) && !taken?.has(node.opType)) || (node.is('Equal') && opset < 11)) return `${node.opType} takes no float16`
      // Mean and deviation stay float32 in the standard.
      if (node.is('LayerNormalization') && (node.outputs[1] || node.outputs[2])) return 'its further outputs are float32'
      const unknown = [...inputs, ...outputs].find((v) => typeOf(v) === undefined)
      if (unknown !== undefined) return `the type of ${unknown} is not known`
      if (inputs.some((v) => spared.has(v))) return 'its weight stays as it is'
      const far = inputs.find((v) => beyond.has(v))
      if (far !== undefined) return `${far} has values beyond ${kMostHalf}`
      const large = [...inputs, ...outputs].find((v) => !((seen.get(v) ?? 0) <= kMostHalf))
      return large === undefined ? undefined : `${large} reaches ${seen.get(large)!.toPrecision(3)}`
    }
    const reason = why()
    if (reason === undefined) continue
    if ([...inputs, ...outputs].some((v) => typeOf(v) === 'float32' || typeOf(v) === undefined)) kept.set(node, reason)
  }
  return kept
}

/** Ops that only move values. */
const kMoving = ['Transpose', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Identity']

/** The initializer that such ops alone make a value of: as large as a weight, and no run is needed to know it. */
function movedFrom({ graph }: Model, value: string): Initializer | undefined {
  let name = value
  for (let node = graph.producer(name); node?.is(...kMoving); node = graph.producer(name)) name = node.inputs[0] ?? ''
  return name === value ? undefined : graph.initializers.get(name)
}

/** @internal Largest magnitude of each float32 value that nodes compute, over all calibration inputs. */
export async function magnitudes(model: Model, typeOf: (value: string) => string | undefined, calibration: Calibration, run: Run): Promise<Map<string, number>> {
  const names = new Set<string>()
  for (const node of model.graph.nodes) for (const o of node.outputs) if (o && typeOf(o) === 'float32') names.add(o)
  for (const { name } of model.graph.inputs) if (typeOf(name) === 'float32' && !model.graph.initializers.has(name)) names.add(name)
  const most = new Map<string, number>()
  const look = (name: string, data: Float32Array): void => {
    let m = most.get(name) ?? 0
    for (const [list] of stretches(data))
      for (let i = 0; i < list.length; i++) {
        const v = Math.abs(list[i]!)
        // An infinity that float32 has as well is none of float16's making.
        if (v > m && v < Infinity) m = v
      }
    most.set(name, m)
  }
  for (const name of [...names]) {
    const weight = movedFrom(model, name)
    if (!weight) continue
    names.delete(name)
    look(name, run.scratch.read(weight).data as Float32Array)
  }
  await calibration.each(model, [...names], run, (values) => {
    for (const [name, { data }] of values) look(name, data as Float32Array)
  })
  return most
}

/** @internal Float32 initializers of the outermost graph that nodes read, graphs within them included. */
export function readFloats(model: Model): Initializer[] {
  const names = new Set<string>()
  for (const node of model.graph.nodes) {
    for (const i of node.inputs) names.add(i)
    for (const g of node.subgraphs()) captured(g, names)
  }
  return [...model.graph.initializers.values()].filter((i) => i.type === 'float32' && names.has(i.name))
}
