import type { Analysis } from './analysis'

/** What happened to one weight in one step. */
export interface LayerReport {
  /** The node's name, or the weight's where the node has none. */
  readonly name: string
  readonly op: string
  readonly weight: string
  readonly dims: readonly number[]
  readonly elements: number
  /** Dims afterwards, where channels were removed. */
  readonly dimsAfter?: readonly number[]
  readonly action: 'quantized' | 'pruned' | 'factorized' | 'rotated' | 'kept' | 'shared'
  /** Why a weight was kept as it was, or got something else than was asked for. */
  readonly reason?: string
  /** Bits of one stored value, scales not counted. */
  readonly bits?: number
  /** Values that share a scale; absent for one scale an output channel. */
  readonly blockSize?: number
  /** Of a factorized weight, in the order in which its factors are computed. */
  readonly ranks?: readonly number[]
  /** Bytes of the weight, scales included. */
  readonly bytesBefore: number
  readonly bytesAfter: number
  /** ‖w − ŵ‖₂ / ‖w‖₂, of the tensor as a whole. */
  readonly error?: number
  /** Σ(y − ŷ)² / Σ(y − ȳ)² of the layer's outputs over the calibration inputs, its own inputs taken as they are. */
  readonly outputError?: number
  /** Share of zeros afterwards. */
  readonly sparsity?: number
}

/** One step of a recipe, carried out. */
export interface StepReport {
  readonly step: string
  /** One sentence. */
  readonly summary: string
  readonly seconds: number
  readonly layers: readonly LayerReport[]
}

/** A model in numbers; `accuracy` and `latency` only if `evaluate` gave them. */
export interface ModelFigures {
  /** Of the file, external data included. */
  readonly bytes: number
  /** Values in weights and other constants. */
  readonly parameters: number
  /** In the unit that `evaluate` returns. */
  readonly accuracy?: number
  /** Milliseconds, as `evaluate` measured them. */
  readonly latency?: number
}

export interface LimitReport {
  readonly name: 'accuracyDrop' | 'bytes' | 'latency'
  readonly limit: number
  readonly actual: number
  readonly met: boolean
}

/** How much one layer of the result differs from the original, on the calibration inputs. */
export interface LayerBlame {
  /** The node's name, or the weight's where the node has none. */
  readonly layer: string
  readonly weight: string
  /**
   * Signal-to-noise ratio of the layer's output against the original's, in dB: 10·log₁₀(Σy² / Σ(y − ŷ)²). Without calibration
   * inputs, or where the value does not exist any more, that of the weight. `null` for no noise at all.
   */
  readonly snr: number | null
  /** The same with the noise that came in by the layer's own input taken off: what the layer itself is to blame for. */
  readonly ownSnr: number | null
  /** Whether the gate left the layer as it was. */
  readonly spared: boolean
  /** Accuracy regained by sparing it, or its share of what the layers spared with it regained; only where it was tried. */
  readonly accuracyCost?: number
}

/** One try of the gate to meet the limit on accuracy. */
export interface Attempt {
  /** Weights that were left as they were. */
  readonly spared: readonly string[]
  /** What a search tried; absent for the recipe's own steps. */
  readonly steps?: readonly { readonly step: string }[]
  readonly bytes: number
  readonly accuracy?: number
  readonly latency?: number
}

/** The outcome of `compress`: plain data, safe to print as JSON. */
export interface CompressReport {
  /** Version of whittle-ml that made it. */
  readonly version: string
  /** File name without folder and ending; `'model'` for one that came from memory. */
  readonly model: string
  /** The recipe with every default written out: given to `compress` again, it does the same. */
  readonly recipe: {
    readonly name: string
    readonly limits: object
    readonly steps: readonly { readonly step: string }[]
  }
  readonly before: ModelFigures
  readonly after: ModelFigures
  readonly steps: readonly StepReport[]
  readonly limits: readonly LimitReport[]
  /** Changed layers, worst first. */
  readonly blame: readonly LayerBlame[]
  /** Every model that was judged, the one that was taken last. Empty where nothing judges. */
  readonly attempts: readonly Attempt[]
  readonly seconds: number
}

/** One row of measurements that a program made on its own, for the table and chart of the HTML report. */
export interface Measurement {
  readonly label: string
  /** What ran it; rows of one runtime are compared with that runtime's reference. */
  readonly runtime?: string
  readonly bytes: number
  /** A share, 0 to 1. */
  readonly accuracy?: number
  /** Median milliseconds of one run. */
  readonly latency?: number
  /** The row that the others are compared with. */
  readonly reference?: boolean
}

/** One model in an HTML report. */
export interface ReportSection {
  readonly title: string
  readonly report: CompressReport
  readonly measurements?: readonly Measurement[]
  /** What {@link Measurement.accuracy} is, e.g. `'characters right'`. */
  readonly accuracyName?: string
  /** What `analyze` says of the original: fills in multiplications, histograms, singular values, sensitivity. */
  readonly analysis?: Analysis
  /** The same of the result. */
  readonly resultAnalysis?: Analysis
}

/** A model in an HTML report that nothing was done to. */
export interface AnalysisSection {
  readonly title: string
  readonly analysis: Analysis
}
