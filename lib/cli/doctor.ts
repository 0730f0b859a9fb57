import { cudaLibraries, devices, type CudaLibrary } from '../kernels/devices'
import { bytes, table } from '../report/format'
import { version } from '../version'
import { exitCode, parse, UsageError, type Command } from './args'

const kHelp = `Usage: whittle doctor [--json]

Says what computes on this machine: the CPU variant in use and why not a stronger one, threads, and whether a GPU is
used. WHITTLE_CPU=<tier> caps the tier, WHITTLE_THREADS=<n> sets the threads, WHITTLE_CUDA=0 hides GPUs.

Options
      --json    one JSON document on stdout
  -h, --help    this text
`

/** @internal */
export const doctor: Command = {
  name: 'doctor',
  summary: 'say which CPU variant, threads and GPU are used, and why',
  help: kHelp,
  run(args, terminal) {
    const { values, positionals } = parse(args, { json: { type: 'boolean' } })
    if (positionals.length) throw new UsageError(`takes no argument, got ${JSON.stringify(positionals[0])}`)
    const found = devices()
    const cuda = { ...found.cuda, libraries: found.cuda.available ? cudaLibraries() : [] }
    const about = { version: version(), node: process.version, platform: process.platform, ...found, cuda }
    if (values.json) terminal.out(`${JSON.stringify(about, null, 2)}\n`)
    else terminal.out(describe(about))
    return Promise.resolve(exitCode.done)
  },
}

type Found = ReturnType<typeof devices>
type About = Found & { version: string; node: string; platform: string; cuda: Found['cuda'] & { libraries: readonly CudaLibrary[] } }

function describe({ version, node, platform, cpu, cuda }: About): string {
  const chosen = cpu.tiers.findIndex((t) => t.name === cpu.variant)
  const tiers = cpu.tiers.map((tier, i) => {
    const why = !tier.supported
      ? `no: ${tier.missing}`
      : tier.name === cpu.variant
        ? cpu.forced
          ? 'in use: WHITTLE_CPU asks for it'
          : 'in use: the strongest that runs here'
        : cpu.forced && i > chosen
          ? 'runs here, but WHITTLE_CPU caps it'
          : 'runs here'
    return [tier.name, why]
  })
  const kernels = Object.entries(cpu.kernels)
  return [
    `whittle-ml ${version}, Node.js ${node}, ${platform}-${cpu.arch}`,
    `CPU       ${cpu.variant}${cpu.forced ? ' (forced)' : ''}`,
    `threads   ${cpu.threads} of ${cpu.availableThreads} that affinity and cgroup quota grant`,
    `caches    L1d ${bytes(cpu.caches.l1d)}, L2 ${bytes(cpu.caches.l2)}, L3 ${bytes(cpu.caches.l3)}`,
    `CUDA      ${cuda.available ? `yes${cuda.emulated ? ', emulated on this CPU' : ''}: runtime ${cuda.runtime}, driver ${cuda.driver}` : `no: ${cuda.reason}`}`,
    ...cuda.devices.map((d) => `          ${d.id}: ${d.name}, compute capability ${d.capability}, ${bytes(d.memory)}`),
    ...cuda.libraries.map((l) => `          ${l.name}: ${l.path || `no: ${l.reason}`} (${l.serves})`),
    '',
    table(['tier', 'state'], tiers),
    ...(kernels.length ? ['', table(['kernel family', 'variant'], kernels)] : []),
    '',
  ].join('\n')
}
