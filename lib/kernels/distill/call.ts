import { pin, pinOutput } from '../../async'
import { WhittleError } from '../../errors'
import { check, native } from '../../native'
import { allocate, sizeOf, typedArrayName, type Tensor, type TensorLike, type TypedArray } from '../../tensor'
import { fail, finite, integer, output, tensor } from '../../validate'

type Call = (...args: (TypedArray | null)[]) => number
type AsyncCall = (...args: (TypedArray | null)[]) => Promise<number>
type Name =
  | 'distillCrossEntropy'
  | 'distillKl'
  | 'distillJs'
  | 'distillDkd'
  | 'distillMultiTeacher'
  | 'distillLinearKl'
  | 'distillFeature'
  | 'distillAttention'
  | 'distillRelation'
type DistillCalls = { [N in Name]: Call } & { [N in Name as `${N}Async`]: AsyncCall }

declare module '../../native' {
  interface NativeBinding extends DistillCalls {}
}

/** A tensor, or a bare array with its dims in an option beside it. */
export type Operand = TensorLike | Float32Array

/** Logits: a float32 or bfloat16 tensor, or a bare array of them (`Uint16Array` holds bfloat16). */
export type LogitOperand = TensorLike | Float32Array | Uint16Array

/** @internal A checked tensor of logits. */
export type LogitTensor = Tensor<Float32Array | Uint16Array>

/** @internal Memory that a call writes: the caller's, or `fresh` from here. */
export interface Output {
  readonly view: Float32Array
  readonly parameter: string
  readonly fresh: boolean
}

/** @internal A checked call: native arguments are the numbers, `inputs`, `outputs` and the doubles of `result`. */
export interface Prepared<R> {
  readonly name: Name
  readonly numbers: readonly number[]
  readonly inputs: readonly (TypedArray | null)[]
  readonly outputs: readonly (Output | null)[]
  readonly results: number
  /** Float inputs by name, searched for the culprit when the kernel meets a number that is not finite. */
  readonly suspects: readonly (readonly [string, Float32Array | Uint16Array])[]
  readonly finish: (result: Float64Array, outputs: readonly Float32Array[]) => R
}

function numberAt(data: Float32Array | Uint16Array, at: number): number {
  if (typedArrayName(data) !== 'Uint16Array') return data[at] as number
  return new Float32Array(new Uint32Array([(data[at] as number) << 16]).buffer)[0] as number
}

function settle(status: number, p: Prepared<unknown>): void {
  const kNonFinite = 8
  if (status !== kNonFinite) return check(status, p.suspects[0]?.[0] ?? '')
  for (const [parameter, data] of p.suspects) {
    const at = typedArrayName(data) === 'Uint16Array' ? data.findIndex((x) => (x & 0x7f80) === 0x7f80) : data.findIndex((x) => !Number.isFinite(x))
    if (at >= 0) fail('ERR_RANGE', `${parameter}[${at}]`, 'a finite number', numberAt(data, at))
  }
  const parameter = p.suspects[0]?.[0] ?? ''
  throw new WhittleError('ERR_RANGE', parameter, `${parameter}: the loss is beyond the range of float32`)
}

const kEmpty = new Float32Array(0)

/** @internal */
export function run<R>(p: Prepared<R>): R {
  const result = new Float64Array(p.results)
  const views = p.outputs.map((o) => o && o.view)
  settle(native()[p.name](Float64Array.from(p.numbers), ...p.inputs, ...views, result), p)
  return p.finish(result, views.map((v) => v ?? kEmpty))
}

/** @internal */
export async function runAsync<R>(p: Prepared<R>): Promise<R> {
  const result = new Float64Array(p.results)
  const pinned = p.outputs.map((o) => o && pinOutput(o.view, o.parameter, o.fresh))
  const inputs = p.inputs.map((x) => x && pin(x))
  const call = native()[`${p.name}Async`]
  settle(await call(Float64Array.from(p.numbers), ...inputs, ...pinned.map((o) => o && o.view), result), p)
  return p.finish(result, pinned.map((o) => (o ? o.commit() : kEmpty)))
}

