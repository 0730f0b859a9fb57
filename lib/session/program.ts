import { WhittleError } from '../errors'
import { checkDevice } from '../kernels/device'
import { fillNumbers, type Source } from '../kernels/gemm_weight'
import { native } from '../native'
import type { DataType, TypedArray } from '../tensor'
import { bitsOf, sizeOf } from '../tensor'
import { formatNumbers, type SparseName } from './cost'
import type { Tuner } from './tune'

declare module '../native' {
  interface NativeBinding {
    sessionNames(): readonly [steps: readonly string[], elementwise: readonly string[], typed: readonly string[]]
    sessionNew(bytes: number, device: number): object | undefined
    sessionConstant(
      session: object,
      kind: number,
      data: TypedArray,
      groups: number,
      k: number,
      n: number,
      row: number,
      col: number,
    ): number
    sessionWeight(
      session: object,
      k: number,
      n: number,
      block: number,
      withOffset: boolean,
      numbers: Float64Array,
      codes: TypedArray,
      scales: TypedArray | null,
      zeros: TypedArray | null,
    ): number
    sessionSparse(
      session: object,
      kind: number,
      data: TypedArray,
      k: number,
      n: number,
      row: number,
      col: number,
      ...format: readonly number[]
    ): number
    sessionPlan(session: object, length: number, program: Float64Array): number | string
    sessionArena(memory: Uint8Array): number
    sessionForget(session: object, plan: number): void
    sessionBytes(session: object): number
    sessionReplays(session: object): number
    sessionRun(...args: RunArguments): number
    sessionRunAsync(...args: RunArguments): Promise<number>
  }
}

/** @internal */
export type RunArguments = [
  session: object,
  plan: number,
  inputs: readonly TypedArray[],
  outputs: readonly TypedArray[],
  threads: number,
  times: Float64Array | null,
  cancel: Int32Array | null,
  /** null: the session's own, and all steps */
  arena: Uint8Array | null,
  from: number,
  to: number,
]

// core/plan/plan.h
const kPlaces = { none: 0, arena: 1, constant: 2, input: 3, output: 4 } as const
const kConstantKinds = { raw: 0, gemm: 1, gemm_int8: 2, tiles: 6, small_tiles: 7, sparse: 4, sparse_int8: 5 } as const

/** Memory that steps read and write. Offsets are given out once all steps are known. */
export interface Memory {
  readonly bytes: number
  place: keyof typeof kPlaces
  /** offset, or number of the constant, input or output */
  at: number
  /** steps that touch it first and last */
  first: number
  last: number
}

/** A constant that a step names by its number. */
export interface Packed {
  readonly packed: Memory
}

/** What a step's numbers may hold: numbers as they are, memory as three of them, a packed constant as one, a missing operand as three zeros. */
export type Argument = number | Memory | Packed | null

/** One step of a {@link Program}. */
export interface ProgramStep {
  readonly op: string
  readonly args: readonly Argument[]
  /** the ONNX node it came from, for messages and profiles */
  readonly node: string
  /** how it is computed, where there was a choice, and the result that it is the choice for */
  readonly choice?: { readonly layer: string; readonly name: string }
}

/** Weights of a session in native memory, each given over once, whichever plans use it. */
export class Constants {
  readonly #session: object
  readonly #known = new Map<string, Memory>()
  /** who chooses between kernels; none: what is best for dense weights */
  readonly tuner: Tuner | undefined
  /** the GPU whose memory they lie in, by name */
  readonly device: string | undefined

  constructor(session: object, tuner?: Tuner, device?: string) {
    this.#session = session
    this.tuner = tuner
    this.device = device
  }

  /** Data as it is. `key` names it: the same key, the same data. */
  raw(key: string, data: () => TypedArray): Memory {
    return this.#add(`raw ${key}`, 'raw', data, 0, 0, 0, 0, 0)
  }

