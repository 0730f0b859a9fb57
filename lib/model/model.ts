/// <reference lib="esnext.disposable" preserve="true" />
import path from 'node:path'
import { WhittleError } from '../errors'
import { describe, fail, options as checkOptions } from '../validate'
import { checkGraph } from './check'
import type { Graph } from './graph'
import type { Initializer } from './initializer'
import type { Int, Node } from './node'
import type { ValueInfo } from './types'
import { FileBytes, MemoryBytes } from './bytes'
import { ExternalFiles } from './onnx/external'
import { readModel, type FunctionDef, type Header, type ModelParts } from './onnx/reader'
import { encodeInline, ropeToBytes, saveModel, tensorsOf, type SaveOptions, type SaveResult } from './onnx/writer'
import { isWhittle } from './whittle/container'
import { PackedBytes } from './whittle/reader'
import { pack, savePacked } from './whittle/writer'

export type { FunctionDef } from './onnx/reader'
export type { ExternalDataOptions, SaveOptions, SaveResult } from './onnx/writer'

export interface LoadOptions {
  /** For a model given as bytes: the folder that holds its external data. Default: none is accepted. */
  directory?: string
  /** Whether to compare the SHA-1 of external data files where the model records it: reads them whole. Default false. */
  verifyChecksums?: boolean
}

/** What {@link Model}'s constructor takes, for models that are made rather than read. */
export interface ModelFields extends Partial<Header> {
  graph: Graph
  /** Versions by domain; `''` is ONNX's own. */
  opsets: Iterable<readonly [string, number]>
  metadata?: Iterable<readonly [string, string]>
}

/** An input or output in a {@link ModelSummary}. */
export type ValueSummary = Pick<ValueInfo, 'name' | 'type' | 'dims'>

/** What {@link Model.summary} tells. */
export interface ModelSummary {
  readonly irVersion: number
  readonly producer: string
  readonly opsets: Readonly<Record<string, number>>
  readonly inputs: readonly ValueSummary[]
  readonly outputs: readonly ValueSummary[]
  /** nodes, those of subgraphs included */
  readonly nodes: number
  /** how many of each op, `domain:op` outside of ONNX's own domain, most frequent first */
  readonly ops: Readonly<Record<string, number>>
  /** named constant tensors, and those in `Constant` nodes */
  readonly tensors: number
  /** elements of all of these */
  readonly parameters: number
  /** bytes of all of these; tied ones count once */
  readonly weightBytes: number
  readonly functions: number
}

/**
 * An ONNX model. Loading builds an index: weights are read when they are asked for, and saving copies those that did
 * not change from file to file. What nobody changed is saved byte for byte, fields of unknown meaning included.
 *
 * @example
 * const model = await Model.load('in.onnx')
 * console.log(model.summary().ops)
 * await model.save('out.onnx')
 */
export class Model implements Header {
  irVersion: number
  producerName: string
  producerVersion: string
  domain: string
  modelVersion: Int
  docString: string
  readonly graph: Graph
  /** Versions by domain; `''` is ONNX's own (`ai.onnx`). */
  readonly opsets: Map<string, number>
  readonly metadata: Map<string, string>
  readonly functions: FunctionDef[]
  /** @internal the file's own record */
  readonly origin: ModelParts['origin'] | undefined
  #file: FileBytes | undefined
  #external: ExternalFiles | undefined

  constructor(fields: ModelFields) {
    this.irVersion = fields.irVersion ?? 10
    this.producerName = fields.producerName ?? 'whittle'
    this.producerVersion = fields.producerVersion ?? ''
    this.domain = fields.domain ?? ''
    this.modelVersion = fields.modelVersion ?? 0
    this.docString = fields.docString ?? ''
    this.graph = fields.graph
    this.opsets = new Map(fields.opsets)
    this.metadata = new Map(fields.metadata ?? [])
    this.functions = (fields as { functions?: FunctionDef[] }).functions ?? []
    this.origin = (fields as { origin?: ModelParts['origin'] }).origin
  }

