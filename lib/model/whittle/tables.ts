import { malformed } from '../bytes'
import { BitModel, kNumber, type BitDecoder, type BitEncoder } from './rangecoder'
import { kPrecision, normalize } from './rans'

/**
 * How a frequency table is told. `'explicit'`: one rounded logarithm a symbol, from the lowest to the highest that occurs.
 * `'smooth'`: one a knot of the distance from the centre, straight lines between, both sides alike; the codes of quantized
 * weights need little more, and a context of a few hundred symbols can afford it.
 */
type Form = 'explicit' | 'smooth'

/** Logarithms are told in units of 1/4 octave (explicit) and 1/8 octave (smooth). */
const kExplicitSteps = 4
const kSmoothSteps = 8
/** 2^(i/64). Square roots round correctly everywhere, powers need not. */
const kRoots = roots()

function roots(): Float64Array {
  let root = 2
  for (let i = 0; i < 6; i++) root = Math.sqrt(root)
  const out = new Float64Array(64)
  for (let i = 0, v = 1; i < 64; i++, v *= root) out[i] = v
  return out
}

/** 2^(v/64) for 0 <= v < 4096. */
const exp2 = (v: number): number => kRoots[v & 63]! * 2 ** (v >> 6)

const kKnots = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 255]

/** Knots of the distances 0 … `most`: the fixed ones below, and the last two distances, where clipped values pile up. */
function knotsUpTo(most: number): number[] {
  const knots = kKnots.filter((k) => k < most - 1)
  if (most > 0) knots.push(most - 1)
  knots.push(most)
  return knots
}

/** Adaptive models of what is told, kept over all tables of a block. */
export class TableModels {
  readonly delta = new BitModel(4 * kNumber)
  readonly flags = new BitModel(8)
  readonly symbols = new BitModel(3 * 256)
}

/** What a table says: enough to make the frequencies. */
interface Plan {
  readonly form: Form
  readonly low: number
  readonly high: number
  /** Rounded logarithms plus one of the symbols (0: does not occur), or of the knots. */
  readonly levels: Int32Array
}

/** Frequencies of one table, and what telling it costs, in bits, about. */
export interface Table {
  readonly freq: Uint16Array
  readonly plan: Plan
  readonly bits: number
}

function frequencies({ form, low, high, levels }: Plan, alphabet: number, center: number): Uint16Array {
  const weights = new Float64Array(alphabet)
  if (form === 'explicit')
    for (let s = low; s <= high; s++) {
      const level = levels[s - low]!
      if (level > 0) weights[s] = exp2((level - 1) * (64 / kExplicitSteps))
    }
  else {
    const most = Math.max(center - low, high - center)
    const knots = knotsUpTo(most)
    for (let k = 0; k < knots.length; k++) {
      const from = knots[k]!
      const to = k + 1 < knots.length ? knots[k + 1]! : from + 1
      const a = levels[k]! * (64 / kSmoothSteps)
      const b = (levels[k + 1] ?? levels[k]!) * (64 / kSmoothSteps)
      for (let d = from; d < to; d++) {
        const w = exp2(Math.floor((a * (to - d) + b * (d - from)) / (to - from)))
        if (center - d >= low) weights[center - d] = w
        if (center + d <= high) weights[center + d] = w
      }
    }
  }
  const freq = new Uint16Array(alphabet)
  normalize(weights, freq)
  return freq
}

/** Bits that coding these counts with these frequencies takes; infinite if one that occurs has none. */
export function costOf(counts: ArrayLike<number>, freq: Uint16Array): number {
  let bits = 0
  for (let s = 0; s < counts.length; s++) if (counts[s]! > 0) bits += counts[s]! * (kPrecision - Math.log2(freq[s]!))
  return bits
}

/** The table for these counts that is shortest together with what it codes. At least one count is above zero. */
export function fitTable(counts: ArrayLike<number>, center: number): { table: Table; bits: number } {
  let low = 0
  while (!counts[low]) low++
  let high = counts.length - 1
  while (!counts[high]) high--
  const explicit = tableOf(explicitPlan(counts, low, high), counts.length, center)
  let best = { table: explicit, bits: explicit.bits + costOf(counts, explicit.freq) }
  if (center >= low && center <= high && high > low + 1) {
    const smooth = tableOf(smoothPlan(counts, low, high, center), counts.length, center)
    const bits = smooth.bits + costOf(counts, smooth.freq)
    if (bits < best.bits) best = { table: smooth, bits }
  }
  return best
}

function tableOf(plan: Plan, alphabet: number, center: number): Table {
  return { freq: frequencies(plan, alphabet, center), plan, bits: planBits(plan) }
}

