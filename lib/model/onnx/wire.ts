import type { Int } from '../node'
import { malformed, type Bytes } from '../bytes'

/** Unknown groups (wire types 3 and 4) may nest; nobody nests them deeply on purpose. */
const kMaxGroupDepth = 32

const kDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const kLossy = new TextDecoder('utf-8', { ignoreBOM: true })
const kEncoder = new TextEncoder()

/**
 * Steps through the fields of one protobuf message, reading tags and lengths only. A field's value is
 * `bytes[start, end)`; a varint's too. Every length is checked against the enclosing message, so nothing is ever
 * allocated on the word of a length.
 */
export class Fields {
  readonly bytes: Bytes
  readonly limit: number
  /** field number, wire type */
  no = 0
  wire = 0
  /** where the tag, the value, and the rest of the message begin */
  tag = 0
  start = 0
  end = 0

  constructor(bytes: Bytes, start: number, limit: number) {
    this.bytes = bytes
    this.end = start
    this.limit = limit
  }

  next(): boolean {
    if (this.end >= this.limit) return false
    this.tag = this.end
    let pos = this.#varintEnd(this.tag, 5)
    const key = this.#small(this.tag, pos)
    this.no = Math.floor(key / 8)
    this.wire = key % 8
    if (this.no === 0 || key > 0xffffffff) this.#fail(`byte ${this.tag}: bad field number`)
    if (this.wire === 2) {
      const lengthAt = pos
      pos = this.#varintEnd(lengthAt, 10)
      const length = pos - lengthAt > 7 ? Infinity : this.#small(lengthAt, pos)
      if (!(length <= this.limit - pos))
        this.#fail(`byte ${this.tag}: field ${this.no} claims ${length} bytes where ${this.limit - pos} are left`)
      this.start = pos
      this.end = pos + length
    } else {
      this.start = pos
      this.end = this.#skip(pos, 0)
    }
    return true
  }

  /** A varint as a signed 64-bit integer. */
  int(): Int {
    this.#want(0)
    return readInt(this.bytes, this.start, this.end)
  }

  /** A varint that must be a plain number, such as an enum. */
  small(): number {
    const value = this.int()
    return typeof value === 'number' ? value : value > 0n ? Infinity : -Infinity
  }

  float(): number {
    this.#want(5)
    return view(this.bytes.readSync(this.start, 4)).getFloat32(0, true)
  }

  /** A string that serves as a name: it must be UTF-8. */
  text(): string {
    this.#want(2)
    const raw = this.bytes.readSync(this.start, this.end - this.start)
    try {
      return kDecoder.decode(raw)
    } catch {
      return this.#fail(`byte ${this.tag}: field ${this.no} is not UTF-8 text`)
    }
  }

  /** A string for people, or bytes that are usually text. */
  lossyText(): string {
    this.#want(2)
    return kLossy.decode(this.bytes.readSync(this.start, this.end - this.start))
  }

  /** The fields of a message in this field. */
  message(): Fields {
    this.#want(2)
    return new Fields(this.bytes, this.start, this.end)
  }

  /** Appends the values of a repeated varint field, packed or not. */
  ints(into: Int[]): void {
    if (this.wire === 0) into.push(this.int())
    else {
      this.#want(2)
      for (let pos = this.start; pos < this.end;) {
        const stop = this.#varintEnd(pos, 10, this.end)
        into.push(readInt(this.bytes, pos, stop))
        pos = stop
      }
    }
  }

  /** Appends the values of a repeated float field, packed or not. */
  floats(into: number[]): void {
    if (this.wire === 5) into.push(this.float())
    else {
      this.#want(2)
      const length = this.end - this.start
      if (length % 4 !== 0) this.#fail(`byte ${this.tag}: ${length} bytes are no list of floats`)
      const raw = view(this.bytes.readSync(this.start, length))
      for (let i = 0; i < length; i += 4) into.push(raw.getFloat32(i, true))
    }
  }

  #want(wire: number): void {
    if (this.wire !== wire)
      this.#fail(`byte ${this.tag}: field ${this.no} has wire type ${this.wire}, expected ${wire}`)
  }

  #skip(pos: number, depth: number): number {
    switch (this.wire) {
      case 0:
        return this.#varintEnd(pos, 10)
      case 1:
      case 5: {
        const end = pos + (this.wire === 1 ? 8 : 4)
        if (end > this.limit) this.#fail(`byte ${pos}: the data ends inside a field`)
        return end
      }
      case 3: {
        if (depth >= kMaxGroupDepth) this.#fail(`byte ${pos}: groups nested more than ${kMaxGroupDepth} deep`)
        const group = this.no
        const inner = new Fields(this.bytes, pos, this.limit)
        return inner.#group(group, depth + 1)
      }
      default:
        return this.#fail(`byte ${this.tag}: wire type ${this.wire} does not exist`)
    }
  }

  /** Skips to behind the end tag of group `no`. */
  #group(no: number, depth: number): number {
    for (;;) {
      if (this.end >= this.limit) this.#fail(`byte ${this.limit}: the data ends inside a group`)
      const after = this.#varintEnd(this.end, 5)
      const key = this.#small(this.end, after)
      if (key % 8 === 4) {
        if (Math.floor(key / 8) !== no) this.#fail(`byte ${this.end}: a group ends that did not begin`)
        return after
      }
      if (key % 8 === 3) {
        if (depth >= kMaxGroupDepth) this.#fail(`byte ${after}: groups nested more than ${kMaxGroupDepth} deep`)
        this.end = new Fields(this.bytes, after, this.limit).#group(Math.floor(key / 8), depth + 1)
      } else this.next()
    }
  }

  #varintEnd(pos: number, most: number, limit = this.limit): number {
    const stop = Math.min(limit, pos + most)
    for (let p = pos; p < stop; p++) if (this.bytes.byte(p) < 128) return p + 1
    return this.#fail(`byte ${pos}: ${stop === limit ? 'the data ends inside a varint' : 'varint overflow'}`)
  }

  /** A varint of at most 7 bytes: exact as a number. */
  #small(pos: number, end: number): number {
    let value = 0
    for (let p = end - 1; p >= pos; p--) value = value * 128 + (this.bytes.byte(p) & 127)
    return value
  }

  #fail(message: string): never {
    malformed(this.bytes.label, message)
  }
}

