// The launches of cuda/*.cu as its host functions make them, over one interpreted device for each call. What is written here a
// second time are grids and the layout of structs; both show as wrong results where they drift.
import { codeArguments, codesOf, ruleArguments, type Shape } from '../../../lib/kernels/scheme'
import { activationOf, type NativeActivation } from '../../../lib/kernels/activation'
import { Gpu, type Argument, type Dim, type Profile, type Schedule, type Traffic } from './machine'
import { kGlobalBase, Memory } from './memory'
import type { Module } from './parse'

export type Stem = 'quantize' | 'select' | 'distill' | 'divergence' | 'gemm' | 'gemm_int8' | 'sparse' | 'spmm'
export type Modules = Record<Stem, Module>

type Field = ['u8' | 'i32' | 'u32' | 'f32' | 'f64' | 'pointer', number] | [bytes: Uint8Array, align: number]

/** Bytes of a C struct. */
export function struct(...fields: Field[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(4096))
  let at = 0
  let most = 1
  for (const [type, value] of fields) {
    const size = typeof type === 'object' ? value : type === 'u8' ? 1 : type === 'f64' || type === 'pointer' ? 8 : 4
    at = Math.ceil(at / size) * size
    most = Math.max(most, size)
    if (typeof type === 'object') new Uint8Array(view.buffer).set(type, at)
    else if (type === 'f32') view.setFloat32(at, value, true)
    else if (type === 'f64') view.setFloat64(at, value, true)
    else if (type === 'pointer') view.setBigUint64(at, BigInt(value), true)
    else if (type === 'u8') view.setUint8(at, value)
    else view.setUint32(at, value, true)
    at += typeof type === 'object' ? type.length : size
  }
  return new Uint8Array(view.buffer, 0, Math.ceil(at / most) * most)
}

/** What all launches so far came to. */
export class Ledger {
  readonly kernels = new Map<string, Profile[]>()
  add(name: string, p: Profile): void {
    this.kernels.set(name, [...(this.kernels.get(name) ?? []), p])
  }
  /** Requests of one kernel's plain instructions (or its atomics) in one space, added up. */
  traffic(name: string, space: Traffic['space'], atomic = false): { requests: number; units: number; ideal: number } {
    const sum = { requests: 0, units: 0, ideal: 0 }
    for (const p of this.kernels.get(name) ?? [])
      for (const t of p.traffic.values())
        if (t.space === space && t.atomic === atomic) {
          sum.requests += t.requests
          sum.units += t.units
          sum.ideal += t.ideal
        }
    return sum
  }
  get steps(): number {
    return [...this.kernels.values()].flat().reduce((n, p) => n + p.steps, 0)
  }
}

const kBlock = 256
const blocks = (threads: number): number => Math.ceil(threads / kBlock)
const slicesFor = (members: number, each: number, units: number): number => {
  const room = Math.floor(65536 / (units || 1))
  return Math.max(1, Math.min(Math.ceil(members / each), room))
}

export const kFlags = { nonfinite: 1, scale: 2, label: 4, sum: 8 }

export class Runner {
  readonly ledger = new Ledger()
  private readonly memory = new Memory('global', kGlobalBase, 1 << 20)
  constructor(
    readonly modules: Modules,
    readonly schedule: Schedule = {},
  ) {}

  /** A device of its own for the launches of one call. */
  open(stem: Stem): {
    gpu: Gpu
    flags: number
    launch: (name: string, grid: Dim, block: Dim, ...list: Argument[]) => void
  } {
    const gpu = new Gpu(this.modules[stem], this.schedule, this.memory)
    const flags = gpu.put(new Int32Array(1))
    return {
      gpu,
      flags,
      launch: (name, grid, block, ...list) => this.ledger.add(name, gpu.launch(name, grid, block, list)),
    }
  }

