import { WhittleError } from '../errors'
import { gemm } from '../kernels/gemm'
import type { Model } from '../model/model'
import type { Node } from '../model/node'
import { ownerOf, weightInputsOf, type Weight } from '../model/weights'
import { allocate, type Tensor } from '../tensor'
import type { Calibration } from './calibration'
import { paged, Paging, touched } from './paged'
import type { Scratch } from './computed'
import type { Run } from './progress'
import { rowLayoutOf, type RowLayout } from './second/matrix'
import { sampledValueOf, samplesOf, samplingKeyOf, type Samples } from './second/samples'

export { fromRows, rowLayoutOf, toRows, type RowLayout } from './second/matrix'

/**
 * @internal What the inputs of a weight's sums looked like over a calibration: with the weight as `groups` matrices of rows w
 * (see {@link RowLayout}), w · x is one output. Weights that read the same inputs share one object: do not change it.
 */
export interface Moments {
  readonly groups: number
  /** Features of x. */
  readonly size: number
  /** Vectors x of each group that the sums stand for. */
  readonly rows: number
  /** Vectors that were multiplied; fewer than {@link rows} where they were sampled. */
  readonly sampled: number
  /**
   * Σ x xᵀ, [groups, size, size], symmetric. Products are summed in float32 over 256 vectors at most and in float64 beyond, so
   * that an entry's error is at most 2e-5 · √(Hᵢᵢ Hⱼⱼ).
   */
  readonly hessian: Float64Array
  /** Σ x, [groups, size]. */
  readonly sum: Float64Array
}

/** @internal One answer of {@link moments}. */
export interface LayerMoments {
  readonly weight: Weight
  readonly layout: RowLayout | undefined
  readonly moments: Moments | undefined
  /** Why there are none. */
  readonly reason?: string
}

/** @internal */
export interface MomentsOptions {
  readonly run: Run
  /** Bytes of second moments that are held at a time; a layer that is larger by itself comes alone. Default 128 MB. */
  readonly budget?: number
  /** Bytes of them that lie in memory together; what comes on top lies in files, but for very small ones. Default 16 MB. */
  readonly inMemory?: number
  /** Most layers between two runs of the model. Default: as many as the budget allows. */
  readonly block?: number
  /**
   * Vectors that are multiplied as they come, for one layer; of what comes after, every second one, then every fourth, with
   * their weight. Default 16 times the features, 2048 to 32768.
   */
  readonly maxRows?: number
  readonly threads?: number
}

/** One place where a weight is multiplied. */
interface Use {
  readonly node: Node
  readonly index: number
  readonly value: string
  readonly dims: readonly number[]
  readonly layout: RowLayout
}

interface Planned {
  readonly weight: Weight
  readonly layout: RowLayout | undefined
  readonly uses: readonly Use[]
  readonly key: string
  readonly reason?: string
}

/**
 * @internal Second moments of the inputs of `weights`, in that order, by running `model` over the calibration inputs: one
 * layer's after the other, in blocks that the budget allows. The model is read anew for each block, so that a caller who
 * changes layers as they come has later blocks see what the changed ones do to their inputs.
 *
 * MatMul and Gemm on either side, Conv and ConvTranspose (groups and depthwise too), and the recurrent ops: their input
 * weights, and the hidden ones where the model keeps all hidden states (without the initial state). Weights that several
 * nodes share have the inputs of all. Gather has none, nor have nodes in subgraphs.
 *
 * @throws {WhittleError} `ERR_RANGE` `calibration` where a layer's inputs are not finite, and what the calibration throws
 */
export async function* moments(
  model: Model,
  weights: readonly Weight[],
  calibration: Calibration,
  { run, budget = 128e6, inMemory = kInMemory, block = Infinity, maxRows, threads }: MomentsOptions,
): AsyncGenerator<LayerMoments, void, void> {
  for (let at = 0; at < weights.length; ) {
    const users = usersOf(model)
    const group: Planned[] = []
    const sums = new Map<string, Accumulator>()
    let bytes = 0
    for (; at < weights.length && group.length < block; at++) {
      const planned = plan(weights[at]!, users)
      const { layout, key } = planned
      if (layout && key && !sums.has(key)) {
        bytes += 8 * layout.groups * layout.size * layout.size
        if (bytes > budget && sums.size > 0) break
        sums.set(key, new Accumulator(planned.uses, layout, maxRows, bytes > inMemory ? kMapped : Paging.least, run.scratch))
      }
      group.push(planned)
    }
    if (sums.size > 0) {
      const fetch = [...new Set([...sums.values()].flatMap((s) => s.uses.map((u) => u.value)))]
      await calibration.each(
        model,
        fetch,
        run,
        (values) => {
          for (const sum of sums.values()) sum.add(values)
        },
        threads === undefined ? {} : { threads },
      )
    }
    for (const { weight, layout, key, reason } of group) {
      const found = sums.get(key)?.finish()
      yield {
        weight,
        layout,
        moments: found,
        ...(found ? {} : { reason: reason ?? 'calibration gave it no inputs' }),
      }
    }
  }
}

