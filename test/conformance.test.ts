import fs from 'node:fs'
import path from 'node:path'
import { Model, Session, type Tensor } from '../lib'
import { blob, cat, int, message } from './oracle/proto'

/** Debian's libonnx-testdata: a model, inputs and outputs for each case of each op, opsets up to 17. */
const root = ['/usr/share/libonnx-testdata/data/node'].find((d) => fs.existsSync(d))

/** How many cases pass; a change that loses one lowers this in plain sight. README tells the number. */
const kPassing = 870

/** The vectors place the last pixel by an output size that is no integer; onnxruntime and later versions of ONNX do not. */
const kOtherwise = new Set(['test_resize_downsample_scales_cubic_align_corners', 'test_resize_downsample_scales_linear_align_corners'])

/** Vectors that hold the draws of numpy's generator: of ours type and shape are compared, and the case does not count. */
const isDrawn = (name: string): boolean => name.startsWith('test_bernoulli') || (name.startsWith('test_training_dropout') && !name.includes('zero_ratio'))

/** bfloat16 lies in the files as uint16. */
function typed(t: Tensor, type: string | undefined): Tensor {
  return type === 'bfloat16' && t.type === 'uint16' ? { ...t, type } : t
}

/** A serialized TensorProto, read by way of a model that holds nothing else. */
async function read(file: string): Promise<Tensor> {
  const tensor = cat(new Uint8Array(fs.readFileSync(file)), blob(8, 't'))
  const bytes = cat(int(1, 8), message(7, blob(2, 'g'), blob(5, tensor)), message(8, int(2, 15)))
  const model = await Model.load(bytes)
  return (model.graph.initializers.get('t') as NonNullable<ReturnType<typeof model.graph.initializers.get>>).readSync()
}

function same(got: Tensor | undefined, want: Tensor, drawn: boolean): string | undefined {
  if (!got || got.type !== want.type || got.dims.join() !== want.dims.join()) return `${got?.type} [${got?.dims.join()}], want ${want.type} [${want.dims.join()}]`
  if (drawn) return undefined
  for (let i = 0; i < want.data.length; i++) {
    const [a, b] = [Number(got.data[i]), Number(want.data[i])]
    if (!(Object.is(a, b) || a === b || Math.abs(a - b) <= 1e-5 + 1e-3 * Math.abs(b) || (Number.isNaN(a) && Number.isNaN(b)))) return `element ${i} is ${a}, want ${b}`
  }
  return undefined
}

/** What is wrong with the answer; undefined if nothing is. Throws what the session throws. */
async function run(folder: string): Promise<string | undefined> {
  const model = await Model.load(path.join(folder, 'model.onnx'))
  const session = await Session.create(model, { threads: 1 })
  try {
    for (const set of fs.readdirSync(folder).filter((f) => f.startsWith('test_data_set'))) {
      const at = (kind: string, i: number): string => path.join(folder, set, `${kind}_${i}.pb`)
      const feeds: Record<string, Tensor> = {}
      for (let i = 0; fs.existsSync(at('input', i)); i++) feeds[model.graph.inputs[i]?.name as string] = typed(await read(at('input', i)), model.graph.inputs[i]?.type)
      const got = session.runSync(feeds)
      for (let i = 0; fs.existsSync(at('output', i)); i++) {
        const wrong = same(got[model.graph.outputs[i]?.name as string], typed(await read(at('output', i)), model.graph.outputs[i]?.type), isDrawn(path.basename(folder)))
        if (wrong) return wrong
      }
    }
    return undefined
  } finally {
    session.dispose()
  }
}

const maybe = root ? test : test.skip
if (!root) console.log('SKIP conformance: no ONNX test vectors (Debian package libonnx-testdata)')

maybe('every node test of the ONNX project passes or is refused by name', async () => {
  const wrong: string[] = []
  let passed = 0
  for (const name of fs.readdirSync(root as string).sort()) {
    const folder = path.join(root as string, name)
    if (kOtherwise.has(name) || !fs.existsSync(path.join(folder, 'model.onnx'))) continue
    try {
      const problem = await run(folder)
      if (problem) wrong.push(`${name}: ${problem}`)
      else if (!isDrawn(name)) passed++
    } catch (error) {
      const { name: kind, code } = error as { name: string; code?: string }
      if (kind !== 'WhittleError' || !['ERR_UNSUPPORTED_OP', 'ERR_MODEL_FORMAT', 'ERR_DTYPE', 'ERR_SHAPE'].includes(code ?? '')) wrong.push(`${name}: ${String(error)}`)
    }
  }
  expect(wrong).toEqual([])
  expect(passed).toBe(kPassing)
}, 300_000)
