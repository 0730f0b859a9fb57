import { malformed } from '../bytes'
import { joinParts, splitParts } from './parts'
import { BitDecoder, BitEncoder, BitModel, kNumber } from './rangecoder'
import { ransDecode, ransEncode, type Contexts } from './rans'
import { costOf, fitTable, readTable, TableModels, writeTable, type Table } from './tables'

/**
 * Symbols in rows, coded by rANS. Where it pays, each symbol's table is chosen by the sum of a class of its row and one of
 * its column: codes of weights are larger in some output channels and for some inputs than for others, and the logarithm
 * of their mean size is nearly a sum of both.
 */

const kMostContexts = 24
/** Classes of rows and of columns, each; with more the sums would not fit a byte. */
const kMostClasses = 100
/** Blocks of more symbols try one form of classes only. */
const kSample = 1 << 19

/** How the classes of a block are laid out. */
interface Classes {
  readonly columns: number
  readonly row: Uint8Array
  readonly column: Uint8Array
  /** Sums of two classes that may occur. */
  readonly sums: number
}

/**
 * Codes `symbols`, each below `alphabet`; `columns` is the length of a row, or the number of symbols where rows mean
 * nothing. Answers nothing where the result would not be shorter than `limit` bytes.
 */
export function encodeCodes(
  symbols: Uint8Array,
  alphabet: number,
  columns: number,
  limit: number,
): Uint8Array | undefined {
  const counts = new Float64Array(alphabet)
  for (let i = 0; i < symbols.length; i++) counts[symbols[i]!]!++
  const center = centerOf(counts, symbols.length)
  const flat = fitTable(counts, center)
  let bits = flat.bits
  let classes: Classes | undefined
  let grouped: Grouped | undefined
  const rows = symbols.length / columns
  if (rows > 1 && columns > 1) {
    for (const [step, both] of [
      [4, true],
      [2, true],
      [4, false],
    ] as const) {
      if (symbols.length > kSample && !(step === 4 && both)) continue
      const c = classesOf(symbols, center, rows, columns, step, both)
      const g = c && group(symbols, alphabet, center, c)
      if (c && g && g.bits < bits) {
        bits = g.bits
        classes = c
        grouped = g
      }
    }
  }
  if (bits / 8 + 6 >= limit) return undefined
  const meta = new BitEncoder()
  const models = new TableModels()
  const head = new BitModel(4 * kNumber)
  meta.tree(new BitModel(256), 0, 8, center)
  meta.number(head, 0, classes ? columns : 0)
  const tables = grouped ? grouped.tables : [flat.table]
  let contexts: Contexts | undefined
  if (classes && grouped) {
    meta.number(head, kNumber, tables.length)
    writeClasses(meta, classes.row)
    writeClasses(meta, classes.column)
    meta.number(head, 2 * kNumber, classes.sums)
    for (let s = 1; s < classes.sums; s++) meta.bit(head, 3 * kNumber, grouped.of[s]! > grouped.of[s - 1]! ? 1 : 0)
    contexts = { columns, row: classes.row, column: classes.column, of: grouped.of }
  }
  const freq = new Uint16Array(tables.length * alphabet)
  tables.forEach((t, i) => {
    writeTable(meta, models, t, alphabet)
    freq.set(t.freq, i * alphabet)
  })
  const described = meta.finish()
  const coded = ransEncode(symbols, alphabet, freq, contexts)
  const out = joinParts([described, coded])
  return out.length < limit ? out : undefined
}

/** Decodes `bytes[start, end)` into `out`, whose length says how many symbols there are. */
export function decodeCodes(
  bytes: Uint8Array,
  start: number,
  end: number,
  out: Uint8Array,
  alphabet: number,
  label: string,
): void {
  const [described, coded] = splitParts(bytes, start, end, 2, label)
  const meta = new BitDecoder(bytes, described!.start, described!.end, label)
  const models = new TableModels()
  const head = new BitModel(4 * kNumber)
  const center = meta.tree(new BitModel(256), 0, 8)
  if (center >= alphabet) malformed(label, 'a block with an impossible centre')
  const columns = meta.number(head, 0)
  let tables = 1
  let contexts: Contexts | undefined
  if (columns > 0) {
    if (columns > out.length || out.length % columns) malformed(label, 'a block with rows that do not fit')
    tables = meta.number(head, kNumber)
    if (tables < 1 || tables > kMostContexts) malformed(label, 'a block with too many tables')
    const row = readClasses(meta, out.length / columns, label)
    const column = readClasses(meta, columns, label)
    const sums = meta.number(head, 2 * kNumber)
    if (sums < 1 || sums > 2 * kMostClasses) malformed(label, 'a block with too many contexts')
    const of = new Uint8Array(sums)
    for (let s = 1; s < sums; s++) of[s] = of[s - 1]! + meta.bit(head, 3 * kNumber)
    const most = (list: Uint8Array): number => list.reduce((m, c) => (c > m ? c : m), 0)
    if (of[sums - 1]! >= tables || most(row) + most(column) >= sums)
      malformed(label, 'a block with impossible contexts')
    contexts = { columns, row, column, of }
  }
  const freq = new Uint16Array(tables * alphabet)
  for (let t = 0; t < tables; t++) freq.set(readTable(meta, models, alphabet, center, label), t * alphabet)
  ransDecode(bytes, coded!.start, coded!.end, out, alphabet, freq, contexts, label)
}

