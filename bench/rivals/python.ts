import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { createInterface } from 'node:readline'
import type { Numbers, Rival } from '../harness/types'
import { encodeOnnx, type OnnxModel } from './onnx'

type Array_ =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array

export interface PythonSpec {
  /** Arrays that the code sees as numpy arrays under these names, with these dims. */
  readonly inputs?: Readonly<Record<string, { readonly data: Array_; readonly dims: readonly number[] }>>
  /** Statements run once, untimed. `np`, `torch`, `scipy`, `ort`, `threads` and the inputs are in scope. */
  readonly setup?: string
  /** Statements that are timed. */
  readonly op: string
  /** An expression for the result (a numpy array), evaluated after `op`. Absent: results are not compared. */
  readonly result?: string
  readonly incomparable?: string
  /** For `onnxruntime`: a model that the code sees as a ready session named `session`. */
  readonly model?: OnnxModel | Uint8Array
}

const kDtypes: Record<string, string> = {
  Float32Array: 'float32',
  Float64Array: 'float64',
  Int8Array: 'int8',
  Uint8Array: 'uint8',
  Int16Array: 'int16',
  Uint16Array: 'uint16',
  Int32Array: 'int32',
  Uint32Array: 'uint32',
  BigInt64Array: 'int64',
}

const kArrays = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
}

interface Reply {
  ok: boolean
  error?: string
  ms?: number
  file?: string
  dtype?: keyof typeof kArrays
  versions?: Record<string, string>
}

/** A child process that runs Python's rivals: JSON lines over its pipes, arrays as raw files. */
export class Python {
  private child: ChildProcess | undefined
  private folder = ''
  private started: Promise<Record<string, string>> | undefined
  private readonly waiting: ((r: Reply) => void)[] = []
  private count = 0

  constructor(
    private readonly root: string,
    private readonly threads: number,
  ) {}

  private interpreter(): string {
    const venv = path.join(this.root, 'bench', 'rivals', 'venv')
    const own = [path.join(venv, 'bin', 'python'), path.join(venv, 'Scripts', 'python.exe')]
    return process.env.WHITTLE_BENCH_PYTHON ?? own.find((p) => fs.existsSync(p)) ?? 'python3'
  }

  /** Starts the child once, however many cases ask at the same time. */
  private start(): Promise<Record<string, string>> {
    return (this.started ??= this.spawn())
  }

  private async spawn(): Promise<Record<string, string>> {
    const python = this.interpreter()
    if (spawnSync(python, ['--version']).status !== 0) return {}
    const n = String(this.threads)
    this.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-bench-'))
    this.child = spawn(python, [path.join(this.root, 'bench', 'rivals', 'server.py')], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: {
        ...process.env,
        OMP_NUM_THREADS: n,
        MKL_NUM_THREADS: n,
        OPENBLAS_NUM_THREADS: n,
        WHITTLE_BENCH_THREADS: n,
      },
    })
    createInterface({ input: this.child.stdout as NodeJS.ReadableStream }).on('line', (line) =>
      this.waiting.shift()?.(JSON.parse(line) as Reply),
    )
    this.child.on('exit', (code) => {
      for (const settle of this.waiting.splice(0)) settle({ ok: false, error: `python ended with ${code}` })
    })
    return (await this.ask({ do: 'versions' })).versions ?? {}
  }

  private ask(message: object): Promise<Reply> {
    return new Promise((settle) => {
      this.waiting.push(settle)
      this.child?.stdin?.write(JSON.stringify(message) + '\n')
    })
  }

  async versions(): Promise<Record<string, string>> {
    return this.start()
  }

  async rival(name: 'torch' | 'numpy' | 'scipy' | 'onnxruntime', spec: PythonSpec): Promise<Rival> {
    const versions = await this.start()
    if (!versions.numpy || !versions[name]) return { name, why: `${name} is not installed: npm run bench:rivals` }
    const id = ++this.count
    const inputs: Record<string, object> = {}
    for (const [key, { data, dims }] of Object.entries(spec.inputs ?? {})) {
      const file = path.join(this.folder, `${id}-${key}`)
      fs.writeFileSync(file, new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength))
      inputs[key] = { file, dims, dtype: kDtypes[Object.prototype.toString.call(data).slice(8, -1)] }
    }
    let model: string | undefined
    if (spec.model) {
      model = path.join(this.folder, `${id}.onnx`)
      fs.writeFileSync(model, ArrayBuffer.isView(spec.model) ? spec.model : encodeOnnx(spec.model))
    }
    const made = await this.ask({
      do: 'prepare',
      id,
      uses: name,
      inputs,
      model,
      setup: spec.setup ?? '',
      op: spec.op,
      result: spec.result ?? '',
    })
    for (const key of Object.keys(inputs)) fs.rmSync(path.join(this.folder, `${id}-${key}`), { force: true })
    if (!made.ok) return { name, why: `${name}: ${made.error}` }
    return {
      name,
      selfTimed: true,
      run: async (repeats) => {
        const r = await this.ask({ do: 'run', id, repeats })
        if (!r.ok) throw new Error(`${name}: ${r.error}`)
        return r.ms
      },
      ...(spec.result ? { result: () => this.result(name, id) } : {}),
      ...(spec.incomparable ? { incomparable: spec.incomparable } : {}),
      dispose: () => this.ask({ do: 'drop', id }),
    }
  }

  private async result(name: string, id: number): Promise<Numbers> {
    const file = path.join(this.folder, `${id}-result`)
    const r = await this.ask({ do: 'result', id, file })
    if (!r.ok || !r.dtype) throw new Error(`${name}: ${r.error}`)
    const bytes = fs.readFileSync(file)
    fs.rmSync(file, { force: true })
    const copy = new Uint8Array(bytes.length)
    copy.set(bytes)
    return new kArrays[r.dtype](copy.buffer) as Numbers
  }

  async close(): Promise<void> {
    const { child } = this
    if (child) {
      const ended = new Promise((done) => child.on('exit', done))
      child.stdin?.end()
      await ended
    }
    if (this.folder) fs.rmSync(this.folder, { recursive: true, force: true })
  }
}
