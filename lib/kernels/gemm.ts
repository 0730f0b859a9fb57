import { pin, pinOutput, type PinnedOutput } from '../async'
import { WhittleError } from '../errors'
import { check, native } from '../native'
import { allocate, sizeOf, typedArrayName, type Tensor, type TensorLike } from '../tensor'
import { boolean, dims as checkDims, fail, finite, integer, options, output, tensor, typedArray } from '../validate'
import { Handle, handleObject } from '../handle'
import { activationOf, type Activation } from './activation'
import { floatFormatOf, multiply, multiplyAsync, type PackedBfloat16, type PackedFloat32 } from './gemm_weight'

declare module '../native' {
  interface NativeBinding {
    gemm(...args: GemmCall): number
    gemmAsync(...args: GemmCall): Promise<number>
  }
}

type GemmCall = [
  a: Float32Array,
  b: Float32Array,
  out: Float32Array,
  source: Float32Array | null,
  bias: Float32Array | null,
  map: Int32Array | null,
]

export interface GemmOptions {
  /** Reads the last two dimensions of `a` as [K, M]. Default false. */
  readonly transposeA?: boolean
  /** Reads the last two dimensions of `b` as [N, K], as linear layers store weights. Default false. */
  readonly transposeB?: boolean
  /** Factor of the product. Default 1; an ordinary factor, so 0 lets NaN of the operands through. */
  readonly alpha?: number
  /** Factor of `c`, or of what `out` holds where `c` is absent. Default 1 with `c`, else 0; 0 never reads either. */
  readonly beta?: number
  /** Added to the product; float32, broadcast to [...batch, M, N]. */
  readonly c?: TensorLike | Float32Array
  /** One float32 number for each column: N. */
  readonly bias?: TensorLike | Float32Array
  /** Applied last. Default `'none'`. */
  readonly activation?: Activation
  /** Where to write: as many elements as the result has, no overlap with an input. */
  readonly out?: Float32Array
  /** Dims of `a`, `b`, `c` where they are given as bare typed arrays. */
  readonly aDims?: readonly number[]
  readonly bDims?: readonly number[]
  readonly cDims?: readonly number[]
  /**
   * Elements between rows of `a`, `b` as they lie, before a transposition: the leading dimension of BLAS, for a part of a larger
   * matrix. At least the last of `aDims`, `bDims`, which is the default; only with bare typed arrays and these dims.
   */
  readonly lda?: number
  readonly ldb?: number
  /** The same of `out`, which it needs; default N. What lies between rows stays as it is. */
  readonly ldc?: number
  /**
   * Elements between matrices of a batch of `a`, `b`: 0 repeats one. Default what one takes, rows times `lda` or `ldb`; only with
   * bare typed arrays and their dims.
   */
  readonly strideA?: number
  readonly strideB?: number
  /** The same of `out`; at least what one result takes, M times `ldc`, the default. */
  readonly strideC?: number
}

/** @internal */
export const kGemmOptions = [
  'transposeA', 'transposeB', 'alpha', 'beta', 'c', 'bias', 'activation', 'out', 'aDims', 'bDims', 'cDims',
  'lda', 'ldb', 'ldc', 'strideA', 'strideB', 'strideC',
] as const // prettier-ignore

// What a product with packed weights takes.
const kPackedOptions: readonly string[] = ['bias', 'activation', 'aDims', 'out']
const kFloat = ['float32'] as const
const kMost = 2 ** 31 - 1
const kNone: readonly number[] = []

interface Prepared {
  /** The arguments; the addon's `numbers` hold the rest, so nothing of the user's may run before the call. */
  readonly call: GemmCall
  readonly dims: number[]
  /** Present where the memory was pinned for an asynchronous call. */
  readonly output: PinnedOutput<Float32Array> | undefined
}

