import { Session } from '../lib'
import { agree, conv, floats, graph, modelOf, type Step, type Values } from './graphs'

/** [groups, inputs and outputs of a group, kernel, the rest] */
const cases: readonly [groups: number, c: number, oc: number, kernel: number, rest?: { pads?: number; strides?: number; dilations?: number }][] = [
  [32, 4, 4, 3, { pads: 1 }],
  [5, 8, 8, 3, { pads: 1, strides: 2 }],
  [12, 1, 2, 7, { pads: 3, strides: 2 }],
  [3, 5, 2, 3, { pads: 2, dilations: 2 }],
  [7, 3, 6, 1],
  [2, 24, 40, 3, { pads: 1 }],
  [4, 2, 20, 3, { dilations: 3 }],
]

test.each(cases)('a convolution of %i groups of %i to %i channels, %i wide, is one step and agrees with onnxruntime', async (group, c, oc, kernel, rest = {}) => {
  const constants: Values = { w: floats([group * oc, c, kernel, kernel], 3), b: floats([group * oc], 4), s: floats([group * oc, 1, 1], 5) }
  const steps: Step[] = [conv('x', 'w', 'c', { group, bias: 'b', ...rest }), ['Mul', ['c', 's'], ['m']], ['Relu', ['m'], ['y']]]
  const model = modelOf(graph([['x', 'float32', ['n', group * c, 'h', 'w']]], constants, steps, ['y']))
  const session = await Session.create(model)
  expect(session.plan({ x: [1, group * c, 14, 15] }).steps.map((s) => s.op)).toEqual(['copy', 'conv_grouped', 'copy'])
  session.dispose()
  await agree(model, { x: floats([2, group * c, 14, 15]) }, { x: floats([1, group * c, 9, 40]) })
})

test.each([
  [1, 6, 9, 12, 12, [10, 11]],
  [1, 6, 9, 3, 2, [3, 3]],
  [3, 2, 3, 5, 5, [4, 9]],
  [6, 1, 1, 9, 9, [9, 2]],
  [1, 3, 8, 20, 20, [9, 17]],
] as const)('taps that see padding alone are left out: %i groups of %i to %i channels, dilated by %i, padded by %i', async (group, c, oc, dilation, pad, [h, w]) => {
  const step = conv('x', 'w', 'c', { group, bias: 'b', pads: pad, dilations: dilation })
  const model = modelOf(graph([['x', 'float32', [1, group * c, 'h', 'w']]], { w: floats([group * oc, c, 3, 3], 3), b: floats([group * oc], 4) }, [step, ['Relu', ['c'], ['y']]], ['y']))
  // One session for several sizes: weights that were cropped for one are not those of another.
  await agree(model, { x: floats([1, group * c, h, w]) }, { x: floats([1, group * c, 31, 27]) }, { x: floats([1, group * c, h + 1, w]) })
})
