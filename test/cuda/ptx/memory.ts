// Memory that knows what was allocated, what was written, and who touched it since the last barrier: a read of what nobody
// wrote, an access beyond an allocation and a race between warps or blocks are errors whatever the schedule.
import { PtxError } from './parse'

export class Fault extends PtxError {}

/** Where generic addresses of each space begin; global ones are what they are. */
export const kGlobalBase = 0x7f0000000000
export const kSharedWindow = 0x7e0000000000
export const kLocalWindow = 0x7d0000000000

const kGap = 256

/** Which warp acts, and how much of the past is ordered before it. Tokens grow with blocks, barriers and warps. */
export interface Actor {
  /** This warp between two barriers. */
  token: number
  /** Tokens from here on: this phase of this block; from the next: this block; from the last: this launch. */
  phase: number
  block: number
  launch: number
}

export class Memory {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** 0: nothing there, 1: allocated, 2: written. */
  private readonly state: Uint8Array
  private readonly wrote: Uint32Array
  private readonly added: Uint32Array
  private readonly read1: Uint32Array
  private readonly read2: Uint32Array
  private readonly stored: Uint32Array
  private top = kGap
  private requests = 0

  constructor(
    readonly space: string,
    readonly base: number,
    size: number,
  ) {
    this.bytes = new Uint8Array(size)
    this.view = new DataView(this.bytes.buffer)
    this.state = new Uint8Array(size)
    this.wrote = new Uint32Array(size)
    this.added = new Uint32Array(size)
    this.read1 = new Uint32Array(size)
    this.read2 = new Uint32Array(size)
    this.stored = new Uint32Array(size)
  }

  /** An address that is a multiple of 256, with a gap behind it. */
  allocate(bytes: number, content?: Uint8Array): number {
    const at = Math.ceil(this.top / kGap) * kGap
    if (at + bytes + kGap > this.bytes.length)
      throw new Fault(`${this.space} memory of ${this.bytes.length} bytes is full`)
    this.top = at + bytes + kGap
    this.state.fill(1, at, at + bytes)
    this.bytes.fill(0xcd, at, at + bytes)
    if (content) {
      this.bytes.set(content, at)
      this.state.fill(2, at, at + content.length)
    }
    return this.base + at
  }

  /** Everything is gone; what was touched so far is forgotten. */
  clear(): void {
    for (const a of [this.state, this.wrote, this.added, this.read1, this.read2, this.stored]) a.fill(0, 0, this.top)
    this.top = kGap
  }

  request(): void {
    this.requests++
  }

  /** The place of `bytes` at an address, which must be allocated and aligned. */
  place(address: number, bytes: number): number {
    if (address % bytes)
      throw new Fault(`misaligned: ${bytes} bytes at ${this.space} address 0x${address.toString(16)}`)
    const at = address - this.base
    for (let i = at; i < at + bytes; i++)
      if (!this.state[i])
        throw new Fault(
          `out of bounds: ${bytes} bytes at ${this.space} address 0x${address.toString(16)}, ${this.near(at)}`,
        )
    return at
  }

  private near(at: number): string {
    for (let i = 1; i <= kGap; i++) if (this.state[at - i]) return `${i} behind the end of an allocation`
    for (let i = 1; i <= kGap; i++) if (this.state[at + i]) return `${i} before an allocation`
    return 'near no allocation'
  }

  private ordered(token: number, by: Actor): boolean {
    return token < by.launch || (token >= by.block && (token < by.phase || token === by.token))
  }

  private race(what: string, at: number): never {
    throw new Fault(
      `race: ${what} in ${this.space} memory, byte 0x${(this.base + at).toString(16)}, with no barrier between`,
    )
  }

  load(at: number, bytes: number, by: Actor, constant: boolean): void {
    for (let i = at; i < at + bytes; i++) {
      if (this.state[i] !== 2)
        throw new Fault(
          `uninitialized: ${bytes} bytes of ${this.space} memory that nobody wrote, at 0x${(this.base + at).toString(16)}`,
        )
      const w = this.wrote[i] as number
      if (!this.ordered(w, by)) this.race('a read of what another warp or block writes', i)
      if (!this.ordered(this.added[i] as number, by))
        this.race('a plain read of what another warp or block changes by atomics', i)
      if (constant && (w >= by.launch || (this.added[i] as number) >= by.launch))
        this.race('ld.global.nc of what this kernel writes', i)
      if (this.read1[i] !== by.token) {
        this.read2[i] = this.read1[i] as number
        this.read1[i] = by.token
      }
    }
  }

  store(at: number, bytes: Uint8Array, by: Actor): void {
    for (let b = 0; b < bytes.length; b++) {
      const i = at + b
      if (this.stored[i] === this.requests && this.bytes[i] !== bytes[b])
        this.race('two lanes of one store write different values', i)
      if (!this.ordered(this.wrote[i] as number, by)) this.race('two warps or blocks write', i)
      if (!this.ordered(this.added[i] as number, by))
        this.race('a plain write of what another warp or block changes by atomics', i)
      if (!this.ordered(this.read1[i] as number, by) || !this.ordered(this.read2[i] as number, by))
        this.race('a write of what another warp or block reads', i)
      this.stored[i] = this.requests
      this.wrote[i] = by.token
      this.state[i] = 2
      this.bytes[i] = bytes[b] as number
    }
  }

  /** Before an atomic change, which the caller makes. */
  atomic(at: number, bytes: number, by: Actor): void {
    for (let i = at; i < at + bytes; i++) {
      if (this.state[i] !== 2)
        throw new Fault(
          `uninitialized: an atomic on ${this.space} memory that nobody wrote, at 0x${(this.base + at).toString(16)}`,
        )
      if (!this.ordered(this.wrote[i] as number, by)) this.race('an atomic on what another warp or block writes', i)
      if (!this.ordered(this.read1[i] as number, by) || !this.ordered(this.read2[i] as number, by))
        this.race('an atomic on what another warp or block reads', i)
      this.added[i] = by.token
    }
  }
}
