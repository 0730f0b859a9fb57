'use strict'
// The incremental build: native addon, then TypeScript. `--native` or `--ts` builds one half, `--tools` adds bench and
// demo. Prints nothing when all is up to date.
const path = require('node:path')
const fs = require('node:fs')
const os = require('node:os')
const { spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const want = new Set(process.argv.slice(2))
const all = ![...want].some((w) => w === '--native' || w === '--ts')

function run(args, quiet) {
  const r = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', stdio: quiet ? 'pipe' : 'inherit' })
  if (r.status !== 0) {
    if (quiet) process.stderr.write(r.stdout + r.stderr)
    process.exit(r.status ?? 1)
  }
}

if (all || want.has('--native')) {
  const bin = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(os.availableParallelism())
  const cached = path.join(root, 'build', 'CMakeCache.txt')
  // A build folder moved from elsewhere cannot be reused.
  if (fs.existsSync(cached) && !fs.readFileSync(cached, 'utf8').includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`))
    fs.rmSync(cached)
  run([bin, 'build', '--parallel', jobs], true)
}
if (all || want.has('--ts')) {
  const tsc = require.resolve('typescript/bin/tsc')
  run([tsc, '-p', 'tsconfig.build.json'])
  run([path.join(__dirname, 'esm.cjs')])
  const cli = path.join(root, 'dist', 'cli', 'main.js')
  if (fs.existsSync(cli)) fs.chmodSync(cli, 0o755)
  if (want.has('--tools')) run([tsc, '-p', 'tsconfig.tools.json'])
}
