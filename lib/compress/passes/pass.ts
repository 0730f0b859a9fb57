import type { Model } from '../../model/model'
import type { Weight } from '../../model/weights'
import type { LayerReport } from '../../report/types'
import type { Calibration } from '../calibration'
import type { KeepBudget, Scratch } from '../computed'
import type { Run } from '../progress'
import { emptyError, selects, unmatchedError, type LayerSelector, type Selectable } from '../selectors'

/** @internal What the passes of one run share. */
export interface Memory {
  readonly keep: KeepBudget
  readonly scratch: Scratch
}

/** @internal What a pass may use beside the model and its step. */
export interface Context {
  readonly run: Run
  readonly memory: Memory
  /** What the caller gave to calibrate on. Present wherever {@link Pass.needs} asks for it. */
  readonly calibration: Calibration | undefined
  /** Names of weight tensors, as the model that was given has them, which must keep their values: the gate backed off from them. */
  readonly spared: ReadonlySet<string>
  /** Accuracy of a model, where the caller gave a function that tells it, and the least that the limits allow (−∞ without one). */
  readonly judge?: { accuracy(model: Model): Promise<number>; readonly least: number } | undefined
  /** The model before the first step; its weights are initializers. Not to be changed. */
  readonly original: Model
}

/** @internal What a pass did. */
export interface PassResult {
  readonly layers: readonly LayerReport[]
  /** One sentence for people. */
  readonly summary: string
}

/**
 * @internal One kind of step: from graph to graph, alone or in a recipe. The same model, step and context give the same
 * graph, byte for byte.
 */
export interface Pass<S extends { readonly step: string }> {
  /** What a recipe calls it. */
  readonly name: S['step']
  /** Checks one step of a recipe and writes every default out; resolving what came out changes nothing. */
  resolve(value: object, parameter: string): S
  /** What the caller of `compress` must have given. */
  needs(step: S): readonly 'calibration'[]
  /** Edits `model`. */
  apply(model: Model, step: S, context: Context): Promise<PassResult>
}

/** @internal */
export interface Choice {
  /** Ops that are chosen where the selector names none. Default: every op that has weights. */
  readonly ops?: readonly string[]
  readonly spared?: ReadonlySet<string>
}

/** @internal The weights that a selector chooses. Names that fit no weight of the model are an error, and so is a choice of none. */
export function chooseLayers(all: readonly Weight[], selector: LayerSelector, defaultMin: number, { ops, spared }: Choice = {}): Weight[] {
  const seen = all.map((weight): Selectable & { weight: string; of: Weight } => ({
    name: weight.name,
    op: weight.op,
    weight: weight.initializer.name,
    elements: weight.initializer.elementCount,
    of: weight,
  }))
  const error = unmatchedError(selector, seen)
  if (error) throw error
  const chosen = seen.filter((s) => (selector.ops || !ops || ops.includes(s.op)) && selects(selector, s, defaultMin))
  const empty = chosen.length === 0 ? emptyError(selector, seen.length, defaultMin, ops) : undefined
  if (empty) throw empty
  return chosen.filter((s) => !spared?.has(s.weight)).map((s) => s.of)
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
