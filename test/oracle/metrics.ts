// Metrics by their definitions, pair by pair and point by point, without sorting tricks.

/** P(positive scores higher) + ½P(equal), over all pairs. */
export function aucByPairs(scores: readonly number[], labels: readonly number[]): number {
  let [sum, pairs] = [0, 0]
  scores.forEach((a, i) => {
    if (labels[i] !== 1) return
    scores.forEach((b, j) => {
      if (labels[j] === 1) return
      pairs++
      sum += a > b ? 1 : a === b ? 0.5 : 0
    })
  })
  return sum / pairs
}

/** Σ over distinct thresholds from above of (recall − recall before) · precision. */
export function averagePrecisionByThresholds(scores: readonly number[], relevant: readonly number[]): number {
  const total = relevant.filter((r) => r === 1).length
  let [area, before] = [0, 0]
  for (const t of [...new Set(scores)].sort((a, b) => b - a)) {
    const taken = scores.map((s, i) => [s, relevant[i]!] as const).filter(([s]) => s >= t)
    const hits = taken.filter(([, r]) => r === 1).length
    area += (hits / total - before) * (hits / taken.length)
    before = hits / total
  }
  return area
}

/** Levenshtein by its recursion, remembered. */
export function distanceByRecursion(a: readonly string[], b: readonly string[]): number {
  const known = new Map<string, number>()
  const of = (i: number, j: number): number => {
    if (i === 0 || j === 0) return i + j
    const key = `${i},${j}`
    let d = known.get(key)
    if (d === undefined) {
      d = a[i - 1] === b[j - 1] ? of(i - 1, j - 1) : 1 + Math.min(of(i - 1, j), of(i, j - 1), of(i - 1, j - 1))
      known.set(key, d)
    }
    return d
  }
  return of(a.length, b.length)
}

export interface BoxCase {
  readonly found: { readonly box: number[]; readonly score: number; readonly class: number }[]
  readonly real: { readonly box: number[]; readonly class: number }[]
}

function iou(a: readonly number[], b: readonly number[]): number {
  const w = Math.max(0, Math.min(a[2]!, b[2]!) - Math.max(a[0]!, b[0]!))
  const h = Math.max(0, Math.min(a[3]!, b[3]!) - Math.max(a[1]!, b[1]!))
  const both = (a[2]! - a[0]!) * (a[3]! - a[1]!) + (b[2]! - b[0]!) * (b[3]! - b[1]!)
  return w * h === 0 ? 0 : (w * h) / (both - w * h)
}

/**
 * Average precision of one class at one overlap, in one walk over the detections of all images from the best score down;
 * scores must differ. `free`: a detection takes the best of the objects left (COCO), else the best of all (VOC).
 */
export function detectionByDefinition(images: readonly BoxCase[], k: number, least: number, rule: 'coco' | 'voc' | 'voc11'): number | undefined {
  const objects = images.reduce((n, i) => n + i.real.filter((r) => r.class === k).length, 0)
  if (objects === 0) return undefined
  const used = new Set<object>()
  const points: { recall: number; precision: number }[] = []
  let [hits, seen] = [0, 0]
  const all = images.flatMap((image) => image.found.filter((f) => f.class === k).map((f) => ({ ...f, image })))
  for (const f of all.sort((a, b) => b.score - a.score)) {
    let candidates = f.image.real.filter((r) => r.class === k)
    if (rule === 'coco') candidates = candidates.filter((r) => !used.has(r))
    const best = [...candidates].sort((a, b) => iou(f.box, b.box) - iou(f.box, a.box))[0]
    seen++
    if (best && iou(f.box, best.box) >= least && !used.has(best)) {
      used.add(best)
      hits++
    }
    points.push({ recall: hits / objects, precision: hits / seen })
  }
  const bestFrom = (recall: number): number => Math.max(0, ...points.filter((p) => p.recall >= recall - 1e-12).map((p) => p.precision))
  if (rule === 'voc') {
    const recalls = [...new Set(points.map((p) => p.recall))].filter((r) => r > 0).sort((a, b) => a - b)
    return recalls.reduce((sum, r, i) => sum + (r - (recalls[i - 1] ?? 0)) * bestFrom(r), 0)
  }
  const n = rule === 'coco' ? 100 : 10
  return Array.from({ length: n + 1 }, (_, i) => bestFrom(i / n)).reduce((a, b) => a + b, 0) / (n + 1)
}
