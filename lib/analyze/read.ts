import { floats } from '../report/floats'
import type { Tensor } from '../tensor'

/** @internal The values of a float tensor as float32; of float32 itself the very array. */
export function asFloat32({ type, data }: Tensor): Float32Array {
  if (type === 'float32') return data as Float32Array
  const found = floats(new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength), type)
  return found.BYTES_PER_ELEMENT === 4 ? (found as Float32Array) : Float32Array.from(found)
}
