import type { Node } from '../node'
import { control } from './control'
import { conv } from './conv'
import { elementwise } from './elementwise'
import { layout } from './layout'
import { matmuls } from './matmul'
import { norm } from './norm'
import type { Op, Ops } from './op'
import { pooling } from './pool'
import { quantization } from './quantize'
import { randoms } from './random'
import { recurrents } from './recurrent'
import { reductions } from './reduce'
import { resizing } from './resize'

const kOps: Ops = {
  ...control,
  ...conv,
  ...elementwise,
  ...layout,
  ...matmuls,
  ...norm,
  ...pooling,
  ...quantization,
  ...randoms,
  ...recurrents,
  ...reductions,
  ...resizing,
}

/** What is known about a node's op; `undefined` for ops that are only carried. */
export function opOf(node: Node): Op | undefined {
  const key = node.domain ? `${node.domain}:${node.opType}` : node.opType
  return Object.hasOwn(kOps, key) ? kOps[key] : undefined
}
