import * as ort from 'onnxruntime-node'
import { Session, type Model, type Tensor } from '../lib'
import { encoder, tokens, type EncoderShape } from './transformer'

async function theirs(model: Model, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 3, graphOptimizationLevel: 'disabled', intraOpNumThreads: 1 })
  const given = Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, new ort.Tensor(t.type as 'int64', t.data as BigInt64Array, t.dims)]))
  return (await session.run(given)) as unknown as Record<string, Tensor>
}

/** The largest difference, relative to the largest magnitude. */
function distance(a: Tensor | undefined, b: Tensor | undefined): number {
  expect(a?.dims).toEqual([...(b?.dims ?? [])])
  let [far, top] = [0, 0]
  b?.data.forEach((v, i) => {
    top = Math.max(top, Math.abs(Number(v)))
    far = Math.max(far, Math.abs(Number(v) - Number(a?.data[i])))
  })
  return far / top
}

const small = { layers: 2, hidden: 64, heads: 4, inner: 128, words: 50 }
const shapes: Record<string, EncoderShape> = {
  'opset 14': { ...small, opset: 14 },
  'opset 17': { ...small, opset: 17 },
  'opset 17, attention of newer exporters': { ...small, opset: 17, sdpa: true },
  'opset 20': { ...small, opset: 20, sdpa: true },
}

describe('encoders of the BERT kind', () => {
  test.each(Object.entries(shapes))('%s agrees with onnxruntime, attention in one step a layer', async (_, shape) => {
    const model = encoder(shape)
    const session = await Session.create(model, { threads: 2 })
    for (const [batch, length] of [[1, 9], [3, 17]] as const) {
      const feeds = tokens(batch, length, shape.words)
      const [got, want] = [await session.run(feeds), await theirs(model, feeds)]
      for (const name of ['last_hidden_state', 'pooler_output']) expect(distance(got[name], want[name])).toBeLessThan(1e-4)
    }
    const steps = session.plan({ input_ids: [2, 8], attention_mask: [2, 8], token_type_ids: [2, 8] }).steps.map((s) => s.op)
    expect(steps.filter((s) => s === 'attention')).toHaveLength(shape.layers)
    expect(steps).not.toContain('softmax')
    expect(steps.filter((s) => s === 'copy').length).toBeLessThanOrEqual(2)
  })
})
