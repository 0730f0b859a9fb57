#!/usr/bin/env node
'use strict'
// npm's `install` hook: use a prebuild that loads here, else compile from source with cmake-js.
const path = require('node:path')
const fs = require('node:fs')
const os = require('node:os')
const { spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const wish = process.env.npm_config_build_from_source
const force = wish && wish !== 'false' && (wish === 'true' || wish.split(',').includes('whittle-ml'))

if (!force) {
  // Load in a child: a binary for another libc or CPU may crash instead of throwing.
  const probe = spawnSync(process.execPath, ['-e', 'require("node-gyp-build")(process.argv[1])', root], {
    cwd: root,
    stdio: process.env.npm_config_loglevel === 'verbose' ? 'inherit' : 'ignore',
    env: { ...process.env, PREBUILDS_ONLY: '1' },
  })
  if (probe.status === 0) process.exit(0)
}
if (!fs.existsSync(path.join(root, 'CMakeLists.txt'))) {
  console.error('whittle-ml: no prebuilt binary loads here, and the sources are not in this package')
  process.exit(1)
}
const bin = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(os.availableParallelism())
const built = spawnSync(process.execPath, [bin, force ? 'rebuild' : 'build', '--parallel', jobs], {
  cwd: root,
  stdio: 'inherit',
})
if (built.status !== 0)
  console.error(
    'whittle-ml: the native addon could not be compiled; it needs a C++17 compiler and CMake 3.18 or newer.\n' +
      'On Debian: apt-get install g++ make cmake; then: npm rebuild whittle-ml',
  )
process.exit(built.status === null ? 1 : built.status)