  /**
   * Opens a model. `input` is the path of an ONNX or `.whittle` file (told apart by their first bytes), or its bytes (which are not copied: do not change them while
   * the model is in use). The file stays open until the model is collected or {@link close}d.
   *
   * Throws `ERR_IO` if a file cannot be read, `ERR_MODEL_FORMAT` for bytes that are no model, for a graph that
   * contradicts itself (circles, names given twice, values that nobody makes), for tensors whose data does not fit
   * their dims, and for external data outside of the model's folder.
   */
  static load(input: string | Uint8Array | ArrayBuffer, options: LoadOptions = {}): Promise<Model> {
    // Indexing takes milliseconds and is done at once; the promise leaves room for sources that are not files.
    try {
      return Promise.resolve(Model.#load(input, options))
    } catch (error) {
      return Promise.reject(error as Error)
    }
  }

  static #load(input: string | Uint8Array | ArrayBuffer, given: LoadOptions): Model {
    const { directory, verifyChecksums } = checkOptions(given, 'options', [
      'directory',
      'verifyChecksums',
    ]) as LoadOptions
    if (directory !== undefined && typeof directory !== 'string')
      fail('ERR_DTYPE', 'options.directory', 'a path', directory)
    if (typeof input === 'string' && input.includes('\0'))
      throw new WhittleError('ERR_IO', 'input', `input: ${describe(input)} is not a path`)
    const file = typeof input === 'string' ? new FileBytes(input) : new MemoryBytes(toBytes(input))
    const folder = typeof input === 'string' ? path.dirname(path.resolve(input)) : directory
    const external = new ExternalFiles(folder, file.label, verifyChecksums === true)
    try {
      const bytes = isWhittle(file) ? new PackedBytes(file) : file
      const { header, ...parts } = readModel(bytes, external)
      checkGraph(parts.graph, bytes.label)
      for (const f of parts.functions) checkGraph(f.graph, `${bytes.label}: function ${f.name}`)
      const model = new Model({ ...header, ...parts })
      model.#external = external
      if (file instanceof FileBytes) {
        model.#file = file
        file.release()
      }
      return model
    } catch (error) {
      if (file instanceof FileBytes) file.close()
      external.close()
      throw error
    }
  }

  /** The outermost graph's nodes, in order. */
  get nodes(): readonly Node[] {
    return this.graph.nodes
  }

  get inputs(): readonly ValueInfo[] {
    return this.graph.inputs
  }

  get outputs(): readonly ValueInfo[] {
    return this.graph.outputs
  }

  /** The outermost graph's constant tensors by name. */
  get initializers(): Map<string, Initializer> {
    return this.graph.initializers
  }

  /** Version of ONNX's own operator set. */
  get opset(): number {
    return this.opsets.get('') ?? 0
  }

  /** Size of the file that the model came from, without external data; 0 for a model that was made. */
  get fileBytes(): number {
    if (this.origin?.bytes instanceof PackedBytes) return this.origin.bytes.packedLength
    return this.origin ? this.origin.end - this.origin.start : 0
  }

  /** Size of the model as one file with all weights inside, external ones too. No weight is read. */
  byteLength(): number {
    return encodeInline(this).length
  }

