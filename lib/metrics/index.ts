export { evaluate, type EvaluateOptions, type EvaluateResult, type Runnable, type Sample } from './evaluate'
export type { Metric, MetricName, MetricResult, MetricSpec, MetricTally, NamedMetric, SampleMetric } from './metric'
export type { ClassLabels, Numbers, Scores } from './read'
export {
  averagePrecision,
  meanAveragePrecision,
  precisionRecallF1,
  rocAuc,
  rocAucOneVsRest,
  topKAccuracy,
  type AreaReport,
  type ClassReport,
  type PrecisionRecall,
} from './scores'
export { boxOverlap, detectionPrecision, type Boxes, type DetectionOptions, type DetectionReport, type Detections, type Objects } from './detection'
export { characterAccuracy, editDistance, type TextReport } from './text'
export { cosineSimilarity, signalToNoise } from './similarity'
export { energyEstimate, type EnergyEstimate, type EnergyTable } from './energy'
