import { elide } from '../report/format'
import { printable, type Terminal } from './args'

/** @internal A bar on stderr, drawn only where there is a terminal; at most 25 times a second. */
export class ProgressBar {
  readonly #terminal: Terminal
  #last = 0
  #drawn = false

  constructor(terminal: Terminal) {
    this.#terminal = terminal
  }

  update(label: string, done: number, total: number, detail = ''): void {
    if (!this.#terminal.interactive) return
    const now = performance.now()
    if (now - this.#last < 40 && done < total) return
    this.#last = now
    this.#drawn = true
    const share = total > 0 ? Math.min(done / total, 1) : 1
    const full = Math.round(share * 24)
    const bar = '█'.repeat(full) + '░'.repeat(24 - full)
    const room = Math.max(this.#terminal.columns - 48, 0)
    const clean = printable(detail).replace(/\n/g, ' ')
    this.#terminal.err(
      `\r\x1b[2K${label.padEnd(9)} ${bar} ${String(Math.round(share * 100)).padStart(3)} %  ${room > 8 ? elide(clean, room) : ''}`,
    )
  }

  clear(): void {
    if (this.#drawn) this.#terminal.err('\r\x1b[2K')
    this.#drawn = false
  }
}
