import { pin, pinOutput } from '../async'
import { WhittleError } from '../errors'
import { Handle, handleObject, registerHandle } from '../handle'
import { check, native } from '../native'
import { allocate, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { boolean, fail, oneOf, options, output, tensor } from '../validate'
import { activationOf, type Activation } from './activation'
import { refuseNonFinite } from './factor/routine'
import { rowsOf, threadsOf } from './gemm_weight'

type FillArguments = [
  handle: object, w: TypedArray, row: number, col: number, kind: number, scales: TypedArray | null, threads: number,
] // prettier-ignore
type MultiplyArguments = [
  handle: object, m: number, a: TypedArray, rowMean: boolean, isFloat: boolean, bias: TypedArray | null, activation: number,
  lo: number, hi: number, out: TypedArray, threads: number,
] // prettier-ignore

declare module '../native' {
  interface NativeBinding {
    packBinaryNew(k: number, n: number): object | undefined
    packBinaryFill(...args: FillArguments): number
    packBinaryFillAsync(...args: FillArguments): Promise<number>
    packedBinaryInfo(handle: object): readonly [k: number, n: number] | undefined
    gemmBinary(...args: MultiplyArguments): number
    gemmBinaryAsync(...args: MultiplyArguments): Promise<number>
  }
}

// core/status.h
const kNonFinite = 8
// core/binary.h
const kScaleNone = 0
const kScaleMean = 1
const kScaleGiven = 2
const kLongest = 2 ** 31 - 1

/** The signs of weights, a bit each, with a scale for each column. Made by {@link packBinary}; a {@link Handle}. */
export class PackedBinary extends Handle {
  /** Rows of the matrix that was packed: the length of the sums. */
  readonly k: number
  /** Its columns. */
  readonly n: number

  /** @internal */
  constructor(object: object) {
    super('PackedBinary', object)
    const [k, n] = native().packedBinaryInfo(object) as readonly [number, number]
    this.k = k
    this.n = n
  }
}

registerHandle('PackedBinary', (object) => new PackedBinary(object))

/** Options of {@link packBinary}. */
export interface PackBinaryOptions {
  /** The weights lie `[n, k]`, a column a row, as torch's `Linear` has them. Default false. */
  readonly transpose?: boolean
  /**
   * What a column's signs stand for: `'mean'` (default) α = mean |w| over the column, which comes nearest to the weights in
   * squares; `'none'` 1; or n float32 numbers of your own.
   */
  readonly scale?: 'mean' | 'none' | TensorLike | Float32Array
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
}

interface Packing {
  readonly k: number
  readonly n: number
  readonly fill: (object: object) => FillArguments
  readonly w: TypedArray
}

function preparePack(value: unknown, given: unknown): Packing {
  const o = options(given, 'options', ['transpose', 'scale', 'threads'] as const)
  const w = tensor(value, 'w', ['float32'])
  if (w.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix (rank 2)', `[${w.dims.join(', ')}]`)
  const transpose = o.transpose === undefined ? false : boolean(o.transpose, 'transpose')
  const [k, n] = transpose ? [w.dims[1] as number, w.dims[0] as number] : (w.dims as [number, number])
  if (k > kLongest) fail('ERR_SHAPE', 'w', `at most ${kLongest} rows, which int32 sums can count`, k)
  const threads = threadsOf(o.threads)
  let kind = kScaleMean
  let scales: TypedArray | null = null
  if (typeof o.scale === 'string')
    kind = oneOf(o.scale, 'scale', ['mean', 'none'] as const) === 'mean' ? kScaleMean : kScaleNone
  else if (o.scale !== undefined) {
    kind = kScaleGiven
    scales = tensor(o.scale, 'scale', ['float32']).data
    if (scales.length !== n) fail('ERR_SHAPE', 'scale', `${n} numbers, one for each column`, scales)
    refuseNonFinite('scale', scales as Float32Array)
  }
  const [row, col] = transpose ? [1, k] : [n, 1]
  return { k, n, w: w.data, fill: (object) => [object, w.data, row, col, kind, scales, threads] }
}

function begin({ k, n, fill }: Packing): FillArguments {
  const object = native().packBinaryNew(k, n)
  if (!object) throw new WhittleError('ERR_OUT_OF_MEMORY', 'w', `w: cannot allocate packed signs of ${k} x ${n}`)
  return fill(object)
}

function finish(status: number, object: object, w: TypedArray): PackedBinary {
  if (status === 0) return new PackedBinary(object)
  native().handleDispose(object)
  if (status === kNonFinite) refuseNonFinite('w', w as Float32Array)
  check(status, 'w')
  throw new WhittleError('ERR_RANGE', 'w', 'w: changed while it was packed')
}

/**
 * Keeps the signs of weights, a thirty-second of their size, for {@link gemmBinary}: `W ≈ α·sign(W)`, where the sign of 0
 * is +1.
 *
 * @param w float32, finite, `[k, n]`, or `[n, k]` with `transpose`
 * @returns a handle of about k·n / 8 bytes
 * @throws {WhittleError} `ERR_DTYPE`, `ERR_SHAPE`, `ERR_RANGE` (`w[i]`: not finite); `ERR_OUT_OF_MEMORY`
 * @see Rastegari, Ordonez, Redmon, Farhadi 2016 (XNOR-Net)
 * @example
 * using w = packBinary({ type: 'float32', dims: [768, 3072], data: weights })
 * const y = gemmBinary(x, w, { inputScale: 'mean', bias })
 */
export function packBinary(w: TensorLike, options?: PackBinaryOptions): PackedBinary {
  const p = preparePack(w, options)
  const args = begin(p)
  return finish(native().packBinaryFill(...args), args[0], p.w)
}

/** {@link packBinary} off the main thread. */
export async function packBinaryAsync(w: TensorLike, options?: PackBinaryOptions): Promise<PackedBinary> {
  const p = preparePack(w, options)
  const [object, data, row, col, kind, scales, threads] = begin(p)
  const held = pin(data)
  return finish(
    await native().packBinaryFillAsync(object, held, row, col, kind, scales && pin(scales), threads),
    object,
    held,
  )
}

/** Options of {@link gemmBinary}. */
export interface GemmBinaryOptions {
  /**
   * What a row's signs stand for: `'mean'` β = mean |a| over the row, as XNOR-Net has it; `'none'` (default) 1, for rows of
   * ±1 and where only the signs count.
   */
  readonly inputScale?: 'mean' | 'none'
  /** `'float32'` (default), or `'int32'`: the sums of signs alone, without scales, bias and activation. */
  readonly outType?: 'float32' | 'int32'
  /** One float32 number for each column: n. */
  readonly bias?: TensorLike | Float32Array
  /** Applied last. Default `'none'`. */
  readonly activation?: Activation
  /** Dims of `a` where it is a bare Float32Array; default one row. */
  readonly aDims?: readonly number[]
  /** At most this many threads; default {@link setThreads}. */
  readonly threads?: number
  /** Where the result goes: as many elements as it has, no overlap with an input. */
  readonly out?: Float32Array | Int32Array
}

interface Product {
  readonly args: MultiplyArguments
  readonly type: 'float32' | 'int32'
  readonly dims: number[]
  readonly fresh: boolean
}

function prepare(given: unknown, b: unknown, optionsGiven: unknown): Product {
  const o = options(optionsGiven, 'options', [
    'inputScale',
    'outType',
    'bias',
    'activation',
    'aDims',
    'threads',
    'out',
  ] as const)
  const object = handleObject(b, 'PackedBinary', 'b')
  const { n } = b as PackedBinary
  const { a, m, bias, dims: outDims } = rowsOf(given, b as PackedBinary, o)
  const rowMean = o.inputScale !== undefined && oneOf(o.inputScale, 'inputScale', ['mean', 'none'] as const) === 'mean'
  const type = o.outType === undefined ? 'float32' : oneOf(o.outType, 'outType', ['float32', 'int32'] as const)
  if (type === 'int32')
    for (const name of ['inputScale', 'bias', 'activation'] as const)
      if (o[name] !== undefined && o[name] !== 'none')
        fail('ERR_RANGE', name, "none with outType 'int32', whose results are sums of signs", o[name])
  const { kind, lo, hi } = activationOf(o.activation, 'activation')
  const threads = threadsOf(o.threads)
  const fresh = o.out === undefined
  const out = fresh ? allocate(type, m * n) : output(o.out, 'out', type, m * n, bias ? [a, bias] : [a])
  return {
    args: [object, m, a, rowMean, type === 'float32', bias, kind, lo, hi, out, threads],
    type,
    dims: outDims,
    fresh,
  }
}

function succeed(status: number, a: TypedArray): void {
  if (status === kNonFinite) refuseNonFinite('a', a as Float32Array)
  check(status, 'a')
}

/**
 * Multiplies rows by binary weights with both sides reduced to their signs, 32 to a word: xor and population count. With sums
 * S of k products of signs the result is `activation(float(S)·α[j]·β[i] + bias[j])`, every product rounded; S itself is exact.
 * The same bits on every CPU but for the activation's own error.
 *
 * @param a float32, finite, `[…, k]`; the sign of 0 is +1
 * @param b of {@link packBinary}
 * @returns `[…, n]`
 * @throws {WhittleError} `ERR_SHAPE`, `ERR_DTYPE`, `ERR_HANDLE`, `ERR_RANGE` (`a[i]`: not finite; options that `outType` excludes)
 * @see Rastegari, Ordonez, Redmon, Farhadi 2016 (XNOR-Net)
 * @example
 * const w = packBinary({ type: 'float32', dims: [2, 1], data: Float32Array.of(0.5, -1.5) })
 * gemmBinary(Float32Array.of(3, -1), w, { inputScale: 'mean' }).data // 2 signs agree: 2 · 1 · 2 = Float32Array [ 4 ]
 */
export function gemmBinary(
  a: TensorLike | Float32Array,
  b: PackedBinary,
  options?: GemmBinaryOptions,
): Tensor<Float32Array> | Tensor<Int32Array> {
  const p = prepare(a, b, options)
  succeed(native().gemmBinary(...p.args), p.args[2])
  return { type: p.type, dims: p.dims, data: p.args[9] } as Tensor<Float32Array>
}

/** {@link gemmBinary} off the main thread. Buffers over 256 KiB are used in place and become untransferable. */
export async function gemmBinaryAsync(
  a: TensorLike | Float32Array,
  b: PackedBinary,
  options?: GemmBinaryOptions,
): Promise<Tensor<Float32Array> | Tensor<Int32Array>> {
  const p = prepare(a, b, options)
  const [object, m, x, rowMean, isFloat, bias, kind, lo, hi, out, threads] = p.args
  const pinned = pinOutput(out, 'out', p.fresh)
  const held = pin(x)
  succeed(
    await native().gemmBinaryAsync(
      object,
      m,
      held,
      rowMean,
      isFloat,
      bias && pin(bias),
      kind,
      lo,
      hi,
      pinned.view,
      threads,
    ),
    held,
  )
  return { type: p.type, dims: p.dims, data: pinned.commit() } as Tensor<Float32Array>
}
