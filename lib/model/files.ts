import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { WhittleError } from '../errors'
import { ioError } from './bytes'

const kChunk = 4 << 20

export interface WriteOptions {
  signal?: AbortSignal
  /** Called now and then with the bytes written so far and the bytes there will be. */
  onProgress?: (progress: { bytes: number; total: number }) => void
}

/**
 * @internal Files that are to appear together: streamed into temporary files beside their targets, synced, and renamed
 * at the end, in the order of writing: what refers to others comes last. Until {@link commit} every target is as it was; {@link abandon} leaves no trace.
 */
export class FileSet {
  /** bytes that there will be, for progress */
  total = 0
  readonly written: { readonly temp: string; readonly target: string; bytes: number }[] = []
  readonly #options: WriteOptions
  #done = 0

  constructor(options: WriteOptions) {
    this.#options = options
  }

  async write(target: string, fill: (sink: Sink) => Promise<void>): Promise<void> {
    this.checkAbort()
    const temp = path.join(path.dirname(target), `.whittle-${process.pid}-${randomBytes(6).toString('hex')}.tmp`)
    let mode = 0o666
    try {
      mode = fs.statSync(target).mode & 0o777
      fs.accessSync(target, fs.constants.W_OK)
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw ioError(target, 'write', cause)
    }
    const handle = await fs.promises.open(temp, 'wx', mode)
    const entry = { temp, target, bytes: 0 }
    this.written.push(entry)
    try {
      const sink = new Sink(handle)
      await fill(sink)
      await sink.flush()
      await handle.sync()
      entry.bytes = sink.bytes
    } finally {
      await handle.close()
    }
  }

  async copy(
    sink: Sink,
    from: { read(offset: number, length: number): Promise<Uint8Array> },
    start: number,
    end: number,
  ): Promise<void> {
    for (let at = start; at < end; at += kChunk) await this.put(sink, await from.read(at, Math.min(kChunk, end - at)))
  }

  async put(sink: Sink, bytes: Uint8Array): Promise<void> {
    this.checkAbort()
    await sink.write(bytes)
    this.#done += bytes.length
    this.#options.onProgress?.({ bytes: this.#done, total: Math.max(this.total, this.#done) })
  }

  checkAbort(): void {
    if (this.#options.signal?.aborted)
      throw new WhittleError('ERR_ABORTED', 'signal', 'signal: saving was aborted', {
        cause: this.#options.signal.reason,
      })
  }

  /**
   * Renames all files into place. What is replaced before the last one is kept under another name meanwhile, so that a
   * failure in between can be taken back.
   */
  commit(): void {
    this.checkAbort()
    const undo: { target: string; backup: string | undefined }[] = []
    const last = this.written[this.written.length - 1]
    try {
      for (const f of this.written) {
        let backup: string | undefined
        if (f !== last && fs.existsSync(f.target)) {
          backup = `${f.temp}.old`
          keepAs(f.target, backup)
        }
        undo.push({ target: f.target, backup })
        fs.renameSync(f.temp, f.target)
      }
    } catch (error) {
      for (const { target, backup } of undo.reverse())
        if (backup) fs.renameSync(backup, target)
        else if (target !== last?.target) fs.rmSync(target, { force: true })
      throw error
    }
    for (const { backup } of undo) if (backup) fs.rmSync(backup, { force: true })
    for (const folder of new Set(this.written.map((f) => path.dirname(f.target)))) syncFolder(folder)
  }

  abandon(): void {
    for (const f of this.written) fs.rmSync(f.temp, { force: true })
  }
}

// What a Sink needs of a file handle; declared here so that the package's types need none of Node's.
interface Target {
  write(bytes: Uint8Array, offset: number, length: number): Promise<{ bytesWritten: number }>
}

/** @internal Gathers small writes. */
export class Sink {
  bytes = 0
  /** sees every byte that goes by */
  hash: { update(bytes: Uint8Array): unknown } | undefined
  readonly #handle: Target
  readonly #buffer = new Uint8Array(1 << 18)
  #used = 0

  constructor(handle: Target) {
    this.#handle = handle
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.bytes += bytes.length
    if (bytes.length + this.#used > this.#buffer.length) await this.flush()
    if (bytes.length > this.#buffer.length) return this.#out(bytes)
    this.#buffer.set(bytes, this.#used)
    this.#used += bytes.length
  }

  async flush(): Promise<void> {
    const used = this.#used
    this.#used = 0
    if (used > 0) await this.#out(this.#buffer.subarray(0, used))
  }

  async #out(bytes: Uint8Array): Promise<void> {
    this.hash?.update(bytes)
    for (let done = 0; done < bytes.length;)
      done += (await this.#handle.write(bytes, done, bytes.length - done)).bytesWritten
  }
}

/** @internal Follows links to the file that is to be replaced. A rename would replace a device or a pipe, so these are refused. */
export function regularTarget(target: string): string {
  let real: string
  try {
    real = fs.realpathSync(target)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return path.resolve(target)
    throw ioError(target, 'write', cause)
  }
  if (!fs.statSync(real).isFile())
    throw new WhittleError('ERR_IO', target, `${target}: cannot write: not a regular file`)
  return real
}

/** Gives a file a second name; where the file system has no such thing, its only one. */
function keepAs(file: string, backup: string): void {
  try {
    fs.linkSync(file, backup)
  } catch {
    fs.renameSync(file, backup)
  }
}

function syncFolder(folder: string): void {
  try {
    const fd = fs.openSync(folder, 'r')
    try {
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
  } catch {
    // Not every system lets a folder be opened; the files themselves are synced.
  }
}
