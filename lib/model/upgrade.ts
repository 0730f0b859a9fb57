import { WhittleError } from '../errors'
import type { Tensor } from '../tensor'
import type { Graph } from './graph'
import { toHalf } from './half'
import { Initializer } from './initializer'
import { attribute, Node, type Attribute } from './node'
import type { Inferred } from './ops/op'
import type { Shapes } from './ops/infer'

/** One node on its way to the next definition of its op. Converters check everything before they change anything. */
export class Upgrade {
  readonly node: Node
  readonly graph: Graph
  readonly version: number
  /** nodes that were put in: they are written for this version */
  readonly added: Node[] = []
  readonly #shapes: Shapes

  constructor(node: Node, graph: Graph, version: number, shapes: Shapes) {
    this.node = node
    this.graph = graph
    this.version = version
    this.#shapes = shapes
  }

  refuse(why: string): never {
    const { opType, label } = this.node
    throw new WhittleError(
      'ERR_UNSUPPORTED_OP',
      label,
      `${opType} ${label}: cannot be raised to opset ${this.version}: ${why}`,
    )
  }

  shape(input: number): Inferred | undefined {
    const name = this.node.inputs[input]
    return name ? this.#shapes.get(name, this.graph) : undefined
  }

  rank(input: number): number | undefined {
    return this.shape(input)?.dims?.length
  }

  /** Takes an attribute off the node. */
  take(name: string): Attribute | undefined {
    const a = this.node.attributes.get(name)
    this.node.attributes.delete(name)
    return a
  }

  /** A new constant; returns its name. */
  constant(hint: string, tensor: Tensor): string {
    const name = this.graph.uniqueName(`${this.node.outputs.find((o) => o) ?? 'node'}_${hint}`)
    this.graph.addInitializer(Initializer.from(name, tensor))
    return name
  }

  ints(hint: string, values: readonly (number | bigint)[], dims: readonly number[] = [values.length]): string {
    return this.constant(hint, { type: 'int64', dims, data: BigInt64Array.from(values, (v) => BigInt(v)) })
  }

  /** A float scalar of the element type of input 0. */
  scalar(hint: string, value: number): string {
    const type = this.shape(0)?.type
    if (type === 'float32') return this.constant(hint, { type, dims: [], data: Float32Array.of(value) })
    if (type === 'float64') return this.constant(hint, { type, dims: [], data: Float64Array.of(value) })
    if (type === 'float16') return this.constant(hint, { type, dims: [], data: Uint16Array.of(toHalf(value)) })
    return this.refuse(`the type of its input is ${!type || type === 'undefined' ? 'not known' : type}`)
  }

  /** Turns an int-list attribute into an input. */
  listToInput(name: string, index: number): void {
    const a = this.node.attributes.get(name)
    if (!a) return
    if (a.type !== 'ints') this.refuse(`attribute ${name} is of type ${a.type}`)
    this.take(name)
    this.node.setInput(index, this.ints(name, a.value))
  }

  /** Adds a node before this one; returns its output. */
  before(opType: string, inputs: readonly string[], attributes: Readonly<Record<string, Attribute>> = {}): string {
    const output = this.graph.uniqueName(`${this.node.outputs.find((o) => o) ?? 'node'}_${opType.toLowerCase()}`)
    this.added.push(
      this.graph.addNode(new Node({ opType, inputs, outputs: [output], attributes }), { before: this.node }),
    )
    return output
  }
}

type Converter = (u: Upgrade) => void

const dropConsumed: Converter = (u) => void u.take('consumed_inputs')

/** Opset 6 and before: operands broadcast only with `broadcast`, the second one aligned at `axis`. */
const broadcast7: Converter = (u) => {
  const broadcast = u.node.int('broadcast', 0)
  const axis = u.node.int('axis')
  if (broadcast && axis !== undefined) {
    const [a, b] = [u.rank(0), u.rank(1)]
    if (a === undefined || b === undefined) return u.refuse('the ranks of its operands are not known')
    const trailing = a - (axis < 0 ? axis + a : axis) - b
    if (trailing < 0) return u.refuse(`axis ${axis} does not fit ranks ${a} and ${b}`)
    if (trailing > 0) {
      const axes = Array.from({ length: trailing }, (_, i) => b + i)
      u.node.setInput(1, u.before('Unsqueeze', [u.node.inputs[1] as string], { axes: attribute.ints(axes) }))
    }
  }
  u.take('broadcast')
  u.take('axis')
}

const refuse =
  (why: string): Converter =>
  (u) =>
    u.refuse(why)

