// The launches of cuda/sparse.cu and cuda/spmm.cu as their host functions make them, and what they are held to: matrices that
// are stored and laid out on the interpreted device, multiplied there, against the package's functions on the CPU.
import { gemmInt8, type TypedArray } from '../../../lib/index'
import { ofBfloat } from './floats'
import { active, struct, type Runner } from './launches'

const kBlock = 256
const blocks = (threads: number): number => Math.ceil(threads / kBlock)

/** float32, bfloat16, int8. */
export type Kind = 0 | 1 | 2
/** 1: CSR, 2: panels, 3: n:m. */
export type Layout = 1 | 2 | 3
type Values = Float32Array | Uint16Array | Int8Array

export interface Stored {
  layout: Layout
  kind: Kind
  rows: number
  cols: number
  n: number
  m: number
  count: number
  nonzeros: number
  first: Int32Array
  column: Int32Array
  places: Uint8Array
  values: Uint8Array
  scales: Float32Array
  sums: Int32Array
  dense: Uint8Array
  flags: number
}

const sizeOf = (kind: Kind): number => [4, 2, 1][kind] as number
const stepOf = (kind: Kind): number => (kind === 2 ? 32 : 8)

/** What cuda_sparse_count and cuda_sparse_fill make, and cuda_sparse_dense of that. */
export function store(
  r: Runner,
  w: Values,
  rows: number,
  cols: number,
  kind: Kind,
  layout: Layout,
  n = 2,
  m = 4,
  mask?: Uint8Array,
): Stored {
  const { gpu, flags, launch } = r.open('sparse')
  const from: Kind = w instanceof Float32Array ? 0 : w instanceof Uint16Array ? 1 : 2
  const source = struct(
    ['pointer', gpu.put(w)],
    ['pointer', mask ? gpu.put(mask) : 0],
    ['i32', from],
    ['i32', kind],
    ['u32', rows],
    ['u32', cols],
    ['u8', 0],
  )
  const [scales, sums] = kind === 2 ? [gpu.put(4 * rows), gpu.put(4 * rows)] : [0, 0]
  const panels = Math.ceil(rows / 16)
  const nonzeros = gpu.put(4 * (rows + 1))
  const ints = (at: number, count: number): Int32Array => new Int32Array(gpu.get(at, 4 * count))
  launch('rows_kernel', blocks(rows * 32), kBlock, source, 0, scales, sums, nonzeros, flags)
  launch('scan_kernel', 1, kBlock, nonzeros, rows)
  const total = ints(nonzeros + 4 * rows, 1)[0] as number
  const groups = (rows * cols) / m
  let first = nonzeros
  let count = total
  if (layout === 2) {
    first = gpu.put(4 * (panels + 1))
    launch('panels_kernel', blocks(panels * 32), kBlock, source, scales, panels, stepOf(kind), first)
    launch('scan_kernel', 1, kBlock, first, panels)
    count = ints(first + 4 * panels, 1)[0] as number
  }
  if (layout === 3) {
    launch('groups_kernel', blocks(groups), kBlock, source, scales, groups, n, m, flags)
    count = groups * n
  }
  const entries = layout === 2 ? count * stepOf(kind) : count
  const column = layout === 3 ? 0 : gpu.put(4 * entries)
  const places = layout === 3 ? gpu.put(entries) : 0
  const bytes = sizeOf(kind) * entries * (layout === 2 ? 16 : 1)
  const values = gpu.put(bytes)
  const dense = gpu.put(new Uint8Array(rows * cols * sizeOf(kind)))
  const letter = ['j', 't', 'h'][kind] as string
  const back = (): void =>
    launch(
      `scatter_kernel<${letter}>`,
      blocks(layout === 1 ? rows * 32 : groups * n),
      kBlock,
      rows,
      cols,
      layout === 1 ? first : 0,
      column,
      n,
      m,
      places,
      values,
      dense,
    )
  if (layout === 3) {
    launch('pick_kernel', blocks(groups), kBlock, source, scales, groups, n, m, places, values)
    back()
  } else if (layout === 1 && count) {
    launch('entries_kernel', blocks(rows * 32), kBlock, source, scales, first, column, values)
    back()
  } else if (count) {
    launch('columns_kernel', blocks(panels * 32), kBlock, source, scales, panels, stepOf(kind), first, column)
    launch('values_kernel', panels, kBlock, source, scales, stepOf(kind), first, column, values, 0)
    launch('values_kernel', panels, kBlock, source, scales, stepOf(kind), first, column, values, dense)
  }
  return {
    layout, kind, rows, cols, n, m, count, nonzeros: total,
    first: layout === 3 ? new Int32Array(1) : ints(first, (layout === 1 ? rows : panels) + 1),
    column: column ? ints(column, entries) : new Int32Array(1),
    places: places ? new Uint8Array(gpu.get(places, entries)) : new Uint8Array(1),
    values: new Uint8Array(gpu.get(values, bytes)),
    scales: kind === 2 ? new Float32Array(gpu.get(scales, 4 * rows)) : new Float32Array(1),
    sums: kind === 2 ? ints(sums, rows) : new Int32Array(1),
    dense: new Uint8Array(gpu.get(dense, rows * cols * sizeOf(kind))),
    flags: ints(flags, 1)[0] as number,
  } // prettier-ignore
}

