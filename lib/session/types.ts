import type { Dim } from '../model'
import type { DeviceTensor } from '../kernels/device'
import type { Tensor, TensorLike, TypedArray } from '../tensor'
import type { Choices, Tune } from './tune'

/** Options of {@link Session.create}. */
export interface SessionOptions {
  /** Threads that a run may use, 1 … 256. Default: the process's limit (`setThreads`, `WHITTLE_THREADS`). */
  threads?: number
  /** Times every step of every run, for {@link Session.profile}. Default false, which costs nothing. */
  profile?: boolean
  /**
   * What becomes of nodes that sessions have no kernel for. Default: `ERR_UNSUPPORTED_OP` at {@link Session.create}. With
   * `'onnxruntime'` they run in onnxruntime-node, which must be installed: those that hang together as one model, a control flow node
   * with such nodes inside as a whole. onnxruntime-node is asynchronous only: {@link Session.runSync} is then an error where it
   * comes upon them. Values between such nodes cannot be fetched or tapped.
   */
  fallback?: 'onnxruntime'
  /**
   * How kernels are chosen where a layer has several, such as sparse ones for weights that are mostly zero.
   *
   * - `'model'` (default): by a model of this CPU's kernels; the same on every machine of a kind
   * - `'measure'`: by timing them here when a plan is made. What was measured is kept in a file under `WHITTLE_CACHE`, else
   *   `$XDG_CACHE_HOME/whittle`, else `~/.cache/whittle`; one that is missing, broken or cannot be written does no harm
   * - what {@link Session.plan} answered, or its `choices`: those again; layers that it does not name go by the model
   *
   * Float32 results of different kernels differ by rounding; integer ones never do.
   */
  tune?: Tune
  /**
   * Where the model runs. Default `'cpu'`.
   *
   * - `'cuda'`, `'cuda:N'`: a GPU. Weights are uploaded once, values stay there; inputs may be device tensors, and so may outputs
   *   ({@link RunOptions.location}). From the second run on a plan is one recorded call ({@link Session.replays}), and runs that overlap have
   *   streams of their own. Nodes that a plan cannot hold (loops, results whose shape depends on data, rare ops) run on the CPU:
   *   {@link Session.plan} names them, and their values are copied. What neither runs is `ERR_UNSUPPORTED_OP` at {@link Session.create}, or
   *   when a plan is made where it depends on shapes
   * - `'auto'`: the first GPU if there is one and it runs the whole model, else the CPU; {@link Session.device} and
   *   {@link Session.deviceReason} tell
   *
   * On a GPU there are no taps, no fallback and no choice of kernels (`tune`), and `threads` means nothing.
   */
  device?: 'cpu' | 'cuda' | `cuda:${number}` | 'auto'
}

/** Tensors by name; of a session on a GPU also such as lie there. */
export type SessionInputs = Readonly<Record<string, TensorLike | TypedArray | DeviceTensor>>

/** Options of {@link Session.run}. */
export interface RunOptions {
  /** Names of values to be answered instead of the model's outputs: any value of the graph that survives fusion is cheap. */
  fetch?: readonly string[]
  /** Ends the run early with `ERR_ABORTED`. */
  signal?: AbortSignal
  /**
   * Where results go. Default `'host'`. `'device'`, of a session on a GPU: they stay there, as device tensors, to be disposed of by
   * the caller; else `ERR_DEVICE`.
   */
  location?: 'host' | 'device'
}

/**
 * Looks at a value while a run makes it. `view` may lie in the run's working memory: it is good until the function returns
 * (in {@link Session.run}: until the promise that it returns is settled) and must not be written; copy what is to be kept.
 */
export type TapFunction = (view: Tensor, name: string) => unknown

/** An input or output of a session. */
export interface SessionValue {
  readonly name: string
  readonly type: string
  /** a string is a symbolic size, null one that is not known */
  readonly dims: readonly Dim[] | null
}

/** One step of {@link Session.plan}. */
export interface PlanStep {
  /** the kernel: conv, gemm, elementwise, …; `onnxruntime` for what runs there (steps of that kind are told last) */
  readonly op: string
  /** the ONNX node it begins with; of a part that runs in onnxruntime all nodes, joined by ` + ` */
  readonly node: string
  /** where there was a choice: `dense`, `rows` (a dense convolution row by row), `csr`, or blocks such as `1x4` */
  readonly choice?: string
  /** the variant of its kernels that this machine runs: `scalar`, `avx2`, `avx512vnni`, `neon`, …, or `cuda`; none where bytes are only moved or compared */
  readonly variant?: string
  /** bytes that it reads and writes: constants (packed weights, tables), and inputs, results and working memory */
  readonly bytes?: { readonly weights: number; readonly values: number }
  /** `cpu` for a node that a session on a GPU runs on the CPU: what it reads and writes is copied there and back */
  readonly place?: 'cpu'
}

/** What {@link Session.plan} tells of the plan for one set of input shapes. */
export interface PlanReport {
  readonly steps: readonly PlanStep[]
  /** bytes of working memory that a run takes */
  readonly arenaBytes: number
  /** bytes of weights, packed for this machine's kernels, shared by all plans of the session */
  readonly weightBytes: number
  /** what was chosen for layers that can be computed in several ways; good for `SessionOptions.tune` */
  readonly choices: Choices
}
