import { raiseIrVersion } from '../../model/fold'
import { MemorySource, type DataSource, type Initializer, type Node } from '../../model/graph'
import type { Model } from '../../model/model'
import { raiseOpset } from '../../model/opset'
import { elementCodeOf } from '../../model/types'
import { chosenWeights, weights } from '../../model/weights'
import { bytes, count } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { fail, oneOf, options, string } from '../../validate'
import { ComputedSource } from '../computed'
import { unreached } from '../fold/exposed'
import { toHalf } from '../half/graph'
import { halvesFrom, lossOf, outside } from '../half/halves'
import { shieldTransposes } from '../half/transposes'
import { holds } from '../half/widen'
import { keptNodes, kMostHalf, magnitudes, readFloats, typesOf } from '../half/plan'
import { parseSelector, selects, type LayerSelector, type Layers } from '../selectors'
import { Emitter } from './emit'
import { chooseLayers, describeWeight, type Context, type Memory, type PassResult } from './pass'
import type { QuantizeStep } from './quantize'

/**
 * The whole model in float16: weights, constants and what nodes compute. Half the bytes everywhere; half the memory, and about twice the
 * speed, where a runtime computes in float16 (GPUs, WebGPU); onnxruntime on CPUs puts Casts around most ops instead and is no faster for it,
 * and `Session` computes such a model in float32.
 *
 * Ops that take no float16 (TopK, Resize, Min, Max, CumSum, Range, NonMaxSuppression, RoiAlign, random and quantized ones, ops of other
 * domains, control flow with all that is in it, values whose type is not known) stay in float32 between Casts. With calibration inputs
 * so do nodes whose values reach beyond 65504 on any of them. Weights of nodes that stay are stored in float16 too, and cast.
 */
export interface HalfQuantizeStep extends QuantizeStep {
  readonly activations: 'float16'
  readonly format?: 'float16'
  /** What the model's inputs and outputs are: `'float32'` (default), with a Cast behind or before each, or `'float16'`. */
  readonly io?: 'float32' | 'float16'
  /**
   * Constants beyond 65504: `'clip'` (default) brings them to ±32752, which leaves room for what is added (masks of attention), or ±65504 where a
   * Clip reads them; `'keep'` leaves the nodes that read them in float32. Infinities stay. A single number that would vanish becomes 2⁻²⁴.
   */
  readonly outOfRange?: 'clip' | 'keep'
  /** Further ops, by type, that stay in float32. */
  readonly float32Ops?: readonly string[]
  /** Weights that become float16; nodes that read others stay in float32. Default: all. No other field of {@link QuantizeStep} is taken. */
  readonly layers?: Layers
}

/** @internal */
export interface ResolvedHalf {
  readonly step: 'quantize'
  readonly activations: 'float16'
  readonly format: 'float16'
  readonly io: 'float32' | 'float16'
  readonly outOfRange: 'clip' | 'keep'
  readonly float32Ops: readonly string[]
  readonly layers: LayerSelector
}

/** @internal */
export const isHalf = (value: object): value is ResolvedHalf => (value as { activations?: unknown }).activations === 'float16'

/** @internal */
export const kHalfKeys = ['step', 'activations', 'format', 'io', 'outOfRange', 'float32Ops', 'layers'] as const