export interface Product {
  x: Float32Array | Int8Array | Uint8Array
  columns: number
  byRows: boolean
  bias?: Float32Array | undefined
  activation?: unknown
  outType?: 'int32' | 'float32' | 'int8' | 'uint8'
  zero?: number
  scale?: number
}

/** One product as cuda_sparse_multiply launches it, without a batch. */
export function multiply(r: Runner, w: Stored, p: Product): ArrayBuffer {
  const { gpu, flags, launch } = r.open('spmm')
  const { rows, cols, kind, layout, n, m } = w
  const bytes = kind === 2
  const { columns, byRows } = p
  const ld = Math.ceil(columns / 4) * 4
  const flip = p.x instanceof Uint8Array ? 0x80 : 0
  const panels = Math.ceil(rows / 16)
  const first = layout === 3 ? 0 : gpu.put(w.first)
  const column = layout === 3 ? 0 : gpu.put(w.column)
  const places = layout === 3 ? gpu.put(w.places) : 0
  let values = gpu.put(w.values)
  const entries = struct(
    ['pointer', first],
    ['pointer', column],
    ['pointer', places],
    ['pointer', values],
    ['u32', n],
    ['u32', m],
    ['u32', layout === 3 ? (cols / m) * n : 0],
  )
  const sums = gpu.put(4 * rows * ld)
  let x = gpu.put(p.x)
  if (columns <= 4 && layout !== 2) {
    launch(
      `few_kernel<${kind}>`,
      blocks(rows * 32),
      kBlock,
      entries,
      rows,
      x,
      flip,
      columns,
      byRows ? 1 : columns,
      byRows ? cols : 1,
      cols * columns,
      sums,
    )
  } else {
    if (byRows || ld !== columns || flip) {
      const packed = gpu.put(cols * ld * (bytes ? 1 : 4))
      launch(
        `pack_kernel<${bytes ? 'h' : 'f'}>`,
        [Math.ceil(cols / 32), Math.ceil(ld / 32)],
        kBlock,
        x,
        Number(byRows),
        flip,
        cols,
        columns,
        ld,
        cols * columns,
        packed,
        cols * ld,
      )
      x = packed
    }
    if (layout === 1 && kind === 1) {
      // What cuSPARSE is given.
      const wide = gpu.put(4 * w.count)
      launch('widen_kernel', blocks(w.count), kBlock, values, w.count, wide)
      const want = Float32Array.from(new Uint16Array(w.values.buffer, w.values.byteOffset, w.count), ofBfloat)
      same(raw(new Float32Array(gpu.get(wide, 4 * w.count))), raw(want), 'widened')
    }
    if (layout === 3 && kind === 2) {
      // What cuSPARSELt is given: multiples of 32.
      const [all, row] = [Math.ceil(rows / 32) * 32, Math.ceil(cols / 32) * 32]
      const dense = gpu.put(all * row)
      launch('dense_kernel', blocks((all * row) / 4), kBlock, rows, cols / m, n, m, places, values, all, row, dense)
      const want = new Uint8Array(all * row)
      for (let i = 0; i < rows; i++) want.set(w.dense.subarray(i * cols, (i + 1) * cols), i * row)
      same(new Uint8Array(gpu.get(dense, all * row)), want, 'dense')
    }
    let each = 0
    if (layout === 3) {
      const step = stepOf(kind)
      each = Math.ceil(cols / step)
      const size = panels * each * step * 16
      const spread = gpu.put(size * sizeOf(kind))
      launch(
        `spread_kernel<${['j', 't', 'h'][kind] as string}>`,
        blocks(size),
        kBlock,
        rows,
        cols / m,
        n,
        m,
        places,
        values,
        panels,
        each,
        spread,
      )
      values = spread
    }
    const laid = struct(
      ['pointer', first],
      ['pointer', column],
      ['pointer', values],
      ['u32', rows],
      ['u32', cols],
      ['u32', each],
    )
    if (layout === 1)
      launch(
        `csr_kernel<${kind}>`,
        [Math.ceil(rows / 8), Math.ceil(ld / 128)],
        kBlock,
        entries,
        rows,
        x,
        ld,
        cols * ld,
        sums,
      )
    else
      launch(
        bytes ? 'panels_int8_kernel' : `panels_kernel<${kind}>`,
        [panels, Math.ceil(ld / 128)],
        128,
        laid,
        x,
        ld,
        cols * ld,
        sums,
      )
  }
  const wide = !bytes || p.outType === 'int32' || p.outType === 'float32'
  const out = gpu.put(rows * columns * (wide ? 4 : 1))
  const grid: [number, number] = [Math.ceil(rows / 32), Math.ceil(columns / 32)]
  const finish = struct(
    ['u32', rows], ['u32', columns], ['u32', ld], ['u8', Number(byRows)], ['pointer', rows * ld], ['pointer', rows * columns],
    ['pointer', p.bias && !bytes ? gpu.put(p.bias) : 0], [active(p.activation), 4],
  ) // prettier-ignore
  if (!bytes) launch('finish_kernel', grid, kBlock, finish, sums, out)
  else {
    // What columns_kernel of gemm_int8.cu makes, which that file's cases run.
    const shares = new DataView(new ArrayBuffer(16 * rows))
    for (let i = 0; i < rows; i++) {
      shares.setInt32(16 * i, -(w.sums[i] as number) * ((p.zero ?? 0) - (flip ? 128 : 0)), true)
      shares.setFloat32(16 * i + 8, Math.fround(Math.fround(p.scale ?? 1) * (w.scales[i] as number)), true)
      shares.setFloat32(16 * i + 12, p.bias ? (p.bias[i] as number) : -0, true)
    }
    const e = struct(
      ['u32', 0], ['u32', rows], ['u32', 0], ['u32', cols], ['u8', 0], ['u8', 0], ['i32', 0], ['i32', 0], ['pointer', 0], ['f32', 0], ['f32', 0], ['pointer', 0], ['pointer', 0], ['pointer', 0],
      [active(p.activation), 4], ['i32', ['int32', 'float32', 'int8', 'uint8'].indexOf(p.outType ?? 'int32')], ['f32', 0.1], ['i32', 7],
    ) // prettier-ignore
    launch('finish_int8_kernel', grid, kBlock, finish, e, sums, gpu.put(shares), out)
  }
  if (new Int32Array(gpu.get(flags, 4))[0]) throw new Error('flags')
  return gpu.get(out, rows * columns * (wide ? 4 : 1))
}

