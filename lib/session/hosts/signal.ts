import { sizeOf, type Tensor } from '../../tensor'
import { axisOf, made, numbers, plain, refuse, strides, type Host } from './host'

/** A window of cosines: the sum of a[k] cos(2 pi k i / n). */
function window(...a: readonly number[]): Host {
  return (node, scope) =>
    plain((n, size) => {
      const length = Number((size as Tensor).data[0])
      const over = n.int('periodic', 1) ? length : length - 1
      const at = (i: number): number => a.reduce((s, c, k) => s + c * Math.cos((2 * Math.PI * k * i) / over), 0)
      return [made(n.int('output_datatype', 1) === 11 ? 'float64' : 'float32', [length], Array.from({ length }, (_, i) => at(i)))]
    })(node, scope)
}

/** From opset 20 on the axis is an input, and the last one of samples where it is missing. */
const dft: Host = (node, scope) =>
  plain((_, given, many, along) => {
    const x = given as Tensor
    const late = (scope.model.opsets.get('') ?? 1) >= 20
    const axis = axisOf(node, late ? Number(along?.data[0] ?? -2) : node.int('axis', 1), x.dims.length)
    const [inverse, half] = [node.int('inverse', 0) !== 0, node.int('onesided', 0) !== 0]
    const complex = x.dims[x.dims.length - 1] === 2
    const size = x.dims[axis] as number
    const n = many ? Number(many.data[0]) : size
    const count = half ? Math.floor(n / 2) + 1 : n
    const dims = [...x.dims.slice(0, -1), 2].map((d, i) => (i === axis ? count : d))
    const [own, to] = [strides(x.dims), strides(dims)]
    const all = numbers(x)
    const [cos, sin] = [new Float64Array(n), new Float64Array(n)]
    for (let i = 0; i < n; i++) [cos[i], sin[i]] = [Math.cos((2 * Math.PI * i) / n), ((inverse ? 1 : -1) * Math.sin((2 * Math.PI * i) / n))]
    const out = new Float64Array(sizeOf(dims))
    const apart = own[axis] as number
    for (let i = 0; i < out.length; i += 2) {
      let base = 0
      for (let k = 0; k < dims.length - 1; k++) if (k !== axis) base += (Math.floor(i / (to[k] as number)) % (dims[k] as number)) * (own[k] as number)
      const f = Math.floor(i / (to[axis] as number)) % count
      let [re, im] = [0, 0]
      for (let t = 0, turn = 0; t < Math.min(n, size); t++, turn = (turn + f) % n) {
        const [c, s] = [cos[turn] as number, sin[turn] as number]
        const place = base + t * apart
        const [a, b] = [all[place] as number, complex ? (all[place + 1] as number) : 0]
        re += a * c - b * s
        im += a * s + b * c
      }
      out[i] = inverse ? re / n : re
      out[i + 1] = inverse ? im / n : im
    }
    return [made(x.type, dims, out)]
  })(node, scope)

/** Spectra of pieces of a signal, each weighted by a window. */
const stft = plain((node, given, hop, window, length) => {
  const x = given as Tensor
  const [batch, samples] = x.dims as [number, number]
  const complex = x.dims.length === 3 && x.dims[2] === 2
  const size = length ? Number(length.data[0]) : window ? (window.dims[0] as number) : 0
  const step = Number((hop as Tensor).data[0])
  if (!(size > 0 && step > 0 && size <= samples) || x.dims.length > 3) refuse(node, `pieces of ${size} by ${step} of [${x.dims.join(', ')}]`)
  const frames = 1 + Math.floor((samples - size) / step)
  const bins = node.int('onesided', 1) ? Math.floor(size / 2) + 1 : size
  const all = numbers(x)
  const factor = window && numbers(window)
  const [cos, sin] = [new Float64Array(size), new Float64Array(size)]
  for (let i = 0; i < size; i++) [cos[i], sin[i]] = [Math.cos((2 * Math.PI * i) / size), -Math.sin((2 * Math.PI * i) / size)]
  const out = new Float64Array(batch * frames * bins * 2)
  for (let b = 0; b < batch; b++)
    for (let f = 0; f < frames; f++)
      for (let k = 0; k < bins; k++) {
        let [re, im] = [0, 0]
        for (let t = 0; t < size; t++) {
          const at = b * samples + f * step + t
          const w = factor ? (factor[t] as number) : 1
          const [p, q] = complex ? [(all[2 * at] as number) * w, (all[2 * at + 1] as number) * w] : [(all[at] as number) * w, 0]
          const turn = (k * t) % size
          const [c, s] = [cos[turn] as number, sin[turn] as number]
          re += p * c - q * s
          im += p * s + q * c
        }
        const to = ((b * frames + f) * bins + k) * 2
        out[to] = re
        out[to + 1] = im
      }
  return [made(x.type, [batch, frames, bins, 2], out)]
})

/** Triangles that gather the bins of a spectrum on the mel scale. */
const melWeights = plain((node, count, length, rate, low, high) => {
  const of = (t: Tensor | undefined): number => Number((t as Tensor).data[0])
  const [bands, size, hertz] = [of(count), of(length), of(rate)]
  const bins = Math.floor(size / 2) + 1
  const mel = (f: number): number => 2595 * Math.log10(1 + f / 700)
  const [first, last] = [mel(of(low)), mel(of(high))]
  const edges = Array.from({ length: bands + 2 }, (_, i) => {
    const f = 700 * (10 ** ((first + (i * (last - first)) / (bands + 2)) / 2595) - 1)
    return Math.floor(((size + 1) * f) / hertz)
  })
  const out = new Float64Array(bins * bands)
  for (let i = 0; i < bands; i++) {
    const [a, b, c] = edges.slice(i, i + 3) as [number, number, number]
    if (c > bins) refuse(node, `a highest frequency of ${of(high)} at ${hertz} samples a second`)
    if (b === a) out[b * bands + i] = 1
    else for (let j = a; j <= b; j++) out[j * bands + i] = (j - a) / (b - a)
    if (c > b) for (let j = b; j < c; j++) out[j * bands + i] = (c - j) / (c - b)
  }
  return [made(node.int('output_datatype', 1) === 11 ? 'float64' : 'float32', [bins, bands], out)]
})

export const signals: Readonly<Record<string, Host>> = {
  HannWindow: window(0.5, -0.5),
  HammingWindow: window(25 / 46, -21 / 46),
  BlackmanWindow: window(0.42, -0.5, 0.08),
  DFT: dft,
  STFT: stft,
  MelWeightMatrix: melWeights,
}
