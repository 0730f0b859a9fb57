import { WhittleError } from '../errors'
import { allocate, sizeOf, typedArrayName, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { fail, finite, integer, oneOf, options as checkOptions, output, tensor } from '../validate'
import { f32, floats, kNonFinite, kRange, optional, refuseNonFinite, runAsync, runSync, seedOf, threadsOf, type Memory, type Routine } from './factor/routine'

declare module '../native' {
  // core/codebook.h; the order of arguments is that of binding/codebook.cpp.
  interface NativeBinding {
    codebookKmeans(...args: unknown[]): number
    codebookAssign(...args: unknown[]): number
    codebookGather(...args: unknown[]): number
    codebookSums(...args: unknown[]): number
  }
}

/** Indices into a codebook: uint8 for up to 256 centroids, else uint16. */
export type CodebookIndices = Tensor<Uint8Array> | Tensor<Uint16Array>

/** How {@link kmeans} places its first centroids. */
export type KmeansInit = 'k-means++' | 'linear' | 'density'

/** Options of {@link kmeans}. */
export interface KmeansOptions {
  /** Number of shared values: 1 to 65536, and no more than `x` has distinct values. */
  readonly clusters: number
  /**
   * `'k-means++'` (default) draws each next centroid by its squared distance from the others; `'linear'` spaces them
   * evenly from the least to the largest value, which Deep Compression found best for weights, since it keeps the few
   * large ones; `'density'` takes even shares of the sorted values. Or the centroids themselves.
   */
  readonly init?: KmeansInit | TensorLike | Float32Array
  /** Of `'k-means++'`. Default 0. */
  readonly seed?: number
  /** Runs of `'k-means++'`, the best of which is answered; cheap beside the sorting. Default 1, at most 1000. */
  readonly starts?: number
  /** At most so many. Default 300. */
  readonly iterations?: number
  /** Converged when no centroid moved by more than this share of the range of `x`. Default 1e-6; 0 asks for a fixed point. */
  readonly tolerance?: number
  /** Memory for the indices. */
  readonly out?: Uint8Array | Uint16Array
  /** Default: all that the process may use. */
  readonly threads?: number
}

/** What {@link kmeans} answers. */
export interface Codebook {
  /** [clusters], ascending. */
  readonly centroids: Tensor<Float32Array>
  /** The dims of `x`. */
  readonly indices: CodebookIndices
  /** Members of each cluster. */
  readonly counts: Int32Array
  /** ‖x − x̂‖, the root of the sum of squares. */
  readonly error: number
  /** error / ‖x‖; 0 for x = 0. */
  readonly relativeError: number
  readonly iterations: number
  /** False where `iterations` ran out first. */
  readonly converged: boolean
}

const kInits = { 'k-means++': 0, linear: 1, density: 2 } as const
const kGiven = 3
const kMost = 65536

/**
 * Weight sharing: the `clusters` values that stand for the numbers of `x` with the least squared error, as far as Lloyd's
 * algorithm finds them, and the index of the nearest for each (of two equally near the lower).
 *
 * The values are sorted once (8 bytes of memory each, for the time of the call); after that an iteration costs
 * O(clusters · log n), whatever the size of `x`. A cluster that loses all its values moves to the value farthest from its
 * centroid, so none is ever empty during the iterations. The result depends on `x`, the options and nothing else.
 *
 * @param x float32, at least one element, all finite
 * @throws {WhittleError} `ERR_RANGE` (`clusters`: more than distinct values; `x[i]`: not finite; options), `ERR_SHAPE`,
 * `ERR_DTYPE`, `ERR_HANDLE`
 * @see Han, Mao, Dally 2016 (Deep Compression); Arthur, Vassilvitskii 2007 (k-means++)
 * @example
 * const { centroids, indices, error } = kmeans(weights, { clusters: 16, init: 'linear' })
 * const shared = codebookDecode(indices, centroids)
 */
export function kmeans(x: TensorLike | Float32Array, options: KmeansOptions): Codebook {
  return runSync((memory) => cluster(memory, x, options))
}

/** {@link kmeans} on another thread. Buffers over 256 KiB are used in place and become untransferable. */
export async function kmeansAsync(x: TensorLike | Float32Array, options: KmeansOptions): Promise<Codebook> {
  return runAsync((memory) => cluster(memory, x, options))
}

function* cluster(memory: Memory, given: unknown, optionsGiven: unknown): Routine<Codebook> {
  const o = checkOptions(optionsGiven, 'options', ['clusters', 'init', 'seed', 'starts', 'iterations', 'tolerance', 'out', 'threads'])
  const x = floats(given, 'x', 0)
  const clusters = integer(o.clusters, 'clusters', 1, kMost)
  const byName = o.init === undefined || typeof o.init === 'string'
  const init = byName ? kInits[optional(o.init, 'k-means++', (v) => oneOf(v, 'init', Object.keys(kInits) as KmeansInit[]))] : kGiven
  const centroids = byName ? new Float32Array(clusters) : ownCentroids(o.init, 'init', clusters)
  const seed = seedOf(o.seed)
  const starts = optional(o.starts, 1, (v) => integer(v, 'starts', 1, 1000))
  const iterations = optional(o.iterations, 300, (v) => integer(v, 'iterations', 1, 1e9))
  const tolerance = optional(o.tolerance, 1e-6, (v) => finite(v, 'tolerance', 0, 1))
  const threads = threadsOf(o.threads)
  const n = x.data.length
  const type = indexType(clusters)
  if (o.out !== undefined) output(o.out, 'out', type, n, [x.data])
  const index = memory.result(o.out as TypedArray | undefined, 'out', type, n)
  const data = memory.input(x.data)
  const counts = new Int32Array(clusters)
  const result = new Float64Array(4)
  yield {
    name: 'codebookKmeans',
    args: [n, clusters, init, seed, starts, iterations, tolerance, threads, data, centroids, index.view, counts, result],
    parameter: 'x',
    refused(status) {
      if (status === kNonFinite) refuseNonFinite('x', data)
      if (status === kRange)
        throw new WhittleError(
          'ERR_RANGE',
          'clusters',
          `clusters: expected at most ${result[3]}, the number of distinct values in x, got ${clusters}`,
        )
    },
  }
  const error = Math.sqrt(result[0] as number)
  const norm = normOf(data)
  return {
    centroids: f32([clusters], centroids),
    indices: { type, dims: [...x.dims], data: index.commit() } as CodebookIndices,
    counts,
    error,
    relativeError: norm > 0 ? error / norm : 0,
    iterations: result[1] as number,
    converged: result[2] === 1,
  }
}

function normOf(x: Float32Array): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += (x[i] as number) ** 2
  return Math.sqrt(sum)
}

