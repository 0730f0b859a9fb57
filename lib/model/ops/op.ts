import { WhittleError } from '../../errors'
import type { TypedArray } from '../../tensor'
import type { Graph } from '../graph'
import type { Initializer } from '../initializer'
import type { Node } from '../node'
import type { Dim, ElementType, ValueType } from '../types'

/** What is known of a value: type, shape, and for small tensors of rank 0 and 1 (shapes in the making) the content. */
export interface Inferred extends ValueType {
  readonly data?: readonly Dim[] | undefined
}

/** What shape inference of one op sees, and where it puts its result. */
export interface InferContext {
  readonly node: Node
  readonly graph: Graph
  /** version of the op's domain */
  readonly opset: number
  /** True if the optional input `i` is given. */
  has(i: number): boolean
  type(i: number): ElementType
  /** `null`: not even the rank is known */
  dims(i: number): readonly Dim[] | null
  /** Content of a small integer input, as far as known. */
  data(i: number): readonly Dim[] | undefined
  /** As {@link data}, if all of it is known. */
  numbers(i: number): readonly number[] | undefined
  /** The constant that input `i` is. */
  constant(i: number): Initializer | undefined
  /** What is known of `name` as seen from a subgraph's outputs. */
  inner(graph: Graph, name: string): Inferred | undefined
  set(output: number, type: ElementType, dims: readonly Dim[] | null, data?: readonly Dim[]): void
}

/** One axis of one value. */
export interface Axis {
  readonly value: string
  readonly axis: number
  readonly size: number
}

/**
 * What an axis of a weight is to the channels that run along it: it makes them (`output`), reads them in a sum of products
 * (`input`), is one factor or term each (`scale`), or the factor of a batch normalization (`gamma`).
 */
export type Role = 'output' | 'input' | 'scale' | 'gamma'

/** An axis that is taken apart, and which index of the k-th part each of its indices falls to. */
export interface Split {
  readonly whole: Axis
  part(k: number): (i: number) => number
}

/** What an op's coupling rule sees, and where it says which channels go together. All sizes are known numbers. */
export interface CoupleContext {
  readonly node: Node
  readonly graph: Graph
  readonly opset: number
  /** Dims of the inputs; `undefined` for those that are not given. */
  readonly inputs: readonly (readonly number[] | undefined)[]
  readonly outputs: readonly (readonly number[] | undefined)[]
  constant(i: number): Initializer | undefined
  /** Content of a small integer input, as far as all of it is known. */
  numbers(i: number): readonly number[] | undefined
  in(i: number, axis: number): Axis
  out(o: number, axis: number): Axis
  /** Index i of `a` goes with index i (or `map(i)`, unless that is -1) of `b`: they are removed together or not at all. */
  couple(a: Axis, b: Axis, map?: (i: number) => number): void
  /** Indices of the axis are on their own: removing some changes nothing else at this node. */
  leave(a: Axis): void
  weight(input: number, axis: number, role: Role): void
  /** Which of several axes an index of their product is to follow; the others stay whole. `split`: the product, where it is an axis already. */
  pick(axes: readonly Axis[], split?: Split): number
  /** What else has to change at the node once channels are gone. */
  onCut(change: (cut: Cut) => void): void
}

/** Channels are gone: what a node's attributes and shape inputs have to follow. */
export interface Cut {
  readonly node: Node
  readonly graph: Graph
  readonly opset: number
  in(i: number, axis: number): Axis
  out(o: number, axis: number): Axis
  /** The indices that stay, ascending; `undefined` where all do. */
  kept(a: Axis): readonly number[] | undefined
  /** How many stay; `undefined` where all do. */
  size(a: Axis): number | undefined
  /** Elements of a small value before the cut. */
  lengthOf(value: string): number | undefined
  typeOf(value: string): ElementType
}

/**
 * An op: what this package knows about one ONNX operator. `infer` sets types and shapes of the outputs as far as the
 * inputs tell them; it throws `ERR_MODEL_FORMAT` on inputs that the op does not accept. `channels` says how its channels are
 * coupled, for pruning: axes that it does not mention cannot lose an index, and without it none can.
 */
export interface Op {
  infer(c: InferContext): void
  readonly channels?: (c: CoupleContext) => void
}

/** Ops by name; domains other than ONNX's own as `domain:name`. */
export type Ops = Readonly<Record<string, Op>>

/** @internal */
export function op(infer: (c: InferContext) => void, channels?: (c: CoupleContext) => void): Op {
  return channels ? { infer, channels } : { infer }
}

/** @internal */
export function bad(c: InferContext, message: string): never {
  throw new WhittleError('ERR_MODEL_FORMAT', c.node.label, `${c.node.opType} ${c.node.label}: ${message}`)
}

/** @internal An axis counted from the end becomes one counted from the front. */
export function axisOf(c: InferContext, axis: number, rank: number): number {
  if (axis < -rank || axis >= rank) bad(c, `axis ${axis} of a tensor of rank ${rank}`)
  return axis < 0 ? axis + rank : axis
}

/** @internal Product of dims; `null` unless all are numbers. */
export function product(dims: readonly Dim[]): number | null {
  let n = 1
  for (const d of dims) {
    if (typeof d !== 'number') return null
    n *= d
  }
  return n
}

/** @internal Shape of operands that are broadcast against each other, numpy's rule. */
export function broadcast(c: InferContext, shapes: readonly (readonly Dim[] | null)[]): Dim[] | null {
  let out: Dim[] = []
  for (const dims of shapes) {
    if (dims === null) return null
    const rank = Math.max(out.length, dims.length)
    const next: Dim[] = []
    for (let i = 0; i < rank; i++) {
      const a = i < rank - out.length ? 1 : (out[i - rank + out.length] as Dim)
      const b = i < rank - dims.length ? 1 : (dims[i - rank + dims.length] as Dim)
      if (a === 1 || a === b) next.push(b)
      else if (b === 1) next.push(a)
      else if (typeof a === 'number' && typeof b === 'number')
        bad(c, `[${out.join(', ')}] and [${dims.join(', ')}] do not broadcast`)
      // A known size other than 1 is right whatever the symbol stands for.
      else next.push(typeof a === 'number' ? a : typeof b === 'number' ? b : null)
    }
    out = next
  }
  return out
}

/** @internal `n` unknown dims. */
export function unknown(n: number): Dim[] {
  return new Array<Dim>(n).fill(null)
}

/** @internal Shapes in the making are short. */
export const kMaxData = 64

/** Floats matter as scales and scalars only. */
const kMaxFloats = 8

/** @internal Content of a small tensor of rank 0 or 1: integers (beyond 2⁵³ clamped to it), booleans, a few floats. */
export function readSmall(t: Initializer): readonly number[] | undefined {
  const float = t.type === 'float32' || t.type === 'float64'
  if ((!float && t.type !== 'int64' && t.type !== 'int32' && t.type !== 'bool') || t.dims.length > 1) return undefined
  return t.elementCount > (float ? kMaxFloats : kMaxData) ? undefined : clampInts(t.readSync().data)
}

/** @internal Numbers; integers beyond 2⁵³ are clamped to it. */
export function clampInts(data: TypedArray): number[] {
  const limit = BigInt(Number.MAX_SAFE_INTEGER)
  const out: number[] = []
  for (const v of data as Iterable<number | bigint>)
    out.push(Number(typeof v === 'number' ? v : v > limit ? limit : v < -limit ? -limit : v))
  return out
}
