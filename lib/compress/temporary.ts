import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

/** A file that was removed while it is open, so that its bytes go with the descriptor. Throws what the system says. */
export function openTemporary(): number {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-spill-'))
  try {
    const file = path.join(folder, 'weights')
    const fd = fs.openSync(file, 'wx+', 0o600)
    fs.unlinkSync(file)
    return fd
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}
