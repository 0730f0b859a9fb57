import { WhittleError } from '../../errors'
import { Initializer, ValueInfo } from '../../model/graph'
import type { Model } from '../../model/model'
import type { Node } from '../../model/node'
import type { Tensor } from '../../tensor'
import type { Calibration, Inputs } from '../calibration'
import type { KeepBudget } from '../computed'
import { ease, pagedFloats } from '../paged'
import { Values, type Kept } from '../pieces'
import type { Run } from '../progress'
import { fromRows, rowLayoutOf, toRows, type RowLayout } from '../second/matrix'
import { samplesOf } from '../second/samples'
import type { Gone } from './cut'
import { Sums } from './squares'

/** A layer of the pruned model whose weights are fitted anew. */
interface Target {
  readonly node: Node
  readonly weight: string
  readonly layout: RowLayout
  /** What it reads in the pruned model. */
  readonly input: string
  /** What it should make: a value of the original, its layer's bias added. */
  readonly output: string
  /** The vector that is added; '' where a convolution has none yet, `undefined` where none can be. */
  readonly bias: string | undefined
  /** Outputs of the original that are left, by place. */
  readonly outputs: readonly number[]
}

/** Vectors of one set of inputs that are looked at. */
const kRows = 1024

/** Layers whose outputs the original makes in one reading, and bytes that a file keeps of them until their turn comes. */
const kTogether = 8
const kMostKept = 256e6

/**
 * @internal Least squares for the layers that lost inputs, first to last: weights and bias such that, on what the pruned model
 * gives them, they make what the original made (He 2017, eq. 5, with the errors of earlier layers seen as in its section 3.2). Ridge: the
 * squared change of the weights counts `ridge` times the inputs' mean square.
 *
 * `original` is the model before the cut, `model` the one after it, which is edited; `gone` says what it lacks, and of its weights those
 * that are `touched` are fitted. Fitted weights go to `keep`.
 *
 * The original is run once for up to eight layers, the pruned model, which changes with each of them, once for each. One layer's products of
 * inputs, and sampled outputs, lie in temporary files where they are large.
 *
 * @returns how many layers were fitted
 */
export async function reconstruct(
  original: Model,
  model: Model,
  gone: Gone,
  touched: ReadonlySet<string>,
  calibration: Calibration,
  run: Run,
  ridge: number,
  keep: KeepBudget,
): Promise<number> {
  const targets = targetsOf(original, model, gone, touched)
  const values = new Values()
  try {
    let wanted = new Map<Target, Wanted[]>()
    for (const [i, target] of targets.entries()) {
      await run.tell('prune', i, targets.length, target.node.name || target.weight)
      if (!wanted.has(target)) wanted = await outputsOf(original, targets.slice(i, i + kTogether), calibration, run, values)
      const own = wanted.get(target)!
      await fit(model, target, own, values, calibration, run, ridge, keep)
      for (const w of own) values.free(w.values)
      wanted.set(target, [])
    }
  } finally {
    values.close()
  }
  return targets.length
}

function targetsOf(original: Model, model: Model, gone: Gone, touched: ReadonlySet<string>): Target[] {
  const found: Target[] = []
  for (const node of model.graph.nodes) {
    const [input, weight] = node.inputs
    if (!input || !weight || !node.is('Conv', 'ConvTranspose', 'MatMul', 'Gemm')) continue
    const initializer = model.graph.initializers.get(weight)
    const depthwise = node.is('Conv', 'ConvTranspose') && node.int('group', 1) > 1
    const reads = gone.get(weight)?.has(inputAxisOf(node)) === true
    if (!initializer || initializer.type !== 'float32' || !touched.has(weight) || (!reads && !depthwise)) continue
    if (model.graph.users(weight).length !== 1 || model.graph.constant(input)) continue
    if (node.is('MatMul') && initializer.dims.length !== 2) continue
    if (node.is('Gemm') && (node.int('transA', 0) || node.float('alpha', 1) !== 1 || node.float('beta', 1) !== 1)) continue
    const layout = rowLayoutOf({ node, initializer }, 1)
    if (!layout) continue
    const { bias, output } = biasOf(model, node, layout)
    if (!original.graph.producer(output)) continue
    const before = original.graph.initializers.get(weight)?.dims
    if (!before) continue
    const axis = outputAxisOf(node)
    const all = before[axis]! * (node.is('ConvTranspose') ? node.int('group', 1) : 1)
    const away = gone.get(weight)?.get(axis)
    // Of a transposed convolution in groups, axis 1 counts the outputs of one group.
    if (node.is('ConvTranspose') && layout.groups > 1) {
      if (depthwise && before[1] === 1) {
        const channels = gone.get(weight)?.get(0)
        found.push({ node, weight, layout, input, output, bias, outputs: Array.from({ length: before[0]! }, (_, i) => i).filter((i) => !channels?.has(i)) })
      }
      continue
    }
    found.push({ node, weight, layout, input, output, bias, outputs: Array.from({ length: all }, (_, i) => i).filter((i) => !away?.has(i)) })
  }
  return found
}

