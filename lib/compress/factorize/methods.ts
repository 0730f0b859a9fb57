import { svd } from '../../kernels'
import { cp, nmf, separable, tucker, vbmfRank } from '../../kernels/factor'
import { lowRankIn } from '../../kernels/lowrank'
import { sizeOf } from '../../tensor'
import { transposed } from '../computed'
import { ease, paged, touched } from '../paged'
import type { FactorLayer } from './layer'

/** How a weight is taken apart. */
export type Method = 'svd' | 'nmf' | 'tucker' | 'cp' | 'separable' | 'decouple'

/** What decides the ranks: one of these. */
export interface RankRule {
  readonly rank?: number | 'vbmf'
  readonly energy?: number
  readonly error?: number
  readonly ratio?: number
}

/** Which part of the original's kernel, strides, pads and dilations one convolution of a chain has. */
export type Extent = 'none' | 'all' | 'rows' | 'columns'

/** One of the layers that replace one, in the order in which they are computed. */
export interface Stage {
  readonly dims: readonly number[]
  readonly data: Float32Array
  readonly extent: Extent
  readonly group: number
}

export interface Factors {
  readonly method: Method
  readonly ranks: readonly number[]
  readonly stages: readonly Stage[]
  /** ‖W − Ŵ‖ / ‖W‖ of the product of the factors. */
  readonly error: number
  /** Relative error of the layer's outputs on the calibration inputs, where these were known. */
  readonly outputError?: number
}

export interface MethodOptions {
  readonly rule: RankRule
  readonly seed: number
  /** Second moments of the layer's inputs, summed over so many of them. */
  readonly moments?: { readonly hessian: Float64Array; readonly sampled: number }
  readonly threads?: number
}

type Values = Float32Array

/** The method that 'auto' stands for. */
export function methodFor({ conv }: FactorLayer): Method {
  if (!conv || sizeOf(conv.kernel) === 1) return 'svd'
  return conv.group === 1 ? 'tucker' : 'separable'
}

/** Takes a weight apart; a reason where the method does not suit it. */
export function factorize(
  values: Values,
  layer: FactorLayer,
  method: Method,
  options: MethodOptions,
): Factors | string {
  const { conv } = layer
  const one = conv && sizeOf(conv.kernel) === 1
  if (conv && conv.group !== 1 && !(method === 'separable' && conv.inputs === 1 && conv.outputs === conv.group))
    return conv.inputs === 1 && conv.outputs === conv.group
      ? `${method} does not take depthwise kernels apart`
      : 'it is a grouped convolution'
  if (method === 'svd') return bySvd(values, layer, options)
  if (method === 'nmf') return byNmf(values, layer, options)
  if (!conv) return `${method} takes convolutions apart`
  if (one) return `${method} takes kernels larger than 1×1 apart`
  if (method === 'tucker') return byTucker(values, conv, options)
  if (conv.kernel.length !== 2) return `${method} takes kernels of two dimensions apart`
  if (method === 'decouple') return byDecoupling(values, conv, options)
  if (conv.kernel.some((k) => k === 1)) return `${method} takes kernels apart that are larger than 1 both ways`
  return method === 'cp' ? byCp(values, conv, options) : bySeparation(values, conv, options)
}

const cut = (rank: number, most: number): number => Math.max(1, Math.min(most, Math.floor(rank)))

/** The least rank from `low` to `high` whose relative error is at most `allowed`, by halving; `high` where none is. */
function leastRank(low: number, high: number, allowed: number, errorOf: (rank: number) => number): number {
  while (low < high) {
    const middle = (low + high) >> 1
    if (errorOf(middle) <= allowed) high = middle
    else low = middle + 1
  }
  return low
}

const kTooFar = 'no rank that saves anything is near enough'

/** {@link leastRank} where every look at an error is dear; nothing where no rank is near enough. */
const searched = (low: number, high: number, allowed: number, errorOf: (rank: number) => number): number | undefined =>
  low > high || errorOf(high) > allowed ? undefined : leastRank(low, high, allowed, errorOf)

