import { WhittleError } from './errors'
import { native } from './native'
import {
  arrayNamesOf,
  bitsOf,
  byteLengthOf,
  isDataType,
  sizeOf,
  typedArrayName,
  type DataType,
  type Tensor,
  type TypedArray,
} from './tensor'

/** @internal Says what came, briefly and without calling user code. */
export function describe(value: unknown): string {
  if (value === null) return 'null'
  const name = typedArrayName(value)
  if (name) return `${name}(${(value as TypedArray).length})`
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 40 ? value.slice(0, 40) + '…' : value)
    case 'object':
      return Array.isArray(value) ? `an array of ${value.length}` : 'an object'
    case 'bigint':
      return `${value}n`
    case 'function':
      return 'a function'
    default:
      return String(value)
  }
}

/** @internal */
export function fail(code: WhittleError['code'], parameter: string, expected: string, got: unknown): never {
  throw new WhittleError(code, parameter, `${parameter}: expected ${expected}, got ${describe(got)}`)
}

/** @internal An integer in [min, max]. */
export function integer(value: unknown, parameter: string, min: number, max = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== 'number') fail('ERR_DTYPE', parameter, 'an integer', value)
  if (!Number.isInteger(value) || value < min || value > max)
    fail('ERR_RANGE', parameter, `an integer from ${min} to ${max === Number.MAX_SAFE_INTEGER ? '2^53-1' : max}`, value)
  return value
}

/** @internal A finite number in [min, max]. */
export function finite(value: unknown, parameter: string, min = -Infinity, max = Infinity): number {
  if (typeof value !== 'number') fail('ERR_DTYPE', parameter, 'a number', value)
  if (!Number.isFinite(value) || value < min || value > max)
    fail('ERR_RANGE', parameter, min === -Infinity && max === Infinity ? 'a finite number' : `a number from ${min} to ${max}`, value)
  return value
}

/** @internal */
export function boolean(value: unknown, parameter: string): boolean {
  if (typeof value !== 'boolean') fail('ERR_DTYPE', parameter, 'true or false', value)
  return value
}

/** @internal */
export function string(value: unknown, parameter: string): string {
  if (typeof value !== 'string') fail('ERR_DTYPE', parameter, 'a string', value)
  return value
}

/** @internal */
export function oneOf<T extends string>(value: unknown, parameter: string, allowed: readonly T[]): T {
  if (!allowed.includes(value as T))
    fail('ERR_RANGE', parameter, `one of ${allowed.map((a) => `'${a}'`).join(', ')}${nearest(value, allowed)}`, value)
  return value as T
}

/** @internal `, perhaps 'x'` for the name of `names` that was probably meant, `''` if none is near. */
export function nearest(given: unknown, names: readonly string[]): string {
  if (typeof given !== 'string' || given.length > 64) return ''
  const found = names
    .map((name) => ({ name, distance: edits(given.toLowerCase(), name.toLowerCase()) }))
    .filter(({ name, distance }) => distance <= Math.max(1, Math.floor(Math.max(name.length, given.length) / 3)))
    .sort((a, b) => a.distance - b.distance)[0]
  return found ? `, perhaps '${found.name}'` : ''
}

/** Insertions, deletions, replacements and swaps of neighbours that turn a into b. */
function edits(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    const above = rows[i - 1]!
    for (let j = 1; j <= b.length; j++) {
      let best = Math.min(above[j]! + 1, row[j - 1]! + 1, above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, rows[i - 2]![j - 2]! + 1)
      row.push(best)
    }
    rows.push(row)
  }
  return rows[a.length]![b.length]!
}

/** @internal A plain options object; unknown keys are refused so that a typing error never passes silently. */
export function options<K extends string>(value: unknown, parameter: string, keys: readonly K[]): Partial<Record<K, unknown>> {
  if (value === undefined) return {}
  if (value === null || typeof value !== 'object' || Array.isArray(value) || ArrayBuffer.isView(value))
    fail('ERR_DTYPE', parameter, 'an object', value)
  for (const key of Object.keys(value))
    if (!keys.includes(key as K))
      throw new WhittleError(
        'ERR_RANGE',
        `${parameter}.${key}`,
        `${parameter}.${key}: unknown option${nearest(key, keys)}; known are ${keys.join(', ')}`,
      )
  return value as Partial<Record<K, unknown>>
}

/**
 * @internal Refuses unknown keys of an object that has several forms, one of which another field chose: what belongs to another form is
 * told to, and a misspelt key finds its like in all of them.
 *
 * @param forms the keys of each form, by the words that choose it
 */
export function formOptions<F extends string>(value: object, parameter: string, forms: Readonly<Record<F, readonly string[]>>, form: F): void {
  const all = Object.entries<readonly string[]>(forms)
  for (const key of Object.keys(value)) {
    if (forms[form].includes(key)) continue
    const others = all.filter(([, keys]) => keys.includes(key)).map(([words]) => words)
    const why = others.length ? `expected nothing, except ${others.join(' or ')}` : `unknown option${nearest(key, all.flatMap(([, keys]) => keys))}`
    throw new WhittleError('ERR_RANGE', `${parameter}.${key}`, `${parameter}.${key}: ${why}; known are ${forms[form].join(', ')}`)
  }
}

const kMaxElements = 2 ** 31 - 1

