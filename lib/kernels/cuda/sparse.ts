import { WhittleError } from '../../errors'
import { handleObject } from '../../handle'
import { check, native } from '../../native'
import { allocate, byteLengthOf, sizeOf, type DataType, type Tensor, type TypedArray } from '../../tensor'
import { boolean, describe, dims as checkDims, fail, finite, integer, oneOf, options } from '../../validate'
import { activationOf } from '../activation'
import { isDeviceTensor, toDevice, toDeviceAsync, type DeviceTensor } from '../device'
import { kOutTypes, scaleOf, zeroPoint } from '../gemm_int8'
import {
  formatOf, kSparsifyOptions, kSpmmOptions, kTypes, SparseMatrix, sumsFit, type SparseFormat, type SparsifyOptions, type SparseType, type SpmmOptions,
} from '../sparse' // prettier-ignore
import { missing, runAsync, runSync, type Operation, type Routine, type Turn } from './call'

/** Options of `sparsify` for a tensor on a GPU. */
export interface DeviceSparsifyOptions extends Pick<SparsifyOptions, 'format' | 'dtype' | 'columns' | 'emptyRows'> {
  /** uint8 or bool, as many elements as `w` has. */
  readonly mask?: DeviceTensor
  /** Scale of int8 `w`: a number, or one a row. Default 1. */
  readonly scale?: number | DeviceTensor
}

/** Options of `spmm` on a GPU; what is a tensor lies there too. */
export interface DeviceSpmmOptions extends Omit<SpmmOptions, 'bias' | 'threads' | 'out'> {
  /** float32, or for int8 weights int32 in units of xScale·scale: one for each row of the weights. */
  readonly bias?: DeviceTensor
  readonly out?: DeviceTensor
}

interface Parts {
  readonly first?: DeviceTensor
  readonly column?: DeviceTensor
  readonly places?: DeviceTensor
  readonly values: DeviceTensor
  readonly scale?: DeviceTensor
  readonly sums?: DeviceTensor
  /** The matrix in the form of NVIDIA's library, beside its own. */
  readonly compressed?: DeviceTensor
}

/**
 * Sparse weights on a GPU: made by `sparsify` of a device tensor or `toDevice` of a {@link SparseMatrix}, multiplied by `spmm`.
 * Blocks of every shape lie there as columns of 16 rows, so `{ block: [16, 1] }` says best what is stored.
 */
export class DeviceSparseMatrix {
  /** `[n, k]`: output channels and inputs. */
  readonly dims: readonly [number, number]
  readonly format: SparseFormat
  /** Type of the stored values. */
  readonly dtype: SparseType
  /** Values that are not zero. */
  readonly nnz: number
  /** @internal */
  readonly parts: Parts
  /** @internal */
  readonly numbers: readonly number[]

  /** @internal */
  constructor(
    dims: readonly [number, number],
    format: SparseFormat,
    dtype: SparseType,
    nnz: number,
    parts: Parts,
    numbers: readonly number[],
  ) {
    this.dims = dims
    this.format = format
    this.dtype = dtype
    this.nnz = nnz
    this.parts = parts
    this.numbers = numbers
  }

  get location(): string {
    return this.parts.values.location
  }

  /** Bytes of the device's memory. */
  get byteLength(): number {
    return this.#all().reduce((sum, t) => sum + t.byteLength, 0)
  }

  /** Share of zeros, from 0 to 1; 0 for a matrix without elements. */
  get sparsity(): number {
    const count = this.dims[0] * this.dims[1]
    return count === 0 ? 0 : 1 - this.nnz / count
  }

  /** Scales of an int8 matrix, one a row, which go with it; undefined for float values. */
  get scale(): DeviceTensor | undefined {
    return this.parts.scale
  }

  /** The dense matrix `[n, k]` that this one stands for, in its own dtype. @throws {WhittleError} `ERR_HANDLE` if disposed of */
  toDense(): DeviceTensor {
    return runSync((turn) => restore(turn, this))
  }

