// Loads, stores, atomics: addresses, vectors, state spaces, and the count of what each request moves.
import { each } from './registers'
import type { Decoding, Step } from './instructions'
import type { Context, Traffic, Warp } from './machine'
import { Fault, kGlobalBase, kLocalWindow, kSharedWindow, type Memory } from './memory'
import { PtxError, widthOf } from './parse'

const { ceil, floor, fround, max } = Math

/** Distinct 32-byte pieces. */
function sectors(list: readonly number[], bytes: number): number {
  const seen = new Set<number>()
  for (const a of list) for (let s = floor(a / 32); s <= floor((a + bytes - 1) / 32); s++) seen.add(s)
  return seen.size
}

/**
 * Passes over 32 banks of 4 bytes. Lanes of 8 and 16 bytes go by halves and quarters of a warp; lanes that read one word are
 * one, lanes that change one are one after the other.
 */
function passes(list: readonly (number | undefined)[], bytes: number, atomic: boolean): [number, number] {
  const group = bytes <= 4 ? 32 : 128 / bytes
  let sum = 0
  let groups = 0
  for (let first = 0; first < 32; first += group) {
    const banks = new Map<number, number[]>()
    for (const a of list.slice(first, first + group)) {
      if (a === undefined) continue
      for (let word = floor(a / 4); word <= floor((a + bytes - 1) / 4); word++) {
        const bank = banks.get(word % 32) ?? []
        if (atomic || !bank.includes(word)) bank.push(word)
        banks.set(word % 32, bank)
      }
    }
    sum += [...banks.values()].reduce((n, b) => max(n, b.length), 0)
    groups += banks.size ? 1 : 0
  }
  return [sum, groups]
}

function count(
  c: Context,
  index: number,
  text: string,
  space: Traffic['space'],
  atomic: boolean,
  list: readonly (number | undefined)[],
  bytes: number,
): void {
  let t = c.profile.traffic.get(index)
  if (!t) c.profile.traffic.set(index, (t = { instruction: text, space, atomic, requests: 0, units: 0, ideal: 0 }))
  t.requests++
  if (space === 'shared') {
    const [units, ideal] = passes(list, bytes, atomic)
    t.units += units
    t.ideal += ideal
    return
  }
  const there = list.filter((a) => a !== undefined)
  t.units += sectors(there, bytes)
  t.ideal += ceil((new Set(there).size * bytes) / 32)
}

type Space = 'global' | 'shared' | 'local' | 'generic' | 'const'

/** The memory of an address and the address in it. */
function locate(w: Warp, lane: number, space: Space, address: number): [Memory, number] {
  const c = w.context
  const local = (a: number): [Memory, number] => [c.local, a + (w.localBase[lane] as number)]
  if (space === 'global' || space === 'const') return [c.global, address]
  if (space === 'shared') return [c.shared, address]
  if (space === 'local') return local(address)
  if (address >= kGlobalBase) return [c.global, address]
  if (address >= kSharedWindow) return [c.shared, address - kSharedWindow]
  if (address >= kLocalWindow) return local(address - kLocalWindow)
  throw new Fault(`no memory at generic address 0x${address.toString(16)}`)
}

export const addressOf = (w: Warp, at: number, wide: boolean, offset: number): number =>
  (wide ? (w.u32[2 * at + 1] as number) * 4294967296 : 0) + (w.u32[2 * at] as number) + offset

/**
 * Calls `body` with the place in memory of every lane's `bytes`, then counts them as one request.
 */
export function requests(
  d: Decoding,
  operand: number,
  space: Space,
  bytes: number,
  atomic: boolean,
  body: (w: Warp, lane: number, m: Memory, at: number) => void,
): Step {
  const { slot, wide, offset } = d.address(operand)
  const { index, instruction } = d
  return (w, mask) => {
    const list: (number | undefined)[] = new Array<number | undefined>(32).fill(undefined)
    let counted: Memory | undefined
    let mixed = false
    for (const m of [w.context.global, w.context.shared, w.context.local]) m.request()
    for (let l = 0; l < 32; l++) {
      if (!((mask >>> l) & 1)) continue
      const [m, address] = locate(w, l, space, addressOf(w, slot * 32 + l, wide, offset))
      mixed ||= counted !== undefined && counted !== m
      counted = m
      list[l] = address
      try {
        body(w, l, m, m.place(address, bytes))
      } catch (e) {
        if (e instanceof PtxError) e.message = `lane ${l}: ${e.message}`
        throw e
      }
    }
    if (counted && !mixed && space !== 'const' && counted !== w.context.local)
      count(w.context, index, instruction.text, counted === w.context.shared ? 'shared' : 'global', atomic, list, bytes)
  }
}

