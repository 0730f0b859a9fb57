export { devices, setThreads, type Devices } from './devices'
export { gemm, gemmAsync, type GemmOptions } from './gemm'
export { type Activation } from './activation'
export * from './select'
export {
  dequantize,
  dequantizeAsync,
  quantize,
  quantizeAsync,
  type DequantizeOptions,
  type QuantizedLike,
  type QuantizedTensor,
  type QuantizeOptions,
} from './quantize'
export { type CodeType, type Convention, type Parameter, type Rounding, type Scheme } from './scheme'
