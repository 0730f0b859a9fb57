// Functions that compute where their first operand lies: on the CPU, or for device tensors on their GPU. The one place that
// chooses; neither side knows of the other.
import * as deviceDistill from './cuda/distill'
import * as deviceFake from './cuda/fakequantize'
import * as deviceFeatures from './cuda/features'
import * as deviceGemm from './cuda/gemm'
import * as deviceLinear from './cuda/linear'
import * as deviceQuantize from './cuda/quantize'
import * as deviceSelect from './cuda/select'
import * as deviceSparse from './cuda/sparse'
import * as deviceSvd from './cuda/svd'
import { isDeviceTensor, toDevice as tensorToDevice, toDeviceAsync as tensorToDeviceAsync } from './device'
import * as hostDistill from './distill'
import * as hostFake from './fakequantize'
import * as hostGemm from './gemm'
import * as hostInt8 from './gemm_int8'
import * as hostLowRank from './lowrank'
import * as hostQuantize from './quantize'
import * as hostSelect from './select'
import * as hostSparse from './sparse'
import * as hostSvd from './svd'

// What callers pass is checked by whichever side gets it.
type Anything = (...args: never[]) => unknown
type Loose = (a: unknown, b: unknown, c: unknown, d: unknown) => unknown

type Choose = (a: unknown, b: unknown) => boolean

const onDevice: Choose = (operand) => isDeviceTensor(operand)

// The device's signature comes first: a device tensor has the fields of a tensor.
function routed<D extends Anything, H extends Anything>(device: D, host: H, chooses: Choose = onDevice): D & H {
  const there = device as unknown as Loose
  const here = host as unknown as Loose
  return ((a: unknown, b: unknown, c: unknown, d: unknown) => (chooses(a, b) ? there(a, b, c, d) : here(a, b, c, d))) as unknown as D & H
}

const codesOnDevice: Choose = (q) =>
  isDeviceTensor(q) || (typeof q === 'object' && q !== null && isDeviceTensor((q as { data?: unknown }).data))

const anyOnDevice: Choose = (scores) => isDeviceTensor(scores) || (Array.isArray(scores) && scores.some(isDeviceTensor))

const headOnDevice: Choose = (head) => typeof head === 'object' && head !== null && isDeviceTensor((head as { hidden?: unknown }).hidden)

// Packed weights of the CPU are a matter of the CPU's function.
const eitherOnDevice: Choose = (a, b) => isDeviceTensor(a) || isDeviceTensor(b) || deviceGemm.isDevicePacked(b)

export const quantize = routed(deviceQuantize.quantize, hostQuantize.quantize)
export const quantizeAsync = routed(deviceQuantize.quantizeAsync, hostQuantize.quantizeAsync)
export const dequantize = routed(deviceQuantize.dequantize, hostQuantize.dequantize, codesOnDevice)
export const dequantizeAsync = routed(deviceQuantize.dequantizeAsync, hostQuantize.dequantizeAsync, codesOnDevice)

export const fakeQuantize = routed(deviceFake.fakeQuantize, hostFake.fakeQuantize)
export const fakeQuantizeAsync = routed(deviceFake.fakeQuantizeAsync, hostFake.fakeQuantizeAsync)

export const importance = routed(deviceSelect.importance, hostSelect.importance)
export const importanceAsync = routed(deviceSelect.importanceAsync, hostSelect.importanceAsync)
export const mask = routed(deviceSelect.mask, hostSelect.mask, anyOnDevice)
export const maskAsync = routed(deviceSelect.maskAsync, hostSelect.maskAsync, anyOnDevice)
export const kthLargest = routed(deviceSelect.kthLargest, hostSelect.kthLargest, anyOnDevice)
export const kthLargestAsync = routed(deviceSelect.kthLargestAsync, hostSelect.kthLargestAsync, anyOnDevice)
export const applyMask = routed(deviceSelect.applyMask, hostSelect.applyMask)
export const applyMaskAsync = routed(deviceSelect.applyMaskAsync, hostSelect.applyMaskAsync)

