import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { main } from '../lib/cli/main'
import { compress, type AutoRecipe, type Recipe } from '../lib/compress'
import { climb, type Outcome } from '../lib/compress/climb'

const never = (): boolean => false
import { overrideRecipe, parseRecipe } from '../lib/compress/recipe'
import { Initializer, Model } from '../lib/model'
import { attribute, bool, floats, graph, ints, modelOf, theirs } from './graphs'
import { failure } from './nets'

describe('climbing', () => {
  test('finds the cheapest combination within the limit, each tried once', async () => {
    const tried: string[] = []
    // Costs fall and losses rise with each level; 7 is what may be lost.
    const best = await climb(
      [4, 3, 3],
      (levels): Promise<Outcome> => {
        tried.push(levels.join())
        const [a, b, c] = levels as [number, number, number]
        return Promise.resolve({ met: 2 * a + 3 * b + 4 * c <= 7, cost: 100 - 10 * a - 8 * b - 20 * c })
      },
      never,
    )
    expect(new Set(tried).size).toBe(tried.length)
    expect(best).toEqual({ levels: [3, 0, 0], outcome: { met: true, cost: 70 } })
  })

  test('goes past a level that is no cheaper, and back to an axis that another one made room for', async () => {
    const costs: Record<string, number> = { '0,0': 10, '1,0': 12, '2,0': 8, '2,1': 7, '3,0': 9, '3,1': 5 }
    const best = await climb([4, 2], (l) => Promise.resolve({ met: l.join() in costs, cost: costs[l.join()] ?? 0 }), never)
    expect(best?.levels).toEqual([3, 1])
  })

  test('begins where it is told to, and from the mildest levels where that misses the limit', async () => {
    const tried: string[] = []
    const climbed = async (most: number): Promise<unknown> => {
      tried.length = 0
      const trial = (l: readonly number[]): Promise<Outcome> => {
        tried.push(l.join())
        return Promise.resolve({ met: l[0]! + l[1]! <= most, cost: -l[0]! - l[1]! })
      }
      return (await climb([5, 2], trial, never, [3, 0]))?.levels
    }
    expect(await climbed(4)).toEqual([4, 0])
    expect(tried).toEqual(['3,0', '4,0', '4,1'])
    expect(await climbed(2)).toEqual([2, 0])
    expect(tried).toEqual(['3,0', '0,0', '1,0', '2,0', '2,1'])
  })

  test('stops when time is up with the best so far, and has nothing where nothing was met', async () => {
    let left = 2
    const best = await climb([9], (l) => Promise.resolve({ met: true, cost: -l[0]! }), () => left-- === 0)
    expect(best?.levels).toEqual([2])
    expect(await climb([2, 2], () => Promise.resolve({ met: false, cost: 0 }), never)).toBeUndefined()
  })
})

