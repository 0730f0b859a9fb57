import { malformed } from '../bytes'
import { elementBitsOf, type ElementType } from '../types'
import { decodeCodes, encodeCodes } from './codes'
import { joinParts, splitParts } from './parts'
import { BitDecoder, BitEncoder, BitModel } from './rangecoder'

/**
 * One piece of a tensor, coded on its own. The first byte says how; what follows may hold blocks in turn:
 *
 * | | |
 * |---|---|
 * | raw | the bytes |
 * | constant | one element, which all are equal to |
 * | codes | bytes by rANS, see codes.ts; the sign bit turned, so that codes around zero lie together |
 * | nibbles | half-bytes by rANS |
 * | adaptive | bytes by the range coder, for pieces too short for tables |
 * | planes | the first bytes of all elements, then the second bytes, …; floats with their sign moved behind the fraction |
 * | palette | few distinct values, and which of them each element is |
 * | sparse | which elements are not zero, and these |
 */
const kRaw = 0
const kConstant = 1
const kCodes = 2
const kNibbles = 3
const kAdaptive = 4
const kPlanes = 5
const kPalette = 6
const kSparse = 7

const kMostPalette = 256
/** Blocks in blocks: sparse, palette, codes is the deepest that is written. */
const kMostDepth = 4
/** Blocks of more bytes have tables. */
const kMostAdaptive = 4096
/** Below this share of zeros a list of places does not pay. */
const kLeastZeros = 0.03

/** What is known of the bytes of a block. */
export interface Shape {
  /** Bytes of an element: 1, 2, 4 or 8. */
  readonly width: number
  /** Two elements to a byte; `undefined` where that may be. */
  readonly nibbles: boolean | undefined
  /** Numbers around zero, in two's complement. */
  readonly signed: boolean
  /** Sign, exponent, fraction. */
  readonly float: boolean
  /** Elements of a row; 0 where rows mean nothing. */
  readonly columns: number
}

/** The shape of a tensor's bytes. */
export function shapeOf(type: ElementType, dims: readonly number[]): Shape {
  const bits = elementBitsOf(type)
  const width = bits >= 8 ? bits / 8 : 1
  const count = dims.reduce((n, d) => n * d, 1)
  return {
    width: [1, 2, 4, 8].includes(width) ? width : 1,
    nibbles: bits === 4 ? true : type === 'uint8' ? undefined : false,
    signed: type === 'int8',
    float: type === 'float32' || type === 'float16' || type === 'bfloat16',
    columns: dims.length >= 2 && dims[0]! > 0 ? count / dims[0]! : 0,
  }
}

/** Codes a block. `bytes` is not empty and holds whole elements. */
export function encodeBlock(bytes: Uint8Array, shape: Shape): Uint8Array {
  return wide(bytes, shape, true)
}

function tagged(mode: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const body = parts.length === 1 ? parts[0]! : joinParts(parts)
  const out = new Uint8Array(1 + body.length)
  out[0] = mode
  out.set(body, 1)
  return out
}

function wide(bytes: Uint8Array, shape: Shape, mayBeSparse: boolean): Uint8Array {
  const { width } = shape
  if (width === 1) return narrow(bytes, shape)
  const words = distinctWords(bytes, width)
  if (words?.size === 1) return tagged(kConstant, bytes.slice(0, width))
  const count = bytes.length / width
  const zeros = mayBeSparse && width <= 4 ? zeroWords(bytes, width) : 0
  let best = zeros >= count * kLeastZeros && zeros < count ? sparse(bytes, shape, zeros) : undefined
  if (words && words.size * width < bytes.length / 2) {
    const found = palette(bytes, shape, words)
    if (!best || found.length < best.length) best = found
  }
  // Fractions that are not there cost nothing in a palette, and in planes nearly nothing.
  if (!best || !words) {
    const split = planes(bytes, shape)
    if (!best || split.length < best.length) best = split
  }
  return best.length <= bytes.length ? best : tagged(kRaw, bytes)
}

