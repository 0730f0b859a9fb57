import { codebookPass, type CodebookStep, type ResolvedCodebook } from './codebook'
import { dedupePass, type DedupeStep } from './dedupe'
import { factorizePass, type FactorizeStep, type ResolvedFactorize } from './factorize'
import { foldPass, type FoldStep, type ResolvedFold } from './fold'
import type { Pass } from './pass'
import { prunePass, type PruneStep, type ResolvedPrune } from './prune'
import { withStructure, type ResolvedStructured, type StructuredPruneStep } from './prune_structured'
import { quantizePass, type QuantizeStep, type ResolvedQuantize } from './quantize'

export type { CodebookStep } from './codebook'
export type { DedupeStep } from './dedupe'
export type { FactorizeStep } from './factorize'
export type { FoldStep } from './fold'
export type { PruneStep } from './prune'
export type { StructuredPruneStep } from './prune_structured'
export type { Structured, StructuredCriterion } from '../structure/plan'
export type { QuantizeStep } from './quantize'
export type { Storage } from './emit'

/** One step of a recipe. */
export type Step = FoldStep | QuantizeStep | PruneStep | StructuredPruneStep | FactorizeStep | CodebookStep | DedupeStep

/** @internal A step with every default written out: what the report holds, so that it replays exactly. */
export type ResolvedStep = ResolvedFold | ResolvedQuantize | ResolvedPrune | ResolvedStructured | ResolvedFactorize | ResolvedCodebook | DedupeStep

/** @internal Every kind of step there is. */
export const passes = [foldPass, quantizePass, withStructure(prunePass), factorizePass, codebookPass, dedupePass] as readonly Pass<ResolvedStep>[]

/** @internal */
export function passOf(step: { readonly step: string }): Pass<ResolvedStep> {
  return passes.find((p) => p.name === step.step)!
}
