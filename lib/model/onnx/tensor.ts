import { Initializer, type DataSource } from '../initializer'
import type { Int } from '../node'
import { elementBitsOf, elementCodeOf, elementTypeOf, type ElementType } from '../types'
import { DecodedSource, RangeSource, type Bytes, malformed } from '../bytes'
import type { ExternalEntry, ExternalFiles } from './external'
import { Fields, Rope } from './wire'

/** What the file said about a tensor; compared with the tensor when it is written. */
export interface TensorOrigin {
  readonly bytes: Bytes
  readonly start: number
  readonly end: number
  readonly name: string
  readonly type: ElementType
  readonly dims: readonly number[]
  readonly source: DataSource
  readonly external: ExternalEntry | undefined
}

/** Fields of `TensorProto` that carry data or say where it is; all others are kept when the data changes. */
const kDataFields = new Set([4, 5, 6, 7, 9, 10, 11, 13, 14])

interface Segments {
  no: number
  wire: number
  ranges: [start: number, end: number][]
  length: number
}

/** Reads a `TensorProto`. The data stays where it is. */
export function readTensor(fields: Fields, external: ExternalFiles, what: string): Initializer {
  const { bytes } = fields
  const start = fields.end
  const dims: Int[] = []
  let code = 0
  let name = ''
  let raw: [number, number] | undefined
  let isExternal = false
  const entries = new Map<string, string>()
  const lists = new Map<number, Segments>()
  while (fields.next())
    switch (fields.no) {
      case 1:
        fields.ints(dims)
        if (dims.length > 64) malformed(bytes.label, `${what}: more than 64 dimensions`)
        break
      case 2:
        code = fields.small()
        break
      case 3:
        malformed(bytes.label, `${what}: segmented tensors are not supported`)
        break
      case 4:
      case 5:
      case 6:
      case 7:
      case 10:
      case 11: {
        const list = lists.get(fields.no) ?? { no: fields.no, wire: fields.wire, ranges: [], length: 0 }
        if (list.wire !== fields.wire) list.wire = -1
        list.ranges.push([fields.start, fields.end])
        list.length += fields.end - fields.start
        lists.set(fields.no, list)
        break
      }
      case 8:
        name = fields.text()
        break
      case 9:
        fields.message()
        raw = [fields.start, fields.end]
        break
      case 13: {
        const [key, value] = readPair(fields.message())
        entries.set(key, value)
        break
      }
      case 14:
        isExternal = fields.small() === 1
        break
    }
  what = name ? `tensor ${name}` : what
  const type = elementTypeOf(code) ?? 'undefined'
  const { sizes, count } = checkDims(dims, bytes.label, what)
  const bits = elementBitsOf(type)
  const need = bits ? Math.ceil((count * bits) / 8) : undefined
  let source: DataSource
  let entry: ExternalEntry | undefined
  if (isExternal) {
    if (type === 'string') malformed(bytes.label, `${what}: strings cannot be external`)
    entry = readEntry(entries, bytes.label, what)
    source = external.source(name || what, entry, need)
  } else if (raw && (raw[1] > raw[0] || lists.size === 0)) {
    if (type === 'string') malformed(bytes.label, `${what}: strings cannot be raw data`)
    if (need !== undefined && raw[1] - raw[0] !== need)
      malformed(bytes.label, `${what}: ${type}[${sizes.join(', ')}] needs ${need} bytes, got ${raw[1] - raw[0]}`)
    source = new RangeSource('file', bytes, raw[0], raw[1] - raw[0])
  } else source = listSource(bytes, type, count, need, lists, what)
  const origin: TensorOrigin = { bytes, start, end: fields.limit, name, type, dims: sizes, source, external: entry }
  return new Initializer(name, type, sizes, source, origin)
}