describe("plan: 'auto'", () => {
  /** Two products whose weights stand for all there is to know. */
  const net = () => modelOf(graph([['x', 'float32', [1, 64]]], { w: floats([64, 64], 3), v: floats([64, 64], 4) }, [['MatMul', ['x', 'w'], ['h']], ['MatMul', ['h', 'v'], ['y']]], ['y']))
  /** Accuracy falls with the bits that are left of the weights. */
  const judge = (worth: (bytes: number) => number) => (m: Model) => worth(m.byteLength())
  const plan: AutoRecipe = { plan: 'auto', limits: { accuracyDrop: 0.05 } }

  test('takes the smallest model that keeps the limit, and its recipe gives the same bytes', async () => {
    const { model, report } = await compress(net(), plan, { evaluate: judge((bytes) => Math.min(1, bytes / 8500)) })
    expect(report.attempts.length).toBeGreaterThan(2)
    expect(report.recipe.steps.map((s) => s.step)).toEqual(expect.arrayContaining(['fold', 'dedupe', 'quantize']))
    expect(report.after.accuracy).toBeGreaterThan(0.95)
    expect(report.after.bytes).toBeLessThan(0.4 * report.before.bytes)
    const again = await compress(net(), { ...(report.recipe as Recipe), limits: {} })
    expect(Buffer.compare(again.model.toBytes(), model.toBytes())).toBe(0)
  })

  test('judges every model once, the taken one too, which is told last', async () => {
    let judged = 0
    const { report } = await compress(net(), plan, { evaluate: (m) => (judged++, Math.min(1, m.byteLength() / 8500)) })
    expect(judged).toBe(1 + report.attempts.length)
    expect(report.attempts.at(-1)).toMatchObject({ bytes: report.after.bytes, accuracy: report.after.accuracy, steps: report.recipe.steps })
  })

  const samples = [1, 2].map((seed) => ({ x: floats([1, 64], seed) }))

  test('finds for speed what preset balanced does, biases repaired', async () => {
    const evaluate = (m: Model) => ({ accuracy: 1, latency: m.byteLength() })
    const { report } = await compress(net(), { ...plan, objective: 'latency', seconds: 0 }, { calibration: samples, evaluate })
    expect(report.recipe.steps.map((s) => s.step)).toEqual(['fold', 'dedupe', 'quantize', 'repair'])
    expect(report.recipe.steps[2]).toMatchObject({ activations: 'static' })
  })

  test('codes of low entropy are for containers', async () => {
    const steps = async (container: 'onnx' | 'whittle') => (await compress(net(), { ...plan, seconds: 0 }, { calibration: samples, container, evaluate: () => 1 })).report.recipe.steps[2]
    expect(await steps('whittle')).toMatchObject({ coding: 'entropy', method: 'gptq' })
    expect(await steps('onnx')).toMatchObject({ coding: 'fixed', bits: 'auto', method: 'gptq' })
  })

  test('gives up what is being built when time is up, between two layers, and its recipe gives the same bytes', async () => {
    const clock = jest.spyOn(performance, 'now')
    let [hours, judged] = [0, 0]
    clock.mockImplementation(() => hours * 3.6e6)
    const begun: string[] = []
    const onProgress = ({ phase, detail }: { phase: string; detail: string }): void => {
      // The second model that is built takes an hour a layer.
      if (phase !== 'quantize' || judged < 2 || detail === '') return
      begun.push(detail)
      hours++
    }
    const evaluate = (): number => (judged++, 1)
    const { model, report } = await compress(net(), { ...plan, seconds: 60 }, { evaluate, onProgress }).finally(() => clock.mockRestore())
    expect(begun).toHaveLength(1)
    expect(report.attempts).toHaveLength(1)
    const again = await compress(net(), { ...(report.recipe as Recipe), limits: {} })
    expect(Buffer.compare(again.model.toBytes(), model.toBytes())).toBe(0)
  })

  test('does without techniques that layers cannot bear', async () => {
    // Weights in branches cannot be seen, so that no half of all can become zero by their inputs.
    const inner = (w: string) => graph([], { [w]: floats([64, 64], 5) }, [['MatMul', ['h', w], [`${w}o`]]], [`${w}o`])
    const branched = modelOf(graph([['x', 'float32', [1, 64]], ['c', 'bool', []]], { w: floats([64, 64], 3) }, [['MatMul', ['x', 'w'], ['h']], ['If', ['c'], ['y'], { then_branch: attribute.graph(inner('p')), else_branch: attribute.graph(inner('q')) }]], ['y']))
    const evaluate = (m: Model) => ({ accuracy: 1, latency: m.byteLength() })
    const calibration = samples.map((s) => ({ ...s, c: bool(true) }))
    const { report } = await compress(branched, { ...plan, objective: 'latency' }, { calibration, evaluate })
    expect(report.recipe.steps.map((s) => s.step)).toContain('quantize')
  })

  test('answers the model as it is where nothing else keeps the limit', async () => {
    const { report } = await compress(net(), plan, { evaluate: judge((bytes) => Number(bytes > 30000)) })
    expect(report.recipe.steps.map((s) => s.step)).toEqual(['fold', 'dedupe'])
  })

  test.each([
    ['a judge', plan, {}, 'options.evaluate'],
    ['a limit on accuracy', { plan: 'auto' }, { evaluate: (): number => 1 }, 'limits.accuracyDrop'],
    ['an objective that can be had', { ...plan, objective: 'beauty' }, { evaluate: (): number => 1 }, 'recipe.objective'],
    ['a known plan', { plan: 'best' }, { evaluate: (): number => 1 }, 'recipe.plan'],
  ])('needs %s', async (_what, recipe, options, parameter) => {
    expect(await failure(() => compress(net(), recipe as AutoRecipe, options))).toMatchObject({ code: 'ERR_RANGE', parameter })
  })
})

