import { WhittleError } from '../../errors'
import { mask, type Pattern } from '../../kernels/select'
import { Initializer } from '../../model/graph'
import type { Model } from '../../model/model'
import type { Weight } from '../../model/weights'
import type { LayerReport } from '../../report/types'
import { relativeError, sparsityOf, nonFiniteText, type Scratch } from '../computed'
import { fromRows, moments, toRows, type LayerMoments, type Moments, type RowLayout } from '../moments'
import { describeWeight, type Context } from '../passes/pass'
import { ease, paged, pagedFloats, touched } from '../paged'
import { permutedBoth } from './gptq'
import { diagonalOf, inverseFactor } from './linear'
import { inverseDiagonal, refit } from './obs'
import { differences, sparsegpt, type SecondPattern } from './sparsegpt'
import { layerError } from './update'

/** @internal What pruning with calibration inputs needs of a step. */
export interface CalibratedPrune {
  /** Or, for every weight by its name, what a scan found. */
  readonly sparsity: number | 'auto'
  readonly target: number
  readonly pattern: Exclude<Pattern, 'channel'>
  readonly scope: 'uniform' | 'balanced'
  readonly criterion: 'l1' | 'l2' | 'random' | 'sensitivity' | 'wanda' | 'obd' | 'obs' | 'sparsegpt'
  readonly along: 'reduction' | 'inputs'
  readonly seed: number
  readonly update: boolean
  readonly damping: number
  readonly sequential: boolean
}

/** Gradients of the loss by weight name, as the tensors lie. */
export type Gradients = (weight: string) => Float32Array | undefined

/** Times that the model is run again while its layers change; more would cost more than it finds. */
const kBlocks = 8

/** @internal Prunes the chosen weights in the order of the graph, with the second moments of their inputs. */
export async function pruneCalibrated(model: Model, chosen: readonly Weight[], step: CalibratedPrune, gradients: Gradients, context: Context): Promise<LayerReport[]> {
  const { run, calibration } = context
  const ratios = step.sparsity === 'auto' ? await scan(model, chosen, step, gradients, context) : undefined
  const layers: LayerReport[] = []
  const block = step.sequential ? Math.max(1, Math.ceil(chosen.length / kBlocks)) : Infinity
  // Without the sequence all layers see the inputs that they had before.
  const seen = step.sequential ? model : model.clone()
  for await (const found of moments(seen, chosen, calibration!, { run, block })) {
    const { weight } = found
    await run.tell('prune', layers.length, chosen.length, weight.name)
    const base = describeWeight(weight)
    const matrix = matrixOf(found, step, gradients, context.memory.scratch)
    const kept = (reason: string): void => void layers.push({ ...base, action: 'kept', reason, bytesAfter: base.bytesBefore })
    if (typeof matrix === 'string') {
      kept(matrix)
      continue
    }
    const ratio = ratios ? ratios.get(weight.initializer.name)! : (step.sparsity as number)
    if (ratio === 0) {
      kept('the scan found it too sensitive')
      continue
    }
    const solved = solve(matrix, step, ratio, layers.length)
    ease()
    const before = context.memory.scratch.read(weight.initializer).data as Float32Array
    const data = matrix.restore(solved.rows)
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
    const { initializer, graph } = weight
    graph.setInitializer(initializer.name, new Initializer(initializer.name, 'float32', initializer.dims, context.memory.keep.hold(bytes)))
    const all = matrix.spread()
    layers.push({
      ...base,
      action: 'pruned',
      bytesAfter: base.bytesBefore,
      sparsity: sparsityOf(data),
      error: relativeError(before, data),
      outputError: all > 0 ? solved.error / all : 0,
    })
  }
  await run.tell('prune', chosen.length, chosen.length)
  return layers
}

/** A weight as the patterns see it: [groups · outputs, size], with the moments of each group. */
interface Matrix {
  readonly name: string
  readonly rows: Float32Array
  readonly gradients: Float32Array | undefined
  readonly groups: number
  readonly outputs: number
  readonly size: number
  hessian(group: number): Float64Array
  /** Σ y² of the outputs about their means: what they tell apart. */
  spread(): number
  /** As `inverseFactor` gives it. */
  factor(group: number): Float64Array
  restore(rows: Float32Array): Float32Array
}

