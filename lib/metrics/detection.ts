import { WhittleError } from '../errors'
import { fail, finite, integer, oneOf, options } from '../validate'
import { labelsOf, numbersOf, sameLength, type ClassLabels, type Numbers } from './read'

/** Boxes: rows of four numbers, see {@link DetectionOptions.format}. */
export type Boxes = readonly (readonly number[])[] | Numbers

/** What a detector found in one image. */
export interface Detections {
  readonly boxes: Boxes
  readonly scores: Numbers
  /** default: one class */
  readonly classes?: ClassLabels
}

/** What is to be found in one image. */
export interface Objects {
  readonly boxes: Boxes
  readonly classes?: ClassLabels
  /** 1 for what counts neither as found nor as missed: crowd regions for `'coco'`, difficult objects for `'voc'` */
  readonly ignore?: ClassLabels
}

/** Options of {@link detectionPrecision}. */
export interface DetectionOptions {
  /**
   * - `'coco'` (default): precision at 101 recalls; each detection takes the free object that it overlaps most
   * - `'voc'`: area under the precision curve (VOC 2010 on); a second detection of the object that it overlaps most is wrong
   * - `'voc11'`: the same matching, precision at 11 recalls (VOC 2007)
   */
  readonly method?: 'coco' | 'voc' | 'voc11'
  /** Intersection over union that a match needs; several are averaged. Default: 0.5 to 0.95 in steps of 0.05 for `'coco'`, else 0.5. */
  readonly iou?: number | readonly number[]
  /** Of the highest scores, for each image and class. Default 100 for `'coco'`, else no limit. */
  readonly maxDetections?: number
  /** `'xyxy'`: two corners (default); `'xywh'`: a corner, width and height. */
  readonly format?: 'xyxy' | 'xywh'
}

/** What {@link detectionPrecision} answers. */
export interface DetectionReport {
  /** Mean over classes and overlaps. */
  readonly map: number
  readonly perIou: readonly { readonly iou: number; readonly ap: number }[]
  readonly perClass: readonly { readonly class: number; readonly ap: number; readonly objects: number }[]
}

// The very doubles of the reference implementation, here and for the recalls below: an overlap or recall may lie on one.
const kRange = Array.from({ length: 10 }, (_, i) => (i === 9 ? 0.95 : i * ((0.95 - 0.5) / 9) + 0.5))

interface Found {
  readonly box: readonly number[]
  readonly score: number
}

interface Real {
  readonly box: readonly number[]
  readonly ignore: boolean
}

interface Image {
  readonly found: readonly Found[]
  readonly real: readonly Real[]
}

/** @internal The checked form of the options. */
export interface DetectionRules {
  readonly method: 'coco' | 'voc' | 'voc11'
  readonly ious: readonly number[]
  readonly most: number
  readonly format: 'xyxy' | 'xywh'
}

/** @internal */
export function detectionRules(given: unknown, parameter = 'options'): DetectionRules {
  const o = options(given, parameter, ['method', 'iou', 'maxDetections', 'format'])
  const method = o.method === undefined ? 'coco' : oneOf(o.method, `${parameter}.method`, ['coco', 'voc', 'voc11'] as const)
  const list: unknown[] = o.iou === undefined ? (method === 'coco' ? kRange : [0.5]) : Array.isArray(o.iou) ? o.iou : [o.iou]
  if (list.length === 0) fail('ERR_RANGE', `${parameter}.iou`, 'at least one overlap', o.iou)
  return {
    method,
    ious: list.map((v) => finite(v, `${parameter}.iou`, 0, 1)),
    most: o.maxDetections === undefined ? (method === 'coco' ? 100 : Infinity) : integer(o.maxDetections, `${parameter}.maxDetections`, 1),
    format: o.format === undefined ? 'xyxy' : oneOf(o.format, `${parameter}.format`, ['xyxy', 'xywh'] as const),
  }
}

/**
 * Mean average precision of a detector over images. Classes without an object that counts are left out of the mean. Boxes
 * are areas between coordinates, without the extra pixel of VOC's own scripts.
 *
 * @param detections what was found, image by image
 * @param truths what is there, in the same order
 * @throws {WhittleError} `ERR_RANGE` for NaN, boxes of negative size and where there is nothing to find; `ERR_SHAPE`, `ERR_DTYPE`
 * @example
 * detectionPrecision([{ boxes: [[0, 0, 10, 10]], scores: [0.9] }], [{ boxes: [[0, 0, 10, 9]] }], { iou: 0.5 }).map // 1
 * @see Lin et al., Microsoft COCO, 2014; Everingham et al., The PASCAL Visual Object Classes Challenge, 2010
 */
