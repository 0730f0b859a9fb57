import { pin, pinOutput } from '../async'
import { WhittleError } from '../errors'
import { Handle, handleObject, registerHandle } from '../handle'
import { check, native } from '../native'
import { allocate, sizeOf, typedArrayName, type DataType, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { boolean, describe, dims, fail, finite, integer, oneOf, options, output, tensor, typedArray } from '../validate'
import { activationOf, type Activation } from './activation'

type BuildArguments = [handle: object, numbers: Float64Array, w: TypedArray, mask: TypedArray | null, scales: TypedArray | null]
type MultiplyArguments = [
  handle: object, numbers: Float64Array, x: TypedArray, bias: TypedArray | null, biasInt: TypedArray | null, out: TypedArray,
] // prettier-ignore

declare module '../native' {
  interface NativeBinding {
    sparseNew(): object | undefined
    sparseTake(handle: object): object | undefined
    sparseBuild(...args: BuildArguments): number
    sparseBuildAsync(...args: BuildArguments): Promise<number>
    sparseInfo(handle: object): readonly number[] | undefined
    sparseToDense(handle: object, out: TypedArray): number
    sparseScales(handle: object, out: TypedArray): number
    sparseMultiply(...args: MultiplyArguments): number
    sparseMultiplyAsync(...args: MultiplyArguments): Promise<number>
  }
}

/** How a {@link SparseMatrix} is stored: `'csr'`, `'2:4'`, `{ block: [4, 1] }`, or `'dense'`, which only `'auto'` chooses. */
export type SparseFormat = 'csr' | 'dense' | `${number}:${number}` | { readonly block: readonly [number, number] }

/** Type of the values of a {@link SparseMatrix}. */
export type SparseType = 'float32' | 'bfloat16' | 'int8'

export interface SparsifyOptions {
  /**
   * - `'csr'`: every non-zero by itself, 16-bit column indices
   * - `'2:4'`, `'4:8'`, `'1:4'`, any n:m: at most n non-zeros in each m neighbours of a row; m divides the columns
   * - `{ block: [r, c] }`: blocks of r rows and c columns that hold a non-zero are stored whole
   * - `'auto'` (default): whichever is fastest by a model of this CPU's kernels, or by time with `measure`; may be `'dense'`
   */
  readonly format?: 'auto' | 'csr' | `${number}:${number}` | { readonly block: readonly [number, number] }
  /**
   * Type of the stored values; default that of `w`. `bfloat16` rounds half to even; `int8` of a float `w` quantizes each
   * row by its own scale, absmax / 127 (1 for a row of zeros), half to even.
   */
  readonly dtype?: SparseType
  /** Elements to keep: non-zero bytes, as many as `w` has ({@link mask} makes one). Zeros of `w` are left out anyway. */
  readonly mask?: TensorLike | Uint8Array
  /**
   * Accept a `mask` that keeps nothing of a row that has non-zeros; the results of that row are the bias then. Default
   * false: a mask that empties whole outputs mostly has the wrong threshold or the wrong axis.
   */
  readonly emptyRows?: boolean
  /** Scale of int8 `w`: a number, or one a row. Default 1. */
  readonly scale?: number | Float32Array
  /** How many columns of activations a product will mostly have: the layout suits them best. All numbers work. */
  readonly columns?: number
  /** With `'auto'`: choose by timing products on this machine, once; the one choice that another run may make differently. */
  readonly measure?: boolean
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
}

export interface SpmmOptions {
  /**
   * How activations lie. `'columns'` (default): `x` is `[…, k, N]` and the result `[…, n, N]` = W·x. `'rows'`: `x` is
   * `[…, M, k]` and the result `[…, M, n]` = x·Wᵀ, what a linear layer computes.
   */
  readonly layout?: 'columns' | 'rows'
  /** One number for each row of the weights. Float32Array; with int8 weights also an Int32Array in units of xScale·scale. */
  readonly bias?: Float32Array | Int32Array | TensorLike
  /** Applied last. Not with `outType` int32. */
  readonly activation?: Activation
  /** int8 weights: what zero is stored as in `x`; default 0. */
  readonly xZeroPoint?: number
  /** int8 weights: scale of `x`, > 0; default 1. Not with `outType` int32. */
  readonly xScale?: number
  /** int8 weights: as in {@link gemmInt8}; default 'int32'. Float weights give 'float32'. */
  readonly outType?: 'int32' | 'float32' | 'int8' | 'uint8'
  /** Scale of an int8 or uint8 result, > 0; default 1. */
  readonly outScale?: number
  /** What zero is stored as in an int8 or uint8 result; default 0. */
  readonly outZeroPoint?: number
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
  /** Where the result goes: an array of the result's class and length that overlaps no input. */
  readonly out?: TypedArray
}

const kFormats = ['dense', 'csr', 'block', 'nm', 'auto'] as const
/** @internal */
export const kTypes: readonly SparseType[] = ['float32', 'bfloat16', 'int8']
const kBytes: readonly DataType[] = ['int8', 'uint8']

/**
 * Sparse weights in the layout of this CPU's kernels: made once by {@link sparsify}, multiplied by {@link spmm}. A
 * {@link Handle}, so it can be shared between threads and should be disposed of.
 */
export class SparseMatrix extends Handle {
  /** `[n, k]`: output channels and inputs. */
  readonly dims: readonly [number, number]
  readonly format: SparseFormat
  /** Type of the stored values. */
  readonly dtype: SparseType
  /** Values that are not zero. */
  readonly nnz: number

  /** @internal */
  constructor(object: object) {
    super('SparseMatrix', object)
    const [rows, cols, format, type, r, c, n, m, nnz] = native().sparseInfo(object) as readonly number[]
    this.dims = [rows as number, cols as number]
    const name = kFormats[format as number] as 'dense' | 'csr' | 'block' | 'nm'
    this.format = name === 'block' ? { block: [r as number, c as number] } : name === 'nm' ? `${n as number}:${m as number}` : name
    this.dtype = kTypes[type as number] as SparseType
    this.nnz = nnz as number
  }

  /** Share of zeros, from 0 to 1; 0 for a matrix without elements. */
  get sparsity(): number {
    const count = this.dims[0] * this.dims[1]
    return count === 0 ? 0 : 1 - this.nnz / count
  }

  /** Scales of an int8 matrix, one a row; undefined for float values. Throws `ERR_HANDLE` if disposed of. */
  get scale(): Float32Array | undefined {
    if (this.dtype !== 'int8') return undefined
    const out = new Float32Array(this.dims[0])
    check(native().sparseScales(handleObject(this, 'SparseMatrix', 'SparseMatrix'), out), 'SparseMatrix')
    return out
  }

  /**
   * The dense matrix that this one stands for, in its own dtype: int8 gives the codes that {@link scale} multiplies.
   *
   * @returns a tensor `[n, k]`
   * @throws {WhittleError} `ERR_HANDLE` if disposed of
   */
  toDense(): Tensor {
    const object = handleObject(this, 'SparseMatrix', 'SparseMatrix')
    const data = allocate(this.dtype, this.dims[0] * this.dims[1])
    check(native().sparseToDense(object, data), 'SparseMatrix')
    return { type: this.dtype, dims: [...this.dims], data }
  }
}

registerHandle('SparseMatrix', (object) => new SparseMatrix(object))

/** @internal */
export const kSparsifyOptions = ['format', 'dtype', 'mask', 'emptyRows', 'scale', 'columns', 'measure', 'threads'] as const

/** @internal */
export interface Format {
  readonly kind: number
  readonly r: number
  readonly c: number
  readonly n: number
  readonly m: number
}

/** @internal */
export function formatOf(value: unknown, columns: number): Format {
  const plain = { r: 1, c: 1, n: 0, m: 0 }
  if (value === undefined || value === 'auto') return { kind: 4, ...plain }
  if (value === 'csr') return { kind: 1, ...plain }
  const pattern = typeof value === 'string' ? /^([1-9]\d{0,2}):([1-9]\d{0,2})$/.exec(value) : null
  if (pattern) {
    const [n, m] = [Number(pattern[1]), Number(pattern[2])]
    if (n > m || m > 128) fail('ERR_RANGE', 'format', 'n:m with 1 <= n <= m <= 128', value)
    if (columns % m !== 0) fail('ERR_SHAPE', 'format', `an n:m whose m divides the ${columns} columns of w`, value)
    return { ...plain, kind: 3, n, m }
  }
  if (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && !Array.isArray(value)) {
    const { block } = options(value, 'format', ['block'])
    if (!Array.isArray(block) || block.length !== 2) fail('ERR_RANGE', 'format.block', 'two sizes [rows, columns]', block)
    const [r, c] = [integer(block[0], 'format.block[0]', 1, 1024), integer(block[1], 'format.block[1]', 1, 1024)]
    return { ...plain, kind: 2, r, c }
  }
  return fail('ERR_RANGE', 'format', `'auto', 'csr', 'n:m' or { block: [r, c] }`, value)
}

interface Building {
  readonly object: object
  readonly args: BuildArguments
  readonly format: unknown
}

/** Refuses a mask that keeps nothing of a row. Rows of zeros have nothing to keep. */
function noEmptyRows(mask: TypedArray, w: TypedArray, rows: number, cols: number): void {
  for (let row = 0; row < rows; row++) {
    const end = (row + 1) * cols
    let lost = false
    let at = row * cols
    for (; at < end; at++) {
      if (!w[at]) continue
      if (mask[at]) break
      lost = true
    }
    if (at === end && lost)
      fail('ERR_RANGE', 'mask', 'one that keeps a non-zero of every row that has any (or emptyRows: true)', `none kept in row ${row}`)
  }
}

function prepareBuild(value: unknown, opts: unknown): Building {
  const w = tensor(value, 'w', kTypes)
  if (w.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix [n, k] (rank 2)', `[${w.dims.join(', ')}]`)
  const [rows, cols] = w.dims as [number, number]
  const o = options(opts, 'options', kSparsifyOptions)
  const format = formatOf(o.format, cols)
  const dtype = o.dtype === undefined ? (w.type as SparseType) : oneOf(o.dtype, 'dtype', kTypes)
  if (w.type === 'int8' && dtype !== 'int8') fail('ERR_DTYPE', 'dtype', `'int8' for int8 weights (dequantize them for another)`, dtype)
  let mask: TypedArray | null = null
  if (o.mask !== undefined) {
    const data = typedArrayName(o.mask) ? typedArray(o.mask, 'mask', ['uint8']) : tensor(o.mask, 'mask', ['uint8', 'bool']).data
    if (data.length !== rows * cols) fail('ERR_SHAPE', 'mask', `${rows * cols} elements, one for each of w`, data)
    mask = data
  }
  if (o.emptyRows !== undefined && mask === null) fail('ERR_RANGE', 'emptyRows', 'no emptyRows unless a mask is given', o.emptyRows)
  if (mask !== null && !(o.emptyRows !== undefined && boolean(o.emptyRows, 'emptyRows'))) noEmptyRows(mask, w.data, rows, cols)
  let scales: Float32Array | null = null
  if (o.scale !== undefined) {
    if (w.type !== 'int8') fail('ERR_RANGE', 'scale', 'no scale unless w is int8 (float weights are quantized by scales of their own)', o.scale)
    scales =
      typeof o.scale === 'number'
        ? new Float32Array(rows).fill(finite(o.scale, 'scale', 0))
        : (typedArray(o.scale, 'scale', ['float32']) as Float32Array)
    if (scales.length !== rows) fail('ERR_SHAPE', 'scale', `${rows} elements, one a row`, o.scale)
    const bad = scales.find((s) => !(s > 0 && s < Infinity))
    if (bad !== undefined) fail('ERR_RANGE', 'scale', 'scales > 0 that float32 can hold', bad)
  }
  const columns = o.columns === undefined ? 0 : integer(o.columns, 'columns', 1, 2 ** 31 - 1)
  const measure = o.measure === undefined ? false : boolean(o.measure, 'measure')
  if (measure && format.kind !== 4) fail('ERR_RANGE', 'measure', `no measure unless format is 'auto'`, measure)
  const threads = o.threads === undefined ? 0 : integer(o.threads, 'threads', 1, 256)
  const object = native().sparseNew()
  if (!object) throw new WhittleError('ERR_OUT_OF_MEMORY', 'w', 'w: cannot allocate a sparse matrix')
  const numbers = Float64Array.of(
    rows, cols, kTypes.indexOf(w.type as SparseType), format.kind, kTypes.indexOf(dtype), format.r, format.c, format.n, format.m,
    columns, measure ? 1 : 0, threads,
  ) // prettier-ignore
  return { object, args: [object, numbers, w.data, mask, scales], format: o.format }
}

function built(status: number, b: Building): SparseMatrix {
  try {
    if (status === 3) fail('ERR_RANGE', 'w', `weights of the pattern ${String(b.format)}: no group may hold more non-zeros`, 'one that does')
    check(status, 'w')
    const object = native().sparseTake(b.object)
    if (!object) throw new WhittleError('ERR_OUT_OF_MEMORY', 'w', 'w: cannot allocate a sparse matrix')
    return new SparseMatrix(object)
  } finally {
    native().handleDispose(b.object)
  }
}

/**
 * Compresses a matrix with many zeros for {@link spmm}.
 *
 * NaN and infinities in `w` are refused, as are values that `dtype` cannot hold, and a `mask` that empties a row (see
 * `emptyRows`). Rows of `w` without a non-zero are fine: their result is the bias.
 *
 * @param w `[n, k]`, an output channel a row, as torch's `Linear` and `Gemm` with `transB` have them; float32, bfloat16, int8
 * @returns a handle
 * @throws {WhittleError} `ERR_SHAPE` (rank, m that does not divide k), `ERR_DTYPE`, `ERR_RANGE` (a group with too many
 * non-zeros, NaN, a mask that empties a row, a bad option), `ERR_OUT_OF_MEMORY`
 * @example
 * using sparse = sparsify({ type: 'float32', dims: [768, 768], data: weights }, { format: 'csr', columns: 128 })
 * const y = spmm(sparse, x, { layout: 'rows', bias, activation: 'gelu' }) // x: [128, 768], y: [128, 768]
 */
export function sparsify(w: TensorLike, options?: SparsifyOptions): SparseMatrix {
  const b = prepareBuild(w, options)
  return built(native().sparseBuild(...b.args), b)
}

/** {@link sparsify} off the main thread. Inputs must not be written to until it is done. */
export async function sparsifyAsync(w: TensorLike, options?: SparsifyOptions): Promise<SparseMatrix> {
  const b = prepareBuild(w, options)
  const [handle, numbers, data, mask, scales] = b.args
  return built(await native().sparseBuildAsync(handle, numbers, pin(data), mask && pin(mask), scales && pin(scales)), b)
}

/** @internal */
export const kSpmmOptions = [
  'layout', 'bias', 'activation', 'xZeroPoint', 'xScale', 'outType', 'outScale', 'outZeroPoint', 'threads', 'out',
] as const // prettier-ignore
const kOutTypes = ['int32', 'float32', 'int8', 'uint8'] as const
const kIntegerOnly = ['xZeroPoint', 'xScale', 'outScale', 'outZeroPoint'] as const

interface Prepared {
  readonly dims: number[]
  readonly outType: DataType
  readonly args: MultiplyArguments
  readonly fresh: boolean
  readonly matrix: SparseMatrix
}

function zeroPoint(value: unknown, parameter: string, type: DataType): number {
  if (value === undefined) return 0
  return type === 'uint8' ? integer(value, parameter, 0, 255) : integer(value, parameter, -128, 127)
}

function scaleOf(value: unknown, parameter: string): number {
  if (value === undefined) return 1
  const s = Math.fround(finite(value, parameter, 0))
  if (!(s > 0 && s < Infinity)) fail('ERR_RANGE', parameter, 'a scale > 0 that float32 can hold', value)
  return s
}

function prepare(sparse: unknown, xValue: unknown, opts: unknown): Prepared {
  const object = handleObject(sparse, 'SparseMatrix', 'sparse')
  const matrix = sparse as SparseMatrix
  const [n, k] = matrix.dims
  const int8 = matrix.dtype === 'int8'
  const x = tensor(xValue, 'x', int8 ? kBytes : ['float32'])
  const o = options(opts, 'options', kSpmmOptions)
  const rank = x.dims.length
  if (rank === 0) fail('ERR_SHAPE', 'x', 'at least one dimension', 'a scalar')
  const byRows = (o.layout === undefined ? 'columns' : oneOf(o.layout, 'layout', ['columns', 'rows'])) === 'rows'
  // One vector is a row or a column, whichever is asked for.
  const inner = byRows || rank === 1 ? rank - 1 : rank - 2
  if (x.dims[inner] !== k)
    fail('ERR_SHAPE', 'x', `${byRows ? 'rows' : 'columns'} of ${k} elements, as the ${n} x ${k} weights need`, `[${x.dims.join(', ')}]`)
  const lead = x.dims.slice(0, inner)
  const tail = x.dims.slice(inner + 1)
  const outDims = dims([...lead, n, ...tail], 'out')
  const rows = byRows || rank === 1

  if (!int8)
    for (const name of kIntegerOnly)
      if (o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} unless the weights are int8`, o[name])
  const outType = o.outType === undefined ? (int8 ? 'int32' : 'float32') : oneOf(o.outType, 'outType', kOutTypes)
  if (!int8 && outType !== 'float32') fail('ERR_RANGE', 'outType', `'float32' with ${matrix.dtype} weights`, outType)
  const quantized = outType === 'int8' || outType === 'uint8'
  if (outType === 'int32')
    for (const name of ['xScale', 'activation'] as const)
      if (o[name] !== undefined && o[name] !== 'none') fail('ERR_RANGE', name, `no ${name} with outType 'int32', which is not scaled`, o[name])
  if (!quantized)
    for (const name of ['outScale', 'outZeroPoint'] as const)
      if (o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} unless outType is 'int8' or 'uint8'`, o[name])
  let bias: TypedArray | null = null
  let biasInt: TypedArray | null = null
  if (o.bias !== undefined) {
    const kinds: DataType[] = !int8 ? ['float32'] : outType === 'int32' ? ['int32'] : ['int32', 'float32']
    const data = typedArrayName(o.bias) ? typedArray(o.bias, 'bias', kinds) : tensor(o.bias, 'bias', kinds).data
    if (data.length !== n) fail('ERR_SHAPE', 'bias', `${n} elements, one for each row of the weights`, data)
    if (typedArrayName(data) === 'Int32Array') biasInt = data
    else bias = data
  }
  const activation = activationOf(o.activation, 'activation')
  const xZero = zeroPoint(o.xZeroPoint, 'xZeroPoint', x.type)
  const xScale = scaleOf(o.xScale, 'xScale')
  const outScale = scaleOf(o.outScale, 'outScale')
  const outZero = quantized ? zeroPoint(o.outZeroPoint, 'outZeroPoint', outType) : 0
  const threads = o.threads === undefined ? 0 : integer(o.threads, 'threads', 1, 256)
  const inputs = [x.data, bias, biasInt].filter((v) => v !== null)
  const count = sizeOf(outDims)
  const out = o.out === undefined ? allocate(outType, count) : output(o.out, 'out', outType, count, inputs)
  const p = kNumbers
  p[0] = rows ? 1 : 0
  p[1] = rows ? 1 : sizeOf(lead)
  p[2] = rows ? sizeOf(lead) : (tail[0] as number)
  p[3] = activation.kind
  p[4] = activation.lo
  p[5] = activation.hi
  p[6] = threads
  p[7] = x.type === 'int8' ? 1 : 0
  p[8] = xZero
  p[9] = xScale
  p[10] = kOutTypes.indexOf(outType)
  p[11] = outScale
  p[12] = outZero
  return { dims: outDims, outType, fresh: o.out === undefined, matrix, args: [object, p, x.data, bias, biasInt, out] }
}

// Reused by every call: the native side reads it before a call returns.
const kNumbers = new Float64Array(13)

/** @internal Throws where sums of k products can leave 32 bits whatever the bias. */
export function sumsFit(k: number, xZero: number, signed: boolean): void {
  const range = signed ? [-128 - xZero, 127 - xZero] : [-xZero, 255 - xZero]
  const all = range.flatMap((v) => [v * -128, v * 127])
  const most = Math.min(Math.floor(2 ** 31 / Math.max(0, -Math.min(...all))), Math.floor((2 ** 31 - 1) / Math.max(0, ...all)))
  if (k > most)
    throw new WhittleError('ERR_RANGE', 'x', `x: sums of ${k} products can leave 32 bits with this type and zero point; at most ${most} fit`)
}

function answer(status: number, p: Prepared, xZero: number, xScale: number, signed: boolean): Tensor {
  if (status === 3) {
    const k = p.matrix.dims[1]
    sumsFit(k, xZero, signed)
    const scale = p.matrix.scale?.find((s) => !(Math.fround(s * xScale) > 0 && Math.fround(s * xScale) < Infinity))
    if (p.outType !== 'int32' && scale !== undefined)
      throw new WhittleError('ERR_RANGE', 'xScale', `xScale: expected a scale whose product with the weights' float32 can hold, got ${describe(xScale)}`)
    throw new WhittleError('ERR_RANGE', 'bias', `bias: sums of ${k} products and this bias can leave 32 bits`)
  }
  check(status, status === 8 ? 'bias' : 'x')
  return { type: p.outType, dims: p.dims, data: p.args[5] }
}

/**
 * The product of sparse weights and dense activations: `activation(W·x + bias)`, see `layout` for what lies where.
 *
 * Float values: float32 activations and result. Each element's error is at most γ(z+4)·(Σ|w||x| + |bias|) with z the
 * stored values of its row and γ(n) = n·2⁻²⁴/(1 − n·2⁻²⁴), then the activation's own ({@link Activation}). NaN and
 * infinities in `x` meet stored values only: zeros that were left out do not turn them into NaN, zeros inside stored blocks
 * and n:m groups do. The result depends on CPU variant, format and shape, never on the number of threads.
 *
 * int8 values: int8 or uint8 activations, exact sums, the epilogue of {@link gemmInt8}; the result is that of `gemmInt8` on
 * the dense matrix, bit for bit.
 *
 * Allocates nothing but the result; with `out`, nothing.
 *
 * @param sparse made by {@link sparsify}
 * @param x `[…, k, N]`, or `[…, M, k]` with `layout: 'rows'`; rank 1 is one vector of k
 * @returns a tensor `[…, n, N]`, or `[…, M, n]`; of rank 1, `[n]`
 * @throws {WhittleError} `ERR_SHAPE`, `ERR_DTYPE`, `ERR_RANGE` naming the parameter; `ERR_HANDLE` for weights disposed of
 * @example
 * const w = sparsify({ type: 'float32', dims: [2, 3], data: Float32Array.of(0, 2, 0, 1, 0, 0) }, { format: 'csr' })
 * spmm(w, Float32Array.of(5, 6, 7)).data // Float32Array(2) [ 12, 5 ]
 */
export function spmm(sparse: SparseMatrix, x: TensorLike | Float32Array | Int8Array | Uint8Array, options?: SpmmOptions): Tensor {
  const p = prepare(sparse, x, options)
  const [, numbers] = p.args
  return answer(native().sparseMultiply(...p.args), p, numbers[8] as number, numbers[9] as number, numbers[7] === 1)
}

/** {@link spmm} off the main thread. Inputs must not be written to until it is done. */
export async function spmmAsync(
  sparse: SparseMatrix,
  x: TensorLike | Float32Array | Int8Array | Uint8Array,
  options?: SpmmOptions,
): Promise<Tensor> {
  const p = prepare(sparse, x, options)
  const [object, numbers, data, bias, biasInt, out] = p.args
  const [signed, xZero, xScale] = [numbers[7] === 1, numbers[8] as number, numbers[9] as number]
  const pinned = pinOutput(out, 'out', p.fresh)
  const status = await native().sparseMultiplyAsync(
    object, numbers, pin(data), bias && pin(bias), biasInt && pin(biasInt), pinned.view,
  ) // prettier-ignore
  const result = answer(status, p, xZero, xScale, signed)
  return { ...result, data: pinned.commit() }
}
