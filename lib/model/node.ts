import { WhittleError } from '../errors'
import type { Graph } from './graph'
import type { Initializer } from './initializer'

/** An `int64` of a model file: a number where that is exact, else a bigint. */
export type Int = number | bigint

/**
 * A typed attribute of a node. Immutable; make one with {@link attribute}. `opaque` ones (sparse tensors, types, and
 * kinds of later ONNX versions) are kept byte for byte but not understood.
 */
export type Attribute = {
  /** @internal the file's own record */ readonly origin?: unknown
  /** in function bodies: takes the value of the caller's attribute of this name */ readonly reference?: string
} & (
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'int'; readonly value: Int }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'tensor'; readonly value: Initializer }
  | { readonly type: 'graph'; readonly value: Graph }
  | { readonly type: 'floats'; readonly value: readonly number[] }
  | { readonly type: 'ints'; readonly value: readonly Int[] }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'tensors'; readonly value: readonly Initializer[] }
  | { readonly type: 'graphs'; readonly value: readonly Graph[] }
  | { readonly type: 'opaque'; readonly value: undefined }
)

/**
 * Makers of attributes; a bare JavaScript number does not say whether it is an int or a float.
 *
 * @example
 * new Node({ opType: 'DequantizeLinear', inputs, outputs, attributes: { axis: attribute.int(0) } })
 */
export const attribute = {
  float: (value: number): Attribute => ({ type: 'float', value }),
  int: (value: Int): Attribute => ({ type: 'int', value }),
  string: (value: string): Attribute => ({ type: 'string', value }),
  tensor: (value: Initializer): Attribute => ({ type: 'tensor', value }),
  graph: (value: Graph): Attribute => ({ type: 'graph', value }),
  floats: (value: readonly number[]): Attribute => ({ type: 'floats', value: Object.freeze([...value]) }),
  ints: (value: readonly Int[]): Attribute => ({ type: 'ints', value: Object.freeze([...value]) }),
  strings: (value: readonly string[]): Attribute => ({ type: 'strings', value: Object.freeze([...value]) }),
  graphs: (value: readonly Graph[]): Attribute => ({ type: 'graphs', value: Object.freeze([...value]) }),
}

let edits = 0

/** @internal Counts every change of any graph; what was indexed at another count is stale. */
export function editCount(): number {
  return edits
}

/** @internal */
export function noteEdit(): void {
  edits++
}

/** @internal A map that reports its changes. */
export class WatchedMap<V> extends Map<string, V> {
  /** called before an entry is set */
  onSet: ((key: string, value: V) => void) | undefined
  /** called before an entry goes, and for each that is set */
  onChange: (() => void) | undefined

  override set(key: string, value: V): this {
    this.onChange?.()
    this.onSet?.(key, value)
    return super.set(key, value)
  }

  override delete(key: string): boolean {
    this.onChange?.()
    return super.delete(key)
  }

  override clear(): void {
    this.onChange?.()
    super.clear()
  }
}

/** What {@link Node}'s constructor takes. */
export interface NodeFields {
  opType: string
  inputs: readonly string[]
  outputs: readonly string[]
  name?: string
  /** `''` (the default) is ONNX's own; `ai.onnx` is folded into it. */
  domain?: string
  attributes?: Readonly<Record<string, Attribute>> | Iterable<readonly [string, Attribute]>
}

/** The graphs in an attribute: none, one, or several. */
export function graphsOf(a: Attribute): readonly Graph[] {
  return a.type === 'graph' ? [a.value] : a.type === 'graphs' ? a.value : []
}

/**
 * One operation. `inputs` and `outputs` are names of values; `''` marks an optional one that is not given. The arrays
 * are frozen: assign a new one, or use {@link setInput}.
 */
export class Node {
  name: string
  opType: string
  domain: string
  readonly attributes: Map<string, Attribute>
  /** @internal the graph that holds the node */
  graph: Graph | undefined
  /** @internal the file's own record */
  origin: unknown
  #inputs: readonly string[]
  #outputs: readonly string[]