export const crossEntropy = routed(deviceDistill.crossEntropy, hostDistill.crossEntropy)
export const crossEntropyAsync = routed(deviceDistill.crossEntropyAsync, hostDistill.crossEntropyAsync)
/** The losses of {@link hostDistill.distill}, which also take device tensors. */
export const distill = {
  ...hostDistill.distill,
  kl: routed(deviceDistill.kl, hostDistill.distill.kl),
  klAsync: routed(deviceDistill.klAsync, hostDistill.distill.klAsync),
  js: routed(deviceDistill.js, hostDistill.distill.js),
  jsAsync: routed(deviceDistill.jsAsync, hostDistill.distill.jsAsync),
  dkd: routed(deviceDistill.dkd, hostDistill.distill.dkd),
  dkdAsync: routed(deviceDistill.dkdAsync, hostDistill.distill.dkdAsync),
  multiTeacher: routed(deviceDistill.multiTeacher, hostDistill.distill.multiTeacher),
  multiTeacherAsync: routed(deviceDistill.multiTeacherAsync, hostDistill.distill.multiTeacherAsync),
  linearKl: routed(deviceLinear.linearKl, hostDistill.distill.linearKl, headOnDevice),
  linearKlAsync: routed(deviceLinear.linearKlAsync, hostDistill.distill.linearKlAsync, headOnDevice),
  feature: routed(deviceFeatures.feature, hostDistill.distill.feature),
  featureAsync: routed(deviceFeatures.featureAsync, hostDistill.distill.featureAsync),
  attention: routed(deviceFeatures.attention, hostDistill.distill.attention),
  attentionAsync: routed(deviceFeatures.attentionAsync, hostDistill.distill.attentionAsync),
  relationDistance: routed(deviceFeatures.relationDistance, hostDistill.distill.relationDistance),
  relationDistanceAsync: routed(deviceFeatures.relationDistanceAsync, hostDistill.distill.relationDistanceAsync),
  relationAngle: routed(deviceFeatures.relationAngle, hostDistill.distill.relationAngle),
  relationAngleAsync: routed(deviceFeatures.relationAngleAsync, hostDistill.distill.relationAngleAsync),
  similarity: routed(deviceFeatures.similarity, hostDistill.distill.similarity),
  similarityAsync: routed(deviceFeatures.similarityAsync, hostDistill.distill.similarityAsync),
  correlation: routed(deviceFeatures.correlation, hostDistill.distill.correlation),
  correlationAsync: routed(deviceFeatures.correlationAsync, hostDistill.distill.correlationAsync),
}

export const gemm = routed(deviceGemm.gemm, hostGemm.gemm, eitherOnDevice)
export const gemmAsync = routed(deviceGemm.gemmAsync, hostGemm.gemmAsync, eitherOnDevice)
export const gemmInt8 = routed(deviceGemm.gemmInt8, hostInt8.gemmInt8, eitherOnDevice)
export const gemmInt8Async = routed(deviceGemm.gemmInt8Async, hostInt8.gemmInt8Async, eitherOnDevice)
export const packInt8 = routed(deviceGemm.packInt8, hostInt8.packInt8)
export const packInt8Async = routed(deviceGemm.packInt8Async, hostInt8.packInt8Async)

export const svd = routed(deviceSvd.svd, hostSvd.svd)
export const svdAsync = routed(deviceSvd.svdAsync, hostSvd.svdAsync)
export const lowRank = routed(deviceSvd.lowRank, hostLowRank.lowRank)
export const lowRankAsync = routed(deviceSvd.lowRankAsync, hostLowRank.lowRankAsync)

export const sparsify = routed(deviceSparse.sparsify, hostSparse.sparsify)
export const sparsifyAsync = routed(deviceSparse.sparsifyAsync, hostSparse.sparsifyAsync)
export const spmm = routed(deviceSparse.spmm, hostSparse.spmm, deviceSparse.sparseOnDevice)
export const spmmAsync = routed(deviceSparse.spmmAsync, hostSparse.spmmAsync, deviceSparse.sparseOnDevice)

// Sparse weights of the CPU become those of a GPU.
export const toDevice = routed(deviceSparse.sparseToDevice, tensorToDevice, deviceSparse.isSparseMatrix)
export const toDeviceAsync = routed(deviceSparse.sparseToDeviceAsync, tensorToDeviceAsync, deviceSparse.isSparseMatrix)
