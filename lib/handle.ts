/// <reference lib="esnext.disposable" preserve="true" />
import { WhittleError } from './errors'
import { native } from './native'
import { describe, fail } from './validate'

declare module './native' {
  interface NativeBinding {
    handleInfo(object: unknown): readonly [kind: number, id: number, process: string, bytes: number] | undefined
    handleAdopt(kind: number, id: number, process: string): object | undefined
    handleDispose(object: object): void
    handleCount(): number
    handleExternalMemory(): number
  }
}

/**
 * What {@link Handle.share} answers: plain data that survives `postMessage`. It names a native object of this process and
 * means nothing elsewhere, or after the last handle to the object is disposed of.
 */
export interface HandleToken {
  readonly whittle: string
  readonly process: string
  readonly id: number
}

// core/handles.h
const kKinds: Readonly<Record<string, number>> = {
  PackedInt8: 1, PackedInt4: 2, SparseMatrix: 3, Session: 4, PackedBfloat16: 5, PackedScaledInt8: 6, PackedFloat32: 7, DeviceTensor: 8, PackedBinary: 9,
} // prettier-ignore
const revivers = new Map<string, (object: object) => Handle>()

/** @internal Each class of handles says how {@link adopt} makes one. */
export function registerHandle(name: string, revive: (object: object) => Handle): void {
  revivers.set(name, revive)
}

/**
 * Native memory behind a JavaScript object: packed weights, sparse matrices, sessions. Its size counts towards V8's
 * external memory. Freed by {@link dispose}, by `using`, or when the object is collected; calls in flight keep it alive.
 * `structuredClone` and `postMessage` of a handle give an empty object, which every function refuses: send
 * {@link share}'s token and {@link adopt} it.
 */
export abstract class Handle {
  readonly #name: string
  #object: object | undefined

  /** @internal */
  constructor(name: string, object: unknown) {
    const info = native().handleInfo(object)
    if (!info || info[0] !== kKinds[name])
      throw new WhittleError('ERR_HANDLE', '', `${name}: not to be constructed; use the function that makes one`)
    this.#name = name
    this.#object = object as object
    this.byteLength = info[3]
  }

  /** Bytes of native memory. */
  readonly byteLength: number

  /** True after {@link dispose}. */
  get disposed(): boolean {
    return this.#object === undefined
  }

  /**
   * A token for {@link adopt} in this or another thread of the process. Keep this handle until the other side has
   * adopted: a token holds no memory.
   *
   * @throws {WhittleError} `ERR_HANDLE` if disposed of
   * @example
   * worker.postMessage(packed.share()) // there: const packed = adopt(token)
   */
  share(): HandleToken {
    const info = native().handleInfo(this.#object)
    if (!info) throw new WhittleError('ERR_HANDLE', this.#name, `${this.#name}: disposed of`)
    return { whittle: this.#name, process: info[2], id: info[1] }
  }

  /** Lets go of the native memory (freed when no other handle, in any thread, holds it). Calling it again does nothing. */
  dispose(): void {
    if (this.#object) native().handleDispose(this.#object)
    this.#object = undefined
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** @internal The native object, or undefined for a handle disposed of; throws for anything that is no handle. */
  static nativeOf(value: unknown): object | undefined {
    return (value as Handle).#object
  }

  /** @internal */
  static nameOf(value: Handle): string {
    return value.#name
  }

  /** @internal */
  static is(value: unknown): value is Handle {
    return typeof value === 'object' && value !== null && #object in value
  }
}

/**
 * @internal The native object of a live handle of class `name`.
 * Throws `ERR_HANDLE` for a handle that is disposed of, cloned, a token, or of another class.
 */
export function handleObject(value: unknown, name: string, parameter: string): object {
  if (!Handle.is(value)) {
    const token = value !== null && typeof value === 'object' && typeof (value as HandleToken).whittle === 'string'
    throw new WhittleError(
      'ERR_HANDLE',
      parameter,
      `${parameter}: expected a ${name}, got ${token ? 'a token; adopt() it first' : `${describe(value)}; a cloned handle is empty: send its share() token and adopt() it`}`,
    )
  }
  const object = Handle.nativeOf(value)
  if (!object) throw new WhittleError('ERR_HANDLE', parameter, `${parameter}: the ${name} was disposed of`)
  // The constructor has checked that the object is of its class's kind.
  if (Handle.nameOf(value) !== name)
    throw new WhittleError('ERR_HANDLE', parameter, `${parameter}: expected a ${name}, got a ${value.constructor.name}`)
  return object
}

/**
 * Opens a token of {@link Handle.share}: another handle to the same native object, so that any number of worker threads
 * hold one copy of the weights. Dispose of each by itself.
 *
 * @param token as `share()` gave it, cloned or not
 * @throws {WhittleError} `ERR_HANDLE` for a token whose object is gone, of another process, or that is none
 * @example
 * parentPort.on('message', (token) => { const packed = adopt(token) as PackedInt8 })
 */
export function adopt(token: HandleToken): Handle {
  if (token === null || typeof token !== 'object') fail('ERR_HANDLE', 'token', 'a token of share()', token)
  const { whittle, process, id } = token
  const revive = typeof whittle === 'string' ? revivers.get(whittle) : undefined
  if (!revive || typeof process !== 'string' || !Number.isSafeInteger(id) || id < 0)
    fail('ERR_HANDLE', 'token', 'a token of share()', token)
  const object = native().handleAdopt(kKinds[whittle] as number, id, process)
  if (!object)
    throw new WhittleError('ERR_HANDLE', 'token', 'token: its object is gone, or it comes from another process')
  return revive(object)
}
