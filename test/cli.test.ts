import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { main } from '../lib/cli/main'
import { netOf, noise } from './nets'

const root = path.join(__dirname, '..')
const cli = path.join(root, 'dist', 'cli', 'main.js')
let folder = ''
let model = ''
const at = (name: string): string => path.join(folder, name)

interface Outcome {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** The command as a user runs it. */
function whittle(
  args: readonly string[],
  options: { env?: Record<string, string>; before?: readonly string[] } = {},
): Outcome {
  const run = spawnSync(process.execPath, [...(options.before ?? []), cli, ...args], {
    encoding: 'utf8',
    cwd: folder,
    env: { ...process.env, ...options.env },
  })
  return { code: run.status, out: run.stdout, err: run.stderr }
}

/** The same inside of this process: quick enough for hundreds of calls. */
async function call(
  args: readonly string[],
  more: { interactive?: boolean; signal?: AbortSignal } = {},
): Promise<Outcome> {
  let out = ''
  let err = ''
  const code = await main(args, {
    out: (text) => (out += text),
    err: (text) => (err += text),
    interactive: more.interactive ?? false,
    columns: 100,
    signal: more.signal ?? new AbortController().signal,
  })
  return { code, out, err }
}

/** One line, and nothing that would move a terminal's cursor. */
function expectOneLine(text: string): void {
  expect(text).toMatch(/^whittle[^\u0000-\u001f]*\n$/)
}

beforeAll(async () => {
  const built = spawnSync(process.execPath, [path.join(root, 'scripts', 'build.cjs'), '--ts'], { encoding: 'utf8' })
  if (built.status !== 0) throw new Error(built.stdout + built.stderr)
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-cli-'))
  model = at('net.onnx')
  await netOf([
    { op: 'Conv', dims: [16, 8, 3, 3] },
    { op: 'MatMul', dims: [64, 33] },
  ]).save(model)
}, 120000)

afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

describe('help and usage', () => {
  test('help needs no native addon', () => {
    const preload = at('no-addon.cjs')
    fs.writeFileSync(
      preload,
      "const M = require('node:module'); const load = M._load; M._load = (name, ...rest) => { if (name === 'node-gyp-build') throw new Error('no addon'); return load(name, ...rest) }",
    )
    const before = ['--require', preload]
    for (const args of [['--help'], ['inspect', '--help'], ['compress', '-h'], ['doctor', '--help']]) {
      const { code, out, err } = whittle(args, { before })
      expect([code, err]).toEqual([0, ''])
      expect(out).toContain('Usage: whittle')
    }
    expect(whittle(['inspect', model], { before }).code).toBe(0)
    const without = whittle(['doctor'], { before })
    expect(without.code).toBe(1)
    expect(without.err).toContain('ERR_DEVICE')
    expectOneLine(without.err)
  })

  test('the version is that of the package', () => {
    expect(whittle(['--version']).out.trim()).toBe(
      JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')).version,
    )
  })

  test.each([
    [[]],
    [['squeeze']],
    [['inspect']],
    [['inspect', 'a', 'b']],
    [['inspect', '--nope', 'a']],
    [['inspect', '']],
    [['inspect', 'a\0b']],
    [['doctor', 'x']],
    [['compress', 'a.onnx']],
    [['compress', '-o', 'b.onnx']],
    [['compress', 'a.onnx', '-o']],
    [['compress', 'a.onnx', '-o', '']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--bits', 'eight']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--bits', '0x8']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--bits', '9']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--bits', '7.5']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--sparsity', '2']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--sparsity', '']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--storage', 'zip']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--preset', 'int9']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--preset', '__proto__']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--recipe', '/no/such/recipe.yaml']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--recipe', 'r', '--preset', 'int8-weights']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--evaluate', '/no/such/module.js']],
    [['compress', 'a.onnx', '-o', 'b.onnx', '--json=yes']],
  ])('%j is wrong usage: exit code 2, one line', async (args) => {
    const { code, out, err } = await call(args)
    expect(code).toBe(2)
    if (args.length) {
      expect(out).toBe('')
      expectOneLine(err)
    } else expect(out).toContain('Usage')
  })
})

