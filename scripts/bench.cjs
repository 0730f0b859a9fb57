'use strict'
// npm run bench -- [family ...] [--json] [--quick] [--threads 1,2] [--case TEXT] [--html FILE]
// Builds the library and the tools, installs bench/'s own dependencies and compiles the peak meter on first use, then
// runs build/tools/bench/run.js. --install-rivals (npm run bench:rivals) makes bench/rivals/venv instead.
const path = require('node:path')
const fs = require('node:fs')
const { spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const args = process.argv.slice(2)

// stdout belongs to the results: everything that a step says goes to stderr.
function step(command, list, options = {}) {
  const r = spawnSync(command, list, { cwd: root, stdio: ['ignore', 2, 2], shell: false, ...options })
  if (r.error) console.error(`bench: ${command}: ${r.error.message}`)
  return r.status ?? 1
}

function must(command, list, options) {
  const status = step(command, list, options)
  if (status !== 0) process.exit(status)
}

function npm(list, cwd) {
  // npm_execpath is a path to npm's own script when we run under `npm run`.
  const script = process.env.npm_execpath
  const env = { ...process.env, ONNXRUNTIME_NODE_INSTALL: 'skip' }
  if (script && /\.c?js$/.test(script)) return must(process.execPath, [script, ...list], { cwd, env })
  must(process.platform === 'win32' ? 'npm.cmd' : 'npm', list, { cwd, env, shell: process.platform === 'win32' })
}

if (args.includes('--install-rivals')) {
  const venv = path.join(root, 'bench', 'rivals', 'venv')
  const python =
    process.platform === 'win32' ? path.join(venv, 'Scripts', 'python.exe') : path.join(venv, 'bin', 'python')
  if (!fs.existsSync(python)) must(process.env.PYTHON || 'python3', ['-m', 'venv', venv])
  // One at a time: a rival that cannot be had here leaves the others in place. torch without its dependencies, since
  // on Linux they are gigabytes of CUDA; those that it needs on a CPU are named.
  const sets = [
    ['numpy'],
    ['scipy'],
    ['onnxruntime'],
    ['filelock', 'typing-extensions', 'sympy', 'networkx', 'jinja2', 'fsspec'],
    ['--no-deps', 'torch'],
  ]
  const loads = (name) => spawnSync(python, ['-c', `import ${name}`]).status === 0
  for (const set of sets)
    if (step(python, ['-m', 'pip', 'install', '--quiet', ...set]) !== 0)
      console.error(`bench: pip could not install ${set.at(-1)}: its rows will say that it is missing`)
  if (!loads('torch')) {
    console.error('bench: this torch needs its CUDA libraries even on a CPU: installing them (gigabytes)')
    step(python, ['-m', 'pip', 'install', '--quiet', 'torch'])
  }
  must(python, [path.join(root, 'bench', 'rivals', 'server.py'), '--list'])
  process.exit(0)
}

must(process.execPath, [path.join(__dirname, 'build.cjs'), '--native', '--ts', '--tools'])
const ort = path.join(root, 'bench', 'node_modules', 'onnxruntime-node', 'package.json')
if (!fs.existsSync(ort)) npm(['ci', '--no-audit', '--no-fund'], path.join(root, 'bench'))

const build = path.join(root, 'build', 'bench')
if (!fs.existsSync(path.join(build, 'CMakeCache.txt')))
  must('cmake', ['-S', path.join(root, 'bench', 'native'), '-B', build, '-DCMAKE_BUILD_TYPE=Release'])
must('cmake', ['--build', build, '--config', 'Release'])

const r = spawnSync(process.execPath, ['--expose-gc', path.join(root, 'build', 'tools', 'bench', 'run.js'), ...args], {
  cwd: root,
  stdio: ['ignore', 'inherit', 'inherit'],
})
process.exit(r.status ?? 1)
