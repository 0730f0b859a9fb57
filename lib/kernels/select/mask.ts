import { WhittleError } from '../../errors'
import { sizeOf, typedArrayName, type Tensor, type TensorLike, type TypedArray } from '../../tensor'
import { dims as checkDims, fail, finite, integer, oneOf, options as checkOptions, tensor } from '../../validate'
import {
  axisWithin,
  blockOf,
  givenOutput,
  kNorms,
  removed,
  runAsync,
  runSync,
  viewAlong,
  type Memory,
  type Routine,
} from './routine'

/** What is kept or removed together; see {@link mask}. */
export type Pattern = 'unstructured' | 'channel' | `${number}:${number}` | { readonly block: readonly [number, number] }

/** Among which elements a ratio is kept; see {@link mask}. */
export type Scope = 'global' | 'uniform' | 'balanced'

/** Options of {@link mask}. */
export interface MaskOptions {
  /** Part to remove, 0 to 1: of n elements (or groups) round-half-even(sparsity·n) go. Not with `threshold` or N:M. */
  readonly sparsity?: number
  /** Keep what scores above this number. Not with `sparsity`, N:M or scope `'balanced'`. */
  readonly threshold?: number
  /** With `threshold` and `'unstructured'`: how many of the elements equal to it stay as well, the first ones; default 0. */
  readonly equal?: number
  /** Default `'unstructured'`. */
  readonly pattern?: Pattern
  /** Default `'uniform'`; N:M is balanced by itself. */
  readonly scope?: Scope
  /** Of `'channel'` (default 0), N:M (default −1, the last) and scope `'balanced'` (default 0). Negative counts from the end. */
  readonly axis?: number
  /**
   * Dims of the masks where `scores` hold one score for each channel or block instead of one for each element; one
   * array for a tensor, an array of them for several.
   */
  readonly dims?: readonly number[] | readonly (readonly number[])[]
  /** Memory for the masks, one Uint8Array a tensor. */
  readonly out?: Uint8Array | readonly Uint8Array[]
}

type Scores = TensorLike | TypedArray

/**
 * Chooses what stays: 1 where a weight is kept, 0 where it goes. The least important go first; of equal scores the one
 * of higher index (in a later tensor, for scope `'global'`) goes first, so that every mask is unique.
 *
 * Patterns: `'unstructured'` single elements; `'2:4'` (any N:M, 1 ≤ N ≤ M) keeps the N best of each run of M along
 * `axis`; `{ block: [r, c] }` blocks of the matrix of `dims[0]` rows and the rest as columns; `'channel'` all elements
 * with one index of `axis`. The score of a block or channel is the sum of its elements' scores, or comes from
 * {@link importance} with the same `axis` or `block` if `dims` is given.
 *
 * Scopes: `'uniform'` removes the same ratio of each tensor; `'global'` finds one threshold over all tensors;
 * `'balanced'` removes the same number in each index of `axis` (blocks: in each row of blocks).
 *
 * @param scores float32; one tensor, or an array of them for an array of masks. `±Infinity` is in order, −0 equals 0.
 * @returns bool, dims of the scores, or `dims`
 * @throws {WhittleError} `ERR_RANGE` for a NaN among the scores, sparsity outside [0, 1], a pattern such as `'5:4'`,
 * options that exclude each other (both or neither of sparsity and threshold); `ERR_SHAPE` where M or a block does not
 * divide the tensor, or `dims` do not fit; `ERR_DTYPE` for other types; `ERR_HANDLE` for a detached buffer. After an
 * error the contents of `out` are unspecified.
 * @see Han 2015; Yao 2019 (balanced); Mishra 2021 (N:M)
 * @example
 * const kept = mask(importance(w), { sparsity: 0.8 })
 * const twoOfFour = mask(importance(w), { pattern: '2:4' })
 * const filters = mask(importance(w, { criterion: 'l2', axis: 0 }), { sparsity: 0.5, pattern: 'channel', dims: w.dims })
 */
export function mask(scores: Scores, options: MaskOptions): Tensor<Uint8Array>
export function mask(scores: readonly Scores[], options: MaskOptions): Tensor<Uint8Array>[]
export function mask(scores: Scores | readonly Scores[], options: MaskOptions): Tensor<Uint8Array> | Tensor<Uint8Array>[]
export function mask(scores: Scores | readonly Scores[], options: MaskOptions): Tensor<Uint8Array> | Tensor<Uint8Array>[] {
  const masks = runSync((memory) => choose(memory, scores, options))
  return Array.isArray(scores) ? masks : (masks[0] as Tensor<Uint8Array>)
}

