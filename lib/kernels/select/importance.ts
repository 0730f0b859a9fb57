import { WhittleError } from '../../errors'
import { sizeOf, type Tensor, type TensorLike, type TypedArray } from '../../tensor'
import { fail, integer, oneOf, options as checkOptions, tensor } from '../../validate'
import { axisWithin, blockOf, givenOutput, kNorms, runAsync, runSync, viewAlong, type Memory, type Routine } from './routine'

/** @internal The native norm of each criterion; negative ones have kernels of their own. */
export const kCriteria = {
  l1: kNorms.l1,
  magnitude: kNorms.l1,
  absolute: kNorms.l1,
  l2: kNorms.l2,
  square: kNorms.square,
  linf: kNorms.linf,
  sensitivity: kNorms.sensitivity,
  taylor: kNorms.taylor,
  geometricMedian: -1,
  random: -2,
} as const

/** How weights are scored; see {@link importance}. */
export type Criterion = keyof typeof kCriteria

/** Options of {@link importance}. */
export interface ImportanceOptions {
  /** Default `'l1'`. */
  readonly criterion?: Criterion
  /** Gradient of the loss, float32 with the dims of `w`; needed by `'sensitivity'` and `'taylor'`, refused elsewhere. */
  readonly grad?: TensorLike | TypedArray
  /** One score for each index of this axis (0: rows, filters; 1: columns, input channels). Negative counts from the end. */
  readonly axis?: number
  /** One score for each block of `[rows, columns]`. */
  readonly block?: readonly [number, number]
  /** Of `'random'`: an integer ≥ 0, default 0. */
  readonly seed?: number
  /** Memory for the result, a Float32Array of its length that overlaps no input. */
  readonly out?: Float32Array
}

/**
 * Scores weights: the higher, the more is lost with them.
 *
 * | criterion | one element | a group of elements |
 * |---|---|---|
 * | `'l1'`, also named `'magnitude'` and `'absolute'` | abs(w) | Σ abs(w) |
 * | `'l2'` | abs(w) | √Σw² |
 * | `'square'` | w² | Σw² |
 * | `'linf'` | abs(w) | max abs(w) |
 * | `'sensitivity'` | abs(g·w) | Σ abs(g·w) |
 * | `'taylor'` | (g·w)² | (Σ g·w)² |
 * | `'geometricMedian'` | – | Σⱼ ‖wᵢ − wⱼ‖₂ over the other groups j; needs `axis`, takes time groups² |
 * | `'random'` | uniform in [0, 1) from `seed` and index, the control | the same |
 *
 * Scores of elements are float32 operations rounded once each, the same on every CPU. Sums over groups run in double
 * and are rounded to float32 at the end: with n terms the error before that rounding is at most n·2⁻⁵³·Σ|term|.
 *
 * @param w float32, any rank; infinities are taken as they are (a score may be `Infinity`)
 * @returns float32: the dims of `w`; with `axis` `[w.dims[axis]]`; with `block` `[rows/r, cols/c]`, where `w` is read as
 * a matrix of `dims[0]` rows and the product of the other dims as columns. A group without elements scores 0.
 * @throws {WhittleError} `ERR_DTYPE` where `w` or `grad` is not float32; `ERR_SHAPE` where dims differ or blocks do not
 * divide `w`; `ERR_RANGE` for an unknown criterion, an axis outside the rank, `axis` together with `block`, a missing
 * `grad`, or a NaN among the scores; `ERR_HANDLE` for a detached buffer
 * @see Han 2015 (magnitude), Li 2017 (filters by L1), Molchanov 2017 and 2019 (sensitivity, Taylor), FPGM 2019
 * @example
 * const scores = importance({ type: 'float32', dims: [64, 3, 3, 3], data }, { criterion: 'l2', axis: 0 }) // dims [64]
 */
export function importance(w: TensorLike | TypedArray, options?: ImportanceOptions): Tensor<Float32Array> {
  return runSync((memory) => score(memory, w, options))
}

