/**
 * Stable error codes. Programs may switch on them; messages are for people and may change.
 *
 * | code | meaning |
 * |---|---|
 * | `ERR_SHAPE` | dims, lengths or ranks that do not fit |
 * | `ERR_DTYPE` | an element type, or a JavaScript type, that is not accepted here |
 * | `ERR_RANGE` | a value outside what the parameter allows, NaN included |
 * | `ERR_UNSUPPORTED_OP` | the graph holds an op that this pass, runtime or version lacks |
 * | `ERR_MODEL_FORMAT` | the bytes are not a model or container that can be read, or the graph contradicts itself |
 * | `ERR_DEVICE` | native code, a CPU variant or a GPU that was asked for is not to be had |
 * | `ERR_OUT_OF_MEMORY` | memory could not be allocated |
 * | `ERR_HANDLE` | a native handle that is disposed, stale, cloned or foreign |
 * | `ERR_LIMIT` | a limit (accuracy, bytes, latency) was not met; nothing was written |
 * | `ERR_ABORTED` | the caller's `AbortSignal` fired |
 * | `ERR_IO` | the operating system refused a read or a write |
 */
export type WhittleErrorCode =
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_RANGE'
  | 'ERR_UNSUPPORTED_OP'
  | 'ERR_MODEL_FORMAT'
  | 'ERR_DEVICE'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_HANDLE'
  | 'ERR_LIMIT'
  | 'ERR_ABORTED'
  | 'ERR_IO'

/**
 * The one error type that this package throws on purpose.
 *
 * @example
 * try { quantize(weights, { bits: 9 }) } catch (e) { if (e.code === 'ERR_RANGE') console.error(e.parameter) }
 */
export class WhittleError extends Error {
  override readonly name = 'WhittleError'
  /** Stable, see {@link WhittleErrorCode}. */
  readonly code: WhittleErrorCode
  /** The parameter, field, node or file that is at fault; `''` if there is none. */
  readonly parameter: string

  constructor(code: WhittleErrorCode, parameter: string, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
    this.parameter = parameter
  }
}
