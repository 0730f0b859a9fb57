import type { Node } from '../../model'
import { sizeOf, type Tensor } from '../../tensor'
import type { Lower, Lowering } from '../lowering'
import { roomFor, type Argument, type Memory } from '../program'
import { identity, stridesOf, type Value } from '../value'
import { takeAffines, takeEpilogue } from './epilogue'
import { productOfCodes } from './integer'
import { emitChosen, waysOf } from './choose'
import { productOfBlocks, productOfStored } from './weight'

type InMemory = Value & { readonly memory: Memory }

/** Greatest common divisor, so that offsets of matrices are multiples of one stride. */
function gcd(a: number, b: number): number {
  while (b) [a, b] = [b, a % b]
  return a
}

interface Side {
  readonly value: InMemory
  readonly row: number
  readonly col: number
  readonly unit: number
  readonly index: readonly number[]
}

/** A batch of matrices as a product can read it: one side of each contiguous; copied where it is not. */
function side(l: Lowering, v: Value, lead: readonly number[], node: Node): Side {
  let x = l.inMemory(v, node)
  const rank = x.dims.length
  let strides = stridesOf(x.dims, x.order)
  const at = (i: number): number => (x.dims[i] === 1 ? 0 : (strides[i] as number))
  const contiguous = [rank - 1, rank - 2].some((i) => strides[i] === 1 || x.dims[i] === 1)
  if (!contiguous) {
    x = l.rowMajor(x, node)
    strides = stridesOf(x.dims, x.order)
  }
  let row = strides[rank - 2] as number
  let col = strides[rank - 1] as number
  if (x.dims[rank - 1] === 1 && row !== 1) col = 1
  else if (x.dims[rank - 2] === 1 && col !== 1) row = 1
  // Offsets of each matrix of the batch, axes of size 1 repeating.
  const offsets: number[] = []
  const count = sizeOf(lead)
  for (let i = 0; i < count; i++) {
    let rest = i
    let offset = 0
    for (let k = lead.length - 1; k >= 0; k--) {
      const axis = k - lead.length + rank - 2
      if (axis >= 0) offset += (rest % (lead[k] as number)) * at(axis)
      rest = Math.floor(rest / (lead[k] as number))
    }
    offsets.push(offset)
  }
  const unit = offsets.reduce(gcd, 0)
  return { value: x, row, col, unit, index: offsets.map((o) => (unit ? o / unit : 0)) }
}

interface Product {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly lead: readonly number[]
  readonly alpha: number
}

function emit(l: Lowering, node: Node, p: Product, a: Side, b: Side | Memory, epilogue: readonly Argument[], out: Memory): void {
  const batch = sizeOf(p.lead)
  const packed = !('value' in b)
  const pairs = batch > 1 ? a.index.flatMap((i, t) => [i, packed ? 0 : (b.index[t] as number)]) : []
  l.program.step(
    'gemm',
    node.label,
    p.m,
    p.n,
    p.k,
    batch,
    ...pairs,
    ...[a.row, a.col, a.unit],
    ...(packed ? [1, 1, 0, 1] : [b.row, b.col, b.unit, 0]),
    p.alpha,
    ...epilogue.slice(0, 3),
    a.value.memory,
    packed ? { packed: b } : b.value.memory,
    ...epilogue.slice(3),
    out,
  )
}

/** Columns of a product with constant weights, and what follows it: scales fold into weights, additions into the bias. */
function withWeights(l: Lowering, node: Node, a: Value, w: Tensor, transposed: boolean, alpha: number, bias: Float32Array | undefined): void {
  const [k, n] = (transposed ? [w.dims[1], w.dims[0]] : w.dims) as [number, number]
  const name = node.outputs[0] as string
  const dims = l.dims(name, node)
  const map = takeAffines(l, name, dims.length - 1, n)
  const order = identity(dims.length)
  const { activation, residual, output } = takeEpilogue(l, map.output, order, true, node)
  const total = Float32Array.from(map.add, (v, j) => v + (bias ? (bias[j] as number) : 0) * (map.multiply[j] as number))
  const scaled = alpha !== 1 || map.multiply.some((v) => v !== 1)
  const data = (): Float32Array => {
    const from = w.data as Float32Array
    if (!scaled) return from
    const to = roomFor(from.length)
    for (let p = 0; p < k; p++)
      for (let j = 0; j < n; j++) {
        const i = transposed ? j * k + p : p * n + j
        to[i] = (from[i] as number) * alpha * (map.multiply[j] as number)
      }
    return to
  }
  // Unscaled weights are shared by all nodes that use them.
  const key = scaled ? `${node.outputs[0]} to ${map.output}` : `${node.inputs[1]}`
  const m = n === 0 ? 0 : sizeOf(dims) / n
  const x = l.rowMajor(a, node)
  const fresh = l.make('float32', dims, order)
  const biased = total.some((v) => v !== 0)
  const matrix = { key: `product ${key}${transposed ? ' transposed' : ''}`, m, k, n, row: transposed ? 1 : n, col: transposed ? k : 1 }
  const ways = waysOf(l, { ...matrix, raw: w.data as Float32Array, data, gathered: false })
  const shape = `product f32 ${m} ${n} ${k} ${activation[0]}${biased ? ' bias' : ''}${residual ? ' residual' : ''}`
  const out = emitChosen(l, node, 'gemm', ways, shape, { x: x.memory, residual, out: fresh }, (_, weights, constants, from, add, to) => [
    ...[m, n, k, 1, k, 1, 0, 1, 1, 0, 1, 1],
    ...activation,
    from,
    weights,
    biased ? constants.raw(`bias ${node.outputs[0]} to ${map.output}`, () => total) : null,
    add,
    to,
  ])
  l.define(output, out, node)
}

