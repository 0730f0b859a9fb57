import { malformed } from '../bytes'

/**
 * Range asymmetric numeral systems (Duda 2014), static: 32-bit states, 16-bit words, frequencies that sum to 2^14.
 * Symbols of a block are dealt to four interleaved states, so that their dependency chains overlap; one state serves
 * short blocks. Each symbol may come from a table of its own context.
 */

/** Bits of a frequency. */
export const kPrecision = 14
const kTotal = 1 << kPrecision
const kMask = kTotal - 1
/** States stay in [2^16, 2^32). */
const kLow = 65536
/** Below this many symbols one state is used: three more would cost twelve bytes. */
const kInterleaved = 4096

/** Which table each symbol has: `of[row[r] + column[c]]`, symbols in rows of `columns`. */
export interface Contexts {
  readonly columns: number
  readonly row: Uint8Array
  readonly column: Uint8Array
  readonly of: Uint8Array
}

/**
 * Scales weights to frequencies that sum to 2^14; every weight above zero keeps at least 1. Integers and exact doubles
 * only: encoder and decoder must agree on every machine. At most 2^14 weights, at least one above zero.
 */
export function normalize(weights: ArrayLike<number>, out: Uint16Array): void {
  let total = 0
  for (let i = 0; i < weights.length; i++) total += weights[i]!
  let left = kTotal
  let largest = 0
  for (let i = 0; i < weights.length; i++) {
    const w = weights[i]!
    const f = w > 0 ? Math.max(1, Math.floor((w * kTotal) / total)) : 0
    out[i] = f
    left -= f
    if (f > out[largest]!) largest = i
  }
  if (left >= 0) {
    out[largest] = out[largest]! + left
    return
  }
  // Rare symbols were rounded up: the frequent ones pay, each in proportion.
  while (left < 0) {
    let paid = false
    for (let i = 0; i < weights.length && left < 0; i++) {
      const f = out[i]!
      const give = Math.min(-left, f >> 4 || (f > 1 ? 1 : 0))
      if (give === 0) continue
      out[i] = f - give
      left += give
      paid = true
    }
    if (!paid) return
  }
}

const kNone = new Uint8Array(0)

/** Number of interleaved states for `count` symbols. */
const lanesFor = (count: number): number => (count < kInterleaved ? 1 : 4)

/**
 * Encodes `symbols`. `freq` holds one table of `alphabet` frequencies after the other; without `contexts` the first is
 * used. The result begins with the states and is made of little-endian words.
 */
export function ransEncode(symbols: Uint8Array, alphabet: number, freq: Uint16Array, contexts?: Contexts): Uint8Array {
  const count = symbols.length
  const lanes = lanesFor(count)
  const cum = new Uint16Array(freq.length)
  for (let t = 0; t < freq.length; t += alphabet)
    for (let s = 1; s < alphabet; s++) cum[t + s] = cum[t + s - 1]! + freq[t + s - 1]!
  const words = new Uint16Array(count + 2 * lanes)
  let at = words.length
  const x = new Uint32Array(4).fill(kLow)
  const wrap = lanes === 1 ? 0 : 3
  const columns = contexts ? contexts.columns : count
  const { row, column, of } = contexts ?? { row: kNone, column: kNone, of: kNone }
  for (let r = count / columns - 1, i = count - 1; r >= 0; r--) {
    const base = contexts ? row[r]! : 0
    for (let c = columns - 1; c >= 0; c--, i--) {
      const key = (contexts ? of[base + column[c]!]! * alphabet : 0) + symbols[i]!
      const f = freq[key]!
      const lane = c & wrap
      let s = x[lane]!
      if (s >= f * 262144) {
        words[--at] = s
        s >>>= 16
      }
      const q = (s / f) >>> 0
      x[lane] = q * kTotal + cum[key]! + (s - q * f)
    }
  }
  for (let lane = lanes - 1; lane >= 0; lane--) {
    words[--at] = x[lane]! >>> 16
    words[--at] = x[lane]!
  }
  const out = new Uint8Array((words.length - at) * 2)
  for (let i = at, o = 0; i < words.length; i++) {
    const w = words[i]!
    out[o++] = w & 255
    out[o++] = w >>> 8
  }
  return out
}

