import { WhittleError } from '../errors'
import { handleObject } from '../handle'
import { isDeviceTensor, newDeviceTensor, toDevice, type DeviceTensor } from '../kernels/device'
import type { DataType, Tensor, TypedArray } from '../tensor'
import { fail } from '../validate'
import type { Placed } from './device'
import type { Plan } from './stages'
import type { SessionInputs } from './types'

/** A value that lies on the session's GPU: what `data` is to other tensors is the native object here, which plans take as well. */
export interface Resident extends Tensor {
  readonly tensor: DeviceTensor
}

export function isResident(t: Tensor): t is Resident {
  return 'tensor' in t
}

function wrap(tensor: DeviceTensor, object: object): Resident {
  return { type: tensor.type, dims: tensor.dims, data: object as TypedArray, tensor }
}

/** Checks a device tensor that a session gets. */
export function resident(tensor: DeviceTensor, parameter: string, type: DataType, placed: Placed): Resident {
  const object = handleObject(tensor, 'DeviceTensor', parameter)
  if (tensor.location !== placed.name)
    throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: this tensor lies on ${tensor.location}, the session computes on ${placed.name}${placed.reason && ` (${placed.reason})`}; toHost() copies it`)
  if (tensor.type !== type) fail('ERR_DTYPE', parameter, `elements of type ${type}`, tensor.type)
  return wrap(tensor, object)
}

/** Makes fresh memory on the session's GPU for what a plan answers. */
export function fresh({ index, name, reason }: Placed): (plan: Plan) => Resident[] {
  if (index < 0) throw new WhittleError('ERR_DEVICE', 'options.location', `options.location: the session computes on ${name}${reason && ` (${reason})`}`)
  return (plan) => {
    const made: Resident[] = []
    try {
      for (const { type, dims } of plan.outputs) {
        const tensor = newDeviceTensor(index, type, dims, 'outputs')
        made.push(wrap(tensor, handleObject(tensor, 'DeviceTensor', 'outputs')))
      }
    } catch (error) {
      letGo(made)
      throw error
    }
    return made
  }
}

/** Frees what a run that failed had made. */
export function letGo(outputs: readonly Tensor[]): void {
  for (const o of outputs) if (isResident(o)) o.tensor.dispose()
}

/** What a run answers: on the device or not, as it was asked for. An input that is answered as it came is copied. */
export function answers(found: readonly Tensor[], there: boolean, placed: Placed, inputs: SessionInputs): Tensor[] {
  const given = new Set<unknown>(Object.values(inputs))
  return found.map((t) => {
    if (!there) return isResident(t) ? t.tensor.toHost() : t
    if (isResident(t) && !given.has(t.tensor)) return t.tensor
    return toDevice(isResident(t) ? t.tensor.toHost() : t, placed.name)
  })
}

export { isDeviceTensor }
