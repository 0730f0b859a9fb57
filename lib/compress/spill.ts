import fs from 'node:fs'
import os from 'node:os'

import { ioError } from '../model/bytes'
import type { DataSource } from '../model/graph'
import { openTemporary } from './temporary'

/** Descriptors of files that nobody refers to any more are closed with them. */
const kLost = new FinalizationRegistry<number>((fd) => fs.closeSync(fd))

/**
 * @internal A temporary file without a name: it was removed while it is open, so that its bytes go with the process, or as soon
 * as no source refers to it.
 */
export class SpillFile {
  #fd = -1
  #length = 0
  #failed = false
  #gaps: { readonly offset: number; readonly length: number }[] = []

  /** Writes bytes where there is room, else behind the others. `undefined` where the system does not let us. */
  add(bytes: Uint8Array): DataSource | undefined {
    if (!this.#open()) return undefined
    const gap = this.#gaps.find((g) => g.length >= bytes.byteLength)
    const offset = gap?.offset ?? this.#length
    try {
      for (let done = 0; done < bytes.byteLength;) done += fs.writeSync(this.#fd, bytes, done, bytes.byteLength - done, offset + done)
    } catch {
      this.#failed = true
      return undefined
    }
    if (gap) {
      const rest = { offset: offset + bytes.byteLength, length: gap.length - bytes.byteLength }
      this.#gaps = [...this.#gaps.filter((g) => g !== gap), ...(rest.length > 0 ? [rest] : [])]
    } else this.#length += bytes.byteLength
    return new SpilledSource(this, offset, bytes.byteLength)
  }

  /** Nobody will read these bytes again: others may take their place. */
  free(source: DataSource): void {
    if (source instanceof SpilledSource) this.#gaps.push({ offset: source.offset, length: source.byteLength })
  }

  /** Sources in it cannot be read any more. */
  close(): void {
    if (this.#fd >= 0) fs.closeSync(this.#fd)
    kLost.unregister(this)
    this.#fd = -1
    this.#failed = true
  }

  /** @throws `ERR_IO` */
  readSync(position: number, length: number): Uint8Array {
    const out = new Uint8Array(length)
    for (let done = 0; done < length;) {
      let n = 0
      try {
        n = fs.readSync(this.#fd, out, done, length - done, position + done)
      } catch (cause) {
        throw ioError(os.tmpdir(), 'read', cause)
      }
      if (n === 0) throw ioError(os.tmpdir(), 'read', new Error('a temporary file was cut'))
      done += n
    }
    return out
  }

  /** @throws `ERR_IO` */
  async read(position: number, length: number): Promise<Uint8Array> {
    const out = new Uint8Array(length)
    for (let done = 0; done < length;) {
      const n = await new Promise<number>((resolve, reject) => {
        fs.read(this.#fd, out, done, length - done, position + done, (error, count) =>
          error ? reject(ioError(os.tmpdir(), 'read', error)) : resolve(count),
        )
      })
      if (n === 0) throw ioError(os.tmpdir(), 'read', new Error('a temporary file was cut'))
      done += n
    }
    return out
  }

  #open(): boolean {
    if (this.#failed) return false
    if (this.#fd >= 0) return true
    try {
      this.#fd = openTemporary()
      kLost.register(this, this.#fd, this)
    } catch {
      this.#failed = true
    }
    return !this.#failed
  }
}

class SpilledSource implements DataSource {
  readonly kind = 'file'
  readonly byteLength: number
  readonly #file: SpillFile
  readonly offset: number

  constructor(file: SpillFile, offset: number, byteLength: number) {
    this.#file = file
    this.offset = offset
    this.byteLength = byteLength
  }

  readSync(offset: number, length: number): Uint8Array {
    return this.#file.readSync(this.offset + offset, length)
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#file.read(this.offset + offset, length)
  }
}