function checkDims(dims: readonly Int[], label: string, what: string): { sizes: number[]; count: number } {
  let count = 1
  let empty = false
  const sizes = dims.map((d) => {
    if (typeof d !== 'number' || d < 0) malformed(label, `${what}: a dimension of ${d}`)
    if (d === 0) empty = true
    else count *= d
    return d
  })
  if (empty) count = 0
  else if (count * 16 > Number.MAX_SAFE_INTEGER) malformed(label, `${what}: dims [${sizes.join(', ')}] overflow`)
  return { sizes, count }
}

/** Reads a `StringStringEntryProto`. */
export function readPair(fields: Fields): [string, string] {
  let key = ''
  let value = ''
  while (fields.next())
    if (fields.no === 1) key = fields.text()
    else if (fields.no === 2) value = fields.lossyText()
  return [key, value]
}

function readEntry(entries: ReadonlyMap<string, string>, label: string, what: string): ExternalEntry {
  const location = entries.get('location')
  if (location === undefined) malformed(label, `${what}: external data without a location`)
  const number = (key: string): number | undefined => {
    const text = entries.get(key)
    if (text === undefined) return undefined
    const value = /^\d{1,16}$/.test(text) ? Number(text) : NaN
    if (!Number.isSafeInteger(value)) malformed(label, `${what}: external data with ${key} ${JSON.stringify(text)}`)
    return value
  }
  return { location, offset: number('offset') ?? 0, length: number('length'), checksum: entries.get('checksum') }
}

/** Which repeated field holds a type, and how many of its entries make how many elements. */
function listFieldOf(type: ElementType): number {
  switch (type) {
    case 'float32':
    case 'complex64':
      return 4
    case 'string':
      return 6
    case 'int64':
      return 7
    case 'float64':
    case 'complex128':
      return 10
    case 'uint32':
    case 'uint64':
      return 11
    default:
      return 5
  }
}

function listSource(
  bytes: Bytes,
  type: ElementType,
  count: number,
  need: number | undefined,
  lists: ReadonlyMap<number, Segments>,
  what: string,
): DataSource {
  const no = listFieldOf(type)
  const list = lists.get(no) ?? { no, wire: 2, ranges: [], length: 0 }
  const wrong = (got: string): never =>
    malformed(bytes.label, `${what}: ${type} data for ${count} elements expected, got ${got}`)
  if (type === 'string') {
    if (list.wire !== 2 || list.ranges.length !== count) wrong(`${list.ranges.length} strings`)
    return new DecodedSource(list.length, () => join(bytes, list))
  }
  if (need === undefined) return new DecodedSource(list.length, () => join(bytes, list))
  // Doubles and floats lie as they are used, a packed list is raw data.
  if (no === 4 || no === 10) {
    if (list.length !== need) wrong(`${list.length} bytes`)
    const only = list.ranges.length === 1 ? list.ranges[0] : undefined
    return only ? new RangeSource('file', bytes, only[0], need) : new DecodedSource(need, () => join(bytes, list))
  }
  const bits = elementBitsOf(type)
  const entries = bits < 8 ? need : count
  // A varint takes 1 to 10 bytes: what cannot fit is refused now, what lies otherwise when it is read.
  if (list.length < entries || list.length > entries * 10) wrong(`${list.length} bytes`)
  return new DecodedSource(need, () => decodeVarints(bytes, list, entries, Math.max(bits, 8), wrong))
}

function join(bytes: Bytes, list: Segments): Uint8Array {
  const out = new Uint8Array(list.length)
  let at = 0
  for (const [start, end] of list.ranges) {
    out.set(bytes.readSync(start, end - start), at)
    at += end - start
  }
  return out
}