/** Valid until the scratch is used for another weight. */
function matrixOf({ weight, layout, moments: m, reason }: LayerMoments, step: CalibratedPrune, gradients: Gradients, scratch: Scratch): Matrix | string {
  const { initializer } = weight
  if (initializer.type !== 'float32') return `${initializer.type} weights are not pruned`
  if (!m || !layout) return reason ?? 'calibration gave it no inputs'
  const { groups, outputs, size } = layout
  const taps = weight.node.is('Conv', 'ConvTranspose') ? initializer.dims.slice(2).reduce((a, b) => a * b, 1) : 1
  const turn = step.along === 'inputs' && taps > 1 && step.pattern !== 'unstructured' ? taps : 1
  const refusal = unsuited(step.pattern, groups * outputs, size, size / turn)
  if (refusal) return refusal
  const data = scratch.read(initializer).data as Float32Array
  nonFiniteText(initializer.name, data)
  // Channels behind taps, so that groups of channels are neighbours.
  const order = turn > 1 ? Int32Array.from({ length: size }, (_, i) => (i % (size / turn)) * turn + Math.floor(i / (size / turn))) : undefined
  const factors: Float64Array[] = []
  const turned: Float64Array[] = []
  const trusted = Math.min(1, m.rows / (2 * size))
  const given = (group: number): Float64Array => shrunk(m.hessian.subarray(group * size * size, (group + 1) * size * size), size, trusted)
  const hessian = (group: number): Float64Array => (turned[group] ??= order ? permutedBoth(given(group), size, order) : given(group))
  const gradient = gradients(initializer.name)
  const rowsOf = (values: Float32Array): Float32Array => reordered(toRows(values, layout), size, order, true)
  const rows = rowsOf(data)
  return {
    name: initializer.name,
    rows,
    gradients: gradient && rowsOf(gradient),
    groups,
    outputs,
    size,
    hessian,
    spread: () => spreadOf(order ? toRows(data, layout) : rows, layout, m),
    factor: (group) => (factors[group] ??= inverseFactor(hessian(group), size, step.damping).factor),
    restore: (rows) => restored(rows, layout, order),
  }
}

/** Where the outputs do not vary at all, their squares stand in. */
function spreadOf(rows: Float32Array, { outputs, size }: RowLayout, { hessian, sum, rows: count }: Moments): number {
  let all = 0
  let spread = 0
  for (let g = 0, r = 0; r < rows.length / size; g++) {
    const part = rows.subarray(r * size, (r + outputs) * size)
    const energy = layerError(part, outputs, size, hessian.subarray(g * size * size, (g + 1) * size * size))
    let constant = 0
    for (let i = 0; i < outputs; i++, r++) {
      let mean = 0
      for (let j = 0; j < size; j++) mean += part[i * size + j]! * sum[g * size + j]!
      touched(4 * size)
      constant += (mean * mean) / count
    }
    all += energy
    spread += Math.max(0, energy - constant)
  }
  return spread > 1e-6 * all ? spread : all
}

/**
 * Moments of fewer vectors than twice their features hold accidents of those vectors, which a fit would learn by heart: what
 * lies beside the diagonal counts for less then.
 */
function shrunk(hessian: Float64Array, n: number, trusted: number): Float64Array {
  if (trusted === 1) return hessian
  const out = paged('float64', n * n, 'hessian') as Float64Array
  for (let r = 0, i = 0; r < n; r++) {
    for (const end = i + n; i < end; i++) out[i] = hessian[i]! * trusted
    out[r * n + r] = hessian[r * n + r]!
    touched(16 * n)
  }
  return out
}

function restored(rows: Float32Array, layout: RowLayout, order: Int32Array | undefined): Float32Array {
  const data = fromRows(reordered(rows, layout.size, order, false), layout)
  // Zeros are +0.
  for (let i = 0; i < data.length;) {
    for (const end = Math.min(data.length, i + layout.size); i < end; i++) if (data[i] === 0) data[i] = 0
    touched(4 * layout.size)
  }
  return data
}

function reordered(rows: Float32Array, size: number, order: Int32Array | undefined, forward: boolean): Float32Array {
  if (!order) return rows
  const out = pagedFloats(rows.length)
  for (let base = 0; base < rows.length; base += size) {
    touched(8 * size)
    for (let i = 0; i < size; i++)
      if (forward) out[base + i] = rows[base + order[i]!]!
      else out[base + order[i]!] = rows[base + i]!
  }
  return out
}

