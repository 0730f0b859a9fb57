import { attribute, Initializer, Node, type Attribute, type Graph } from '../../model'
import { sizeOf } from '../../tensor'

/** What one integer operator is between DequantizeLinear and QuantizeLinear. */
interface Form {
  readonly opType: string
  /** where each operand's codes, scale and zero point are among the inputs */
  readonly operands: readonly (readonly [codes: number, scale: number, zero: number])[]
  /** where the scale and zero point of the result are; none: it is float */
  readonly result?: readonly [scale: number, zero: number]
  /** where a bias as int32 is, whose scale is the product of those of the operands */
  readonly bias?: number
  /** axis of the second operand's scales */
  readonly axis?: (node: Node) => number
}

const two = [[0, 1, 2], [3, 4, 5]] as const
const one = [[0, 1, 2]] as const

function formOf(node: Node): Form | undefined {
  if (node.domain === '' && node.opType === 'QLinearConv') return { opType: 'Conv', operands: two, result: [6, 7], bias: 8, axis: () => 0 }
  if (node.domain === '' && node.opType === 'QLinearMatMul') return { opType: 'MatMul', operands: two, result: [6, 7], axis: () => -1 }
  if (node.domain !== 'com.microsoft') return undefined
  switch (node.opType) {
    case 'QLinearAdd':
    case 'QLinearMul':
      return { opType: node.opType.slice(7), operands: two, result: [6, 7] }
    case 'QLinearSigmoid':
    case 'QLinearLeakyRelu':
      return { opType: node.opType.slice(7), operands: one, result: [3, 4] }
    case 'QLinearSoftmax':
      return { opType: 'Softmax', operands: one, result: [3, 4] }
    case 'QLinearGlobalAveragePool':
    case 'QLinearAveragePool':
      return node.int('channels_last', 0) ? undefined : { opType: node.opType.slice(7), operands: one, result: [3, 4] }
    case 'QLinearConcat':
      return { opType: 'Concat', operands: Array.from({ length: Math.floor((node.inputs.length - 2) / 3) }, (_, i) => [2 + 3 * i, 3 + 3 * i, 4 + 3 * i] as const), result: [0, 1] }
    case 'QGemm':
      return { opType: 'Gemm', operands: two, bias: 6, axis: (n) => (n.int('transB', 0) ? 0 : 1), ...(node.inputs[7] && { result: [7, 8] as const }) }
    default:
      return undefined
  }
}

/** The scale of an int32 bias, one for each of its elements, where both factors are constants. */
function biasScale(graph: Graph, a: string | undefined, b: string | undefined, bias: string): Initializer | undefined {
  const [x, y, c] = [a, b, bias].map((name) => (name ? graph.constant(name) : undefined))
  if (x?.type !== 'float32' || y?.type !== 'float32' || !c || x.elementCount !== 1) return undefined
  const [xs, ys] = [x.readSync().data as Float32Array, y.readSync().data as Float32Array]
  const n = sizeOf(c.dims)
  if (ys.length !== 1 && ys.length !== n) return undefined
  const data = Float32Array.from({ length: n }, (_, i) => (xs[0] as number) * (ys[ys.length === 1 ? 0 : i] as number))
  return Initializer.from(graph.uniqueName(`${bias}_scale`), { type: 'float32', dims: [n], data })
}

/** Operators over codes (QLinearConv and its kin) become float ones between DequantizeLinear and QuantizeLinear. */
export function expandQOperators(graph: Graph): void {
  for (const node of graph.nodes) {
    const form = formOf(node)
    if (!form) continue
    const bias = form.bias === undefined ? undefined : node.inputs[form.bias]
    const scale = bias ? biasScale(graph, node.inputs[1], node.inputs[4], bias) : undefined
    if (bias && !scale) continue
    const add = (opType: string, inputs: readonly (string | undefined)[], attributes: Record<string, Attribute>): string => {
      const name = graph.uniqueName(`${node.outputs[0]}_${opType}`)
      const given = inputs.map((i) => i ?? '')
      while (given[given.length - 1] === '') given.pop()
      graph.addNode(new Node({ name: node.name || name, opType, inputs: given, outputs: [name], attributes }), { before: node })
      return name
    }
    const floats = form.operands.map(([q, s, z], i) =>
      add('DequantizeLinear', [node.inputs[q], node.inputs[s], node.inputs[z]], i === 1 && form.axis ? { axis: attribute.int(form.axis(node)) } : {}),
    )
    if (bias && scale) {
      graph.addInitializer(scale)
      floats.push(add('DequantizeLinear', [bias, scale.name], { axis: attribute.int(-1) }))
    }
    const { result } = form
    const output = node.outputs[0] as string
    const sum = add(form.opType, floats, Object.fromEntries([...node.attributes].filter(([name]) => name !== 'channels_last')))
    graph.removeNode(node)
    const made = graph.producer(sum) as Node
    if (!result) {
      made.outputs = [output]
      continue
    }
    const zero = node.inputs[result[1]]
    const q = new Node({ name: node.name, opType: 'QuantizeLinear', inputs: [sum, node.inputs[result[0]] as string, ...(zero ? [zero] : [])], outputs: [output] })
    graph.addNode(q, { after: made })
  }
}
