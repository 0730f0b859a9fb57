// Arithmetic. float32 results are rounded once. Approximate functions: see `approximations`.
import { compare, convert, joins } from './conversions'
import { fma64, fmaNarrow, narrow } from './floats'
import type { Decoding, Step } from './instructions'
import { widthOf } from './parse'
import {
  direct,
  each,
  flush,
  kCopy,
  loop,
  mapped,
  readBig,
  readers,
  rounding,
  saturate,
  writeBig,
  writers,
  type Read,
  type Write,
} from './registers'

// Globals of a test's context are slow.
const { abs, clz32, fround, imul, log2, max, min, sqrt, tanh, trunc } = Math
const { is } = Object
const { asIntN, asUintN } = BigInt

const less = (a: number, b: number): boolean => a < b || (a === b && is(a, -0) && !is(b, -0))
const least = (a: number, b: number): number => (a !== a ? b : b !== b ? a : less(a, b) ? a : b)
const most = (a: number, b: number): number => (a !== a ? b : b !== b ? a : less(a, b) ? b : a)

// The relative errors that the PTX ISA allows; log2 between 1/2 and 2 absolutely. The launch says to which side they go.
const approximations: Record<string, { f: (x: number) => number; error: number }> = {
  'ex2.f32': { f: (x) => 2 ** x, error: 2 ** -22 },
  'lg2.f32': { f: (x) => log2(x), error: 2 ** -22 },
  'rcp.f32': { f: (x) => 1 / x, error: 2 ** -23 },
  'sqrt.f32': { f: sqrt, error: 2 ** -22 },
  'rsqrt.f32': { f: (x) => 1 / sqrt(x), error: 2 ** -22 },
  'sin.f32': { f: Math.sin, error: 2 ** -20 },
  'cos.f32': { f: Math.cos, error: 2 ** -20 },
  'tanh.f32': { f: tanh, error: 2 ** -11 },
  // Upper words only; its users refine it.
  'rcp.f64': { f: (x) => 1 / x, error: 2 ** -20 },
  'rsqrt.f64': { f: (x) => 1 / sqrt(x), error: 2 ** -20 },
}

/** div.approx of float32: within 2 units, and 0 (NaN of an infinity) where the divisor is beyond 2^126. */
function divide(d: Decoding): Step {
  const [o, a, b] = [d.at(0) * 32, d.at(1) * 32, d.at(2) * 32]
  const read = readers['f32'] as Read<number>
  const flushed = d.op.includes('ftz') ? flush : (x: number): number => x
  return each((w, l) => {
    const [x, y] = [flushed(read(w, a + l)), flushed(read(w, b + l))]
    const exact = abs(y) > 2 ** 126 && Number.isFinite(y) ? (Number.isFinite(x) ? 0 : NaN) : x / y
    const off = Number.isFinite(exact) && exact !== 0 ? w.context.approximate * 2 ** -22 * abs(exact) : 0
    ;(writers['f32'] as Write<number>)(w, o + l, flushed(fround(exact + off)))
  })
}

function approximate(d: Decoding, name: string, type: string): Step | undefined {
  if (name === 'div' && type === 'f32') return divide(d)
  const entry = approximations[`${name}.${type}`]
  if (!entry) return undefined
  const [o, a] = [d.at(0) * 32, d.at(1) * 32]
  const read = readers[type] as Read<number>
  const ftz = d.op.includes('ftz')
  return each((w, l) => {
    const x = ftz && type === 'f32' ? flush(read(w, a + l)) : read(w, a + l)
    if (type === 'f64') {
      w.f64[o + l] = entry.f(x) * (1 + w.context.approximate * entry.error)
      w.u32[2 * (o + l)] = 0
      return
    }
    const exact = entry.f(x)
    const off = name === 'lg2' && x > 0.5 && x < 2 ? entry.error : entry.error * abs(exact)
    // Where the answer is exact by the documentation, it stays: infinities, NaN, 0, and powers of two that are whole.
    const y = fround(Number.isFinite(exact) && exact !== 0 && x !== 0 ? exact + w.context.approximate * off : exact)
    ;(writers['f32'] as Write<number>)(w, o + l, ftz ? flush(y) : y)
  })
}

