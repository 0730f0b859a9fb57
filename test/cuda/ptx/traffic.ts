// What the memory requests of the hot kernels may cost, over shapes that fill warps: 32-byte sectors of a request to device
// memory, passes over the banks of one to shared memory. `ideal` is the least that the same bytes allow.
import { shapeOf } from '../../../lib/kernels/scheme'
import { normals } from './checks'
import type { Ledger, Runner, Stem } from './launches'
import { sparseWork, spmmWork } from './sparse'

/** At most so many times the ideal, in all requests of a kernel together. */
interface Bound {
  kernel: string
  global: number
  /** Of shared memory; 1 where nothing is said. */
  shared?: number
  /** Why it is not 1. */
  because?: string
}

export interface Cost {
  kernel: string
  space: 'global' | 'shared'
  requests: number
  perRequest: number
  ratio: number
}

const bounds: Record<Stem, Bound[]> = {
  quantize: [
    { kernel: 'range_runs_kernel<0>', global: 1 },
    { kernel: 'range_runs_kernel<1>', global: 1 },
    { kernel: 'range_columns_kernel<0>', global: 1 },
    { kernel: 'codes_kernel<0,8>', global: 1 },
    { kernel: 'codes_kernel<1,8>', global: 1 },
    { kernel: 'codes_kernel<0,16>', global: 1 },
    {
      kernel: 'codes_kernel<0,4>',
      global: 1.7,
      because: 'a thread reads its two floats one after the other, and both requests meet every sector',
    },
    { kernel: 'codes_kernel<0,2>', global: 3.2, because: 'likewise four' },
    { kernel: 'values_kernel<0>', global: 1 },
    { kernel: 'values_kernel<1>', global: 1 },
    { kernel: 'histogram_kernel<0>', global: 1 },
  ],
  select: [
    { kernel: 'scores_kernel', global: 1 },
    { kernel: 'group_rows_kernel', global: 1 },
    { kernel: 'group_columns_kernel', global: 1 },
    { kernel: 'histogram_kernel', global: 1 },
    { kernel: 'ties_kernel', global: 1 },
    { kernel: 'scan_kernel', global: 1 },
    { kernel: 'mask_kernel', global: 1 },
    { kernel: 'nm_kernel', global: 4, because: 'a thread reads its four values one after the other' },
    { kernel: 'apply_kernel', global: 1 },
  ],
  distill: [
    { kernel: 'loss_kernel<32>', global: 1 },
    { kernel: 'loss_kernel<256>', global: 1 },
  ],
  divergence: [{ kernel: 'js_kernel', global: 1 }],
  gemm: [
    { kernel: 'finish_kernel<0>', global: 1 },
    { kernel: 'finish_kernel<1>', global: 1 },
  ],
  gemm_int8: [
    { kernel: 'rows_kernel', global: 1 },
    { kernel: 'sums_kernel', global: 1 },
    { kernel: 'dots_kernel', global: 1 },
    { kernel: 'columns_kernel', global: 1 },
    { kernel: 'epilogue_kernel', global: 1 },
  ],
  sparse: [
    { kernel: 'rows_kernel', global: 1 },
    { kernel: 'panels_kernel', global: 1 },
    { kernel: 'entries_kernel', global: 1.3, because: 'what a warp stores of 32 columns begins anywhere in a sector' },
    { kernel: 'scan_kernel', global: 4, shared: 1, because: 'a thread takes eight neighbours one after the other' },
  ],
  spmm: [
    { kernel: 'pack_kernel<f>', global: 1 },
    { kernel: 'pack_kernel<h>', global: 1, shared: 1.25, because: 'four bytes of a bank begin anywhere in a line' },
    { kernel: 'csr_kernel<0>', global: 1.05, because: 'entries of a row begin anywhere in a sector' },
    { kernel: 'csr_kernel<2>', global: 1.05, because: 'entries of a row begin anywhere in a sector' },
    { kernel: 'panels_kernel<0>', global: 1 },
    { kernel: 'panels_kernel<1>', global: 1 },
    { kernel: 'panels_int8_kernel', global: 1 },
    { kernel: 'finish_kernel', global: 1 },
    { kernel: 'finish_int8_kernel', global: 1 },
  ],
}