function indexType(clusters: number): 'uint8' | 'uint16' {
  return clusters <= 256 ? 'uint8' : 'uint16'
}

/** A private copy of finite centroids; `count` is what is wanted, or undefined for any up to 65536. */
function ownCentroids(value: unknown, parameter: string, count?: number): Float32Array {
  const { data } = tensor(value, parameter, ['float32'])
  if (count !== undefined && data.length !== count) fail('ERR_SHAPE', parameter, `${count} centroids`, data)
  if (data.length < 1 || data.length > kMost) fail('ERR_SHAPE', parameter, `1 to ${kMost} centroids`, data)
  refuseNonFinite(parameter, data as Float32Array)
  return Float32Array.from(data as Float32Array)
}

/** What {@link codebookEncode} answers. */
export interface CodebookEncoded {
  readonly indices: CodebookIndices
  /** ‖x − x̂‖. */
  readonly error: number
}

/** Options of {@link codebookEncode}. */
export interface CodebookEncodeOptions {
  /** Memory for the indices: Uint8Array for up to 256 centroids, else Uint16Array. */
  readonly out?: Uint8Array | Uint16Array
}

/**
 * The index of the nearest centroid for each number of `x`; of two equally near the lower. For a table made elsewhere, such
 * as NormalFloat's 16 levels.
 *
 * @param x float32, all finite
 * @param centroids float32, 1 to 65536, strictly ascending
 * @throws {WhittleError} `ERR_RANGE` (`centroids[i]`: not ascending; `x`: not finite), `ERR_SHAPE`, `ERR_DTYPE`, `ERR_HANDLE`
 * @example
 * codebookEncode(Float32Array.of(0.1, 0.9), Float32Array.of(0, 1)).indices.data // Uint8Array [ 0, 1 ]
 */
