import fs from 'node:fs'
import path from 'node:path'
import { createHash } from 'node:crypto'
import { WhittleError } from '../../errors'
import { FileSet, regularTarget, type WriteOptions } from '../files'
import type { Graph } from '../graph'
import type { DataSource, Initializer } from '../initializer'
import { ioError } from '../bytes'
import { Encoder, type Encodable } from './encode'
import { checkLocation, type ExternalEntry, type ExternalFiles } from './external'
import { PackedBytes } from '../whittle/reader'
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

export interface SaveOptions extends WriteOptions {
  /**
   * `'auto'` (default): as the model came, but external where the weights exceed 1.5 GB. `false`: all in one file, which
   * formats refuse above 2 GB. `true` or an object: in a file beside the model.
   */
  externalData?: 'auto' | boolean | ExternalDataOptions
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
  readonly #wish: NonNullable<SaveOptions['externalData']>
  readonly #target: string
  readonly #folder: string
  readonly #files: FileSet

  constructor(target: string, options: SaveOptions) {
    this.#wish = options.externalData ?? 'auto'
    this.#target = regularTarget(target)
    this.#folder = path.dirname(this.#target)
    this.#files = new FileSet(options)
  }

  async run(m: Encodable, external: ExternalFiles | undefined): Promise<SaveResult> {
    const kept: { path: string; bytes: number }[] = []
    const files = this.#files
    let place: (t: Initializer) => Placement = () => 'keep'
    // What came out of a container may be too large for one file, which its origin was not.
    const fits = m.origin === undefined || m.origin.end <= kMaxProto || !(m.origin.bytes instanceof PackedBytes)
    if (this.#wish === 'auto' && fits && new Encoder(place).modelUnchanged(m)) {
      // The model as it came: its data files go along, as they are.
      for (const [location, file] of external?.files ?? []) {
        const to = path.join(this.#folder, location)
        if (sameFile(file.path, to)) kept.push({ path: to, bytes: file.length })
        else {
          fs.mkdirSync(path.dirname(to), { recursive: true })
          files.total += file.length
          await files.write(regularTarget(to), (sink) => files.copy(sink, file, 0, file.length))
        }
      }
    } else {
      const entries = await this.#external(m)
      place = (t) => entries.get(t.source) ?? 'inline'
    }
    const rope = new Encoder(place).model(m)
    // A copy may be as large as the file was.
    if (rope.length !== m.origin?.bytes.length) tooLarge(rope.length)
    files.total += rope.length
    await files.write(this.#target, async (sink) => {
      for (const p of rope.pieces())
        if ('from' in p) await files.copy(sink, p.from, p.start, p.end)
        else await files.put(sink, p)
    })
    files.commit()
    const all = files.written.map((f) => ({ path: f.target, bytes: f.bytes })).reverse()
    all.push(...kept)
    return { bytes: all.reduce((sum, f) => sum + f.bytes, 0), files: all }
  }

  /** Writes the data file, if there is to be one, and says where in it each source lies. */
  async #external(m: Encodable): Promise<Map<DataSource, ExternalEntry>> {
    const wish = this.#wish
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
    this.#files.total += offset
    await this.#files.write(regularTarget(target), async (sink) => {
      sink.hash = hash
      for (const [source, entry] of entries) {
        const gap = entry.offset - sink.bytes
        if (gap > 0) await this.#files.put(sink, new Uint8Array(gap))
        await this.#files.copy(sink, source, 0, source.byteLength)
      }
    })
    if (hash) {
      const checksum = hash.digest('hex')
      for (const [source, entry] of entries) entries.set(source, { ...entry, checksum })
    }
    return entries
  }

  abandon(): void {
    this.#files.abandon()
  }
}

function sameFile(a: string, b: string): boolean {
  try {
    const [x, y] = [fs.statSync(a, { bigint: true }), fs.statSync(b, { bigint: true })]
    return x.dev === y.dev && x.ino === y.ino
  } catch {
    return false
  }
}
