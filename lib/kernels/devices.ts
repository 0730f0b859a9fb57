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
    /** Why not, for programs; `'ready'` where it is available. */
    readonly state: CudaState
    /** Why not, in words; `''` where it is available. */
    readonly reason: string
    /** The shared library that was opened or looked for, `''` where none was. */
    readonly file: string
    /** True for a library that runs the kernels on this CPU, as tests do. */
    readonly emulated: boolean
    /** CUDA versions of the driver and of the library's runtime, such as `13.0`; `''` where unknown. */
    readonly driver: string
    readonly runtime: string
    readonly devices: readonly CudaDevice[]
  }
}

/** Why there is no GPU to compute on. */
export type CudaState =
  | 'ready'
  | 'hidden'
  | 'platform'
  | 'library-missing'
  | 'library-broken'
  | 'library-version'
  | 'no-driver'
  | 'driver-too-old'
  | 'no-device'
  | 'failed'

/** One GPU. */
export interface CudaDevice {
  /** What functions take as a device: `cuda:0`. */
  readonly id: string
  readonly name: string
  /** Compute capability, such as `8.0`. */
  readonly capability: string
  readonly multiprocessors: number
  /** Bytes. */
  readonly memory: number
}

/** @internal One of NVIDIA's libraries, which the package neither links nor brings along. */
export interface CudaLibrary {
  /** With its major version, such as `libcublasLt.so.13`. */
  readonly name: string
  /** The functions that go through it. */
  readonly serves: string
  /** The file, `''` where it cannot be had. */
  readonly path: string
  /** Why not; or the last call that it refused and that own kernels answered; or `''`. */
  readonly reason: string
}

interface CudaInfo {
  readonly state: number
  readonly file: string
  readonly text: string
  readonly driver: number
  readonly runtime: number
  readonly emulated: boolean
  readonly devices: readonly { name: string; major: number; minor: number; multiprocessors: number; memory: number }[]
}

declare module '../native' {
  interface NativeBinding {
    /** Opens the CUDA library at the first call; the same answer for the life of the process. */
    cudaInfo(): CudaInfo
    cudaLibraries(): readonly CudaLibrary[]
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
    cuda: cudaDevices(),
  }
}

// core/cuda.h
const kStates: readonly CudaState[] = [
  'ready', 'hidden', 'platform', 'library-missing', 'library-broken', 'library-version', 'no-driver', 'driver-too-old', 'no-device', 'failed',
] // prettier-ignore

const versionOf = (v: number): string => (v > 0 ? `${Math.floor(v / 1000)}.${Math.floor((v % 1000) / 10)}` : '')

/** @internal The GPUs, or why there is none. */
export function cudaDevices(): Devices['cuda'] {
  const hide = process.env['WHITTLE_CUDA']
  if (hide !== undefined && hide !== '' && hide !== '0' && hide !== '1')
    throw new WhittleError('ERR_RANGE', 'WHITTLE_CUDA', `WHITTLE_CUDA: expected 0 or 1, got ${JSON.stringify(hide)}`)
  const info = native().cudaInfo()
  const state = kStates[info.state] ?? 'failed'
  return {
    available: state === 'ready',
    state,
    reason: reasonOf(state, info),
    file: info.file,
    emulated: info.emulated,
    driver: versionOf(info.driver),
    runtime: versionOf(info.runtime),
    devices: info.devices.map((d, i) => ({
      id: `cuda:${i}`,
      name: d.name,
      capability: `${d.major}.${d.minor}`,
      multiprocessors: d.multiprocessors,
      memory: d.memory,
    })),
  }
}

/** @internal What there is of NVIDIA's libraries: opens them to say so, none where there is no GPU. */
export const cudaLibraries = (): readonly CudaLibrary[] => native().cudaLibraries()

function reasonOf(state: CudaState, { file, text, driver, runtime }: CudaInfo): string {
  const words = text ? `: ${text}` : ''
  switch (state) {
    case 'ready':
      return ''
    case 'hidden':
      return 'hidden by WHITTLE_CUDA=0'
    case 'platform':
      return `there is no CUDA backend for ${process.platform}`
    case 'library-missing':
      return `the CUDA backend was not built: no ${file || 'whittle_cuda.so'}${words} (npm run build:cuda in a checkout makes it)`
    case 'library-broken':
      return `${file} cannot be loaded${words}`
    case 'library-version':
      return `${file} is of another version of whittle-ml${words}`
    case 'no-driver':
      return 'no NVIDIA driver is installed'
    case 'driver-too-old':
      return `the NVIDIA driver speaks CUDA ${versionOf(driver)}, the backend needs ${versionOf(runtime)}: install a newer driver`
    case 'no-device':
      return `the NVIDIA driver finds no GPU${words}`
    case 'failed':
      return `the CUDA runtime fails${words}`
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
