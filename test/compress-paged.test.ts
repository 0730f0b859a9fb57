import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { compress, type Step } from '../lib/compress'
import { KeepBudget } from '../lib/compress/computed'
import { native } from '../lib/native'
import { ease, paged, pagedFloats, Paging, touched } from '../lib/compress/paged'
import { netOf, noise } from './nets'

const linux = process.platform === 'linux' ? test : test.skip
const resident = (): number => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))![1]) * 1024

describe('memory in temporary files', () => {
  const { least } = Paging
  afterEach(() => void (Paging.least = least))

  test('holds zeros, then what was written, whatever was given back in between', () => {
    Paging.least = 0
    const data = pagedFloats(100_000)
    expect(data.every((v) => v === 0)).toBe(true)
    data.forEach((_, i) => (data[i] = i))
    ease()
    expect(data.every((v, i) => v === i)).toBe(true)
    data[7] = -1
    touched(1e9)
    expect(data[7]).toBe(-1)
    expect(paged('float64', 600).byteLength).toBe(4800)
    expect(paged('int8', 5001)).toHaveLength(5001)
  })

  linux('leaves memory between two pieces of work', () => {
    const data = pagedFloats(16e6)
    const before = resident()
    data.fill(1)
    expect(resident() - before).toBeGreaterThan(60e6)
    ease()
    expect(resident() - before).toBeLessThan(8e6)
    expect(data[15_999_999]).toBe(1)
  })

  linux('has room on the disk for all of it before it is touched, in a file that no folder names', () => {
    const close = jest.spyOn(fs, 'closeSync').mockReturnValue(undefined)
    const here = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-paged-'))
    const spy = jest.spyOn(os, 'tmpdir').mockReturnValue(here)
    let fds: number[] = []
    try {
      pagedFloats(4e6)
      fds = close.mock.calls.map(([fd]) => fd)
      // A file with holes would end the process with SIGBUS where the disk is full when they are written.
      expect(fds.map((fd) => fs.fstatSync(fd)).filter((s) => s.size === 16e6 && s.blocks * 512 >= 16e6)).toHaveLength(1)
      expect(fs.readdirSync(here)).toEqual([])
    } finally {
      close.mockRestore()
      spy.mockRestore()
      for (const fd of fds) fs.closeSync(fd)
      fs.rmSync(here, { recursive: true })
    }
  })

  test('is ordinary memory where no file can be had', () => {
    Paging.least = 0
    const spy = jest.spyOn(os, 'tmpdir').mockReturnValue(path.join(os.tmpdir(), 'whittle-no-such-folder'))
    try {
      const data = pagedFloats(5000)
      data[4999] = 3
      ease()
      expect(data[4999]).toBe(3)
    } finally {
      spy.mockRestore()
    }
  })

  test('is ordinary memory where the runtime refuses memory of others, as Electron does', () => {
    Paging.least = 0
    const spy = jest.spyOn(native(), 'pagedMap').mockReturnValue(undefined)
    try {
      const data = pagedFloats(5000)
      data[4999] = 3
      ease()
      expect(data[4999]).toBe(3)
      expect(spy).toHaveBeenCalledTimes(1)
    } finally {
      spy.mockRestore()
    }
  })

  const dims = [64, 96]
  const calibration = [1, 2, 3, 4].map((seed) => ({ x0: { type: 'float32' as const, dims: [8, 64], data: noise(512, seed) } }))
  const net = () => {
    const made = netOf([{ op: 'MatMul', dims, data: noise(6144, 9) }])
    made.graph.outputs = made.graph.outputs.filter((o) => o.name.startsWith('y'))
    return made
  }

  const steps = [
    { step: 'quantize', bits: 4, method: 'gptq' },
    { step: 'quantize', bits: 4, method: 'adaround' },
    { step: 'quantize', bits: 'auto' },
    { step: 'quantize', activations: 'dynamic' },
    { step: 'prune', criterion: 'sparsegpt', sparsity: 0.5 },
    { step: 'prune', criterion: 'wanda', sparsity: 0.5, update: true },
    { step: 'prune', criterion: 'obs', sparsity: 0.5 },
  ] as const satisfies readonly Step[]
  test.each(steps.map((step) => [JSON.stringify(step), step] as const))('gives the same bytes and errors: %s', async (_name, step) => {
    const bytes: Buffer[] = []
    const layers: unknown[] = []
    const mapped = jest.spyOn(native(), 'pagedMap')
    for (const from of [least, 0]) {
      Paging.least = from
      const { model, report } = await compress(net(), { steps: [step] }, { calibration })
      bytes.push(Buffer.from(model.toBytes()))
      layers.push(report.steps[0]!.layers)
      expect(mapped.mock.calls.length > 0).toBe(from === 0)
    }
    mapped.mockRestore()
    expect(Buffer.compare(bytes[0]!, bytes[1]!)).toBe(0)
    expect(layers[1]).toEqual(layers[0])
  })

  linux('leaves no file and no open one behind where work is given up in the middle', async () => {
    const here = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-paged-'))
    const spy = jest.spyOn(os, 'tmpdir').mockReturnValue(here)
    const { limit } = KeepBudget
    KeepBudget.limit = 0
    Paging.least = 0
    const open = (): number => fs.readdirSync('/proc/self/fd').filter((fd) => /whittle-spill/.test(linkOf(fd))).length
    const before = open()
    try {
      for (const phase of ['calibrate', 'quantize', 'thrown'] as const) {
        const stop = new AbortController()
        const onProgress = (p: { phase: string; done: number }): void => {
          if (phase === 'thrown' && p.phase === 'quantize') throw new Error('enough')
          if (p.phase === phase && p.done > 0) stop.abort()
        }
        const recipe = { steps: [steps[0], { ...steps[5], layers: { optional: true } }] }
        await expect(compress(net(), recipe, { calibration, signal: stop.signal, onProgress })).rejects.toThrow(phase === 'thrown' ? 'enough' : /abort/)
        expect(fs.readdirSync(here)).toEqual([])
      }
      // What results lie in goes with them.
      expect(open() - before).toBeLessThanOrEqual(3)
    } finally {
      KeepBudget.limit = limit
      spy.mockRestore()
      fs.rmSync(here, { recursive: true })
    }
  })
})

const linkOf = (fd: string): string => {
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return ''
  }
}
