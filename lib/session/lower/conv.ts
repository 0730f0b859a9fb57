import type { Node } from '../../model'
import { denseCost, lanesOfProducts } from '../cost'
import type { Lower, Lowering } from '../lowering'
import { roomFor, type Argument, type Constants, type Memory } from '../program'
import { kDenseWays } from '../tune'
import { byDepth, metImagesOf } from './depth'
import { takeAffines, takeEpilogue, type Affine } from './epilogue'
import { convOfGroups } from './grouped'
import { convOfCodes } from './integer'
import { convOfPlanes } from './planes'
import { emitChosen, waysOf, type Way } from './choose'
import { channelsLast, imageOf, isStill, kStill, planar, slidesOf, transposedSlides, type Slide, type Window } from './window'

/** The bias of a node and the affine maps behind it, as one. */
function foldedBias(l: Lowering, node: Node, name: string | undefined, map: Affine): Float32Array {
  const given = name ? l.constant(name, node) : undefined
  if (name && !given) l.unsupported(node, 'a bias that is computed')
  return Float32Array.from(map.add, (a, i) => a + (given ? (given.data[i] as number) : 0) * (map.multiply[i] as number))
}

/**
 * Whether a convolution is one product for each row of its kernel, over rows of the image as they lie: where a row's
 * weights stay in the second-level cache while a row of pixels, wide enough for the kernels, passes by.
 */
function goesByRows(window: Window, groups: number, c: number, width: number, oc: number): boolean {
  const [kh, kw] = window.kernel
  // Every dilation-th pixel is a row of its own.
  const d = window.dilations[1]
  if (groups !== 1 || width < (d > 1 && c > 64 ? 14 : 6) * d) return false
  if (kh === 1 && kw === 1 && window.strides[0] === 1 && window.strides[1] === 1) return false
  return kw * c * oc <= 160 << 10
}

/** Whether a convolution may go by tiles of 4 x 4 outputs (Winograd's F(4x4, 3x3)). */
function mayGoByTiles({ kernel, strides, dilations }: Window, c: number, oc: number): boolean {
  return [...strides, ...dilations].every((s) => s === 1) && kernel.every((k) => k === 3) && c >= 16 && oc >= 16
}

/** Whether a convolution has too few outputs for the lanes of a product's kernels, and a window not much larger than the image. */
function goesNarrow(window: Window, c: number, size: readonly [number, number], oc: number): boolean {
  const { kernel: [kh, kw], strides, dilations } = window // prettier-ignore
  const lanes = lanesOfProducts()
  if (strides.some((s) => s !== 1) || c > 64 || kh * kw < 3) return false
  if (oc >= Math.min(16, 2 * lanes) && !(oc === lanes && lanes === 16 && kh * kw > 4 && !mayGoByTiles(window, c, oc))) return false
  return (kh - 1) * dilations[0] < 2 * size[0] && (kw - 1) * dilations[1] < 2 * size[1]
}

/**
 * Cycles of that, or of tiles of 2 x 2: products, two transforms, and more weights, of which memory gives 4 bytes a cycle while
 * products go on, as far as they last.
 */
function tilesCost(size: 4 | 2, n: number, c: number, oh: number, ow: number, oc: number): number {
  const tiles = n * Math.ceil(oh / size) * Math.ceil(ow / size)
  const points = (size + 2) ** 2
  const products = denseCost(points * tiles, c, oc)
  const weights = points * c * oc
  return Math.max(products, weights) + Math.min(products, weights) / 2 + (tiles * points * (c + oc)) / 3
}

/**
 * Weights without those that are nothing beside the largest one: arithmetic on numbers below the smallest normal float is a
 * hundred times slower, and pruned channels of trained models are full of them.
 */
function withoutTraces(weights: Float32Array): Float32Array {
  let [top, low] = [0, Infinity]
  for (let i = 0; i < weights.length; i++) {
    const a = Math.abs(weights[i] as number)
    if (a > top) top = a
    if (a < low && a !== 0) low = a
  }
  const least = Math.max(2 ** -126, top * 2 ** -100)
  if (low >= least) return weights
  for (let i = 0; i < weights.length; i++) if (Math.abs(weights[i] as number) < least) weights[i] = 0
  return weights
}

/**
 * [oc][ic][tap] to [tap / split][oc][split][ic], each channel times its factor: for every `split` taps a matrix, turned. No
 * closure: V8 would not optimize what is made anew for each layer.
 */