describe('inspect and doctor', () => {
  test('inspect says what a model holds', () => {
    const { code, out, err } = whittle(['inspect', model])
    expect([code, err]).toEqual([0, ''])
    for (const text of ['opset 13', 'input   x0: float32', 'conv0', '16×8×3×3', 'MatMul 1', '2 weights'])
      expect(out).toContain(text)
    const json = JSON.parse(whittle(['inspect', model, '--json']).out)
    expect(json).toMatchObject({
      bytes: fs.statSync(model).size,
      opset: 13,
      ops: { Conv: 1, MatMul: 1 },
      parameters: 16 * 72 + 64 * 33,
    })
    const data = noise(16 * 72, 1)
    expect(json.layers[0]).toMatchObject({
      name: 'conv0',
      op: 'Conv',
      dims: [16, 8, 3, 3],
      bytes: 4608,
      min: Math.min(...data),
      max: Math.max(...data),
      sparsity: 0,
    })
  })

  test('both storages are shown as quantized weights', async () => {
    for (const [args, type] of [
      [[], 'int8'],
      [['--storage', 'qdq'], 'int8'],
      [['--bits', '4'], 'int4'],
      [['--bits', '4', '--storage', 'qdq'], 'int4'],
    ] as const) {
      const small = at('small.onnx')
      expect((await call(['compress', model, '-o', small, ...args])).code).toBe(0)
      const { layers } = JSON.parse((await call(['inspect', small, '--json'])).out)
      expect(layers.map((l: { name: string; type: string; storage: string }) => [l.name, l.type, l.storage])).toEqual([
        ['conv0', type, args.includes('qdq' as never) ? 'qdq' : 'folded'],
        ['matmul1', type, args.includes('qdq' as never) ? 'qdq' : 'folded'],
      ])
    }
  })

  test('a large weight is sampled, and --stats reads it all', async () => {
    const data = noise(600 * 600)
    data[12345] = 99
    const large = at('large.onnx')
    await netOf([{ op: 'MatMul', dims: [600, 600], data }]).save(large)
    const [some] = JSON.parse((await call(['inspect', large, '--json'])).out).layers
    expect(some.sampled).toBe(true)
    expect(some.max).toBeLessThanOrEqual(99)
    expect((await call(['inspect', large])).out).toContain('~')
    const [all] = JSON.parse((await call(['inspect', large, '--json', '--stats'])).out).layers
    expect(all).toMatchObject({ max: 99 })
    expect(all.sampled).toBeUndefined()
  })

  test('doctor says what computes and why', () => {
    const { code, out } = whittle(['doctor', '--json'], { env: { WHITTLE_CPU: 'scalar', WHITTLE_THREADS: '1' } })
    expect(code).toBe(0)
    expect(JSON.parse(out)).toMatchObject({
      cpu: { variant: 'scalar', forced: true, threads: 1 },
      cuda: { available: expect.any(Boolean) },
    })
    const text = whittle(['doctor'], { env: { WHITTLE_CPU: 'scalar' } }).out
    expect(text).toContain('scalar (forced)')
    expect(text).toMatch(/CUDA +(yes|no: .+)/)
    const bad = whittle(['doctor'], { env: { WHITTLE_CPU: 'pentium' } })
    expect(bad.code).toBe(1)
    expect(bad.err).toContain('WHITTLE_CPU')
    expectOneLine(bad.err)
  })

  test('names out of a model do not reach the terminal as control characters', async () => {
    const net = netOf([{ op: 'MatMul', dims: [20, 20] }])
    net.nodes[0]!.name = 'evil\x1b[2J\r\nname'
    await net.save(at('evil.onnx'))
    const { code, out } = await call(['inspect', at('evil.onnx')])
    expect(code).toBe(0)
    expect(out).not.toMatch(/[\u0000-\u0009\u000b-\u001f]/)
  })
})

