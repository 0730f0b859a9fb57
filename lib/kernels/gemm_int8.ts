import { pin, pinOutput, type PinnedOutput } from '../async'
import { WhittleError } from '../errors'
import { Handle, handleObject } from '../handle'
import { check, native } from '../native'
import { allocate, sizeOf, typedArrayName, type DataType, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { boolean, describe, fail, finite, integer, oneOf, options, output, tensor, typedArray } from '../validate'
import { activationOf, type Activation, type NativeActivation } from './activation'
import type { PackedInt8 } from './gemm_int8_pack'
import { kScaledInt8, multiply, multiplyAsync, type GemmWeightOptions, type PackedScaledInt8 } from './gemm_weight'

export { packInt8, packInt8Async, PackedInt8, type PackInt8Options } from './gemm_int8_pack'

type Int8Data = Int8Array | Uint8Array
// The rest are numbers: see `prepare`, and binding/gemm_int8.cpp.
type GemmCall = [
  a: TypedArray,
  out: TypedArray,
  b: TypedArray | object,
  bias: TypedArray | null,
  bScales: TypedArray | null,
  bZeros: TypedArray | null,
  aIndex: Int32Array | null,
  bIndex: Int32Array | null,
]

declare module '../native' {
  interface NativeBinding {
    gemmInt8(...args: GemmCall): number
    gemmInt8Async(...args: GemmCall): Promise<number>
    gemmInt8Peak(iterations: number, threads: number): number
  }
}

export interface GemmInt8Options {
  /** What zero is stored as in `a`; default 0. */
  readonly aZeroPoint?: number
  /** The same for `b`: a number, or one a column in an array of `b`'s type. Default 0. */
  readonly bZeroPoint?: number | Int8Array | Uint8Array
  /** Scale of `a`, > 0; default 1. Not with `outType` int32. */
  readonly aScale?: number
  /** Scale of `b`: a number, or one a column. Default 1. Not with `outType` int32. */
  readonly bScale?: number | Float32Array
  /** One a column: an Int32Array in units of aScale·bScale, or (not with `outType` int32) a Float32Array. */
  readonly bias?: Int32Array | Float32Array | TensorLike
  /** Applied to the scaled result. Not with `outType` int32. */
  readonly activation?: Activation
  /** Default 'int32'. */
  readonly outType?: 'int32' | 'float32' | 'int8' | 'uint8'
  /** Scale of an int8 or uint8 result, > 0; default 1. */
  readonly outScale?: number
  /** What zero is stored as in an int8 or uint8 result; default 0. */
  readonly outZeroPoint?: number
  /** `b` lies `[…, n, k]`. Packed weights know how they lie. Default false. */
  readonly transposeB?: boolean
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
  /** Where the result goes: an array of `outType`'s class and the right length that overlaps no input. */
  readonly out?: TypedArray
}

const kTypes: readonly DataType[] = ['int8', 'uint8']

function isUnsigned(type: DataType): boolean {
  return type === 'uint8'
}

interface Prepared {
  /** The arguments; the addon's `numbers` hold the rest, so nothing of the user's may run before the call. */
  readonly call: GemmCall
  readonly dims: number[]
  readonly outType: DataType
  /** Present where memory was pinned for an asynchronous call. */
  readonly output: PinnedOutput<TypedArray> | undefined
  /** What an error's words need. */
  readonly facts: Facts
}

/** @internal */
export interface Facts {
  readonly n: number
  readonly k: number
  readonly aSigned: boolean
  readonly bUnsigned: boolean
  readonly aZero: number
  readonly bZero: number
  readonly bZeros: TypedArray | null
  readonly aScale: number
  readonly bScale: number
  readonly bScales: TypedArray | null
  readonly intBias: boolean
}

/** @internal */
export const kOutTypes = ['int32', 'float32', 'int8', 'uint8'] as const
/** @internal */
export const kGemmInt8Options = [
  'aZeroPoint', 'bZeroPoint', 'aScale', 'bScale', 'bias', 'activation', 'outType', 'outScale', 'outZeroPoint', 'transposeB',
  'threads', 'out',
] as const

/** @internal */
export function zeroPoint(value: unknown, parameter: string, type: DataType): number {
  if (value === undefined) return 0
  return isUnsigned(type) ? integer(value, parameter, 0, 255) : integer(value, parameter, -128, 127)
}

/** @internal */
export function scaleOf(value: unknown, parameter: string): number {
  const s = Math.fround(finite(value, parameter, 0))
  if (!(s > 0 && s < Infinity)) fail('ERR_RANGE', parameter, 'a scale > 0 that float32 can hold', value)
  return s
}

/** The common case without ceremony: a typed array of that class and length, not empty (and so not detached). */
function isPlain(value: unknown, name: string, length: number): value is TypedArray {
  return typedArrayName(value) === name && (value as TypedArray).length === length && length > 0
}

/** The same for the rows: anything else, good or bad, goes the long way. */
function plainRows(value: unknown): Tensor | undefined {
  if (value === null || typeof value !== 'object') return undefined
  const { type, dims, data, location } = value as Record<string, unknown>
  if ((type !== 'uint8' && type !== 'int8') || (location !== undefined && location !== 'cpu') || !Array.isArray(dims) || dims.length !== 2) return undefined
  const rows: unknown = dims[0]
  const columns: unknown = dims[1]
  if (!Number.isInteger(rows) || !Number.isInteger(columns) || (rows as number) <= 0 || (columns as number) <= 0) return undefined
  if (!isPlain(data, type === 'uint8' ? 'Uint8Array' : 'Int8Array', (rows as number) * (columns as number))) return undefined
  return { type, dims: [rows as number, columns as number], data }
}

// An array of one a column; an array of length 1 serves as a number.
function perColumn(value: unknown, parameter: string, type: DataType, n: number): TypedArray {
  if (type === 'float32' && isPlain(value, 'Float32Array', n)) return value
  const data = typedArrayName(value) ? typedArray(value, parameter, [type]) : tensor(value, parameter, [type]).data
  if (data.length !== n && data.length !== 1) fail('ERR_SHAPE', parameter, n === 1 ? '1 element' : `1 or ${n} elements`, value)
  return data
}

// Which matrix each product of the batch takes; null where it is simply the product's own number.
function batchIndex(from: readonly number[], to: readonly number[], count: number): Int32Array | null {
  const lead = to.length - from.length
  if (lead === 0 && from.every((d, i) => d === to[i])) return null
  const strides = new Array<number>(to.length).fill(0)
  for (let i = to.length - 1, s = 1; i >= lead; i--) {
    const d = from[i - lead] as number
    if (d > 1) strides[i] = s
    s *= d
  }
  const index = new Int32Array(count)
  const at = new Array<number>(to.length).fill(0)
  for (let c = 0, position = 0; c < count; c++) {
    index[c] = position
    for (let i = to.length - 1; i >= 0; i--) {
      position += strides[i] as number
      if (++(at[i] as number) < (to[i] as number)) break
      position -= (strides[i] as number) * (to[i] as number)
      at[i] = 0
    }
  }
  return index
}

function broadcast(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1
    const y = b[i - rank + b.length] ?? 1
    if (x !== y && x !== 1 && y !== 1)
      throw new WhittleError('ERR_SHAPE', 'b', `b: leading dims [${b.join(', ')}] do not broadcast with a's [${a.join(', ')}]`)
    return x === 1 ? y : x
  })
}

