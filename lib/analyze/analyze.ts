import path from 'node:path'

import { Calibration, type CalibrationData, type Inputs } from '../compress/calibration'
import type { Scratch } from '../compress/computed'
import { measure, type Evaluate } from '../compress/gate'
import { widen } from '../compress/half/widen'
import { Run, type Progress } from '../compress/progress'
import { WhittleError } from '../errors'
import { energyEstimate } from '../metrics/energy'
import { foldConstantNodes } from '../model/fold'
import type { Initializer } from '../model/initializer'
import { Model } from '../model/model'
import { clampInts } from '../model/ops/op'
import { inferShapes } from '../model/ops/infer'
import { quantizedBytes, quantizedWeights, readQuantized } from '../model/quantized'
import { ValueInfo } from '../model/types'
import { weights, type WeightView } from '../model/weights'
import type { Analysis, Distribution, LayerAnalysis } from '../report/analysis'
import { sizeOf, type Tensor, type TensorLike } from '../tensor'
import { boolean, dims as checkDims, fail, integer, options as checkOptions } from '../validate'
import { version } from '../version'
import { Stream } from './histogram'
import { countMacs } from './macs'
import { asFloat32 } from './read'
import { resolveSensitivity, Sensitivity, type SensitivityOptions } from './sensitivity'
import { weightFigures } from './weights'

export interface AnalyzeOptions {
  /** Inputs to run the model on: for histograms of activations, sizes that the model leaves open, and sensitivity. */
  readonly calibration?: CalibrationData
  /** Judges the model, and the model with one layer changed at a time. As for `compress`. */
  readonly evaluate?: Evaluate
  /** Dims of inputs that leave some open, for the count of multiplications. Default: those of the calibration inputs. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>
  /** Singular values of weights. Default true. */
  readonly spectra?: boolean
  /**
   * What becomes of the model when one layer alone is quantized to 8 or 4 bits, or pruned by 50 or 80 %. Default: true where
   * there is calibration or `evaluate` to tell by. Each change of each layer is a session of its own.
   */
  readonly sensitivity?: boolean | SensitivityOptions
  /** Threads of the runs. Default: the process's limit. */
  readonly threads?: number
  readonly onProgress?: (progress: Progress) => void
  /** Stops between two weights or runs, with `ERR_ABORTED`. */
  readonly signal?: AbortSignal
}

/** A weight as it lies in the model, float or codes, and how its values are read. */
interface Layer {
  readonly facts: Pick<LayerAnalysis, 'name' | 'op' | 'weight' | 'type' | 'storage' | 'dims' | 'elements' | 'bytes'>
  readonly view: WeightView
  read(): Float32Array
}

/**
 * Says what a model consists of and how much each of its layers can take, without changing anything: parameters, bytes,
 * multiplications, zeros, histograms with clip ranges, singular values, error by bits; with calibration inputs histograms of
 * activations; with those or `evaluate` the sensitivity of each layer. Weights are read one at a time.
 *
 * @param input a path, the bytes of an ONNX file, or a {@link Model}
 * @returns plain data; `renderHtml` shows it
 * @throws {WhittleError} `ERR_RANGE` for weights, activations or calibration inputs that are not finite, `ERR_SHAPE` for
 * `shapes` that the model does not take, `ERR_ABORTED`, and what loading and running throw. What `evaluate` throws comes
 * through as it is.
 *
 * @example
 * const { layers, macs } = await analyze('model.onnx', { calibration: lines.map((x) => ({ x })) })
 * for (const l of layers) console.log(l.name, l.macs, l.snrByBits[4], l.values.sparsity)
 */
