// Image classifiers with random weights (ResNet-50, MobileNetV2; 224 x 224) against onnxruntime-node, batch 1 and 8.
import { Session, type Model } from '../lib/index'
import { kMobileNetV2, kResNet50, mobileNetV2, resNet50 } from '../test/convnets'
import { closeToLargest, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const kModels: readonly (readonly [name: string, image: number, make: () => Model])[] = [
  ['resnet50', kResNet50.image, () => resNet50(kResNet50)],
  ['mobilenetv2', kMobileNetV2.image, () => mobileNetV2(kMobileNetV2)],
]

export const cases: readonly Case[] = [1, 8].flatMap((batch) =>
  kModels.map(([name, image, make]) => ({
    case: `f32_${name}_b${batch}`,
    async prepare(bench: Bench): Promise<Prepared> {
      const model = make()
      const session = await Session.create(model, { threads: bench.threads })
      const dims = [batch, 3, image, image]
      const feeds = { input: { type: 'float32' as const, dims, data: bench.normal(batch * 3 * image * image) } }
      let last: ArrayLike<number> = []
      return {
        ours: () => (last = session.runSync(feeds).output?.data as Float32Array),
        result: () => last,
        check: closeToLargest(1e-4),
        rivals: [bench.onnx({ model: model.toBytes(), feeds, output: 'output' })],
        dispose: () => session.dispose(),
      }
    },
  })),
)