/** Multiplications that the iterations of one factorization may take, and those of one that only tells how good a rank is. */
const kWork = 1e11
const kProbe = kWork / 8

/** As many iterations as `work` has room for: large layers gain little by those after the first ten. */
const iterationsIn = (work: number, each: number, most: number): number =>
  Math.max(10, Math.min(most, Math.floor(work / each)))

/** The least rank at which singular values leave out no more than `allowed`: no factors of fewer are nearer. */
function floorOf(singular: ArrayLike<number>, allowed: number): number {
  const squares = Array.from(singular, (v) => v * v)
  const total = squares.reduce((sum, v) => sum + v, 0)
  let [rank, lost] = [squares.length, 0]
  while (rank > 1 && lost + squares[rank - 1]! <= allowed * allowed * total) lost += squares[--rank]!
  return rank
}

/** Relative error that a rule allows; nothing where it says something else. */
const allowedBy = ({ energy, error }: RankRule): number | undefined =>
  energy !== undefined ? Math.sqrt(1 - energy) : error

/** Two matrices as the layers in whose place they come. */
function pair(layer: FactorLayer, a: Values, b: Values, rank: number): Stage[] {
  const { rows, columns, conv, index, inputs } = layer
  if (conv) {
    const ones = conv.kernel.map(() => 1)
    return [
      { dims: [rank, conv.inputs, ...conv.kernel], data: b, extent: 'all', group: 1 },
      { dims: [rows, rank, ...ones], data: a, extent: 'none', group: 1 },
    ]
  }
  const left: Stage = { dims: [rows, rank], data: a, extent: 'none', group: 1 }
  const right: Stage = { dims: [rank, columns], data: b, extent: 'none', group: 1 }
  // The factor that meets the inputs comes first.
  return index === 1 && inputs === 'rows' ? [left, right] : [right, left]
}

const kNoise = 'nothing in it stands out of its noise'

function bySvd(values: Values, layer: FactorLayer, { rule, seed, moments }: MethodOptions): Factors | string {
  const { rows, columns, inputs } = layer
  const w = { type: 'float32' as const, dims: [rows, columns], data: values }
  const thin = Math.min(rows, columns)
  const signal = rule.rank === 'vbmf' ? vbmfRank(svd(w, { vectors: false }).s.data, [rows, columns]).rank : 1
  if (signal === 0) return kNoise
  const ranked =
    rule.rank === 'vbmf'
      ? { rank: signal }
      : rule.rank !== undefined
        ? { rank: cut(rule.rank, thin) }
        : rule.ratio !== undefined
          ? { rank: cut((rule.ratio * rows * columns) / (rows + columns), thin) }
          : rule.energy !== undefined
            ? { energy: rule.energy }
            : { maxError: rule.error! }
  const found = lowRankIn({ allocate: paged, ease }, w, {
    ...ranked,
    seed,
    inputs,
    ...(moments ? whitening(moments, 'energy' in ranked || 'maxError' in ranked) : {}),
  })
  return {
    method: 'svd',
    ranks: [found.rank],
    stages: pair(layer, found.a.data as Values, found.b.data as Values, found.rank),
    error: found.relativeError,
    ...(moments ? { outputError: found.outputError } : {}),
  }
}

type Moments = NonNullable<MethodOptions['moments']>

/**
 * Few inputs span few directions, and a rank that holds all of their energy would hold little of other inputs': where a rank follows from
 * energy or error, the moments are shrunk towards a multiple of the identity as far as their number says.
 */
function whitening({ hessian, sampled }: Moments, shrink: boolean): object {
  const side = Math.round(Math.sqrt(hessian.length))
  const share = shrink ? shrinkage(hessian, side, sampled) : 0
  return {
    secondMoments: { type: 'float64' as const, dims: [side, side], data: hessian },
    ...(share > 0 ? { damping: share < 0.5 ? share / (1 - share) : 1 } : {}),
  }
}

