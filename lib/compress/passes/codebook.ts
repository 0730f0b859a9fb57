import { codebookEncode, kmeans } from '../../kernels/codebook'
import { raiseIrVersion } from '../../model/fold'
import { attribute, Initializer, MemorySource, Node, type DataSource, type Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import { raiseOpset } from '../../model/opset'
import { weights, type Weight } from '../../model/weights'
import { bytes, percent } from '../../report/format'
import type { LayerReport } from '../../report/types'
import { sizeOf } from '../../tensor'
import { finite, integer, oneOf, options } from '../../validate'
import { ComputedSource, relativeError, sparsityOf, nonFiniteText } from '../computed'
import { fromRows, moments, type LayerMoments } from '../moments'
import { pack, tableOf } from '../rounding/packing'
import { parseSelector, type LayerSelector, type Layers } from '../selectors'
import { chooseLayers, describeWeight, type Context, type Pass, type PassResult } from './pass'

/**
 * Weight sharing: the values of each layer become indices into a table of a few shared ones, found by k-means. In the file
 * these are bytes, a table, and `Cast` → `Gather`, which onnxruntime evaluates once, when it loads the model; a `.whittle`
 * container stores the indices at their entropy.
 *
 * @see Han, Mao, Dally 2016 (Deep Compression)
 */
export interface CodebookStep {
  readonly step: 'codebook'
  /** 2^bits values are shared: 1 to 8, default 5. Up to 4 bits several indices lie in a byte. */
  readonly bits?: number
  /**
   * Where k-means begins: `'linear'` (default) evenly between the least and the largest value, which keeps the few large
   * ones; `'density'` at even shares of the sorted values; `'k-means++'`. Weighted errors have a start of their own.
   */
  readonly init?: 'linear' | 'density' | 'k-means++'
  /** Of `'k-means++'`. Default 0. */
  readonly seed?: number
  /**
   * What a squared error weighs: `'none'` (default) the same everywhere; `'inputs'` the mean square of the input that the
   * value multiplies, from calibration (the diagonal of the layer's second moments).
   */
  readonly weighting?: 'none' | 'inputs'
  /**
   * `'keep'` (default): where at least a hundredth of the values is zero, zero is one of the shared values, so that pruned
   * weights stay pruned. `'any'`: they are values like others.
   */
  readonly zeros?: 'keep' | 'any'
  /** Largest ‖w − ŵ‖₂ / ‖w‖₂ of one weight; beyond it the weight stays float. Default by bits, 8 to 1: 0.03, 0.04, 0.06, 0.1, 0.2, 0.3, 0.5, 0.8. */
  readonly maxError?: number
  /** A weight with NaN or an infinity: `'error'` (default) throws `ERR_RANGE` with its name, `'keep'` leaves it float. */
  readonly nonFinite?: 'error' | 'keep'
  /** Default: every Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU and RNN weight of at least 1024 values. */
  readonly layers?: Layers
}

/** @internal */
export type ResolvedCodebook = Required<Omit<CodebookStep, 'layers'>> & { readonly layers: LayerSelector }

/** Below this a table, names and nodes eat what the indices save. */
const kMinElements = 1024
/** Bytes of the nodes and names of one weight, about. */
const kOverhead = 160
/** Share of zeros from which on zero is a shared value. */
const kZeros = 0.01
const kMaxError: Readonly<Record<number, number>> = { 8: 0.03, 7: 0.04, 6: 0.06, 5: 0.1, 4: 0.2, 3: 0.3, 2: 0.5, 1: 0.8 }

/** @internal */
export const codebookPass: Pass<ResolvedCodebook> = {
  name: 'codebook',
  resolve: resolveCodebook,
  needs: (step) => (step.weighting === 'inputs' ? ['calibration'] : []),
  apply,
}

async function apply(model: Model, step: ResolvedCodebook, context: Context): Promise<PassResult> {
  const { run, spared, calibration } = context
  const chosen = chooseLayers(weights(model.graph), step.layers, kMinElements, { spared })
  const layers: LayerReport[] = []
  const made = new Map<Graph, Node[]>()
  const one = (weight: Weight, given?: LayerMoments): void => {
    const { report, shared } = shareWeights(weight, step, context, given)
    layers.push(report)
    if (!shared) return
    const list = made.get(weight.graph) ?? []
    list.push(...replace(weight, shared))
    made.set(weight.graph, list)
  }
  // Moments are found by running the model, so it changes when all are there.
  const later: (() => void)[] = []
  if (step.weighting === 'inputs' && calibration)
    for await (const given of moments(model, chosen, calibration, { run })) {
      const kept = diagonalOnly(given)
      later.push(() => one(given.weight, kept))
    }
  else for (const weight of chosen) later.push(() => one(weight))
  for (const [i, next] of later.entries()) {
    await run.tell('codebook', i, chosen.length, chosen[i]!.name)
    next()
  }
  if (made.size > 0) {
    raiseIrVersion(model, 4)
    raiseOpset(model, 6)
  }
  for (const [graph, nodes] of made) graph.setNodes([...nodes, ...graph.nodes])
  await run.tell('codebook', chosen.length, chosen.length)
  return { layers, summary: summarize(layers, step) }
}

/** Of second moments the diagonal is used; the rest need not be held until all layers are done. */
function diagonalOnly(given: LayerMoments): LayerMoments {
  const { moments: all } = given
  if (!all) return given
  const { groups, size } = all
  const diagonal = new Float64Array(groups * size)
  for (let g = 0; g < groups; g++)
    for (let i = 0; i < size; i++) diagonal[g * size + i] = all.hessian[(g * size + i) * size + i]!
  return { ...given, moments: { ...all, hessian: diagonal } }
}

/** Shared values in ascending order, and where the indices lie. */
interface Shared {
  readonly table: Float32Array
  readonly bits: number
  /** Indices in a byte. */
  readonly perByte: number
  readonly indices: DataSource
}

function shareWeights(
  weight: Weight,
  step: ResolvedCodebook,
  { memory: { keep, scratch } }: Context,
  given: LayerMoments | undefined,
): { report: LayerReport; shared?: Shared } {
  const { initializer } = weight
  const base = describeWeight(weight)
  const stays = (reason: string, error?: number): { report: LayerReport } => ({
    report: { ...base, action: 'kept', reason, bytesAfter: base.bytesBefore, ...(error === undefined ? {} : { error }) },
  })
  if (initializer.type !== 'float32') return stays(`${initializer.type} weights are not shared`)
  const count = initializer.elementCount
  const perByte = perByteOf(step.bits, count)
  const bytesAfter = count / perByte + 4 * (perByte > 1 ? 256 * perByte : 2 ** step.bits)
  if (bytesAfter + kOverhead >= base.bytesBefore) return stays('indices and table would not be smaller')
  const values = scratch.read(initializer).data as Float32Array
  const bad = nonFiniteText(initializer.name, values, step.nonFinite, " (nonFinite: 'keep' in the codebook step leaves such weights float)")
  if (bad) return stays(bad)
  const table = tableFor(values, step, given && importanceOf(given, count))
  const encode = (from: Float32Array): Uint8Array => codebookEncode(from, table).indices.data as Uint8Array
  const codes = encode(values)
  const back = scratch.floats('floats', count)
  for (let i = 0; i < count; i++) back[i] = table[codes[i]!]!
  const error = relativeError(values, back)
  if (error > step.maxError)
    return stays(`its relative error ${percent(error)} is over ${percent(step.maxError)}`, error)
  const filed = (all: Uint8Array): Uint8Array =>
    perByte === 1 ? all : pack(new Int8Array(all.buffer as ArrayBuffer, all.byteOffset, all.length), planeOf(table, step.bits, perByte))
  const first = filed(codes)
  const indices = keep.take(first.byteLength)
    ? new MemorySource(first)
    : new ComputedSource(first.byteLength, () => filed(encode(scratch.read(initializer).data as Float32Array)))
  const reason = given && !given.moments ? `${given.reason}: all errors weigh the same` : undefined
  return {
    report: {
      ...base,
      action: 'quantized',
      bits: step.bits,
      bytesAfter,
      error,
      sparsity: sparsityOf(back),
      ...(reason ? { reason } : {}),
    },
    shared: { table, bits: step.bits, perByte, indices },
  }
}

/** Indices that share a byte: as many as fit and divide the number of values, where the larger table pays. */
function perByteOf(bits: number, count: number): number {
  let per = Math.floor(8 / bits)
  while (count % per) per--
  return per > 1 && count - count / per > 4 * 256 * per ? per : 1
}

const planeOf = (table: Float32Array, bits: number, perByte: number) => ({
  shift: 0,
  levels: Array.from({ length: 2 ** bits }, (_, i) => table[Math.min(i, table.length - 1)]!),
  perByte,
})

/** What an error of each value weighs; nothing where the inputs are not known. */
function importanceOf({ layout, moments: known }: LayerMoments, count: number): Float32Array | undefined {
  if (!known || !layout) return undefined
  const { groups, size, outputs } = layout
  if (groups * size * outputs !== count) return undefined
  const rows = new Float32Array(count)
  const scale = known.hessian.reduce((m, v) => Math.max(m, v), 0)
  if (!(scale > 0)) return undefined
  for (let g = 0; g < groups; g++)
    for (let o = 0; o < outputs; o++)
      // What no input ever reached still has a value.
      for (let i = 0; i < size; i++) rows[(g * outputs + o) * size + i] = known.hessian[g * size + i]! / scale + 1e-6
  return fromRows(rows, layout)
}

/** Shared values, ascending. */
function tableFor(values: Float32Array, { bits, init, seed, zeros }: ResolvedCodebook, importance: Float32Array | undefined): Float32Array {
  const clusters = 2 ** bits
  const distinct = distinctUpTo(values, clusters)
  if (distinct) return distinct
  const keepZero = zeros === 'keep' && sparsityOf(values) >= kZeros
  const others = keepZero ? values.filter((v) => v !== 0) : values
  const few = distinctUpTo(others, clusters - (keepZero ? 1 : 0))
  const wanted = clusters - (keepZero ? 1 : 0)
  const table =
    few ??
    (importance
      ? weightedTable(others, keepZero ? importance.filter((_, i) => values[i] !== 0) : importance, wanted)
      : (kmeans(others, { clusters: wanted, init, seed }).centroids.data as Float32Array))
  const all = keepZero ? [...table, 0] : [...table]
  return Float32Array.from(new Set(all.sort((a, b) => a - b).map((v) => (v === 0 ? 0 : v))))
}

/** The values themselves where they are no more than `most`, ascending. */
function distinctUpTo(values: Float32Array, most: number): Float32Array | undefined {
  const found = new Set<number>()
  for (const v of values) if (found.add(v === 0 ? 0 : v).size > most) return undefined
  return Float32Array.from(found).sort()
}

/**
 * Shared values for weighted errors. Lloyd's algorithm alone would not carry a value from where many small weights lie to where
 * few large ones do: it begins with the best values for a histogram, found by dynamic programming (Wang, Song 2011).
 */
function weightedTable(values: Float32Array, importance: Float32Array, clusters: number): Float32Array {
  let current = bestOfHistogram(values, importance, clusters)
  for (let round = 0; round < 30; round++) {
    const codes = codebookEncode(values, current).indices.data
    const sum = new Float64Array(current.length)
    const weight = new Float64Array(current.length)
    for (let i = 0; i < values.length; i++) {
      const c = codes[i]!
      sum[c]! += importance[i]! * values[i]!
      weight[c]! += importance[i]!
    }
    const next = current.map((v, c) => (weight[c]! > 0 ? sum[c]! / weight[c]! : v))
    const ascending = Float32Array.from(new Set(next.sort()))
    const range = ascending[ascending.length - 1]! - ascending[0]!
    const moved = ascending.length === current.length ? ascending.reduce((m, v, i) => Math.max(m, Math.abs(v - current[i]!)), 0) : Infinity
    current = ascending
    if (moved <= 1e-5 * range) break
  }
  return current
}

const kBins = 2048

/** The weighted means of the `clusters` stretches of a histogram that leave the least squared error, ascending. */
function bestOfHistogram(values: Float32Array, importance: Float32Array, clusters: number): Float32Array {
  const low = values.reduce((m, v) => Math.min(m, v), Infinity)
  const high = values.reduce((m, v) => Math.max(m, v), -Infinity)
  const binWeight = new Float64Array(kBins)
  const binSum = new Float64Array(kBins)
  for (let i = 0; i < values.length; i++) {
    const b = Math.min(kBins - 1, Math.floor(((values[i]! - low) / (high - low)) * kBins))
    binWeight[b]! += importance[i]!
    binSum[b]! += importance[i]! * values[i]!
  }
  // Sums over the bins before each, empty ones left out.
  const weight = [0]
  const sum = [0]
  binWeight.forEach((w, b) => {
    if (w === 0) return
    weight.push(weight[weight.length - 1]! + w)
    sum.push(sum[sum.length - 1]! + binSum[b]!)
  })
  const bins = weight.length - 1
  const count = Math.min(clusters, bins)
  /** What one value for the bins [i, j) takes off the error of none. */
  const gain = (i: number, j: number): number => (sum[j]! - sum[i]!) ** 2 / (weight[j]! - weight[i]!)
  let best = Float64Array.from({ length: bins + 1 }, (_, j) => (j === 0 ? 0 : gain(0, j)))
  const cuts: Int32Array[] = [new Int32Array(bins + 1)]
  for (let k = 1; k < count; k++) {
    const before = best
    const next = new Float64Array(bins + 1).fill(-Infinity)
    const cut = new Int32Array(bins + 1)
    // The best last cut moves only right with the end: halving the ends halves the cuts to try.
    const solve = (from: number, to: number, first: number, last: number): void => {
      if (from > to) return
      const j = (from + to) >> 1
      for (let i = Math.max(k, first); i <= Math.min(last, j - 1); i++) {
        const g = before[i]! + gain(i, j)
        if (g > next[j]!) {
          next[j] = g
          cut[j] = i
        }
      }
      solve(from, j - 1, first, cut[j]!)
      solve(j + 1, to, cut[j]!, last)
    }
    solve(k + 1, bins, k, bins - 1)
    best = next
    cuts.push(cut)
  }
  const means = new Float32Array(count)
  for (let k = count - 1, j = bins; k >= 0; k--) {
    const i = k === 0 ? 0 : cuts[k]![j]!
    means[k] = (sum[j]! - sum[i]!) / (weight[j]! - weight[i]!)
    j = i
  }
  return Float32Array.from(new Set(means.sort()))
}

/** Puts indices, table and the nodes that look up in the weight's place; readers keep its name. The nodes go before all others. */
function replace({ graph, initializer }: Weight, { table, bits, perByte, indices }: Shared): Node[] {
  const { name, dims } = initializer
  if (graph.isInput(name)) graph.inputs = graph.inputs.filter((i) => i.name !== name)
  graph.initializers.delete(name)
  graph.valueInfo.delete(name)
  const codes = graph.uniqueName(`${name}_q`)
  const book = graph.uniqueName(`${name}_codebook`)
  const cast = graph.uniqueName(`${name}_i`)
  const node = (opType: string, inputs: string[], output: string, attributes = {}): Node =>
    new Node({ opType, inputs, outputs: [output], attributes })
  const kInt32 = 6
  const add = (tensor: Initializer): void => void graph.addInitializer(tensor)
  if (perByte === 1) {
    add(new Initializer(codes, 'uint8', dims, indices))
    add(Initializer.from(book, { type: 'float32', dims: [table.length], data: table }))
    return [
      node('Cast', [codes], cast, { to: attribute.int(kInt32) }),
      node('Gather', [book, cast], name, { axis: attribute.int(0) }),
    ]
  }
  const last = dims.at(-1)!
  const packed = last % perByte === 0 ? [...dims.slice(0, -1), last / perByte] : [sizeOf(dims) / perByte]
  const shape = graph.uniqueName(`${name}_shape`)
  const parts = graph.uniqueName(`${name}_f`)
  add(new Initializer(codes, 'uint8', packed, indices))
  add(Initializer.from(book, { type: 'float32', dims: [256, perByte], data: tableOf(planeOf(table, bits, perByte)) }))
  add(Initializer.from(shape, { type: 'int64', dims: [dims.length], data: BigInt64Array.from(dims, BigInt) }))
  return [
    node('Cast', [codes], cast, { to: attribute.int(kInt32) }),
    node('Gather', [book, cast], parts, { axis: attribute.int(0) }),
    node('Reshape', [parts, shape], name),
  ]
}

function summarize(layers: readonly LayerReport[], { bits, weighting }: ResolvedCodebook): string {
  const done = layers.filter((l) => l.action === 'quantized')
  const kept = layers.length - done.length
  const sum = (pick: (l: LayerReport) => number): number => done.reduce((total, l) => total + pick(l), 0)
  return (
    `Shared ${2 ** bits} values in each of ${done.length} of ${layers.length} weights${weighting === 'inputs' ? ', errors weighed by inputs' : ''}: ` +
    `${bytes(sum((l) => l.bytesBefore))} became ${bytes(sum((l) => l.bytesAfter))}${kept ? `; ${kept} stayed float` : ''}.`
  )
}

const kKeys = ['step', 'bits', 'init', 'seed', 'weighting', 'zeros', 'maxError', 'nonFinite', 'layers'] as const

function resolveCodebook(value: object, parameter: string): ResolvedCodebook {
  const given = options(value, parameter, kKeys)
  const bits = given.bits === undefined ? 5 : integer(given.bits, `${parameter}.bits`, 1, 8)
  const init = given.init === undefined ? 'linear' : oneOf(given.init, `${parameter}.init`, ['linear', 'density', 'k-means++'])
  return {
    step: 'codebook',
    bits,
    init,
    seed: given.seed === undefined ? 0 : integer(given.seed, `${parameter}.seed`, 0, 2 ** 32 - 1),
    weighting: given.weighting === undefined ? 'none' : oneOf(given.weighting, `${parameter}.weighting`, ['none', 'inputs']),
    zeros: given.zeros === undefined ? 'keep' : oneOf(given.zeros, `${parameter}.zeros`, ['keep', 'any']),
    maxError: given.maxError === undefined ? kMaxError[bits]! : finite(given.maxError, `${parameter}.maxError`, 0),
    nonFinite: given.nonFinite === undefined ? 'error' : oneOf(given.nonFinite, `${parameter}.nonFinite`, ['error', 'keep']),
    layers: parseSelector(given.layers, `${parameter}.layers`),
  }
}
