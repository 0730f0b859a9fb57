import { WhittleError } from '../errors'
import { deviceIndex } from '../kernels/device'
import { cudaDevices } from '../kernels/devices'
import { inferShapes, type Graph, type Model, type Node } from '../model'
import { fail } from '../validate'
import { hasHost } from './hosts'

/** Where a session computes. */
export interface Placed {
  /** a GPU's number, -1: the CPU */
  readonly index: number
  readonly name: string
  /** why `'auto'` came to the CPU, `''` otherwise */
  readonly reason: string
  /** whether the CPU takes what the GPU lacks */
  readonly free: boolean
}

export const kCpu: Placed = { index: -1, name: 'cpu', reason: '', free: false }

/** Checks `options.device`. */
export function place(device: unknown): Placed {
  if (device === undefined || device === 'cpu') return kCpu
  if (typeof device !== 'string') fail('ERR_DTYPE', 'options.device', "'cpu', 'cuda', 'cuda:N' or 'auto'", device)
  if (device !== 'auto') {
    const index = deviceIndex(device, 'options.device', "'cpu', 'cuda', 'cuda:N' or 'auto'")
    return { index, name: `cuda:${index}`, reason: '', free: false }
  }
  const { available, reason } = cudaDevices()
  return available ? { index: 0, name: 'cuda:0', reason: '', free: true } : { ...kCpu, reason }
}

// What lowers to steps that devices have (core/cuda_net.h); what depends on attributes, or on the branch taken, is found when a plan is
// made.
const kOps = new Set(
  ('Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast ' +
    'CastLike Ceil Celu Clip Concat ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu ' +
    'Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual ' +
    'GroupNormalization HardSigmoid HardSwish Identity If InstanceNormalization IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log ' +
    'LogSoftmax MatMul MatMulInteger Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN Range Reciprocal ' +
    'ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Scatter ' +
    'ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish ' +
    'Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor').split(' '),
)

function hasKernel(node: Node): boolean {
  if (node.domain === 'whittle') return node.opType === 'Attention'
  if (node.domain === 'com.microsoft') return node.opType === 'MatMulNBits'
  return node.is() && kOps.has(node.opType)
}

/** Refuses what the device lacks, with op and node. */
export function refuse(op: string, node: string, device: string, what: string): never {
  throw new WhittleError('ERR_UNSUPPORTED_OP', node, `${op} ${node}: ${what} on ${device}; device: 'cpu' runs it`)
}

/** Refuses a graph with a node that neither the device nor the host runs. Arithmetic on integers alone may be a shape in the making. */
export function checkDeviceOps(model: Model, device: string): void {
  const { graph } = model
  const shapes = inferShapes(graph, model.opsets)
  const number = (g: Graph, name: string): boolean => /float|undefined/.test(g.constant(name)?.type ?? shapes.get(name, g)?.type ?? '')
  for (const node of graph.nodes) {
    if (node.is('Constant') || hasKernel(node) || hasHost(node)) continue
    if (node.subgraphs().length === 0 && node.is() && !/Linear|Integer/.test(node.opType) && ![...node.inputs, ...node.outputs].some((n) => n && number(graph, n))) continue
    refuse(`${node.domain ? `${node.domain}.` : ''}${node.opType}`, node.label, device, 'has no kernel')
  }
}