/** add, sub, mul, fma and so on of float32, float16, bfloat16. */
function floats(d: Decoding, name: string, type: 'f32' | 'f16' | 'bf16'): Step | undefined {
  const { op } = d
  const r = rounding(op)
  const sat = op.includes('sat')
  const ftz = op.includes('ftz')
  const finish = (y: number): number => (sat ? saturate(ftz ? flush(y) : y) : ftz ? flush(y) : y)
  const once = type === 'f32' && r === 'rn'
  const quiet = op.includes('NaN')
  // Sums and products of a float are the fused product's.
  const plain: Record<string, (a: number, b: number, c: number) => number> = {
    add: once ? (a, b) => fround(a + b) : (a, b) => fmaNarrow(a, 1, b, type, r),
    sub: once ? (a, b) => fround(a - b) : (a, b) => fmaNarrow(a, 1, -b, type, r),
    mul: once ? (a, b) => fround(a * b) : (a, b) => narrow(a * b, type, r),
    fma: (a, b, c) => fmaNarrow(a, b, c, type, r),
    mad: (a, b, c) => fmaNarrow(a, b, c, type, r),
    min: quiet ? (a, b) => (a !== a || b !== b ? NaN : least(a, b)) : least,
    max: quiet ? (a, b) => (a !== a || b !== b ? NaN : most(a, b)) : most,
    div: (a, b) => fround(a / b),
    rcp: (a) => fround(1 / a),
    sqrt: (a) => fround(sqrt(a)),
  }
  const f = plain[name]
  if (!f || !op.slice(1, -1).every((m) => ['rn', 'rz', 'rm', 'rp', 'sat', 'ftz', 'NaN'].includes(m))) return undefined
  if (['div', 'rcp', 'sqrt'].includes(name) && !(type === 'f32' && op.includes('rn'))) return undefined
  const read = readers[type] as Read<number>
  const write = writers[type] as Write<number>
  return mapped(
    d,
    ftz ? (w, at) => flush(read(w, at)) : read,
    write,
    (a: number, b: number, c: number) => finish(f(a, b, c)) as number,
  )
}

function doubles(d: Decoding, name: string): Step | undefined {
  const plain: Record<string, (a: number, b: number, c: number) => number> = {
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    mul: (a, b) => a * b,
    fma: fma64,
    mad: fma64,
    min: least,
    max: most,
    div: (a, b) => a / b,
    rcp: (a) => 1 / a,
    sqrt: (a) => sqrt(a),
  }
  const f = plain[name]
  if (!f || !d.op.slice(1, -1).every((m) => m === 'rn')) return undefined
  return mapped(d, readers['f64'] as Read<number>, writers['f64'] as Write<number>, f)
}

const big32 = (v: bigint): number => Number(asUintN(32, v))

