import type { Node } from '../../model'
import type { Lowering } from '../lowering'
import type { Images } from './depth'
import { takeAffines, takeEpilogue, type Affine } from './epilogue'
import { channelsLast } from './window'

/** Lanes of a block of output channels (kConvPlanesPad of core/conv.h). */
const kLanes = 16

/** Groups of `c` inputs and `oc` outputs that a block holds: conv_group_block of core/conv.h. */
function groupsOfBlock(c: number, oc: number): number {
  return c <= 8 && oc <= 8 ? Math.floor(kLanes / Math.max(c, oc)) : 1
}

/** [oc][input of a group][tap] to [block][tap][input][output channels of a block], each channel times its factor. */
function byBlock(weights: Float32Array, factors: Float64Array, groups: number, ic: number, per: number, taps: number): Float32Array {
  const most = groupsOfBlock(ic, per)
  const lanes = Math.ceil((most * per) / kLanes) * kLanes
  const to = new Float32Array(Math.ceil(groups / most) * taps * ic * lanes)
  for (let o = 0; o < groups * per; o++) {
    const group = Math.floor(o / per)
    const lane = (group % most) * per + (o % per)
    for (let i = 0; i < ic; i++)
      for (let t = 0; t < taps; t++) {
        const w = (weights[(o * ic + i) * taps + t] as number) * (factors[o] as number)
        if (Math.abs(w) >= 2 ** -126) to[((Math.floor(group / most) * taps + t) * ic + i) * lanes + lane] = w
      }
  }
  return to
}

/**
 * Writes one step for a convolution of several groups (not depthwise). False where one product a group is as good: 1x1 windows of groups
 * that fill vectors.
 */
export function convOfGroups(node: Node, l: Lowering, images: Images<Float32Array>, fold: (map: Affine) => Float32Array): boolean {
  const groups = node.int('group', 1)
  const [xName, name] = [node.inputs[0] as string, node.outputs[0] as string]
  const xDims = l.dims(xName, node)
  const outDims = l.dims(name, node)
  const oc = outDims[1] as number
  const { image: [n, h, wide, c], out: [oh, ow], window, weights } = images // prettier-ignore
  const [kh, kw] = window.kernel
  const [ic, per] = [c / groups, oc / groups]
  if (l.constants.device || images.depth || groups === 1 || (ic === 1 && per === 1)) return false
  if (kh * kw === 1 && groupsOfBlock(ic, per) === 1) return false
  const order = channelsLast(xDims.length)
  const from = l.inOrder(l.lazy(xName, node), order, node)
  l.float(from, node)
  const x = images.place(from)
  const map = takeAffines(l, name, 1, oc)
  const { activation, output } = takeEpilogue(l, map.output, order, false, node)
  const bias = fold(map)
  const key = `${name} to ${map.output}${window.part ?? ''}`
  const out = l.make('float32', outDims, order)
  l.program.step(
    'conv_grouped',
    node.label,
    ...[n, h, wide, c, oh, ow, oc, kh, kw, ...window.strides, ...window.dilations, window.pads[0], window.pads[1], groups],
    ...activation,
    x,
    l.constants.raw(`conv of groups ${key}`, () => byBlock(weights, map.multiply, groups, ic, per, kh * kw)),
    bias.some((v) => v !== 0) ? l.constants.raw(`bias ${key}`, () => bias) : null,
    out.memory,
  )
  l.define(output, out, node)
  return true
}
