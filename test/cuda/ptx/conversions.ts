// Comparisons and conversions between types.
import { bfloatBits, halfBits, narrow, rint, type Rounding } from './floats'
import type { Decoding, Step } from './instructions'
import type { Warp } from './machine'
import { widthOf } from './parse'
import {
  direct,
  each,
  flush,
  loop,
  mapped,
  readBig,
  readers,
  saturate,
  writers,
  type Read,
  type Write,
} from './registers'

const { ceil, floor, fround, max, trunc } = Math
const { asIntN, asUintN } = BigInt

const ordered: Record<string, (a: number | bigint, b: number | bigint) => boolean> = {
  eq: (a, b) => a === b,
  ne: (a, b) => a < b || a > b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
  lo: (a, b) => a < b,
  ls: (a, b) => a <= b,
  hi: (a, b) => a > b,
  hs: (a, b) => a >= b,
  num: (a, b) => a === a && b === b,
  nan: (a, b) => a !== a || b !== b,
}
for (const n of ['eq', 'ne', 'lt', 'le', 'gt', 'ge'])
  ordered[`${n}u`] = (a, b) => a !== a || b !== b || (ordered[n] as (typeof ordered)['eq'])(a, b)

export const joins: Record<string, (a: number, b: number) => number> = {
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
}

export function compare(d: Decoding, type: string): Step | undefined {
  const { op } = d
  const f = ordered[op[1] as string]
  const join = op.slice(2, -1).find((m) => m !== 'ftz')
  const float = type[0] === 'f' || type === 'bf16'
  if (!f || (join && !joins[join]) || (!float && /u$|^num$|^nan$/.test(op[1] as string))) return undefined
  const [a, b] = [d.at(1) * 32, d.at(2) * 32]
  const to = d.names(0)
  const extra = join ? d.operand(3) : undefined
  const c = extra?.kind === 'name' ? d.slot(extra.name) * 32 : -1
  const flip = extra?.kind === 'name' && extra.negated ? 1 : 0
  const read = type.endsWith('64') && type !== 'f64' ? readBig(type) : (readers[type] as Read<number>)
  const reader = op.includes('ftz') ? (w: Warp, at: number) => flush((read as Read<number>)(w, at)) : read
  if (!join && to.length === 1) {
    const run = loop(op.join('.'), 'u[2 * (o + l)] = f(read(w, a + l), read(w, b + l)) ? 1 : 0', { f, read: reader })
    const o = (to[0] as number) * 32
    return (w, mask) => run(w, mask, o, a, b, 0)
  }
  return each((w, l) => {
    const y = f(reader(w, a + l), reader(w, b + l)) ? 1 : 0
    const with_ = c < 0 ? 0 : (readers['pred'] as Read<number>)(w, c + l) ^ flip
    const use = (v: number): number => (join ? (joins[join] as (typeof joins)['and'])(v, with_) : v)
    to.forEach((slot, i) => {
      if (slot >= 0) w.u32[2 * (slot * 32 + l)] = use(i ? y ^ 1 : y)
    })
  })
}

