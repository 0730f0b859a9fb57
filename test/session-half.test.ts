import { compress } from '../lib/compress'
import { attribute, type Model } from '../lib/model'
import { toHalves } from '../lib/model/half'
import { Session } from '../lib/session'
import { floats, graph, modelOf, theirs, type Values } from './graphs'
import { inputFor, kSpecs, netOf, rms, runNet } from './nets'
import { encoder, tokens } from './transformer'

/** Models in float16: computed in float32, between Casts. */


async function apart(model: Model, feeds: Values): Promise<number> {
  const session = await Session.create(model)
  const [got, want] = [await session.run(feeds), await theirs(model, feeds)]
  session.dispose()
  let worst = 0
  for (const [name, t] of Object.entries(want)) {
    expect([got[name]!.type, got[name]!.dims]).toEqual([t.type, t.dims])
    const [a, b] = [t.data as Float32Array, got[name]!.data as Float32Array]
    worst = Math.max(worst, rms(a.map((v, i) => v - b[i]!)) / rms(a))
  }
  return worst
}

test('a transformer in float16 runs, as near to onnxruntime as float16 is to float32', async () => {
  const original = encoder({ layers: 1, hidden: 64, heads: 4, inner: 128, words: 100, opset: 14 })
  const { model } = await compress(original, 'transformers.js-fp16')
  expect([...model.initializers.values()].some((i) => i.type === 'float16' && i.elementCount > 1000)).toBe(true)
  expect(await apart(model, tokens(1, 12, 100) as Values)).toBeLessThan(5e-3)
})

test('inputs and outputs in float16 keep their type, subgraphs are widened too', async () => {
  const half = (data: Float32Array) => toHalves(data)
  const w = floats([6, 5], 3)
  const inner = graph(
    [],
    { two: { type: 'float16', dims: [], data: half(Float32Array.of(2)) } },
    [['Mul', ['a', 'two'], ['p']]],
    ['p'],
  )
  const other = graph([], {}, [['Relu', ['a'], ['q']]], ['q'])
  for (const g of [inner, other])
    g.outputs = g.outputs.map(
      (o) =>
        Object.assign(Object.create(Object.getPrototypeOf(o) as object), o, {
          type: 'float16',
          dims: [4, 5],
        }) as typeof o,
    )
  const model = modelOf(
    graph(
      [
        ['x', 'float16', [4, 6]],
        ['c', 'bool', []],
      ],
      { w: { type: 'float16', dims: [6, 5], data: half(w.data as Float32Array) } },
      [
        ['MatMul', ['x', 'w'], ['a']],
        ['If', ['c'], ['b'], { then_branch: attribute.graph(inner), else_branch: attribute.graph(other) }],
        ['Cast', ['b'], ['y'], { to: attribute.int(1) }],
        ['Neg', ['b'], ['z']],
      ],
      ['y', 'z'],
    ),
  )
  const x = floats([4, 6], 9).data as Float32Array
  const session = await Session.create(model)
  for (const c of [1, 0]) {
    const { y, z } = await session.run({
      x: { type: 'float16', dims: [4, 6], data: half(x) },
      c: { type: 'bool', dims: [], data: Uint8Array.of(c) },
    })
    expect([y!.type, z!.type]).toEqual(['float32', 'float16'])
    for (let i = 0; i < 20; i++) {
      let sum = 0
      for (let k = 0; k < 6; k++) sum += x[Math.floor(i / 5) * 6 + k]! * (w.data as Float32Array)[k * 5 + (i % 5)]!
      expect(y!.data[i]).toBeCloseTo(c ? 2 * sum : Math.max(0, sum), 2)
    }
    expect(Array.from(z!.data as Uint16Array)).toEqual(Array.from(toHalves((y!.data as Float32Array).map((v) => -v))))
  }
})

test('every op with weights, in float16', async () => {
  const original = netOf(kSpecs, { listed: true })
  const { model } = await compress(original, 'transformers.js-fp16')
  const want = await runNet(original, kSpecs)
  const feeds = Object.fromEntries(kSpecs.map((spec, i) => [`x${i}`, inputFor(spec)]))
  const got = await (await Session.create(model)).run(feeds as unknown as Values)
  for (const [name, values] of Object.entries(want)) {
    const off = rms(values.map((v, i) => v - (got[name]!.data[i] as number))) / rms(values)
    expect(off).toBeLessThan(2e-3)
    expect(off).toBeGreaterThan(1e-6)
  }
})

test('a model that only stores float16 keeps it as it is: a table of rows is not widened', async () => {
  const table = { type: 'float16', dims: [50, 16], data: toHalves(floats([50, 16], 4).data as Float32Array) } as const
  const model = modelOf(
    graph(
      [['i', 'int64', [3]]],
      { t: table },
      [
        ['Gather', ['t', 'i'], ['r']],
        ['Cast', ['r'], ['y'], { to: attribute.int(1) }],
      ],
      ['y'],
    ),
  )
  const feeds = { i: { type: 'int64', dims: [3], data: BigInt64Array.of(3n, 49n, 0n) } } as const
  expect(await apart(model, feeds as unknown as Values)).toBe(0)
})