/** Decodes what {@link ransEncode} made from `bytes[start, end)` into `out`. Throws `ERR_MODEL_FORMAT` for anything else. */
export function ransDecode(
  bytes: Uint8Array,
  start: number,
  end: number,
  out: Uint8Array,
  alphabet: number,
  freq: Uint16Array,
  contexts: Contexts | undefined,
  label: string,
): void {
  const lanes = lanesFor(out.length)
  const count = (end - start) >> 1
  if ((end - start) % 2 !== 0 || count < 2 * lanes || count > out.length + 2 * lanes)
    malformed(label, 'a coded block of an impossible length')
  const words = new Uint16Array(count)
  for (let i = 0, p = start; i < count; i++, p += 2) words[i] = bytes[p]! | (bytes[p + 1]! << 8)
  const tables = new Tables(alphabet, freq)
  const states = new Int32Array(4).fill(kLow)
  for (let lane = 0; lane < lanes; lane++) states[lane] = words[2 * lane]! | (words[2 * lane + 1]! << 16)
  let at = 2 * lanes
  if (lanes === 1) at = decodeOne(words, at, out, tables, states, contexts)
  else if (contexts) at = decodeRows(words, at, out, tables, states, contexts)
  else at = decodeFlat(words, at, out, tables, states)
  // Every state must be back where the encoder began, with every word used.
  if (at !== count || states.some((s) => s !== kLow)) malformed(label, 'a coded block that does not add up')
}

/** By table and slot the symbol, by table and symbol frequency and cumulative frequency. */
class Tables {
  readonly symbol: Uint8Array
  readonly both: Uint32Array
  /** Symbols of a table in {@link both}: a power of two. */
  readonly shift: number

  constructor(alphabet: number, freq: Uint16Array) {
    const tables = freq.length / alphabet
    this.shift = 32 - Math.clz32(alphabet - 1)
    this.symbol = new Uint8Array(tables << kPrecision)
    this.both = new Uint32Array(tables << this.shift)
    for (let t = 0; t < tables; t++) {
      let slot = 0
      for (let s = 0; s < alphabet; s++) {
        const f = freq[t * alphabet + s]!
        this.both[(t << this.shift) + s] = ((f << 16) | slot) >>> 0
        this.symbol.fill(s, (t << kPrecision) + slot, (t << kPrecision) + slot + f)
        slot += f
      }
    }
  }
}

function decodeOne(
  words: Uint16Array,
  at: number,
  out: Uint8Array,
  { symbol, both, shift }: Tables,
  states: Int32Array,
  contexts: Contexts | undefined,
): number {
  let x = states[0]!
  const columns = contexts ? contexts.columns : out.length
  for (let i = 0, c = 0, r = 0; i < out.length; i++, c++) {
    if (c === columns) {
      c = 0
      r++
    }
    const t = contexts ? contexts.of[contexts.row[r]! + contexts.column[c]!]! : 0
    const slot = x & kMask
    const s = symbol[(t << kPrecision) + slot]!
    const b = both[(t << shift) + s]!
    x = (Math.imul(b >>> 16, x >>> kPrecision) + slot - (b & 65535)) | 0
    if (x >>> 16 === 0) x = (x << 16) | words[at++]!
    out[i] = s
  }
  states[0] = x
  return at
}

