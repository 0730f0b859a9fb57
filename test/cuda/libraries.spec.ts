// How NVIDIA's libraries are found, and what is said where they are not: in processes of their own, since a library is opened
// once. Runs with WHITTLE_CUDA_LIBRARY naming the emulated library: npm run test:cuda.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { cudaLibraries } from '../../lib/kernels/devices'
import '../../lib/index'

const root = join(__dirname, '..', '..')
const folder = mkdtempSync(join(tmpdir(), 'whittle-libraries-'))
afterAll(() => rmSync(folder, { recursive: true }))
const fakeSolver = process.env['WHITTLE_CUSOLVER_LIBRARY'] as string

function doctor(env: Record<string, string>, ...args: string[]): string {
  return execFileSync(process.execPath, [join(root, 'dist', 'cli', 'main.js'), 'doctor', ...args], {
    env: { ...process.env, CUDA_PATH: '', CUDA_HOME: '', VIRTUAL_ENV: '', CONDA_PREFIX: '', HOME: folder, ...env },
    encoding: 'utf8',
  })
}

/** What `whittle doctor` says of cuSOLVER, or of another library. */
function solver(env: Record<string, string>, name = 'libcusolver.'): { path: string; reason: string } {
  const { cuda } = JSON.parse(doctor(env, '--json')) as { cuda: { libraries: { name: string; path: string; reason: string }[] } }
  return cuda.libraries.find((l) => l.name.startsWith(name)) as { path: string; reason: string }
}

test('each library that is used says its file or why there is none', () => {
  const all = cudaLibraries()
  expect(all.map((l) => l.name.split('.')[0])).toEqual(['libcublasLt', 'libcusolver', 'libcusparse', 'libcusparseLt'])
  for (const l of all) expect([l.path === '', l.serves.length > 0]).toEqual([l.reason !== '', true])
  expect(all[1]?.path).toBe(fakeSolver)
})

test('toolkits and wheels are searched, a path that is given comes first', () => {
  const name = (cudaLibraries()[1] as { name: string }).name
  const toolkit = join(folder, 'toolkit', 'lib64')
  const wheel = join(folder, 'venv', 'lib', 'python3.11', 'site-packages', 'nvidia', 'cu13', 'lib')
  for (const to of [toolkit, wheel]) {
    mkdirSync(to, { recursive: true })
    copyFileSync(fakeSolver, join(to, name))
  }
  const without = { WHITTLE_CUSOLVER_LIBRARY: '' }
  expect(solver({ ...without, VIRTUAL_ENV: join(folder, 'venv') }).path).toBe(join(wheel, name))
  const both = { ...without, VIRTUAL_ENV: join(folder, 'venv'), CUDA_PATH: join(folder, 'toolkit') }
  expect(doctor(both)).toContain(`${name}: ${join(toolkit, name)} (svd, lowRank)`)
  expect(solver({ ...both, WHITTLE_CUSOLVER_LIBRARY: fakeSolver }).path).toBe(fakeSolver)
})

test('what is missing, broken, of another version or another library is said', () => {
  const { name } = cudaLibraries()[1] as { name: string }
  const old = name.replace(/\d+$/, '7')
  const other = join(folder, 'old', 'lib64')
  mkdirSync(other, { recursive: true })
  copyFileSync(fakeSolver, join(other, old))
  const reason = (env: Record<string, string>): string => {
    const { path, reason: words } = solver({ WHITTLE_CUSOLVER_LIBRARY: '', ...env })
    expect(path).toBe('')
    return words
  }
  const missing = doctor({ WHITTLE_CUSOLVER_LIBRARY: '' })
  expect(missing).toMatch(/was not found: install a CUDA toolkit, or pip install nvidia-cusolver \(svd, lowRank\)/)
  expect(reason({ CUDA_HOME: join(folder, 'old') })).toBe(`${name} was not found, only ${join(other, old)}, which is of another version: pip install nvidia-cusolver`)
  expect(reason({ WHITTLE_CUSOLVER_LIBRARY: join(other, old) })).toMatch(`is ${join(other, old)}, which is of another version`)
  expect(reason({ WHITTLE_CUSOLVER_LIBRARY: join(folder, 'nothing.so') })).toMatch(/WHITTLE_CUSOLVER_LIBRARY cannot be loaded: .*nothing\.so/)
  expect(reason({ WHITTLE_CUSOLVER_LIBRARY: process.env['WHITTLE_CUDA_LIBRARY'] as string })).toMatch(/has no cusolverDnCreate$/)
  // Its structs and enumerations are others.
  expect(solver({ FAKE_CUSPARSELT_MINOR: '7' }, 'libcusparseLt.').reason).toMatch(/is cuSPARSELt 0\.7, this build of whittle_cuda needs 0\.8 or later/)
  const broken = join(folder, 'broken', 'lib64')
  mkdirSync(broken, { recursive: true })
  writeFileSync(join(broken, name), 'no library')
  expect(reason({ CUDA_PATH: join(folder, 'broken') })).toMatch(`${join(broken, name)} cannot be loaded: `)
  // One that loads, further down, is taken all the same.
  const wheel = join(folder, 'home', '.local', 'lib', 'python3.12', 'site-packages', 'nvidia', 'cusolver', 'lib')
  mkdirSync(wheel, { recursive: true })
  symlinkSync(fakeSolver, join(wheel, name))
  expect(solver({ WHITTLE_CUSOLVER_LIBRARY: '', CUDA_PATH: join(folder, 'broken'), HOME: join(folder, 'home') })).toMatchObject({
    path: join(wheel, name),
    reason: '',
  })
})
