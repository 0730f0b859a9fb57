import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { analyze } from '../lib/analyze'
import { compress, type Step } from '../lib/compress'
import { Calibration, type Inputs } from '../lib/compress/calibration'
import { Pieces, Values } from '../lib/compress/pieces'
import { Run } from '../lib/compress/progress'
import { Runner } from '../lib/compress/runner'
import { KeepBudget } from '../lib/compress/computed'
import { Model } from '../lib/model'
import type { LayerAnalysis } from '../lib/report/analysis'
import type { Tensor } from '../lib/tensor'
import { failure, noise } from './nets'

/** Models that are too large for one session. */

const n = 64
const limit = Pieces.limit
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-pieces-'))
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))
afterEach(() => void (Pieces.limit = limit))

let blocks: Model
beforeAll(async () => {
  const file = path.join(folder, 'blocks.onnx')
  expect(
    spawnSync(process.execPath, [
      path.join(__dirname, '..', 'scripts', 'make-large-model.cjs'),
      file,
      '6',
      String(n),
      'blocks',
    ]).status,
  ).toBe(0)
  blocks = await Model.load(file)
})
afterAll(() => blocks.close())

/** More sets than go through a piece at a time, of different length. */
const kSets = 11
const inputsOf = (set: number): Inputs => ({
  x0: { type: 'float32', dims: [12 + set, n], data: noise((12 + set) * n, set) },
})
const sets = Array.from({ length: kSets }, (_, i) => inputsOf(i))

/** Copies of the values of every set. */
async function seen(model: Model, fetch: readonly string[], from: unknown = sets): Promise<Map<string, Tensor>[]> {
  const all: Map<string, Tensor>[] = []
  await Calibration.from(from).each(model, fetch, new Run(), (values, index) => {
    expect(index).toBe(all.length)
    all.push(new Map([...values].map(([name, v]) => [name, { ...v, data: v.data.slice() } as Tensor])))
  })
  return all
}

function close(a: readonly Map<string, Tensor>[], b: readonly Map<string, Tensor>[]): void {
  expect(b.length).toBe(a.length)
  a.forEach((values, i) => {
    expect([...b[i]!.keys()]).toEqual([...values.keys()])
    for (const [name, { dims, data }] of values) {
      const other = b[i]!.get(name)!
      expect(other.dims).toEqual(dims)
      const largest = (data as Float32Array).reduce((m, v) => Math.max(m, Math.abs(v)), 0)
      const off = (data as Float32Array).reduce((m, v, k) => Math.max(m, Math.abs(v - (other.data[k] as number))), 0)
      expect(off).toBeLessThanOrEqual(1e-5 * largest)
    }
  })
}

const kFetch = ['x0', 'n1', 'x3', 'x4', 'x6']
const spilled = (): string[] =>
  fs.readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const to = fs.readlinkSync(`/proc/self/fd/${fd}`)
      return to.includes('whittle-spill-') ? [to] : []
    } catch {
      return []
    }
  })

