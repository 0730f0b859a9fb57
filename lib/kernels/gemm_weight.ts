// What gemmInt4, gemmInt8 with float32 rows and gemm with packed weights share: packing and the product.
import { pin, pinOutput } from '../async'
import { WhittleError } from '../errors'
import { Handle, handleObject, registerHandle } from '../handle'
import { check, native } from '../native'
import { allocate, bitsOf, sizeOf, typedArrayName, type DataType, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { boolean, dims, fail, integer, options, output, tensor } from '../validate'
import { activationOf, type Activation } from './activation'
import type { QuantizedLike } from './quantize'
import { codesOf, raw, scalesOf, shapeOf, zerosOf } from './scheme'

type FillArguments = [numbers: Float64Array, handle: object, codes: TypedArray, scales: TypedArray | null, zeros: TypedArray | null]
type MultiplyArguments = [
  format: number, packed: object, m: number, a: TypedArray, bias: TypedArray | null, activation: number, lo: number, hi: number,
  out: TypedArray, threads: number,
] // prettier-ignore

declare module '../native' {
  interface NativeBinding {
    packWeightNew(format: number, k: number, n: number, blockSize: number, withOffset: boolean): object | undefined
    packWeightFill(...args: FillArguments): number
    packWeightFillAsync(...args: FillArguments): Promise<number>
    packedWeightInfo(
      format: number,
      handle: object,
    ): readonly [k: number, n: number, blockSize: number, blocks: number, hasOffset: number] | undefined
    gemmWeight(...args: MultiplyArguments): number
    gemmWeightAsync(...args: MultiplyArguments): Promise<number>
  }
}

/** @internal As core/gemm_weight.h numbers them. */
export const kInt4 = 0
/** @internal */
export const kScaledInt8 = 1
/** @internal */
export const kBfloat16 = 2
/** @internal */
export const kFloat32 = 3
const kNames = ['PackedInt4', 'PackedScaledInt8', 'PackedBfloat16', 'PackedFloat32'] as const

/** @internal Shape of what a handle holds. */
export function infoOf(format: number, object: object): { k: number; n: number; blockSize: number; hasOffset: boolean } {
  const [k, n, blockSize, , hasOffset] = native().packedWeightInfo(format, object) as readonly number[] as [number, number, number, number, number]
  return { k, n, blockSize, hasOffset: hasOffset === 1 }
}

/** @internal Where codes, scales and zero points lie, in elements: core/gemm_weight.h's WeightSource. */
export interface Source {
  readonly format: number
  readonly k: number
  readonly n: number
  readonly block: number
  readonly withOffset: boolean
  readonly row: number
  readonly col: number
  readonly signed?: boolean
  readonly float?: boolean
  readonly positive?: boolean
  readonly scaleBlock?: number
  readonly scaleCol?: number
  readonly zeroKind?: number
  readonly zeroBlock?: number
  readonly zeroCol?: number
  readonly zeroDefault?: number
  readonly codes: TypedArray
  readonly scales?: TypedArray | null
  readonly zeros?: TypedArray | null
}

/** @internal Packing that is ready to be done, at once or on another thread. */
export interface Packing {
  readonly source: Source
  readonly threads: number
}

const flag = (x: boolean | undefined): number => (x ? 1 : 0)

/** @internal What the native side reads of a source: numbers (binding/gemm_weight.cpp lists them), codes, scales, zero points. */
export function fillNumbers(s: Source, threads: number): [numbers: Float64Array, codes: TypedArray, scales: TypedArray | null, zeros: TypedArray | null] {
  const scales = s.scales ? raw({ type: 'float16', dims: [], data: s.scales }) : null
  const zeros = s.zeros ? raw({ type: 'float16', dims: [], data: s.zeros }) : null
  const numbers = Float64Array.of(
    s.format, s.row, s.col, flag(s.signed), flag(s.float), flag(scales?.BYTES_PER_ELEMENT === 2), flag(s.positive), s.scaleBlock ?? 0,
    s.scaleCol ?? 0, s.zeroKind ?? 0, s.zeroBlock ?? 0, s.zeroCol ?? 0, s.zeroDefault ?? 0, threads,
  ) // prettier-ignore
  return [numbers, s.codes, scales, zeros]
}

function begin({ source: s, threads }: Packing): FillArguments {
  const object = native().packWeightNew(s.format, s.k, s.n, s.block, s.withOffset)
  if (!object) throw new WhittleError('ERR_OUT_OF_MEMORY', 'w', `w: cannot allocate packed weights of ${s.k} x ${s.n}`)
  const [numbers, codes, scales, zeros] = fillNumbers(s, threads)
  return [numbers, object, codes, scales, zeros]
}

function finish(status: number, object: object): object {
  if (status === 0) return object
  native().handleDispose(object)
  if (status === 3) throw new WhittleError('ERR_RANGE', 'scale', 'scale: expected scales > 0, found one that is not')
  if (status === 8)
    throw new WhittleError('ERR_RANGE', 'scale', 'scale: expected finite scales and zero points whose products with codes float32 can hold')
  check(status, 'w')
  return object
}

/** @internal */
export function pack(p: Packing): object {
  const args = begin(p)
  return finish(native().packWeightFill(...args), args[1])
}

/** @internal */
export async function packAsync(p: Packing): Promise<object> {
  const [numbers, object, codes, scales, zeros] = begin(p)
  return finish(await native().packWeightFillAsync(numbers, object, pin(codes), scales && pin(scales), zeros && pin(zeros)), object)
}

/** @internal */
export function threadsOf(value: unknown): number {
  return value === undefined ? 0 : integer(value, 'threads', 1, 256)
}

/** @internal True for a tensor of bytes that lies as MatMulNBits has it: [n, blocks, bytes of a block]. */
export function isBlob(w: unknown): w is TensorLike {
  const t = w as { type?: unknown; dims?: unknown } | null
  return typeof t === 'object' && t !== null && t.type === 'uint8' && Array.isArray(t.dims) && t.dims.length === 3
}

/** @internal Weights of com.microsoft MatMulNBits as they lie in a file. */
export function blobSource(
  format: number,
  w: unknown,
  o: { scale?: unknown; zeroPoint?: unknown; blockSize?: unknown; k?: unknown },
): Source {
  const bits = format === kInt4 ? 4 : 8
  const t = tensor(w, 'w', ['uint8'])
  const [n, blocks, bytes] = t.dims as [number, number, number]
  const block = (bytes * 8) / bits
  if (block < 16 || (block & (block - 1)) !== 0 || block > 2 ** 30)
    fail('ERR_SHAPE', 'w.dims', `[n, blocks, blockSize·${bits}/8] with a blockSize that is a power of two from 16 up`, `[${t.dims.join(', ')}]`)
  if (o.blockSize !== undefined && integer(o.blockSize, 'blockSize', 1) !== block)
    fail('ERR_SHAPE', 'blockSize', `${block}, as w.dims say`, o.blockSize)
  const k = o.k === undefined ? blocks * block : integer(o.k, 'k', 0, 2 ** 31 - 1)
  if (Math.ceil(k / block) !== blocks) fail('ERR_SHAPE', 'k', `what ${blocks} blocks of ${block} hold`, k)
  if (o.scale === undefined) fail('ERR_DTYPE', 'scale', 'a scale for each block of each column', o.scale)
  const count = n * blocks
  const scales = tensor(o.scale, 'scale', ['float32', 'float16']).data
  if (scales.length !== count) fail('ERR_SHAPE', 'scale', `${count} values, one for each block of each column`, scales)
  const middle = bits === 4 ? 8 : 128
  const base = {
    format, k, n, block, codes: t.data, row: 1, col: blocks * block, signed: false, scales, scaleBlock: 1, scaleCol: blocks, zeroDefault: middle,
  } // prettier-ignore
  if (o.zeroPoint === undefined || o.zeroPoint === null) return { ...base, withOffset: false }
  const zeros = tensor(o.zeroPoint, 'zeroPoint', ['uint8', 'float32', 'float16']).data
  if (zeros.BYTES_PER_ELEMENT > 1) {
    if (zeros.length !== count) fail('ERR_SHAPE', 'zeroPoint', `${count} values, one for each block of each column`, zeros)
    // Floats lie as the scales do, and share their width only by chance.
    return { ...base, withOffset: true, zeros, zeroKind: zeros.BYTES_PER_ELEMENT === 4 ? 2 : 3 }
  }
  const rowBytes = Math.ceil((blocks * bits) / 8)
  if (zeros.length !== n * rowBytes) fail('ERR_SHAPE', 'zeroPoint', `${n * rowBytes} bytes, ${rowBytes} for each column`, zeros)
  const perRow = (rowBytes * 8) / bits
  let withOffset = false
  for (let j = 0; j < n && !withOffset; j++)
    for (let b = 0; b < blocks && !withOffset; b++) withOffset = codeAt(zeros, j * perRow + b, bits) !== middle
  return { ...base, withOffset, zeros: withOffset ? zeros : null, zeroKind: withOffset ? 1 : 0, zeroBlock: 1, zeroCol: perRow }
}

// Unsigned code `i` of packed or plain bytes.
function codeAt(data: TypedArray, i: number, bits: number): number {
  if (bits === 8) return (data[i] as number) & 255
  const byte = data[i >> 1] as number
  return i & 1 ? byte >> 4 : byte & 15
}

/** @internal Codes with scales of a whole matrix, of each column, or of blocks along k. */
export function quantizedSource(format: number, w: QuantizedLike, transpose: boolean, where = 'w.'): Source {
  const types: DataType[] = format === kInt4 ? ['int4', 'uint4'] : ['int8', 'uint8']
  const t = tensor(w, 'w', types)
  if (t.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix (rank 2)', `[${t.dims.join(', ')}]`)
  const bits = bitsOf(t.type)
  const shape = shapeOf(t.dims, w.axis, w.blockSize)
  const along = transpose ? 1 : 0
  const [k, n] = transpose ? [t.dims[1] as number, t.dims[0] as number] : (t.dims as [number, number])
  if (shape.along !== null && (shape.block > 0) !== (shape.along === along))
    throw new WhittleError(
      'ERR_SHAPE',
      `${where}axis`,
      `${where}axis: expected one scale, one for each column (axis ${1 - along}, no blockSize) or blocks along k (axis ${along}), got ` +
        `axis ${shape.along}${shape.block > 0 ? ` in blocks of ${shape.block}` : ''}; transpose says where k is`,
    )
  if (w.scale === undefined) fail('ERR_DTYPE', `${where}scale`, 'a scale for each group', w.scale)
  const scales = scalesOf(w.scale, shape, `${where}scale`)
  const codes = codesOf({ type: t.type, ...(w.bits === undefined ? {} : { bits: w.bits }) }, true)
  const zeros = zerosOf(w.zeroPoint, shape, codes, `${where}zeroPoint`)
  const signed = codes.signed
  // Of unsigned codes; a signed one is read with its top bit turned.
  const middle = 2 ** (bits - 1)
  let withOffset = !zeros && !signed
  if (zeros) for (let i = 0; i < shape.count && !withOffset; i++) withOffset = codeAt(zeros, i, bits) !== (signed ? 0 : middle)
  const blocks = shape.block > 0 ? Math.ceil(k / shape.block) : 1
  const [scaleBlock, scaleCol] = shape.along === null ? [0, 0] : shape.block === 0 ? [0, 1] : transpose ? [1, blocks] : [n, 1]
  return {
    format, k, n, block: shape.block || Math.max(k, 1), withOffset, codes: t.data, row: transpose ? 1 : n, col: transpose ? k : 1, signed,
    positive: true, scales, scaleBlock, scaleCol, zeros: withOffset ? zeros : null, zeroKind: withOffset && zeros ? 1 : 0,
    zeroBlock: scaleBlock, zeroCol: scaleCol, zeroDefault: withOffset ? 0 : signed ? 0 : middle,
  } // prettier-ignore
}

/** Options of {@link gemmInt4}, and of {@link gemm} with packed weights. */
export interface GemmWeightOptions {
  /** One float32 number for each column: n. */
  readonly bias?: TensorLike | Float32Array
  /** Applied last. Default `'none'`. */
  readonly activation?: Activation
  /** Dims of `a` where it is a bare Float32Array; default one row. */
  readonly aDims?: readonly number[]
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
  /** Where the result goes: as many elements as it has, no overlap with an input. */
  readonly out?: Float32Array
}

/** @internal */
export const kWeightOptions = ['bias', 'activation', 'aDims', 'threads', 'out'] as const

interface Product {
  readonly args: MultiplyArguments
  readonly dims: number[]
  readonly fresh: boolean
}

/** @internal Rows times packed weights: both checked against what was packed. */
export interface Rows {
  readonly a: TypedArray
  readonly m: number
  readonly bias: TypedArray | null
  /** of the result */
  readonly dims: number[]
}

/** @internal */
export function rowsOf(aValue: unknown, { k, n }: { readonly k: number; readonly n: number }, o: { aDims?: unknown; bias?: unknown }): Rows {
  const a = tensor(aValue, 'a', ['float32'], o.aDims)
  const rank = a.dims.length
  if (rank === 0) fail('ERR_SHAPE', 'a', 'at least one dimension', 'a scalar')
  if (a.dims[rank - 1] !== k)
    throw new WhittleError('ERR_SHAPE', 'b', `b: packed for rows of ${k} elements, got a of dims [${a.dims.join(', ')}]`)
  const lead = a.dims.slice(0, -1)
  const outDims = dims([...lead, n], 'out')
  let bias: TypedArray | null = null
  if (o.bias !== undefined) {
    const t = tensor(o.bias, 'bias', ['float32'])
    if (t.data.length !== n || t.dims.some((d) => d !== 1 && d !== n)) fail('ERR_SHAPE', 'bias', `${n} elements, one for each column`, `[${t.dims.join(', ')}]`)
    bias = t.data
  }
  return { a: a.data, m: sizeOf(lead), bias, dims: outDims }
}

function prepare(format: number, aValue: unknown, b: unknown, given: unknown): Product {
  const o = options(given, 'options', kWeightOptions)
  const object = handleObject(b, kNames[format] as string, 'b')
  const { n } = b as PackedBfloat16
  const { a, m, bias, dims: outDims } = rowsOf(aValue, b as PackedBfloat16, o)
  const activation = activationOf(o.activation, 'activation')
  const threads = threadsOf(o.threads)
  const inputs = bias ? [a, bias] : [a]
  const fresh = o.out === undefined
  const out = fresh ? allocate('float32', m * n) : output(o.out, 'out', 'float32', m * n, inputs)
  return { args: [format, object, m, a, bias, activation.kind, activation.lo, activation.hi, out, threads], dims: outDims, fresh }
}

/** @internal The format of weights that {@link gemm} takes; anything else is refused as if bfloat16 were meant. */
export function floatFormatOf(b: Handle): number {
  return Handle.nameOf(b) === 'PackedFloat32' ? kFloat32 : kBfloat16
}

/** @internal */
export function multiply(format: number, a: unknown, b: unknown, given: unknown): Tensor<Float32Array> {
  const p = prepare(format, a, b, given)
  check(native().gemmWeight(...p.args), 'a')
  return { type: 'float32', dims: p.dims, data: p.args[8] as Float32Array }
}

/** @internal */
export async function multiplyAsync(format: number, a: unknown, b: unknown, given: unknown): Promise<Tensor<Float32Array>> {
  const p = prepare(format, a, b, given)
  const [, object, m, x, bias, kind, lo, hi, out, threads] = p.args
  const pinned = pinOutput(out, 'out', p.fresh)
  check(await native().gemmWeightAsync(format, object, m, pin(x), bias && pin(bias), kind, lo, hi, pinned.view, threads), 'a')
  return { type: 'float32', dims: p.dims, data: pinned.commit() as Float32Array }
}

/**
 * Weights as bfloat16, packed for {@link gemm}: half the bytes of float32 and 8 of its 24 bits, with float32's range. Made by
 * {@link packBfloat16}; a {@link Handle}.
 */
export class PackedBfloat16 extends Handle {
  /** Rows of the matrix that was packed: the length of the sums. */
  readonly k: number
  /** Its columns. */
  readonly n: number

  /** @internal */
  constructor(object: object) {
    super('PackedBfloat16', object)
    const { k, n } = infoOf(kBfloat16, object)
    this.k = k
    this.n = n
  }
}

registerHandle('PackedBfloat16', (object) => new PackedBfloat16(object))

/**
 * float32 weights in the order in which {@link gemm} reads them, which otherwise reorders them in every call. Made by
 * {@link packFloat32}; a {@link Handle}.
 */
export class PackedFloat32 extends Handle {
  /** Rows of the matrix that was packed: the length of the sums. */
  readonly k: number
  /** Its columns. */
  readonly n: number

  /** @internal */
  constructor(object: object) {
    super('PackedFloat32', object)
    const { k, n } = infoOf(kFloat32, object)
    this.k = k
    this.n = n
  }
}

registerHandle('PackedFloat32', (object) => new PackedFloat32(object))

/** Options of {@link packBfloat16} and {@link packFloat32}. */
export interface PackBfloat16Options {
  /** The weights lie `[n, k]`, a column a row, as torch's `Linear` has them. Default false. */
  readonly transpose?: boolean
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
}

const kShortFloat: readonly DataType[] = ['float32', 'bfloat16']
const kOnlyFloat: readonly DataType[] = ['float32']

function prepareFloat(format: number, types: readonly DataType[], w: unknown, given: unknown): Packing {
  const o = options(given, 'options', ['transpose', 'threads'] as const)
  const t = tensor(w, 'w', types)
  if (t.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix (rank 2)', `[${t.dims.join(', ')}]`)
  const transpose = o.transpose === undefined ? false : boolean(o.transpose, 'transpose')
  const [k, n] = transpose ? [t.dims[1] as number, t.dims[0] as number] : (t.dims as [number, number])
  return {
    source: {
      format, k, n, block: Math.max(k, 1), withOffset: false, codes: t.data, row: transpose ? 1 : n, col: transpose ? k : 1,
      float: t.type === 'float32',
    },
    threads: threadsOf(o.threads),
  } // prettier-ignore
}

/**
 * Packs weights as bfloat16 for {@link gemm}: float32 ones are rounded to nearest even, bfloat16 ones taken as they are.
 * Rows times such weights keep float32 accuracy: only the weights are short. With AMX, 16 rows and more run on its tiles.
 *
 * @param w `[k, n]`, or `[n, k]` with `transpose`
 * @returns a handle of about 2·k·n bytes
 * @throws {WhittleError} `ERR_DTYPE`, `ERR_SHAPE` on `w`; `ERR_OUT_OF_MEMORY`
 * @example
 * using w = packBfloat16({ type: 'float32', dims: [768, 3072], data: weights })
 * const y = gemm(x, w, { bias, activation: 'gelu' })
 */
export function packBfloat16(w: TensorLike, options?: PackBfloat16Options): PackedBfloat16 {
  return new PackedBfloat16(pack(prepareFloat(kBfloat16, kShortFloat, w, options)))
}

/** {@link packBfloat16} off the main thread. */
export async function packBfloat16Async(w: TensorLike, options?: PackBfloat16Options): Promise<PackedBfloat16> {
  return new PackedBfloat16(await packAsync(prepareFloat(kBfloat16, kShortFloat, w, options)))
}

/**
 * Lays weights out once as {@link gemm} reads them. Worth it for weights used many times by up to some hundred rows: 128 rows
 * save a tenth to a fifth of the time, 2 to 16 rows a third where the weights do not fit the caches. Results are those of
 * float32 weights within the same bound, not always the same bits.
 *
 * @param w float32, `[k, n]`, or `[n, k]` with `transpose`
 * @returns a handle of about 4·k·n bytes
 * @throws {WhittleError} `ERR_DTYPE`, `ERR_SHAPE` on `w`; `ERR_OUT_OF_MEMORY`
 * @example
 * using w = packFloat32({ type: 'float32', dims: [3072, 768], data: weights }, { transpose: true })
 * const y = gemm(x, w, { bias, activation: 'gelu' })
 */
export function packFloat32(w: TensorLike, options?: PackBfloat16Options): PackedFloat32 {
  return new PackedFloat32(pack(prepareFloat(kFloat32, kOnlyFloat, w, options)))
}

/** {@link packFloat32} off the main thread. */
export async function packFloat32Async(w: TensorLike, options?: PackBfloat16Options): Promise<PackedFloat32> {
  return new PackedFloat32(await packAsync(prepareFloat(kFloat32, kOnlyFloat, w, options)))
}

/**
 * 8-bit weights with their scales, for rows of float32. Made by {@link packInt8} with `scale`; a {@link Handle}.
 */
export class PackedScaledInt8 extends Handle {
  /** Rows of the matrix that was packed: the length of the sums. */
  readonly k: number
  /** Its columns. */
  readonly n: number
  /** Rows that share a scale; k where a column has one. */
  readonly blockSize: number

  /** @internal */
  constructor(object: object) {
    super('PackedScaledInt8', object)
    const { k, n, blockSize } = infoOf(kScaledInt8, object)
    this.k = k
    this.n = n
    this.blockSize = blockSize
  }
}

registerHandle('PackedScaledInt8', (object) => new PackedScaledInt8(object))

/** Options of {@link packInt8} for rows of float32. */
export interface PackScaledInt8Options {
  /**
   * One number, one a column, or with `blockSize` one for each block of each column, laid out as `w` is: `[blocks, n]`, or
   * `[n, blocks]` with `transpose`. Finite, above 0 (of a `[n, blocks, blockSize]` file tensor: any finite one, float16 too).
   */
  readonly scale: number | TypedArray | TensorLike
  /** What zero is stored as; as many as scales, of `w`'s type (or float, for a file tensor). Default 0 (128 for a file tensor). */
  readonly zeroPoint?: number | TypedArray | TensorLike
  /** Rows of k that share a scale; the last block may be short. Default: all of them. */
  readonly blockSize?: number
  /** Only with a file tensor, whose last block may be short: rows that count. Default blocks·blockSize. */
  readonly k?: number
  /** The weights lie `[n, k]`. Default false. */
  readonly transpose?: boolean
  readonly threads?: number
}

// Of a parameter that may be a number, an array or a tensor.
function lengthOf(value: unknown): number | undefined {
  if (typeof value === 'number') return 1
  const data: unknown = typedArrayName(value) ? value : (value as { data?: unknown } | null)?.data
  return typedArrayName(data) ? (data as TypedArray).length : undefined
}

/** @internal packInt8 where `scale` is given. */
export function prepareScaledInt8(w: unknown, given: unknown): Packing {
  const o = options(given, 'options', ['scale', 'zeroPoint', 'blockSize', 'k', 'transpose', 'threads'] as const)
  const threads = threadsOf(o.threads)
  if (isBlob(w)) {
    if (o.transpose !== undefined) fail('ERR_RANGE', 'transpose', 'no transpose with [n, blocks, blockSize]', o.transpose)
    return { source: blobSource(kScaledInt8, w, o), threads }
  }
  if (o.k !== undefined) fail('ERR_RANGE', 'k', 'no k but with w of [n, blocks, blockSize]', o.k)
  const transpose = o.transpose === undefined ? false : boolean(o.transpose, 'transpose')
  const t = tensor(w, 'w', ['int8', 'uint8'])
  if (t.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix (rank 2)', `[${t.dims.join(', ')}]`)
  const along = transpose ? 1 : 0
  const blocked = o.blockSize !== undefined && o.blockSize !== null
  const axis = blocked ? along : lengthOf(o.scale) === 1 ? null : 1 - along
  // One zero point serves all groups.
  const groups = shapeOf(t.dims, axis, blocked ? o.blockSize : null).count
  const zeroPoint = typeof o.zeroPoint === 'number' ? new Int32Array(groups).fill(integer(o.zeroPoint, 'zeroPoint', -128, 255)) : o.zeroPoint
  const q = { ...t, scale: o.scale, zeroPoint, axis, blockSize: blocked ? o.blockSize : null } as QuantizedLike
  return { source: quantizedSource(kScaledInt8, q, transpose, ''), threads }
}
