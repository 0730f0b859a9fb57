import { sizeOf } from '../../tensor'
import { codeBits, codeOf, codesOf, dequantized, geometryOf, quantizedValue } from '../codes'
import { emitCodes } from '../expression'
import type { Lower } from '../lowering'
import type { Argument, Constants, Memory } from '../program'
import { waysOfCodes, emitChosen } from './choose'
import { storedOf } from './weight'
import { identity, stridesOf } from '../value'
import { dynamicProduct } from './dynamic'

const quantize: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const v = l.lazy(node.inputs[0] as string, node)
  l.float(v, node)
  if (node.int('precision', 0) > 1) return l.unsupported(node, `precision ${node.int('precision', 0)}`)
  const type = l.type(name, node)
  const [bits, signed] = codeBits(l, type, node)
  if (bits === 32) return l.unsupported(node, `codes of type ${type}`)
  const code = codeOf(l, node)
  if (code && bits === 8 && !v.memory && !v.constant) return l.define(name, emitCodes(l, v, code, node), node)
  const scales = l.lazy(node.inputs[1] as string, node)
  l.float(scales, node)
  const geometry = geometryOf(l, node, v.dims, scales.dims)
  const whole = geometry[1] === 1 && geometry[3] === 1 && sizeOf(scales.dims) === 1
  const x = whole && bits !== 4 ? l.inMemory(v, node) : l.rowMajor(v, node)
  const zero = node.inputs[2] ? l.rowMajor(l.lazy(node.inputs[2], node), node).memory : null
  const out = l.make(type, v.dims, x.order)
  l.program.step('quantize', node.label, ...geometry, bits, signed, x.memory, l.rowMajor(scales, node).memory, zero, out.memory)
  l.define(name, out, node)
}

const dequantize: Lower = (node, l) => {
  const name = node.outputs[0] as string
  if (l.type(name, node) !== 'float32') return l.unsupported(node, `results of type ${l.type(name, node)}`)
  const codes = l.lazy(node.inputs[0] as string, node)
  const scales = l.lazy(node.inputs[1] as string, node)
  l.float(scales, node)
  const zeros = node.inputs[2] ? l.lazy(node.inputs[2], node) : undefined
  const [bits, signed] = codeBits(l, codes.type, node)
  const geometry = geometryOf(l, node, codes.dims, scales.dims)
  const known = scales.constant && (!zeros || zeros.constant)
  if (known) {
    const scale = scales.constant?.read().data as Float32Array
    const zero = zeros?.constant ? codesOf(zeros.constant.read()) : new Int32Array(scale.length)
    const given = node.int('axis', 1)
    const q = { codes, scale, zero, axis: given < 0 ? given + codes.dims.length : given }
    const single = geometry[3] === 1
    const from = codes.constant
    if (from) {
      const read = () => ({ type: 'float32' as const, dims: codes.dims, data: dequantized(codesOf(from.read()), scale, zero, geometry) })
      let made: ReturnType<typeof read> | undefined
      const value = quantizedValue(codes.dims, q, { key: `dequantized ${name}`, read: () => (made ??= read()) })
      const { quantized, ...plain } = value
      const stored = storedOf(codes, scale, zeros ? zero : undefined, node)
      return l.define(name, { ...plain, ...(single && quantized && { quantized }), ...(stored && { stored }) }, node)
    }
    if (single && scale.length === 1) return l.define(name, quantizedValue(codes.dims, q), node)
  }
  const whole = geometry[1] === 1 && geometry[3] === 1 && sizeOf(scales.dims) === 1
  const x = whole && bits !== 4 ? l.inMemory(codes, node) : l.rowMajor(codes, node)
  const out = l.make('float32', codes.dims, x.order)
  const zero = zeros ? l.rowMajor(zeros, node).memory : null
  l.program.step('dequantize', node.label, ...geometry, bits, signed, x.memory, l.rowMajor(scales, node).memory, zero, out.memory)
  l.define(name, out, node)
}

const dynamicQuantize: Lower = (node, l) => {
  const [y, scale, zero] = node.outputs as [string, string | undefined, string | undefined]
  const v = l.value(node.inputs[0] as string, node)
  l.float(v, node)
  const out = l.make('uint8', v.dims, v.order)
  const s = l.make('float32', [])
  const z = l.make('uint8', [])
  l.program.step('dynamic_quantize', node.label, sizeOf(v.dims), v.memory, out.memory, s.memory, z.memory, v.range ?? null)
  l.define(y, out, node)
  if (scale) l.define(scale, s, node)
  if (zero) l.define(zero, z, node)
}

