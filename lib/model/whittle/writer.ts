import { crc32 } from 'node:zlib'
import { WhittleError } from '../../errors'
import { ioError, RangeSource } from '../bytes'
import { FileSet, regularTarget, type WriteOptions } from '../files'
import type { DataSource } from '../initializer'
import type { Encodable } from '../onnx/encode'
import { encodeInline, tensorsOf, type SaveResult } from '../onnx/writer'
import type { RangeReader } from '../onnx/wire'
import { elementBitsOf, elementCodeOf, type ElementType } from '../types'
import { encodeBlock, shapeOf, type Shape } from './block'
import { header, kHeader, squeeze, trailer, type Chunk, type Segment, type Stream } from './container'

/** Decoded bytes of a chunk of a tensor, about: cut between rows where rows are shorter. */
const kChunk = 2 << 20
/** Small tensors of one type together, and the graph. */
const kSmallChunk = 64 << 10
const kGraphChunk = 1 << 20
/** Tensors below go with the graph, those from there to the second one share a stream by element type. */
const kLeast = 64
const kSmall = 1024

/** A stretch of the ONNX file and where its bytes come from. */
interface Run {
  readonly from: RangeReader
  readonly start: number
  readonly end: number
}

interface Plan {
  readonly type: ElementType | undefined
  readonly shape: Shape
  readonly chunkBytes: number
  readonly runs: Run[]
  length: number
}

interface TensorHint {
  readonly type: ElementType
  readonly dims: readonly number[]
}

/** How the ONNX file (all weights inside) is cut up. Reads no weight. */
function plan(m: Encodable): { plans: Plan[]; segments: Segment[]; bytes: number } {
  const { initializers, attributes } = tensorsOf(m)
  const hints = new Map<unknown, TensorHint>()
  const inFiles = new Map<unknown, { start: number; end: number; hint: TensorHint }[]>()
  for (const { source, type, dims } of [...initializers, ...attributes]) {
    if (hints.has(source) || elementBitsOf(type) === 0) continue
    const hint = { type, dims }
    hints.set(source, hint)
    if (!(source instanceof RangeSource) || source.kind !== 'file') continue
    const list = inFiles.get(source.bytes) ?? []
    list.push({ start: source.offset, end: source.offset + source.byteLength, hint })
    inFiles.set(source.bytes, list)
  }
  for (const list of inFiles.values()) list.sort((a, b) => a.start - b.start)

  const graph: Plan = { type: undefined, shape: shapeOf('uint8', []), chunkBytes: kGraphChunk, runs: [], length: 0 }
  const plans = [graph]
  const groups = new Map<ElementType, Plan>()
  const known = new Map<DataSource, number>()
  const segments: Segment[] = []
  const add = (to: Plan, run: Run): void => {
    const length = run.end - run.start
    const stream = plans.indexOf(to)
    const last = segments[segments.length - 1]
    if (last?.stream === stream && last.offset + last.length === to.length && to.type === undefined)
      segments[segments.length - 1] = { ...last, length: last.length + length }
    else segments.push({ stream, offset: to.length, length })
    to.runs.push(run)
    to.length += length
  }
  const addTensor = (hint: TensorHint, run: Run): void => {
    const length = run.end - run.start
    if (length < kLeast) return add(graph, run)
    if (length < kSmall) {
      let group = groups.get(hint.type)
      if (!group) {
        group = { type: hint.type, shape: shapeOf(hint.type, []), chunkBytes: kSmallChunk, runs: [], length: 0 }
        groups.set(hint.type, group)
        plans.push(group)
      }
      return add(group, run)
    }
    const source = run.from as DataSource
    const before = hints.has(source) ? known.get(source) : undefined
    if (before !== undefined) {
      segments.push({ stream: before, offset: 0, length })
      return
    }
    const shape = shapeOf(hint.type, hint.dims)
    const row = (shape.columns * Math.max(4, elementBitsOf(hint.type))) / 8
    const chunkBytes = Number.isInteger(row) && row > 0 && row <= kChunk ? Math.floor(kChunk / row) * row : kChunk
    const own: Plan = {
      type: hint.type,
      shape: chunkBytes === kChunk && row !== kChunk ? { ...shape, columns: 0 } : shape,
      chunkBytes,
      runs: [],
      length: 0,
    }
    plans.push(own)
    if (hints.has(source)) known.set(source, plans.length - 1)
    add(own, run)
  }

  const rope = encodeInline(m)
  for (const piece of rope.pieces()) {
    if (!('from' in piece)) {
      add(graph, { from: new MemoryReader(piece), start: 0, end: piece.length })
      continue
    }
    const { from, start, end } = piece
    const hint = hints.get(from)
    if (hint) {
      addTensor(hint, piece)
      continue
    }
    let at = start
    const inside = inFiles.get(from) ?? []
    for (let i = firstFrom(inside, start); i < inside.length && inside[i]!.start < end; i++) {
      const t = inside[i]!
      if (t.start < at || t.end > end || t.end === t.start) continue
      if (t.start > at) add(graph, { from, start: at, end: t.start })
      addTensor(t.hint, { from, start: t.start, end: t.end })
      at = t.end
    }
    if (at < end) add(graph, { from, start: at, end })
  }
  return { plans, segments, bytes: rope.length }
}

