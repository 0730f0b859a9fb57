import { fromBfloats, fromHalves } from '../model/half'

/** @internal Bytes of a floating-point tensor as numbers; of 32 and 64 bits a view of them where they are aligned. */
export function floats(bytes: Uint8Array, type: string): Float32Array | Float64Array {
  const whole = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice()
  const { buffer, byteOffset, byteLength } = whole
  if (type === 'float32') return new Float32Array(buffer, byteOffset, byteLength / 4)
  if (type === 'float64') return new Float64Array(buffer, byteOffset, byteLength / 8)
  const half = new Uint16Array(buffer, byteOffset, byteLength / 2)
  return type === 'float16' ? fromHalves(half) : fromBfloats(half)
}
