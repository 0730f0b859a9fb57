// Runs kernels of PTX: whole blocks, warp by warp between barriers, lanes that diverge one side after the other until they meet.
// Counts, for every memory instruction, the 32-byte sectors and the bank passes of its requests.
import { flowOf, isEnd, type Flow } from './flow'
import { decode, type Decoder, type Step } from './instructions'
import { Fault, kGlobalBase, Memory, type Actor } from './memory'
import { PtxError, type Kernel, type Module } from './parse'

const kMostSteps = 20_000_000

/** What the requests of one instruction came to. */
export interface Traffic {
  instruction: string
  space: 'global' | 'shared'
  atomic: boolean
  requests: number
  /** 32-byte sectors, or passes over the banks. */
  units: number
  /** As few of them as the same bytes allow. */
  ideal: number
}

export interface Profile {
  /** Instructions by warps. */
  steps: number
  traffic: Map<number, Traffic>
}

interface Compiled {
  kernel: Kernel
  flow: Flow
  steps: (Step | undefined)[]
  guards: Int32Array
  negated: Uint8Array
  decoder: Decoder
  shared: Map<string, number>
  local: Map<string, number>
  localBytes: number
  /** Of earlier launches, for use again. */
  warps: Warp[]
  memories?: { shared: Memory; local: Memory; threads: number }
}

const kSpecial = [
  '%tid.x',
  '%tid.y',
  '%tid.z',
  '%ntid.x',
  '%ntid.y',
  '%ntid.z',
  '%ctaid.x',
  '%ctaid.y',
  '%ctaid.z',
  '%nctaid.x',
  '%nctaid.y',
  '%nctaid.z',
  '%laneid',
  '%warpid',
  '%nwarpid',
  '%lanemask_eq',
  '%lanemask_lt',
  '%lanemask_le',
  '%lanemask_gt',
  '%lanemask_ge',
]

/** What the instructions of one launch share. */
export interface Context {
  global: Memory
  shared: Memory
  local: Memory
  parameters: DataView
  parameterBase: Map<string, number>
  profile: Profile
  /** -1, 0 or 1: approximate functions answer too little, the nearest, or too much, by what they may be wrong. */
  approximate: number
}

export class Warp {
  readonly u32: Uint32Array
  readonly i32: Int32Array
  readonly f32: Float32Array
  readonly f64: Float64Array
  readonly u64: BigUint64Array
  readonly i64: BigInt64Array
  live = 0
  lanes = 0
  first = 0
  waiting = false
  stack: { pc: number; meet: number; mask: number }[] = []
  context!: Context
  by!: Actor
  localBase!: Float64Array
  constructor(slots: number) {
    const memory = new ArrayBuffer(slots * 256)
    this.u32 = new Uint32Array(memory)
    this.i32 = new Int32Array(memory)
    this.f32 = new Float32Array(memory)
    this.f64 = new Float64Array(memory)
    this.u64 = new BigUint64Array(memory)
    this.i64 = new BigInt64Array(memory)
  }
  open(first: number, lanes: number, context: Context, by: Actor, localBase: Float64Array): void {
    Object.assign(this, { first, lanes, context, by, localBase, waiting: false, stack: [] })
    this.live = lanes === 32 ? -1 : (1 << lanes) - 1
  }
}

function compile(kernel: Kernel): Compiled {
  const decoder = decode(kernel)
  const guards = new Int32Array(kernel.instructions.length).fill(-1)
  const negated = new Uint8Array(kernel.instructions.length)
  kernel.instructions.forEach((x, i) => {
    if (!x.guard) return
    guards[i] = decoder.slot(x.guard.register)
    negated[i] = x.guard.negated ? 1 : 0
  })
  const shared = new Map<string, number>()
  const local = new Map<string, number>()
  let localBytes = 0
  for (const [name, v] of kernel.variables) {
    if (v.init) throw new PtxError(`${name}: ${v.space} memory has no initial values`)
    if (v.space === 'shared') shared.set(name, v.bytes)
    else {
      localBytes = Math.ceil(localBytes / v.align) * v.align
      local.set(name, localBytes)
      localBytes += v.bytes
    }
  }
  return {
    kernel,
    flow: flowOf(kernel),
    steps: decoder.steps,
    guards,
    negated,
    decoder,
    shared,
    local,
    localBytes,
    warps: [],
  }
}

const compiled = new WeakMap<Kernel, Compiled>()

export type Argument = number | bigint | Uint8Array
export type Dim = number | [number, number?, number?]

export interface Schedule {
  /** Of warps and blocks. */
  order?: 'forward' | 'reversed' | 'random'
  seed?: number
  approximate?: -1 | 0 | 1
}

const dims = (d: Dim): [number, number, number] => (typeof d === 'number' ? [d, 1, 1] : [d[0], d[1] ?? 1, d[2] ?? 1])
const bitCount = (x: number): number => {
  let n = 0
  for (let m = x; m; m &= m - 1) n++
  return n
}

/** One device: memory, and kernels of one module. */
export class Gpu {
  readonly global: Memory
  private readonly symbols = new Map<string, number>()
  private token = 1
  private random: number