// ---------- values ----------

function same(got: Uint8Array, want: Uint8Array, what: string): void {
  const at = want.findIndex((v, i) => got[i] !== v)
  if (at >= 0) throw new Error(`spmm ${what}: byte ${at} is ${got[at]}, want ${want[at]}`)
}

const random = (seed: number): (() => number) => {
  let s = seed + 1
  return () => ((s = (Math.imul(s, 1103515245) + 12345) & 0x7fffffff), s / 2 ** 31)
}
/** Weights of one kind with many zeros; two of every four at most. */
function weights(seed: number, count: number, kind: Kind): Values {
  const next = random(seed)
  const w = kind === 0 ? new Float32Array(count) : kind === 1 ? new Uint16Array(count) : new Int8Array(count)
  for (let i = 0; i < count; i++) {
    const keep = (i + (i >> 2)) % 4 < 2 && next() < 0.7
    const bits = Math.floor(next() * 256)
    w[i] = !keep ? 0 : kind === 0 ? next() * 4 - 2 : kind === 1 ? 0x3e00 + bits + (bits % 2 ? 0x8000 : 0) : bits - 128
  }
  return w
}
const numbers = (w: Values): number[] => Array.from(w, (v) => (w instanceof Uint16Array ? ofBfloat(v) : v))
const raw = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength)

