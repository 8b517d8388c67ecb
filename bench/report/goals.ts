import {
  heldUp,
  medianOf,
  metrics,
  pairOf,
  ratio,
  ratioBy,
  wholeUs,
  type Metric,
  type Ratio,
  type Report,
} from './results.ts';

/** What is wanted of a workload: at least or at most so much, of our own or as a ratio to another contender. */
interface Goal {
  readonly workload: string;
  readonly metric: Metric;
  /** Another contender: the ratio to it counts; with `plus`, the difference. */
  readonly to?: string;
  readonly plus?: true;
  readonly least?: number;
  readonly most?: number;
}

export const goals: readonly Goal[] = [
  { workload: 'Q1', metric: 'perSecond', to: 'postgraphile', least: 3.5 },
  { workload: 'Q1', metric: 'cpuUs', to: 'postgraphile', most: 1 / 3 },
  { workload: 'Q2', metric: 'perSecond', to: 'postgraphile', least: 1.25 },
  { workload: 'Q2', metric: 'cpuUs', to: 'postgraphile', most: 1 / 3 },
  { workload: 'Q3', metric: 'perSecond', to: 'postgraphile', least: 1 },
  { workload: 'Q3', metric: 'cpuUs', to: 'postgraphile', most: 1 / 3 },
  { workload: 'M1', metric: 'perSecond', to: 'mercurius', least: 1 },
  { workload: 'Q1', metric: 'perSecond', to: 'limit', least: 0.7 },
  { workload: 'Q2', metric: 'perSecond', to: 'limit', least: 0.85 },
  { workload: 'Q3', metric: 'perSecond', to: 'limit', least: 0.9 },
  { workload: 'M1', metric: 'perSecond', to: 'limit', least: 0.7 },
  { workload: 'S1', metric: 'cpuUs', to: 'raw-ws', most: 1.2 },
  { workload: 'S2', metric: 'cpuUs', to: 'raw-ws', most: 2 },
  { workload: 'S3', metric: 'perSecond', to: 'yoga-stock', least: 5 },
  { workload: 'L1', metric: 'p99Ms', most: 50 },
  { workload: 'K1', metric: 'kbPerSocket', to: 'raw-ws', plus: true, most: 10 },
];

/** Cost may grow by so much where it is called flat: what rounds differ by. */
const flat = 1.2;
/** A workload is slower than before when the bounds of its ratio lie below this. */
const slower = 0.97;
/** Rounds that this takes. */
const enoughRounds = 7;

export interface Judged {
  readonly what: string;
  readonly goal: string;
  readonly seen: string;
  readonly met: 'yes' | 'no' | '?';
}

export const shown = (one: Ratio | null): string => one ? `${one.median.toFixed(2)} [${one.low.toFixed(2)}–${one.high.toFixed(2)}]` : ''; // prettier-ignore
const bound = (value: number): string => (value === 1 / 3 ? '1/3' : String(value));

function judge(goal: Goal, reports: readonly Report[]): Judged {
  const { workload, metric, to, plus, least, most } = goal;
  const labels = Object.assign({}, ...reports.map(({ about }) => about.contenders)) as Record<string, string>;
  const pair = pairOf(reports, workload, 'switchyard', to ?? 'switchyard');
  const compared = pair && to && !plus ? ratio(pair, metric) : null;
  const own = pair && medianOf(pair.ours, metric);
  const base = pair && plus ? medianOf(pair.theirs, metric) : 0;
  const value = to && !plus ? compared?.median : own === null || base === null ? undefined : own - base;
  const full = metric === 'perSecond' && pair && heldUp(pair.ours) ? ', the other core full' : '';
  const unit = to && !plus ? ' ×' : '';
  return {
    what: `${workload} ${metrics[metric].title}${to ? `, ${plus ? 'more than' : 'to'} ${labels[to] ?? to}` : ''}`,
    goal: `${least === undefined ? `≤ ${bound(most ?? 0)}` : `≥ ${bound(least)}`}${unit}`,
    seen: value === undefined ? 'not measured' : (compared ? shown(compared) : value.toFixed(1)) + full,
    met: value === undefined ? '?' : value >= (least ?? -Infinity) && value <= (most ?? Infinity) ? 'yes' : 'no',
  };
}

export interface Grown {
  readonly workload: string;
  readonly contender: string;
  /** Of the database. */
  readonly sharedBuffers: string;
  readonly from: number;
  readonly to: number;
  /** At the largest scale, as ratios to the smallest. */
  readonly perSecond: Ratio | null;
  readonly cpuUs: Ratio | null;
  readonly databaseUs: Ratio | null;
  readonly buffers: Ratio | null;
}

