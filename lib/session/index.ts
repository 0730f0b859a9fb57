export { Session } from './session'
export type { PlanReport, PlanStep, RunOptions, SessionOptions, SessionValue } from './session'
