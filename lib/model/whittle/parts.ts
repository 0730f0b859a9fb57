import { malformed } from '../bytes'

/** A list of byte strings as one: the length of each but the last in 7-bit groups, lowest first, then all of them. */
export function joinParts(parts: readonly Uint8Array[]): Uint8Array {
  const head: number[] = []
  for (const p of parts.slice(0, -1)) writeVarint(head, p.length)
  const out = new Uint8Array(head.length + parts.reduce((n, p) => n + p.length, 0))
  out.set(head)
  let at = head.length
  for (const p of parts) {
    out.set(p, at)
    at += p.length
  }
  return out
}

export function splitParts(
  bytes: Uint8Array,
  start: number,
  end: number,
  count: number,
  label: string,
): { start: number; end: number }[] {
  const from = new Varints(bytes, start, end, label)
  const lengths = Array.from({ length: count - 1 }, () => from.next())
  let at = from.at
  const parts = lengths.map((length) => {
    if (length > end - at) malformed(label, 'a block that ends too early')
    at += length
    return { start: at - length, end: at }
  })
  parts.push({ start: at, end })
  return parts
}

export function writeVarint(to: number[], value: number): void {
  for (; value >= 128; value = Math.floor(value / 128)) to.push((value % 128) | 128)
  to.push(value)
}

/** Reads what {@link writeVarint} wrote; numbers are exact. */
export class Varints {
  at: number
  readonly #bytes: Uint8Array
  readonly #end: number
  readonly #label: string

  constructor(bytes: Uint8Array, start: number, end: number, label: string) {
    this.#bytes = bytes
    this.at = start
    this.#end = end
    this.#label = label
  }

  next(): number {
    let value = 0
    for (let scale = 1; ; scale *= 128) {
      if (this.at >= this.#end) malformed(this.#label, 'it ends inside a number')
      const byte = this.#bytes[this.at++]!
      value += (byte & 127) * scale
      if (value > Number.MAX_SAFE_INTEGER || scale > 2 ** 49) malformed(this.#label, 'a number that is too large')
      if (byte < 128) return value
    }
  }
}