/** Softmax over all axes from `axis` on becomes softmax over one axis. */
const softmax13: Converter = (u) => {
  const { node } = u
  const axis = node.int('axis', 1)
  const dims = u.shape(0)?.dims
  if (dims) {
    const at = axis < 0 ? axis + dims.length : axis
    // Axes of size 1 add nothing to what is summed.
    const wide = dims.map((d, i) => ({ d, i })).filter(({ d, i }) => i >= at && d !== 1)
    if (wide.length <= 1) {
      node.attributes.set('axis', attribute.int(wide[0]?.i ?? Math.min(at, dims.length - 1)))
      return
    }
  }
  const x = node.inputs[0] as string
  const y = node.outputs[0] as string
  const shape = u.before('Shape', [x])
  const flat = u.before('Flatten', [x], { axis: attribute.int(axis) })
  const inner = u.graph.uniqueName(`${y}_flat`)
  node.setInput(0, flat)
  node.outputs = [inner]
  node.attributes.set('axis', attribute.int(-1))
  u.added.push(u.graph.addNode(new Node({ opType: 'Reshape', inputs: [inner, shape], outputs: [y] }), { after: node }))
}

/** Opset 10 resized with corner-aligned grids; a nearest element was the one before, or when shrinking the one after. */
const resize11: Converter = (u) => {
  const { node } = u
  const [x = '', scales = ''] = node.inputs
  let nearest = 'floor'
  if (node.string('mode', 'nearest') === 'nearest') {
    const t = u.graph.constant(scales)
    if (!t || t.type !== 'float32') return u.refuse('its scales are not constant')
    const values = [...(t.readSync().data as Float32Array)]
    const shrinks = values.some((v) => v < 1)
    if (shrinks && values.some((v) => v > 1)) return u.refuse('it enlarges one axis and shrinks another')
    if (shrinks) nearest = 'ceil'
  }
  const roi = u.constant('roi', { type: 'float32', dims: [0], data: new Float32Array(0) })
  node.inputs = [x, roi, scales]
  node.attributes.set('coordinate_transformation_mode', attribute.string('asymmetric'))
  node.attributes.set('nearest_mode', attribute.string(nearest))
}

/** Empty tensors stood for inputs not given. */
const resize13: Converter = (u) => {
  const empty = new Set(u.node.inputs.slice(1).filter((name) => name && u.graph.constant(name)?.elementCount === 0))
  if (empty.size === 0) return
  u.node.inputs = u.node.inputs.map((name) => (empty.has(name) ? '' : name))
  for (const name of empty)
    if (u.graph.users(name).length === 0 && !u.graph.isOutput(name)) u.graph.initializers.delete(name)
}

const axesToInput: Converter = (u) => u.listToInput('axes', 1)

const batchNorm7: Converter = (u) => {
  if (u.node.int('is_test', 0) === 0) return u.refuse('it is in training mode')
  u.take('is_test')
}

const recurrent7: Converter = (u) => void u.take('output_sequence')

const elementwise6 = [
  ...['Abs', 'Add', 'BatchNormalization', 'Ceil', 'Clip', 'Div', 'Dropout', 'Elu', 'Exp', 'Floor', 'HardSigmoid'],
  ...[
    'InstanceNormalization',
    'LeakyRelu',
    'Log',
    'Max',
    'Mean',
    'Min',
    'Mul',
    'Neg',
    'PRelu',
    'Reciprocal',
    'Relu',
    'Selu',
  ],
  ...['Sigmoid', 'Sqrt', 'Sub', 'Sum', 'Tanh'],
]
const broadcasting7 = ['Add', 'And', 'Div', 'Equal', 'Greater', 'Less', 'Mul', 'Or', 'Pow', 'Sub', 'Xor']
const reductions18 = ['L1', 'L2', 'LogSum', 'LogSumExp', 'Max', 'Mean', 'Min', 'Prod', 'SumSquare']

