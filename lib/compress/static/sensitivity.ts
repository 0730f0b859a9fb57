import type { Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import { raiseOpset } from '../../model/opset'
import type { Tensor } from '../../tensor'
import { Calibration, type Inputs } from '../calibration'
import { numbersOf } from '../half/widen'
import type { Run } from '../progress'
import type { CodedLayer } from './layers'
import { insertPair } from './pairs'
import type { Code } from './ranges'

/** Sets of inputs that are enough to rank layers by. */
const kSets = 8

/** The model's float outputs, each before a softmax or sigmoid at the very end: those hide how far off a value is. */
function scoresOf(graph: Graph): string[] {
  return graph.outputs.map(({ name }) => {
    const made = graph.producer(name)
    return made?.is('Softmax', 'LogSoftmax', 'Sigmoid', 'HardSigmoid') && made.inputs[0] ? made.inputs[0] : name
  })
}

/**
 * Noise over signal, Σ(y − ŷ)² / Σy², of the model's outputs (the worst of them) where one value alone is made of codes.
 * Measured on the first calibration inputs, for each of `inputs`.
 */
export async function noiseOf(
  model: Model,
  layers: readonly CodedLayer[],
  codes: ReadonlyMap<string, Code>,
  calibration: Calibration,
  run: Run,
  threads?: number,
): Promise<Map<string, number>> {
  const sets: Inputs[] = []
  for await (const inputs of calibration.inputs()) if (sets.push(inputs) === kSets) break
  const fetch = scoresOf(model.graph)
  const few = Calibration.from(sets)
  const answers = async (m: Model): Promise<ReadonlyMap<string, Tensor>[]> => {
    const found: ReadonlyMap<string, Tensor>[] = []
    await few.each(m, fetch, run, (values) => void found.push(values), { phase: 'none', inScratch: true, ...(threads === undefined ? {} : { threads }) })
    return found
  }
  const want = await answers(model)
  const noise = new Map<string, number>()
  const inputs = [...new Set(layers.map((l) => l.input))]
  for (const [i, input] of inputs.entries()) {
    await run.tell('measure', i, inputs.length, input)
    const trial = model.clone()
    raiseOpset(trial, 13)
    const readers = trial.graph.users(input).filter((n) => layers.some((l) => l.input === input && l.node.outputs[0] === n.outputs[0]))
    insertPair(trial.graph, input, codes.get(input) as Code, readers)
    noise.set(input, worst(fetch, want, await answers(trial)))
  }
  await run.tell('measure', inputs.length, inputs.length)
  return noise
}

function worst(names: readonly string[], want: readonly ReadonlyMap<string, Tensor>[], got: readonly ReadonlyMap<string, Tensor>[]): number {
  let most = 0
  for (const name of names) {
    let signal = 0
    let off = 0
    for (const [i, one] of want.entries()) {
      const [y, z] = [one.get(name), got[i]?.get(name)].map((t) => t && numbersOf(t))
      if (!y || z?.length !== y.length) continue
      for (let k = 0; k < y.length; k++) {
        const v = y[k] as number
        const d = v - (z[k] as number)
        signal += v * v
        off += d * d
      }
    }
    most = Math.max(most, off === 0 ? 0 : signal > 0 ? off / signal : Infinity)
  }
  return most
}

/**
 * The values that stay float, so that the noise of the others together (it adds up, being independent) is at most `budget`: the
 * fewest, worst first.
 */
export function tooNoisy(noise: ReadonlyMap<string, number>, budget: number): Set<string> {
  const ranked = [...noise].sort((a, b) => a[1] - b[1])
  let sum = 0
  const float = new Set<string>()
  for (const [value, n] of ranked) {
    sum += n
    if (sum > budget) float.add(value)
  }
  return float
}
