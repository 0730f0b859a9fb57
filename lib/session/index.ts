export { Session } from './session'
export type { PlanReport, PlanStep, RunOptions, SessionOptions, SessionValue } from './session'
export type { ProfileReport, ProfileStep, TraceEvent } from './profile'
