export { Session } from './session'
export type { PlanReport, PlanStep, RunOptions, SessionOptions, SessionValue, TapFunction } from './session'
export type { ProfileReport, ProfileStep, TraceEvent } from './profile'
