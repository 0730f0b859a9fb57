import type { Graph, Node } from '../../model/graph'
import type { Model } from '../../model/model'
import type { Linear } from '../fold/linear'
import type { Context } from '../passes/pass'

/** Where the spread of a layer's outputs comes from. */
export type Absorb = 'none' | 'batchNorm' | 'calibration'

/** Two layers and what lies between them. */
export interface Between {
  readonly first: Linear
  readonly second: Linear
  readonly between: readonly Node[]
}

/** Least values that channels take but for rare ones, by layer: β − 3γ. */
export type Floors = ReadonlyMap<Linear, Float64Array>

/** Deviations below the mean that outputs hardly ever reach. */
const kDeviations = 3

/**
 * The floors of the first layers of `pairs` before anything is scaled: mean minus three deviations, from the batch normalizations of
 * the original that made the same values, or from calibration inputs, and then no higher than the least value seen.
 */
export async function floorsOf(model: Model, graph: Graph, pairs: readonly Between[], from: Absorb, context: Context): Promise<Floors> {
  const found = new Map<Linear, Float64Array>()
  if (from === 'batchNorm') {
    for (const { first } of pairs) {
      const floor = normFloor(context.original.graph, first)
      if (floor) found.set(first, floor)
    }
  } else if (from === 'calibration' && graph === model.graph && pairs.length > 0) {
    const sums = new Map(pairs.map(({ first }) => [first, new Spread(first)]))
    await context.calibration!.each(model, [...new Set([...sums.keys()].map((l) => l.output))], context.run, (values) => {
      for (const [layer, spread] of sums) spread.add(values.get(layer.output)!)
    })
    for (const [layer, spread] of sums) if (spread.count > 0) found.set(layer, spread.floor())
  }
  return found
}

function normFloor(graph: Graph, { output, outputs }: Linear): Float64Array | undefined {
  const node = graph.producer(output)
  if (!node?.is('BatchNormalization')) return undefined
  const [gamma, beta] = [1, 2].map((i) => {
    const c = node.inputs[i] ? graph.constant(node.inputs[i]) : undefined
    return c?.type === 'float32' && c.elementCount === outputs ? (c.readSync().data as Float32Array) : undefined
  })
  return gamma && beta ? Float64Array.from(beta, (b, i) => b - kDeviations * Math.abs(gamma[i]!)) : undefined
}

/** Mean, deviation and least value of each channel. */
class Spread {
  readonly #channels: number
  /** Channels lie on axis 1, those of a product on the last one. */
  readonly #last: boolean
  readonly #mean: Float64Array
  readonly #squares: Float64Array
  readonly #least: Float64Array
  count = 0

  constructor({ node, outputs }: Linear) {
    this.#channels = outputs
    this.#last = node.is('MatMul', 'Gemm')
    this.#mean = new Float64Array(outputs)
    this.#squares = new Float64Array(outputs)
    this.#least = new Float64Array(outputs).fill(Infinity)
  }

  add({ data, dims }: { readonly data: ArrayLike<unknown>; readonly dims: readonly number[] }): void {
    const x = data as Float32Array
    const n = this.#channels
    const inner = this.#last ? 1 : dims.slice(2).reduce((a, b) => a * b, 1)
    const rows = x.length / (n * inner)
    for (let c = 0; c < n; c++) {
      let count = this.count
      for (let row = 0; row < rows; row++)
        for (let i = 0, at = (row * n + c) * inner; i < inner; i++, at++) {
          const v = x[at]!
          const off = v - this.#mean[c]!
          this.#mean[c]! += off / ++count
          this.#squares[c]! += off * (v - this.#mean[c]!)
          if (v < this.#least[c]!) this.#least[c] = v
        }
    }
    this.count += rows * inner
  }

  floor(): Float64Array {
    return this.#mean.map((m, c) => Math.min(m - kDeviations * Math.sqrt(this.#squares[c]! / this.count), this.#least[c]!))
  }
}

/** Ops with f(x − c) + c = f(x) for x ≥ c ≥ 0, channel by channel. */
function carries(node: Node): boolean {
  if (node.is('Relu', 'LeakyRelu', 'PRelu', 'Identity', 'MaxPool', 'GlobalAveragePool', 'GlobalMaxPool')) return true
  if (!node.is('AveragePool')) return false
  // Zeros around an image are averaged in, unless they are left out of the count.
  const padded = node.string('auto_pad', 'NOTSET') !== 'NOTSET' || node.ints('pads', []).some((p) => p !== 0) || node.int('ceil_mode', 0) !== 0
  return node.int('count_include_pad', 0) === 0 || !padded
}

/**
 * Absorbs high biases (Nagel 2019): what an activation lets through unchanged anyway, c = max(0, β − 3γ), is taken off the bias of
 * the layer before it and put through the weights into the bias of the layer behind. The same function wherever the first layer's
 * output is c or more. Not into layers that pad: zeros around an image would need the −c as well. Returns how many channels moved,
 * 0 where nothing could.
 */
export function absorb({ first, second, between }: Between, floor: Float64Array): number {
  if (second.padded || !between.some((n) => n.is('Relu', 'LeakyRelu', 'PRelu')) || !between.every(carries)) return 0
  const c = floor.map((v) => (v > 0 && Number.isFinite(v) ? v : 0))
  const moved = c.filter((v) => v > 0).length
  if (moved === 0) return 0
  const more = new Float64Array(second.outputs)
  second.each((w, input, output) => (more[output]! += w * c[input]!))
  if (!more.every(Number.isFinite)) return 0
  first.addBias(c.map((v) => -v))
  second.addBias(more)
  return moved
}
