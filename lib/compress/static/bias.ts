import { Initializer, type Graph, type Node } from '../../model/graph'
import type { Model } from '../../model/model'
import { sizeOf, type Tensor } from '../../tensor'
import type { Calibration } from '../calibration'
import type { Run } from '../progress'
import { Segments } from './segments'

/** A layer whose bias can take up what is wrong on average. */
interface Corrected {
  /** The layer's node and the one that holds the bias: itself, or the Add behind a product. */
  readonly node: Node
  readonly holder: Node
  /** Which input of the holder the bias is. */
  readonly at: number
  /** The value whose mean is to be right. */
  readonly value: string
  /** Whether its channels lie on the last axis. */
  readonly last: boolean
}

/** What a mean is taken over and how many sets that takes. */
export interface BiasOptions {
  readonly sets: number
  readonly threads?: number
}

/** What became of one layer. */
export interface Correction {
  readonly layer: string
  /** Root mean square of what was added, against that of the value's means. */
  readonly change: number
}

function correctable(graph: Graph, node: Node): Corrected | undefined {
  const made = node.inputs[1] ? graph.producer(node.inputs[1]) : undefined
  const input = node.inputs[0] ? graph.producer(node.inputs[0]) : undefined
  // What was not quantized is right but for what comes in, which is not its fault.
  if (!made && !input?.is('DequantizeLinear')) return undefined
  if (node.is('Conv', 'ConvTranspose', 'Gemm')) {
    if (node.is('Gemm') && node.inputs[2] && node.float('beta', 1) !== 1) return undefined
    return { node, holder: node, at: 2, value: node.outputs[0] as string, last: node.is('Gemm') }
  }
  if (!node.is('MatMul')) return undefined
  const y = node.outputs[0] as string
  const [add, ...more] = graph.users(y)
  if (!add?.is('Add') || more.length > 0 || graph.isOutput(y)) return undefined
  const at = add.inputs[0] === y ? 1 : 0
  const c = graph.constant(add.inputs[at] as string)
  return c?.type === 'float32' && c.dims.length === 1 ? { node, holder: add, at, value: add.outputs[0] as string, last: true } : undefined
}

/** Sums a value by channel: axis 1 of what convolutions make, the last one of products. */
class Means {
  sum: Float64Array | undefined
  count = 0

  add({ dims, data, type }: Tensor, last: boolean): void {
    if (type !== 'float32' || dims.length < 2) return
    const axis = last ? dims.length - 1 : 1
    const channels = dims[axis] as number
    const inner = sizeOf(dims.slice(axis + 1))
    this.sum ??= new Float64Array(channels)
    for (let i = 0, at = 0; at < data.length; i++)
      for (let c = 0; c < channels; c++)
        for (let k = 0; k < inner; k++) this.sum[c] = (this.sum[c] as number) + (data[at++] as number)
    this.count += data.length / channels
  }

  get means(): Float64Array | undefined {
    return this.count > 0 ? this.sum?.map((s) => s / this.count) : undefined
  }
}

/**
 * Bias correction: adds E[y] − E[ŷ] of each channel to the bias of each quantized layer, one after the other in order of
 * execution, so that each sees what the corrections before it have left. Means are taken over the calibration inputs.
 *
 * Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019 (empirical form).
 *
 * @param reference the float model; layers are matched by the name of the value that they make
 */
