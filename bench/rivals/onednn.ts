import { spawn, type ChildProcess } from 'node:child_process'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { createInterface } from 'node:readline'
import type { Rival } from '../harness/types'

/** An int8 product: a [m, k] of either sign by int8 b [k, n], packed once. */
export interface OneDnnSpec {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly a: Int8Array | Uint8Array
  readonly b: Int8Array
}

/** oneDNN in a program of its own (bench/rivals/onednn.cpp), which is built where its headers are. */
export class OneDnn {
  private child: ChildProcess | undefined
  private folder = ''
  private readonly waiting: ((line: string) => void)[] = []
  private count = 0

  constructor(
    private readonly root: string,
    private readonly threads: number,
  ) {}

  private start(): boolean {
    if (this.child) return true
    const exe = path.join(this.root, 'build', 'bench', 'onednn')
    if (!fs.existsSync(exe)) return false
    this.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-onednn-'))
    this.child = spawn(exe, [], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, OMP_NUM_THREADS: String(this.threads), OMP_WAIT_POLICY: 'passive' },
    })
    createInterface({ input: this.child.stdout as NodeJS.ReadableStream }).on('line', (line) => this.waiting.shift()?.(line))
    this.child.on('exit', (code) => {
      for (const settle of this.waiting.splice(0)) settle(`error onednn ended with ${code}`)
    })
    return true
  }

  private async ask(line: string): Promise<string> {
    const answer = await new Promise<string>((settle) => {
      this.waiting.push(settle)
      this.child?.stdin?.write(line + '\n')
    })
    if (!answer.startsWith('ok')) throw new Error(`onednn: ${answer.slice(6)}`)
    return answer.slice(3)
  }

  async version(): Promise<string> {
    return this.start() ? this.ask('version') : 'not built (Debian: libdnnl-dev)'
  }

  async rival({ m, n, k, a, b }: OneDnnSpec): Promise<Rival> {
    if (!this.start()) return { name: 'onednn', why: 'onednn is not built: it needs oneDNN 2 (Debian: libdnnl-dev)' }
    const id = ++this.count
    const files = [a, b].map((data, i) => {
      const file = path.join(this.folder, `${id}-${i}`)
      fs.writeFileSync(file, new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength))
      return file
    })
    try {
      await this.ask(`prepare ${id} ${m} ${n} ${k} ${a instanceof Int8Array ? 1 : 0} ${files.join(' ')}`)
    } catch (e) {
      return { name: 'onednn', why: (e as Error).message }
    } finally {
      for (const file of files) fs.rmSync(file, { force: true })
    }
    return {
      name: 'onednn',
      selfTimed: true,
      run: async (repeats) => Number(await this.ask(`run ${id} ${repeats}`)),
      result: async () => {
        const file = path.join(this.folder, `${id}-result`)
        await this.ask(`result ${id} ${file}`)
        const bytes = fs.readFileSync(file)
        fs.rmSync(file, { force: true })
        return new Int32Array(new Uint8Array(bytes).buffer)
      },
      dispose: () => this.ask(`drop ${id}`),
    }
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
