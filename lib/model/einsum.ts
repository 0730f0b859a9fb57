import { attribute, type Graph, type Node } from './graph'
import type { Model } from './model'
import { equationOf } from './ops/equation'
import { inferShapes, type Shapes } from './ops/infer'
import { Rewrite } from './rewrite'
import type { Dim } from './types'

/** A value and the letters of its axes. */
interface Operand {
  readonly name: string
  readonly letters: readonly string[]
}

interface Equation {
  readonly operands: readonly Operand[]
  readonly result: readonly string[]
}

/**
 * Einsums of floats as what they stand for: sums, products and turned axes, which kernels know, as does whatever reads a graph (weights of a
 * layer, attention). Left as they are: letters that an operand repeats (diagonals), "..." that is summed over, sums over an axis
 * of size 1 that repeats, and values of unknown rank.
 * Wants opset 13 or later, whose axes are inputs.
 */
export function expandEinsum(model: Model): void {
  if ((model.opsets.get('') ?? 1) < 13) return
  for (const graph of model.graph.graphs()) {
    if (!graph.nodes.some((n) => n.is('Einsum'))) continue
    const shapes = inferShapes(model.graph, model.opsets)
    for (const node of graph.nodes.filter((n) => n.is('Einsum'))) {
      const equation = parse(node, (name) => (/^float(32|64)$/.test(shapes.get(name, graph)?.type ?? '') ? (shapes.get(name, graph)?.dims ?? undefined) : undefined))
      if (equation) new Expansion(graph, node, shapes).write(equation)
    }
  }
}

function parse(node: Node, dimsOf: (name: string) => readonly Dim[] | undefined): Equation | undefined {
  const dims = node.inputs.map(dimsOf)
  const { terms, result } = equationOf(node, dims.map((d) => d?.length)) ?? {}
  if (!terms || !result || terms.some((t) => new Set(t).size !== t.length)) return undefined
  // A sum over what repeats along one of its operands is no product of matrices.
  const sizes = (c: string): unknown[] => terms.flatMap((t, i) => (t.includes(c) ? [dims[i]?.[t.indexOf(c)]] : []))
  if (terms.flat().some((c) => !result.includes(c) && (c.startsWith('.') || (sizes(c).includes(1) && sizes(c).some((d) => d !== 1))))) return undefined
  return { operands: terms.map((letters, i) => ({ name: node.inputs[i] as string, letters })), result }
}

/** Writes the nodes that stand for one Einsum. */
class Expansion {
  readonly #graph: Graph
  readonly #shapes: Shapes
  readonly #to: Rewrite
  /** operands as they were given, whose sizes may be asked for */
  #given: readonly Operand[] = []

  constructor(graph: Graph, node: Node, shapes: Shapes) {
    this.#graph = graph
    this.#shapes = shapes
    this.#to = new Rewrite(graph, node)
  }

  write({ operands, result }: Equation): void {
    this.#given = operands
    let [at, ...rest] = operands as [Operand, ...Operand[]]
    if (rest.length === 0) at = this.#sum(at, result)
    while (rest.length > 0) {
      const [next, ...after] = rest as [Operand, ...Operand[]]
      const kept = [...result, ...after.flatMap((o) => o.letters)]
      at = this.#pair(at, next, [...new Set([...result, ...at.letters, ...next.letters])].filter((c) => kept.includes(c) && (at.letters.includes(c) || next.letters.includes(c))))
      rest = after
    }
    this.#to.answer(this.#turn(at, result).name)
  }

  /** Letters that are not kept are summed over. */
  #sum(x: Operand, kept: readonly string[]): Operand {
    const axes = x.letters.flatMap((c, i) => (kept.includes(c) ? [] : [i]))
    if (axes.length === 0) return x
    return { name: this.#to.add('ReduceSum', [x.name, this.#to.ints(...axes)], { keepdims: attribute.int(0) }), letters: x.letters.filter((c) => kept.includes(c)) }
  }

