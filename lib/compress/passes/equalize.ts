import { Initializer, type Graph, type Node } from '../../model/graph'
import type { Model } from '../../model/model'
import { count } from '../../report/format'
import type { Tensor } from '../../tensor'
import { fail, finite, integer, oneOf, options } from '../../validate'
import { absorb, floorsOf, type Absorb, type Between } from '../equalize/absorb'
import { linearsOf, type Linear } from '../fold/linear'
import type { Context, Pass, PassResult } from './pass'

/**
 * Moves factors by channel from where they are hard to quantize to where they are not, in a model that computes the same but for
 * rounding. It belongs behind `fold` and before `quantize`. Values whose scale changes get names of their own.
 */
export interface EqualizeStep {
  readonly step: 'equalize'
  /**
   * - `'weights'` (default): cross-layer equalization. Channels of two layers with at most ReLU, LeakyReLU, PReLU or pooling between
   *   them are scaled so that both weights reach equally far (Nagel 2019)
   * - `'inputs'`: SmoothQuant (Xiao 2023). Outliers of a LayerNormalization's channels, as calibration inputs show them, go over
   *   to the weights of the products that read it
   */
  readonly method?: 'weights' | 'inputs'
  /** Of `'inputs'`: the share of the difficulty that weights take, 0 to 1: s = max|x|^alpha / max|w|^(1 − alpha). Default 0.5. */
  readonly alpha?: number
  /** Of `'weights'`: passes over the model at most; chains of layers need several. Default 20. */
  readonly rounds?: number
  /**
   * Of `'weights'`: high-bias absorption (Nagel 2019). What channels exceed at all times, c = max(0, β − 3γ), goes through the
   * activation into the next layer's bias, so that values reach less far from 0; exact wherever a channel is c or more, which
   * one value in a thousand is not. β and γ come from the original's `'batchNorm'` before each activation, or are mean and
   * deviation over `'calibration'` inputs, c then never above the least value seen. Default `'none'`.
   */
  readonly absorb?: Absorb
}

/** @internal */
export type ResolvedEqualize = Required<EqualizeStep>

/** @internal */
export const equalizePass: Pass<ResolvedEqualize> = {
  name: 'equalize',
  resolve(value, parameter) {
    const given = options(value, parameter, ['step', 'method', 'alpha', 'rounds', 'absorb'])
    const absorb = given.absorb === undefined ? 'none' : oneOf(given.absorb, `${parameter}.absorb`, ['none', 'batchNorm', 'calibration'] as const)
    if (absorb !== 'none' && given.method === 'inputs') fail('ERR_RANGE', `${parameter}.absorb`, "'none' beside method 'inputs'", absorb)
    return {
      step: 'equalize',
      method: given.method === undefined ? 'weights' : oneOf(given.method, `${parameter}.method`, ['weights', 'inputs'] as const),
      alpha: given.alpha === undefined ? 0.5 : finite(given.alpha, `${parameter}.alpha`, 0, 1),
      rounds: given.rounds === undefined ? 20 : integer(given.rounds, `${parameter}.rounds`, 1, 1000),
      absorb,
    }
  },
  needs: (step) => (step.method === 'inputs' || step.absorb === 'calibration' ? ['calibration'] : []),
  apply,
}

function apply(model: Model, step: ResolvedEqualize, context: Context): Promise<PassResult> {
  return step.method === 'inputs' ? smooth(model, step, context) : crossLayers(model, step, context)
}

/** Ops with f(s x) = s f(x) for s > 0, channel by channel. */
const kHomogeneous = ['Relu', 'LeakyRelu', 'PRelu', 'Identity', 'MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool']

/** The one node that reads `value`, which is no output of the model. */
function readerOf(graph: Graph, value: string): Node | undefined {
  const users = graph.users(value)
  return users.length === 1 && !graph.isOutput(value) && users[0]!.subgraphs().length === 0 ? users[0] : undefined
}

function pairsOf(graph: Graph, layers: ReadonlyMap<Node, Linear>, spared: ReadonlySet<string>): Between[] {
  const found: Between[] = []
  for (const first of layers.values()) {
    const between: Node[] = []
    let value = first.output
    let reader = readerOf(graph, value)
    while (reader?.is(...kHomogeneous) && reader.inputs[0] === value && reader.outputs.length === 1) {
      between.push(reader)
      value = reader.outputs[0]!
      reader = readerOf(graph, value)
    }
    const second = reader && layers.get(reader)
    if (!second || second === first || second.data !== value || first.outputs !== second.inputs) continue
    // Channels of a product lie on the last axis, those of everything else on the second one.
    if (first.node.is('MatMul') !== second.node.is('MatMul') || (first.node.is('MatMul') && between.some((n) => !n.is('Relu', 'LeakyRelu', 'Identity')))) continue
    if (!spared.has(first.weight.name) && !spared.has(second.weight.name)) found.push({ first, second, between })
  }
  return found
}

