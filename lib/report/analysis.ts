/** How often values fall into equal bins from `min` to `max`. */
export interface HistogramData {
  readonly min: number
  readonly max: number
  readonly counts: readonly number[]
}

/** Ranges that quantization may clip to: all of it, 99.99 % of the values, and the one with the least square error. */
export interface ClipRanges {
  readonly minmax: readonly [number, number]
  readonly percentile: readonly [number, number]
  readonly mse: readonly [number, number]
  /** Bits for which `mse` was found: 4 for weights (symmetric), 8 for activations (asymmetric). */
  readonly mseBits: number
}

/** Values in numbers. */
export interface Distribution {
  readonly elements: number
  readonly mean: number
  readonly std: number
  /** Share of zeros. */
  readonly sparsity: number
  readonly histogram: HistogramData
  readonly clips: ClipRanges
}

/** Singular values of a weight seen as a matrix, outputs × products. */
export interface Spectrum {
  /** Rows and columns. */
  readonly shape: readonly [number, number]
  /** Indices (from 0) and values of at most 96 singular values, the largest and the smallest among those that were computed. */
  readonly at: readonly number[]
  readonly values: readonly number[]
  /** How many were computed: all min(rows, columns), or the leading ones of a large matrix. */
  readonly computed: number
  /** Singular values that hold 90 % and 99 % of Σσ²; `null` where more than were computed. */
  readonly rank90: number | null
  readonly rank99: number | null
  /** A factor pair is smaller than the weight below this rank: rows·columns / (rows + columns). */
  readonly breakEven: number
}

/** Which values of a weight are not zero, as a picture: cells row by row, 0 (all zero) to 9 (none) as digits. */
export interface MaskPicture {
  readonly rows: number
  readonly columns: number
  readonly cells: string
  /** Rows and columns of the weight that one cell stands for. */
  readonly cell: readonly [number, number]
}

/** What happens to the model when one layer alone is changed. */
export interface SensitivityPoint {
  readonly change: 'quantize' | 'prune'
  /** Bits of the weight, one scale an output channel; of `quantize`. */
  readonly bits?: number
  /** Share of the smallest weights set to zero; of `prune`. */
  readonly sparsity?: number
  /** Of the model's outputs on the calibration inputs, in dB; `null` for no difference at all. Only with calibration. */
  readonly snr?: number | null
  /** What `evaluate` says. */
  readonly accuracy?: number
}

/** One weight of {@link Analysis}. */
export interface LayerAnalysis {
  /** The node's name, or the weight's where the node has none. */
  readonly name: string
  readonly op: string
  readonly weight: string
  readonly type: string
  /** How a quantized weight lies in the file. */
  readonly storage?: 'folded' | 'qdq'
  readonly dims: readonly number[]
  readonly elements: number
  readonly bytes: number
  /** Multiplications with additions of all nodes that read it, for one run; absent where a shape is not known. */
  readonly macs?: number
  readonly values: Distribution
  /** Signal-to-noise ratio in dB of the weight at 2 to 8 bits, symmetric, one scale an output channel; `null` for no noise at all. */
  readonly snrByBits: Readonly<Record<string, number | null>>
  readonly spectrum?: Spectrum
  /** Of weights with zeros. */
  readonly mask?: MaskPicture
  /** Of the node's first input and output; only with calibration. */
  readonly input?: Distribution
  readonly output?: Distribution
  readonly sensitivity?: readonly SensitivityPoint[]
}

/** What `analyze` finds: plain data, safe to print as JSON. */
export interface Analysis {
  readonly version: string
  readonly model: string
  /** Of the file, external data included. */
  readonly bytes: number
  readonly parameters: number
  /** Of one run, all nodes together; absent where a shape is not known. */
  readonly macs?: number
  /** By the type that is multiplied. */
  readonly macsByType?: Readonly<Record<string, number>>
  /** An estimate in joules of one run, see `energyEstimate`: nothing was measured. */
  readonly energy?: { readonly joules: number; readonly compute: number; readonly memory: number; readonly estimate: true }
  /** Share of zeros in all weights. */
  readonly sparsity: number
  /** The sizes that figures hold for. */
  readonly shapes: Readonly<Record<string, readonly (number | string | null)[] | null>>
  /** Of the model as it is; only with `evaluate`. */
  readonly accuracy?: number
  readonly layers: readonly LayerAnalysis[]
  /** What was left out, and why. */
  readonly notes: readonly string[]
}
