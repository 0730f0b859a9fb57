import { WhittleError } from '../errors'
import { integer, options } from '../validate'
import { labelsOf, notEmpty, numbersOf, rowsOf, sameLength, type ClassLabels, type Numbers, type Scores } from './read'

/**
 * Share of rows whose label is among the `k` largest scores. Of equal scores the one with the lower class goes first, as
 * for argmax.
 *
 * @param scores [rows, classes]; more leading axes count as rows
 * @param labels the right class of each row
 * @throws {WhittleError} `ERR_RANGE` for labels that are no class and for NaN, `ERR_SHAPE`, `ERR_DTYPE`
 * @example
 * topKAccuracy([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [2, 0], 2) // 1
 */
export function topKAccuracy(scores: Scores, labels: ClassLabels, k = 1): number {
  const many = integer(k, 'k', 1)
  const { rows, classes, data } = rowsOf(scores, 'scores')
  const wanted = labelsOf(labels, 'labels', classes)
  sameLength(wanted, { length: rows }, 'labels', 'the rows of scores')
  let hits = 0
  wanted.forEach((label, r) => {
    if (rankOf(data, r * classes, classes, label) < many) hits++
  })
  return hits / rows
}

/** @internal How many of `n` scores from `at` on go before the one of `label`. */
export function rankOf(data: ArrayLike<number>, at: number, n: number, label: number): number {
  const own = data[at + label]!
  let before = 0
  for (let c = 0; c < n; c++) if (data[at + c]! > own || (data[at + c] === own && c < label)) before++
  return before
}

/** Precision, recall and their harmonic mean. */
export interface PrecisionRecall {
  readonly precision: number
  readonly recall: number
  readonly f1: number
}

/** What {@link precisionRecallF1} answers. */
export interface ClassReport {
  readonly perClass: readonly (PrecisionRecall & { readonly support: number })[]
  /** Plain mean over all classes, present or not. */
  readonly macro: PrecisionRecall
  /** Of all decisions together; where every row has one label all three equal the accuracy. */
  readonly micro: PrecisionRecall
  /** Mean weighted by how often each class is the label. */
  readonly weighted: PrecisionRecall
  readonly accuracy: number
  /** `confusion[label][predicted]` */
  readonly confusion: readonly (readonly number[])[]
}

/**
 * Precision, recall and F1 of single-label predictions. What is undefined (0/0: a class that is never predicted, or never
 * the label) counts as 0, as scikit-learn's `zero_division=0`.
 *
 * @param options.classes how many classes there are; default: up to the largest number that occurs
 * @throws {WhittleError} `ERR_RANGE`, `ERR_SHAPE`, `ERR_DTYPE`
 */
export function precisionRecallF1(predicted: ClassLabels, labels: ClassLabels, given?: { readonly classes?: number }): ClassReport {
  const o = options(given, 'options', ['classes'])
  const most = o.classes === undefined ? undefined : integer(o.classes, 'options.classes', 1, 65536)
  const p = labelsOf(predicted, 'predicted', most)
  const t = labelsOf(labels, 'labels', most)
  sameLength(p, t, 'predicted', 'labels')
  notEmpty(t, 'labels')
  const count = most ?? [...p, ...t].reduce((top, c) => Math.max(top, c), 0) + 1
  if (count > 65536) throw new WhittleError('ERR_RANGE', 'labels', `labels: expected at most 65536 classes, got ${count}`)
  const pairs = new Map<number, number>()
  p.forEach((c, i) => pairs.set(t[i]! * count + c, (pairs.get(t[i]! * count + c) ?? 0) + 1))
  return classReport(pairs, count)
}

/** @internal From counts of label · classes + predicted. */
export function classReport(pairs: ReadonlyMap<number, number>, count: number): ClassReport {
  const said = new Float64Array(count)
  const support = new Float64Array(count)
  const right = new Float64Array(count)
  let total = 0
  for (const [pair, n] of pairs) {
    const [label, guess] = [Math.floor(pair / count), pair % count]
    said[guess]! += n
    support[label]! += n
    if (label === guess) right[label]! += n
    total += n
  }
  const share = (a: number, b: number): number => (b === 0 ? 0 : a / b)
  const perClass = Array.from(support, (s, c) => ({
    precision: share(right[c]!, said[c]!),
    recall: share(right[c]!, s),
    f1: share(2 * right[c]!, said[c]! + s),
    support: s,
  }))
  const mean = (weight: (c: number) => number): PrecisionRecall => {
    const sum = { precision: 0, recall: 0, f1: 0 }
    perClass.forEach((one, c) => {
      for (const key of ['precision', 'recall', 'f1'] as const) sum[key] += one[key] * weight(c)
    })
    return sum
  }
  const accuracy = share(
    right.reduce((a, b) => a + b, 0),
    total,
  )
  return {
    perClass,
    macro: mean(() => 1 / count),
    micro: { precision: accuracy, recall: accuracy, f1: accuracy },
    weighted: mean((c) => share(support[c]!, total)),
    accuracy,
    // Made when asked for: of many classes it is large.
    get confusion() {
      return Array.from({ length: count }, (_, r) => Array.from({ length: count }, (_, c) => pairs.get(r * count + c) ?? 0))
    },
  }
}

/**
 * Area under the ROC curve: the chance that a positive scores higher than a negative, equal scores counted half.
 *
 * @param labels 1 for positives, 0 for negatives; both must occur
 * @throws {WhittleError} `ERR_RANGE` where only one class occurs, for NaN and for labels other than 0 and 1; `ERR_SHAPE`
 * @see Hanley & McNeil 1982
 */
