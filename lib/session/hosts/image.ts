import { sizeOf, type Tensor } from '../../tensor'
import { made, nearestEven, numbers, plain, refuse, strides, type Host } from './host'

/** Weights of four neighbours of a point `t` behind the second one (Keys 1981, a = -0.75). */
function cubic(t: number): number[] {
  const a = -0.75
  const near = (d: number): number => ((a + 2) * d - (a + 3)) * d * d + 1
  const far = (d: number): number => ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
  return [far(1 + t), near(t), near(1 - t), far(2 - t)]
}

/** Mirrors a coordinate back between low and high. */
function reflected(v: number, low: number, high: number): number {
  const span = high - low
  if (span === 0) return low
  const d = Math.abs(v - low) % (2 * span)
  return low + (d > span ? 2 * span - d : d)
}

const kOne: readonly number[] = [1]

const gridSample = plain((node, given, places) => {
  const [x, grid] = [given as Tensor, places as Tensor]
  const sizes = x.dims.slice(2)
  const rank = sizes.length
  const mode = node.string('mode', 'linear')
  const smooth = mode.endsWith('cubic')
  if (rank < 1 || grid.dims.length !== rank + 2 || grid.dims[rank + 1] !== rank || grid.dims[0] !== x.dims[0] || (smooth && rank !== 2))
    refuse(node, `an image of [${x.dims.join(', ')}], places of [${grid.dims.join(', ')}]`)
  const [n, c] = x.dims as [number, number]
  const outSizes = grid.dims.slice(1, -1)
  const [space, each] = [sizeOf(sizes), sizeOf(outSizes)]
  const outside = node.string('padding_mode', 'zeros')
  const corners = node.int('align_corners', 0) !== 0
  const own = strides(sizes)
  const all = numbers(x)
  const at = numbers(grid)
  const out = new Float64Array(n * c * each)
  const settle = (v: number, size: number): number => {
    if (outside === 'border') return Math.min(Math.max(v, 0), size - 1)
    return outside === 'reflection' ? Math.min(Math.max(reflected(v, corners ? 0 : -0.5, corners ? size - 1 : size - 0.5), 0), size - 1) : v
  }
  const place = (v: number, size: number): number => (corners ? ((v + 1) / 2) * (size - 1) : ((v + 1) * size - 1) / 2)
  // Places of the pixels of a point and their weights, axis by axis; what is outside is left out.
  const taps = new Int32Array(4 ** rank)
  const factors = new Float64Array(4 ** rank)
  for (let b = 0; b < n; b++)
    for (let p = 0; p < each; p++) {
      let count = 1
      taps[0] = 0
      factors[0] = 1
      for (let k = 0; k < rank; k++) {
        const size = sizes[k] as number
        let v = place(at[(b * each + p) * rank + rank - 1 - k] as number, size)
        if (!smooth) v = settle(v, size)
        const first = mode === 'nearest' ? nearestEven(v) : Math.floor(v)
        const t = v - first
        const weights = mode === 'nearest' ? kOne : smooth ? cubic(t) : [1 - t, t]
        const before = count
        count = 0
        const [were, by] = [taps.slice(0, before), factors.slice(0, before)]
        for (let i = 0; i < weights.length; i++) {
          const c0 = settle(first + i - (smooth ? 1 : 0), size)
          if (!(c0 >= 0 && c0 < size)) continue
          const step = Math.round(c0) * (own[k] as number)
          for (let j = 0; j < before; j++) {
            taps[count] = (were[j] as number) + step
            factors[count++] = (by[j] as number) * (weights[i] as number)
          }
        }
      }
      for (let k = 0; k < c; k++) {
        const base = (b * c + k) * space
        let sum = 0
        for (let j = 0; j < count; j++) sum += (factors[j] as number) * (all[base + (taps[j] as number)] as number)
        out[(b * c + k) * each + p] = sum
      }
    }
  return [made(x.type, [n, c, ...outSizes], out)]
})

/** Pools over any number of axes and types, with positions of maxima. */
function pool(average: boolean): Host {
  return plain((node, given) => {
    const x = given as Tensor
    const n = x.dims.length - 2
    const list = (name: string, value: number, count = n): readonly number[] => node.ints(name, new Array<number>(count).fill(value))
    const [kernel, steps, apart] = [list('kernel_shape', 1), list('strides', 1), list('dilations', 1)]
    const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
    const [begin, end] = [list('pads', 0, 2 * n).slice(0, n), list('pads', 0, 2 * n).slice(n)]
    const ceil = node.int('ceil_mode', 0) !== 0
    const sizes = x.dims.slice(2)
    const outSizes = sizes.map((size, i) => {
      const [k, s, d] = [kernel[i], steps[i], apart[i]] as [number, number, number]
      const reach = (k - 1) * d + 1
      if (auto.startsWith('SAME')) {
        const count = Math.ceil(size / s)
        const need = Math.max(0, (count - 1) * s + reach - size)
        ;(begin as number[])[i] = auto === 'SAME_UPPER' ? Math.floor(need / 2) : Math.ceil(need / 2)
        ;(end as number[])[i] = need - (begin[i] as number)
        return count
      }
      const room = size + (auto === 'VALID' ? 0 : (begin[i] as number) + (end[i] as number)) - reach
      const count = (ceil ? Math.ceil(room / s) : Math.floor(room / s)) + 1
      return ceil && (count - 1) * s >= size + (begin[i] as number) ? count - 1 : count
    })
    const dims = [...x.dims.slice(0, 2), ...outSizes]
    const [own, to, taps] = [strides(sizes), strides(outSizes), strides(kernel)]
    const [space, window] = [sizeOf(sizes), sizeOf(kernel)]
    const counted = node.int('count_include_pad', 0) !== 0
    const columns = node.int('storage_order', 0) !== 0
    const all = numbers(x)
    const out = new Float64Array(sizeOf(dims))
    const places = new Float64Array(out.length)
    const each = sizeOf(outSizes)
    for (let i = 0; i < out.length; i++) {
      const base = Math.floor(i / each) * space
      let [best, sum, count, where] = [-Infinity, 0, 0, 0]
      for (let t = 0; t < window; t++) {
        let [at, inside, inPadding] = [0, true, true]
        for (let k = 0; k < n; k++) {
          const o = Math.floor((i % each) / (to[k] as number)) % (outSizes[k] as number)
          const c = o * (steps[k] as number) - (begin[k] as number) + (Math.floor(t / (taps[k] as number)) % (kernel[k] as number)) * (apart[k] as number)
          if (c < 0 || c >= (sizes[k] as number)) inside = false
          if (c >= (sizes[k] as number) + (end[k] as number)) inPadding = false
          at += c * (own[k] as number)
        }
        if (inside || (counted && inPadding)) count++
        if (!inside) continue
        const v = all[base + at] as number
        sum += v
        if (v > best) [best, where] = [v, at]
      }
      out[i] = average ? sum / count : best
      // Positions count the last axis last, or first where columns are asked for.
      if (columns && n > 1) {
        let turned = 0
        for (let k = n - 1; k >= 0; k--) turned = turned * (sizes[k] as number) + (Math.floor(where / (own[k] as number)) % (sizes[k] as number))
        where = turned
      }
      places[i] = base + where
    }
    return [made(x.type, dims, out), made('int64', dims, places)]
  })
}

export const images: Readonly<Record<string, Host>> = { GridSample: gridSample }
export const pools: Readonly<Record<string, Host>> = { MaxPool: pool(false), AveragePool: pool(true) }