export function laidSparse(r: Runner, full: boolean): void {
  const shapes: [number, number][] = full ? [[1, 4], [16, 8], [19, 36], [33, 68], [2, 132]] : [[19, 36]] // prettier-ignore
  for (const [rows, cols] of shapes)
    for (const kind of [0, 1, 2] as const)
      for (const layout of [1, 2, 3] as const) {
        const w = weights(rows + kind, rows * cols, kind)
        const mask = layout === 2 ? Uint8Array.from(w, (_, i) => (i % 5 ? 3 : 0)) : undefined
        const want = w.slice()
        if (mask) mask.forEach((v, i) => v || (want[i] = 0))
        const got = store(r, w, rows, cols, kind, layout, 2, 4, mask)
        const what = `sparse [${rows}, ${cols}] kind ${kind} layout ${layout}`
        if (got.flags) throw new Error(`${what}: flags ${got.flags}`)
        const at = raw(want).findIndex((v, i) => got.dense[i] !== v)
        if (at >= 0) throw new Error(`${what}: byte ${at} is ${got.dense[at]}, want ${raw(want)[at]}`)
        const some = numbers(want).filter((v) => v !== 0).length
        if (got.nonzeros !== some) throw new Error(`${what}: ${got.nonzeros} non-zeros, want ${some}`)
        const sum = (i: number): number => numbers(want).slice(i * cols, (i + 1) * cols).reduce((a, b) => a + b, 0) // prettier-ignore
        if (kind === 2) got.sums.forEach((s, i) => { if (s !== sum(i)) throw new Error(`${what}: sum ${i} is ${s}, want ${sum(i)}`) }) // prettier-ignore
      }
}