  constructor(fields: NodeFields) {
    this.name = fields.name ?? ''
    this.opType = fields.opType
    this.domain = fields.domain === undefined || fields.domain === 'ai.onnx' ? '' : fields.domain
    this.#inputs = Object.freeze([...fields.inputs])
    this.#outputs = Object.freeze([...fields.outputs])
    const attributes = new WatchedMap<Attribute>()
    const given = fields.attributes ?? {}
    const entries = Symbol.iterator in given ? (given as Iterable<readonly [string, Attribute]>) : Object.entries(given)
    for (const [key, value] of entries) attributes.set(key, value)
    attributes.onChange = noteEdit
    attributes.onSet = (_key, value) => {
      if (this.graph) for (const g of graphsOf(value)) this.graph.adopt(g)
    }
    this.attributes = attributes
  }

  get inputs(): readonly string[] {
    return this.#inputs
  }

  set inputs(names: readonly string[]) {
    noteEdit()
    this.#inputs = Object.freeze([...names])
    this.graph?.noteNames(names)
  }

  get outputs(): readonly string[] {
    return this.#outputs
  }

  set outputs(names: readonly string[]) {
    noteEdit()
    const before = this.#outputs
    this.#outputs = Object.freeze([...names])
    this.graph?.noteOutputs(this, before)
  }

  /** Replaces one input; gaps before it become `''`. */
  setInput(index: number, name: string): void {
    const names = [...this.#inputs]
    while (names.length < index) names.push('')
    names[index] = name
    this.inputs = names
  }

  /** What messages call this node: its name, or its op and first output where it has none. */
  get label(): string {
    return this.name || `${this.opType}(${this.#outputs.find((o) => o) ?? ''})`
  }

  /** True for an op of ONNX's own domain, of the given type if one is given. */
  is(...opTypes: string[]): boolean {
    return this.domain === '' && (opTypes.length === 0 || opTypes.includes(this.opType))
  }

  /** An int attribute, or `fallback`. Values beyond 2⁵³ are clamped to it. Throws `ERR_MODEL_FORMAT` for another kind. */
  int(name: string, fallback: number): number
  int(name: string, fallback?: number): number | undefined
  int(name: string, fallback?: number): number | undefined {
    const a = this.attributes.get(name)
    if (!a) return fallback
    return a.type === 'int' ? toNumber(a.value) : this.#wrong(name, 'an int', a)
  }

  /** An int-list attribute, or `fallback`; clamped as {@link int}. */
  ints(name: string, fallback: readonly number[]): readonly number[]
  ints(name: string, fallback?: readonly number[]): readonly number[] | undefined
  ints(name: string, fallback?: readonly number[]): readonly number[] | undefined {
    const a = this.attributes.get(name)
    if (!a) return fallback
    return a.type === 'ints' ? a.value.map(toNumber) : this.#wrong(name, 'a list of ints', a)
  }

  /** A float attribute, or `fallback`. */
  float(name: string, fallback: number): number
  float(name: string, fallback?: number): number | undefined
  float(name: string, fallback?: number): number | undefined {
    const a = this.attributes.get(name)
    if (!a) return fallback
    return a.type === 'float' ? a.value : this.#wrong(name, 'a float', a)
  }

  /** A string attribute, or `fallback`. */
  string(name: string, fallback: string): string
  string(name: string, fallback?: string): string | undefined
  string(name: string, fallback?: string): string | undefined {
    const a = this.attributes.get(name)
    if (!a) return fallback
    return a.type === 'string' ? a.value : this.#wrong(name, 'a string', a)
  }

  /** The subgraphs (`If`, `Loop`, `Scan`), in attribute order. */
  subgraphs(): Graph[] {
    const found: Graph[] = []
    for (const a of this.attributes.values()) found.push(...graphsOf(a))
    return found
  }

  #wrong(name: string, expected: string, got: Attribute): never {
    throw new WhittleError(
      'ERR_MODEL_FORMAT',
      this.label,
      `${this.opType} ${this.label}: attribute ${name}: expected ${expected}, got ${got.type}`,
    )
  }
}

function toNumber(value: Int): number {
  if (typeof value === 'number') return value
  return value > 0n ? Number.MAX_SAFE_INTEGER : -Number.MAX_SAFE_INTEGER
}
