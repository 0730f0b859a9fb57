import { WhittleError } from '../errors'
import { notEmpty, numbersOf, sameLength, type Numbers } from './read'

/**
 * Cosine of the angle between two lists of numbers, in double precision; 0 where either is all zeros.
 *
 * @throws {WhittleError} `ERR_SHAPE` for different lengths, `ERR_RANGE` for NaN, infinities and empty lists
 */
export function cosineSimilarity(a: Numbers, b: Numbers): number {
  const { x, y } = pair(a, b, 'a', 'b')
  let [xy, xx, yy] = [0, 0, 0]
  // Divided by the largest of each, so that no square leaves the range of doubles.
  const [p, q] = [largest(x), largest(y)]
  if (p === 0 || q === 0) return 0
  for (let i = 0; i < x.length; i++) {
    const [u, v] = [x[i]! / p, y[i]! / q]
    xy += u * v
    xx += u * u
    yy += v * v
  }
  return Math.max(-1, Math.min(1, xy / Math.sqrt(xx) / Math.sqrt(yy)))
}

/**
 * Signal-to-noise ratio in decibels: 10·log₁₀(Σ signal² / Σ (got − signal)²). Infinity where both are equal, −Infinity for a
 * signal of zeros alone.
 */
export function signalToNoise(signal: Numbers, got: Numbers): number {
  const { x, y } = pair(signal, got, 'signal', 'got')
  let [power, noise] = [0, 0]
  for (let i = 0; i < x.length; i++) {
    power += x[i]! * x[i]!
    noise += (y[i]! - x[i]!) ** 2
  }
  return noise === 0 ? Infinity : 10 * Math.log10(power / noise)
}

function pair(a: unknown, b: unknown, first: string, second: string): { x: ArrayLike<number>; y: ArrayLike<number> } {
  const [x, y] = [numbersOf(a, first).data, numbersOf(b, second).data]
  sameLength(y, x, second, first)
  notEmpty(x, first)
  for (const [name, list] of [[first, x], [second, y]] as const)
    for (let i = 0; i < list.length; i++)
      if (!Number.isFinite(list[i])) throw new WhittleError('ERR_RANGE', name, `${name}: expected finite numbers, element ${i} is ${list[i]}`)
  return { x, y }
}

function largest(x: ArrayLike<number>): number {
  let top = 0
  for (let i = 0; i < x.length; i++) top = Math.max(top, Math.abs(x[i]!))
  return top
}
