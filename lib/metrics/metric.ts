import { WhittleError } from '../errors'
import { typedArrayName, type TensorLike } from '../tensor'
import { fail, integer, oneOf, options } from '../validate'
import { DetectionTally, detectionRules, type DetectionOptions } from './detection'
import { labelsOf, numbersOf, rowsOf, sameLength } from './read'
import { areaOf, classReport, meanAveragePrecision, rankOf } from './scores'
import { cosineSimilarity } from './similarity'
import { TextTally } from './text'

/** What a metric makes of all samples: one number, or several by name, of which the first counts. */
export type MetricResult = number | Readonly<Record<string, number>>

/** A count under way. */
export interface MetricTally {
  /**
   * @param output what the model answered, or the one of its outputs that the metric names
   * @param where the sample's name in messages, such as `dataset[3]`
   */
  add(output: unknown, target: unknown, where: string): void | Promise<void>
  result(): MetricResult
}

/** A metric of one's own for `evaluate`: higher must be better where it is the first. */
export interface Metric {
  readonly name: string
  start(): MetricTally
}

/** A metric as a function of one sample; the mean over samples counts. */
export type SampleMetric = (output: unknown, target: unknown) => number | Promise<number>

/** What all metrics by name take. */
interface Common {
  /** Which output of the model; default: its first. */
  readonly output?: string
}

/** A metric by name, with its options. */
export type NamedMetric = Common &
  (
    | { readonly metric: 'accuracy' | 'precision' | 'recall' | 'f1'; readonly average?: 'macro' | 'micro' | 'weighted'; readonly classes?: number }
    | { readonly metric: 'topK'; readonly k: number }
    | { readonly metric: 'auc'; readonly average?: 'macro' | 'weighted' }
    | { readonly metric: 'map'; readonly by?: 'query' | 'class' }
    | ({ readonly metric: 'detection' } & DetectionOptions)
    | { readonly metric: 'characters'; readonly alphabet?: readonly string[] | string; readonly blank?: number; readonly trim?: boolean }
    | { readonly metric: 'cosine' }
  )

/** Names that stand for a metric with its defaults; `top5` is `{ metric: 'topK', k: 5 }`. */
export type MetricName = Exclude<NamedMetric['metric'], 'topK'> | `top${number}`

/** A name, a name with options, a function of one sample, or a {@link Metric}. */
export type MetricSpec = MetricName | NamedMetric | SampleMetric | Metric

type Start = (parameter: string) => MetricTally

const kNames = ['accuracy', 'precision', 'recall', 'f1', 'topK', 'auc', 'map', 'detection', 'characters', 'cosine'] as const
const kKeys: Readonly<Record<(typeof kNames)[number], readonly string[]>> = {
  accuracy: ['average', 'classes'],
  precision: ['average', 'classes'],
  recall: ['average', 'classes'],
  f1: ['average', 'classes'],
  topK: ['k'],
  auc: ['average'],
  map: ['by'],
  detection: ['method', 'iou', 'maxDetections', 'format'],
  characters: ['alphabet', 'blank', 'trim'],
  cosine: [],
}

/** @internal The checked form of a metric: its name in results, and which output it looks at. */
export interface CheckedMetric {
  readonly name: string
  readonly output: string | undefined
  start(): MetricTally
}

