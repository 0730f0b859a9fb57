import { attribute, Initializer, Node, type Attribute, type Graph, type Model } from '../../model'
import { quantizedWeight, readQuantized, type QuantizedWeight } from '../../model/quantized'
import { sizeOf } from '../../tensor'
import { replace } from '../../model/match'

/** How DequantizeLinear says it: an axis of `dims`, in blocks or not; undefined where it cannot. */
function formOf({ dims, codeDims, scaleDims }: QuantizedWeight): Record<string, Attribute> | undefined {
  const all = [...codeDims.map(() => 1), ...scaleDims].slice(-codeDims.length || codeDims.length)
  const kept = codeDims.flatMap((d, i) => (d === 1 ? [] : [i]))
  const [code, scale] = [kept.map((i) => codeDims[i] as number), kept.map((i) => all[i] as number)]
  const far = scale.flatMap((d, i) => (d === 1 ? [] : [i]))
  const axisAt = (before: number, size: number): number =>
    dims.findIndex((d, i) => d === size && d !== 1 && sizeOf(dims.slice(0, i)) === before)
  if (far.length === 0) return { axis: attribute.int(0) }
  if (far.length === 1) {
    const [at] = far as [number]
    const axis = axisAt(sizeOf(code.slice(0, at)), code[at] as number)
    if (axis >= 0) return { axis: attribute.int(axis) }
  }
  // One run of axes that repeat: what a block consists of.
  const cut = scale.indexOf(1)
  const end = scale.findIndex((d, i) => i > cut && d !== 1)
  const block = code.slice(cut, end < 0 ? code.length : end)
  if (cut < 1 || !scale.every((s, i) => s === code[i] || (i >= cut && i < cut + block.length))) return undefined
  const axis = axisAt(sizeOf(code.slice(0, cut - 1)), (code[cut - 1] as number) * sizeOf(block))
  return axis < 0 ? undefined : { axis: attribute.int(axis), block_size: attribute.int(sizeOf(block)) }
}

/**
 * Weights that lie as codes and become floats by several ops (`Cast` and `Mul`, tables of 4-bit pairs, `Reshape`) become one
 * DequantizeLinear, from which kernels read codes. What that op cannot say becomes floats at once.
 */
function unfold(graph: Graph): void {
  const inside = new Set<Node>()
  const enclose = (node: Node): void => {
    for (const input of node.inputs) {
      const made = input ? graph.producer(input) : undefined
      if (!made || inside.has(made)) continue
      inside.add(made)
      enclose(made)
    }
  }
  // Last first: each takes what lies before it along, of which a part may look like a weight of its own.
  for (const node of graph.topologicalOrder().reverse()) {
    if (!node.is('Mul', 'Reshape', 'Gather', 'Transpose') || inside.has(node)) continue
    const value = node.outputs[0] as string
    if (graph.users(value).length === 0 && !graph.isOutput(value)) continue
    const weight = quantizedWeight(graph, value)
    if (!weight || weight.graph !== graph) continue
    enclose(node)
    const form = weight.tables ? undefined : formOf(weight)
    if (!form) {
      graph.removeNode(node)
      graph.addInitializer(Initializer.from(value, { type: 'float32', dims: weight.dims, data: readQuantized(weight) }))
      continue
    }
    const { codes, scales, zeroPoints, dims, bits } = weight
    const scale = graph.uniqueName(`${value}_scale`)
    const list = form['block_size'] || scales.elementCount !== 1 ? [scales.elementCount] : []
    graph.addInitializer(new Initializer(scale, scales.type, list, scales.source))
    const name = graph.uniqueName(`${value}_codes`)
    graph.addInitializer(new Initializer(name, bits === 4 && codes.type === 'uint8' ? 'int4' : codes.type, dims, codes.source))
    const inputs = [name, scale]
    if (zeroPoints) {
      const zero = graph.uniqueName(`${value}_zero`)
      graph.addInitializer(new Initializer(zero, zeroPoints.type, list, zeroPoints.source))
      inputs.push(zero)
    }
    replace(graph, node, 'DequantizeLinear', inputs, form)
  }
}

/** onnxruntime's own names for what the standard has. */
function rename(graph: Graph): void {
  for (const node of graph.nodes) {
    if (node.domain !== 'com.microsoft') continue
    if (node.opType === 'QuantizeLinear' || node.opType === 'DequantizeLinear') replace(graph, node, node.opType, node.inputs, Object.fromEntries(node.attributes))
    if (node.opType === 'GatherBlockQuantized') gatherOfBlocks(graph, node)
  }
}

/** GatherBlockQuantized of constants is a Gather of a DequantizeLinear. */
function gatherOfBlocks(graph: Graph, node: Node): void {
  const [data, indices, scales, zeros] = node.inputs as [string, string, string, string | undefined]
  const codes = graph.constant(data)
  const bits = node.int('bits', 4)
  if (!codes || !['uint8', 'int4', 'uint4'].includes(codes.type)) return
  const packed = codes.type === 'uint8' && bits === 4
  // Bytes hold two codes each along the last axis and are centred; types of 4 bits are what they say.
  const twice = (dims: readonly number[]): number[] => dims.map((d, i) => (packed && i === dims.length - 1 ? d * 2 : d))
  const own = (name: string): string => {
    const t = graph.constant(name)
    if (!packed || !t) return name
    const made = graph.uniqueName(`${name}_4`)
    graph.addInitializer(new Initializer(made, 'uint4', twice(t.dims), t.source))
    return made
  }
  const inputs = [own(data), scales]
  if (zeros) inputs.push(own(zeros))
  else if (codes.type === 'uint8') {
    const t = graph.constant(scales)
    if (!t) return
    const zero = graph.uniqueName(`${data}_zero`)
    const n = t.elementCount
    const bytes = bits === 4 ? new Uint8Array(Math.ceil(n / 2)).fill(0x88) : new Uint8Array(n).fill(128)
    graph.addInitializer(Initializer.from(zero, { type: bits === 4 ? 'uint4' : 'uint8', dims: t.dims, data: bytes }))
    inputs.push(zero)
  }
  const floats = graph.uniqueName(`${data}_floats`)
  const attributes = { axis: attribute.int(node.int('quantize_axis', 1)), block_size: attribute.int(node.int('block_size', 128)) }
  graph.addNode(new Node({ name: node.name, opType: 'DequantizeLinear', inputs, outputs: [floats], attributes }), { before: node })
  replace(graph, node, 'Gather', [floats, indices], { axis: attribute.int(node.int('gather_axis', 0)) })
}

/** Brings all ways to store weights as codes to one; names of values stay. */
export function gatherWeights(model: Model): void {
  for (const graph of model.graph.graphs()) {
    rename(graph)
    unfold(graph)
  }
}
