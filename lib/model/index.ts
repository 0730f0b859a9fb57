export { checkGraph } from './check'
export { contentHash, foldConstantNodes, raiseIrVersion } from './fold'
export { attribute, captured, reads, Graph, graphsOf, Initializer, MemorySource, Node, ValueInfo } from './graph'
export type { WriteOptions } from './files'
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
export { inferShapes, Shapes } from './ops/infer'
export type { InferOptions } from './ops/infer'
export type { Inferred } from './ops/op'
export { kMaxOpset, raiseOpset } from './opset'
export type { RaiseResult } from './opset'
export { SafeTensors, saveSafeTensors } from './safetensors'
export type { SafeTensorsSaveOptions } from './safetensors'
export { elementBitsOf } from './types'