/** The median: codes of weights lie around it, whatever their zero point. */
function centerOf(counts: Float64Array, total: number): number {
  let seen = 0
  for (let s = 0; s < counts.length; s++) {
    seen += counts[s]!
    if (2 * seen >= total) return s
  }
  return 0
}

/** Classes by the logarithm of the mean size, `step` to an octave; none where all rows and columns are alike. */
function classesOf(
  symbols: Uint8Array,
  center: number,
  rows: number,
  columns: number,
  step: number,
  both: boolean,
): Classes | undefined {
  const a = new Float64Array(rows)
  const b = new Float64Array(columns).fill(1)
  const size = new Float64Array(256)
  // A row of zeros has a size too.
  for (let s = 0; s < 256; s++) size[s] = Math.abs(s - center) + 0.02
  for (let sweep = 0; sweep < (!both ? 1 : symbols.length > kSample ? 2 : 3); sweep++) {
    let columnSum = 0
    for (let c = 0; c < columns; c++) columnSum += b[c]!
    for (let r = 0, i = 0; r < rows; r++) {
      let n = 0
      for (let c = 0; c < columns; c++, i++) n += size[symbols[i]!]!
      a[r] = n / columnSum
    }
    if (!both) break
    const sums = new Float64Array(columns)
    let rowSum = 0
    for (let r = 0, i = 0; r < rows; r++) {
      rowSum += a[r]!
      for (let c = 0; c < columns; c++, i++) sums[c]! += size[symbols[i]!]!
    }
    for (let c = 0; c < columns; c++) b[c] = sums[c]! / rowSum
  }
  const row = classed(a, step)
  const column = both ? classed(b, step) : new Uint8Array(columns)
  const most = (list: Uint8Array): number => list.reduce((m, c) => (c > m ? c : m), 0)
  const sums = most(row) + most(column) + 1
  return sums > 1 ? { columns, row, column, sums } : undefined
}

function classed(means: Float64Array, step: number): Uint8Array {
  const logs = Float64Array.from(means, (m) => Math.round(Math.log2(m) * step))
  const least = logs.reduce((m, v) => Math.min(m, v), Infinity)
  return Uint8Array.from(logs, (v) => Math.min(kMostClasses - 1, v - least))
}

interface Grouped {
  readonly tables: Table[]
  /** Table by sum of classes, not descending. */
  readonly of: Uint8Array
  /** Of everything: classes, tables, symbols. */
  readonly bits: number
}

/** Neighbouring sums share a table where two would not pay. */
function group(
  symbols: Uint8Array,
  alphabet: number,
  center: number,
  { columns, row, column, sums }: Classes,
): Grouped {
  const counts = Array.from({ length: sums }, () => new Float64Array(alphabet))
  for (let i = 0, r = 0; i < symbols.length; r++)
    for (let c = 0; c < columns; c++, i++) counts[row[r]! + column[c]!]![symbols[i]!]!++
  interface Group {
    counts: Float64Array
    last: number
    fit: { table: Table; bits: number }
  }
  const groups: Group[] = []
  counts.forEach((own, s) => {
    if (own.some((n) => n > 0)) groups.push({ counts: own, last: s, fit: fitTable(own, center) })
  })
  // The last group also serves sums that do not occur.
  groups[groups.length - 1]!.last = sums - 1
  const merged = (i: number): Group => {
    const [a, b] = [groups[i]!, groups[i + 1]!]
    const both = a.counts.map((n, s) => n + b.counts[s]!)
    return { counts: both, last: b.last, fit: fitTable(both, center) }
  }
  const joined = groups.slice(0, -1).map((_, i) => merged(i))
  const gain = (i: number): number => groups[i]!.fit.bits + groups[i + 1]!.fit.bits - joined[i]!.fit.bits
  for (;;) {
    let best = -1
    for (let i = 0; i < joined.length; i++) if (best < 0 || gain(i) > gain(best)) best = i
    if (best < 0 || (gain(best) <= 0 && groups.length <= kMostContexts)) break
    groups.splice(best, 2, joined[best]!)
    joined.splice(best, 1)
    if (best < joined.length) joined[best] = merged(best)
    if (best > 0) joined[best - 1] = merged(best - 1)
  }
  const of = new Uint8Array(sums)
  for (let s = 0, g = 0; s < sums; s++) {
    if (s > groups[g]!.last) g++
    of[s] = g
  }
  const bits = groups.reduce((n, g) => n + g.fit.table.bits + costOf(g.counts, g.fit.table.freq), 0)
  return { tables: groups.map((g) => g.fit.table), of, bits: bits + classBits(row) + classBits(column) + sums / 2 }
}

/** Bits that {@link writeClasses} takes, about. */
function classBits(classes: Uint8Array): number {
  const counts = new Float64Array(256)
  for (const c of classes) counts[c]!++
  let bits = 0
  let kinds = 0
  for (const n of counts)
    if (n > 0) {
      bits -= n * Math.log2(n / classes.length)
      kinds++
    }
  return bits + 8 * kinds
}

function writeClasses(to: BitEncoder, classes: Uint8Array): void {
  const model = new BitModel(128)
  for (const c of classes) to.tree(model, 0, 7, c)
}

function readClasses(from: BitDecoder, count: number, label: string): Uint8Array {
  const model = new BitModel(128)
  const out = new Uint8Array(count)
  for (let i = 0; i < count; i++) {
    const c = from.tree(model, 0, 7)
    if (c >= kMostClasses) malformed(label, 'a block with an impossible class')
    out[i] = c
  }
  return out
}