/** One byte an element. */
function narrow(bytes: Uint8Array, { nibbles, signed, columns }: Shape): Uint8Array {
  const count = bytes.length
  let best = tagged(kRaw, bytes)
  const first = bytes[0]!
  if (bytes.every((b) => b === first)) return tagged(kConstant, bytes.slice(0, 1))
  const offer = (mode: number, body: Uint8Array | undefined): void => {
    if (body && body.length + 1 < best.length) best = tagged(mode, body)
  }
  if (count <= kMostAdaptive) offer(kAdaptive, adaptive(bytes))
  if (!nibbles) {
    const symbols = signed ? turned(bytes) : bytes
    const coded = encodeCodes(symbols, 256, columns && count % columns === 0 ? columns : count, best.length - 2)
    offer(kCodes, coded && prefixed(signed ? 128 : 0, coded))
  }
  if (nibbles !== false) {
    const halves = new Uint8Array(2 * count)
    for (let i = 0; i < count; i++) {
      halves[2 * i] = bytes[i]! & 15
      halves[2 * i + 1] = bytes[i]! >> 4
    }
    const turn = looksSigned(halves) ? 8 : 0
    if (turn) for (let i = 0; i < halves.length; i++) halves[i]! ^= turn
    const row = nibbles ? columns : 2 * columns
    const coded = encodeCodes(halves, 16, row && halves.length % row === 0 ? row : halves.length, best.length - 2)
    offer(kNibbles, coded && prefixed(turn, coded))
  }
  return best
}

function turned(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length)
  for (let i = 0; i < out.length; i++) out[i] = bytes[i]! ^ 128
  return out
}

/**
 * Whether half-bytes are two's complement: 15 and 0 are then neighbours, and about as frequent, while 7 and 8 are far apart.
 * The type does not tell: bytes may hold pairs of either.
 */
function looksSigned(halves: Uint8Array): boolean {
  const counts = new Float64Array(16)
  for (let i = 0; i < halves.length; i++) counts[halves[i]!]!++
  return counts[15]! + counts[0]! > counts[7]! + counts[8]!
}

function prefixed(byte: number, body: Uint8Array): Uint8Array {
  const out = new Uint8Array(1 + body.length)
  out[0] = byte
  out.set(body, 1)
  return out
}

function adaptive(bytes: Uint8Array): Uint8Array {
  const to = new BitEncoder()
  const model = new BitModel(256)
  for (const b of bytes) to.tree(model, 0, 8, b)
  return to.finish()
}

/** The distinct elements and how often each occurs; nothing where there are many. */
function distinctWords(bytes: Uint8Array, width: number): Map<number, number> | undefined {
  if (width > 4) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const found = new Map<number, number>()
  for (let i = 0; i < bytes.length; i += width) {
    const w = width === 4 ? view.getUint32(i, true) : view.getUint16(i, true)
    const n = found.get(w)
    if (n === undefined && found.size === kMostPalette) return undefined
    found.set(w, (n ?? 0) + 1)
  }
  return found
}

function zeroWords(bytes: Uint8Array, width: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let zeros = 0
  if (width === 4) for (let i = 0; i < bytes.length; i += 4) zeros += view.getUint32(i) === 0 ? 1 : 0
  else for (let i = 0; i < bytes.length; i += 2) zeros += view.getUint16(i) === 0 ? 1 : 0
  return zeros
}

/** An order in which floats ascend, as far as they are numbers. */
function ascending(word: number, width: number): number {
  const sign = width === 4 ? 0x80000000 : 0x8000
  return word >= sign ? 2 * sign - 1 - word : word + sign
}

function palette(bytes: Uint8Array, { width, columns, float }: Shape, words: Map<number, number>): Uint8Array {
  const key = (w: number): number => (float ? ascending(w, width) : w)
  const list = [...words.keys()].sort((a, b) => key(a) - key(b))
  const index = new Map(list.map((w, i) => [w, i]))
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const indices = new Uint8Array(bytes.length / width)
  for (let i = 0; i < indices.length; i++)
    indices[i] = index.get(width === 4 ? view.getUint32(i * 4, true) : view.getUint16(i * 2, true))!
  const values = new Uint8Array(list.length * width)
  const out = new DataView(values.buffer)
  list.forEach((w, i) => (width === 4 ? out.setUint32(i * 4, w, true) : out.setUint16(i * 2, w, true)))
  const plain = { width: 1, nibbles: false, signed: false, float: false }
  return tagged(kPalette, values, narrow(indices, { ...plain, columns }))
}