describe('compress', () => {
  test('writes a smaller model, says so, and is quiet on stderr without a terminal', () => {
    const { code, out, err } = whittle(['compress', model, '-o', 'out.onnx', '--report', 'report.html'])
    expect([code, err]).toEqual([0, ''])
    expect(out).toContain('times smaller')
    expect(fs.statSync(at('out.onnx')).size).toBeLessThan(fs.statSync(model).size / 2.5)
    expect(fs.readFileSync(at('report.html'), 'utf8')).toContain('<!doctype html>')
    expect(fs.readdirSync(folder).filter((f) => f.startsWith('.'))).toEqual([])
  })

  test('--json prints the report and nothing else', () => {
    const { code, out } = whittle(['compress', model, '-o', 'out.onnx', '--json', '--sparsity', '0.5'])
    expect(code).toBe(0)
    const report = JSON.parse(out)
    expect(report.steps.map((s: { step: string }) => s.step)).toEqual(['prune', 'dedupe', 'quantize'])
    expect(report.after.bytes).toBe(fs.statSync(at('out.onnx')).size)
    expect(report.files[0].bytes).toBe(report.after.bytes)
  })

  test('a recipe in YAML and one in JSON do the same', async () => {
    fs.writeFileSync(
      at('r.yaml'),
      "steps:\n  - { step: prune, pattern: '2:4' }\n  - step: quantize\n    bits: 6\n    layers: { ops: [MatMul] }\n",
    )
    fs.writeFileSync(
      at('r.json'),
      '{"steps":[{"step":"prune","pattern":"2:4"},{"step":"quantize","bits":6,"layers":{"ops":["MatMul"]}}]}',
    )
    for (const kind of ['yaml', 'json'])
      expect((await call(['compress', model, '-o', at(`${kind}.onnx`), '--recipe', at(`r.${kind}`)])).code).toBe(0)
    expect(Buffer.compare(fs.readFileSync(at('yaml.onnx')), fs.readFileSync(at('json.onnx')))).toBe(0)
    fs.writeFileSync(at('bad.yaml'), 'steps:\n  - { step: quantize, bits: 99 }\n')
    const { code, err } = await call(['compress', model, '-o', at('x.onnx'), '--recipe', at('bad.yaml')])
    expect(code).toBe(2)
    expect(err).toContain('recipe.steps[0].bits')
    expect(fs.existsSync(at('x.onnx'))).toBe(false)
  })

  test('a limit that is not met: exit code 3, and the target stays as it was', () => {
    fs.writeFileSync(at('precious.onnx'), 'precious')
    const missed = whittle(['compress', model, '-o', 'precious.onnx', '--max-bytes', '100'])
    expect(missed.code).toBe(3)
    expect(missed.err).toContain('ERR_LIMIT')
    expectOneLine(missed.err)
    fs.writeFileSync(
      at('judge.mjs'),
      "export default (model, { phase }) => ({ accuracy: phase === 'original' ? 0.9 : 0.8, latency: 3 })",
    )
    fs.writeFileSync(at('strict.yaml'), 'limits: { accuracyDrop: 0.01 }\nsteps: [{ step: quantize }]')
    const args = ['compress', model, '-o', 'precious.onnx', '--recipe', 'strict.yaml']
    expect(whittle([...args, '--evaluate', 'judge.mjs']).code).toBe(3)
    const unmeasured = whittle(args)
    expect(unmeasured.code).toBe(2)
    expect(unmeasured.err).toMatch(/limits\.accuracyDrop.*--evaluate/)
    // What is missing is told as what is typed.
    const uncalibrated = whittle(['compress', model, '-o', 'precious.onnx', '--preset', 'balanced'])
    expect([uncalibrated.code, uncalibrated.err]).toEqual([2, expect.stringMatching(/^whittle compress: --calibration: .*needs inputs/)])
    // An exception of the user's own module: whose, and its trace.
    fs.writeFileSync(at('throws.mjs'), "export default () => { throw new Error('disk full') }")
    fs.writeFileSync(at('ends.mjs'), "export default async function* () { throw new Error('socket closed') }")
    const thrown = whittle([...args, '--evaluate', 'throws.mjs'])
    expect([thrown.code, thrown.err]).toEqual([1, expect.stringMatching(/^whittle compress: --evaluate: throws.mjs threw Error: disk full\n +at .*throws.mjs:1/)])
    const ended = whittle(['compress', model, '-o', 'precious.onnx', '--preset', 'balanced', '--calibration', 'ends.mjs'])
    expect([ended.code, ended.err]).toEqual([1, expect.stringMatching(/^whittle compress: --calibration: ends.mjs threw Error: socket closed\n +at .*ends.mjs:1/)])
    fs.writeFileSync(at('search.yaml'), 'plan: auto\nlimits: { accuracyDrop: 0.01 }')
    const unjudged = whittle(['compress', model, '-o', 'precious.onnx', '--recipe', 'search.yaml'])
    expect([unjudged.code, unjudged.err]).toEqual([2, expect.stringMatching(/^whittle compress: --evaluate: /)])
    expect(fs.readFileSync(at('precious.onnx'), 'utf8')).toBe('precious')
    expect(fs.readdirSync(folder).filter((f) => f.startsWith('.'))).toEqual([])
    fs.writeFileSync(at('judge.cjs'), 'module.exports = () => ({ accuracy: 0.9, latency: 3 })')
    expect(whittle([...args, '--evaluate', 'judge.cjs']).code).toBe(0)
  })

  test('models that are none, and places that cannot be written: exit code 1, one line, target untouched', async () => {
    fs.writeFileSync(at('junk.onnx'), 'not a model at all')
    fs.writeFileSync(at('keep.onnx'), 'keep')
    for (const [args, code] of [
      [[at('junk.onnx'), '-o', at('keep.onnx')], 'ERR_MODEL_FORMAT'],
      [[at('missing.onnx'), '-o', at('keep.onnx')], 'ERR_IO'],
      [[folder, '-o', at('keep.onnx')], 'ERR_IO'],
      [[model, '-o', at('no/such/folder/x.onnx')], 'ERR_IO'],
      [[model, '-o', folder], 'ERR_IO'],
    ] as const) {
      const result = await call(['compress', ...args])
      expect([result.code, result.out]).toEqual([1, ''])
      expect(result.err).toContain(code)
      expectOneLine(result.err)
    }
    expect(fs.readFileSync(at('keep.onnx'), 'utf8')).toBe('keep')
  })

  test('the file itself may be the target', () => {
    fs.copyFileSync(model, at('same.onnx'))
    expect(whittle(['compress', 'same.onnx', '-o', 'same.onnx']).code).toBe(0)
    expect(JSON.parse(whittle(['inspect', 'same.onnx', '--json']).out).layers[0].storage).toBe('folded')
  })

  test('progress goes to a terminal only; an abort is exit code 1 and no file', async () => {
    const shown = await call(['compress', model, '-o', at('p.onnx')], { interactive: true })
    expect(shown.err).toContain('█')
    expect(shown.err.endsWith('\r\x1b[2K')).toBe(true)
    const aborted = await call(['compress', model, '-o', at('aborted.onnx')], { signal: AbortSignal.abort() })
    expect(aborted.code).toBe(1)
    expect(aborted.err).toContain('ERR_ABORTED')
    expect(fs.existsSync(at('aborted.onnx'))).toBe(false)
  })
})

