import { WhittleError } from '../errors'
import { Model } from '../model/model'
import { Session } from '../session'
import { fail, integer, options } from '../validate'
import { metricOf, type CheckedMetric, type MetricSpec } from './metric'

/** One sample: what the model is given, and what its answer is compared with. */
export interface Sample {
  readonly inputs: unknown
  readonly target: unknown
}

/** A session, a pipeline, or anything else that answers inputs. */
export interface Runnable {
  run(inputs: never): unknown
}

/** Options of {@link evaluate}. */
export interface EvaluateOptions {
  /** Stops between two samples, with `ERR_ABORTED`. */
  readonly signal?: AbortSignal
  /** At most so many samples. Default: all. */
  readonly samples?: number
  /** Threads of the session that is made where a model is given. */
  readonly threads?: number
  readonly onProgress?: (done: number) => void
}

/** What {@link evaluate} answers; `compress` takes it from its `evaluate` as it is. */
export interface EvaluateResult {
  /** The first metric's first number. */
  readonly accuracy: number
  /** Median milliseconds of one run. */
  readonly latency: number
  readonly samples: number
  /** By name; a metric of several numbers gives `name.part` for each. */
  readonly metrics: Readonly<Record<string, number>>
}

type Several = readonly MetricSpec[] | Readonly<Record<string, MetricSpec>>

/**
 * Runs a model over labelled samples and counts.
 *
 * | name | target of a sample | options |
 * |---|---|---|
 * | `'accuracy'`, `'top1'`, `'top5'` | classes of the rows of its output | |
 * | `'precision'`, `'recall'`, `'f1'` | the same | `average`: macro (default), micro, weighted; `classes` |
 * | `'auc'` | the same; of several classes one against the rest | `average` |
 * | `'map'` | relevances, 1 or 0, one for each score | `by`: query, class |
 * | `'detection'` | `{ boxes, classes }` of each image; outputs are `{ boxes, scores, classes }` | `method`, `iou`, … |
 * | `'characters'` | the text, or texts | `alphabet`, `blank`: greedy CTC of class scores |
 * | `'cosine'` | a tensor, such as a teacher's answer | |
 * | a function `(output, target) => number` | anything; the mean counts | |
 *
 * @param runnable a {@link Session}, a pipeline, an object with `run(inputs)`, or a {@link Model}, for which a session is
 * made
 * @param dataset samples `{ inputs, target }`, or a function that begins them anew; labels of a batch are lists
 * @param metrics one, several, or several by names of their own; the first is the `accuracy`
 * @throws {WhittleError} `ERR_RANGE` for an empty dataset, labels that are no class, NaN in scores, misspelt metrics;
 * `ERR_SHAPE`, `ERR_DTYPE` naming the sample; `ERR_ABORTED`. What the runnable throws comes through as it is.
 *
 * @example
 * const { accuracy, metrics } = await evaluate(session, samples, ['top1', { metric: 'f1', average: 'weighted' }])
 * await compress('in.onnx', recipe, { evaluate: (model) => evaluate(model, samples, 'top1'), limits: { accuracyDrop: 0.01 } })
 */