type Users = Map<string, { node: Node; index: number }[]>

/** Of the outermost graph: which nodes multiply by an initializer, and whether any in a subgraph does, by name. */
function usersOf(model: Model): { readonly outer: Users; readonly inner: ReadonlySet<string> } {
  const outer: Users = new Map()
  const inner = new Set<string>()
  model.graph.walk((node, graph) => {
    for (const index of weightInputsOf(node)) {
      const name = node.inputs[index]
      if (!name || ownerOf(graph, name) !== model.graph) continue
      if (graph !== model.graph) inner.add(name)
      else if (outer.has(name)) outer.get(name)!.push({ node, index })
      else outer.set(name, [{ node, index }])
    }
  })
  return { outer, inner }
}

function plan(weight: Weight, { outer }: ReturnType<typeof usersOf>): Planned {
  const { name } = weight.initializer
  const none = (reason: string, layout?: RowLayout): Planned => ({ weight, layout, uses: [], key: '', reason })
  const initializer = weight.graph.initializers.get(name)
  if (weight.graph.parent || !initializer) return none('it lies in a subgraph, whose values cannot be seen')
  const layout = rowLayoutOf({ node: weight.node, initializer })
  if (!layout) return none('it has no rows that are summed')
  const { dims } = initializer
  const uses: Use[] = []
  for (const { node, index } of outer.get(name) ?? []) {
    const own = rowLayoutOf({ node, initializer }, index)
    const value = sampledValueOf(node, index)
    // Of a tied weight only those uses count that see the same rows.
    if (!own || !value || weight.graph.constant(value)) continue
    if (own.groups !== layout.groups || own.size !== layout.size || own.order !== layout.order) continue
    uses.push({ node, index, value, dims, layout })
  }
  if (uses.length === 0) return none(`the inputs of ${weight.op} weights cannot be seen here`, layout)
  const key = uses.map((u) => `${u.value}|${samplingKeyOf(u.node, u.index, layout, dims)}`).join('\n')
  return { weight, layout, uses, key }
}

/** @internal Bytes of second moments that lie in memory together. */
export const kInMemory = 16e6
/** @internal Smaller matrices lie in memory where there are many. */
export const kMapped = 1e6

/** Features whose products are computed at once, so that no second matrix of size × size is held. */
const kPanel = 768

/** Products that are summed in float32. */
const kChunk = 256

class Accumulator {
  readonly uses: readonly Use[]
  readonly #groups: number
  readonly #size: number
  readonly #hessian: Float64Array
  readonly #sum: Float64Array
  readonly #limit: number
  readonly #chunk: number
  /** Of [groups, size, chunk] vectors, and their products. */
  readonly #scratch: Scratch
  #rows = 0
  #taken = 0
  #step = 1
  #finished: Moments | undefined

  constructor(uses: readonly Use[], { groups, size }: RowLayout, maxRows: number | undefined, least: number, scratch: Scratch) {
    this.uses = uses
    this.#scratch = scratch
    this.#groups = groups
    this.#size = size
    this.#hessian = paged('float64', groups * size * size, 'calibration', least) as Float64Array
    this.#sum = allocate('float64', groups * size, 'calibration') as Float64Array
    this.#limit = Math.max(2, maxRows ?? Math.min(32768, Math.max(2048, 16 * size)))
    this.#chunk = Math.max(16, Math.min(kChunk, Math.floor(2 ** 22 / (groups * size))))
  }

  add(values: ReadonlyMap<string, Tensor>): void {
    for (const { node, index, value, dims, layout } of this.uses)
      this.#sample(samplesOf(node, index, layout, dims, values.get(value)!), value)
  }

