import { native } from '../native'
import type { Program } from './program'
import { isSparse } from './tune'
import type { PlanStep } from './types'

/** The kernel families that steps multiply and add with; steps without one only move and compare. */
const kFamilies: Readonly<Record<string, string>> = {
  elementwise: 'elementwise', pool: 'elementwise', resize: 'elementwise', scatter_taps: 'elementwise',
  gemm: 'gemm', conv: 'gemm', conv_pair: 'gemm', conv_volume: 'gemm', attention: 'gemm', recurrent: 'gemm',
  conv_planes: 'conv', conv_grouped: 'conv', softmax: 'norm', layer_norm: 'norm', reduce: 'norm',
  quantize: 'quantize', dequantize: 'quantize', dynamic_quantize: 'quantize', elementwise_codes: 'quantize', gather_codes: 'quantize',
  conv_int8: 'gemm_int8', gemm_int8: 'gemm_int8', matmul_integer: 'gemm_int8', gemm_dynamic: 'gemm_int8', gemm_weight: 'gemm_weight',
} // prettier-ignore

/** What a plan's steps are, for people: the kernel, its variant on this machine, and the bytes it goes over. */
export function reportOf(program: Program, device: string | undefined): PlanStep[] {
  const { kernels } = native().systemInfo()
  return program.steps.map(({ op, node, choice, args }) => {
    const memory = new Set(args.flatMap((a) => (a === null || typeof a === 'number' ? [] : ['packed' in a ? a.packed : a])))
    let [weights, values] = [0, 0]
    for (const { place, bytes } of memory) {
      if (place === 'constant') weights += bytes
      else values += bytes
    }
    let family = kFamilies[op]
    if (choice && family && isSparse(choice.name)) family = family.endsWith('int8') ? 'sparse_int8' : 'sparse'
    const variant = device ? 'cuda' : family && kernels[family]
    return { op, node, ...(choice && { choice: choice.name }), ...(variant && { variant }), bytes: { weights, values } }
  })
}