  /** Codes, scales and zero points; kinds of floats: 0 float32, 1 float16, 2 bfloat16. */
  quantize(
    x: ArrayBufferView,
    kind: number,
    s: Shape,
    o: Record<string, unknown>,
    scales?: Float32Array,
    zeros?: ArrayBufferView,
  ): { flags: number; q: Uint8Array; scale: Float32Array; zero: Uint8Array } {
    const { gpu, flags, launch } = this.open('quantize')
    const codes = codesOf(o, scales !== undefined)
    const rounding = (o['rounding'] ?? 'nearest-even') as 'nearest-even'
    const [bits, signed, qmin, qmax, mode, key0, key1] = codeArguments(
      codes,
      rounding,
      (o['seed'] as number | undefined) ?? 0,
      1,
    ).map(Number) as [number, number, number, number, number, number, number]
    const each = bits >= 8 ? 1 : 8 / bits
    const size = s.outer * s.axis * s.inner
    const whole = !s.block && s.axis === 1
    const geometry = this.geometry(s)
    const bytes = (n: number): number => Math.ceil((n * bits) / 8)
    const dx = gpu.put(x)
    const dq = gpu.put(bytes(size))
    const scale = scales ? gpu.put(scales) : gpu.put(4 * s.count)
    const zero = scales ? (zeros ? gpu.put(zeros) : 0) : gpu.put(bytes(s.count))
    if (scales) launch('check_scales_kernel', blocks(s.count), kBlock, scale, s.count, flags)
    else {
      const [lo, hi] = [gpu.put(4 * s.count), gpu.put(4 * s.count)]
      launch('open_ranges_kernel', blocks(s.count), kBlock, lo, hi, s.count)
      const members = s.block ? Math.min(s.block, s.axis) : size / s.axis
      const columns = s.block ? s.inner > 1 : s.inner === 1 && !whole
      const slices = columns ? slicesFor(members, 64, blocks(s.count)) : slicesFor(members, 2048, s.count)
      launch(
        `range_${columns ? 'columns' : 'runs'}_kernel<${kind}>`,
        blocks(s.count * slices * (columns ? 1 : 32)),
        kBlock,
        dx,
        geometry,
        slices,
        lo,
        hi,
        flags,
      )
      const [symmetric, middle, torch, power] = ruleArguments(codes).map(Number) as [number, number, number, number]
      const rule = struct(
        ['i32', qmin],
        ['i32', qmax],
        ['u8', symmetric],
        ['i32', middle],
        ['u8', torch],
        ['u8', power],
      )
      launch(
        `parameters_kernel<${bits}>`,
        blocks(Math.ceil(s.count / each)),
        kBlock,
        lo,
        hi,
        s.count,
        rule,
        scale,
        zero,
        flags,
      )
    }
    launch(
      `codes_kernel<${kind},${bits}>`,
      blocks(Math.ceil(size / each)),
      kBlock,
      dx,
      geometry,
      scale,
      zero,
      this.form(bits, signed, qmin, qmax, mode, key0, key1),
      dq,
      flags,
    )
    return {
      flags: new Int32Array(gpu.get(flags, 4))[0] as number,
      q: new Uint8Array(gpu.get(dq, bytes(size))),
      scale: new Float32Array(gpu.get(scale, 4 * s.count)),
      zero: zero ? new Uint8Array(gpu.get(zero, bytes(s.count))) : new Uint8Array(0),
    }
  }

  private geometry(s: Shape): Uint8Array {
    const n = [
      s.outer * s.axis * s.inner,
      s.axis,
      s.inner,
      s.block,
      s.block ? Math.ceil(s.axis / s.block) : s.axis,
      s.outer,
      s.count,
    ]
    return struct(...n.map((v): Field => ['u32', v]), ['u8', Number(!s.block && s.axis === 1)])
  }
  private form(...n: number[]): Uint8Array {
    return struct(...n.map((v): Field => ['u32', v]))
  }

  dequantize(
    q: ArrayBufferView,
    bits: number,
    signed: boolean,
    s: Shape,
    scale: Float32Array,
    zero: ArrayBufferView | undefined,
    kind: number,
  ): ArrayBuffer {
    const { gpu, flags, launch } = this.open('quantize')
    const size = s.outer * s.axis * s.inner
    const bytes = size * (kind ? 2 : 4)
    const y = gpu.put(bytes)
    const ds = gpu.put(scale)
    launch('check_scales_kernel', blocks(s.count), kBlock, ds, s.count, flags)
    launch(
      `values_kernel<${kind}>`,
      blocks(size),
      kBlock,
      gpu.put(q),
      this.geometry(s),
      ds,
      zero ? gpu.put(zero) : 0,
      this.form(bits, Number(signed), 0, 0, 0, 0, 0),
      kind === 1 ? 65504 : 3.4028234663852886e38,
      y,
      flags,
    )
    return gpu.get(y, bytes)
  }