  /** Frees the device's memory. Calling it again does nothing. */
  dispose(): void {
    for (const t of this.#all()) t.dispose()
  }

  #all(): DeviceTensor[] {
    return Object.values({ ...this.parts })
  }
}

/** @internal */
export const isDeviceSparse = (value: unknown): value is DeviceSparseMatrix => value instanceof DeviceSparseMatrix

const kPanel = 16
const stepOf = (dtype: SparseType): number => (dtype === 'int8' ? 32 : 8)

// core/sparse.h: dense, CSR, blocks, n:m.
type Kind = 1 | 2 | 3

function* restore(turn: Turn, w: DeviceSparseMatrix): Routine<DeviceTensor> {
  const tensors = operands(turn, w, 'SparseMatrix')
  const out = turn.make('out', w.dtype, w.dims)
  yield { name: 'cudaSparseDense', numbers: w.numbers, tensors: [...tensors, out], parameter: 'SparseMatrix' }
  return out
}

/** The tensors of a matrix in the order of binding/cuda.cpp; its values say where all others lie. */
function operands(turn: Turn, w: DeviceSparseMatrix, parameter: string): (DeviceTensor | null)[] {
  const { first, column, places, values, scale, sums, compressed } = w.parts
  const v = turn.operand(values, parameter, [w.dtype])
  const other = (t: DeviceTensor | undefined): DeviceTensor | null => t ?? null
  return [other(first), other(scale), other(sums), other(column), other(places), v, other(compressed)]
}