/** The share of the identity in Chen et al., Shrinkage Algorithms for MMSE Covariance Estimation (OAS), 2010. */
function shrinkage(hessian: Float64Array, side: number, vectors: number): number {
  let [trace, squares] = [0, 0]
  for (let i = 0; i < side; i++) trace += hessian[i * side + i]!
  for (let i = 0; i < hessian.length;) {
    for (const end = i + side; i < end; i++) squares += hessian[i]! * hessian[i]!
    touched(8 * side)
  }
  const above = (1 - 2 / side) * squares + trace ** 2
  const below = (vectors + 1 - 2 / side) * (squares - trace ** 2 / side)
  return below > 0 ? Math.min(1, above / below) : 0
}

function byNmf(values: Values, layer: FactorLayer, { rule, seed, threads }: MethodOptions): Factors | string {
  if (values.some((v) => v < 0)) return 'it has negative values'
  const { rows, columns } = layer
  const w = { type: 'float32' as const, dims: [rows, columns], data: values }
  const thin = Math.min(rows, columns)
  const run = (rank: number, work = kWork) =>
    nmf(w, { rank, seed, iterations: iterationsIn(work, 2 * rows * columns * rank, 1000), ...(threads ? { threads } : {}) })
  const allowed = allowedBy(rule)
  const spectrum = rule.rank === 'vbmf' || allowed !== undefined ? svd(w, { vectors: false }).s.data : []
  const signal = rule.rank === 'vbmf' ? vbmfRank(spectrum, [rows, columns]).rank : 1
  if (signal === 0) return kNoise
  const saving = cut(Math.ceil((rows * columns) / (rows + columns)) - 1, thin)
  const rank =
    rule.rank === 'vbmf'
      ? signal
      : rule.rank !== undefined
        ? cut(rule.rank, thin)
        : rule.ratio !== undefined
          ? cut((rule.ratio * rows * columns) / (rows + columns), thin)
          : searched(floorOf(spectrum, allowed!), saving, allowed!, (r) => run(r, kProbe).relativeError)
  if (rank === undefined) return kTooFar
  const found = run(rank)
  if (allowed !== undefined && found.relativeError > allowed) return kTooFar
  return {
    method: 'nmf',
    ranks: [rank],
    stages: pair(layer, found.w.data, found.h.data, rank),
    error: found.relativeError,
  }
}

type Conv = NonNullable<FactorLayer['conv']>

function byTucker(values: Values, { outputs, inputs, kernel }: Conv, { rule, threads }: MethodOptions): Factors {
  const taps = sizeOf(kernel)
  const given = (): number[] => {
    if (typeof rule.rank === 'number') return [cut(rule.rank, outputs), cut(rule.rank, inputs)]
    // outputs·s and inputs·s channels such that the three kernels hold `ratio` of the numbers.
    const [a, b, c] = [outputs * inputs * taps, outputs ** 2 + inputs ** 2, -rule.ratio! * outputs * inputs * taps]
    const s = (-b + Math.sqrt(b * b - 4 * a * c)) / (2 * a)
    return [cut(outputs * s, outputs), cut(inputs * s, inputs)]
  }
  const allowed = allowedBy(rule)
  const ranks =
    rule.rank === 'vbmf'
      ? { ranks: 'vbmf' as const }
      : allowed === undefined
        ? { ranks: given() }
        : // What the two modes lose adds up at most.
          { energy: Math.max(1e-12, 1 - allowed ** 2 / 2) }
  const found = tucker(
    { type: 'float32', dims: [outputs, inputs, ...kernel], data: values },
    // From HOSVD on, a sweep gains little and the first ones nearly all of it.
    { modes: [0, 1], ...ranks, tolerance: 1e-4, iterations: 50, ...(threads ? { threads } : {}) },
  )
  const [r0, r1] = found.ranks as [number, number]
  const [u, v] = [found.factors[0]!, found.factors[1]!]
  const ones = kernel.map(() => 1)
  return {
    method: 'tucker',
    ranks: [r0, r1],
    stages: [
      { dims: [r1, inputs, ...ones], data: transposed(v.data, inputs, r1), extent: 'none', group: 1 },
      { dims: [r0, r1, ...kernel], data: found.core.data, extent: 'all', group: 1 },
      { dims: [outputs, r0, ...ones], data: u.data, extent: 'none', group: 1 },
    ],
    error: found.relativeError,
  }
}

