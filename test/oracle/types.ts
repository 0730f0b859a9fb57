import type { DataType, TypedArray } from '../../lib/tensor'

/** One small tensor of every type whose elements are whole bytes. */
export const kMemoryTypes: readonly (readonly [DataType, TypedArray])[] = [
  ['float64', Float64Array.of(1e300, -0, NaN)],
  ['float32', Float32Array.of(1.5, -2, Infinity)],
  ['float16', Uint16Array.of(0x3c00, 0xc000, 1)],
  ['bfloat16', Uint16Array.of(0x3f80, 0xc000, 1)],
  ['int64', BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n)],
  ['int32', Int32Array.of(-(2 ** 31), 7)],
  ['int16', Int16Array.of(-32768, 7)],
  ['int8', Int8Array.of(-128, 7, 1)],
  ['uint64', BigUint64Array.of(2n ** 64n - 1n)],
  ['uint32', Uint32Array.of(2 ** 32 - 1)],
  ['uint16', Uint16Array.of(65535)],
  ['uint8', Uint8Array.of(255, 0, 3)],
  ['bool', Uint8Array.of(1, 0, 1)],
]
