import fs from 'node:fs'
import path from 'node:path'

/** @internal The version in the package's own package.json. */
export function version(): string {
  for (let folder = __dirname; ; folder = path.dirname(folder)) {
    try {
      const found = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8')) as {
        name?: string
        version?: string
      }
      if (found.name === 'whittle-ml' && found.version) return found.version
    } catch {
      // not here: look one folder up
    }
    if (folder === path.dirname(folder)) return 'unknown'
  }
}
