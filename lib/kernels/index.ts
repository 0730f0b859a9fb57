export { devices, setThreads, type Devices } from './devices'
export { gemm, gemmAsync, type GemmOptions } from './gemm'
export { type Activation } from './activation'
export * from './select'