  /** Counts for each index of the axis; flags beside them. */
  histogram(x: ArrayBufferView, kind: number, s: Shape, factors: Float32Array, bins: number): { flags: number; counts: Uint32Array } {
    const { gpu, flags, launch } = this.open('quantize')
    const counts = gpu.put(new Uint32Array(s.count * bins))
    const slices = slicesFor(s.outer * s.inner, 4 * bins, s.count)
    launch(`histogram_kernel<${kind}>`, s.count * slices, kBlock, gpu.put(x), this.geometry(s), gpu.put(factors), bins, slices, counts, flags)
    return {
      flags: new Int32Array(gpu.get(flags, 4))[0] as number,
      counts: new Uint32Array(gpu.get(counts, 4 * s.count * bins)),
    }
  }

  scores(norm: number, x: Float32Array, g?: Float32Array): Float32Array {
    const { gpu, flags, launch } = this.open('select')
    const out = gpu.put(4 * x.length)
    launch('scores_kernel', blocks(x.length), kBlock, norm, gpu.put(x), g ? gpu.put(g) : 0, x.length, out, flags)
    return new Float32Array(gpu.get(out, 4 * x.length))
  }

  groups(
    norm: number,
    x: Float32Array,
    g: Float32Array | undefined,
    outer: number,
    axis: number,
    inner: number,
  ): Float32Array {
    const { gpu, flags, launch } = this.open('select')
    const out = gpu.put(4 * axis)
    const [dx, dg] = [gpu.put(x), g ? gpu.put(g) : 0]
    if (inner < 32) {
      const width = axis * inner
      const slices = slicesFor(outer, 64, blocks(width))
      const partial = gpu.put(8 * width * slices)
      launch('group_columns_kernel', blocks(width * slices), kBlock, norm, dx, dg, outer, width, slices, partial)
      launch('group_finish_kernel', blocks(axis), kBlock, norm, partial, axis, slices, width, inner, inner, out, flags)
    } else {
      const slices = slicesFor(outer * inner, 4096, axis)
      const partial = gpu.put(8 * axis * slices)
      launch('group_rows_kernel', blocks(axis * slices * 32), kBlock, norm, dx, dg, outer, axis, inner, slices, partial)
      launch('group_finish_kernel', blocks(axis), kBlock, norm, partial, axis, slices, 1, slices, 1, out, flags)
    }
    return new Float32Array(gpu.get(out, 4 * axis))
  }

  /** Ones for the `keep` largest. */
  largest(x: Float32Array, keep: number): { mask: Uint8Array; threshold: number } {
    const { gpu, flags, launch } = this.open('select')
    const n = x.length
    const dx = gpu.put(x)
    const mask = gpu.put(n)
    const tiles = Math.ceil(n / 4096)
    if (keep === 0) {
      launch('fill_mask_kernel', blocks(n), kBlock, dx, n, mask, flags)
      return { mask: new Uint8Array(gpu.get(mask, n)), threshold: Infinity }
    }
    const [search, counts, ties] = [gpu.put(8), gpu.put(4 * 2048), gpu.put(4 * tiles)]
    launch('search_start_kernel', 1, kBlock, search, keep, counts)
    for (const [shift, bins, above] of [
      [21, 2048, 0],
      [10, 2048, 0xffe00000],
      [0, 1024, 0xfffffc00],
    ] as const) {
      // prettier-ignore
      launch('histogram_kernel', tiles, kBlock, dx, n, search, shift, bins, above, counts, flags)
      launch('search_step_kernel', 1, kBlock, search, shift, bins, counts)
    }
    launch('ties_kernel', tiles, kBlock, dx, n, search, ties)
    launch('scan_kernel', 1, kBlock, ties, tiles)
    launch('mask_kernel', tiles, kBlock, dx, n, search, ties, mask)
    const key = new Uint32Array(gpu.get(search, 8))[0] as number
    const bits = Uint32Array.of(key & 0x80000000 ? key ^ 0x80000000 : ~key)
    return { mask: new Uint8Array(gpu.get(mask, n)), threshold: new Float32Array(bits.buffer)[0] as number }
  }

  nm(x: Float32Array, outer: number, axis: number, inner: number, keep: number, m: number): Uint8Array {
    const { gpu, flags, launch } = this.open('select')
    const mask = gpu.put(x.length)
    const runs = outer * (axis / m) * inner
    launch('nm_kernel', blocks(runs), kBlock, gpu.put(x), runs, axis / m, inner, keep, m, mask, flags)
    return new Uint8Array(gpu.get(mask, x.length))
  }