  constructor(
    readonly module: Module,
    readonly schedule: Schedule = {},
    /** Cleared, and then this device's. */
    memory = new Memory('global', kGlobalBase, 1 << 20),
  ) {
    this.global = memory
    memory.clear()
    this.random = schedule.seed ?? 1
    for (const [name, v] of module.variables)
      if (v.space !== 'shared')
        this.symbols.set(
          name,
          this.global.allocate(v.bytes, v.init ?? (v.space === 'global' ? new Uint8Array(v.bytes) : undefined)),
        )
  }

  /** An address; content that is only a number of bytes is not initialized. */
  put(content: ArrayBufferView | number): number {
    return typeof content === 'number'
      ? this.global.allocate(content)
      : this.global.allocate(content.byteLength, new Uint8Array(content.buffer, content.byteOffset, content.byteLength))
  }

  /** A copy of what lies at an address; all of it must have been written. */
  get(address: number, bytes: number): ArrayBuffer {
    const at = address - kGlobalBase
    const by = { token: this.token, phase: this.token, block: this.token, launch: this.token }
    this.global.load(at, bytes, by, false)
    return this.global.bytes.slice(at, at + bytes).buffer
  }

  private shuffled(n: number): number[] {
    const list = Array.from({ length: n }, (_, i) => i)
    if (this.schedule.order === 'reversed') return list.reverse()
    if (this.schedule.order === 'random')
      for (let i = n - 1; i > 0; i--) {
        this.random = (Math.imul(this.random, 1103515245) + 12345) >>> 0
        const j = this.random % (i + 1)
        ;[list[i], list[j]] = [list[j] as number, list[i] as number]
      }
    return list
  }

  private pack(kernel: Kernel, list: readonly Argument[]): DataView {
    const view = new DataView(new ArrayBuffer(kernel.parameterBytes))
    if (list.length !== kernel.parameters.length)
      throw new PtxError(`${kernel.name} has ${kernel.parameters.length} parameters, not ${list.length}`)
    kernel.parameters.forEach((p, i) => {
      const value = list[i] as Argument
      if (typeof value === 'object') {
        if (value.length !== p.bytes)
          throw new PtxError(`parameter ${i} of ${kernel.name} has ${p.bytes} bytes, not ${value.length}`)
        new Uint8Array(view.buffer).set(value, p.offset)
      } else if (p.type === 'f32') view.setFloat32(p.offset, Number(value), true)
      else if (p.type === 'f64') view.setFloat64(p.offset, Number(value), true)
      else
        for (let b = 0, v = BigInt.asUintN(64, BigInt(value)); b < p.bytes; b++, v >>= 8n)
          view.setUint8(p.offset + b, Number(v & 255n))
    })
    return view
  }

  launch(name: string, gridDim: Dim, blockDim: Dim, list: readonly Argument[]): Profile {
    const kernel = this.module.kernels.get(name)
    if (!kernel) throw new PtxError(`no kernel ${name}; there are ${[...this.module.kernels.keys()].join(', ')}`)
    const c = compiled.get(kernel) ?? compile(kernel)
    compiled.set(kernel, c)
    const grid = dims(gridDim)
    const block = dims(blockDim)
    const threads = block[0] * block[1] * block[2]
    if (threads > 1024 || threads < 1 || grid.some((g) => g < 1) || grid[1] > 65535 || grid[2] > 65535)
      throw new PtxError(`${name}: a launch of [${grid}] x [${block}]`)
    const sharedBytes = [...c.shared.values()].reduce((n, b) => n + Math.ceil(b / 256) * 256 + 512, 4096)
    if (c.memories?.threads !== threads)
      c.memories = {
        shared: new Memory('shared', 0, sharedBytes),
        local: new Memory(
          'local',
          0,
          c.localBytes ? threads * (Math.ceil(c.localBytes / 256) * 256 + 512) + 4096 : 1024,
        ),
        threads,
      }
    const context: Context = {
      global: this.global,
      ...c.memories,
      parameters: this.pack(kernel, list),
      parameterBase: new Map(kernel.parameters.map((p) => [p.name, p.offset])),
      profile: { steps: 0, traffic: new Map() },
      approximate: this.schedule.approximate ?? 0,
    }
    const launch = ++this.token
    for (const b of this.shuffled(grid[0] * grid[1] * grid[2])) {
      const at = [b % grid[0], Math.floor(b / grid[0]) % grid[1], Math.floor(b / grid[0] / grid[1])] as const
      try {
        this.block(c, context, grid, block, at, launch)
      } catch (e) {
        if (e instanceof PtxError) e.message = `${name}, block [${at}]: ${e.message}`
        throw e
      }
    }
    this.token++
    return context.profile
  }

