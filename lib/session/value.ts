import type { DataType, Tensor } from '../tensor'
import type { Memory } from './program'

/** An elementwise expression over values; `p` and `q` are the operation's parameters. */
export interface Expression {
  readonly op: string
  readonly a: Expression | Value
  readonly b?: Expression | Value
  readonly p?: number
  readonly q?: number
}

/** Codes that stand for floats: scale * (code - zero), one of each for the whole tensor or for each index of an axis. */
export interface Quantized {
  readonly codes: Value
  readonly scale: Float32Array
  readonly zero: Int32Array
  readonly axis: number
}

/** A constant matrix of 4- or 8-bit codes with scales: products and rows can be had of it without making it floats. */
export interface Stored {
  readonly codes: Value
  readonly scale: Float32Array
  /** as many as scales; none: 0 */
  readonly zero: Int32Array | undefined
  /** axis of the codes that scales go along, -1: there is one for all */
  readonly axis: number
  /** indices of the axis that share a scale; 0: each has its own */
  readonly block: number
  /** the value is the transpose of the codes */
  readonly turned: boolean
}

/** A tensor while a plan is made. `dims` are ONNX's; memory may hold the axes in another order. */
export interface Value {
  readonly kind: 'value'
  readonly type: DataType
  readonly dims: readonly number[]
  /** `order[i]` is the axis that lies at place i in memory, outermost first */
  readonly order: readonly number[]
  /** where it lies; undefined for a constant that no step reads as it is, and for an expression not yet computed */
  readonly memory: Memory | undefined
  /** where it is written with it: its lowest and highest number, 0 among them (NaN: not known) */
  readonly range?: Memory
  /** a constant: its name and data (row-major) */
  readonly constant?: { readonly key: string; readonly read: () => Tensor }
  /** an elementwise result that is computed where it is used */
  readonly expression?: Expression
  /** floats that lie as codes and become floats where they are used as such; a constant may be both */
  readonly quantized?: Quantized
  /** a constant that may stay codes */
  readonly stored?: Stored
}

export function isValue(x: Expression | Value): x is Value {
  return 'kind' in x
}

/** 0, 1, 2, … */
export function identity(rank: number): number[] {
  return Array.from({ length: rank }, (_, i) => i)
}

/** True if memory in this order is row-major: axes of size 1 may lie anywhere. */
export function isRowMajor(dims: readonly number[], order: readonly number[]): boolean {
  let last = -1
  for (const axis of order) {
    if (dims[axis] === 1) continue
    if (axis < last) return false
    last = axis
  }
  return true
}

/** True if both orders put the elements at the same places. */
export function sameOrder(dims: readonly number[], a: readonly number[], b: readonly number[]): boolean {
  const far = (order: readonly number[]): number[] => order.filter((axis) => dims[axis] !== 1)
  const [x, y] = [far(a), far(b)]
  return x.every((axis, i) => axis === y[i])
}

/** Elements between neighbours along each axis of `dims`, for memory in `order`. */
export function stridesOf(dims: readonly number[], order: readonly number[]): number[] {
  const strides = new Array<number>(dims.length).fill(0)
  let step = 1
  for (let i = order.length - 1; i >= 0; i--) {
    const axis = order[i] as number
    strides[axis] = step
    step *= dims[axis] as number
  }
  return strides
}
