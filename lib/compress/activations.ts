import { WhittleError } from '../errors'
import { Observer } from '../kernels/observer'
import { quantize } from '../kernels/quantize'
import { foldConstantNodes, raiseIrVersion } from '../model/fold'
import type { Graph } from '../model/graph'
import { Initializer } from '../model/initializer'
import type { Model } from '../model/model'
import { attribute, Node } from '../model/node'
import { raiseOpset } from '../model/opset'
import { Session } from '../session'
import { sizeOf, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { fail, finite, integer, oneOf, options as checkOptions } from '../validate'

/** Options of {@link quantizeStatic}. */
export interface StaticOptions {
  /** How ranges of activations follow from the calibration inputs. Default `'minmax'`; `'percentile'` often loses less. */
  readonly method?: 'minmax' | 'percentile'
  /** Percent of values that a range holds, for `'percentile'`. Default 99.99. */
  readonly percentile?: number
  /** Type of activations: `'uint8'` with a zero point (default), or `'int8'` around 0. */
  readonly activations?: 'uint8' | 'int8'
  /** Names of nodes that stay float. */
  readonly exclude?: readonly string[]
  /** Convolutions with fewer input channels stay float: the first one reads an image that has no spare bits. Default 8. */
  readonly minChannels?: number
  /** Threads of the calibration runs. Default: the process's limit. */
  readonly threads?: number
}

/** Options of {@link quantizeDynamic}. */
export interface DynamicOptions {
  /** Names of nodes that stay float. */
  readonly exclude?: readonly string[]
}

type Inputs = Readonly<Record<string, TensorLike | TypedArray>>

interface Layer {
  readonly node: Node
  readonly weight: Initializer
  /** axis of the weight along which there is a scale each */
  readonly axis: number
  readonly bias: string | undefined
}

/** Nodes whose weights and inputs can be codes. */
function layersOf(graph: Graph, exclude: ReadonlySet<string>, minChannels: number, products: boolean): Layer[] {
  const found: Layer[] = []
  for (const node of graph.nodes) {
    if (exclude.has(node.name)) continue
    const weight = node.inputs[1] ? graph.constant(node.inputs[1]) : undefined
    if (!weight || weight.type !== 'float32' || !node.inputs[0] || graph.constant(node.inputs[0])) continue
    if (node.is('MatMul') && weight.dims.length === 2) found.push({ node, weight, axis: 1, bias: undefined })
    if (products) continue
    if (node.is('Gemm') && node.int('transA', 0) === 0 && node.float('alpha', 1) === 1 && node.float('beta', 1) === 1)
      found.push({ node, weight, axis: node.int('transB', 0) ? 0 : 1, bias: node.inputs[2] || undefined })
    if (!node.is('Conv')) continue
    const group = node.int('group', 1)
    const [oc, ic] = weight.dims as [number, number]
    const depthwise = group > 1 && ic === 1 && oc === group
    if (depthwise || (group === 1 && ic >= minChannels)) found.push({ node, weight, axis: 0, bias: node.inputs[2] || undefined })
  }
  return found
}

/** Weights beside which others are nothing become zero: their scale would leave float32's normal numbers. */
function withoutTraces(weights: Float32Array): Float32Array {
  let top = 0
  for (const w of weights) top = Math.max(top, Math.abs(w))
  return weights.map((w) => (Math.abs(w) < top * 2 ** -40 ? 0 : w))
}

/** Codes of a weight, one scale an index of `axis`, -127 to 127. */
function codesOfWeight(weight: Initializer, axis: number): { codes: Tensor; scales: Float32Array } {
  const data = withoutTraces(weight.readSync().data as Float32Array)
  const q = quantize({ type: 'float32', dims: weight.dims, data }, { bits: 8, axis, symmetric: true })
  return { codes: { type: 'int8', dims: weight.dims, data: q.data as Int8Array }, scales: q.scale.data as Float32Array }
}

const scalar = (type: 'float32' | 'uint8' | 'int8', value: number): Tensor => ({
  type,
  dims: [],
  data: type === 'float32' ? Float32Array.of(value) : type === 'uint8' ? Uint8Array.of(value) : Int8Array.of(value),
})

/** Names and values that are added to one graph. */
class Additions {
  readonly #graph: Graph
  constructor(graph: Graph) {
    this.#graph = graph
  }

  constant(hint: string, tensor: Tensor): string {
    const name = this.#graph.uniqueName(hint)
    this.#graph.addInitializer(Initializer.from(name, tensor))
    return name
  }

  node(before: Node, opType: string, inputs: readonly string[], hint: string, attributes: Node['attributes'] | Record<string, never> = {}): string {
    const name = this.#graph.uniqueName(hint)
    const given = attributes instanceof Map ? Object.fromEntries(attributes) : {}
    this.#graph.addNode(new Node({ name, opType, inputs, outputs: [name], attributes: given }), { before })
    return name
  }
}

function excluded(exclude: unknown): ReadonlySet<string> {
  if (exclude === undefined) return new Set()
  if (!Array.isArray(exclude) || !exclude.every((e) => typeof e === 'string')) fail('ERR_DTYPE', 'options.exclude', 'an array of node names', exclude)
  return new Set(exclude as string[])
}

/** A copy with constants as initializers, at an opset that has scales per channel. */
function ready(model: Model): Model {
  const copy = model.clone()
  foldConstantNodes(copy)
  raiseIrVersion(copy, 4)
  raiseOpset(copy, 13)
  copy.graph.sort()
  return copy
}

/** The model without the float weights that nothing reads any more. */
function swept(model: Model, layers: readonly Layer[]): Model {
  const graph = model.graph
  graph.removeDeadNodes()
  for (const name of layers.flatMap((l) => [l.weight.name, l.bias ?? ''])) {
    if (!graph.initializers.has(name) || graph.users(name).length > 0 || graph.isOutput(name)) continue
    graph.initializers.delete(name)
    graph.inputs = graph.inputs.filter((i) => i.name !== name)
  }
  return model
}

/**
 * A copy of the model in which convolutions and products with constant weights compute with 8-bit integers: weights as int8
 * with a scale for each output channel, activations by a QuantizeLinear and DequantizeLinear pair before each such node,
 * whose ranges come from running the model over `calibration`. Nodes between them stay float; a {@link Session} computes
 * them in the same pass as the integers.
 *
 * Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018.
 *
 * @param model a float32 model; it is not changed
 * @param calibration inputs by name, as {@link Session.run} takes them; a few dozen real ones (ranges of noise
 *   cost accuracy)
 * @throws {WhittleError} `ERR_RANGE` where calibration is empty or a range is not finite, and what `Session` throws
 * @example
 * const small = await quantizeStatic(model, lines.map((data) => ({ x: { type: 'float32', dims: [1, 3, 48, 320], data } })))
 * await small.save('model_int8.onnx')
 */
export async function quantizeStatic(model: Model, calibration: Iterable<Inputs> | AsyncIterable<Inputs>, options?: StaticOptions): Promise<Model> {
  const o = checkOptions(options, 'options', ['method', 'percentile', 'activations', 'exclude', 'minChannels', 'threads'])
  const method = o.method === undefined ? 'minmax' : oneOf(o.method, 'options.method', ['minmax', 'percentile'] as const)
  const type = o.activations === undefined ? 'uint8' : oneOf(o.activations, 'options.activations', ['uint8', 'int8'] as const)
  const percentile = o.percentile === undefined ? 99.99 : finite(o.percentile, 'options.percentile', 50, 100)
  const minChannels = o.minChannels === undefined ? 8 : integer(o.minChannels, 'options.minChannels', 1, 2 ** 31 - 1)
  const iterable = calibration as { [Symbol.iterator]?: unknown; [Symbol.asyncIterator]?: unknown } | null | undefined
  if (!iterable || (typeof iterable[Symbol.iterator] !== 'function' && typeof iterable[Symbol.asyncIterator] !== 'function'))
    fail('ERR_DTYPE', 'calibration', 'an iterable of inputs', calibration)
  const copy = ready(model)
  const graph = copy.graph
  const layers = layersOf(graph, excluded(o.exclude), minChannels, false)
  if (layers.length === 0) return copy

  const observers = new Map<string, Observer>()
  for (const { node } of layers) {
    const make = { type, symmetric: type === 'int8' }
    observers.set(node.inputs[0] as string, new Observer(method === 'percentile' ? { ...make, method, percentile } : { ...make, method }))
  }
  // Inputs of the model are at hand; all others are fetched.
  const fetch = [...observers.keys()].filter((name) => !graph.isInput(name))
  const session = await Session.create(copy, o.threads === undefined ? {} : { threads: integer(o.threads, 'options.threads', 1, 256) })
  let count = 0
  try {
    for await (const inputs of calibration) {
      const values = fetch.length > 0 ? await session.run(inputs, { fetch }) : {}
      for (const [name, observer] of observers) observer.observe((values[name] ?? inputs[name]) as TensorLike)
      count++
    }
  } finally {
    session.dispose()
  }
  if (count === 0) throw new WhittleError('ERR_RANGE', 'calibration', 'calibration: expected at least one set of inputs, got none')

  const add = new Additions(graph)
  const pairs = new Map<string, { value: string; scale: number }>()
  for (const { node, weight, axis, bias } of layers) {
    const x = node.inputs[0] as string
    let pair = pairs.get(x)
    if (!pair) {
      const p = (observers.get(x) as Observer).parameters()
      const scale = p.scale.data[0] as number
      const zero = p.zeroPoint ? Number(p.zeroPoint.data[0]) : 0
      const s = add.constant(`${x}_scale`, scalar('float32', scale))
      const z = add.constant(`${x}_zero`, scalar(type, zero))
      const q = add.node(node, 'QuantizeLinear', [x, s, z], `${x}_q`)
      pair = { value: add.node(node, 'DequantizeLinear', [q, s, z], `${x}_dq`), scale }
      pairs.set(x, pair)
    }
    const { codes, scales } = codesOfWeight(weight, axis)
    const per = new Map([['axis', attribute.int(axis)]])
    const w = add.constant(`${weight.name}_q`, codes)
    const s = add.constant(`${weight.name}_s`, { type: 'float32', dims: [scales.length], data: scales })
    node.setInput(0, pair.value)
    node.setInput(1, add.node(node, 'DequantizeLinear', [w, s], `${weight.name}_dq`, per))
    const b = bias ? graph.constant(bias) : undefined
    const floats = b?.type === 'float32' && sizeOf(b.dims) === scales.length ? (b.readSync().data as Float32Array) : undefined
    if (!floats) continue
    const steps = scales.map((v) => v * (pair as { scale: number }).scale)
    const whole = Array.from(floats, (v, i) => Math.round(v / (steps[i] as number)))
    // A channel without weights has a scale that says nothing about its bias.
    if (!whole.every((v, i) => Math.abs(v) < 2 ** 30 && Math.abs(v * (steps[i] as number) - (floats[i] as number)) <= 1e-3 * Math.abs(floats[i] as number) + 1e-6)) continue
    const c = add.constant(`${bias}_q`, { type: 'int32', dims: [scales.length], data: Int32Array.from(whole) })
    const cs = add.constant(`${bias}_s`, { type: 'float32', dims: [scales.length], data: steps })
    node.setInput(2, add.node(node, 'DequantizeLinear', [c, cs], `${bias}_dq`, new Map([['axis', attribute.int(0)]])))
  }
  return swept(copy, layers)
}

/**
 * A copy of the model whose products with constant matrices compute with 8-bit integers: weights as int8 with a scale for
 * each column, activations as uint8 with a scale that each run finds for itself (DynamicQuantizeLinear, MatMulInteger). No
 * calibration is needed; it suits transformers.
 *
 * @param model a float32 model; it is not changed
 */
export function quantizeDynamic(model: Model, options?: DynamicOptions): Model {
  const o = checkOptions(options, 'options', ['exclude'])
  const copy = ready(model)
  const graph = copy.graph
  const add = new Additions(graph)
  const made = new Map<string, readonly [codes: string, scale: string, zero: string]>()
  const layers = layersOf(graph, excluded(o.exclude), 1, true)
  for (const { node, weight, axis } of layers) {
    const x = node.inputs[0] as string
    let dynamic = made.get(x)
    if (!dynamic) {
      dynamic = [graph.uniqueName(`${x}_q`), graph.uniqueName(`${x}_scale`), graph.uniqueName(`${x}_zero`)]
      graph.addNode(new Node({ name: graph.uniqueName(`${x}_dynamic`), opType: 'DynamicQuantizeLinear', inputs: [x], outputs: dynamic }), { before: node })
      made.set(x, dynamic)
    }
    const { codes, scales } = codesOfWeight(weight, axis)
    const w = add.constant(`${weight.name}_q`, codes)
    const s = add.constant(`${weight.name}_s`, { type: 'float32', dims: [scales.length], data: scales })
    const y = node.outputs[0] as string
    const sums = add.node(node, 'MatMulInteger', [dynamic[0], w, dynamic[2]], `${y}_sums`)
    const cast = add.node(node, 'Cast', [sums], `${y}_cast`, new Map([['to', attribute.int(1)]]))
    const scale = add.node(node, 'Mul', [dynamic[1], s], `${y}_scale`)
    graph.addNode(new Node({ name: node.name, opType: 'Mul', inputs: [cast, scale], outputs: [graph.uniqueName(`${y}_scaled`)] }), { before: node })
    const scaled = graph.nodes[graph.nodes.indexOf(node) - 1] as Node
    graph.removeNode(node)
    scaled.outputs = [y]
  }
  return swept(copy, layers)
}
