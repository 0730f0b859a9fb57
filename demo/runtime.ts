import * as ort from 'onnxruntime-node'

import { Session } from '../lib/index'
import type { Runner } from './ocr'

/** An onnxruntime session over one model with one float32 input `x` and one output. */
export interface Runtime {
  readonly run: Runner
  release(): Promise<void>
}

export async function openRuntime(
  model: string | Uint8Array,
  options: ort.InferenceSession.SessionOptions = {},
): Promise<Runtime> {
  const session = await ort.InferenceSession.create(model as string, { logSeverityLevel: 3, ...options })
  const output = session.outputNames[0]!
  const input = session.inputNames[0]!
  return {
    async run(x, dims) {
      const result = (await session.run({ [input]: new ort.Tensor('float32', x, dims) }))[output]!
      return { data: result.data as Float32Array, dims: result.dims }
    },
    release: () => session.release(),
  }
}

/** The same over whittle's own session. */
export async function openSession(model: string): Promise<Runtime> {
  const session = await Session.create(model)
  const input = session.inputs[0]!.name
  const output = session.outputs[0]!.name
  return {
    async run(x, dims) {
      const result = (await session.run({ [input]: { type: 'float32', dims, data: x } }))[output]!
      return { data: result.data as Float32Array, dims: result.dims }
    },
    release: async () => session.dispose(),
  }
}
