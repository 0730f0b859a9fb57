import { sizeOf, type Tensor } from '../../tensor'

/** What is right of a channel, as far as it follows from what is there: `gain` · ŷ + `shift`. */
export interface Affine {
  readonly gain: Float64Array
  readonly shift: Float64Array
}

/** n, ΣΔ, ΣΔ², Σŷ, Σŷ², ΣŷΔ of one channel and set, Δ = y − ŷ. */
const kSums = 6

/** Values of a channel that one set of inputs gives at most: means of so many are as good as means of all. */
const kMostValues = 4096

/** Beyond this a channel is lost: nothing is to be amplified or put out for it. */
const kMostGain = 2

/**
 * How a value's channels (the last axis, or axis 1) are to be stretched and shifted to come nearest to the right ones in least
 * squares. Of nothing, a shift, and both, each channel gets what does best on sets of inputs that it was not estimated on (leave one
 * out), so that what one set alone shows is not taken up. Of a single set only means are taken.
 */
export class AffineFit {
  readonly #sets: Float64Array[] = []
  readonly #last: boolean
  #channels = 0

  constructor(last: boolean) {
    this.#last = last
  }

  /** One set of inputs. Anything but float32 of two axes and more, of the same shape, counts for nothing. */
  add(right: Tensor, is: Tensor): void {
    const { dims } = right
    if (right.type !== 'float32' || is.type !== 'float32' || dims.length < 2 || right.data.length !== is.data.length) return
    const axis = this.#last ? dims.length - 1 : 1
    const channels = dims[axis] as number
    if (this.#sets.length > 0 && channels !== this.#channels) return
    this.#channels = channels
    const inner = sizeOf(dims.slice(axis + 1))
    const [y, z] = [right.data as Float32Array, is.data as Float32Array]
    const sums = new Float64Array(channels * kSums)
    const outer = y.length / (channels * inner)
    // Positions at equal distances, the first rows and columns of one set no more than others: odd steps meet all of them.
    const step = Math.max(1, Math.floor((outer * inner) / kMostValues)) | 1
    for (let c = 0; c < channels; c++) {
      let [n, d1, d2, z1, z2, zd] = [0, 0, 0, 0, 0, 0]
      for (let p = 0; p < outer * inner; p += step, n++) {
        const o = inner === 1 ? p : Math.floor(p / inner)
        const at = (o * channels + c) * inner + (p - o * inner)
        const v = z[at]!
        const d = y[at]! - v
        d1 += d
        d2 += d * d
        z1 += v
        z2 += v * v
        zd += v * d
      }
      ;[n, d1, d2, z1, z2, zd].forEach((s, i) => (sums[c * kSums + i] = s))
    }
    if (sums.every(Number.isFinite)) this.#sets.push(sums)
  }

  /** @param stretch whether gains may differ from 1 */
  best(stretch: boolean): Affine | undefined {
    const n = this.#channels
    if (this.#sets.length === 0 || n === 0) return undefined
    const all = new Float64Array(n * kSums)
    for (const s of this.#sets) for (let i = 0; i < all.length; i++) all[i]! += s[i]!
    const gain = new Float64Array(n).fill(1)
    const shift = new Float64Array(n)
    for (let c = 0; c < n; c++) {
      const own = all.subarray(c * kSums, (c + 1) * kSums)
      const ways = stretch ? [none, mean, line] : [none, mean]
      const [stretched, shifted] = (this.#sets.length === 1 ? mean : this.#chosen(ways, c, own))(own)
      gain[c] = 1 + stretched
      shift[c] = shifted
    }
    return { gain, shift }
  }

  /** Root mean square of what a correction changes, against that of the value. */
  change({ gain, shift }: Affine): number {
    let [change, all] = [0, 0]
    for (const sums of this.#sets)
      for (let c = 0; c < this.#channels; c++) {
        const [n, , , z, zz] = sums.subarray(c * kSums, (c + 1) * kSums) as unknown as [number, number, number, number, number]
        const [a, b] = [gain[c]! - 1, shift[c]!]
        change += Math.max(0, a * a * zz + 2 * a * b * z + n * b * b)
        all += zz
      }
    return Math.sqrt(change / (all || 1))
  }

  #chosen(ways: readonly Way[], c: number, all: Float64Array): Way {
    const off = ways.map(() => 0)
    for (const set of this.#sets) {
      const left = set.subarray(c * kSums, (c + 1) * kSums)
      const others = all.map((v, i) => v - left[i]!)
      ways.forEach((way, i) => (off[i]! += error(left, way(others))))
    }
    return ways[off.indexOf(Math.min(...off))]!
  }
}

/** What is to be added of ŷ and of 1, from sums. */
type Way = (sums: Float64Array) => readonly [stretch: number, shift: number]

const none: Way = () => [0, 0]
const mean: Way = ([n, d]) => [0, n ? d! / n : 0]
const line: Way = (sums) => {
  const [n, d, , z, zz, zd] = sums as unknown as [number, number, number, number, number, number]
  const spread = zz - (z * z) / n
  // Nothing but rounding is left of the spread of a constant.
  if (!(spread > 1e-9 * zz)) return mean(sums)
  const a = Math.min(kMostGain - 1, Math.max(1 / kMostGain - 1, (zd - (z * d) / n) / spread))
  return [a, (d - a * z) / n]
}

/** Σ(Δ − aŷ − b)². */
function error(sums: Float64Array, [a, b]: readonly [number, number]): number {
  const [n, d, dd, z, zz, zd] = sums as unknown as [number, number, number, number, number, number]
  return dd - 2 * a * zd - 2 * b * d + a * a * zz + 2 * a * b * z + n * b * b
}