/** Integer sums of matrices of codes whose zero points may be known only when it runs. */
const matmulInteger: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const [aName, bName, azName, bzName] = node.inputs as [string, string, string | undefined, string | undefined]
  const a = l.rowMajor(l.lazy(aName, node), node)
  const bLazy = l.lazy(bName, node)
  const dims = l.dims(name, node)
  const [aDims, bDims] = [a.dims.length > 1 ? a.dims : [1, ...a.dims], bLazy.dims.length > 1 ? bLazy.dims : [...bLazy.dims, 1]]
  const [m, k] = aDims.slice(-2) as [number, number]
  const n = bDims[bDims.length - 1] as number
  const az = azName ? l.rowMajor(l.lazy(azName, node), node) : undefined
  const bzGiven = bzName ? l.lazy(bzName, node) : undefined
  const bz = bzGiven?.constant && codesOf(bzGiven.constant.read()).every((z) => z === 0) ? undefined : bzGiven
  if (az && sizeOf(az.dims) !== 1) return l.unsupported(node, 'a zero point for each row')
  if (bz && sizeOf(bz.dims) !== 1 && sizeOf(bz.dims) !== n) return l.unsupported(node, 'zero points for each matrix')
  if (k * 255 * 255 > 2 ** 31 - 1) return l.unsupported(node, `${k} products a sum`)
  const columns = bz && sizeOf(bz.dims) === n && n !== 1 ? 1 : 0
  const packed = bLazy.constant && bLazy.dims.length === 2 && bLazy.type === 'int8'
  // Rows of all matrices of a lie behind each other where b is one matrix.
  const one = sizeOf(bDims.slice(0, -2)) === 1
  const lead = one ? [] : dims.slice(0, dims.length - (a.dims.length > 1 ? 1 : 0) - (bLazy.dims.length > 1 ? 1 : 0))
  const rows = one ? sizeOf(aDims) / Math.max(1, k) : m
  const index = (own: readonly number[]): number[] => {
    const at = stridesOf(own, identity(own.length))
    return Array.from({ length: sizeOf(lead) }, (_, i) => {
      let rest = i
      let sum = 0
      for (let d = lead.length - 1; d >= 0; d--) {
        const place = rest % (lead[d] as number)
        rest = Math.floor(rest / (lead[d] as number))
        const axis = d - (lead.length - own.length)
        if (axis >= 0 && own[axis] !== 1) sum += place * (at[axis] as number)
      }
      return sum
    })
  }
  const [ai, bi] = one ? [[0], [0]] : [index(aDims.slice(0, -2)), index(bDims.slice(0, -2))]
  const codes = packed ? (bLazy.constant?.read().data as Int8Array) : undefined
  const ways = codes && waysOfCodes(l, { key: `${bName}`, m: rows, k, n, row: n, col: 1, raw: codes, data: () => codes, gathered: false })
  if (ways && one && !bz && dynamicProduct(node, l, { memory: a.memory, signed: a.type === 'int8', zero: az?.memory ?? null }, ways, [rows, n, k])) return
  const out = l.make('int32', dims)
  const before = [rows, n, k, ai.length, ...ai.flatMap((x, i) => [x, bi[i] as number]), a.type === 'int8' ? 1 : 0, bLazy.type === 'int8' ? 1 : 0]
  const bZero = bz ? l.rowMajor(bz, node).memory : null
  const step = (b: Argument, from: Memory, to: Memory): Argument[] => [...before, packed ? 1 : 0, columns, from, b, az?.memory ?? null, bZero, to]
  if (ways) {
    const fitting = one && !bz ? ways : ways.slice(0, 1)
    // Where it is timed, there is no zero point.
    const args = (b: Argument, constants: Constants, from: Memory, to: Memory): Argument[] =>
      constants === l.constants ? step(b, from, to) : [...before, 1, 0, from, b, null, null, to]
    emitChosen(l, node, 'matmul_integer', fitting, `product integer ${before.join(' ')}`, { x: a.memory, out }, (_, weights, constants, from, __, to) =>
      args(weights, constants, from, to),
    )
  } else l.program.step('matmul_integer', node.label, ...step(l.rowMajor(bLazy, node).memory, a.memory, out.memory))
  l.define(name, out, node)
}

export const quantization: Readonly<Record<string, Lower>> = {
  QuantizeLinear: quantize,
  DequantizeLinear: dequantize,
  DynamicQuantizeLinear: dynamicQuantize,
  MatMulInteger: matmulInteger,
}