/** Broadcast of leading dimensions; names `parameter` where it does not fit. */
function broadcast(into: readonly number[], dims: readonly number[], parameter: string): readonly number[] {
  if (dims.length === 0) return into
  if (into.length === 0) return dims
  const rank = Math.max(into.length, dims.length)
  const result: number[] = []
  for (let i = 0; i < rank; i++) {
    const x = into[into.length - rank + i] ?? 1
    const y = dims[dims.length - rank + i] ?? 1
    if (x !== y && x !== 1 && y !== 1)
      fail('ERR_SHAPE', parameter, `leading dimensions that broadcast with [${into.join(', ')}]`, `[${dims.join(', ')}]`)
    result.push(x === 1 ? y : x)
  }
  return result
}

/** For each index of `batch`, which matrix of a tensor with leading dims `dims` it uses. */
function fillMap(map: Int32Array, at: number, batch: readonly number[], dims: readonly number[]): void {
  const count = map.length / 3
  const strides: number[] = batch.map(() => 0)
  for (let i = dims.length - 1, s = 1; i >= 0; i--) {
    strides[batch.length - dims.length + i] = dims[i] === 1 ? 0 : s
    s *= dims[i] as number
  }
  const index: number[] = batch.map(() => 0)
  for (let t = 0, offset = 0; t < count; t++) {
    map[3 * t + at] = offset
    for (let d = batch.length - 1; d >= 0; d--) {
      offset += strides[d] as number
      if (++(index[d] as number) < (batch[d] as number)) break
      offset -= (strides[d] as number) * (batch[d] as number)
      index[d] = 0
    }
  }
}

function lead(dims: readonly number[]): readonly number[] {
  return dims.length <= 2 ? kNone : dims.slice(0, -2)
}

/**
 * The common case without ceremony: a plain float32 matrix that is not empty (and so not detached). Anything else, good
 * or bad, goes the long way; a small product costs less than its validation.
 */
function plainMatrix(value: unknown): Tensor<Float32Array> | undefined {
  if (value === null || typeof value !== 'object') return undefined
  const { type, dims, data, location } = value as Record<string, unknown>
  if (type !== 'float32' || (location !== undefined && location !== 'cpu') || !Array.isArray(dims) || dims.length !== 2) return undefined
  if (!ArrayBuffer.isView(data) || (data as Float32Array)[Symbol.toStringTag] !== 'Float32Array') return undefined
  const rows: unknown = dims[0]
  const cols: unknown = dims[1]
  if (!Number.isInteger(rows) || !Number.isInteger(cols) || (rows as number) <= 0 || (cols as number) <= 0) return undefined
  if ((rows as number) * (cols as number) !== (data as Float32Array).length) return undefined
  return { type: 'float32', dims: [rows as number, cols as number], data: data as Float32Array }
}

/** How the matrices of a tensor lie: `length` elements, rows `ld` apart, matrices `stride`. */
interface Operand {
  readonly dims: readonly number[]
  readonly data: Float32Array
  readonly ld: number
  readonly stride: number
  readonly length: number
}

function operand(value: unknown, parameter: 'a' | 'b', shape: unknown, ld: unknown, stride: unknown): Operand {
  const laid = ld !== undefined || stride !== undefined
  const t = (shape === undefined && plainMatrix(value)) || (laid ? undefined : (tensor(value, parameter, kFloat, shape) as Tensor<Float32Array>))
  if (t && !laid) {
    const { dims, data } = t
    if (dims.length < 2) fail('ERR_SHAPE', parameter, 'at least 2 dimensions', `[${dims.join(', ')}]`)
    const cols = dims[dims.length - 1] as number
    return { dims, data, ld: cols, stride: (dims[dims.length - 2] as number) * cols, length: sizeOf(dims) }
  }
  const name = ld !== undefined ? `ld${parameter}` : `stride${parameter.toUpperCase()}`
  if (shape === undefined || !typedArrayName(value)) fail('ERR_DTYPE', parameter, `a typed array and ${parameter}Dims with ${name}`, value)
  const data = typedArray(value, parameter, kFloat) as Float32Array
  const dims = checkDims(shape, `${parameter}Dims`)
  if (dims.length < 2) fail('ERR_SHAPE', `${parameter}Dims`, 'at least 2 dimensions', `[${dims.join(', ')}]`)
  const [rows, cols] = dims.slice(-2) as [number, number]
  const row = ld === undefined ? cols : integer(ld, `ld${parameter}`, cols, kMost)
  const step = stride === undefined ? rows * row : integer(stride, `stride${parameter.toUpperCase()}`, 0, kMost)
  const length = sizeOf(dims) === 0 ? 0 : (sizeOf(dims.slice(0, -2)) - 1) * step + (rows - 1) * row + cols
  if (data.length < length) fail('ERR_SHAPE', parameter, `at least ${length} elements for [${dims.join(', ')}] that lie ${row} and ${step} apart`, data)
  return { dims, data, ld: row, stride: step, length }
}