const matmul: Lower = (node, l) => {
  if (productOfCodes(node, l, false, undefined)) return
  const [aName, bName] = node.inputs as [string, string]
  const a = l.lazy(aName, node)
  const b = l.lazy(bName, node)
  l.float(a, node)
  l.float(b, node)
  if (!a.constant && productOfStored(l, node, a, b, false, 1, undefined)) return
  if (b.constant && b.dims.length === 2 && !a.constant) return withWeights(l, node, a, b.constant.read(), false, 1, undefined)
  // Vectors become matrices with one row or column, which the result then lacks.
  const matrix = (v: Value, row: boolean): Value => {
    if (v.dims.length > 1) return v
    const x = l.inMemory(v, node)
    const dims = row ? [1, v.dims[0] as number] : [v.dims[0] as number, 1]
    return { ...x, dims, order: [0, 1] }
  }
  const [x, y] = [matrix(a, true), matrix(b, false)]
  const name = node.outputs[0] as string
  const dims = l.dims(name, node)
  const lead = dims.slice(0, dims.length - (a.dims.length > 1 ? 1 : 0) - (b.dims.length > 1 ? 1 : 0))
  const m = x.dims[x.dims.length - 2] as number
  const k = x.dims[x.dims.length - 1] as number
  const n = y.dims[y.dims.length - 1] as number
  const out = l.make('float32', dims)
  emit(l, node, { m, n, k, lead, alpha: 1 }, side(l, x, lead, node), side(l, y, lead, node), [0, 0, 0, null, null], out.memory)
  l.define(name, out, node)
}

const gemm: Lower = (node, l) => {
  const [aName, bName, cName] = node.inputs as [string, string, string | undefined]
  const [transA, transB] = [node.int('transA', 0) !== 0, node.int('transB', 0) !== 0]
  const [alpha, beta] = [node.float('alpha', 1), node.float('beta', 1)]
  if (alpha === 1 && beta === 1 && !transA && productOfCodes(node, l, transB, cName)) return
  const a = l.lazy(aName, node)
  l.float(a, node)
  const turned: Value = transA ? turn(l, a, node) : a
  const dims = l.dims(node.outputs[0] as string, node)
  const n = dims[1] as number
  const c = cName ? l.constant(cName, node) : undefined
  const row = c && sizeOf(c.dims) === n && c.dims[c.dims.length - 1] === n
  if (!turned.constant && (!cName || row)) {
    const bias = c && Float32Array.from(c.data as Float32Array, (v) => v * beta)
    if (productOfStored(l, node, turned, l.lazy(bName, node), transB, alpha, bias)) return
  }
  const w = l.constant(bName, node)
  if (w && w.type === 'float32' && !turned.constant && (!cName || row)) {
    const bias = c && Float32Array.from(c.data as Float32Array, (v) => v * beta)
    return withWeights(l, node, turned, w, transB, alpha, bias)
  }
  const b = l.lazy(bName, node)
  l.float(b, node)
  const right = transB ? turn(l, b, node) : b
  const k = turned.dims[1] as number
  const out = l.make('float32', dims)
  emit(
    l,
    node,
    { m: dims[0] as number, n, k, lead: [], alpha },
    side(l, turned, [], node),
    side(l, right, [], node),
    [0, 0, 0, null, null],
    out.memory,
  )
  if (!cName || beta === 0) return l.define(node.outputs[0] as string, out, node)
  const addend = l.lazy(cName, node)
  l.float(addend, node)
  const scaled = beta === 1 ? addend : { op: 'affine', a: addend, p: beta, q: 0 }
  const sum: Value = { kind: 'value', type: 'float32', dims, order: [0, 1], memory: undefined, expression: { op: 'add', a: out, b: scaled } }
  l.define(node.outputs[0] as string, sum, node)
}

/** A matrix transposed, in place. */
function turn(l: Lowering, v: Value, node: Node): Value {
  const x = l.inMemory(v, node)
  const [r, c] = x.dims as [number, number]
  return { ...x, constant: undefined, dims: [c, r], order: x.order.map((axis) => 1 - axis) } as unknown as Value
}

export const product: Readonly<Record<string, Lower>> = { MatMul: matmul, Gemm: gemm, 'com.microsoft:MatMulNBits': productOfBlocks }
