import { WhittleError } from '../errors'
import type { Graph, Inferred, Initializer, Node, Shapes } from '../model'
import { bitsOf, isDataType, sizeOf, type DataType, type Tensor, type TypedArray } from '../tensor'
import { emitDequantize } from './codes'
import { emitExpression } from './expression'
import { countOf, Program, type Constants, type Memory } from './program'
import { identity, isValue, sameOrder, stridesOf, type Value } from './value'

/** Turns one node (and those behind it that it takes along) into steps. */
export type Lower = (node: Node, l: Lowering) => void

/** What the lowering of one graph for one set of input shapes knows. */
export class Lowering {
  readonly graph: Graph
  readonly shapes: Shapes
  readonly program = new Program()
  readonly constants: Constants
  /** nodes that an earlier one took along */
  readonly taken = new Set<Node>()
  /** nodes whose steps are written, or that wait as expressions */
  readonly done = new Set<Node>()
  readonly #values = new Map<string, Value>()
  readonly #wanted: ReadonlySet<string>
  /** nodes whose results reach an output */
  readonly #live: ReadonlySet<Node>

  constructor(graph: Graph, shapes: Shapes, constants: Constants, wanted: ReadonlySet<string>, live: ReadonlySet<Node>) {
    this.graph = graph
    this.shapes = shapes
    this.constants = constants
    this.#wanted = wanted
    this.#live = live
  }

  defineInput(name: string, type: DataType, dims: readonly number[]): void {
    const memory = this.program.input(Math.ceil((countOf(dims, name) * bitsOf(type)) / 8))
    this.#values.set(name, { kind: 'value', type, dims, order: identity(dims.length), memory })
  }

  isWanted(name: string): boolean {
    return this.#wanted.has(name)
  }