/** @internal */
export function resolveHalf(value: object, parameter: string): ResolvedHalf {
  const given = options(value, parameter, kHalfKeys)
  if (given.format !== undefined) oneOf(given.format, `${parameter}.format`, ['float16'])
  const ops = given.float32Ops ?? []
  if (!Array.isArray(ops)) fail('ERR_DTYPE', `${parameter}.float32Ops`, 'an array of op types', ops)
  return {
    step: 'quantize',
    activations: 'float16',
    format: 'float16',
    io: given.io === undefined ? 'float32' : oneOf(given.io, `${parameter}.io`, ['float32', 'float16']),
    outOfRange: given.outOfRange === undefined ? 'clip' : oneOf(given.outOfRange, `${parameter}.outOfRange`, ['clip', 'keep']),
    float32Ops: ops.map((op: unknown, i: number) => string(op, `${parameter}.float32Ops[${i}]`)),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}

const kHalf = elementCodeOf('float16')

/** Where constants out of range go: the sum of two is a number still. */
const kClip = 32752

/** @internal */
export async function applyHalf(model: Model, step: ResolvedHalf, context: Context, taken?: ReadonlySet<string>): Promise<PassResult> {
  const { run, spared, calibration, memory } = context
  raiseIrVersion(model, 4)
  raiseOpset(model, 7)
  const { graph } = model
  const all = [...weights(graph), ...chosenWeights(graph)]
  const chosen = chooseLayers(all, step.layers, 0, { spared })
  const names = new Set(chosen.map((w) => w.initializer.name))
  const left = unreached(model).filter((l) => selects(step.layers, l, 0))
  const typeOf = typesOf(model)

  const beyond = new Set<string>()
  const reports = new Map<string, LayerReport>()
  const floats = readFloats(model)
  let clipped = 0
  for (const [i, initializer] of floats.entries()) {
    if (i % 16 === 0) await run.tell('quantize', i, floats.length, initializer.name)
    const values = memory.scratch.read(initializer).data as Float32Array
    const far = outside(values)
    if (far > 0) beyond.add(initializer.name)
    const weight = chosen.find((w) => w.initializer === initializer)
    if (!weight) continue
    const base = describeWeight(weight)
    const why = far > 0 ? `${count(far)} values beyond ${kMostHalf}${step.outOfRange === 'clip' ? ` became ±${kClip}` : ''}` : undefined
    if (far > 0 && step.outOfRange === 'keep') reports.set(initializer.name, { ...base, action: 'kept', reason: why!, bytesAfter: base.bytesBefore })
    else {
      if (far > 0) clipped++
      reports.set(initializer.name, { ...base, action: 'quantized', bits: 16, bytesAfter: base.bytesBefore / 2, ...lossOf(values, kClip), ...(why ? { reason: why } : {}) })
    }
  }

  let unseen: string | undefined
  const seen = calibration
    ? await magnitudes(model, typeOf, calibration, run).catch((error: unknown) => {
        // Ranges are a help that a model may do without: what sessions cannot run is converted by its ops alone.
        if ((error as { code?: unknown }).code !== 'ERR_UNSUPPORTED_OP') throw error
        unseen = (error as Error).message
        return new Map<string, number>()
      })
    : new Map<string, number>()
  const keep = step.outOfRange === 'keep'
  const untouched = new Set([...spared, ...all.filter((w) => !names.has(w.initializer.name)).map((w) => w.initializer.name)])
  const kept = keptNodes(model, typeOf, { ops: step.float32Ops, ...(taken ? { taken } : {}), spared: untouched, beyond: keep ? beyond : new Set(), seen })
  const clips = new Set(graph.nodes.filter((n) => n.is('Clip')).flatMap((n) => n.inputs.slice(1)))
  const casts = toHalf({
    graph,
    full: new Set(kept.keys()),
    isFloat: (value) => typeOf(value) === 'float32',
    halvesOf: (initializer) => halfSource(initializer, memory, clips.has(initializer.name) ? kMostHalf : kClip),
    io: step.io,
  })

  // What stays in float32 reads weights from float16 too.
  const emitter = new Emitter(graph)
  const layers = chosen.map((weight) => {
    const { initializer } = weight
    const now = weight.graph.initializers.get(initializer.name)
    const report = reports.get(initializer.name)
    if (now?.type !== 'float32') {
      if (report) return report
      const base = describeWeight(weight)
      return { ...base, action: 'kept' as const, reason: `${initializer.type} weights are not converted`, bytesAfter: base.bytesBefore }
    }
    const base = describeWeight(weight)
    const values = memory.scratch.read(now).data as Float32Array
    if (outside(values) > 0 || initializer.elementCount < 64 || (!weight.graph.parent && weight.graph.isOutput(initializer.name)))
      return report?.action === 'kept' ? report : { ...base, action: 'kept' as const, reason: 'the nodes that read it stay in float32', bytesAfter: base.bytesBefore }
    const loss = lossOf(values, kClip)
    emitter.replaceByHalves(weight, halfSource(now, memory, kClip))
    return { ...base, action: 'quantized' as const, bits: 16, bytesAfter: base.bytesBefore / 2, ...loss, reason: 'cast to float32 for the nodes that read it' }
  })
  emitter.finish()
  // A Cast from float16 to itself: onnxruntime 1.30 crashes where it puts casts to float32 around one.
  removeCasts(model)
  shieldTransposes(model)
  await run.tell('quantize', floats.length, floats.length)
  return { layers: [...layers, ...left], summary: summarize(layers, kept, casts, clipped, [...beyond].length, keep, unseen) }
}

function summarize(layers: readonly LayerReport[], kept: ReadonlyMap<{ readonly opType: string }, string>, casts: number, clipped: number, beyond: number, keep: boolean, unseen?: string): string {
  const sum = (pick: (l: LayerReport) => number): number => layers.reduce((total, l) => total + pick(l), 0)
  const kinds = new Map<string, number>()
  for (const { opType } of kept.keys()) kinds.set(opType, (kinds.get(opType) ?? 0) + 1)
  const list = [...kinds].map(([op, n]) => `${n} ${op}`).join(', ')
  const large = [...kept.values()].filter((r) => r.includes(' reaches ')).length
  return (
    `Converted the model to float16: weights of ${bytes(sum((l) => l.bytesBefore))} became ${bytes(sum((l) => l.bytesAfter))}` +
    `${kept.size ? `; ${count(kept.size)} nodes stayed in float32 (${list}${large ? `; ${count(large)} of them for values beyond ${kMostHalf}` : ''})` : ''}; ${count(casts)} casts` +
    `${beyond ? `; ${count(beyond)} constants have values beyond ${kMostHalf}${keep ? '' : `, which were clipped${clipped ? `, ${count(clipped)} weights among them` : ''}`}` : ''}` +
    `${unseen ? `; ranges of values are not known: ${unseen}` : ''}.`
  )
}

/** Held while the budget lasts, else computed when it is read. */
function halfSource(initializer: Initializer, { keep, scratch }: Memory, most: number): DataSource {
  const length = initializer.byteLength / 2
  const compute = (): Uint8Array => {
    const halves = halvesFrom(scratch.read(initializer).data as Float32Array, most)
    return new Uint8Array(halves.buffer as ArrayBuffer, halves.byteOffset, halves.byteLength)
  }
  return keep.take(length) ? new MemorySource(compute()) : new ComputedSource(length, compute)
}

/**
 * @internal A model that computed in float16 before steps that leave floats, computes in it again; what float16 does not hold stays float32.
 * Spared weights are no matter: they have the values that the file had.
 */
export async function backToHalf(model: Model, context: Context, ops: ReadonlySet<string>): Promise<void> {
  const step: ResolvedHalf = { step: 'quantize', activations: 'float16', format: 'float16', io: 'float16', outOfRange: 'keep', float32Ops: [], layers: {} }
  const lost = readFloats(model).filter((i) => i.elementCount > 1 && !holds('float16', i))
  await applyHalf(model, step, { ...context, spared: new Set(lost.map((i) => i.name)) }, ops)
}

/** Casts from float16 to float16. */
function removeCasts(model: Model): void {
  const typeOf = typesOf(model)
  const { graph } = model
  const gone = new Set<Node>()
  for (const node of graph.nodes) {
    const [from, to] = [node.inputs[0] ?? '', node.outputs[0] ?? '']
    if (!node.is('Cast') || node.int('to', 0) !== kHalf || typeOf(from) !== 'float16') continue
    if (!graph.isOutput(to)) graph.replaceUses(to, from)
    else {
      const producer = graph.producer(from)
      if (!producer || graph.isOutput(from)) continue
      graph.replaceUses(from, to)
      producer.outputs = producer.outputs.map((o) => (o === from ? to : o))
      graph.valueInfo.delete(from)
    }
    gone.add(node)
  }
  graph.setNodes(graph.nodes.filter((n) => !gone.has(n)))
  graph.sort()
}