function byOutput(weights: Float32Array, factors: Float64Array, oc: number, ic: number, taps: number, split: number): Float32Array {
  const to = roomFor(weights.length)
  for (let o = 0; o < oc; o++) {
    const factor = factors[o] as number
    for (let t = 0; t < taps; t++) {
      const within = t % split
      let at = ((t - within) * oc + o * split + within) * ic
      for (let from = o * ic * taps + t, end = at + ic; at < end; at++, from += taps) to[at] = (weights[from] as number) * factor
    }
  }
  return withoutTraces(to)
}

/** [oc][row] to [row][oc], each channel times its factor. */
function outputsLast(weights: Float32Array, factors: Float64Array, oc: number, taps: number): Float32Array {
  const to = new Float32Array(weights.length)
  for (let o = 0; o < oc; o++) for (let t = 0; t < taps; t++) to[t * oc + o] = (weights[o * taps + t] as number) * (factors[o] as number)
  return withoutTraces(to)
}

/** Bytes between a 1x1 convolution and a depthwise one from which on both go together, strip by strip. */
const kBetween = 1 << 20

/**
 * Writes one step for a 1x1 convolution, which gives `name`, and the depthwise one that alone reads it, where what lies
 * between them would not stay in cache. `first`: the sizes n, h, w, c of its input, its weights and the rest.
 */
function emitPair(
  l: Lowering,
  node: Node,
  name: string,
  oc: number,
  first: { readonly sizes: readonly [number, number, number, number]; readonly activation: readonly number[]; readonly x: Memory; readonly weights: () => Argument; readonly bias: () => Memory | null },
): boolean {
  const [n, h, wide, c] = first.sizes
  const next = l.soleUser(name)
  if (n * h * wide * oc * 4 < kBetween || !next?.is('Conv') || next.inputs[0] !== name || next.int('group', 1) !== oc) return false
  const [, wName, bName] = next.inputs as [string, string, string | undefined]
  const w = l.constant(wName, next)
  if (w?.type !== 'float32' || w.dims[0] !== oc || (bName && !l.constant(bName, next))) return false
  const outDims = l.dims(next.outputs[0] as string, next)
  const [, oh, ow] = imageOf(outDims)
  const slides = slidesOf(next, l, w.dims.slice(2), l.dims(name, next).slice(2), outDims.slice(2))
  if (slides.length > 2 && !isStill(slides.shift() as Slide)) return false
  const window = planar(slides)
  const [kh, kw] = window.kernel
  const order = channelsLast(outDims.length)
  const map = takeAffines(l, next.outputs[0] as string, 1, oc)
  const { activation, output } = takeEpilogue(l, map.output, order, false, next)
  const bias = foldedBias(l, next, bName, map)
  const key = `${next.outputs[0]} to ${map.output}`
  const out = l.make('float32', outDims, order)
  l.taken.add(next)
  l.program.step(
    'conv_pair',
    node.label,
    ...[n, h, wide, c, oc, oh, ow, kh, kw, ...window.strides, ...window.dilations, window.pads[0], window.pads[1]],
    ...first.activation,
    ...activation,
    first.x,
    first.weights(),
    first.bias(),
    l.constants.raw(`conv ${key}`, () => outputsLast(w.data as Float32Array, map.multiply, oc, kh * kw)),
    bias.some((v) => v !== 0) ? l.constants.raw(`bias ${key}`, () => bias) : null,
    out.memory,
  )
  l.define(output, out, next)
  return true
}

