import { attribute, Initializer, Node, type Graph } from '../../model/graph'
import { sizeOf } from '../../tensor'
import type { CodedLayer } from './layers'
import { insertPair } from './pairs'
import type { Code } from './ranges'

/** Ops that hand values on as they are: what they make has the codes of what they read. */
const kPassing = ['MaxPool', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Transpose', 'Slice', 'DepthToSpace', 'SpaceToDepth']

/** Ops that onnxruntime computes from codes to codes, each side with a range of its own. */
const kInteger = ['Add', 'Concat', 'GlobalAveragePool', 'AveragePool']

/** The value that a node's sums become before they are rounded: behind a Relu or Clip that alone reads them. */
function closed(graph: Graph, node: Node): string {
  const y = node.outputs[0] as string
  const [only, ...more] = graph.users(y)
  return only?.is('Relu', 'Clip') && more.length === 0 && !graph.isOutput(y) ? (only.outputs[0] as string) : y
}

/** Inputs of a node that are not constants; `undefined` where it has none, or is nothing that works on codes. */
function codedInputs(graph: Graph, node: Node): string[] | undefined {
  if (node.is(...kInteger)) {
    const inputs = node.inputs.filter(Boolean)
    return inputs.some((i) => graph.constant(i)) ? undefined : inputs
  }
  const x = node.inputs[0]
  return node.is(...kPassing) && node.outputs.length === 1 && x && !graph.constant(x) ? [x] : undefined
}

/** What lies between layers and is to be computed from codes to codes. */
export interface Between {
  /** Values, beside inputs of layers, that must be codes. */
  readonly values: ReadonlySet<string>
  /** Values that an integer op makes: they must go to a QuantizeLinear alone, so that all who read them read codes. */
  readonly made: ReadonlySet<string>
  /** Integer ops that are no layers. */
  readonly nodes: ReadonlySet<Node>
}

/** Convolutions, and behind them additions, concatenations, pooling and reshapes that lead to a layer and read codes alone. */
export function betweenLayers(graph: Graph, layers: readonly CodedLayer[]): Between {
  const inputs = new Set(layers.map((l) => l.input))
  // Products are fused with float results as well.
  const made = new Set(layers.filter((l) => l.node.is('Conv')).map((l) => closed(graph, l.node)))
  const known = new Set([...inputs, ...made])
  const candidates: { readonly node: Node; readonly reads: readonly string[]; readonly value: string }[] = []
  for (const node of graph.topologicalOrder()) {
    const reads = codedInputs(graph, node)
    if (!reads?.every((r) => known.has(r))) continue
    const value = node.is(...kInteger) ? closed(graph, node) : (node.outputs[0] as string)
    candidates.push({ node, reads, value })
    known.add(value)
  }
  const wanted = new Set(inputs)
  const nodes = new Set<Node>()
  for (const { node, reads, value } of candidates.reverse()) {
    if (!wanted.has(value)) continue
    nodes.add(node)
    made.add(value)
    for (const r of reads) wanted.add(r)
  }
  return { values: new Set([...made, ...wanted].filter((v) => !inputs.has(v))), made, nodes }
}

/** Gives what passes values on the codes of what it reads, so that a runtime moves codes instead. */
export function sharedCodes(graph: Graph, codes: Map<string, Code>): void {
  for (const node of graph.topologicalOrder()) {
    const [x, y] = [node.inputs[0], node.outputs[0]]
    const code = x ? codes.get(x) : undefined
    if (y && code && node.is(...kPassing) && codes.has(y)) codes.set(y, code)
  }
}

/** Puts codes on what lies between layers, so that onnxruntime sees DequantizeLinear → op → QuantizeLinear. */
export function closeLayers(graph: Graph, layers: readonly CodedLayer[], codes: ReadonlyMap<string, Code>): void {
  const { values, made, nodes } = betweenLayers(graph, layers)
  for (const value of new Set([...values, ...layers.map((l) => l.input)])) {
    const code = codes.get(value)
    if (!code) continue
    const users = graph.users(value)
    const quantize = users.find((n) => n.is('QuantizeLinear'))
    const readers = users.filter((n) => n !== quantize && (made.has(value) || nodes.has(n)))
    if (readers.length === 0) continue
    // Where the value is some layer's input it has its pair.
    const back = quantize && graph.users(quantize.outputs[0] as string).find((n) => n.is('DequantizeLinear'))
    if (back) for (const node of readers) node.inputs = node.inputs.map((i) => (i === value ? (back.outputs[0] as string) : i))
    else if (!quantize && !graph.isOutput(value)) insertPair(graph, value, code, readers)
  }
  graph.sort()
}

/** Biases of layers that read codes become int32 at s_x · s_w, where that is fine enough. */
export function codeBiases(graph: Graph, layers: readonly CodedLayer[], codes: ReadonlyMap<string, Pick<Code, 'scale'>>): void {
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
