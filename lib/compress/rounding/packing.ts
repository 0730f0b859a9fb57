import { sizeOf } from '../../tensor'
import type { Grid } from './grid'

/**
 * A part of every code of a weight: digits of base `levels.length`, as many to a byte as fit, the first one lowest. A table of
 * 256 rows, read by Gather, gives the values of a byte's digits, so that any runtime unpacks them.
 */
export interface Plane {
  /** Bits of the code below this part. */
  readonly shift: number
  /** Value of each digit. */
  readonly levels: readonly number[]
  readonly perByte: number
}

/** How codes of a few bits lie in bytes: the value of a code is the sum over the planes. */
export interface Packing {
  /** Of tables and names. */
  readonly name: string
  readonly planes: readonly Plane[]
}

/** Digits in a byte: the most that divide the number of values. */
function plane(levels: readonly number[], count: number, shift = 0): Plane {
  let perByte = Math.floor(Math.log2(256) / Math.log2(levels.length) + 1e-9)
  while (count % perByte) perByte--
  return { shift, levels, perByte }
}

/** @internal How `count` codes are packed; `undefined` where a byte would hold one small integer only. */
export function packingOf({ format, levels }: Grid, bits: number, count: number): Packing | undefined {
  if (format === 'residual')
    // A plane for each bit of a code, which all read the table of signs that format 'binary' has.
    return { name: 'binary2', planes: Array.from({ length: bits }, (_, i) => plane(levels!, count, i)) }
  if (levels) return { name: `${format}${levels.length}`, planes: [plane(levels, count)] }
  const whole = (n: number): number[] => Array.from({ length: 2 ** n }, (_, i) => (i < 2 ** (n - 1) ? i : i - 2 ** n))
  // Three bits are two and one: the third is the sign's place of two's complement.
  if (bits === 3 && count % 8 === 0)
    return { name: 'int3', planes: [plane([0, 1, 2, 3], count), plane([0, -4], count, 2)] }
  const only = plane(whole(bits === 3 ? 4 : bits), count)
  return only.perByte > 1 ? { name: bits === 3 ? 'int4' : `int${bits}`, planes: [only] } : undefined
}

/** @internal Bytes of packed codes. */
export function packedBytes({ planes }: Packing, dims: readonly number[]): number {
  return planes.reduce((sum, p) => sum + sizeOf(dims) / p.perByte, 0)
}

/** @internal Bits of one packed code. */
export function packedBits({ planes }: Packing): number {
  return planes.reduce((sum, p) => sum + 8 / p.perByte, 0)
}

/** @internal The bytes of one plane. */
export function pack(codes: Int8Array, { shift, levels, perByte }: Plane): Uint8Array {
  const base = levels.length
  const bytes = new Uint8Array(codes.length / perByte)
  for (let i = 0, at = 0; i < bytes.length; i++) {
    let byte = 0
    for (let j = 0, place = 1; j < perByte; j++, place *= base) byte += (((codes[at++]! & 255) >> shift) % base) * place
    bytes[i] = byte
  }
  return bytes
}

/** @internal [256, perByte]: the values of the digits of each byte. */
export function tableOf({ levels, perByte }: Plane): Float32Array {
  const base = levels.length
  return Float32Array.from({ length: 256 * perByte }, (_, i) => levels[Math.floor(Math.floor(i / perByte) / base ** (i % perByte)) % base]!)
}