/** Of a layer without groups. */
function inputAxisOf(node: Node): number {
  return node.is('Conv') ? 1 : 1 - outputAxisOf(node)
}

function outputAxisOf(node: Node): number {
  if (node.is('Conv')) return 0
  return node.is('Gemm') && node.int('transB', 0) ? 0 : 1
}

/** The bias of a layer, and the value that has it. */
function biasOf(model: Model, node: Node, layout: RowLayout): { readonly bias: string | undefined; readonly output: string } {
  const { graph } = model
  const output = node.outputs[0]!
  const width = layout.groups * layout.outputs
  const vector = (name: string | undefined): boolean => {
    const t = name ? graph.initializers.get(name) : undefined
    return t !== undefined && t.type === 'float32' && t.elementCount === width && t.dims[t.dims.length - 1] === width && graph.users(t.name).length === 1
  }
  if (node.is('Conv', 'ConvTranspose')) {
    const given = node.inputs[2]
    return { bias: given ? (vector(given) ? given : undefined) : '', output }
  }
  if (node.is('Gemm')) return { bias: vector(node.inputs[2]) ? node.inputs[2] : undefined, output }
  const [add, another] = graph.users(output)
  const other = add?.inputs.find((i) => i !== output)
  if (add?.is('Add') && !another && !graph.isOutput(output) && vector(other)) return { bias: other, output: add.outputs[0]! }
  return { bias: undefined, output }
}

/** The part of a model that makes some values. */
function upTo(model: Model, values: readonly string[]): Model {
  const part = model.clone()
  part.graph.outputs = values.map((value) => new ValueInfo(value, 'float32', null))
  part.graph.removeDeadNodes()
  part.graph.removeDeadInitializers()
  return part
}

/** Of one set of inputs what the original made, at some of the places that a layer's sums are taken at. */
interface Wanted {
  /** Of the inputs: another reading must give the same. */
  readonly print: number
  readonly at: Int32Array
  /** How many places there are. */
  readonly rows: number
  /** [outputs that stay, at.length] */
  readonly values: Kept
}

/** Runs the original for all targets at once. What is more than may be kept is left to another call; never the first target's. */
async function outputsOf(original: Model, targets: readonly Target[], calibration: Calibration, run: Run, kept: Values): Promise<Map<Target, Wanted[]>> {
  const found = new Map<Target, Wanted[]>(targets.map((t) => [t, []]))
  const outputs = [...new Set(targets.map((t) => t.output))]
  let bytes = 0
  await calibration.each(upTo(original, outputs), outputs, run, (made, set, inputs) => {
    const print = fingerprint(inputs)
    for (const [target, list] of found) {
      const { at, rows, values } = sampled(target, made.get(target.output)!, set)
      list.push({ print, at, rows, values: kept.put(values) })
      bytes += values.byteLength
    }
    for (const last of [...found.keys()].reverse()) {
      if (bytes <= kMostKept || found.size === 1) break
      for (const { at, values } of found.get(last)!) {
        bytes -= 4 * last.outputs.length * at.length
        kept.free(values)
      }
      found.delete(last)
    }
  })
  return found
}

