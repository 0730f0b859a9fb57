import { quantize } from '../../kernels/quantize'
import { attribute, Initializer, Node, type Graph, type Initializer as Weight } from '../../model/graph'
import type { Tensor } from '../../tensor'
import { relativeError } from '../computed'
import type { CodedLayer } from './layers'

/** Weights beside which others are nothing become zero: their scale would leave float32's normal numbers. */
export function withoutTraces(weights: Float32Array): Float32Array {
  let top = 0
  for (const w of weights) top = Math.max(top, Math.abs(w))
  return weights.map((w) => (Math.abs(w) < top * 2 ** -40 ? 0 : w))
}

/** Codes of a weight, one scale an index of `axis`, −127 to 127, and what they are wrong by. */
export function codesOfWeight(weight: Weight, axis: number): { codes: Tensor; scales: Float32Array; error: number } {
  const data = withoutTraces(weight.readSync().data as Float32Array)
  const q = quantize({ type: 'float32', dims: weight.dims, data }, { bits: 8, axis, symmetric: true })
  const codes = q.data as Int8Array
  const scales = q.scale.data as Float32Array
  const inner = weight.dims.slice(axis + 1).reduce((a, b) => a * b, 1)
  const back = data.map((_, i) => (codes[i] as number) * (scales[Math.floor(i / inner) % scales.length] as number))
  return { codes: { type: 'int8', dims: weight.dims, data: codes }, scales, error: relativeError(data, back) }
}

/** Products become MatMulInteger of codes that each run makes (DynamicQuantizeLinear). Returns each weight's relative error. */
export function computeDynamically(graph: Graph, layers: readonly CodedLayer[]): Map<string, number> {
  const errors = new Map<string, number>()
  const made = new Map<string, readonly [codes: string, scale: string, zero: string]>()
  const stored = new Map<string, readonly [codes: string, scales: string]>()
  for (const { node, input: x, weight, axis } of layers) {
    let dynamic = made.get(x)
    if (!dynamic) {
      dynamic = [graph.uniqueName(`${x}_q`), graph.uniqueName(`${x}_scale`), graph.uniqueName(`${x}_zero`)]
      graph.addNode(new Node({ name: graph.uniqueName(`${x}_dynamic`), opType: 'DynamicQuantizeLinear', inputs: [x], outputs: dynamic }), { before: node })
      made.set(x, dynamic)
    }
    let constants = stored.get(weight.name)
    if (!constants) {
      const { codes, scales, error } = codesOfWeight(weight, axis)
      constants = [graph.uniqueName(`${weight.name}_q`), graph.uniqueName(`${weight.name}_s`)]
      graph.addInitializer(Initializer.from(constants[0], codes))
      graph.addInitializer(Initializer.from(constants[1], { type: 'float32', dims: [scales.length], data: scales }))
      errors.set(weight.name, error)
      stored.set(weight.name, constants)
    }
    const y = node.outputs[0] as string
    const add = (opType: string, inputs: readonly string[], hint: string, attributes = {}): string => {
      const name = graph.uniqueName(hint)
      graph.addNode(new Node({ name, opType, inputs, outputs: [name], attributes }), { before: node })
      return name
    }
    const sums = add('MatMulInteger', [dynamic[0], constants[0], dynamic[2]], `${y}_sums`)
    const cast = add('Cast', [sums], `${y}_cast`, { to: attribute.int(1) })
    const scale = add('Mul', [dynamic[1], constants[1]], `${y}_scale`)
    const scaled = graph.addNode(new Node({ opType: 'Mul', name: node.name, inputs: [cast, scale], outputs: [graph.uniqueName(`${y}_scaled`)] }), { before: node })
    graph.removeNode(node)
    scaled.outputs = [y]
  }
  graph.removeDeadNodes()
  for (const name of stored.keys())
    if (graph.initializers.has(name) && graph.users(name).length === 0 && !graph.isOutput(name)) {
      graph.initializers.delete(name)
      graph.inputs = graph.inputs.filter((i) => i.name !== name)
    }
  return errors
}
