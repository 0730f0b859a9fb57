import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'

const root = path.join(__dirname, '..')
const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  name: string
  files: string[]
}
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-package-'))
const npmScript = [
  process.env.npm_execpath ?? '',
  path.join(path.dirname(process.execPath), '..', 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js'),
  path.join(path.dirname(process.execPath), '..', 'share', 'nodejs', 'npm', 'bin', 'npm-cli.js'),
].find((f) => /\.c?js$/.test(f) && fs.existsSync(f)) as string

interface Ran {
  readonly status: number | null
  readonly out: string
  readonly err: string
}

function run(command: string, args: string[], cwd: string, env: Record<string, string | undefined> = {}): Ran {
  const clean = Object.fromEntries(
    Object.entries(process.env).filter(([k]) => !/^npm_(config|package|lifecycle)_|^WHITTLE_/.test(k)),
  )
  const r = spawnSync(command, args, { cwd, encoding: 'utf8', env: { ...clean, ...env }, timeout: 900_000 })
  return { status: r.status, out: r.stdout, err: r.stderr + (r.error?.message ?? '') }
}

const node = (args: string[], cwd: string, env = {}) => run(process.execPath, args, cwd, env)
const npm = (args: string[], cwd: string, env = {}) =>
  node([npmScript, ...args, '--no-audit', '--no-fund', '--prefer-offline'], cwd, env)

/** A PATH with node and a shell, and nothing that could compile. */
function barePath(): string {
  const bin = path.join(home, 'bin')
  fs.mkdirSync(bin, { recursive: true })
  for (const [name, target] of [
    ['node', process.execPath],
    ['sh', '/bin/sh'],
  ] as const)
    if (!fs.existsSync(path.join(bin, name))) fs.symlinkSync(target, path.join(bin, name))
  return bin
}

/** What `npm pack` sees: the published files, with or without prebuilds. */
function pack(name: string, prebuilds: boolean): { tarball: string; files: string[]; folder: string } {
  const folder = path.join(home, name)
  for (const entry of [...manifest.files, 'package.json', 'README.md', 'LICENSE', 'CHANGELOG.md'])
    if (fs.existsSync(path.join(root, entry)) && entry !== 'prebuilds')
      fs.cpSync(path.join(root, entry), path.join(folder, entry), { recursive: true })
  if (prebuilds) fs.cpSync(path.join(home, 'prebuilds'), path.join(folder, 'prebuilds'), { recursive: true })
  const r = npm(['pack', '--ignore-scripts', '--json'], folder)
  if (r.status !== 0) throw new Error(r.err)
  const [info] = JSON.parse(r.out) as { filename: string; files: { path: string }[] }[]
  return { tarball: path.join(folder, info?.filename ?? ''), files: info?.files.map((f) => f.path) ?? [], folder }
}

/** An empty project that installs a tarball. */
function install(
  name: string,
  tarball: string,
  flags: string[],
  env: Record<string, string> = {},
): { project: string; ran: Ran } {
  const project = path.join(home, name)
  fs.mkdirSync(project)
  fs.writeFileSync(path.join(project, 'package.json'), '{ "name": "consumer", "private": true }')
  return { project, ran: npm(['install', tarball, ...flags], project, env) }
}



const esm = `import whittle, { devices } from 'whittle-ml'
import * as kernels from 'whittle-ml/kernels'
import * as model from 'whittle-ml/model'
if (kernels.devices !== devices || whittle.devices !== devices || !model) throw new Error('two copies')
console.log(devices().cpu.variant)`
const cjs = `const { devices } = require('whittle-ml')
if (require('whittle-ml/kernels').devices !== devices || !require('whittle-ml/model')) throw new Error('two copies')
console.log(devices().cpu.variant)`

let ready: ReturnType<typeof pack>
let installed: ReturnType<typeof install>

beforeAll(() => {
  const made = node([path.join(root, 'scripts', 'prebuild.cjs'), '--out', home], root)
  if (made.status !== 0) throw new Error(made.out + made.err)
  ready = pack('with-prebuild', true)
  installed = install('bare', ready.tarball, [], { PATH: barePath() })
}, 300_000)

afterAll(() => fs.rmSync(home, { recursive: true, force: true }))

test('prebuild fills prebuilds/ and leaves the working build as it is', () => {
  const file = `${process.platform}-${process.arch}/${manifest.name}${process.arch === 'arm64' ? '.armv8' : ''}.glibc.node`
  expect(fs.statSync(path.join(home, 'prebuilds', file)).size).toBeGreaterThan(10_000)
  expect(fs.existsSync(path.join(root, 'build', 'Release', 'whittle.node'))).toBe(true)
})

test('the tarball holds what running and compiling need, and nothing else', () => {
  const top = [...new Set(ready.files.map((f) => f.split('/')[0]))].sort()
  const allowed = [
    'CHANGELOG.md',
    'CMakeLists.txt',
    'LICENSE',
    'README.md',
    'binding',
    'cmake',
    'core',
    'cpu',
    'dist',
    'package.json',
    'prebuilds',
    'scripts',
  ]
  expect(top.filter((t) => !allowed.includes(t ?? ''))).toStrictEqual([])
  for (const file of [
    'dist/index.js',
    'dist/index.mjs',
    'dist/index.d.ts',
    'dist/index.d.mts',
    'dist/cli/main.js',
    'CMakeLists.txt',
    'binding/addon.cpp',
    'core/variants.h',
    'scripts/install.cjs',
    'cmake/isa.cmake',
    'LICENSE',
    'README.md',
  ])
    expect(ready.files).toContain(file)
  expect(ready.files.filter((f) => /\.tsbuildinfo$|\.o$|fixtures|\.onnx$/.test(f))).toStrictEqual([])
})

test('the tarball installs without a compiler and runs from ESM, CommonJS and the command line', () => {
  const PATH = barePath()
  expect(run('sh', ['-c', 'command -v cmake g++ cc make'], home, { PATH }).out).toBe('')
  expect(installed.ran).toMatchObject({ status: 0 })
  const { project } = installed
  const variant = /^[a-z0-9]+\n$/
  expect(node(['--input-type=module', '-e', esm], project, { PATH }).out).toMatch(variant)
  expect(node(['-e', cjs], project, { PATH }).out).toMatch(variant)

  const help = node([npmScript, 'exec', '--offline', '--', 'whittle', '--help'], project, { PATH })
  expect(help).toMatchObject({ status: 0, out: expect.stringMatching(/compress.*inspect|inspect.*compress/s) })
})

test('without a binary an error says what to type, and typing it compiles the addon once from source', () => {
  const source = pack('without-prebuild', false)
  const { project, ran } = install('source', source.tarball, ['--ignore-scripts'])
  expect(ran).toMatchObject({ status: 0 })
  const script = `try { require('whittle-ml').devices() } catch (e) { console.log(e.name, e.code, e.message) }`
  const bad = node(['-e', script], project).out
  expect(bad).toMatch(/^WhittleError ERR_DEVICE .*npm rebuild whittle-ml/)

  const noCompiler = npm(['rebuild', 'whittle-ml', '--foreground-scripts'], project, { PATH: barePath() })
  expect(noCompiler.status).not.toBe(0)
  expect(noCompiler.out + noCompiler.err).toMatch(/C\+\+17 compiler and CMake/)

  // A compiler cache, where one is set, takes paths below its base for equal: what is compiled there is this package.
  const cache = { CCACHE_BASEDIR: fs.realpathSync(path.join(project, 'node_modules', 'whittle-ml')) }
  expect(npm(['rebuild', 'whittle-ml'], project, cache)).toMatchObject({ status: 0 })
  expect(node(['-e', cjs], project).out).toMatch(/^[a-z0-9]+\n$/)
}, 1_000_000)

test('types resolve for CommonJS, ESM and bundlers', () => {
  const { project } = installed
  const use = `import { devices, type Devices } from 'whittle-ml'
import { devices as same } from 'whittle-ml/kernels'
import * as model from 'whittle-ml/model'
const d: Devices = devices()
const n: number = same().cpu.threads + Object.keys(model).length
// @ts-expect-error: the types are real ones
const s: string = d.cpu.threads
export { n, s }
`
  for (const name of ['use.cts', 'use.mts', 'use.ts']) fs.writeFileSync(path.join(project, name), use)
  const tsc = require.resolve('typescript/bin/tsc')
  const flags = ['--noEmit', '--strict', '--target', 'es2022']
  expect(node([tsc, ...flags, '--module', 'node16', 'use.cts', 'use.mts'], project)).toMatchObject({
    status: 0,
    out: '',
  })
  expect(
    node([tsc, ...flags, '--module', 'preserve', '--moduleResolution', 'bundler', 'use.ts'], project),
  ).toMatchObject({ status: 0, out: '' })
}, 120_000)

test('publint has nothing to say', () => {
  const cli = path.join(root, 'node_modules', '.bin', 'publint')
  const r = run(cli, ['--strict', ready.folder], root)
  expect(r.out + r.err).toMatch(/All good!/)
  expect(r.status).toBe(0)
}, 120_000)
