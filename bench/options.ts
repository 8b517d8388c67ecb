import { homedir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

export interface Options {
  readonly workloads: readonly string[];
  readonly contenders: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  readonly warmSeconds: number;
  readonly scales: readonly number[];
  readonly connections: number;
  /** Connections to the database that each contender has. */
  readonly pool: number;
  readonly different: number;
  readonly subscribers: number;
  readonly sockets: number;
  readonly runs: number;
  readonly operations: number;
  readonly against: string | null;
  readonly out: string;
  readonly cache: string;
  readonly database: string | undefined;
  /** Of the embedded server, as PostgreSQL writes it. */
  readonly sharedBuffers: string;
  readonly profile: string | null;
  readonly quick: boolean;
  readonly prepare: boolean;
}

/** The command line asks for what there is not. */
export class UnknownOption extends Error {}

/** What a smoke run has, unless something else is asked for: a minute is enough. */
const smoke = {
  workloads: ['Q1', 'Q2', 'Q3', 'M1', 'S1'],
  contenders: ['switchyard', 'switchyard-before', 'postgraphile', 'mercurius', 'yoga-stock', 'limit', 'raw-ws'],
};

export const help = `npm --prefix bench start -- [options]
  --workloads Q1,Q2      which ones (default: all)
  --contenders a,b       which ones beside switchyard (default: all)
  --rounds 7             interleaved: A B C A B C …
  --seconds 5            of one load
  --warm 3               seconds of load before the rounds
  --scale 1              size of the data, 0.01 to 10; several, comma-separated, tell how costs grow
  --connections 32       of HTTP loads
  --pool 4               connections to the database for each contender: it has one core
  --different 400        requests of one load of Q1, Q2, Q3; M1 takes all applications in turn
  --subscribers 2000     of S1, S2, L1; S3 has a tenth on each of 10 documents; R1 has 100
  --sockets 10000        of K1
  --runs 2000            of J1; E1 has five times as many events
  --operations 400       of C1
  --against <git ref>    measures the server of that commit, too
  --database <url>       of a server where databases may be made; default: an embedded one
  --shared-buffers 128MB memory of the embedded server: 128 MB are what one has that nobody set up
  --cache <folder>       of the data; default: ${cacheFolder()}
  --out <folder>         of the report; default: bench/results/<time>
  --profile <contender>  no rounds: where that one spends its time in each workload
  --prepare              only makes the data
  --quick                a smoke run: one round of one second, few subscribers, some of the workloads and contenders`;

function cacheFolder(): string {
  // Root's database runs as another user, who must get there.
  const own =
    process.getuid?.() === 0 ? '/var/cache' : (process.env['XDG_CACHE_HOME'] ?? path.join(homedir(), '.cache'));
  return path.join(own, 'switchyard-bench');
}

/** @throws {UnknownOption} {TypeError} */
export function optionsOf(
  args: readonly string[],
  all: { workloads: readonly string[]; contenders: readonly string[] },
) {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      workloads: text, contenders: text, rounds: text, seconds: text, warm: text, scale: text, connections: text, pool: text, different: text,
      subscribers: text, sockets: text, runs: text, operations: text, against: text, database: text, 'shared-buffers': text, cache: text, out: text, profile: text,
      quick: { type: 'boolean' }, prepare: { type: 'boolean' }, help: { type: 'boolean' },
    },
  }); // prettier-ignore
  if (values.help) return null;
  const { quick = false } = values;
  const number = (given: string | undefined, usual: number, least: number): number => {
    const value = Number(given ?? (quick ? least : usual));
    if (!(value > 0 || (value === 0 && least === 0)))
      throw new UnknownOption(`${given} is too small or no number\n${help}`);
    return value;
  };
  const size = (given: string): string => {
    if (!/^\d+(?:kB|MB|GB)$/.test(given)) throw new UnknownOption(`${given} is no size\n${help}`);
    return given;
  };
  const list = (given: string | undefined, of: readonly string[], few: readonly string[]): readonly string[] => {
    const chosen = given?.split(',').map((one) => one.trim()) ?? (quick ? of.filter((one) => few.includes(one)) : of);
    const unknown = chosen.find((one) => !of.includes(one));
    if (unknown !== undefined) throw new UnknownOption(`${unknown} is none of: ${of.join(', ')}\n${help}`);
    return of.filter((one) => chosen.includes(one));
  };
  return {
    workloads: list(values.workloads, all.workloads, smoke.workloads),
    contenders: list(values.contenders, all.contenders, smoke.contenders),
    rounds: number(values.rounds, 7, 1),
    seconds: number(values.seconds, 5, 1),
    warmSeconds: number(values.warm, 3, 0),
    scales: (values.scale ?? '1').split(',').map((one) => Math.min(10, number(one, 1, 1))),
    connections: number(values.connections, 32, 8),
    pool: number(values.pool, 4, 4),
    different: number(values.different, 400, 400),
    subscribers: number(values.subscribers, 2000, 40),
    sockets: number(values.sockets, 10_000, 100),
    runs: number(values.runs, 2000, 20),
    operations: number(values.operations, 400, 40),
    against: values.against ?? null,
    out: path.resolve(
      values.out ?? path.join(import.meta.dirname, 'results', new Date().toISOString().replaceAll(/[:.]/g, '-')),
    ),
    cache: path.resolve(values.cache ?? cacheFolder()),
    database: values.database,
    sharedBuffers: size(values['shared-buffers'] ?? '128MB'),
    profile: values.profile ?? null,
    quick,
    prepare: values.prepare ?? false,
  } satisfies Options;
}
