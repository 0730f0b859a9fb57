/** @internal Bins of one pass over the keys of scores (`kSelectBins` of core/select.h). */
export const kBins = 2048
const kShifts = [21, 10, 0] as const

/** @internal The search for the rank-th largest score by the bits of keys: three passes of counts, over as many tensors as there are. */
export class KeySearch {
  #pass = 0
  #base = 0
  #rank: number
  #bin = 0

  /** @param rank 1: the largest */
  constructor(rank: number) {
    this.#rank = rank
  }

  /** What keys must have above the bins of this pass. */
  get base(): number {
    return this.#base
  }

  get shift(): 21 | 10 | 0 {
    return kShifts[this.#pass] as 21
  }

  /** Whether this is the last pass, whose bins are single values. */
  get last(): boolean {
    return this.#pass === 2
  }

  /** Takes the counts of a pass in, one array a tensor; answers whether it was the last. */
  next(counts: readonly ArrayLike<number>[]): boolean {
    const at = (b: number): number => counts.reduce((n, c) => n + (c[b] as number), 0)
    let bin = this.last ? 1023 : kBins - 1
    for (let n = at(bin); bin > 0 && n < this.#rank; n = at(--bin)) this.#rank -= n
    this.#base += bin * 2 ** this.shift
    this.#bin = bin
    if (this.last) return true
    this.#pass++
    return false
  }

  /** The score that was found: the float32 of a key of core/select.h. */
  get threshold(): number {
    const bits = this.#base >= 0x80000000 ? this.#base - 0x80000000 : 0xffffffff - this.#base
    return new Float32Array(Uint32Array.of(bits).buffer)[0] as number
  }

  /** By the counts of the last pass: how many of each tensor's elements that equal the threshold are kept, the first ones. */
  equal(counts: readonly ArrayLike<number>[]): number[] {
    let left = this.#rank
    return counts.map((c) => {
      const kept = Math.min(left, c[this.#bin] as number)
      left -= kept
      return kept
    })
  }
}
