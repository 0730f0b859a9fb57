import { WhittleError } from '../errors'
import { Handle, registerHandle } from '../handle'
import { type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { boolean, fail, options, tensor } from '../validate'
import {
  blobSource,
  infoOf,
  isBlob,
  kInt4,
  multiply,
  multiplyAsync,
  pack,
  packAsync,
  quantizedSource,
  threadsOf,
  type GemmWeightOptions,
  type Packing,
} from './gemm_weight'
import { quantize, quantizeAsync, type QuantizedLike, type QuantizedTensor } from './quantize'
import { kFloatTypes } from './scheme'

/**
 * 4-bit weights with their scales, packed for {@link gemmInt4}: about 4.5 bits a weight in blocks of 64, 5 in blocks of 32.
 * Made by {@link packInt4}; a {@link Handle}, so it can be shared between threads and should be disposed of.
 */
export class PackedInt4 extends Handle {
  /** Rows of the matrix that was packed: the length of the sums. */
  readonly k: number
  /** Its columns. */
  readonly n: number
  /** Rows that share a scale; k where a column has one. */
  readonly blockSize: number
  /** True where every zero point is the middle of the codes. */
  readonly symmetric: boolean

  /** @internal */
  constructor(object: object) {
    super('PackedInt4', object)
    const { k, n, blockSize, hasOffset } = infoOf(kInt4, object)
    this.k = k
    this.n = n
    this.blockSize = blockSize
    this.symmetric = !hasOffset
  }
}

registerHandle('PackedInt4', (object) => new PackedInt4(object))

/** Options of {@link packInt4}. */
export interface PackInt4Options {
  /** Rows of k that share a scale; the last block may be short. Default 32. Codes and file tensors say it themselves. */
  readonly blockSize?: number
  /** Float weights only: codes ±7 about 0 (default), or all 16 codes over the range of each block. */
  readonly symmetric?: boolean
  /** The weights lie `[n, k]`, a column a row, as torch's `Linear` has them. Default false. */
  readonly transpose?: boolean
  /** Only with a file tensor: float32 or float16, n·blocks of them, any finite number. */
  readonly scale?: TypedArray | TensorLike
  /** Only with a file tensor: two to a byte, each column's from a byte of its own; or floats, as many as scales. Default 8. */
  readonly zeroPoint?: TypedArray | TensorLike
  /** Only with a file tensor, whose last block may be short: rows that count. Default blocks·blockSize. */
  readonly k?: number
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
}

const kOptions = ['blockSize', 'symmetric', 'transpose', 'scale', 'zeroPoint', 'k', 'threads'] as const

type Plan = { readonly packing: Packing } | { readonly float: (q: QuantizedTensor) => Packing; readonly options: object }

function plan(w: unknown, given: unknown): Plan {
  const o = options(given, 'options', kOptions)
  const threads = threadsOf(o.threads)
  const none = (names: readonly (keyof typeof o)[], what: string): void => {
    for (const name of names) if (o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} with ${what}`, o[name])
  }
  if (isBlob(w)) {
    none(['transpose', 'symmetric'], 'w of [n, blocks, blockSize/2]')
    return { packing: { source: blobSource(kInt4, w, o), threads } }
  }
  none(['scale', 'zeroPoint', 'k'], 'w other than [n, blocks, blockSize/2] bytes')
  const transpose = o.transpose === undefined ? false : boolean(o.transpose, 'transpose')
  const t = w as QuantizedLike | null | undefined
  const type = typeof t === 'object' && t !== null ? t.type : undefined
  if (type === 'int4' || type === 'uint4') {
    none(['blockSize', 'symmetric'], 'codes, which know theirs')
    return { packing: { source: quantizedSource(kInt4, t as QuantizedLike, transpose), threads } }
  }
  if (!kFloatTypes.includes(type as 'float32')) fail('ERR_DTYPE', 'w.type', [...kFloatTypes, 'int4', 'uint4', 'or uint8 of [n, blocks, blockSize/2]'].join(', '), type ?? w)
  const { dims } = tensor(w, 'w', kFloatTypes)
  if (dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix (rank 2)', `[${dims.join(', ')}]`)
  return {
    float: (q) => ({ source: quantizedSource(kInt4, q, transpose), threads }),
    options: {
      bits: 4,
      axis: transpose ? 1 : 0,
      blockSize: o.blockSize === undefined ? 32 : o.blockSize === null ? fail('ERR_DTYPE', 'blockSize', 'an integer', null) : o.blockSize,
      symmetric: o.symmetric === undefined ? true : boolean(o.symmetric, 'symmetric'),
      ...(threads ? { threads } : {}),
    },
  }
}

// What quantize calls x is w here.
function renamed(e: unknown): unknown {
  if (!(e instanceof WhittleError) || e.parameter !== 'x') return e
  return new WhittleError(e.code, 'w', e.message.replace(/^x:/, 'w:'), { cause: e })
}

/**
 * Packs 4-bit weights for {@link gemmInt4}. They may come as
 *
 * - **floats** (float32, float16, bfloat16), quantized here by {@link quantize}'s definition in blocks along k;
 * - **codes**: int4 or uint4 with `scale` and `zeroPoint`, one for the matrix, one a column, or blocks along k, as
 *   {@link quantize} answers them;
 * - **a file's tensor**: the uint8 input `B` of ONNX's `com.microsoft.MatMulNBits`, `[n, ceil(k / blockSize), blockSize / 2]`,
 *   with its `scales` and `zero_points` as they lie.
 *
 * @param w `[k, n]`, or `[n, k]` with `transpose`, or a file's tensor
 * @returns a handle of about k·n/2 bytes and 4 for each scale (8 if not symmetric)
 * @throws {WhittleError} `ERR_DTYPE`, `ERR_SHAPE`, `ERR_RANGE` naming what is wrong (a scale that is not finite, or, but for a
 * file's tensor, not above 0); `ERR_OUT_OF_MEMORY`
 * @example
 * using w = packInt4({ type: 'float32', dims: [4096, 4096], data: weights }, { blockSize: 64 })
 * using f = packInt4({ type: 'uint8', dims: [n, blocks, 16], data: B }, { scale: scales, zeroPoint: zeroPoints, k })
 */
export function packInt4(w: TensorLike | QuantizedLike, options?: PackInt4Options): PackedInt4 {
  const p = plan(w, options)
  if ('packing' in p) return new PackedInt4(pack(p.packing))
  try {
    return new PackedInt4(pack(p.float(quantize(w as TensorLike, p.options))))
  } catch (e) {
    throw renamed(e)
  }
}

/** {@link packInt4} off the main thread. */
export async function packInt4Async(w: TensorLike | QuantizedLike, options?: PackInt4Options): Promise<PackedInt4> {
  const p = plan(w, options)
  if ('packing' in p) return new PackedInt4(await packAsync(p.packing))
  try {
    return new PackedInt4(await packAsync(p.float(await quantizeAsync(w as TensorLike, p.options))))
  } catch (e) {
    throw renamed(e)
  }
}

/**
 * float32 rows times 4-bit weights: `activation(a · w + bias)` with `w = scale·(code − zeroPoint)` of its block. Meant for few
 * rows, where reading weights is all the time (7 to 8 times fewer bytes than float32); right for any number.
 *
 * Activations keep their 24 bits. With S = Σ|a|·scale·(|code − 8| + |8 − zeroPoint|) (signed codes: |code| + |zeroPoint|) and X
 * the same with each |a| replaced by the largest among the 32 rows it lies in, the error of an element before its activation is
 * at most γ(k+8)·S + 2⁻²³·X + 2⁻²⁴·|bias|, γ(n) = n·2⁻²⁴/(1 − n·2⁻²⁴). Results depend on the CPU variant and the shape, not on
 * threads. NaN and infinities follow IEEE arithmetic.
 *
 * @param a float32 `[…, m, k]`, or `[k]` for one row
 * @param b weights packed by {@link packInt4}
 * @returns a float32 tensor `[…, m, n]`
 * @throws {WhittleError} `ERR_SHAPE` (`a`, `b`, `bias`, `out`), `ERR_DTYPE`, `ERR_RANGE` (also an `out` that overlaps an input),
 * `ERR_HANDLE` for weights that are disposed of, cloned or of another kind
 * @example
 * const y = gemmInt4(x, w, { bias, activation: 'silu' })
 */
export function gemmInt4(a: TensorLike | Float32Array, b: PackedInt4, options?: GemmWeightOptions): Tensor<Float32Array> {
  return multiply(kInt4, a, b, options)
}

/** {@link gemmInt4} off the main thread; inputs must not be written until the promise settles. */
export async function gemmInt4Async(a: TensorLike | Float32Array, b: PackedInt4, options?: GemmWeightOptions): Promise<Tensor<Float32Array>> {
  return multiplyAsync(kInt4, a, b, options)
}