export function codebookEncode(
  x: TensorLike | Float32Array,
  centroids: TensorLike | Float32Array,
  options?: CodebookEncodeOptions,
): CodebookEncoded {
  return runSync((memory) => encode(memory, x, centroids, options))
}

/** {@link codebookEncode} on another thread. Buffers over 256 KiB are used in place and become untransferable. */
export async function codebookEncodeAsync(
  x: TensorLike | Float32Array,
  centroids: TensorLike | Float32Array,
  options?: CodebookEncodeOptions,
): Promise<CodebookEncoded> {
  return runAsync((memory) => encode(memory, x, centroids, options))
}

function* encode(memory: Memory, given: unknown, table: unknown, optionsGiven: unknown): Routine<CodebookEncoded> {
  const o = checkOptions(optionsGiven, 'options', ['out'])
  const x = tensor(given, 'x', ['float32']) as Tensor<Float32Array>
  const centroids = ownCentroids(table, 'centroids')
  for (let i = 1; i < centroids.length; i++)
    if ((centroids[i] as number) <= (centroids[i - 1] as number))
      fail('ERR_RANGE', `centroids[${i}]`, `more than ${centroids[i - 1]}, the one before`, centroids[i])
  const n = x.data.length
  const type = indexType(centroids.length)
  if (o.out !== undefined) output(o.out, 'out', type, n, [x.data])
  const index = memory.result(o.out as TypedArray | undefined, 'out', type, n)
  const data = memory.input(x.data)
  const squares = new Float64Array(1)
  const args = [n, centroids.length, 0, data, centroids, index.view, squares]
  if (n > 0) yield { name: 'codebookAssign', args, parameter: 'x' }
  // NaN and infinities always end up in the sum.
  if (!Number.isFinite(squares[0])) refuseNonFinite('x', data)
  return { indices: { type, dims: [...x.dims], data: index.commit() } as CodebookIndices, error: Math.sqrt(squares[0] as number) }
}

/** Options of {@link codebookDecode}. */
export interface CodebookDecodeOptions {
  /** Memory for the result. */
  readonly out?: Float32Array
}

/**
 * Looks indices up: `out[i] = centroids[indices[i]]`.
 *
 * @param indices uint8 or uint16, every one below the number of centroids
 * @param centroids float32, 1 to 65536, in any order
 * @returns float32, the dims of `indices`
 * @throws {WhittleError} `ERR_RANGE` for an index beyond the table, `ERR_SHAPE`, `ERR_DTYPE`, `ERR_HANDLE`
 * @example
 * codebookDecode(Uint8Array.of(0, 1, 1), Float32Array.of(-0.5, 0.5)).data // Float32Array [ -0.5, 0.5, 0.5 ]
 */
export function codebookDecode(
  indices: TensorLike | Uint8Array | Uint16Array,
  centroids: TensorLike | Float32Array,
  options?: CodebookDecodeOptions,
): Tensor<Float32Array> {
  return runSync((memory) => decode(memory, indices, centroids, options))
}

/** {@link codebookDecode} on another thread. Buffers over 256 KiB are used in place and become untransferable. */
export async function codebookDecodeAsync(
  indices: TensorLike | Uint8Array | Uint16Array,
  centroids: TensorLike | Float32Array,
  options?: CodebookDecodeOptions,
): Promise<Tensor<Float32Array>> {
  return runAsync((memory) => decode(memory, indices, centroids, options))
}

function indicesOf(value: unknown): CodebookIndices {
  return tensor(value, 'indices', ['uint8', 'uint16']) as CodebookIndices
}

