import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { compress } from '../lib/index'
import { foldConstantNodes, Model, raiseOpset } from '../lib/model'
import { bytes, milliseconds, percent, table } from '../lib/report/format'
import { kHeight, kRecogniser, kRecogniserWidth, loadLines, modelFolder, packageRoot, recogniserInput, scoreRecogniser } from './ocr'
import { openRuntime, type Runtime } from './runtime'

/**
 * README's table against onnxruntime's quantizer, on the text recogniser: needs a Python with onnxruntime and onnx, named
 * by the variable PYTHON. Every result runs in onnxruntime-node with default options; runs are interleaved.
 */
async function main(): Promise<void> {
  const python = process.env['PYTHON'] ?? 'python3'
  if (spawnSync(python, ['-c', 'import onnx, onnxruntime.quantization']).status !== 0) {
    console.log(`SKIP onnxruntime's quantizer: ${python} has no onnxruntime with onnx (set PYTHON)`)
    return
  }
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-quantizer-'))
  const lines = loadLines()
  const original = path.join(modelFolder(), kRecogniser)

  const calibration = path.join(folder, 'calibration.f32')
  const frames = lines.calibration.map((line) => recogniserInput(lines, line))
  fs.writeFileSync(calibration, Buffer.concat(frames.map((f) => Buffer.from(f.buffer, f.byteOffset, f.byteLength))))
  const dims = [frames.length, 3, kHeight, kRecogniserWidth].map(String)

  // What its user would have to do by hand first: weights out of Constant nodes, and an opset that has QDQ per channel.
  const prepared = path.join(folder, 'prepared.onnx')
  const model = await Model.load(original)
  foldConstantNodes(model)
  raiseOpset(model, 13)
  await model.save(prepared)

  const candidates: { label: string; file: string; error?: string }[] = [{ label: 'float32, as shipped', file: original }]
  const rival = (label: string, source: string, mode: string) => {
    const file = path.join(folder, `${candidates.length}.onnx`)
    const r = spawnSync(python, [path.join(packageRoot(), 'demo', 'quantizer.py'), source, file, mode, calibration, ...dims], {
      encoding: 'utf8',
    })
    const said = r.stderr.trim().split('\n').at(-1) ?? ''
    candidates.push(r.status === 0 ? { label, file } : { label, file, error: said })
  }
  rival('onnxruntime dynamic uint8, as shipped', original, 'dynamic')
  rival('onnxruntime dynamic uint8, prepared', prepared, 'dynamic')
  rival('onnxruntime static, as shipped', original, 'static')
  rival('onnxruntime static, prepared', prepared, 'static')
  const ours = path.join(folder, 'ours.onnx')
  await (await compress(original, 'int8-weights')).model.save(ours)
  candidates.push({ label: 'whittle int8-weights', file: ours })

  const rows: string[][] = []
  const open: { runtime: Runtime; times: number[]; row: string[] }[] = []
  for (const c of candidates) {
    const row = [c.label]
    rows.push(row)
    if (c.error !== undefined) {
      row.push('–', c.error.slice(0, 60), '–')
      continue
    }
    try {
      const runtime = await openRuntime(c.file)
      const { charAccuracy } = await scoreRecogniser(runtime.run, lines)
      row.push(bytes(fs.statSync(c.file).size), percent(charAccuracy))
      open.push({ runtime, times: [], row })
    } catch (e) {
      row.push(bytes(fs.statSync(c.file).size), (e as Error).message.split('\n')[0]!.slice(0, 60), '–')
    }
  }
  for (let round = 0; round < 25; round++)
    for (const o of open) {
      const line = lines.evaluation[round % lines.evaluation.length]!
      const x = recogniserInput(lines, line)
      const start = performance.now()
      await o.runtime.run(x, [1, 3, kHeight, kRecogniserWidth])
      o.times.push(performance.now() - start)
    }
  const median = (t: number[]) => t.sort((a, b) => a - b)[t.length >> 1]!
  const base = median(open[0]!.times)
  for (const o of open) {
    o.row.push(milliseconds(median(o.times)), `${(median(o.times) / base).toFixed(2)} ×`)
    await o.runtime.release()
  }
  console.log(table(['model', 'size', 'characters right', 'median run', 'of float'], rows))
  fs.rmSync(folder, { recursive: true })
}

main().catch((e: unknown) => {
  console.error(e)
  process.exitCode = 1
})
