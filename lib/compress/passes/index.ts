import { codebookPass, type CodebookStep, type ResolvedCodebook } from './codebook'
import { dedupePass, type DedupeStep } from './dedupe'
import { equalizePass, type EqualizeStep, type ResolvedEqualize } from './equalize'
import { factorizePass, type FactorizeStep, type ResolvedFactorize } from './factorize'
import { foldPass, type FoldStep, type ResolvedFold } from './fold'
import type { Pass } from './pass'
import { prunePass, type PruneStep, type ResolvedPrune } from './prune'
import { withStructure, type ResolvedStructured, type StructuredPruneStep } from './prune_structured'
import { quantizePass, type QuantizeStep, type ResolvedQuantize } from './quantize'
import { withActivations, type DynamicQuantizeStep, type ResolvedDynamic } from './quantize_dynamic'
import type { HalfQuantizeStep, ResolvedHalf } from './quantize_half'
import type { ResolvedStatic, StaticQuantizeStep } from './quantize_static'
import { repairPass, type RepairStep, type ResolvedRepair } from './repair'
import { rotatePass, type ResolvedRotate, type RotateStep } from './rotate'
import { slicePass, type ResolvedSlice, type SliceStep } from './slice'

export type { CodebookStep } from './codebook'
export type { DedupeStep } from './dedupe'
export type { EqualizeStep } from './equalize'
export type { FactorizeStep } from './factorize'
export type { FoldStep } from './fold'
export type { PruneStep } from './prune'
export type { StructuredPruneStep } from './prune_structured'
export type { Structured, StructuredCriterion } from '../structure/plan'
export type { QuantizeStep } from './quantize'
export type { DynamicQuantizeStep } from './quantize_dynamic'
export type { HalfQuantizeStep } from './quantize_half'
export type { StaticQuantizeStep, Target } from './quantize_static'
export type { RepairStep } from './repair'
export type { RotateStep, RotationSite } from './rotate'
export type { SliceSite, SliceStep } from './slice'
export type { Storage } from './emit'

/** One step of a recipe. */
export type Step = FoldStep | EqualizeStep | RotateStep | SliceStep | QuantizeStep | StaticQuantizeStep | DynamicQuantizeStep | HalfQuantizeStep | RepairStep | PruneStep | StructuredPruneStep | FactorizeStep | CodebookStep | DedupeStep

/** @internal A step with every default written out: what the report holds, so that it replays exactly. */
export type ResolvedStep = ResolvedFold | ResolvedEqualize | ResolvedRotate | ResolvedSlice | ResolvedQuantize | ResolvedStatic | ResolvedDynamic | ResolvedHalf | ResolvedRepair | ResolvedPrune | ResolvedStructured | ResolvedFactorize | ResolvedCodebook | DedupeStep

/** @internal Every kind of step there is. */
export const passes = [foldPass, equalizePass, rotatePass, slicePass, withActivations(quantizePass), repairPass, withStructure(prunePass), factorizePass, codebookPass, dedupePass] as readonly Pass<ResolvedStep>[]

/** @internal */
export function passOf(step: { readonly step: string }): Pass<ResolvedStep> {
  return passes.find((p) => p.name === step.step)!
}
