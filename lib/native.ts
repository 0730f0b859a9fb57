import * as fs from 'node:fs'
import * as path from 'node:path'
import { WhittleError, type WhittleErrorCode } from './errors'

/** @internal What the addon knows about this machine. */
export interface SystemInfo {
  readonly variant: string
  readonly forced: boolean
  readonly error: string | null
  readonly tiers: readonly { readonly name: string; readonly supported: boolean; readonly missing: string }[]
  readonly kernels: Readonly<Record<string, string>>
  readonly caches: { readonly l1d: number; readonly l2: number; readonly l3: number }
  readonly threads: number
  readonly availableThreads: number
  readonly threadsError: string | null
}

/**
 * @internal The addon's exports. Each family declares its own calls beside its wrapper by declaration merging:
 * `declare module '../native' { interface NativeBinding { … } }`. Kernels answer a status (0 is success), their
 * `…Async` twins a promise of one.
 */
export interface NativeBinding {
  systemInfo(): SystemInfo
  setThreads(n: number): number
  /** Whether two typed arrays have memory in common, whatever buffers they name. */
  memoryOverlaps(a: ArrayBufferView, b: ArrayBufferView): boolean
  /**
   * Numbers of the next call, for those that take many: filled after the last value of the caller's has been read (a
   * getter may make a call of its own), read by the addon before the call returns.
   */
  readonly numbers: Float64Array
}

let binding: NativeBinding | undefined

/**
 * @internal Opens the addon at the first call that needs it. A bad `WHITTLE_CPU` or `WHITTLE_THREADS` is an error here,
 * so that no kernel runs under a setting that was not understood.
 */
export function native(): NativeBinding {
  if (binding) return binding
  const loaded = load()
  const info = loaded.systemInfo()
  if (info.error) throw new WhittleError('ERR_DEVICE', 'WHITTLE_CPU', info.error)
  if (info.threadsError) throw new WhittleError('ERR_RANGE', 'WHITTLE_THREADS', info.threadsError)
  return (binding = loaded)
}

function load(): NativeBinding {
  // The package's root, found by its package.json: this file runs from lib/, dist/ and the tools' build.
  let root = path.dirname(__dirname)
  while (!fs.existsSync(path.join(root, 'package.json')) && path.dirname(root) !== root) root = path.dirname(root)
  try {
    const nodeGypBuild = require('node-gyp-build') as (dir: string) => unknown
    return nodeGypBuild(root) as NativeBinding
  } catch (cause) {
    throw new WhittleError(
      'ERR_DEVICE',
      '',
      `whittle-ml: the native addon cannot be loaded on ${process.platform}-${process.arch}. ` +
        `Run "npm rebuild whittle-ml" (it needs a C++17 compiler and CMake), or install with scripts enabled. ` +
        `Cause: ${cause instanceof Error ? cause.message.split('\n')[0] : String(cause)}`,
      { cause },
    )
  }
}

// core/status.h
const kStatus: readonly (readonly [WhittleErrorCode, string])[] = [
  ['ERR_RANGE', ''],
  ['ERR_SHAPE', 'shapes that do not fit'],
  ['ERR_DTYPE', 'arguments of an unexpected type'],
  ['ERR_RANGE', 'a value out of range'],
  ['ERR_DEVICE', 'no such device here'],
  ['ERR_OUT_OF_MEMORY', 'out of memory'],
  ['ERR_HANDLE', 'a handle that is disposed or foreign'],
  ['ERR_ABORTED', 'aborted'],
  ['ERR_RANGE', 'expected finite numbers, found NaN or infinity'],
]

/** @internal Throws for any status but 0. `parameter` names what the caller would look at first. */
export function check(status: number, parameter: string): void {
  if (status === 0) return
  const [code, text] = kStatus[status] ?? (['ERR_DEVICE', `native status ${status}`] as const)
  throw new WhittleError(code, parameter, `${parameter}: ${text}`)
}
