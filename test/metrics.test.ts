import {
  averagePrecision,
  boxOverlap,
  characterAccuracy,
  cosineSimilarity,
  detectionPrecision,
  editDistance,
  energyEstimate,
  evaluate,
  meanAveragePrecision,
  precisionRecallF1,
  rocAuc,
  rocAucOneVsRest,
  signalToNoise,
  topKAccuracy,
  type MetricSpec,
  type PrecisionRecall,
  type Sample,
} from '../lib/metrics'
import { Session } from '../lib/session'
import { fixtures, type FixtureTensor } from './oracle/fixtures'
import { aucByPairs, averagePrecisionByThresholds, detectionByDefinition, distanceByRecursion, type BoxCase } from './oracle/metrics'
import { float, graph, modelOf } from './graphs'

const kTypes: Record<string, string> = { F32: 'float32', F64: 'float64', I32: 'int32', I8: 'int8', U8: 'uint8' }
const tensor = ({ dtype, dims, data }: FixtureTensor) => ({ type: kTypes[dtype]!, dims, data })

/** A small generator: tests say the same in every run. */
function random(seed: number): () => number {
  let state = seed >>> 0
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
}

const thrown = (f: () => unknown): unknown => {
  try {
    f()
  } catch (error) {
    return { code: (error as { code?: string }).code, parameter: (error as { parameter?: string }).parameter }
  }
  return 'nothing'
}