export async function analyze(input: string | Uint8Array | ArrayBuffer | Model, options?: AnalyzeOptions): Promise<Analysis> {
  const o = checkOptions(options, 'options', ['calibration', 'evaluate', 'shapes', 'spectra', 'sensitivity', 'threads', 'onProgress', 'signal'])
  for (const name of ['evaluate', 'onProgress'] as const)
    if (o[name] !== undefined && typeof o[name] !== 'function') fail('ERR_DTYPE', `options.${name}`, 'a function', o[name])
  const evaluate = o.evaluate as Evaluate | undefined
  const calibration = o.calibration === undefined ? undefined : Calibration.from(o.calibration)
  const spectra = o.spectra === undefined ? true : boolean(o.spectra, 'options.spectra')
  const sensitivity = resolveSensitivity(o.sensitivity, Boolean(calibration ?? evaluate))
  const threads = o.threads === undefined ? undefined : integer(o.threads, 'options.threads', 1, 256)
  const run = new Run(o.onProgress as AnalyzeOptions['onProgress'], o.signal as AbortSignal | undefined)
  const loaded = isModel(input) ? undefined : await Model.load(input)
  try {
    const original = loaded ?? (input as Model)
    const model = original.clone()
    foldConstantNodes(model)
    // Weights and values are told in float32; what is stored, and what is multiplied, as it is.
    const wide = model.clone()
    const halves = new Map(widen(wide).tensors.map((w) => [w.name, w.half]))
    const notes: string[] = []
    const first = await firstOf(calibration)
    const shapes = shapesOf(model, o.shapes, first)
    const activations = calibration ? await activationsOf(wide, calibration, run, threads) : undefined
    const bound = boundTo(model, shapes)
    const inferred = inferShapes(bound.graph, bound.opsets, { contents: contentsOf(first) })
    const { counts, unknown, inner } = countMacs(bound, inferred, activations?.dims)
    if (unknown.length)
      notes.push(`Multiplications of ${unknown.length} of ${counts.length + unknown.length} nodes are not counted: their shapes are not known (give shapes or calibration), the first is ${unknown[0]!.label}.`)
    if (inner) notes.push('Nodes of subgraphs (loops, branches) are counted once.')
    const macsOf = new Map<string, number>()
    const byType: Record<string, number> = {}
    for (const { node, macs, type } of counts) {
      byType[type] = (byType[type] ?? 0) + macs
      const names = [...new Set(node.inputs.filter((name) => name))]
      for (const name of names) macsOf.set(name, (macsOf.get(name) ?? 0) + macs)
    }
    const missing = new Set(unknown.flatMap((n) => n.inputs))
    const accuracy = evaluate ? (await measure(original.clone(), 'original', evaluate, {}, run)).accuracy : undefined
    const scan = sensitivity && (calibration || evaluate) ? new Sensitivity(wide, sensitivity, { calibration, evaluate, run, threads }) : undefined
    const { scratch } = run
    const layers: LayerAnalysis[] = []
    const all = layersOf(wide, scratch, halves)
    let [zeros, values] = [0, 0]
    for (const [i, layer] of all.entries()) {
      const { facts } = layer
      await run.tell('analyze', i, all.length, facts.name)
      const found = weightFigures(facts.weight, layer.read(), layer.view, scratch, spectra, (text) => notes.push(text))
      zeros += found.values.sparsity * facts.elements
      values += facts.elements
      const macs = missing.has(facts.weight) ? undefined : (macsOf.get(facts.weight) ?? 0)
      const near = activations?.of.get(facts.weight)
      layers.push({ ...facts, ...(macs === undefined ? {} : { macs }), ...found, ...near })
    }
    await run.tell('analyze', all.length, all.length)
    const measured = scan ? await scan.all(layers, (text) => notes.push(text)) : undefined
    const macs = unknown.length ? undefined : counts.reduce((sum, c) => sum + c.macs, 0)
    const bytes = original.byteLength()
    return {
      version: version(),
      model: typeof input === 'string' ? path.parse(input).name : 'model',
      bytes,
      parameters: model.summary().parameters,
      ...(macs === undefined ? {} : { macs, macsByType: byType, energy: energyOf(byType, model.summary().weightBytes) }),
      sparsity: values ? zeros / values : 0,
      shapes,
      ...(accuracy === undefined ? {} : { accuracy }),
      layers: layers.map((l) => ({ ...l, ...(measured?.get(l.weight) ? { sensitivity: measured.get(l.weight)! } : {}) })),
      notes,
    }
  } finally {
    loaded?.close()
  }
}

function isModel(input: unknown): input is Model {
  return input !== null && typeof input === 'object' && typeof (input as Model).clone === 'function' && 'graph' in input
}

function energyOf(macs: Readonly<Record<string, number>>, bytes: number): NonNullable<Analysis['energy']> {
  const { joules, compute, memory, estimate } = energyEstimate({ macs, bytes })
  return { joules, compute, memory, estimate }
}

/** Float weights and quantized ones, in the order in which nodes read them. */
function layersOf(model: Model, scratch: Scratch, halves: ReadonlyMap<string, Initializer>): Layer[] {
  const found: Layer[] = [
    ...weights(model.graph).map(({ name, op, initializer, view }): Layer => {
      const { type, byteLength } = halves.get(initializer.name) ?? initializer
      return {
        facts: { name, op, weight: initializer.name, type, dims: initializer.dims, elements: initializer.elementCount, bytes: byteLength },
        view,
        read: () => asFloat32(scratch.read(initializer)),
      }
    }),
    ...quantizedWeights(model.graph).map((w): Layer => ({
      facts: { name: w.name, op: w.op, weight: w.value, type: w.bits === 4 ? 'int4' : w.codes.type, storage: w.storage, dims: w.dims, elements: sizeOf(w.dims), bytes: quantizedBytes(w) },
      view: w.view,
      read: () => readQuantized(w),
    })),
  ]
  const order = new Map<string, number>()
  model.graph.walk((node) => {
    for (const input of node.inputs) if (!order.has(input)) order.set(input, order.size)
  })
  return found.sort((a, b) => (order.get(a.facts.weight) ?? 0) - (order.get(b.facts.weight) ?? 0))
}

async function firstOf(calibration: Calibration | undefined): Promise<Inputs | undefined> {
  if (!calibration) return undefined
  // Read to the end where that is what fills a copy of a source that can be read once only.
  let first: Inputs | undefined
  for await (const inputs of calibration.inputs()) first ??= inputs
  return first
}

type Sizes = Readonly<Record<string, readonly (number | string | null)[] | null>>

