// Distillation losses, forward and backward in one call; shapes are samples x classes or samples x features. torch runs
// the textbook composition under autograd, at temperature 1, without a division that ours would do and it would not.
import { crossEntropy, distill, type Tensor } from '../lib/index'
import { close, type Bench } from './harness/bench'
import type { Case, Prepared, Rival } from './harness/types'

type Loss = { readonly loss: number; readonly grad: Tensor<Float32Array> }

interface Job {
  readonly name: string
  readonly student: readonly number[]
  /** Classes of the labels, where there are any. */
  readonly labels?: boolean
  readonly ours: (s: Tensor<Float32Array>, t: Tensor<Float32Array>, labels: Int32Array, out: Float32Array) => Loss
  /** Python expression of the loss from `s`, `t`, `y`, with `F` = torch.nn.functional. */
  readonly torch: string
  /** Definitions that the expression uses. */
  readonly setup?: string
}

const kDistances = `
def pdist(e):
    square = e.pow(2).sum(1)
    d = (square.unsqueeze(1) + square.unsqueeze(0) - 2 * e @ e.t()).clamp(min=1e-12).sqrt()
    d = d.clone()
    d[range(len(e)), range(len(e))] = 0
    return d
def normal(e):
    d = pdist(e)
    return d / d[d > 0].mean()
`
const kAngles = `
def angles(e):
    d = F.normalize(e.unsqueeze(0) - e.unsqueeze(1), p=2, dim=2)
    return torch.bmm(d, d.transpose(1, 2)).view(-1)
`
const kDkd = `
def dkd(s, t, y):
    at = torch.zeros_like(s).scatter_(1, y.unsqueeze(1), 1).bool()
    ps, pt = F.softmax(s, 1), F.softmax(t, 1)
    def two(p):
        a = (p * at).sum(1, keepdim=True)
        return torch.cat([a, (p * ~at).sum(1, keepdim=True)], 1)
    target = F.kl_div(torch.log(two(ps)), two(pt), reduction='batchmean')
    other = F.kl_div(F.log_softmax(s - 1000.0 * at, 1), F.softmax(t - 1000.0 * at, 1), reduction='batchmean')
    return target + 8 * other
`
const kMaps = `
def at(f):
    return F.normalize(f.pow(2).mean(1).view(f.size(0), -1))
`

const kKernel = `
def kernel(e):
    g = (lambda u: u @ u.t())(F.normalize(e))
    return sum(math.exp(-0.8) * 0.8 ** p / math.factorial(p) * g ** p for p in range(3))
`

const kl = (name: string, student: readonly number[]): Job => ({
  name,
  student,
  ours: (s, t, _, out) => distill.kl(s, t, { out }),
  torch: "F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction='batchmean')",
})

const kJobs: readonly Job[] = [
  kl('kl', [256, 1000]),
  kl('kl', [64, 32000]),
  kl('kl', [8, 128256]),
  {
    name: 'kllabels',
    student: [256, 1000],
    labels: true,
    ours: (s, t, labels, out) => distill.kl(s, t, { labels, alpha: 0.5, out }),
    torch: "0.5 * F.cross_entropy(s, y) + 0.5 * F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction='batchmean')",
  },
  {
    name: 'ce',
    student: [64, 32000],
    labels: true,
    ours: (s, _, labels, out) => crossEntropy(s, labels, { out }),
    torch: 'F.cross_entropy(s, y)',
  },
  {
    name: 'js',
    student: [256, 1000],
    ours: (s, t, _, out) => distill.js(s, t, { out }),
    setup: 'def kl(p, m): return (p * (p.log() - m.log())).sum(1).mean()\n',
    torch: '(lambda p, q: 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2))(F.softmax(t, 1), F.softmax(s, 1))',
  },
  { name: 'dkd', student: [256, 1000], labels: true, ours: (s, t, labels, out) => distill.dkd(s, t, labels, { out }), setup: kDkd, torch: 'dkd(s, t, y)' },
  { name: 'mse', student: [256, 2048], ours: (s, t, _, out) => distill.feature(s, t, { out }), torch: 'F.mse_loss(s, t)' },
  {
    name: 'attention',
    student: [16, 64, 28, 28],
    ours: (s, t, _, out) => distill.attention(s, t, { form: 'mean', out }),
    setup: kMaps,
    torch: '(at(s) - at(t)).pow(2).mean()',
  },
  {
    name: 'rkddistance',
    student: [256, 512],
    ours: (s, t, _, out) => distill.relationDistance(s, t, { out }),
    setup: kDistances,
    torch: 'F.smooth_l1_loss(normal(s), normal(t))',
  },
  {
    name: 'rkdangle',
    student: [256, 512],
    ours: (s, t, _, out) => distill.relationAngle(s, t, { out }),
    setup: kAngles,
    torch: 'F.smooth_l1_loss(angles(s), angles(t))',
  },
  {
    name: 'similarity',
    student: [256, 512],
    ours: (s, t, _, out) => distill.similarity(s, t, { out }),
    torch: '(F.normalize(s @ s.t()) - F.normalize(t @ t.t())).pow(2).sum() / len(s) ** 2',
  },
  {
    name: 'correlation',
    student: [256, 512],
    ours: (s, t, _, out) => distill.correlation(s, t, { out }),
    setup: kKernel,
    torch: '(kernel(s) - kernel(t)).pow(2).sum() / len(s) ** 2',
  },
]

