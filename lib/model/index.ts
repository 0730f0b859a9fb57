export { attribute, Graph, Initializer, MemorySource, Node, ValueInfo } from './graph'
export type { Attribute, DataSource, Dim, ElementType, Int, NodeFields, ValueType } from './graph'
export { Model } from './model'
export type {
  ExternalDataOptions,
  FunctionDef,
  LoadOptions,
  ModelFields,
  ModelSummary,
  SaveOptions,
  SaveResult,
  ValueSummary,
} from './model'
export { elementBitsOf } from './types'
