// Registers of a warp by type, and loops over its lanes. Integers of up to 32 bits are numbers, of 64 bits BigInt; a float32
// NaN is stored as 0x7fffffff, as on the device.
import { bfloatBits, halfBits, ofBfloat, ofHalf, type Rounding } from './floats'
import type { Decoding, Step } from './instructions'
import type { Warp } from './machine'
import { Fault } from './memory'

// Globals of a test's context are slow.
const { abs, min } = Math
const { is } = Object

export type Read<T> = (w: Warp, at: number) => T
export type Write<T> = (w: Warp, at: number, value: T) => void

export const readers: Record<string, Read<number>> = {
  s16: (w, at) => ((w.i32[2 * at] as number) << 16) >> 16,
  u16: (w, at) => (w.u32[2 * at] as number) & 0xffff,
  s32: (w, at) => w.i32[2 * at] as number,
  u32: (w, at) => w.u32[2 * at] as number,
  f32: (w, at) => w.f32[2 * at] as number,
  f64: (w, at) => w.f64[at] as number,
  f16: (w, at) => ofHalf((w.u32[2 * at] as number) & 0xffff),
  bf16: (w, at) => ofBfloat((w.u32[2 * at] as number) & 0xffff),
  s8: (w, at) => ((w.i32[2 * at] as number) << 24) >> 24,
  u8: (w, at) => (w.u32[2 * at] as number) & 0xff,
  pred: (w, at) => {
    const p = w.u32[2 * at] as number
    if (p > 1) throw new Fault('a predicate that nobody wrote')
    return p
  },
}
for (const n of [8, 16, 32]) readers[`b${n}`] = readers[`u${n}`] as Read<number>

export const writers: Record<string, Write<number>> = {
  16: (w, at, v) => (w.u32[2 * at] = v & 0xffff),
  32: (w, at, v) => (w.u32[2 * at] = v),
  pred: (w, at, v) => (w.u32[2 * at] = v),
  f32: (w, at, v) => {
    if (v === v) w.f32[2 * at] = v
    else w.u32[2 * at] = 0x7fffffff
  },
  f64: (w, at, v) => (w.f64[at] = v),
  f16: (w, at, v) => (w.u32[2 * at] = halfBits(v)),
  bf16: (w, at, v) => (w.u32[2 * at] = bfloatBits(v)),
}
export const readBig = (type: string): Read<bigint> =>
  type[0] === 's' ? (w, at) => w.i64[at] as bigint : (w, at) => w.u64[at] as bigint
export const writeBig: Write<bigint> = (w, at, v) => (w.u64[at] = v)

/** Calls f for every lane of a mask. */
export const each =
  (f: (w: Warp, lane: number) => void): Step =>
  (w, mask) => {
    for (let l = 0; l < 32; l++) if ((mask >>> l) & 1) f(w, l)
  }

// One function for each kind of instruction, made from text so that it is optimized once and for that kind alone.
type Loop = (w: Warp, mask: number, o: number, a: number, b: number, c: number) => void
const loops = new Map<string, Loop>()
export function loop(key: string, body: string, scope: Record<string, unknown>): Loop {
  let f = loops.get(key)
  if (!f) {
    const text = `return (w, mask, o, a, b, c) => { const u = w.u32; for (let l = 0; l < 32; l++) if ((mask >>> l) & 1) { ${body} } }`
    f = new Function(...Object.keys(scope), text)(...Object.values(scope)) as Loop
    loops.set(key, f)
  }
  return f
}

/** to = f(from, from + 1, ...) */
export function mapped<T, U>(d: Decoding, read: Read<T>, write: Write<U>, f: (...x: T[]) => U, from = 1, to = 0): Step {
  const more = d.instruction.operands.length - from
  const [o, a] = [d.at(to) * 32, d.at(from) * 32]
  const [b, c] = [more > 1 ? d.at(from + 1) * 32 : 0, more > 2 ? d.at(from + 2) * 32 : 0]
  if (o < 0 || more < 1 || more > 3) return d.unsupported()
  const values = ['a', 'b', 'c'].slice(0, more).map((x) => `read(w, ${x} + l)`)
  const run = loop(`${d.op.join('.')} ${more}`, `write(w, o + l, f(${values.join(', ')}))`, { read, write, f })
  return (w, mask) => run(w, mask, o, a, b, c)
}

/** A body over u, l, o, a, b, c; operands count words of u by lanes. */
export function direct(key: string, body: string, o: number, a: number, b = 0, c = 0): Step {
  const run = loop(`= ${key}`, body, {})
  return (w, mask) => run(w, mask, o * 32, a * 32, b * 32, c * 32)
}
export const kCopy = (x: string): string =>
  `u[2 * (o + l)] = u[2 * (${x} + l)]; u[2 * (o + l) + 1] = u[2 * (${x} + l) + 1]`

export const rounding = (op: string[]): Rounding =>
  (op.find((m) => /^r[nzmp]$/.test(m)) as Rounding | undefined) ?? 'rn'
export const flush = (x: number): number => (abs(x) < 2 ** -126 && x === x ? (x < 0 || is(x, -0) ? -0 : 0) : x)
export const saturate = (x: number): number => (x > 0 ? min(x, 1) : 0)