describe('classification', () => {
  for (const c of fixtures('metrics', /^topk/))
    test(`${c.name} agrees with scikit-learn`, () => {
      const ks = c.parameters['k'] as number[]
      c.check('accuracy', ks.map((k) => topKAccuracy(tensor(c.tensor('scores')), tensor(c.tensor('labels')), k)))
    })

  for (const c of fixtures('metrics', /^prf/))
    test(`${c.name} agrees with scikit-learn`, () => {
      const r = precisionRecallF1(tensor(c.tensor('predicted')), tensor(c.tensor('labels')), { classes: c.parameters['classes'] as number })
      const three = (p: PrecisionRecall): number[] => [p.precision, p.recall, p.f1]
      c.check('perClass', (['precision', 'recall', 'f1'] as const).flatMap((key) => r.perClass.map((p) => p[key])))
      c.check('confusion', r.confusion.flat())
      for (const name of ['macro', 'micro', 'weighted'] as const) c.check(name, three(r[name]))
    })

  for (const c of fixtures('metrics', /^auc/))
    test(`${c.name} agrees with scikit-learn`, () => {
      const [scores, labels] = [tensor(c.tensor('scores')), tensor(c.tensor('labels'))]
      if (c.has('auc')) return c.check('auc', [rocAuc(scores, labels)])
      const r = rocAucOneVsRest(scores, labels)
      c.check('perClass', r.perClass)
      c.check('macro', [r.macro])
      c.check('weighted', [r.weighted])
    })

  test('the area under the curve counts pairs, ties half', () => {
    const next = random(5)
    for (let round = 0; round < 20; round++) {
      const scores = Array.from({ length: 30 }, () => Math.floor(next() * 8))
      const labels = Array.from({ length: 30 }, (_, i) => (i < 2 ? i : next() < 0.4 ? 1 : 0))
      expect(rocAuc(scores, labels)).toBeCloseTo(aucByPairs(scores, labels), 12)
      expect(averagePrecision(scores, labels)).toBeCloseTo(averagePrecisionByThresholds(scores, labels), 12)
    }
  })

  test('of equal scores the lower class goes first, as for argmax', () => {
    expect(topKAccuracy([[1, 1, 0]], [0])).toBe(1)
    expect(topKAccuracy([[1, 1, 0]], [1])).toBe(0)
    expect(topKAccuracy([[1, 1, 0]], [1n], 2)).toBe(1)
  })

  test('rankings with nothing relevant are left out of the mean, by query and by class', () => {
    const scores = [[3, 2, 1], [1, 2, 3], [1, 2, 3]]
    const relevant = [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    expect(meanAveragePrecision(scores, relevant)).toBeCloseTo((1 + 1 / 3) / 2, 12)
    // Only class 0 occurs: scores 3, 1, 1 with relevance 1, 1, 0.
    expect(meanAveragePrecision(scores, relevant, { by: 'class' })).toBeCloseTo(0.5 * 1 + 0.5 * (2 / 3), 12)
  })
})

describe('detection', () => {
  const next = random(11)
  const images: BoxCase[] = Array.from({ length: 12 }, () => {
    const real = Array.from({ length: 1 + Math.floor(next() * 4) }, () => {
      const [x, y] = [next() * 60, next() * 60]
      return { box: [x, y, x + 10 + next() * 30, y + 10 + next() * 30], class: Math.floor(next() * 3) }
    })
    const found = real.flatMap((r) =>
      Array.from({ length: Math.floor(next() * 3) }, () => ({
        box: r.box.map((v, i) => v + (next() - 0.5) * (i < 2 ? 8 : 6)),
        score: next(),
        class: next() < 0.85 ? r.class : (r.class + 1) % 3,
      })),
    )
    return { found, real }
  })
  const detections = images.map(({ found }) => ({ boxes: found.map((f) => f.box), scores: found.map((f) => f.score), classes: found.map((f) => f.class) }))
  const truths = images.map(({ real }) => ({ boxes: real.map((r) => r.box), classes: real.map((r) => r.class) }))

  test.each(['coco', 'voc', 'voc11'] as const)('%s equals its definition, class by class and overlap by overlap', (method) => {
    for (const iou of [0.3, 0.5, 0.75]) {
      const got = detectionPrecision(detections, truths, { method, iou })
      const want = [0, 1, 2].map((k) => detectionByDefinition(images, k, iou, method))
      expect(got.perClass.map((c) => c.class)).toEqual([0, 1, 2])
      got.perClass.forEach((c, i) => expect(c.ap).toBeCloseTo(want[i]!, 10))
      expect(got.map).toBeGreaterThan(0.05)
      expect(got.map).toBeLessThan(1)
    }
  })

  test('COCO averages ten overlaps, and boxes may be given by their size', () => {
    const all = detectionPrecision(detections, truths)
    expect(all.perIou.map((p) => p.iou.toFixed(2))).toEqual(['0.50', '0.55', '0.60', '0.65', '0.70', '0.75', '0.80', '0.85', '0.90', '0.95'])
    expect(all.map).toBeCloseTo(all.perIou.reduce((s, p) => s + p.ap, 0) / 10, 12)
    const sized = (list: readonly number[][]): number[][] => list.map(([x, y, u, v]) => [x!, y!, u! - x!, v! - y!])
    const other = detectionPrecision(
      detections.map((d) => ({ ...d, boxes: sized(d.boxes) })),
      truths.map((t) => ({ ...t, boxes: sized(t.boxes) })),
      { format: 'xywh' },
    )
    expect(other.map).toBeCloseTo(all.map, 10)
  })

  test('a second detection of an object is wrong, and crowds count neither way', () => {
    const one = { boxes: [[0, 0, 10, 10]] }
    const two = { boxes: [[0, 0, 10, 10], [0, 0, 10, 9]], scores: [0.9, 0.95] }
    expect(detectionPrecision([two], [one], { iou: 0.5, method: 'voc' }).map).toBe(1)
    expect(detectionPrecision([{ ...two, scores: [0.9, 0.3] }], [{ boxes: [[0, 0, 10, 10], [50, 50, 60, 60]] }], { iou: 0.5, method: 'voc' }).map).toBe(0.5)
    const crowd = { boxes: [[0, 0, 10, 10], [20, 20, 60, 60]], ignore: [0, 1] }
    const inside = { boxes: [[0, 0, 10, 10], [30, 30, 40, 40], [31, 31, 41, 41]], scores: [0.5, 0.9, 0.8] }
    expect(detectionPrecision([inside], [crowd], { iou: 0.5 }).map).toBeCloseTo(1, 12)
    expect(detectionPrecision([inside], [{ boxes: [[0, 0, 10, 10]] }], { iou: 0.5 }).map).toBeLessThan(0.5)
    expect(boxOverlap([0, 0, 2, 2], [1, 1, 3, 3])).toBeCloseTo(1 / 7, 12)
  })

  test('an image with detections and no object adds wrong ones', () => {
    const hit = { boxes: [[0, 0, 10, 10]], scores: [0.5] }
    const truth = [{ boxes: [[0, 0, 10, 10]] }, { boxes: [] }]
    expect(detectionPrecision([hit, { boxes: [[0, 0, 1, 1]], scores: [0.9] }], truth, { iou: 0.5 }).map).toBeCloseTo(0.5, 12)
  })
})

describe('texts, similarity and energy', () => {
  test('the edit distance is the least, over code points', () => {
    const next = random(3)
    for (let i = 0; i < 40; i++) {
      const word = (): string => Array.from({ length: Math.floor(next() * 9) }, () => 'aé😀b'.match(/./gu)![Math.floor(next() * 4)]).join('')
      const [a, b] = [word(), word()]
      expect(editDistance(a, b)).toBe(distanceByRecursion(Array.from(a), Array.from(b)))
    }
    expect(editDistance('😀', 'x')).toBe(1)
  })

  test('character accuracy weighs texts by length and may fall below 0', () => {
    expect(characterAccuracy(['abcd', 'x'], ['abcd', 'y'])).toEqual({ characters: 0.8, exact: 0.5 })
    expect(characterAccuracy(['abcdef'], ['x']).characters).toBe(-5)
  })

  test('cosine and signal-to-noise follow their formulas where squares would overflow or vanish', () => {
    expect(cosineSimilarity([3, 4], [4, 3])).toBeCloseTo(24 / 25, 12)
    expect(cosineSimilarity([3e200, 4e200], [4e-200, 3e-200])).toBeCloseTo(24 / 25, 12)
    expect(cosineSimilarity([0, 0], [1, 0])).toBe(0)
    expect(signalToNoise([10, 0], [9, 0])).toBeCloseTo(20, 12)
    expect(signalToNoise([1], [1])).toBe(Infinity)
  })

  test('an energy estimate says that it is one, and takes a table', () => {
    const e = energyEstimate({ macs: { int8: 1e9, float32: 1e6 }, bytes: 1e6 })
    expect(e.joules).toBeCloseTo(1e9 * 0.3e-12 + 1e6 * 4.6e-12 + 1e6 * 162.5e-12, 15)
    expect([e.estimate, e.table.int8]).toEqual([true, 0.3])
    expect(energyEstimate({ macs: { float32: 1e12 }, bytes: 0 }, { float32: 1 }).joules).toBeCloseTo(1, 12)
  })
})

describe('evaluate', () => {
  const scores = [[0.1, 0.7, 0.2], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]]
  const labels = [1, 0, 1, 2]
  const row = (s: number[]) => ({ type: 'float32', dims: [1, 3], data: Float32Array.from(s) })
  const echo = { run: (x: unknown) => ({ y: x, other: row([0, 0, 1]) }) }
  const samples: Sample[] = scores.map((s, i) => ({ inputs: row(s), target: labels[i] }))

  test('counts several metrics in one pass, the first is the accuracy', async () => {
    const found = await evaluate(echo, samples, ['accuracy', 'top2', { metric: 'f1', average: 'weighted' }, { metric: 'accuracy', output: 'other' }])
    const whole = precisionRecallF1([1, 0, 2, 0], labels, { classes: 3 })
    expect(found.metrics).toEqual({ accuracy: 0.5, top2: 0.75, f1: whole.weighted.f1, accuracy_3: 0.25 })
    expect([found.accuracy, found.samples, found.latency >= 0]).toEqual([0.5, 4, true])
  })

  test('a batch and its rows one by one come to the same', async () => {
    const batch = [{ inputs: { type: 'float32', dims: [4, 3], data: Float32Array.from(scores.flat()) }, target: Int32Array.from(labels) }]
    const metrics: MetricSpec[] = ['accuracy', 'top2', 'precision', 'recall', { metric: 'f1', average: 'micro' }, 'auc', { metric: 'auc', average: 'weighted' }]
    expect((await evaluate(echo, batch, metrics)).metrics).toEqual((await evaluate(echo, samples, metrics)).metrics)
    expect((await evaluate(echo, samples, 'auc')).accuracy).toBeCloseTo(rocAucOneVsRest(scores, labels).macro, 12)
  })

  test('runs a session, a model, and a dataset that begins anew', async () => {
    const model = modelOf(graph([['x', 'float32', [1, 2]]], { w: float([2, 2], 1, 0, 0, 1) }, [['MatMul', ['x', 'w'], ['y']]], ['y']))
    const session = await Session.create(model)
    const x = { type: 'float32', dims: [1, 2], data: Float32Array.of(3, 1) }
    const make = async function* (): AsyncGenerator<Sample> {
      for (const target of [0, 1]) yield { inputs: { x }, target }
    }
    try {
      for (const runnable of [session, model]) expect((await evaluate(runnable, make, 'accuracy')).accuracy).toBe(0.5)
    } finally {
      session.dispose()
    }
  })

  test('takes functions, texts, scores of letters, tensors and boxes', async () => {
    const pass = { run: (x: unknown) => x }
    const one = async (inputs: unknown, target: unknown, metric: MetricSpec) => (await evaluate(pass, [{ inputs, target }], metric)).metrics
    expect(await one(3, 4, function gap(a, b) { return Math.abs((a as number) - (b as number)) })).toEqual({ gap: 1 })
    expect(await one([{ text: ' ab ' }], ['ab'], 'characters')).toEqual({ 'characters.characters': 1, 'characters.exact': 1 })
    const steps = [1, 1, 0, 1, 2, 2].map((c) => [0, 1, 2].map((k) => (k === c ? 1 : 0)))
    const line = { type: 'float32', dims: [1, 6, 3], data: Float32Array.from(steps.flat()) }
    expect((await one(line, 'aab', { metric: 'characters', alphabet: 'ab' }))['characters.characters']).toBe(1)
    expect(await one([1, 0], [1, 1], 'cosine')).toEqual({ cosine: expect.closeTo(Math.SQRT1_2, 12) })
    expect((await one({ boxes: [[0, 0, 2, 2]], scores: [1] }, { boxes: [[0, 0, 2, 2]] }, 'detection'))['detection.map']).toBe(1)
    expect(await one([[3, 2, 1]], [[0, 1, 0]], 'map')).toEqual({ map: 0.5 })
    const custom = { name: 'count', start: () => ({ n: 0, add() { this.n++ }, result() { return { samples: this.n } } }) }
    expect(await one(1, 1, custom)).toEqual({ 'count.samples': 1 })
  })

  test('refuses what it cannot count, and names it', async () => {
    const failing = async (dataset: unknown, metrics: unknown, runnable: unknown = echo): Promise<unknown> =>
      evaluate(runnable as typeof echo, dataset as Sample[], metrics as 'f1').then(
        () => 'nothing',
        (e: { code?: string; parameter?: string }) => `${e.code} ${e.parameter}`,
      )
    expect(await failing([], 'accuracy')).toBe('ERR_RANGE dataset')
    expect(await failing(samples, 'acuracy')).toBe('ERR_RANGE metrics')
    expect(await failing(samples, { metric: 'f1', averge: 'macro' })).toBe('ERR_RANGE metrics.averge')
    expect(await failing(samples, [])).toBe('ERR_RANGE metrics')
    expect(await failing([{ inputs: row([1, 2, 3]), target: 3 }], 'accuracy')).toBe('ERR_RANGE dataset[0].target')
    expect(await failing([{ inputs: row([1, 2, 3]), target: -1 }], 'top1')).toBe('ERR_RANGE dataset[0].target')
    expect(await failing([{ inputs: row([1, NaN, 3]), target: 1 }], 'accuracy')).toBe('ERR_RANGE dataset[0] output')
    expect(await failing([{ inputs: row([1, 2, 3]), target: [1, 2] }], 'accuracy')).toBe('ERR_SHAPE dataset[0] output')
    expect(await failing([{ inputs: row([1, 2, 3]) }], 'accuracy')).toBe('ERR_DTYPE dataset[0]')
    expect(await failing(samples, { metric: 'accuracy', output: 'z' })).toBe('ERR_RANGE dataset[0] output')
    expect(await failing(samples, () => NaN)).toBe('ERR_RANGE dataset[0]')
    expect(await failing(samples, 'accuracy', {})).toBe('ERR_DTYPE runnable')
    expect(await failing(7, 'accuracy')).toBe('ERR_DTYPE dataset')
    expect(await failing([{ inputs: 'a', target: '' }], 'characters', { run: (x: unknown) => x })).toBe('ERR_RANGE dataset')
    const abort = new AbortController()
    abort.abort()
    await expect(evaluate(echo, samples, 'accuracy', { signal: abort.signal })).rejects.toMatchObject({ code: 'ERR_ABORTED' })
  })

  test('functions refuse labels that are none, NaN, and lists that do not fit', () => {
    expect(thrown(() => topKAccuracy([[1, 2]], [2]))).toEqual({ code: 'ERR_RANGE', parameter: 'labels' })
    expect(thrown(() => topKAccuracy([[1, NaN]], [0]))).toEqual({ code: 'ERR_RANGE', parameter: 'scores[0]' })
    expect(thrown(() => topKAccuracy([[1, 2], [1]], [0, 0]))).toEqual({ code: 'ERR_SHAPE', parameter: 'scores[1]' })
    expect(thrown(() => topKAccuracy([[1, 2]], [0, 1]))).toEqual({ code: 'ERR_SHAPE', parameter: 'labels' })
    expect(thrown(() => topKAccuracy([[1, 2]], [0], 0))).toEqual({ code: 'ERR_RANGE', parameter: 'k' })
    expect(thrown(() => precisionRecallF1([], []))).toEqual({ code: 'ERR_RANGE', parameter: 'labels' })
    expect(thrown(() => precisionRecallF1([0.5], [0]))).toEqual({ code: 'ERR_RANGE', parameter: 'predicted' })
    expect(thrown(() => precisionRecallF1([5], [0], { classes: 3 }))).toEqual({ code: 'ERR_RANGE', parameter: 'predicted' })
    expect(thrown(() => rocAuc([1, 2], [1, 1]))).toEqual({ code: 'ERR_RANGE', parameter: 'labels' })
    expect(thrown(() => rocAuc(['a'] as never, [1]))).toEqual({ code: 'ERR_DTYPE', parameter: 'scores[0]' })
    expect(thrown(() => averagePrecision([1], [0]))).toEqual({ code: 'ERR_RANGE', parameter: 'relevant' })
    expect(thrown(() => characterAccuracy(['a'], []))).toEqual({ code: 'ERR_SHAPE', parameter: 'predictions' })
    expect(thrown(() => cosineSimilarity([Infinity], [1]))).toEqual({ code: 'ERR_RANGE', parameter: 'a' })
    expect(thrown(() => detectionPrecision([], []))).toEqual({ code: 'ERR_RANGE', parameter: 'truths' })
    expect(thrown(() => detectionPrecision([{ boxes: [[5, 5, 1, 1]], scores: [1] }], [{ boxes: [] }]))).toEqual({ code: 'ERR_RANGE', parameter: 'detections[0].boxes' })
    expect(thrown(() => detectionPrecision([{ boxes: [1, 2, 3], scores: [1] }], [{ boxes: [] }]))).toEqual({ code: 'ERR_SHAPE', parameter: 'detections[0].boxes' })
    expect(thrown(() => energyEstimate({ macs: { int8: -1 }, bytes: 0 }))).toEqual({ code: 'ERR_RANGE', parameter: 'work.macs.int8' })
  })
})
