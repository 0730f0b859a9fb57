import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { main } from '../lib/cli/main'
import { readNpy, writeNpy } from '../lib/cli/npy'
import { float, graph, int, modelOf } from './graphs'

let folder = ''
const at = (name: string): string => path.join(folder, name)

async function call(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', '']
  const terminal = { out: (t: string) => void (out += t), err: (t: string) => void (err += t), interactive: false, columns: 100, signal: new AbortController().signal }
  return { code: await main(args, terminal), out, err }
}

beforeAll(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-run-'))
  const g = graph([['x', 'float32', ['n', 2]], ['k', 'int64', []]], { c: float([2], 10, 20) }, [['Add', ['x', 'c'], ['s']], ['Cast', ['k'], ['f'], { to: { type: 'int', value: 1 } }], ['Mul', ['s', 'f'], ['y']]], ['y'])
  await modelOf(g).save(at('m.onnx'))
  writeNpy(at('x.npy'), float([3, 2], 1, 2, 3, 4, 5, 6))
  writeNpy(at('k.npy'), int(2))
})
afterAll(() => fs.rmSync(folder, { recursive: true }))

test('.npy files keep type, dims and numbers', () => {
  expect(readNpy(at('x.npy'))).toEqual(float([3, 2], 1, 2, 3, 4, 5, 6))
  expect(readNpy(at('k.npy'))).toEqual(int(2))
  // NumPy aligns what follows the header.
  expect((fs.readFileSync(at('x.npy')).readUInt16LE(8) + 10) % 64).toBe(0)
})

test('run reads inputs, writes outputs and a trace', async () => {
  const { code, out, err } = await call('run', at('m.onnx'), '--input', `x=${at('x.npy')}`, '--input', `k=${at('k.npy')}`, '--output', `y=${at('y.npy')}`, '--profile', at('t.json'), '--json')
  expect([code, err]).toEqual([0, ''])
  expect((JSON.parse(out) as { outputs: unknown }).outputs).toMatchObject([{ name: 'y', type: 'float32', dims: [3, 2], min: 22, max: 52 }])
  expect(readNpy(at('y.npy'))).toEqual(float([3, 2], 22, 44, 26, 48, 30, 52))
  const trace = JSON.parse(fs.readFileSync(at('t.json'), 'utf8')) as { traceEvents: { ph: string }[] }
  expect(trace.traceEvents.length).toBeGreaterThan(0)
})

test('bench compares with onnxruntime and lists layers', async () => {
  const { code, out } = await call('bench', at('m.onnx'), '--shape', 'x=5x2', '--input', `k=${at('k.npy')}`, '--against', 'onnxruntime', '--runs', '3', '--threads', '1', '--json')
  expect(code).toBe(0)
  const found = JSON.parse(out) as { ratio: number; difference: number; layers: { op: string }[] }
  expect(found.ratio).toBeGreaterThan(0)
  expect(found.difference).toBeLessThan(1e-5)
  expect(found.layers.length).toBeGreaterThan(0)
})

test.each([
  [['run', 'm.onnx'], 'input x'],
  [['run', 'm.onnx', '--input', 'z=x.npy'], 'no input'],
  [['run', 'm.onnx', '--input', 'x'], 'NAME=VALUE'],
  [['bench', 'm.onnx', '--shape', 'x=2xq'], '--shape'],
  [['bench', 'm.onnx', '--against', 'torch'], '--against'],
  [['bench', 'm.onnx', '--runs', '0'], '--runs'],
])('%j is wrong usage', async (args, what) => {
  const { code, err } = await call(...args.map((a) => (a === 'm.onnx' ? at(a) : a)))
  expect(code).toBe(2)
  expect(err).toContain(what)
  expect(err.trim()).not.toContain('\n')
})

test('a file that is no array fails in one line', async () => {
  fs.writeFileSync(at('bad.npy'), 'nothing')
  const { code, err } = await call('run', at('m.onnx'), '--input', `x=${at('bad.npy')}`, '--input', `k=${at('k.npy')}`)
  expect([code, err.includes('.npy')]).toEqual([1, true])
})