async function crossLayers(model: Model, { rounds, absorb: from }: ResolvedEqualize, context: Context): Promise<PassResult> {
  const { run, memory, spared } = context
  let pairs = 0
  const absorbed = { biases: 0, pairs: 0 }
  for (const graph of model.graph.graphs()) {
    const layers = linearsOf(graph)
    const found = pairsOf(graph, layers, spared)
    const floors = await floorsOf(model, graph, found, from, context)
    const changed = new Set<Linear>()
    for (let round = 0, moved = 1; round < rounds && moved > 0.01; round++) {
      await run.tell('equalize', round, rounds)
      moved = 0
      for (const { first, second } of found) {
        const [top, next] = [reach(first, 'output'), reach(second, 'input')]
        // Channels without weights on one side have nothing to move.
        const s = top.map((r, i) => (r > 0 && next[i]! > 0 ? Math.sqrt(r / next[i]!) : 1))
        if (!s.every((v) => Number.isFinite(v) && v > 0)) continue
        first.scaleOutputs(s.map((v) => 1 / v))
        second.scaleInputs(s)
        floors.get(first)?.forEach((v, i, floor) => (floor[i] = v / s[i]!))
        changed.add(first).add(second)
        for (const v of s) moved = Math.max(moved, Math.abs(Math.log(v)))
      }
    }
    const scaled = found.filter((p) => changed.has(p.first)).length
    for (const pair of found) {
      const floor = floors.get(pair.first)
      const biases = floor ? absorb(pair, floor) : 0
      if (biases === 0) continue
      absorbed.biases += biases
      absorbed.pairs++
      changed.add(pair.first).add(pair.second)
    }
    for (const layer of changed) layer.write(memory)
    for (const { first, between } of found)
      if (changed.has(first)) for (const v of new Set([first.node.outputs[0]!, first.output, ...between.map((n) => n.outputs[0]!)])) rename(graph, v)
    pairs += scaled
  }
  await run.tell('equalize', rounds, rounds)
  const more = from === 'none' ? '' : ` Absorbed ${count(absorbed.biases)} high biases of ${count(absorbed.pairs)} pairs.`
  return { layers: [], summary: `Equalized ${count(pairs)} pairs of layers, channel by channel.${more}` }
}

/** The largest magnitude of each channel's weights. */
function reach(layer: Linear, side: 'input' | 'output'): Float64Array {
  const most = new Float64Array(side === 'input' ? layer.inputs : layer.outputs)
  layer.each((w, input, output) => {
    const i = side === 'input' ? input : output
    if (Math.abs(w) > most[i]!) most[i] = Math.abs(w)
  })
  return most
}

/** What is scaled is another value: nothing may compare it with the original's. */
function rename(graph: Graph, value: string): void {
  const maker = graph.producer(value)
  if (!maker) return
  const name = graph.uniqueName(`${value}_equalized`)
  graph.replaceUses(value, name)
  maker.outputs = maker.outputs.map((o) => (o === value ? name : o))
  graph.valueInfo.delete(value)
}

interface Smoothed {
  readonly norm: Node
  readonly value: string
  readonly readers: readonly Linear[]
  readonly parameters: readonly Initializer[]
}

async function smooth(model: Model, { alpha }: ResolvedEqualize, { run, memory, calibration, spared }: Context): Promise<PassResult> {
  const { graph } = model
  const layers = linearsOf(graph)
  const found: Smoothed[] = []
  for (const norm of graph.nodes) {
    if (!norm.is('LayerNormalization')) continue
    const value = norm.outputs[0]!
    const users = graph.users(value)
    const readers = users.map((u) => layers.get(u)).filter((l): l is Linear => l !== undefined && l.node.is('MatMul', 'Gemm') && l.data === value && !spared.has(l.weight.name))
    const parameters = norm.inputs.slice(1, 3).filter(Boolean).map((name) => graph.initializers.get(name))
    const own = parameters.every((p) => p?.type === 'float32' && p.dims.length === 1 && graph.users(p.name).length === 1 && !graph.isInput(p.name) && !graph.isOutput(p.name))
    const channels = parameters[0]?.elementCount
    if (!own || readers.length === 0 || readers.length !== users.length || graph.isOutput(value) || readers.some((l) => l.inputs !== channels)) continue
    found.push({ norm, value, readers, parameters: parameters as Initializer[] })
  }
  const tops = new Map(found.map((f) => [f.value, new Float64Array(f.parameters[0]!.elementCount)]))
  if (found.length > 0)
    await calibration!.each(model, [...tops.keys()], run, (values) => {
      for (const [name, top] of tops) raise(top, values.get(name)!)
    })
  let moved = 0
  for (const { norm, value, readers, parameters } of found) {
    const weights = readers.map((l) => reach(l, 'input'))
    const s = tops.get(value)!.map((top, j) => {
      const w = Math.max(...weights.map((r) => r[j]!))
      return top > 0 && w > 0 ? Math.max(1e-5, top ** alpha / w ** (1 - alpha)) : 1
    })
    if (!s.every(Number.isFinite)) continue
    for (const p of parameters) {
      const data = (p.readSync().data as Float32Array).map((v, j) => v / s[j]!)
      graph.setInitializer(p.name, Initializer.from(p.name, { type: 'float32', dims: p.dims, data }))
    }
    for (const layer of readers) {
      layer.scaleInputs(s)
      layer.write(memory)
    }
    rename(graph, norm.outputs[0]!)
    moved++
  }
  return { layers: [], summary: `Moved outliers of ${count(moved)} layer normalizations into the weights behind them.` }
}

/** Raises the largest magnitude of each channel on the last axis. */
function raise(top: Float64Array, { data }: Tensor): void {
  const values = data as Float32Array
  const n = top.length
  for (let i = 0; i < values.length; i += n) for (let j = 0; j < n; j++) top[j] = Math.max(top[j]!, Math.abs(values[i + j]!))
}
