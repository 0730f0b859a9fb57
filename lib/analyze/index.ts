export { analyze, type AnalyzeOptions } from './analyze'
export type { SensitivityOptions } from './sensitivity'
export { measureLatency, type LatencyOptions, type Timed } from './latency'
