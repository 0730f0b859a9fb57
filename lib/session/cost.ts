import { native } from '../native'
import type { TypedArray } from '../tensor'

declare module '../native' {
  interface NativeBinding {
    sessionCensus(data: TypedArray, k: number, n: number, row: number, col: number): readonly number[]
  }
}

/** How a matrix of weights is stored: every non-zero by itself, blocks of outputs x inputs, or n of m inputs. */
export type SparseName = 'csr' | `${number}x${number}` | `${number}:${number}`

/** What one look at weights tells of them; see core/sparse_weights.h. */
export interface Census {
  readonly nnz: number
  /** blocks of each of {@link kShapes} that hold a non-zero */
  readonly blocks: readonly number[]
  readonly patterns: readonly boolean[]
}

/** core/sparse_weights.h */
const kShapes = [[1, 1], [1, 4], [1, 16], [4, 1], [8, 1], [16, 1], [32, 32]] as const
const kPatterns = ['1:4', '2:4', '4:8'] as const

/** Below this share of zeros no sparse kernel wins anywhere. */
const kLeast = 0.5

/** Counts what a k x n matrix holds; undefined where too little of it is zero for sparse kernels. */
export function censusOf(data: Float32Array | Int8Array, k: number, n: number, row: number, col: number): Census | undefined {
  let zeros = 0
  for (let i = 0; i < data.length; i++) if (data[i] === 0) zeros++
  if (!(zeros >= data.length * kLeast) || data.length < 256) return undefined
  // Sparse matrices refuse what is not finite; dense products carry it on.
  if (data instanceof Float32Array) for (let i = 0; i < data.length; i++) if (!Number.isFinite(data[i])) return undefined
  const numbers = native().sessionCensus(data, k, n, row, col)
  if (numbers.length !== 11) return undefined
  return { nnz: numbers[0] as number, blocks: numbers.slice(1, 8), patterns: numbers.slice(8).map((v) => v !== 0) }
}

/** The numbers of a format as core/sparse.h has them: format, rows and columns of a block, n and m. */
export function formatNumbers(name: SparseName): readonly [number, number, number, number, number] {
  if (name === 'csr') return [1, 1, 1, 0, 0]
  const [a, b] = name.split(/[x:]/).map(Number) as [number, number]
  return name.includes('x') ? [2, a, b, 0, 0] : [3, 1, 1, a, b]
}

export interface Costed<T extends string = string> {
  readonly name: T
  /** cycles of one thread, about */
  readonly cost: number
}

/** Rows of activations a product is laid out for: few distinct numbers, so that plans for several shapes share weights. */
export function layoutColumns(columns: number): number {
  if (columns <= 2) return columns
  let c = 16
  while (c < 128 && c < columns) c *= 2
  return c
}

interface Speed {
  /** float lanes against 16 */
  readonly narrow: number
  /** multiply-adds a cycle of the dense int8 kernels */
  readonly int8: number
}

const kSpeeds: Readonly<Record<string, Speed>> = {
  scalar: { narrow: 12, int8: 1 },
  avx2: { narrow: 2, int8: 24 },
  avx512: { narrow: 1, int8: 40 },
  avx512vnni: { narrow: 1, int8: 90 },
  neon: { narrow: 4, int8: 12 },
}

function speedOf(tier: string): Speed {
  return kSpeeds[tier] ?? (tier.startsWith('avx512') || tier === 'amx' ? kSpeeds.avx512vnni : tier.startsWith('avx') ? kSpeeds.avx2 : tier.startsWith('neon') ? kSpeeds.neon : kSpeeds.scalar) as Speed
}

/** Cycles of a dense float32 product of m x k with k x n. */
export function denseCost(m: number, k: number, n: number): number {
  const { narrow } = speedOf(native().systemInfo().kernels['gemm'] ?? 'scalar')
  return (m * k * n * narrow * 0.56) / 16 + 400
}

/** Cycles of sparse float32 products of m rows of activations, with `gathered` where they are gathered from an image. */
export function sparseCosts(census: Census, m: number, k: number, n: number, gathered: boolean): readonly Costed<SparseName>[] {
  const { narrow } = speedOf(native().systemInfo().kernels['sparse'] ?? 'scalar')
  const strips = Math.ceil(m / 64)
  const u = Math.ceil(m / 16) * narrow
  // Activations are turned on the way in and out.
  const turning = m <= 2 ? 0 : (strips * 64 * (k * (gathered ? 1.15 : 0.5) + n * 0.65) * (1 + narrow)) / 2 + 1500
  const list: Costed<SparseName>[] = []
  kShapes.forEach(([r, c], s) => {
    const blocks = census.blocks[s] as number
    if ((s > 0 && blocks * r * c > 1.5 * census.nnz) || (s > 2 && r > n)) return
    const h = Math.min(8, r)
    const loads = (blocks * c * r) / h
    const groups = n / h
    let cost: number
    if (m <= 2) cost = m * (blocks * r * c * (s === 0 ? 1.6 : 0.6) + groups * 4 + 500)
    else if (s === 0) cost = loads * (1.1 * strips + 0.75 * u) + groups * Math.max(1, k / 192) * (1.6 * u + 6 * strips)
    else cost = loads * Math.max(0.55 * u * h, 1.6 * u + 0.5 * h) + groups * (8 * u * h + 10)
    list.push({ name: s === 0 ? 'csr' : `${r}x${c}`, cost: cost + turning })
  })
  return list
}

/** Cycles of a dense int8 product. */
export function denseInt8Cost(m: number, k: number, n: number): number {
  return (m * k * n) / speedOf(native().systemInfo().kernels['gemm_int8'] ?? 'scalar').int8 + 400
}

/** Cycles of sparse int8 products. */
export function sparseInt8Costs(census: Census, m: number, k: number, n: number, gathered: boolean): readonly Costed<SparseName>[] {
  const strips = Math.ceil(m / 64)
  const turning = strips * 64 * (k * (gathered ? 0.15 : 0.1) + n * 0.4) + 1500
  const list: Costed<SparseName>[] = []
  kShapes.forEach(([r, c], s) => {
    const blocks = census.blocks[s] as number
    if (s > 0 && blocks * r * c > 1.5 * census.nnz) return
    const bundles = (blocks * r * c) / 4
    const aligned = c % 4 === 0
    const h = r % 16 === 0 ? 16 : r
    // A bundle of four columns meets 64 columns of activations in four multiply-adds; unaligned ones gather four rows first.
    const each = aligned ? 1.1 * 4 : 4 * 1.0 + 14 / h
    list.push({ name: s === 0 ? 'csr' : `${r}x${c}`, cost: strips * (bundles * each + (n / h) * (k / 512 + 1) * 8) + turning })
  })
  // Such weights have no column without a value in 16 rows, and lie as dense ones do; one row of activations is another matter.
  kPatterns.forEach((name, p) => {
    if (!census.patterns[p] || (gathered && m <= 2)) return
    list.push({ name, cost: m <= 2 ? (m * n * k) / 32 + 500 : (strips * n * k * 1.2) / 4 + turning })
  })
  return list
}
