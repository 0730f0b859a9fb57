export { attribute, Graph, Initializer, MemorySource, Node, ValueInfo } from './graph'
export type { Attribute, DataSource, Dim, ElementType, Int, NodeFields, ValueType } from './graph'
export { elementBitsOf } from './types'