function prepare(aValue: unknown, bValue: unknown, opts: unknown, pinned: boolean): Prepared {
  // A handle's clone and a token are objects that lack a tensor's fields; they deserve their own error, whatever `a` is.
  const fields = typeof bValue === 'object' && bValue !== null && !typedArrayName(bValue) ? (bValue as Partial<TensorLike>) : undefined
  const weights = Handle.is(fields) ? (fields as PackedInt8) : undefined
  if (fields && !weights && fields.dims === undefined && fields.data === undefined) handleObject(bValue, 'PackedInt8', 'b')
  const a = plainRows(aValue) ?? tensor(aValue, 'a', kTypes)
  const o = options(opts, 'options', kGemmInt8Options)
  const outType = o.outType === undefined ? 'int32' : oneOf(o.outType, 'outType', kOutTypes)
  const rankA = a.dims.length
  if (rankA === 0) fail('ERR_SHAPE', 'a', 'at least one dimension', 'a scalar')
  const k = a.dims[rankA - 1] as number
  const transposed = o.transposeB === undefined ? false : boolean(o.transposeB, 'transposeB')

  let n: number, batch: number, m: number, bType: DataType
  let packed: object | null = null
  let b: TypedArray | null = null
  let aIndex: Int32Array | null = null
  let bIndex: Int32Array | null = null
  let lead: readonly number[]
  let aMatrices = 1
  let bMatrices = 1
  let leads: readonly (readonly number[])[] | undefined
  if (weights) {
    packed = handleObject(bValue, 'PackedInt8', 'b')
    if (o.transposeB !== undefined) fail('ERR_RANGE', 'transposeB', 'no transposeB with packed weights (packInt8 takes transpose)', o.transposeB)
    n = weights.n
    bType = weights.type
    if (weights.k !== k) throw new WhittleError('ERR_SHAPE', 'b', `b: packed for sums of ${weights.k}, but a's rows have ${k} elements`)
    // One matrix for all: the batch is rows.
    lead = a.dims.slice(0, -1)
    batch = 1
    m = rankA === 2 ? (a.dims[0] as number) : sizeOf(lead)
  } else {
    const t = tensor(bValue, 'b', kTypes)
    const rankB = t.dims.length
    if (rankB < 2) fail('ERR_SHAPE', 'b', 'a matrix or a batch of them (rank >= 2)', t.dims)
    const [r, c] = t.dims.slice(-2) as [number, number]
    n = transposed ? r : c
    if ((transposed ? c : r) !== k)
      throw new WhittleError('ERR_SHAPE', 'b', `b: dims [${t.dims.join(', ')}]${transposed ? ' transposed' : ''} need rows of ${transposed ? c : r} in a, got [${a.dims.join(', ')}]`)
    b = t.data
    bType = t.type
    const bLead = t.dims.slice(0, -2)
    bMatrices = sizeOf(bLead)
    if (bMatrices === 1 && rankB - 2 <= Math.max(rankA - 2, 0)) {
      lead = a.dims.slice(0, -1)
      batch = 1
      m = sizeOf(lead)
    } else {
      m = rankA === 1 ? 1 : (a.dims[rankA - 2] as number)
      const aLead = a.dims.slice(0, Math.max(rankA - 2, 0))
      const all = broadcast(aLead, bLead)
      batch = sizeOf(all)
      aMatrices = sizeOf(aLead)
      lead = rankA === 1 ? all : [...all, m]
      leads = [aLead, bLead, all]
    }
  }
  const outDims = rankA === 2 && lead.length === 1 ? [m, n] : [...lead, n]
  const count = sizeOf(outDims)
  if (count > 2 ** 31 - 1) fail('ERR_SHAPE', 'out', 'at most 2147483647 elements', `[${outDims.join(', ')}]`)
  // Nothing to compute, however many empty products there are.
  if (leads && count === 0) batch = 0
  else if (leads) {
    const [aLead, bLead, all] = leads as [number[], number[], number[]]
    aIndex = batchIndex(aLead, all, batch)
    bIndex = batchIndex(bLead, all, batch)
  }

  const aZero = zeroPoint(o.aZeroPoint, 'aZeroPoint', a.type)
  let bZero = 0
  let bZeros: TypedArray | null = null
  if (typeof o.bZeroPoint === 'number' || o.bZeroPoint === undefined) bZero = zeroPoint(o.bZeroPoint, 'bZeroPoint', bType)
  else {
    bZeros = perColumn(o.bZeroPoint, 'bZeroPoint', bType, n)
    if (bZeros.length === 1) [bZero, bZeros] = [(bZeros as Int8Data)[0] as number, null]
  }

  const floats = outType !== 'int32'
  if (!floats && (o.aScale !== undefined || o.bScale !== undefined || o.activation !== undefined))
    for (const name of ['aScale', 'bScale', 'activation'] as const)
      if (o[name] !== undefined && o[name] !== 'none') fail('ERR_RANGE', name, `no ${name} with outType 'int32', which is not scaled`, o[name])
  const quantized = outType === 'int8' || outType === 'uint8'
  if (!quantized && (o.outScale !== undefined || o.outZeroPoint !== undefined))
    for (const name of ['outScale', 'outZeroPoint'] as const)
      if (o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} unless outType is 'int8' or 'uint8'`, o[name])
  const aScale = o.aScale === undefined ? 1 : scaleOf(o.aScale, 'aScale')
  let bScale = 1
  let bScales: TypedArray | null = null
  if (o.bScale !== undefined && typeof o.bScale !== 'number') {
    bScales = perColumn(o.bScale, 'bScale', 'float32', n)
    if (bScales.length === 1) [bScale, bScales] = [scaleOf((bScales as Float32Array)[0], 'bScale'), null]
  } else if (o.bScale !== undefined) bScale = scaleOf(o.bScale, 'bScale')
  const outScale = o.outScale === undefined ? 1 : scaleOf(o.outScale, 'outScale')
  const outZero = quantized ? zeroPoint(o.outZeroPoint, 'outZeroPoint', outType) : 0
  let bias: TypedArray | null = null
  let intBias = false
  if (o.bias !== undefined) {
    const kinds: DataType[] = floats ? ['int32', 'float32'] : ['int32']
    if (floats && isPlain(o.bias, 'Float32Array', n)) bias = o.bias
    else bias = typedArrayName(o.bias) ? typedArray(o.bias, 'bias', kinds) : tensor(o.bias, 'bias', kinds).data
    if (bias.length !== n) fail('ERR_SHAPE', 'bias', `${n} elements, one a column`, bias)
    intBias = typedArrayName(bias) === 'Int32Array'
  }
  const activation: NativeActivation = activationOf(o.activation, 'activation')
  const threads = o.threads === undefined ? 0 : integer(o.threads, 'threads', 1, 256)

  const fresh = o.out === undefined
  let out: TypedArray
  if (fresh) out = allocate(outType, count)
  else {
    const inputs: TypedArray[] = [a.data]
    for (const x of [b, bias, bScales, bZeros]) if (x) inputs.push(x)
    out = output(o.out, 'out', outType, count, inputs)
  }
  let call: GemmCall = [a.data, out, packed ?? (b as TypedArray), bias, bScales, bZeros, aIndex, bIndex]
  let pinnedOut: PinnedOutput<TypedArray> | undefined
  if (pinned) {
    pinnedOut = pinOutput(out, 'out', fresh)
    call = [
      pin(a.data), pinnedOut.view, packed ?? pin(b as TypedArray), bias && pin(bias), bScales && pin(bScales), bZeros && pin(bZeros),
      aIndex, bIndex,
    ]
  }
  const aSigned = a.type === 'int8'
  const bUnsigned = isUnsigned(bType)
  const p = native().numbers
  p[0] = batch
  p[1] = m
  p[2] = n
  p[3] = k
  p[4] = aMatrices
  p[5] = bMatrices
  p[6] = packed ? 1 : 0
  p[7] = aSigned ? 1 : 0
  p[8] = bUnsigned ? 1 : 0
  p[9] = transposed ? 1 : 0
  p[10] = bias ? (intBias ? 1 : 2) : 0
  p[11] = bScales ? 1 : 0
  p[12] = bZeros ? 1 : 0
  p[13] = aIndex ? 1 : 0
  p[14] = bIndex ? 1 : 0
  p[15] = aZero
  p[16] = bZero
  p[17] = aScale
  p[18] = bScale
  p[19] = activation.kind
  p[20] = activation.lo
  p[21] = activation.hi
  p[22] = kOutTypes.indexOf(outType)
  p[23] = outScale
  p[24] = outZero
  p[25] = threads
  const facts = { n, k, aSigned, bUnsigned, aZero, bZero, bZeros, aScale, bScale, bScales, intBias }
  return { call, dims: outDims, outType, output: pinnedOut, facts }
}

// Says what a native refusal means: the driver found a sum that could leave 32 bits, a scale or a bias that is no good.
/** @internal */
export function refusal(status: number, { n, k, aSigned, bUnsigned, aZero, bZero, bZeros, aScale, bScale, bScales, intBias }: Facts): void {
  if (status === 3) {
    const products = Array.from({ length: n === 0 || bZeros === null ? 1 : n }, (_, j) => {
      const zb = bZeros ? ((bZeros as Int8Data)[j] as number) : bZero
      const a = aSigned ? [-128 - aZero, 127 - aZero] : [-aZero, 255 - aZero]
      const b = bUnsigned ? [-zb, 255 - zb] : [-128 - zb, 127 - zb]
      const all = a.flatMap((x) => b.map((y) => x * y))
      return Math.min(Math.floor(2 ** 31 / Math.max(0, -Math.min(...all))), Math.floor((2 ** 31 - 1) / Math.max(0, ...all)))
    })
    const most = Math.min(...products)
    if (k > most || intBias)
      throw new WhittleError(
        'ERR_RANGE',
        k > most ? 'a' : 'bias',
        k > most
          ? `a: sums of ${k} products can leave 32 bits with these types and zero points; at most ${most} fit`
          : `bias: sums of ${k} products and this bias can leave 32 bits`,
      )
    const bad = bScales ? (bScales as Float32Array).find((s) => !(Math.fround(aScale * s) > 0 && Math.fround(aScale * s) < Infinity)) : bScale
    throw new WhittleError('ERR_RANGE', 'bScale', `bScale: expected scales > 0 whose product with aScale float32 can hold, got ${describe(bad)}`)
  }
  check(status, status === 8 ? 'bias' : 'a')
}

function isPackedScaled(b: unknown): b is PackedScaledInt8 {
  return Handle.is(b) && Handle.nameOf(b) === 'PackedScaledInt8'
}

/**
 * The product of 8-bit integer tensors, summed exactly in 32 bits: `y = (a − aZeroPoint)·(b − bZeroPoint)`, then what
 * `outType` says. int8 and uint8 mix freely. Every CPU variant and thread count gives the same bits:
 *
 * - `int32`: the sum, plus an integer bias
 * - `float32`: `act(float(sum)·(aScale·bScale[j]) + bias[j])`, each operation rounded to float32 by itself
 * - `int8`, `uint8`: that value divided by `outScale`, rounded half to even, plus `outZeroPoint`, saturated
 *
 * A sum that could leave 32 bits, whatever the data, is refused: with zero points 0, k may reach 131071 (int8·int8),
 * 65793 (uint8·int8 and int8·uint8 the other way round) or 33025 (uint8·uint8).
 *
 * @param a `[…, m, k]`, or `[k]` for one row
 * @param b `[k, n]`, a batch `[…, k, n]` whose leading dims broadcast with `a`'s, or weights packed by {@link packInt8}
 * (packing takes time: pack what is used twice)
 * @returns a tensor `[…, m, n]` of `outType`
 * @throws {WhittleError} `ERR_SHAPE`, `ERR_DTYPE`, `ERR_RANGE` naming the parameter; `ERR_HANDLE` for weights disposed of
 * @example
 * const y = gemmInt8(
 *   { type: 'uint8', dims: [1, 3], data: Uint8Array.of(1, 2, 255) },
 *   { type: 'int8', dims: [3, 1], data: Int8Array.of(-128, 5, 1) },
 * ) // y.data: Int32Array [137]
 */
export function gemmInt8(a: TensorLike | Int8Array | Uint8Array, b: TensorLike | PackedInt8, options?: GemmInt8Options): Tensor
/**
 * The product of float32 rows with 8-bit weights that hold their scales: `activation(a · w + bias)`, w = scale·(code −
 * zeroPoint), as {@link gemmInt4} defines it (without its second term of the error). Nothing of `a` is quantized.
 *
 * @param a float32 `[…, m, k]`, or `[k]` for one row
 * @param b weights packed by {@link packInt8} with `scale`
 */
export function gemmInt8(a: TensorLike | Float32Array, b: PackedScaledInt8, options?: GemmWeightOptions): Tensor<Float32Array>
export function gemmInt8(
  a: TensorLike | Int8Array | Uint8Array | Float32Array,
  b: TensorLike | PackedInt8 | PackedScaledInt8,
  options?: GemmInt8Options | GemmWeightOptions,
): Tensor {
  if (isPackedScaled(b)) return multiply(kScaledInt8, a, b, options)
  const { call, dims, outType, facts } = prepare(a, b, options, false)
  // Not spread: that costs more than the arguments.
  const status = native().gemmInt8(call[0], call[1], call[2], call[3], call[4], call[5], call[6], call[7])
  if (status !== 0) refusal(status, facts)
  return { type: outType, dims, data: call[1] }
}

/** {@link gemmInt8} off the main thread. Inputs must not be written to until it is done. */
export async function gemmInt8Async(
  a: TensorLike | Int8Array | Uint8Array,
  b: TensorLike | PackedInt8,
  options?: GemmInt8Options,
): Promise<Tensor>
export async function gemmInt8Async(
  a: TensorLike | Float32Array,
  b: PackedScaledInt8,
  options?: GemmWeightOptions,
): Promise<Tensor<Float32Array>>
export async function gemmInt8Async(
  a: TensorLike | Int8Array | Uint8Array | Float32Array,
  b: TensorLike | PackedInt8 | PackedScaledInt8,
  options?: GemmInt8Options | GemmWeightOptions,
): Promise<Tensor> {
  if (isPackedScaled(b)) return multiplyAsync(kScaledInt8, a, b, options)
  const { call, dims, outType, output, facts } = prepare(a, b, options, true)
  const status = await native().gemmInt8Async(...call)
  if (status !== 0) refusal(status, facts)
  return { type: outType, dims, data: (output as PinnedOutput<TypedArray>).commit() }
}