  private block(
    c: Compiled,
    context: Context,
    grid: number[],
    block: [number, number, number],
    at: readonly [number, number, number],
    launch: number,
  ): void {
    const threads = block[0] * block[1] * block[2]
    context.shared.clear()
    context.local.clear()
    const symbols = new Map(this.symbols)
    for (const [name, bytes] of c.shared) symbols.set(name, context.shared.allocate(bytes))
    for (const [name, offset] of c.local) symbols.set(name, offset)
    for (const [name, offset] of context.parameterBase) symbols.set(name, offset)
    const count = Math.ceil(threads / 32)
    const start = ++this.token
    const warps = Array.from({ length: count }, (_, i) => {
      const lanes = Math.min(32, threads - 32 * i)
      const local = Float64Array.from({ length: 32 }, (_, l) =>
        c.localBytes && l < lanes ? context.local.allocate(c.localBytes) : 0,
      )
      const w = (c.warps[i] ??= new Warp(c.decoder.slots()))
      w.open(32 * i, lanes, context, { token: start + i, phase: start, block: start, launch }, local)
      // What no instruction has written is no number and no predicate.
      w.u32.fill(0x7fc0dead)
      for (const [slot, value] of c.decoder.constants()) w.u64.fill(value, slot * 32, slot * 32 + 32)
      for (const [slot, symbol] of c.decoder.symbols()) {
        const special = kSpecial.indexOf(symbol)
        const address = symbols.get(symbol)
        if (special < 0 && address === undefined) throw new PtxError(`no value of ${symbol}`)
        if (special < 0) w.u64.fill(BigInt(address as number), slot * 32, slot * 32 + 32)
        else
          for (let l = 0; l < 32; l++) {
            const t = 32 * i + l
            const own = [
              t % block[0],
              Math.floor(t / block[0]) % block[1],
              Math.floor(t / block[0] / block[1]),
              ...block,
              ...at,
              ...grid,
              l,
              i,
              count,
              1 << l,
              (1 << l) - 1,
              (2 << l) - 1,
              ~((2 << l) - 1),
              ~((1 << l) - 1),
            ]
            w.u32[2 * (slot * 32 + l)] = own[special] as number
          }
      }
      w.stack.push({ pc: 0, meet: -1, mask: w.live })
      return w
    })
    this.token = start + count
    for (;;) {
      for (const i of this.shuffled(count)) {
        const w = warps[i] as Warp
        if (w.live && !w.waiting) run(c, w)
      }
      const left = warps.filter((w) => w.live)
      if (!left.length) break
      if (left.length !== count || left.some((w) => bitCount(w.live) !== w.lanes))
        throw new Fault('bar.sync after threads of the block have left')
      const phase = ++this.token
      left.forEach((w, i) => {
        w.waiting = false
        w.by.token = phase + i
        w.by.phase = phase
      })
      this.token = phase + count
    }
  }
}

/** Until the next barrier or the end. */
function run(c: Compiled, w: Warp): void {
  const { steps, guards, negated, flow } = c
  const list = c.kernel.instructions
  const profile = w.context.profile
  for (let top = w.stack.at(-1); top; top = w.stack.at(-1)) {
    if (top.pc === top.meet || top.mask === 0) {
      w.stack.pop()
      continue
    }
    const pc = top.pc
    if (pc >= list.length) throw new Fault('a warp runs past the end of its kernel')
    if (++profile.steps > kMostSteps) throw new Fault(`no end after ${kMostSteps} steps`)
    let mask = top.mask
    const guard = guards[pc] as number
    if (guard >= 0) {
      mask = 0
      for (let l = 0; l < 32; l++)
        if ((top.mask >>> l) & 1) {
          const p = w.u32[2 * (guard * 32 + l)] as number
          if (p > 1) throw new Fault(`line ${list[pc]?.line}: a predicate that nobody wrote guards ${list[pc]?.text}`)
          mask |= (p ^ (negated[pc] as number)) << l
        }
    }
    const x = list[pc] as Kernel['instructions'][number]
    const op = x.op[0] as string
    if (op === 'bra') {
      const to = flow.target[pc] as number
      const rest = top.mask & ~mask
      if (!mask) top.pc = pc + 1
      else if (!rest) top.pc = to
      else {
        const meet = flow.meeting[pc] as number
        top.pc = meet
        // Nobody meets: what is left of the entry are no lanes.
        if (meet >= list.length) top.mask = 0
        if (pc + 1 !== meet) w.stack.push({ pc: pc + 1, meet, mask: rest })
        if (to !== meet) w.stack.push({ pc: to, meet, mask })
      }
      continue
    }
    if (isEnd(op)) {
      if (op === 'trap' && mask) throw new Fault(`line ${x.line}: trap`)
      top.pc = pc + 1
      w.live &= ~mask
      for (const s of w.stack) s.mask &= ~mask
      continue
    }
    if (mask) {
      try {
        if (!steps[pc]) {
          if (mask !== w.live) throw new Fault('a barrier that some lanes of a warp do not reach')
          top.pc = pc + 1
          w.waiting = true
          return
        }
        ;(steps[pc] as Step)(w, mask)
      } catch (e) {
        if (e instanceof PtxError) e.message = `line ${x.line}, ${x.text.slice(0, 100)}: ${e.message}`
        throw e
      }
    }
    top.pc = pc + 1
  }
}
