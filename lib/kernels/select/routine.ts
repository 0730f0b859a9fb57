import { WhittleError } from '../../errors'
import { check, native } from '../../native'
import { pin, pinOutput, type PinnedOutput } from '../../async'
import { allocate, type DataType, type TypedArray } from '../../tensor'
import { output } from '../../validate'

type List = readonly (TypedArray | null)[]

declare module '../../native' {
  // Sizes are those of a view [outer, axis, inner]; core/select.h says what each call does.
  interface NativeBinding {
    selectScores(norm: number, outer: number, axis: number, inner: number, x: TypedArray, g: TypedArray | null, out: TypedArray): number
    selectBlocks(norm: number, rows: number, cols: number, r: number, c: number, x: TypedArray, g: TypedArray | null, out: TypedArray): number
    selectMedian(outer: number, axis: number, inner: number, x: TypedArray, out: TypedArray): number
    selectRandom(seed: number, n: number, out: TypedArray): number
    selectLargest(keep: number, threshold: TypedArray, scores: List, masks: List | null): number
    selectBalanced(outer: number, axis: number, inner: number, keep: number, scores: TypedArray, mask: TypedArray): number
    selectAbove(n: number, threshold: number, equal: number, scores: TypedArray, mask: TypedArray): number
    selectRuns(outer: number, axis: number, inner: number, keep: number, m: number, scores: TypedArray, mask: TypedArray): number
    selectExpand(groups: number, repeat: number, count: number, width: number, flags: TypedArray, mask: TypedArray): number
    selectApply(n: number, x: TypedArray, mask: TypedArray, out: TypedArray): number
    selectHistogram(n: number, base: number, shift: number, x: TypedArray, counts: TypedArray): number
  }
}

/** One native call: its name, its arguments, and the parameter to name if it refuses. */
export interface NativeCall {
  readonly name: string
  readonly args: readonly unknown[]
  readonly parameter: string
}

/**
 * The steps of an operation, written once for the synchronous function and its `…Async` twin: each native call is
 * yielded and made by {@link runSync} or {@link runAsync}. All inputs must be taken through {@link Memory} before the
 * first yield, since the caller's code runs on between two calls.
 */
export type Routine<T> = Generator<NativeCall, T, void>

/** How a routine takes the caller's memory: as it is, or made safe to use while JavaScript runs on. */
export class Memory {
  constructor(private readonly asynchronous: boolean) {}

  input<T extends TypedArray>(view: T): T {
    return this.asynchronous ? pin(view) : view
  }

  /** The caller's `out` (already checked) or fresh memory. */
  result(out: TypedArray | undefined, parameter: string, type: DataType, count: number): PinnedOutput<TypedArray> {
    const view = out ?? allocate(type, count, parameter)
    if (!this.asynchronous) return { view, commit: () => view }
    return pinOutput(view, parameter, out === undefined)
  }
}

/** The caller's `out`, or undefined; must not overlap `inputs`. */
export function givenOutput(
  out: unknown,
  parameter: string,
  type: DataType,
  count: number,
  inputs: readonly ArrayBufferView[],
): TypedArray | undefined {
  return out === undefined ? undefined : output(out, parameter, type, count, inputs)
}

const kNan = 8

function verify(status: number, parameter: string): void {
  if (status === kNan) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected no NaN, found at least one`)
  check(status, parameter)
}

export function runSync<T>(start: (memory: Memory) => Routine<T>): T {
  const routine = start(new Memory(false))
  for (;;) {
    const step = routine.next()
    if (step.done) return step.value
    const { name, args, parameter } = step.value
    const calls = native() as unknown as Record<string, (...args: readonly unknown[]) => number>
    verify((calls[name] as (...args: readonly unknown[]) => number)(...args), parameter)
  }
}

export async function runAsync<T>(start: (memory: Memory) => Routine<T>): Promise<T> {
  const routine = start(new Memory(true))
  for (;;) {
    const step = routine.next()
    if (step.done) return step.value
    const { name, args, parameter } = step.value
    const calls = native() as unknown as Record<string, (...args: readonly unknown[]) => Promise<number>>
    verify(await (calls[`${name}Async`] as (...args: readonly unknown[]) => Promise<number>)(...args), parameter)
  }
}

/** A tensor seen as [outer, axis, inner]; `axis` is within the rank. */
export function viewAlong(dims: readonly number[], axis: number): [outer: number, axis: number, inner: number] {
  const product = (part: readonly number[]) => part.reduce((a, b) => a * b, 1)
  return [product(dims.slice(0, axis)), dims[axis] as number, product(dims.slice(axis + 1))]
}

/** round-half-even(ratio · n), the number of elements that a ratio removes. */
export function removed(ratio: number, n: number): number {
  const exact = ratio * n
  const floor = Math.floor(exact)
  const rest = exact - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor
}

/** An axis within the rank, from 0; negative ones count from the end. */
export function axisWithin(value: unknown, parameter: string, rank: number): number {
  if (typeof value !== 'number')
    throw new WhittleError('ERR_DTYPE', parameter, `${parameter}: expected an integer, got ${typeof value}`)
  if (!Number.isInteger(value) || value < -rank || value >= rank)
    throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected an integer from ${-rank} to ${rank - 1} (rank ${rank}), got ${value}`)
  return value < 0 ? value + rank : value
}

/** `[r, c]`, both at least 1 and dividing the matrix that `dims` make: dims[0] rows, the rest columns. */
export function blockOf(value: unknown, parameter: string, dims: readonly number[], of: string): Block {
  if (!Array.isArray(value) || value.length !== 2 || !value.every((v) => typeof v === 'number'))
    throw new WhittleError('ERR_DTYPE', parameter, `${parameter}: expected two integers [rows, columns]`)
  const [r, c] = value as [number, number]
  if (!Number.isInteger(r) || !Number.isInteger(c) || r < 1 || c < 1)
    throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected two integers >= 1, got [${r}, ${c}]`)
  if (dims.length < 2)
    throw new WhittleError('ERR_SHAPE', of, `${of}: blocks need rank 2 or more, got dims [${dims.join(', ')}]`)
  const [, rows, cols] = viewAlong(dims, 0)
  if (rows % r !== 0 || cols % c !== 0)
    throw new WhittleError('ERR_SHAPE', of, `${of}: blocks of [${r}, ${c}] do not divide its ${rows} rows of ${cols} values`)
  return { rows, cols, r, c }
}

/** A matrix and the blocks that divide it. */
export interface Block {
  readonly rows: number
  readonly cols: number
  readonly r: number
  readonly c: number
}

/** `SelectNorm` of core/select.h. */
export const kNorms = { sum: 0, l1: 1, l2: 2, square: 3, linf: 4, sensitivity: 5, taylor: 6 } as const