/** @internal A finite number that float32 can hold without overflow. */
export function float32(value: unknown, parameter: string): number {
  const x = finite(value, parameter)
  if (!Number.isFinite(Math.fround(x))) fail('ERR_RANGE', parameter, 'a number within the range of float32', x)
  return x
}

function prepare(aValue: unknown, bValue: unknown, optionsValue: unknown, pinned: boolean): Prepared {
  const o = options(optionsValue, 'options', kGemmOptions)
  const a = operand(aValue, 'a', o.aDims, o.lda, o.strideA)
  // A handle's clone and a token are objects that lack a tensor's fields; they deserve their own error.
  const fields = typeof bValue === 'object' && bValue !== null ? (bValue as Partial<TensorLike>) : undefined
  if (fields && fields.data === undefined && fields.dims === undefined && !typedArrayName(bValue)) handleObject(bValue, 'PackedFloat32', 'b')
  const b = operand(bValue, 'b', o.bDims, o.ldb, o.strideB)
  const ta = o.transposeA === undefined ? false : boolean(o.transposeA, 'transposeA')
  const tb = o.transposeB === undefined ? false : boolean(o.transposeB, 'transposeB')
  const aRank = a.dims.length
  const bRank = b.dims.length
  const aRows = a.dims[aRank - 2] as number
  const aCols = a.dims[aRank - 1] as number
  const bRows = b.dims[bRank - 2] as number
  const bCols = b.dims[bRank - 1] as number
  let m = ta ? aCols : aRows
  const k = ta ? aRows : aCols
  const n = tb ? bRows : bCols
  const inner = tb ? bCols : bRows
  if (inner !== k)
    fail('ERR_SHAPE', 'b', `an inner dimension of ${k}, as a has${tb ? ' (transposeB: the last of b)' : ''}`, `[${b.dims.join(', ')}]`)
  const aLead = lead(a.dims)
  const bLead = lead(b.dims)
  const batchDims = broadcast(aLead, bLead, 'b')
  const alpha = o.alpha === undefined ? 1 : float32(o.alpha, 'alpha')
  const activation = activationOf(o.activation, 'activation')

  let bias: Float32Array | null = null
  if (o.bias !== undefined) {
    const t = tensor(o.bias, 'bias', kFloat) as Tensor<Float32Array>
    if (t.data.length !== n || t.dims.some((d) => d !== 1 && d !== n)) fail('ERR_SHAPE', 'bias', `${n} elements, one for each column`, `[${t.dims.join(', ')}]`)
    bias = t.data
  }

  let source: Tensor<Float32Array> | null = null
  let sourceRow = 0
  let sourceCol = 0
  let sourceLead = kNone
  if (o.c !== undefined) {
    source = tensor(o.c, 'c', kFloat, o.cDims) as Tensor<Float32Array>
    const rows = source.dims[source.dims.length - 2] ?? 1
    const cols = source.dims[source.dims.length - 1] ?? 1
    if ((rows !== m && rows !== 1) || (cols !== n && cols !== 1))
      fail('ERR_SHAPE', 'c', `dims that broadcast to [${[...batchDims, m, n].join(', ')}]`, `[${source.dims.join(', ')}]`)
    sourceCol = cols === 1 ? 0 : 1
    sourceRow = rows === 1 ? 0 : cols
    sourceLead = lead(source.dims)
    const wide = broadcast(batchDims, sourceLead, 'c')
    if (wide.length !== batchDims.length || wide.some((d, i) => d !== batchDims[i]))
      fail('ERR_SHAPE', 'c', `dims that broadcast to [${[...batchDims, m, n].join(', ')}]`, `[${source.dims.join(', ')}]`)
  }
  const beta = o.beta === undefined ? (source ? 1 : 0) : float32(o.beta, 'beta')
  if (beta !== 0 && !source && o.out === undefined)
    throw new WhittleError('ERR_RANGE', 'beta', 'beta: expected 0 where neither c nor out is given, for there is nothing to multiply')
  if (beta === 0) source = null

  let batch = sizeOf(batchDims)
  const dims = batchDims.length === 0 ? [m, n] : [...batchDims, m, n]
  const count = batch * m * n
  if (count > 2 ** 31 - 1) fail('ERR_SHAPE', 'b', 'a result of at most 2147483647 elements', `[${dims.join(', ')}]`)
  // Nothing to compute, however many empty products there are.
  if (count === 0) batch = 0
  const inputs = source ? [a.data, b.data, source.data] : [a.data, b.data]
  if (bias) inputs.push(bias)
  const fresh = o.out === undefined
  const ldc = o.ldc === undefined ? n : integer(o.ldc, 'ldc', n, kMost)
  const strideC = o.strideC === undefined ? m * ldc : integer(o.strideC, 'strideC', m * ldc, kMost)
  const wide = o.ldc !== undefined || o.strideC !== undefined
  if (wide && fresh) fail('ERR_DTYPE', 'out', `a Float32Array with ${o.ldc !== undefined ? 'ldc' : 'strideC'}`, undefined)
  const extent = wide && count > 0 ? (batch - 1) * strideC + (m - 1) * ldc + n : count
  const out = (fresh ? allocate('float32', count, 'out') : output(o.out, 'out', 'float32', extent, inputs, wide)) as Float32Array

  let map: Int32Array | null = null
  const aOnly = aLead.length === 0 || sizeOf(aLead) === 1
  const bOnly = bLead.length === 0 || sizeOf(bLead) === 1
  const sourceOnly = sizeOf(sourceLead) === 1
  if (batch > 1) {
    const follow = a.stride === aRows * a.ld && strideC === m * ldc
    if (bOnly && !ta && follow && (!source || (sourceOnly && sourceRow === 0))) {
      // One right-hand side for all: a single tall product.
      m *= batch
      batch = 1
    } else {
      const plain = (only: boolean, leading: readonly number[]): boolean => only || sizeOf(leading) === batch
      if (!plain(aOnly, aLead) || !plain(bOnly, bLead) || (source && !plain(sourceOnly, sourceLead))) {
        map = new Int32Array(3 * batch)
        fillMap(map, 0, batchDims, aLead)
        fillMap(map, 1, batchDims, bLead)
        if (source) fillMap(map, 2, batchDims, sourceLead)
      }
    }
  }

  let call: GemmCall = [a.data, b.data, out, source ? source.data : null, bias, map]
  let pinnedOut: PinnedOutput<Float32Array> | undefined
  if (pinned) {
    pinnedOut = pinOutput(out, 'out', fresh)
    call = [pin(a.data), pin(b.data), pinnedOut.view, source && pin(source.data), bias && pin(bias), map]
  }
  const p = native().numbers
  p[0] = m
  p[1] = n
  p[2] = k
  p[3] = ta ? 1 : 0
  p[4] = tb ? 1 : 0
  p[5] = alpha
  p[6] = beta
  p[7] = activation.kind
  p[8] = activation.lo
  p[9] = activation.hi
  p[10] = batch
  p[11] = aOnly && batch > 1 ? 0 : a.stride
  p[12] = bOnly ? 0 : b.stride
  p[13] = sourceRow
  p[14] = sourceCol
  p[15] = source && !sourceOnly ? sizeOf(source.dims) / sizeOf(sourceLead) : 0
  // Not the lengths of now: a getter of the options may have detached what was checked before it.
  p[16] = a.length
  p[17] = b.length
  p[18] = source ? sizeOf(source.dims) : -1
  p[19] = bias ? 1 : 0
  p[20] = map ? 1 : 0
  p[21] = a.ld
  p[22] = b.ld
  p[23] = ldc
  p[24] = strideC
  p[25] = out.length
  return { call, dims, output: pinnedOut }
}

