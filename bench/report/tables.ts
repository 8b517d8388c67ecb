import { changes, growth, judged, shown } from './goals.ts';
import { heldUp, medianOf, metrics, pairOf, ratio, ratioBy, usualScale, wholeUs, type About, type Metric, type Report, type Sample } from './results.ts'; // prettier-ignore

/** A Markdown table; the first row is its head. */
const table = (...rows: readonly (readonly string[])[]): string =>
  rows.length < 2
    ? 'Not measured.'
    : rows
        .map((row, index) => `| ${row.join(' | ')} |${index === 0 ? `\n|${row.map(() => ' --- ').join('|')}|` : ''}`)
        .join('\n');

const digits = (metric: Metric, value: number | null): string =>
  value === null ? '' : value.toFixed(metrics[metric].digits);

/** Whole numbers, with more figures where they are small. */
const figure = (value: number | null): string =>
  value === null ? '' : value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(2);

/** Under what a run was made, in a line. */
export const conditions = ({
  when,
  commit,
  node,
  postgres,
  sharedBuffers,
  processor,
  load,
  options,
}: About): string => {
  const { workloads, rounds, seconds, connections, pool, subscribers, sockets } = options;
  const idle = workloads.includes('K1') ? `, ${sockets} idle sockets` : '';
  const said = [
    workloads.join(' '), `${rounds} rounds of ${seconds} s`, `${connections} connections, ${subscribers} subscribers${idle}`,
    when.slice(0, 16).replace('T', ' '), `commit ${commit}`, `Node ${node}`, `PostgreSQL ${postgres}, shared_buffers ${sharedBuffers}, ${pool} connections`,
    processor, `load by ${load}`,
  ]; // prettier-ignore
  return said.join(' · ');
};

/** The tables of one workload at one scale. */
export function section(about: About, workload: string, scale: number, samples: readonly Sample[]): string {
  const of = (contender: string) => samples.filter((one) => one.contender === contender);
  const present = Object.keys(about.contenders).filter((one) => of(one).length > 0);
  const columns = (Object.keys(metrics) as Metric[]).filter((metric) =>
    samples.some(({ values }) => values[metric] !== undefined),
  );
  const label = (contender: string) => about.contenders[contender] ?? contender;
  const compared = (['perSecond', 'cpuUs', 'p99Ms'] as const).filter((metric) => columns.includes(metric));
  const others = of('switchyard').length > 0 ? present.filter((one) => one !== 'switchyard') : [];
  const full = present.filter((one) => heldUp(of(one)));
  return [
    `## ${workload}, scale ${scale}: ${about.workloads[workload] ?? ''}`,
    table(
      ['', ...columns.map((metric) => metrics[metric].title)],
      ...present.map((one) => [label(one), ...columns.map((metric) => digits(metric, medianOf(of(one), metric)))]),
    ),
    ...(full.length > 0
      ? [`Held up by the core of the database and the load, which was full: ${full.map(label).join(', ')}.`]
      : []),
    ...(others.length > 0
      ? [
          'Switchyard as a ratio to',
          table(
            ['', ...compared.map((metric) => metrics[metric].title)],
            ...others.map((other) => [
              label(other),
              ...compared.map((metric) => shown(ratio({ ours: of('switchyard'), theirs: of(other) }, metric))),
            ]),
          ),
        ]
      : []),
    `![${workload}](${workload}-${scale}.svg)`,
  ].join('\n\n');
}

const requests = ['Q1', 'Q2', 'Q3', 'M1'];
const streams = ['S1', 'L1', 'S2', 'S3', 'R1', 'K1'];

/** The samples of a contender in a workload, of the first run that has both it and ours. */
const samplesOf = (reports: readonly Report[], workload: string, contender: string): readonly Sample[] =>
  pairOf(reports, workload, contender, 'switchyard')?.ours ?? [];

/** Workloads by contenders; what nobody has is left out. */
function matrix(
  reports: readonly Report[],
  workloads: readonly string[],
  cell: (workload: string, contender: string) => string,
): string {
  const labels = new Map(reports.flatMap(({ about }) => Object.entries(about.contenders)));
  const present = [...labels.keys()].filter((contender) => workloads.some((one) => cell(one, contender) !== ''));
  return table(
    ['', ...present.map((one) => labels.get(one) ?? one)],
    ...workloads
      .map((workload) => [workload, ...present.map((contender) => cell(workload, contender))])
      .filter(([, ...cells]) => cells.some((one) => one !== '')),
  );
}

