import { WhittleError } from '../../errors'
import type { Model } from '../../model/model'
import type { KeepBudget } from '../computed'
import { cut, type Removal } from './cut'
import type { Group, Structure } from './groups'

/** Nothing is computed before it is read. */
const kNothing = { take: () => false } as unknown as KeepBudget

/** Why these removals do not work together; `undefined` if they do. Nothing is changed. */
function refusal(model: Model, structure: Structure, removals: readonly Removal[]): string | undefined {
  try {
    cut(model.clone(), structure, removals, kNothing)
    return undefined
  } catch (error) {
    if (!(error instanceof WhittleError) || error.code !== 'ERR_MODEL_FORMAT') throw error
    return error.message
  }
}

/**
 * @internal Removes units from the model that `structure` was found in. Groups after whose cut shapes would not fit (a graph that
 * computes a size in a way which is not understood) stay whole and are told with the reason. `first` hears what will be removed.
 */
export function removeUnits(model: Model, structure: Structure, removals: readonly Removal[], budget: KeepBudget, first?: (good: readonly Removal[]) => void): Map<Group, string> {
  const refused = new Map<Group, string>()
  let good = removals
  if (refusal(model, structure, removals) !== undefined) {
    good = []
    for (const removal of removals) {
      const why = refusal(model, structure, [...good, removal])
      if (why === undefined) good = [...good, removal]
      else refused.set(removal.group, why)
    }
  }
  first?.(good)
  cut(model, structure, good, budget)
  return refused
}