const workloads: Record<Stem, (r: Runner) => void> = {
  quantize(r) {
    const n = 2048
    const x = normals(1, n)
    const half = Uint16Array.from({ length: n }, (_, i) => 0x3c00 + (i % 64))
    for (const bits of [8, 16, 4, 2]) r.quantize(x, 0, shapeOf([n], null, null), { bits })
    r.quantize(half, 1, shapeOf([n], null, null), {})
    r.quantize(x, 0, shapeOf([32, 64], 1, null), {})
    r.histogram(x, 0, shapeOf([n], null, null), Float32Array.of(20), 2048)
    for (const kind of [0, 1])
      r.dequantize(new Int8Array(n), 8, true, shapeOf([n], null, null), Float32Array.of(0.5), undefined, kind)
  },
  select(r) {
    const x = normals(2, 8192)
    r.scores(1, x.subarray(0, 1024))
    r.groups(1, x, undefined, 1, 4, 2048)
    r.groups(1, x, undefined, 16, 64, 8)
    r.largest(x, 1000)
    r.nm(x.subarray(0, 1024), 1, 1024, 1, 2, 4)
    // What a mask leaves out is not read.
    r.apply(x.subarray(0, 1024), new Uint8Array(1024).fill(1))
  },
  distill(r) {
    for (const [samples, classes] of [
      [8, 64],
      [2, 2048],
    ] as const)
      // prettier-ignore
      r.loss({ samples, classes, student: normals(1, samples * classes), teacher: normals(2, samples * classes), temperature: 2, alpha: 1, reduction: 1 })
  },
  divergence: (r) =>
    void r.js({ samples: 2, classes: 512, student: normals(1, 1024), teacher: normals(2, 1024), reduction: 1 }),
  gemm(r) {
    for (const kind of [0, 1]) r.finish(normals(3, 1024), 32, kind, undefined, 'gelu')
  },
  gemm_int8(r) {
    const [m, n, k] = [4, 64, 512]
    r.gemmInt8({
      a: new Int8Array(m * k),
      b: new Int8Array(n * k),
      m,
      n,
      k,
      transposed: true,
      outType: 'float32',
      aScale: 1,
      bScale: 1,
    })
  },
  sparse: sparseWork,
  spmm: spmmWork,
}

export function costs(stem: Stem, r: Runner): Cost[] {
  workloads[stem](r)
  const ledger: Ledger = r.ledger
  return bounds[stem].flatMap((b) =>
    (['global', 'shared'] as const).flatMap((space) => {
      const t = ledger.traffic(b.kernel, space)
      return t.requests
        ? [
            {
              kernel: b.kernel,
              space,
              requests: t.requests,
              perRequest: t.units / t.requests,
              ratio: t.units / t.ideal,
            },
          ]
        : []
    }),
  )
}

/** Throws the first cost beyond its bound. */
export function checkTraffic(stem: Stem, r: Runner): Cost[] {
  const all = costs(stem, r)
  for (const b of bounds[stem]) {
    const mine = all.filter((c) => c.kernel === b.kernel)
    if (!mine.length) throw new Error(`${b.kernel} made no request`)
    for (const c of mine) {
      const bound = c.space === 'global' ? b.global : (b.shared ?? 1)
      if (c.ratio > bound)
        throw new Error(
          `${c.kernel}: ${c.perRequest.toFixed(2)} ${c.space === 'global' ? 'sectors' : 'bank passes'} a request, ${c.ratio.toFixed(2)} times the ideal, at most ${bound}`,
        )
    }
  }
  return all
}
