import fs from 'node:fs'
import path from 'node:path'

import * as ort from 'onnxruntime-node'

import { compress, quantizeStatic, type Model, type Recipe } from '../lib'
import { type Values } from './graphs'
import { rivals } from './rivals'

interface Case {
  readonly net: keyof typeof rivals
  readonly ranges: string
  readonly activationType: string
  readonly errors: readonly number[]
}

const { cases } = JSON.parse(fs.readFileSync(path.join(__dirname, 'fixtures', 'static.json'), 'utf8')) as { cases: readonly Case[] }

const kHeld = [16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]

/** Outputs in onnxruntime for each of the inputs that calibration did not see. */
async function answers(model: Model, input: (i: number) => Values): Promise<Float32Array[][]> {
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 4, intraOpNumThreads: 1 })
  const all: Float32Array[][] = []
  for (const i of kHeld) {
    const feeds = Object.fromEntries(Object.entries(input(i)).map(([k, t]) => [k, new ort.Tensor(t.type as 'float32', t.data as Float32Array, t.dims)]))
    const found = await session.run(feeds)
    all.push(model.graph.outputs.map((o) => found[o.name]!.data as Float32Array))
  }
  await session.release()
  return all
}

/** ‖y − ŷ‖ / ‖y‖ of each output. */
function errorsOf(float: readonly Float32Array[][], coded: readonly Float32Array[][]): number[] {
  return float[0]!.map((_, k) => {
    let [off, all] = [0, 0]
    float.forEach((set, i) =>
      set[k]!.forEach((v, j) => {
        off += (v - coded[i]![k]![j]!) ** 2
        all += v * v
      }),
    )
    return Math.sqrt(off / all)
  })
}

const kFloat = new Map(Object.entries(rivals).map(([net, { model, input }]) => [net, answers(model(), input)]))

test.each(cases)("static codes of $net by $ranges, $activationType, are not further off than onnxruntime's quantizer", async ({ net, errors, ...own }) => {
  const { model, input } = rivals[net]
  const step = { step: 'quantize', activations: 'static', minChannels: 1, layers: { minElements: 1 }, ...own }
  const calibration = Array.from({ length: 16 }, (_, i) => input(i))
  const made: Model[] = []
  for (const target of ['session', 'onnxruntime'])
    made.push((await compress(model(), { steps: [{ ...step, target }] } as Recipe, { calibration })).model)
  if (own.ranges === 'minmax') made.push(await quantizeStatic(model(), calibration, { activations: own.activationType as 'int8', minChannels: 1 }))
  for (const small of made) {
    const found = errorsOf((await kFloat.get(net))!, await answers(small, input))
    found.forEach((e, k) => expect(e).toBeLessThanOrEqual(errors[k]!))
  }
})