export function detectionPrecision(detections: readonly Detections[], truths: readonly Objects[], given?: DetectionOptions): DetectionReport {
  const tally = new DetectionTally(detectionRules(given))
  for (const [name, list] of [['detections', detections], ['truths', truths]] as const)
    if (!Array.isArray(list)) fail('ERR_DTYPE', name, 'a list with an entry for each image', list)
  sameLength(detections, truths, 'detections', 'truths')
  truths.forEach((truth, i) => tally.add(detections[i], truth, `detections[${i}]`, `truths[${i}]`))
  return tally.result('truths')
}

/** @internal Collects images; what they hold is judged at the end. */
export class DetectionTally {
  readonly #rules: DetectionRules
  /** by class */
  readonly #images = new Map<number, Image[]>()

  constructor(rules: DetectionRules) {
    this.#rules = rules
  }

  add(found: unknown, truth: unknown, foundName: string, truthName: string): void {
    if (found === null || typeof found !== 'object') fail('ERR_DTYPE', foundName, '{ boxes, scores, classes }', found)
    if (truth === null || typeof truth !== 'object') fail('ERR_DTYPE', truthName, '{ boxes, classes }', truth)
    const { boxes, scores, classes } = found as Detections
    const real = truth as Objects
    const { format } = this.#rules
    const b = boxesOf(boxes, `${foundName}.boxes`, format)
    const s = Array.from(numbersOf(scores, `${foundName}.scores`).data)
    const c = classes === undefined ? b.map(() => 0) : labelsOf(classes, `${foundName}.classes`)
    const rb = boxesOf(real.boxes, `${truthName}.boxes`, format)
    const rc = real.classes === undefined ? rb.map(() => 0) : labelsOf(real.classes, `${truthName}.classes`)
    const ri = real.ignore === undefined ? rb.map(() => 0) : labelsOf(real.ignore, `${truthName}.ignore`, 2)
    sameLength(s, b, `${foundName}.scores`, 'the boxes')
    sameLength(c, b, `${foundName}.classes`, 'the boxes')
    sameLength(rc, rb, `${truthName}.classes`, 'the boxes')
    sameLength(ri, rb, `${truthName}.ignore`, 'the boxes')
    for (const k of new Set([...c, ...rc])) {
      const image: Image = {
        found: b.map((box, i) => ({ box, score: s[i]! })).filter((_, i) => c[i] === k),
        real: rb.map((box, i) => ({ box, ignore: ri[i] === 1 })).filter((_, i) => rc[i] === k),
      }
      const list = this.#images.get(k)
      if (list) list.push(image)
      else this.#images.set(k, [image])
    }
  }

