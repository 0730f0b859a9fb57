import fs from 'node:fs'
import path from 'node:path'
import { createHash, randomBytes } from 'node:crypto'
import { WhittleError } from '../../errors'
import type { Graph } from '../graph'
import type { DataSource, Initializer } from '../initializer'
import { ioError } from './bytes'
import { Encoder, type Encodable } from './encode'
import { checkLocation, type ExternalEntry, type ExternalFiles } from './external'
import type { Placement } from './tensor'
import type { Rope } from './wire'

/** Above this many bytes of weights, `externalData: 'auto'` moves them beside the model. */
const kAutoExternal = 1.5e9
/** What a protobuf reader accepts. */
const kMaxProto = 2 ** 31 - 1
/** Tensors in an external file begin at multiples of this, so that runtimes can map them. */
const kAlignment = 4096
const kChunk = 4 << 20

/** Where weights go when a model is saved. */
export interface ExternalDataOptions {
  /** File name relative to the model's folder. Default: the model's file name with `.data` behind it. */
  location?: string
  /** Tensors below this many bytes stay in the model. Default 1024. */
  threshold?: number
  /** Whether to record the SHA-1 of the data file. Default false. */
  checksum?: boolean
}

export interface SaveOptions {
  /**
   * `'auto'` (default): as the model came, but external where the weights exceed 1.5 GB. `false`: all in one file, which
   * formats refuse above 2 GB. `true` or an object: in a file beside the model.
   */
  externalData?: 'auto' | boolean | ExternalDataOptions
  signal?: AbortSignal
  /** Called now and then with the bytes written so far and the bytes there will be. */
  onProgress?: (progress: { bytes: number; total: number }) => void
}

export interface SaveResult {
  /** of all files together */
  readonly bytes: number
  /** the model first; external data behind it, also where it was there already and stayed as it was */
  readonly files: readonly { readonly path: string; readonly bytes: number }[]
}

/** All tensors of a model: those that graphs hold by name, and those in attributes. */
export function tensorsOf(m: Pick<Encodable, 'graph' | 'functions'>): {
  initializers: Initializer[]
  attributes: Initializer[]
} {
  const initializers: Initializer[] = []
  const attributes: Initializer[] = []
  const visit = (graph: Graph): void => {
    for (const g of graph.graphs()) {
      initializers.push(...g.initializers.values())
      for (const n of g.nodes)
        for (const a of n.attributes.values())
          if (a.type === 'tensor') attributes.push(a.value)
          else if (a.type === 'tensors') attributes.push(...a.value)
    }
  }
  visit(m.graph)
  for (const f of m.functions) visit(f.graph)
  return { initializers, attributes }
}

/** Encodes a model with all weights inside. */
export function encodeInline(m: Encodable): Rope {
  return new Encoder(() => 'inline').model(m)
}

/** @internal Reads a rope into one array. */
export function ropeToBytes(rope: Rope): Uint8Array {
  tooLarge(rope.length)
  const out = new Uint8Array(rope.length)
  let at = 0
  for (const p of rope.pieces())
    if ('from' in p)
      for (let pos = p.start; pos < p.end; pos += kChunk) {
        const part = p.from.readSync(pos, Math.min(kChunk, p.end - pos))
        out.set(part, at)
        at += part.length
      }
    else {
      out.set(p, at)
      at += p.length
    }
  return out
}

function tooLarge(bytes: number): void {
  if (bytes > kMaxProto)
    throw new WhittleError(
      'ERR_RANGE',
      'externalData',
      `externalData: a model of ${bytes} bytes does not fit in one file (at most ${kMaxProto}); save it with externalData: true`,
    )
}

/**
 * Saves a model: streams into temporary files beside the targets, syncs them, and renames them all at the end. If
 * anything fails before that, the targets are as they were.
 */