  apply(x: Float32Array, mask: Uint8Array): Float32Array {
    const { gpu, launch } = this.open('select')
    const out = gpu.put(4 * x.length)
    launch('apply_kernel', blocks(x.length), kBlock, gpu.put(x), gpu.put(mask), x.length, out)
    return new Float32Array(gpu.get(out, 4 * x.length))
  }

  /** Cross entropy, or KL where there is a teacher. Reductions: 0 mean, 1 batchmean, 2 sum, 3 none. */
  loss(a: LossArguments): Loss {
    const { gpu, flags, launch } = this.open('distill')
    const size = a.samples * a.classes
    const [grad, totals, shares, sum] = [gpu.put(4 * size), gpu.put(24), gpu.put(8 * a.samples), gpu.put(8)]
    const losses = gpu.put(4 * (a.teacher && !a.labels ? size : a.samples))
    const list = struct(
      ['pointer', gpu.put(a.student)], ['pointer', a.teacher ? gpu.put(a.teacher) : 0], ['u8', Number(a.student instanceof Uint16Array)], ['u8', Number(a.teacher instanceof Uint16Array)],
      ['u32', a.samples], ['u32', a.classes], ['pointer', a.labels ? gpu.put(a.labels) : 0], ['pointer', a.weights ? gpu.put(a.weights) : 0], ['u8', Number(a.ignore !== undefined)],
      ['i32', a.ignore ?? 0], ['f64', a.temperature ?? 1], ['f64', a.alpha ?? 0], ['f64', a.smoothing ?? 0], ['i32', a.reduction], ['pointer', grad], ['pointer', losses], ['pointer', totals], ['pointer', shares],
    ) // prettier-ignore
    launch('labels_kernel', 1, kBlock, list, totals, flags)
    if (a.classes <= 1024) launch('loss_kernel<32>', blocks(a.samples * 32), kBlock, list, flags)
    else launch('loss_kernel<256>', a.samples, kBlock, list, flags)
    launch('sum_kernel', 1, kBlock, shares, a.samples, sum)
    return this.lossOf(
      gpu,
      flags,
      sum,
      grad,
      size,
      a.reduction === 3 ? losses : 0,
      a.teacher && !a.labels ? size : a.samples,
    )
  }

  js(a: LossArguments): Loss {
    const { gpu, flags, launch } = this.open('divergence')
    const size = a.samples * a.classes
    const [grad, shares, sum, losses] = [gpu.put(4 * size), gpu.put(8 * a.samples), gpu.put(8), gpu.put(4 * a.samples)]
    const none = a.reduction === 3
    const list = struct(
      ['pointer', gpu.put(a.student)], ['pointer', gpu.put(a.teacher as Float32Array)], ['u8', Number(a.student instanceof Uint16Array)], ['u8', Number(a.teacher instanceof Uint16Array)],
      ['u32', a.samples], ['u32', a.classes], ['f64', 1 / (a.temperature ?? 1)], ['f64', a.reduction < 2 ? 1 / a.samples : 1], ['pointer', grad], ['pointer', none ? losses : 0], ['pointer', shares],
    ) // prettier-ignore
    launch('js_kernel', a.samples, kBlock, list, flags)
    launch('total_kernel', 1, kBlock, shares, a.samples, sum)
    return this.lossOf(gpu, flags, sum, grad, size, none ? losses : 0, a.samples)
  }

  private lossOf(
    gpu: Gpu,
    flags: number,
    sum: number,
    grad: number,
    size: number,
    losses: number,
    count: number,
  ): Loss {
    return {
      flags: new Int32Array(gpu.get(flags, 4))[0] as number,
      loss: losses
        ? [...new Float32Array(gpu.get(losses, 4 * count))]
        : [new Float64Array(gpu.get(sum, 8))[0] as number],
      grad: [...new Float32Array(gpu.get(grad, 4 * size))],
    }
  }

  /** What follows a float product: bias along n and an activation. */
  finish(
    x: Float32Array,
    n: number,
    kind: number,
    bias: ArrayBufferView | undefined,
    activation: unknown,
  ): ArrayBuffer {
    const { gpu, launch } = this.open('gemm')
    const bytes = x.length * (kind ? 2 : 4)
    const y = gpu.put(bytes)
    launch(
      `finish_kernel<${kind}>`,
      blocks(x.length),
      kBlock,
      gpu.put(x),
      x.length,
      n,
      bias ? gpu.put(bias) : 0,
      active(activation),
      y,
    )
    return gpu.get(y, bytes)
  }