export async function correctBias(reference: Model, model: Model, calibration: Calibration, run: Run, { sets, threads }: BiasOptions): Promise<Correction[]> {
  const graph = model.graph
  const layers = graph.topologicalOrder().flatMap((node) => {
    const found = correctable(graph, node)
    return found && reference.graph.producer(found.value) ? [found] : []
  })
  if (layers.length === 0) return []
  const settings = threads === undefined ? {} : { threads }
  const wanted = layers.map(() => new Means())
  const given: Map<string, Tensor>[] = []
  const inputs = reference.graph.inputs.map((i) => i.name).filter((name) => !reference.graph.initializers.has(name))
  await calibration.each(
    reference,
    [...new Set([...inputs, ...layers.map((l) => l.value)])],
    run,
    (values, index) => {
      for (const [i, l] of layers.entries()) wanted[i]!.add(values.get(l.value)!, l.last)
      given.push(new Map(inputs.map((name) => [name, values.get(name)!])))
      return index + 1 < sets
    },
    settings,
  )
  const segments = new Segments(model, given, threads)
  const done: Correction[] = []
  for (const [i, layer] of layers.entries()) {
    await run.tell('repair', i, layers.length, layer.node.label)
    const found = await segments.upTo(layer.holder)
    const is = new Means()
    for (const t of found) is.add(t, layer.last)
    const [right, wrong] = [wanted[i]!.means, is.means]
    if (!right || wrong?.length !== right.length) continue
    const delta = right.map((v, c) => v - (wrong[c] as number))
    if (!delta.every(Number.isFinite) || !addToBias(graph, layer, delta)) continue
    segments.replace(layer.value, found.map((t) => shifted(t, delta, layer.last)))
    done.push({ layer: layer.node.label, change: rms(delta) / (rms(right) || 1) })
  }
  await run.tell('repair', layers.length, layers.length)
  graph.removeDeadNodes()
  graph.removeDeadInitializers()
  return done
}

const rms = (v: Float64Array): number => Math.sqrt(v.reduce((s, x) => s + x * x, 0) / v.length)

/** A value with its channels shifted. */
function shifted({ type, dims, data }: Tensor, delta: Float64Array, last: boolean): Tensor {
  const inner = last ? 1 : sizeOf(dims.slice(2))
  const n = delta.length
  return { type, dims, data: (data as Float32Array).map((v, i) => v + (delta[Math.floor(i / inner) % n] as number)) }
}

/** Adds to a float bias, to one of int32 codes in whole steps, or makes one. */
function addToBias(graph: Graph, { holder, at }: Corrected, delta: Float64Array): boolean {
  const name = holder.inputs[at]
  const n = delta.length
  if (!name) {
    const made = graph.uniqueName('bias')
    graph.addInitializer(Initializer.from(made, { type: 'float32', dims: [n], data: Float32Array.from(delta) }))
    holder.setInput(at, made)
    return true
  }
  const c = graph.constant(name)
  if (c) {
    if (c.type !== 'float32' || c.elementCount !== n || c.dims.at(-1) !== n) return false
    const old = c.readSync().data as Float32Array
    const data = old.map((v, i) => v + (delta[i] as number))
    holder.setInput(at, put(graph, name, { type: 'float32', dims: c.dims, data }))
    return true
  }
  const back = graph.producer(name)
  const codes = back?.is('DequantizeLinear') ? graph.constant(back.inputs[0] as string) : undefined
  const scales = back && graph.constant(back.inputs[1] as string)
  if (!back || codes?.type !== 'int32' || codes.elementCount !== n || scales?.type !== 'float32' || scales.elementCount !== n) return false
  const steps = scales.readSync().data as Float32Array
  const old = codes.readSync().data as Int32Array
  const next = old.map((v, i) => Math.round(v + (delta[i] as number) / (steps[i] as number)))
  if (!next.every((v) => Math.abs(v) < 2 ** 30)) return false
  back.setInput(0, put(graph, codes.name, { type: 'int32', dims: codes.dims, data: next }))
  return true
}

/** Puts a tensor in the place of one that nothing else reads, else beside it. Returns its name. */
function put(graph: Graph, name: string, tensor: Tensor): string {
  const own = graph.initializers.has(name) && graph.users(name).length === 1 && !graph.isInput(name) && !graph.isOutput(name)
  if (own) graph.setInitializer(name, tensor)
  else graph.addInitializer(Initializer.from((name = graph.uniqueName(name)), tensor))
  return name
}
