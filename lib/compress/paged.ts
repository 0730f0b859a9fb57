import fs from 'node:fs'

import { native } from '../native'
import { allocate, byteLengthOf, viewAs, type DataType, type TypedArray } from '../tensor'
import { openTemporary } from './temporary'

declare module '../native' {
  interface NativeBinding {
    /** Zeros in a file, as memory; undefined where a system has no such thing or no room. */
    pagedMap(fd: number, bytes: number): ArrayBuffer | undefined
    /** Gives the pages of all such memory back to the system until they are touched again. */
    pagedRelease(): void
  }
}

/** @internal From how many bytes on work on one tensor lies in a file. */
export const Paging = { least: 12e6 }

/** Bytes that may be touched before pages go back. */
const kWindow = 48e6
let sinceLast = 0
let used = false

/**
 * @internal Zeros for work on a large tensor or a matrix of second moments. From {@link Paging.least} on they lie in a temporary file without
 * a name, mapped into memory: the process holds what was touched since the last {@link ease} alone, however large they are. In
 * memory where no such file can be had (Windows).
 *
 * @param least 0 for memory that shares a limit with others
 * @throws `ERR_OUT_OF_MEMORY` naming `parameter`
 */
export function paged(type: DataType, count: number, parameter = 'out', least = Paging.least): TypedArray {
  const bytes = byteLengthOf(type, count)
  const buffer = bytes >= least && bytes >= 4096 ? mapped(bytes) : undefined
  return buffer ? viewAs(type, buffer, 0, count) : allocate(type, count, parameter)
}

/** @internal {@link paged} numbers. */
export const pagedFloats = (count: number): Float32Array<ArrayBuffer> => paged('float32', count) as Float32Array<ArrayBuffer>

function mapped(bytes: number): ArrayBuffer | undefined {
  let fd: number
  try {
    fd = openTemporary()
  } catch {
    return undefined
  }
  try {
    const buffer = native().pagedMap(fd, bytes)
    used ||= buffer !== undefined
    return buffer
  } finally {
    fs.closeSync(fd)
  }
}

/** @internal To be called between two pieces of work that each touch a large tensor: what lies in files leaves memory. */
export function ease(): void {
  sinceLast = 0
  if (used) native().pagedRelease()
}

/** @internal To be called in loops over what {@link paged} gave: {@link ease}, when more than a window was touched. */
export function touched(bytes: number): void {
  sinceLast += bytes
  if (sinceLast >= kWindow) ease()
}
