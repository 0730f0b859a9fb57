// Silero VAD v5, one chunk of 512 samples at 16 kHz (and eight streams at once), against onnxruntime-node.
import * as fs from 'node:fs'
import * as path from 'node:path'
import { Session } from '../lib/index'
import { close, root, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const file = path.join(root, 'node_modules/@ricky0123/vad-web/dist/silero_vad_v5.onnx')

function row(batch: number): Case {
  return {
    case: `f32_silero_b${batch}`,
    async prepare(bench: Bench): Promise<Prepared> {
      if (!fs.existsSync(file)) return { ours: () => 0, rivals: [bench.missing('onnxruntime-node', '@ricky0123/vad-web is not installed')] }
      const session = await Session.create(file, { threads: bench.threads })
      const feeds = {
        input: { type: 'float32' as const, dims: [batch, 512], data: bench.normal(batch * 512) },
        state: { type: 'float32' as const, dims: [2, batch, 128], data: bench.normal(2 * batch * 128) },
        sr: { type: 'int64' as const, dims: [], data: BigInt64Array.of(16000n) },
      }
      let last: ArrayLike<number> = []
      return {
        ours: () => (last = session.runSync(feeds).stateN?.data as Float32Array),
        result: () => last,
        check: close({ atol: 1e-4 }),
        rivals: [bench.onnx({ model: file, feeds, output: 'stateN' })],
        dispose: () => session.dispose(),
      }
    },
  }
}

export const cases: readonly Case[] = [row(1), row(8)]