test('a plan in a document takes no strengths from elsewhere', async () => {
  const plan = parseRecipe('{ plan: auto, limits: { accuracyDrop: 0.01 }, objective: latency }')
  expect(overrideRecipe(plan, {})).toBe(plan)
  expect(await failure(() => overrideRecipe(plan, { bits: 4 }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'bits' })
})

describe('presets for transformers.js', () => {
  test('take what no product in integers reads as well', async () => {
    const w = { e: floats([40, 32], 1), c: floats([32, 32, 1, 1], 2), g: floats([32, 32], 3), m: floats([32, 32], 4) }
    const net = modelOf(graph([['ids', 'int64', [4]]], w, [['Gather', ['e', 'ids'], ['a']], ['Gemm', ['a', 'g'], ['b']], ['Reshape', ['b', 'as'], ['i']], ['Conv', ['i', 'c'], ['d']], ['Reshape', ['d', 'back'], ['f']], ['MatMul', ['f', 'm'], ['y']]], ['y']))
    for (const [name, dims] of [['as', [4, 32, 1, 1]], ['back', [4, 32]]] as const) net.graph.addInitializer(Initializer.from(name, ints(...dims)))
    const { model, report } = await compress(net, 'transformers.js')
    expect(report.steps.flatMap((s) => s.layers.map((l) => [l.weight, l.action]))).toEqual(['g', 'm', 'e', 'c'].map((n) => [n, 'quantized']))
    expect([...model.graph.initializers.values()].filter((t) => t.type === 'float32' && t.elementCount > 64)).toEqual([])
    const feeds = { ids: ints(0, 3, 39, 7) }
    const [want, got] = [(await theirs(net, feeds)).y!.data as Float32Array, (await theirs(model, feeds)).y!.data as Float32Array]
    expect(Math.hypot(...want.map((v, i) => v - got[i]!)) / Math.hypot(...want)).toBeLessThan(0.05)
  })

  test('are files under the names that it looks for, which run', async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-presets-'))
    const net = modelOf(graph([['x', 'float32', [1, 64]]], { w: floats([64, 64], 3), b: floats([64], 5) }, [['MatMul', ['x', 'w'], ['h']], ['Add', ['h', 'b'], ['y']]], ['y']))
    const input = path.join(folder, 'in.onnx')
    await net.save(input)
    const feeds = { x: floats([1, 64], 8) }
    const want = (await theirs(net, feeds))['y']!.data as Float32Array
    for (const [preset, [name, most]] of Object.entries({
      'transformers.js': ['model_quantized.onnx', 0.05],
      'transformers.js-q4': ['model_q4.onnx', 0.2],
      'transformers.js-fp16': ['model_fp16.onnx', 0.002],
    } as const)) {
      let out = ''
      const code = await main(['compress', input, '-o', folder, '--preset', preset], { out: (t) => (out += t), err: (t) => (out += t), interactive: false, columns: 100, signal: new AbortController().signal })
      expect([code, out]).toEqual([0, expect.stringContaining(name)])
      const made = await Model.load(path.join(folder, name))
      expect(made.fileBytes).toBeLessThan(0.7 * net.byteLength())
      const got = (await theirs(made, feeds))['y']!.data as Float32Array
      const norm = (f: (i: number) => number): number => Math.hypot(...Array.from(want, (_, i) => f(i)))
      expect(norm((i) => got[i]! - want[i]!) / norm((i) => want[i]!)).toBeLessThan(most)
      made.close()
    }
    const nameless = await main(['compress', input, '-o', folder, '--preset', 'int8-weights'], { out: () => {}, err: () => {}, interactive: false, columns: 100, signal: new AbortController().signal })
    expect(nameless).toBe(1)
    fs.rmSync(folder, { recursive: true })
  })
})
