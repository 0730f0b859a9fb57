/** Numbers in any array; what both sides' results are compared as. */
export type Numbers = ArrayLike<number> | ArrayLike<bigint>

export type RivalName =
  | 'onnxruntime-node'
  | 'onnxruntime'
  | 'torch'
  | 'onednn'
  | 'openblas'
  | 'mkl'
  | 'eigen'
  | 'libxsmm'
  | 'numpy'
  | 'scipy'
  | 'js'
  | 'ours-dense'
  | 'ours-int32'
  | 'ours-sync'
  | 'ours-one-thread'

/** One side of a comparison. */
export interface Rival {
  readonly name: RivalName
  /** Set instead of `run` where the rival is not there: the row's `why`. */
  readonly why?: string
  /** Does the work once. A rival that holds its own clock (another process) answers milliseconds for one repetition. */
  readonly run?: (repeats: number) => unknown
  /** `run` does its repetitions itself and answers the time of one; else the harness loops. */
  readonly selfTimed?: boolean
  /** What the last run computed, to be compared with ours. */
  readonly result?: () => Numbers | Promise<Numbers>
  /** Why results are not compared (another definition of the job); the row keeps its ratio. */
  readonly incomparable?: string
  readonly dispose?: () => unknown
}

/** A physical limit for one call: a name such as `dram 80 MB at 10.2 GB/s` and the shortest time that it allows. */
export interface Bound {
  readonly name: string
  readonly ms: number
}

/** A case made ready: memory allocated, inputs filled, nothing timed. */
export interface Prepared {
  /** Does the work once, into memory that is allocated already. May answer a promise. */
  readonly ours: () => unknown
  /** `ours` answers the milliseconds of the row itself: a delay, say, where the row is not about the time of the work. */
  readonly oursTimed?: boolean
  /** What `ours` computed last. */
  readonly result?: () => Numbers
  readonly rivals: readonly (Rival | Promise<Rival>)[]
  /** Says what differs, or null; default: equal, element by element. */
  readonly check?: (ours: Numbers, theirs: Numbers, rival: RivalName) => string | null
  readonly bound?: Bound
  /**
   * The limit measured between the samples of the case itself, where the machine's speed changes from second to second:
   * `run` does the work of `bound.ms` times `part` at best. Replaces `bound.ms` by its median.
   */
  readonly limit?: { readonly run: () => unknown; readonly part: number }
  readonly dispose?: () => unknown
}

/** `case` is `<dtype>[<job>]_<shape>`. `prepare` runs once for each thread count. */
export interface Case {
  readonly case: string
  /** Left out by --quick, unless --case asks for it. */
  readonly full?: boolean
  readonly prepare: (bench: import('./bench').Bench) => Prepared | Promise<Prepared>
}

/** One line of the result; field names are fixed. */
export interface Row {
  family: string
  case: string
  variant: string
  threads: number
  ours_ms: number
  rival: string | null
  rival_ms: number | null
  ratio: number | null
  bound: string | null
  share_of_bound: number | null
  why?: string
}

/** What a family's module may export as `report`: lines for the terminal, and a part of the page that --html writes. */
export interface FamilyReport {
  readonly text: readonly string[]
  readonly html: string
}
