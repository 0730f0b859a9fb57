// Encoders of the BERT kind with random weights against onnxruntime-node, sequence 128. Both sides answer fresh outputs.
import { Session } from '../lib/index'
import { encoder, kBertBase, kMiniLm, tokens, type EncoderShape } from '../test/transformer'
import { closeToLargest, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

function row(name: string, shape: EncoderShape, batch: number): Case {
  return {
    case: `f32_${name}_b${batch}`,
    async prepare(bench: Bench): Promise<Prepared> {
      const model = encoder(shape)
      const session = await Session.create(model, { threads: bench.threads })
      const feeds = tokens(batch, 128, shape.words)
      const output = 'last_hidden_state'
      let last: ArrayLike<number> = []
      return {
        ours: () => (last = session.runSync(feeds)[output]?.data as Float32Array),
        result: () => last,
        check: closeToLargest(1e-4),
        rivals: [bench.onnx({ model: model.toBytes(), feeds, output })],
        dispose: () => session.dispose(),
      }
    },
  }
}

export const cases: readonly Case[] = [1, 8].flatMap((batch) => [row('minilm', kMiniLm, batch), row('bert', kBertBase, batch)])