/** A number of `bytes` in memory, its sign extended over 64 bits where the type has one. */
function put(d: Decoding, slot: number, type: string): (w: Warp, lane: number, view: DataView, at: number) => void {
  const bytes = widthOf(type)
  if (slot < 0) return () => undefined
  if (bytes === 8) return (w, l, view, at) => (w.u64[slot * 32 + l] = view.getBigUint64(at, true))
  const signed = type[0] === 's'
  const read = (view: DataView, at: number): number =>
    bytes === 4
      ? view.getInt32(at, true)
      : bytes === 2
        ? signed
          ? view.getInt16(at, true)
          : view.getUint16(at, true)
        : signed
          ? view.getInt8(at)
          : view.getUint8(at)
  const width = d.width(slot)
  if (width === 8)
    return (w, l, view, at) => (w.u64[slot * 32 + l] = BigInt(signed ? read(view, at) : read(view, at) >>> 0))
  return (w, l, view, at) => (w.u32[2 * (slot * 32 + l)] = width === 2 ? read(view, at) & 0xffff : read(view, at))
}

const kSpaces = ['global', 'shared', 'local', 'const']
// Cache hints and orders that change no result where all threads of a warp run in order.
const kHints =
  /^(nc|ca|cg|cs|cv|lu|wb|wt|relaxed|weak|cta|gpu|sys|volatile|L1|L2|evict_first|evict_last|no_allocate|acquire|release|acq_rel|L1::\w+|L2::\w+|shared::cta)$/

interface Shape {
  space: Space
  vector: number
  type: string
  rest: string[]
}
function shape(op: string[]): Shape | undefined {
  const type = op.at(-1) as string
  const rest: string[] = []
  let space: Space = 'generic'
  let vector = 1
  for (const m of op.slice(1, -1)) {
    if (kSpaces.includes(m)) space = m as Space
    else if (m === 'shared::cta') space = 'shared'
    else if (m === 'v2' || m === 'v4') vector = Number(m[1])
    else if (!kHints.test(m)) rest.push(m)
  }
  return /^[bsuf]\d+(x2)?$/.test(type) ? { space, vector, type, rest } : undefined
}

function load(d: Decoding): Step | undefined {
  if (d.op[1] === 'param') {
    const type = d.op.at(-1) as string
    const bytes = widthOf(type)
    const { slot, wide, offset } = d.address(1)
    const to = d.names(0).map((s) => put(d, s, type))
    // By name, or by an address that was made from one; outside of the parameters a DataView throws.
    if (!d.isParameter(1) && !wide) return undefined
    return each((w, l) => {
      const at = addressOf(w, slot * 32 + l, wide, offset)
      to.forEach((f, i) => f(w, l, w.context.parameters, at + i * bytes))
    })
  }
  const s = shape(d.op)
  if (!s || s.rest.length) return undefined
  const bytes = widthOf(s.type)
  const to = d.names(0).map((slot) => put(d, slot, s.type))
  if (to.length !== s.vector) return undefined
  const constant = d.op.includes('nc')
  return requests(d, 1, s.space, bytes * s.vector, false, (w, l, m, at) => {
    m.load(at, bytes * s.vector, w.by, constant)
    to.forEach((f, i) => f(w, l, m.view, at + i * bytes))
  })
}

function store(d: Decoding): Step | undefined {
  const s = shape(d.op)
  if (!s || s.rest.length || s.space === 'const') return undefined
  const bytes = widthOf(s.type)
  const from = d.names(1)
  if (from.length !== s.vector) return undefined
  const all = new Uint8Array(bytes * s.vector)
  return requests(d, 0, s.space, all.length, false, (w, l, m, at) => {
    from.forEach((slot, i) => {
      const bits = w.u64[slot * 32 + l] as bigint
      let v = Number(bits & 0xffffffffn)
      for (let b = 0; b < bytes; b++) {
        if (b === 4) v = Number(bits >> 32n)
        all[i * bytes + b] = v >>> (8 * (b & 3))
      }
    })
    m.store(at, all, w.by)
  })
}

