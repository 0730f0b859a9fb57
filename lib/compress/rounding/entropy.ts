import type { Initializer } from '../../model/graph'

/** Values of a layer that are looked at. */
const kSample = 1 << 16

/** @internal A layer, as far as its step goes. */
export interface Sampled {
  readonly name: string
  readonly count: number
  /** Root of the mean square. */
  readonly rms: number
  /** Over {@link rms}, evenly spread over the tensor. */
  readonly sample: Float32Array
}

/** @internal */
export function sampled({ name }: Initializer, values: Float32Array): Sampled {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!
  const rms = Math.sqrt(sum / values.length) || 1
  const n = Math.min(values.length, kSample)
  const sample = Float32Array.from({ length: n }, (_, i) => values[Math.floor((i * values.length) / n)]! / rms)
  return { name, count: values.length, rms, sample }
}

/** @internal Bits of a symbol by an ideal coder that knows how often each comes. */
export function entropyOf(codes: ArrayLike<number>): number {
  const counts = new Map<number, number>()
  for (let i = 0; i < codes.length; i++) counts.set(codes[i]!, (counts.get(codes[i]!) ?? 0) + 1)
  let bits = 0
  for (const n of counts.values()) bits -= n * Math.log2(n / codes.length)
  return codes.length ? bits / codes.length : 0
}

/**
 * @internal The step of each layer for which codes take `bits` on average once they are entropy-coded. At many bits the least
 * error for a number of bits has the same step everywhere (Gish & Pierce 1968): in units of a layer's root mean square,
 * since what counts is its noise against its own outputs. A layer of few weights costs few bits, so its step is finer: by the
 * fourth root of its size.
 */
export function stepsFor(layers: readonly Sampled[], bits: number): Map<string, number> {
  const most = layers.reduce((m, l) => Math.max(m, l.count), 1)
  const total = layers.reduce((sum, l) => sum + l.count, 0)
  const share = (l: Sampled): number => (l.count / most) ** 0.25
  const mean = (c: number): number =>
    layers.reduce((sum, l) => sum + l.count * entropyOf(l.sample.map((v) => Math.round(v / (c * share(l))))), 0) / total
  // Codes are ±127: a finer step than this is a scale a channel already.
  let [low, high] = [2 ** -7, 16]
  for (let i = 0; i < 18; i++) {
    const middle = Math.sqrt(low * high)
    if (mean(middle) > bits) low = middle
    else high = middle
  }
  return new Map(layers.map((l) => [l.name, high * share(l) * l.rms]))
}
