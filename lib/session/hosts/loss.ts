import { sizeOf, type Tensor } from '../../tensor'
import type { Node } from '../../model'
import { made, numbers, plain, type Host } from './host'

/** Weighted negative log likelihoods of labels; `logs` as [n, classes, …]. */
function likelihood(node: Node, logs: ArrayLike<number>, x: Tensor, labels: Tensor, weights: Tensor | undefined): Tensor {
  const classes = x.dims[1] as number
  const space = sizeOf(x.dims.slice(2))
  const [label, w] = [numbers(labels), weights && numbers(weights)]
  const ignored = node.int('ignore_index')
  const out = new Float64Array(label.length)
  let total = 0
  for (let i = 0; i < label.length; i++) {
    const c = label[i] as number
    if (c === ignored) continue
    const weight = w ? (w[c] as number) : 1
    out[i] = -weight * (logs[(Math.floor(i / space) * classes + c) * space + (i % space)] as number)
    total += weight
  }
  const how = node.string('reduction', 'mean')
  if (how === 'none') return made(x.type, labels.dims, out)
  const sum = out.reduce((a, b) => a + b, 0)
  return made(x.type, [], [how === 'mean' ? sum / total : sum])
}

const negativeLogLikelihood = plain((node, x, labels, weights) => [likelihood(node, numbers(x as Tensor), x as Tensor, labels as Tensor, weights)])

const crossEntropy = plain((node, given, labels, weights) => {
  const x = given as Tensor
  const classes = x.dims[1] as number
  const space = sizeOf(x.dims.slice(2))
  const all = numbers(x)
  const logs = new Float64Array(all.length)
  for (let r = 0; r < all.length / classes; r++) {
    const at = (c: number): number => (Math.floor(r / space) * classes + c) * space + (r % space)
    let top = -Infinity
    for (let c = 0; c < classes; c++) top = Math.max(top, all[at(c)] as number)
    let sum = 0
    for (let c = 0; c < classes; c++) sum += Math.exp((all[at(c)] as number) - top)
    for (let c = 0; c < classes; c++) logs[at(c)] = (all[at(c)] as number) - top - Math.log(sum)
  }
  return [likelihood(node, logs, x, labels as Tensor, weights), made(x.type, x.dims, logs)]
})

export const losses: Readonly<Record<string, Host>> = { NegativeLogLikelihoodLoss: negativeLogLikelihood, SoftmaxCrossEntropyLoss: crossEntropy }