/** How workloads grow with the data, of the first run that tells it with so much memory. */
export function growth(reports: readonly Report[]): Grown[] {
  const found = new Map<string, Grown>();
  for (const { about, samples } of reports) {
    const { sharedBuffers } = about;
    const plain = samples.filter(({ kind }) => kind === undefined);
    for (const [key, group] of Map.groupBy(
      plain,
      ({ workload, contender }) => `${sharedBuffers} ${workload} ${contender}`,
    )) {
      const scales = [...new Set(group.map(({ scale }) => scale))].toSorted((a, b) => a - b);
      const [first, from, to] = [group[0], scales[0], scales.at(-1)];
      if (!first || from === undefined || to === undefined || from === to || found.has(key)) continue;
      const of = (scale: number) => group.filter((one) => one.scale === scale);
      const grown = (metric: Metric): Ratio | null => ratio({ ours: of(to), theirs: of(from) }, metric);
      const { workload, contender } = first;
      found.set(key, { workload, contender, sharedBuffers, from, to, perSecond: grown('perSecond'), cpuUs: grown('cpuUs'), databaseUs: grown('databaseUs'), buffers: grown('buffers') }); // prettier-ignore
    }
  }
  return [...found.values()];
}

export interface Change {
  readonly workload: string;
  readonly perSecond: Ratio | null;
  /** Of server and database together. */
  readonly cpu: Ratio | null;
  readonly verdict: 'slower' | 'not slower' | 'too few rounds';
}

/** This commit compared with the one that `--against` named. */
export function changes(reports: readonly Report[]): Change[] {
  const workloads = new Set(reports.flatMap(({ samples }) => samples.map(({ workload }) => workload)));
  return [...workloads].flatMap((workload): Change[] => {
    // Latency is measured at half of each one's own rate.
    const pair = workload === 'L1' ? null : pairOf(reports, workload, 'switchyard', 'switchyard-before');
    if (!pair) return [];
    const perSecond = ratio(pair, 'perSecond');
    const cpu = ratioBy(pair.ours, pair.theirs, wholeUs);
    const isSlower = perSecond !== null && perSecond.high < slower;
    const verdict = (perSecond?.rounds ?? 0) < enoughRounds ? 'too few rounds' : isSlower ? 'slower' : 'not slower';
    return perSecond ? [{ workload, perSecond, cpu, verdict }] : [];
  });
}

const told = (names: readonly string[], of: number, none: string): string =>
  of === 0 ? 'not measured' : names.length > 0 ? names.join(', ') : `${none} of ${of}`;

/** Whether cost is flat: of each size of the database's memory that it was measured with. */
function judgedGrowth(reports: readonly Report[]): Judged[] {
  const worst = ({ cpuUs, databaseUs }: Grown): Ratio | null =>
    (databaseUs?.median ?? 0) > (cpuUs?.median ?? 0) ? databaseUs : cpuUs;
  const grown = growth(reports).filter((one) => one.contender === 'switchyard' && worst(one));
  const bySize = Map.groupBy(grown, ({ sharedBuffers }) => sharedBuffers);
  const row = (all: readonly Grown[]): Judged => {
    const [first] = all;
    const costly = all.filter((one) => (worst(one)?.median ?? 0) > flat);
    return {
      what: `CPU of server or database, each, at ${first ? `${first.to / first.from} × the data, shared_buffers ${first.sharedBuffers}` : '10 × the data'}`,
      goal: `≤ ${flat} × in every workload`,
      seen: told(costly.map((one) => `${one.workload} ${shown(worst(one))}`), all.length, 'more in none'), // prettier-ignore
      met: all.length === 0 ? '?' : costly.length === 0 ? 'yes' : 'no',
    };
  };
  return bySize.size === 0 ? [row([])] : [...bySize.values()].map(row);
}

/** Every goal, with what was seen. */
export function judged(reports: readonly Report[]): Judged[] {
  const changed = changes(reports);
  const worse = changed.filter(({ verdict }) => verdict === 'slower');
  const few = changed.some(({ verdict }) => verdict === 'too few rounds');
  return [
    ...goals.map((goal) => judge(goal, reports)),
    ...judgedGrowth(reports),
    {
      what: 'workloads slower than on the commit before',
      goal: `none (${enoughRounds} rounds, bounds below ${slower})`,
      seen: told(worse.map(({ workload, perSecond }) => `${workload} ${shown(perSecond)}`), changed.length, 'none'), // prettier-ignore
      met: worse.length > 0 ? 'no' : changed.length === 0 || few ? '?' : 'yes',
    },
  ];
}