  /** Live nodes that read `name`. */
  users(name: string): readonly Node[] {
    return this.graph.users(name).filter((n) => this.#live.has(n))
  }

  /** The one node that reads `name`, once, if nothing else needs it. */
  soleUser(name: string): Node | undefined {
    const [user, more] = this.users(name)
    if (!user || more || this.isWanted(name) || user.subgraphs().length > 0) return undefined
    return user.inputs.filter((i) => i === name).length === 1 ? user : undefined
  }

  has(name: string): boolean {
    return this.#values.has(name)
  }

  /** Dims of a value that inference must have found whole. */
  dims(name: string, node: Node): readonly number[] {
    const dims = this.shapes.get(name, this.graph)?.dims
    if (!dims || dims.some((d) => typeof d !== 'number' || d < 0))
      throw new WhittleError(
        'ERR_UNSUPPORTED_OP',
        node.label,
        `${node.opType} ${node.label}: the shape of ${name} depends on data, which a session cannot plan for yet`,
      )
    countOf(dims as number[], node.label)
    return dims as number[]
  }

  type(name: string, node: Node): DataType {
    const type = this.shapes.get(name, this.graph)?.type
    if (!type || !isDataType(type))
      throw new WhittleError('ERR_UNSUPPORTED_OP', node.label, `${node.opType} ${node.label}: ${name} is of type ${type ?? 'unknown'}`)
    return type
  }

  /** An input as it is: perhaps an expression or a constant without memory. */
  lazy(name: string, node: Node): Value {
    const known = this.#values.get(name)
    if (known) return known
    const constant = this.graph.constant(name)
    const made = constant ? this.#fromInitializer(constant) : this.#fromShape(name)
    if (!made) throw new WhittleError('ERR_MODEL_FORMAT', node.label, `${node.opType} ${node.label}: nothing makes its input ${name}`)
    this.#values.set(name, made)
    return made
  }

  /** An input in memory, in whatever order. */
  value(name: string, node: Node): Value & { readonly memory: Memory } {
    return this.inMemory(this.lazy(name, node), node)
  }

  inMemory(v: Value, node: Node): Value & { readonly memory: Memory } {
    if (v.memory) return v as Value & { readonly memory: Memory }
    if (v.constant) {
      const { key, read } = v.constant
      return { ...v, memory: this.constants.raw(key, () => read().data) }
    }
    const made = v.quantized ? emitDequantize(this, v, v.quantized, node) : this.#compute(v, node)
    for (const [name, known] of this.#values) if (known === v) this.#values.set(name, made)
    return made
  }

  /** In memory, axes in `order`. */
  inOrder(v: Value, order: readonly number[], node: Node): Value & { readonly memory: Memory } {
    const x = this.inMemory(v, node)
    if (sameOrder(x.dims, x.order, order)) return { ...x, order }
    const memory = this.program.memory(x.type, sizeOf(x.dims))
    this.copy(x, memory, order, node)
    const made = { ...x, order, memory, constant: undefined } as unknown as Value & { readonly memory: Memory }
    // The next reader in this order finds it.
    for (const [name, known] of this.#values) if (known === v || known === x) this.#values.set(name, made)
    return made
  }

  rowMajor(v: Value, node: Node): Value & { readonly memory: Memory } {
    return this.inOrder(v, identity(v.dims.length), node)
  }

  /** The whole of `x` to memory in `order`. */
  copy(x: Value & { readonly memory: Memory }, to: Memory, order: readonly number[], node: Node): void {
    if (bitsOf(x.type) < 8 && sameOrder(x.dims, x.order, order)) {
      const bytes = Math.ceil((sizeOf(x.dims) * bitsOf(x.type)) / 8)
      return this.stridedCopy({ ...x, type: 'uint8' }, [bytes], [1], 0, to, [1], 0, node)
    }
    this.stridedCopy(x, x.dims, stridesOf(x.dims, x.order), 0, to, stridesOf(x.dims, order), 0, node)
  }

  stridedCopy(
    x: Value & { readonly memory: Memory },
    dims: readonly number[],
    from: readonly number[],
    fromOffset: number,
    to: Memory,
    toStrides: readonly number[],
    toOffset: number,
    node: Node,
  ): void {
    if (dims.length > 8) this.unsupported(node, `a tensor of rank ${dims.length}`)
    const size = elementBytes(x.type, node)
    this.program.step('copy', node.label, size, dims.length, ...dims, ...from, ...toStrides, fromOffset, toOffset, x.memory, to)
  }

  /** Fresh memory for a result. */
  make(type: DataType, dims: readonly number[], order: readonly number[] = identity(dims.length)): Value & { readonly memory: Memory } {
    return { kind: 'value', type, dims, order, memory: this.program.memory(type, sizeOf(dims)) }
  }

  /** Memory for the range of `name`, where some node quantizes by it. */
  rangeFor(name: string): Memory | null {
    return this.users(name).some((n) => n.is('DynamicQuantizeLinear')) ? this.program.memory('float32', 2) : null
  }

  /** A result in the place of `v`, a value of the same dims that nothing reads after the step to come; undefined where it must stay. */
  over(v: (Value & { readonly memory: Memory }) | undefined, input: Memory, node: Node): (Value & { readonly memory: Memory }) | undefined {
    if (!v || v.memory.place !== 'arena' || v.memory === input) return undefined
    for (const [name, known] of this.#values) {
      if (!reads(known, v.memory)) continue
      if (known.memory !== v.memory || this.isWanted(name)) return undefined
      if (this.users(name).some((n) => n !== node && !this.taken.has(n) && !this.done.has(n))) return undefined
    }
    return { kind: 'value', type: v.type, dims: v.dims, order: v.order, memory: v.memory }
  }

  /** Says what `name` is. An expression is computed at once unless exactly one node reads it. */
  define(name: string, v: Value, node: Node): void {
    const at = v.expression && !v.memory && !this.soleUser(name) ? this.#compute(v, node) : v
    this.#values.set(name, at)
  }

  /** Data of a constant input; undefined if it is none. */
  constant(name: string | undefined, node: Node): Tensor | undefined {
    if (!name) return undefined
    if (!this.graph.constant(name)) {
      const known = knownTensor(this.shapes.get(name, this.graph))
      if (known) return known
    }
    const v = this.#values.get(name) ?? (this.graph.constant(name) || this.shapes.get(name, this.graph)?.data ? this.lazy(name, node) : undefined)
    return v?.constant?.read()
  }

  /** Integers of a small constant or of a shape computed from shapes. */
  ints(name: string | undefined, node: Node): readonly number[] | undefined {
    if (!name) return undefined
    const known = this.shapes.get(name, this.graph)
    if ((known?.type === 'int64' || known?.type === 'int32') && known.data?.every((d) => typeof d === 'number')) return known.data as number[]
    const t = this.constant(name, node)
    return t && (t.type === 'int64' || t.type === 'int32') ? Array.from(t.data as Iterable<number | bigint>, Number) : undefined
  }

  /** The one number of a constant scalar. */
  scalar(name: string | undefined, node: Node): number | undefined {
    const t = this.constant(name, node)
    return t && sizeOf(t.dims) === 1 && t.type !== 'float16' && t.type !== 'bfloat16' ? Number(t.data[0]) : undefined
  }

  unsupported(node: Node, what: string): never {
    throw new WhittleError('ERR_UNSUPPORTED_OP', node.label, `${node.opType} ${node.label}: ${what} is not supported yet`)
  }

  float(v: Value, node: Node): void {
    if (v.type !== 'float32') this.unsupported(node, `data of type ${v.type}`)
  }

  #compute(v: Value, node: Node): Value & { readonly memory: Memory } {
    return emitExpression(this, v, node)
  }

  #fromInitializer(i: Initializer): Value | undefined {
    if (!isDataType(i.type)) return undefined
    let tensor: Tensor | undefined
    return {
      kind: 'value',
      type: i.type,
      dims: i.dims,
      order: identity(i.dims.length),
      memory: undefined,
      constant: { key: i.name, read: () => (tensor ??= i.readSync()) },
    }
  }

  /** A shape in the making whose content inference knows. */
  #fromShape(name: string): Value | undefined {
    const tensor = knownTensor(this.shapes.get(name, this.graph))
    if (!tensor) return undefined
    const { type, dims } = tensor
    const key = `${type} ${dims.join('x')}: ${Array.from(tensor.data as Iterable<number | bigint>).join(' ')}`
    return { kind: 'value', type, dims, order: identity(dims.length), memory: undefined, constant: { key, read: () => tensor } }
  }
}

