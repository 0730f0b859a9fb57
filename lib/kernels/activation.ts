import { WhittleError } from '../errors'
import { fail, finite } from '../validate'

/**
 * What a product applies to its result: `hardswish` is x·clip(x+3, 0, 6)/6 (ONNX, torch), `gelu` is exact, `gelu_tanh`
 * torch's tanh approximation, `silu` x·sigmoid(x), and `{ clip: [lo, hi] }` clips to bounds of your own (either may be
 * infinite). NaN gives NaN; gelu, silu and hardswish of −∞ give −0. Of the float x that they are given, sigmoid and tanh
 * are within 6·2⁻²³ of their value, silu and the gelus within 2⁻²²·max(1, |x|) and 2⁻²¹·|x|.
 */
export type Activation =
  | 'none'
  | 'relu'
  | 'relu6'
  | 'hardswish'
  | 'sigmoid'
  | 'tanh'
  | 'silu'
  | 'gelu'
  | 'gelu_tanh'
  | { readonly clip: readonly [number, number] }

/** @internal As core/activation.h has it: kind, and the bounds of clip. */
export interface NativeActivation {
  readonly kind: number
  readonly lo: number
  readonly hi: number
}

const named = (kind: number, lo = -Infinity, hi = Infinity): NativeActivation => ({ kind, lo, hi })
const kNone = named(0)
const kNamed: Readonly<Record<string, NativeActivation>> = {
  none: kNone,
  relu: named(1, 0),
  relu6: named(1, 0, 6),
  hardswish: named(2),
  sigmoid: named(3),
  tanh: named(4),
  silu: named(5),
  gelu: named(6),
  gelu_tanh: named(7),
}

/** @internal Reads an `activation` option; absent means none. Throws `ERR_RANGE`, `ERR_DTYPE`. */
export function activationOf(value: unknown, parameter: string): NativeActivation {
  if (value === undefined) return kNone
  if (typeof value === 'string') {
    if (Object.hasOwn(kNamed, value)) return kNamed[value] as NativeActivation
  } else if (value !== null && typeof value === 'object' && Array.isArray((value as { clip?: unknown }).clip)) {
    const bounds = (value as { clip: unknown[] }).clip
    if (bounds.length !== 2) fail('ERR_RANGE', `${parameter}.clip`, 'two bounds [lo, hi]', bounds)
    const [lo, hi] = bounds.map((b, i) =>
      Math.abs(b as number) === Infinity && typeof b === 'number' ? b : finite(b, `${parameter}.clip[${i}]`),
    ) as [number, number]
    if (lo > hi) throw new WhittleError('ERR_RANGE', `${parameter}.clip`, `${parameter}.clip: expected lo <= hi, got [${lo}, ${hi}]`)
    return named(1, lo, hi)
  }
  return fail('ERR_RANGE', parameter, `${Object.keys(kNamed).map((n) => `'${n}'`).join(', ')} or { clip: [lo, hi] }`, value)
}
