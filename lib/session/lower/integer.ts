import type { Node } from '../../model'
import { sizeOf, type DataType, type Tensor } from '../../tensor'
import { codeOf, codesOf, wholeCode, type Code } from '../codes'
import type { Lowering } from '../lowering'
import type { Argument, Constants, Memory } from '../program'
import { identity, type Quantized, type Value } from '../value'
import { imagesOf } from './depth'
import { takeAffines, takeEpilogue, type Affine, type Epilogue } from './epilogue'
import { emitChosen, waysOfCodes } from './choose'
import { channelsLast } from './window'

// core/gemm_int8.h: GemmInt8Out
const kOut: Partial<Record<DataType, number>> = { int32: 0, float32: 1, int8: 2, uint8: 3 }
// core/conv.h
const kTaps = 256
/** longest sum of products of 8-bit numbers that fits 32 bits */
const kLongest = 60_000

/** Codes of 8 bits with one scale for all, which integer kernels can read. */
function activation(l: Lowering, name: string, node: Node): (Quantized & { readonly code: Code }) | undefined {
  const q = l.lazy(name, node).quantized
  if (!q || q.codes.constant || q.scale.length !== 1 || (q.codes.type !== 'int8' && q.codes.type !== 'uint8')) return undefined
  const scale = q.scale[0] as number
  return scale > 0 && scale < Infinity ? { ...q, code: { type: q.codes.type, scale, zero: q.zero[0] as number } } : undefined
}

interface Weights {
  /** codes less their zero points */
  readonly codes: Int8Array
  readonly scales: Float32Array
  readonly dims: readonly number[]
}

/** Constant weights as int8 with a scale for each of `columns` along `axis`, or undefined where they are not that. */
function weightsOf(v: Value, axis: number, columns: number): Weights | undefined {
  const q = v.quantized
  const from = q?.codes.constant
  if (!q || !from || q.codes.type.includes('32') || q.codes.type.includes('16')) return undefined
  if (q.scale.length !== 1 && (q.axis !== axis || q.scale.length !== columns)) return undefined
  const dims = q.codes.dims
  const scales = Float32Array.from({ length: columns }, (_, i) => q.scale[q.scale.length === 1 ? 0 : i] as number)
  const codes = centred(from.read(), q.zero, sizeOf(dims.slice(axis + 1)))
  return codes && { codes, scales, dims }
}

/** Codes less their zero points, one for `inner` codes in turn; undefined where one leaves the range. */
function centred(t: Tensor, zero: Int32Array, inner: number): Int8Array | undefined {
  if (t.type === 'int8' && zero.every((z) => z === 0)) return t.data as Int8Array
  const all = codesOf(t)
  const out = new Int8Array(all.length)
  for (let i = 0, column = 0; i < all.length; column = (column + 1) % zero.length) {
    const z = zero[column] as number
    for (const end = zero.length === 1 ? all.length : i + inner; i < end; i++) {
      const code = (all[i] as number) - z
      if (code < -128 || code > 127) return undefined
      out[i] = code
    }
  }
  return out
}

/** [oc][ic][tap] to [oc][tap][ic]. */
function byOutput(codes: Int8Array, oc: number, ic: number, taps: number): Int8Array {
  const to = new Int8Array(codes.length)
  for (let o = 0, at = 0; o < oc; o++)
    for (let t = 0; t < taps; t++) for (let from = o * ic * taps + t, end = at + ic; at < end; at++, from += taps) to[at] = codes[from] as number
  return to
}

/** [oc][1][tap] to [tap][oc], as floats. */
function byTap(codes: Int8Array, oc: number, taps: number): Float32Array {
  const to = new Float32Array(codes.length)
  for (let o = 0; o < oc; o++) for (let t = 0; t < taps; t++) to[t * oc + o] = codes[o * taps + t] as number
  return to
}

interface Finish {
  readonly output: string
  /** activation, type of the result, its scale and zero point */
  readonly numbers: readonly number[]
  readonly type: DataType
  readonly scales: Float32Array
  readonly bias: Float32Array | undefined
  readonly residual: Epilogue['residual']
  /** type, scale and zero point of the residual */
  readonly added: readonly number[]
}