  /** `groups` matrices of k x n floats, one after another, packed for products; row and col are the strides of each. */
  gemm(key: string, groups: number, k: number, n: number, row: number, col: number, data: () => TypedArray): Memory {
    return this.#add(`gemm ${key}`, 'gemm', data, groups, k, n, row, col)
  }

  /** Nine matrices of n x k floats, of the taps of 3 x 3 windows, as the 36 (or 16) that convolutions by tiles multiply with. */
  tiles(key: string, k: number, n: number, small: boolean, data: () => Float32Array): Memory {
    return this.#add(`tiles ${small ? 2 : 4} ${key}`, small ? 'small_tiles' : 'tiles', data, 9, k, n, 1, k)
  }

  /** A k x n matrix of int8 codes, packed for integer products. */
  gemmInt8(key: string, k: number, n: number, row: number, col: number, data: () => Int8Array): Memory {
    return this.#add(`gemm int8 ${key}`, 'gemm_int8', data, 1, k, n, row, col)
  }

  /** A matrix of 4- or 8-bit codes with scales, packed for products with floats. */
  weight(key: string, source: () => Source): Memory {
    const name = `weight ${key}`
    const known = this.#known.get(name)
    if (known) return known
    const s = source()
    const at = native().sessionWeight(this.#session, s.k, s.n, s.block, s.withOffset, ...fillNumbers(s, 0))
    if (at < 0) noWeights(at, key)
    const memory: Memory = { bytes: s.codes.byteLength, place: 'constant', at, first: 0, last: 0 }
    this.#known.set(name, memory)
    return memory
  }

  /** A k x n matrix, mostly zeros, of float32 or int8, for products with about `columns` rows of activations. */
  sparse(key: string, k: number, n: number, row: number, col: number, format: SparseName, columns: number, data: () => Float32Array | Int8Array): Memory {
    const id = `sparse ${format} for ${columns} ${key}`
    return this.#once(id, () => {
      const values = data()
      const kind = values.BYTES_PER_ELEMENT === 1 ? kConstantKinds.sparse_int8 : kConstantKinds.sparse
      return [values.byteLength, native().sessionSparse(this.#session, kind, values, k, n, row, col, ...formatNumbers(format), columns)]
    })
  }

  #add(
    key: string,
    kind: keyof typeof kConstantKinds,
    make: () => TypedArray,
    groups: number,
    k: number,
    n: number,
    row: number,
    col: number,
  ): Memory {
    return this.#once(key, () => {
      const data = make()
      return [data.byteLength, native().sessionConstant(this.#session, kConstantKinds[kind], data, groups, k, n, row, col)]
    })
  }

  #once(key: string, make: () => readonly [bytes: number, at: number]): Memory {
    const known = this.#known.get(key)
    if (known) return known
    const [bytes, at] = make()
    if (at < 0) noWeights(at, key)
    const memory: Memory = { bytes, place: 'constant', at, first: 0, last: 0 }
    this.#known.set(key, memory)
    return memory
  }
}

function noWeights(why: number, key: string): never {
  if (why === -2) checkDevice(4, 'model')
  throw new WhittleError('ERR_OUT_OF_MEMORY', 'model', `model: no memory for the weights ${key}`)
}

let room: WeakRef<ArrayBuffer> | undefined

/**
 * Memory for weights on their way to a session, which copies them: valid until the next call. Used again, since what is left behind for each
 * weight of a large model would only be collected some time later; held weakly.
 */
export function roomFor(floats: number): Float32Array<ArrayBuffer> {
  let buffer = room?.deref()
  if (!buffer || buffer.byteLength < 4 * floats) {
    buffer = new ArrayBuffer(4 * floats)
    room = new WeakRef(buffer)
  }
  return new Float32Array(buffer, 0, floats)
}

let tables: readonly ReadonlyMap<string, number>[] | undefined