function sparse(bytes: Uint8Array, shape: Shape, zeros: number): Uint8Array {
  const { width } = shape
  const count = bytes.length / width
  const mask = new Uint8Array((count + 7) >> 3)
  const rest = new Uint8Array((count - zeros) * width)
  let at = 0
  for (let i = 0, p = 0; i < count; i++, p += width) {
    let any = 0
    for (let b = 0; b < width; b++) any |= bytes[p + b]!
    if (any === 0) continue
    mask[i >> 3]! |= 1 << (i & 7)
    for (let b = 0; b < width; b++) rest[at++] = bytes[p + b]!
  }
  const columns = shape.columns % 8 === 0 ? shape.columns / 8 : 0
  const where = narrow(mask, { width: 1, nibbles: undefined, signed: false, float: false, columns })
  return tagged(kSparse, where, wide(rest, { ...shape, columns: 0 }, false))
}

/** Byte planes, most significant first. Floats are turned left by one bit: the exponent then fills one byte. */
function planes(bytes: Uint8Array, { width, float }: Shape): Uint8Array {
  const count = bytes.length / width
  const split = Array.from({ length: width }, () => new Uint8Array(count))
  if (width === 4) {
    const [a, b, c, d] = split as [Uint8Array, Uint8Array, Uint8Array, Uint8Array]
    for (let i = 0, p = 0; i < count; i++, p += 4) {
      let w = bytes[p]! | (bytes[p + 1]! << 8) | (bytes[p + 2]! << 16) | (bytes[p + 3]! << 24)
      if (float) w = (w << 1) | (w >>> 31)
      a[i] = w >>> 24
      b[i] = w >>> 16
      c[i] = w >>> 8
      d[i] = w
    }
  } else if (width === 2) {
    const [a, b] = split as [Uint8Array, Uint8Array]
    for (let i = 0, p = 0; i < count; i++, p += 2) {
      let w = bytes[p]! | (bytes[p + 1]! << 8)
      if (float) w = (w << 1) | (w >>> 15)
      a[i] = w >>> 8
      b[i] = w
    }
  } else
    for (let i = 0, p = 0; i < count; i++, p += width)
      for (let b = 0; b < width; b++) split[width - 1 - b]![i] = bytes[p + b]!
  const plain = { width: 1, nibbles: true, signed: false, float: false, columns: 0 }
  return tagged(
    kPlanes,
    Uint8Array.of(float ? 1 : 0),
    ...split.map((plane) => narrow(plane, { ...plain, nibbles: false })),
  )
}

/** What {@link encodeBlock} was given: `length` bytes. Throws `ERR_MODEL_FORMAT` for anything that it did not make. */
export function decodeBlock(bytes: Uint8Array, shape: Pick<Shape, 'width'>, length: number, label: string): Uint8Array {
  const out = new Uint8Array(length)
  decode(bytes, 0, bytes.length, shape.width, out, label, 0)
  return out
}

