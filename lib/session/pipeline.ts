import { WhittleError } from '../errors'
import type { Tensor, TensorLike } from '../tensor'
import { fail, options, string } from '../validate'
import { postOf, type Decoded, type Found, type PostStep, type Ranked } from './post'
import { Pre, type PreOptions } from './pre'
import { Session } from './session'

/** Options of {@link pipeline}. */
export interface PipelineOptions {
  /** the model; the caller disposes of it */
  session: Session
  /** what becomes of images; without it the model is given the tensor as it is */
  pre?: PreOptions
  /** what becomes of the output, in order; without it the output is answered as a tensor */
  post?: PostStep | readonly PostStep[]
  /** the input that takes the images; needed where the model has several (the others are then given to `run`) */
  input?: string
  /** the output that is looked at. Default: the first */
  output?: string
}

/** What a pipeline answers: by the last step of `post`. */
export type PipelineResult = Tensor | Ranked | Found[][] | Decoded[]

/** What {@link Pipeline.run} takes besides the image. */
export interface PipelineRunOptions {
  /** the model's other inputs */
  inputs?: Readonly<Record<string, TensorLike>>
  signal?: AbortSignal
}

/** An image in, an answer out: see {@link pipeline}. */
export class Pipeline {
  readonly #session: Session
  readonly #pre: Pre | undefined
  readonly #post: ((t: Tensor, what: string) => unknown) | undefined
  readonly #input: string
  readonly #output: string

  /** @internal */
  constructor(session: Session, pre: Pre | undefined, post: ((t: Tensor, what: string) => unknown) | undefined, input: string, output: string) {
    this.#session = session
    this.#pre = pre
    this.#post = post
    this.#input = input
    this.#output = output
  }

  /**
   * @param images with `pre`: an image [height, width, channels], uint8 or float32, or several, which become one batch and must
   * come out equally large; without: the input's tensor
   */
  async run(images: TensorLike | readonly TensorLike[], given?: PipelineRunOptions): Promise<PipelineResult> {
    const { inputs, signal } = options(given, 'options', ['inputs', 'signal'])
    const feeds = { ...options(inputs, 'options.inputs', this.#session.inputs.map((i) => i.name)), [this.#input]: this.#prepared(images) } as Record<string, TensorLike>
    const found = await this.#session.run(feeds, { fetch: [this.#output], ...(signal === undefined ? {} : { signal: signal as AbortSignal }) })
    const out = found[this.#output] as Tensor
    return (this.#post ? this.#post(out, `outputs.${this.#output}`) : out) as PipelineResult
  }

  /** Frees what the pipeline holds; the session stays. */
  dispose(): void {
    this.#pre?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #prepared(images: unknown): TensorLike {
    const list = (Array.isArray(images) ? images : [images]) as TensorLike[]
    if (this.#pre && list.length === 0) fail('ERR_SHAPE', 'images', 'at least one image', images)
    if (!this.#pre && Array.isArray(images)) fail('ERR_DTYPE', 'images', 'a tensor: only pre makes a batch of several', images)
    return this.#pre ? this.#pre.run(list, 'images') : (images as TensorLike)
  }
}

/**
 * Joins a session with what comes before (resize, normalize, pad, interleaved bytes to planes of float32) and after
 * (softmax, argmax, top k, sort, threshold, greedy CTC).
 *
 * @throws {WhittleError} `ERR_RANGE`, `ERR_DTYPE`, `ERR_SHAPE` naming the option
 *
 * @example
 * const reader = await pipeline({
 *   session: await Session.create('ch_PP-OCRv4_rec_infer.onnx'),
 *   pre: { resize: { size: [48, null] }, normalize: { scale: 1 / 255, mean: 0.5, std: 0.5 } },
 *   post: { op: 'ctc', alphabet: [...keys, ' '] },
 * })
 * const [line] = await reader.run({ type: 'uint8', dims: [32, 180, 3], data: pixels })
 */
export async function pipeline(given: PipelineOptions): Promise<Pipeline> {
  if (given === undefined) fail('ERR_DTYPE', 'options', 'an object', given)
  const { session, pre, post, input, output } = options(given, 'options', ['session', 'pre', 'post', 'input', 'output'])
  if (!(session instanceof Session)) fail('ERR_DTYPE', 'session', 'a Session', session)
  const names = session.inputs.map((i) => i.name)
  if (input === undefined && names.length !== 1) fail('ERR_RANGE', 'input', `one of the model's inputs (${names.join(', ')})`, input)
  const from = input === undefined ? (names[0] as string) : string(input, 'input')
  if (!names.includes(from)) fail('ERR_RANGE', 'input', `one of the model's inputs (${names.join(', ')})`, from)
  const type = session.inputs.find((i) => i.name === from)?.type
  if (pre !== undefined && type !== 'float32') throw new WhittleError('ERR_DTYPE', 'input', `input: expected one of float32 for pre, got ${from} of ${type}`)
  const outputs = session.outputs.map((o) => o.name)
  const to = output === undefined ? (outputs[0] as string) : string(output, 'output')
  if (!outputs.includes(to)) fail('ERR_RANGE', 'output', `one of the model's outputs (${outputs.join(', ')})`, to)
  const after = post === undefined ? undefined : postOf(post)
  return new Pipeline(session, pre === undefined ? undefined : await Pre.create(pre), after, from, to)
}