function decodeFlat(
  words: Uint16Array,
  at: number,
  out: Uint8Array,
  { symbol, both }: Tables,
  states: Int32Array,
): number {
  let x0 = states[0]!
  let x1 = states[1]!
  let x2 = states[2]!
  let x3 = states[3]!
  const whole = out.length & ~3
  for (let i = 0; i < whole; i += 4) {
    const t0 = x0 & kMask
    const t1 = x1 & kMask
    const t2 = x2 & kMask
    const t3 = x3 & kMask
    const s0 = symbol[t0]!
    const s1 = symbol[t1]!
    const s2 = symbol[t2]!
    const s3 = symbol[t3]!
    const b0 = both[s0]!
    const b1 = both[s1]!
    const b2 = both[s2]!
    const b3 = both[s3]!
    x0 = (Math.imul(b0 >>> 16, x0 >>> kPrecision) + t0 - (b0 & 65535)) | 0
    x1 = (Math.imul(b1 >>> 16, x1 >>> kPrecision) + t1 - (b1 & 65535)) | 0
    x2 = (Math.imul(b2 >>> 16, x2 >>> kPrecision) + t2 - (b2 & 65535)) | 0
    x3 = (Math.imul(b3 >>> 16, x3 >>> kPrecision) + t3 - (b3 & 65535)) | 0
    if (x0 >>> 16 === 0) x0 = (x0 << 16) | words[at++]!
    if (x1 >>> 16 === 0) x1 = (x1 << 16) | words[at++]!
    if (x2 >>> 16 === 0) x2 = (x2 << 16) | words[at++]!
    if (x3 >>> 16 === 0) x3 = (x3 << 16) | words[at++]!
    out[i] = s0
    out[i + 1] = s1
    out[i + 2] = s2
    out[i + 3] = s3
  }
  states[0] = x0
  states[1] = x1
  states[2] = x2
  states[3] = x3
  for (let i = whole; i < out.length; i++) {
    let x = states[i & 3]!
    const slot = x & kMask
    const s = symbol[slot]!
    const b = both[s]!
    x = (Math.imul(b >>> 16, x >>> kPrecision) + slot - (b & 65535)) | 0
    if (x >>> 16 === 0) x = (x << 16) | words[at++]!
    states[i & 3] = x
    out[i] = s
  }
  return at
}

function decodeRows(
  words: Uint16Array,
  at: number,
  out: Uint8Array,
  { symbol, both, shift }: Tables,
  states: Int32Array,
  { columns, row, column, of }: Contexts,
): number {
  let x0 = states[0]!
  let x1 = states[1]!
  let x2 = states[2]!
  let x3 = states[3]!
  for (let i = 0, r = 0; i < out.length; r++) {
    const base = row[r]!
    const whole = columns & ~3
    let c = 0
    for (; c < whole; c += 4, i += 4) {
      const k0 = of[base + column[c]!]!
      const k1 = of[base + column[c + 1]!]!
      const k2 = of[base + column[c + 2]!]!
      const k3 = of[base + column[c + 3]!]!
      const t0 = x0 & kMask
      const t1 = x1 & kMask
      const t2 = x2 & kMask
      const t3 = x3 & kMask
      const s0 = symbol[(k0 << kPrecision) + t0]!
      const s1 = symbol[(k1 << kPrecision) + t1]!
      const s2 = symbol[(k2 << kPrecision) + t2]!
      const s3 = symbol[(k3 << kPrecision) + t3]!
      const b0 = both[(k0 << shift) + s0]!
      const b1 = both[(k1 << shift) + s1]!
      const b2 = both[(k2 << shift) + s2]!
      const b3 = both[(k3 << shift) + s3]!
      x0 = (Math.imul(b0 >>> 16, x0 >>> kPrecision) + t0 - (b0 & 65535)) | 0
      x1 = (Math.imul(b1 >>> 16, x1 >>> kPrecision) + t1 - (b1 & 65535)) | 0
      x2 = (Math.imul(b2 >>> 16, x2 >>> kPrecision) + t2 - (b2 & 65535)) | 0
      x3 = (Math.imul(b3 >>> 16, x3 >>> kPrecision) + t3 - (b3 & 65535)) | 0
      if (x0 >>> 16 === 0) x0 = (x0 << 16) | words[at++]!
      if (x1 >>> 16 === 0) x1 = (x1 << 16) | words[at++]!
      if (x2 >>> 16 === 0) x2 = (x2 << 16) | words[at++]!
      if (x3 >>> 16 === 0) x3 = (x3 << 16) | words[at++]!
      out[i] = s0
      out[i + 1] = s1
      out[i + 2] = s2
      out[i + 3] = s3
    }
    for (; c < columns; c++, i++) {
      const lane = c & 3
      let x = lane === 0 ? x0 : lane === 1 ? x1 : x2
      const k = of[base + column[c]!]!
      const slot = x & kMask
      const s = symbol[(k << kPrecision) + slot]!
      const b = both[(k << shift) + s]!
      x = (Math.imul(b >>> 16, x >>> kPrecision) + slot - (b & 65535)) | 0
      if (x >>> 16 === 0) x = (x << 16) | words[at++]!
      if (lane === 0) x0 = x
      else if (lane === 1) x1 = x
      else x2 = x
      out[i] = s
    }
  }
  states[0] = x0
  states[1] = x1
  states[2] = x2
  states[3] = x3
  return at
}