function view(raw: Uint8Array): DataView {
  return new DataView(raw.buffer, raw.byteOffset, raw.byteLength)
}

function readInt(bytes: Bytes, start: number, end: number): Int {
  if (end - start <= 7) {
    let value = 0
    for (let p = end - 1; p >= start; p--) value = value * 128 + (bytes.byte(p) & 127)
    return value
  }
  let value = 0n
  for (let p = end - 1; p >= start; p--) value = (value << 7n) | BigInt(bytes.byte(p) & 127)
  if (value >> 64n) malformed(bytes.label, `byte ${start}: varint overflow`)
  return toInt(BigInt.asIntN(64, value))
}

/** A number where that is exact. */
export function toInt(value: bigint): Int {
  return value >= -0x1fffffffffffffn && value <= 0x1fffffffffffffn ? Number(value) : value
}

/** A stretch of an output: bytes we made, or a range of bytes to be copied when the output is written. */
export type Piece = Uint8Array | { readonly from: RangeReader; readonly start: number; readonly end: number }

/** What a range can be copied from. */
export interface RangeReader {
  readSync(offset: number, length: number): Uint8Array
  read(offset: number, length: number): Promise<Uint8Array>
}

/**
 * A protobuf message under construction. Weights enter as ranges and are copied when the rope is written, so a rope of a
 * 3 GB model is a few kilobytes.
 */
export class Rope {
  length = 0
  readonly #pieces: Piece[] = []
  #tail = new Uint8Array(64)
  #used = 0

  varint(value: Int): this {
    if (typeof value === 'number' && value >= 0) {
      let v = value
      for (; v >= 128; v = Math.floor(v / 128)) this.#byte((v % 128) | 128)
      this.#byte(v)
    } else {
      let v = BigInt.asUintN(64, BigInt(value))
      for (; v >= 128n; v >>= 7n) this.#byte(Number(v & 127n) | 128)
      this.#byte(Number(v))
    }
    return this
  }

  int(no: number, value: Int): this {
    return this.varint(no * 8).varint(value)
  }

  float(no: number, value: number): this {
    const raw = new DataView(new ArrayBuffer(4))
    raw.setFloat32(0, value, true)
    return this.varint(no * 8 + 5).bytes(new Uint8Array(raw.buffer))
  }

  text(no: number, value: string): this {
    return this.blob(no, kEncoder.encode(value))
  }

  blob(no: number, value: Uint8Array): this {
    return this.varint(no * 8 + 2)
      .varint(value.length)
      .bytes(value)
  }

  message(no: number, value: Rope): this {
    return this.varint(no * 8 + 2)
      .varint(value.length)
      .rope(value)
  }

  /** A length-delimited field whose value is copied from a range. */
  rangeField(no: number, from: RangeReader, start: number, end: number): this {
    return this.varint(no * 8 + 2)
      .varint(end - start)
      .range(from, start, end)
  }

  bytes(value: Uint8Array): this {
    this.#room(value.length)
    this.#tail.set(value, this.#used)
    this.#used += value.length
    this.length += value.length
    return this
  }

  range(from: RangeReader, start: number, end: number): this {
    if (end === start) return this
    const last = this.#used === 0 ? this.#pieces[this.#pieces.length - 1] : undefined
    if (last && 'from' in last && last.from === from && last.end === start)
      this.#pieces[this.#pieces.length - 1] = { from, start: last.start, end }
    else {
      this.#flush()
      this.#pieces.push({ from, start, end })
    }
    this.length += end - start
    return this
  }

  rope(other: Rope): this {
    for (const p of other.pieces())
      if ('from' in p) this.range(p.from, p.start, p.end)
      else this.bytes(p)
    return this
  }

  pieces(): readonly Piece[] {
    this.#flush()
    return this.#pieces
  }

  #byte(value: number): void {
    this.#room(1)
    this.#tail[this.#used++] = value
    this.length++
  }

  #room(more: number): void {
    if (this.#used + more <= this.#tail.length) return
    const grown = new Uint8Array(Math.max(this.#tail.length * 2, this.#used + more))
    grown.set(this.#tail.subarray(0, this.#used))
    this.#tail = grown
  }

  #flush(): void {
    if (this.#used === 0) return
    this.#pieces.push(this.#tail.slice(0, this.#used))
    this.#used = 0
  }
}
