import * as ort from 'onnxruntime-node'

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
