import { Session, ValueInfo } from '../lib'
import { agree, attribute, float, floats, graph, int, ints, modelOf } from './graphs'

const { int: i } = attribute
const x = float([2, 3], 1, 2, 3, 4, 5, 6)

describe('sequences inside a model', () => {
  test.each([
    ['single rows', [], { axis: i(0) }, 1],
    ['single rows, the axis gone', [], { axis: i(1), keepdims: i(0) }, 2],
    ['parts of two', ['two'], { axis: i(1) }, 1],
    ['parts by a list', ['list'], { axis: i(-1) }, -1],
  ] as const)('SplitToSequence, %s, then SequenceAt, SequenceLength', async (_, more, attributes, at) => {
    const g = graph(
      [['x', 'float32', ['a', 'b']]],
      { two: int(2), list: ints(1, 2), at: int(at) },
      [
        ['Neg', ['x'], ['n']],
        ['SplitToSequence', ['n', ...more], ['s'], attributes],
        ['SequenceAt', ['s', 'at'], ['part']],
        ['SequenceLength', ['s'], ['count']],
        ['Relu', ['part'], ['r']],
        ['Sub', ['part', 'r'], ['y']],
      ],
      ['y', ['count', 'int64', []]],
    )
    await agree(modelOf(g), { x }, { x: floats([4, 3]) })
  })

  test('SequenceConstruct, SequenceInsert, SequenceErase, ConcatFromSequence', async () => {
    const g = graph(
      [['x', 'float32', ['a', 'b']]],
      { zero: int(0), last: int(-1) },
      [
        ['Neg', ['x'], ['n']],
        ['Exp', ['x'], ['e']],
        ['SequenceConstruct', ['x', 'n'], ['s']],
        ['SequenceInsert', ['s', 'e'], ['t']],
        ['SequenceInsert', ['t', 'e', 'last'], ['u']],
        ['SequenceErase', ['u', 'zero'], ['v']],
        ['SequenceErase', ['v'], ['w']],
        ['ConcatFromSequence', ['v'], ['y0'], { axis: i(1) }],
        ['ConcatFromSequence', ['w'], ['y1'], { axis: i(-1), new_axis: i(1) }],
      ],
      ['y0', 'y1'],
    )
    await agree(modelOf(g), { x }, { x: floats([4, 1]) })
  })

  test('a list that grows in a loop, and one that a branch hands on', async () => {
    const body = graph(
      [['i', 'int64', []], ['c', 'bool', []]],
      {},
      [
        ['Cast', ['i'], ['f'], { to: i(1) }],
        ['Mul', ['x', 'f'], ['m']],
        ['SequenceInsert', ['list', 'm'], ['longer']],
        ['Identity', ['c'], ['more']],
      ],
      [],
    )
    const list = (name: string): ValueInfo => new ValueInfo(name, 'undefined', null, 'sequence')
    body.inputs = [...body.inputs, list('list')]
    body.outputs = [new ValueInfo('more', 'bool', []), list('longer')]
    const branch = (from: string, name: string) => {
      const b = graph([], {}, [['Identity', [from], [name]]], [])
      b.outputs = [list(name)]
      return attribute.graph(b)
    }
    const g = graph(
      [['x', 'float32', ['a', 'b']], ['n', 'int64', []], ['which', 'bool', []]],
      {},
      [
        ['SequenceEmpty', [], ['none']],
        ['Loop', ['n', '', 'none'], ['many'], { body: attribute.graph(body) }],
        ['SequenceConstruct', ['x'], ['one']],
        ['If', ['which'], ['s'], { then_branch: branch('many', 'bt'), else_branch: branch('one', 'be') }],
        ['ConcatFromSequence', ['s'], ['all'], { axis: i(0) }],
        ['Neg', ['all'], ['y']],
      ],
      ['y'],
    )
    const session = await Session.create(modelOf(g))
    const run = (n: number, which: boolean) => session.runSync({ x, n: int(n), which: { type: 'bool', dims: [], data: Uint8Array.of(Number(which)) } }).y
    expect(run(3, true)?.dims).toEqual([6, 3])
    expect(Array.from(run(3, true)?.data as Float32Array)).toEqual([0, 1, 2].flatMap((k) => Array.from(x.data as Float32Array, (v) => -v * k)))
    expect(run(3, false)?.dims).toEqual([2, 3])
    expect(run(1, true)?.dims).toEqual([2, 3])
    expect(() => run(0, true)).toThrow(/ConcatFromSequence .*: a sequence of 0/)
    session.dispose()
  })

  test('what does not fit is refused by name', async () => {
    const refused = async (steps: Parameters<typeof graph>[2], message: RegExp): Promise<void> => {
      const g = graph([['x', 'float32', [2, 3]]], { five: int(5), codes: ints(1), parts: ints(2, 2) }, steps, ['y'])
      const session = await Session.create(modelOf(g))
      expect(() => session.runSync({ x })).toThrow(expect.objectContaining({ name: 'WhittleError', code: 'ERR_SHAPE', message: expect.stringMatching(message) }))
      session.dispose()
    }
    await refused([['SequenceConstruct', ['x'], ['s']], ['SequenceAt', ['s', 'five'], ['y']]], /position 5 of a sequence of 1/)
    await refused([['SequenceConstruct', ['x', 'codes'], ['s']], ['SequenceLength', ['s'], ['y']]], /int64 among those of float32/)
    await refused([['SequenceLength', ['x'], ['y']]], /want a sequence/)
    await refused([['SplitToSequence', ['x', 'parts'], ['s'], { axis: i(1) }], ['SequenceLength', ['s'], ['y']]], /parts of 2, 2 of an axis of 3/)
  })

  test('a list does not enter or leave a model', async () => {
    const g = graph([['x', 'float32', [2, 3]]], {}, [['SequenceConstruct', ['x'], ['s']]], [])
    g.outputs = [new ValueInfo('s', 'undefined', null, 'sequence')]
    await expect(Session.create(modelOf(g))).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_OP', message: expect.stringContaining('s') })
    const open = graph([['x', 'float32', [2, 3]]], {}, [['SequenceConstruct', ['x'], ['s']], ['SequenceLength', ['s'], ['y']]], [['y', 'int64', []]])
    const session = await Session.create(modelOf(open))
    expect(session.runSync({ x }).y?.data[0]).toBe(1n)
    for (const look of [() => session.runSync({ x }, { fetch: ['s'] }), () => (session.tap('s', () => undefined), session.runSync({ x }))])
      expect(look).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_OP', parameter: 's' }))
    session.dispose()
    const h = graph([], {}, [['SequenceLength', ['s'], ['y']]], ['y'])
    h.inputs = [new ValueInfo('s', 'undefined', null, 'sequence')]
    await expect(Session.create(modelOf(h))).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_OP', message: expect.stringContaining('s') })
  })
})
