export { quantizeDynamic, quantizeStatic } from './activations'
export type { DynamicOptions, StaticOptions } from './activations'
export { compress } from './compress'
export type { CompressOptions, CompressResult } from './compress'
export type { Evaluate, Evaluation } from './gate'
export type { Progress } from './progress'
export { parseRecipe, presetFiles, presets, resolveRecipe } from './recipe'
export type { CalibrationData, Inputs } from './calibration'
export type {
  CodebookStep,
  DedupeStep,
  DynamicQuantizeStep,
  HalfQuantizeStep,
  EqualizeStep,
  FactorizeStep,
  FoldStep,
  PruneStep,
  QuantizeStep,
  RepairStep,
  RotateStep,
  RotationSite,
  SliceSite,
  SliceStep,
  StaticQuantizeStep,
  Step,
  Storage,
  Structured,
  StructuredCriterion,
  StructuredPruneStep,
  Target,
} from './passes'
export type { AutoRecipe, Limits, Preset, Recipe } from './recipe'
export type { Layers, LayerSelector } from './selectors'
export { pruningSensitivity } from './structure/sensitivity'
export type { GroupPoint, GroupSensitivity, PruningSensitivityOptions } from './structure/sensitivity'
