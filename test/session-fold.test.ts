import { Model, Session } from '../lib'
import { agree, attribute, conv, floats, graph, int, ints, modelOf, type Step } from './graphs'

/** Weights as `timm` standardizes them: normalized over each filter by a BatchNormalization in training, which sees them as one image. */
const standardized = (norm: readonly string[], more: Step[] = [], outputs = ['y']): Model =>
  modelOf(
    graph(
      [['x', 'float32', ['n', 4, 'h', 'w']]],
      { w: floats([6, 4, 3, 3], 2), g: floats([6], 3), b: floats([6], 4), m: floats([6], 5), v: floats([6], 6), flat: ints(1, 6, -1), back: ints(6, 4, 3, 3) },
      [
        ['Reshape', ['w', 'flat'], ['rows']],
        ['BatchNormalization', ['rows', 'g', 'b', 'm', 'v'], norm, { training_mode: attribute.int(1), epsilon: attribute.float(1e-6) }],
        ['Reshape', ['normal', 'back'], ['filters']],
        conv('x', 'filters', 'y', { pads: 1 }),
        ...more,
      ],
      outputs,
    ),
  )

const opsOf = (session: Session, dims: readonly number[]): string[] => session.plan({ x: dims }).steps.map((s) => s.op)

describe('what depends on constants alone is computed once', () => {
  test('standardized weights of a convolution', async () => {
    const model = standardized(['normal', 'running_mean', 'running_variance'])
    const session = await Session.create(model)
    expect(opsOf(session, [1, 4, 9, 9])).toEqual(['conv_planes', 'copy'])
    session.dispose()
    await agree(model, { x: floats([2, 4, 9, 9]) })
  })

  test('statistics that are asked for stay in the graph, other constants fold', async () => {
    const turned: Step[] = [['Transpose', ['g2'], ['t'], { perm: attribute.ints([1, 0]) }], ['MatMul', ['x2', 't'], ['z']]]
    const base = standardized(['normal', 'running_mean', 'running_variance'], turned, ['y', 'running_mean', 'z'])
    base.graph.inputs = [...base.graph.inputs, ...graph([['x2', 'float32', [2, 5]]], {}, [], []).inputs]
    for (const t of graph([], { g2: floats([3, 5], 8) }, [], []).initializers.values()) base.graph.addInitializer(t)
    const model = await Model.load(base.toBytes())
    await agree(model, { x: floats([2, 4, 9, 9]), x2: floats([2, 5], 9) })
  })

  test('a batch normalization in training on what runs give', async () => {
    const constants = { g: floats([4], 3), b: floats([4], 4), m: floats([4], 5), v: floats([4], 6), k: int(1) }
    const step: Step = ['BatchNormalization', ['x', 'g', 'b', 'm', 'v'], ['y', 'p', 'q'], { training_mode: attribute.int(1) }]
    for (const dims of [[5, 4], [2, 4, 3, 5], [2, 4, 7]] as const)
      await agree(modelOf(graph([['x', 'float32', [...dims]]], constants, [step], ['y'])), { x: floats(dims) })
  })

  test('biases of attention that constant places give', async () => {
    const places = { type: 'int64', dims: [196, 196], data: BigInt64Array.from({ length: 196 * 196 }, (_, i) => BigInt(Math.abs((i % 196) - Math.floor(i / 196)) - (i % 3 ? 0 : 196))) } as const
    const steps: Step[] = [['Gather', ['table', 'places'], ['bias'], { axis: attribute.int(1) }], ['Add', ['x', 'bias'], ['y']]]
    const model = modelOf(graph([['x', 'float32', [1, 5, 196, 196]]], { table: floats([5, 196], 1), places }, steps, ['y']))
    const session = await Session.create(model)
    expect(opsOf(session, [1, 5, 196, 196])).toEqual(['elementwise'])
    session.dispose()
    await agree(model, { x: floats([1, 5, 196, 196], 2) })
  })
})