test('argument lists at random end in a documented exit code, one line at most', async () => {
  let state = 20260
  const next = (n: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 8) % n
  }
  fs.writeFileSync(at('fuzz.yaml'), 'steps: [{ step: dedupe }]')
  const words = [
    'inspect',
    'compress',
    'doctor',
    '--json',
    '--help',
    '-h',
    '-o',
    '--output',
    '--preset',
    '--recipe',
    '--bits',
    '--storage',
    '--sparsity',
    '--max-bytes',
    '--stats',
    '--report',
    '--',
    '-',
    '',
    '4',
    '8',
    '-1',
    '1e9',
    '0.5',
    'NaN',
    'folded',
    'qdq',
    'int8-weights',
    '🦊',
    '--=',
    '-ojson',
    '--no-json',
    '--bits=3',
    '--storage=qdq',
    '\u0000',
    '\x1b[31m',
    'a'.repeat(5000),
    model,
    at('junk.onnx'),
    at('fuzz.yaml'),
    at('fuzz.onnx'),
  ]
  const safe = new Set([at('fuzz.onnx'), '', '-', at('junk2.onnx')])
  const before = fs.readFileSync(model)
  const here = fs.readdirSync(root).sort()
  for (let round = 0; round < 400; round++) {
    const args = Array.from({ length: next(8) }, () => words[next(words.length)]!)
    // Where a list would name a target, it is one that may be overwritten.
    args.forEach((a, i) => {
      if (['-o', '--output', '--report'].includes(args[i - 1] ?? '') && !safe.has(a) && !a.startsWith('-'))
        args[i] = at('fuzz.onnx')
      if (a === '-ojson') args[i] = `-o${at('fuzz.onnx')}`
    })
    const { code, err } = await call(args)
    expect([0, 1, 2, 3]).toContain(code)
    if (code !== 0 && args.length) expectOneLine(err)
  }
  expect(Buffer.compare(fs.readFileSync(model), before)).toBe(0)
  expect(fs.readdirSync(root).sort()).toEqual(here)
}, 60000)
