import type { Node } from '../../model'
import { censusOf, denseCost, denseInt8Cost, layoutColumns, sparseCosts, sparseInt8Costs, type SparseName } from '../cost'
import type { Lowering } from '../lowering'
import type { Argument, Constants, Memory } from '../program'
import { isSparse, type Candidate, type Layer } from '../tune'
import type { Value } from '../value'

/** A way to compute a layer, and the weights in the layout that it takes. */
export interface Way extends Candidate {
  readonly weights: (constants: Constants) => Argument
}

/** A k x n matrix of constant weights that m rows of activations meet. */
export interface Matrix<T extends Float32Array | Int8Array> {
  /** the same key, the same data */
  readonly key: string
  readonly m: number
  readonly k: number
  readonly n: number
  readonly row: number
  readonly col: number
  /** weights in any order, to see whether a closer look pays */
  readonly raw: T
  readonly data: () => T
  /** rows of activations are gathered from an image */
  readonly gathered: boolean
  /** results are 8-bit codes */
  readonly narrow?: boolean
}

/** Sparse ways to multiply; none where too few weights are zero. */
function sparseWays(l: Lowering, x: Matrix<Float32Array | Int8Array>): Way[] {
  const { tuner } = l.constants
  if (!tuner || x.n === 0 || x.k === 0 || !mayBeSparse(x.raw)) return []
  const census = tuner.census(x.key, () => censusOf(x.data(), x.k, x.n, x.row, x.col))
  if (!census) return []
  const columns = layoutColumns(x.m)
  const costs = x.raw.BYTES_PER_ELEMENT === 1 ? sparseInt8Costs(census, x.m, x.k, x.n, x.gathered, x.narrow) : sparseCosts(census, x.m, x.k, x.n, x.gathered)
  return costs.map(({ name, cost }) => ({
    name,
    cost,
    weights: (constants: Constants) => ({ packed: constants.sparse(x.key, x.k, x.n, x.row, x.col, name as SparseName, columns, x.data) }),
  }))
}

/** A sample tells: not even a third of it is zero. */
function mayBeSparse(raw: Float32Array | Int8Array): boolean {
  const step = Math.max(1, Math.floor(raw.length / 4096)) | 1
  let zeros = 0
  let seen = 0
  for (let i = 0; i < raw.length; i += step, seen++) if (raw[i] === 0) zeros++
  return zeros * 3 > seen
}

/** Ways to multiply by float32 weights, the dense one first. */
export function waysOf(l: Lowering, x: Matrix<Float32Array>): Way[] {
  const dense: Way = {
    name: 'dense',
    cost: denseCost(x.m, x.k, x.n),
    weights: (constants) => ({ packed: constants.gemm(x.key, 1, x.k, x.n, x.row, x.col, x.data) }),
  }
  return [dense, ...sparseWays(l, x)]
}

/** The same of int8 weights. */
export function waysOfCodes(l: Lowering, x: Matrix<Int8Array>): Way[] {
  const dense: Way = {
    name: 'dense',
    cost: denseInt8Cost(x.m, x.k, x.n),
    weights: (constants) => ({ packed: constants.gemmInt8(x.key, x.k, x.n, x.row, x.col, x.data) }),
  }
  return [dense, ...sparseWays(l, x)]
}

type InMemory = Value & { readonly memory: Memory }

/**
 * Writes the step of a layer the way that is chosen for it. Answers where its result lies: in `out`, or where the residual was
 * if nothing else reads that any more.
 */
export function emitChosen(
  l: Lowering,
  node: Node,
  op: string,
  ways: readonly Way[],
  shape: string,
  operands: { readonly x: Memory; readonly residual?: InMemory | undefined; readonly out: InMemory },
  args: (way: Way, weights: Argument, constants: Constants, x: Memory, residual: Memory | null, out: Memory) => readonly Argument[],
): InMemory {
  const name = node.outputs[0] as string
  const step: Layer<Way>['step'] = (way, constants, x, residual, out) => args(way, way.weights(constants), constants, x, residual, out)
  const { x, residual } = operands
  const bytes = { x: x.bytes, residual: residual?.memory.bytes ?? 0, out: operands.out.memory.bytes }
  const chosen = l.constants.tuner ? l.constants.tuner.choose({ name, shape, candidates: ways, op, bytes, step }) : (ways[0] as Way)
  // A sparse step reads the residual late, a dynamic one perhaps twice.
  const apart = isSparse(chosen.name) || op === 'gemm_dynamic' || residual?.type !== operands.out.type
  const out = (apart ? undefined : l.over(residual, x, node)) ?? operands.out
  l.program.step(op, node.label, ...step(chosen, l.constants, x, residual?.memory ?? null, out.memory))
  if (ways.length > 1) l.program.chosen(name, chosen.name)
  return out
}
