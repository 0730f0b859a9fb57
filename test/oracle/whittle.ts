/** Plain statements of what the entropy coder promises, with big integers and without its tricks. */

/** Bits of the best code that knows only how often each symbol occurs. */
export function entropyBits(symbols: Iterable<number>): number {
  const counts = new Map<number, number>()
  let total = 0
  for (const s of symbols) {
    counts.set(s, (counts.get(s) ?? 0) + 1)
    total++
  }
  let bits = 0
  for (const n of counts.values()) bits -= n * Math.log2(n / total)
  return bits
}

/**
 * Duda's rANS as the paper writes it: x' = ⌊x/f⌋·M + c + (x mod f), on one state in [L, L·b) with M = 2^14, L = b = 2^16,
 * from the last symbol to the first. Answers the state and then the words in the order of decoding.
 */
export function ransWords(symbols: ArrayLike<number>, freq: ArrayLike<number>): number[] {
  const [m, b] = [1n << 14n, 1n << 16n]
  const cumulative = (s: number): bigint =>
    BigInt(
      Array.from(freq)
        .slice(0, s)
        .reduce((a, f) => a + f, 0),
    )
  const words: number[] = []
  let x = b
  for (let i = symbols.length - 1; i >= 0; i--) {
    const s = symbols[i]!
    const f = BigInt(freq[s]!)
    // The state that would leave [L, L·b) gives up its low word first.
    while ((x / f) * m + cumulative(s) + (x % f) >= b * b) {
      words.unshift(Number(x % b))
      x /= b
    }
    x = (x / f) * m + cumulative(s) + (x % f)
  }
  return [Number(x % b), Number(x / b), ...words]
}
