'use strict'
// npm run check -- [family ...] [--bench] [--lean] [--times] [--seed N] [--variant TIER,TIER] [--config NAME]
// Configurations: release (the default), asan, asan-report, tsan, arm64, arm64-quick. --build-only stops after the build.
// Builds the native check for one configuration (incrementally, in build/check-<config>) and runs it. `release` is made of
// the addon's own objects, in the addon's build folder.
const path = require('node:path')
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')

const root = path.join(__dirname, '..')

const configs = {
  release: [],
  asan: [
    '-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1',
    '-DWHITTLE_SANITIZE=address,undefined',
    '-DCMAKE_BUILD_TYPE=RelWithDebInfo',
  ],
  tsan: [
    '-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1',
    '-DWHITTLE_SANITIZE=thread',
    '-DCMAKE_BUILD_TYPE=RelWithDebInfo',
    '-DWHITTLE_CHECK_THREADS=ON',
  ],
  // Sanitizers with their words instead of a trap, to look at what `asan` found.
  'asan-report': ['-DWHITTLE_SANITIZE_REPORT=ON'],
  arm64: ['-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake'],
  // Compiles in half the time; what is published is compiled as `arm64` is.
  'arm64-quick': ['-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake', '-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG'],
}
configs['asan-report'].push(...configs.asan)

// Answers the path of the executable; throws with the compiler's words if the build fails.
function build(config) {
  const dir = path.join(root, 'build', `check-${config}`)
  const step = (args, command = 'cmake') => {
    const r = spawnSync(command, args, { cwd: root, encoding: 'utf8' })
    if (r.error) throw r.error
    if (r.status !== 0) throw new Error(`${command} ${args.join(' ')}\n${r.stdout}${r.stderr}`)
  }
  const folder = config === 'release' ? path.join(root, 'build') : dir
  if (!fs.existsSync(path.join(folder, 'CMakeCache.txt'))) {
    const bin = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
    if (config === 'release') step([bin, 'configure'], process.execPath)
    else step(['-S', root, '-B', dir, '-DWHITTLE_NODE=OFF', ...configs[config]])
  }
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(os.availableParallelism())
  step(['--build', folder, '--config', 'Release', '--target', 'check', '--parallel', jobs])
  return path.join(dir, 'check')
}

module.exports = { build, configs: Object.keys(configs) }

if (require.main === module) {
  const args = process.argv.slice(2)
  const at = args.indexOf('--config')
  const config = at < 0 ? 'release' : args.splice(at, 2)[1]
  if (!configs[config]) {
    console.error(`check: --config must be one of ${Object.keys(configs).join(', ')}`)
    process.exit(2)
  }
  const only = args.indexOf('--build-only')
  if (only >= 0) args.splice(only, 1)
  let exe
  try {
    exe = build(config)
  } catch (e) {
    console.error(e.message)
    process.exit(1)
  }
  if (only >= 0) process.exit(0)
  const command =
    config.startsWith('arm64') ? ['qemu-aarch64-static', '-L', '/usr/aarch64-linux-gnu', '-cpu', 'max', exe] : [exe]
  const r = spawnSync(command[0], [...command.slice(1), ...args], { cwd: root, stdio: 'inherit' })
  process.exit(r.status ?? 1)
}
