import { fromHalves, toHalves } from '../../model/half'
import { Deviation } from '../computed'
import { touched } from '../paged'

/** Beyond this a float32 rounds to an infinite float16. */
const kOverflow = 65520
/** Below this a float32 rounds to zero. */
const kVanish = 2 ** -25

/** Values that are worked on at once. */
const kStretch = 2 ** 18

/** @internal Parts of a tensor that may lie in a file, each with its place, in order. */
export function* stretches<T extends Float32Array | Uint16Array>(values: T): Generator<readonly [part: T, at: number]> {
  for (let at = 0; at < values.length; at += kStretch) {
    const part = values.subarray(at, at + kStretch) as T
    yield [part, at]
    touched(part.byteLength)
  }
}

/** @internal Finite values that float16 does not hold. */
export function outside(values: Float32Array): number {
  let far = 0
  for (const [part] of stretches(values)) far += outsideOf(part)
  return far
}

function outsideOf(values: Float32Array): number {
  let far = 0
  for (let i = 0; i < values.length; i++) {
    const v = Math.abs(values[i]!)
    if (v >= kOverflow && v < Infinity) far++
  }
  return far
}

/** @internal Nearest float16, finite values beyond all of them as ±`most`. */
export function halvesFrom(values: Float32Array, most: number): Uint16Array {
  const one = values.length === 1 ? values[0]! : 0
  // A term such as an epsilon that keeps a divisor from zero must not vanish.
  if (one !== 0 && Math.abs(one) <= kVanish) return toHalves(Float32Array.of(Math.sign(one) * 2 ** -24))
  const out = new Uint16Array(values.length)
  for (const [part, at] of stretches(values)) out.set(clipped(part, most), at)
  return out
}

const clipped = (values: Float32Array, most: number): Uint16Array =>
  toHalves(outsideOf(values) === 0 ? values : values.map((v) => (Math.abs(v) >= kOverflow && Math.abs(v) < Infinity ? Math.sign(v) * most : v)))

/** @internal What {@link halvesFrom} loses: ‖w − ŵ‖₂ / ‖w‖₂, 0 where infinities leave no such number, and its share of zeros. */
export function lossOf(values: Float32Array, most: number): { readonly error: number; readonly sparsity: number } {
  const lost = new Deviation()
  let sum = 0
  let zeros = 0
  for (const [part] of stretches(values)) {
    const halves = fromHalves(values.length === 1 ? halvesFrom(part, most) : clipped(part, most))
    lost.add(part, halves)
    for (let i = 0; i < part.length; i++) {
      sum += Math.abs(part[i]!)
      if (halves[i] === 0) zeros++
    }
  }
  return { error: Number.isFinite(sum) ? lost.relative : 0, sparsity: values.length ? zeros / values.length : 0 }
}
