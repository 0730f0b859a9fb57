import { WhittleError } from '../../errors'
import { blobSource, kInt4, kScaledInt8, type Source } from '../../kernels/gemm_weight'
import type { Node } from '../../model'
import { fromHalf } from '../../model/half'
import { sizeOf, type Tensor, type TypedArray } from '../../tensor'
import type { Lower, Lowering } from '../lowering'
import type { Memory } from '../program'
import { identity, type Stored, type Value } from '../value'
import { takeAffines, takeEpilogue } from './epilogue'

/** Blocks shorter than this cost more than they save. */
const kShortest = 8

const isFour = (v: Value): boolean => v.type === 'int4' || v.type === 'uint4'

/** What a DequantizeLinear of a constant matrix of short codes is, or undefined where it is not that. */
export function storedOf(codes: Value, scale: Float32Array, zero: Int32Array | undefined, node: Node): Stored | undefined {
  if (codes.dims.length !== 2 || !codes.constant || !['int4', 'uint4', 'int8', 'uint8'].includes(codes.type)) return undefined
  const block = node.int('block_size', 0)
  if (block === 1 || !scale.every((s) => Math.abs(s) < 2 ** 100)) return undefined
  const given = node.int('axis', 1)
  const axis = block === 0 && scale.length === 1 ? -1 : given < 0 ? given + 2 : given
  return { codes, scale, zero, axis, block, turned: false }
}

/** A matrix of codes transposed stays one. */
export function turnStored(node: Node, l: Lowering): boolean {
  const x = l.lazy(node.inputs[0] as string, node)
  const { stored, constant } = x
  const perm = node.ints('perm') ?? [1, 0]
  if (!stored || !constant || perm[0] !== 1 || perm[1] !== 0) return false
  const [rows, cols] = x.dims as [number, number]
  const read = (): Tensor => {
    const from = constant.read().data as Float32Array
    return { type: 'float32', dims: [cols, rows], data: Float32Array.from(from, (_, i) => from[(i % rows) * cols + Math.floor(i / rows)] as number) }
  }
  let made: Tensor | undefined
  l.define(
    node.outputs[0] as string,
    {
      kind: 'value',
      type: 'float32',
      dims: [cols, rows],
      order: [0, 1],
      memory: undefined,
      constant: { key: `${constant.key} transposed`, read: () => (made ??= read()) },
      stored: { ...stored, turned: !stored.turned },
    },
    node,
  )
  return true
}

/** Where the codes of a k x n matrix lie, columns scaled by `multiply`; undefined for scales that change along k one by one. */
function sourceOf(s: Stored, along: number, k: number, n: number, multiply: Float64Array): Source | undefined {
  const { axis, block } = s
  if (axis >= 0 && (block > 0 ? axis !== along || block < kShortest : axis === along)) return undefined
  const blocks = block > 0 ? Math.ceil(k / block) : 1
  const four = isFour(s.codes)
  const signed = s.codes.type.startsWith('i')
  // Scales (and zero points) as [blocks, n] or, where k is the last axis, [n, blocks].
  const at = along === 0 ? (b: number, j: number): number => b * n + j : (b: number, j: number): number => j * blocks + b
  const from = axis < 0 ? (): number => 0 : at
  const scales = new Float32Array(blocks * n)
  const zeros = s.zero && new Float32Array(blocks * n)
  for (let b = 0; b < blocks; b++)
    for (let j = 0; j < n; j++) {
      scales[at(b, j)] = (s.scale[from(b, j)] as number) * (multiply[j] as number)
      if (zeros) zeros[at(b, j)] = s.zero?.[from(b, j)] as number
    }
  const middle = signed ? 0 : four ? 8 : 128
  const withOffset = zeros ? zeros.some((z) => z !== middle) : !signed
  const columns = s.codes.dims[1] as number
  return {
    format: four ? kInt4 : kScaledInt8, k, n, block: block || k, withOffset, codes: (s.codes.constant?.read() as Tensor).data,
    row: along === 0 ? columns : 1, col: along === 0 ? 1 : columns, signed, scales,
    scaleBlock: along === 0 ? n : 1, scaleCol: along === 0 ? 1 : blocks,
    ...(withOffset && zeros ? { zeros, zeroKind: 2 } : {}), zeroDefault: withOffset ? 0 : middle,
  } // prettier-ignore
}

