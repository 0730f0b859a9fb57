export { renderHtml } from './html'
export type {
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
