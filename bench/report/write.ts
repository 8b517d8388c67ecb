import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { medianOf, metrics, type About, type Report, type Sample } from './results.ts';
import { bars } from './svg.ts';
import { conditions, section, summary } from './tables.ts';

export function plot(about: About, workload: string, samples: readonly Sample[]): string {
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
export async function writeReport(folder: string, report: Report): Promise<string> {
  await mkdir(folder, { recursive: true });
  const { about, samples } = report;
  const sections: string[] = [];
  // Kinds of a workload have a table of their own in the summary.
  const plain = samples.filter(({ kind }) => kind === undefined);
  for (const [name, group] of Map.groupBy(plain, ({ workload, scale }) => `${workload}-${scale}`)) {
    const [first] = group;
    if (!first) continue;
    await writeFile(path.join(folder, `${name}.svg`), plot(about, first.workload, group));
    sections.push(section(about, first.workload, first.scale, group));
  }
  const text = [
    '# Measurements',
    conditions(about),
    'Medians of the rounds. Ratios are of the same round, with the bounds of their median (95 %).',
    summary([report]),
    ...sections,
    '',
  ].join('\n\n');
  await writeFile(path.join(folder, 'report.md'), text);
  await writeFile(path.join(folder, 'report.json'), `${JSON.stringify(report, null, 1)}\n`);
  return text;
}
