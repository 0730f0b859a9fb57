// Results of other people's software (test/fixtures/<family>.{json,safetensors}) and the comparison that they define.
// The safetensors reader is this file's own, so that it stays independent of the one in lib/.
import * as fs from 'node:fs'
import * as path from 'node:path'

export type FixtureArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array

export interface FixtureTensor {
  readonly dtype: string
  readonly dims: number[]
  readonly data: FixtureArray
}

interface Tolerance {
  readonly abs: number
  readonly rel: number
}

interface ManifestCase {
  readonly name: string
  readonly formula: string
  readonly parameters: Record<string, unknown>
  readonly inputs: string[]
  readonly outputs: string[]
  readonly tolerance: Tolerance & { reason?: string; outputs?: Record<string, Tolerance> }
  readonly source: string
  readonly note?: string
}

const kArrays = {
  F32: Float32Array,
  F64: Float64Array,
  I8: Int8Array,
  U8: Uint8Array,
  I16: Int16Array,
  U16: Uint16Array,
  I32: Int32Array,
} as const

function readTensors(file: string): Map<string, FixtureTensor> {
  const bytes = fs.readFileSync(file)
  const length = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: keyof typeof kArrays; shape: number[]; data_offsets: [number, number] }
  >
  const tensors = new Map<string, FixtureTensor>()
  delete header.__metadata__
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    const [from, to] = data_offsets
    const own = new Uint8Array(bytes.subarray(8 + length + from, 8 + length + to)) // a copy: aligned, from offset 0
    tensors.set(name, { dtype, dims: shape, data: new kArrays[dtype](own.buffer as ArrayBuffer) })
  }
  return tensors
}

/** One case: inputs and wanted outputs by role, and the check of a result against its tolerance. */
export class FixtureCase {
  readonly name: string
  readonly parameters: Record<string, any>
  readonly formula: string

  constructor(
    private readonly manifest: ManifestCase,
    private readonly tensors: Map<string, FixtureTensor>,
  ) {
    this.name = manifest.name
    this.parameters = manifest.parameters
    this.formula = manifest.formula
  }

  /** Roles of the outputs, such as `['q', 'y']`. */
  get roles(): string[] {
    return this.manifest.outputs.map((name) => name.slice(this.name.length + 1))
  }

  has(role: string): boolean {
    return this.tensors.has(`${this.name}.${role}`)
  }

  /** An input or a wanted output. */
  tensor(role: string): FixtureTensor {
    const found = this.tensors.get(`${this.name}.${role}`)
    if (!found) throw new Error(`fixture ${this.name} has no tensor '${role}'`)
    return found
  }

  tolerance(role: string): Tolerance {
    return this.manifest.tolerance.outputs?.[`${this.name}.${role}`] ?? this.manifest.tolerance
  }

  /** Throws unless |got − want| ≤ abs + rel·|want| for every element. */
  check(role: string, got: ArrayLike<number>): void {
    if (!this.roles.includes(role)) throw new Error(`fixture ${this.name}: '${role}' is not an output`)
    const want = this.tensor(role).data
    const { abs, rel } = this.tolerance(role)
    if (got.length !== want.length) throw new Error(`${this.name}.${role}: ${got.length} elements, want ${want.length}`)
    for (let i = 0; i < want.length; i++) {
      const g = got[i] as number
      const w = want[i] as number
      // Written so that a NaN fails.
      if (g === w || Math.abs(g - w) <= abs + rel * Math.abs(w)) continue
      throw new Error(`${this.name}.${role}[${i}]: got ${g}, want ${w} ± ${abs + rel * Math.abs(w)}`)
    }
  }
}

/** All cases of a family, in the manifest's order; with `pattern` those whose name matches (at least one must). */
export function fixtures(family: string, pattern?: RegExp): FixtureCase[] {
  const folder = path.join(__dirname, '..', 'fixtures')
  const manifest = JSON.parse(fs.readFileSync(path.join(folder, `${family}.json`), 'utf8')) as { file: string; cases: ManifestCase[] }
  const tensors = readTensors(path.join(folder, manifest.file))
  const cases = manifest.cases.map((c) => new FixtureCase(c, tensors)).filter((c) => !pattern || pattern.test(c.name))
  if (cases.length === 0) throw new Error(`no fixture of ${family} matches ${pattern}`)
  return cases
}
