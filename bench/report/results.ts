import type { Options } from '../options.ts';

/** What is measured, in the order of the report's columns. */
export const metrics = {
  operations: { title: 'operations', digits: 0 },
  perSecond: { title: 'per s', digits: 0 },
  cpuUs: { title: 'server CPU each, µs', digits: 1 },
  databaseUs: { title: 'database CPU each, µs', digits: 1 },
  statements: { title: 'SQL statements each', digits: 1 },
  buffers: { title: 'database pages looked at, each', digits: 0 },
  serverBusy: { title: 'server core, %', digits: 0 },
  othersBusy: { title: 'other core, %', digits: 0 },
  p50Ms: { title: 'p50, ms', digits: 1 },
  p99Ms: { title: 'p99, ms', digits: 1 },
  pssMb: { title: 'memory (PSS), MB', digits: 0 },
  kbPerSocket: { title: 'kB a subscriber', digits: 1 },
  kbOfTenth: { title: 'kB each of the first tenth', digits: 1 },
  kbOfRest: { title: 'kB each of the rest', digits: 1 },
} as const;
export type Metric = keyof typeof metrics;

/** One measurement. */
export interface Sample {
  readonly workload: string;
  /** A part of the workload that is told apart. */
  readonly kind?: string;
  readonly contender: string;
  readonly scale: number;
  readonly round: number;
  readonly values: Readonly<Partial<Record<Metric, number>>>;
}

/** Under what was measured. */
export interface About {
  readonly when: string;
  readonly node: string;
  readonly postgres: string;
  /** Its own memory. */
  readonly sharedBuffers: string;
  readonly processor: string;
  readonly commit: string;
  readonly load: string;
  /** Title by workload. */
  readonly workloads: Readonly<Record<string, string>>;
  /** Label by contender. */
  readonly contenders: Readonly<Record<string, string>>;
  /** Without what is of the machine that it was made on alone. */
  readonly options: Omit<Options, 'cache' | 'database' | 'sharedBuffers' | 'out'>;
}

/** What one run of the bench gives. */
export interface Report {
  readonly about: About;
  readonly samples: readonly Sample[];
}

export interface Ratio {
  readonly median: number;
  /** Bounds of the median, at 95 % or what so few rounds can tell. */
  readonly low: number;
  readonly high: number;
  readonly rounds: number;
}

/** Samples of one contender in one workload, and of what it is compared with, all of one run. */
export interface Pair {
  readonly ours: readonly Sample[];
  readonly theirs: readonly Sample[];
}

/** The scale that figures are of where nothing else is said: 1, or the first that was measured. */
export const usualScale = (samples: readonly Sample[]): number =>
  samples.some(({ scale }) => scale === 1) ? 1 : (samples[0]?.scale ?? 1);

/** Of the first run that measured both, at the usual scale; null: none did. */
export function pairOf(reports: readonly Report[], workload: string, ours: string, theirs: string): Pair | null {
  for (const { samples } of reports) {
    const all = samples.filter((one) => one.workload === workload);
    const scale = usualScale(all);
    const of = (contender: string) => all.filter((one) => one.contender === contender && one.scale === scale);
    const pair = { ours: of(ours), theirs: of(theirs) };
    if (pair.ours.length > 0 && pair.theirs.length > 0) return pair;
  }
  return null;
}

/** How a contender does compared with another, round by round. */
export const ratio = ({ ours, theirs }: Pair, metric: Metric): Ratio | null =>
  ratioBy(ours, theirs, ({ [metric]: value }) => value);

/** The same of something that is reckoned from the values. */
export function ratioBy(
  ours: readonly Sample[],
  theirs: readonly Sample[],
  value: (values: Sample['values']) => number | undefined,
): Ratio | null {
  const ratios = ours
    .flatMap(({ round, values }) => {
      const same = theirs.find((one) => one.round === round);
      const [own, other] = [value(values), same && value(same.values)];
      return own !== undefined && other ? [own / other] : [];
    })
    .toSorted((a, b) => a - b);
  if (ratios.length === 0) return null;
  const skip = tail(ratios.length);
  return {
    median: median(ratios),
    low: ratios[skip] ?? Number.NaN,
    high: ratios.at(-1 - skip) ?? Number.NaN,
    rounds: ratios.length,
  };
}

/**
 * How many of n values may be left out at each end so that the median is still between the rest with 95 %.
 * @see https://en.wikipedia.org/wiki/Sign_test
 */
function tail(n: number): number {
  let below = 0;
  let chance = 0.5 ** n;
  let sum = chance;
  while (sum <= 0.025) {
    below++;
    chance *= (n - below + 1) / below;
    sum += chance;
  }
  return Math.max(0, below - 1);
}

export const medianOf = (samples: readonly Sample[], metric: Metric): number | null => {
  const values = samples.flatMap(({ values }) => values[metric] ?? []);
  return values.length > 0 ? median(values) : null;
};

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Processor time of server and database together. */
export const wholeUs = ({ cpuUs, databaseUs }: Sample['values']): number | undefined =>
  cpuUs === undefined ? undefined : cpuUs + (databaseUs ?? 0);

/** Whether the core of the database and the load was full and the server's was not: then throughput tells nothing of the server. */
export const heldUp = (samples: readonly Sample[]): boolean =>
  (medianOf(samples, 'othersBusy') ?? 0) > 92 && (medianOf(samples, 'serverBusy') ?? 100) < 90;
