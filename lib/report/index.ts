export { renderHtml } from './html'
export { parseReport } from './parse'
export type {
  AnalysisSection,
  CompressReport,
  LayerReport,
  LimitReport,
  Measurement,
  ModelFigures,
  ReportSection,
  StepReport,
} from './types'
export { inspectModel } from './inspect'
export type { InspectedLayer, InspectedValue, Inspection } from './inspect'
export type {
  Analysis,
  ClipRanges,
  Distribution,
  HistogramData,
  LayerAnalysis,
  MaskPicture,
  SensitivityPoint,
  Spectrum,
} from './analysis'