  /** Vectors that lie apart by the present step, one out of each stretch of that length, where in it by a hash. */
  #sample(samples: Samples, value: string): void {
    const { rows } = samples
    if (rows === 0) return
    const count = Math.min(Math.ceil(rows / this.#step), this.#limit)
    const at = new Int32Array(Math.min(this.#chunk, count))
    const before = this.#taken
    for (let from = 0; from < count; from += at.length) {
      const n = Math.min(at.length, count - from)
      for (let j = 0; j < n; j++) {
        const i = from + j
        const low = Math.floor((i * rows) / count)
        const high = Math.floor(((i + 1) * rows) / count)
        at[j] = low + (high - low > 1 ? hash(before + i) % (high - low) : 0)
      }
      this.#multiply(samples, at, n, rows / count)
    }
    for (const s of this.#sum)
      if (!Number.isFinite(s))
        throw new WhittleError('ERR_RANGE', 'calibration', `calibration: the values of ${value} are not finite`)
    this.#rows += rows
    this.#taken += count
    while (this.#taken >= (this.#limit / 2) * (1 + Math.log2(this.#step))) this.#step *= 2
  }

  #multiply(samples: Samples, at: Int32Array, n: number, weight: number): void {
    const groups = this.#groups
    const size = this.#size
    const x = this.#scratch.floats('vectors', groups * size * this.#chunk).subarray(0, groups * size * n)
    samples.fill(x, at, n)
    const sum = this.#sum
    for (let k = 0, i = 0; k < groups * size; k++) {
      let s = 0
      for (let j = 0; j < n; j++) s += x[i++]!
      sum[k]! += weight * s
    }
    // Panels of the upper triangle; small groups in one call.
    const panel = Math.min(size, kPanel)
    const products = this.#scratch.floats('products', (groups === 1 ? 1 : size <= kPanel ? groups : 1) * panel * size)
    const all = groups > 1 && size <= kPanel
    for (let g = 0; g < (all ? 1 : groups); g++)
      for (let p = 0; p < size; p += panel) {
        const height = Math.min(panel, size - p)
        const batch = all ? groups : 1
        const a = x.subarray((g * size + p) * n, (g * size + p + height) * n + (all ? (groups - 1) * size * n : 0))
        const b = x.subarray((g * size + p) * n, (g + batch) * size * n)
        const width = size - p
        const out = products.subarray(0, batch * height * width)
        gemm(
          { type: 'float32', dims: all ? [batch, height, n] : [height, n], data: a },
          { type: 'float32', dims: all ? [batch, width, n] : [width, n], data: b },
          { transposeB: true, out },
        )
        const h = this.#hessian
        for (let q = 0; q < batch; q++)
          for (let i = 0; i < height; i++) {
            const from = (q * height + i) * width
            const to = ((g + q) * size + p + i) * size + p
            for (let j = i; j < width; j++) h[to + j]! += weight * out[from + j]!
            touched(8 * (width - i))
          }
      }
  }

  finish(): Moments | undefined {
    if (this.#rows === 0) return undefined
    if (this.#finished) return this.#finished
    const size = this.#size
    const h = this.#hessian
    for (let g = 0; g < this.#groups; g++) {
      const o = g * size * size
      for (let i = 0; i < size; i++)
        if (!Number.isFinite(h[o + i * size + i]!))
          throw new WhittleError('ERR_RANGE', 'calibration', `calibration: the squares of ${this.uses[0]!.value} are not finite`)
      mirror(h.subarray(o, o + size * size), size)
    }
    this.#finished = { groups: this.#groups, size, rows: this.#rows, sampled: this.#taken, hessian: h, sum: this.#sum }
    return this.#finished
  }
}

/** Entries of a tile of {@link mirror}: a few pages of each side. */
const kTile = 256

/** The upper triangle [n, n] into the lower one. */
function mirror(h: Float64Array, n: number): void {
  for (let i0 = 0; i0 < n; i0 += kTile)
    for (let j0 = i0; j0 < n; j0 += kTile) {
      const [i1, j1] = [Math.min(n, i0 + kTile), Math.min(n, j0 + kTile)]
      for (let j = Math.max(j0, i0 + 1); j < j1; j++) for (let i = i0; i < Math.min(i1, j); i++) h[j * n + i] = h[i * n + j]!
      touched(16 * kTile * (i1 - i0 + j1 - j0))
    }
}

/** 32 well-mixed bits of a counter (the finisher of MurmurHash3). */
function hash(i: number): number {
  let x = (i + 0x9e3779b9) | 0
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}
