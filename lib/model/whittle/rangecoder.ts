import { malformed } from '../bytes'

/**
 * A binary adaptive range coder (the carry-propagating one of LZMA). It codes what describes a block (frequency tables,
 * classes of rows) and whole blocks that are too short for tables of their own. Probabilities are integers throughout, so
 * that every machine decodes alike.
 */

const kTop = 2 ** 24
const kFull = 2 ** 32
/** Steps of adaptation: a bit seen n times moves its probability by 1/(n + 1.5), at last by 1/64. */
const kLimit = 62
const kRate = Uint16Array.from({ length: kLimit + 1 }, (_, n) => Math.floor(65536 / (n + 1.5)))

/** Adaptive probabilities of a zero, 16 bits each, with how often each was used. */
export class BitModel {
  readonly p: Uint16Array
  readonly n: Uint8Array

  constructor(size: number) {
    this.p = new Uint16Array(size).fill(32768)
    this.n = new Uint8Array(size)
  }

  /** Of a zero, in 4096ths, never certain. */
  chance(i: number): number {
    const c = this.p[i]! >>> 4
    return c < 1 ? 1 : c
  }

  learn(i: number, bit: number): void {
    const n = this.n[i]!
    const p = this.p[i]!
    this.p[i] = p + Math.floor(((bit ? 0 : 65535) - p) * kRate[n]! * (1 / 65536))
    if (n < kLimit) this.n[i] = n + 1
  }
}

export class BitEncoder {
  #out = new Uint8Array(256)
  #length = 0
  #low = 0
  #range = kFull - 1
  #cache = 0
  #pending = 0

  bit(model: BitModel, i: number, bit: number): void {
    const bound = (this.#range >>> 12) * model.chance(i)
    if (bit) {
      this.#low += bound
      this.#range -= bound
    } else this.#range = bound
    model.learn(i, bit)
    while (this.#range < kTop) {
      this.#range *= 256
      this.#shift()
    }
  }

  /** `count` bits (at most 32) that follow no pattern, highest first. */
  direct(value: number, count: number): void {
    for (let b = count - 1; b >= 0; b--) {
      this.#range = Math.floor(this.#range / 2)
      if ((value >>> b) & 1) this.#low += this.#range
      while (this.#range < kTop) {
        this.#range *= 256
        this.#shift()
      }
    }
  }

  /** A symbol of `bits` bits by a tree of 2^bits nodes from `base` on. */
  tree(model: BitModel, base: number, bits: number, value: number): void {
    let node = 1
    for (let b = bits - 1; b >= 0; b--) {
      const bit = (value >>> b) & 1
      this.bit(model, base + node, bit)
      node = node * 2 + bit
    }
  }

  /** An integer from 0 to 2^31 - 2 (Elias gamma, length adaptive); `base` takes {@link kNumber} places. */
  number(model: BitModel, base: number, value: number): void {
    const bits = 31 - Math.clz32(value + 1)
    for (let i = 0; i < bits; i++) this.bit(model, base + i, 1)
    this.bit(model, base + bits, 0)
    // The bit below the leading one is worth learning where numbers are short, the others are noise.
    for (let b = bits - 1; b >= 0; b--)
      if (b === bits - 1) this.bit(model, base + 32 + bits, ((value + 1) >>> b) & 1)
      else this.direct((value + 1) >>> b, 1)
  }

  finish(): Uint8Array {
    for (let i = 0; i < 5; i++) this.#shift()
    // The first byte is the cache that never held anything; zeros at the end are what a reader finds there anyway.
    let end = this.#length
    while (end > Math.max(1, this.#length - 5) && this.#out[end - 1] === 0) end--
    return this.#out.slice(1, end)
  }

  #shift(): void {
    if (this.#low < 0xff000000 || this.#low >= kFull) {
      const carry = this.#low >= kFull ? 1 : 0
      this.#put(this.#cache + carry)
      for (; this.#pending > 0; this.#pending--) this.#put(255 + carry)
      this.#cache = Math.floor(this.#low / kTop) & 255
    } else this.#pending++
    this.#low = (this.#low % kTop) * 256
  }

  #put(byte: number): void {
    if (this.#length === this.#out.length) {
      const grown = new Uint8Array(this.#out.length * 2)
      grown.set(this.#out)
      this.#out = grown
    }
    this.#out[this.#length++] = byte & 255
  }
}

/** Places in a model that one kind of number takes. */
export const kNumber = 64

export class BitDecoder {
  readonly #bytes: Uint8Array
  readonly #label: string
  readonly #end: number
  #at: number
  #range = kFull - 1
  #code = 0

  constructor(bytes: Uint8Array, start: number, end: number, label: string) {
    this.#bytes = bytes
    this.#label = label
    this.#at = start
    this.#end = end
    for (let i = 0; i < 4; i++) this.#code = this.#code * 256 + this.#next()
  }

  bit(model: BitModel, i: number): number {
    const bound = (this.#range >>> 12) * model.chance(i)
    let bit = 0
    if (this.#code >= bound) {
      this.#code -= bound
      this.#range -= bound
      bit = 1
    } else this.#range = bound
    model.learn(i, bit)
    while (this.#range < kTop) {
      this.#range *= 256
      this.#code = this.#code * 256 + this.#next()
    }
    return bit
  }

  direct(count: number): number {
    let value = 0
    for (let b = 0; b < count; b++) {
      this.#range = Math.floor(this.#range / 2)
      let bit = 0
      if (this.#code >= this.#range) {
        this.#code -= this.#range
        bit = 1
      }
      value = value * 2 + bit
      while (this.#range < kTop) {
        this.#range *= 256
        this.#code = this.#code * 256 + this.#next()
      }
    }
    return value
  }

  tree(model: BitModel, base: number, bits: number): number {
    let node = 1
    for (let b = 0; b < bits; b++) node = node * 2 + this.bit(model, base + node)
    return node - (1 << bits)
  }

  number(model: BitModel, base: number): number {
    let bits = 0
    while (this.bit(model, base + bits)) if (++bits > 30) malformed(this.#label, 'a number that is too long')
    let value = 1
    for (let b = bits - 1; b >= 0; b--)
      value = value * 2 + (b === bits - 1 ? this.bit(model, base + 32 + bits) : this.direct(1))
    return value - 1
  }

  #next(): number {
    // An encoder leaves out zeros at its end: a few bytes beyond it may be asked for, more are a broken file.
    if (this.#at >= this.#end + 16) malformed(this.#label, 'a block that ends too early')
    return this.#at < this.#end ? this.#bytes[this.#at++]! : (this.#at++, 0)
  }
}
