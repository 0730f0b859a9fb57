export {
  importance,
  importanceAsync,
  type Criterion,
  type ImportanceOptions,
} from './select/importance'
export { mask, maskAsync, type MaskOptions, type Pattern, type Scope } from './select/mask'
export { applyMask, applyMaskAsync, type ApplyMaskOptions } from './select/apply'
export { GlobalThreshold, kthLargest, kthLargestAsync, type ThresholdResult } from './select/threshold'
export { agpSparsity, type AgpSchedule } from './select/schedule'
