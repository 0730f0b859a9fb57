import type { Node } from '../../model'
import type { Lower } from '../lowering'
import { attentions } from './attention'
import { convolution } from './conv'
import { elementwise } from './elementwise'
import { indexing } from './indexing'
import { layout } from './layout'
import { product } from './matmul'
import { norm } from './norm'
import { padding } from './pad'
import { picking } from './pick'
import { pooling } from './pool'
import { recurrents } from './recurrent'
import { quantization } from './quantized'
import { resizing } from './resize'
import { sampling } from './sample'
import { orTyped, typedOps } from './typed'

/** Arithmetic that also exists for integers. */
const arithmetic = Object.fromEntries(
  ['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Min', 'Max', 'Neg', 'Abs', 'Sign'].map((op) => [op, orTyped(elementwise[op] as Lower, op.toLowerCase())]),
)

const kOps: Readonly<Record<string, Lower>> = {
  ...elementwise,
  ...arithmetic,
  ...convolution,
  ...product,
  ...layout,
  ...typedOps,
  ...picking,
  ...padding,
  ...pooling,
  ...norm,
  ...resizing,
  ...sampling,
  ...attentions,
  ...recurrents,
  ...quantization,
  ...indexing,
}

/** How an op becomes steps; undefined for one that a session has no kernel for. */
export function lowerOf(node: Node): Lower | undefined {
  const key = node.domain ? `${node.domain}:${node.opType}` : node.opType
  return Object.hasOwn(kOps, key) ? kOps[key] : undefined
}