/** {@link mask} on another thread. Buffers over 256 KiB are used in place and become untransferable. */
export function maskAsync(scores: Scores, options: MaskOptions): Promise<Tensor<Uint8Array>>
export function maskAsync(scores: readonly Scores[], options: MaskOptions): Promise<Tensor<Uint8Array>[]>
export async function maskAsync(
  scores: Scores | readonly Scores[],
  options: MaskOptions,
): Promise<Tensor<Uint8Array> | Tensor<Uint8Array>[]> {
  const masks = await runAsync((memory) => choose(memory, scores, options))
  return Array.isArray(scores) ? masks : (masks[0] as Tensor<Uint8Array>)
}

/** @internal */
export interface Runs {
  readonly n: number
  readonly m: number
}

/** @internal */
export type Parsed = 'unstructured' | 'channel' | Runs | { readonly block: unknown }

/** @internal */
export function isRuns(pattern: Parsed): pattern is Runs {
  return typeof pattern === 'object' && 'n' in pattern
}

/** @internal */
export function parsePattern(value: unknown): Parsed {
  if (value === undefined) return 'unstructured'
  if (value !== null && typeof value === 'object') return { block: checkOptions(value, 'pattern', ['block']).block }
  if (value === 'unstructured' || value === 'channel') return value
  const form = typeof value === 'string' ? /^(\d{1,5}):(\d{1,5})$/.exec(value) : null
  const n = Number(form?.[1])
  const m = Number(form?.[2])
  if (!form || n < 1 || n > m || m > 65536)
    fail('ERR_RANGE', 'pattern', "'unstructured', 'channel', { block: [r, c] } or 'N:M' with 1 <= N <= M <= 65536", value)
  return { n, m }
}

/** What one tensor is made of: its groups' view and the mask that comes of them. */
interface Part {
  readonly scores: Tensor
  readonly data: TypedArray
  readonly dims: readonly number[]
  readonly label: string
  readonly result: { view: TypedArray; commit(): TypedArray }
}

/** @internal */
export const kMaskKeys = ['sparsity', 'threshold', 'equal', 'pattern', 'scope', 'axis', 'dims', 'out'] as const

/** @internal Checks what does not depend on tensors. */
export function checkMaskOptions(
  o: Partial<Record<(typeof kMaskKeys)[number], unknown>>,
  pattern: Parsed,
): { scope: Scope | undefined; wanted: Amount } {
  const runs = isRuns(pattern)
  const scope = o.scope === undefined ? undefined : oneOf(o.scope, 'scope', ['global', 'uniform', 'balanced'])
  const wanted = amount(o, runs, pattern === 'unstructured', scope)
  if (pattern === 'channel' && scope === 'balanced') fail('ERR_RANGE', 'scope', "'global' or 'uniform' with pattern 'channel'", scope)
  if (runs && scope !== undefined && scope !== 'balanced') fail('ERR_RANGE', 'scope', 'no scope with pattern N:M', scope)
  if (o.dims !== undefined && (runs || pattern === 'unstructured'))
    fail('ERR_RANGE', 'dims', "no dims but with pattern 'channel' or block", o.dims)
  const takesAxis = runs || pattern === 'channel' || (pattern === 'unstructured' && scope === 'balanced')
  if (o.axis !== undefined && !takesAxis) fail('ERR_RANGE', 'axis', "no axis but with 'channel', N:M or scope 'balanced'", o.axis)
  return { scope, wanted }
}