function byCp(
  values: Values,
  { outputs, inputs, kernel }: Conv,
  { rule, seed, threads }: MethodOptions,
): Factors | string {
  if (rule.rank === 'vbmf') return 'vbmf gives no ranks for cp'
  const [height, width] = kernel as [number, number]
  const dims = [outputs, inputs, height, width]
  const each = outputs + inputs + height + width
  const largest = Math.max(...dims)
  const most = Math.max(1, Math.min(sizeOf(dims) / largest, Math.ceil(sizeOf(dims) / each) - 1))
  const run = (rank: number, work = kWork) =>
    cp(
      { type: 'float32', dims, data: values },
      { rank, seed, iterations: iterationsIn(work, 2 * sizeOf(dims) * rank, 200), ...(threads ? { threads } : {}) },
    )
  const allowed = allowedBy(rule)
  // Factors of a rank are an unfolding's too. Ranks far over the channels are not tried: their least squares outgrow the layer.
  const least =
    allowed === undefined
      ? 1
      : floorOf(
          svd({ type: 'float32', dims: [outputs, inputs * height * width], data: values }, { vectors: false }).s.data,
          allowed,
        )
  const rank =
    rule.rank !== undefined
      ? cut(rule.rank, sizeOf(dims) / largest)
      : rule.ratio !== undefined
        ? cut((rule.ratio * sizeOf(dims)) / each, most)
        : searched(least, Math.min(most, Math.max(256, Math.ceil(1.5 * largest))), allowed!, (r) => run(r, kProbe).relativeError)
  if (rank === undefined) return kTooFar
  const found = run(rank)
  if (allowed !== undefined && found.relativeError > allowed) return kTooFar
  const [o, i, h, w] = found.factors.map((f) => f.data) as [Values, Values, Values, Values]
  // Each component's weight goes to all four in equal parts.
  const roots = Float64Array.from(found.weights.data, (x) => Math.sqrt(Math.sqrt(x)))
  const scaled = (f: Values): Values => f.map((x, k) => x * roots[k % rank]!)
  return {
    method: 'cp',
    ranks: [rank],
    stages: [
      { dims: [rank, inputs, 1, 1], data: transposed(scaled(i), inputs, rank), extent: 'none', group: 1 },
      { dims: [rank, 1, height, 1], data: transposed(scaled(h), height, rank), extent: 'rows', group: rank },
      { dims: [rank, 1, 1, width], data: transposed(scaled(w), width, rank), extent: 'columns', group: rank },
      { dims: [outputs, rank, 1, 1], data: scaled(o), extent: 'none', group: 1 },
    ],
    error: found.relativeError,
  }
}

