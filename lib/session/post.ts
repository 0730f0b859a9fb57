import { allocate, sizeOf, type Tensor, type TypedArray } from '../tensor'
import { boolean, fail, finite, integer, oneOf, options, string } from '../validate'

/**
 * What becomes of an output. All work along the last axis; float32 or integers in, and of equal numbers the first goes first.
 * `softmax` and `argmax` (int32) answer a tensor, so that another step may follow.
 */
export type PostStep =
  | { readonly op: 'softmax' }
  | { readonly op: 'argmax' }
  /** the `k` largest of each row, largest first: a {@link Ranked} */
  | { readonly op: 'topk'; readonly k: number }
  /** each row in order, largest first unless `ascending`: a {@link Ranked} */
  | { readonly op: 'sort'; readonly ascending?: boolean }
  /** for each row what is greater than `above`: {@link Found} lists */
  | { readonly op: 'threshold'; readonly above: number }
  /** greedy decoding of [n, steps, classes] or [steps, classes]: a {@link Decoded} for each of n */
  | { readonly op: 'ctc'; readonly alphabet: readonly string[] | string; readonly blank?: number }

/** Values and their places in the row they come from (int32), both with dims [..., k]. */
export interface Ranked {
  readonly values: Tensor
  readonly indices: Tensor
}

/** One number above a threshold: its place in its row. */
export interface Found {
  readonly index: number
  readonly value: number
}

/** A line of text. */
export interface Decoded {
  readonly text: string
  /** classes that make the text, without blanks and repetitions */
  readonly classes: readonly number[]
  /** what the model gave for each of them, at the first step where it is the largest */
  readonly probabilities: readonly number[]
  /** their mean; 0 for an empty text */
  readonly confidence: number
}

type Step = (t: Tensor, what: string) => unknown

