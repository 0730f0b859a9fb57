// Functions that compute where their first operand lies: on the CPU, or for device tensors on their GPU. The one place that
// chooses; neither side knows of the other.
import * as deviceDistill from './cuda/distill'
import * as deviceQuantize from './cuda/quantize'
import * as deviceSelect from './cuda/select'
import { isDeviceTensor } from './device'
import * as hostDistill from './distill'
import * as hostQuantize from './quantize'
import * as hostSelect from './select'

// What callers pass is checked by whichever side gets it.
type Anything = (...args: never[]) => unknown
type Loose = (a: unknown, b: unknown, c: unknown) => unknown

const onDevice = (operand: unknown): boolean => isDeviceTensor(operand)

// The device's signature comes first: a device tensor has the fields of a tensor.
function routed<D extends Anything, H extends Anything>(device: D, host: H, chooses: (operand: unknown) => boolean = onDevice): D & H {
  const there = device as unknown as Loose
  const here = host as unknown as Loose
  return ((a: unknown, b: unknown, c: unknown) => (chooses(a) ? there(a, b, c) : here(a, b, c))) as unknown as D & H
}

const codesOnDevice = (q: unknown): boolean =>
  isDeviceTensor(q) || (typeof q === 'object' && q !== null && isDeviceTensor((q as { data?: unknown }).data))

const anyOnDevice = (scores: unknown): boolean => isDeviceTensor(scores) || (Array.isArray(scores) && scores.some(isDeviceTensor))

export const quantize = routed(deviceQuantize.quantize, hostQuantize.quantize)
export const quantizeAsync = routed(deviceQuantize.quantizeAsync, hostQuantize.quantizeAsync)
export const dequantize = routed(deviceQuantize.dequantize, hostQuantize.dequantize, codesOnDevice)
export const dequantizeAsync = routed(deviceQuantize.dequantizeAsync, hostQuantize.dequantizeAsync, codesOnDevice)

export const importance = routed(deviceSelect.importance, hostSelect.importance)
export const importanceAsync = routed(deviceSelect.importanceAsync, hostSelect.importanceAsync)
export const mask = routed(deviceSelect.mask, hostSelect.mask, anyOnDevice)
export const maskAsync = routed(deviceSelect.maskAsync, hostSelect.maskAsync, anyOnDevice)
export const applyMask = routed(deviceSelect.applyMask, hostSelect.applyMask)
export const applyMaskAsync = routed(deviceSelect.applyMaskAsync, hostSelect.applyMaskAsync)

export const crossEntropy = routed(deviceDistill.crossEntropy, hostDistill.crossEntropy)
export const crossEntropyAsync = routed(deviceDistill.crossEntropyAsync, hostDistill.crossEntropyAsync)
/** The losses of {@link hostDistill.distill}; `kl` also takes device tensors. */
export const distill = {
  ...hostDistill.distill,
  kl: routed(deviceDistill.kl, hostDistill.distill.kl),
  klAsync: routed(deviceDistill.klAsync, hostDistill.distill.klAsync),
}