function bySeparation(
  values: Values,
  { outputs, inputs, group, kernel }: Conv,
  { rule, threads }: MethodOptions,
): Factors | string {
  const [height, width] = kernel as [number, number]
  const joint = group === 1
  const most = joint ? Math.min(inputs * height, outputs * width) : Math.min(height, width)
  if (rule.rank === 'vbmf' && !joint) return 'vbmf gives no ranks for depthwise kernels'
  const allowed = allowedBy(rule)
  const ranked =
    rule.rank !== undefined
      ? { rank: rule.rank === 'vbmf' ? ('vbmf' as const) : cut(rule.rank, most) }
      : allowed !== undefined
        ? { energy: Math.max(1e-12, 1 - allowed ** 2) }
        : {
            rank: cut(
              (rule.ratio! * outputs * inputs * height * width) /
                (inputs * height * (joint ? 1 : outputs) + outputs * width),
              most,
            ),
          }
  const found = separable(
    { type: 'float32', dims: [outputs, inputs, height, width], data: values },
    { ...ranked, scheme: joint ? 'joint' : 'channel', ...(threads ? { threads } : {}) },
  )
  return {
    method: 'separable',
    ranks: [found.rank],
    stages: [
      { dims: found.vertical.dims, data: found.vertical.data, extent: 'rows', group },
      { dims: found.horizontal.dims, data: found.horizontal.data, extent: 'columns', group },
    ],
    error: found.relativeError,
  }
}

/**
 * Network decoupling (Guo et al. 2018): each input channel's filters, a matrix [outputs, taps], are a few shared filters, which a
 * depthwise convolution applies, and their weights, which a 1×1 convolution sums.
 */
function byDecoupling(values: Values, { outputs, inputs, kernel }: Conv, { rule }: MethodOptions): Factors | string {
  if (rule.rank === 'vbmf') return 'vbmf gives no ranks for decouple'
  const taps = sizeOf(kernel)
  const most = Math.min(outputs, taps)
  const stack = new Float32Array(values.length)
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++)
      stack.set(values.subarray((o * inputs + i) * taps, (o * inputs + i + 1) * taps), (i * outputs + o) * taps)
  const {
    u,
    s,
    v,
    rank: full,
  } = svd(
    { type: 'float32', dims: [inputs, outputs, taps], data: stack },
    { rank: most, vectors: true, method: 'full' },
  )
  const lost = new Float64Array(full + 1)
  for (let k = full - 1; k >= 0; k--) {
    lost[k] = lost[k + 1]!
    for (let i = 0; i < inputs; i++) lost[k]! += (s.data[i * full + k] as number) ** 2
  }
  const errorOf = (rank: number): number => (lost[0]! > 0 ? Math.sqrt(lost[rank]! / lost[0]!) : 0)
  const allowed = allowedBy(rule)
  const rank =
    rule.rank !== undefined
      ? cut(rule.rank, full)
      : rule.ratio !== undefined
        ? cut((rule.ratio * outputs * taps) / (outputs + taps), full)
        : leastRank(1, full, allowed! + 1e-7, errorOf)
  const depthwise = new Float32Array(inputs * rank * taps)
  const pointwise = new Float32Array(outputs * inputs * rank)
  for (let i = 0; i < inputs; i++)
    for (let k = 0; k < rank; k++) {
      const root = Math.sqrt(s.data[i * full + k] as number)
      for (let t = 0; t < taps; t++)
        depthwise[(i * rank + k) * taps + t] = (v.data[(i * taps + t) * full + k] as number) * root
      for (let o = 0; o < outputs; o++)
        pointwise[(o * inputs + i) * rank + k] = (u.data[(i * outputs + o) * full + k] as number) * root
    }
  return {
    method: 'decouple',
    ranks: [rank],
    stages: [
      { dims: [inputs * rank, 1, ...kernel], data: depthwise, extent: 'all', group: inputs },
      { dims: [outputs, inputs * rank, 1, 1], data: pointwise, extent: 'none', group: 1 },
    ],
    error: errorOf(rank),
  }
}

/** Multiplications for one place of the output, strides considered: what comes before a stride is computed oftener. */
export function macsOf(stages: readonly Stage[], { conv }: FactorLayer): number {
  const strides = conv?.strides ?? []
  const left = [...strides]
  let macs = 0
  for (const { dims, extent } of stages) {
    if (extent === 'all') left.fill(1)
    if (extent === 'rows') left[0] = 1
    if (extent === 'columns') left[1] = 1
    macs += sizeOf(dims) * left.reduce((a, b) => a * b, 1)
  }
  return macs
}