/** Logarithms relative to the rarest that matters: what is rarer is told as that. */
function explicitPlan(counts: ArrayLike<number>, low: number, high: number): Plan {
  let most = 0
  for (let s = low; s <= high; s++) most = Math.max(most, counts[s]!)
  const top = Math.round(Math.log2(most) * kExplicitSteps)
  const floor = Math.max(0, top - kPrecision * kExplicitSteps)
  const levels = new Int32Array(high - low + 1)
  for (let s = low; s <= high; s++)
    if (counts[s]! > 0) levels[s - low] = Math.max(0, Math.round(Math.log2(counts[s]!) * kExplicitSteps) - floor) + 1
  return { form: 'explicit', low, high, levels }
}

function smoothPlan(counts: ArrayLike<number>, low: number, high: number, center: number): Plan {
  const most = Math.max(center - low, high - center)
  const knots = knotsUpTo(most)
  // Mean count around each knot, nearer distances weighing more.
  const sum = new Float64Array(knots.length)
  const weight = new Float64Array(knots.length)
  let k = 0
  for (let d = 0; d <= most; d++) {
    while (k + 1 < knots.length - 1 && knots[k + 1]! <= d) k++
    const from = knots[k]!
    const to = knots[Math.min(k + 1, knots.length - 1)]!
    const share = to > from && d >= from ? Math.min(1, (d - from) / (to - from)) : 0
    let n = 0
    let places = 0
    for (const s of d > 0 ? [center - d, center + d] : [center])
      if (s >= low && s <= high) {
        n += counts[s]!
        places++
      }
    sum[k] = sum[k]! + n * (1 - share)
    weight[k] = weight[k]! + places * (1 - share)
    if (share > 0) {
      sum[k + 1] = sum[k + 1]! + n * share
      weight[k + 1] = weight[k + 1]! + places * share
    }
  }
  const logs = Array.from(sum, (n, i) => Math.log2(Math.max(n, 0.3) / Math.max(weight[i]!, 1e-9)))
  const top = Math.max(...logs)
  const floor = Math.max(top - kPrecision - 2, Math.min(...logs))
  return {
    form: 'smooth',
    low,
    high,
    levels: Int32Array.from(logs, (v) => Math.round(Math.max(0, v - floor) * kSmoothSteps)),
  }
}

/** Rough: the coder adapts, and what it will have learnt is not known here. */
function planBits({ form, levels }: Plan): number {
  let bits = 18
  for (let i = 1, before = levels[0]!; i < levels.length; before = levels[i]!, i++) {
    const d = Math.abs(levels[i]! - before)
    bits += form === 'explicit' ? 1.5 + 1.6 * Math.log2(1 + d) : 2.5 + 1.3 * Math.log2(1 + d)
  }
  return bits
}

const zigzag = (v: number): number => (v < 0 ? -2 * v - 1 : 2 * v)
const unzigzag = (v: number): number => (v & 1 ? -(v + 1) / 2 : v / 2)

export function writeTable(to: BitEncoder, models: TableModels, { plan }: Table, alphabet: number): void {
  const { form, low, high, levels } = plan
  const bits = 32 - Math.clz32(alphabet - 1)
  const smooth = form === 'smooth' ? 1 : 0
  to.bit(models.flags, 0, smooth)
  to.tree(models.symbols, 0, bits, low)
  to.tree(models.symbols, 256, bits, high)
  let before = 0
  for (let i = 0; i < levels.length; i++) {
    const kind = 2 * smooth + (i === 0 ? 0 : 1)
    to.number(models.delta, kind * kNumber, i === 0 ? levels[i]! : zigzag(levels[i]! - before))
    before = levels[i]!
  }
}

export function readTable(
  from: BitDecoder,
  models: TableModels,
  alphabet: number,
  center: number,
  label: string,
): Uint16Array {
  const bits = 32 - Math.clz32(alphabet - 1)
  const smooth = from.bit(models.flags, 0)
  const low = from.tree(models.symbols, 0, bits)
  const high = from.tree(models.symbols, 256, bits)
  if (low > high || high >= alphabet || (smooth && (center < low || center > high)))
    malformed(label, 'a frequency table of impossible range')
  const count = smooth ? knotsUpTo(Math.max(center - low, high - center)).length : high - low + 1
  const levels = new Int32Array(count)
  const most = smooth ? 64 * kSmoothSteps : 64 * kExplicitSteps
  let any = false
  for (let i = 0, before = 0; i < count; i++) {
    const kind = 2 * smooth + (i === 0 ? 0 : 1)
    const v = from.number(models.delta, kind * kNumber)
    before = i === 0 ? v : before + unzigzag(v)
    if (before < 0 || before >= most) malformed(label, 'a frequency table with an impossible entry')
    levels[i] = before
    if (before > 0) any = true
  }
  if (!smooth && !any) malformed(label, 'an empty frequency table')
  return frequencies({ form: smooth ? 'smooth' : 'explicit', low, high, levels }, alphabet, center)
}