/** Lists of varints keep the low `bits` of each: the same rule for int32, float16 patterns, bools and packed nibbles. */
function decodeVarints(
  bytes: Bytes,
  list: Segments,
  entries: number,
  bits: number,
  wrong: (got: string) => never,
): Uint8Array {
  const size = bits / 8
  const out = new Uint8Array(entries * size)
  const view = new DataView(out.buffer)
  let n = 0
  for (const [start, end] of list.ranges) {
    const data = bytes.readSync(start, end - start)
    for (let p = 0; p < data.length;) {
      let lo = 0
      let hi = 0
      let shift = 0
      let b = 0
      do {
        if (p >= data.length || shift > 63) wrong('a broken varint')
        b = data[p++] as number
        const v = b & 127
        if (shift < 28) lo |= v << shift
        else if (shift === 28) {
          lo |= v << 28
          hi |= v >>> 4
        } else hi |= v << (shift - 32)
        shift += 7
      } while (b & 128)
      if (n >= entries) wrong(`more than ${entries} values`)
      if (size === 8) {
        view.setInt32(n * 8, lo, true)
        view.setInt32(n * 8 + 4, hi, true)
      } else if (size === 4) view.setInt32(n * 4, lo, true)
      else if (size === 2) view.setInt16(n * 2, lo, true)
      else view.setInt8(n, lo)
      n++
    }
  }
  if (n !== entries) wrong(`${n} values`)
  return out
}

/** Where the writer puts a tensor's data. */
export type Placement = 'keep' | 'inline' | ExternalEntry

/** True if the tensor can be written by copying what the file had. */
export function tensorUnchanged(t: Initializer, placement: Placement): boolean {
  const o = t.origin as TensorOrigin | undefined
  return (
    o !== undefined &&
    t.name === o.name &&
    t.type === o.type &&
    t.source === o.source &&
    t.dims.length === o.dims.length &&
    t.dims.every((d, i) => d === o.dims[i]) &&
    (placement === 'keep' || (placement === 'inline' && o.external === undefined))
  )
}

/** A `TensorProto`. Fields that the file had and that do not concern the change stay as they were, in their place. */
export function encodeTensor(t: Initializer, placement: Placement): Rope {
  const o = t.origin as TensorOrigin | undefined
  const rope = new Rope()
  if (o && tensorUnchanged(t, placement)) return rope.range(o.bytes, o.start, o.end)
  const keepsData =
    o !== undefined &&
    t.source === o.source &&
    t.type === o.type &&
    (placement === 'keep' || (placement === 'inline' && !o.external))
  const written = new Set<number>()
  const once = (no: number, write: () => void): void => {
    if (!written.has(no)) write()
    written.add(no)
  }
  const writeDims = (): void => t.dims.forEach((d) => rope.int(1, d))
  const writeData = (): void => {
    if (typeof placement === 'object') writeEntry(rope, placement)
    else rope.rangeField(9, t.source, 0, t.byteLength)
  }
  if (o) {
    const fields = new Fields(o.bytes, o.start, o.end)
    while (fields.next())
      if (fields.no === 1) once(1, writeDims)
      else if (fields.no === 2 && t.type !== o.type) once(2, () => rope.int(2, elementCodeOf(t.type)))
      else if (fields.no === 8 && t.name !== o.name) once(8, () => rope.text(8, t.name))
      else if (kDataFields.has(fields.no) && !keepsData) once(9, writeData)
      else {
        rope.range(o.bytes, fields.tag, fields.end)
        written.add(fields.no)
      }
  }
  if (!written.has(1)) writeDims()
  if (!written.has(2)) rope.int(2, elementCodeOf(t.type))
  if (!written.has(8) && t.name) rope.text(8, t.name)
  if (!keepsData && !written.has(9)) writeData()
  return rope
}

function writeEntry(rope: Rope, entry: ExternalEntry): void {
  const pair = (key: string, value: string): void => void rope.message(13, new Rope().text(1, key).text(2, value))
  pair('location', entry.location)
  pair('offset', String(entry.offset))
  if (entry.length !== undefined) pair('length', String(entry.length))
  if (entry.checksum !== undefined) pair('checksum', entry.checksum)
  rope.int(14, 1)
}
