import type { Tensor } from '../../tensor'
import { axisOf, made, numbers, plain, strides, type Host } from './host'

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

const dft = plain((node, given, many) => {
  const x = given as Tensor
  const axis = axisOf(node, node.int('axis', 1), x.dims.length)
  const [inverse, half] = [node.int('inverse', 0) !== 0, node.int('onesided', 0) !== 0]
  const complex = x.dims[x.dims.length - 1] === 2
  const size = x.dims[axis] as number
  const n = many ? Number(many.data[0]) : size
  const count = half ? Math.floor(n / 2) + 1 : n
  const dims = [...x.dims.slice(0, -1), 2].map((d, i) => (i === axis ? count : d))
  const [own, to] = [strides(x.dims), strides(dims)]
  const all = numbers(x)
  const out = new Float64Array(dims.reduce((a, b) => a * b, 1))
  for (let i = 0; i < out.length; i += 2) {
    let base = 0
    dims.slice(0, -1).forEach((d, k) => {
      if (k !== axis) base += (Math.floor(i / (to[k] as number)) % d) * (own[k] as number)
    })
    const f = Math.floor(i / (to[axis] as number)) % count
    let [re, im] = [0, 0]
    for (let t = 0; t < Math.min(n, size); t++) {
      const angle = ((inverse ? 2 : -2) * Math.PI * ((f * t) % n)) / n
      const [c, s] = [Math.cos(angle), Math.sin(angle)]
      const place = base + t * (own[axis] as number)
      const [a, b] = [all[place] as number, complex ? (all[place + 1] as number) : 0]
      re += a * c - b * s
      im += a * s + b * c
    }
    out[i] = inverse ? re / n : re
    out[i + 1] = inverse ? im / n : im
  }
  return [made(x.type, dims, out)]
})

export const signals: Readonly<Record<string, Host>> = {
  HannWindow: window(0.5, -0.5),
  HammingWindow: window(25 / 46, -21 / 46),
  BlackmanWindow: window(0.42, -0.5, 0.08),
  DFT: dft,
}
