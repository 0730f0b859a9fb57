import { brotliCompressSync, brotliDecompressSync, constants, crc32 } from 'node:zlib'
import { malformed, type Bytes } from '../bytes'
import { Varints, writeVarint } from './parts'

/**
 * The `.whittle` container: an ONNX file cut into streams (one for all that is no tensor, one for each large tensor, one
 * for the small tensors of each element type), these into chunks, each coded on its own. The file is
 *
 *     magic, version · chunks, stream by stream · index (brotli) · footer
 *
 * so that it can be written from front to back and read in any order. Every chunk and the index carry a CRC-32.
 */

/** The first byte is no text and no ONNX file's; line ends that a transfer "repairs" are noticed. */
const kMagic = Uint8Array.of(0x89, 0x57, 0x48, 0x54, 0x0d, 0x0a, 0x1a, 0x0a)
const kVersion = 1
/** Magic, version, three bytes for later. */
export const kHeader = 12
const kFooter = 24
const kFooterMagic = 0x45544857
/** Largest chunk, decoded: what a damaged or hostile file can make a reader allocate at once. */
export const kMostChunk = 8 << 20
const kMostIndex = 64 << 20

/** Coded bytes of a chunk. */
export interface Chunk {
  readonly offset: number
  readonly length: number
  readonly crc: number
}

export interface Stream {
  /** ONNX's number of the element type; 0 for what is no tensor. */
  readonly type: number
  /** Decoded bytes of every chunk but the last. */
  readonly chunkBytes: number
  readonly length: number
  readonly chunks: readonly Chunk[]
}

/** A stretch of the ONNX file: bytes `[offset, offset + length)` of a stream. */
export interface Segment {
  readonly stream: number
  readonly offset: number
  readonly length: number
}

export interface Index {
  readonly streams: readonly Stream[]
  /** In the order of the ONNX file. */
  readonly segments: readonly Segment[]
}

/** True if these bytes begin as a container does. */
export function isWhittle(bytes: Bytes): boolean {
  if (bytes.length < kMagic.length) return false
  for (let i = 0; i < kMagic.length; i++) if (bytes.byte(i) !== kMagic[i]) return false
  return true
}

export function header(): Uint8Array {
  const out = new Uint8Array(kHeader)
  out.set(kMagic)
  out[8] = kVersion
  return out
}

/** Index and footer, which follow on the last chunk at `offset`. */
export function trailer({ streams, segments }: Index, offset: number): Uint8Array {
  const raw: number[] = []
  const put = (value: number): void => writeVarint(raw, value)
  put(streams.length)
  for (const s of streams) {
    put(s.type)
    put(s.chunkBytes)
    put(s.chunks.length)
    for (const c of s.chunks) put(c.length)
  }
  put(segments.length)
  const next = streams.map(() => 0)
  for (const s of segments) {
    // Told only where it does not go on from the stream's last segment: a second copy of tied weights.
    const repeats = s.offset !== next[s.stream]
    put(s.stream * 2 + (repeats ? 1 : 0))
    put(s.length)
    if (repeats) put(s.offset)
    else next[s.stream] = s.offset + s.length
  }
  for (const s of streams) for (const c of s.chunks) for (let b = 0; b < 32; b += 8) raw.push((c.crc >>> b) & 255)
  const plain = Uint8Array.from(raw)
  const index = squeeze(plain)
  const out = new Uint8Array(index.length + kFooter)
  out.set(index)
  const view = new DataView(out.buffer, index.length)
  view.setUint32(0, offset % 2 ** 32, true)
  view.setUint32(4, Math.floor(offset / 2 ** 32), true)
  view.setUint32(8, index.length, true)
  view.setUint32(12, plain.length, true)
  view.setUint32(16, crc32(index), true)
  view.setUint32(20, kFooterMagic, true)
  return out
}

