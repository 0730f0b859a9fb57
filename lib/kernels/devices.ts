import * as fs from 'node:fs'
import { WhittleError } from '../errors'
import { check, native } from '../native'
import { integer } from '../validate'

/** What computes here, and why the rest does not. */
export interface Devices {
  readonly cpu: {
    /** Process architecture as Node names it, such as `x64`. */
    readonly arch: string
    /** The strongest tier in force, such as `avx512vnni`. */
    readonly variant: string
    /** True where `WHITTLE_CPU` chose it. */
    readonly forced: boolean
    /** Every tier, whether this CPU runs it, and what it lacks (`''` where it lacks nothing). */
    readonly tiers: readonly { readonly name: string; readonly supported: boolean; readonly missing: string }[]
    /** The tier that each kernel family resolved to. */
    readonly kernels: Readonly<Record<string, string>>
    /** Threads that calls use by default, and the most that affinity and cgroup quota grant. */
    readonly threads: number
    readonly availableThreads: number
    /** Cache sizes in bytes. */
    readonly caches: { readonly l1d: number; readonly l2: number; readonly l3: number }
  }
  readonly cuda: {
    readonly available: boolean
    /** Why not, in words; `''` where it is available. */
    readonly reason: string
  }
}

/**
 * Describes the CPU variant in use, threads and GPUs.
 *
 * @throws {WhittleError} `ERR_DEVICE` if the addon cannot be loaded or `WHITTLE_CPU` names a tier that cannot run here;
 * `ERR_RANGE` if `WHITTLE_THREADS` is not an integer from 1 to 256, or `WHITTLE_CUDA` is neither 0 nor 1.
 * @example
 * console.log(devices().cpu.variant) // 'avx2'
 */
export function devices(): Devices {
  const info = native().systemInfo()
  return {
    cpu: {
      arch: process.arch,
      variant: info.variant,
      forced: info.forced,
      tiers: info.tiers,
      kernels: info.kernels,
      threads: info.threads,
      availableThreads: info.availableThreads,
      caches: info.caches,
    },
    cuda: { available: false, reason: cudaReason() },
  }
}

function cudaReason(): string {
  const hide = process.env['WHITTLE_CUDA']
  if (hide !== undefined && hide !== '' && hide !== '0' && hide !== '1')
    throw new WhittleError('ERR_RANGE', 'WHITTLE_CUDA', `WHITTLE_CUDA: expected 0 or 1, got ${JSON.stringify(hide)}`)
  if (hide === '0') return 'hidden by WHITTLE_CUDA=0'
  const backend = 'this version of whittle-ml has no CUDA backend'
  if (process.platform !== 'linux') return backend
  // The kernel module announces itself here, with its version.
  let driver = 'no NVIDIA driver is loaded'
  try {
    const version = /Kernel Module\s+(?:for \S+\s+)?([\d.]+)/.exec(fs.readFileSync('/proc/driver/nvidia/version', 'utf8'))
    driver = `NVIDIA driver ${version?.[1] ?? ''} is loaded`
  } catch {
    // no such file: no driver
  }
  return `${backend}; ${driver}`
}

/**
 * Sets how many threads calls use by default, for the whole process.
 *
 * @param n integer from 1 to 256; the default is `WHITTLE_THREADS`, else what affinity and cgroup quota grant
 * @throws {WhittleError} `ERR_DTYPE`, `ERR_RANGE` on `n`
 */
export function setThreads(n: number): void {
  check(native().setThreads(integer(n, 'n', 1, 256)), 'n')
}