function integers(d: Decoding, name: string, type: string, bits: number): Step | undefined {
  const { op } = d
  const signed = type[0] === 's'
  const mode = op[1] as string
  const mods = op.slice(1, -1)
  const only = (...allowed: string[]): boolean => mods.every((m) => allowed.includes(m))
  if (name === 'mul' || name === 'mad') {
    if (mods.length !== 1 || !['lo', 'hi', 'wide'].includes(mode)) return undefined
    const hi = mode === 'hi' ? BigInt(bits) : 0n
    if (mode === 'wide' || mode === 'hi' || bits === 64) {
      if (mode === 'wide' && bits === 64) return undefined
      const to = mode === 'wide' ? 2 * bits : bits
      const [o, a, b, c] = [d.at(0) * 32, d.at(1) * 32, d.at(2) * 32, name === 'mad' ? d.at(3) * 32 : -1]
      const narrowRead = readers[type] as Read<number>
      const read: Read<bigint> = bits === 64 ? readBig(type) : (w, at) => BigInt(narrowRead(w, at))
      if (to === 64 && bits === 32 && c < 0)
        // Addresses: exact as doubles below 2^53.
        return direct(
          `wide ${type}`,
          `const p = ${signed ? '(u[2 * (a + l)] | 0) * (u[2 * (b + l)] | 0)' : 'u[2 * (a + l)] * u[2 * (b + l)]'}; if (p >= 0 && p < 9007199254740992) { u[2 * (o + l)] = p; u[2 * (o + l) + 1] = p / 4294967296 } else w.u64[o + l] = BigInt(${signed ? 'u[2 * (a + l)] | 0' : 'u[2 * (a + l)]'}) * BigInt(${signed ? 'u[2 * (b + l)] | 0' : 'u[2 * (b + l)]'})`,
          d.at(0),
          d.at(1),
          d.at(2),
        )
      return each((w, l) => {
        const p = (read(w, a + l) * read(w, b + l)) >> hi
        const v = c < 0 ? p : p + (to === 64 ? (w.u64[c + l] as bigint) : BigInt(w.u32[2 * (c + l)] as number))
        if (to === 64) w.u64[o + l] = v
        else w.u32[2 * (o + l)] = to === 16 ? big32(v) & 0xffff : big32(v)
      })
    }
    const f =
      name === 'mul' ? (a: number, b: number) => imul(a, b) : (a: number, b: number, c: number) => imul(a, b) + c
    return mapped(d, readers[type] as Read<number>, writers[bits] as Write<number>, f)
  }
  if (bits === 64) {
    const read = readBig(type)
    if (name === 'add' && only())
      return direct(
        'add64',
        'const low = u[2 * (a + l)] + u[2 * (b + l)], high = u[2 * (a + l) + 1] + u[2 * (b + l) + 1] + (low > 4294967295 ? 1 : 0); u[2 * (o + l)] = low; u[2 * (o + l) + 1] = high',
        d.at(0),
        d.at(1),
        d.at(2),
      )
    if (name === 'shl' || name === 'shr') {
      const [o, a, b] = [d.at(0) * 32, d.at(1) * 32, d.at(2) * 32]
      return each((w, l) => {
        const n = BigInt(min(64, w.u32[2 * (b + l)] as number))
        w.u64[o + l] = name === 'shl' ? (w.u64[a + l] as bigint) << n : read(w, a + l) >> n
      })
    }
    const plain: Record<string, (a: bigint, b: bigint) => bigint> = {
      sub: (a, b) => a - b,
      div: (a, b) => (b === 0n ? -1n : a / b),
      rem: (a, b) => (b === 0n ? a : a % b),
      min: (a, b) => (a < b ? a : b),
      max: (a, b) => (a > b ? a : b),
      and: (a, b) => a & b,
      or: (a, b) => a | b,
      xor: (a, b) => a ^ b,
      not: (a) => ~a,
      neg: (a) => -a,
      abs: (a) => (a < 0n ? -a : a),
    }
    const f = plain[name]
    if (f && only()) return mapped(d, read, writeBig, f)
    const counts: Record<string, (a: bigint) => number> = {
      popc: (a) => a.toString(2).replace(/0/g, '').length,
      clz: (a) => (a ? 64 - a.toString(2).length : 64),
    }
    const count = counts[name]
    return count && only() ? mapped(d, readBig('u64'), writers['32'] as Write<number>, count) : undefined
  }
  const limit = signed ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1]
  const sat = op.includes('sat')
  const clip = (x: number): number => (sat ? max(limit[0] as number, min(limit[1] as number, x)) : x)
  const plain: Record<string, (a: number, b: number, c: number) => number> = {
    add: (a, b) => clip(a + b),
    sub: (a, b) => clip(a - b),
    div: (a, b) => (b === 0 ? -1 : trunc(a / b)),
    rem: (a, b) => (b === 0 ? a : a % b),
    min,
    max,
    and: (a, b) => a & b,
    or: (a, b) => a | b,
    xor: (a, b) => a ^ b,
    not: (a) => ~a,
    neg: (a) => -a,
    abs,
    shl: (a, b) => (b > 31 ? 0 : a << b),
    shr: signed ? (a, b) => a >> min(b >>> 0, 31) : (a, b) => (b >>> 0 > 31 ? 0 : a >>> b),
    cnot: (a) => (a === 0 ? 1 : 0),
    popc: (a) => {
      let n = 0
      for (let m = a; m; m &= m - 1) n++
      return n
    },
    clz: (a) => clz32(a),
    brev: (a) => {
      let r = 0
      for (let i = 0; i < 32; i++) r |= ((a >>> i) & 1) << (31 - i)
      return r
    },
    sad: (a, b, c) => c + abs(a - b),
  }
  const f = plain[name]
  if (!f || !only(...(sat && type === 's32' && (name === 'add' || name === 'sub') ? ['sat'] : []))) return undefined
  if (['popc', 'clz', 'brev'].includes(name) && bits !== 32) return undefined
  return mapped(d, readers[type] as Read<number>, writers[bits] as Write<number>, f)
}

