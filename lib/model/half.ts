/** @internal The nearest float16 of each float32, ties to even, as bits; beyond 65504 infinite. */
export function toHalves(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const out = new Uint16Array(values.length)
  for (let i = 0; i < out.length; i++) {
    const b = bits[i]!
    const sign = (b >>> 16) & 0x8000
    const exponent = (b >>> 23) & 255
    const mantissa = b & 0x7fffff
    if (exponent === 255) out[i] = sign | 0x7c00 | (mantissa ? 0x200 : 0)
    // Adding half of the last place less one, and one more where the kept part is odd, rounds to even and carries upward.
    else if (exponent > 112) {
      const kept = ((exponent - 112) << 10) | (mantissa >>> 13)
      const rounded = kept + (((mantissa & 0x1fff) + 0xfff + (kept & 1)) >>> 13)
      out[i] = sign | Math.min(rounded, 0x7c00)
    } else if (exponent < 102) out[i] = sign
    else {
      // Below the normal numbers halves are multiples of 2^-24.
      const shift = 126 - exponent
      const whole = mantissa | 0x800000
      const kept = whole >>> shift
      const rest = whole - kept * 2 ** shift
      const half = 2 ** (shift - 1)
      out[i] = sign | (kept + (rest > half || (rest === half && kept & 1) ? 1 : 0))
    }
  }
  return out
}

/** @internal The number that the bits of a float16 stand for. */
export function fromHalf(h: number): number {
  const sign = h & 0x8000 ? -1 : 1
  const exponent = (h >> 10) & 31
  const mantissa = h & 1023
  if (exponent === 31) return mantissa ? NaN : sign * Infinity
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25))
}

/** @internal */
export function fromHalves(halves: Uint16Array): Float32Array {
  const out = new Float32Array(halves.length)
  for (let i = 0; i < out.length; i++) out[i] = fromHalf(halves[i]!)
  return out
}