/** Dims of the model's inputs: what was given, else those of the first calibration inputs, else the model's own. */
function shapesOf(model: Model, given: unknown, first: Inputs | undefined): Sizes {
  const inputs = model.graph.inputs.filter((i) => !model.graph.initializers.has(i.name) && i.kind === 'tensor')
  const own = checkOptions(given, 'options.shapes', inputs.map((i) => i.name))
  return Object.fromEntries(
    inputs.map(({ name, dims }) => {
      const value = first?.[name]
      const told = own[name] !== undefined ? checkDims(own[name], `options.shapes.${name}`) : value && !ArrayBuffer.isView(value) ? value.dims : undefined
      if (told && dims && (told.length !== dims.length || dims.some((d, i) => typeof d === 'number' && d !== told[i])))
        throw new WhittleError('ERR_SHAPE', `options.shapes.${name}`, `options.shapes.${name}: expected [${dims.map((d) => d ?? '?').join(', ')}], got [${told.join(', ')}]`)
      return [name, told ?? dims]
    }),
  )
}

/** A copy whose inputs have these dims; symbols that they settle are settled everywhere. */
function boundTo(model: Model, shapes: Sizes): Model {
  const bound = model.clone()
  const symbols = new Map<string, number>()
  for (const { name, dims } of bound.graph.inputs)
    dims?.forEach((d, i) => {
      const size = shapes[name]?.[i]
      if (typeof d === 'string' && typeof size === 'number') symbols.set(d, size)
    })
  const settle = (v: ValueInfo): ValueInfo => {
    if (v.kind !== 'tensor') return v
    const dims = shapes[v.name] ?? v.dims
    return new ValueInfo(v.name, v.type, dims && dims.map((d) => (typeof d === 'string' ? (symbols.get(d) ?? d) : d)))
  }
  bound.graph.inputs = bound.graph.inputs.map(settle)
  bound.graph.outputs = bound.graph.outputs.map(settle)
  for (const [name, info] of [...bound.graph.valueInfo]) bound.graph.valueInfo.set(name, settle(info))
  return bound
}

/** Small integer inputs (flags, lengths), which shapes may depend on. */
function contentsOf(first: Inputs | undefined): ReadonlyMap<string, readonly number[]> {
  const found = new Map<string, readonly number[]>()
  for (const [name, value] of Object.entries(first ?? {})) {
    if (ArrayBuffer.isView(value)) continue
    const { type, dims, data } = value as TensorLike
    if (['int64', 'int32', 'bool'].includes(type) && dims.length <= 1 && sizeOf(dims) <= 64) found.set(name, clampInts(data as Tensor['data']))
  }
  return found
}

interface Activations {
  /** Of the input and output of the node that reads a weight. */
  readonly of: ReadonlyMap<string, { readonly input?: Distribution; readonly output?: Distribution }>
  readonly dims: ReadonlyMap<string, readonly number[]>
}

/** Runs the model over all inputs and counts what goes into each layer and comes out. */
async function activationsOf(model: Model, calibration: Calibration, run: Run, threads: number | undefined): Promise<Activations> {
  const { graph } = model
  const wanted = new Map<string, { input: string | undefined; output: string | undefined }>()
  const near = [...weights(graph).map((w) => ({ weight: w.initializer.name, node: w.node })), ...quantizedWeights(graph).map((w) => ({ weight: w.value, node: graph.users(w.value)[0] }))]
  const isValue = (name: string | undefined): boolean => Boolean(name && (graph.isInput(name) || graph.producer(name)) && !graph.initializers.has(name))
  for (const { weight, node } of near) {
    if (!node || node.graph !== graph) continue
    // The one operand that is no weight.
    const input = node.inputs.find((name) => name !== weight && isValue(name))
    wanted.set(weight, { input, output: node.outputs[0] || undefined })
  }
  // Products of two activations have no weight, and sizes all the same.
  const sized = graph.nodes.filter((n) => n.is('MatMul', 'Gemm')).flatMap((n) => [n.inputs[0]!, n.outputs[0]!]).filter(isValue)
  const names = [...new Set([...[...wanted.values()].flatMap((w) => [w.input, w.output]), ...sized].filter((n): n is string => Boolean(n)))]
  const counted = new Set([...wanted.values()].flatMap((w) => [w.input, w.output]))
  const streams = new Map<string, Stream>()
  const dims = new Map<string, readonly number[]>()
  await calibration.look(
    model,
    names,
    run,
    (value, name) => {
      if (!dims.has(name)) dims.set(name, value.dims)
      if (!counted.has(name) || !/float/.test(value.type)) return
      let stream = streams.get(name)
      if (!stream) streams.set(name, (stream = new Stream()))
      stream.add(asFloat32(value), name)
    },
    threads === undefined ? {} : { threads },
  )
  const told = (name: string | undefined): Distribution | undefined => (name ? streams.get(name)?.distribution(8, false) : undefined)
  const of = new Map(
    [...wanted].map(([weight, { input, output }]) => {
      const [i, o] = [told(input), told(output)]
      return [weight, { ...(i ? { input: i } : {}), ...(o ? { output: o } : {}) }]
    }),
  )
  return { of, dims }
}
