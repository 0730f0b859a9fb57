import path from 'node:path'

import { bytes } from '../report/format'
import { renderHtml } from '../report/html'
import { parseReport } from '../report/parse'
import { writeFileWhole } from '../report/write'
import { exitCode, onePath, parse, printable, UsageError, type Command } from './args'
import { readText } from './load'

const kHelp = `Usage: whittle report <report.json> -o <report.html> [options]

Makes one HTML page of what whittle compress --json, whittle compress --report x.json or whittle analyze --json wrote.

Options
  -o, --output <file>   where the page goes (needed)
      --title <text>    the page's title
      --json            one JSON document on stdout
  -h, --help            this text
`

/** @internal */
export const reportCommand: Command = {
  name: 'report',
  summary: 'make a page of a report',
  help: kHelp,
  run(args, terminal) {
    const { values, positionals } = parse(args, { output: { type: 'string', short: 'o' }, title: { type: 'string' }, json: { type: 'boolean' } })
    const input = onePath(positionals, 'report file')
    if (!values.output) throw new UsageError('-o <file> is missing: where shall the page go?')
    const output = onePath([values.output], 'output file')
    if (path.resolve(output) === path.resolve(input)) throw new UsageError('-o: the page cannot replace the report that it is made of')
    const sections = parseReport(readText(input, 'report'), path.basename(input))
    const html = renderHtml(sections, values.title || undefined)
    writeFileWhole(output, html)
    const size = Buffer.byteLength(html)
    terminal.out(values.json ? `${JSON.stringify({ output, bytes: size, sections: sections.map((s) => s.title) }, null, 2)}\n` : `${printable(output)}: ${bytes(size)}\n`)
    return Promise.resolve(exitCode.done)
  },
}
