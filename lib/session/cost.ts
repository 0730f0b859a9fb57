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

/** What was measured of the kernels of a tier. */
interface Speed {
  /** float lanes against 16 */
  readonly narrow: number
  /** 8-bit multiply-adds of the dense kernels a cycle */
  readonly dense: number
  /** cycles of a bundle of four columns of height h that meets 64 rows: whole + wide / h where blocks are four columns wide, else whole + apart / h */
  readonly whole: number
  readonly wide: number
  readonly apart: number
  /** cycles of a sum of sparse weights that becomes a code */
  readonly codes: number
}

const kSpeeds = {
  scalar: { narrow: 12, dense: 1, whole: 220, wide: 36, apart: 36, codes: 2.2 },
  avx2: { narrow: 2, dense: 13, whole: 21, wide: 21, apart: 9, codes: 2.2 },
  avx512: { narrow: 1, dense: 28, whole: 11, wide: 19, apart: 11, codes: 2.2 },
  avx512vnni: { narrow: 1, dense: 80, whole: 3.7, wide: 3.3, apart: 10, codes: 0.7 },
  amx: { narrow: 1, dense: 600, whole: 3.7, wide: 3.3, apart: 10, codes: 0.7 },
  neon: { narrow: 4, dense: 12, whole: 24, wide: 10, apart: 10, codes: 2.2 },
} as const satisfies Record<string, Speed>

/** The speed of a kernel family's tier, or of the one it comes from. */
function speedOf(family: string): Speed {
  const tier = native().systemInfo().kernels[family] ?? 'scalar'
  if (Object.hasOwn(kSpeeds, tier)) return kSpeeds[tier as keyof typeof kSpeeds]
  return tier.startsWith('avx') ? kSpeeds.avx2 : tier.startsWith('neon') ? kSpeeds.neon : kSpeeds.scalar
}

/** Lanes that the kernels of float32 products fill with columns. */
export function lanesOfProducts(): number {
  return 16 / speedOf('gemm').narrow
}

/** Cycles of a dense float32 product of m x k with k x n. */
export function denseCost(m: number, k: number, n: number): number {
  const { narrow } = speedOf('gemm')
  return (m * k * n * narrow * 0.56) / 16 + 400
}

/** Cycles of sparse float32 products of m rows of activations, with `gathered` where they are gathered from an image. */
export function sparseCosts(census: Census, m: number, k: number, n: number, gathered: boolean): readonly Costed<SparseName>[] {
  const { narrow } = speedOf('sparse')
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

/** Cycles of a dense int8 product: sums, and what is made of each. */
export function denseInt8Cost(m: number, k: number, n: number): number {
  const { dense, narrow } = speedOf('gemm_int8')
  return (m * k * n) / dense + m * n * 1.5 * narrow + 400
}

/** Cycles of sparse int8 products. */
export function sparseInt8Costs(census: Census, m: number, k: number, n: number, gathered: boolean, codes = false): readonly Costed<SparseName>[] {
  const { whole, wide, apart, narrow, dense, codes: coding } = speedOf('sparse_int8')
  // The last strip is a power of two of 16.
  const strips = Math.floor(m / 64) + layoutColumns(m % 64 === 0 ? 0 : Math.max(3, m % 64)) / 64
  const turning = (m * k * (gathered ? 0.3 : 0.15) + m * n * (codes ? coding : 2.2)) * narrow + 1500
  const list: Costed<SparseName>[] = []
  kShapes.forEach(([r, c], s) => {
    const blocks = census.blocks[s] as number
    if (s > 0 && blocks * r * c > 1.5 * census.nnz) return
    const h = r % 16 === 0 ? 16 : r
    const bundles = (blocks * r * c) / 4
    const each = whole + (c % 4 === 0 ? wide : apart) / h
    const cost = m <= 2 ? m * (bundles * 1.2 + n * 4) + 1500 : strips * (bundles * each + (n / h) * (k / 512 + 1) * 8) + turning
    list.push({ name: s === 0 ? 'csr' : `${r}x${c}`, cost })
  })
  // Such weights have no column without a value in 16 rows, and lie as dense ones do; one row of activations is another matter.
  kPatterns.forEach((name, p) => {
    if (!census.patterns[p] || (gathered && m <= 2)) return
    list.push({ name, cost: m <= 2 ? m * ((k * n) / dense / 1.5 + n * 4) + 500 : ((strips * n * k) / 4) * (whole + wide / 16) + turning })
  })
  return list
}