/** By op and the opset that changed its meaning or its form. */
export const kConverters: Readonly<Record<string, Converter>> = {
  ...Object.fromEntries(elementwise6.map((op) => [`${op}@6`, dropConsumed])),
  ...Object.fromEntries(broadcasting7.map((op) => [`${op}@7`, broadcast7])),
  ...Object.fromEntries(reductions18.map((op) => [`Reduce${op}@18`, axesToInput])),
  ...Object.fromEntries(['Softmax', 'LogSoftmax', 'Hardmax'].map((op) => [`${op}@13`, softmax13])),
  ...Object.fromEntries(['GRU', 'LSTM', 'RNN'].map((op) => [`${op}@7`, recurrent7])),
  'BatchNormalization@7': batchNorm7,
  'BatchNormalization@9': (u) => {
    if (u.node.int('spatial', 1) !== 1) return u.refuse('its statistics are per element')
    u.take('spatial')
  },
  'BatchNormalization@14': (u) => {
    if (u.node.outputs.filter((o) => o).length > 1) return u.refuse('it is in training mode')
    u.node.outputs = u.node.outputs.slice(0, 1)
  },
  'Cast@6': refuse('its type is given by name'),
  'Clip@11': (u) => {
    const [low, high] = [u.node.float('min'), u.node.float('max')]
    const names = [low === undefined ? '' : u.scalar('min', low), high === undefined ? '' : u.scalar('max', high)]
    u.take('min')
    u.take('max')
    while (names.length > 0 && !names[names.length - 1]) names.pop()
    u.node.inputs = [u.node.inputs[0] as string, ...names]
  },
  'Concat@4': (u) => {
    if (!u.node.attributes.has('axis')) u.node.attributes.set('axis', attribute.int(1))
  },
  'ConvTranspose@11': (u) => {
    if (u.node.string('auto_pad', 'NOTSET').startsWith('SAME')) return u.refuse('the meaning of auto_pad changed')
  },
  'DFT@20': (u) => {
    const axis = u.node.int('axis', 1)
    u.take('axis')
    u.node.setInput(2, u.ints('axis', [axis], []))
  },
  'Dropout@7': batchNorm7,
  'Dropout@10': (u) => {
    const mask = u.node.outputs[1]
    if (mask && (u.graph.users(mask).length > 0 || u.graph.isOutput(mask)))
      return u.refuse('its mask is read, and became boolean')
    u.node.outputs = u.node.outputs.slice(0, 1)
  },
  'Dropout@12': (u) => {
    const ratio = u.node.float('ratio')
    u.take('ratio')
    // Without training_mode the ratio has no effect; it is kept for those who read it.
    if (ratio !== undefined)
      u.node.setInput(1, u.constant('ratio', { type: 'float32', dims: [], data: Float32Array.of(ratio) }))
  },
  'GRU@3': refuse('linear_before_reset was not there'),
  'Gemm@7': (u) => {
    u.take('broadcast')
  },
  'GlobalLpPool@2': refuse('the type of p changed'),
  'GridSample@20': (u) => {
    const mode = u.node.string('mode', 'bilinear')
    const renamed: Record<string, string> = { bilinear: 'linear', bicubic: 'cubic' }
    u.node.attributes.set('mode', attribute.string(renamed[mode] ?? mode))
  },
  'GroupNormalization@21': refuse('scale and bias became one per channel'),
  'LpPool@2': refuse('the type of p changed'),
  'PRelu@7': (u) => {
    const slope = u.graph.constant(u.node.inputs[1] ?? '')
    if (slope?.elementCount !== 1) return u.refuse('its slope is one per channel')
  },
  'Pad@2': refuse('its attributes changed'),
  'Pad@11': (u) => {
    const value = u.node.float('value', 0)
    const name = value === 0 ? '' : u.scalar('value', value)
    u.take('value')
    u.listToInput('pads', 1)
    if (name) u.node.setInput(2, name)
  },
  'ReduceSum@13': axesToInput,
  'Reshape@5': (u) => u.listToInput('shape', 1),
  'Resize@11': resize11,
  'Resize@13': resize13,
  'RoiAlign@16': (u) => {
    if (!u.node.attributes.has('coordinate_transformation_mode'))
      u.node.attributes.set('coordinate_transformation_mode', attribute.string('output_half_pixel'))
  },
  'Scan@9': refuse('its batch axis is gone'),
  'Scatter@11': (u) => {
    u.node.opType = 'ScatterElements'
  },
  'Slice@10': (u) => {
    u.listToInput('starts', 1)
    u.listToInput('ends', 2)
    u.listToInput('axes', 3)
  },
  'Split@2': refuse('its form changed'),
  'Split@13': (u) => u.listToInput('split', 1),
  'Split@18': (u) => {
    if (!u.node.inputs[1]) u.node.attributes.set('num_outputs', attribute.int(u.node.outputs.length))
  },
  'Squeeze@13': axesToInput,
  'Tile@6': refuse('its form changed'),
  'TopK@10': (u) => {
    const k = u.node.int('k')
    if (k === undefined) return u.refuse('it has no k')
    u.take('k')
    u.node.setInput(1, u.ints('k', [k]))
  },
  'Unsqueeze@13': axesToInput,
  'Upsample@7': refuse('its form changed'),
  'Upsample@9': (u) => {
    const a = u.node.attributes.get('scales')
    if (a?.type !== 'floats') return u.refuse('it has no scales')
    u.take('scales')
    u.node.setInput(
      1,
      u.constant('scales', { type: 'float32', dims: [a.value.length], data: Float32Array.from(a.value) }),
    )
  },
  'Upsample@10': (u) => {
    u.node.opType = 'Resize'
  },
}
