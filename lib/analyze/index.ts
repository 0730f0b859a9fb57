export { analyze, type AnalyzeOptions } from './analyze'
export type { SensitivityOptions } from './sensitivity'
