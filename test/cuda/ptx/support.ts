// What the specs of interpreted kernels share: numbers, comparisons, bounds of requests, and the count of what ran.
import { compile } from './compile'
import { Runner, type Modules } from './launches'
import type { Schedule } from './machine'
import type { Module } from './parse'

export const kBlock = 256
export const full = process.env['WHITTLE_PTX_FULL'] === '1'
export const schedules: readonly Schedule[] = full
  ? [{}, { order: 'reversed', approximate: -1 }, { order: 'random', seed: 3, approximate: 1 }]
  : [{ order: 'random', seed: 3, approximate: 1 }]

export function normals(seed: number, n: number): Float32Array {
  let state = seed
  const uniform = () => ((state = (state * 1103515245 + 12345) % 2 ** 31) + 0.5) / 2 ** 31
  return Float32Array.from({ length: n }, () => 3 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()))
}

export type Device = ReturnType<Runner['open']>

/** Kernels of some files, and which of them have run. */
export class Files {
  readonly modules = new Map<string, Module>()
  readonly ran = new Set<string>()
  async compile(...stems: string[]): Promise<void> {
    await Promise.all(stems.map(async (s) => this.modules.set(s, await compile(s))))
  }
  runner(schedule: Schedule = {}): Runner {
    return new Runner(Object.fromEntries(this.modules) as Modules, schedule)
  }
  open(r: Runner, stem: string): Device {
    const device = r.open(stem as never)
    return { ...device, launch: (name, ...rest) => (this.ran.add(name), device.launch(name, ...rest)) }
  }
  /** Kernels with inline assembly that have not run. */
  missing(): string[] {
    return [...this.modules.values()].flatMap((m) => [...m.kernels.values()]).filter((k) => k.assembly && !this.ran.has(k.name)).map((k) => k.name)
  }
}

export function expectNear(got: ArrayLike<number>, want: ArrayLike<number>, bound: number): void {
  expect(got.length).toBe(want.length)
  for (let i = 0; i < want.length; i++) {
    const [g, w] = [got[i] as number, want[i] as number]
    if (!(Math.abs(g - w) <= bound * Math.max(1, Math.abs(w)))) throw new Error(`[${i}] is ${g}, want ${w} within ${bound}`)
  }
}

/** Cells of the ledger: sectors (or bank passes) over the least. */
export function expectBusy(r: Runner, kernel: string, global: number, shared = 1): void {
  for (const [space, bound] of [['global', global], ['shared', shared]] as const) {
    const t = r.ledger.traffic(kernel, space)
    if (t.requests > 0) expect([kernel, space, t.units / t.ideal <= bound, t.units / t.ideal]).toEqual([kernel, space, true, expect.anything()])
  }
}

/** Gram matrix and inverse distances of points in three dimensions. */
export function points(seed: number, n: number): { gram: Float64Array; inverse: Float64Array } {
  const x = normals(seed, 3 * n)
  const gram = Float64Array.from({ length: n * n }, (_, at) => [0, 1, 2].reduce((sum, d) => sum + (x[3 * Math.floor(at / n) + d] as number) * (x[3 * (at % n) + d] as number), 0))
  const g = (i: number, j: number) => gram[i * n + j] as number
  const inverse = Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    return i === j ? 0 : 1 / Math.sqrt(g(i, i) + g(j, j) - 2 * g(i, j))
  })
  return { gram, inverse }
}
