import { Initializer, type Graph, type Node } from '../../model/graph'
import type { Model } from '../../model/model'
import { sizeOf, type Tensor } from '../../tensor'
import { become } from '../become'
import type { Calibration, Inputs } from '../calibration'
import { numbersOf } from '../half/widen'
import { Pieces } from '../pieces'
import type { Run } from '../progress'
import { Runner } from '../runner'
import { AffineFit, type Affine } from './affine'
import { codeBiases } from './operators'
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

/** Sets of inputs that corrections are estimated on where nothing else is asked for. */
export const kBiasSets = 16

/** Graphs whose biases were corrected. */
const kCorrected = new WeakSet<Graph>()

/** Sets of inputs that are held back at most. */
const kHeldSets = 16

/** What a mean is taken over and how many sets that takes. */
export interface BiasOptions {
  readonly sets: number
  readonly threads?: number
}

/** What became of one layer. */
export interface Correction {
  readonly layer: string
  /** Root mean square of what was changed, against that of the value. */
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

/** The constant that scales a layer's codes, one number a channel of what it makes, where that layer alone reads them. */
interface Scaled {
  readonly node: Node
  readonly at: number
  readonly scales: Initializer
}

function scaled(graph: Graph, { node }: Corrected): Scaled | undefined {
  const weight = node.inputs[1] as string
  const made = graph.producer(weight)
  if (!made || graph.users(weight).length !== 1 || graph.isOutput(weight)) return undefined
  const isCodes = (name: string | undefined): boolean => ['int8', 'uint8', 'int4'].includes((name ? graph.constant(name)?.type : undefined) ?? '')
  let at: number
  if (made.is('DequantizeLinear')) at = isCodes(made.inputs[0]) && made.int('block_size', 0) === 0 ? 1 : -1
  else at = made.is('Mul') ? made.inputs.findIndex((i, k) => graph.constant(i) && isCodes(graph.producer(made.inputs[1 - k] as string)?.inputs[0])) : -1
  const scales = at < 0 ? undefined : graph.constant(made.inputs[at] as string)
  const dims = graph.constant((made.is('Mul') ? graph.producer(made.inputs[1 - at] as string)!.inputs[0] : made.inputs[0]) as string)?.dims
  if (scales?.type !== 'float32' || !dims) return undefined
  // The axis of the weight that is the channels of the result.
  const out = node.is('Conv') || (node.is('Gemm') && node.int('transB', 0)) ? 0 : 1
  if ((node.is('ConvTranspose') && node.int('group', 1) !== 1) || (node.is('MatMul') && dims.length !== 2)) return undefined
  if (scales.elementCount !== dims[out]) return undefined
  const axis = made.is('Mul') ? dims.length - scales.dims.length + scales.dims.findIndex((d) => d !== 1) : made.int('axis', 1)
  return dims[out] === 1 || axis === out || axis === out - dims.length ? { node: made, at, scales } : undefined
}

/**
 * Bias correction: adds E[y] − E[ŷ] of each channel to the bias of each quantized layer, one after the other in order of
 * execution, so that each sees what the corrections before it have left. Codes too coarse for what they stand for do not only move
 * the mean: they make a channel larger or smaller as a whole. Where the layer's weights are codes with a scale a channel, that scale
 * takes it up (y ≈ a·ŷ + b in least squares). See {@link AffineFit} for what is corrected at all.
 *
 * Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019 (empirical form); Banner et al.,
 * Post training 4-bit quantization of convolutional networks, 2019 (scales).
 *
 * A model that was corrected before keeps what it has unless a second correction brings its outputs nearer to the original's on inputs that
 * are held back from the estimate: those behind the first `sets`, or else a quarter of them.
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
  const again = kCorrected.has(graph)
  kCorrected.add(graph)
  const given: Map<string, Tensor>[] = []
  const inputs = reference.graph.inputs.map((i) => i.name).filter((name) => !reference.graph.initializers.has(name))
  await calibration.each(
    reference,
    inputs,
    run,
    (values, index) => {
      given.push(new Map(values))
      return index + 1 < sets + (again ? kHeldSets : 0)
    },
    settings,
  )
  // Of very few there is nothing to hold back: the corrections are judged on what they come from.
  const held = !again ? [] : given.length > sets ? given.slice(sets) : given.length > 3 ? given.slice(-Math.floor(given.length / 4)) : given
  if (held !== given) given.length -= held.length
  const untouched = again ? model.clone() : undefined
  const right = new Segments(reference, given, { ...settings, scratch: run.scratch, asked: layers.map((l) => l.value) })
  const segments = new Segments(model, given, { ...settings, scratch: run.scratch })
  const done: Correction[] = []
  for (const [i, layer] of layers.entries()) {
    await run.tell('repair', i, layers.length, layer.node.label)
    const wanted = await right.upTo(reference.graph.producer(layer.value)!)
    const found = await segments.upTo(layer.holder)
    const fit = new AffineFit(layer.last)
    // What depends on constants alone is no node of a piece.
    wanted.forEach((t: Tensor | undefined, k) => t && found[k] && fit.add(t, found[k]))
    const scale = scaled(graph, layer)
    const best = fit.best(scale !== undefined)
    if (!best || (best.shift.every((v) => v === 0) && best.gain.every((v) => v === 1))) continue
    if (!addToBias(graph, layer, best)) continue
    if (scale) {
      const old = scale.scales.readSync().data as Float32Array
      const data = old.map((v, c) => v * best.gain[c]!)
      scale.node.setInput(scale.at, put(graph, scale.scales.name, { type: 'float32', dims: scale.scales.dims, data }))
    }
    for (const t of found) correct(t, best, layer.last)
    done.push({ layer: layer.node.label, change: fit.change(best) })
  }
  if (untouched && done.length > 0) {
    const [before, after] = await distances(reference, held, [untouched, model], settings, run)
    if (!(after! < before!)) {
      become(model, untouched)
      done.length = 0
    }
  }
  await run.tell('repair', layers.length, layers.length)
  graph.removeDeadNodes()
  graph.removeDeadInitializers()
  return done
}

/** How far the outputs of each model are from the reference's. */
async function distances(reference: Model, sets: readonly Map<string, Tensor>[], models: readonly Model[], settings: { readonly threads?: number }, run: Run): Promise<number[]> {
  const answers = async (model: Model): Promise<Readonly<Record<string, Tensor>>[]> => {
    const pieces = Pieces.of(model, model.graph.outputs.map((o) => o.name))
    if (pieces) {
      const all: Readonly<Record<string, Tensor>>[] = []
      for await (const { found } of pieces.run(listed(sets), { run, ...settings })) all.push(found)
      return all
    }
    const session = await Runner.create(model, [], settings)
    try {
      const found: Record<string, Tensor>[] = []
      for (const set of sets) found.push(await session.run(Object.fromEntries(set), run.signal ? { signal: run.signal } : {}))
      return found
    } finally {
      session.dispose()
    }
  }
  const want = await answers(reference)
  const found: number[] = []
  for (const model of models) found.push(distance(want, await answers(model)))
  return found
}

async function* listed(sets: readonly Map<string, Tensor>[]): AsyncGenerator<Inputs, void, void> {
  await Promise.resolve()
  for (const set of sets) yield Object.fromEntries(set)
}

/** Σ over float outputs of Σ(y − ŷ)² / Σy². */
function distance(want: readonly Readonly<Record<string, Tensor>>[], got: readonly Readonly<Record<string, Tensor>>[]): number {
  let all = 0
  for (const name of Object.keys(want[0] ?? {})) {
    let [off, size] = [0, 0]
    want.forEach((set, i) => {
      const [y, z] = [numbersOf(set[name]!), numbersOf(got[i]![name]!)]
      if (!y || z?.length !== y.length) return
      for (let k = 0; k < y.length; k++) {
        off += (y[k]! - z[k]!) ** 2
        size += y[k]! * y[k]!
      }
    })
    all += off === 0 ? 0 : off / size
  }
  return Number.isNaN(all) ? Infinity : all
}

/** Stretches and shifts the channels of a value. */
function correct({ dims, data }: Tensor, { gain, shift }: Affine, last: boolean): void {
  const inner = last ? 1 : sizeOf(dims.slice(2))
  const values = data as Float32Array
  for (let at = 0; at < values.length; )
    for (let c = 0; c < gain.length; c++) {
      const [a, b] = [gain[c]!, shift[c]!]
      for (const end = at + inner; at < end; at++) values[at] = values[at]! * a + b
    }
}

/** Stretches and shifts a float bias, or one of int32 codes in whole steps of the stretched scales, or makes one. */
function addToBias(graph: Graph, { holder, at }: Corrected, { gain, shift: delta }: Affine): boolean {
  const name = holder.inputs[at]
  const n = delta.length
  if (!name) {
    const made = graph.uniqueName('bias')
    graph.addInitializer(Initializer.from(made, { type: 'float32', dims: [n], data: Float32Array.from(delta) }))
    holder.setInput(at, made)
    codeMade(graph, holder, made)
    return true
  }
  const c = graph.constant(name)
  if (c) {
    if (c.type !== 'float32' || c.elementCount !== n || c.dims.at(-1) !== n) return false
    const old = c.readSync().data as Float32Array
    const data = old.map((v, i) => v * gain[i]! + (delta[i] as number))
    holder.setInput(at, put(graph, name, { type: 'float32', dims: c.dims, data }))
    return true
  }
  const back = graph.producer(name)
  const codes = back?.is('DequantizeLinear') ? graph.constant(back.inputs[0] as string) : undefined
  const scales = back && graph.constant(back.inputs[1] as string)
  if (!back || codes?.type !== 'int32' || codes.elementCount !== n || scales?.type !== 'float32' || scales.elementCount !== n) return false
  const steps = (scales.readSync().data as Float32Array).map((s, i) => s * gain[i]!)
  const old = codes.readSync().data as Int32Array
  const next = old.map((v, i) => Math.round(v + (delta[i] as number) / (steps[i] as number)))
  if (!next.every((v) => Math.abs(v) < 2 ** 30)) return false
  back.setInput(0, put(graph, codes.name, { type: 'int32', dims: codes.dims, data: next }))
  back.setInput(1, put(graph, scales.name, { type: 'float32', dims: scales.dims, data: steps }))
  return true
}

/** A bias beside codes on both sides becomes codes too, without which a runtime would not see an integer layer any more. */
function codeMade(graph: Graph, node: Node, bias: string): void {
  const [input, weight] = [node.inputs[0] as string, node.inputs[1] as string]
  const back = graph.producer(input)
  const scale = back?.is('DequantizeLinear') ? graph.constant(back.inputs[1] as string) : undefined
  const codes = graph.producer(weight)
  const stored = codes?.is('DequantizeLinear') ? graph.constant(codes.inputs[0] as string) : undefined
  if (scale?.type !== 'float32' || scale.elementCount !== 1 || !stored || node.is('ConvTranspose')) return
  const axis = node.is('Gemm') && !node.int('transB', 0) ? 1 : 0
  codeBiases(graph, [{ node, input, bias, axis, weight: stored }], new Map([[input, { scale: scale.readSync().data[0] as number }]]))
}

/** Puts a tensor in the place of one that nothing else reads, else beside it. Returns its name. */
function put(graph: Graph, name: string, tensor: Tensor): string {
  const own = graph.initializers.has(name) && graph.users(name).length === 1 && !graph.isInput(name) && !graph.isOutput(name)
  if (own) graph.setInitializer(name, tensor)
  else graph.addInitializer(Initializer.from((name = graph.uniqueName(name)), tensor))
  return name
}
