/// <reference lib="esnext.disposable" preserve="true" />
import { WhittleError } from '../errors'
import { fail, options as checkOptions } from '../validate'
import { FileSet, regularTarget, type WriteOptions } from './files'
import { Initializer } from './initializer'
import { FileBytes, ioError, MemoryBytes, RangeSource, type Bytes, malformed } from './bytes'
import { elementBitsOf, type ElementType } from './types'

/** What the reference implementation accepts. */
const kMaxHeader = 100e6

const kTypes: Readonly<Record<string, ElementType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  I16: 'int16',
  I8: 'int8',
  U64: 'uint64',
  U32: 'uint32',
  U16: 'uint16',
  U8: 'uint8',
  BOOL: 'bool',
  F8_E4M3: 'float8e4m3fn',
  F8_E5M2: 'float8e5m2',
  F8_E8M0: 'float8e8m0',
}
const kNames = new Map(Object.entries(kTypes).map(([name, type]) => [type, name]))

/**
 * A safetensors file: named tensors, read when asked for.
 *
 * @example
 * const file = await SafeTensors.load('weights.safetensors')
 * const w = await file.tensors.get('fc.weight').read()   // { type, dims, data }
 */
export class SafeTensors {
  /** in the order of the header */
  readonly tensors: ReadonlyMap<string, Initializer>
  readonly metadata: ReadonlyMap<string, string>
  readonly #bytes: Bytes

  private constructor(bytes: Bytes, tensors: Map<string, Initializer>, metadata: Map<string, string>) {
    this.#bytes = bytes
    this.tensors = tensors
    this.metadata = metadata
  }

  /**
   * Opens a file, or takes its bytes (which are not copied). Throws `ERR_IO` if it cannot be read and
   * `ERR_MODEL_FORMAT` unless the header is sound and its tensors fill the rest without overlap or gap.
   */
  static load(input: string | Uint8Array): Promise<SafeTensors> {
    try {
      return Promise.resolve(SafeTensors.#open(input))
    } catch (error) {
      return Promise.reject(error as Error)
    }
  }

  static #open(input: string | Uint8Array): SafeTensors {
    if (typeof input !== 'string' && !ArrayBuffer.isView(input)) fail('ERR_DTYPE', 'input', 'a path or bytes', input)
    const view = input as Uint8Array
    const bytes =
      typeof input === 'string'
        ? new FileBytes(input)
        : new MemoryBytes(new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength), 'safetensors')
    try {
      const { tensors, metadata } = readHeader(bytes)
      return new SafeTensors(bytes, tensors, metadata)
    } catch (error) {
      if (bytes instanceof FileBytes) bytes.close()
      throw error
    }
  }

  /** Closes the file. Tensors can no longer be read. */
  close(): void {
    if (this.#bytes instanceof FileBytes) this.#bytes.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function readHeader(bytes: Bytes): { tensors: Map<string, Initializer>; metadata: Map<string, string> } {
  const wrong = (message: string): never => malformed(bytes.label, message)
  if (bytes.length < 8) wrong('shorter than the length of a header')
  const start = bytes.readSync(0, 8)
  const length = Number(new DataView(start.buffer, start.byteOffset, 8).getBigUint64(0, true))
  if (length > bytes.length - 8) wrong(`a header of ${length} bytes in a file of ${bytes.length}`)
  if (length > kMaxHeader) wrong(`a header of ${length} bytes; at most ${kMaxHeader} are accepted`)
  let header: unknown
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes.readSync(8, length)))
  } catch {
    wrong('the header is not JSON')
  }
  if (header === null || typeof header !== 'object' || Array.isArray(header)) wrong('the header is not an object')
  const base = 8 + length
  const room = bytes.length - base
  const tensors = new Map<string, Initializer>()
  const metadata = new Map<string, string>()
  const ranges: [number, number, string][] = []
  for (const [name, entry] of Object.entries(header as Record<string, unknown>)) {
    if (entry === null || typeof entry !== 'object' || Array.isArray(entry)) wrong(`${name}: not an object`)
    if (name === '__metadata__') {
      for (const [key, value] of Object.entries(entry as object)) {
        if (typeof value !== 'string') wrong(`metadata ${key}: not a string`)
        metadata.set(key, value as string)
      }
      continue
    }
    const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>
    const type = typeof dtype === 'string' && Object.hasOwn(kTypes, dtype) ? kTypes[dtype] : undefined
    if (!type) return wrong(`${name}: dtype ${JSON.stringify(dtype)}`)
    if (!isSizes(shape) || shape.length > 64) return wrong(`${name}: shape ${JSON.stringify(shape)}`)
    if (!isSizes(offsets) || offsets.length !== 2) return wrong(`${name}: data_offsets ${JSON.stringify(offsets)}`)
    const [from, to] = offsets as [number, number]
    let count = 1
    for (const d of shape) count *= d
    const need = (count * elementBitsOf(type)) / 8
    if (!Number.isSafeInteger(need)) wrong(`${name}: shape [${shape.join(', ')}] overflows`)
    if (from > to || to > room) wrong(`${name}: bytes ${from} to ${to} of ${room}`)
    if (to - from !== need)
      wrong(`${name}: ${dtype as string}[${shape.join(', ')}] needs ${need} bytes, got ${to - from}`)
    ranges.push([from, to, name])
    tensors.set(name, new Initializer(name, type, shape, new RangeSource('file', bytes, base + from, need)))
  }
  let at = 0
  for (const [from, to, name] of ranges.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (from !== at) wrong(`${name}: begins at byte ${from}, expected ${at}`)
    at = to
  }
  if (at !== room) wrong(`${room - at} bytes behind the last tensor`)
  return { tensors, metadata }
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((v) => Number.isSafeInteger(v) && (v as number) >= 0)
}

