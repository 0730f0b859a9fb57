import { WhittleError } from '../errors'
import { allocate, byteLengthOf, isDataType, sizeOf, type DataType, type Tensor } from '../tensor'
import { elementBitsOf, type ElementType } from './types'

/** Where the bytes of a tensor lie. Bytes are in `raw_data` form: little-endian, sub-byte types packed. Never changes. */
export interface DataSource {
  /** `memory`: bytes we hold; `file`: a range of the model file; `external`: a range of a file beside it; `computed`: made when read. */
  readonly kind: 'memory' | 'file' | 'external' | 'computed'
  readonly byteLength: number
  /** Reads `length` bytes from `offset` on into a fresh array. Throws `ERR_IO`. */
  readSync(offset: number, length: number): Uint8Array
  /** As {@link readSync}, without blocking the event loop. */
  read(offset: number, length: number): Promise<Uint8Array>
}

/** Bytes in memory. The array is taken over: do not change it afterwards. */
export class MemorySource implements DataSource {
  readonly kind = 'memory'
  readonly bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get byteLength(): number {
    return this.bytes.byteLength
  }

  readSync(offset: number, length: number): Uint8Array {
    return this.bytes.slice(offset, offset + length)
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return Promise.resolve(this.readSync(offset, length))
  }
}

/**
 * A named constant tensor whose data is read when asked for. It never changes: to change a weight, put another
 * initializer in its place (`graph.setInitializer`). Tied weights share one {@link source} object, and a writer stores
 * a shared external source once.
 *
 * @example
 * const w = model.graph.initializers.get('fc.weight')
 * const { type, dims, data } = await w.read()
 */
export class Initializer {
  readonly name: string
  readonly type: ElementType
  readonly dims: readonly number[]
  readonly source: DataSource
  /** @internal the file's own record */
  readonly origin: unknown

  constructor(name: string, type: ElementType, dims: readonly number[], source: DataSource, origin?: unknown) {
    this.name = name
    this.type = type
    this.dims = Object.freeze([...dims])
    this.source = source
    this.origin = origin
  }

  /** An initializer over a tensor in memory. The tensor's data is not copied: do not change it afterwards. */
  static from(name: string, tensor: Tensor): Initializer {
    const { data } = tensor
    const count = sizeOf(tensor.dims)
    if (byteLengthOf(tensor.type, count) !== data.byteLength)
      throw new WhittleError(
        'ERR_SHAPE',
        name,
        `${name}: dims [${tensor.dims.join(', ')}] of ${tensor.type} need ${byteLengthOf(tensor.type, count)} bytes, got ${data.byteLength}`,
      )
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
    return new Initializer(name, tensor.type, tensor.dims, new MemorySource(bytes))
  }

  /** Number of elements; 1 for a scalar. */
  get elementCount(): number {
    return sizeOf(this.dims)
  }

  /** Bytes that the data takes in a file. */
  get byteLength(): number {
    return this.source.byteLength
  }

  /** The same tensor under another name; the data stays shared. */
  renamed(name: string): Initializer {
    return name === this.name ? this : new Initializer(name, this.type, this.dims, this.source, this.origin)
  }

  /**
   * Reads the whole tensor. Small results may be views of memory that others read too: treat them as read-only.
   * Throws `ERR_DTYPE` for element types that are carried but not computed with (strings, complex, 8-bit floats),
   * `ERR_IO` if the file is gone or has changed.
   */
  readSync(): Tensor {
    const type = this.#readable()
    return this.#tensor(
      type,
      this.source.kind === 'memory' ? (this.source as MemorySource).bytes : this.source.readSync(0, this.byteLength),
    )
  }

  /** As {@link readSync}, without blocking the event loop. */
  async read(): Promise<Tensor> {
    const type = this.#readable()
    if (this.source.kind === 'memory') return this.readSync()
    return this.#tensor(type, await this.source.read(0, this.byteLength))
  }

  /** The data in pieces of at most `bytes` (default 4 MB), in order, so that a tensor need not fit in memory. */
  async *chunks(bytes = 4e6): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < this.byteLength; at += bytes)
      yield await this.source.read(at, Math.min(bytes, this.byteLength - at))
  }

  /** As {@link chunks}, blocking. */
  *chunksSync(bytes = 4e6): Generator<Uint8Array> {
    for (let at = 0; at < this.byteLength; at += bytes)
      yield this.source.readSync(at, Math.min(bytes, this.byteLength - at))
  }

  #readable(): DataType {
    if (!isDataType(this.type))
      throw new WhittleError(
        'ERR_DTYPE',
        this.name,
        `${this.name}: elements of type ${this.type} cannot be read as a tensor`,
      )
    return this.type
  }

  #tensor(type: DataType, bytes: Uint8Array): Tensor {
    const count = this.elementCount
    const size = Math.max(1, elementBitsOf(type) / 8)
    const data = allocateOver(type, count, bytes, size)
    return { type, dims: [...this.dims], data }
  }
}

function allocateOver(type: DataType, count: number, bytes: Uint8Array, size: number): Tensor['data'] {
  const out = allocate(type, 0) as Tensor['data']
  const constructor = out.constructor as new (
    buffer: ArrayBufferLike,
    offset?: number,
    length?: number,
  ) => Tensor['data']
  const length = byteLengthOf(type, count) / size
  if (bytes.byteOffset % size === 0) return new constructor(bytes.buffer, bytes.byteOffset, length)
  const copy = bytes.slice()
  return new constructor(copy.buffer, 0, length)
}
