import { WhittleError } from '../../errors'
import { sizeOf } from '../../tensor'
import { fail, finite, oneOf, options as checkOptions } from '../../validate'
import type { DeviceTensor } from '../device'
import { kCriteria, type ImportanceOptions } from '../select/importance'
import { parsePattern, type MaskOptions } from '../select/mask'
import { axisWithin, removed, viewAlong } from '../select/routine'
import { missing, runAsync, runSync, type Routine, type Turn } from './call'

/** Options of `importance` for weights on a GPU. */
export interface DeviceImportanceOptions extends Omit<ImportanceOptions, 'grad' | 'out' | 'block' | 'seed'> {
  readonly grad?: DeviceTensor
  readonly out?: DeviceTensor
}

/** Options of `mask` for scores on a GPU: `sparsity`, or a pattern N:M. */
export interface DeviceMaskOptions extends Pick<MaskOptions, 'sparsity' | 'axis'> {
  readonly pattern?: 'unstructured' | `${number}:${number}`
  readonly out?: DeviceTensor
}

const noNaN = (parameter: string) => (status: number) => {
  if (status === 8) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected no NaN, found at least one`)
}

function* score(turn: Turn, w: unknown, given: unknown): Routine<DeviceTensor> {
  const o = checkOptions(given, 'options', ['criterion', 'grad', 'axis', 'block', 'seed', 'out'])
  const criterion = o.criterion === undefined ? 'l1' : oneOf(o.criterion, 'criterion', Object.keys(kCriteria) as (keyof typeof kCriteria)[])
  const norm = kCriteria[criterion]
  if (norm < 0) missing('criterion', `'${criterion}'`)
  if (o.block !== undefined) missing('block', 'a score for each block')
  if (o.seed !== undefined) fail('ERR_RANGE', 'seed', `no seed with criterion '${criterion}'`, o.seed)
  const x = turn.operand(w, 'w', ['float32'])
  const needed = criterion === 'sensitivity' || criterion === 'taylor'
  if (needed !== (o.grad !== undefined)) fail('ERR_RANGE', 'grad', `${needed ? 'a gradient for' : 'no grad with'} criterion '${criterion}'`, o.grad)
  const g = needed ? turn.operandOf(o.grad, 'grad', ['float32'], x.dims) : null
  const axis = o.axis === undefined ? undefined : axisWithin(o.axis, 'axis', x.dims.length)
  const dims = axis === undefined ? x.dims : [x.dims[axis] as number]
  const out = turn.result(o.out, 'out', 'float32', dims)
  if (sizeOf(dims) > 0)
    yield {
      name: 'cudaScores',
      numbers: [norm, ...(axis === undefined ? [1, 0, sizeOf(x.dims)] : viewAlong(x.dims, axis))],
      tensors: [x, g, out],
      parameter: 'w',
      refused: noNaN('w'),
    }
  return out
}

// The longest run that a thread looks at.
const kMostRun = 64

function* choose(turn: Turn, given: unknown, optionsGiven: unknown): Routine<DeviceTensor> {
  const o = checkOptions(optionsGiven, 'options', ['sparsity', 'threshold', 'equal', 'pattern', 'scope', 'axis', 'dims', 'out'])
  const pattern = parsePattern(o.pattern)
  if (Array.isArray(given)) missing('scores', 'a mask over several tensors')
  if (pattern === 'channel' || (typeof pattern === 'object' && 'block' in pattern)) missing('pattern', "a pattern but 'unstructured' and N:M")
  for (const name of ['threshold', 'equal', 'scope', 'dims'] as const) if (o[name] !== undefined) missing(name, `mask with ${name}`)
  const scores = turn.operand(given, 'scores', ['float32'])
  const { dims } = scores
  if (typeof pattern === 'object') {
    const { n, m } = pattern
    if (m > kMostRun) missing('pattern', `N:M with M above ${kMostRun}`)
    if (o.sparsity !== undefined) fail('ERR_RANGE', 'sparsity', 'none with pattern N:M, which says how many stay', o.sparsity)
    const [outer, axis, inner] = dims.length === 0 ? [1, 1, 1] : viewAlong(dims, axisWithin(o.axis === undefined ? -1 : o.axis, 'axis', dims.length))
    if (axis % m !== 0)
      throw new WhittleError('ERR_SHAPE', 'scores', `scores: pattern ${n}:${m} needs a dimension that ${m} divides, got ${axis} in dims [${dims.join(', ')}]`)
    const out = turn.result(o.out, 'out', 'bool', dims)
    if (sizeOf(dims) > 0)
      yield { name: 'cudaRuns', numbers: [outer, axis, inner, n, m], tensors: [scores, out], parameter: 'scores', refused: noNaN('scores') }
    return out
  }
  if (o.axis !== undefined) fail('ERR_RANGE', 'axis', 'no axis but with N:M', o.axis)
  if (o.sparsity === undefined) throw new WhittleError('ERR_RANGE', 'sparsity', 'sparsity: expected the part to remove, got nothing')
  const total = sizeOf(dims)
  const keep = total - removed(finite(o.sparsity, 'sparsity', 0, 1), total)
  const out = turn.result(o.out, 'out', 'bool', dims)
  if (total > 0) yield { name: 'cudaLargest', numbers: [total, keep], tensors: [scores, out], parameter: 'scores', refused: noNaN('scores') }
  return out
}

function* apply(turn: Turn, w: unknown, given: unknown, optionsGiven: unknown): Routine<DeviceTensor> {
  const o = checkOptions(optionsGiven, 'options', ['out'])
  const x = turn.operand(w, 'w', ['float32'])
  const keep = turn.operandOf(given, 'mask', ['bool'], x.dims)
  const out = turn.result(o.out, 'out', 'float32', x.dims, x)
  const n = sizeOf(x.dims)
  if (n > 0) yield { name: 'cudaApply', numbers: [n], tensors: [x, keep, out], parameter: 'w' }
  return out
}

/**
 * `importance` on a GPU: scores of elements have the CPU's bits, sums over groups its bound.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere, and for blocks, `'geometricMedian'` and `'random'`
 */
export const importance = (w: DeviceTensor, options?: DeviceImportanceOptions): DeviceTensor => runSync((turn) => score(turn, w, options))

/** {@link importance} off the JavaScript thread. */
export const importanceAsync = async (w: DeviceTensor, options?: DeviceImportanceOptions): Promise<DeviceTensor> =>
  runAsync((turn) => score(turn, w, options))

/**
 * `mask` on a GPU, for one tensor: the CPU's bits.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for what runs on the CPU alone: several tensors, channels, blocks, thresholds, scopes
 */
export const mask = (scores: DeviceTensor, options: DeviceMaskOptions): DeviceTensor => runSync((turn) => choose(turn, scores, options))

/** {@link mask} off the JavaScript thread. */
export const maskAsync = async (scores: DeviceTensor, options: DeviceMaskOptions): Promise<DeviceTensor> =>
  runAsync((turn) => choose(turn, scores, options))

/** `applyMask` on a GPU; `out` may be `w`. */
export const applyMask = (w: DeviceTensor, mask: DeviceTensor, options?: { readonly out?: DeviceTensor }): DeviceTensor =>
  runSync((turn) => apply(turn, w, mask, options))

/** {@link applyMask} off the JavaScript thread. */
export const applyMaskAsync = async (w: DeviceTensor, mask: DeviceTensor, options?: { readonly out?: DeviceTensor }): Promise<DeviceTensor> =>
  runAsync((turn) => apply(turn, w, mask, options))
