import { pin } from '../async'
import { WhittleError } from '../errors'
import { Handle, registerHandle } from '../handle'
import { check, native } from '../native'
import type { TensorLike, TypedArray } from '../tensor'
import { boolean, fail, integer, options, tensor } from '../validate'
import { pack, packAsync, PackedScaledInt8, prepareScaledInt8, type PackScaledInt8Options } from './gemm_weight'

declare module '../native' {
  interface NativeBinding {
    packInt8New(k: number, n: number, isUnsigned: boolean): object | undefined
    packInt8Fill(handle: object, w: TypedArray, transposed: boolean, threads: number): number
    packInt8FillAsync(handle: object, w: TypedArray, transposed: boolean, threads: number): Promise<number>
    packedInt8Info(handle: object): readonly [k: number, n: number, isUnsigned: boolean] | undefined
  }
}

/**
 * Weights in the layout of the CPU variant in force, with their column sums: pack once, multiply often. Made by
 * {@link packInt8}; a {@link Handle}, so it can be shared between threads and should be disposed of.
 */
export class PackedInt8 extends Handle {
  /** Rows of the matrix that was packed: the length of the sums. */
  readonly k: number
  /** Its columns: output channels. */
  readonly n: number
  readonly type: 'int8' | 'uint8'

  /** @internal */
  constructor(object: object) {
    super('PackedInt8', object)
    const [k, n, isUnsigned] = native().packedInt8Info(object) as readonly [number, number, boolean]
    this.k = k
    this.n = n
    this.type = isUnsigned ? 'uint8' : 'int8'
  }
}

registerHandle('PackedInt8', (object) => new PackedInt8(object))

export interface PackInt8Options {
  /** The weights lie `[n, k]`, an output channel a row, as `Gemm` with `transB` and torch's `Linear` have them. Default false. */
  readonly transpose?: boolean
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
}

interface Weights {
  readonly k: number
  readonly n: number
  readonly data: TypedArray
  readonly transpose: boolean
  readonly threads: number
  readonly object: object
}

function preparePack(w: unknown, opts: unknown): Weights {
  const t = tensor(w, 'w', ['int8', 'uint8'])
  const o = options(opts, 'options', ['transpose', 'threads'])
  if (t.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix (rank 2)', t.dims)
  const transpose = o.transpose === undefined ? false : boolean(o.transpose, 'transpose')
  const threads = o.threads === undefined ? 0 : integer(o.threads, 'threads', 1, 256)
  const [rows, columns] = t.dims as [number, number]
  const [k, n] = transpose ? [columns, rows] : [rows, columns]
  const object = native().packInt8New(k, n, t.type === 'uint8')
  if (!object) throw new WhittleError('ERR_OUT_OF_MEMORY', 'w', `w: cannot allocate packed weights of ${k} x ${n}`)
  return { k, n, data: t.data, transpose, threads, object }
}

function isScaled(options: unknown): boolean {
  return typeof options === 'object' && options !== null && (options as { scale?: unknown }).scale !== undefined
}

/**
 * Packs int8 or uint8 weights for {@link gemmInt8}.
 *
 * @param w `[k, n]`, or `[n, k]` with `transpose`
 * @returns a handle of about k·n bytes
 * @throws {WhittleError} `ERR_DTYPE`, `ERR_SHAPE` on `w`; `ERR_OUT_OF_MEMORY`
 * @example
 * using packed = packInt8({ type: 'int8', dims: [768, 768], data: weights })
 * const y = gemmInt8(x, packed, { aScale: 0.02, bScale: scales, outType: 'float32' })
 */
export function packInt8(w: TensorLike, options?: PackInt8Options): PackedInt8
/**
 * The same with scales inside, for {@link gemmInt8} of float32 rows: `scale` (and `zeroPoint`) of the matrix, of each column, or
 * of blocks of `blockSize` along k; or a file's 8-bit `MatMulNBits` tensor, uint8 `[n, blocks, blockSize]`.
 *
 * @throws {WhittleError} also `ERR_RANGE` on a scale that is not finite and above 0
 * @example
 * using w = packInt8({ type: 'int8', dims: [768, 768], data: codes }, { scale: scales })
 * const y = gemmInt8(x, w, { bias }) // x float32
 */
export function packInt8(w: TensorLike, options: PackScaledInt8Options): PackedScaledInt8
export function packInt8(w: TensorLike, options?: PackInt8Options | PackScaledInt8Options): PackedInt8 | PackedScaledInt8 {
  if (isScaled(options)) return new PackedScaledInt8(pack(prepareScaledInt8(w, options)))
  const p = preparePack(w, options)
  check(native().packInt8Fill(p.object, p.data, p.transpose, p.threads), 'w')
  return new PackedInt8(p.object)
}

/** {@link packInt8} off the main thread. */
export async function packInt8Async(w: TensorLike, options?: PackInt8Options): Promise<PackedInt8>
export async function packInt8Async(w: TensorLike, options: PackScaledInt8Options): Promise<PackedScaledInt8>
export async function packInt8Async(
  w: TensorLike,
  options?: PackInt8Options | PackScaledInt8Options,
): Promise<PackedInt8 | PackedScaledInt8> {
  if (isScaled(options)) return new PackedScaledInt8(await packAsync(prepareScaledInt8(w, options)))
  const p = preparePack(w, options)
  check(await native().packInt8FillAsync(p.object, pin(p.data), p.transpose, p.threads), 'w')
  return new PackedInt8(p.object)
}