const ratios = (reports: readonly Report[], workloads: readonly string[], metric: Metric): string =>
  matrix(reports, workloads, (workload, contender) => {
    const pair = contender === 'switchyard' ? null : pairOf(reports, workload, 'switchyard', contender);
    return pair ? shown(ratio(pair, metric)) : '';
  });

const processor = (reports: readonly Report[], workloads: readonly string[]): string =>
  matrix(reports, workloads, (workload, contender) => {
    const own = samplesOf(reports, workload, contender);
    const [server, database] = [medianOf(own, 'cpuUs'), medianOf(own, 'databaseUs')];
    return server === null ? '' : `${figure(server)}${database === null ? '' : ` + ${figure(database)}`}`;
  });

const medians = (reports: readonly Report[], workloads: readonly string[], metric: Metric): string =>
  matrix(reports, workloads, (workload, contender) =>
    figure(medianOf(samplesOf(reports, workload, contender), metric)),
  );

const latencies = (reports: readonly Report[]): string =>
  matrix(reports, ['L1', 'K1'], (workload, contender) => {
    const own = samplesOf(reports, workload, contender);
    const [p50, p99] = [medianOf(own, 'p50Ms'), medianOf(own, 'p99Ms')];
    return p50 === null ? '' : `${figure(p50)} · ${figure(p99)}`;
  });

/** Memory of a subscriber; of K1 also what the first ones and the others take, for the process grows in one leap. */
const subscribersTable = (reports: readonly Report[]): string => {
  const rows: Record<string, readonly [workload: string, metric: Metric]> = {
    S1: ['S1', 'kbPerSocket'],
    S2: ['S2', 'kbPerSocket'],
    S3: ['S3', 'kbPerSocket'],
    K1: ['K1', 'kbPerSocket'],
    'K1, the first tenth': ['K1', 'kbOfTenth'],
    'K1, the rest': ['K1', 'kbOfRest'],
  };
  return matrix(reports, Object.keys(rows), (name, contender) => {
    const [workload, metric] = rows[name] ?? [name, 'kbPerSocket'];
    return figure(medianOf(samplesOf(reports, workload, contender), metric));
  });
};

/** What one core is enough for, each second: what each takes of it, turned round. */
function sizesTable(reports: readonly Report[]): string {
  const own = (workload: string): readonly Sample[] =>
    reports.map(({ samples }) => samples.filter((one) => one.workload === workload && one.contender === 'switchyard'))
      .find((all) => all.length > 0) ?? []; // prettier-ignore
  const usual = (all: readonly Sample[]) => all.filter(({ scale }) => scale === usualScale(all));
  const of = (workload: string, metric: Metric) => medianOf(usual(own(workload)), metric);
  const round = (value: number): string => Number(value.toPrecision(2)).toLocaleString('en');
  const perCore = (us: number | null): string => (us ? round(1e6 / us) : '');
  const what = {
    Q1: 'point reads',
    Q3: 'pages of 50 with a count',
    Q2: 'nested lists of 100 deployments',
    M1: 'mutations with event and job',
    S1: 'deliveries of a stream that all share',
    S2: 'deliveries of streams with one subscriber',
    S3: 'deliveries of dashboards with rows',
    J1: 'runs of three steps that do nothing (a worker)',
    E1: 'events (a worker)',
  } as const;
  const [idle, memory, server] = [of('K1', 'cpuUs'), of('K1', 'kbPerSocket'), of('K1', 'pssMb')];
  return [
    table(
      ['a second', 'one core of Switchyard', 'one core of PostgreSQL'],
      ...Object.entries(what).map(([workload, name]) => [`${name} (${workload})`, perCore(of(workload, 'cpuUs')), workload.startsWith('S') ? '' : perCore(of(workload, 'databaseUs'))]), // prettier-ignore
    ),
    ...(idle && memory && server
      ? [
          `Ten thousand idle subscribers (K1) take ${round(memory * 10)} MB and ${round(idle / 1e6 * 10_000 * 100)} % of a core; the process as a whole has ${round(server)} MB.`, // prettier-ignore
        ]
      : []),
  ].join('\n\n');
}

