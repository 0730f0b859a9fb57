/** @internal What a try of one combination came to. `cost` is compared only among those that met every limit. */
export interface Outcome {
  readonly met: boolean
  readonly cost: number
}

/** @internal */
export interface Climbed<O extends Outcome> {
  /** Level of each axis. */
  readonly levels: readonly number[]
  readonly outcome: O
}

/**
 * @internal The cheapest combination found that meets its limits, one axis at a time from `start` up (from the mildest levels where
 * that misses a limit), first axis first, round after round until none is better or `late` says so. Along an axis, the first level that misses a limit ends it: harder ones
 * are taken to miss as well. No combination is tried twice.
 *
 * @param sizes how many levels each axis has; level 0 is its mildest
 * @param start what is tried first. Default: the mildest levels
 * @returns `undefined` if no combination that was tried met its limits
 */
export async function climb<O extends Outcome>(
  sizes: readonly number[],
  trial: (levels: readonly number[]) => Promise<O>,
  late: () => boolean,
  start?: readonly number[],
): Promise<Climbed<O> | undefined> {
  const known = new Map<string, O>()
  const attempt = async (levels: readonly number[]): Promise<O> => {
    const key = levels.join()
    const found = known.get(key) ?? (await trial(levels))
    known.set(key, found)
    return found
  }
  const mildest = sizes.map(() => 0)
  let best: Climbed<O> | undefined
  for (const levels of [...(start ? [start] : []), mildest]) {
    const outcome = await attempt(levels)
    if (!outcome.met) continue
    best = { levels, outcome }
    break
  }
  for (let better = true; better; ) {
    better = false
    for (const [axis, size] of sizes.entries()) {
      const from = best?.levels ?? mildest
      for (let level = from[axis]! + 1; level < size; level++) {
        if (late()) return best
        const levels = from.with(axis, level)
        const outcome = await attempt(levels)
        if (!outcome.met) break
        if (best && outcome.cost >= best.outcome.cost) continue
        best = { levels, outcome }
        better = true
      }
    }
  }
  return best
}