/** Instructions on the bits of words. */
function words(d: Decoding): Step | undefined {
  const u32 = readers['u32'] as Read<number>
  const write = writers['32'] as Write<number>
  const key = d.op.join('.')
  const byteOf = (v: number, i: number, signed: boolean): number =>
    signed ? (v << (24 - 8 * i)) >> 24 : (v >>> (8 * i)) & 255
  const dot = /^dp4a\.([su])32\.([su])32$/.exec(key)
  if (dot)
    return mapped(d, u32, write, (a, b, c) => {
      let sum = c
      for (let i = 0; i < 4; i++) sum += byteOf(a, i, dot[1] === 's') * byteOf(b, i, dot[2] === 's')
      return sum
    })
  if (key === 'prmt.b32')
    return mapped(d, u32, write, (a, b, c) => {
      let y = 0
      for (let i = 0; i < 4; i++) {
        const s = (c >>> (4 * i)) & 15
        const v = byteOf(s & 4 ? b : a, s & 3, false)
        y |= (s & 8 ? (v & 128 ? 255 : 0) : v) << (8 * i)
      }
      return y
    })
  const funnel = /^shf\.([lr])\.(wrap|clamp)\.b32$/.exec(key)
  if (funnel)
    return mapped(d, u32, write, (low, high, c) => {
      const n = BigInt(funnel[2] === 'wrap' ? c & 31 : min(c, 32))
      const both = (BigInt(high) << 32n) | BigInt(low)
      return funnel[1] === 'l' ? big32((both << n) >> 32n) : big32(both >> n)
    })
  const field = /^bfe\.([su])32$/.exec(key)
  if (field)
    return mapped(d, u32, write, (a, b, c) => {
      const [at, n] = [b & 255, c & 255]
      if (n === 0) return 0
      const value = BigInt(field[1] === 's' ? a | 0 : a)
      const part = value >> BigInt(min(at, 63))
      return big32(field[1] === 's' ? asIntN(min(n, 64), part) : asUintN(min(n, 64), part))
    })
  if (key === 'bfi.b32') {
    const [o, a, b, c, n] = [0, 1, 2, 3, 4].map((i) => d.at(i) * 32) as [number, number, number, number, number]
    return each((w, l) => {
      const [at, count] = [u32(w, c + l) & 255, u32(w, n + l) & 255]
      const mask = asUintN(32, ((1n << BigInt(count)) - 1n) << BigInt(at))
      w.u32[2 * (o + l)] = Number((BigInt(u32(w, b + l)) & ~mask) | ((BigInt(u32(w, a + l)) << BigInt(at)) & mask))
    })
  }
  if (key === 'bfi.b64') {
    const [o, a, b, c, n] = [0, 1, 2, 3, 4].map((i) => d.at(i) * 32) as [number, number, number, number, number]
    return each((w, l) => {
      const [at, count] = [u32(w, c + l) & 255, u32(w, n + l) & 255]
      const mask = asUintN(64, ((1n << BigInt(count)) - 1n) << BigInt(at))
      w.u64[o + l] = ((w.u64[b + l] as bigint) & ~mask) | (((w.u64[a + l] as bigint) << BigInt(at)) & mask)
    })
  }
  if (key === 'lop3.b32') {
    const [o, a, b, c, t] = [0, 1, 2, 3, 4].map((i) => d.at(i) * 32) as [number, number, number, number, number]
    return each((w, l) => {
      const [x, y, z, table] = [u32(w, a + l), u32(w, b + l), u32(w, c + l), u32(w, t + l)]
      let v = 0
      for (let i = 0; i < 8; i++) if ((table >>> i) & 1) v |= (i & 4 ? x : ~x) & (i & 2 ? y : ~y) & (i & 1 ? z : ~z)
      w.u32[2 * (o + l)] = v
    })
  }
  return undefined
}