const goalsTable = (reports: readonly Report[]): string =>
  table(['', 'goal', 'seen', 'met'], ...judged(reports).map(({ what, goal, seen, met }) => [what, goal, seen, met]));

const growthTable = (reports: readonly Report[]): string => {
  const labels = new Map(reports.flatMap(({ about }) => Object.entries(about.contenders)));
  return table(
    ['', '', 'scales', 'shared_buffers', 'per s', 'server CPU each', 'database CPU each', 'pages looked at, each'],
    ...growth(reports).map(({ workload, contender, from, to, sharedBuffers, perSecond, cpuUs, databaseUs, buffers }) =>
      [workload, labels.get(contender) ?? contender, `${from} → ${to}`, sharedBuffers, shown(perSecond), shown(cpuUs), shown(databaseUs), buffers?.median.toFixed(2) ?? '']), // prettier-ignore
  );
};

const changesTable = (reports: readonly Report[]): string =>
  table(
    ['', 'per s', 'CPU each, server and database', ''],
    ...changes(reports).map(({ workload, perSecond, cpu, verdict }) => [workload, shown(perSecond), shown(cpu), verdict]), // prettier-ignore
  );

/** Random operations by kind: how many there are, and what compiling makes of their processor time. */
function corpusTable(reports: readonly Report[]): string {
  const pair = pairOf(reports, 'C1', 'switchyard', 'switchyard-ordinary');
  if (!pair) return table();
  const scale = usualScale(pair.ours);
  const kinds = [...new Set(pair.ours.map(({ kind }) => kind ?? ''))];
  const of = (samples: readonly Sample[], kind: string) => samples.filter((one) => one.kind === kind && one.scale === scale); // prettier-ignore
  const count = (kind: string): number => medianOf(of(pair.ours, kind), 'operations') ?? 0;
  const all = Math.max(...kinds.map(count));
  const cost = (samples: readonly Sample[]): string => `${figure(medianOf(samples, 'cpuUs'))} + ${figure(medianOf(samples, 'databaseUs'))}`; // prettier-ignore
  return table(
    ['', 'operations', 'compiling, µs', 'not compiling, µs', 'server', 'server and database'],
    ...kinds.map((kind) => {
      const [ours, theirs] = [of(pair.ours, kind), of(pair.theirs, kind)];
      const share = `${count(kind)} (${((100 * count(kind)) / all).toFixed(0)} %)`;
      const speedUp = [({ cpuUs }: Sample['values']) => cpuUs, wholeUs].map((value) => shown(ratioBy(theirs, ours, value))); // prettier-ignore
      return [kind, share, cost(ours), cost(theirs), ...speedUp];
    }),
  );
}

/** Parts of docs/performance.md that are made of measurements, by the name of their place. */
export const parts: Readonly<Record<string, (reports: readonly Report[]) => string>> = {
  conditions: (reports) => reports.map(({ about }) => `- ${conditions(about)}`).join('\n'),
  goals: goalsTable,
  throughput: (reports) => ratios(reports, requests, 'perSecond'),
  processor: (reports) => processor(reports, requests),
  statements: (reports) => medians(reports, [...requests, 'J1', 'E1'], 'statements'),
  deliveries: (reports) => medians(reports, streams, 'perSecond'),
  'delivery-processor': (reports) => processor(reports, streams),
  latency: latencies,
  subscribers: subscribersTable,
  sizes: sizesTable,
  runs: (reports) => medians(reports, ['J1', 'E1'], 'perSecond'),
  'runs-processor': (reports) => processor(reports, ['J1', 'E1']),
  growth: growthTable,
  before: changesTable,
  corpus: corpusTable,
};

/** What there is to say of all workloads together; nothing of what was not measured. */
export const summary = (reports: readonly Report[]): string =>
  [
    ['Goals', goalsTable(reports)] as const,
    ...(growth(reports).length > 0 ? [['Growth with the data, as ratios', growthTable(reports)] as const] : []),
    ...(changes(reports).length > 0 ? [['Beside the commit before, as ratios', changesTable(reports)] as const] : []),
    ...(pairOf(reports, 'C1', 'switchyard', 'switchyard-ordinary')
      ? [['Random operations: what compiling makes of them', corpusTable(reports)] as const]
      : []),
  ]
    .map(([title, text]) => `## ${title}\n\n${text}`)
    .join('\n\n');
