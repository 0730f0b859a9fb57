import { WhittleError } from '../../errors'
import type { Model, Node } from '../../model'
import { allocate, sizeOf, type Tensor, type TypedArray } from '../../tensor'
import type { RunEvent } from '../stages'

/** What a node that sees data needs around it. */
export interface HostScope {
  readonly model: Model
  /** Element type of a value, as inference found it. */
  type(name: string): Tensor['type']
  /** A graph that is run from within: the body of a loop. */
  inner(model: Model): Inner
  /** what runs in another runtime */
  readonly foreign: Foreign | undefined
}

/** Another runtime, which only runs asynchronously. */
export interface Foreign {
  run(node: Node, known: (name: string) => Tensor): Promise<readonly (Tensor | undefined)[]>
}

export interface Inner {
  execute(given: ReadonlyMap<string, Tensor>, fetch: readonly string[]): Generator<RunEvent, Map<string, Tensor>, void>
  forget(): void
}

type Steps = Generator<RunEvent, readonly (Tensor | undefined)[], void>

/** Runs one node; `known` has its inputs and what its subgraphs take from outside. */
export interface HostRun {
  run(known: ReadonlyMap<string, Tensor>): Steps
  forget?(): void
}

export type Host = (node: Node, scope: HostScope) => HostRun

/** @internal A part of the graph that another runtime runs. */
export const foreignPart: Host = (node, scope) => ({
  *run(known) {
    let results: readonly (Tensor | undefined)[] = []
    const value = (name: string): Tensor => known.get(name) ?? (scope.model.graph.constant(name)?.readSync() as Tensor)
    yield { waits: node.label, wait: async () => void (results = (await scope.foreign?.run(node, value)) ?? []) }
    return results
  },
})

/** @internal Operand `i` of a node: what a stage found, an input, or a constant. */
export function operand(node: Node, scope: HostScope, known: ReadonlyMap<string, Tensor>, i: number): Tensor | undefined {
  const name = node.inputs[i]
  if (!name) return undefined
  const t = known.get(name) ?? scope.model.graph.constant(name)?.readSync()
  if (!t) throw new WhittleError('ERR_MODEL_FORMAT', node.label, `${node.opType} ${node.label}: nothing makes its input ${name}`)
  return t
}

/** A node that is a function of its operands. */
export function plain(f: (node: Node, ...operands: (Tensor | undefined)[]) => readonly (Tensor | undefined)[]): Host {
  return (node, scope) => ({
    *run(known) {
      return f(node, ...node.inputs.map((_, i) => operand(node, scope, known, i)))
    },
  })
}

/** Rows `picks` of `x` seen as [outer, n, inner]. */
export function pick(x: Tensor, outer: number, n: number, inner: number, picks: readonly number[], dims: readonly number[]): Tensor {
  const data = allocate(x.type, outer * picks.length * inner)
  for (let o = 0; o < outer; o++)
    picks.forEach((p, j) => {
      const from = (o * n + p) * inner
      data.set(x.data.subarray(from, from + inner) as never, (o * picks.length + j) * inner)
    })
  return { type: x.type, dims, data }
}

/** The 32-bit halves of 64-bit integers, the lower one first: a tenth of the time of BigInts. */
function halves(data: ArrayBufferView): Int32Array {
  return new Int32Array(data.buffer, data.byteOffset, data.byteLength / 4)
}

/** Numbers of any type; 64-bit integers beyond 2⁵³ lose digits. */
export function numbers(t: Tensor): ArrayLike<number> {
  if (t.type !== 'int64' && t.type !== 'uint64') return t.data as unknown as ArrayLike<number>
  const from = halves(t.data)
  const out = new Float64Array(from.length / 2)
  const signed = t.type === 'int64'
  for (let i = 0; i < out.length; i++) {
    const high = from[2 * i + 1] as number
    out[i] = (signed ? high : high >>> 0) * 2 ** 32 + ((from[2 * i] as number) >>> 0)
  }
  return out
}

/** A tensor of numbers, rounded to what the type holds. */
export function made(type: Tensor['type'], dims: readonly number[], values: ArrayLike<number>): Tensor {
  const data = allocate(type, values.length)
  if (type === 'int64' || type === 'uint64') {
    const to = halves(data)
    for (let i = 0; i < values.length; i++) {
      const v = Math.trunc(values[i] as number)
      to[2 * i] = v % 2 ** 32
      to[2 * i + 1] = Math.floor(v / 2 ** 32)
    }
  } else for (let i = 0; i < values.length; i++) (data as unknown as number[])[i] = values[i] as number
  return { type, dims, data: data as TypedArray }
}

/** Refuses what a node was given. */
export function refuse(node: Node, what: string): never {
  throw new WhittleError('ERR_SHAPE', node.label, `${node.opType} ${node.label}: ${what}`)
}

/** The nearest integer, of two the even one. */
export function nearestEven(v: number): number {
  return Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v)
}

/** An axis, counted from the front. */
export function axisOf(node: Node, axis: number, rank: number): number {
  if (axis < -rank || axis >= rank) refuse(node, `axis ${axis} of a tensor of rank ${rank}`)
  return axis < 0 ? axis + rank : axis
}

/** Elements between neighbours along each axis, row-major. */
export function strides(dims: readonly number[]): number[] {
  const s = new Array<number>(dims.length).fill(1)
  for (let i = dims.length - 2; i >= 0; i--) s[i] = (s[i + 1] as number) * (dims[i + 1] as number)
  return s
}

/** Calls back for every line along `axis`: the places of its elements. */
export function lines(dims: readonly number[], axis: number, f: (at: (i: number) => number, n: number, line: number) => void): void {
  const n = dims[axis] as number
  const inner = sizeOf(dims.slice(axis + 1))
  const count = sizeOf(dims.slice(0, axis)) * inner
  for (let t = 0; t < count; t++) f((i) => (Math.floor(t / inner) * n + i) * inner + (t % inner), n, t)
}