  result(parameter: string): DetectionReport {
    const { ious } = this.#rules
    const classes = [...this.#images.keys()].sort((a, b) => a - b)
    const counted = classes
      .map((k) => ({ k, images: this.#images.get(k)! }))
      .map(({ k, images }) => ({ k, images, objects: images.reduce((n, i) => n + i.real.filter((r) => !r.ignore).length, 0) }))
      .filter((c) => c.objects > 0)
    if (counted.length === 0) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected at least one object to find, got none`)
    const table = counted.map(({ images, objects }) => ious.map((iou) => this.#precision(images, objects, iou)))
    const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / list.length
    const perClass = counted.map(({ k, objects }, i) => ({ class: k, ap: mean(table[i]!), objects }))
    return {
      map: mean(perClass.map((c) => c.ap)),
      perIou: ious.map((iou, i) => ({ iou, ap: mean(table.map((row) => row[i]!)) })),
      perClass,
    }
  }

  /** Average precision of one class at one overlap. */
  #precision(images: readonly Image[], objects: number, iou: number): number {
    const { method, most } = this.#rules
    const marks: { score: number; right: boolean }[] = []
    for (const { found, real } of images) {
      const best = [...found].sort((a, b) => b.score - a.score).slice(0, most)
      const right = method === 'coco' ? matchFree(best, real, iou) : matchBest(best, real, iou)
      best.forEach((f, i) => {
        if (right[i] !== undefined) marks.push({ score: f.score, right: right[i] })
      })
    }
    marks.sort((a, b) => b.score - a.score)
    let hits = 0
    const recall: number[] = []
    const precision: number[] = []
    marks.forEach((m, i) => {
      if (m.right) hits++
      recall.push(hits / objects)
      precision.push(hits / (i + 1))
    })
    // From each point on the best that is still to come.
    for (let i = precision.length - 2; i >= 0; i--) precision[i] = Math.max(precision[i]!, precision[i + 1]!)
    if (method === 'voc') return recall.reduce((sum, r, i) => sum + (r - (recall[i - 1] ?? 0)) * precision[i]!, 0)
    const points = method === 'coco' ? 101 : 11
    let sum = 0
    for (let p = 0, i = 0; p < points; p++) {
      const least = method === 'voc11' ? p / 10 : p === 100 ? 1 : p * 0.01
      while (i < recall.length && recall[i]! < least) i++
      sum += precision[i] ?? 0
    }
    return sum / points
  }
}

/** COCO's rule: the free object with the largest overlap, one that counts before one that does not. `undefined`: not counted. */
function matchFree(found: readonly Found[], given: readonly Real[], iou: number): (boolean | undefined)[] {
  const real = [...given.filter((r) => !r.ignore), ...given.filter((r) => r.ignore)]
  const taken = new Set<Real>()
  return found.map(({ box }) => {
    let best: Real | undefined
    let most = Math.min(iou, 1 - 1e-10)
    for (const r of real) {
      if (taken.has(r) && !r.ignore) continue
      if (best && !best.ignore && r.ignore) break
      const here = overlap(box, r.box, r.ignore)
      if (here < most) continue
      most = here
      best = r
    }
    if (!best) return false
    taken.add(best)
    return best.ignore ? undefined : true
  })
}

/** VOC's rule: the object with the largest overlap, free or not. */
function matchBest(found: readonly Found[], real: readonly Real[], iou: number): (boolean | undefined)[] {
  const taken = new Set<Real>()
  return found.map(({ box }) => {
    let best: Real | undefined
    let most = -Infinity
    for (const r of real) {
      const here = overlap(box, r.box, false)
      if (here > most) [best, most] = [r, here]
    }
    if (!best || most < iou) return false
    if (best.ignore) return undefined
    if (taken.has(best)) return false
    taken.add(best)
    return true
  })
}

/** Intersection over union of two boxes given by corners; over the first box alone where the second is a crowd. */
function overlap(a: readonly number[], b: readonly number[], crowd: boolean): number {
  const w = Math.min(a[2]!, b[2]!) - Math.max(a[0]!, b[0]!)
  const h = Math.min(a[3]!, b[3]!) - Math.max(a[1]!, b[1]!)
  if (w <= 0 || h <= 0) return 0
  const area = (r: readonly number[]): number => (r[2]! - r[0]!) * (r[3]! - r[1]!)
  return (w * h) / (crowd ? area(a) : area(a) + area(b) - w * h)
}

/**
 * Intersection over union of two boxes, each [x₀, y₀, x₁, y₁].
 *
 * @throws {WhittleError} `ERR_RANGE`, `ERR_SHAPE`, `ERR_DTYPE`
 */
export function boxOverlap(a: Numbers, b: Numbers): number {
  const box = (given: Numbers, name: string): readonly number[] => {
    const found = boxesOf(given, name, 'xyxy')
    if (found.length !== 1) fail('ERR_SHAPE', name, 'one box of four numbers', given)
    return found[0]!
  }
  return overlap(box(a, 'a'), box(b, 'b'), false)
}

/** Corners of each box. */
function boxesOf(value: unknown, parameter: string, format: 'xyxy' | 'xywh'): (readonly number[])[] {
  const nested = Array.isArray(value) && value.some((v) => typeof v === 'object')
  const flat = nested
    ? (value as unknown[]).flatMap((row, i) => {
        const { data } = numbersOf(row, `${parameter}[${i}]`)
        if (data.length !== 4) fail('ERR_SHAPE', `${parameter}[${i}]`, 'four numbers', row)
        return Array.from(data)
      })
    : Array.from(numbersOf(value, parameter).data)
  if (flat.length % 4) fail('ERR_SHAPE', parameter, 'four numbers for each box', value)
  return Array.from({ length: flat.length / 4 }, (_, i) => {
    const [x, y, u, v] = flat.slice(4 * i, 4 * i + 4) as [number, number, number, number]
    const box = format === 'xyxy' ? [x, y, u, v] : [x, y, x + u, y + v]
    if (!box.every(Number.isFinite) || box[2]! < box[0]! || box[3]! < box[1]!)
      throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected finite boxes of no negative size, box ${i} is [${[x, y, u, v].join(', ')}] (${format})`)
    return box
  })
}
