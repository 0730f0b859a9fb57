// Roundings that JavaScript's numbers do not have: fused multiply-add, directed rounding, 16-bit floats. Doubles carry exact
// results with an error term; a result rounded to odd first rounds correctly a second time (Boldo and Melquiond).

export type Rounding = 'rn' | 'rz' | 'rm' | 'rp'

const f64 = new Float64Array(1)
const u64 = new BigUint64Array(f64.buffer)
const w64 = new Uint32Array(f64.buffer)

/** The neighbour of a double, up or down; zero's are the least subnormals. */
export function step(x: number, up: boolean): number {
  if (x !== x || x === (up ? Infinity : -Infinity)) return x
  if (x === 0) return up ? 5e-324 : -5e-324
  f64[0] = x
  u64[0] = x > 0 === up ? (u64[0] as bigint) + 1n : (u64[0] as bigint) - 1n
  return f64[0] as number
}

/** a + b = [0] + [1], exactly, overflow aside. */
function twoSum(a: number, b: number): [number, number] {
  const s = a + b
  const c = s - a
  return [s, a - (s - c) + (b - c)]
}

/** s + e, |e| at most half a unit of s, rounded to odd. */
function odd(s: number, e: number): number {
  if (e === 0 || !Number.isFinite(s)) return s
  f64[0] = s
  return (w64[0] as number) & 1 ? s : step(s, e > 0)
}

const precise = {
  f32: { bits: 24, least: -149, most: 3.4028234663852886e38 },
  f16: { bits: 11, least: -24, most: 65504 },
  bf16: { bits: 8, least: -133, most: 3.3895313892515355e38 },
}
export type Narrow = keyof typeof precise

/** A double to a narrower format. */
export function narrow(x: number, format: Narrow, rounding: Rounding): number {
  if (x === 0 || !Number.isFinite(x)) return x
  if (format === 'f32' && rounding === 'rn') return Math.fround(x)
  const { bits, least, most } = precise[format]
  f64[0] = x
  const exponent = Math.max((((w64[1] as number) >>> 20) & 0x7ff) - 1022 - bits, least)
  // Powers of two in two steps: 2^149 alone is fine, 2^1000 is no matter here, x is.
  const scaled = Math.abs(x) * 2 ** -exponent
  const below = Math.floor(scaled)
  const rest = scaled - below
  const away =
    rounding === 'rp'
      ? x > 0 && rest > 0
      : rounding === 'rm'
        ? x < 0 && rest > 0
        : rounding === 'rz'
          ? false
          : rest > 0.5 || (rest === 0.5 && below % 2 === 1)
  const y = (below + (away ? 1 : 0)) * 2 ** exponent
  const towards = rounding === 'rn' || rounding === (x > 0 ? 'rp' : 'rm')
  return Math.sign(x) * (y > most ? (towards ? Infinity : most) : y)
}

/** a * b + c of numbers of at most 24 bits, rounded once. */
export function fmaNarrow(a: number, b: number, c: number, format: Narrow, rounding: Rounding): number {
  const p = a * b // exact
  if (!Number.isFinite(p) || !Number.isFinite(c)) return p + c
  const [s, e] = twoSum(p, c)
  if (s === 0) return rounding === 'rm' && (p !== 0 || !Object.is(p, c)) ? -0 : s
  return narrow(odd(s, e), format, rounding)
}

function parts(x: number): [bigint, number] {
  f64[0] = x
  const high = w64[1] as number
  const biased = (high >>> 20) & 0x7ff
  const fraction = (u64[0] as bigint) & 0xfffffffffffffn
  const m = biased ? fraction | 0x10000000000000n : fraction
  return [high >>> 31 ? -m : m, (biased || 1) - 1075]
}

/** m * 2^e to the nearest double, ties to even. */
function fromParts(m: bigint, e: number): number {
  const negative = m < 0n
  let a = negative ? -m : m
  const drop = Math.max(a.toString(2).length - 53, -1074 - e, 0)
  if (drop) {
    const d = BigInt(drop)
    const rest = a & ((1n << d) - 1n)
    const half = 1n << (d - 1n)
    a >>= d
    if (rest > half || (rest === half && a & 1n)) a++
    e += drop
  }
  // At most 2^53 times a power of two that may itself be out of range.
  const low = Math.max(e, -1000)
  const y = Number(a) * 2 ** Math.min(low, 900) * 2 ** (low - Math.min(low, 900)) * 2 ** (e - low)
  return negative ? -y : y
}

/** In integers: slow, and right for every finite number. */
export function fmaExact(a: number, b: number, c: number): number {
  if (!Number.isFinite(a) || !Number.isFinite(b)) return a * b + c
  if (!Number.isFinite(c)) return c
  const [ma, ea] = parts(a)
  const [mb, eb] = parts(b)
  const [mc, ec] = parts(c)
  const p = ma * mb
  if (p === 0n || mc === 0n) return p === 0n ? a * b + c : fromParts(p, ea + eb)
  const e = Math.min(ea + eb, ec)
  const sum = (p << BigInt(ea + eb - e)) + (mc << BigInt(ec - e))
  return sum === 0n ? 0 : fromParts(sum, e)
}

/** a * b + c of doubles, rounded once. */
export function fma64(a: number, b: number, c: number): number {
  const p = a * b
  const size = Math.abs(p)
  // Error terms below must not leave the normal range.
  if (
    !(size > 1e-200 && size < 1e200 && Math.abs(c) < 1e200 && Math.abs(a) < 1e150 && Math.abs(b) < 1e150) ||
    (c !== 0 && Math.abs(c) < 1e-200)
  )
    return fmaExact(a, b, c)
  const split = (x: number): [number, number] => {
    const t = 134217729 * x
    const h = t - (t - x)
    return [h, x - h]
  }
  const [ah, al] = split(a)
  const [bh, bl] = split(b)
  const low = al * bl - (p - ah * bh - al * bh - ah * bl)
  const [th, tl] = twoSum(c, low)
  const [vh, vl] = twoSum(p, th)
  const [s, e] = twoSum(tl, vl)
  return vh + odd(s, e)
}

const f32 = new Float32Array(1)
const u32 = new Uint32Array(f32.buffer)

export const bitsOf = (x: number): number => {
  f32[0] = x
  return x !== x ? 0x7fffffff : (u32[0] as number)
}

/** float16 bits to a number and back; the number is one of the format. */
export function ofHalf(h: number): number {
  const exponent = (h >> 10) & 31
  const fraction = h & 0x3ff
  const size =
    exponent === 31
      ? fraction
        ? NaN
        : Infinity
      : exponent
        ? (1024 + fraction) * 2 ** (exponent - 25)
        : fraction * 2 ** -24
  return h & 0x8000 ? -size : size
}
export function halfBits(x: number): number {
  if (x !== x) return 0x7fff
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const a = Math.abs(x)
  if (a === Infinity) return sign | 0x7c00
  if (a < 2 ** -14) return sign | (a * 2 ** 24)
  f64[0] = a
  const exponent = ((w64[1] as number) >>> 20) - 1023
  return sign | ((exponent + 15) << 10) | (a * 2 ** (10 - exponent) - 1024)
}
export function ofBfloat(h: number): number {
  u32[0] = h << 16
  return f32[0] as number
}
export const bfloatBits = (x: number): number => (x !== x ? 0x7fff : bitsOf(x) >>> 16)

/** Half to even. */
export function rint(x: number): number {
  const r = Math.round(x)
  const y = r - x === 0.5 && r % 2 !== 0 ? r - 1 : r
  return y === 0 ? (x < 0 || Object.is(x, -0) ? -0 : 0) : y
}
