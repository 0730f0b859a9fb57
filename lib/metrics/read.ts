import { WhittleError } from '../errors'
import { floats } from '../report/floats'
import { isDataType, sizeOf, typedArrayName, type TensorLike, type TypedArray } from '../tensor'
import { fail, tensor } from '../validate'

/** Class numbers, or relevances of 0 and 1: a list, a typed array or a tensor of integers or booleans. */
export type ClassLabels = readonly (number | bigint | boolean)[] | TypedArray | TensorLike

/** Rows of scores: a tensor whose last axis counts classes, or a list of rows. */
export type Scores = TensorLike | readonly ArrayLike<number>[]

/** A list of numbers: a typed array, a tensor or a plain list. */
export type Numbers = readonly number[] | TypedArray | TensorLike

const kTypes = ['float32', 'float64', 'float16', 'bfloat16', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'bool'] as const

/** @internal Numbers of a tensor, a typed array or a list, with their dims; NaN is refused. */
export function numbersOf(value: unknown, parameter: string): { data: ArrayLike<number>; dims: readonly number[] } {
  let data: ArrayLike<number>
  let dims: readonly number[]
  if (Array.isArray(value)) {
    value.forEach((v, i) => {
      if (typeof v !== 'number' && typeof v !== 'bigint' && typeof v !== 'boolean') fail('ERR_DTYPE', `${parameter}[${i}]`, 'a number', v)
    })
    data = value.map(Number)
    dims = [value.length]
  } else if (typedArrayName(value).startsWith('Float16')) {
    data = value as ArrayLike<number>
    dims = [data.length]
  } else {
    const view = typedArrayName(value)
    const type = (value as { type?: unknown } | null)?.type
    const t = tensor(value, parameter, view || !isDataType(type) || !kTypes.includes(type as 'bool') ? [...kTypes] : [type])
    dims = t.dims
    const { buffer, byteOffset, byteLength } = t.data
    if (t.type === 'int64' || t.type === 'uint64') data = Float64Array.from(t.data as BigInt64Array, Number)
    else if ((t.type === 'float16' && !typedArrayName(t.data).startsWith('Float16')) || t.type === 'bfloat16')
      data = floats(new Uint8Array(buffer, byteOffset, byteLength), t.type)
    else data = t.data as unknown as ArrayLike<number>
  }
  for (let i = 0; i < data.length; i++) if (Number.isNaN(data[i])) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected numbers, element ${i} is NaN`)
  return { data, dims }
}

/** @internal Integers from 0 to `classes` − 1. */
export function labelsOf(value: unknown, parameter: string, classes = 2 ** 31): number[] {
  const single = typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean'
  const { data } = numbersOf(single ? [value] : value, parameter)
  return Array.from(data, (v, i) => {
    if (!Number.isInteger(v) || v < 0 || v >= classes)
      throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected classes from 0 to ${classes - 1}, element ${i} is ${v}`)
    return v
  })
}

/** @internal [rows, classes]; of a vector one row. */
export function rowsOf(value: unknown, parameter: string): { rows: number; classes: number; data: ArrayLike<number> } {
  if (Array.isArray(value) && value.length > 0 && typeof value[0] === 'object') {
    const lists = value.map((row, i) => numbersOf(row, `${parameter}[${i}]`).data)
    const classes = lists[0]!.length
    const data = new Float64Array(lists.length * classes)
    lists.forEach((row, i) => {
      if (row.length !== classes) fail('ERR_SHAPE', `${parameter}[${i}]`, `${classes} scores, as in the first row`, row)
      for (let c = 0; c < classes; c++) data[i * classes + c] = row[c]!
    })
    return checked({ rows: lists.length, classes, data }, parameter)
  }
  const { data, dims } = numbersOf(value, parameter)
  const classes = dims.at(-1) ?? 1
  return checked({ rows: classes ? sizeOf(dims) / classes : 0, classes, data }, parameter)
}

function checked<T extends { rows: number; classes: number }>(found: T, parameter: string): T {
  if (found.rows === 0 || found.classes === 0) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected at least one score, got none`)
  return found
}

/** @internal Two lists of one length. */
export function sameLength(a: ArrayLike<unknown>, b: ArrayLike<unknown>, name: string, other: string): void {
  if (a.length !== b.length) throw new WhittleError('ERR_SHAPE', name, `${name}: expected ${b.length}, one for each of ${other}, got ${a.length}`)
}

/** @internal */
export function notEmpty(list: ArrayLike<unknown>, parameter: string): void {
  if (list.length === 0) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected at least one value, got none`)
}
