import type { Node } from '../../model'
import type { Lower } from '../lowering'
import { convolution } from './conv'
import { elementwise } from './elementwise'
import { layout } from './layout'
import { product } from './matmul'
import { norm } from './norm'
import { pooling } from './pool'

const kOps: Readonly<Record<string, Lower>> = { ...elementwise, ...convolution, ...product, ...layout, ...pooling, ...norm }

/** How an op becomes steps; undefined for one that a session has no kernel for. */
export function lowerOf(node: Node): Lower | undefined {
  return node.is() && Object.hasOwn(kOps, node.opType) ? kOps[node.opType] : undefined
}
