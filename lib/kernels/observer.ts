import { pin } from '../async'
import { WhittleError } from '../errors'
import { type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { fail, finite, integer, oneOf } from '../validate'
import { boundsOf, boundsOfAsync, countsOf, countsOfAsync, groupsOf } from './cuda/observer'
import { isDeviceTensor, type DeviceTensor } from './device'
import { entropyThreshold, folded, mseFraction, percentile, type Histogram } from './calibrate'
import { asParameters, grouped, prepareRanges, type QuantizationParameters } from './ranges'
import { codesOf, floatCode, kSchemeKeys, options, raw, run, runAsync, shapeArguments, type Codes, type Prepared, type Scheme, type Shape } from './scheme'

/** How an {@link Observer} turns what it saw into a range. */
export type ObserverMethod = 'minmax' | 'movingAverage' | 'percentile' | 'entropy' | 'mse'

/** Options of an {@link Observer}. */
export interface ObserverOptions extends Omit<Scheme, 'blockSize'> {
  /**
   * - `minmax` (default): the least and the greatest value of all
   * - `movingAverage`: least and greatest of each call, averaged: `m += averagingConstant · (new − m)`
   * - `percentile`: cuts off what lies outside `percentile`
   * - `entropy`: the threshold of |x| with the least KL divergence between values and codes; cuts off a thousandth at most
   * - `mse`: the part of the range with the least mean square error
   */
  readonly method?: ObserverMethod
  /** 50 to 100; of |x| if symmetric, else p and 100 − p of x. Default 99.99. */
  readonly percentile?: number
  /** Above 0, at most 1. Default 0.01. */
  readonly averagingConstant?: number
  /** Of the histogram that `percentile`, `entropy` and `mse` keep: a power of two from 256 to 65536. Default 8192, and
   * 2048 for each index of an axis. */
  readonly bins?: number
  readonly threads?: number
}

const kKeys = [
  ...kSchemeKeys.filter((k) => k !== 'blockSize'),
  'method',
  'percentile',
  'averagingConstant',
  'bins',
  'threads',
] as const

/** Exponent of the least power of two above |v|; −100 for 0 and all that is smaller. */
function exponentAbove(v: number): number {
  if (v === 0) return -100
  const bits = new Uint32Array(Float32Array.of(v).buffer)[0]!
  return Math.max(-100, ((bits >>> 23) & 255) - 126)
}

/**
 * Watches tensors go by and proposes scale and zero point for them: for a whole tensor, or for each index of an axis.
 * Memory is bounded: bounds, and for `percentile`, `entropy` and `mse` a histogram of fixed size whose range doubles as
 * needed, so that results of these are exact to one bin ({@link Observer.resolution}) only.
 *
 * @example
 * const observer = new Observer({ method: 'percentile', percentile: 99.9, type: 'uint8' })
 * for (const batch of batches) observer.observe(batch)
 * const q = quantize(x, observer.parameters())
 * @see Migacz 2017 (entropy); Wu et al., Integer Quantization for Deep Learning Inference, 2020
 */
export class Observer {
  readonly method: ObserverMethod
  private readonly codes: Codes
  private readonly axis: number | null
  private readonly percent: number
  private readonly constant: number
  private readonly bins: number
  private readonly threads: number
  private lo: Float32Array | undefined
  private hi: Float32Array | undefined
  private exponents: Int32Array | undefined
  private counts: Float64Array | undefined
  private seen = 0
  private last: Promise<unknown> = Promise.resolve()

  /** @throws {WhittleError} `ERR_RANGE`, `ERR_DTYPE` on an option */
  constructor(given?: ObserverOptions) {
    const o = options(given, 'options', kKeys)
    this.method =
      o.method === undefined ? 'minmax' : oneOf(o.method, 'method', ['minmax', 'movingAverage', 'percentile', 'entropy', 'mse'] as const)
    this.codes = codesOf(o, false)
    this.axis = o.axis === undefined || o.axis === null ? null : integer(o.axis, 'axis', -16, 15)
    this.percent = o.percentile === undefined ? 99.99 : finite(o.percentile, 'percentile', 50, 100)
    this.constant = o.averagingConstant === undefined ? 0.01 : finite(o.averagingConstant, 'averagingConstant', Number.MIN_VALUE, 1)
    this.bins = o.bins === undefined ? (this.axis === null ? 8192 : 2048) : integer(o.bins, 'bins', 256, 65536)
    if (!Number.isInteger(Math.log2(this.bins))) fail('ERR_RANGE', 'bins', 'a power of two', this.bins)
    this.threads = o.threads === undefined ? 0 : integer(o.threads, 'threads', 1, 256)
  }

  private get counting(): boolean {
    return this.method === 'percentile' || this.method === 'entropy' || this.method === 'mse'
  }

  /**
   * Takes in a tensor. A call that throws changes nothing.
   *
   * @param x float32, float16 or bfloat16; finite; or a {@link DeviceTensor} of these, of which bounds and counts alone come
   * to the CPU. With an axis, its length must be the same in every call.
   * @throws {WhittleError} `ERR_RANGE` on `x` for NaN or infinity; `ERR_SHAPE` where the axis' length differs
   */
  observe(x: TensorLike | TypedArray | DeviceTensor): this {
    if (isDeviceTensor(x)) {
      const { shape, size } = this.known(groupsOf(x, this.axis))
      if (size === 0) return this
      const { lo, hi } = boundsOf(x, shape)
      const factors = this.widen(lo, hi)
      if (factors) this.add(countsOf(x, shape, factors, this.bins))
      return this
    }
    const { x: read, shape, size } = this.known(grouped(x, this.axis))
    if (size === 0) return this
    const { lo, hi } = run(prepareRanges(read, shape, this.threads))
    const factors = this.widen(lo, hi)
    if (factors) this.add(run(this.prepareCounts(read, shape, factors)))
    return this
  }

  /** {@link observe} on another thread. Calls in flight are taken in in the order in which they were made. */
  async observeAsync(x: TensorLike | TypedArray | DeviceTensor): Promise<this> {
    if (isDeviceTensor(x)) {
      const { shape, size } = this.known(groupsOf(x, this.axis))
      if (size === 0) return this
      return this.inTurn(boundsOfAsync(x, shape), (factors) => countsOfAsync(x, shape, factors, this.bins))
    }
    const { x: given, shape, size } = this.known(grouped(x, this.axis))
    if (size === 0) return this
    const read = { ...given, data: pin(given.data) } // read twice, with turns of the event loop between
    return this.inTurn(runAsync(prepareRanges(read, shape, this.threads)), (factors) => runAsync(this.prepareCounts(read, shape, factors)))
  }

  private async inTurn(
    ranges: Promise<{ lo: Float32Array; hi: Float32Array }>,
    count: (factors: Float32Array) => Promise<Float64Array>,
  ): Promise<this> {
    const turn = this.last.then(async () => {
      const { lo, hi } = await ranges
      const factors = this.widen(lo, hi)
      if (factors) this.add(await count(factors))
    })
    this.last = turn.catch(() => undefined)
    await turn
    return this
  }

  private known<T extends { shape: Shape }>(got: T): T {
    if (this.lo && got.shape.count !== this.lo.length)
      throw new WhittleError('ERR_SHAPE', 'x.dims', `x.dims: expected ${this.lo.length} along axis ${this.axis} as before, got ${got.shape.count}`)
    return got
  }

  // Takes in the bounds, makes the histogram wide enough, and answers a factor for each group where it is to count.
  private widen(lo: Float32Array, hi: Float32Array): Float32Array | null {
    const n = lo.length
    if (this.lo && this.lo.length !== n) throw new WhittleError('ERR_SHAPE', 'x.dims', `x.dims: expected ${this.lo.length} along the axis as before, got ${n}`)
    const first = !this.lo
    const low = (this.lo ??= lo.slice())
    const high = (this.hi ??= hi.slice())
    this.seen++
    for (let i = 0; i < n && !first; i++) {
      if (this.method === 'movingAverage') {
        low[i] = low[i]! + this.constant * (lo[i]! - low[i]!)
        high[i] = high[i]! + this.constant * (hi[i]! - high[i]!)
      } else {
        low[i] = Math.min(low[i]!, lo[i]!)
        high[i] = Math.max(high[i]!, hi[i]!)
      }
    }
    if (!this.counting) return null
    const exponents = (this.exponents ??= new Int32Array(n).fill(-100))
    this.counts ??= new Float64Array(n * this.bins)
    const factors = new Float32Array(n)
    for (let i = 0; i < n; i++) {
      const want = exponentAbove(Math.max(-lo[i]!, hi[i]!))
      if (want > exponents[i]!) {
        merge(this.counts.subarray(i * this.bins, (i + 1) * this.bins), want - exponents[i]!)
        exponents[i] = want
      }
      factors[i] = 2 ** (Math.log2(this.bins / 2) - exponents[i]!)
    }
    return factors
  }

  private prepareCounts(x: Tensor, shape: Shape, factors: Float32Array): Prepared<Float64Array> {
    const counts = new Float64Array(shape.count * this.bins)
    return {
      call: 'quantizeHistogram',
      numbers: [...shapeArguments(shape), floatCode(x.type), this.bins, this.threads],
      operands: [{ view: raw(x) }, { view: factors }, { view: counts, out: { parameter: 'x', fresh: true } }],
      result: () => counts,
    }
  }

  private add(counts: Float64Array): void {
    const own = this.counts as Float64Array
    for (let i = 0; i < counts.length; i++) own[i]! += counts[i]!
  }

  private histogram(i: number): Histogram {
    return {
      counts: (this.counts as Float64Array).subarray(i * this.bins, (i + 1) * this.bins),
      width: this.resolution[i]!,
      min: this.lo![i]!,
      max: this.hi![i]!,
    }
  }

  /** Width of a histogram's bin, one for each group: results of `percentile` differ by this much at most. */
  get resolution(): Float64Array {
    if (!this.counting || !this.exponents) return new Float64Array(this.lo?.length ?? 0)
    return Float64Array.from(this.exponents, (e) => (2 ** e * 2) / this.bins)
  }

  /**
   * The range that `method` chose, one for each group.
   *
   * @throws {WhittleError} `ERR_RANGE` on `observe` if nothing was observed
   */
  ranges(): { min: Float32Array; max: Float32Array } {
    if (!this.lo || !this.hi || !this.seen)
      throw new WhittleError('ERR_RANGE', 'observe', 'observe: nothing was observed yet, so there is no range')
    const min = this.lo.slice()
    const max = this.hi.slice()
    if (this.counting) for (let i = 0; i < min.length; i++) [min[i], max[i]] = this.clipped(this.histogram(i))
    return { min, max }
  }

  private clipped(h: Histogram): [number, number] {
    const { min, max } = h
    const within = (v: number): number => Math.min(max, Math.max(min, v))
    const most = Math.max(-min, max)
    const half = h.counts.length / 2
    const { symmetric, bits, qmin, qmax } = this.codes
    if (this.method === 'percentile') {
      if (symmetric) {
        const t = this.percent === 100 ? most : Math.min(most, percentile(folded(h), 0, h.width, this.percent))
        return [-t, t]
      }
      if (this.percent === 100) return [min, max]
      const at = (p: number): number => within(percentile(h.counts, -half * h.width, h.width, p))
      return [at(100 - this.percent), at(this.percent)]
    }
    if (this.method === 'entropy') {
      // Of a range that reaches further to one side, that side has more than half of the codes.
      const [low, high] = [Math.max(0, -min), Math.max(0, max)]
      const levels = (bins: number): number => {
        const t = bins * h.width
        return symmetric ? 2 ** (bits - 1) : Math.round((2 ** bits * t) / (Math.min(low, t) + Math.min(high, t)))
      }
      const t = Math.min(most, entropyThreshold(folded(h), levels) * h.width)
      return symmetric ? [-t, t] : [Math.max(min, -t), Math.min(max, t)]
    }
    const f = mseFraction(h, qmax - qmin, symmetric)
    return symmetric ? [-most * f, most * f] : [Math.min(min, 0) * f, Math.max(max, 0) * f]
  }

  /**
   * Scale and zero point for what was observed; may be given to {@link quantize} as its options.
   *
   * @throws {WhittleError} `ERR_RANGE` on `observe` if nothing was observed
   */
  parameters(): QuantizationParameters & { readonly axis: number | null } {
    const { min, max } = this.ranges()
    const shape = { outer: 1, axis: min.length, inner: 1, block: 0, dims: [min.length], count: min.length, along: this.axis }
    return { ...asParameters(min, max, this.codes, shape), axis: this.axis }
  }
}

// Doubles a histogram's range `times` times, in place: bin i of the new one holds 2^times bins of the old.
function merge(counts: Float64Array, times: number): void {
  const half = counts.length / 2
  const shift = Math.min(times, 30)
  const old = counts.slice()
  counts.fill(0)
  for (let i = 0; i < old.length; i++) counts[half + ((i - half) >> shift)]! += old[i]!
}
