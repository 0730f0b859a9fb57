import { spawnSync } from 'node:child_process'
import * as os from 'node:os'
import * as path from 'node:path'
import { OneDnn, type OneDnnSpec } from '../rivals/onednn'
import { OnnxRuntimeNode, type OnnxSpec } from '../rivals/onnxruntime'
import { Python, type PythonSpec } from '../rivals/python'
import type { Bound, Numbers, Rival } from './types'

/** The repository: this file runs from build/tools/bench/harness. */
export const root = path.resolve(__dirname, '..', '..', '..', '..')

/** Rates measured in this run; bandwidths in GB/s, arithmetic in G operations/s (a multiply-add is two). */
export type Peaks = Readonly<Record<string, number>>

/** What a case's `prepare` is given: threads, random inputs, rivals, limits. */
export class Bench {
  readonly peaks: Peaks
  private readonly python: Python
  private readonly ort: OnnxRuntimeNode
  private readonly dnn: OneDnn
  private state = 0x9e3779b9

  constructor(
    readonly threads: number,
    /** Keep to a time budget: rivals slower than 200 ms are dropped. */
    readonly quick: boolean,
  ) {
    this.peaks = measurePeaks(threads)
    this.python = new Python(root, threads)
    this.ort = new OnnxRuntimeNode(root, threads)
    this.dnn = new OneDnn(root, threads)
  }

  /** Restarts the random numbers, so that a case sees the same inputs whatever ran before it. */
  seed(text: string): void {
    this.state = 0x811c9dc5
    for (let i = 0; i < text.length; i++) this.state = Math.imul(this.state ^ text.charCodeAt(i), 16777619) | 1
  }

  private next(): number {
    let x = this.state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (this.state = x) >>> 0
  }

  /** Standard normal numbers. */
  normal(count: number, scale = 1): Float32Array {
    const out = new Float32Array(count)
    for (let i = 0; i < count; i += 2) {
      const r = scale * Math.sqrt(-2 * Math.log((this.next() + 1) / 4294967297))
      const a = (this.next() / 4294967296) * 2 * Math.PI
      out[i] = r * Math.cos(a)
      if (i + 1 < count) out[i + 1] = r * Math.sin(a)
    }
    return out
  }

  uniform(count: number, low = 0, high = 1): Float32Array {
    const out = new Float32Array(count)
    for (let i = 0; i < count; i++) out[i] = low + ((high - low) * this.next()) / 4294967296
    return out
  }

  /** Integers over the whole range of the type, zero included but never alone. */
  int8(count: number): Int8Array {
    const out = new Int8Array(count)
    for (let i = 0; i < count; i++) out[i] = this.next() >>> 24
    return out
  }

  uint8(count: number): Uint8Array {
    const out = new Uint8Array(count)
    for (let i = 0; i < count; i++) out[i] = this.next() >>> 24
    return out
  }

  /** A plain JavaScript loop. */
  js(run: () => unknown, result?: () => Numbers): Rival {
    return result ? { name: 'js', run, result } : { name: 'js', run }
  }

  /** A model in onnxruntime-node, `run` from feeds to fetched results. */
  onnx(spec: OnnxSpec): Promise<Rival> {
    return this.ort.rival(spec)
  }

  /** oneDNN of its own, an int8 product with packed weights. */
  onednn(spec: OneDnnSpec): Promise<Rival> {
    return this.dnn.rival(spec)
  }

  /** Python code in a child process, timed inside it. */
  rival(name: 'torch' | 'numpy' | 'scipy' | 'onnxruntime', spec: PythonSpec): Promise<Rival> {
    return this.python.rival(name, spec)
  }

  /** A rival that cannot be had. */
  missing(name: Rival['name'], why: string): Rival {
    return { name, why }
  }

  /** The time that main memory needs for these bytes. Written bytes count once: streaming stores read nothing first. */
  dram(bytes: { read?: number; write?: number }): Bound {
    const read = bytes.read ?? 0
    const write = bytes.write ?? 0
    const rate = write === 0 ? this.peaks.dram_read : Math.max(this.peaks.dram_read ?? 0, this.peaks.dram_copy ?? 0)
    if (!rate) throw new Error('the peak meter gave no bandwidth')
    const total = read + write
    return { name: `dram ${(total / 1e6).toFixed(1)} MB at ${rate.toFixed(1)} GB/s`, ms: total / rate / 1e6 }
  }

  /** The time that `operations` need at the peak named as in `peaks` (`f32_avx512`, `s8_avx512vnni`, …). */
  arithmetic(peak: string, operations: number): Bound {
    const rate = this.peaks[peak]
    if (!rate) return { name: `${peak} (not on this machine)`, ms: NaN }
    return { name: `${peak} ${rate.toFixed(0)} GOP/s`, ms: operations / rate / 1e6 }
  }

  /** The later of several limits. */
  latest(...bounds: Bound[]): Bound {
    return bounds.reduce((a, b) => (b.ms > a.ms ? b : a))
  }

  async versions(): Promise<Record<string, string>> {
    return { node: process.version, 'onnxruntime-node': this.ort.version(), onednn: await this.dnn.version(), ...(await this.python.versions()) }
  }

  async close(): Promise<void> {
    await this.python.close()
    await this.dnn.close()
  }
}

function measurePeaks(threads: number): Peaks {
  const exe = path.join(root, 'build', 'bench', os.platform() === 'win32' ? 'Release/peak.exe' : 'peak')
  const r = spawnSync(exe, [String(threads)], { encoding: 'utf8' })
  if (r.status !== 0) throw new Error(`peak meter: ${r.error?.message ?? r.stderr}`)
  return JSON.parse(r.stdout) as Peaks
}

/** Equal, element by element; says the first difference. */
export function equal(ours: Numbers, theirs: Numbers): string | null {
  if (ours.length !== theirs.length) return `${ours.length} elements, rival has ${theirs.length}`
  for (let i = 0; i < ours.length; i++) {
    const a = ours[i]
    const b = theirs[i]
    if (a !== b && Number(a) !== Number(b)) return `element ${i}: ${a}, rival has ${b}`
  }
  return null
}

/**
 * Close, element by element: |a - b| <= atol + rtol * |b|. `share` is the part of elements that may still differ, by no
 * more than `step` (a neighbouring code where two definitions round a tie apart).
 */
export function close(limits: { atol?: number; rtol?: number; share?: number; step?: number }) {
  return (ours: Numbers, theirs: Numbers): string | null => {
    if (ours.length !== theirs.length) return `${ours.length} elements, rival has ${theirs.length}`
    let off = 0
    let first = ''
    for (let i = 0; i < ours.length; i++) {
      const a = Number(ours[i])
      const b = Number(theirs[i])
      const d = Math.abs(a - b)
      if (d <= (limits.atol ?? 0) + (limits.rtol ?? 0) * Math.abs(b)) continue
      if (!(d <= (limits.step ?? 0))) return `element ${i}: ${a}, rival has ${b}`
      first ||= `element ${i}: ${a}, rival has ${b}`
      off++
    }
    return off > (limits.share ?? 0) * ours.length ? `${off} of ${ours.length} differ: ${first}` : null
  }
}

/** Close relative to the rival's largest magnitude, as whole models are compared. */
export function closeToLargest(rtol: number) {
  return (ours: Numbers, theirs: Numbers): string | null => {
    let top = 0
    for (let i = 0; i < theirs.length; i++) top = Math.max(top, Math.abs(Number(theirs[i])))
    return close({ atol: rtol * top })(ours, theirs)
  }
}