describe('a model that is run piece by piece', () => {
  test('gives what a session gives, whatever the pieces', async () => {
    expect(Pieces.of(blocks, kFetch)).toBeUndefined()
    const whole = await seen(blocks, kFetch)
    for (const bytes of [1, 3 * 4 * n * n]) {
      Pieces.limit = bytes
      expect(Pieces.of(blocks, kFetch)).toBeDefined()
      close(whole, await seen(blocks, kFetch))
    }
  })

  test('is analyzed as a whole one is', async () => {
    const told = async (): Promise<LayerAnalysis[]> => [...(await analyze(blocks, { calibration: sets, sensitivity: { bits: [4], sparsity: [0.5], samples: 2 } })).layers]
    const whole = await told()
    const create = jest.spyOn(Runner, 'create')
    try {
      Pieces.limit = 1
      const parts = await told()
      // Each weight, alone in its session, and each pair of changes of it.
      expect(Math.max(...create.mock.calls.map(([model]) => [...model.graph.initializers.values()].filter((w) => w.byteLength === 4 * n * n).length))).toBe(1)
      for (const [i, l] of parts.entries()) {
        const [a, b] = [l, whole[i]!]
        expect([a.input!.elements, a.output!.elements]).toEqual([b.input!.elements, b.output!.elements])
        expect(a.input!.histogram.max).toBeCloseTo(b.input!.histogram.max, 4)
        expect(a.sensitivity!.map((s) => s.snr!.toFixed(1))).toEqual(b.sensitivity!.map((s) => s.snr!.toFixed(1)))
      }
    } finally {
      create.mockRestore()
    }
  })

  test('is judged by its outputs as a whole one is, what was taken being held once', async () => {
    const searched = async (): Promise<string> => {
      const { model, report } = await compress(blocks, { steps: [{ step: 'prune', structure: 'neuron', sparsity: 0.15, search: 'netadapt', increment: 0.05 }] }, { calibration: sets })
      expect([...model.graph.initializers.values()].filter((w) => w.source.kind === 'computed')).toEqual([])
      return report.steps[0]!.summary
    }
    const whole = await searched()
    expect(whole).toMatch(/[2-9] rounds/)
    Pieces.limit = 1
    expect(await searched()).toBe(whole)
  })

  test('has fewer weights in a piece than a model that is not cut may have', async () => {
    const { piece } = Pieces
    const create = jest.spyOn(Runner, 'create')
    const sessions: number[] = []
    try {
      // Six weights: five might lie together.
      Pieces.limit = 5.5 * 4 * n * n
      for (const bytes of [piece, 2.5 * 4 * n * n]) {
        Pieces.piece = bytes
        await seen(blocks, kFetch)
        sessions.push(create.mock.calls.length)
      }
      // More sets than go through a piece at a time make each twice.
      expect(sessions).toEqual([4, 4 + 6])
    } finally {
      Pieces.piece = piece
      create.mockRestore()
    }
  })

  test('keeps constants that are computed beside the layers that read them', async () => {
    const { model } = await compress(blocks, { steps: [{ step: 'codebook', bits: 4, layers: { minElements: 0 } }] })
    const whole = await seen(model, kFetch)
    Pieces.limit = 1
    close(whole, await seen(model, kFetch))
  })

  test('lets a source use its memory again', async () => {
    const whole = await seen(blocks, ['x6'])
    Pieces.limit = 1
    const data = new Float32Array(4096)
    const again = function* (): Generator<Inputs> {
      for (const { x0 } of sets) {
        const { dims, data: own } = x0 as Tensor
        data.set(own as Float32Array)
        yield { x0: { type: 'float32', dims, data: data.subarray(0, own.length) } }
      }
    }
    close(whole, await seen(blocks, ['x6'], again))
  })

  test('says which inputs it lacks and which it does not know', async () => {
    Pieces.limit = 1
    const of = (inputs: Inputs): Promise<unknown> => failure(() => seen(blocks, ['x6'], [inputs]))
    for (const inputs of [
      {},
      { ...sets[0], other: { type: 'float32', dims: [1], data: new Float32Array(1) } } as Inputs,
      { x0: { type: 'float32', dims: [1, 3], data: new Float32Array(3) } } as Inputs,
    ]) {
      const cut = (await of(inputs)) as Error & { code: string }
      Pieces.limit = limit
      const whole = (await of(inputs)) as Error & { code: string }
      Pieces.limit = 1
      expect(cut.code).toBe(whole.code)
    }
  })

  const linux = process.platform === 'linux' ? test : test.skip
  linux('leaves no file behind, wherever it ends', async () => {
    Pieces.limit = 1
    const control = new AbortController()
    let most = 0
    const end = async (callback: (index: number) => unknown, run = new Run()): Promise<void> =>
      Calibration.from(sets).each(blocks, ['x6'], run, (_values, index) => {
        most = Math.max(most, spilled().length)
        return callback(index)
      })
    await end((index) => index < 2)
    await expect(
      end(() => {
        throw new Error('enough')
      }),
    ).rejects.toThrow('enough')
    const told = new Run(({ done }) => {
      if (done === 5) control.abort()
    }, control.signal)
    await expect(end(() => true, told)).rejects.toMatchObject({ code: 'ERR_ABORTED' })
    expect(most).toBe(1)
    expect(spilled()).toEqual([])
  })

  test.each([
    { step: 'quantize', bits: 4, method: 'gptq' },
    { step: 'quantize', activations: 'static' },
    { step: 'prune', structure: 'neuron', sparsity: 0.25, reconstruct: true },
    { step: 'factorize', ratio: 0.5, weighting: 'inputs' },
  ] as const satisfies readonly Step[])(
    'is compressed as one that a session holds: $step $method$activations$structure$weighting',
    async (step) => {
      const { limit: held } = KeepBudget
      const of = async (bytes: number, keep: number): ReturnType<typeof compress> => {
        Pieces.limit = bytes
        KeepBudget.limit = keep
        return await compress(blocks, { steps: [step] }, { calibration: sets }).finally(() => (KeepBudget.limit = held))
      }
      const whole = await of(limit, held)
      const cut = await of(3 * 4 * n * n, 0)
      expect(cut.report.after.bytes).toBe(whole.report.after.bytes)
      // Beside rounding, blame is the noise of every layer.
      whole.report.blame.forEach(({ weight, snr }) =>
        expect(cut.report.blame.find((b) => b.weight === weight)!.snr).toBeCloseTo(snr!, 1),
      )
      close(await seen(whole.model, ['x6']), await seen(cut.model, ['x6']))
    },
  )
})

test('values come back from their file, and room that is free is used again', () => {
  const values = new Values()
  const [a, b] = [noise(2000, 1), Float32Array.from(noise(1500, 2))]
  const first = values.put({ type: 'float32', dims: [2000], data: a })
  const copy = a.slice()
  a.fill(0)
  expect(values.get(first)).toEqual({ type: 'float32', dims: [2000], data: copy })
  values.free(first)
  const second = values.put(b)
  const third = values.put({ type: 'float32', dims: [2000], data: copy })
  expect(values.get(second)).toEqual(b)
  expect(values.get(third)).toEqual({ type: 'float32', dims: [2000], data: copy })
  const text = values.put({ type: 'string', dims: [1], data: ['a'] } as never)
  expect((values.get(text) as { data: unknown }).data).toEqual(['a'])
  values.close()
  expect(() => values.get(second)).toThrow()
})
