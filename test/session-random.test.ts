import { compress, Session, type Tensor } from '../lib'
import { attribute, bool, float, floats, graph, modelOf } from './graphs'

const { int: i, ints: list, float: real } = attribute

async function drawn(...runs: readonly [op: string, inputs: readonly string[], attributes: Record<string, ReturnType<typeof real>>][]): Promise<Tensor[]> {
  const g = graph(
    [['x', 'float32', ['a', 'b']]],
    { half: float([], 0.5), quarter: float([], 0.25), yes: bool(true), no: bool(false) },
    runs.map(([op, inputs, attributes], k) => [op, inputs, [`y${k}`], attributes] as const),
    runs.map((_, k) => `y${k}`),
  )
  const session = await Session.create(modelOf(g))
  const answer = session.runSync({ x: { type: 'float32', dims: [100, 200], data: new Float32Array(20_000).fill(0.3) } })
  session.dispose()
  return runs.map((_, k) => answer[`y${k}`] as Tensor)
}

function moments({ data }: Tensor): { mean: number; deviation: number } {
  const all = Array.from(data as Iterable<number>, Number)
  const mean = all.reduce((a, b) => a + b, 0) / all.length
  return { mean, deviation: Math.sqrt(all.reduce((a, b) => a + (b - mean) ** 2, 0) / all.length) }
}

describe('ops that draw', () => {
  test('normal and uniform numbers have the moments that are asked for', async () => {
    const [a, b, c, d] = (await drawn(
      ['RandomNormal', [], { shape: list([50, 400]), mean: real(2), scale: real(3), seed: real(1) }],
      ['RandomNormalLike', ['x'], { seed: real(2) }],
      ['RandomUniform', [], { shape: list([20_000]), low: real(-1), high: real(5), seed: real(3), dtype: i(11) }],
      ['RandomUniformLike', ['x'], { seed: real(4) }],
    )) as [Tensor, Tensor, Tensor, Tensor]
    expect([a.dims, b.dims, c.dims, d.dims]).toEqual([[50, 400], [100, 200], [20_000], [100, 200]])
    expect([a.type, c.type]).toEqual(['float32', 'float64'])
    const want = [[2, 3], [0, 1], [2, 6 / Math.sqrt(12)], [0.5, 1 / Math.sqrt(12)]] as const
    ;[a, b, c, d].forEach((t, k) => {
      const { mean, deviation } = moments(t)
      const [m, s] = want[k] as readonly [number, number]
      // Five standard errors of 20,000 draws.
      expect(Math.abs(mean - m)).toBeLessThan((5 * s) / Math.sqrt(20_000))
      expect(Math.abs(deviation / s - 1)).toBeLessThan(5 / Math.sqrt(20_000))
    })
    expect(Math.max(...(d.data as Float32Array))).toBeLessThanOrEqual(1)
    // Neighbours know nothing of each other.
    const z = Array.from(b.data as Float32Array)
    expect(Math.abs(z.slice(1).reduce((s, v, k) => s + v * (z[k] as number), 0) / z.length)).toBeLessThan(5 / Math.sqrt(20_000))
  })

  test('Bernoulli, Multinomial, Dropout draw by their chances', async () => {
    const [a, b, c, d] = (await drawn(
      ['Bernoulli', ['x'], { seed: real(1), dtype: i(9) }],
      ['Multinomial', ['x'], { sample_size: i(300), seed: real(2), dtype: i(7) }],
      ['Dropout', ['x', 'quarter', 'yes'], { seed: i(3) }],
      ['Dropout', ['x', 'half', 'no'], {}],
    )) as [Tensor, Tensor, Tensor, Tensor]
    expect(a.type).toBe('bool')
    expect(Math.abs(moments(a).mean - 0.3)).toBeLessThan((5 * Math.sqrt(0.21)) / Math.sqrt(20_000))
    expect(b).toMatchObject({ type: 'int64', dims: [100, 300] })
    const classes = new Set(Array.from(b.data as Iterable<bigint>, Number))
    expect(classes.size).toBe(200)
    expect(Math.abs(moments(b).mean - 99.5)).toBeLessThan(5 * 58 / Math.sqrt(30_000))
    const kept = Array.from(c.data as Float32Array).filter((v) => v !== 0)
    expect(new Set(kept)).toEqual(new Set([Math.fround(Math.fround(0.3) / 0.75)]))
    expect(Math.abs(kept.length / 20_000 - 0.75)).toBeLessThan((5 * Math.sqrt(0.1875)) / Math.sqrt(20_000))
    expect(new Set(d.data as Float32Array)).toEqual(new Set([Math.fround(0.3)]))
  })

  test('a seed draws alike in every session, and on from run to run; none draws anew', async () => {
    const make = async (seed: Record<string, ReturnType<typeof real>>) => {
      const g = graph([['x', 'float32', [4, 4]]], {}, [['RandomNormalLike', ['x'], ['r'], seed], ['Add', ['x', 'r'], ['y']]], ['y'])
      const session = await Session.create(modelOf(g))
      const x = floats([4, 4])
      const twice = [session.runSync({ x }).y?.data.join(), session.runSync({ x }).y?.data.join()]
      session.dispose()
      return twice
    }
    const [a, b] = await make({ seed: real(7) })
    expect(await make({ seed: real(7) })).toEqual([a, b])
    expect(a).not.toBe(b)
    expect(await make({ seed: real(8) })).not.toContain(a)
    const [c] = await make({})
    expect(await make({})).not.toContain(c)
  })

  test('compress calibrates on the same draws every time', async () => {
    const g = graph(
      [['x', 'float32', ['n', 16]]],
      { w: floats([16, 32], 5), v: floats([32, 8], 6) },
      [['RandomNormalLike', ['x'], ['r']], ['Add', ['x', 'r'], ['a']], ['MatMul', ['a', 'w'], ['h']], ['Relu', ['h'], ['p']], ['MatMul', ['p', 'v'], ['y']]],
      ['y'],
    )
    const bytes = async (): Promise<string> => {
      const calibration = [1, 2, 3].map((seed) => ({ x: floats([8, 16], seed) }))
      const { model } = await compress(modelOf(g), { steps: [{ step: 'quantize', activations: 'static' }] }, { calibration })
      return Buffer.from(model.toBytes()).toString('base64')
    }
    expect(await bytes()).toBe(await bytes())
  })
})