/** What follows integer sums of `columns`: scales and shifts, an activation, and the making of codes. */
function takeFinish(l: Lowering, node: Node, axis: number, order: readonly number[], xScale: number, w: Weights, bias: Float32Array | undefined, residuals = false): Finish {
  const n = w.scales.length
  const name = node.outputs[0] as string
  const before = new Set(l.taken)
  let map: Affine & { readonly output: string } = takeAffines(l, name, axis, n)
  // Scales are positive and stay within float32; what would break that is left to a step of its own.
  if (!map.multiply.every((m, i) => m > 0 && fits(m * (w.scales[i] as number)) && fits(m * (w.scales[i] as number) * xScale))) {
    for (const t of [...l.taken]) if (!before.has(t)) l.taken.delete(t)
    map = { multiply: new Float64Array(n).fill(1), add: new Float64Array(n), output: name }
  }
  const after = takeEpilogue(l, map.output, order, residuals && addsHere(l, map.output), node)
  // A device's kernels make codes of sums that nothing is added to.
  const next = after.residual && l.constants.device ? undefined : l.soleUser(after.output)
  const code = next?.is('QuantizeLinear') && next.inputs[0] === after.output ? codeOf(l, next) : undefined
  const narrow = next && code && (code.type === 'int8' || code.type === 'uint8') ? code : undefined
  if (next && narrow) l.taken.add(next)
  const type = narrow?.type ?? 'float32'
  const total = Float32Array.from(map.add, (v, i) => v + (bias?.[i] ?? 0) * (map.multiply[i] as number))
  return {
    output: next && narrow ? (next.outputs[0] as string) : after.output,
    numbers: [...after.activation, kOut[type] as number, narrow?.scale ?? 1, narrow?.zero ?? 0],
    type,
    scales: w.scales.map((s, i) => s * (map.multiply[i] as number)),
    bias: total.some((v) => v !== 0) ? total : undefined,
    residual: after.residual,
    added: [kOut[after.added.type] as number, after.added.scale, after.added.zero],
  }
}

/** How what comes next adds what is in memory: floats, or codes of which none are made on a device. Expressions cost less where they are added. */
function addsHere(l: Lowering, name: string): boolean | 'codes' {
  const next = l.soleUser(name)
  const other = next?.is('Add') ? next.inputs[next.inputs[0] === name ? 1 : 0] : undefined
  if (!next || other === undefined || !l.has(other)) return false
  const v = l.lazy(other, next)
  if (wholeCode(v)) return l.constants.device ? false : 'codes'
  return v.memory !== undefined && !v.quantized
}

const fits = (s: number): boolean => Math.fround(s) > 2 ** -120 && s < 2 ** 120

/** A constant bias as floats; null where it is computed or of another length. */
function biasOf(l: Lowering, node: Node, name: string | undefined, n: number): Float32Array | undefined | null {
  if (!name) return undefined
  const t = l.constant(name, node)
  return t && t.type === 'float32' && sizeOf(t.dims) === n && t.dims[t.dims.length - 1] === n ? (t.data as Float32Array) : null
}

