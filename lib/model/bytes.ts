import fs from 'node:fs'
import { WhittleError } from '../errors'
import type { DataSource } from './initializer'

/** @internal Wraps what the file system threw. */
export function ioError(path: string, doing: string, cause: unknown): WhittleError {
  // Node's messages begin with the code.
  const { code, message } = (cause ?? {}) as Partial<NodeJS.ErrnoException>
  const text = message ?? String(cause)
  const why = code && !text.startsWith(code) ? `${code} ${text}` : text
  return new WhittleError('ERR_IO', path, `${path}: cannot ${doing}: ${why}`, { cause })
}

/** @internal */
export function malformed(parameter: string, message: string): never {
  throw new WhittleError('ERR_MODEL_FORMAT', parameter, `${parameter}: ${message}`)
}

/** The bytes of a model, in memory or in a file, addressed by position. */
export interface Bytes {
  readonly length: number
  /** what error messages call it */
  readonly label: string
  byte(position: number): number
  readSync(position: number, length: number): Uint8Array
  read(position: number, length: number): Promise<Uint8Array>
}

export class MemoryBytes implements Bytes {
  readonly label: string
  readonly data: Uint8Array

  constructor(data: Uint8Array, label = 'model') {
    this.data = data
    this.label = label
  }

  get length(): number {
    return this.data.length
  }

  byte(position: number): number {
    return this.data[position] as number
  }

  readSync(position: number, length: number): Uint8Array {
    return this.data.slice(position, position + length)
  }

  read(position: number, length: number): Promise<Uint8Array> {
    return Promise.resolve(this.readSync(position, length))
  }
}

const kWindow = 65536

/** Descriptors of files that nobody refers to any more are closed with them. */
const kLost = new FinalizationRegistry<number>((fd) => {
  try {
    fs.closeSync(fd)
  } catch {
    // Closed by hand before.
  }
})

/**
 * An open file, read by position. The descriptor is kept, so that the file may be replaced by name (as saving over it
 * does) while its old bytes are still read. A file that is changed in place is refused at the next read.
 */
export class FileBytes implements Bytes {
  readonly path: string
  readonly length: number
  readonly #fd: number
  readonly #mtime: bigint
  #closed = false
  #window: Uint8Array | undefined
  #at = 0
  #held = 0

  constructor(path: string) {
    this.path = path
    let fd: number
    try {
      fd = fs.openSync(path, 'r')
    } catch (cause) {
      throw ioError(path, 'open', cause)
    }
    try {
      const stat = fs.fstatSync(fd, { bigint: true })
      if (!stat.isFile()) throw new WhittleError('ERR_IO', path, `${path}: not a regular file`)
      this.length = Number(stat.size)
      this.#mtime = stat.mtimeNs
    } catch (cause) {
      fs.closeSync(fd)
      throw cause instanceof WhittleError ? cause : ioError(path, 'stat', cause)
    }
    this.#fd = fd
    kLost.register(this, fd, this)
  }

  get label(): string {
    return this.path
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#window = undefined
    kLost.unregister(this)
    fs.closeSync(this.#fd)
  }

  byte(position: number): number {
    if (!this.#window || position < this.#at || position >= this.#at + this.#held) this.#fill(position)
    return (this.#window as Uint8Array)[position - this.#at] as number
  }

  /** Gives back the window: after indexing, reads are large and do not need it. */
  release(): void {
    this.#window = undefined
    this.#held = 0
  }

  readSync(position: number, length: number): Uint8Array {
    if (this.#window && position >= this.#at && position + length <= this.#at + this.#held)
      return this.#window.slice(position - this.#at, position - this.#at + length)
    if (this.#window && length <= 4096 && position + length <= this.length) {
      this.#fill(position)
      return this.#window.slice(0, length)
    }
    const out = this.#allocate(position, length)
    for (let done = 0; done < length;) {
      const n = this.#attempt(() => fs.readSync(this.#fd, out, done, length - done, position + done))
      if (n === 0) throw this.#changed()
      done += n
    }
    return out
  }

  async read(position: number, length: number): Promise<Uint8Array> {
    const out = this.#allocate(position, length)
    for (let done = 0; done < length;) {
      const n = await new Promise<number>((resolve, reject) => {
        fs.read(this.#fd, out, done, length - done, position + done, (error, count) =>
          error ? reject(ioError(this.path, 'read', error)) : resolve(count),
        )
      })
      if (n === 0) throw this.#changed()
      done += n
    }
    return out
  }

  /** Throws `ERR_IO` if the file is no longer what was opened. */
  check(): void {
    if (this.#closed) throw new WhittleError('ERR_IO', this.path, `${this.path}: the model was closed`)
    const stat = this.#attempt(() => fs.fstatSync(this.#fd, { bigint: true }))
    if (stat.mtimeNs !== this.#mtime || Number(stat.size) !== this.length) throw this.#changed()
  }

  #allocate(position: number, length: number): Uint8Array {
    this.check()
    if (position < 0 || position + length > this.length) throw this.#changed()
    try {
      return new Uint8Array(length)
    } catch (cause) {
      throw new WhittleError('ERR_OUT_OF_MEMORY', this.path, `${this.path}: cannot allocate ${length} bytes`, { cause })
    }
  }

  #fill(position: number): void {
    this.check()
    this.#window ??= new Uint8Array(kWindow)
    const window = this.#window
    this.#at = position
    this.#held = this.#attempt(() => fs.readSync(this.#fd, window, 0, kWindow, position))
    if (this.#held === 0) throw this.#changed()
    // Short reads happen on network file systems; a window then is just smaller, but must cover small reads.
    while (this.#held < Math.min(4096, this.length - position)) {
      const n = this.#attempt(() =>
        fs.readSync(this.#fd, window, this.#held, kWindow - this.#held, position + this.#held),
      )
      if (n === 0) throw this.#changed()
      this.#held += n
    }
  }

  #attempt<T>(action: () => T): T {
    try {
      return action()
    } catch (cause) {
      throw ioError(this.path, 'read', cause)
    }
  }

  #changed(): WhittleError {
    return new WhittleError('ERR_IO', this.path, `${this.path}: the file was changed or cut after it was opened`)
  }
}

/** A range of a model file, or of a file beside it, that holds a tensor in `raw_data` form. */
export class RangeSource implements DataSource {
  readonly kind: 'file' | 'external'
  readonly bytes: Bytes
  readonly offset: number
  readonly byteLength: number

  constructor(kind: 'file' | 'external', bytes: Bytes, offset: number, byteLength: number) {
    this.kind = kind
    this.bytes = bytes
    this.offset = offset
    this.byteLength = byteLength
  }

  readSync(offset: number, length: number): Uint8Array {
    return this.bytes.readSync(this.offset + offset, length)
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.bytes.read(this.offset + offset, length)
  }
}

/** A tensor that the file holds in another form (a list of varints): decoded as a whole at the first read. */
export class DecodedSource implements DataSource {
  readonly kind = 'file'
  readonly byteLength: number
  readonly #decode: () => Uint8Array
  #cache: WeakRef<Uint8Array> | undefined

  constructor(byteLength: number, decode: () => Uint8Array) {
    this.byteLength = byteLength
    this.#decode = decode
  }

  readSync(offset: number, length: number): Uint8Array {
    let all = this.#cache?.deref()
    if (!all) {
      all = this.#decode()
      this.#cache = new WeakRef(all)
    }
    return all.slice(offset, offset + length)
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    try {
      return Promise.resolve(this.readSync(offset, length))
    } catch (error) {
      return Promise.reject(error as Error)
    }
  }
}
