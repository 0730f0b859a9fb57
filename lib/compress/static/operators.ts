import { attribute, Initializer, Node, type Graph } from '../../model/graph'
import { sizeOf } from '../../tensor'
import type { CodedLayer } from './layers'
import { insertPair } from './pairs'
import type { Code } from './ranges'

/** Ops that hand values on as they are: what they make has the codes of what they read. */
const kPassing = ['MaxPool', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Transpose']

/** The value that a layer's sums become before they are rounded: behind a Relu or Clip that alone reads them. */
function closed(graph: Graph, layer: CodedLayer): string {
  const y = layer.node.outputs[0] as string
  const [only, ...more] = graph.users(y)
  return only?.is('Relu', 'Clip') && more.length === 0 && !graph.isOutput(y) ? (only.outputs[0] as string) : y
}

/** Values, beside its input, for which a layer needs codes to become an integer op with an integer result. */
export function valuesBehind(graph: Graph, layer: CodedLayer): string[] {
  // Products are fused with float results as well.
  return layer.node.is('Conv') ? [closed(graph, layer)] : []
}

/** Gives what passes values on the codes of what it reads, so that a runtime moves codes instead. */
export function sharedCodes(graph: Graph, codes: Map<string, Code>): void {
  for (const node of graph.topologicalOrder()) {
    const [x, y] = [node.inputs[0], node.outputs[0]]
    const code = x ? codes.get(x) : undefined
    if (y && code && node.is(...kPassing) && codes.has(y)) codes.set(y, code)
  }
}

/** Puts codes on the results of convolutions, so that onnxruntime sees DequantizeLinear → Conv → QuantizeLinear. */
export function closeLayers(graph: Graph, layers: readonly CodedLayer[], codes: ReadonlyMap<string, Code>): void {
  const done = new Set<string>()
  for (const layer of layers) {
    const [value] = valuesBehind(graph, layer)
    const code = value === undefined ? undefined : codes.get(value)
    if (value === undefined || !code || done.has(value) || graph.isOutput(value)) continue
    done.add(value)
    // Where the value is some layer's input it has its pair.
    const readers = graph.users(value)
    if (readers.length === 0 || readers.some((n) => n.is('QuantizeLinear'))) continue
    insertPair(graph, value, code, readers)
  }
}

/** Biases of layers that read codes become int32 at s_x · s_w, where that is fine enough. */
export function codeBiases(graph: Graph, layers: readonly CodedLayer[], codes: ReadonlyMap<string, Code>): void {
  for (const { node, input, bias, axis } of layers) {
    const b = bias ? graph.constant(bias) : undefined
    const weight = node.inputs[1] ? graph.producer(node.inputs[1]) : undefined
    const scale = weight?.is('DequantizeLinear') ? graph.constant(weight.inputs[1] as string) : undefined
    if (!b || b.type !== 'float32' || scale?.type !== 'float32' || scale.elementCount !== b.elementCount) continue
    const floats = b.readSync().data as Float32Array
    const steps = (scale.readSync().data as Float32Array).map((s) => s * codes.get(input)!.scale)
    const whole = Array.from(floats, (v, i) => Math.round(v / (steps[i] as number)))
    // Half a step of the sums is nothing, but a channel without weights has a scale that says nothing about its bias.
    const empty = emptyChannels(graph, weight!, floats.length, axis)
    const fine = whole.every((v, i) => {
      const off = Math.abs(v * (steps[i] as number) - (floats[i] as number))
      return Math.abs(v) < 2 ** 30 && (!empty[i] || off <= 1e-3 * Math.abs(floats[i] as number) + 1e-6)
    })
    if (!fine) continue
    const q = graph.uniqueName(`${bias}_q`)
    const s = graph.uniqueName(`${bias}_s`)
    const back = graph.uniqueName(`${bias}_dq`)
    graph.addInitializer(Initializer.from(q, { type: 'int32', dims: [floats.length], data: Int32Array.from(whole) }))
    graph.addInitializer(Initializer.from(s, { type: 'float32', dims: [floats.length], data: steps }))
    graph.addNode(new Node({ name: back, opType: 'DequantizeLinear', inputs: [q, s], outputs: [back], attributes: { axis: attribute.int(0) } }), { before: node })
    node.setInput(2, back)
  }
}

/** Which output channels have no code but 0. */
function emptyChannels(graph: Graph, back: Node, channels: number, axis: number): boolean[] {
  const empty = new Array<boolean>(channels).fill(true)
  const codes = graph.constant(back.inputs[0] as string)
  if (!codes) return empty
  const { data } = codes.readSync()
  const inner = sizeOf(codes.dims.slice(axis + 1))
  for (let i = 0; i < data.length; i++) if (Number(data[i]) !== 0) empty[Math.floor(i / inner) % channels] = false
  return empty
}
