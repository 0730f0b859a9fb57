import { spawnSync } from 'node:child_process'
import * as path from 'node:path'

const dist = path.join(__dirname, '..', 'dist')
const script = path.join(__dirname, 'children', 'workers.cjs')

function workers(count: number, env: Record<string, string> = {}) {
  const r = spawnSync(process.execPath, [script, dist, String(count)], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 1_000_000,
  })
  return { status: r.status, signal: r.signal, out: r.stdout, err: r.stderr }
}

test('the process survives workers that are terminated in mid-call', () => {
  const count = process.env.WHITTLE_LONG ? 1000 : 120
  const ran = workers(count)
  expect(ran).toMatchObject({ status: 0, signal: null, err: '' })
  const { ended, right, growth } = JSON.parse(ran.out) as { ended: number; right: boolean; growth: number }
  expect({ ended, right }).toStrictEqual({ ended: count, right: true })
  // A leaked environment is several MB; three quarters of the workers came after the first reading.
  expect(growth / count).toBeLessThan(500_000)
}, 1_000_000)

test('the addon opened by a worker alone outlives it', () => {
  const code = `
    const { Worker } = require('node:worker_threads')
    const inside = "const w = require(process.argv[2] ?? require('node:worker_threads').workerData); w.gemmAsync(" +
      "{ type: 'float32', dims: [64, 64], data: new Float32Array(4096) }, { type: 'float32', dims: [64, 64], data: new Float32Array(4096) })"
    const start = () => new Promise((done) => new Worker(inside, { eval: true, workerData: ${JSON.stringify(dist)} }).on('exit', done))
    start().then(start).then(() => setTimeout(() => console.log('alive'), 100))`
  const r = spawnSync(process.execPath, ['-e', code], { encoding: 'utf8' })
  expect({ out: r.stdout.trim(), status: r.status, err: r.stderr }).toStrictEqual({ out: 'alive', status: 0, err: '' })
})
