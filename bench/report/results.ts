import { median } from '../measure.ts';

/** What is measured, in the order of the report's columns. */
export const metrics = {
  perSecond: { title: 'per s', digits: 0 },
  cpuUs: { title: 'server CPU each, µs', digits: 1 },
  databaseUs: { title: 'database CPU each, µs', digits: 1 },
  statements: { title: 'SQL statements each', digits: 1 },
  serverBusy: { title: 'server core, %', digits: 0 },
  othersBusy: { title: 'other core, %', digits: 0 },
  p50Ms: { title: 'p50, ms', digits: 1 },
  p99Ms: { title: 'p99, ms', digits: 1 },
  pssMb: { title: 'memory (PSS), MB', digits: 0 },
  kbPerSocket: { title: 'kB a subscriber', digits: 1 },
} as const;
export type Metric = keyof typeof metrics;

/** One measurement. */
export interface Sample {
  readonly workload: string;
  readonly contender: string;
  readonly scale: number;
  readonly round: number;
  readonly values: Readonly<Partial<Record<Metric, number>>>;
}

export interface Ratio {
  readonly median: number;
  /** Bounds of the median, at 95 % or what so few rounds can tell. */
  readonly low: number;
  readonly high: number;
}

/** How a contender does compared with another, round by round. */
export function ratio(ours: readonly Sample[], theirs: readonly Sample[], metric: Metric): Ratio | null {
  const ratios = ours
    .flatMap(({ round, values }) => {
      const other = theirs.find((one) => one.round === round)?.values[metric];
      const own = values[metric];
      return own !== undefined && other ? [own / other] : [];
    })
    .toSorted((a, b) => a - b);
  if (ratios.length === 0) return null;
  const skip = tail(ratios.length);
  return { median: median(ratios), low: ratios[skip] ?? Number.NaN, high: ratios.at(-1 - skip) ?? Number.NaN };
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
