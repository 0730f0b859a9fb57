// What the tests of the distillation losses share: random tensors, comparisons, codes of errors.
import { WhittleError, type Tensor } from '../../lib/index'

let state = 1
const random = (): number => ((state = (state * 48271) % 2147483647) / 2147483647) * 2 - 1
export const f32 = (dims: number[], scale = 1): Tensor<Float32Array> => ({
  type: 'float32',
  dims,
  data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => scale * random()),
})
export const labelsOf = (n: number, classes: number): Int32Array => Int32Array.from({ length: n }, (_, i) => (i * 7 + 3) % classes)

/** Starts the random numbers anew. */
export function restart(): void {
  state = 4711
}

export function values(loss: number | Tensor<Float32Array>): ArrayLike<number> {
  return typeof loss === 'number' ? [loss] : loss.data
}

export function close(got: ArrayLike<number>, want: ArrayLike<number>, what: string, abs: number, rel = 2e-5): void {
  if (got.length !== want.length) throw new Error(`${what}: ${got.length} numbers, want ${want.length}`)
  for (let i = 0; i < want.length; i++) {
    const w = want[i] as number
    if (!(Math.abs((got[i] as number) - w) <= abs + rel * Math.abs(w))) throw new Error(`${what}[${i}]: got ${got[i]}, want ${w}`)
  }
}

export function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (e) {
    if (e instanceof WhittleError) return `${e.code} ${e.parameter}`
    throw e
  }
  return 'no error'
}
