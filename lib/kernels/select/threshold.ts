import { WhittleError } from '../../errors'
import { type TensorLike, type TypedArray } from '../../tensor'
import { fail, finite, integer, tensor } from '../../validate'
import { removed, runAsync, runSync, type Memory, type Routine } from './routine'

type Scores = TensorLike | TypedArray

/**
 * The k-th largest score, found by selection in time proportional to the number of scores, exactly.
 *
 * @param scores float32; one tensor, or several taken together
 * @param k 1 (the largest) to the number of scores
 * @throws {WhittleError} `ERR_RANGE` for k outside, or a NaN among the scores; `ERR_DTYPE`, `ERR_HANDLE`
 * @example
 * kthLargest(Float32Array.of(3, 1, 2), 2) // 2
 */
export function kthLargest(scores: Scores | readonly Scores[], k: number): number {
  return runSync((memory) => kth(memory, scores, k))
}

/** {@link kthLargest} on another thread. Buffers over 256 KiB are read in place and become untransferable. */
export async function kthLargestAsync(scores: Scores | readonly Scores[], k: number): Promise<number> {
  return runAsync((memory) => kth(memory, scores, k))
}

function* kth(memory: Memory, scores: unknown, k: unknown): Routine<number> {
  const several = Array.isArray(scores)
  const list = (several ? scores : [scores]).map((s: unknown, i) => tensor(s, several ? `scores[${i}]` : 'scores', ['float32']).data)
  const total = list.reduce((n, s) => n + s.length, 0)
  if (total === 0) fail('ERR_SHAPE', 'scores', 'at least one score', scores)
  const rank = integer(k, 'k', 1, total)
  const out = new Float32Array(1)
  yield { name: 'selectLargest', args: [rank, out, list.map((s) => memory.input(s)), null], parameter: 'scores' }
  return out[0] as number
}

/** What {@link GlobalThreshold} found. */
export interface ThresholdResult {
  /** The smallest score that is kept; `Infinity` if nothing is. */
  readonly threshold: number
  /** For each tensor, in the order added: how many of its elements equal to the threshold are kept, the first ones. */
  readonly equal: readonly number[]
}

const kBins = 2048
const kShifts = [21, 10, 0] as const

/**
 * Finds the threshold that scope `'global'` of {@link mask} uses, for tensors that do not fit in memory together: their
 * scores are added one after another, three times over, and only histograms are held (16 KB, and 8 KB a tensor during
 * the last pass).
 *
 * @example
 * const search = new GlobalThreshold(0.8)
 * do for (const name of names) search.add(importance(load(name)))
 * while (search.next())
 * const { threshold, equal } = search.result()
 * names.map((name, i) => mask(importance(load(name)), { threshold, equal: equal[i] }))
 */
export class GlobalThreshold {
  private readonly sparsity: number
  private pass = 0
  private base = 0
  private rank = 0
  private lengths: number[] = []
  private added = 0
  private counts = new BigInt64Array(kBins)
  private last: Float64Array[] = []
  private found: ThresholdResult | undefined

  /**
   * @param sparsity part to remove of all elements, 0 to 1
   * @throws {WhittleError} `ERR_DTYPE`, `ERR_RANGE`
   */
  constructor(sparsity: number) {
    this.sparsity = finite(sparsity, 'sparsity', 0, 1)
  }

  /**
   * Adds the scores of the next tensor of this pass. The same tensors must come in the same order in every pass.
   *
   * @throws {WhittleError} `ERR_RANGE` for a NaN or after the last pass; `ERR_SHAPE` where a later pass brings another
   * size; `ERR_DTYPE`, `ERR_HANDLE`
   */
  add(scores: Scores): void {
    if (this.found) throw new WhittleError('ERR_RANGE', 'scores', 'scores: the search is over; take its result()')
    const { data } = tensor(scores, 'scores', ['float32'])
    if (this.pass === 0) this.lengths.push(data.length)
    else if (this.lengths[this.added] !== data.length)
      fail('ERR_SHAPE', 'scores', `${this.lengths[this.added] ?? 'no more'} scores, as in the first pass`, data)
    const own = this.pass === 2 ? new BigInt64Array(kBins) : this.counts
    const { base, pass } = this
    runSync(function* (): Routine<void> {
      yield { name: 'selectHistogram', args: [data.length, base, kShifts[pass], data, own], parameter: 'scores' }
    })
    if (this.pass === 2) {
      // Bins of the last pass are single values, so that each tensor's ties can be told apart.
      this.last.push(Float64Array.from(own.subarray(0, 1024), Number))
      for (let i = 0; i < 1024; i++) this.counts[i] = (this.counts[i] as bigint) + (own[i] as bigint)
    }
    this.added++
  }

  /**
   * Ends a pass; call it when every tensor has been added.
   *
   * @returns true if the tensors must be added once more, false if the result is there
   * @throws {WhittleError} `ERR_SHAPE` where a later pass brought fewer tensors
   */
  next(): boolean {
    if (this.found) return false
    if (this.added !== this.lengths.length)
      fail('ERR_SHAPE', 'scores', `${this.lengths.length} tensors, as in the first pass`, this.added)
    const total = this.lengths.reduce((a, b) => a + b, 0)
    if (this.pass === 0) this.rank = total - removed(this.sparsity, total)
    if (this.rank === 0) {
      this.found = { threshold: Infinity, equal: this.lengths.map(() => 0) }
      return false
    }
    let bin = this.pass === 2 ? 1023 : kBins - 1
    for (; bin > 0 && Number(this.counts[bin]) < this.rank; bin--) this.rank -= Number(this.counts[bin])
    this.base += bin * 2 ** (kShifts[this.pass] as number)
    this.counts = new BigInt64Array(kBins)
    this.added = 0
    if (this.pass++ < 2) return true
    let left = this.rank
    const equal = this.last.map((counts) => {
      const kept = Math.min(left, counts[bin] as number)
      left -= kept
      return kept
    })
    this.last = []
    this.found = { threshold: valueOf(this.base), equal }
    return false
  }

  /** @throws {WhittleError} `ERR_RANGE` before {@link next} has answered false */
  result(): ThresholdResult {
    if (!this.found) throw new WhittleError('ERR_RANGE', 'result', 'result: passes are missing; add the scores until next() is false')
    return this.found
  }
}

/** The float32 of a key of core/select.h. */
function valueOf(key: number): number {
  const bits = key >= 0x80000000 ? key - 0x80000000 : 0xffffffff - key
  return new Float32Array(Uint32Array.of(bits).buffer)[0] as number
}