// Packed weights know how they lie, and their product takes neither factors nor a summand.
function packedOptions(given: unknown): unknown {
  const o = options(given, 'options', kGemmOptions)
  for (const name of kGemmOptions)
    if (!kPackedOptions.includes(name) && o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} with packed weights`, o[name])
  return given
}

/**
 * Matrix product: `activation(alpha · op(a) · op(b) + beta · c + bias)` in float32.
 *
 * `a` is […, M, K] and `b` […, K, N] (the last two swapped by `transposeA`, `transposeB`); leading dimensions broadcast
 * as in numpy. The result is […, M, N]. Empty dimensions are allowed; K = 0 gives beta·c + bias.
 *
 * The error of an element is at most γ(K+4)·(|alpha|·Σ|a||b| + |beta·c| + |bias|) with γ(n) = n·2⁻²⁴/(1 − n·2⁻²⁴), then
 * the activation's own ({@link Activation}). Results depend on the CPU variant and the shape, not on the number of
 * threads. NaN and infinities follow IEEE arithmetic: 0·∞ is NaN, and beta = 0 ignores what `c` or `out` hold.
 *
 * @param a float32 tensor of rank ≥ 2, or a Float32Array with `aDims`
 * @param b float32 tensor of rank ≥ 2, or a Float32Array with `bDims`, or weights of {@link packFloat32} or {@link packBfloat16} (with `bias`,
 * `activation`, `aDims`, `out` only; `a` may be a vector then)
 * @returns the result; with `ldc` or `strideC` its `data` is `out`, in which rows and matrices lie so far apart
 * @throws {WhittleError} `ERR_SHAPE` (`a`, `b`, `c`, `bias`, `out`), `ERR_DTYPE`, `ERR_RANGE` (also an `out` that overlaps
 * an input), `ERR_HANDLE` for a detached buffer, `ERR_DEVICE` for tensors elsewhere
 * @example
 * const a = { type: 'float32', dims: [2, 3], data: new Float32Array([1, 2, 3, 4, 5, 6]) }
 * const w = { type: 'float32', dims: [4, 3], data: new Float32Array(12).fill(0.5) }
 * gemm(a, w, { transposeB: true, activation: 'relu' }).data // Float32Array(8) [ 3, 3, 3, 3, 7.5, 7.5, 7.5, 7.5 ]
 */
export function gemm(
  a: TensorLike | Float32Array,
  b: TensorLike | Float32Array | PackedFloat32 | PackedBfloat16,
  options?: GemmOptions,
): Tensor<Float32Array> {
  if (Handle.is(b)) return multiply(floatFormatOf(b), a, b, packedOptions(options))
  const { call, dims } = prepare(a, b, options, false)
  // Not spread: that costs more than the arguments.
  check(native().gemm(call[0], call[1], call[2], call[3], call[4], call[5]), 'a')
  return { type: 'float32', dims, data: call[2] }
}

/** {@link gemm} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function gemmAsync(
  a: TensorLike | Float32Array,
  b: TensorLike | Float32Array | PackedFloat32 | PackedBfloat16,
  options?: GemmOptions,
): Promise<Tensor<Float32Array>> {
  if (Handle.is(b)) return multiplyAsync(floatFormatOf(b), a, b, packedOptions(options))
  const { call, dims, output } = prepare(a, b, options, true)
  check(await native().gemmAsync(...call), 'a')
  return { type: 'float32', dims, data: (output as PinnedOutput<Float32Array>).commit() }
}