function* choose(memory: Memory, given: unknown, optionsGiven: unknown): Routine<Tensor<Uint8Array>[]> {
  const o = checkOptions(optionsGiven, 'options', kMaskKeys)
  const pattern = parsePattern(o.pattern)
  const { scope, wanted } = checkMaskOptions(o, pattern)
  const parts = collect(memory, given, o.dims, o.out)
  const axisOf = (part: Part, fallback: number) =>
    part.dims.length === 0 ? 0 : axisWithin(o.axis === undefined ? fallback : o.axis, 'axis', part.dims.length)
  const viewOf = (part: Part, fallback: number): [number, number, number] =>
    part.dims.length === 0 ? [1, 1, 1] : viewAlong(part.dims, axisOf(part, fallback))

  if (isRuns(pattern)) {
    const { n, m } = pattern
    for (const part of parts) {
      const [outer, axis, inner] = viewOf(part, -1)
      if (axis % m !== 0)
        throw new WhittleError(
          'ERR_SHAPE',
          part.label,
          `${part.label}: pattern ${n}:${m} needs a dimension that ${m} divides, got ${axis} in dims [${part.dims.join(', ')}]`,
        )
      yield {
        name: 'selectRuns',
        args: [outer, axis, inner, n, m, part.data, part.result.view],
        parameter: part.label,
      }
    }
  } else if (pattern === 'unstructured') {
    yield* select(
      parts.map((p) => ({ scores: p.data, mask: p.result.view, view: viewOf(p, 0), label: p.label })),
      wanted,
      scope,
    )
  } else {
    yield* selectGroups(parts, pattern, axisOf, wanted, scope, o.dims !== undefined)
  }
  return parts.map((p) => ({ type: 'bool', dims: [...p.dims], data: p.result.commit() as Uint8Array }))
}

/** Blocks and channels: scores of groups, the choice among them, and the groups painted into the mask. */
function* selectGroups(
  parts: readonly Part[],
  pattern: 'channel' | { readonly block: unknown },
  axisOf: (part: Part, fallback: number) => number,
  wanted: Amount,
  scope: Scope | undefined,
  grouped: boolean,
): Routine<void> {
  const groups = parts.map((part) => {
    if (pattern === 'channel') {
      if (part.dims.length === 0)
        throw new WhittleError('ERR_SHAPE', part.label, `${part.label}: pattern 'channel' needs rank 1 or more, got a scalar`)
      const [outer, axis, inner] = viewAlong(part.dims, axisOf(part, 0))
      const sum = { name: 'selectScores', args: [kNorms.sum, outer, axis, inner] }
      return { part, dims: [axis], sum, paint: [1, outer, axis, inner] }
    }
    const b = blockOf(pattern.block, 'pattern.block', part.dims, grouped ? 'dims' : part.label)
    const down = b.rows / b.r
    const across = b.cols / b.c
    const sum = { name: 'selectBlocks', args: [kNorms.sum, b.rows, b.cols, b.r, b.c] }
    return { part, dims: [down, across], sum, paint: [down, b.r, across, b.c] }
  })
  for (const { part, dims } of groups)
    if (grouped && sizeOf(dims) !== part.scores.data.length)
      throw new WhittleError(
        'ERR_SHAPE',
        part.label,
        `${part.label}: dims [${part.dims.join(', ')}] have ${sizeOf(dims)} groups of this pattern, got ${part.scores.data.length} scores`,
      )
  const chosen: Choice[] = []
  for (const { part, dims, sum } of groups) {
    const count = sizeOf(dims)
    let scores = part.data
    if (!grouped) {
      scores = new Float32Array(count)
      if (count > 0) yield { name: sum.name, args: [...sum.args, part.data, null, scores], parameter: part.label }
    }
    const view: [number, number, number] = dims.length === 2 ? [1, dims[0] as number, dims[1] as number] : [1, count, 1]
    chosen.push({ scores, mask: new Uint8Array(count), view, label: part.label })
  }
  yield* select(chosen, wanted, scope)
  for (const [i, { part, paint }] of groups.entries())
    if (part.result.view.length > 0)
      yield { name: 'selectExpand', args: [...paint, (chosen[i] as Choice).mask, part.result.view], parameter: part.label }
}

interface Choice {
  readonly scores: TypedArray
  readonly mask: TypedArray
  readonly view: readonly [number, number, number]
  readonly label: string
}

/** @internal */
export type Amount = { readonly sparsity: number } | { readonly threshold: number; readonly equal: number }

