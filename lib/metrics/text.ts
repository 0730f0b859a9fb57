import { WhittleError } from '../errors'
import { fail } from '../validate'
import { notEmpty, sameLength } from './read'

/** Levenshtein's distance of two texts in Unicode code points: fewest insertions, deletions and substitutions. */
export function editDistance(a: string, b: string): number {
  if (typeof a !== 'string') fail('ERR_DTYPE', 'a', 'a string', a)
  if (typeof b !== 'string') fail('ERR_DTYPE', 'b', 'a string', b)
  const [x, y] = [Array.from(a), Array.from(b)]
  let row = Uint32Array.from({ length: y.length + 1 }, (_, j) => j)
  let next = new Uint32Array(y.length + 1)
  for (let i = 1; i <= x.length; i++) {
    next[0] = i
    for (let j = 1; j <= y.length; j++)
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (x[i - 1] === y[j - 1] ? 0 : 1))
    ;[row, next] = [next, row]
  }
  return row[y.length]!
}

/** What {@link characterAccuracy} answers. */
export interface TextReport {
  /** 1 − Σ distance / Σ length of the labels; below 0 where a prediction is far longer than its label. */
  readonly characters: number
  /** Share of predictions that are their label. */
  readonly exact: number
}

/**
 * Character accuracy of recognised texts: 1 − Σ {@link editDistance} / Σ length of the labels, over Unicode code points.
 *
 * @throws {WhittleError} `ERR_RANGE` where there is no text or all labels are empty, `ERR_SHAPE`, `ERR_DTYPE`
 * @example
 * characterAccuracy(['hallo'], ['hello']).characters // 0.8
 */
export function characterAccuracy(predictions: readonly string[], labels: readonly string[]): TextReport {
  const tally = new TextTally()
  for (const [name, list] of [['predictions', predictions], ['labels', labels]] as const)
    if (!Array.isArray(list)) fail('ERR_DTYPE', name, 'a list of strings', list)
  sameLength(predictions, labels, 'predictions', 'labels')
  notEmpty(labels, 'labels')
  labels.forEach((label, i) => tally.add(predictions[i]!, label, `predictions[${i}]`, `labels[${i}]`))
  return tally.result('labels')
}

/** @internal */
export class TextTally {
  #distance = 0
  #length = 0
  #exact = 0
  #count = 0

  add(prediction: unknown, label: unknown, predictionName: string, labelName: string): void {
    if (typeof prediction !== 'string') fail('ERR_DTYPE', predictionName, 'a string', prediction)
    if (typeof label !== 'string') fail('ERR_DTYPE', labelName, 'a string', label)
    this.#distance += editDistance(prediction, label)
    this.#length += Array.from(label).length
    this.#count++
    if (prediction === label) this.#exact++
  }

  result(parameter: string): TextReport {
    if (this.#length === 0) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected at least one character, got only empty texts`)
    return { characters: 1 - this.#distance / this.#length, exact: this.#exact / this.#count }
  }
}