  /** Axes in another order, and axes of size 1 for letters that `x` lacks. */
  #turn(x: Operand, letters: readonly string[]): Operand {
    const own = letters.filter((c) => x.letters.includes(c))
    const perm = own.map((c) => x.letters.indexOf(c))
    let { name } = x
    if (perm.some((p, i) => p !== i)) name = this.#to.add('Transpose', [name], { perm: attribute.ints(perm) })
    const axes = letters.flatMap((c, i) => (own.includes(c) ? [] : [i]))
    if (axes.length > 0) name = this.#to.add('Unsqueeze', [name, this.#to.ints(...axes)])
    return { name, letters }
  }

  /** The last `count` axes of `x` as one. */
  #merge(x: Operand, count: number): Operand {
    if (count < 2) return x
    const kept = x.letters.length - count
    return { name: this.#to.add('Reshape', [x.name, this.#to.ints(...[...new Array<number>(kept).fill(0), -1])]), letters: [...x.letters.slice(0, kept), x.letters.slice(kept).join('')] }
  }

  /** The last axis of `x` as those of `letters`. */
  #split(x: Operand, letters: readonly string[]): Operand {
    const kept = x.letters.length - 1
    const sizes = letters.slice(0, -1).map((c) => this.#size(c))
    const known = sizes.every((s): s is number => typeof s === 'number')
    const parts = [this.#to.ints(...new Array<number>(kept).fill(0)), ...sizes.map((s) => (typeof s === 'number' ? this.#to.ints(s) : s)), this.#to.ints(-1)]
    const shape = known ? this.#to.ints(...[...new Array<number>(kept).fill(0), ...sizes, -1]) : this.#to.add('Concat', parts, { axis: attribute.int(0) })
    return { name: this.#to.add('Reshape', [x.name, shape]), letters: [...x.letters.slice(0, kept), ...letters] }
  }

  /** What a letter stands for: a number, or the value that holds it. */
  #size(letter: string): number | string {
    const holders = this.#given.filter((o) => o.letters.includes(letter))
    const sizes = holders.map((o) => this.#shapes.get(o.name, this.#graph)?.dims?.[o.letters.indexOf(letter)])
    const known = sizes.find((d) => typeof d === 'number' && d !== 1) ?? (sizes.every((d) => d === 1) ? 1 : undefined)
    if (typeof known === 'number') return known
    const first = holders[sizes.findIndex((d) => d !== 1)] as Operand
    return this.#to.add('Gather', [this.#to.add('Shape', [first.name]), this.#to.ints(first.letters.indexOf(letter))])
  }

  /** The product of two operands: letters of both that are not kept are summed over. */
  #pair(a: Operand, b: Operand, kept: readonly string[]): Operand {
    // The right operand makes the last axis of the result, so that this one need not be turned.
    const end = kept[kept.length - 1] as string
    const [first, second] = kept.length > 0 && !b.letters.includes(end) ? [b, a] : [a, b]
    const x = this.#sum(first, [...kept, ...second.letters])
    const y = this.#sum(second, [...kept, ...first.letters])
    const summed = x.letters.filter((c) => !kept.includes(c) && y.letters.includes(c))
    if (summed.length === 0) {
      const letters = kept.filter((c) => x.letters.includes(c) || y.letters.includes(c))
      return { name: this.#to.add('Mul', [this.#turn(x, letters).name, this.#turn(y, letters).name]), letters }
    }
    const left = kept.filter((c) => x.letters.includes(c) && !y.letters.includes(c))
    const right = kept.filter((c) => y.letters.includes(c) && !x.letters.includes(c))
    // All but the last letter that the left one alone has are axes of matrices, in the order of the result; the right one repeats along them.
    const row = left[left.length - 1]
    const lead = kept.filter((c) => x.letters.includes(c) && c !== row)
    const shared = lead.some((c) => y.letters.includes(c))
    const one = '1' // an axis of size 1 where there is no letter
    const p = this.#merge(this.#turn(x, [...lead, row ?? one, ...summed]), summed.length)
    const before = shared ? lead : []
    const columns = right.length > 0 ? right : [one]
    let q: Operand
    if (summed.length === 1) q = this.#merge(this.#turn(y, [...before, ...summed, ...columns]), columns.length)
    else {
      const flat = this.#merge(this.#turn(y, [...before, ...columns, ...summed]), summed.length)
      q = this.#merge(this.#turn(flat, [...before, flat.letters[flat.letters.length - 1] as string, ...columns]), columns.length)
    }
    let product: Operand = { name: this.#to.add('MatMul', [p.name, q.name], {}, this.#given.length === 2), letters: [...lead, row ?? one, right.join('') || one] }
    if (right.length > 1) product = this.#split(product, right)
    const axes = product.letters.flatMap((c, i) => (c === one ? [i] : []))
    if (axes.length === 0) return product
    return { name: this.#to.add('Squeeze', [product.name, this.#to.ints(...axes)]), letters: product.letters.filter((c) => c !== one) }
  }
}
