import fs from 'node:fs'
import path from 'node:path'
import { createHash } from 'node:crypto'
import { FileBytes, RangeSource, ioError, malformed } from '../bytes'

/** Where a tensor's data lies outside the model file, as the file says. */
export interface ExternalEntry {
  readonly location: string
  readonly offset: number
  readonly length: number | undefined
  readonly checksum: string | undefined
}

/**
 * Opens the files that hold a model's external data, each once, and hands out the same source for the same range, so
 * that tied weights stay tied. A location must be relative and must stay, links followed, in the model's folder.
 */
export class ExternalFiles {
  readonly #folder: string | undefined
  readonly #label: string
  readonly #verify: boolean
  readonly #files = new Map<string, FileBytes>()
  readonly #sources = new Map<string, RangeSource>()

  constructor(folder: string | undefined, label: string, verify: boolean) {
    this.#folder = folder
    this.#label = label
    this.#verify = verify
  }

  /** Locations, as the model spells them, with the open files. */
  get files(): ReadonlyMap<string, FileBytes> {
    return this.#files
  }

  source(tensor: string, entry: ExternalEntry, byteLength: number | undefined): RangeSource {
    const file = this.#open(tensor, entry)
    const length = byteLength ?? entry.length ?? file.length - entry.offset
    if (entry.length !== undefined && entry.length !== length)
      malformed(this.#label, `tensor ${tensor}: external data of ${entry.length} bytes where its dims need ${length}`)
    if (entry.offset + length > file.length)
      malformed(
        this.#label,
        `tensor ${tensor}: ${entry.location} ends at byte ${file.length}, before byte ${entry.offset + length}`,
      )
    const key = `${entry.offset} ${length} ${file.path}`
    const known = this.#sources.get(key)
    if (known) return known
    const made = new RangeSource('external', file, entry.offset, length)
    this.#sources.set(key, made)
    return made
  }

  close(): void {
    for (const f of this.#files.values()) f.close()
  }

  #open(tensor: string, entry: ExternalEntry): FileBytes {
    const known = this.#files.get(entry.location)
    if (known) return known
    const file = new FileBytes(this.#resolve(tensor, entry.location))
    this.#files.set(entry.location, file)
    if (this.#verify && entry.checksum !== undefined) this.#check(file, entry.checksum)
    return file
  }

  #resolve(tensor: string, location: string): string {
    if (this.#folder === undefined)
      malformed(
        this.#label,
        `tensor ${tensor}: its data is in the file ${location}, but a model given as bytes has no folder`,
      )
    const refuse = (why: string): never =>
      malformed(this.#label, `tensor ${tensor}: external data at ${JSON.stringify(location)}: ${why}`)
    checkLocation(location, refuse)
    const full = path.join(this.#folder, location)
    let real: string
    let folder: string
    try {
      folder = fs.realpathSync(this.#folder)
      real = fs.realpathSync(full)
    } catch (cause) {
      throw ioError(full, 'open the external data', cause)
    }
    if (!real.startsWith(folder.endsWith(path.sep) ? folder : folder + path.sep))
      refuse("a link leads out of the model's folder")
    return real
  }

  #check(file: FileBytes, expected: string): void {
    const hash = createHash('sha1')
    const step = 4e6
    for (let at = 0; at < file.length; at += step) hash.update(file.readSync(at, Math.min(step, file.length - at)))
    const got = hash.digest('hex')
    if (got !== expected.toLowerCase())
      malformed(this.#label, `external data ${file.path}: SHA-1 ${got} where the model says ${expected}`)
  }
}

/** @internal The rules for a location that need no file system. Backslashes and drive letters are refused everywhere. */
export function checkLocation(location: string, refuse: (why: string) => never): void {
  if (location === '' || location.includes('\0')) refuse('not a file name')
  if (path.posix.isAbsolute(location) || path.win32.isAbsolute(location) || /^[A-Za-z]:/.test(location))
    refuse('an absolute path is not accepted')
  const parts = location.split(/[\\/]/)
  if (parts.includes('..')) refuse("the path leaves the model's folder")
}
