import { WhittleError } from '../../errors'
import { sizeOf, type DataType } from '../../tensor'
import { boolean, describe, fail, integer, oneOf, options } from '../../validate'
import { activationOf } from '../activation'
import { isDeviceTensor, type DeviceTensor } from '../device'
import { float32, kGemmOptions, type GemmOptions } from '../gemm'
import { kGemmInt8Options, kOutTypes, refusal, scaleOf, zeroPoint, type GemmInt8Options } from '../gemm_int8'
import { floatCode, kFloatTypes } from '../scheme'
import { missing, runAsync, runSync, type Routine, type Turn } from './call'

/** Options of `gemm` for tensors on a GPU. */
export interface DeviceGemmOptions extends Pick<GemmOptions, 'transposeA' | 'transposeB' | 'alpha' | 'activation'> {
  /** One for each column, of the operands' type. */
  readonly bias?: DeviceTensor
  readonly out?: DeviceTensor
}

/** Options of `gemmInt8` for tensors on a GPU; what is one a column lies there too. */
export interface DeviceGemmInt8Options extends Omit<GemmInt8Options, 'bZeroPoint' | 'bScale' | 'bias' | 'out'> {
  readonly bZeroPoint?: number | DeviceTensor
  readonly bScale?: number | DeviceTensor
  /** int32 in units of aScale·bScale, or float32. */
  readonly bias?: DeviceTensor
  readonly out?: DeviceTensor
}

/** Weights of `gemmInt8` on a GPU: signed bytes, an output channel a row, with their sums. Made by `packInt8` of a device tensor. */
export class DevicePackedInt8 {
  /** Rows of the matrix that was packed: the length of the sums. */
  readonly k: number
  /** Its columns: output channels. */
  readonly n: number
  readonly type: 'int8' | 'uint8'
  /** @internal */
  readonly data: DeviceTensor
  /** @internal */
  readonly sums: DeviceTensor

  /** @internal */
  constructor(k: number, n: number, type: 'int8' | 'uint8', data: DeviceTensor, sums: DeviceTensor) {
    this.k = k
    this.n = n
    this.type = type
    this.data = data
    this.sums = sums
  }

  get location(): string {
    return this.data.location
  }

  get byteLength(): number {
    return this.data.byteLength + this.sums.byteLength
  }

  /** Frees the device's memory. Calling it again does nothing. */
  dispose(): void {
    this.data.dispose()
    this.sums.dispose()
  }
}

/** @internal */
export const isDevicePacked = (value: unknown): value is DevicePackedInt8 => value instanceof DevicePackedInt8

const lead = (dims: readonly number[]): readonly number[] => dims.slice(0, -2)

function* product(turn: Turn, aValue: unknown, bValue: unknown, given: unknown): Routine<DeviceTensor> {
  const o = options(given, 'options', kGemmOptions)
  for (const name of ['beta', 'c', 'cDims'] as const) if (o[name] !== undefined) missing(name, 'a summand')
  for (const name of ['lda', 'ldb', 'ldc', 'strideA', 'strideB', 'strideC'] as const) if (o[name] !== undefined) missing(name, 'a part of a matrix')
  const a = turn.operand(aValue, 'a', kFloatTypes)
  const b = turn.operand(bValue, 'b', [a.type])
  for (const [name, t] of [['a', a], ['b', b]] as const) // prettier-ignore
    if (t.dims.length < 2) fail('ERR_SHAPE', name, 'at least 2 dimensions', [...t.dims])
  const ta = o.transposeA === undefined ? false : boolean(o.transposeA, 'transposeA')
  const tb = o.transposeB === undefined ? false : boolean(o.transposeB, 'transposeB')
  const [aRows, aCols] = a.dims.slice(-2) as [number, number]
  const [bRows, bCols] = b.dims.slice(-2) as [number, number]
  const [m, k] = ta ? [aCols, aRows] : [aRows, aCols]
  const [inner, n] = tb ? [bCols, bRows] : [bRows, bCols]
  if (inner !== k) fail('ERR_SHAPE', 'b', `an inner dimension of ${k}, as a has${tb ? ' (transposeB: the last of b)' : ''}`, [...b.dims])
  const aLead = lead(a.dims)
  const bLead = lead(b.dims)
  const batch = sizeOf(aLead)
  const single = bLead.length === 0
  if (!single && (aLead.length !== bLead.length || aLead.some((d, i) => d !== bLead[i])))
    fail('ERR_SHAPE', 'b', `leading dimensions as a has or none (nothing broadcasts on a GPU): [${aLead.join(', ')}]`, `[${bLead.join(', ')}]`)
  const alpha = o.alpha === undefined ? 1 : float32(o.alpha, 'alpha')
  const activation = activationOf(o.activation, 'activation')
  const bias = o.bias === undefined ? null : turn.operandOf(o.bias, 'bias', [a.type], [n], false)
  const dims = [...aLead, m, n]
  if (sizeOf(dims) > 2 ** 31 - 1) fail('ERR_SHAPE', 'b', 'a result of at most 2147483647 elements', `[${dims.join(', ')}]`)
  const y = turn.result(o.out, 'out', a.type, dims)
  // One right-hand side for all: a single tall product.
  const tall = single && !ta
  yield {
    name: 'cudaGemm',
    numbers: [
      floatCode(a.type), tall ? batch * m : m, n, k, tall ? 1 : batch, tall ? 0 : m * k, single ? 0 : k * n, ta, tb, alpha,
      activation.kind, activation.lo, activation.hi, sizeOf(a.dims), sizeOf(b.dims),
    ], // prettier-ignore
    tensors: [a, b, bias, y],
    parameter: 'a',
  }
  return y
}

