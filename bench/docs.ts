import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { usualScale, type About, type Report, type Sample } from './report/results.ts';
import { parts } from './report/tables.ts';
import { plot } from './report/write.ts';

// Puts measurements into docs/performance.md, between its markers, and its plots beside it:
//   node docs.ts <report.json> …   those of these runs; where several have the same, the first one's
//   node docs.ts                   those that were put there before, anew
//   node docs.ts --check           only tells whether the document has them

const docs = path.resolve(import.meta.dirname, '../docs');
const file = path.join(docs, 'performance.md');
/** What the document shows: of each run a line with its conditions, and lines with its samples. */
const kept = path.join(docs, 'performance/samples.jsonl');

const lines = (reports: readonly Report[]): string =>
  reports
    .flatMap(({ about, samples }) => [{ about }, ...samples])
    .map((one) => `${JSON.stringify(one)}\n`)
    .join('');

function parsed(text: string): Report[] {
  const reports: { about: About; samples: Sample[] }[] = [];
  for (const line of text.split('\n').filter(Boolean)) {
    const one = JSON.parse(line) as { about: About } | Sample;
    if ('about' in one) reports.push({ about: one.about, samples: [] });
    else reports.at(-1)?.samples.push(one);
  }
  return reports;
}

/** A figure as exact as it is of use. */
const rounded = (sample: Sample): Sample => ({
  ...sample,
  values: Object.fromEntries(
    Object.entries(sample.values).map(([name, value]) => [name, Number(value.toPrecision(4))]),
  ),
});

const args = process.argv.slice(2);
const check = args.includes('--check');
const given = args.filter((one) => one !== '--check');
const reports =
  given.length > 0
    ? (await Promise.all(given.map((one) => readFile(one, 'utf8')))).map((text) => {
        const { about, samples } = JSON.parse(text) as Report;
        return { about, samples: samples.map(rounded) };
      })
    : parsed(await readFile(kept, 'utf8'));

/** What the files have to say. */
const files = new Map<string, string>();
const before = await readFile(file, 'utf8');
const text = before.replaceAll(
  /(<!-- measured: ([\w-]+) -->\n)[\s\S]*?(<!-- \/measured -->)/g,
  (_, begin: string, name: string, end: string) => {
    const part = parts[name];
    if (!part) throw new Error(`docs/performance.md: there is no measurement ${name}`);
    return `${begin}\n${part(reports)}\n\n${end}`;
  },
);
files.set(file, text);
for (const [, workload = ''] of text.matchAll(/\]\(performance\/(\w+)\.svg\)/g)) {
  const report = reports.find(({ samples }) => samples.some((one) => one.workload === workload));
  const samples = report?.samples.filter((one) => one.workload === workload) ?? [];
  const shown = samples.filter(({ scale }) => scale === usualScale(samples));
  if (report) files.set(path.join(docs, `performance/${workload}.svg`), plot(report.about, workload, shown));
}
if (check) {
  const all = await Promise.all([...files].map(async ([name, wanted]) => (await readFile(name, 'utf8')) === wanted));
  if (all.includes(false)) {
    console.error(
      'docs/performance.md or a plot does not show docs/performance/samples.jsonl: npm --prefix bench run docs',
    );
    process.exitCode = 1;
  }
} else {
  await Promise.all([...files, [kept, lines(reports)] as const].map(([name, wanted]) => writeFile(name, wanted)));
}