function decode(
  bytes: Uint8Array,
  start: number,
  end: number,
  width: number,
  out: Uint8Array,
  label: string,
  depth: number,
): void {
  if (start >= end || depth > kMostDepth) malformed(label, 'a block that ends too early')
  const mode = bytes[start++]!
  const inner = (part: { start: number; end: number }, size: number, into: Uint8Array): void =>
    decode(bytes, part.start, part.end, size, into, label, depth + 1)
  const wrong = (): never => malformed(label, `a block of kind ${mode} that does not fit`)
  if (out.length % width) wrong()
  switch (mode) {
    case kRaw:
      if (end - start !== out.length) wrong()
      out.set(bytes.subarray(start, end))
      return
    case kConstant:
      if (end - start !== width) wrong()
      for (let i = 0; i < out.length; i++) out[i] = bytes[start + (i % width)]!
      return
    case kCodes: {
      if (width !== 1 || start >= end) wrong()
      decodeCodes(bytes, start + 1, end, out, 256, label)
      const turn = bytes[start]!
      if (turn) for (let i = 0; i < out.length; i++) out[i]! ^= turn
      return
    }
    case kNibbles: {
      if (width !== 1 || start >= end || bytes[start]! > 15) wrong()
      const halves = new Uint8Array(2 * out.length)
      decodeCodes(bytes, start + 1, end, halves, 16, label)
      const turn = bytes[start]! * 17
      for (let i = 0; i < out.length; i++) out[i] = (halves[2 * i]! | (halves[2 * i + 1]! << 4)) ^ turn
      return
    }
    case kAdaptive: {
      if (width !== 1 || out.length > kMostAdaptive) wrong()
      const from = new BitDecoder(bytes, start, end, label)
      const model = new BitModel(256)
      for (let i = 0; i < out.length; i++) out[i] = from.tree(model, 0, 8)
      return
    }
    case kPlanes: {
      if (width === 1) wrong()
      const parts = splitParts(bytes, start, end, width + 1, label)
      const flag = parts.shift()!
      if (flag.end - flag.start !== 1 || bytes[flag.start]! > 1 || (bytes[flag.start] && width > 4)) wrong()
      const split = parts.map((part) => {
        const plane = new Uint8Array(out.length / width)
        inner(part, 1, plane)
        return plane
      })
      joinPlanes(split, bytes[flag.start] === 1, out)
      return
    }
    case kPalette: {
      const [values, where] = splitParts(bytes, start, end, 2, label)
      const colours = (values!.end - values!.start) / width
      if (width > 4 || !Number.isInteger(colours) || colours < 1 || colours > kMostPalette) wrong()
      const indices = new Uint8Array(out.length / width)
      inner(where!, 1, indices)
      for (let i = 0, p = 0; i < indices.length; i++) {
        const from = values!.start + indices[i]! * width
        if (indices[i]! >= colours) wrong()
        for (let b = 0; b < width; b++) out[p++] = bytes[from + b]!
      }
      return
    }
    case kSparse: {
      const [where, what] = splitParts(bytes, start, end, 2, label)
      const count = out.length / width
      const mask = new Uint8Array((count + 7) >> 3)
      inner(where!, 1, mask)
      let kept = 0
      for (let m of mask) for (; m; m &= m - 1) kept++
      if (count & 7 && mask[mask.length - 1]! >> (count & 7)) wrong()
      if (kept === 0) wrong()
      const rest = new Uint8Array(kept * width)
      inner(what!, width, rest)
      for (let i = 0, at = 0; i < count; i++)
        if (mask[i >> 3]! & (1 << (i & 7))) for (let b = 0; b < width; b++) out[i * width + b] = rest[at++]!
      return
    }
    default:
      wrong()
  }
}

function joinPlanes(split: readonly Uint8Array[], float: boolean, out: Uint8Array): void {
  const width = split.length
  const count = out.length / width
  if (width === 4) {
    const [a, b, c, d] = split as [Uint8Array, Uint8Array, Uint8Array, Uint8Array]
    for (let i = 0, p = 0; i < count; i++, p += 4) {
      let w = (a[i]! << 24) | (b[i]! << 16) | (c[i]! << 8) | d[i]!
      if (float) w = (w >>> 1) | (w << 31)
      out[p] = w
      out[p + 1] = w >>> 8
      out[p + 2] = w >>> 16
      out[p + 3] = w >>> 24
    }
  } else if (width === 2) {
    const [a, b] = split as [Uint8Array, Uint8Array]
    for (let i = 0, p = 0; i < count; i++, p += 2) {
      let w = (a[i]! << 8) | b[i]!
      if (float) w = (w >>> 1) | ((w & 1) << 15)
      out[p] = w
      out[p + 1] = w >>> 8
    }
  } else
    for (let i = 0, p = 0; i < count; i++, p += width)
      for (let b = 0; b < width; b++) out[p + b] = split[width - 1 - b]![i]!
}
