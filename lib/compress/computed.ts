import { WhittleError } from '../errors'
import { MemorySource, type DataSource, type Initializer } from '../model/graph'
import { allocate, isDataType, type Tensor } from '../tensor'
import { paged, touched } from './paged'
import { SpillFile } from './spill'

/** The one result that is held between reads: a writer takes a tensor in pieces, from first to last. */
let held: { readonly source: ComputedSource; readonly bytes: Uint8Array } | undefined

/**
 * @internal Bytes that are computed when they are read, so that a model larger than memory can be changed: between
 * reads nothing is kept but the recipe. `compute` must give the same bytes each time; it must not refer to anything large.
 * Where `again` is true the bytes may lie in memory that the next call uses again.
 */
export class ComputedSource implements DataSource {
  readonly kind = 'computed'
  readonly byteLength: number
  readonly #compute: (again: boolean) => Uint8Array

  constructor(byteLength: number, compute: (again: boolean) => Uint8Array) {
    this.byteLength = byteLength
    this.#compute = compute
  }

  readSync(offset: number, length: number): Uint8Array {
    if (offset === 0 && length === this.byteLength) return this.#compute(false)
    if (held?.source !== this) held = { source: this, bytes: this.#compute(true) }
    const { bytes } = held
    if (offset + length >= this.byteLength) held = undefined
    return bytes.slice(offset, offset + length)
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      setImmediate(() => {
        try {
          resolve(this.readSync(offset, length))
        } catch (error) {
          reject(error as Error)
        }
      })
    })
  }
}

/**
 * @internal Memory that is used again from tensor to tensor: fresh pages cost more than the work on them, and a large
 * model must not pile up garbage. Held weakly between uses.
 */
export class Scratch {
  readonly #buffers = new Map<string, WeakRef<ArrayBuffer>>()

  /** `byteLength` bytes with what they last held. Valid until the same `slot` is asked for again. */
  bytes(slot: string, byteLength: number): Uint8Array {
    let buffer = this.#buffers.get(slot)?.deref()
    if (!buffer || buffer.byteLength < byteLength) {
      buffer = (paged('uint8', byteLength) as Uint8Array<ArrayBuffer>).buffer
      this.#buffers.set(slot, new WeakRef(buffer))
    }
    return new Uint8Array(buffer, 0, byteLength)
  }

  floats(slot: string, count: number): Float32Array<ArrayBuffer> {
    const { buffer } = this.bytes(slot, count * 4)
    return new Float32Array(buffer as ArrayBuffer, 0, count)
  }

  doubles(slot: string, count: number): Float64Array<ArrayBuffer> {
    const { buffer } = this.bytes(slot, count * 8)
    return new Float64Array(buffer as ArrayBuffer, 0, count)
  }

  /** Reads a tensor in pieces into memory of this scratch. The result is overwritten by the next read. */
  read(initializer: Initializer, slot = 'tensor'): Tensor {
    const { source, type, dims, byteLength } = initializer
    // What is computed comes in one piece of its own, made with this scratch: a copy would overwrite its maker's memory.
    if (source.kind === 'memory' || source.kind === 'computed' || !isDataType(type) || byteLength < 1e6)
      return initializer.readSync()
    const bytes = this.bytes(slot, byteLength)
    let at = 0
    for (const piece of initializer.chunksSync()) {
      bytes.set(piece, at)
      at += piece.byteLength
    }
    const like = allocate(type, 0)
    const constructor = like.constructor as new (
      buffer: ArrayBufferLike,
      offset: number,
      length: number,
    ) => Tensor['data']
    return { type, dims, data: new constructor(bytes.buffer, 0, byteLength / like.BYTES_PER_ELEMENT) }
  }
}

/** @internal Bytes of small results that are kept; what goes beyond is computed again when the model is saved, or lies in a file. */
export class KeepBudget {
  /** For one run of `compress`, in bytes. */
  static limit = 8e6
  #left: number
  #spill: SpillFile | undefined

  constructor(bytes = KeepBudget.limit) {
    this.#left = bytes
  }

  /** True if `bytes` may be kept in memory. */
  take(bytes: number): boolean {
    if (bytes > this.#left) return false
    this.#left -= bytes
    return true
  }

  /**
   * A source of bytes that cannot be computed again: in memory while the budget lasts, else in a temporary file that is gone with
   * the last source in it. Where no such file can be written they stay in memory. The bytes are taken over.
   */
  hold(bytes: Uint8Array): DataSource {
    if (this.take(bytes.byteLength)) return new MemorySource(bytes)
    this.#spill ??= new SpillFile()
    return this.#spill.add(bytes) ?? new MemorySource(bytes)
  }
}

/** Values between two calls of {@link touched}. */
const kStretch = 2 ** 18

/** @internal ‖a − b‖₂ / ‖a‖₂ in double precision, of parts one after the other. */
export class Deviation {
  #difference = 0
  #size = 0

  add(a: Float32Array, b: Float32Array, from = 0, to = a.length): void {
    let difference = this.#difference
    let size = this.#size
    for (let i = from; i < to; i++) {
      const x = a[i]!
      const d = x - b[i]!
      difference += d * d
      size += x * x
    }
    this.#difference = difference
    this.#size = size
  }

  /** 0 for two zeros. */
  get relative(): number {
    return this.#difference === 0 ? 0 : this.#size === 0 ? Infinity : Math.sqrt(this.#difference / this.#size)
  }
}

/** @internal ‖a − b‖₂ / ‖a‖₂ in double precision; 0 for two zeros. */
export function relativeError(a: Float32Array, b: Float32Array): number {
  const found = new Deviation()
  for (let i = 0; i < a.length; i += kStretch) {
    const end = Math.min(a.length, i + kStretch)
    found.add(a, b, i, end)
    touched(8 * (end - i))
  }
  return found.relative
}

/** @internal Index of the first NaN or infinity, -1 if there is none. */
export function firstNonFinite(data: Float32Array): number {
  // A sum is not finite if a term is not: one pass without a branch a value. It cannot overflow: 2³¹ · 3.4e38 < 1.8e308.
  let sum = 0
  for (let i = 0; i < data.length; i++) {
    const v = data[i]!
    sum += v < 0 ? -v : v
  }
  if (Number.isFinite(sum)) return -1
  return data.findIndex((v) => !Number.isFinite(v))
}

/**
 * @internal Refuses a weight with NaN or an infinity, `ERR_RANGE` with its name; where the step keeps such weights, answers what is
 * wrong instead. `undefined` if all is finite.
 */
export function nonFiniteText(name: string, data: Float32Array, nonFinite: 'error' | 'keep' = 'error', hint = ''): string | undefined {
  const bad = firstNonFinite(data)
  if (bad < 0) return undefined
  const text = `element ${bad} is ${data[bad]}`
  if (nonFinite === 'keep') return text
  throw new WhittleError('ERR_RANGE', name, `${name}: expected finite weights, ${text}${hint}`)
}

/** @internal Share of zeros, 0 for an empty tensor. */
export function sparsityOf(data: ArrayLike<number>): number {
  let zeros = 0
  for (let i = 0; i < data.length; i++) if (data[i] === 0) zeros++
  return data.length ? zeros / data.length : 0
}

/** @internal [..., rows, columns] as [..., columns, rows], in memory of its own. */
export function transposed<T extends Float32Array | Int8Array>(data: T, rows: number, columns: number): T {
  const out = new (data.constructor as new (length: number) => T)(data.length)
  for (let base = 0; base < data.length; base += rows * columns)
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[base + j * rows + i] = data[base + i * columns + j] as number
  return out
}