/** A convolution with what follows it: batch normalization and other scales fold into the weights. */
const conv: Lower = (node, l) => {
  if (convOfCodes(node, l)) return
  const [xName, wName, bName] = node.inputs as [string, string, string | undefined]
  const w = l.constant(wName, node)
  if (!w) return l.unsupported(node, 'a convolution whose weights are computed')
  if (w.type !== 'float32') return l.unsupported(node, `weights of type ${w.type}`)
  const xDims = l.dims(xName, node)
  const outDims = l.dims(node.outputs[0] as string, node)
  const groups = node.int('group', 1)
  const oc = outDims[1] as number
  const alone = groups === 1 || (groups === xDims[1] && groups === oc)
  const images = metImagesOf(node, l, xDims, w.dims.slice(2), w.data as Float32Array, outDims, alone && !l.constants.device)
  const { image: [clips, h, wide, c], out: [oh, ow], window, weights, depth } = images // prettier-ignore
  const [n, kd] = depth ? [clips * depth[1], depth[2]] : [clips, 1]
  const [kh, kw] = window.kernel
  if (!l.constants.device && xDims.length < 5 && convOfPlanes(node, l, window, weights, (map) => foldedBias(l, node, bName, map))) return
  if (convOfGroups(node, l, images, (map) => foldedBias(l, node, bName, map))) return
  const order = channelsLast(xDims.length)
  const from = l.inOrder(l.lazy(xName, node), order, node)
  l.float(from, node)
  const x = images.place(from)

  const map = takeAffines(l, node.outputs[0] as string, 1, oc)
  const depthwise = groups > 1 && groups === c && oc === c
  const { activation, residual, output } = takeEpilogue(l, map.output, order, !depthwise, node)

  const bias = foldedBias(l, node, bName, map)
  const hasBias = bias.some((v) => v !== 0)
  // Plans that fetch or tap a value in between take less along: other weights.
  const key = `${node.outputs[0]} to ${map.output}${window.part ?? ''}`
  const ic = c / groups
  const taps = kd * kh * kw
  const per = oc / groups
  const arranged = (split = taps) => (): Float32Array => byOutput(weights, map.multiply, oc, ic, taps, split)
  let out = l.make('float32', outDims, order)
  const numbers = [...(depth ?? []), clips, h, wide, c, oh, ow, oc, kh, kw, ...window.strides, ...window.dilations, window.pads[0], window.pads[1], groups]
  const op = depth ? 'conv_volume' : 'conv'
  const shape = `${op} f32 ${[...numbers, ...activation.slice(0, 1)].join(' ')}${hasBias ? ' bias' : ''}${residual ? ' residual' : ''}`
  const step = (way: Way, weights: Argument, constants: Constants, from: Memory, add: Memory | null, to: Memory): Argument[] => [
    ...numbers,
    // Their numbers in a step; the sparse ones go as dense.
    Math.max(0, kDenseWays.indexOf(way.name)),
    ...activation,
    from,
    weights,
    hasBias ? constants.raw(`bias ${key}`, () => bias) : null,
    add,
    to,
  ]
  if (depthwise) {
    const dense = { name: 'dense', cost: 0 } as Way
    l.program.step(op, node.label, ...step(dense, l.constants.raw(`conv ${key}`, () => outputsLast(weights, map.multiply, oc, taps)), l.constants, x, null, out.memory))
  } else {
    const m = n * oh * ow
    const ways =
      groups === 1
        ? waysOf(l, { key: `conv ${key}`, m, k: taps * ic, n: oc, row: 1, col: taps * ic, raw: weights, data: arranged(), gathered: taps > 1 })
        : [{ name: 'dense', cost: 0, weights: (constants: Constants) => ({ packed: constants.gemm(`conv ${key}`, groups, taps * ic, per, 1, taps * ic, arranged()) }) }]
    const plain = !depth && groups === 1 && taps === 1 && !residual && ways.length === 1 && h === oh && wide === ow && [...window.strides, 1 + window.pads[0], 1 + window.pads[1]].every((s) => s === 1)
    const first = {
      sizes: [n, h, wide, c] as const,
      activation,
      x,
      weights: () => (ways[0] as Way).weights(l.constants),
      bias: () => (hasBias ? l.constants.raw(`bias ${key}`, () => bias) : null),
    }
    if (plain && !l.constants.device && emitPair(l, node, output, oc, first)) return
    if (groups === 1 && taps > 1 && (window.dilations[1] === 1 || window.strides[1] === 1)) {
      const cost = (ways[0] as Way).cost * (goesByRows(window, groups, c, ow, oc) ? 0.8 : 1.1)
      ways.splice(1, 0, { name: 'rows', cost, weights: (constants) => ({ packed: constants.gemm(`conv by rows ${key}`, kd * kh, kw * ic, oc, 1, kw * ic, arranged(kw)) }) })
    }
    if (groups === 1 && !depth && goesNarrow(window, c, [h, wide], oc))
      ways.splice(1, 0, {
        name: 'narrow',
        cost: (ways[0] as Way).cost * 0.5,
        weights: (constants) => constants.raw(`conv narrow ${key}`, () => outputsLast(weights, map.multiply, oc, ic * taps)),
      })
    if (groups === 1 && mayGoByTiles(window, c, oc))
      for (const size of [4, 2] as const) {
        const nine = (): Float32Array => byOutput(depth ? byDepth(weights, c, kd, 9) : weights, map.multiply, oc, kd * c, 9, 1)
        const tiles = (constants: Constants): Argument => ({ packed: constants.tiles(`conv by tiles ${key}`, kd * c, oc, size === 2, nine) })
        ways.splice(1, 0, { name: size === 2 ? 'tiles2' : 'tiles', cost: tilesCost(size, n, kd * c, oh, ow, oc), weights: tiles })
      }
    out = emitChosen(l, node, op, ways, shape, { x, residual, out }, step)
  }
  l.define(output, out, node)
}