export function convert(d: Decoding): Step | undefined {
  const { op } = d
  if (op.length < 3) return undefined
  const [to, from] = op.slice(-2) as [string, string]
  const mods = op.slice(1, -2)
  const o = d.at(0) * 32
  const sat = mods.includes('sat')
  const ftz = mods.includes('ftz')
  const floatTo = /^b?f\d+$/.test(to)
  const floatFrom = /^b?f\d+$/.test(from)
  if (/^b?f16x2$/.test(to) && from === 'f32' && d.instruction.operands.length === 3 && mods.join() === 'rn') {
    const [a, b] = [d.at(1) * 32, d.at(2) * 32]
    const kind = to === 'f16x2' ? 'f16' : 'bf16'
    const bits = kind === 'f16' ? halfBits : bfloatBits
    return each(
      (w, l) =>
        (w.u32[2 * (o + l)] =
          (bits(narrow(w.f32[2 * (a + l)] as number, kind, 'rn')) << 16) |
          bits(narrow(w.f32[2 * (b + l)] as number, kind, 'rn'))),
    )
  }
  if (d.instruction.operands.length !== 2 || !mods.every((m) => /^(r[nzmp]i?|sat|ftz)$/.test(m))) return undefined
  const whole = mods.find((m) => /^r[nzmp]i$/.test(m))
  const r = (mods.find((m) => /^r[nzmp]$/.test(m)) as Rounding | undefined) ?? 'rn'
  const round = (x: number): number =>
    whole === 'rni' ? rint(x) : whole === 'rzi' ? trunc(x) : whole === 'rmi' ? floor(x) : whole === 'rpi' ? ceil(x) : x
  const a = d.at(1) * 32
  // A narrow integer fills the register that it goes to.
  const bitsTo = 8 * widthOf(to)
  const bitsFrom = 8 * widthOf(from)
  const store: Write<bigint> = (w, at, v) => {
    const width = d.width(d.at(0))
    if (width === 8) w.u64[at] = to[0] === 's' ? asIntN(bitsTo, v) : asUintN(bitsTo, v)
    else w.u32[2 * at] = Number(asUintN(8 * width, to[0] === 's' ? asIntN(bitsTo, v) : asUintN(bitsTo, v)))
  }
  if (!floatTo && !floatFrom) {
    if (mods.some((m) => m !== 'sat')) return undefined
    const clip = (v: bigint): bigint => {
      const [lo, hi] =
        to[0] === 's'
          ? [-(1n << BigInt(bitsTo - 1)), (1n << BigInt(bitsTo - 1)) - 1n]
          : [0n, (1n << BigInt(bitsTo)) - 1n]
      return v < lo ? lo : v > hi ? hi : v
    }
    if (bitsFrom === 64)
      return each((w, l) => store(w, o + l, sat ? clip(readBig(from)(w, a + l)) : readBig(from)(w, a + l)))
    const read = readers[from] as Read<number>
    if (bitsTo <= 32 && d.width(d.at(0)) < 8 && !sat) {
      const write = writers[8 * d.width(d.at(0))] as Write<number>
      const shift = 32 - bitsTo
      return mapped(
        d,
        read,
        write,
        to[0] === 's' ? (x: number) => (x << shift) >> shift : (x: number) => (x << shift) >>> shift,
      )
    }
    if (to[0] === 'u' && from[0] === 'u' && d.width(d.at(0)) === 8)
      return direct(
        `cvt ${from}`,
        `u[2 * (o + l)] = u[2 * (a + l)] & ${bitsFrom === 32 ? -1 : 2 ** bitsFrom - 1}; u[2 * (o + l) + 1] = 0`,
        d.at(0),
        d.at(1),
      )
    return each((w, l) => store(w, o + l, sat ? clip(BigInt(read(w, a + l))) : BigInt(read(w, a + l))))
  }
  if (!floatTo) {
    if (!whole) return undefined
    const lo = to[0] === 's' ? -(2 ** (bitsTo - 1)) : 0
    const hi = to[0] === 's' ? 2 ** (bitsTo - 1) : 2 ** bitsTo
    // PTX ISA: NaN is 0, but the lowest bit pattern with the sign where 64 bits are on either side.
    const nan = bitsTo === 64 || from === 'f64' ? 1n << BigInt(bitsTo - 1) : 0n
    const read = readers[from] as Read<number>
    if (bitsTo === 32 && d.width(d.at(0)) === 4)
      return mapped(d, read, writers['32'] as Write<number>, (v: number) => {
        const x = ftz ? flush(v) : v
        const y = round(x)
        return x !== x ? Number(nan) : y >= hi ? hi - 1 : y < lo ? lo : y
      })
    return each((w, l) => {
      const x = ftz ? flush(read(w, a + l)) : read(w, a + l)
      const y = round(x)
      store(w, o + l, x !== x ? nan : y >= hi ? BigInt(hi) - 1n : y < lo ? BigInt(lo) : BigInt(y))
    })
  }
  const kind = to as 'f32' | 'f16' | 'bf16' | 'f64'
  const write = writers[to] as Write<number>
  if (!floatFrom && bitsFrom === 64) {
    if (r !== 'rn' || (to !== 'f32' && to !== 'f64')) return undefined
    return each((w, l) => {
      const v = readBig(from)(w, a + l)
      const x = Number(v)
      if (to === 'f64') return write(w, o + l, x)
      // Sticky bits, so that the second rounding sees them.
      const n = v < 0n ? -v : v
      const drop = BigInt(max(0, n.toString(2).length - 50))
      const kept = ((n >> drop) | (n & ((1n << drop) - 1n) ? 1n : 0n)) << drop
      return write(w, o + l, fround(v < 0n ? -Number(kept) : Number(kept)))
    })
  }
  const read = readers[from] as Read<number>
  if (kind === 'f64') return mapped(d, read, write, (x: number) => (sat ? saturate(round(x)) : round(x)))
  return mapped(d, read, write, (v: number) => {
    const x = ftz && from === 'f32' ? flush(v) : v
    const y = narrow(round(x), kind, r)
    const z = ftz && kind === 'f32' ? flush(y) : y
    return sat ? saturate(z) : z
  })
}
