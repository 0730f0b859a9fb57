import { WhittleError } from '../../errors'
import type { Weight } from '../../model/weights'
import type { LayerReport } from '../../report/types'
import type { KeepBudget, Scratch } from '../computed'
import { selects, unmatchedNames, type LayerSelector, type Selectable } from '../selectors'

/** @internal What the passes of one run share. */
export interface Memory {
  readonly keep: KeepBudget
  readonly scratch: Scratch
}

/** @internal What a pass did. */
export interface PassResult {
  readonly layers: readonly LayerReport[]
  /** One sentence for people. */
  readonly summary: string
}

/** @internal The weights that a selector chooses. Names that fit no weight of the model are an error. */
export function chooseLayers(
  all: readonly Weight[],
  selector: LayerSelector,
  defaultMin: number,
  ops?: readonly string[],
): Weight[] {
  const seen = all.map((weight): Selectable & { weight: string; of: Weight } => ({
    name: weight.name,
    op: weight.op,
    weight: weight.initializer.name,
    elements: weight.initializer.elementCount,
    of: weight,
  }))
  const unmatched = unmatchedNames(selector, seen)
  if (unmatched.length)
    throw new WhittleError(
      'ERR_RANGE',
      'layers',
      `layers: no weight is called ${unmatched.map((u) => JSON.stringify(u)).join(', ')}`,
    )
  return seen
    .filter((s) => (selector.ops || !ops || ops.includes(s.op)) && selects(selector, s, defaultMin))
    .map((s) => s.of)
}

/** @internal The part of a layer's report that is known before anything is done. */
export function describeWeight({ name, op, initializer }: Weight) {
  return {
    name,
    op,
    weight: initializer.name,
    dims: initializer.dims,
    elements: initializer.elementCount,
    bytesBefore: initializer.byteLength,
  }
}
