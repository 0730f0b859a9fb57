const kDouble = new Float64Array(1)
const kWords = new Uint32Array(kDouble.buffer)
const kHigh = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1 ? 1 : 0

/** @internal The nearest float16 of a number, rounded once, ties to even, as bits; beyond 65504 infinite, every NaN the same. */
export function toHalf(value: number): number {
  if (Number.isNaN(value)) return 0x7e00
  kDouble[0] = value
  const high = kWords[kHigh]!
  const sign = (high >>> 16) & 0x8000
  const magnitude = Math.abs(value)
  if (magnitude >= 65520) return sign | 0x7c00
  // Below the normal numbers halves are multiples of 2^-24, as in the lowest normal binade.
  const exponent = Math.max(((high >>> 20) & 0x7ff) - 1023, -14)
  // Doubles from 2^52 up are whole numbers: the sum rounds to even. Units carry the hidden bit at 1024, and over it into the exponent.
  const units = magnitude * 2 ** (10 - exponent) + 2 ** 52 - 2 ** 52
  return sign | (((exponent + 14) << 10) + units)
}

/** @internal {@link toHalf} of each. */
export function toHalves(values: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(values.length)
  if (Object.prototype.toString.call(values) === '[object Float32Array]') fromFloats(values as Float32Array, out)
  else for (let i = 0; i < out.length; i++) out[i] = toHalf(values[i]!)
  return out
}

/** By the bits of float32: weights are many. */
function fromFloats(values: Float32Array, out: Uint16Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < out.length; i++) {
    const b = bits[i]!
    const sign = (b >>> 16) & 0x8000
    const magnitude = b & 0x7fffffff
    if (magnitude > 0x7f800000) out[i] = 0x7e00
    else if (magnitude >= 0x477ff000) out[i] = sign | 0x7c00
    // Ties to even; a carry goes over into the exponent.
    else if (magnitude >= 0x38800000) out[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
    else out[i] = sign | (Math.abs(values[i]!) * 2 ** 24 + 2 ** 52 - 2 ** 52)
  }
}

/** @internal The number that the bits of a float16 stand for. */
export function fromHalf(h: number): number {
  const sign = h & 0x8000 ? -1 : 1
  const exponent = (h >> 10) & 31
  const mantissa = h & 1023
  if (exponent === 31) return mantissa ? NaN : sign * Infinity
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25))
}

/** Of every float16, once there is need of it. */
let known: Float32Array | undefined

/** @internal {@link fromHalf} of each. */
export function fromHalves(halves: Uint16Array): Float32Array {
  const out = new Float32Array(halves.length)
  if (halves.length < 65536) for (let i = 0; i < out.length; i++) out[i] = fromHalf(halves[i]!)
  else {
    known ??= Float32Array.from({ length: 65536 }, (_, h) => fromHalf(h))
    for (let i = 0; i < out.length; i++) out[i] = known[halves[i]!]!
  }
  return out
}

/** @internal The numbers that the bits of bfloat16 stand for. */
export function fromBfloats(words: Uint16Array): Float32Array {
  const out = new Float32Array(words.length)
  const bits = new Uint32Array(out.buffer)
  for (let i = 0; i < words.length; i++) bits[i] = words[i]! << 16
  return out
}

/** @internal The nearest bfloat16 of each, ties to even, as bits; every NaN the same. */
export function toBfloats(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, (b) => ((b & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16))
}