/** @internal */
export function metricOf(spec: unknown, parameter: string): CheckedMetric {
  if (typeof spec === 'function') return { name: spec.name || 'custom', output: undefined, start: () => mean(spec as SampleMetric) }
  if (typeof spec === 'string') {
    const top = /^top([1-9]\d{0,8})$/.exec(spec)
    if (top) return { ...metricOf({ metric: 'topK', k: Number(top[1]) }, parameter), name: spec }
    if (!kNames.includes(spec as 'f1') || spec === 'topK')
      throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected one of ${kNames.filter((n) => n !== 'topK').join(', ')}, top1, top5, …, got ${JSON.stringify(spec.slice(0, 40))}`)
    return metricOf({ metric: spec }, parameter)
  }
  if (spec === null || typeof spec !== 'object') fail('ERR_DTYPE', parameter, 'the name of a metric, { metric, … }, a function or { name, start }', spec)
  const own = spec as Partial<Metric>
  if (typeof own.start === 'function') {
    if (typeof own.name !== 'string' || own.name === '') fail('ERR_DTYPE', `${parameter}.name`, 'a name', own.name)
    return { name: own.name, output: undefined, start: () => own.start!() }
  }
  const { metric } = spec as { metric?: unknown }
  const name = oneOf(metric as string, `${parameter}.metric`, kNames)
  const given = options(spec, parameter, ['metric', 'output', ...kKeys[name]]) as Record<string, unknown>
  if (given['output'] !== undefined && typeof given['output'] !== 'string') fail('ERR_DTYPE', `${parameter}.output`, 'the name of an output', given['output'])
  const begin = kMetrics[name](given, parameter)
  return { name: name === 'topK' ? `top${String(given['k'])}` : name, output: given['output'], start: () => begin(parameter) }
}

const kMetrics: Readonly<Record<(typeof kNames)[number], (given: Record<string, unknown>, parameter: string) => Start>> = {
  accuracy: (g, p) => classes('accuracy', g, p),
  precision: (g, p) => classes('precision', g, p),
  recall: (g, p) => classes('recall', g, p),
  f1: (g, p) => classes('f1', g, p),
  topK: (g, p) => {
    const k = integer(g['k'], `${p}.k`, 1)
    return () => topK(k)
  },
  auc: (g, p) => {
    const average = g['average'] === undefined ? 'macro' : oneOf(g['average'] as string, `${p}.average`, ['macro', 'weighted'] as const)
    return () => area(average)
  },
  map: (g, p) => {
    const by = g['by'] === undefined ? 'query' : oneOf(g['by'] as string, `${p}.by`, ['query', 'class'] as const)
    return () => ranking(by)
  },
  detection: ({ metric: _, output: __, ...g }, p) => {
    const rules = detectionRules(g, p)
    return () => {
      const tally = new DetectionTally(rules)
      return {
        add: (output, target, where) => {
          const [found, real] = [listOf(output), listOf(target)]
          sameLength(found, real, where, 'its targets')
          found.forEach((one, i) => tally.add(one, real[i], `${where} output`, `${where}.target`))
        },
        result: () => {
          const { map, perIou } = tally.result('dataset')
          const at = (iou: number): number | undefined => perIou.find((x) => Math.abs(x.iou - iou) < 1e-9)?.ap
          const [half, three] = [at(0.5), at(0.75)]
          return { map, ...(half === undefined ? {} : { ap50: half }), ...(three === undefined ? {} : { ap75: three }) }
        },
      }
    }
  },
  characters: (g, p) => {
    const read = textReader(g, p)
    return () => {
      const tally = new TextTally()
      return {
        add: (output, target, where) => {
          const texts = read(output, `${where} output`)
          const labels = listOf(target)
          sameLength(texts, labels, `${where}.target`, 'its outputs')
          texts.forEach((text, i) => tally.add(text, labels[i], `${where} output`, `${where}.target`))
        },
        result: () => ({ ...tally.result('dataset') }),
      }
    }
  },
  cosine: () => () =>
    mean((output, target) => cosineSimilarity(output as TensorLike, target as TensorLike)),
}

const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? (value as unknown[]) : [value])

function mean(f: SampleMetric): MetricTally {
  let [sum, count] = [0, 0]
  return {
    add: async (output, target, where) => {
      const value: unknown = await f(output, target)
      if (typeof value !== 'number' || !Number.isFinite(value)) fail('ERR_RANGE', where, 'a metric that answers a finite number', value)
      sum += value
      count++
    },
    result: () => sum / count,
  }
}

/** Predicted classes of an output: the largest score of each row, or the classes themselves where they are integers. */
function predictedOf(output: unknown, rows: number, where: string): { predicted: number[]; classes: number | undefined } {
  const type = (output as { type?: unknown } | null)?.type
  const floats = typeof type === 'string' ? type.startsWith('float') || type === 'bfloat16' : typedArrayName(output).startsWith('Float') || (Array.isArray(output) && !output.every(Number.isInteger))
  if (!floats) {
    const { data } = numbersOf(typeof output === 'number' || typeof output === 'bigint' ? [Number(output)] : output, `${where} output`)
    if (data.length === rows) return { predicted: labelsOf(output, `${where} output`), classes: undefined }
  }
  const found = rowsOf(output, `${where} output`)
  const predicted = Array.from({ length: found.rows }, (_, r) => {
    let best = 0
    for (let c = 1; c < found.classes; c++) if (found.data[r * found.classes + c]! > found.data[r * found.classes + best]!) best = c
    return best
  })
  return { predicted, classes: found.classes }
}

function classes(name: 'accuracy' | 'precision' | 'recall' | 'f1', given: Record<string, unknown>, parameter: string): Start {
  const average = given['average'] === undefined ? 'macro' : oneOf(given['average'] as string, `${parameter}.average`, ['macro', 'micro', 'weighted'] as const)
  const fixed = given['classes'] === undefined ? undefined : integer(given['classes'], `${parameter}.classes`, 1, 65536)
  return () => {
    const pairs: (readonly [number, number])[] = []
    let known = fixed
    return {
      add: (output, target, where) => {
        const labels = labelsOf(target, `${where}.target`, fixed)
        const { predicted, classes: seen } = predictedOf(output, labels.length, where)
        sameLength(predicted, labels, `${where} output`, 'its targets')
        if (seen !== undefined) {
          labelsOf(labels, `${where}.target`, seen)
          if (fixed !== undefined && seen > fixed) fail('ERR_SHAPE', `${where} output`, `at most ${fixed} classes`, seen)
          known = Math.max(known ?? 0, seen)
        } else if (fixed !== undefined) labelsOf(predicted, `${where} output`, fixed)
        labels.forEach((label, i) => pairs.push([label, predicted[i]!]))
      },
      result: () => {
        if (name === 'accuracy') return pairs.filter(([a, b]) => a === b).length / pairs.length
        const count = pairs.reduce((top, [a, b]) => Math.max(top, a + 1, b + 1), known ?? 1)
        if (count > 65536) fail('ERR_RANGE', 'dataset', 'at most 65536 classes', count)
        const cells = new Map<number, number>()
        for (const [label, guess] of pairs) cells.set(label * count + guess, (cells.get(label * count + guess) ?? 0) + 1)
        return classReport(cells, count)[average][name]
      },
    }
  }
}

function topK(k: number): MetricTally {
  let [hits, count] = [0, 0]
  return {
    add: (output, target, where) => {
      const indices = (output as { indices?: TensorLike } | null)?.indices
      const labels = labelsOf(target, `${where}.target`)
      count += labels.length
      if (indices !== undefined) {
        // A pipeline's own top k.
        const rows = rowsOf(indices, `${where} output.indices`)
        sameLength(labels, { length: rows.rows }, `${where}.target`, 'the rows of its output')
        if (rows.classes < k) fail('ERR_SHAPE', `${where} output.indices`, `at least ${k} a row`, rows.classes)
        labels.forEach((label, r) => {
          for (let i = 0; i < k; i++) if (rows.data[r * rows.classes + i] === label) hits++
        })
        return
      }
      const { rows, classes: n, data } = rowsOf(output, `${where} output`)
      sameLength(labels, { length: rows }, `${where}.target`, 'the rows of its output')
      labelsOf(labels, `${where}.target`, n)
      labels.forEach((label, r) => {
        if (rankOf(data, r * n, n, label) < k) hits++
      })
    },
    result: () => hits / count,
  }
}

function area(average: 'macro' | 'weighted'): MetricTally {
  const scores: number[] = []
  const labels: number[] = []
  let width: number | undefined
  return {
    add: (output, target, where) => {
      const wanted = labelsOf(target, `${where}.target`)
      const found = rowsOf(output, `${where} output`)
      // One score a label: a binary classifier's score of class 1.
      const n = found.rows * found.classes === wanted.length ? 1 : found.classes
      sameLength(wanted, { length: (found.rows * found.classes) / n }, `${where}.target`, 'the rows of its output')
      if (width !== undefined && width !== n) fail('ERR_SHAPE', `${where} output`, `${width} scores a row, as before`, n)
      width = n
      labelsOf(wanted, `${where}.target`, Math.max(n, 2))
      for (let i = 0; i < wanted.length * n; i++) scores.push(found.data[i]!)
      for (const label of wanted) labels.push(label)
    },
    result: () => {
      const n = width ?? 1
      const column = (c: number): number[] => labels.map((_, r) => scores[r * n + c]!)
      // Of two classes the score of the second says all.
      if (n <= 2) return areaOf(column(n - 1), (i) => labels[i] === 1, 'dataset')
      let sum = 0
      for (let c = 0; c < n; c++) {
        const support = labels.filter((l) => l === c).length
        sum += areaOf(column(c), (i) => labels[i] === c, `dataset, class ${c}`) * (average === 'macro' ? 1 / n : support / labels.length)
      }
      return sum
    },
  }
}

function ranking(by: 'query' | 'class'): MetricTally {
  const scores: number[][] = []
  const relevant: number[][] = []
  return {
    add: (output, target, where) => {
      const s = rowsOf(output, `${where} output`)
      const t = rowsOf(target, `${where}.target`)
      if (s.rows !== t.rows || s.classes !== t.classes) fail('ERR_SHAPE', `${where}.target`, `[${s.rows}, ${s.classes}] relevances, as the output`, target)
      labelsOf(t.data as Float64Array, `${where}.target`, 2)
      for (let r = 0; r < s.rows; r++) {
        const cut = (x: { data: ArrayLike<number> }): number[] => Array.from({ length: s.classes }, (_, c) => x.data[r * s.classes + c]!)
        scores.push(cut(s))
        relevant.push(cut(t))
      }
    },
    result: () => {
      if (by === 'class') return meanAveragePrecision(scores, relevant, { by })
      // Queries may have different numbers of items.
      const found = scores.flatMap((row, i) => (relevant[i]!.includes(1) ? [meanAveragePrecision([row], [relevant[i]!])] : []))
      if (found.length === 0) throw new WhittleError('ERR_RANGE', 'dataset', 'dataset: expected at least one relevant item, got none')
      return found.reduce((a, b) => a + b, 0) / found.length
    },
  }
}

/** How the texts of an output are read: they are there already, or are decoded from steps of class scores. */
function textReader(given: Record<string, unknown>, parameter: string): (output: unknown, where: string) => readonly string[] {
  const letters = given['alphabet']
  if (letters !== undefined && typeof letters !== 'string' && !(Array.isArray(letters) && letters.every((c) => typeof c === 'string')))
    fail('ERR_DTYPE', `${parameter}.alphabet`, 'a string or a list of strings', letters)
  const alphabet = letters === undefined ? undefined : Array.from(letters as string | string[])
  const blank = given['blank'] === undefined ? 0 : integer(given['blank'], `${parameter}.blank`, 0, alphabet?.length ?? 0)
  const trim = given['trim'] === undefined ? true : given['trim']
  if (typeof trim !== 'boolean') fail('ERR_DTYPE', `${parameter}.trim`, 'true or false', trim)
  const tidy = (text: string): string => (trim ? text.replace(/^ +| +$/g, '') : text)
  return (output, where) => {
    const list = listOf(output)
    const texts = list.map((one) => (typeof one === 'string' ? one : (one as { text?: unknown } | null)?.text))
    if (texts.every((t) => typeof t === 'string')) return texts.map(tidy)
    if (!alphabet) fail('ERR_DTYPE', where, 'texts (or an alphabet for the metric, to decode scores with)', output)
    const dims = (output as TensorLike | null)?.dims
    const { rows, classes: n, data } = rowsOf(output, where)
    if (n !== alphabet.length + 1) fail('ERR_SHAPE', where, `${alphabet.length + 1} classes: the alphabet and the blank`, n)
    const steps = dims?.at(-2) ?? rows
    return Array.from({ length: rows / steps }, (_, line) => {
      let text = ''
      for (let s = 0, last = blank; s < steps; s++) {
        const at = (line * steps + s) * n
        let best = 0
        for (let c = 1; c < n; c++) if (data[at + c]! > data[at + best]!) best = c
        if (best !== blank && best !== last) text += alphabet[best > blank ? best - 1 : best]
        last = best
      }
      return tidy(text)
    })
  }
}
