// The PTX that nvcc emits from cuda/*.cu with the flags of the real build (cuda/CMakeLists.txt). WHITTLE_NVCC names nvcc,
// WHITTLE_CUDA_OBJECTS the folder of that build's objects; scripts/cuda.cjs sets them.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse, type Module } from './parse'
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { read } = require('../../../scripts/cubin.cjs') as { read: (file: string) => { ptx: string } }

const root = join(__dirname, '..', '..', '..')
const folder = join(root, 'build', 'cuda-ptx')
export const nvcc = process.env['WHITTLE_NVCC'] ?? ''

/** One edit of one file under cuda/, for the copy that is compiled. */
export interface Edit {
  file: string
  find: string
  replace: string
  occurrence?: number
}

const sources = (): string[] => readdirSync(join(root, 'cuda')).filter((f) => /\.(cu|h)$/.test(f))

/** What decides the PTX: the sources, headers of the CPU that kernels include, and how nvcc is called. */
function digest(edit: Edit | undefined, stem: string): string {
  const hash = createHash('sha256').update(`${stem} ${nvcc} ${JSON.stringify(edit)} 1`)
  for (const f of sources().filter((f) => f === `${stem}.cu` || f.endsWith('.h')))
    hash.update(readFileSync(join(root, 'cuda', f)))
  for (const dir of ['core', 'cpu/common', 'cpu/gemm'])
    for (const f of readdirSync(join(root, dir)).filter((f) => f.endsWith('.h')))
      hash.update(readFileSync(join(root, dir, f)))
  return hash.digest('hex').slice(0, 16)
}

function edited(edit: Edit): string {
  const source = readFileSync(join(root, 'cuda', edit.file), 'utf8')
  const parts = source.split(edit.find)
  const at = edit.occurrence ?? 1
  if (parts.length <= at || (edit.occurrence === undefined && parts.length !== 2))
    throw new Error(`${parts.length - 1} places of ${JSON.stringify(edit.find)} in cuda/${edit.file}`)
  return parts.slice(0, at).join(edit.find) + edit.replace + parts.slice(at).join(edit.find)
}

/** Objects of the real build, made just before: they hold the same PTX, and nvcc need not run again. */
export const objects = process.env['WHITTLE_CUDA_OBJECTS'] ?? ''

/** The module of cuda/<stem>.cu, with one edit where given. Kept under build/ until something changes. */
export async function compile(stem: string, edit?: Edit): Promise<Module> {
  if (objects && !edit) {
    const { ptx } = read(join(objects, `${stem}.cu.o`))
    if (ptx) return parse(ptx)
  }
  const name = `${stem}-${digest(edit, stem)}`
  const file = join(folder, `${name}.ptx`)
  if (!existsSync(file)) {
    mkdirSync(folder, { recursive: true })
    for (const old of readdirSync(folder))
      if (!edit && old.startsWith(`${stem}-`) && old.endsWith('.ptx')) rmSync(join(folder, old), { force: true })
    // A copy beside which `cuda/...` is found first; all else comes from the repository.
    const copy = join(folder, name)
    if (edit) {
      mkdirSync(join(copy, 'cuda'), { recursive: true })
      for (const f of sources())
        writeFileSync(join(copy, 'cuda', f), f === edit.file ? edited(edit) : readFileSync(join(root, 'cuda', f)))
    }
    const from = edit ? copy : root
    const list = [
      '-ptx',
      '-arch=sm_80',
      '-std=c++17',
      '--fmad=false',
      `-I${from}`,
      `-I${root}`,
      '-o',
      `${file}.part`,
      join(from, 'cuda', `${stem}.cu`),
    ]
    await new Promise<void>((resolve, reject) => {
      const child = spawn(nvcc, list, { stdio: ['ignore', 'pipe', 'pipe'] })
      let said = ''
      for (const s of [child.stdout, child.stderr]) s.on('data', (d) => (said += String(d)))
      child.on('error', reject)
      child.on('close', (code) => (code === 0 ? resolve() : reject(new Error(`nvcc ${list.join(' ')}\n${said}`))))
    })
    if (edit) rmSync(copy, { recursive: true, force: true })
    writeFileSync(file, readFileSync(`${file}.part`))
    rmSync(`${file}.part`)
  }
  return parse(readFileSync(file, 'utf8'))
}
