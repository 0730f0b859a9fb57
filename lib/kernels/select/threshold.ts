import { WhittleError } from '../../errors'
import { sizeOf, type TensorLike, type TypedArray } from '../../tensor'
import { fail, finite, integer, tensor } from '../../validate'
import { isDeviceTensor, type DeviceTensor } from '../device'
import { countsOf } from '../cuda/select'
import { removed, runAsync, runSync, type Memory, type Routine } from './routine'
import { kBins, KeySearch } from './search'

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
  private search: KeySearch | undefined
  private lengths: number[] = []
  private counts: Float64Array[] = []
  private found: ThresholdResult | undefined

  /**
   * @param sparsity part to remove of all elements, 0 to 1
   * @throws {WhittleError} `ERR_DTYPE`, `ERR_RANGE`
   */
  constructor(sparsity: number) {
    this.sparsity = finite(sparsity, 'sparsity', 0, 1)
  }

  /**
   * Adds the scores of the next tensor of this pass, which may lie on a GPU. The same tensors must come in the same order in every pass.
   *
   * @throws {WhittleError} `ERR_RANGE` for a NaN or after the last pass; `ERR_SHAPE` where a later pass brings another
   * size; `ERR_DTYPE`, `ERR_HANDLE`
   */
  add(scores: Scores | DeviceTensor): void {
    if (this.found) throw new WhittleError('ERR_RANGE', 'scores', 'scores: the search is over; take its result()')
    const there = isDeviceTensor(scores)
    const size = there ? sizeOf(scores.dims) : tensor(scores, 'scores', ['float32']).data.length
    const at = this.counts.length
    if (this.search && this.lengths[at] !== size) fail('ERR_SHAPE', 'scores', `${this.lengths[at] ?? 'no more'} scores, as in the first pass`, scores)
    // The rank is known where the first pass ends; its counts do not depend on it.
    const search = this.search ?? new KeySearch(1)
    const counts = there ? countsOf(scores, search) : countsHere(tensor(scores, 'scores', ['float32']).data, search)
    if (!this.search) this.lengths.push(size)
    this.counts.push(counts)
  }

  /**
   * Ends a pass; call it when every tensor has been added.
   *
   * @returns true if the tensors must be added once more, false if the result is there
   * @throws {WhittleError} `ERR_SHAPE` where a later pass brought fewer tensors
   */
  next(): boolean {
    if (this.found) return false
    if (this.counts.length !== this.lengths.length)
      fail('ERR_SHAPE', 'scores', `${this.lengths.length} tensors, as in the first pass`, this.counts.length)
    const total = this.lengths.reduce((a, b) => a + b, 0)
    const rank = total - removed(this.sparsity, total)
    if (rank === 0) {
      this.found = { threshold: Infinity, equal: this.lengths.map(() => 0) }
      return false
    }
    this.search ??= new KeySearch(rank)
    const { counts } = this
    this.counts = []
    if (!this.search.next(counts)) return true
    this.found = { threshold: this.search.threshold, equal: this.search.equal(counts) }
    return false
  }

  /** @throws {WhittleError} `ERR_RANGE` before {@link next} has answered false */
  result(): ThresholdResult {
    if (!this.found) throw new WhittleError('ERR_RANGE', 'result', 'result: passes are missing; add the scores until next() is false')
    return this.found
  }
}

function countsHere(data: TypedArray, search: KeySearch): Float64Array {
  const counts = new BigInt64Array(kBins)
  runSync(function* (): Routine<void> {
    yield { name: 'selectHistogram', args: [data.length, search.base, search.shift, data, counts], parameter: 'scores' }
  })
  return Float64Array.from(counts, Number)
}
