import { attribute, type Model, type Tensor } from '../lib'
import { floats, graph, modelOf, type Step, type Values } from './graphs'
import { noise } from './nets'
import { encoder } from './transformer'

/** Nets and inputs on which `fixtures/static.json` says how far off onnxruntime's quantizer is. */

/** An image net with hard-swish, a depthwise convolution, ReLU, a residual and an average. */
function images(): Model {
  const weight = (dims: readonly number[], seed: number): Tensor => {
    const taps = dims.slice(1).reduce((a, b) => a * b, 1)
    return { type: 'float32', dims, data: (floats(dims, seed).data as Float32Array).map((v) => v * Math.sqrt(12 / taps)) }
  }
  const constants: Record<string, Tensor> = {
    a: weight([16, 3, 3, 3], 1),
    ab: floats([16], 2),
    d: weight([16, 1, 3, 3], 3),
    db: floats([16], 4),
    p: weight([32, 16, 1, 1], 5),
    pb: floats([32], 6),
    q: weight([32, 32, 3, 3], 7),
    qb: floats([32], 8),
    f: weight([10, 32], 9),
    fb: floats([10], 10),
  }
  const same = { pads: attribute.ints([1, 1, 1, 1]) }
  const swish = (x: string, y: string): Step[] => [
    ['HardSigmoid', [x], [`${y}_s`], { alpha: attribute.float(1 / 6), beta: attribute.float(0.5) }],
    ['Mul', [x, `${y}_s`], [y]],
  ]
  const steps: Step[] = [
    ['Conv', ['x', 'a', 'ab'], ['c1'], { ...same, strides: attribute.ints([2, 2]) }],
    ...swish('c1', 'r1'),
    ['Conv', ['r1', 'd', 'db'], ['c2'], { ...same, group: attribute.int(16) }],
    ...swish('c2', 'r2'),
    ['Conv', ['r2', 'p', 'pb'], ['c3']],
    ['Relu', ['c3'], ['r3']],
    ['Conv', ['r3', 'q', 'qb'], ['c4'], same],
    ['Add', ['c4', 'r3'], ['s']],
    ['Relu', ['s'], ['r4']],
    ['GlobalAveragePool', ['r4'], ['g']],
    ['Flatten', ['g'], ['e']],
    ['Gemm', ['e', 'f', 'fb'], ['y'], { transB: attribute.int(1) }],
  ]
  return modelOf(graph([['x', 'float32', [1, 3, 24, 24]]], constants, steps, ['y']), 13)
}

/** Waves with some noise, and now and then a spark. */
function image(seed: number): Values {
  const grain = noise(3 * 24 * 24, seed + 1)
  const [a, b] = [0.2 + 0.05 * (seed % 7), 0.3 + 0.03 * (seed % 11)]
  const data = grain.map((v, i) => Math.cos(a * (i % 24) + b * Math.floor(i / 24)) + 0.3 * v + (i % 997 === seed ? 4 : 0))
  return { x: { type: 'float32', dims: [1, 3, 24, 24], data } }
}

function text(seed: number): Values {
  const of = (f: (i: number) => number): Tensor => ({ type: 'int64', dims: [1, 16], data: BigInt64Array.from({ length: 16 }, (_, i) => BigInt(f(i))) })
  const random = noise(16, seed + 1)
  return {
    input_ids: of((i) => Math.floor(((random[i]! + 1) / 2) * 60)),
    attention_mask: of((i) => (i < 10 + (seed % 7) ? 1 : 0)),
    token_type_ids: of((i) => (i > 8 ? 1 : 0)),
  }
}

/** What both are given: inputs 0 to 15 to calibrate on, 16 to 27 to be judged by. */
export const rivals = {
  images: { model: images, input: image },
  text: { model: () => encoder({ layers: 1, hidden: 48, heads: 4, inner: 96, words: 60, opset: 14 }), input: text },
}
