import { crc32 } from 'node:zlib'
import { WhittleError } from '../../errors'
import { malformed, type Bytes } from '../bytes'
import { elementTypeOf } from '../types'
import { decodeBlock, shapeOf } from './block'
import { expand, readIndex, type Chunk, type Index, type Stream } from './container'

/**
 * The ONNX file in a `.whittle` container, as if it lay there uncompressed: tensors stay ranges of it and are decoded when
 * they are read, chunk by chunk. Holds the last chunk of the graph and the last of the tensors, at most 8 MB each.
 */
export class PackedBytes implements Bytes {
  readonly length: number
  readonly #file: Bytes
  readonly #index: Index
  /** Where each segment begins, and the end. */
  readonly #starts: Float64Array
  readonly #held: { chunk: Chunk; bytes: Uint8Array }[] = []
  #window: Uint8Array = new Uint8Array(0)
  #from = 0

  /** Reads the index. Throws `ERR_MODEL_FORMAT` for a damaged one. */
  constructor(file: Bytes) {
    this.#file = file
    this.#index = readIndex(file)
    const { segments } = this.#index
    this.#starts = new Float64Array(segments.length + 1)
    segments.forEach((s, i) => (this.#starts[i + 1] = this.#starts[i]! + s.length))
    this.length = this.#starts[segments.length]!
  }

  get label(): string {
    return this.#file.label
  }

  /** Size of the container. */
  get packedLength(): number {
    return this.#file.length
  }

  byte(position: number): number {
    const at = position - this.#from
    if (at >= 0 && at < this.#window.length) return this.#window[at]!
    this.#look(position)
    return this.#window[position - this.#from]!
  }

  readSync(position: number, length: number): Uint8Array {
    const at = position - this.#from
    if (at >= 0 && at + length <= this.#window.length) return this.#window.slice(at, at + length)
    const out = this.#allocate(position, length)
    for (const part of this.#parts(position, length)) this.#fill(out, part, this.#chunk(part.stream, part.number))
    return out
  }

  async read(position: number, length: number): Promise<Uint8Array> {
    const out = this.#allocate(position, length)
    for (const part of this.#parts(position, length)) {
      const chunk = part.stream.chunks[part.number]!
      const held = this.#held.find((h) => h.chunk === chunk)?.bytes
      const bytes =
        held ?? this.#decode(part.stream, part.number, await this.#file.read(chunk.offset, chunk.length), part.length)
      this.#fill(out, part, bytes)
    }
    return out
  }

  /** Makes the stretch of the current chunk around `position` the window. */
  #look(position: number): void {
    const [part] = this.#parts(position, 1)
    const i = this.#segmentAt(position)
    const segment = this.#index.segments[i]!
    const { stream, number } = part!
    const first = Math.max(segment.offset, number * stream.chunkBytes)
    const last = Math.min(segment.offset + segment.length, (number + 1) * stream.chunkBytes)
    this.#window = this.#chunk(stream, number).subarray(
      first - number * stream.chunkBytes,
      last - number * stream.chunkBytes,
    )
    this.#from = this.#starts[i]! + first - segment.offset
  }

  /** The pieces of chunks that make up a range. */
  *#parts(position: number, length: number): Generator<Part> {
    let at = position
    for (let i = this.#segmentAt(position); at < position + length; i++) {
      const segment = this.#index.segments[i]!
      const stream = this.#index.streams[segment.stream]!
      const end = Math.min(position + length, this.#starts[i + 1]!)
      while (at < end) {
        const inStream = segment.offset + at - this.#starts[i]!
        const number = Math.floor(inStream / stream.chunkBytes)
        const start = inStream - number * stream.chunkBytes
        const take = Math.min(end - at, stream.chunkBytes - start)
        yield { stream, number, start, length: take, to: at - position }
        at += take
      }
    }
  }

  #segmentAt(position: number): number {
    let low = 0
    let high = this.#index.segments.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (this.#starts[middle]! <= position) low = middle
      else high = middle - 1
    }
    return low
  }

  #fill(out: Uint8Array, { start, length, to }: Part, bytes: Uint8Array): void {
    out.set(start === 0 && length === bytes.length ? bytes : bytes.subarray(start, start + length), to)
  }

  #chunk(stream: Stream, number: number): Uint8Array {
    const chunk = stream.chunks[number]!
    const held = this.#held.find((h) => h.chunk === chunk)
    return held?.bytes ?? this.#decode(stream, number, this.#file.readSync(chunk.offset, chunk.length), 0)
  }

  /** `wanted` bytes of the result are wanted now: what is wanted whole is not kept for later. */
  #decode(stream: Stream, number: number, coded: Uint8Array, wanted: number): Uint8Array {
    const chunk = stream.chunks[number]!
    const length = Math.min(stream.chunkBytes, stream.length - number * stream.chunkBytes)
    if (crc32(coded) !== chunk.crc)
      malformed(
        this.label,
        `the .whittle file is damaged between bytes ${chunk.offset} and ${chunk.offset + chunk.length}`,
      )
    const bytes =
      stream.type === 0
        ? expand(coded, length, this.label)
        : decodeBlock(coded, shapeOf(elementTypeOf(stream.type) ?? 'undefined', []), length, this.label)
    if (wanted < length) {
      const slot = stream.type === 0 ? 0 : 1
      this.#held[slot] = { chunk, bytes }
      if (slot === 1 && !this.#held[0]) this.#held[0] = this.#held[1]!
    }
    return bytes
  }

  #allocate(position: number, length: number): Uint8Array {
    if (position < 0 || position + length > this.length)
      throw new WhittleError(
        'ERR_IO',
        this.label,
        `${this.label}: bytes ${position} to ${position + length} are not there`,
      )
    try {
      return new Uint8Array(length)
    } catch (cause) {
      throw new WhittleError('ERR_OUT_OF_MEMORY', this.label, `${this.label}: cannot allocate ${length} bytes`, {
        cause,
      })
    }
  }
}

interface Part {
  readonly stream: Stream
  readonly number: number
  /** Where it begins in the decoded chunk. */
  readonly start: number
  readonly length: number
  /** Where it goes. */
  readonly to: number
}