export interface SafeTensorsSaveOptions extends WriteOptions {
  /** Strings that go with the tensors. */
  metadata?: Readonly<Record<string, string>>
}

/**
 * Writes tensors, under their names, to a safetensors file. Data is streamed; the target is replaced at the end or not
 * at all. Types that the format lacks (int4, strings) are `ERR_DTYPE`, a name given twice is `ERR_RANGE`, what the
 * system refuses is `ERR_IO`. Returns the bytes written.
 *
 * @example
 * await saveSafeTensors('weights.safetensors', model.initializers.values(), { metadata: { format: 'pt' } })
 */
export async function saveSafeTensors(
  target: string,
  tensors: Iterable<Initializer>,
  options: SafeTensorsSaveOptions = {},
): Promise<{ bytes: number }> {
  if (typeof target !== 'string' || !target || target.includes('\0')) fail('ERR_DTYPE', 'path', 'a path', target)
  const given = checkOptions(options, 'options', ['metadata', 'signal', 'onProgress']) as SafeTensorsSaveOptions
  // Wide types first keeps every tensor aligned to its element.
  const list = [...tensors].sort((a, b) => elementBitsOf(b.type) - elementBitsOf(a.type))
  const entries: [string, unknown][] = []
  if (given.metadata) {
    for (const [key, value] of Object.entries(given.metadata))
      if (typeof value !== 'string') fail('ERR_DTYPE', `options.metadata.${key}`, 'a string', value)
    entries.push(['__metadata__', { ...given.metadata }])
  }
  const names = new Set(['__metadata__'])
  let at = 0
  for (const t of list) {
    const dtype = kNames.get(t.type)
    if (!dtype) throw new WhittleError('ERR_DTYPE', t.name, `${t.name}: safetensors has no type for ${t.type}`)
    if (names.has(t.name))
      throw new WhittleError('ERR_RANGE', t.name, `${t.name}: the name is given twice, or reserved`)
    names.add(t.name)
    entries.push([t.name, { dtype, shape: t.dims, data_offsets: [at, at + t.byteLength] }])
    at += t.byteLength
  }
  const header = new TextEncoder().encode(
    `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(',')}}`,
  )
  const start = new Uint8Array(8 + Math.ceil(header.length / 8) * 8).fill(0x20)
  new DataView(start.buffer).setBigUint64(0, BigInt(start.length - 8), true)
  start.set(header, 8)
  const files = new FileSet(given)
  try {
    files.total = start.length + at
    await files.write(regularTarget(target), async (sink) => {
      await files.put(sink, start)
      for (const t of list) await files.copy(sink, t.source, 0, t.byteLength)
    })
    files.commit()
  } catch (error) {
    files.abandon()
    throw error instanceof WhittleError ? error : ioError(target, 'write', error)
  }
  return { bytes: files.total }
}