function* build(turn: Turn, value: unknown, given: unknown): Routine<DeviceSparseMatrix> {
  const w = turn.operand(value, 'w', kTypes)
  if (w.dims.length !== 2) fail('ERR_SHAPE', 'w', 'a matrix [n, k] (rank 2)', [...w.dims])
  const [rows, cols] = w.dims as [number, number]
  const o = options(given, 'options', kSparsifyOptions)
  const shape = formatOf(o.format, cols)
  const dtype = o.dtype === undefined ? (w.type as SparseType) : oneOf(o.dtype, 'dtype', kTypes)
  if (w.type === 'int8' && dtype !== 'int8')
    fail('ERR_DTYPE', 'dtype', `'int8' for int8 weights (dequantize them for another)`, dtype)
  if (o.columns !== undefined) integer(o.columns, 'columns', 1, 2 ** 31 - 1)
  if (o.measure !== undefined && boolean(o.measure, 'measure')) missing('measure', 'a choice by time')
  if (o.threads !== undefined) integer(o.threads, 'threads', 1, 256)
  const mask = o.mask === undefined ? null : turn.operandOf(o.mask, 'mask', ['uint8', 'bool'], w.dims, false)
  if (o.emptyRows !== undefined && mask === null)
    fail('ERR_RANGE', 'emptyRows', 'no emptyRows unless a mask is given', o.emptyRows)
  const emptyRows = o.emptyRows !== undefined && boolean(o.emptyRows, 'emptyRows')
  let scales: DeviceTensor | null = null
  let own: DeviceTensor | undefined
  if (o.scale !== undefined) {
    if (w.type !== 'int8')
      fail(
        'ERR_RANGE',
        'scale',
        'no scale unless w is int8 (float weights are quantized by scales of their own)',
        o.scale,
      )
    if (typeof o.scale === 'number') {
      const s = Math.fround(finite(o.scale, 'scale', 0))
      if (!(s > 0 && s < Infinity)) fail('ERR_RANGE', 'scale', 'scales > 0 that float32 can hold', o.scale)
      own = scales = turn.make('scale', 'float32', [rows])
      if (rows > 0) yield { to: own, from: new Float32Array(rows).fill(s) }
    } else scales = turn.operandOf(o.scale, 'scale', ['float32'], [rows], false)
  }
  const source = kTypes.indexOf(w.type as SparseType)
  const int8 = dtype === 'int8'
  const scale = int8 ? turn.make('w', 'float32', [rows]) : undefined
  const sums = int8 ? turn.make('w', 'int32', [rows]) : undefined
  const result = new Float64Array(3)
  const numbersOf = (kind: Kind, stored: number): number[] => [
    kind,
    kTypes.indexOf(dtype),
    rows,
    cols,
    shape.n,
    shape.m,
    stored,
    0,
  ]
  const count = (kind: Kind, first: DeviceTensor | undefined): Operation => ({
    name: 'cudaSparseCount',
    numbers: [source, emptyRows, ...numbersOf(kind, 0)],
    tensors: [w, mask, scales, first ?? null, scale ?? null, sums ?? null],
    result,
    parameter: 'w',
    refused: (status) => {
      if (status === 3 && result[2] === 2)
        fail(
          'ERR_RANGE',
          'mask',
          'one that keeps a non-zero of every row that has any (or emptyRows: true)',
          'one that does not',
        )
      if (status === 3 && result[2])
        fail(
          'ERR_RANGE',
          'w',
          `weights of the pattern ${shape.n}:${shape.m}: no group may hold more non-zeros`,
          'one that does',
        )
      if (status === 3) fail('ERR_RANGE', 'scale', 'scales > 0 that float32 can hold', 'another among them')
    },
  })
  // 'auto': either reads a row of X for a column of a panel or for an entry of CSR; the products take longer than that only for panels,
  // by half. So below two entries a column CSR is said to win (docs/cuda.md).
  let kind: Kind = shape.kind === 3 ? 3 : shape.kind === 1 ? 1 : 2
  const panels = Math.ceil(rows / kPanel)
  let first = kind === 3 ? undefined : turn.make('w', 'int32', [(kind === 1 ? rows : panels) + 1])
  yield count(kind, first)
  if (shape.kind === 4 && (result[1] as number) < 2 * (result[0] as number) * stepOf(dtype)) {
    kind = 1
    first?.dispose()
    first = turn.make('w', 'int32', [rows + 1])
    yield count(kind, first)
  }
  const [stored, nnz] = result as unknown as [number, number]
  const entries = kind === 2 ? stored * stepOf(dtype) : stored
  const column = kind === 3 ? undefined : turn.make('w', 'int32', [entries])
  const places = kind === 3 ? turn.make('w', 'uint8', [entries]) : undefined
  const values = turn.make('w', dtype, [kind === 2 ? entries * kPanel : entries])
  const numbers = numbersOf(kind, stored)
  yield {
    name: 'cudaSparseFill',
    numbers: [source, emptyRows, ...numbers],
    tensors: [w, mask, scales, first ?? null, scale ?? null, sums ?? null, column ?? null, places ?? null, values, null],
    parameter: 'w',
  }
  own?.dispose()
  const format: SparseFormat =
    kind === 1 ? 'csr' : kind === 3 ? `${shape.n}:${shape.m}` : { block: shape.kind === 4 ? [kPanel, 1] : [shape.r, shape.c] }
  const parts: Parts = {
    values,
    ...(first ? { first } : {}),
    ...(column ? { column } : {}),
    ...(places ? { places } : {}),
    ...(scale && sums ? { scale, sums } : {}),
  }
  return yield* compressed(turn, new DeviceSparseMatrix([rows, cols], format, dtype, nnz, parts, numbers))
}

/** The matrix with the form that NVIDIA's library wants beside it, where there is one and room for it: `w` itself otherwise. */
function* compressed(turn: Turn, w: DeviceSparseMatrix): Routine<DeviceSparseMatrix> {
  const tensors = operands(turn, w, 'w')
  const result = new Float64Array(1)
  const compress = (numbers: readonly number[], form: DeviceTensor | null): Operation => ({
    name: 'cudaSparseCompress',
    numbers,
    tensors: [...tensors.slice(0, -1), form],
    result,
    parameter: 'w',
  })
  yield compress(w.numbers, null)
  const [bytes] = result as unknown as [number]
  if (bytes === 0) return w
  let form: DeviceTensor
  try {
    form = turn.make('w', 'uint8', [bytes])
  } catch (e) {
    if (e instanceof WhittleError && e.code === 'ERR_OUT_OF_MEMORY') return w
    throw e
  }
  const numbers = [...w.numbers.slice(0, -1), bytes]
  yield compress(numbers, form)
  if (result[0] === 0) {
    form.dispose()
    return w
  }
  return new DeviceSparseMatrix(w.dims, w.format, w.dtype, w.nnz, { ...w.parts, compressed: form }, numbers)
}