/** @internal Dims: integers ≥ 0 whose product, zeros left out, stays below 2³¹ (and rank at most 16). Returns a copy. */
export function dims(value: unknown, parameter: string): number[] {
  if (!Array.isArray(value)) fail('ERR_SHAPE', parameter, 'an array of integers', value)
  if (value.length > 16) fail('ERR_SHAPE', parameter, 'at most 16 dimensions', value)
  const copy: number[] = []
  let size = 1
  for (let i = 0; i < value.length; i++) {
    const d: unknown = value[i]
    if (typeof d !== 'number' || !Number.isInteger(d) || d < 0) fail('ERR_SHAPE', `${parameter}[${i}]`, 'an integer >= 0', d)
    copy.push(d)
    // Of a zero the others count: what is derived from them must not overflow either.
    size *= d || 1
  }
  if (size > kMaxElements) fail('ERR_SHAPE', parameter, `at most ${kMaxElements} elements`, `[${copy.join(', ')}]`)
  return copy
}

/** @internal True when the memory of a view is gone (transferred away) or the view no longer fits its buffer. */
export function isDetached(view: ArrayBufferView): boolean {
  // What is gone has no length.
  if (view.byteLength !== 0) return false
  const buffer = view.buffer as ArrayBuffer & { detached?: boolean }
  if (buffer.detached !== undefined && buffer.detached) return true
  // A detached buffer has length 0 and so has every view of it; tell it from an honest empty array by slicing.
  if (buffer.byteLength === 0 && !isShared(buffer)) {
    try {
      buffer.slice(0, 0)
    } catch {
      return true
    }
  }
  return false
}

/** @internal Whether several threads may hold the memory, in any realm. */
export function isShared(buffer: ArrayBufferLike): boolean {
  if (Object.getPrototypeOf(buffer) === ArrayBuffer.prototype) return false
  return Object.prototype.toString.call(buffer) === '[object SharedArrayBuffer]'
}

/** @internal A live typed array carrying one of `types`. */
export function typedArray(value: unknown, parameter: string, types: readonly DataType[]): TypedArray {
  const name = typedArrayName(value)
  if (!name) fail('ERR_DTYPE', parameter, `a typed array (${types.map((t) => arrayNamesOf(t)[0]).join(' or ')})`, value)
  if (!types.some((t) => arrayNamesOf(t).includes(name)))
    fail('ERR_DTYPE', parameter, [...new Set(types.flatMap((t) => arrayNamesOf(t)))].join(' or '), value)
  if (isDetached(value as TypedArray))
    throw new WhittleError('ERR_HANDLE', parameter, `${parameter}: the buffer is detached (transferred to another thread?)`)
  return value as TypedArray
}

/** @internal Reads a tensor's fields once and checks that they agree. A bare typed array is a vector, or takes `shape`. */
export function tensor(value: unknown, parameter: string, types: readonly DataType[], shape?: unknown): Tensor {
  if (typedArrayName(value)) {
    const data = typedArray(value, parameter, types)
    const name = typedArrayName(data)
    const type = types.find((t) => arrayNamesOf(t).includes(name)) as DataType
    const d = shape === undefined ? [data.length] : dims(shape, `${parameter}.dims`)
    return checked({ type, dims: d, data }, parameter)
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    fail('ERR_DTYPE', parameter, 'a tensor { type, dims, data } or a typed array', value)
  const fields = value as { type?: unknown; dims?: unknown; location?: unknown; data?: unknown }
  const { location, type } = fields
  if (location !== undefined && location !== 'cpu' && location !== 'cpu-pinned')
    throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: expected a tensor on the cpu, got one on ${describe(location)}`)
  if (!isDataType(type) || !types.includes(type)) fail('ERR_DTYPE', `${parameter}.type`, types.join(' or '), type)
  const d = dims(fields.dims, `${parameter}.dims`)
  const data = typedArray(fields.data, `${parameter}.data`, [type])
  return checked({ type, dims: d, data }, parameter)
}

function checked(t: Tensor, parameter: string): Tensor {
  const count = sizeOf(t.dims)
  const want = bitsOf(t.type) < 8 ? byteLengthOf(t.type, count) : count
  if (t.data.length !== want)
    throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: dims [${t.dims.join(', ')}] need ${want} elements of data, got ${t.data.length}`)
  return t
}

/** @internal A caller's `out`: right class, right length (`atLeast`: or more), not overlapping any input. */
export function output(
  value: unknown,
  parameter: string,
  type: DataType,
  count: number,
  inputs: readonly ArrayBufferView[],
  atLeast = false,
): TypedArray {
  const data = typedArray(value, parameter, [type])
  const want = bitsOf(type) < 8 ? byteLengthOf(type, count) : count
  if (atLeast ? data.length < want : data.length !== want)
    fail('ERR_SHAPE', parameter, `${atLeast ? 'at least ' : ''}${want} elements of ${type}`, value)
  const { buffer } = data
  const shared = isShared(buffer)
  for (const input of inputs)
    if (
      input.buffer === buffer
        ? input.byteOffset < data.byteOffset + data.byteLength && data.byteOffset < input.byteOffset + input.byteLength
        : // Two SharedArrayBuffers may be one memory: a message or a clone makes such a pair.
          shared && isShared(input.buffer) && native().memoryOverlaps(input, data)
    )
      throw new WhittleError('ERR_RANGE', parameter, `${parameter}: overlaps an input; give it memory of its own`)
  return data
}
