import { markAsUntransferable } from 'node:worker_threads'
import { WhittleError } from './errors'
import { isDetached, isShared } from './validate'
import { typedArrayName, type TypedArray } from './tensor'

/** Inputs up to this many bytes are copied for an asynchronous call; larger ones are read in place. */
const kCopyBytes = 256 * 1024

function isResizable(buffer: ArrayBufferLike): boolean {
  const b = buffer as { resizable?: boolean; growable?: boolean }
  return b.resizable === true || b.growable === true
}

function refuse(): never {
  throw new TypeError('this buffer was given to an asynchronous call and can no longer be transferred')
}

/**
 * @internal Nails a buffer's memory down, for good; false where that cannot be done. `ArrayBuffer.prototype.transfer` (Node 22)
 * knows nothing of the mark, so it is shadowed; taking it from the prototype to call it on such a buffer while a call is
 * in flight remains undefined.
 */
export function hold(buffer: ArrayBuffer): boolean {
  const ways = ['transfer', 'transferToFixedLength'].filter((name) => name in buffer && !Object.hasOwn(buffer, name))
  if (ways.length > 0 && !Object.isExtensible(buffer)) return false
  markAsUntransferable(buffer)
  for (const name of ways) Object.defineProperty(buffer, name, { value: refuse })
  return true
}

/**
 * @internal Makes an input safe to read from another thread while JavaScript runs on: a reference does not hold a
 * buffer's memory, so small and resizable buffers are copied and large ones marked untransferable (permanently).
 * SharedArrayBuffers are read in place.
 */
export function pin<T extends TypedArray>(view: T): T {
  if (isShared(view.buffer) && !isResizable(view.buffer)) return view
  if (view.byteLength <= kCopyBytes || isResizable(view.buffer) || !hold(view.buffer as ArrayBuffer)) return view.slice() as T
  return view
}

/** @internal Where native code may write while JavaScript runs on, and what brings it to the caller's `out`. */
export interface PinnedOutput<T extends TypedArray> {
  readonly view: T
  /** Copies to the caller's memory if the view is a private one. Throws `ERR_HANDLE` if that memory is gone. */
  commit(): T
}

/** @internal The same for a caller's `out`; `fresh` says that nobody else can reach the view yet. */
export function pinOutput<T extends TypedArray>(view: T, parameter: string, fresh: boolean): PinnedOutput<T> {
  if (fresh || (isShared(view.buffer) && !isResizable(view.buffer))) return { view, commit: () => view }
  if (view.byteLength > kCopyBytes && !isResizable(view.buffer) && hold(view.buffer as ArrayBuffer))
    return { view, commit: () => view }
  const lost = () =>
    new WhittleError(
      'ERR_HANDLE',
      parameter,
      `${parameter}: the ${typedArrayName(view)} was transferred or resized while the call was in flight`,
    )
  if (isDetached(view)) throw lost()
  const scratch = view.slice() as T
  return {
    view: scratch,
    commit: () => {
      if (isDetached(view) || view.length !== scratch.length) throw lost()
      view.set(scratch as never)
      return view
    },
  }
}
