import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Model } from '../lib/model'

// WHITTLE_LONG=1 takes the 3 GB of 48 matrices of 3952; else they are 192 MB.
const kSize = process.env['WHITTLE_LONG'] ? 3952 : 1000
const kTensors = 48

let folder: string
beforeEach(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-large-'))))
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }))

test('a large model is read and saved again in a little memory', async () => {
  const source = path.join(folder, 'in.onnx')
  const target = path.join(folder, 'out.onnx')
  const script = path.join(__dirname, '..', 'scripts', 'make-large-model.cjs')
  expect(spawnSync(process.execPath, [script, source, String(kTensors), String(kSize)]).status).toBe(0)
  const child = spawnSync(process.execPath, ['--expose-gc', path.join(__dirname, 'oracle', 'stream.cjs'), source, target, 'read'], {
    encoding: 'utf8',
  })
  expect(child.stderr).toBe('')
  const { start, peak, bytes, files } = JSON.parse(child.stdout) as Record<string, number>
  const tensor = kSize * kSize * 4
  expect(bytes).toBeGreaterThan(kTensors * tensor)
  expect(files).toBe(2)
  expect(peak! - start!).toBeLessThanOrEqual(2 * tensor + 128e6)
  const [a, b] = [await Model.load(source), await Model.load(target)]
  for (const name of ['w0', `w${kTensors - 1}`]) {
    const [x, y] = [a.initializers.get(name)!.readSync().data, b.initializers.get(name)!.readSync().data]
    expect(Buffer.compare(Buffer.from(x.buffer as ArrayBuffer), Buffer.from(y.buffer as ArrayBuffer))).toBe(0)
  }
}, 600000)
