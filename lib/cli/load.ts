import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

import type { CalibrationData, Inputs } from '../compress/calibration'
import type { Evaluate } from '../compress/gate'
import { WhittleError } from '../errors'
import { UsageError } from './args'
import { readNpy } from './npy'

/** @internal The text of a file that the user names. */
export function readText(file: string, parameter: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch (cause) {
    throw new WhittleError('ERR_IO', parameter, `${parameter}: cannot read ${file}: ${(cause as Error).message}`, { cause })
  }
}

/** @internal Says before the work what could not be written after it. */
export function checkFolder(target: string, flag: string): void {
  const folder = path.dirname(path.resolve(target))
  if (!fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new WhittleError('ERR_IO', flag, `${flag}: cannot write ${target}: there is no folder ${folder}`)
}

/** A module's default export; a CommonJS module's exports are it, or hold it. */
async function defaultOf(file: string, flag: string): Promise<unknown> {
  let loaded: { default?: unknown }
  if (!fs.existsSync(file)) throw new UsageError(`--${flag}: there is no file ${file}`)
  try {
    loaded = (await import(pathToFileURL(path.resolve(file)).href)) as { default?: unknown }
  } catch (cause) {
    throw new WhittleError('ERR_IO', flag, `${flag}: cannot load ${file}: ${(cause as Error).message}`, { cause })
  }
  const found = loaded.default
  const inner = found !== null && typeof found === 'object' ? (found as { default?: unknown }).default : undefined
  return inner ?? found
}

/** Says whose fault an exception of the user's own module is, its trace kept; ours speak for themselves. */
function fromModule(flag: string, file: string, error: unknown): unknown {
  if (error instanceof WhittleError) return error
  const told = new Error(`--${flag}: ${file} threw`, { cause: error })
  told.stack = `--${flag}: ${file} threw ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`
  return told
}

const isIterable = (value: unknown): value is Iterable<Inputs> => {
  const it = value as { [Symbol.iterator]?: unknown; [Symbol.asyncIterator]?: unknown } | null | undefined
  return typeof value === 'object' && (typeof it?.[Symbol.iterator] === 'function' || typeof it?.[Symbol.asyncIterator] === 'function')
}

/** @internal The function that judges models. */
export async function loadEvaluate(file: string): Promise<Evaluate> {
  const found = await defaultOf(file, 'evaluate')
  if (typeof found !== 'function') throw new UsageError(`--evaluate: the default export of ${file} is not a function`)
  return async (model, context) => {
    try {
      return await (found as Evaluate)(model, context)
    } catch (error) {
      throw fromModule('evaluate', file, error)
    }
  }
}

/**
 * @internal Calibration inputs: what a module exports, or a folder. In a folder every .npy file is a set of inputs for a model
 * with one input, and every folder in it a set that holds `<input>.npy` for each; read one at a time, in order of names.
 *
 * @param inputs names of the model's inputs
 */
export async function loadCalibration(given: string, inputs: readonly string[]): Promise<CalibrationData> {
  let isFolder: boolean
  try {
    isFolder = fs.statSync(given).isDirectory()
  } catch {
    throw new UsageError(`--calibration: there is no file or folder ${given}`)
  }
  if (!isFolder) {
    const found = await defaultOf(given, 'calibration')
    if (typeof found !== 'function' && !isIterable(found))
      throw new UsageError(`--calibration: the default export of ${given} is neither a list of inputs by name nor a function that gives one`)
    if (Array.isArray(found)) return found as CalibrationData
    const guarded = async function* (sets: Iterable<Inputs>): AsyncGenerator<Inputs> {
      try {
        for await (const inputs of sets) yield inputs
      } catch (error) {
        throw fromModule('calibration', given, error)
      }
    }
    if (typeof found === 'function')
      return async () => {
        const sets: unknown = await Promise.resolve()
          .then(() => found() as unknown)
          .catch((error: unknown) => {
            throw fromModule('calibration', given, error)
          })
        return isIterable(sets) ? guarded(sets) : (sets as Iterable<Inputs>)
      }
    // Perhaps an iterator, which gives each set once; steps, report and times all read them.
    const all: Inputs[] = []
    for await (const inputs of guarded(found as Iterable<Inputs>)) all.push(inputs)
    return all
  }
  const order = (a: string, b: string): number => a.localeCompare(b, 'en', { numeric: true })
  const entries = fs.readdirSync(given, { withFileTypes: true })
  const files = entries.filter((e) => e.isFile() && e.name.endsWith('.npy')).map((e) => e.name).sort(order)
  const folders = entries.filter((e) => e.isDirectory() && fs.readdirSync(path.join(given, e.name)).some((f) => f.endsWith('.npy'))).map((e) => e.name).sort(order)
  if (files.length + folders.length === 0) throw new UsageError(`--calibration: ${given} holds no .npy files`)
  if (files.length && inputs.length !== 1)
    throw new UsageError(`--calibration: the model has ${inputs.length} inputs (${inputs.join(', ')}): give a folder for each set in ${given}, with <input>.npy in it`)
  return function* (): Generator<Inputs> {
    for (const f of files) yield { [inputs[0]!]: readNpy(path.join(given, f)) }
    for (const f of folders) yield Object.fromEntries(inputs.map((name) => [name, readNpy(path.join(given, f, `${name}.npy`))]))
  }
}
