import { WhittleError } from '../../errors'
import { type Tensor, type TensorLike, type TypedArray } from '../../tensor'
import { options as checkOptions, output, tensor } from '../../validate'
import { runAsync, runSync, type Memory, type Routine } from './routine'

/** Options of {@link applyMask}. */
export interface ApplyMaskOptions {
  /** Memory for the result; the data of `w` itself to work in place. */
  readonly out?: Float32Array
}

/**
 * Sets the weights that a mask removes to +0 and keeps the others bit for bit.
 *
 * @param w float32
 * @param mask bool, the dims of `w`; any byte but 0 keeps
 * @returns float32, the dims of `w`
 * @throws {WhittleError} `ERR_SHAPE` where the dims differ, `ERR_DTYPE`, `ERR_RANGE` where `out` overlaps an input in
 * part, `ERR_HANDLE` for a detached buffer
 * @example
 * const pruned = applyMask(w, mask(importance(w), { sparsity: 0.8 }))
 */
export function applyMask(w: TensorLike | TypedArray, mask: TensorLike | TypedArray, options?: ApplyMaskOptions): Tensor<Float32Array> {
  return runSync((memory) => apply(memory, w, mask, options))
}

/** {@link applyMask} on another thread. Buffers over 256 KiB are used in place and become untransferable. */
export async function applyMaskAsync(
  w: TensorLike | TypedArray,
  mask: TensorLike | TypedArray,
  options?: ApplyMaskOptions,
): Promise<Tensor<Float32Array>> {
  return runAsync((memory) => apply(memory, w, mask, options))
}

function* apply(memory: Memory, w: unknown, given: unknown, optionsGiven: unknown): Routine<Tensor<Float32Array>> {
  const o = checkOptions(optionsGiven, 'options', ['out'])
  const x = tensor(w, 'w', ['float32'])
  const m = tensor(given, 'mask', ['bool'], ArrayBuffer.isView(given) ? [...x.dims] : undefined)
  if (m.dims.length !== x.dims.length || m.dims.some((d, i) => d !== x.dims[i]))
    throw new WhittleError('ERR_SHAPE', 'mask', `mask: expected dims [${x.dims.join(', ')}] as w has, got [${m.dims.join(', ')}]`)
  const n = x.data.length
  const out = o.out as TypedArray | undefined
  if (out !== undefined) {
    // Exactly the memory of w is welcome; a shifted overlap is not.
    const same = ArrayBuffer.isView(out) && out.buffer === x.data.buffer && out.byteOffset === x.data.byteOffset
    output(out, 'out', 'float32', n, same ? [m.data] : [x.data, m.data])
  }
  const result = memory.result(out, 'out', 'float32', n)
  const data = memory.input(x.data)
  const keep = memory.input(m.data)
  if (n > 0) yield { name: 'selectApply', args: [n, data, keep, result.view], parameter: 'w' }
  return { type: 'float32', dims: [...x.dims], data: result.commit() as Float32Array }
}