function* select(parts: readonly Choice[], wanted: Amount, scope: Scope | undefined): Routine<void> {
  if ('threshold' in wanted) {
    const threshold = floatBelow(wanted.threshold)
    for (const { scores, mask, label } of parts)
      yield { name: 'selectAbove', args: [scores.length, threshold, wanted.equal, scores, mask], parameter: label }
  } else if (scope === 'balanced') {
    for (const { scores, mask, label, view } of parts) {
      const length = view[0] * view[2]
      const keep = length - removed(wanted.sparsity, length)
      yield { name: 'selectBalanced', args: [...view, keep, scores, mask], parameter: label }
    }
  } else {
    const together = scope === 'global' ? [parts] : parts.map((p) => [p])
    for (const group of together) {
      const total = group.reduce((n, p) => n + p.scores.length, 0)
      const keep = total - removed(wanted.sparsity, total)
      yield {
        name: 'selectLargest',
        args: [keep, new Float32Array(1), group.map((p) => p.scores), group.map((p) => p.mask)],
        parameter: group.length === 1 ? (group[0] as Choice).label : 'scores',
      }
    }
  }
}

function amount(o: Partial<Record<string, unknown>>, runs: boolean, single: boolean, scope: Scope | undefined): Amount {
  const { sparsity, threshold, equal } = o
  if (runs) {
    if (sparsity !== undefined) fail('ERR_RANGE', 'sparsity', 'none with pattern N:M, which says how many stay', sparsity)
    if (threshold !== undefined) fail('ERR_RANGE', 'threshold', 'none with pattern N:M, which says how many stay', threshold)
  } else if ((sparsity === undefined) === (threshold === undefined)) {
    const got = sparsity === undefined ? 'neither' : 'both'
    throw new WhittleError('ERR_RANGE', 'sparsity', `sparsity: expected exactly one of sparsity and threshold, got ${got}`)
  }
  if (equal !== undefined && (threshold === undefined || !single))
    fail('ERR_RANGE', 'equal', "no equal but with threshold and pattern 'unstructured'", equal)
  if (threshold === undefined) return { sparsity: runs ? 0 : finite(sparsity, 'sparsity', 0, 1) }
  if (scope === 'balanced') fail('ERR_RANGE', 'threshold', "sparsity with scope 'balanced'", threshold)
  if (typeof threshold !== 'number') fail('ERR_DTYPE', 'threshold', 'a number', threshold)
  if (Number.isNaN(threshold)) fail('ERR_RANGE', 'threshold', 'a number', threshold)
  return { threshold, equal: equal === undefined ? 0 : integer(equal, 'equal', 0) }
}

/** @internal The largest float32 that is not above x: a float32 is greater than it exactly if it is greater than x. */
export function floatBelow(x: number): number {
  const f = Math.fround(x)
  if (!(f > x)) return f
  const bits = new Int32Array(Float32Array.of(f).buffer)
  if (f === 0) return -(2 ** -149)
  bits[0] = (bits[0] as number) + (f > 0 ? -1 : 1)
  return new Float32Array(bits.buffer)[0] as number
}

function collect(memory: Memory, given: unknown, dimsGiven: unknown, outGiven: unknown): Part[] {
  const several = Array.isArray(given)
  const list: unknown[] = several ? [...given] : [given]
  const listOf = (value: unknown, parameter: string): unknown[] => {
    if (value === undefined || !several) return list.map(() => value)
    if (!Array.isArray(value) || typedArrayName(value)) fail('ERR_DTYPE', parameter, 'an array with one for each tensor', value)
    if (value.length !== list.length) fail('ERR_SHAPE', parameter, `${list.length} of them, one for each tensor`, value)
    return [...value]
  }
  const allDims = listOf(dimsGiven, 'dims')
  const outs = listOf(outGiven, 'out')
  const read = list.map((value, i) => {
    const label = several ? `scores[${i}]` : 'scores'
    const scores = tensor(value, label, ['float32'])
    const dims = allDims[i] === undefined ? scores.dims : checkDims(allDims[i], several ? `dims[${i}]` : 'dims')
    return { label, scores, dims }
  })
  const inputs: ArrayBufferView[] = read.map((r) => r.scores.data)
  const mine = read.map((r, i) => {
    const out = givenOutput(outs[i], several ? `out[${i}]` : 'out', 'bool', sizeOf(r.dims), inputs)
    if (out) inputs.push(out)
    return out
  })
  return read.map((r, i) => {
    const parameter = several ? `out[${i}]` : 'out'
    return {
      ...r,
      data: memory.input(r.scores.data),
      result: memory.result(mine[i], parameter, 'bool', sizeOf(r.dims)),
    }
  })
}