const kFloat = ['float32'] as const

function withRank<T extends Tensor>(t: T, parameter: string, rank: number): T {
  if (t.dims.length < rank) fail('ERR_SHAPE', parameter, `at least ${rank} dimension${rank > 1 ? 's' : ''}`, shown(t.dims))
  if (t.data.length === 0) fail('ERR_SHAPE', parameter, 'no dimension of 0', shown(t.dims))
  return t
}

/** @internal A float32 tensor with at least `rank` dimensions, none of them 0. */
export function floats(value: unknown, parameter: string, rank: number, dims?: unknown): Tensor<Float32Array> {
  return withRank(tensor(value, parameter, kFloat, dims) as Tensor<Float32Array>, parameter, rank)
}

/** @internal The same in float32 or bfloat16. */
export function logitsOf(value: unknown, parameter: string, rank: number, dims?: unknown): LogitTensor {
  return withRank(tensor(value, parameter, ['float32', 'bfloat16'], dims) as LogitTensor, parameter, rank)
}

/** @internal Dims as a user writes them, for messages. */
export function shown(dims: readonly number[]): { toString(): string } {
  return `[${dims.join(', ')}]`
}

/** @internal */
export function sameDims(a: readonly number[], b: readonly number[], parameter: string): void {
  if (a.length !== b.length || a.some((d, i) => d !== b[i])) fail('ERR_SHAPE', parameter, `dims ${String(shown(a))}`, shown(b))
}

/** @internal Classes 0 … `classes` − 1 or `ignore`, as a private Int32Array, so that nobody changes them in flight. */
export function classLabels(value: unknown, samples: number, classes: number, ignore: number | undefined): Int32Array {
  const t = tensor(value, 'labels', ['int32', 'int64'])
  if (t.data.length !== samples) fail('ERR_SHAPE', 'labels', `${samples} labels, one for each sample`, shown(t.dims))
  const labels = new Int32Array(samples)
  for (let i = 0; i < samples; i++) {
    const label = Number(t.data[i])
    if (label !== ignore && (label < 0 || label >= classes))
      fail('ERR_RANGE', `labels[${i}]`, `a class from 0 to ${classes - 1}${ignore === undefined ? '' : ` or ignoreIndex ${ignore}`}`, label)
    labels[i] = label
  }
  return labels
}

/** @internal Finite, not negative, one for each class. */
export function nonNegative(value: unknown, parameter: string, count: number, what: string): Float32Array {
  const t = tensor(value, parameter, kFloat) as Tensor<Float32Array>
  if (t.data.length !== count) fail('ERR_SHAPE', parameter, `${count} numbers, one for each ${what}`, shown(t.dims))
  const at = t.data.findIndex((w) => !(w >= 0 && w < Infinity))
  if (at >= 0) fail('ERR_RANGE', `${parameter}[${at}]`, 'a finite number >= 0', t.data[at])
  return t.data
}

/** @internal 1e-6 to 1e6, so that neither logits over it nor its square leave float32. */
export function temperatureOf(value: unknown): number {
  return value === undefined ? 1 : finite(value, 'temperature', 1e-6, 1e6)
}

/** @internal */
export function threadsOf(value: unknown): number {
  return value === undefined ? 0 : integer(value, 'threads', 1, 256)
}

/** @internal The caller's memory for `dims`, or new memory. */
export function outputOf(value: unknown, parameter: string, dims: readonly number[], inputs: readonly ArrayBufferView[]): Output {
  const count = sizeOf(dims)
  if (value === undefined) return { view: allocate('float32', count, parameter) as Float32Array, parameter, fresh: true }
  return { view: output(value, parameter, 'float32', count, inputs) as Float32Array, parameter, fresh: false }
}

/** @internal */
export function f32(dims: readonly number[], data: Float32Array): Tensor<Float32Array> {
  return { type: 'float32', dims: [...dims], data }
}