  /** One product [m, k] x [k, n] (or [n, k]) by the own kernel. */
  gemmInt8(p: Int8Product): { flags: number; y: ArrayBuffer } {
    const { gpu, flags, launch } = this.open('gemm_int8')
    const { m, n, k } = p
    const columns = Math.ceil(n / 4) * 4
    const row = Math.ceil(k / 16) * 16
    const pack = (
      w: ArrayBufferView,
      flip: boolean,
      transposed: boolean,
      rows: number,
      all: number,
    ): [number, number] => {
      const [data, sums] = [gpu.put(all * row), gpu.put(4 * all)]
      launch(
        'rows_kernel',
        blocks((all * row) / 16),
        kBlock,
        gpu.put(w),
        Number(flip),
        Number(transposed),
        rows,
        k,
        all,
        row,
        data,
      )
      launch('sums_kernel', blocks(all * 32), kBlock, data, all, row, sums)
      return [data, sums]
    }
    const unsigned = (a: ArrayBufferView): boolean => a instanceof Uint8Array
    const [weights, columnSums] = pack(p.b, unsigned(p.b), p.transposed, n, columns)
    const shares = gpu.put(16 * n)
    const out = ['int32', 'float32', 'int8', 'uint8'].indexOf(p.outType)
    const bytes = m * n * (out < 2 ? 4 : 1)
    const y = gpu.put(bytes)
    const e = struct(
      ['u32', m], ['u32', n], ['u32', columns], ['u32', k], ['u8', Number(!unsigned(p.a))], ['u8', Number(unsigned(p.b))], ['i32', p.aZero ?? 0], ['i32', typeof p.bZero === 'number' ? p.bZero : 0],
      ['pointer', typeof p.bZero === 'object' ? gpu.put(p.bZero) : 0], ['f32', p.aScale ?? 1], ['f32', typeof p.bScale === 'number' ? p.bScale : 1], ['pointer', typeof p.bScale === 'object' ? gpu.put(p.bScale) : 0],
      ['pointer', p.bias instanceof Int32Array ? gpu.put(p.bias) : 0], ['pointer', p.bias instanceof Float32Array ? gpu.put(p.bias) : 0], [active(p.activation), 4], ['i32', out], ['f32', p.outScale ?? 1], ['i32', p.outZero ?? 0],
    ) // prettier-ignore
    launch('columns_kernel', 1, kBlock, e, columnSums, shares, flags)
    const [x, rowSums] = pack(p.a, unsigned(p.a), true, m, m)
    const sums = gpu.put(4 * m * columns)
    launch('dots_kernel', [blocks(columns * 32), Math.ceil(m / 8)], kBlock, x, weights, m, columns, row, 0, sums)
    launch('epilogue_kernel', blocks(m * n), kBlock, e, sums, rowSums, shares, y)
    return { flags: new Int32Array(gpu.get(flags, 4))[0] as number, y: gpu.get(y, bytes) }
  }
}

export function active(value: unknown): Uint8Array {
  const a: NativeActivation = activationOf(value, 'activation')
  return struct(['i32', a.kind], ['f32', a.lo], ['f32', a.hi])
}

export interface LossArguments {
  /** Uint16Array: bfloat16. */
  student: Float32Array | Uint16Array
  teacher?: Float32Array | Uint16Array | undefined
  samples: number
  classes: number
  labels?: Int32Array | undefined
  weights?: Float32Array | undefined
  ignore?: number
  temperature?: number
  alpha?: number
  smoothing?: number
  reduction: number
}
export interface Loss {
  flags: number
  loss: number[]
  grad: number[]
}
export interface Int8Product {
  a: Int8Array | Uint8Array
  b: Int8Array | Uint8Array
  m: number
  n: number
  k: number
  transposed: boolean
  outType: 'int32' | 'float32' | 'int8' | 'uint8'
  aZero?: number
  bZero?: number | Int8Array | Uint8Array
  aScale?: number
  bScale?: number | Float32Array
  bias?: Int32Array | Float32Array | undefined
  activation?: unknown
  outScale?: number
  outZero?: number
}
