import type { Group } from './groups'

/** @internal */
export interface Quota {
  /** Share of units to remove. */
  readonly sparsity: number
  readonly scope: 'uniform' | 'global'
  /** What stays is a multiple of so many channels, if there are that many. */
  readonly roundTo: number
  /** Channels that stay at least. */
  readonly minChannels: number
}

/** Round half to even: how many of n a share is. */
function shareOf(share: number, n: number): number {
  const exact = share * n
  const floor = Math.floor(exact)
  const rest = exact - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))

/** @internal How many units stay where `wish` should: at least one, the minimum, and a multiple; more rather than fewer. */
export function keptUnits(group: Group, wish: number, { roundTo, minChannels }: Pick<Quota, 'roundTo' | 'minChannels'>): number {
  const step = roundTo / gcd(roundTo, group.width)
  const least = Math.max(1, Math.ceil(minChannels / group.width), wish)
  return Math.min(group.units, Math.ceil(least / step) * step)
}

/** @internal The units that go from each group: the lowest scores, ties the later ones last. */
export function chooseUnits(groups: readonly Group[], scores: readonly Float64Array[], quota: Quota): number[][] {
  const order = scores.map((s) => Array.from(s.keys()).sort((a, b) => s[a]! - s[b]! || a - b))
  const going = groups.map((g) => shareOf(quota.sparsity, g.units))
  if (quota.scope === 'global') {
    const all = order.flatMap((units, g) => units.map((u, rank) => ({ g, rank, score: scores[g]![u]! })))
    all.sort((a, b) => a.score - b.score || a.g - b.g || a.rank - b.rank)
    going.fill(0)
    for (const { g } of all.slice(0, shareOf(quota.sparsity, all.length))) going[g]!++
  }
  return groups.map((group, g) => {
    const kept = keptUnits(group, group.units - going[g]!, quota)
    return order[g]!.slice(0, group.units - kept).sort((a, b) => a - b)
  })
}
