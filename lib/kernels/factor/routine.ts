import { WhittleError } from '../../errors'
import { check, native } from '../../native'
import { type Tensor, type TypedArray } from '../../tensor'
import { fail, integer, tensor } from '../../validate'
import { Memory } from '../select/routine'

export { Memory }

/** @internal One native call; `refused` may throw a better error for a status than the general one. */
export interface NativeCall {
  readonly name: string
  readonly args: readonly unknown[]
  readonly parameter: string
  readonly refused?: (status: number) => void
}

/**
 * @internal The steps of an operation, written once for the synchronous function and its `…Async` twin. All inputs are
 * taken through {@link Memory} before the first yield, since the caller's code runs on between two calls.
 */
export type Routine<T> = Generator<NativeCall, T, void>

function verify(status: number, call: NativeCall): void {
  if (status !== 0) call.refused?.(status)
  check(status, call.parameter)
}

/** @internal */
export function runSync<T>(start: (memory: Memory) => Routine<T>): T {
  const routine = start(new Memory(false))
  for (;;) {
    const step = routine.next()
    if (step.done) return step.value
    const calls = native() as unknown as Record<string, (...args: readonly unknown[]) => number>
    verify((calls[step.value.name] as (...args: readonly unknown[]) => number)(...step.value.args), step.value)
  }
}

/** @internal */
export async function runAsync<T>(start: (memory: Memory) => Routine<T>): Promise<T> {
  const routine = start(new Memory(true))
  for (;;) {
    const step = routine.next()
    if (step.done) return step.value
    const calls = native() as unknown as Record<string, (...args: readonly unknown[]) => Promise<number>>
    verify(await (calls[`${step.value.name}Async`] as (...args: readonly unknown[]) => Promise<number>)(...step.value.args), step.value)
  }
}

/** `WhittleStatus` values that routines explain better than the general table. */
export const kRange = 3
export const kNonFinite = 8

/** @internal Names the first element of `data` that is not finite; answers if there is none. */
export function refuseNonFinite(parameter: string, data: ArrayLike<number>): void {
  for (let i = 0; i < data.length; i++)
    if (!Number.isFinite(data[i])) fail('ERR_RANGE', `${parameter}[${i}]`, 'a finite number', data[i])
}

/** @internal For a status that also says that results of finite numbers are beyond float32. */
export function refuseTooLarge(parameter: string, data: ArrayLike<number>): never {
  refuseNonFinite(parameter, data)
  throw new WhittleError('ERR_RANGE', parameter, `${parameter}: results are beyond the range of float32; scale it down`)
}

/** @internal A float32 tensor that is not empty, of `rank` dimensions at least and (where given) at most. */
export function floats(value: unknown, parameter: string, rank: number, most = 16): Tensor<Float32Array> {
  const t = tensor(value, parameter, ['float32']) as Tensor<Float32Array>
  const shown = `[${t.dims.join(', ')}]`
  if (t.dims.length < rank || t.dims.length > most) {
    const wanted = rank === most ? `${rank}` : most === 16 ? `at least ${rank}` : `${rank} to ${most}`
    throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected ${wanted} dimension${wanted === '1' ? '' : 's'}, got ${shown}`)
  }
  if (t.data.length === 0) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected at least one element, got dims ${shown}`)
  return t
}

/** @internal */
export function optional<T>(value: unknown, fallback: T, read: (value: unknown) => T): T {
  return value === undefined ? fallback : read(value)
}

/** @internal */
export function seedOf(value: unknown): number {
  return optional(value, 0, (v) => integer(v, 'seed', 0))
}

/** @internal 0 stands for the limit of the process. */
export function threadsOf(value: unknown): number {
  return optional(value, 0, (v) => integer(v, 'threads', 1, 256))
}

/** @internal */
export function f32<D extends TypedArray>(dims: readonly number[], data: D): Tensor<D> {
  return { type: 'float32', dims: [...dims], data }
}
