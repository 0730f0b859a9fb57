export { adopt, Handle, type HandleToken } from '../handle'
export { devices, setThreads, type CudaDevice, type CudaState, type Devices } from './devices'
export { DeviceTensor } from './device'
export { type GemmOptions } from './gemm'
export { type Activation } from './activation'
export {
  agpSparsity,
  GlobalThreshold,
  type AgpSchedule,
  type ApplyMaskOptions,
  type Criterion,
  type ImportanceOptions,
  type MaskOptions,
  type Pattern,
  type Scope,
  type ThresholdResult,
} from './select'
export {
  applyMask,
  applyMaskAsync,
  crossEntropy,
  crossEntropyAsync,
  dequantize,
  dequantizeAsync,
  distill,
  fakeQuantize,
  fakeQuantizeAsync,
  gemm,
  gemmAsync,
  gemmInt8,
  gemmInt8Async,
  importance,
  importanceAsync,
  kthLargest,
  kthLargestAsync,
  lowRank,
  lowRankAsync,
  mask,
  maskAsync,
  packInt8,
  packInt8Async,
  quantize,
  quantizeAsync,
  sparsify,
  sparsifyAsync,
  spmm,
  spmmAsync,
  svd,
  svdAsync,
  toDevice,
  toDeviceAsync,
} from './route'
export { DevicePackedInt8, type DeviceGemmInt8Options, type DeviceGemmOptions } from './cuda/gemm'
export { type DeviceGivenLogits, type DeviceLinearHead, type DeviceLinearKlLoss, type DeviceLinearKlOptions } from './cuda/linear'
export {
  type DeviceCrossEntropyOptions,
  type DeviceDkdLoss,
  type DeviceDkdOptions,
  type DeviceJsOptions,
  type DeviceKlOptions,
  type DeviceLoss,
  type DeviceMultiTeacherOptions,
} from './cuda/distill'
export {
  type DeviceAttentionOptions,
  type DeviceCorrelationOptions,
  type DeviceFeatureLoss,
  type DeviceFeatureOptions,
  type DeviceRegressedLoss,
  type DeviceRelationOptions,
  type DeviceSimilarityOptions,
} from './cuda/features'
export {
  type DeviceDequantizeOptions,
  type DeviceQuantized,
  type DeviceQuantizedLike,
  type DeviceQuantizeOptions,
} from './cuda/quantize'
export { type DeviceFakeQuantized, type DeviceFakeQuantizeOptions } from './cuda/fakequantize'
export { type DeviceImportanceOptions, type DeviceMaskOptions } from './cuda/select'
export { DeviceSparseMatrix, type DeviceSparsifyOptions, type DeviceSpmmOptions } from './cuda/sparse'
export { type DeviceLowRank, type DeviceSingularValues, type DeviceSvd } from './cuda/svd'
export {
  type DequantizeOptions,
  type QuantizedLike,
  type QuantizedTensor,
  type QuantizeOptions,
} from './quantize'
export { type FakeQuantized, type FakeQuantizeOptions } from './fakequantize'
export { quantizationParameters, type QuantizationParameters } from './ranges'
export { Observer, type ObserverMethod, type ObserverOptions } from './observer'
export { type CodeType, type Convention, type Parameter, type Rounding, type Scheme } from './scheme'
export {
  type AttentionOptions,
  type CorrelationOptions,
  type CrossEntropyOptions,
  type DkdLoss,
  type DkdOptions,
  type FeatureLoss,
  type FeatureOptions,
  type GivenLogits,
  type JsOptions,
  type KlOptions,
  type Labels,
  type LinearHead,
  type LinearKlLoss,
  type LinearKlOptions,
  type Loss,
  type MultiTeacherOptions,
  type Reduction,
  type RegressedLoss,
  type RelationOptions,
  type SimilarityOptions,
} from './distill'
export {
  PackedInt8,
  type GemmInt8Options,
  type PackInt8Options,
} from './gemm_int8'
export {
  gemmBinary,
  gemmBinaryAsync,
  packBinary,
  packBinaryAsync,
  PackedBinary,
  type GemmBinaryOptions,
  type PackBinaryOptions,
} from './binary'
export {
  codebookDecode,
  codebookDecodeAsync,
  codebookEncode,
  codebookEncodeAsync,
  codebookGradient,
  codebookGradientAsync,
  kmeans,
  kmeansAsync,
  type Codebook,
  type CodebookDecodeOptions,
  type CodebookEncoded,
  type CodebookEncodeOptions,
  type CodebookIndices,
  type KmeansInit,
  type KmeansOptions,
} from './codebook'
export {
  SparseMatrix,
  type SparseFormat,
  type SparsifyOptions,
  type SparseType,
  type SpmmOptions,
} from './sparse'
export { gemmInt4, gemmInt4Async, packInt4, packInt4Async, PackedInt4, type PackInt4Options } from './gemm_int4'
export {
  packBfloat16,
  packFloat32,
  packFloat32Async,
  PackedFloat32,
  packBfloat16Async,
  PackedBfloat16,
  PackedScaledInt8,
  type GemmWeightOptions,
  type PackBfloat16Options,
  type PackScaledInt8Options,
} from './gemm_weight'
export { type Floats, type SingularValues, type Svd, type SvdMethod, type SvdOptions } from './svd'
export { type LowRank, type LowRankOptions } from './lowrank'
export * from './factor'