function* product(turn: Turn, sparse: unknown, xValue: unknown, given: unknown): Routine<DeviceTensor> {
  if (!isDeviceSparse(sparse))
    throw new WhittleError(
      'ERR_DEVICE',
      'sparse',
      `sparse: expected weights on a GPU, as x is there, got ${describe(sparse)}; toDevice() copies them`,
    )
  const tensors = operands(turn, sparse, 'sparse')
  const [n, k] = sparse.dims
  const int8 = sparse.dtype === 'int8'
  const x = turn.operand(xValue, 'x', int8 ? ['int8', 'uint8'] : ['float32'])
  const o = options(given, 'options', kSpmmOptions)
  const rank = x.dims.length
  if (rank === 0) fail('ERR_SHAPE', 'x', 'at least one dimension', 'a scalar')
  const byRows = (o.layout === undefined ? 'columns' : oneOf(o.layout, 'layout', ['columns', 'rows'])) === 'rows'
  const inner = byRows || rank === 1 ? rank - 1 : rank - 2
  if (x.dims[inner] !== k)
    fail(
      'ERR_SHAPE',
      'x',
      `${byRows ? 'rows' : 'columns'} of ${k} elements, as the ${n} x ${k} weights need`,
      `[${x.dims.join(', ')}]`,
    )
  const lead = x.dims.slice(0, inner)
  const tail = x.dims.slice(inner + 1)
  const outDims = checkDims([...lead, n, ...tail], 'out')
  if (sizeOf(outDims) > 2 ** 31 - 1)
    fail('ERR_SHAPE', 'x', 'a result of at most 2147483647 elements', `[${outDims.join(', ')}]`)
  const rows = byRows || rank === 1
  if (!int8)
    for (const name of ['xZeroPoint', 'xScale', 'outScale', 'outZeroPoint'] as const)
      if (o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} unless the weights are int8`, o[name])
  const outType = o.outType === undefined ? (int8 ? 'int32' : 'float32') : oneOf(o.outType, 'outType', kOutTypes)
  if (!int8 && outType !== 'float32') fail('ERR_RANGE', 'outType', `'float32' with ${sparse.dtype} weights`, outType)
  const quantized = outType === 'int8' || outType === 'uint8'
  if (outType === 'int32')
    for (const name of ['xScale', 'activation'] as const)
      if (o[name] !== undefined && o[name] !== 'none')
        fail('ERR_RANGE', name, `no ${name} with outType 'int32', which is not scaled`, o[name])
  if (!quantized)
    for (const name of ['outScale', 'outZeroPoint'] as const)
      if (o[name] !== undefined) fail('ERR_RANGE', name, `no ${name} unless outType is 'int8' or 'uint8'`, o[name])
  const biasTypes: DataType[] = !int8 ? ['float32'] : outType === 'int32' ? ['int32'] : ['int32', 'float32']
  const bias = o.bias === undefined ? null : turn.operandOf(o.bias, 'bias', biasTypes, [n], false)
  const activation = activationOf(o.activation, 'activation')
  const xZero = o.xZeroPoint === undefined ? 0 : zeroPoint(o.xZeroPoint, 'xZeroPoint', x.type)
  const xScale = o.xScale === undefined ? 1 : scaleOf(o.xScale, 'xScale')
  const outScale = o.outScale === undefined ? 1 : scaleOf(o.outScale, 'outScale')
  const outZero = o.outZeroPoint === undefined ? 0 : zeroPoint(o.outZeroPoint, 'outZeroPoint', outType)
  if (o.threads !== undefined) integer(o.threads, 'threads', 1, 256)
  const y = turn.result(o.out, 'out', outType, outDims)
  const result = new Float64Array(1)
  yield {
    name: 'cudaSparseMultiply',
    numbers: [
      ...sparse.numbers, rows, rows ? 1 : sizeOf(lead), rows ? sizeOf(lead) : (tail[0] as number), activation.kind, activation.lo, activation.hi,
      x.type === 'int8', xZero, xScale, kOutTypes.indexOf(outType), outScale, outZero, bias === null ? 0 : bias.type === 'int32' ? 1 : 2,
    ], // prettier-ignore
    tensors: [...tensors, x, bias, y],
    result,
    parameter: 'x',
    refused: (status) => {
      if (status === 8) fail('ERR_RANGE', 'bias', 'finite numbers', 'NaN or infinite ones')
      if (status !== 3) return
      if (result[0] === 2)
        fail('ERR_RANGE', 'xScale', "a scale whose product with the weights' float32 can hold", xScale)
      sumsFit(k, xZero, x.type === 'int8')
      throw new WhittleError('ERR_RANGE', 'bias', `bias: sums of ${k} products and this bias can leave 32 bits`)
    },
  }
  return y
}

/**
 * `sparsify` on a GPU: the same values are stored as on the CPU. `'auto'` chooses between `'csr'` and `{ block: [16, 1] }` by how
 * full the columns of 16 rows are: `'csr'` below two values each.
 *
 * @throws {WhittleError} as on the CPU, and `ERR_DEVICE` for an operand that lies elsewhere
 */
export const sparsify = (w: DeviceTensor, options?: DeviceSparsifyOptions): DeviceSparseMatrix =>
  runSync((turn) => build(turn, w, options))

/** {@link sparsify} off the JavaScript thread. */
export const sparsifyAsync = async (w: DeviceTensor, options?: DeviceSparsifyOptions): Promise<DeviceSparseMatrix> =>
  runAsync((turn) => build(turn, w, options))

/**
 * `spmm` on a GPU. int8 weights give the CPU's bits. Float weights give the same bits from call to call; each element's error is at
 * most (2z + 16)·2⁻²⁴·(Σ|w||x| + |bias|), z the columns that are stored for its 16 rows, then the activation's own.
 *
 * @throws {WhittleError} as on the CPU, and `ERR_DEVICE` for an operand that lies elsewhere
 */
export const spmm = (sparse: DeviceSparseMatrix, x: DeviceTensor, options?: DeviceSpmmOptions): DeviceTensor =>
  runSync((turn) => product(turn, sparse, x, options))

/** {@link spmm} off the JavaScript thread. */
export const spmmAsync = async (
  sparse: DeviceSparseMatrix,
  x: DeviceTensor,
  options?: DeviceSpmmOptions,
): Promise<DeviceTensor> => runAsync((turn) => product(turn, sparse, x, options))

declare module '../../native' {
  interface NativeBinding {
    cudaSparseLengths(handle: object, format: Float64Array, result: Float64Array): number
    cudaSparseLengthsAsync(handle: object, format: Float64Array, result: Float64Array): Promise<number>
    cudaSparseLay(handle: object, format: Float64Array, ...arrays: readonly TypedArray[]): number
    cudaSparseLayAsync(handle: object, format: Float64Array, ...arrays: readonly TypedArray[]): Promise<number>
  }
}

// What it takes to move a matrix: its entries are laid out by the CPU as the device wants them, and what is stored goes there.
class Move {
  readonly object: object
  readonly format: Float64Array
  readonly lengths = new Float64Array(6)
  readonly #sparse: SparseMatrix
  readonly #kind: Kind

  constructor(sparse: SparseMatrix) {
    this.object = handleObject(sparse, 'SparseMatrix', 'SparseMatrix')
    const [rows, cols] = sparse.dims
    if (rows * cols > 2 ** 31 - 1) fail('ERR_SHAPE', 'tensor', 'a matrix of at most 2147483647 elements', [...sparse.dims])
    const { kind, n, m } = sparse.format === 'dense' ? { kind: 2, n: 0, m: 0 } : formatOf(sparse.format, cols)
    this.#kind = kind as Kind
    this.format = Float64Array.of(kind, n, m)
    this.#sparse = sparse
  }

  /** Arrays for the parts, and the numbers that say how long they are. */
  rooms(): { numbers: Float64Array; arrays: TypedArray[] } {
    const [, first, column, places, values, sums] = this.lengths as unknown as number[]
    const { dtype } = this.#sparse
    const count = (values as number) / byteLengthOf(dtype, 1)
    const arrays = [new Int32Array(first as number), new Int32Array(column as number), new Uint8Array(places as number), allocate(dtype, count), new Int32Array(sums as number)]
    return { numbers: Float64Array.of(...this.format, ...this.lengths), arrays }
  }

  /** What of them goes to the device, by name. */
  tensors(arrays: readonly TypedArray[]): [keyof Parts, Tensor][] {
    const { dtype, scale } = this.#sparse
    const [first, column, places, values, sums] = arrays as [TypedArray, TypedArray, TypedArray, TypedArray, TypedArray]
    const flat = (type: DataType, data: TypedArray): Tensor => ({ type, dims: [data.length], data })
    const all: [keyof Parts, Tensor][] = [['values', flat(dtype, values)]]
    if (this.#kind !== 3) all.push(['first', flat('int32', first)], ['column', flat('int32', column)])
    else all.push(['places', flat('uint8', places)])
    if (scale) all.push(['scale', flat('float32', scale)], ['sums', flat('int32', sums)])
    return all
  }

  made(parts: Partial<Record<keyof Parts, DeviceTensor>>): DeviceSparseMatrix {
    const { dims, format, dtype, nnz } = this.#sparse
    const [kind, n, m] = this.format as unknown as [number, number, number]
    const numbers = [kind, kTypes.indexOf(dtype), ...dims, n, m, this.lengths[0] as number, 0]
    return new DeviceSparseMatrix(dims, format, dtype, nnz, parts as Parts, numbers)
  }
}

/** @internal */
export function sparseToDevice(sparse: SparseMatrix, device?: string): DeviceSparseMatrix {
  const move = new Move(sparse)
  check(native().cudaSparseLengths(move.object, move.format, move.lengths), 'tensor')
  const { numbers, arrays } = move.rooms()
  check(native().cudaSparseLay(move.object, numbers, ...arrays), 'tensor')
  const parts: Partial<Record<keyof Parts, DeviceTensor>> = {}
  try {
    for (const [name, tensor] of move.tensors(arrays)) parts[name] = toDevice(tensor, device)
    return runSync((turn) => compressed(turn, move.made(parts)))
  } catch (e) {
    for (const t of Object.values(parts)) t.dispose()
    throw e
  }
}

/** @internal */
export async function sparseToDeviceAsync(sparse: SparseMatrix, device?: string): Promise<DeviceSparseMatrix> {
  const move = new Move(sparse)
  check(await native().cudaSparseLengthsAsync(move.object, move.format, move.lengths), 'tensor')
  const { numbers, arrays } = move.rooms()
  check(await native().cudaSparseLayAsync(move.object, numbers, ...arrays), 'tensor')
  const parts: Partial<Record<keyof Parts, DeviceTensor>> = {}
  try {
    for (const [name, tensor] of move.tensors(arrays)) parts[name] = await toDeviceAsync(tensor, device)
    return await runAsync((turn) => compressed(turn, move.made(parts)))
  } catch (e) {
    for (const t of Object.values(parts)) t.dispose()
    throw e
  }
}

/** @internal */
export const isSparseMatrix = (value: unknown): value is SparseMatrix => value instanceof SparseMatrix

/** @internal */
export const sparseOnDevice = (sparse: unknown, x: unknown): boolean => isDeviceSparse(sparse) || isDeviceTensor(x)