function beyondTable(indices: CodebookIndices, count: number): never {
  const at = (indices.data as Uint8Array).findIndex((i) => i >= count)
  return fail('ERR_RANGE', `indices[${at}]`, `an index from 0 to ${count - 1}`, indices.data[at])
}

function* decode(memory: Memory, given: unknown, table: unknown, optionsGiven: unknown): Routine<Tensor<Float32Array>> {
  const o = checkOptions(optionsGiven, 'options', ['out'])
  const indices = indicesOf(given)
  const values = tensor(table, 'centroids', ['float32']).data.slice()
  if (values.length < 1 || values.length > kMost) fail('ERR_SHAPE', 'centroids', `1 to ${kMost} centroids`, values)
  const n = indices.data.length
  if (o.out !== undefined) output(o.out, 'out', 'float32', n, [indices.data])
  const result = memory.result(o.out as TypedArray | undefined, 'out', 'float32', n)
  const data = memory.input(indices.data as Uint8Array)
  if (n > 0)
    yield {
      name: 'codebookGather',
      args: [n, values.length, isWide(data), 0, data, values, result.view],
      parameter: 'indices',
      refused(status) {
        if (status === kRange) beyondTable(indices, values.length)
      },
    }
  return f32(indices.dims, result.commit() as Float32Array)
}

function isWide(data: TypedArray): boolean {
  return typedArrayName(data) === 'Uint16Array'
}

/**
 * The gradient of a loss with respect to shared weights: `∂L/∂cⱼ = Σ ∂L/∂wᵢ` over the members i of cluster j, added up in
 * double precision.
 *
 * @param grad float32, as many elements as `indices`
 * @param indices uint8 or uint16, every one below `clusters`
 * @returns float32 [clusters]; 0 for a cluster without members
 * @throws {WhittleError} `ERR_RANGE` for an index beyond `clusters`, or a sum that is not finite; `ERR_SHAPE`, `ERR_DTYPE`,
 * `ERR_HANDLE`
 * @see Han, Mao, Dally 2016 (Deep Compression), section 3.3
 * @example
 * codebookGradient(Float32Array.of(1, 2, 4), Uint8Array.of(0, 1, 1), 2).data // Float32Array [ 1, 6 ]
 */
export function codebookGradient(
  grad: TensorLike | Float32Array,
  indices: TensorLike | Uint8Array | Uint16Array,
  clusters: number,
): Tensor<Float32Array> {
  return runSync((memory) => gradient(memory, grad, indices, clusters))
}

/** {@link codebookGradient} on another thread. Buffers over 256 KiB are used in place and become untransferable. */
export async function codebookGradientAsync(
  grad: TensorLike | Float32Array,
  indices: TensorLike | Uint8Array | Uint16Array,
  clusters: number,
): Promise<Tensor<Float32Array>> {
  return runAsync((memory) => gradient(memory, grad, indices, clusters))
}

function* gradient(memory: Memory, given: unknown, at: unknown, clustersGiven: unknown): Routine<Tensor<Float32Array>> {
  const grad = tensor(given, 'grad', ['float32']) as Tensor<Float32Array>
  const indices = indicesOf(at)
  const clusters = integer(clustersGiven, 'clusters', 1, kMost)
  const n = sizeOf(indices.dims)
  if (grad.data.length !== n) fail('ERR_SHAPE', 'grad', `${n} elements, as many as indices`, grad.data)
  const index = memory.input(indices.data as Uint8Array)
  const data = memory.input(grad.data)
  const out = allocate('float32', clusters) as Float32Array
  if (n > 0)
    yield {
      name: 'codebookSums',
      args: [n, clusters, isWide(index), 0, index, data, out],
      parameter: 'grad',
      refused(status) {
        if (status === kRange) beyondTable(indices, clusters)
        if (status === kNonFinite) {
          refuseNonFinite('grad', data)
          throw new WhittleError('ERR_RANGE', 'grad', 'grad: a sum is beyond the range of float32')
        }
      },
    }
  return f32([clusters], out)
}