export async function evaluate(
  runnable: Runnable | Model,
  dataset: Iterable<Sample> | AsyncIterable<Sample> | (() => Iterable<Sample> | AsyncIterable<Sample>),
  metrics: MetricSpec | Several,
  given?: EvaluateOptions,
): Promise<EvaluateResult> {
  const o = options(given, 'options', ['signal', 'samples', 'threads', 'onProgress'])
  const most = o.samples === undefined ? Infinity : integer(o.samples, 'options.samples', 1)
  const threads = o.threads === undefined ? {} : { threads: integer(o.threads, 'options.threads', 1, 256) }
  if (o.onProgress !== undefined && typeof o.onProgress !== 'function') fail('ERR_DTYPE', 'options.onProgress', 'a function', o.onProgress)
  const signal = o.signal as AbortSignal | undefined
  const checked = metricsOf(metrics)
  const samples = typeof dataset === 'function' ? dataset() : dataset
  const iterable = samples as { [Symbol.iterator]?: unknown; [Symbol.asyncIterator]?: unknown } | null | undefined
  if (typeof samples === 'string' || (typeof iterable?.[Symbol.iterator] !== 'function' && typeof iterable?.[Symbol.asyncIterator] !== 'function'))
    fail('ERR_DTYPE', 'dataset', 'an iterable of { inputs, target }', dataset)
  const made = isModel(runnable) ? await Session.create(runnable, threads) : undefined
  const own = (made ?? runnable) as { run?: unknown } | null | undefined
  if (typeof own?.run !== 'function') fail('ERR_DTYPE', 'runnable', 'a session, a pipeline, a model or an object with run()', runnable)
  const run = (inputs: unknown): unknown => (own as { run(x: unknown): unknown }).run(inputs)
  const tallies = checked.map((m) => ({ ...m, tally: m.start() }))
  const times: number[] = []
  try {
    for await (const sample of samples) {
      if (signal?.aborted) throw new WhittleError('ERR_ABORTED', 'options.signal', 'options.signal: aborted', { cause: signal.reason })
      const where = `dataset[${times.length}]`
      if (sample === null || typeof sample !== 'object' || !('inputs' in sample) || !('target' in sample)) fail('ERR_DTYPE', where, '{ inputs, target }', sample)
      const start = performance.now()
      const answer = await run(sample.inputs)
      times.push(performance.now() - start)
      for (const { tally, output } of tallies) await tally.add(outputOf(answer, output, where), sample.target, where)
      ;(o.onProgress as ((done: number) => void) | undefined)?.(times.length)
      if (times.length >= most) break
    }
  } finally {
    made?.dispose()
  }
  if (times.length === 0)
    throw new WhittleError('ERR_RANGE', 'dataset', 'dataset: expected at least one sample, got none (a generator runs once: give a function that begins it anew)')
  const found = tallies.flatMap(({ name, tally }): [string, number][] => {
    const value = tally.result()
    const parts: [string, number][] = typeof value === 'number' ? [[name, value]] : Object.entries(value).map(([part, v]) => [`${name}.${part}`, v])
    for (const [part, v] of parts) if (typeof v !== 'number' || !Number.isFinite(v)) fail('ERR_RANGE', part, 'a metric that answers finite numbers', v)
    if (parts.length === 0) fail('ERR_RANGE', name, 'a metric that answers at least one number', value)
    return parts
  })
  return { accuracy: found[0]![1], latency: medianOf(times), samples: times.length, metrics: Object.fromEntries(found) }
}

/** @internal */
export function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

const isModel = (x: unknown): x is Model => x !== null && typeof x === 'object' && 'graph' in x && typeof (x as Model).clone === 'function'

function metricsOf(given: unknown): CheckedMetric[] {
  let list: CheckedMetric[]
  const one = given as { metric?: unknown; start?: unknown } | null | undefined
  if (Array.isArray(given)) list = given.map((m, i) => metricOf(m, `metrics[${i}]`))
  else if (given !== null && typeof given === 'object' && typeof one?.metric !== 'string' && typeof one?.start !== 'function')
    list = Object.entries(given).map(([name, m]) => ({ ...metricOf(m, `metrics.${name}`), name }))
  else list = [metricOf(given, 'metrics')]
  if (list.length === 0) fail('ERR_RANGE', 'metrics', 'at least one metric', given)
  const names = list.map((m) => m.name)
  // Two functions without a name, or one metric with two sets of options.
  return list.map((m, i) => (names.indexOf(m.name) < i ? { ...m, name: `${m.name}_${i}` } : m))
}

/** One output of what a run answered: of tensors by name the named or the first; anything else as it is. */
function outputOf(answer: unknown, name: string | undefined, where: string): unknown {
  const plain = answer !== null && typeof answer === 'object' && !Array.isArray(answer) && !ArrayBuffer.isView(answer)
  const tensors = plain && Object.values(answer).length > 0 && Object.values(answer).every((v: unknown) => v !== null && typeof v === 'object' && 'dims' in v && 'data' in v)
  const ranked = plain && 'indices' in answer && 'values' in answer
  if (name !== undefined) {
    if (!plain || !Object.hasOwn(answer, name)) fail('ERR_RANGE', `${where} output`, `an output named ${name}`, plain ? Object.keys(answer).join(', ') : answer)
    return (answer as Record<string, unknown>)[name]
  }
  return tensors && !ranked ? Object.values(answer)[0] : answer
}
