import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { analyze, compress, measureLatency, parseReport, renderHtml, type Analysis, type Model } from '../lib'
import { main } from '../lib/cli/main'
import { writeNpy } from '../lib/cli/npy'
import { float, floats, graph, modelOf } from './graphs'
import { failure } from './nets'

let folder = ''
const at = (...names: string[]): string => path.join(folder, ...names)

async function call(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', '']
  const code = await main(args, { out: (t) => (out += t), err: (t) => (err += t), interactive: false, columns: 100, signal: new AbortController().signal })
  return { code, out, err }
}

/** As a user runs it: modules can be loaded there. */
function spawned(...args: string[]): { code: number | null; out: string; err: string } {
  const run = spawnSync(process.execPath, [path.join(__dirname, '..', 'dist', 'cli', 'main.js'), ...args], { encoding: 'utf8' })
  return { code: run.status, out: run.stdout, err: run.stderr }
}

const net = (): Model =>
  modelOf(
    graph(
      [['x', 'float32', ['n', 16]]],
      { w: floats([16, 40], 1), v: floats([40, 8], 2) },
      [['MatMul', ['x', 'w'], ['a']], ['Relu', ['a'], ['b']], ['MatMul', ['b', 'v'], ['y']]],
      ['y'],
    ),
  )

beforeAll(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-report-'))
  await net().save(at('net.onnx'))
  const pair = modelOf(graph([['p', 'float32', [1, 4]], ['q', 'float32', [1, 4]]], { w: floats([4, 4], 3) }, [['Add', ['p', 'q'], ['s']], ['MatMul', ['s', 'w'], ['y']]], ['y']))
  await pair.save(at('pair.onnx'))
  fs.mkdirSync(at('sets'))
  for (const i of [0, 1, 2]) writeNpy(at('sets', `line${i}.npy`), floats([1, 16], i + 5))
  for (const i of ['a', 'b']) {
    fs.mkdirSync(at('pairs', i), { recursive: true })
    for (const name of ['p', 'q']) writeNpy(at('pairs', i, `${name}.npy`), floats([1, 4], 9))
  }
  fs.writeFileSync(at('inputs.cjs'), `module.exports = [1, 2].map((s) => ({ x: { type: 'float32', dims: [1, 16], data: Float32Array.from({ length: 16 }, (_, i) => Math.sin(s * i)) } }))`)
  fs.writeFileSync(at('once.cjs'), `module.exports = require('./inputs.cjs')[Symbol.iterator]()`)
  fs.writeFileSync(at('judge.cjs'), 'module.exports = (model) => ({ accuracy: model.byteLength() > 2500 ? 0.9 : 0.8 })')
})

afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

describe('whittle analyze', () => {
  test('tells of each layer, with a folder of inputs of activations and sensitivity too', async () => {
    const plain = await call('analyze', at('net.onnx'), '--shape', 'x=2x16')
    expect(plain.code).toBe(0)
    for (const text of ['MatMul0', '16×40', '1 k', 'zeros', '90 %']) expect(plain.out).toContain(text)
    const { code, out } = await call('analyze', at('net.onnx'), '--calibration', at('sets'), '--json', '--samples', '2', '-o', at('net.html'))
    expect(code).toBe(0)
    const found = JSON.parse(out)
    expect(found.shapes).toEqual({ x: [1, 16] })
    expect([found.macs, found.layers[0].input.elements, found.layers[1].sensitivity.length]).toEqual([16 * 40 + 40 * 8, 48, 4])
    const page = fs.readFileSync(at('net.html'), 'utf8')
    expect(page).toContain('Sensitivity')
    expect(page).toContain('MatMul0')
    const several = await call('analyze', at('pair.onnx'), '--calibration', at('pairs'), '--no-sensitivity', '--json')
    expect(JSON.parse(several.out).layers[0].output.elements).toBe(8)
  })

  test('refuses what does not fit with exit code 2, or 1 for what a file holds', async () => {
    fs.mkdirSync(at('none'))
    fs.writeFileSync(at('seven.cjs'), 'module.exports = 7')
    fs.mkdirSync(at('nan'))
    writeNpy(at('nan', 'a.npy'), float([1, 1], NaN))
    for (const [code, ...args] of [
      [2],
      [2, at('net.onnx'), '-o', at('net.txt')],
      [2, at('net.onnx'), '--calibration', at('nowhere')],
      [2, at('net.onnx'), '--calibration', at('none')],
      [2, at('pair.onnx'), '--calibration', at('sets')],
      [2, at('net.onnx'), '--samples', '0'],
      [2, at('net.onnx'), '--shape', 'z=1x2'],
      [2, at('net.onnx'), '--shape', 'x=axb'],
      [1, at('net.onnx'), '--shape', 'x=1x17'],
      [1, at('net.onnx'), '--calibration', at('nan')],
      [1, at('nowhere.onnx')],
    ] as const) {
      const got = await call('analyze', ...args)
      expect([args, got.code]).toEqual([args, code])
      expect(got.err).toMatch(/^whittle analyze: [^\n]+\n$/)
    }
    const seven = spawned('analyze', at('net.onnx'), '--calibration', at('seven.cjs'))
    expect([seven.code, seven.err]).toEqual([2, expect.stringContaining('neither a list of inputs')])
  })
})