/** Why a pattern does not suit a matrix; `run` is the length along which its columns may lie together. */
function unsuited(pattern: CalibratedPrune['pattern'], rows: number, size: number, run: number): string | undefined {
  if (pattern === 'unstructured') return undefined
  if (typeof pattern === 'string') {
    const m = Number(pattern.split(':')[1])
    return run % m ? (run === size ? `${m} does not divide its reduction of ${size}` : `${m} does not divide its ${run} input channels`) : undefined
  }
  const [r, c] = pattern.block
  return rows % r || run % c ? `blocks of ${r}×${c} do not divide ${rows} outputs × ${run}` : undefined
}

interface Solved {
  readonly rows: Float32Array
  /** tr(ΔW H ΔWᵀ) over all groups. */
  readonly error: number
}

/** `iterations` of the fit, where it is not exact. */
function solve(matrix: Matrix, step: CalibratedPrune, sparsity: number, index: number, iterations?: number): Solved {
  const { rows, groups, outputs, size, hessian } = matrix
  const part = outputs * size
  const { pattern } = step
  const height = typeof pattern === 'object' ? pattern.block[0] : 1
  const result = paged('float32', rows.length, matrix.name) as Float32Array
  // A mask of its own for every kernel of a depthwise convolution would keep the worst of some and lose the best of others.
  if (step.criterion === 'sparsegpt' && outputs > 1 && outputs % height === 0) {
    let error = 0
    for (let g = 0; g < groups; g++) {
      const found = sparsegpt(rows.subarray(g * part, (g + 1) * part), outputs, size, hessian(g), {
        pattern: secondPattern(pattern),
        sparsity,
        balanced: step.scope === 'balanced',
        factor: matrix.factor(g),
      })
      put(result, g * part, found.weights, size)
      error += found.error
    }
    return { rows: result, error }
  }
  const scores = { type: 'float32' as const, dims: [groups * outputs, size], data: scoresOf(matrix, step, index) }
  const kept = mask(scores, typeof pattern === 'string' && pattern !== 'unstructured' ? { pattern } : { pattern, sparsity, scope: step.scope }).data
  for (let g = 0; g < groups; g++) {
    const w = rows.subarray(g * part, (g + 1) * part)
    const own = kept.subarray(g * part, (g + 1) * part)
    if (step.update) put(result, g * part, refit(w, own, outputs, size, hessian(g), step.damping, iterations), size)
    else
      for (let i = 0; i < part;) {
        for (const end = i + size; i < end; i++) result[g * part + i] = own[i] ? w[i]! : 0
        touched(9 * size)
      }
  }
  return { rows: result, error: energy(matrix, differences(rows, result, size)) }
}

/** Copies whole rows. */
function put(out: Float32Array, at: number, rows: Float32Array, size: number): void {
  for (let i = 0; i < rows.length; i += size) {
    out.set(rows.subarray(i, i + size), at + i)
    touched(8 * size)
  }
}

function secondPattern(pattern: CalibratedPrune['pattern']): SecondPattern {
  if (typeof pattern !== 'string' || pattern === 'unstructured') return pattern
  const [n, m] = pattern.split(':').map(Number) as [number, number]
  return { n, m }
}

/** tr(W H Wᵀ) over all groups. */
function energy({ groups, outputs, size, hessian }: Matrix, rows: Float32Array): number {
  let sum = 0
  for (let g = 0; g < groups; g++) sum += layerError(rows.subarray(g * outputs * size, (g + 1) * outputs * size), outputs, size, hessian(g))
  return sum
}

/** One score for each weight, float32. */
function scoresOf(matrix: Matrix, step: CalibratedPrune, index: number): Float32Array {
  const { rows, groups, outputs, size } = matrix
  const out = paged('float32', rows.length, matrix.name) as Float32Array
  const factors = new Float64Array(size)
  const squared = step.criterion !== 'l1' && step.criterion !== 'wanda'
  for (let g = 0; g < groups; g++) {
    const h = matrix.hessian(g)
    const inverse = step.criterion === 'obs' || step.criterion === 'sparsegpt' ? inverseDiagonal(matrix.factor(g), size) : undefined
    const diagonal = diagonalOf(h, size)
    for (let j = 0; j < size; j++)
      factors[j] = inverse ? 0.5 / inverse[j]! : step.criterion === 'wanda' ? Math.sqrt(diagonal[j]!) : step.criterion === 'obd' ? 0.5 * diagonal[j]! : 1
    for (let r = g * outputs; r < (g + 1) * outputs; r++) {
      touched(8 * size)
      for (let j = 0, i = r * size; j < size; j++, i++) {
        const w = rows[i]!
        out[i] = Math.min(3e38, factors[j]! * (squared ? w * w : Math.abs(w)))
      }
    }
  }
  if (step.criterion === 'sensitivity') for (let i = 0; i < out.length; i++) out[i] = Math.min(3e38, Math.abs(matrix.gradients![i]! * rows[i]!))
  if (step.criterion === 'random') for (let i = 0; i < out.length; i++) out[i] = random(step.seed + index * 0x9e3779b9, i)
  return out
}

