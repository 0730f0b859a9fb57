import { attribute, compress, Model, Session, type Step } from '../lib'
import { float, floats, graph, ints, modelOf, theirs, type Step as Op, type Values } from './graphs'

const width = 16
const rank = 6

type Form = 'div' | 'reciprocal' | 'quotient'

/** x / √(mean(x²) + 0.1), which a wrong epsilon shows in, times a scale where there is one. */
function rms(x: string, y: string, form: Form, scale?: string): Op[] {
  const at = (part: string): string => `${y}_${part}`
  const axes = { axes: attribute.ints([-1]), keepdims: attribute.int(1) }
  const end = scale ? at('n') : y
  const ops: Op[] = [
    form === 'quotient' ? ['Mul', [x, x], [at('p')]] : ['Pow', [x, 'two'], [at('p')]],
    ['ReduceMean', [at('p')], [at('m')], axes],
    ['Add', [at('m'), 'eps'], [at('a')]],
    ['Sqrt', [at('a')], [at('s')]],
  ]
  if (form === 'quotient') ops.push(['Div', [x, at('s')], [end]])
  else {
    ops.push(form === 'div' ? ['Div', ['one', at('s')], [at('r')]] : ['Reciprocal', [at('s')], [at('r')]])
    ops.push(['Mul', [x, at('r')], [end]])
  }
  if (scale) ops.push(['Mul', [scale, end], [y]])
  return ops
}

/** Rows in a subspace of `rank` dimensions. */
function within(rows: number, seed: number): ReturnType<typeof floats> {
  const [a, b] = [floats([rows, rank], seed).data as Float32Array, floats([rank, width], 99).data as Float32Array]
  const data = new Float32Array(rows * width)
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < width; j++)
      for (let r = 0; r < rank; r++) data[i * width + j]! += a[i * rank + r]! * b[r * width + j]!
  return { type: 'float32', dims: [rows, width], data }
}

/** Two blocks that normalize what they read, as Llama's, and a head. */
function decoder(form: Form): Model {
  const constants: Values = {
    table: within(40, 1), up: floats([width, 24], 2), down: within(24, 3), head: floats([width, 20], 4),
    g1: float([width], ...floats([width], 5).data as Float32Array), g2: float([width], ...floats([width], 6).data as Float32Array),
    two: float([], 2), one: float([], 1), eps: float([], 0.1),
  } // prettier-ignore
  const ops: Op[] = [
    ['Gather', ['table', 'ids'], ['x']],
    ...rms('x', 'h', form, 'g1'),
    ['MatMul', ['h', 'up'], ['u']],
    ['Relu', ['u'], ['v']],
    ['MatMul', ['v', 'down'], ['d']],
    ['Add', ['x', 'd'], ['z']],
    ...rms('z', 'l', form, 'g2'),
    ['MatMul', ['l', 'head'], ['y']],
  ]
  return modelOf(graph([['ids', 'int64', [12]]], constants, ops, ['y']))
}

const feeds = { ids: ints(...Array.from({ length: 12 }, (_, i) => (i * 7) % 40)) }
const sets = [feeds, { ids: ints(...Array.from({ length: 12 }, (_, i) => (i * 11 + 3) % 40)) }]

async function expectClose(made: Model, want: Model, tolerance: number): Promise<void> {
  const y = (await theirs(want, feeds)).y!.data as Float32Array
  for (const z of [(await theirs(made, feeds)).y!, (await (await Session.create(made, { threads: 1 })).run(feeds)).y!])
    for (const [i, v] of y.entries()) expect(Math.abs(Number(z.data[i]) - v)).toBeLessThan(tolerance)
}

const opsOf = (model: Model): string[] => model.graph.nodes.map((n) => n.opType).sort()

const forms: readonly Form[] = ['div', 'reciprocal', 'quotient']
const folds: readonly Step[][] = [[], [{ step: 'fold' }]]

test.each(forms.flatMap((form) => folds.map((fold) => [form, fold] as const)))(
  'a stream is turned through normalizations by root mean square written as %s behind %j',
  async (form, fold) => {
    const { model, report } = await compress(decoder(form), { steps: [...fold, { step: 'rotate' }] })
    expect(report.steps.at(-1)!.layers.map((l) => [l.weight, l.action])).toEqual(
      ['table', 'up', 'down', 'head'].map((w) => [w, 'rotated']),
    )
    expect(opsOf(model)).not.toContain('RMSNormalization')
    await expectClose(model, decoder(form), 2e-5)
  },
)

test.each(forms)('it is narrowed to the subspace that it lies in, epsilon with it: %s', async (form) => {
  const steps: Step[] = [{ step: 'fold' }, { step: 'slice', energy: 0.9999999, roundTo: 1 }]
  const { model, report } = await compress(decoder(form), { steps }, { calibration: sets })
  expect(report.steps[1]!.layers.map((l) => l.dimsAfter)).toEqual([
    [40, rank],
    [rank, 24],
    [24, rank],
    [rank, 20],
  ])
  await expectClose(model, decoder(form), 2e-3)
})

test('what is not turned is written as it was', async () => {
  const steps: Step[] = [{ step: 'rotate' }]
  const { model } = await compress(decoder('div'), { steps, spared: ['table', 'down', 'up', 'head'] })
  expect(opsOf(model)).toEqual(opsOf(decoder('div')))
  expect([...model.graph.initializers.keys()].sort()).toEqual([...decoder('div').graph.initializers.keys()].sort())
  await expectClose(model, decoder('div'), 1e-6)
})
