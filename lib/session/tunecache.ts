import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { native } from '../native'
import { writeFileWhole } from '../report/write'
import { version } from '../version'

/** Choices made by timing on a machine like this one, by the shape of the layer. */
export interface Measured {
  /** undefined: nowhere to keep them */
  readonly file: string | undefined
  readonly key: string
  readonly layers: Map<string, string>
  /** those that the file may lack */
  readonly fresh: Set<string>
}

/** Entries kept; the oldest go first. */
const kMost = 4096

/** What a measurement holds for; a file for each. */
function keyOf(threads: number): string {
  const info = native().systemInfo()
  return JSON.stringify({
    version: version(),
    cpu: os.cpus()[0]?.model ?? '',
    arch: process.arch,
    variant: info.variant,
    kernels: info.kernels,
    caches: info.caches,
    threads: threads || info.threads,
  })
}

/** Where caches lie: WHITTLE_CACHE, else the user's cache folder. */
function folder(): string | undefined {
  const own = process.env['WHITTLE_CACHE']
  if (own) return path.resolve(own)
  const shared = process.env['XDG_CACHE_HOME']
  if (shared && path.isAbsolute(shared)) return path.join(shared, 'whittle')
  try {
    return path.join(os.homedir(), '.cache', 'whittle')
  } catch {
    return undefined
  }
}

/** What was measured before; nothing where the file is missing or not whole. */
export function readMeasured(threads: number): Measured {
  const key = keyOf(threads)
  const at = folder()
  const file = at && path.join(at, `tune-${createHash('sha256').update(key).digest('hex').slice(0, 16)}.json`)
  return { file, key, layers: file ? layersOf(file, key) : new Map(), fresh: new Set() }
}

function layersOf(file: string, key: string): Map<string, string> {
  try {
    const found = JSON.parse(fs.readFileSync(file, 'utf8')) as { key?: unknown; layers?: unknown }
    if (found.key !== key || !Array.isArray(found.layers)) return new Map()
    const pairs = found.layers as unknown[]
    return new Map(pairs.filter((p): p is [string, string] => Array.isArray(p) && p.length === 2 && p.every((v) => typeof v === 'string')))
  } catch {
    return new Map()
  }
}

/** Adds what is fresh to the file, whole or not at all; what cannot be written is measured again another time. */
export function writeMeasured(measured: Measured): void {
  const { file, key, layers, fresh } = measured
  if (file) {
    try {
      fs.mkdirSync(path.dirname(file), { recursive: true })
      // Another process may have added to it meanwhile.
      const all = layersOf(file, key)
      for (const shape of fresh) {
        all.delete(shape)
        all.set(shape, layers.get(shape) as string)
      }
      writeFileWhole(file, `${JSON.stringify({ key, layers: [...all].slice(-kMost) })}\n`)
    } catch {
      // No cache, then.
    }
  }
  fresh.clear()
}