function moves(d: Decoding, name: string, type: string): Step | undefined {
  const bits = type === 'pred' ? 32 : 8 * widthOf(type)
  if (name === 'selp') {
    const [o, a, b, p] = [0, 1, 2, 3].map((i) => d.at(i)) as [number, number, number, number]
    const run = loop('selp', `const s = pred(w, c + l) ? a : b; ${kCopy('s')}`, { pred: readers['pred'] })
    return (w, mask) => run(w, mask, o * 32, a * 32, b * 32, p * 32)
  }
  const source = d.operand(1)
  if (d.operand(0).kind === 'name' && source.kind === 'name') {
    const [o, a] = [d.at(0) * 32, d.at(1) * 32]
    // True is written as -1.
    if (type === 'pred' && /^-?\d+$/.test(source.name))
      return each((w, l) => (w.u32[2 * (o + l)] = (w.u32[2 * (a + l)] as number) & 1))
    return bits === 64
      ? direct('mov64', kCopy('a'), d.at(0), d.at(1))
      : direct('mov32', 'u[2 * (o + l)] = u[2 * (a + l)]', d.at(0), d.at(1))
  }
  // {a, b} <-> one register
  const [to, from] = [d.names(0), d.names(1)]
  const parts = max(to.length, from.length)
  const part = BigInt(bits / parts)
  if (min(to.length, from.length) !== 1 || parts < 2) return undefined
  return each((w, l) => {
    if (to.length === 1) {
      let v = 0n
      from.forEach((s, i) => (v |= asUintN(Number(part), w.u64[s * 32 + l] as bigint) << (BigInt(i) * part)))
      if (bits === 64) w.u64[(to[0] as number) * 32 + l] = v
      else w.u32[2 * ((to[0] as number) * 32 + l)] = Number(v)
    } else {
      const v = w.u64[(from[0] as number) * 32 + l] as bigint
      to.forEach((s, i) => {
        if (s >= 0) w.u32[2 * (s * 32 + l)] = Number(asUintN(min(32, Number(part)), v >> (BigInt(i) * part)))
      })
    }
  })
}

/** abs, neg and copysign of floats work on the sign alone. */
function signs(d: Decoding, name: string, type: string): Step | undefined {
  const f = type === 'f32' ? (b: number) => (name === 'abs' ? b & 0x7fffffff : b ^ 0x80000000) : undefined
  if (f && !d.op.includes('ftz')) return mapped(d, readers['u32'] as Read<number>, writers['32'] as Write<number>, f)
  const g = (x: number): number => (name === 'abs' ? abs(x) : -x)
  return mapped(
    d,
    readers[type] as Read<number>,
    writers[type] as Write<number>,
    type === 'f32' ? (x: number) => flush(g(x)) : g,
  )
}

export function arithmetic(d: Decoding): Step | undefined {
  const { op } = d
  const name = op[0] as string
  const type = op.at(-1) as string
  if (name === 'cvt') return convert(d)
  if (name === 'setp') return compare(d, type)
  const word = words(d)
  if (word) return word
  if (name === 'mov' || name === 'selp') return op.length === 2 ? moves(d, name, type) : undefined
  if (type === 'pred') {
    const f = { ...joins, not: (a: number) => a ^ 1 }[name]
    return f && op.length === 2
      ? mapped(d, readers['pred'] as Read<number>, writers['pred'] as Write<number>, f)
      : undefined
  }
  if (/^b?f\d+$/.test(type)) {
    if ((name === 'abs' || name === 'neg') && op.slice(1, -1).every((m) => m === 'ftz')) return signs(d, name, type)
    if (name === 'copysign' && type === 'f32')
      return mapped(
        d,
        readers['u32'] as Read<number>,
        writers['32'] as Write<number>,
        (a: number, b: number) => (a & 0x80000000) | (b & 0x7fffffff),
      )
    if (name === 'copysign' && type === 'f64')
      return mapped(d, readBig('u64'), writeBig, (a: bigint, b: bigint) => (a & (1n << 63n)) | (b & ((1n << 63n) - 1n)))
    if (op.includes('approx')) return approximate(d, name, type)
    return type === 'f64' ? doubles(d, name) : floats(d, name, type as 'f32')
  }
  if (/^[busf]\d+$/.test(type)) return integers(d, name, type, 8 * widthOf(type))
  return undefined
}