export function multipliedSparse(r: Runner, full: boolean): void {
  const shapes: [number, number, number][] = full ? [[1, 4, 1], [16, 8, 32], [19, 36, 5], [33, 68, 40], [20, 132, 130], [5, 40, 3]] : [[19, 36, 9], [5, 12, 3]] // prettier-ignore
  let turn = 0
  for (const [rows, cols, columns] of shapes)
    for (const kind of [0, 1, 2] as const)
      for (const layout of [1, 2, 3] as const) {
        turn++
        const byRows = turn % 2 > 0
        const w = weights(turn, rows * cols, kind)
        const of = numbers(w)
        const stored = store(r, w, rows, cols, kind, layout)
        const next = random(turn + 99)
        const bias = turn % 3 ? Float32Array.from({ length: rows }, () => next() * 4 - 2) : undefined
        const what = `spmm [${rows}, ${cols}, ${columns}] kind ${kind} layout ${layout}`
        const at = (p: number, j: number): number => (byRows ? j * cols + p : p * columns + j)
        if (kind === 2) {
          const signed = turn % 4 < 2
          const codes = Array.from({ length: cols * columns }, () => Math.floor(next() * 256))
          const x = signed ? Int8Array.from(codes) : Uint8Array.from(codes)
          const outType = (['int32', 'float32', 'int8', 'uint8'] as const)[turn % 4] as 'int32'
          const exact = outType === 'int32'
          const p: Product = {
            x,
            columns,
            byRows,
            outType,
            zero: 3,
            ...(exact ? {} : { scale: 0.02, bias, activation: 'relu' }),
          }
          const a = new (signed ? Int8Array : Uint8Array)(x.length)
          for (let i = 0; i < cols; i++) for (let j = 0; j < columns; j++) a[j * cols + i] = x[at(i, j)] as number
          const want = gemmInt8(
            { type: signed ? 'int8' : 'uint8', dims: [columns, cols], data: a },
            { type: 'int8', dims: [rows, cols], data: w },
            { transposeB: true, outType, aZeroPoint: 3, ...(exact ? {} : { aScale: 0.02, activation: 'relu', ...(bias ? { bias } : {}) }), ...(turn % 4 > 1 ? { outScale: 0.1, outZeroPoint: 7 } : {}) } as never,
          ).data as unknown as TypedArray // prettier-ignore
          const y = new Uint8Array(multiply(r, stored, p))
          const size = exact || outType === 'float32' ? 4 : 1
          const expected = raw(want)
          for (let i = 0; i < rows; i++)
            for (let j = 0; j < columns; j++)
              for (let b = 0; b < size; b++) {
                const [mine, theirs] = [(byRows ? j * rows + i : i * columns + j) * size + b, (j * rows + i) * size + b]
                if (y[mine] !== expected[theirs])
                  throw new Error(`${what} ${outType}: [${i}, ${j}] is ${y[mine]}, want ${expected[theirs]}`)
              }
          continue
        }
        const x = Float32Array.from({ length: cols * columns }, () => next() * 6 - 3)
        // Infinities and NaN meet no zeros.
        if (turn % 2 || full) for (const [i, v] of [Infinity, -Infinity, NaN].entries()) x[(i * 7) % x.length] = v
        const y = new Float32Array(multiply(r, stored, { x, columns, byRows, bias, activation: 'relu' }))
        for (let i = 0; i < rows; i++)
          for (let j = 0; j < columns; j++) {
            let sum = bias ? (bias[i] as number) : 0
            let size = Math.abs(sum)
            for (let p = 0; p < cols; p++) {
              const product = of[i * cols + p] ? (of[i * cols + p] as number) * (x[at(p, j)] as number) : 0
              sum += product
              size += Math.abs(product)
            }
            const got = y[byRows ? j * rows + i : i * columns + j] as number
            const want = Math.max(0, sum)
            if (!(Number.isFinite(sum) ? Math.abs(got - want) <= size * (2 * cols + 16) * 2 ** -24 : Object.is(got, want)))
              throw new Error(`${what}: [${i}, ${j}] is ${got}, want ${want}`)
          }
      }
}

// ---------- what is counted ----------

export function sparseWork(r: Runner): void {
  const [rows, cols] = [16, 256]
  store(r, weights(1, rows * cols, 0), rows, cols, 0, 1)
  store(r, weights(1, rows * cols, 0), rows, cols, 0, 2)
}

export function spmmWork(r: Runner): void {
  const [rows, cols, columns] = [16, 32, 128]
  for (const kind of [0, 1, 2] as const)
    for (const layout of [1, 2] as const) {
      const stored = store(r, weights(1, rows * cols, kind), rows, cols, kind, layout)
      const x = kind === 2 ? new Uint8Array(cols * columns) : new Float32Array(cols * columns)
      for (const byRows of [false, true])
        multiply(r, stored, { x, columns, byRows, outType: 'float32', activation: 'relu' })
    }
}