/** The first of a sorted list that begins at `start` or later. */
function firstFrom(list: readonly { readonly start: number }[], start: number): number {
  let low = 0
  let high = list.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (list[middle]!.start < start) low = middle + 1
    else high = middle
  }
  return low
}

class MemoryReader implements RangeReader {
  readonly #bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  readSync(offset: number, length: number): Uint8Array {
    return this.#bytes.slice(offset, offset + length)
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return Promise.resolve(this.readSync(offset, length))
  }
}

/**
 * @internal Codes a model as a `.whittle` container, front to back, one chunk in memory at a time. `put` takes the pieces;
 * `tell` hears how much of the ONNX file is done. Answers the container's size.
 */
export async function pack(
  m: Encodable,
  put: (bytes: Uint8Array) => Promise<void> | void,
  tell: (done: number, total: number) => void = () => {},
): Promise<number> {
  const { plans, segments, bytes } = plan(m)
  const streams: Stream[] = []
  let at = kHeader
  let done = 0
  await put(header())
  for (const p of plans) {
    const chunks: Chunk[] = []
    const shape = p.shape
    const reader = new RunReader(p.runs)
    for (let left = p.length; left > 0;) {
      const raw = await reader.next(Math.min(left, p.chunkBytes))
      const coded = p.type === undefined ? squeeze(raw) : encodeBlock(raw, shape)
      chunks.push({ offset: at, length: coded.length, crc: crc32(coded) })
      at += coded.length
      left -= raw.length
      done += raw.length
      await put(coded)
      tell(done, bytes)
    }
    const type = p.type === undefined ? 0 : elementCodeOf(p.type)
    streams.push({ type, chunkBytes: p.chunkBytes, length: p.length, chunks })
  }
  const end = trailer({ streams, segments }, at)
  await put(end)
  return at + end.length
}

/** Reads runs one behind the other, in pieces that may span several. */
class RunReader {
  readonly #runs: readonly Run[]
  #run = 0
  #at = 0

  constructor(runs: readonly Run[]) {
    this.#runs = runs
    this.#at = runs[0]?.start ?? 0
  }

  async next(length: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = []
    for (let left = length; left > 0;) {
      const { from, end } = this.#runs[this.#run]!
      const take = Math.min(left, end - this.#at)
      pieces.push(await from.read(this.#at, take))
      this.#at += take
      left -= take
      if (this.#at === end) this.#at = this.#runs[++this.#run]?.start ?? 0
    }
    if (pieces.length === 1) return pieces[0]!
    const out = new Uint8Array(length)
    let at = 0
    for (const p of pieces) {
      out.set(p, at)
      at += p.length
    }
    return out
  }
}

/** @internal Writes a container; the target is replaced at the very end, or not at all. */
export async function savePacked(m: Encodable, target: string, options: WriteOptions): Promise<SaveResult> {
  const files = new FileSet({
    ...(options.signal ? { signal: options.signal } : {}),
  })
  try {
    const real = regularTarget(target)
    await files.write(real, async (sink) => {
      await pack(
        m,
        (bytes) => files.put(sink, bytes),
        (bytes, total) => options.onProgress?.({ bytes, total }),
      )
    })
    files.commit()
    const all = files.written.map((f) => ({ path: f.target, bytes: f.bytes }))
    return { bytes: all.reduce((sum, f) => sum + f.bytes, 0), files: all }
  } catch (error) {
    files.abandon()
    throw error instanceof WhittleError ? error : ioError(target, 'write', error)
  }
}