/** The k x n floats that codes stand for (core/gemm_weight.h). */
function floatsOf(s: Source): Float32Array {
  const { k, n, block, signed = false, zeroKind = 0 } = s
  const four = s.format === kInt4
  const codes = s.codes as Uint8Array | Int8Array
  const code = (from: ArrayLike<number>, i: number): number => {
    if (!four) return signed ? ((from[i] as number) << 24) >> 24 : (from[i] as number) & 255
    const v = ((from[i >> 1] as number) >> ((i & 1) * 4)) & 15
    return signed && v > 7 ? v - 16 : v
  }
  const numbers = (x: TypedArray | null | undefined): ArrayLike<number> =>
    x instanceof Uint16Array ? Float32Array.from(x, fromHalf) : ((x ?? []) as unknown as ArrayLike<number>)
  const scales = numbers(s.scales)
  const zeros = zeroKind > 1 ? numbers(s.zeros) : ((s.zeros ?? []) as unknown as ArrayLike<number>)
  const out = new Float32Array(k * n)
  for (let j = 0; j < n; j++)
    for (let b = 0; b * block < k; b++) {
      const at = b * (s.scaleBlock ?? 0) + j * (s.scaleCol ?? 0)
      const zero = zeroKind === 1 ? code(zeros, b * (s.zeroBlock ?? 0) + j * (s.zeroCol ?? 0)) : zeroKind > 1 ? (zeros[at] as number) : (s.zeroDefault ?? 0)
      for (let p = b * block; p < Math.min(k, (b + 1) * block); p++)
        out[p * n + j] = Math.fround(code(codes, p * s.row + j * s.col) - zero) * (scales[at] as number)
    }
  return out
}

interface Product {
  readonly k: number
  readonly n: number
  readonly key: string
  /** undefined: not with these factors */
  source(multiply: Float64Array): Source | undefined
}

/** Writes rows times packed codes and what follows: factors fold into scales, additions into the bias. */
function emit(l: Lowering, node: Node, a: Value, p: Product, alpha: number, bias: Float32Array | undefined): boolean {
  const name = node.outputs[0] as string
  const dims = l.dims(name, node)
  const before = new Set(l.taken)
  let map = takeAffines(l, name, dims.length - 1, p.n)
  const factors = (): Float64Array => map.multiply.map((v) => v * alpha)
  let multiply = factors()
  const plain = multiply.every((v) => v === 1)
  let source = plain ? undefined : multiply.every((v) => Math.abs(v) < 2 ** 20) ? p.source(multiply) : undefined
  if (!plain && !source) {
    for (const t of [...l.taken]) if (!before.has(t)) l.taken.delete(t)
    map = { multiply: new Float64Array(p.n).fill(1), add: new Float64Array(p.n), output: name }
    multiply = factors()
    source = p.source(multiply)
    if (!source) return false
  }
  const order = identity(dims.length)
  const { activation, output } = takeEpilogue(l, map.output, order, false, node)
  const total = Float32Array.from(map.add, (v, j) => v + (bias ? (bias[j] as number) : 0) * (map.multiply[j] as number))
  const { device } = l.constants
  // Unscaled weights are shared by all nodes that use them.
  const weight = device ? undefined : l.constants.weight(plain ? p.key : `${name} to ${map.output}`, () => source ?? (p.source(multiply) as Source))
  const x = l.rowMajor(a, node)
  const out = l.make('float32', dims, order)
  const biased: Memory | null = total.some((v) => v !== 0) ? l.constants.raw(`bias ${name} to ${map.output}`, () => total) : null
  const m = sizeOf(dims) / p.n
  if (weight) l.program.step('gemm_weight', node.label, m, p.n, p.k, ...activation, x.memory, { packed: weight }, biased, out.memory)
  else {
    // A GPU's products take floats.
    const floats = l.constants.gemm(`floats ${plain ? p.key : `${name} to ${map.output}`}`, 1, p.k, p.n, p.n, 1, () => floatsOf(source ?? (p.source(multiply) as Source)))
    l.program.step('gemm', node.label, m, p.n, p.k, 1, p.k, 1, 0, p.n, 1, 0, 1, 1, ...activation, x.memory, { packed: floats }, biased, null, out.memory)
  }
  l.define(output, out, node)
  return true
}

