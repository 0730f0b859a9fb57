export { WhittleError, type WhittleErrorCode } from './errors'
export { type DataType, type Tensor, type TensorLike, type TypedArray } from './tensor'
export * from './kernels'
