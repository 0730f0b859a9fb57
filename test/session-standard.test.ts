import { Session, type Attribute, type Tensor } from '../lib'
import { agree, attribute, float, floats, graph, int, ints, modelOf, type Input, type Values } from './graphs'

/** Ops that ONNX defines by others run on kernels, and agree. */
interface Case {
  readonly op: string
  readonly opset?: number
  readonly inputs: readonly (readonly [given: Tensor, constant?: boolean])[]
  readonly attributes?: Record<string, Attribute>
}

const hann = float([16], ...Array.from({ length: 16 }, (_, i) => Math.sin((Math.PI * i) / 16) ** 2))
const cases: Readonly<Record<string, Case>> = {
  'MeanVarianceNormalization': { op: 'MeanVarianceNormalization', inputs: [[floats([2, 3, 5, 4])]] },
  'MeanVarianceNormalization of a channel': { op: 'MeanVarianceNormalization', inputs: [[floats([2, 3, 5, 4])]], attributes: { axes: attribute.ints([0, 1, 2, 3]) } },
  'LpNormalization': { op: 'LpNormalization', inputs: [[float([2, 3], 1, -2, 3, 0, 0, 0)]] },
  'LpNormalization by sums': { op: 'LpNormalization', inputs: [[floats([3, 4, 2])]], attributes: { p: attribute.int(1), axis: attribute.int(1) } },
  'LRN': { op: 'LRN', inputs: [[floats([2, 7, 3, 4])]], attributes: { size: attribute.int(3) } },
  'LRN of other numbers': { op: 'LRN', inputs: [[floats([1, 7, 3, 4])]], attributes: { size: attribute.int(5), alpha: attribute.float(0.3), beta: attribute.float(0.6), bias: attribute.float(2) } },
  'InstanceNormalization of a style': { op: 'InstanceNormalization', inputs: [[floats([2, 3, 5, 4])], [floats([3], 2)], [floats([3], 3)]] },
  'STFT': { op: 'STFT', inputs: [[floats([2, 70, 1])], [int(5), true], [hann, true]] },
  'STFT of both sides, longer than its step': { op: 'STFT', inputs: [[floats([1, 70, 1])], [int(7), true], [hann, true], [int(16), true]], attributes: { onesided: attribute.int(0) } },
  'DFT': { op: 'DFT', inputs: [[floats([2, 9, 1])]] },
  'DFT of complex numbers along another axis': { op: 'DFT', inputs: [[floats([2, 9, 3, 2])]], attributes: { axis: attribute.int(2) } },
  'DFT of one side': { op: 'DFT', inputs: [[floats([2, 12, 3, 1])]], attributes: { onesided: attribute.int(1) } },
  'DFT back': { op: 'DFT', inputs: [[floats([2, 12, 2])]], attributes: { inverse: attribute.int(1) } },
} // prettier-ignore

test.each(Object.entries(cases))('%s', async (_, { op, inputs, attributes = {}, opset }) => {
  const names = inputs.map((__, i) => `x${i}`)
  const fed = inputs.flatMap(([t, constant], i): [Input, Tensor][] => (constant ? [] : [[[`x${i}`, 'float32', t.dims], t]]))
  const constants: Values = Object.fromEntries(inputs.flatMap(([t, constant], i) => (constant ? [[`x${i}`, t]] : [])))
  const of = modelOf(graph(fed.map(([i]) => i), constants, [[op, names, ['y'], attributes]], ['y']), opset)
  const feeds = Object.fromEntries(fed.map(([i, t]) => [i[0], t]))
  await agree(of, feeds)
  const session = await Session.create(of, { threads: 1 })
  expect(session.plan(Object.fromEntries(fed.map(([i, t]) => [i[0], t.dims]))).steps).not.toHaveLength(0)
  session.dispose()
})

test('a signal shorter than a piece is refused', async () => {
  const of = modelOf(graph([['x', 'float32', [1, 'n', 1]]], { hop: int(5), window: hann }, [['STFT', ['x', 'hop', 'window'], ['y']]], ['y']))
  const session = await Session.create(of)
  await expect(session.run({ x: floats([1, 9, 1]) })).rejects.toMatchObject({ name: 'WhittleError' })
  await session.run({ x: floats([1, 19, 1]) })
  session.dispose()
})

test('what is not known before a run still agrees', async () => {
  await agree(modelOf(graph([['x', 'float32', ['a', 'n', 1]], ['hop', 'int64', []]], { window: hann }, [['STFT', ['x', 'hop', 'window'], ['y']]], ['y'])), { x: floats([1, 60, 1]), hop: int(6) })
  await agree(modelOf(graph([['x', 'float32', ['a', 'n', 1]]], { n: ints(6) }, [['DFT', ['x'], ['y']]], ['y'])), { x: floats([3, 7, 1]) })
  await agree(modelOf(graph([['x', 'float32', ['a', 'c', 'h', 4]]], {}, [['LRN', ['x'], ['y'], { size: attribute.int(3) }]], ['y'])), { x: floats([2, 5, 3, 4]) })
})