/** Whether a value lies in `memory`, or will be computed from what does. */
function reads(v: Value, memory: Memory): boolean {
  if (v.memory) return v.memory === memory
  if (v.quantized && reads(v.quantized.codes, memory)) return true
  const seen = new Set<unknown>()
  const walk = (x: NonNullable<Value['expression']> | Value | undefined): boolean => {
    if (!x || seen.has(x)) return false
    seen.add(x)
    return isValue(x) ? reads(x, memory) : walk(x.a) || walk(x.b)
  }
  return walk(v.expression)
}

/** What inference knows whole: type, dims and content. */
export function knownTensor(known: Inferred | undefined): Tensor | undefined {
  const data = known?.data
  if (!known || !data || !data.every((d) => typeof d === 'number')) return undefined
  const numbers = data as number[]
  const dims = (known.dims as number[] | null) ?? [numbers.length]
  const make = kKnown[known.type]
  return make && sizeOf(dims) === numbers.length ? { type: known.type as DataType, dims, data: make(numbers) } : undefined
}

const kKnown: Readonly<Record<string, (numbers: number[]) => TypedArray>> = {
  int64: (n) => BigInt64Array.from(n, BigInt),
  int32: (n) => Int32Array.from(n),
  bool: (n) => Uint8Array.from(n),
  float32: (n) => Float32Array.from(n),
  float64: (n) => Float64Array.from(n),
}

/** Bytes of one element; sub-byte types have none. */
function elementBytes(type: DataType, node: Node): number {
  const bytes: Partial<Record<DataType, number>> = { int4: 0, uint4: 0, int2: 0, uint2: 0, float32: 4, int32: 4, uint32: 4, int8: 1, uint8: 1, bool: 1 }
  const size = bytes[type] ?? (type === 'int64' || type === 'uint64' || type === 'float64' ? 8 : 2)
  if (size === 0) throw new WhittleError('ERR_UNSUPPORTED_OP', node.label, `${node.opType} ${node.label}: data of type ${type}`)
  return size
}
