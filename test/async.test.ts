import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import * as whittle from '../lib/index'

const dist = path.join(__dirname, '..', 'dist')

function child(
  file: string,
  args: string[] = [],
): { status: number | null; signal: string | null; out: string; err: string } {
  const script = path.join(__dirname, 'children', file)
  const r = spawnSync(process.execPath, ['--expose-gc', script, dist, ...args], {
    encoding: 'utf8',
    timeout: 200_000,
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
  })
  return { status: r.status, signal: r.signal, out: r.stdout, err: r.stderr }
}

describe('inputs and out of calls in flight', () => {
  const ran = child('async.cjs')
  const lines = ran.out.trim().split('\n')
  const rows = lines.filter((l) => /: (gone|kept) /.test(l))

  test('the process survives all that JavaScript can do to their memory', () => {
    expect({ ...ran, out: lines.at(-1) }).toMatchObject({ status: 0, signal: null, out: 'alive' })
    expect(rows.length).toBeGreaterThan(100)
  })

  test('a transferred, resized or collected input changes no result', () => {
    const wrong = rows.filter((l) => / in /.test(l) && !l.endsWith(' right'))
    expect(wrong).toStrictEqual([])
  })

  test('an out whose memory is gone is ERR_HANDLE, and any other holds the result', () => {
    const wrong = rows.filter((l) => / out /.test(l) && !l.endsWith(/: gone /.test(l) ? ' ERR_HANDLE' : ' right'))
    expect(wrong).toStrictEqual([])
  })

  test('every asynchronous function of the package is among them', () => {
    const tried = new Set(rows.map((l) => l.split(' ')[0]))
    const all = Object.keys(whittle)
      .filter((k) => k.endsWith('Async'))
      .map((k) => k.slice(0, -5))
    // A copy to a GPU is tried on the emulated one: test/cuda/device.spec.ts.
    expect(all.filter((name) => name !== 'toDevice' && !tried.has(name))).toStrictEqual([])
  })
})

test('32 calls at once leave files, names, timers and the event loop alive', () => {
  const ran = child('loop.cjs')
  expect(ran).toMatchObject({ status: 0, out: expect.stringContaining('{') })
  const { turns, doneBefore, jobs, right } = JSON.parse(ran.out) as Record<string, number>
  expect(right).toBe(jobs)
  // All of a file, a name look-up, a timer and a hash on libuv's own threads came back while jobs were still running.
  expect(doneBefore).toBeLessThan(jobs as number)
  expect(turns).toBeGreaterThan(10)
})
