import { quantize } from '../../kernels/quantize'
import { attribute, Initializer, Node, type Graph } from '../../model/graph'
import type { Tensor } from '../../tensor'
import { KeepBudget, relativeError, Scratch, transposed } from '../computed'
import { ease } from '../paged'
import type { CodedLayer } from './layers'

/** Weights beside which others are nothing become zero: their scale would leave float32's normal numbers. Without any: the same array. */
export function withoutTraces(weights: Float32Array): Float32Array {
  let top = 0
  for (let i = 0; i < weights.length; i++) top = Math.max(top, Math.abs(weights[i]!))
  const least = top * 2 ** -40
  const isTrace = (w: number): boolean => w !== 0 && Math.abs(w) < least
  return weights.some(isTrace) ? weights.map((w) => (isTrace(w) ? 0 : w)) : weights
}

/** Codes of a weight, one scale an index of `axis`, −127 to 127, and what they are wrong by. */
export function codesOfWeight(weight: Initializer, axis: number, scratch: Scratch): { codes: Tensor; scales: Float32Array; error: number } {
  const data = withoutTraces(scratch.read(weight).data as Float32Array)
  const q = quantize({ type: 'float32', dims: weight.dims, data }, { bits: 8, axis, symmetric: true })
  const codes = q.data as Int8Array
  const scales = q.scale.data as Float32Array
  const inner = weight.dims.slice(axis + 1).reduce((a, b) => a * b, 1)
  ease()
  const back = scratch.floats('floats', data.length)
  for (let i = 0; i < back.length; i++) back[i] = codes[i]! * scales[Math.floor(i / inner) % scales.length]!
  ease()
  return { codes: { type: 'int8', dims: weight.dims, data: codes }, scales, error: relativeError(data, back) }
}

function constantOf(graph: Graph, hint: string, value: number): string {
  const name = graph.uniqueName(hint)
  graph.addInitializer(Initializer.from(name, { type: 'float32', dims: [], data: Float32Array.of(value) }))
  return name
}

/** Codes that lie as [outputs, inputs], as [inputs, outputs]. */
function inputsFirst({ type, dims, data }: Tensor): Tensor {
  const [rows, columns] = dims as [number, number]
  return { type, dims: [columns, rows], data: transposed(data as Int8Array, rows, columns) }
}

/**
 * Products become MatMulInteger of codes that each run makes (DynamicQuantizeLinear); of Gemm, alpha goes into the scales and
 * the third operand is added afterwards. Codes beyond the budget of `keep` lie in a temporary file. Returns each weight's relative error.
 */
export function computeDynamically(graph: Graph, layers: readonly CodedLayer[], { keep, scratch } = { keep: new KeepBudget(), scratch: new Scratch() }): Map<string, number> {
  const errors = new Map<string, number>()
  const made = new Map<string, readonly [codes: string, scale: string, zero: string]>()
  const stored = new Map<string, readonly [codes: string, scales: string]>()
  const replaced = new Set<string>()
  for (const { node, input: x, weight, axis, bias } of layers) {
    let dynamic = made.get(x)
    if (!dynamic) {
      dynamic = [graph.uniqueName(`${x}_q`), graph.uniqueName(`${x}_scale`), graph.uniqueName(`${x}_zero`)]
      graph.addNode(new Node({ name: graph.uniqueName(`${x}_dynamic`), opType: 'DynamicQuantizeLinear', inputs: [x], outputs: dynamic }), { before: node })
      made.set(x, dynamic)
    }
    const alpha = node.is('Gemm') ? node.float('alpha', 1) : 1
    const key = JSON.stringify([weight.name, axis, alpha])
    let constants = stored.get(key)
    if (!constants) {
      const { codes, scales, error } = codesOfWeight(weight, axis, scratch)
      constants = [graph.uniqueName(`${weight.name}_q`), graph.uniqueName(`${weight.name}_s`)]
      const { type, dims, data } = axis === 0 ? inputsFirst(codes) : codes
      graph.addInitializer(new Initializer(constants[0], type, dims, keep.hold(new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength))))
      graph.addInitializer(Initializer.from(constants[1], { type: 'float32', dims: [scales.length], data: scales.map((s) => s * alpha) }))
      errors.set(weight.name, error)
      stored.set(key, constants)
      replaced.add(weight.name)
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
    const beta = node.float('beta', 1)
    let last: Node
    if (bias === undefined || beta === 0) last = new Node({ opType: 'Mul', name: node.name, inputs: [cast, scale], outputs: [graph.uniqueName(`${y}_scaled`)] })
    else {
      const addend = beta === 1 ? bias : add('Mul', [bias, constantOf(graph, `${y}_beta`, beta)], `${y}_bias`)
      const inputs = [add('Mul', [cast, scale], `${y}_scaled`), addend]
      last = new Node({ opType: 'Add', name: node.name, inputs, outputs: [graph.uniqueName(`${y}_sum`)] })
    }
    graph.addNode(last, { before: node })
    graph.removeNode(node)
    last.outputs = [y]
  }
  graph.removeDeadNodes()
  for (const name of replaced)
    if (graph.initializers.has(name) && graph.users(name).length === 0 && !graph.isOutput(name)) {
      graph.initializers.delete(name)
      graph.inputs = graph.inputs.filter((i) => i.name !== name)
    }
  return errors
}
