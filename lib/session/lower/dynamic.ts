import type { Node } from '../../model'
import { sizeOf } from '../../tensor'
import type { Lowering } from '../lowering'
import type { Memory } from '../program'
import { identity } from '../value'
import { emitChosen, type Way } from './choose'
import { takeAffines, takeEpilogue } from './epilogue'

/** What follows integer sums of `n` columns: the cast to floats and the product with a scale of the run and constant ones. */
interface Scaled {
  readonly output: string
  readonly scale: Memory
  readonly scales: Float32Array
}

/** Takes along the nodes that make floats of integer sums, where all that they multiply with is there already. */
function takeScaled(node: Node, l: Lowering, n: number): Scaled | undefined {
  const sums = node.outputs[0] as string
  const rank = l.dims(sums, node).length
  const cast = l.soleUser(sums)
  if (!cast?.is('Cast') || cast.int('to', 0) !== 1) return undefined
  const floats = cast.outputs[0] as string
  const mul = l.soleUser(floats)
  if (!mul?.is('Mul')) return undefined
  const factor = (mul.inputs[0] === floats ? mul.inputs[1] : mul.inputs[0]) as string
  const made = l.graph.producer(factor)
  if (!made?.is('Mul') || l.dims(factor, mul).length > rank) return undefined
  const [p, q] = made.inputs as [string, string]
  for (const [own, given] of [[p, q], [q, p]] as const) {
    const t = l.graph.constant(given) && l.constant(given, made)
    if (!t || t.type !== 'float32' || !l.has(own) || l.type(own, made) !== 'float32' || sizeOf(l.dims(own, made)) !== 1) continue
    const count = sizeOf(t.dims)
    if (count !== 1 && (count !== n || t.dims[t.dims.length - 1] !== n)) continue
    const { memory } = l.value(own, made)
    for (const taken of [cast, mul]) l.taken.add(taken)
    if (l.soleUser(factor) === mul) l.taken.add(made)
    return { output: mul.outputs[0] as string, scale: memory, scales: Float32Array.from({ length: n }, (_, j) => t.data[count === 1 ? 0 : j] as number) }
  }
  return undefined
}

/**
 * Whether a MatMulInteger of `rows` rows with packed codes became one step with what makes floats of its sums. Numbers are
 * those of the file, but that a scale behind the bias is folded into it.
 */
export function dynamicProduct(
  node: Node,
  l: Lowering,
  a: { readonly memory: Memory; readonly signed: boolean; readonly zero: Memory | null },
  ways: readonly Way[],
  [rows, n, k]: readonly [number, number, number],
): boolean {
  if (n === 0) return false
  const scaled = takeScaled(node, l, n)
  if (!scaled) return false
  const dims = l.dims(scaled.output, node)
  const map = takeAffines(l, scaled.output, dims.length - 1, n)
  const order = identity(dims.length)
  // Sparse ways have no place for a residual.
  const { activation, residual, output } = takeEpilogue(l, map.output, order, ways.length === 1, node)
  const range = l.rangeFor(output)
  const key = `${node.outputs[0]} to ${output}`
  const scales = scaled.scales.map((s, j) => s * (map.multiply[j] as number))
  const biased = map.add.some((v) => v !== 0)
  const out = l.make('float32', dims, order)
  const shape = `product dynamic ${[rows, n, k, a.signed ? 1 : 0, activation[0]].join(' ')}${residual ? ' residual' : ''}`
  emitChosen(l, node, 'gemm_dynamic', ways, shape, { x: a.memory, residual, out }, (_, weights, constants, from, add, to) => {
    // Where it is timed, a scale is made up.
    const here = constants === l.constants
    return [
      ...[rows, n, k, a.signed ? 1 : 0],
      ...activation,
      from,
      here ? scaled.scale : constants.raw('a scale', () => Float32Array.of(0.02)),
      here ? a.zero : null,
      weights,
      constants.raw(`scales ${key}`, () => scales),
      biased ? constants.raw(`bias ${key}`, () => Float32Array.from(map.add)) : null,
      add,
      to,
      here ? range : null,
    ]
  })
  l.define(output, range ? { ...out, range } : out, node)
  return true
}
