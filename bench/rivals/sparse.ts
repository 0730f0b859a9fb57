import { spawn } from 'node:child_process'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { createInterface } from 'node:readline'
import type { Rival } from '../harness/types'

/** Sparse w [n, k], given dense, by x [k, columns]. */
export interface SparseSpec {
  readonly n: number
  readonly k: number
  readonly columns: number
  readonly w: Float32Array
  readonly x: Float32Array
}

const kPrograms = {
  eigen: 'eigen is not built: it needs Eigen 3 (Debian: libeigen3-dev)',
  libxsmm: 'libxsmm is not built: it needs its headers and library (Debian: libxsmm-dev)',
} as const

/** A library's sparse product in a program of its own (bench/rivals/eigen.cpp, xsmm.cpp), which is built where its headers are. */
export async function program(root: string, name: keyof typeof kPrograms, threads: number, spec: SparseSpec): Promise<Rival> {
  const exe = path.join(root, 'build', 'bench', name)
  if (!fs.existsSync(exe)) return { name, why: kPrograms[name] }
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), `whittle-${name}-`))
  const files = [spec.w, spec.x].map((data, i) => {
    const file = path.join(folder, String(i))
    fs.writeFileSync(file, new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength))
    return file
  })
  const child = spawn(exe, [spec.n, spec.k, spec.columns, ...files].map(String), {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, OMP_NUM_THREADS: String(threads), OMP_WAIT_POLICY: 'passive' },
  })
  const waiting: ((line: string) => void)[] = []
  createInterface({ input: child.stdout }).on('line', (line) => waiting.shift()?.(line))
  child.on('exit', (code) => {
    for (const settle of waiting.splice(0)) settle(`error ended with ${code}`)
  })
  const ask = async (line: string): Promise<string> => {
    const answer = await new Promise<string>((settle) => {
      waiting.push(settle)
      if (line) child.stdin.write(line + '\n')
    })
    if (!answer.startsWith('ok')) throw new Error(`${name}: ${answer}`)
    return answer.slice(3)
  }
  // Its first line says that the files were read.
  await ask('')
  return {
    name,
    selfTimed: true,
    run: async (repeats) => Number(await ask(`run ${repeats}`)),
    result: async () => {
      const file = path.join(folder, 'result')
      await ask(`result ${file}`)
      return new Float32Array(new Uint8Array(fs.readFileSync(file)).buffer)
    },
    dispose: async () => {
      const ended = new Promise((done) => child.on('exit', done))
      child.stdin.end()
      await ended
      fs.rmSync(folder, { recursive: true, force: true })
    },
  }
}
