import type { Graph, Initializer, ValueInfo } from '../model/graph'
import type { Model } from '../model/model'
import { quantizedBytes, quantizedWeights, readQuantized, type QuantizedLayer } from '../model/quantized'
import { weights } from '../model/weights'
import { bitsOf, isDataType } from '../tensor'
import { floats } from './floats'
import { short } from './format'

/** One weight, as {@link inspectModel} tells it. */
export interface InspectedLayer {
  /** The node's name, or the weight's where the node has none. */
  readonly name: string
  readonly op: string
  readonly weight: string
  readonly type: string
  readonly dims: readonly number[]
  readonly elements: number
  /** Of values, or of codes and scales. */
  readonly bytes: number
  /** How a quantized weight lies in the file. */
  readonly storage?: 'folded' | 'qdq'
  /** Share of zeros. */
  readonly sparsity?: number
  readonly min?: number
  readonly max?: number
  /** Absent: all values were read. `true`: evenly spaced pieces of them. Without `min`: none, they would be too many. */
  readonly sampled?: boolean
}

export interface Inspection {
  readonly bytes: number
  readonly irVersion: number
  readonly opset: number
  readonly opsets: Readonly<Record<string, number>>
  readonly producer: string
  readonly inputs: readonly InspectedValue[]
  readonly outputs: readonly InspectedValue[]
  readonly nodes: number
  readonly ops: Readonly<Record<string, number>>
  readonly parameters: number
  readonly weightBytes: number
  readonly layers: readonly InspectedLayer[]
}

export interface InspectedValue {
  readonly name: string
  readonly type: string
  /** `null` where nothing is known. */
  readonly dims: readonly (number | string | null)[] | null
}

/** What a look at values may read unless all of them are asked for. */
const kBudget = 32e6
/** A larger weight is sampled: so many pieces of so many bytes. */
const kPieces = 8
const kPieceBytes = 65536

/**
 * A model in plain data: what goes in and out, ops, and every weight with its size, zeros and range. Weights above
 * 512 kB are sampled, and beyond 32 MB no values are read, so that models of gigabytes take well under a second; `stats`
 * reads everything.
 */
export function inspectModel(model: Model, options: { readonly stats?: boolean } = {}): Inspection {
  const summary = model.summary()
  const budget = { left: options.stats ? Infinity : kBudget }
  const layers = [
    ...weights(model.graph).map(({ name, op, initializer }): InspectedLayer => ({
      name,
      op,
      weight: initializer.name,
      type: initializer.type,
      dims: initializer.dims,
      elements: initializer.elementCount,
      bytes: initializer.byteLength,
      ...figuresOf(initializer, options.stats === true, budget),
    })),
    ...quantizedWeights(model.graph).map((w): InspectedLayer => ({
      name: w.name,
      op: w.op,
      weight: w.value,
      type: w.tables ? `${short(w.bits)} bits` : w.bits === 4 ? 'int4' : w.codes.type,
      dims: w.dims,
      elements: w.dims.reduce((n, d) => n * d, 1),
      bytes: quantizedBytes(w),
      storage: w.storage,
      ...quantizedFigures(w, budget),
    })),
  ]
  const order = new Map<string, number>()
  let at = 0
  model.graph.walk((node) => {
    for (const input of node.inputs) if (!order.has(input)) order.set(input, at++)
  })
  layers.sort((a, b) => order.get(a.weight)! - order.get(b.weight)!)
  return {
    bytes: model.byteLength(),
    irVersion: summary.irVersion,
    opset: model.opset,
    opsets: summary.opsets,
    producer: summary.producer,
    inputs: model.inputs.filter((i) => !isInitializer(model.graph, i)).map(value),
    outputs: model.outputs.map(value),
    nodes: summary.nodes,
    ops: summary.ops,
    parameters: summary.parameters,
    weightBytes: summary.weightBytes,
    layers,
  }
}

const isInitializer = (graph: Graph, v: ValueInfo): boolean => graph.initializers.has(v.name)
const value = ({ name, type, dims, kind }: ValueInfo): InspectedValue => ({
  name,
  type: kind === 'tensor' ? type : kind,
  dims,
})

type Figures = Pick<InspectedLayer, 'sparsity' | 'min' | 'max' | 'sampled'>

function figuresOf(initializer: Initializer, all: boolean, budget: { left: number }): Figures {
  const { type, byteLength } = initializer
  if (!isDataType(type) || bitsOf(type) < 16 || byteLength === 0) return {}
  const sampled = !all && byteLength > kPieces * kPieceBytes
  budget.left -= sampled ? kPieces * kPieceBytes : byteLength
  if (budget.left < 0) return { sampled: true }
  const tally = new Tally()
  if (!sampled) for (const piece of initializer.chunksSync()) tally.add(floats(piece, type))
  else
    for (let i = 0; i < kPieces; i++) {
      const offset = Math.floor((i * (byteLength - kPieceBytes)) / (kPieces - 1) / 16) * 16
      tally.add(floats(initializer.source.readSync(offset, kPieceBytes), type))
    }
  return { ...tally.figures(), ...(sampled ? { sampled } : {}) }
}

function quantizedFigures(weight: QuantizedLayer, budget: { left: number }): Figures {
  budget.left -= quantizedBytes(weight)
  if (budget.left < 0) return { sampled: true }
  const tally = new Tally()
  tally.add(readQuantized(weight))
  return tally.figures()
}

class Tally {
  #count = 0
  #zeros = 0
  #min = Infinity
  #max = -Infinity
  #nan = false

  add(values: Float32Array | Float64Array): void {
    this.#count += values.length
    for (let i = 0; i < values.length; i++) {
      const v = values[i]!
      if (v === 0) this.#zeros++
      if (v < this.#min) this.#min = v
      if (v > this.#max) this.#max = v
      if (v !== v) this.#nan = true
    }
  }

  figures(): Figures {
    const range = this.#nan ? { min: NaN, max: NaN } : { min: this.#min, max: this.#max }
    return this.#count ? { sparsity: this.#zeros / this.#count, ...range } : {}
  }
}
