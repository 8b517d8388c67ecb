import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { medianOf, metrics, ratio, type Metric, type Ratio, type Sample } from './results.ts';
import { bars } from './svg.ts';

export interface About {
  readonly when: string;
  readonly node: string;
  readonly postgres: string;
  readonly processor: string;
  readonly commit: string;
  readonly load: string;
  /** Title by workload. */
  readonly workloads: Readonly<Record<string, string>>;
  /** Label by contender. */
  readonly contenders: Readonly<Record<string, string>>;
  readonly options: object;
}

const names = Object.keys(metrics) as Metric[];
const cell = (value: number | null, digits: number): string => (value === null ? '' : value.toFixed(digits));
const shown = (one: Ratio | null): string => (one ? `${one.median.toFixed(2)} [${one.low.toFixed(2)}–${one.high.toFixed(2)}]` : ''); // prettier-ignore
const table = (rows: readonly (readonly string[])[]): string =>
  rows
    .map((row, index) => `| ${row.join(' | ')} |${index === 0 ? `\n|${row.map(() => '---').join('|')}|` : ''}`)
    .join('\n');

/** The tables of one workload at one scale. */
function section(about: About, workload: string, scale: number, samples: readonly Sample[]): string {
  const of = (contender: string) => samples.filter((one) => one.contender === contender);
  const present = Object.keys(about.contenders).filter((one) => of(one).length > 0);
  const columns = names.filter((metric) => samples.some(({ values }) => values[metric] !== undefined));
  const medians = present.map((contender) => [
    about.contenders[contender] ?? contender,
    ...columns.map((metric) => cell(medianOf(of(contender), metric), metrics[metric].digits)),
  ]);
  const others = present.filter((one) => one !== 'switchyard');
  const compared = (['perSecond', 'cpuUs', 'p99Ms'] as const).filter((metric) => columns.includes(metric));
  const ratios = others.map((other) => [
    about.contenders[other] ?? other,
    ...compared.map((metric) => shown(ratio(of('switchyard'), of(other), metric))),
  ]);
  const plot = `![${workload}](${workload}-${scale}.svg)`;
  return [
    `## ${workload}, scale ${scale}: ${about.workloads[workload] ?? ''}`,
    table([['', ...columns.map((metric) => metrics[metric].title)], ...medians]),
    ...(ratios.length > 0 && of('switchyard').length > 0
      ? ['Switchyard as a ratio to', table([['', ...compared.map((metric) => metrics[metric].title)], ...ratios])]
      : []),
    plot,
  ].join('\n\n');
}

/** What a workload costs at the largest scale, as a ratio to the smallest. */
function growth(about: About, samples: readonly Sample[]): string | null {
  const scales = [...new Set(samples.map(({ scale }) => scale))].toSorted((a, b) => a - b);
  const [least, most] = [scales[0], scales.at(-1)];
  if (least === most) return null;
  const rows = Object.keys(about.workloads).flatMap((workload) =>
    Object.keys(about.contenders).flatMap((contender) => {
      const at = (scale?: number) =>
        samples.filter((one) => one.workload === workload && one.contender === contender && one.scale === scale);
      const of = (metric: Metric) => {
        const [before, after] = [medianOf(at(least), metric), medianOf(at(most), metric)];
        return before && after ? (after / before).toFixed(2) : '';
      };
      return at(least).length > 0 && at(most).length > 0
        ? [[workload, about.contenders[contender] ?? contender, of('cpuUs'), of('databaseUs'), of('p50Ms')]]
        : [];
    }),
  );
  const head = ['', '', 'server CPU', 'database CPU', 'p50'];
  return [`## Growth from scale ${least} to ${most}, as ratios`, table([head, ...rows])].join('\n\n');
}

function plot(about: About, workload: string, samples: readonly Sample[]): string {
  const metric = samples.some(({ values }) => values.cpuUs !== undefined) ? 'cpuUs' : 'perSecond';
  const all = Object.entries(about.contenders).flatMap(([contender, label]) => {
    const own = samples.filter((one) => one.contender === contender);
    const values = own.flatMap((one) => one.values[metric] ?? []);
    const value = medianOf(own, metric);
    return value === null
      ? []
      : [{ label, value, low: Math.min(...values), high: Math.max(...values), emphasised: contender === 'switchyard' }];
  });
  return bars(`${workload}: ${about.workloads[workload] ?? ''}`, metrics[metric].title, all);
}

/** Writes report.json, report.md and a plot for each workload. @returns the Markdown */
export async function writeReport(folder: string, about: About, samples: readonly Sample[]): Promise<string> {
  await mkdir(folder, { recursive: true });
  const groups = Map.groupBy(samples, ({ workload, scale }) => `${workload}-${scale}`);
  const sections: string[] = [];
  for (const [name, group] of groups) {
    const [first] = group;
    if (!first) continue;
    await writeFile(path.join(folder, `${name}.svg`), plot(about, first.workload, group));
    sections.push(section(about, first.workload, first.scale, group));
  }
  const grown = growth(about, samples);
  const text = [
    '# Measurements',
    `${about.when} · commit ${about.commit} · Node ${about.node} · PostgreSQL ${about.postgres} · ${about.processor} · load by ${about.load}`,
    'Medians of the rounds. Ratios are of the same round, with the bounds of their median (95 %).',
    ...sections,
    ...(grown ? [grown] : []),
    '',
  ].join('\n\n');
  await writeFile(path.join(folder, 'report.md'), text);
  await writeFile(path.join(folder, 'report.json'), `${JSON.stringify({ about, samples }, null, 1)}\n`);
  return text;
}
