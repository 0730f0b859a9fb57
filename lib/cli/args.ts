import { parseArgs } from 'node:util'

import { WhittleError } from '../errors'

/** @internal What the user typed does not fit: exit code 2. */
export class UsageError extends Error {}

/** @internal Exit codes, the same for every command. */
export const exitCode = { done: 0, failed: 1, usage: 2, limit: 3 } as const

/** @internal Where a command writes and what it may know of the terminal. */
export interface Terminal {
  out(text: string): void
  err(text: string): void
  /** stderr is a terminal, and nothing (CI, TERM=dumb) says that it cannot move its cursor. */
  readonly interactive: boolean
  readonly columns: number
  readonly signal: AbortSignal
}

/** @internal */
export interface Command {
  readonly name: string
  /** One line for the list of commands. */
  readonly summary: string
  readonly help: string
  run(args: readonly string[], terminal: Terminal): Promise<number>
}

type Options = Readonly<Record<string, { readonly type: 'string' | 'boolean'; readonly short?: string; readonly multiple?: boolean }>>

/** @internal What the options of {@link parse} come to. */
export interface Parsed<T extends Options> {
  readonly values: { readonly [K in keyof T]?: T[K]['type'] extends 'boolean' ? boolean : T[K]['multiple'] extends true ? readonly string[] : string }
  readonly positionals: readonly string[]
}

/** @internal `node:util` parseArgs, with its refusals as one line. */
export function parse<T extends Options>(args: readonly string[], options: T): Parsed<T> {
  try {
    const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true, strict: true })
    return { values: values as Parsed<T>['values'], positionals }
  } catch (error) {
    throw new UsageError(String((error as Error).message).split(/\.\s|\n/)[0])
  }
}

/** @internal Exactly one positional argument, and not an empty one. */
export function onePath(positionals: readonly string[], what: string): string {
  const [path, ...more] = positionals
  if (!path) throw new UsageError(`${what} is missing`)
  if (more.length) throw new UsageError(`only one ${what} is taken, got also ${JSON.stringify(more[0])}`)
  if (path.includes('\0')) throw new UsageError(`${what}: a path cannot hold a NUL character`)
  return path
}

/** @internal A number from the command line; what is no plain decimal number is refused, '' and '0x10' included. */
export function numberOf(text: string, flag: string): number {
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text))
    throw new UsageError(`${flag}: expected a number, got ${JSON.stringify(text)}`)
  return Number(text)
}

/** @internal Runs a check of what the user typed; its `WhittleError` is a usage error then. */
export function usage<T>(check: () => T): T {
  try {
    return check()
  } catch (error) {
    if (error instanceof WhittleError) throw new UsageError(error.message)
    throw error
  }
}

/** @internal Text for a terminal: names come from model files, and control characters in them stay out. Keeps newlines. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]+/g, ' ')
}
