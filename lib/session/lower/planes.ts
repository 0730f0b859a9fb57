import type { Node } from '../../model'
import { codeOf, valueOf } from '../codes'
import { codeBehindPool } from '../expression'
import type { Lowering } from '../lowering'
import { isRowMajor } from '../value'
import { takeAffines, takeEpilogue, type Affine } from './epilogue'
import { channelsLast, imageOf, type Window } from './window'

// core/conv.h
const kPad = 16
/** what such a convolution writes: floats or codes */
const kCodes: Partial<Record<string, number>> = { float32: 0, uint8: 1, int8: 2 }
/** most channels of an image that is read as it comes, fewest rows of results, and most floats of the rows under a window */
const [kChannels, kRows, kFloats] = [4, 8, 64 << 10]

/** Weights [oc][tap] as [tap][oc, padded], each channel times its factor. */
function byTap(weights: Float32Array, factors: Float64Array, oc: number, taps: number): Float32Array {
  const padded = Math.ceil(oc / kPad) * kPad
  const to = new Float32Array(taps * padded)
  for (let o = 0; o < oc; o++)
    for (let t = 0; t < taps; t++) {
      const w = (weights[o * taps + t] as number) * (factors[o] as number)
      if (Math.abs(w) >= 2 ** -126) to[t * padded + o] = w
    }
  return to
}

/**
 * Writes one step for the first convolution of a net, whose few input channels lie as planes: what it needs of them is not
 * turned, and codes that follow are made of its results while they are in cache. False where it is not such a one.
 */
export function convOfPlanes(
  node: Node,
  l: Lowering,
  window: Window,
  weights: Float32Array,
  fold: (map: Affine) => Float32Array,
): boolean {
  const x = l.lazy(node.inputs[0] as string, node)
  const name = node.outputs[0] as string
  const [n, h, wide, c] = imageOf(x.dims)
  const outDims = l.dims(name, node)
  const [, oh, ow, oc] = imageOf(outDims)
  const [kh, kw] = window.kernel
  if (c > kChannels || oc < 4 || node.int('group', 1) !== 1 || n * oh < kRows || c * ((kh - 1) * window.dilations[0] + 1) * (wide + kw) > kFloats) return false
  if (x.type !== 'float32' || x.constant || !isRowMajor(x.dims, x.order)) return false
  const from = l.rowMajor(x, node)
  const order = channelsLast(x.dims.length)
  const map = takeAffines(l, name, 1, oc)
  const after = takeEpilogue(l, map.output, order, false, node)
  const next = l.soleUser(after.output)
  const code = next?.is('QuantizeLinear') && next.inputs[0] === after.output ? codeOf(l, next) : undefined
  const narrow = next && code && kCodes[code.type] ? { next, code } : undefined
  if (narrow) l.taken.add(narrow.next)
  const early = narrow ? undefined : codeBehindPool(l, after.output)
  const written = narrow?.code ?? early
  const type = written?.type ?? 'float32'
  const bias = fold(map)
  const key = `${name} to ${map.output}${window.part ?? ''}`
  const out = l.make(type, outDims, order)
  l.program.step(
    'conv_planes',
    node.label,
    ...[n, c, h, wide, oh, ow, oc, kh, kw, ...window.strides, ...window.dilations, window.pads[0], window.pads[1]],
    ...after.activation,
    ...[kCodes[type] as number, written?.scale ?? 1, written?.zero ?? 0],
    from.memory,
    l.constants.raw(`conv of planes ${key}`, () => byTap(weights, map.multiply, oc, c * kh * kw)),
    bias.some((v) => v !== 0) ? l.constants.raw(`bias ${key}`, () => bias) : null,
    out.memory,
  )
  l.define(narrow ? (narrow.next.outputs[0] as string) : after.output, early ? valueOf(out, early) : out, node)
  return true
}