describe('whittle compress with calibration, whittle report', () => {
  test.each(['inputs.cjs', 'once.cjs'])('%s: the report goes to JSON and from there to the same page', async (inputs) => {
    const common = ['compress', at('net.onnx'), '-o', at('out.onnx'), '--bits', '4', '--calibration', at(inputs), '--evaluate', at('judge.cjs'), '--sensitivity']
    expect(spawned(...common, '--report', at('r.json'))).toMatchObject({ code: 0, err: '' })
    const section = JSON.parse(fs.readFileSync(at('r.json'), 'utf8'))
    expect(section.measurements.map((m: { label: string; runtime: string }) => `${m.label} ${m.runtime}`)).toEqual([
      'original Session', 'original onnxruntime-node', 'compressed Session', 'compressed onnxruntime-node',
    ]) // prettier-ignore
    expect(section.measurements.every((m: { latency: number }) => m.latency > 0)).toBe(true)
    expect([section.analysis.layers.length, section.analysis.layers[0].sensitivity.length, section.resultAnalysis.layers[0].storage]).toEqual([2, 4, 'folded'])
    const made = await call('report', at('r.json'), '-o', at('r.html'), '--json')
    expect([made.code, JSON.parse(made.out).sections]).toEqual([0, ['net.onnx']])
    expect(fs.readFileSync(at('r.html'), 'utf8')).toBe(renderHtml([section]))
  })

  test('a result in the place of its original is compared with what was there', async () => {
    fs.copyFileSync(at('net.onnx'), at('own.onnx'))
    expect((await call('compress', at('own.onnx'), '-o', at('own.onnx'), '--report', at('own.json'))).code).toBe(0)
    const { analysis, resultAnalysis } = JSON.parse(fs.readFileSync(at('own.json'), 'utf8')) as { analysis: Analysis; resultAnalysis: Analysis }
    expect([analysis, resultAnalysis].map((a) => a.layers.map((l) => l.type))).toEqual([['float32', 'float32'], ['int8', 'int8']])
  })

  test('what could not be written is said before the work', async () => {
    const args = ['compress', at('net.onnx'), '-o', at('early.onnx')]
    for (const [more, code, message] of [
      [['--report', at('nowhere', 'r.html')], 1, /ERR_IO: --report: cannot write .*r\.html: there is no folder .*nowhere/],
      [['--report', at('net.onnx')], 2, /--report: expected another file/],
      [['--report', at('.', 'early.onnx')], 2, /--report: expected another file/],
      [['--report', at('r.txt')], 2, /--report: expected a name that ends in .html or .json, got ".*r.txt"/],
      [['-o', at('nowhere', 'x.onnx')], 1, /ERR_IO: -o: cannot write .*x\.onnx: there is no folder/],
    ] as const) {
      const found = await call(...args, ...more)
      expect([found.code, found.err]).toEqual([code, expect.stringMatching(message)])
    }
    expect((await call('analyze', at('net.onnx'), '-o', at('nowhere', 'a.html'))).err).toMatch(/-o: cannot write/)
    const missing = await call('inspect', at('none.onnx'))
    expect(missing.err).toMatch(/cannot open: ENOENT: no such file/)
    expect(fs.existsSync(at('early.onnx'))).toBe(false)
  })

  test('a report of --json, of analyze, of several sections makes a page', async () => {
    const { report } = await compress(net(), 'int8-weights')
    const analysis = await analyze(net())
    for (const document of [report, analysis, { title: 'a', report }, [{ title: 'a', report, analysis, resultAnalysis: analysis }, { title: 'b', analysis }], { sections: [{ title: 'b', analysis }] }]) {
      fs.writeFileSync(at('d.json'), JSON.stringify(document))
      expect((await call('report', at('d.json'), '-o', at('d.html'))).code).toBe(0)
      expect(fs.readFileSync(at('d.html'), 'utf8')).toContain('MatMul0')
    }
  })

  test('documents that are none are refused by the field that is wrong, and nothing is written', async () => {
    const { report } = await compress(net(), 'int8-weights')
    const analysis = await analyze(net())
    const wrong = async (document: unknown): Promise<string> => (await failure(() => parseReport(typeof document === 'string' ? document : JSON.stringify(document), 'r')) as { parameter?: string }).parameter!
    expect(await wrong('{')).toBe('r')
    expect(await wrong('null')).toBe('r')
    expect(await wrong([])).toBe('r')
    expect(await wrong([{ title: 'x' }])).toBe('r[0].analysis')
    expect(await wrong({ ...report, after: {} })).toBe('r[0].report.after.bytes')
    expect(await wrong({ ...report, steps: [{ step: 'a', summary: 'b', layers: [{}] }] })).toBe('r[0].report.steps[0].layers[0].name')
    expect(await wrong({ title: 't', analysis: { ...analysis, layers: [{ ...analysis.layers[0], mask: { rows: 2, columns: 2, cells: '01', cell: [1, 1] } }] } })).toBe('r[0].analysis.layers[0].mask.cells')
    // Whatever is taken out of a document, it is a page or a refusal, never a crash.
    const whole = JSON.stringify([{ title: 'a', report, analysis, measurements: [{ label: 'm', bytes: 1 }] }])
    let seed = 1
    for (let i = 0; i < 150; i++) {
      const copy = JSON.parse(whole) as object
      let place = copy as Record<string, unknown>
      for (;;) {
        const keys = Object.keys(place)
        const key = keys[(seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) % keys.length]!
        const inner = place[key]
        if (inner !== null && typeof inner === 'object' && Object.keys(inner).length > 0 && seed % 5) place = inner as typeof place
        else {
          place[key] = [null, 'x', -1, {}, [], true][seed % 6]
          break
        }
      }
      let sections
      try {
        sections = parseReport(JSON.stringify(copy), 'r')
      } catch (error) {
        expect((error as { code?: string }).code).toBe('ERR_MODEL_FORMAT')
        continue
      }
      expect(renderHtml(sections)).toContain('</html>')
    }
    fs.writeFileSync(at('bad.json'), '{"steps":[]}')
    for (const [code, ...args] of [
      [1, at('bad.json'), '-o', at('bad.html')],
      [1, at('nowhere.json'), '-o', at('bad.html')],
      [2, at('bad.json')],
      [2, at('bad.json'), '-o', at('bad.json')],
    ] as const)
      expect((await call('report', ...args)).code).toBe(code)
    expect(fs.existsSync(at('bad.html'))).toBe(false)
    expect((await call('compress', at('net.onnx'), '-o', at('z.onnx'), '--sensitivity')).code).toBe(2)
  })

  test('times are told for each model and runtime, and refused where there is nothing to time', async () => {
    const x = floats([1, 16], 1)
    const rows = await measureLatency([{ label: 'a', model: net(), reference: true, accuracy: 0.5 }], { x }, { runs: 3 })
    expect(rows.map((r) => [r.label, r.runtime, r.reference, r.accuracy])).toEqual([['a', 'Session', true, 0.5], ['a', 'onnxruntime-node', true, 0.5]])
    expect(await failure(() => measureLatency([], { x }))).toMatchObject({ code: 'ERR_DTYPE', parameter: 'models' })
    expect(await failure(() => measureLatency([{ label: 'a', model: net() }], { x }, { runs: 0 }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'options.runs' })
    expect(await failure(() => measureLatency([{ label: 'a', model: net() }], { x }, { signal: AbortSignal.abort() }))).toMatchObject({ code: 'ERR_ABORTED' })
  })
})
