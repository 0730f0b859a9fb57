import { Session, type Tensor } from '../lib'
import { attribute, float, graph, ints, modelOf } from './graphs'

const g = graph([['x', 'float32', ['a', 'b']]], {}, [['Neg', ['x'], ['n']], ['Relu', ['n'], ['y']], ['Transpose', ['n'], ['t'], { perm: attribute.ints([1, 0]) }]], ['y', 't'])
const flat = (answer: Record<string, Tensor>): unknown => Object.fromEntries(Object.entries(answer).map(([name, t]) => [name, [t.dims, Array.from(t.data as Float32Array)]]))
const codeOf = (f: () => unknown): string => {
  try {
    f()
    return 'none'
  } catch (error) {
    return (error as { code: string }).code
  }
}
const want = (rows: number, ...v: number[]): unknown => {
  const columns = v.length / rows
  const turned = Array.from({ length: v.length }, (_, i) => -(v[(i % rows) * columns + Math.floor(i / rows)] as number))
  return { y: [[rows, columns], v.map((e) => Math.max(-e, 0))], t: [[columns, rows], turned] }
}

describe('runs that follow each other', () => {
  test('dims stay, change and come back, with and without fetch', async () => {
    const session = await Session.create(modelOf(g))
    for (const run of [(x: Tensor) => Promise.resolve(session.runSync({ x })), (x: Tensor) => session.run({ x })]) {
      expect(flat(await run(float([2, 2], 1, -2, 3, -4)))).toEqual(want(2, 1, -2, 3, -4))
      const first = await run(float([2, 2], -5, 6, -7, 8))
      expect(flat(await run(float([2, 2], 9, 9, 9, -9)))).toEqual(want(2, 9, 9, 9, -9))
      expect(flat(first)).toEqual(want(2, -5, 6, -7, 8))
      expect(flat(await run(float([1, 2], 1, -2)))).toEqual(want(1, 1, -2))
      expect(flat(await run(float([2, 1], 1, -2)))).toEqual(want(2, 1, -2))
    }
    expect(Object.keys(session.runSync({ x: float([2, 1], 1, 2) }, { fetch: ['t', 'y'] }))).toEqual(['t', 'y'])
    expect(Object.keys(session.runSync({ x: float([2, 1], 1, 2) }, { fetch: ['y'] }))).toEqual(['y'])
    expect(flat(session.runSync({ x: float([2, 1], 1, -2) }))).toEqual(want(2, 1, -2))
    expect(flat(session.runSync({ x: float([2, 1], 3, -4) }))).toEqual(want(2, 3, -4))
    session.dispose()
  })

  test('taps that come and go see every run between', async () => {
    const session = await Session.create(modelOf(g))
    const seen: number[] = []
    for (let i = 0; i < 2; i++) session.runSync({ x: float([1, 1], i) })
    const end = session.tap('n', (view) => void seen.push((view.data as Float32Array)[0] as number))
    for (let i = 2; i < 4; i++) session.runSync({ x: float([1, 1], i) })
    end()
    for (let i = 4; i < 6; i++) expect(flat(session.runSync({ x: float([1, 1], i) }))).toEqual(want(1, i))
    expect(seen).toEqual([-2, -3])
    session.dispose()
  })

  test('what is wrong with an input is still refused', async () => {
    const session = await Session.create(modelOf(g))
    const x = float([1, 2], 1, 2)
    for (let i = 0; i < 2; i++) session.runSync({ x })
    expect(codeOf(() => session.runSync({ x: { ...x, data: new Float32Array(3) } }))).toBe('ERR_SHAPE')
    expect(codeOf(() => session.runSync({ x: { ...x, type: 'int32', data: new Int32Array(2) } }))).toBe('ERR_DTYPE')
    expect(codeOf(() => session.runSync({ x: { ...x, dims: [2] } }))).toBe('ERR_SHAPE')
    expect(codeOf(() => session.runSync({ y: x }))).toBe('ERR_RANGE')
    expect(codeOf(() => session.runSync({ x, y: x }))).toBe('ERR_RANGE')
    expect(codeOf(() => session.runSync({}))).toBe('ERR_SHAPE')
    expect(codeOf(() => session.runSync(null as never))).toBe('ERR_DTYPE')
    expect(codeOf(() => session.runSync({ x: new Float32Array(2) }))).toBe('ERR_SHAPE')
    session.dispose()
    expect(codeOf(() => session.runSync({ x }))).toBe('ERR_HANDLE')
  })

  test('an input whose content decides is looked at every time', async () => {
    const by = graph([['x', 'float32', ['a', 'b']], ['s', 'int64', [2]]], {}, [['Reshape', ['x', 's'], ['r']], ['Relu', ['r'], ['y']]], ['y'])
    const session = await Session.create(modelOf(by))
    const x = float([2, 3], 1, 2, 3, 4, 5, 6)
    for (const s of [ints(3, 2), ints(3, 2), ints(6, 1), ints(1, -1)])
      expect(session.runSync({ x, s })['y']?.dims).toEqual(Array.from(s.data as BigInt64Array, Number).map((d) => (d < 0 ? 6 : d)))
    session.dispose()
  })

  test('a plan that others pushed out is made again', async () => {
    const session = await Session.create(modelOf(g))
    session.runSync({ x: float([1, 1], 1) })
    for (let i = 1; i < 40; i++) session.plan({ x: [1, i + 1] })
    expect(flat(session.runSync({ x: float([1, 1], -1) }))).toEqual(want(1, -1))
    session.dispose()
  })
})