export function rocAuc(scores: Numbers, labels: ClassLabels): number {
  const { data } = numbersOf(scores, 'scores')
  const wanted = labelsOf(labels, 'labels', 2)
  sameLength(wanted, data, 'labels', 'the scores')
  return areaOf(data, (i) => wanted[i] === 1, 'labels')
}

/** @internal Mann and Whitney's statistic by ranks, equal scores sharing the middle of theirs. */
export function areaOf(scores: ArrayLike<number>, isPositive: (i: number) => boolean, parameter: string): number {
  const order = Uint32Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => (scores[a]! < scores[b]! ? -1 : scores[a]! > scores[b]! ? 1 : 0))
  let [positives, ranks] = [0, 0]
  for (let i = 0; i < order.length; ) {
    let end = i
    let here = 0
    for (; end < order.length && scores[order[end]!] === scores[order[i]!]; end++) if (isPositive(order[end]!)) here++
    positives += here
    ranks += (here * (i + 1 + end)) / 2
    i = end
  }
  const negatives = order.length - positives
  if (positives === 0 || negatives === 0)
    throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected positives and negatives, got ${positives} and ${negatives}: the area is not defined`)
  return (ranks - (positives * (positives + 1)) / 2) / (positives * negatives)
}

/** What {@link rocAucOneVsRest} answers. */
export interface AreaReport {
  readonly perClass: readonly number[]
  /** Plain mean. */
  readonly macro: number
  /** Weighted by how often each class is the label. */
  readonly weighted: number
}

/**
 * Area under the ROC curve of each class against the rest.
 *
 * @param scores [rows, classes]
 * @throws {WhittleError} `ERR_RANGE` where a class is never, or always, the label: its area is not defined
 */
export function rocAucOneVsRest(scores: Scores, labels: ClassLabels): AreaReport {
  const { rows, classes, data } = rowsOf(scores, 'scores')
  const wanted = labelsOf(labels, 'labels', classes)
  sameLength(wanted, { length: rows }, 'labels', 'the rows of scores')
  const column = new Float64Array(rows)
  const support = new Float64Array(classes)
  for (const label of wanted) support[label]!++
  const perClass = Array.from(support, (_, c) => {
    for (let r = 0; r < rows; r++) column[r] = data[r * classes + c]!
    return areaOf(column, (r) => wanted[r] === c, `labels of class ${c}`)
  })
  return {
    perClass,
    macro: perClass.reduce((a, b) => a + b, 0) / classes,
    weighted: perClass.reduce((sum, v, c) => sum + (v * support[c]!) / rows, 0),
  }
}

/**
 * Average precision of one ranking: Σ (Rᵢ − Rᵢ₋₁)·Pᵢ over the distinct scores from the highest down, without
 * interpolation; equal scores enter together, so their order does not matter.
 *
 * @param relevant 1 for items that should come first, 0 for others; at least one must be 1
 * @throws {WhittleError} `ERR_RANGE` where nothing is relevant, for NaN; `ERR_SHAPE`
 */
export function averagePrecision(scores: Numbers, relevant: ClassLabels): number {
  const { data } = numbersOf(scores, 'scores')
  const wanted = labelsOf(relevant, 'relevant', 2)
  sameLength(wanted, data, 'relevant', 'the scores')
  const found = precisionOf(data, (i) => wanted[i] === 1)
  if (found === undefined) throw new WhittleError('ERR_RANGE', 'relevant', 'relevant: expected at least one 1, got none: the average precision is not defined')
  return found
}

/** @internal `undefined` where nothing is relevant. */
export function precisionOf(scores: ArrayLike<number>, isRelevant: (i: number) => boolean): number | undefined {
  const order = Uint32Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => (scores[a]! > scores[b]! ? -1 : scores[a]! < scores[b]! ? 1 : 0))
  let [hits, sum] = [0, 0]
  for (let i = 0; i < order.length; ) {
    let end = i
    let here = 0
    for (; end < order.length && scores[order[end]!] === scores[order[i]!]; end++) if (isRelevant(order[end]!)) here++
    hits += here
    sum += (here * hits) / end
    i = end
  }
  return hits === 0 ? undefined : sum / hits
}

/**
 * Mean of {@link averagePrecision} over rankings. Rankings without a relevant item are left out.
 *
 * @param scores [queries, items], or of a multi-label classifier [rows, classes] with `by: 'class'`
 * @param relevant the same shape, 1 or 0
 * @param options.by `'query'` (default): a ranking for each row; `'class'`: for each column
 */
export function meanAveragePrecision(scores: Scores, relevant: Scores, given?: { readonly by?: 'query' | 'class' }): number {
  const { by } = options(given, 'options', ['by'])
  if (by !== undefined && by !== 'query' && by !== 'class') throw new WhittleError('ERR_RANGE', 'options.by', "options.by: expected 'query' or 'class'")
  const s = rowsOf(scores, 'scores')
  const t = rowsOf(relevant, 'relevant')
  const wanted = labelsOf(t.data, 'relevant', 2)
  if (s.rows !== t.rows || s.classes !== t.classes)
    throw new WhittleError('ERR_SHAPE', 'relevant', `relevant: expected [${s.rows}, ${s.classes}], as the scores, got [${t.rows}, ${t.classes}]`)
  const [outer, inner] = by === 'class' ? [s.classes, s.rows] : [s.rows, s.classes]
  const at = (o: number, i: number): number => (by === 'class' ? i * s.classes + o : o * s.classes + i)
  const line = new Float64Array(inner)
  const found: number[] = []
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) line[i] = s.data[at(o, i)]!
    const one = precisionOf(line, (i) => wanted[at(o, i)] === 1)
    if (one !== undefined) found.push(one)
  }
  if (found.length === 0) throw new WhittleError('ERR_RANGE', 'relevant', 'relevant: expected at least one 1, got none')
  return found.reduce((a, b) => a + b, 0) / found.length
}
