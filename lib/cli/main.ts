#!/usr/bin/env node
import os from 'node:os'

import { WhittleError } from '../errors'
import { exitCode, printable, UsageError, type Command, type Terminal } from './args'
import { analyzeCommand } from './analyze'
import { doctor } from './doctor'
import { compressCommand } from './compress'
import { inspect } from './inspect'
import { bench } from './bench'
import { reportCommand } from './report'
import { run } from './run'
import { pack, unpack } from './unpack'
import { version } from '../version'

const kCommands: readonly Command[] = [inspect, analyzeCommand, compressCommand, reportCommand, pack, unpack, run, bench, doctor]

const kHelp = `whittle: make ONNX models smaller, and run them

Usage: whittle <command> [options]

Commands
${kCommands.map((c) => `  ${c.name.padEnd(10)} ${c.summary}`).join('\n')}

Every command takes --json (one JSON document on stdout) and --help.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a limit was not met (nothing is written); stopped by a signal: 128 and its
number (Ctrl-C 130, SIGTERM 143; nothing half-written is left).
`

/**
 * @internal One run of the command line. Answers an exit code; never throws for what a user can cause, and prints one
 * line on stderr instead. A command that the terminal's signal stopped answers 128 and the number of the system's signal that is its reason.
 */
export async function main(args: readonly string[], terminal: Terminal): Promise<number> {
  const [name, ...rest] = args
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    terminal.out(kHelp)
    return name === undefined ? exitCode.usage : exitCode.done
  }
  if (name === '--version' || name === '-v') {
    terminal.out(`${version()}\n`)
    return exitCode.done
  }
  const command = kCommands.find((c) => c.name === name)
  if (!command) {
    terminal.err(
      `whittle: there is no command ${JSON.stringify(name)}; there are ${kCommands.map((c) => c.name).join(', ')}\n`,
    )
    return exitCode.usage
  }
  const end = rest.indexOf('--')
  if ((end < 0 ? rest : rest.slice(0, end)).some((a) => a === '--help' || a === '-h')) {
    terminal.out(command.help)
    return exitCode.done
  }
  try {
    return await command.run(rest, terminal)
  } catch (error) {
    if (error instanceof UsageError) {
      terminal.err(`whittle ${name}: ${oneLine(error.message)} (see whittle ${name} --help)\n`)
      return exitCode.usage
    }
    // Whatever fails once all is to stop (the user's own functions hear of it too) fails for that.
    const stopped = terminal.signal.aborted ? kSignals.find((s) => s === terminal.signal.reason) : undefined
    if (stopped) {
      terminal.err(`whittle ${name}: stopped by ${stopped}\n`)
      return 128 + os.constants.signals[stopped]
    }
    if (error instanceof WhittleError && error.code !== 'ERR_LIMIT' && Object.hasOwn(kFlags, error.parameter ?? '')) {
      const [parameter, flag] = [error.parameter!, kFlags[error.parameter!]!]
      const text = error.message.replaceAll(parameter, flag).replace('an evaluate function', 'a module with --evaluate')
      terminal.err(`whittle ${name}: ${oneLine(text)} (see whittle ${name} --help)\n`)
      return exitCode.usage
    }
    if (error instanceof WhittleError) {
      terminal.err(`whittle ${name}: ${error.code}: ${oneLine(error.message)}\n`)
      return error.code === 'ERR_LIMIT' ? exitCode.limit : exitCode.failed
    }
    // Not ours: an exception out of the user's own module, or a bug. Its trace is what helps.
    terminal.err(`whittle ${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
    return exitCode.failed
  }
}

/** Parameters of functions that a user of the command line knows as flags: what is wrong with them is wrong usage. */
const kFlags: Readonly<Record<string, string>> = {
  'options.calibration': '--calibration',
  'options.evaluate': '--evaluate',
  'options.sensitivity': '--sensitivity',
  'limits.accuracyDrop': 'limits.accuracyDrop',
  'limits.latency': 'limits.latency',
  'limits.bytes': '--max-bytes',
}

/** What ends a command in good order; the same once more ends the process at once. */
const kSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

const oneLine = (text: string): string => printable(text).replace(/\n+/g, ' ').trim()

if (require.main === module) {
  const abort = new AbortController()
  for (const signal of kSignals) process.once(signal, () => abort.abort(signal))
  // A reader that closes the pipe early (head) is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(exitCode.done)
    throw error
  })
  const { env, stderr, stdout } = process
  void main(process.argv.slice(2), {
    out: (text) => void stdout.write(text),
    err: (text) => void stderr.write(text),
    interactive: stderr.isTTY === true && !env['CI'] && env['TERM'] !== 'dumb',
    columns: stdout.columns ?? 100,
    signal: abort.signal,
  }).then((code) => {
    // What a user's module left running must not outlive the wish to stop.
    if (abort.signal.aborted) process.exit(code)
    process.exitCode = code
  })
}