/** Rows of the last axis, as numbers. */
function rowsOf(t: Tensor, what: string): { rows: number; n: number; data: ArrayLike<number> } {
  const n = t.dims[t.dims.length - 1] as number
  if (t.dims.length === 0 || n === 0) fail('ERR_SHAPE', what, 'a last axis of at least one element', `[${t.dims.join(', ')}]`)
  const plain = ['float32', 'float64', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32']
  if (!plain.includes(t.type) && t.type !== 'int64') fail('ERR_DTYPE', what, `numbers (${plain.join(', ')}, int64)`, t.type)
  const data = t.type === 'int64' ? Float64Array.from(t.data as BigInt64Array, Number) : (t.data as unknown as ArrayLike<number>)
  return { rows: sizeOf(t.dims) / n, n, data }
}

function softmax(t: Tensor, what: string): Tensor {
  const { rows, n, data } = rowsOf(t, what)
  const out = allocate('float32', rows * n, what) as Float32Array
  const e = new Float64Array(n)
  for (let r = 0; r < rows; r++) {
    let [top, sum] = [-Infinity, 0]
    for (let i = 0; i < n; i++) top = Math.max(top, data[r * n + i] as number)
    for (let i = 0; i < n; i++) sum += e[i] = Math.exp((data[r * n + i] as number) - top)
    for (let i = 0; i < n; i++) out[r * n + i] = (e[i] as number) / sum
  }
  return { type: 'float32', dims: t.dims, data: out }
}

/** Place of the largest of `n` numbers from `at` on; NaN is never larger. */
function largest(data: ArrayLike<number>, at: number, n: number): number {
  let [best, top] = [0, -Infinity]
  for (let i = 0; i < n; i++) if ((data[at + i] as number) > top) [best, top] = [i, data[at + i] as number]
  return best
}

function argmax(t: Tensor, what: string): Tensor {
  const { rows, n, data } = rowsOf(t, what)
  return { type: 'int32', dims: t.dims.slice(0, -1), data: Int32Array.from({ length: rows }, (_, r) => largest(data, r * n, n)) }
}

/** The first `k` of each row in order; NaN comes last. */
function ranked(t: Tensor, what: string, k: number, ascending: boolean): Ranked {
  const { rows, n, data } = rowsOf(t, what)
  const many = Math.min(k, n)
  const values = allocate(t.type, rows * many, what)
  const indices = new Int32Array(rows * many)
  const sign = ascending ? 1 : -1
  for (let r = 0; r < rows; r++) {
    const key = (i: number): number => (Number.isNaN(data[r * n + i]) ? Infinity : sign * (data[r * n + i] as number))
    const isNaN = (i: number): number => Number(Number.isNaN(data[r * n + i]))
    const order = Array.from({ length: n }, (_, i) => i).sort((a, b) => {
      const [x, y] = [key(a), key(b)]
      return x < y ? -1 : x > y ? 1 : isNaN(a) - isNaN(b) || a - b
    })
    for (let i = 0; i < many; i++) {
      indices[r * many + i] = order[i] as number
      ;(values as { [i: number]: unknown })[r * many + i] = (t.data as TypedArray)[r * n + (order[i] as number)]
    }
  }
  const dims = [...t.dims.slice(0, -1), many]
  return { values: { type: t.type, dims, data: values }, indices: { type: 'int32', dims, data: indices } }
}

function threshold(t: Tensor, what: string, above: number): Found[][] {
  const { rows, n, data } = rowsOf(t, what)
  return Array.from({ length: rows }, (_, r) => {
    const found: Found[] = []
    for (let index = 0; index < n; index++) {
      const value = data[r * n + index] as number
      if (value > above) found.push({ index, value })
    }
    return found
  })
}

function ctc(t: Tensor, what: string, alphabet: readonly string[], blank: number): Decoded[] {
  const { n, data } = rowsOf(t, what)
  const shape = `[${t.dims.join(', ')}]`
  if (t.dims.length !== 2 && t.dims.length !== 3) fail('ERR_SHAPE', what, '[n, steps, classes] or [steps, classes]', shape)
  if (n !== alphabet.length + 1) fail('ERR_SHAPE', what, `${alphabet.length + 1} classes: the alphabet and the blank`, shape)
  if (blank >= n) fail('ERR_RANGE', 'post.blank', `a class from 0 to ${n - 1}`, blank)
  const [count, steps] = (t.dims.length === 3 ? t.dims : [1, ...t.dims]) as [number, number]
  return Array.from({ length: count }, (_, line) => {
    const classes: number[] = []
    const probabilities: number[] = []
    let before = blank
    for (let s = 0; s < steps; s++) {
      const at = (line * steps + s) * n
      const now = largest(data, at, n)
      if (now !== blank && now !== before) {
        classes.push(now)
        probabilities.push(data[at + now] as number)
      }
      before = now
    }
    const text = classes.map((c) => alphabet[c > blank ? c - 1 : c]).join('')
    const confidence = probabilities.length ? probabilities.reduce((a, b) => a + b, 0) / probabilities.length : 0
    return { text, classes, probabilities, confidence }
  })
}

const kOps = ['softmax', 'argmax', 'topk', 'sort', 'threshold', 'ctc'] as const
const kKeys = { softmax: [], argmax: [], topk: ['k'], sort: ['ascending'], threshold: ['above'], ctc: ['alphabet', 'blank'] } as const

/** The steps as one function of an output. */
export function postOf(given: unknown): Step {
  const list: unknown[] = Array.isArray(given) ? given : [given]
  if (list.length === 0) fail('ERR_SHAPE', 'post', 'at least one step', given)
  const ends = list.slice(0, -1).findIndex((s) => !['softmax', 'argmax'].includes((s as { op?: string } | null)?.op as string))
  const steps = list.map((s, i) => stepOf(s, Array.isArray(given) ? `post[${i}]` : 'post'))
  if (ends >= 0) fail('ERR_RANGE', `post[${ends}]`, 'softmax or argmax before the last step', (list[ends] as { op: string }).op)
  return (t, what) => steps.reduce<unknown>((now, step) => step(now as Tensor, what), t)
}

function stepOf(given: unknown, what: string): Step {
  if (given === undefined) fail('ERR_DTYPE', what, 'an object', given)
  const all = options(given, what, ['op', 'k', 'ascending', 'above', 'alphabet', 'blank'])
  const op = oneOf(all.op as string, `${what}.op`, kOps)
  const known: readonly string[] = kKeys[op]
  for (const key of Object.keys(all)) if (key !== 'op' && !known.includes(key)) fail('ERR_RANGE', `${what}.${key}`, `nothing: ${op} has no such option`, all[key as 'k'])
  switch (op) {
    case 'softmax':
      return softmax
    case 'argmax':
      return argmax
    case 'topk': {
      const k = integer(all.k, `${what}.k`, 1)
      return (t, name) => ranked(t, name, k, false)
    }
    case 'sort': {
      const ascending = all.ascending === undefined ? false : boolean(all.ascending, `${what}.ascending`)
      return (t, name) => ranked(t, name, Infinity, ascending)
    }
    case 'threshold': {
      const above = finite(all.above, `${what}.above`)
      return (t, name) => threshold(t, name, above)
    }
    case 'ctc': {
      const letters: unknown[] = Array.isArray(all.alphabet) ? all.alphabet : [...string(all.alphabet, `${what}.alphabet`)]
      const alphabet = letters.map((c, i) => string(c, `${what}.alphabet[${i}]`))
      const blank = integer(all.blank ?? 0, `${what}.blank`, 0, alphabet.length)
      return (t, name) => ctc(t, name, alphabet, blank)
    }
  }
}
