import { pin, pinOutput } from '../async'
import { WhittleError } from '../errors'
import { Handle, handleObject, registerHandle } from '../handle'
import { check, native } from '../native'
import { allocate, byteLengthOf, sizeOf, typedArrayName, type DataType, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { fail, output, tensor } from '../validate'
import { cudaDevices } from './devices'

declare module '../native' {
  interface NativeBinding {
    deviceNew(device: number, type: number, bytes: number, rank: number, dims: Float64Array): object | number
    deviceInfo(object: object): readonly number[] | undefined
    deviceError(): string
    deviceUpload(object: object, view: ArrayBufferView): number
    deviceUploadAsync(object: object, view: ArrayBufferView): Promise<number>
    deviceDownload(object: object, view: ArrayBufferView): number
    deviceDownloadAsync(object: object, view: ArrayBufferView): Promise<number>
  }
}

// The numbers cross threads in native memory.
const kTypes: readonly DataType[] = [
  'float32', 'float64', 'float16', 'bfloat16', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'bool',
  'int4', 'uint4', 'int2', 'uint2',
] // prettier-ignore

/** @internal Throws for any status but 0, in the device's own words where it is at fault. */
export function checkDevice(status: number, parameter: string): void {
  if (status === 4) throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: ${native().deviceError() || 'the device cannot be used'}`)
  check(status, parameter)
}

/** @internal The number of a device named `cuda:N`, or `cuda` for the first. */
export function deviceIndex(device: unknown, parameter = 'device', expected = "'cuda' or 'cuda:N'"): number {
  if (typeof device !== 'string') fail('ERR_DTYPE', parameter, "a string such as 'cuda:0'", device)
  const match = /^cuda(?::(\d{1,3}))?$/.exec(device)
  if (!match) fail('ERR_RANGE', parameter, expected, device)
  const found = cudaDevices()
  if (!found.available) throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: ${device} was asked for, but ${found.reason}`)
  const index = Number(match[1] ?? 0)
  if (index >= found.devices.length)
    throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: there is no ${device}; there are ${found.devices.map((d) => d.id).join(', ')}`)
  return index
}

/**
 * A tensor in a GPU's memory: made by {@link toDevice}, read by {@link toHost}. Its memory counts towards V8's external
 * memory and is freed by {@link dispose}, by `using`, or when the object is collected. `share()` and `adopt()` open it in
 * another thread. What computes on a GPU takes it in place of a tensor and answers another one; all operands of a call lie on
 * one device. Other functions refuse it with `ERR_DEVICE`.
 */
export class DeviceTensor extends Handle {
  readonly type: DataType
  readonly dims: readonly number[]
  /** `cuda:0` and so on. */
  readonly location: string

  /** @internal */
  constructor(object: unknown) {
    super('DeviceTensor', object)
    const [device, type, ...dims] = native().deviceInfo(object as object) as readonly number[]
    this.type = kTypes[type as number] as DataType
    this.dims = Object.freeze(dims)
    this.location = `cuda:${device}`
  }

  /** There is none here: {@link toHost} copies it. @throws {WhittleError} `ERR_DEVICE`, always */
  get data(): never {
    throw new WhittleError('ERR_DEVICE', 'data', `data: this tensor lies on ${this.location}; toHost() copies it`)
  }

  /**
   * Copies the tensor to memory that JavaScript reads.
   *
   * @param out memory for it; default fresh memory
   * @throws {WhittleError} `ERR_HANDLE` if disposed of; `ERR_DTYPE`, `ERR_SHAPE` on `out`; `ERR_DEVICE` if the device fails
   * @example
   * const { data } = deviceTensor.toHost()
   */
  toHost(out?: TypedArray): Tensor {
    const { object, view } = this.#target(out)
    checkDevice(native().deviceDownload(object, view), 'tensor')
    return { type: this.type, dims: this.dims, data: view }
  }

  /** {@link toHost} on another thread. */
  async toHostAsync(out?: TypedArray): Promise<Tensor> {
    const { object, view } = this.#target(out)
    const pinned = pinOutput(view, 'out', out === undefined)
    checkDevice(await native().deviceDownloadAsync(object, pinned.view), 'tensor')
    return { type: this.type, dims: this.dims, data: pinned.commit() }
  }

  #target(out: TypedArray | undefined): { object: object; view: TypedArray } {
    const object = handleObject(this, 'DeviceTensor', 'tensor')
    const count = sizeOf(this.dims)
    return { object, view: out === undefined ? allocate(this.type, count) : output(out, 'out', this.type, count, []) }
  }
}

registerHandle('DeviceTensor', (object) => new DeviceTensor(object))

/** @internal */
export function isDeviceTensor(value: unknown): value is DeviceTensor {
  return Handle.is(value) && Handle.nameOf(value) === 'DeviceTensor'
}

/** @internal A tensor in the memory of device number `index`, not initialized. */
export function newDeviceTensor(index: number, type: DataType, dims: readonly number[], parameter: string): DeviceTensor {
  const made = native().deviceNew(index, kTypes.indexOf(type), byteLengthOf(type, sizeOf(dims)), dims.length, Float64Array.from(dims))
  if (typeof made === 'number') checkDevice(made, parameter)
  return new DeviceTensor(made)
}

function prepare(input: unknown, device: unknown): { tensor: DeviceTensor; object: object; data: TypedArray } {
  const t = tensor(input, 'tensor', kTypes)
  const made = newDeviceTensor(deviceIndex(device), t.type, t.dims, 'tensor')
  const data = typedArrayName(t.data) === 'Float16Array' ? new Uint16Array(t.data.buffer as ArrayBuffer, t.data.byteOffset, t.data.length) : t.data
  return { tensor: made, object: handleObject(made, 'DeviceTensor', 'tensor'), data }
}

/**
 * Copies a tensor to a GPU.
 *
 * @param tensor any element type and rank, or a typed array
 * @param device `cuda:N`, or `cuda` for the first one
 * @throws {WhittleError} `ERR_DEVICE` with the reason if there is no such device here; `ERR_OUT_OF_MEMORY` if its memory is
 * full; `ERR_DTYPE`, `ERR_SHAPE`, `ERR_HANDLE` on `tensor`; `ERR_RANGE` for a device name that is none
 * @example
 * const x = toDevice({ type: 'float32', dims: [2, 3], data }, 'cuda:0')
 * const y = x.toHost()
 * x.dispose()
 */
export function toDevice(tensor: TensorLike | TypedArray, device = 'cuda:0'): DeviceTensor {
  const p = prepare(tensor, device)
  const status = native().deviceUpload(p.object, p.data)
  if (status !== 0) p.tensor.dispose()
  checkDevice(status, 'tensor')
  return p.tensor
}

/** {@link toDevice} on another thread. A tensor above 256 KiB is read in place and can no longer be transferred. */
export async function toDeviceAsync(tensor: TensorLike | TypedArray, device = 'cuda:0'): Promise<DeviceTensor> {
  const p = prepare(tensor, device)
  const status = await native().deviceUploadAsync(p.object, pin(p.data))
  if (status !== 0) p.tensor.dispose()
  checkDevice(status, 'tensor')
  return p.tensor
}