export async function saveModel(
  m: Encodable,
  external: ExternalFiles | undefined,
  target: string,
  options: SaveOptions,
): Promise<SaveResult> {
  const job = new SaveJob(target, options)
  try {
    return await job.run(m, external)
  } catch (error) {
    job.abandon()
    throw error instanceof WhittleError ? error : ioError(target, 'write', error)
  }
}

class SaveJob {
  readonly #options: SaveOptions
  readonly #target: string
  readonly #folder: string
  readonly #files: { temp: string; target: string; bytes: number }[] = []
  #done = 0
  #total = 0

  constructor(target: string, options: SaveOptions) {
    this.#options = options
    this.#target = regularTarget(target)
    this.#folder = path.dirname(this.#target)
  }

  async run(m: Encodable, external: ExternalFiles | undefined): Promise<SaveResult> {
    const { externalData = 'auto' } = this.#options
    const kept: { path: string; bytes: number }[] = []
    let place: (t: Initializer) => Placement = () => 'keep'
    if (externalData === 'auto' && new Encoder(place).modelUnchanged(m)) {
      // The model as it came: its data files go along, as they are.
      for (const [location, file] of external?.files ?? []) {
        const to = path.join(this.#folder, location)
        if (sameFile(file.path, to)) kept.push({ path: to, bytes: file.length })
        else {
          fs.mkdirSync(path.dirname(to), { recursive: true })
          this.#total += file.length
          await this.#write(regularTarget(to), (sink) =>
            this.#copy(sink, { read: (p, n) => file.read(p, n) }, 0, file.length),
          )
        }
      }
    } else {
      const entries = await this.#external(m, externalData)
      place = (t) => entries.get(t.source) ?? 'inline'
    }
    const rope = new Encoder(place).model(m)
    // A copy may be as large as the file was.
    if (rope.length !== m.origin?.bytes.length) tooLarge(rope.length)
    this.#total += rope.length
    await this.#write(this.#target, async (sink) => {
      for (const p of rope.pieces())
        if ('from' in p) await this.#copy(sink, p.from, p.start, p.end)
        else await this.#put(sink, p)
    })
    this.#checkAbort()
    this.#commit()
    const files = this.#files.map((f) => ({ path: f.target, bytes: f.bytes })).reverse()
    files.push(...kept)
    return { bytes: files.reduce((sum, f) => sum + f.bytes, 0), files }
  }

  /** Writes the data file, if there is to be one, and says where in it each source lies. */
  async #external(
    m: Encodable,
    wish: NonNullable<SaveOptions['externalData']>,
  ): Promise<Map<DataSource, ExternalEntry>> {
    const { initializers, attributes } = tensorsOf(m)
    const settings: ExternalDataOptions = typeof wish === 'object' ? wish : {}
    const threshold = settings.threshold ?? 1024
    const chosen = new Set<DataSource>()
    if (wish !== false) {
      let total = 0
      let external = wish !== 'auto'
      for (const t of [...initializers, ...attributes]) {
        total += t.byteLength
        if (t.source.kind === 'external') external = true
      }
      if (external || total > kAutoExternal) {
        const movable = (t: Initializer): boolean => t.type !== 'string' && t.byteLength >= threshold
        for (const t of initializers) if (movable(t)) chosen.add(t.source)
        for (const s of chosen) total -= s.byteLength
        // Few runtimes look for external data in attributes: only where the file would otherwise be too large.
        if (total > kAutoExternal) for (const t of attributes) if (movable(t)) chosen.add(t.source)
      }
    }
    const entries = new Map<DataSource, ExternalEntry>()
    if (chosen.size === 0) return entries
    const location = settings.location ?? `${path.basename(this.#target)}.data`
    checkLocation(location, (why) => {
      throw new WhittleError(
        'ERR_RANGE',
        'externalData.location',
        `externalData.location: ${JSON.stringify(location)}: ${why}`,
      )
    })
    const target = path.join(this.#folder, location)
    if (path.resolve(target) === path.resolve(this.#target))
      throw new WhittleError('ERR_RANGE', 'externalData.location', 'externalData.location: is the model file itself')
    const hash = settings.checksum ? createHash('sha1') : undefined
    let offset = 0
    for (const source of chosen) {
      offset = Math.ceil(offset / kAlignment) * kAlignment
      entries.set(source, { location, offset, length: source.byteLength, checksum: undefined })
      offset += source.byteLength
    }
    this.#total += offset
    await this.#write(regularTarget(target), async (sink) => {
      sink.hash = hash
      for (const [source, entry] of entries) {
        const gap = entry.offset - sink.bytes
        if (gap > 0) await this.#put(sink, new Uint8Array(gap))
        await this.#copy(sink, source, 0, source.byteLength)
      }
    })
    if (hash) {
      const checksum = hash.digest('hex')
      for (const [source, entry] of entries) entries.set(source, { ...entry, checksum })
    }
    return entries
  }

  async #write(target: string, fill: (sink: Sink) => Promise<void>): Promise<void> {
    this.#checkAbort()
    const temp = path.join(path.dirname(target), `.whittle-${process.pid}-${randomBytes(6).toString('hex')}.tmp`)
    const entry = { temp, target, bytes: 0 }
    let mode = 0o666
    try {
      mode = fs.statSync(target).mode & 0o777
      fs.accessSync(target, fs.constants.W_OK)
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw ioError(target, 'write', cause)
    }
    const handle = await fs.promises.open(temp, 'wx', mode)
    this.#files.push(entry)
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

  async #copy(
    sink: Sink,
    from: { read(offset: number, length: number): Promise<Uint8Array> },
    start: number,
    end: number,
  ): Promise<void> {
    for (let at = start; at < end; at += kChunk) await this.#put(sink, await from.read(at, Math.min(kChunk, end - at)))
  }

  async #put(sink: Sink, bytes: Uint8Array): Promise<void> {
    this.#checkAbort()
    await sink.write(bytes)
    this.#done += bytes.length
    this.#options.onProgress?.({ bytes: this.#done, total: Math.max(this.#total, this.#done) })
  }

  #checkAbort(): void {
    if (this.#options.signal?.aborted)
      throw new WhittleError('ERR_ABORTED', 'signal', 'signal: saving was aborted', {
        cause: this.#options.signal.reason,
      })
  }

  /**
   * Renames all files into place, the model last. What is replaced before it is kept under another name meanwhile, so
   * that a failure in between can be taken back.
   */
  #commit(): void {
    const undo: { target: string; backup: string | undefined }[] = []
    try {
      for (const f of this.#files) {
        let backup: string | undefined
        if (f.target !== this.#target && fs.existsSync(f.target)) {
          backup = `${f.temp}.old`
          keepAs(f.target, backup)
        }
        undo.push({ target: f.target, backup })
        fs.renameSync(f.temp, f.target)
      }
    } catch (error) {
      for (const { target, backup } of undo.reverse())
        if (backup) fs.renameSync(backup, target)
        else if (target !== this.#target) fs.rmSync(target, { force: true })
      throw error
    }
    for (const { backup } of undo) if (backup) fs.rmSync(backup, { force: true })
    for (const folder of new Set(this.#files.map((f) => path.dirname(f.target)))) syncFolder(folder)
  }

  abandon(): void {
    for (const f of this.#files) fs.rmSync(f.temp, { force: true })
  }
}

/** Gathers small writes. */
class Sink {
  bytes = 0
  hash: ReturnType<typeof createHash> | undefined
  readonly #handle: fs.promises.FileHandle
  readonly #buffer = new Uint8Array(1 << 18)
  #used = 0

  constructor(handle: fs.promises.FileHandle) {
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

/** Follows links to the file that is to be replaced. A rename would replace a device or a pipe, so these are refused. */
function regularTarget(target: string): string {
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

function sameFile(a: string, b: string): boolean {
  try {
    const [x, y] = [fs.statSync(a, { bigint: true }), fs.statSync(b, { bigint: true })]
    return x.dev === y.dev && x.ino === y.ino
  } catch {
    return false
  }
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
