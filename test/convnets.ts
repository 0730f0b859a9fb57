import { attribute, Graph, Initializer, Model, Node, ValueInfo, type Attribute } from '../lib'
import { noise } from './nets'

/** Image classifiers with random weights, as PyTorch exports them in evaluation mode without folding. */
export interface ClassifierShape {
  /** height and width of an image */
  readonly image: number
  /** channels after the first convolution; all others are multiples */
  readonly width: number
  readonly classes: number
}

export const kResNet50: ClassifierShape = { image: 224, width: 64, classes: 1000 }
export const kMobileNetV2: ClassifierShape = { image: 224, width: 32, classes: 1000 }

/** Layers by name; the batch is a symbol. */
class Builder {
  readonly #graph = new Graph('classifier')
  #count = 0

  constructor(image: number) {
    this.#graph.inputs = [new ValueInfo('input', 'float32', ['batch', 3, image, image])]
  }

  add(opType: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}): string {
    const output = `${opType.toLowerCase()}_${this.#count++}`
    this.#graph.addNode(new Node({ opType, name: `/${output}`, inputs, outputs: [output], attributes }))
    return output
  }

  weight(dims: readonly number[], scale: number, shift = 0): string {
    const name = `w${this.#count++}`
    const data = noise(dims.reduce((a, b) => a * b, 1), this.#count).map((v) => v * scale + shift)
    this.#graph.addInitializer(Initializer.from(name, { type: 'float32', dims, data }))
    return name
  }

  scalar(value: number): string {
    const tensor = Initializer.from('', { type: 'float32', dims: [], data: Float32Array.of(value) })
    return this.add('Constant', [], { value: attribute.tensor(tensor) })
  }

  /** A convolution without bias and the batch normalization behind it, which keep the size of what passes. */
  conv(x: string, from: number, to: number, kernel: number, stride: number, groups = 1, gain = 1): string {
    const taps = (from / groups) * kernel * kernel
    const pad = (kernel - 1) >> 1
    const y = this.add('Conv', [x, this.weight([to, from / groups, kernel, kernel], Math.sqrt(6 / taps))], {
      dilations: attribute.ints([1, 1]),
      group: attribute.int(groups),
      kernel_shape: attribute.ints([kernel, kernel]),
      pads: attribute.ints([pad, pad, pad, pad]),
      strides: attribute.ints([stride, stride]),
    })
    const parameters = [this.weight([to], 0.2 * gain, gain), this.weight([to], 0.2), this.weight([to], 0.2), this.weight([to], 0.5, 1.5)]
    return this.add('BatchNormalization', [y, ...parameters], { epsilon: attribute.float(1e-5), momentum: attribute.float(0.9) })
  }

  classify(x: string, channels: number, classes: number): Model {
    const flat = this.add('Flatten', [this.add('GlobalAveragePool', [x])], { axis: attribute.int(1) })
    const inputs = [flat, this.weight([classes, channels], Math.sqrt(3 / channels)), this.weight([classes], 0.1)]
    this.#graph.addNode(new Node({ opType: 'Gemm', name: '/classifier', inputs, outputs: ['output'], attributes: { transB: attribute.int(1) } }))
    this.#graph.outputs = [new ValueInfo('output', 'float32', ['batch', classes])]
    return new Model({ graph: this.#graph, opsets: [['', 13]], irVersion: 8 })
  }
}

/** Bottlenecks of 1x1, 3x3 (which strides) and 1x1 convolutions with residuals: [3, 4, 6, 3] of them. */
export function resNet50({ image, width, classes }: ClassifierShape): Model {
  const b = new Builder(image)
  const relu = (x: string): string => b.add('Relu', [x])
  let x = relu(b.conv('input', 3, width, 7, 2))
  x = b.add('MaxPool', [x], {
    ceil_mode: attribute.int(0),
    kernel_shape: attribute.ints([3, 3]),
    pads: attribute.ints([1, 1, 1, 1]),
    strides: attribute.ints([2, 2]),
  })
  let channels = width
  ;[3, 4, 6, 3].forEach((blocks, stage) => {
    const inner = width << stage
    for (let i = 0; i < blocks; i++) {
      const stride = i === 0 && stage > 0 ? 2 : 1
      let y = relu(b.conv(x, channels, inner, 1, 1))
      y = relu(b.conv(y, inner, inner, 3, stride))
      y = b.conv(y, inner, 4 * inner, 1, 1, 1, 0.4)
      const past = i === 0 ? b.conv(x, channels, 4 * inner, 1, stride) : x
      x = relu(b.add('Add', [y, past]))
      channels = 4 * inner
    }
  })
  return b.classify(x, channels, classes)
}

/** Inverted residuals: 1x1 convolutions that widen, 3x3 depthwise ones, and 1x1 ones that narrow, without activation. */
export function mobileNetV2({ image, width, classes }: ClassifierShape): Model {
  const b = new Builder(image)
  const [low, high] = [b.scalar(0), b.scalar(6)]
  const relu6 = (x: string): string => b.add('Clip', [x, low, high])
  let x = relu6(b.conv('input', 3, width, 3, 2))
  let channels = width
  const stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]] as const
  for (const [widen, size, blocks, first] of stages) {
    const to = (size * width) / 32
    for (let i = 0; i < blocks; i++) {
      const stride = i === 0 ? first : 1
      const inner = channels * widen
      let y = widen === 1 ? x : relu6(b.conv(x, channels, inner, 1, 1))
      y = relu6(b.conv(y, inner, inner, 3, stride, inner))
      y = b.conv(y, inner, to, 1, 1, 1, 0.6)
      x = stride === 1 && channels === to ? b.add('Add', [x, y]) : y
      channels = to
    }
  }
  return b.classify(relu6(b.conv(x, channels, 40 * width, 1, 1)), 40 * width, classes)
}
