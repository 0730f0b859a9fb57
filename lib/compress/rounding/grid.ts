/** What the codes of a weight stand for; see `QuantizeStep.format`. */
export type Format = 'int' | 'nf4' | 'binary' | 'ternary' | 'pow2' | 'apot' | 'residual' | 'float16'

/**
 * @internal The values that a weight divided by its scale may take. A code is the value itself (`int`, signed) or its place
 * among `levels`.
 */
export interface Grid {
  readonly format: Exclude<Format, 'float16'>
  /** Ascending, for codes 0, 1, …; `undefined` where a code is its value. */
  readonly levels: readonly number[] | undefined
  /** Largest value. */
  readonly top: number
  /** The code of the nearest value; half way the even one of integers, else the lower. */
  code(x: number): number
  value(code: number): number
}

/** Nearest integer, half to even. */
function nearestEven(x: number): number {
  const floor = Math.floor(x)
  const rest = x - floor
  if (rest !== 0.5) return rest > 0.5 ? floor + 1 : floor
  return floor % 2 === 0 ? floor : floor + 1
}

function integers(bits: number): Grid {
  const top = 2 ** (bits - 1) - 1
  return {
    format: 'int',
    levels: undefined,
    top,
    code: (x) => Math.max(-top, Math.min(top, nearestEven(x))),
    value: (code) => code,
  }
}

function listed(format: Grid['format'], values: readonly number[]): Grid {
  const levels = [...values].sort((a, b) => a - b)
  const between = levels.slice(1).map((v, i) => (v + levels[i]!) / 2)
  return {
    format,
    levels,
    top: Math.max(...levels.map(Math.abs)),
    code: (x) => {
      let low = 0
      let high = between.length
      while (low < high) {
        const middle = (low + high) >> 1
        if (x > between[middle]!) low = middle + 1
        else high = middle
      }
      return low
    },
    value: (code) => levels[code]!,
  }
}

/** The 16 levels of NormalFloat (Dettmers et al., QLoRA, 2023), as the paper's appendix lists them. */
const kNormalFloat4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
]

/** 0 and ±2^-k, k = 0 … 2^(bits−1) − 2. */
function powersOfTwo(bits: number): number[] {
  const magnitudes = Array.from({ length: 2 ** (bits - 1) - 1 }, (_, k) => 2 ** -k)
  return [0, ...magnitudes.flatMap((m) => [m, -m])]
}

/**
 * Sums of powers of two (Li, Dong, Wang: Additive Powers-of-Two Quantization, 2020): one bit for the sign, each two others a
 * term with 0 and three exponents, an odd one a term with 0 and one; exponents are dealt to the terms in turn. Largest value 1.
 */
function additivePowersOfTwo(bits: number): number[] {
  const pairs = (bits - 1) >> 1
  const odd = (bits - 1) % 2 === 1
  const terms: number[][] = Array.from({ length: pairs + (odd ? 1 : 0) }, () => [0])
  let exponent = 1
  for (let round = 0; round < 3; round++) {
    // The one-bit term takes its only exponent before the third round, or at once where it is alone.
    if (odd && round === (pairs === 0 ? 0 : 2)) terms[pairs]!.push(2 ** -exponent++)
    for (let i = 0; i < pairs; i++) terms[i]!.push(2 ** -exponent++)
  }
  let sums = [0]
  for (const term of terms) sums = sums.flatMap((s) => term.map((t) => s + t))
  const most = Math.max(...sums)
  return [0, ...sums.filter((s) => s > 0).flatMap((s) => [s / most, -s / most])]
}

/** @internal The grid of a format; `bits` counts for `int`, `pow2`, `apot` and `residual`. */
export function gridOf(format: Grid['format'], bits: number): Grid {
  switch (format) {
    case 'int':
      return integers(bits)
    case 'nf4':
      return listed(format, kNormalFloat4)
    case 'binary':
      return listed(format, [-1, 1])
    case 'ternary':
      return listed(format, [-1, 0, 1])
    case 'pow2':
      return listed(format, powersOfTwo(bits))
    case 'apot':
      return listed(format, additivePowersOfTwo(bits))
    case 'residual':
      // Signs of one plane; what a code of several stands for is up to the group's scales (see residual.ts).
      return listed(format, [-1, 1])
  }
}
