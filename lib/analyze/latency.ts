import { createRequire } from 'node:module'
import path from 'node:path'

import type { Inputs } from '../compress/calibration'
import { WhittleError } from '../errors'
import { medianOf } from '../metrics/evaluate'
import type { Model } from '../model/model'
import type { Measurement } from '../report/types'
import { Session } from '../session'
import type { TensorLike } from '../tensor'
import { fail, integer, options as checkOptions } from '../validate'

/** One model of {@link measureLatency}. */
export interface Timed {
  readonly label: string
  readonly model: Model
  /** The one that the others are compared with. */
  readonly reference?: boolean
  /** Told with the times, where known. */
  readonly accuracy?: number
}

export interface LatencyOptions {
  /** Runs of each model and runtime after three that warm up. Default 25. */
  readonly runs?: number
  /** Threads of either runtime. Default 1. */
  readonly threads?: number
  /** Ends early, after at least five rounds, once so many milliseconds are spent. Default 20000. */
  readonly budget?: number
  readonly signal?: AbortSignal
}

interface Side {
  readonly timed: Timed
  readonly runtime: string
  readonly times: number[]
  run(): Promise<unknown>
  close(): unknown
}

/** onnxruntime takes models up to 2 GB as bytes. */
const kMostBytes = 1.5e9

/**
 * Times models in {@link Session} and, where it is installed, in onnxruntime-node: one run of each in turn, round by round,
 * so that what else the machine does falls on all alike; medians. What one of them refuses to run is left to the other.
 *
 * @param inputs as `Session.run` takes them
 * @throws {WhittleError} `ERR_ABORTED`, `ERR_RANGE`, `ERR_DTYPE`, and what `Session` throws
 */
export async function measureLatency(models: readonly Timed[], inputs: Inputs, options?: LatencyOptions): Promise<Measurement[]> {
  const o = checkOptions(options, 'options', ['runs', 'threads', 'budget', 'signal'])
  const runs = o.runs === undefined ? 25 : integer(o.runs, 'options.runs', 1)
  const threads = o.threads === undefined ? 1 : integer(o.threads, 'options.threads', 1, 256)
  const budget = o.budget === undefined ? 20_000 : integer(o.budget, 'options.budget', 1)
  const signal = o.signal as AbortSignal | undefined
  if (!Array.isArray(models) || models.length === 0) fail('ERR_DTYPE', 'models', 'a list of { label, model }', models)
  const sides: Side[] = []
  try {
    const runtime = onnxruntimeNode()
    for (const timed of models) {
      const own = await native(timed, inputs, threads)
      if (!(own instanceof Error)) sides.push(own)
      const other = runtime && timed.model.byteLength() < kMostBytes ? await foreign(runtime, timed, inputs, threads) : undefined
      if (other) sides.push(other)
      else if (own instanceof Error) throw own
    }
    const start = performance.now()
    for (let round = -3; round < runs && (round < 5 || performance.now() - start < budget); round++)
      for (const side of sides) {
        if (signal?.aborted) throw new WhittleError('ERR_ABORTED', 'options.signal', 'options.signal: aborted', { cause: signal.reason })
        const began = performance.now()
        await side.run()
        if (round >= 0) side.times.push(performance.now() - began)
      }
  } finally {
    for (const side of sides) await side.close()
  }
  return sides.map(({ timed, runtime, times }) => ({
    label: timed.label,
    runtime,
    bytes: timed.model.byteLength(),
    latency: medianOf(times),
    ...(timed.accuracy === undefined ? {} : { accuracy: timed.accuracy }),
    ...(timed.reference ? { reference: true } : {}),
  }))
}

interface Runtime {
  readonly InferenceSession: { create(model: Uint8Array | string, options: object): Promise<{ run(feeds: object): Promise<object>; release(): Promise<void> }> }
  readonly Tensor: new (type: string, data: unknown, dims: readonly number[]) => object
}

/** @internal onnxruntime-node as the user's folder or this package has it, `undefined` where neither does. */
export function onnxruntimeNode(): Runtime | undefined {
  for (const from of [path.join(process.cwd(), 'package.json'), __filename])
    try {
      return createRequire(from)('onnxruntime-node') as Runtime
    } catch {
      continue
    }
  return undefined
}

/** A side, or why sessions cannot run the model. */
async function native(timed: Timed, inputs: Inputs, threads: number): Promise<Side | Error> {
  let session: Session | undefined
  try {
    session = await Session.create(timed.model, { threads })
    await session.run(inputs)
  } catch (error) {
    session?.dispose()
    if (!(error instanceof WhittleError) || error.code !== 'ERR_UNSUPPORTED_OP') throw error
    return error
  }
  const made = session
  return { timed, runtime: 'Session', times: [], run: () => made.run(inputs), close: () => made.dispose() }
}

async function foreign(runtime: Runtime, timed: Timed, inputs: Inputs, threads: number): Promise<Side | undefined> {
  try {
    const session = await runtime.InferenceSession.create(timed.model.toBytes(), {
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      logSeverityLevel: 4,
      // Its threads do not spin into the other side's runs.
      extra: { session: { force_spinning_stop: '1' } },
    })
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([name, value]) => {
        const dims = timed.model.inputs.find((i) => i.name === name)?.dims
        const t: TensorLike = ArrayBuffer.isView(value) ? { type: 'float32', dims: (dims ?? []) as number[], data: value } : value
        return [name, new runtime.Tensor(t.type, t.data, t.dims)]
      }),
    )
    await session.run(feeds)
    return { timed, runtime: 'onnxruntime-node', times: [], run: () => session.run(feeds), close: () => session.release() }
  } catch {
    return undefined
  }
}
