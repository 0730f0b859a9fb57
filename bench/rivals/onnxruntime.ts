import { createRequire } from 'node:module'
import * as path from 'node:path'
import type { InferenceSession, Tensor } from 'onnxruntime-node'
import type { Numbers, Rival } from '../harness/types'
import { encodeOnnx, type OnnxModel } from './onnx'

export interface OnnxSpec {
  /** A model as a description, its bytes, or a path. */
  readonly model: OnnxModel | Uint8Array | string
  readonly feeds: Readonly<
    Record<string, { readonly type: string; readonly dims: readonly number[]; readonly data: unknown }>
  >
  /** The output to compare; default the first. */
  readonly output?: string
  readonly incomparable?: string
  /** Further session options. */
  readonly session?: InferenceSession.SessionOptions
}

/** onnxruntime-node from bench/'s own dependencies. */
export class OnnxRuntimeNode {
  private module: typeof import('onnxruntime-node') | undefined
  private why = ''

  constructor(
    root: string,
    private readonly threads: number,
  ) {
    try {
      this.module = createRequire(path.join(root, 'bench', 'package.json'))(
        'onnxruntime-node',
      ) as typeof import('onnxruntime-node')
    } catch (e) {
      this.why = `onnxruntime-node does not load: ${(e as Error).message.split('\n')[0]}`
    }
  }

  version(): string {
    return this.module?.env.versions.node ?? this.why
  }

  async rival(spec: OnnxSpec): Promise<Rival> {
    const ort = this.module
    if (!ort) return { name: 'onnxruntime-node', why: this.why }
    let session: InferenceSession
    try {
      const options: InferenceSession.SessionOptions = {
        intraOpNumThreads: this.threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: 'all',
        logSeverityLevel: 3,
        // Its threads spin while it runs, as by default, but not into the next sample of ours.
        extra: { session: { force_spinning_stop: '1' } },
        ...spec.session,
      }
      const { model } = spec
      const bytes = typeof model === 'string' || ArrayBuffer.isView(model) ? model : encodeOnnx(model)
      session = await (typeof bytes === 'string'
        ? ort.InferenceSession.create(bytes, options)
        : ort.InferenceSession.create(bytes, options))
    } catch (e) {
      return {
        name: 'onnxruntime-node',
        why: `onnxruntime-node refuses the model: ${(e as Error).message.split('\n')[0]}`,
      }
    }
    const feeds: Record<string, Tensor> = {}
    for (const [name, t] of Object.entries(spec.feeds))
      feeds[name] = new ort.Tensor(t.type as 'float32', t.data as Float32Array, t.dims)
    const wanted = spec.output ?? (session.outputNames[0] as string)
    let last: InferenceSession.ReturnType | undefined
    return {
      name: 'onnxruntime-node',
      run: async () => {
        last = await session.run(feeds)
      },
      result: () => last?.[wanted]?.data as Numbers,
      ...(spec.incomparable ? { incomparable: spec.incomparable } : {}),
      dispose: () => session.release(),
    }
  }
}