function numberOf(table: 0 | 1 | 2, name: string): number {
  tables ??= native()
    .sessionNames()
    .map((names) => new Map(names.map((n, i) => [n, i])))
  const n = tables[table]?.get(name)
  if (n === undefined) throw new Error(`whittle: nothing native is called ${name}`)
  return n
}

/** The number of an elementwise operation (core/elementwise.inc). */
export function elementwiseNumber(name: string): number {
  return numberOf(1, name)
}

/** The number of an operation on any type (core/typed.inc). */
export function typedNumber(name: string): number {
  return numberOf(2, name)
}

/** A plan in the making: steps in order of execution, over memory that is laid out at the end. */
export class Program {
  readonly steps: ProgramStep[] = []
  readonly inputs: Memory[] = []
  readonly outputs: Memory[] = []
  #arena: Memory[] = []
  /** bytes that the steps' memory takes, once laid out */
  arenaBytes = 0

  input(bytes: number): Memory {
    const memory: Memory = { bytes, place: 'input', at: this.inputs.length, first: 0, last: 0 }
    this.inputs.push(memory)
    return memory
  }

  /** Memory for `count` elements that some step will write. */
  memory(type: DataType, count: number): Memory {
    const memory: Memory = { bytes: Math.ceil((count * bitsOf(type)) / 8), place: 'arena', at: 0, first: -1, last: -1 }
    this.#arena.push(memory)
    return memory
  }

  /** Makes arena memory an output of the plan. */
  bindOutput(memory: Memory): void {
    memory.place = 'output'
    memory.at = this.outputs.length
    this.#arena = this.#arena.filter((m) => m !== memory)
    this.outputs.push(memory)
  }

  /** Keeps memory as it is until the steps so far are done. */
  keep(memory: Memory): void {
    memory.last = Math.max(memory.last, this.steps.length - 1)
  }

  step(op: string, node: string, ...args: Argument[]): void {
    for (const a of args)
      if (a !== null && typeof a === 'object' && 'place' in a && a.place === 'arena') {
        if (a.first < 0) a.first = this.steps.length
        a.last = this.steps.length
      }
    this.steps.push({ op, args, node })
  }

  /** Says of the last step how it was chosen to be computed. */
  chosen(layer: string, name: string): void {
    const last = this.steps.pop() as ProgramStep
    this.steps.push({ ...last, choice: { layer, name } })
  }

  /** Lays out the arena (largest first, each at the lowest place that is free while it lives) and writes the numbers. */
  encode(): Float64Array {
    const placed: Memory[] = []
    for (const m of [...this.#arena].filter((a) => a.first >= 0).sort((a, b) => b.bytes - a.bytes)) {
      const beside = placed.filter((o) => o.first <= m.last && m.first <= o.last).sort((a, b) => a.at - b.at)
      let at = 0
      for (const o of beside) {
        if (at + m.bytes <= o.at) break
        at = Math.max(at, Math.ceil((o.at + o.bytes) / 64) * 64)
      }
      m.at = at
      this.arenaBytes = Math.max(this.arenaBytes, at + m.bytes)
      placed.push(m)
    }
    const out: number[] = []
    for (const list of [this.inputs, this.outputs]) out.push(list.length, ...list.map((m) => m.bytes))
    out.push(this.arenaBytes, this.steps.length)
    for (const s of this.steps) {
      out.push(numberOf(0, s.op))
      for (const a of s.args)
        if (typeof a === 'number') out.push(a)
        else if (a === null) out.push(0, 0, 0)
        else if ('packed' in a) out.push(a.packed.at)
        else out.push(kPlaces[a.place], a.at, a.bytes)
    }
    return Float64Array.from(out)
  }
}

/** Elements of `dims`; throws `ERR_SHAPE` at 2³¹ and beyond. */
export function countOf(dims: readonly number[], what: string): number {
  const n = sizeOf(dims)
  if (n > 2 ** 31 - 1) throw new WhittleError('ERR_SHAPE', what, `${what}: [${dims.join(', ')}] has 2^31 elements or more`)
  return n
}