/** {@link importance} on another thread. Buffers over 256 KiB are read in place and become untransferable. */
export async function importanceAsync(w: TensorLike | TypedArray, options?: ImportanceOptions): Promise<Tensor<Float32Array>> {
  return runAsync((memory) => score(memory, w, options))
}

function* score(memory: Memory, w: unknown, given: unknown): Routine<Tensor<Float32Array>> {
  const o = checkOptions(given, 'options', ['criterion', 'grad', 'axis', 'block', 'seed', 'out'])
  const criterion = o.criterion === undefined ? 'l1' : oneOf(o.criterion, 'criterion', Object.keys(kCriteria) as Criterion[])
  const x = tensor(w, 'w', ['float32'])
  const grad = gradient(o.grad, criterion, x)
  const { axis: axisGiven, block: blockGiven } = o
  if (axisGiven !== undefined && blockGiven !== undefined)
    throw new WhittleError('ERR_RANGE', 'block', 'block: give axis or block, not both')
  if (o.seed !== undefined && criterion !== 'random') fail('ERR_RANGE', 'seed', `no seed with criterion '${criterion}'`, o.seed)
  const seed = o.seed === undefined ? 0 : integer(o.seed, 'seed', 0)
  const axis = axisGiven === undefined ? undefined : axisWithin(axisGiven, 'axis', x.dims.length)
  if (criterion === 'geometricMedian' && axis === undefined)
    fail('ERR_RANGE', 'axis', "an axis with criterion 'geometricMedian'", axisGiven)
  const block = blockGiven === undefined ? undefined : blockOf(blockGiven, 'block', x.dims, 'w')

  const dims = axis !== undefined ? [x.dims[axis] as number] : block ? [block.rows / block.r, block.cols / block.c] : [...x.dims]
  const count = sizeOf(dims)
  const out = givenOutput(o.out, 'out', 'float32', count, grad ? [x.data, grad] : [x.data])
  const result = memory.result(out, 'out', 'float32', count)
  const data = memory.input(x.data)
  const g = grad ? memory.input(grad) : null
  const norm = kCriteria[criterion]

  if (count > 0) {
    if (criterion === 'random') yield { name: 'selectRandom', args: [seed, count, result.view], parameter: 'out' }
    else if (block)
      yield {
        name: 'selectBlocks',
        args: [norm, block.rows, block.cols, block.r, block.c, data, g, result.view],
        parameter: 'w',
      }
    else if (axis === undefined) yield { name: 'selectScores', args: [norm, 1, 0, count, data, g, result.view], parameter: 'w' }
    else if (criterion === 'geometricMedian')
      yield { name: 'selectMedian', args: [...viewAlong(x.dims, axis), data, result.view], parameter: 'w' }
    else yield { name: 'selectScores', args: [norm, ...viewAlong(x.dims, axis), data, g, result.view], parameter: 'w' }
  }
  return { type: 'float32', dims, data: result.commit() as Float32Array }
}

function gradient(given: unknown, criterion: Criterion, w: Tensor): TypedArray | undefined {
  const needed = criterion === 'sensitivity' || criterion === 'taylor'
  if (!needed && given !== undefined) fail('ERR_RANGE', 'grad', `no grad with criterion '${criterion}'`, given)
  if (!needed) return undefined
  if (given === undefined) fail('ERR_RANGE', 'grad', `a gradient for criterion '${criterion}'`, given)
  const g = tensor(given, 'grad', ['float32'], ArrayBuffer.isView(given) ? [...w.dims] : undefined)
  if (g.dims.length !== w.dims.length || g.dims.some((d, i) => d !== w.dims[i]))
    throw new WhittleError('ERR_SHAPE', 'grad', `grad: expected dims [${w.dims.join(', ')}] as w has, got [${g.dims.join(', ')}]`)
  return g.data
}
