#!/usr/bin/env node
'use strict'
// What prebuildify runs as `node-gyp rebuild --target=20.19.0 --devdir=.. --arch=x64 --release`, done with cmake-js: builds
// the sources of this repository and leaves a copy of the addon in build/Release of the folder that prebuildify works
// in. prebuildify then strips and moves that copy, so the working build stays as it is.
// WHITTLE_TOOLCHAIN names a CMake toolchain file for a cross build.
const path = require('node:path')
const fs = require('node:fs')
const os = require('node:os')
const { spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const get = (name) => process.argv.find((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3)
const arch = get('arch') ?? process.arch
const out = path.join(root, arch === process.arch ? 'build' : `build/prebuild-${arch}`)
const bin = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(os.availableParallelism())
const args = [bin, 'build', '--parallel', jobs, '--directory', root, '--out', out, '--arch', arch]
const toolchain = process.env.WHITTLE_TOOLCHAIN
if (toolchain) args.push(`--CDCMAKE_TOOLCHAIN_FILE=${path.resolve(root, toolchain)}`)
const r = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
if (r.status !== 0) process.exit(r.status ?? 1)

const to = path.join(process.cwd(), 'build', 'Release')
fs.mkdirSync(to, { recursive: true })
// Shared libraries beside the addon travel with it.
for (const file of fs.readdirSync(path.join(out, 'Release')))
  if (/\.(node|so|dylib|dll)$/.test(file)) fs.copyFileSync(path.join(out, 'Release', file), path.join(to, file))
