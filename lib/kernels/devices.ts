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
 * `ERR_RANGE` if `WHITTLE_THREADS` is not an integer from 1 to 256.
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
    cuda: { available: false, reason: 'this version has no CUDA backend yet' },
  }
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