  /** Counts: no weight is read. */
  summary(): ModelSummary {
    const ops = new Map<string, number>()
    let nodes = 0
    this.graph.walk((n) => {
      nodes++
      const key = n.domain ? `${n.domain}:${n.opType}` : n.opType
      ops.set(key, (ops.get(key) ?? 0) + 1)
    })
    const { initializers, attributes } = tensorsOf(this)
    const all = [...initializers, ...attributes]
    const sources = new Set(all.map((t) => t.source))
    let weightBytes = 0
    for (const s of sources) weightBytes += s.byteLength
    return {
      irVersion: this.irVersion,
      producer: [this.producerName, this.producerVersion].filter(Boolean).join(' '),
      opsets: Object.fromEntries([...this.opsets].map(([domain, version]) => [domain || 'ai.onnx', version])),
      inputs: this.inputs.map(({ name, type, dims }) => ({ name, type, dims })),
      outputs: this.outputs.map(({ name, type, dims }) => ({ name, type, dims })),
      nodes,
      ops: Object.fromEntries([...ops].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))),
      tensors: all.length,
      parameters: all.reduce((sum, t) => sum + t.elementCount, 0),
      weightBytes,
      functions: this.functions.length,
    }
  }

  /** A copy that can be edited freely; weights and open files are shared. */
  clone(): Model {
    const { irVersion, producerName, producerVersion, domain, modelVersion, docString, opsets, metadata, origin } = this
    const graph = this.graph.clone()
    const functions = this.functions.map((f) => ({ ...f, graph: f.graph.clone(), opsets: new Map(f.opsets) }))
    const fields = {
      irVersion,
      producerName,
      producerVersion,
      domain,
      modelVersion,
      docString,
      opsets,
      metadata,
      origin,
    }
    const copy = new Model({ ...fields, graph, functions } as ModelFields)
    copy.#file = this.#file
    copy.#external = this.#external
    return copy
  }

  /** Checks that the graph does not contradict itself, as loading does. Passes call it on what they made. */
  check(): void {
    checkGraph(this.graph, 'model')
    for (const f of this.functions) checkGraph(f.graph, `function ${f.name}`)
  }

  /**
   * Writes the model to `target`, weights streamed in pieces; as a `.whittle` container, entropy-coded and lossless, if that
   * is how `target` ends, else as ONNX. The target (which may be the file that the model came
   * from) is replaced at the very end, or not at all. Returns what was written.
   *
   * Throws `ERR_IO` if the disk is full or the place cannot be written to, `ERR_ABORTED` if `signal` fires, `ERR_RANGE`
   * for a model above 2 GB with `externalData: false` and for external data beside a container.
   */
  async save(target: string, options: SaveOptions = {}): Promise<SaveResult> {
    if (typeof target !== 'string' || !target || target.includes('\0')) fail('ERR_DTYPE', 'path', 'a path', target)
    const given = checkOptions(options, 'options', ['externalData', 'signal', 'onProgress']) as SaveOptions
    const { externalData } = given
    if (externalData !== undefined && externalData !== 'auto' && typeof externalData !== 'boolean') {
      const { threshold } = checkOptions(externalData, 'options.externalData', ['location', 'threshold', 'checksum'])
      if (threshold !== undefined && !((threshold as number) >= 0))
        fail('ERR_RANGE', 'options.externalData.threshold', 'a number of bytes', threshold)
    }
    if (/\.whittle$/i.test(target)) {
      if (externalData !== undefined && externalData !== 'auto' && externalData !== false)
        fail('ERR_RANGE', 'options.externalData', 'nothing: a .whittle file holds all weights', externalData)
      return savePacked(this, target, given)
    }
    return saveModel(this, this.#external, target, given)
  }

  /**
   * The model as a `.whittle` container in memory, as {@link save} writes it. `Model.load` reads it. Its size without the bytes:
   * {@link packedLength}.
   */
  async pack(): Promise<Uint8Array> {
    const parts: Uint8Array[] = []
    const out = new Uint8Array(await pack(this, (bytes) => void parts.push(bytes)))
    let at = 0
    for (const p of parts) {
      out.set(p, at)
      at += p.length
    }
    return out
  }

  /** Size that the model has as a `.whittle` file. Reads and codes all weights, keeps none. Throws `ERR_ABORTED` if `signal` fires. */
  packedLength(signal?: AbortSignal): Promise<number> {
    return pack(this, () => {
      if (signal?.aborted) throw new WhittleError('ERR_ABORTED', 'signal', 'signal: coding was aborted', { cause: signal.reason })
    })
  }

  /**
   * The model as one array, weights inside (external ones are read in). Throws `ERR_RANGE` above 2 GB.
   */
  toBytes(): Uint8Array {
    return ropeToBytes(encodeInline(this))
  }

  /** Closes the files. Weights of this model and of its clones can no longer be read. */
  close(): void {
    this.#file?.close()
    this.#external?.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function toBytes(input: unknown): Uint8Array {
  if (ArrayBuffer.isView(input)) return new Uint8Array(input.buffer as ArrayBuffer, input.byteOffset, input.byteLength)
  const tag = Object.prototype.toString.call(input)
  if (tag === '[object ArrayBuffer]' || tag === '[object SharedArrayBuffer]')
    return new Uint8Array(input as ArrayBuffer)
  return fail('ERR_DTYPE', 'input', 'a path or bytes', input)
}
