// What the tests of selection share: tensors of scores, comparisons by bits, codes of errors.
import { WhittleError, type Tensor } from '../../lib/index'

// Under jest every look-up of a global costs as much as a hundred additions.
const { floor, imul } = Math

export type Float = Tensor<Float32Array>
export const float = (dims: number[], data: Iterable<number> | ArrayLike<number>): Float => ({
  type: 'float32',
  dims,
  data: Float32Array.from(data as ArrayLike<number>),
})
export const size = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

export function generator(seed: number): () => number {
  return () => {
    seed = (imul(seed, 1664525) + 1013904223) >>> 0
    return seed / 2 ** 32
  }
}

/** Values with ties, zeros of both signs and infinities among ordinary ones. */
export function awkward(dims: number[], seed: number): Float {
  const next = generator(seed)
  const special = [0, -0, 1, -1, Infinity, -Infinity, 1e-42, 0.5]
  return float(dims, Array.from({ length: size(dims) }, () => (next() < 0.4 ? (special[floor(next() * 8)] as number) : next() * 2 - 1)))
}
export const plain = (dims: number[], seed: number): Float => {
  const next = generator(seed)
  return float(dims, Array.from({ length: size(dims) }, () => next() * 2 - 1))
}

export type Bytes = { readonly buffer: ArrayBufferLike; readonly byteOffset: number; readonly byteLength: number; readonly length: number }

/** Bitwise equality; jest's own walk over typed arrays takes seconds for a large one. */
export function expectSame(got: Bytes, want: Bytes): void {
  const bytes = (v: Bytes) => Buffer.from(v.buffer as ArrayBuffer, v.byteOffset, v.byteLength)
  if (got.length !== want.length || Buffer.compare(bytes(got), bytes(want)) !== 0) expect(got).toEqual(want)
}

export function code(run: () => unknown): string {
  try {
    run()
  } catch (e) {
    expect(e).toBeInstanceOf(WhittleError)
    expect((e as Error).message.startsWith((e as WhittleError).parameter)).toBe(true)
    return `${(e as WhittleError).code} ${(e as WhittleError).parameter}`
  }
  return 'no error'
}