// The gradient of kl as a loop in plain JavaScript, for machines without torch.
function plainKl(s: Float32Array, t: Float32Array, n: number, c: number, g: Float32Array): void {
  for (let i = 0; i < n; i++) {
    let sm = -Infinity
    let tm = -Infinity
    for (let j = i * c; j < (i + 1) * c; j++) {
      sm = Math.max(sm, s[j] as number)
      tm = Math.max(tm, t[j] as number)
    }
    let ss = 0
    let ts = 0
    for (let j = i * c; j < (i + 1) * c; j++) {
      ss += Math.exp((s[j] as number) - sm)
      ts += Math.exp((t[j] as number) - tm)
    }
    for (let j = i * c; j < (i + 1) * c; j++) g[j] = (Math.exp((s[j] as number) - sm) / ss - Math.exp((t[j] as number) - tm) / ts) / n
  }
}

function caseOf(job: Job): Case {
  return {
    case: `f32${job.name}_${job.student.join('x')}`,
    prepare: async (bench: Bench): Promise<Prepared> => {
      const count = job.student.reduce((a, b) => a * b, 1)
      const s: Tensor<Float32Array> = { type: 'float32', dims: job.student, data: bench.normal(count, 2) }
      const t: Tensor<Float32Array> = { type: 'float32', dims: job.student, data: bench.normal(count, 2) }
      const [n, c] = job.student as [number, number]
      const labels = Int32Array.from({ length: n }, (_, i) => (i * 7919) % c)
      const out = new Float32Array(count)
      const inputs = {
        a: { data: s.data, dims: [...job.student] },
        b: { data: t.data, dims: [...job.student] },
        l: { data: labels, dims: [n] },
      }
      const torch = bench.rival('torch', {
        inputs,
        setup:
          'import math\nimport torch.nn.functional as F\ns = torch.from_numpy(a).requires_grad_(True)\nt = torch.from_numpy(b)\n' +
          `y = torch.from_numpy(l).long()\n${job.setup ?? ''}`,
        op: `with torch.enable_grad():\n    s.grad = None\n    loss = ${job.torch}\n    loss.backward()`,
        result: 's.grad.detach().numpy()',
      })
      const rivals: (Rival | Promise<Rival>)[] = [torch]
      if (job.name === 'kl' && c === 1000) {
        const g = new Float32Array(count)
        rivals.push(bench.js(() => plainKl(s.data, t.data, n, c, g), () => g))
      }
      return {
        ours: () => job.ours(s, t, labels, out),
        result: () => out,
        rivals,
        check: close({ atol: 1e-7, rtol: 2e-3 }),
        bound: bench.dram({ read: 4 * count * (job.name === 'ce' ? 1 : 2), write: 4 * count }),
      }
    },
  }
}

// Fused linear layers and KL; torch holds both logit tensors. `weights` asks for the weight's gradient too.
function linearCase(n: number, classes: number, size: number, weights: boolean): Case {
  return {
    case: `f32linearkl${weights ? 'weights' : ''}_${n}x${classes}x${size}`,
    prepare: async (bench: Bench): Promise<Prepared> => {
      const make = (rows: number, scale: number): Tensor<Float32Array> => ({ type: 'float32', dims: [rows, size], data: bench.normal(rows * size, scale) })
      const [hs, ws, ht, wt] = [make(n, 1), make(classes, 0.1), make(n, 1), make(classes, 0.1)]
      const out = new Float32Array(n * size)
      const outWeight = weights ? new Float32Array(classes * size) : out
      const inputs = { a: hs, b: ws, c: ht, d: wt }
      const torch = bench.rival('torch', {
        inputs: Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, { data: t.data, dims: [...t.dims] }])),
        setup:
          'import torch.nn.functional as F\nhs = torch.from_numpy(a).requires_grad_(True)\nht = torch.from_numpy(c)\n' +
          `ws = torch.from_numpy(b)${weights ? '.requires_grad_(True)' : ''}\nwt = torch.from_numpy(d)\n`,
        op:
          'with torch.enable_grad():\n    hs.grad = None\n    ws.grad = None\n' +
          "    loss = F.kl_div(F.log_softmax(hs @ ws.t(), 1), F.softmax(ht @ wt.t(), 1), reduction='batchmean')\n    loss.backward()",
        result: 'hs.grad.detach().numpy()',
      })
      const student = { hidden: hs, weight: ws }
      const teacher = { hidden: ht, weight: wt }
      return {
        ours: () =>
          weights ? distill.linearKl(student, teacher, { out, outWeight, gradWeight: true }) : distill.linearKl(student, teacher, { out }),
        result: () => out,
        rivals: [torch],
        check: close({ atol: 1e-7, rtol: 2e-3 }),
        bound: bench.dram({ read: 8 * classes * size, write: weights ? 4 * classes * size : 0 }),
      }
    },
  }
}

export const cases: readonly Case[] = [
  ...kJobs.map(caseOf),
  linearCase(8, 128256, 256, false),
  linearCase(8, 128256, 256, true),
  linearCase(256, 32000, 256, false),
  linearCase(256, 32000, 256, true),
]