/** Uniform in [0, 1) by seed and index. */
function random(seed: number, i: number): number {
  let x = Math.imul(seed ^ (i * 0x85ebca6b), 0xc2b2ae35)
  x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d)
  x = Math.imul(x ^ (x >>> 12), 0x297a2d39)
  return ((x ^ (x >>> 15)) >>> 8) / 2 ** 24
}

/** Ratios that a scan tries. */
const kRatios = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9] as const

/** Enough to compare layers by. */
const kScanIterations = 8

interface Segment {
  readonly name: string
  readonly elements: number
  readonly to: number
  readonly slope: number
}

/**
 * A ratio for each weight, so that together `target` of all chosen values go and the sum of the layers' output errors, each
 * against the variance of the layer's outputs, is least: each layer's errors at nine ratios, their lower hull, and its cheapest stretches first.
 */
async function scan(model: Model, chosen: readonly Weight[], step: CalibratedPrune, gradients: Gradients, { run, calibration, memory }: Context): Promise<Map<string, number>> {
  const segments: Segment[] = []
  const ratios = new Map<string, number>()
  let possible = 0
  let index = 0
  const reasons = new Set<string>()
  for await (const found of moments(model, chosen, calibration!, { run })) {
    const { initializer } = found.weight
    await run.tell('calibrate', index, chosen.length, found.weight.name)
    const matrix = matrixOf(found, step, gradients, memory.scratch)
    ratios.set(initializer.name, 0)
    if (typeof matrix === 'string') reasons.add(matrix)
    else {
      const all = matrix.spread()
      const errors = kRatios.map((ratio) => (ratio === 0 || !(all > 0) ? 0 : solve(matrix, step, ratio, index, kScanIterations).error / all))
      const elements = initializer.elementCount
      possible += elements
      for (const [from, to] of lowerHull(errors))
        segments.push({ name: initializer.name, elements: elements * (kRatios[to]! - kRatios[from]!), to: kRatios[to]!, slope: (errors[to]! - errors[from]!) / (elements * (kRatios[to]! - kRatios[from]!)) })
    }
    index++
  }
  const total = chosen.reduce((sum, w) => sum + w.initializer.elementCount, 0)
  let left = step.target * total
  const most = kRatios[kRatios.length - 1]!
  if (left > most * possible)
    throw new WhittleError('ERR_RANGE', 'target', `target: expected at most ${((most * possible) / Math.max(1, total)).toFixed(3)}, what the chosen layers can lose${reasons.size ? ` (of some: ${[...reasons].join('; ')})` : ''}, got ${step.target}`)
  // Stable: equal slopes in the order of the graph. A hull's stretches rise, so that each layer's come in their order.
  segments.sort((a, b) => a.slope - b.slope)
  for (const { name, elements, to } of segments) {
    if (left <= 0) break
    const share = Math.min(1, left / elements)
    const from = ratios.get(name)!
    ratios.set(name, share === 1 ? to : from + (to - from) * share)
    left -= elements * share
  }
  return ratios
}

/** Stretches [from, to] of indices whose slopes rise. */
function lowerHull(values: readonly number[]): (readonly [number, number])[] {
  const hull: number[] = []
  values.forEach((v, i) => {
    while (hull.length > 1) {
      const [a, b] = [hull[hull.length - 2]!, hull[hull.length - 1]!]
      if ((values[b]! - values[a]!) * (i - a) < (v - values[a]!) * (b - a)) break
      hull.pop()
    }
    hull.push(i)
  })
  return hull.slice(1).map((to, i) => [hull[i]!, to] as const)
}