/** Whether a convolution of codes with constant codes was lowered to an integer one. */
export function convOfCodes(node: Node, l: Lowering): boolean {
  const [xName, wName, bName] = node.inputs as [string, string, string | undefined]
  const x = activation(l, xName, node)
  if (!x) return false
  const outDims = l.dims(node.outputs[0] as string, node)
  const oc = outDims[1] as number
  const w = weightsOf(l.lazy(wName, node), 0, oc)
  const bias = biasOf(l, node, bName, oc)
  if (!w || bias === null || !w.scales.every((s) => fits(s) && fits(s * x.code.scale))) return false
  const xDims = l.dims(xName, node)
  const groups = node.int('group', 1)
  const { image: [n, h, wide, c], out: [oh, ow], window, weights: own, place } = imagesOf(node, l, xDims, w.dims.slice(2), w.codes, outDims) // prettier-ignore
  const depthwise = groups > 1 && groups === c && oc === c
  const [kh, kw] = window.kernel
  const taps = kh * kw
  if (depthwise ? taps > kTaps : groups !== 1 || taps * c > kLongest) return false
  const order = channelsLast(xDims.length)
  const codes = place(l.inOrder(x.codes, order, node), x.code.zero & 255)
  const finish = takeFinish(l, node, 1, order, x.code.scale, w, bias, !depthwise)
  const key = `${node.outputs[0]}${window.part ?? ''}`
  // W is [oc][ic][tap]; products take a matrix [oc][tap][ic], turned, the depthwise kernel [tap][channel].
  const arranged = (): Int8Array => (taps === 1 ? own : byOutput(own, oc, c, taps))
  const planes = (): Float32Array => byTap(own, oc, taps)
  let out = l.make(finish.type, outDims, order)
  const numbers = [
    ...[n, h, wide, c, oh, ow, oc],
    ...[kh, kw, ...window.strides, ...window.dilations, window.pads[0], window.pads[1], depthwise ? 1 : 0],
    x.code.type === 'int8' ? 1 : 0,
  ]
  const step = (weights: Argument, constants: Constants, from: Memory, add: Memory | null, to: Memory): Argument[] => [
    ...numbers,
    ...[x.code.zero, x.code.scale],
    ...finish.numbers,
    ...finish.added,
    from,
    weights,
    constants.raw(`scales ${key} to ${finish.output}`, () => finish.scales),
    finish.bias ? constants.raw(`bias ${key} to ${finish.output}`, () => finish.bias as Float32Array) : null,
    add,
    to,
  ]
  if (depthwise) {
    l.program.step('conv_int8', node.label, ...step(l.constants.raw(`conv codes ${key}`, planes), l.constants, codes, null, out.memory))
  } else {
    const plain = taps === 1 && window.strides.every((s) => s === 1)
    const matrix = { key: `conv ${key}`, m: n * oh * ow, k: taps * c, n: oc, row: 1, col: taps * c }
    const ways = waysOfCodes(l, { ...matrix, raw: own, data: arranged, gathered: !plain, narrow: finish.type !== 'float32' })
    const shape = `conv int8 ${[...numbers, finish.type, finish.numbers[0]].join(' ')}${finish.residual ? ` residual ${finish.residual.type}` : ''}`
    out = emitChosen(l, node, 'conv_int8', ways, shape, { x: codes, residual: finish.residual, out }, (_, weights, constants, from, add, to) => step(weights, constants, from, add, to))
  }
  l.define(finish.output, out, node)
  return true
}

/** Whether a product of codes with a constant matrix of codes was lowered to an integer one. */
export function productOfCodes(node: Node, l: Lowering, transposed: boolean, bName: string | undefined): boolean {
  const [aName, wName] = node.inputs as [string, string]
  const a = activation(l, aName, node)
  const v = a && l.lazy(wName, node)
  if (!a || !v || v.dims.length !== 2 || a.codes.dims.length < 2) return false
  const [k, n] = (transposed ? [v.dims[1], v.dims[0]] : v.dims) as [number, number]
  const w = weightsOf(v, transposed ? 0 : 1, n)
  const bias = biasOf(l, node, bName, n)
  if (!w || bias === null || k > kLongest || !w.scales.every((s) => fits(s) && fits(s * a.code.scale))) return false
  const dims = l.dims(node.outputs[0] as string, node)
  const order = identity(dims.length)
  const codes = l.rowMajor(a.codes, node)
  const finish = takeFinish(l, node, dims.length - 1, order, a.code.scale, w, bias)
  const key = node.outputs[0] as string
  const out = l.make(finish.type, dims, order)
  const m = sizeOf(dims) / (n || 1)
  const matrix = { key: `product ${wName}${transposed ? ' transposed' : ''}`, m, k, n, row: transposed ? 1 : n, col: transposed ? k : 1 }
  const ways = waysOfCodes(l, { ...matrix, raw: w.codes, data: () => w.codes, gathered: false })
  const signed = a.code.type === 'int8' ? 1 : 0
  const shape = `product int8 ${[m, n, k, signed, finish.type, finish.numbers[0]].join(' ')}`
  emitChosen(l, node, 'gemm_int8', ways, shape, { x: codes.memory, out }, (_, weights, constants, from, __, to) => [
    ...[m, n, k],
    ...[signed, a.code.zero, a.code.scale],
    ...finish.numbers,
    from,
    weights,
    constants.raw(`scales ${key} to ${finish.output}`, () => finish.scales),
    finish.bias ? constants.raw(`bias ${key} to ${finish.output}`, () => finish.bias as Float32Array) : null,
    to,
  ])
  l.define(finish.output, out, node)
  return true
}
