import fs from 'node:fs'
import { WhittleError } from '../errors'
import { writeFileWhole } from '../report/write'
import { byteLengthOf, sizeOf, viewAs, type DataType, type Tensor } from '../tensor'

/** NumPy's type codes, little-endian. */
const kTypes: Readonly<Record<string, DataType>> = {
  '<f4': 'float32', '<f8': 'float64', '<f2': 'float16', '|i1': 'int8', '|u1': 'uint8', '|b1': 'bool',
  '<i2': 'int16', '<u2': 'uint16', '<i4': 'int32', '<u4': 'uint32', '<i8': 'int64', '<u8': 'uint64',
} // prettier-ignore

function bad(file: string, what: string): never {
  throw new WhittleError('ERR_MODEL_FORMAT', file, `${file}: ${what}`)
}

/** @internal Reads an array that `numpy.save` wrote: little-endian, row-major. */
export function readNpy(file: string): Tensor {
  let bytes: Buffer
  try {
    bytes = fs.readFileSync(file)
  } catch (error) {
    throw new WhittleError('ERR_IO', file, `${file}: ${(error as Error).message}`)
  }
  if (bytes.length < 12 || bytes.toString('latin1', 0, 6) !== '\x93NUMPY') bad(file, 'expected a .npy file, as numpy.save writes it')
  const wide = (bytes[6] as number) >= 2
  const start = wide ? 12 : 10
  const end = start + (wide ? bytes.readUInt32LE(8) : bytes.readUInt16LE(8))
  const header = bytes.toString('latin1', start, Math.min(end, bytes.length))
  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1] ?? ''
  const shape = /'shape':\s*\(([\d,\sL]*)\)/.exec(header)?.[1]
  const type = kTypes[descr]
  if (!type) bad(file, `type ${descr || 'of several fields'} is not supported; there are ${Object.keys(kTypes).join(' ')}`)
  if (/'fortran_order':\s*True/.test(header)) bad(file, 'columns first; save numpy.ascontiguousarray(x) instead')
  if (shape === undefined) bad(file, 'a header without shape')
  const dims = shape.split(',').map((d) => d.trim()).filter((d) => d).map(Number)
  const length = byteLengthOf(type, sizeOf(dims))
  if (bytes.length - end < length) bad(file, `[${dims.join(', ')}] of ${type} takes ${length} bytes, the file has ${bytes.length - end}`)
  const own = new Uint8Array(length)
  own.set(bytes.subarray(end, end + length))
  return { type, dims, data: viewAs(type, own.buffer, 0, sizeOf(dims)) }
}

/** @internal Writes a tensor as `numpy.save` does. */
export function writeNpy(file: string, { type, dims, data }: Tensor): void {
  const descr = Object.keys(kTypes).find((k) => kTypes[k] === type)
  if (!descr) bad(file, `numpy has no type for ${type}`)
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${dims.join(', ')}${dims.length === 1 ? ',' : ''}), }`
  const header = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + '\n'
  const head = Buffer.alloc(10)
  head.write('\x93NUMPY\x01\x00', 'latin1')
  head.writeUInt16LE(header.length, 8)
  writeFileWhole(file, Buffer.concat([head, Buffer.from(header, 'latin1'), Buffer.from(data.buffer, data.byteOffset, data.byteLength)]))
}
