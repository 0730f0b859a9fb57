import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'

import { WhittleError } from '../errors'

/** @internal Writes beside the target and renames, so that the target is whole or untouched. */
export function writeFileWhole(target: string, data: string | Uint8Array): void {
  const temporary = path.join(path.dirname(target), `.${path.basename(target)}.${randomBytes(6).toString('hex')}`)
  try {
    const fd = fs.openSync(temporary, 'wx')
    try {
      fs.writeFileSync(fd, data)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    fs.renameSync(temporary, target)
  } catch (cause) {
    fs.rmSync(temporary, { force: true })
    throw new WhittleError('ERR_IO', target, `${target}: cannot be written: ${(cause as Error).message}`, { cause })
  }
}
