import { WhittleError } from '../errors'
import { mseFraction, percentile, type Histogram } from '../kernels/calibrate'
import type { ClipRanges, Distribution } from '../report/analysis'

const kBins = 2048
const kShown = 64

/** @internal Values that go by, in bounded memory: moments, bounds, and counts whose range doubles as needed. */
export class Stream {
  #counts = new Float64Array(kBins)
  /** the histogram spans −2^exponent … 2^exponent */
  #exponent = -126
  #count = 0
  #zeros = 0
  #sum = 0
  #squares = 0
  #min = Infinity
  #max = -Infinity

  /** @throws `ERR_RANGE` naming `what` for NaN and infinities */
  add(values: ArrayLike<number>, what: string): void {
    let top = 0
    for (let i = 0; i < values.length; i++) {
      const v = values[i]!
      const size = v < 0 ? -v : v
      if (!(size < Infinity)) throw new WhittleError('ERR_RANGE', what, `${what}: expected finite values, element ${i} is ${v}`)
      if (size > top) top = size
    }
    if (top > 0) this.#widen(Math.floor(Math.log2(top)) + 1)
    const counts = this.#counts
    const half = kBins / 2
    const factor = half / 2 ** this.#exponent
    let [zeros, sum, squares, min, max] = [0, 0, 0, this.#min, this.#max]
    for (let i = 0; i < values.length; i++) {
      const v = values[i]!
      if (v === 0) zeros++
      sum += v
      squares += v * v
      if (v < min) min = v
      if (v > max) max = v
      const bin = Math.floor(v * factor) + half
      counts[bin < kBins ? bin : kBins - 1]!++
    }
    this.#zeros += zeros
    this.#sum += sum
    this.#squares += squares
    this.#min = min
    this.#max = max
    this.#count += values.length
  }

  get count(): number {
    return this.#count
  }

  get zeros(): number {
    return this.#zeros
  }

  /** Σ of squares. */
  get squares(): number {
    return this.#squares
  }

  distribution(bits: number, symmetric: boolean): Distribution {
    const n = this.#count
    const mean = n ? this.#sum / n : 0
    const [min, max] = n ? [this.#min, this.#max] : [0, 0]
    return {
      elements: n,
      mean,
      std: n ? Math.sqrt(Math.max(this.#squares / n - mean * mean, 0)) : 0,
      sparsity: n ? this.#zeros / n : 0,
      histogram: { min, max, counts: this.#shown(min, max) },
      clips: this.#clips(min, max, bits, symmetric),
    }
  }

  #widen(exponent: number): void {
    if (exponent <= this.#exponent) return
    if (this.#count > 0) {
      const shift = Math.min(exponent - this.#exponent, 30)
      const wide = new Float64Array(kBins)
      const half = kBins / 2
      this.#counts.forEach((c, i) => (wide[half + ((i - half) >> shift)]! += c))
      this.#counts = wide
    }
    this.#exponent = exponent
  }

  get #histogram(): Histogram {
    return { counts: this.#counts, width: 2 ** (this.#exponent + 1) / kBins, min: this.#min, max: this.#max }
  }

  #clips(min: number, max: number, bits: number, symmetric: boolean): ClipRanges {
    if (this.#count === 0 || min === max) return { minmax: [min, max], percentile: [min, max], mse: [min, max], mseBits: bits }
    const h = this.#histogram
    const within = (p: number): number => Math.min(max, Math.max(min, percentile(h.counts, -(kBins / 2) * h.width, h.width, p)))
    const f = mseFraction(h, symmetric ? 2 ** bits - 2 : 2 ** bits - 1, symmetric)
    const most = Math.max(-min, max)
    return {
      minmax: [min, max],
      percentile: [within(0.005), within(99.995)],
      mse: symmetric ? [-most * f, most * f] : [Math.min(min, 0) * f, Math.max(max, 0) * f],
      mseBits: bits,
    }
  }

  /** The fine counts, brought to a few bins between the bounds. */
  #shown(min: number, max: number): number[] {
    if (this.#count === 0) return []
    if (min === max) return [this.#count]
    const out = new Array<number>(kShown).fill(0)
    const { counts, width } = this.#histogram
    const step = (max - min) / kShown
    const clamp = (i: number): number => Math.max(0, Math.min(kShown - 1, i))
    counts.forEach((c, i) => {
      if (c === 0) return
      const from = Math.max((i - kBins / 2) * width, min)
      const to = Math.min((i - kBins / 2 + 1) * width, max)
      const first = clamp(Math.floor((from - min) / step))
      const last = clamp(Math.ceil((to - min) / step) - 1)
      if (last <= first) out[first]! += c
      // A bin of the fine histogram that lies across several, as after one value far outside: spread evenly.
      else
        for (let k = first; k <= last; k++) {
          const part = Math.min(to, min + (k + 1) * step) - Math.max(from, min + k * step)
          out[k]! += (c * Math.max(part, 0)) / (to - from)
        }
    })
    return out.map((v) => Math.round(v * 10) / 10)
  }
}