/** Whether a product with a constant matrix of codes was lowered to one that reads them as they are. */
export function productOfStored(l: Lowering, node: Node, a: Value, w: Value, transposed: boolean, alpha: number, bias: Float32Array | undefined): boolean {
  const { stored, constant } = w
  if (!stored || !constant || a.dims.length === 0) return false
  const [k, n] = (transposed ? [w.dims[1], w.dims[0]] : w.dims) as [number, number]
  if (k === 0 || n === 0) return false
  const along = stored.turned === transposed ? 0 : 1
  const source = (multiply: Float64Array): Source | undefined => sourceOf(stored, along, k, n, multiply)
  const { axis, block } = stored
  if (axis >= 0 && (block > 0 ? axis !== along || block < kShortest : axis === along)) return false
  return emit(l, node, a, { k, n, key: `${constant.key}${transposed ? ' transposed' : ''}`, source }, alpha, bias)
}

/** com.microsoft MatMulNBits: its tensors as they lie. */
export const productOfBlocks: Lower = (node, l) => {
  const [aName, wName, sName, zName, gName, bName] = node.inputs as [string, string, string, ...(string | undefined)[]]
  const a = l.lazy(aName, node)
  l.float(a, node)
  const bits = node.int('bits', 4)
  const [k, n, block] = [node.int('K', 0), node.int('N', 0), node.int('block_size', 0)]
  if (bits !== 4 && bits !== 8) return l.unsupported(node, `${bits} bits`)
  const given = (name: string | undefined, what: string): Tensor | undefined =>
    name ? (l.constant(name, node) ?? l.unsupported(node, `${what} that is computed`)) : undefined
  const [codes, scale, zero, order, bias] = [given(wName, 'a weight'), given(sName, 'a scale'), given(zName, 'a zero point'), given(gName, 'an order of k'), given(bName, 'a bias')]
  if (order && Array.from(order.data as Iterable<number>).some((g, i) => g !== Math.floor(i / block))) return l.unsupported(node, 'an order of k other than its own')
  if (bias && (bias.type !== 'float32' || bias.data.length !== n)) return l.unsupported(node, `a bias of ${bias.type} [${bias.dims.join(', ')}]`)
  let source: Source
  try {
    source = blobSource(bits === 4 ? kInt4 : kScaledInt8, codes, { scale, zeroPoint: zero, blockSize: block, k })
    if (source.n !== n || k <= 0 || n <= 0) throw new Error(`${source.n} columns for N = ${n}, K = ${k}`)
  } catch (error) {
    throw new WhittleError('ERR_MODEL_FORMAT', node.label, `MatMulNBits ${node.label}: ${(error as Error).message}`)
  }
  // Its scales may be short floats, which hold no further factor.
  const product: Product = { k, n, key: `${wName} in blocks`, source: (multiply) => (multiply.every((v) => v === 1) ? source : undefined) }
  emit(l, node, a, product, 1, bias?.data as Float32Array | undefined)
}

/** Whether a Gather of rows of a constant matrix of codes was lowered to one that makes only those rows floats. */
export function rowsOfStored(node: Node, l: Lowering): boolean {
  const table = l.lazy(node.inputs[0] as string, node)
  const { stored } = table
  const axis = node.int('axis', 0)
  if (!stored || stored.turned || l.constants.device || (axis !== 0 && axis !== -2)) return false
  const [rows, inner] = table.dims as [number, number]
  const four = isFour(stored.codes)
  if (four && inner % 2 !== 0) return false
  const name = node.outputs[0] as string
  const index = l.rowMajor(l.lazy(node.inputs[1] as string, node), node)
  if (index.type !== 'int64' && index.type !== 'int32') return false
  const { block } = stored
  // Rows that share scales, scales of a row, elements of a scale.
  const [shared, list, run] =
    stored.axis < 0 ? [0, 1, inner] : stored.axis === 0 ? (block > 0 ? [block, inner, 1] : [1, 1, inner]) : block > 0 ? [1, Math.ceil(inner / block), block] : [0, inner, 1]
  const key = table.constant?.key ?? name
  const out = l.make('float32', l.dims(name, node))
  const codes = l.inMemory(stored.codes, node)
  const zero = stored.zero?.some((z) => z !== 0) ? stored.zero : undefined
  l.program.step(
    'gather_codes',
    node.label,
    ...[rows, inner, sizeOf(index.dims), index.type === 'int64' ? 1 : 0],
    ...[shared, list, Math.max(1, run)],
    ...[four ? 4 : 8, stored.codes.type.startsWith('i') ? 1 : 0],
    codes.memory,
    l.constants.raw(`row scales ${key}`, () => stored.scale),
    zero ? l.constants.raw(`row zeros ${key}`, () => zero) : null,
    index.memory,
    out.memory,
  )
  l.define(name, out, node)
  return true
}