/** Evenly, with a phase that goes with the set: no column of an image is favoured. */
function sampled({ node, outputs, layout }: Target, y: Tensor, set: number): Omit<Wanted, 'print' | 'values'> & { readonly values: Float32Array } {
  if (y.type !== 'float32') throw new WhittleError('ERR_DTYPE', node.label, `calibration: node ${node.label}: expected float32 outputs, got ${y.type}`)
  if (outputs.length !== layout.groups * layout.outputs)
    throw new WhittleError('ERR_SHAPE', node.label, `${node.label}: ${outputs.length} outputs stay, the weight has ${layout.groups * layout.outputs}`)
  const data = y.data as Float32Array
  const images = node.is('Conv', 'ConvTranspose')
  const width = images ? y.dims[1]! : y.dims[y.dims.length - 1]!
  const rows = width > 0 ? data.length / width : 0
  const area = images && y.dims[0]! > 0 ? rows / y.dims[0]! : 1
  const phase = (set * 0.618033988749895) % 1
  const count = Math.min(rows, kRows)
  const at = Int32Array.from({ length: count }, (_, i) => Math.min(rows - 1, Math.floor(((i + phase) * rows) / count)))
  const values = new Float32Array(outputs.length * count)
  for (const [o, channel] of outputs.entries())
    for (let j = 0; j < count; j++) {
      const row = at[j]!
      const image = Math.floor(row / area)
      values[o * count + j] = data[images ? (image * width + channel) * area + (row - image * area) : row * width + channel]!
    }
  return { at, rows, values }
}

/** A hash of up to 1024 values of each input. */
function fingerprint(inputs: Inputs): number {
  let hash = 0x811c9dc5
  for (const name of Object.keys(inputs).sort()) {
    const value = inputs[name]!
    const data = (ArrayBuffer.isView(value) ? value : value.data) as ArrayLike<unknown>
    const step = Math.max(1, Math.floor(data.length / 1024))
    hash = Math.imul(hash ^ data.length, 0x01000193)
    for (let i = 0; i < data.length; i += step) {
      kNumber[0] = Number(data[i])
      hash = Math.imul(hash ^ kBits[0]! ^ Math.imul(kBits[1]!, 0x9e3779b1), 0x01000193)
    }
  }
  return hash
}

const kNumber = new Float64Array(1)
const kBits = new Int32Array(kNumber.buffer)

async function fit(model: Model, target: Target, wanted: readonly Wanted[], kept: Values, calibration: Calibration, run: Run, ridge: number, keep: KeepBudget): Promise<void> {
  const { node, weight, layout, input, bias } = target
  const { groups, size, outputs: perGroup } = layout
  const initializer = model.graph.initializers.get(weight)!
  const sums = new Sums(groups, size, perGroup)
  await calibration.each(model.graph.isInput(input) ? model : upTo(model, [input]), [input], run, (values, set, inputs) => {
    const samples = samplesOf(node, 1, layout, initializer.dims, values.get(input)!)
    const own = wanted[set]
    if (own?.rows !== samples.rows || own.print !== fingerprint(inputs))
      throw new WhittleError('ERR_RANGE', 'calibration', `calibration: expected the same inputs in the same order at every reading, set ${set} differs`)
    if (own.at.length > 0) sums.add(samples.fill.bind(samples), own.at, kept.get(own.values) as Float32Array)
  })
  if (sums.rows === 0) return
  // Solved for in place: what is read may be the model's own.
  const data = pagedFloats(initializer.elementCount)
  data.set(run.scratch.read(initializer).data as Float32Array)
  ease()
  const weights = toRows(data, layout)
  const oldBias = bias ? Float32Array.from(model.graph.initializers.get(bias)!.readSync().data as Float32Array) : new Float32Array(groups * perGroup)
  const fitted = sums.solve(weights, oldBias, bias !== undefined, ridge)
  if (!fitted) return
  const made = fromRows(weights, layout)
  ease()
  model.graph.setInitializer(weight, new Initializer(weight, 'float32', initializer.dims, keep.hold(new Uint8Array(made.buffer, made.byteOffset, made.byteLength))))
  if (bias === undefined) return
  if (bias) model.graph.setInitializer(bias, { type: 'float32', dims: model.graph.initializers.get(bias)!.dims, data: fitted })
  else {
    const name = model.graph.uniqueName(`${weight}_bias`)
    model.graph.addInitializer(Initializer.from(name, { type: 'float32', dims: [groups * perGroup], data: fitted }))
    node.setInput(2, name)
  }
}
