import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import * as path from 'node:path'

const root = path.join(__dirname, '..')
const addon = path.join(root, 'build', 'Release', 'whittle.node')
const objects = path.join(root, 'build', 'CMakeFiles', 'kernels.dir', 'cpu')
const onLinux = process.platform === 'linux' ? test : test.skip

function tool(name: string, args: string[]): string {
  const r = spawnSync(name, args, { encoding: 'utf8', maxBuffer: 1 << 27 })
  if (r.status !== 0) throw new Error(`${name} ${args.join(' ')}: ${r.error?.message ?? r.stderr}`)
  return r.stdout
}

function isaObjects(): string[] {
  return fs
    .readdirSync(objects, { recursive: true, encoding: 'utf8' })
    .filter((f) => /\.(o|obj)$/.test(f) && !/scalar\.cpp\./.test(f))
    .map((f) => path.join(objects, f))
}

/** Greatest version of a symbol family (`GLIBC`, `GLIBCXX`) that the addon needs, as comparable numbers. */
function newest(family: string): number[] {
  const versions = [...tool('objdump', ['-T', addon]).matchAll(new RegExp(`\\b${family}_([0-9.]+)`, 'g'))]
  return versions.map((m) => (m[1] as string).split('.').map(Number)).reduce((a, b) => (compare(a, b) < 0 ? b : a), [0])
}

function compare(a: number[], b: number[]): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++)
    if ((a[i] ?? 0) !== (b[i] ?? 0)) return (a[i] ?? 0) - (b[i] ?? 0)
  return 0
}

onLinux('objects with instruction-set flags define no symbol that the linker could hand to the rest', () => {
  const files = isaObjects()
  // A shared inline function compiled with -mavx2 may become the one copy that the baseline calls too.
  const weak = files.flatMap((f) =>
    tool('nm', ['--defined-only', f])
      .split('\n')
      .filter((l) => / [WVu] /.test(l))
      .map((l) => `${path.relative(objects, f)}: ${l}`),
  )
  expect(weak).toStrictEqual([])
})

onLinux('every file under cpu/ that this architecture builds has an object, so that none is forgotten', () => {
  const arm = /\b(neon|neondot|neoni8mm)\.cpp$/
  const sources = fs
    .readdirSync(path.join(root, 'cpu'), { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.cpp'))
  const wanted = sources.filter(
    (f) => /scalar\.cpp$/.test(f) || arm.test(f.replace(/_/g, ' ')) === (process.arch === 'arm64'),
  )
  expect(wanted.filter((f) => !fs.existsSync(path.join(objects, `${f}.o`)))).toStrictEqual([])
})

onLinux('the addon runs wherever Node 20 does: glibc 2.28, libstdc++ of GCC 6', () => {
  expect(compare(newest('GLIBC'), [2, 28])).toBeLessThanOrEqual(0)
  expect(compare(newest('GLIBCXX'), [3, 4, 22])).toBeLessThanOrEqual(0)
})

onLinux('the addon stays mapped when the last environment that loaded it ends', () => {
  expect(tool('readelf', ['-d', addon])).toMatch(/FLAGS_1.*NODELETE/)
})

onLinux('the addon makes no external buffers, which Electron forbids, but for temporary files, and links neither OpenMP nor TBB', () => {
  const imports = tool('nm', ['-D', '--undefined-only', addon])
  expect(imports).toMatch(/napi_create_function/)
  expect(imports).not.toMatch(/napi_create_external_buffer|napi_create_buffer/)
  // Where a runtime refuses it, ordinary memory serves (test/compress-paged).
  const folder = path.join(__dirname, '..', 'binding')
  const users = fs.readdirSync(folder).filter((f) => fs.readFileSync(path.join(folder, f), 'utf8').includes('napi_create_external_arraybuffer'))
  expect(users).toEqual(['paged.cpp'])
  expect(tool('readelf', ['-d', addon])).not.toMatch(/NEEDED.*(gomp|omp|tbb)/)
})
