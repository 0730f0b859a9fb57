'use strict'
// npm run prebuild [-- --arch arm64] [--out DIR]
// Fills prebuilds/<platform>-<arch>/ (below DIR, default this repository). Another architecture is cross-compiled on
// Linux by cmake/<triple>.cmake and needs that compiler: apt-get install g++-aarch64-linux-gnu.
const path = require('node:path')
const fs = require('node:fs')
const prebuildify = require('prebuildify')

const root = path.join(__dirname, '..')
const { parseArgs } = require('node:util')
const { values } = parseArgs({
  options: { arch: { type: 'string', default: process.arch }, out: { type: 'string', default: root } },
})

const kCross = { arm64: 'aarch64-linux-gnu' }
const triple = values.arch === process.arch ? undefined : kCross[values.arch]
if (values.arch !== process.arch && (!triple || process.platform !== 'linux')) {
  console.error(`prebuild: cannot build for ${values.arch} on ${process.platform}-${process.arch}`)
  process.exit(2)
}
if (triple) process.env.WHITTLE_TOOLCHAIN = path.join('cmake', `${triple}.cmake`)

// prebuildify moves build/Release/*.node of the folder it works in; give it one of its own.
const work = path.join(root, 'build', `prebuildify-${values.arch}`)
fs.rmSync(work, { recursive: true, force: true })
fs.mkdirSync(work, { recursive: true })
const out = path.resolve(values.out)
fs.rmSync(path.join(out, 'prebuilds', `${process.platform}-${values.arch}`), { recursive: true, force: true })

prebuildify(
  {
    cwd: work,
    out,
    arch: values.arch,
    napi: true,
    strip: true,
    stripBin: triple ? `${triple}-strip` : 'strip',
    tagLibc: true,
    tagArmv: values.arch === 'arm64',
    armv: values.arch === 'arm64' ? '8' : undefined,
    name: require('../package.json').name,
    targets: [{ runtime: 'node', target: '20.19.0' }],
    nodeGyp: path.join(__dirname, 'node-gyp-cmake.cjs'),
    quiet: !process.stdout.isTTY,
  },
  (error) => {
    fs.rmSync(work, { recursive: true, force: true })
    if (error) {
      console.error(`prebuild: ${error.message}`)
      process.exit(1)
    }
    const folder = path.join(out, 'prebuilds', `${process.platform}-${values.arch}`)
    for (const file of fs.readdirSync(folder))
      console.log(`${path.relative(root, path.join(folder, file))}  ${fs.statSync(path.join(folder, file)).size} bytes`)
  },
)