/** Reads and checks the index. Throws `ERR_MODEL_FORMAT` for anything that does not fit together. */
export function readIndex(bytes: Bytes): Index {
  const { label, length } = bytes
  if (length < kHeader + kFooter) malformed(label, 'a .whittle file that is cut off')
  const version = bytes.byte(8)
  if (version !== kVersion)
    malformed(label, `a .whittle file of version ${version}; this reader knows version ${kVersion}`)
  const footer = new DataView(bytes.readSync(length - kFooter, kFooter).buffer)
  const offset = footer.getUint32(0, true) + footer.getUint32(4, true) * 2 ** 32
  const packed = footer.getUint32(8, true)
  const size = footer.getUint32(12, true)
  if (footer.getUint32(20, true) !== kFooterMagic || offset + packed + kFooter !== length || offset < kHeader)
    malformed(label, 'a .whittle file that is cut off or was added to')
  if (size > kMostIndex || packed > kMostIndex) malformed(label, 'a .whittle file with an impossible index')
  const index = bytes.readSync(offset, packed)
  if (crc32(index) !== footer.getUint32(16, true)) malformed(label, 'a .whittle file whose index is damaged')
  return parseIndex(expand(index, size, label), offset, label)
}

function parseIndex(raw: Uint8Array, end: number, label: string): Index {
  const from = new Varints(raw, 0, raw.length, label)
  const wrong = (what: string): never => malformed(label, `a .whittle file whose index is wrong: ${what}`)
  const count = (what: string): number => {
    const n = from.next()
    // Each takes at least a byte: a longer list cannot follow.
    return n <= raw.length - from.at ? n : wrong(`${n} ${what}`)
  }
  const parts: { type: number; chunkBytes: number; lengths: number[] }[] = []
  for (let left = count('streams'); left > 0; left--) {
    const type = from.next()
    const chunkBytes = from.next()
    if (chunkBytes < 1 || chunkBytes > kMostChunk) wrong(`chunks of ${chunkBytes} bytes`)
    const lengths: number[] = []
    for (let chunks = count('chunks'); chunks > 0; chunks--) lengths.push(from.next() || wrong('an empty chunk'))
    parts.push({ type, chunkBytes, lengths })
  }
  const segments: Segment[] = []
  const next = parts.map(() => 0)
  let total = 0
  for (let left = count('segments'); left > 0; left--) {
    const key = from.next()
    const stream = Math.floor(key / 2)
    const length = from.next()
    if (next[stream] === undefined || length < 1) wrong('an impossible segment')
    const repeats = key % 2 === 1
    const offset = repeats ? from.next() : next[stream]!
    if (!repeats) next[stream] = offset + length
    else if (offset + length > next[stream]!) wrong('a repeated segment that was not there before')
    segments.push({ stream, offset, length })
    total += length
  }
  if (total > Number.MAX_SAFE_INTEGER / 4) wrong('an impossible size')
  let at = kHeader
  const streams = parts.map(({ type, chunkBytes, lengths }, i): Stream => {
    if (Math.ceil(next[i]! / chunkBytes) !== lengths.length) wrong(`${lengths.length} chunks for ${next[i]} bytes`)
    const chunks = lengths.map((length) => {
      at += length
      let crc = 0
      for (let b = 0; b < 4; b++) crc += (raw[from.at++] ?? wrong('it ends too early')) * 2 ** (8 * b)
      return { offset: at - length, length, crc }
    })
    return { type, chunkBytes, length: next[i]!, chunks }
  })
  if (from.at !== raw.length) wrong('something follows it')
  if (at !== end) wrong(`its chunks end at byte ${at} of ${end}`)
  return { streams, segments }
}

/** Brotli, as hard as it goes where that takes well below a second. */
export function squeeze(bytes: Uint8Array): Uint8Array {
  const packed = brotliCompressSync(bytes, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: bytes.length <= 1 << 19 ? 11 : 9,
      [constants.BROTLI_PARAM_LGWIN]: 22,
      [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
    },
  })
  return new Uint8Array(packed.buffer, packed.byteOffset, packed.length)
}

/** Takes {@link squeeze} back; never makes more than `length` bytes. */
export function expand(bytes: Uint8Array, length: number, label: string): Uint8Array {
  try {
    const plain = brotliDecompressSync(bytes, { maxOutputLength: Math.max(1, length) })
    if (plain.length === length) return new Uint8Array(plain.buffer, plain.byteOffset, plain.length)
  } catch {
    // Said below.
  }
  return malformed(label, 'a .whittle file with damaged brotli data')
}
