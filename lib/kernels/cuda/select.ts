import { WhittleError } from '../../errors'
import { sizeOf } from '../../tensor'
import { dims as checkDims, fail, integer, oneOf, options as checkOptions } from '../../validate'
import type { DeviceTensor } from '../device'
import { kCriteria, type ImportanceOptions } from '../select/importance'
import { checkMaskOptions, floatBelow, isRuns, kMaskKeys, parsePattern, type Amount, type MaskOptions, type Scope } from '../select/mask'
import { axisWithin, blockOf, kNorms, removed, viewAlong } from '../select/routine'
import { kBins, KeySearch } from '../select/search'
import { missing, runAsync, runSync, type Routine, type Turn } from './call'

/** Options of `importance` for weights on a GPU. With `'random'` the weights say where the scores are made. */
export interface DeviceImportanceOptions extends Omit<ImportanceOptions, 'grad' | 'out'> {
  readonly grad?: DeviceTensor
  readonly out?: DeviceTensor
}

/** Options of `mask` for scores on a GPU. */
export interface DeviceMaskOptions extends Omit<MaskOptions, 'out'> {
  /** One tensor, or one for each of the scores. */
  readonly out?: DeviceTensor | readonly DeviceTensor[]
}

const noNaN = (parameter: string) => (status: number) => {
  if (status === 8) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected no NaN, found at least one`)
}

function* score(turn: Turn, w: unknown, given: unknown): Routine<DeviceTensor> {
  const o = checkOptions(given, 'options', ['criterion', 'grad', 'axis', 'block', 'seed', 'out'])
  const criterion = o.criterion === undefined ? 'l1' : oneOf(o.criterion, 'criterion', Object.keys(kCriteria) as (keyof typeof kCriteria)[])
  const norm = kCriteria[criterion]
  const x = turn.operand(w, 'w', ['float32'])
  const needed = criterion === 'sensitivity' || criterion === 'taylor'
  if (needed !== (o.grad !== undefined)) fail('ERR_RANGE', 'grad', `${needed ? 'a gradient for' : 'no grad with'} criterion '${criterion}'`, o.grad)
  const g = needed ? turn.operandOf(o.grad, 'grad', ['float32'], x.dims) : null
  if (o.axis !== undefined && o.block !== undefined) throw new WhittleError('ERR_RANGE', 'block', 'block: give axis or block, not both')
  if (o.seed !== undefined && criterion !== 'random') fail('ERR_RANGE', 'seed', `no seed with criterion '${criterion}'`, o.seed)
  const seed = o.seed === undefined ? 0 : integer(o.seed, 'seed', 0)
  const axis = o.axis === undefined ? undefined : axisWithin(o.axis, 'axis', x.dims.length)
  if (criterion === 'geometricMedian' && axis === undefined) fail('ERR_RANGE', 'axis', "an axis with criterion 'geometricMedian'", o.axis)
  const block = o.block === undefined ? undefined : blockOf(o.block, 'block', x.dims, 'w')
  const dims = axis !== undefined ? [x.dims[axis] as number] : block ? [block.rows / block.r, block.cols / block.c] : x.dims
  const out = turn.result(o.out, 'out', 'float32', dims)
  if (sizeOf(dims) === 0) return out
  const refused = noNaN('w')
  if (criterion === 'random') yield { name: 'cudaRandom', numbers: [seed, sizeOf(dims)], tensors: [out], parameter: 'out' }
  else if (block) yield { name: 'cudaBlocks', numbers: [norm, block.rows, block.cols, block.r, block.c], tensors: [x, g, out], parameter: 'w', refused }
  else if (criterion === 'geometricMedian')
    yield { name: 'cudaMedian', numbers: viewAlong(x.dims, axis as number), tensors: [x, out], parameter: 'w', refused }
  else
    yield { name: 'cudaScores', numbers: [norm, ...(axis === undefined ? [1, 0, sizeOf(x.dims)] : viewAlong(x.dims, axis))], tensors: [x, g, out], parameter: 'w', refused }
  return out
}

// The longest run that a thread looks at.
const kMostRun = 64

interface Part {
  readonly scores: DeviceTensor
  readonly dims: readonly number[]
  readonly label: string
  readonly out: DeviceTensor
}

/** Scores and where their mask goes. */
interface Choice {
  readonly scores: DeviceTensor
  readonly mask: DeviceTensor
  readonly view: readonly [number, number, number]
  readonly label: string
}

function collect(turn: Turn, given: unknown, dimsGiven: unknown, outGiven: unknown): Part[] {
  const several = Array.isArray(given)
  const list: unknown[] = several ? [...(given as unknown[])] : [given]
  const listOf = (value: unknown, parameter: string): unknown[] => {
    if (value === undefined || !several) return list.map(() => value)
    if (!Array.isArray(value)) fail('ERR_DTYPE', parameter, 'an array with one for each tensor', value)
    if (value.length !== list.length) fail('ERR_SHAPE', parameter, `${list.length} of them, one for each tensor`, value)
    return [...(value as unknown[])]
  }
  const allDims = listOf(dimsGiven, 'dims')
  const outs = listOf(outGiven, 'out')
  const read = list.map((value, i) => {
    const label = several ? `scores[${i}]` : 'scores'
    const scores = turn.operand(value, label, ['float32'])
    return { label, scores, dims: allDims[i] === undefined ? scores.dims : checkDims(allDims[i], several ? `dims[${i}]` : 'dims') }
  })
  return read.map((r, i) => ({ ...r, out: turn.result(outs[i], several ? `out[${i}]` : 'out', 'bool', r.dims) }))
}

function* choose(turn: Turn, given: unknown, optionsGiven: unknown): Routine<DeviceTensor[]> {
  const o = checkOptions(optionsGiven, 'options', kMaskKeys)
  const pattern = parsePattern(o.pattern)
  const { scope, wanted } = checkMaskOptions(o, pattern)
  const parts = collect(turn, given, o.dims, o.out)
  const viewOf = (part: Part, fallback: number): [number, number, number] =>
    part.dims.length === 0 ? [1, 1, 1] : viewAlong(part.dims, axisWithin(o.axis === undefined ? fallback : o.axis, 'axis', part.dims.length))
  if (isRuns(pattern)) {
    const { n, m } = pattern
    for (const part of parts) {
      const [outer, axis, inner] = viewOf(part, -1)
      if (axis % m !== 0)
        throw new WhittleError('ERR_SHAPE', part.label, `${part.label}: pattern ${n}:${m} needs a dimension that ${m} divides, got ${axis} in dims [${part.dims.join(', ')}]`)
      if (m > kMostRun && inner > 1) missing('pattern', `N:M with M above ${kMostRun} along any axis but the last`)
      if (sizeOf(part.dims) === 0) continue
      const tensors = [part.scores, part.out]
      const refused = noNaN(part.label)
      if (m <= kMostRun) yield { name: 'cudaRuns', numbers: [outer, axis, inner, n, m], tensors, parameter: part.label, refused }
      else yield { name: 'cudaBalanced', numbers: [1, (outer * axis) / m, m, n], tensors, parameter: part.label, refused }
    }
  } else if (pattern === 'unstructured') {
    yield* select(parts.map((p) => ({ scores: p.scores, mask: p.out, view: viewOf(p, 0), label: p.label })), wanted, scope)
  } else yield* selectGroups(turn, parts, pattern, viewOf, wanted, scope, o.dims !== undefined)
  return parts.map((p) => p.out)
}

/** Blocks and channels: scores of groups, the choice among them, and the groups painted into the mask. */
function* selectGroups(
  turn: Turn,
  parts: readonly Part[],
  pattern: 'channel' | { readonly block: unknown },
  viewOf: (part: Part, fallback: number) => [number, number, number],
  wanted: Amount,
  scope: Scope | undefined,
  grouped: boolean,
): Routine<void> {
  const groups = parts.map((part) => {
    if (pattern === 'channel') {
      if (part.dims.length === 0) throw new WhittleError('ERR_SHAPE', part.label, `${part.label}: pattern 'channel' needs rank 1 or more, got a scalar`)
      const [outer, axis, inner] = viewOf(part, 0)
      return { part, dims: [axis], name: 'cudaScores' as const, sum: [kNorms.sum, outer, axis, inner], paint: [1, outer, axis, inner] }
    }
    const b = blockOf(pattern.block, 'pattern.block', part.dims, grouped ? 'dims' : part.label)
    const [down, across] = [b.rows / b.r, b.cols / b.c]
    return { part, dims: [down, across], name: 'cudaBlocks' as const, sum: [kNorms.sum, b.rows, b.cols, b.r, b.c], paint: [down, b.r, across, b.c] }
  })
  for (const { part, dims } of groups)
    if (grouped && sizeOf(dims) !== sizeOf(part.scores.dims))
      throw new WhittleError('ERR_SHAPE', part.label, `${part.label}: dims [${part.dims.join(', ')}] have ${sizeOf(dims)} groups of this pattern, got ${sizeOf(part.scores.dims)} scores`)
  const own: DeviceTensor[] = []
  const make = (type: 'float32' | 'bool', dims: readonly number[]): DeviceTensor => {
    const t = turn.make('scores', type, dims)
    own.push(t)
    return t
  }
  const chosen: Choice[] = []
  for (const { part, dims, name, sum } of groups) {
    const count = sizeOf(dims)
    const scores = grouped ? part.scores : make('float32', dims)
    if (!grouped && count > 0) yield { name, numbers: sum, tensors: [part.scores, null, scores], parameter: part.label, refused: noNaN(part.label) }
    chosen.push({ scores, mask: make('bool', dims), view: dims.length === 2 ? [1, dims[0] as number, dims[1] as number] : [1, count, 1], label: part.label })
  }
  yield* select(chosen, wanted, scope)
  for (const [i, { part, paint }] of groups.entries())
    if (sizeOf(part.dims) > 0) yield { name: 'cudaExpand', numbers: paint, tensors: [(chosen[i] as Choice).mask, part.out], parameter: part.label }
  for (const t of own) t.dispose()
}

const above = ({ scores, mask, label }: Choice, threshold: number, equal: number) =>
  ({ name: 'cudaAbove', numbers: [sizeOf(scores.dims), threshold, Math.min(equal, 2 ** 31)], tensors: [scores, mask], parameter: label, refused: noNaN(label) }) as const

function* select(parts: readonly Choice[], wanted: Amount, scope: Scope | undefined): Routine<void> {
  const some = parts.filter((p) => sizeOf(p.scores.dims) > 0)
  if ('threshold' in wanted) {
    for (const part of some) yield above(part, floatBelow(wanted.threshold), wanted.equal)
  } else if (scope === 'balanced') {
    for (const { scores, mask, view, label } of some) {
      const length = view[0] * view[2]
      yield { name: 'cudaBalanced', numbers: [...view, length - removed(wanted.sparsity, length)], tensors: [scores, mask], parameter: label, refused: noNaN(label) }
    }
  } else if (scope === 'global' && some.length > 1) {
    const total = some.reduce((n, p) => n + sizeOf(p.scores.dims), 0)
    const { threshold, equal } = yield* searched(some.map((p) => p.scores), total - removed(wanted.sparsity, total), 'scores')
    for (const [i, part] of some.entries()) yield above(part, threshold, equal[i] as number)
  } else {
    for (const { scores, mask, label } of some) {
      const total = sizeOf(scores.dims)
      yield { name: 'cudaLargest', numbers: [total, total - removed(wanted.sparsity, total)], tensors: [scores, mask], parameter: label, refused: noNaN(label) }
    }
  }
}

function* counted(scores: DeviceTensor, search: KeySearch, parameter: string): Routine<Float64Array> {
  const result = new Float64Array(kBins)
  const n = sizeOf(scores.dims)
  if (n > 0) yield { name: 'cudaCount', numbers: [n, search.base, search.shift], tensors: [scores], result, parameter, refused: noNaN(parameter) }
  return result
}

/** The rank-th largest of all tensors together, and how many of each tensor's elements that equal it are among them. */
function* searched(tensors: readonly DeviceTensor[], rank: number, parameter: string): Routine<{ threshold: number; equal: number[] }> {
  if (rank === 0) return { threshold: Infinity, equal: tensors.map(() => 0) }
  const search = new KeySearch(rank)
  for (;;) {
    const all: Float64Array[] = []
    for (const t of tensors) all.push(yield* counted(t, search, parameter))
    if (search.next(all)) return { threshold: search.threshold, equal: search.equal(all) }
  }
}

function* kth(turn: Turn, scores: unknown, k: unknown): Routine<number> {
  const several = Array.isArray(scores)
  const list = (several ? (scores as unknown[]) : [scores]).map((s, i) => turn.operand(s, several ? `scores[${i}]` : 'scores', ['float32']))
  const total = list.reduce((n, s) => n + sizeOf(s.dims), 0)
  if (total === 0) fail('ERR_SHAPE', 'scores', 'at least one score', scores)
  return (yield* searched(list, integer(k, 'k', 1, total), 'scores')).threshold
}

function* countOf(turn: Turn, value: unknown, search: KeySearch): Routine<Float64Array> {
  return yield* counted(turn.operand(value, 'scores', ['float32']), search, 'scores')
}

/** @internal Counts of one pass of a search. */
export const countsOf = (scores: DeviceTensor, search: KeySearch): Float64Array => runSync((turn) => countOf(turn, scores, search))

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
 * `importance` on a GPU: scores of elements and random ones have the CPU's bits, sums over groups and blocks its bound.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere
 */
export const importance = (w: DeviceTensor, options?: DeviceImportanceOptions): DeviceTensor => runSync((turn) => score(turn, w, options))

/** {@link importance} off the JavaScript thread. */
export const importanceAsync = async (w: DeviceTensor, options?: DeviceImportanceOptions): Promise<DeviceTensor> =>
  runAsync((turn) => score(turn, w, options))

/**
 * `mask` on a GPU: the CPU's bits for the same scores (where it adds them up, for channels and blocks, within a rounding).
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere, and for N:M with M above 64 along any axis but the last
 */
export function mask(scores: DeviceTensor, options: DeviceMaskOptions): DeviceTensor
export function mask(scores: readonly DeviceTensor[], options: DeviceMaskOptions): DeviceTensor[]
export function mask(scores: DeviceTensor | readonly DeviceTensor[], options: DeviceMaskOptions): DeviceTensor | DeviceTensor[] {
  const masks = runSync((turn) => choose(turn, scores, options))
  return Array.isArray(scores) ? masks : (masks[0] as DeviceTensor)
}

/** {@link mask} off the JavaScript thread. */
export function maskAsync(scores: DeviceTensor, options: DeviceMaskOptions): Promise<DeviceTensor>
export function maskAsync(scores: readonly DeviceTensor[], options: DeviceMaskOptions): Promise<DeviceTensor[]>
export async function maskAsync(scores: DeviceTensor | readonly DeviceTensor[], options: DeviceMaskOptions): Promise<DeviceTensor | DeviceTensor[]> {
  const masks = await runAsync((turn) => choose(turn, scores, options))
  return Array.isArray(scores) ? masks : (masks[0] as DeviceTensor)
}

/** `kthLargest` on a GPU, of one tensor or several taken together. */
export const kthLargest = (scores: DeviceTensor | readonly DeviceTensor[], k: number): number => runSync((turn) => kth(turn, scores, k))

/** {@link kthLargest} off the JavaScript thread. */
export const kthLargestAsync = async (scores: DeviceTensor | readonly DeviceTensor[], k: number): Promise<number> =>
  runAsync((turn) => kth(turn, scores, k))

/** `applyMask` on a GPU; `out` may be `w`. */
export const applyMask = (w: DeviceTensor, mask: DeviceTensor, options?: { readonly out?: DeviceTensor }): DeviceTensor =>
  runSync((turn) => apply(turn, w, mask, options))

/** {@link applyMask} off the JavaScript thread. */
export const applyMaskAsync = async (w: DeviceTensor, mask: DeviceTensor, options?: { readonly out?: DeviceTensor }): Promise<DeviceTensor> =>
  runAsync((turn) => apply(turn, w, mask, options))