const kBytes: readonly DataType[] = ['int8', 'uint8']

function packedTensors(turn: Turn, packed: DevicePackedInt8): [DeviceTensor, DeviceTensor] {
  return [turn.operand(packed.data, 'b', ['int8']), turn.operand(packed.sums, 'b', ['int32'])]
}

function* productInt8(turn: Turn, aValue: unknown, bValue: unknown, given: unknown): Routine<DeviceTensor> {
  const o = options(given, 'options', kGemmInt8Options)
  const a = turn.operand(aValue, 'a', kBytes)
  const packed = isDevicePacked(bValue) ? bValue : undefined
  const [b, sums] = packed ? packedTensors(turn, packed) : [turn.operand(bValue, 'b', kBytes), null]
  if (a.dims.length === 0) fail('ERR_SHAPE', 'a', 'at least one dimension', 'a scalar')
  if (!packed && b.dims.length !== 2) fail('ERR_SHAPE', 'b', 'a matrix (there are no batches of them on a GPU)', [...b.dims])
  if (packed && o.transposeB !== undefined) fail('ERR_RANGE', 'transposeB', 'no transposeB with packed weights (packInt8 takes transpose)', o.transposeB)
  const transposed = o.transposeB === undefined ? false : boolean(o.transposeB, 'transposeB')
  const k = a.dims[a.dims.length - 1] as number
  const [rows, columns] = (packed ? [packed.k, packed.n] : transposed ? [b.dims[1], b.dims[0]] : b.dims) as [number, number]
  if (rows !== k) throw new WhittleError('ERR_SHAPE', 'b', `b: for sums of ${rows}, but a's rows have ${k} elements`)
  const n = columns
  const dims = [...a.dims.slice(0, -1), n]
  const m = sizeOf(dims.slice(0, -1))
  const bType = packed ? packed.type : b.type
  const outType = o.outType === undefined ? 'int32' : oneOf(o.outType, 'outType', kOutTypes)
  const floats = outType !== 'int32'
  for (const name of ['aScale', 'bScale', 'activation'] as const)
    if (!floats && o[name] !== undefined && o[name] !== 'none') fail('ERR_RANGE', name, `no ${name} with outType 'int32', which is not scaled`, o[name])
  const quantized = outType === 'int8' || outType === 'uint8'
  for (const name of ['outScale', 'outZeroPoint'] as const)
    if (!quantized && o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} unless outType is 'int8' or 'uint8'`, o[name])
  const aZero = zeroPoint(o.aZeroPoint, 'aZeroPoint', a.type)
  const zeros = isDeviceTensor(o.bZeroPoint) ? turn.operandOf(o.bZeroPoint, 'bZeroPoint', [bType], [n], false) : null
  if (!zeros && ArrayBuffer.isView(o.bZeroPoint)) turn.operand(o.bZeroPoint, 'bZeroPoint', [bType])
  const bZero = zeros ? 0 : zeroPoint(o.bZeroPoint, 'bZeroPoint', bType)
  const scales = isDeviceTensor(o.bScale) ? turn.operandOf(o.bScale, 'bScale', ['float32'], [n], false) : null
  if (!scales && ArrayBuffer.isView(o.bScale)) turn.operand(o.bScale, 'bScale', ['float32'])
  const bScale = scales || o.bScale === undefined ? 1 : scaleOf(o.bScale, 'bScale')
  const aScale = o.aScale === undefined ? 1 : scaleOf(o.aScale, 'aScale')
  const outScale = o.outScale === undefined ? 1 : scaleOf(o.outScale, 'outScale')
  const outZero = quantized ? zeroPoint(o.outZeroPoint, 'outZeroPoint', outType) : 0
  const bias = o.bias === undefined ? null : turn.operandOf(o.bias, 'bias', floats ? ['int32', 'float32'] : ['int32'], [n], false)
  const activation = activationOf(o.activation, 'activation')
  if (o.threads !== undefined) integer(o.threads, 'threads', 1, 256)
  if (sizeOf(dims) > 2 ** 31 - 1) fail('ERR_SHAPE', 'out', 'at most 2147483647 elements', `[${dims.join(', ')}]`)
  const y = turn.result(o.out, 'out', outType, dims)
  const intBias = bias?.type === 'int32'
  const result = new Float64Array(1)
  yield {
    name: 'cudaGemmInt8',
    numbers: [
      m, n, k, a.type === 'int8', bType === 'uint8', transposed, aZero, bZero, aScale, bScale, activation.kind, activation.lo, activation.hi,
      kOutTypes.indexOf(outType), outScale, outZero, packed !== undefined, bias ? (intBias ? 1 : 2) : 0, scales !== null,
    ], // prettier-ignore
    tensors: [a, b, sums, bias, scales, zeros, y],
    result,
    parameter: 'a',
    refused: (status) => {
      const facts = { n, k, aSigned: a.type === 'int8', bUnsigned: bType === 'uint8', aZero, bZero, bZeros: null, aScale, bScale, bScales: null, intBias }
      if (status === 3 && result[0] === 2)
        throw new WhittleError('ERR_RANGE', 'bScale', `bScale: expected scales > 0 whose product with aScale float32 can hold, got ${scales ? 'another among them' : describe(bScale)}`)
      if (status === 3 && zeros) throw new WhittleError('ERR_RANGE', 'a', `a: sums of ${k} products can leave 32 bits with these zero points or this bias`)
      refusal(status, facts)
    },
  }
  return y
}

function* pack(turn: Turn, value: unknown, given: unknown): Routine<DevicePackedInt8> {
  const o = options(given, 'options', ['transpose', 'threads', 'scale'])
  if (o.scale !== undefined) missing('scale', 'weights with scales inside')
  const w = turn.operand(value, 'w', kBytes)
  if (w.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix (rank 2)', [...w.dims])
  const transpose = o.transpose === undefined ? false : boolean(o.transpose, 'transpose')
  if (o.threads !== undefined) integer(o.threads, 'threads', 1, 256)
  const [rows, columns] = w.dims as [number, number]
  const [k, n] = transpose ? [columns, rows] : [rows, columns]
  // core/cuda.h
  const height = Math.ceil(n / 4) * 4
  const width = Math.ceil(k / 16) * 16
  const data = turn.make('w', 'int8', [height, width])
  const sums = turn.make('w', 'int32', [height])
  yield { name: 'cudaPackInt8', numbers: [k, n, w.type === 'uint8', transpose], tensors: [w, data, sums], parameter: 'w' }
  return new DevicePackedInt8(k, n, w.type as 'int8' | 'uint8', data, sums)
}

/**
 * `gemm` on a GPU, of float32, float16 or bfloat16: `activation(alpha · op(a) · op(b) + bias)`, summed in float32 and rounded
 * to the type once. `b` is a matrix, or has the leading dimensions of `a`. Two calls give the same bits; they are not the CPU's.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere, for `c` and `beta`, and where cuBLASLt is missing
 */
export const gemm = (a: DeviceTensor, b: DeviceTensor, options?: DeviceGemmOptions): DeviceTensor => runSync((turn) => product(turn, a, b, options))

/** {@link gemm} off the JavaScript thread. */
export const gemmAsync = async (a: DeviceTensor, b: DeviceTensor, options?: DeviceGemmOptions): Promise<DeviceTensor> =>
  runAsync((turn) => product(turn, a, b, options))

/**
 * `gemmInt8` on a GPU, with the CPU's bits in every type of result. `b` is one matrix, packed or not.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere
 */
export const gemmInt8 = (a: DeviceTensor, b: DeviceTensor | DevicePackedInt8, options?: DeviceGemmInt8Options): DeviceTensor =>
  runSync((turn) => productInt8(turn, a, b, options))

/** {@link gemmInt8} off the JavaScript thread. */
export const gemmInt8Async = async (a: DeviceTensor, b: DeviceTensor | DevicePackedInt8, options?: DeviceGemmInt8Options): Promise<DeviceTensor> =>
  runAsync((turn) => productInt8(turn, a, b, options))

/** `packInt8` on a GPU; without `scale`. */
export const packInt8 = (w: DeviceTensor, options?: { readonly transpose?: boolean }): DevicePackedInt8 => runSync((turn) => pack(turn, w, options))

/** {@link packInt8} off the JavaScript thread. */
export const packInt8Async = async (w: DeviceTensor, options?: { readonly transpose?: boolean }): Promise<DevicePackedInt8> =>
  runAsync((turn) => pack(turn, w, options))