const integer: Record<string, (old: bigint, v: bigint, c: bigint, bits: bigint) => bigint> = {
  add: (o, v) => o + v,
  and: (o, v) => o & v,
  or: (o, v) => o | v,
  xor: (o, v) => o ^ v,
  exch: (_, v) => v,
  min: (o, v) => (v < o ? v : o),
  max: (o, v) => (v > o ? v : o),
  inc: (o, v) => (o >= v ? 0n : o + 1n),
  dec: (o, v) => (o === 0n || o > v ? v : o - 1n),
  cas: (o, v, c) => (o === v ? c : o),
}

function atomic(d: Decoding, answers: boolean): Step | undefined {
  const s = shape(d.op)
  const name = s?.rest[0] as string
  if (!s || s.rest.length !== 1 || s.vector !== 1 || s.space === 'const' || s.space === 'local') return undefined
  const bytes = widthOf(s.type)
  const [to, first] = answers ? [d.at(0), 1] : [-1, 0]
  const value = d.at(first + 1)
  const other = name === 'cas' ? d.at(first + 2) : -1
  const float = s.type === 'f32' || s.type === 'f64'
  const f = integer[name]
  if (float ? name !== 'add' : !f || (bytes !== 4 && bytes !== 8)) return undefined
  return requests(d, first, s.space, bytes, true, (w, l, m, at) => {
    m.atomic(at, bytes, w.by)
    const old = bytes === 8 ? m.view.getBigUint64(at, true) : BigInt(m.view.getUint32(at, true))
    if (float && bytes === 4)
      m.view.setFloat32(at, fround(m.view.getFloat32(at, true) + (w.f32[2 * (value * 32 + l)] as number)), true)
    else if (float) m.view.setFloat64(at, m.view.getFloat64(at, true) + (w.f64[value * 32 + l] as number), true)
    else {
      const typed = (v: bigint): bigint =>
        s.type[0] === 's' ? BigInt.asIntN(8 * bytes, v) : BigInt.asUintN(8 * bytes, v)
      const third = other < 0 ? 0n : typed(w.u64[other * 32 + l] as bigint)
      const y = BigInt.asUintN(
        8 * bytes,
        (f as (typeof integer)['add'])(typed(old), typed(w.u64[value * 32 + l] as bigint), third, BigInt(8 * bytes)),
      )
      if (bytes === 8) m.view.setBigUint64(at, y, true)
      else m.view.setUint32(at, Number(y), true)
    }
    if (to >= 0 && bytes === 8) w.u64[to * 32 + l] = old
    else if (to >= 0) w.u32[2 * (to * 32 + l)] = Number(old)
  })
}

const windows: Record<string, number> = { global: 0, const: 0, shared: kSharedWindow, local: kLocalWindow }

export function transfer(d: Decoding): Step | undefined {
  const { op } = d
  const name = op[0] as string
  if (name === 'ld' || name === 'ldu') return load(d) ?? d.unsupported()
  if (name === 'st') return store(d) ?? d.unsupported()
  if (name === 'atom') return atomic(d, true) ?? d.unsupported()
  if (name === 'red') return atomic(d, false) ?? d.unsupported()
  // Every step of a warp is complete before the next, and blocks run one after the other.
  if (name === 'membar' || name === 'fence') return () => undefined
  if (name === 'prefetch' || name === 'prefetchu') return () => undefined
  if (name !== 'cvta') return undefined
  const out = op[1] === 'to'
  const window = windows[op[out ? 2 : 1] as string]
  if (window === undefined) return undefined
  const [o, a] = [d.at(0) * 32, d.at(1) * 32]
  return each((w, l) => {
    const v = addressOf(w, a + l, true, out ? -window : window)
    w.u32[2 * (o + l)] = v >>> 0
    w.u32[2 * (o + l) + 1] = floor(v / 4294967296)
  })
}
