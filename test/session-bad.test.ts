import { Session, WhittleError, type Attribute, type Graph } from '../lib'
import { attribute, float, floats, graph, modelOf } from './graphs'
import { noise } from './nets'

const branch = (g: Graph): Attribute => attribute.graph(g)
const x = ['x', 'float32', [2, 3]] as const

const bad: Record<string, [make: () => Graph, node: string]> = {
  'a circle': [() => graph([x], {}, [['Add', ['x', 'b'], ['a']], ['Relu', ['a'], ['b']], ['Neg', ['b'], ['y']]], ['y']), 'Add0|Relu1'],
  'a value that nothing makes': [() => graph([x], {}, [['Add', ['x', 'nothing'], ['y']]], ['y']), 'Add0'],
  'types that clash': [() => graph([x, ['k', 'int64', [2, 3]]], {}, [['Add', ['x', 'k'], ['y']]], ['y']), 'Add0'],
  'shapes that do not broadcast': [() => graph([x], { c: float([2], 1, 2) }, [['Add', ['x', 'c'], ['y']]], ['y']), 'Add0'],
  'a shape of 2^31 elements': [
    () => graph([x], { s: { type: 'int64', dims: [3], data: BigInt64Array.of(65536n, 65536n, 1n) }, c: float([1], 1) }, [['Expand', ['c', 's'], ['y']]], ['y']),
    'Expand0',
  ],
  'branches that disagree': [
    () =>
      graph(
        [x, ['p', 'bool', []]],
        {},
        [['If', ['p'], ['y'], { then_branch: branch(graph([], {}, [['Relu', ['x'], ['b']]], ['b'])), else_branch: branch(graph([], {}, [['Cast', ['x'], ['b'], { to: attribute.int(7) }]], [['b', 'int64', null]])) }]],
        ['y'],
      ),
    'If0',
  ],
}

test.each(Object.entries(bad))('%s is an error that names the node', async (_, [make, node]) => {
  const error = await Session.create(modelOf(make())).then(() => undefined, (e: unknown) => e as WhittleError)
  expect(error).toMatchObject({ name: 'WhittleError' })
  expect(error?.message).toMatch(new RegExp(node))
})

test('mutated graphs are run or refused, and the process lives', async () => {
  const random = noise(20_000, 5)
  let at = 0
  const pick = (n: number): number => Math.floor(((random[at++ % random.length] as number) + 1) * 0.5 * n) % n
  const ops = ['Relu', 'Add', 'MatMul', 'Transpose', 'Softmax', 'Concat', 'Reshape', 'Gather', 'LSTM', 'Conv', 'ReduceMean', 'TopK', 'Slice', 'Where', 'Pad', 'ScatterND']
  let ran = 0
  for (let i = 0; i < (process.env['WHITTLE_LONG'] ? 5000 : 150); i++) {
    const g = graph(
      [['x', 'float32', [2, 4]]],
      { w: floats([4, 4]), s: { type: 'int64', dims: [2], data: BigInt64Array.of(-1n, 2n) }, c: floats([4]) },
      [['MatMul', ['x', 'w'], ['a']], ['Add', ['a', 'c'], ['b']], ['Relu', ['b'], ['d']], ['Reshape', ['d', 's'], ['y']]],
      ['y'],
    )
    const names = ['x', 'w', 's', 'c', 'a', 'b', 'd', 'y', '']
    for (let k = pick(3) + 1; k > 0; k--) {
      const node = g.nodes[pick(g.nodes.length)]
      if (!node) continue
      const kind = pick(4)
      if (kind === 0) node.opType = ops[pick(ops.length)] as string
      else if (kind === 1) node.setInput(pick(3), names[pick(names.length)] as string)
      else if (kind === 2) node.attributes.set(['axis', 'axes', 'perm', 'hidden_size', 'group'][pick(5)] as string, pick(2) ? attribute.int(pick(9) - 4) : attribute.ints([pick(9) - 4, pick(5)]))
      else {
        const n = pick(4)
        g.setInitializer('s', { type: 'int64', dims: [n], data: BigInt64Array.from({ length: n }, () => BigInt(pick(12) - 3)) })
      }
    }
    try {
      const session = await Session.create(modelOf(g))
      session.runSync({ x: floats([2, 4], i + 1) })
      session.dispose()
      ran++
    } catch (error) {
      if ((error as Error).name !== 'WhittleError') throw new Error(`graph ${i}: ${(error as Error).stack}`)
    }
  }
  expect(ran).toBeGreaterThan(5)
})
