import { spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { netOf } from './nets'

const root = path.join(__dirname, '..')
const cli = path.join(root, 'dist', 'cli', 'main.js')
let folder = ''
const at = (name: string): string => path.join(folder, name)

beforeAll(async () => {
  const built = spawnSync(process.execPath, [path.join(root, 'scripts', 'build.cjs'), '--ts'], { encoding: 'utf8' })
  if (built.status !== 0) throw new Error(built.stdout + built.stderr)
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-signal-'))
  await netOf([1, 2, 3].map(() => ({ op: 'MatMul', dims: [512, 512] }))).save(at('in.onnx'))
  // Judges for as long as nobody stops it.
  fs.writeFileSync(
    at('slow.cjs'),
    `module.exports = (model, { phase, signal }) => phase === 'original' ? 1 : new Promise((resolve, reject) => {
      setInterval(() => {}, 1000)
      signal.addEventListener('abort', () => reject(new Error('stopped')))
      console.error('judging')
    })`,
  )
  // Answers for both models, and then nothing more: the report asks.
  fs.writeFileSync(
    at('asked.cjs'),
    `let asked = 0
    module.exports = (model, { signal }) => ++asked <= 2 ? 1 : new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(new Error('stopped')))
      setInterval(() => {}, 1000)
      console.error('reporting')
    })`,
  )
  // Says when the result's temporary file is there, and writes slowly from then on.
  fs.writeFileSync(
    at('writing.cjs'),
    `const { promises } = require('node:fs')
    const { open } = promises
    promises.open = async (file, ...rest) => {
      const handle = await open(file, ...rest)
      if (!String(file).endsWith('.tmp')) return handle
      const write = handle.write.bind(handle)
      handle.write = async (...all) => (await new Promise((r) => setTimeout(r, 300)), write(...all))
      console.error('writing')
      return handle
    }`,
  )
}, 120000)

afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

/** Runs the command in a folder of its own and sends `signal` once stderr says `when`. */
function stopped(signal: NodeJS.Signals, when: string, args: readonly string[], before: readonly string[] = []): Promise<{ code: number | null; err: string; left: string[] }> {
  const temporary = fs.mkdtempSync(at('tmp-'))
  const target = fs.mkdtempSync(at('out-'))
  const output = path.join(target, 'out.onnx')
  fs.writeFileSync(output, 'as it was')
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...before, cli, 'compress', at('in.onnx'), '-o', output, ...args], { env: { ...process.env, TMPDIR: temporary } })
    let err = ''
    child.stderr.on('data', (data: Buffer) => {
      const heard = err.includes(when)
      err += String(data)
      if (!heard && err.includes(when)) child.kill(signal)
    })
    child.on('error', reject)
    child.on('close', (code) => {
      expect(fs.readFileSync(output, 'utf8')).toBe('as it was')
      resolve({ code, err, left: [...fs.readdirSync(temporary), ...fs.readdirSync(target)] })
    })
  })
}

// Windows ends a process that is sent these.
const posix = process.platform === 'win32' ? test.skip : test

posix.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s while a result is judged ends with %i and leaves what was there', async (signal, code) => {
  const run = await stopped(signal, 'judging', ['--evaluate', at('slow.cjs')])
  expect(run).toMatchObject({ code, left: ['out.onnx'] })
  expect(run.err).toMatch(new RegExp(`whittle compress: stopped by ${signal}\n$`))
})

posix.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s while the result is written ends with %i, without the temporary file', async (signal, code) => {
  const run = await stopped(signal, 'writing', [], ['--require', at('writing.cjs')])
  expect(run).toMatchObject({ code, left: ['out.onnx'] })
})

posix('SIGTERM while the report is made leaves neither report nor result', async () => {
  const run = await stopped('SIGTERM', 'reporting', ['--evaluate', at('asked.cjs'), '--sensitivity', '--report', at('report.html')])
  expect(run).toMatchObject({ code: 143, left: ['out.onnx'] })
  expect(fs.existsSync(at('report.html'))).toBe(false)
})