/**
 * A transposed convolution: a product gives what each input pixel adds to its window, a second step adds the windows up, a third what
 * slices of a map of three axes add to each other. Where windows do not overlap (kernel as large as the stride), scales and the
 * activation fold into the product.
 */
const convTranspose: Lower = (node, l) => {
  const [xName, wName, bName] = node.inputs as [string, string, string | undefined]
  const w = l.constant(wName, node)
  if (!w || w.type !== 'float32') return l.unsupported(node, 'weights that are computed or not float32')
  if (node.int('group', 1) !== 1) return l.unsupported(node, 'groups')
  const weights = w.data as Float32Array
  const xDims = l.dims(xName, node)
  const outDims = l.dims(node.outputs[0] as string, node)
  const [n, h, wide, ic] = imageOf(xDims)
  const [, oh, ow, oc] = imageOf(outDims)
  const sizes = xDims.slice(2)
  const slides = transposedSlides(node, l, w.dims.slice(2), sizes, outDims.slice(2))
  // Places that no window reaches hold the bias too.
  const apart = slides.every((s, i) => s.kernel === s.stride && s.dilation === 1 && (outDims[i + 2] as number) + s.pads[0] <= s.stride * (sizes[i] as number))
  const deep = slides.length === 3 ? (slides.shift() as Slide) : kStill
  const [kd, window] = [deep.kernel, planar(slides)]
  const [kh, kw] = window.kernel
  const order = channelsLast(xDims.length)
  const x = l.inOrder(l.lazy(xName, node), order, node)
  l.float(x, node)
  const map = takeAffines(l, node.outputs[0] as string, 1, oc)
  const { activation, output } = apart ? takeEpilogue(l, map.output, order, false, node) : { activation: [0, 0, 0], output: map.output }
  const bias = foldedBias(l, node, bName, map)
  const key = `${node.outputs[0]} to ${map.output}`
  const [taps, columns] = [kh * kw, kd * kh * kw * oc]
  // W is [ic][oc][slice][tap]; the product takes [ic][tap][slice][oc].
  const arranged = (): Float32Array => {
    const to = new Float32Array(weights.length)
    for (let i = 0; i < ic; i++)
      for (let o = 0; o < oc; o++)
        for (let z = 0; z < kd; z++)
          for (let t = 0; t < taps; t++) to[((i * taps + t) * kd + z) * oc + o] = (weights[((i * oc + o) * kd + z) * taps + t] as number) * (map.multiply[o] as number)
    return to
  }
  const packed = l.constants.gemm(`transposed ${key}`, 1, ic, columns, columns, 1, arranged)
  const spreadOut = l.program.memory('float32', n * h * wide * columns)
  const spread = apart ? l.constants.raw(`spread bias ${key}`, () => Float32Array.from({ length: columns }, (_, i) => bias[i % oc] as number)) : null
  l.program.step('gemm', node.label, n * h * wide, columns, ic, 1, ic, 1, 0, 1, 1, 0, 1, 1, ...activation, x.memory, { packed }, spread, null, spreadOut)
  const out = l.make('float32', outDims, order)
  const added = apart ? null : l.constants.raw(`bias ${key}`, () => bias)
  const scatter = (sizes: readonly number[], { kernel, strides, dilations, pads }: Window, from: Memory, plus: Memory | null, to: Memory): void =>
    l.program.step('scatter_taps', node.label, ...sizes, ...kernel, ...strides, ...dilations, pads[0], pads[1], from, plus, to)
  if (isStill(deep)) scatter([n, h, wide, oc, oh, ow], window, spreadOut, added, out.memory)
  else {
    const planes = l.program.memory('float32', n * oh * ow * kd * oc)
    scatter([n, h, wide, kd * oc, oh, ow], window, spreadOut, null, planes)
    // Slices as rows of one image, a column for each pixel.
    scatter([xDims[0] as number, xDims[2] as number, oh * ow, oc, outDims[2] as number, oh * ow], planar([deep, kStill]), planes, added, out.memory)
  }
  l.define(output, out, node)
}

export const convolution: Readonly<Record<string, Lower>> = { Conv: conv, ConvTranspose: convTranspose }
