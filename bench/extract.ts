import { createReadStream } from 'node:fs';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'csv-parse';
import { read, utils, write } from '@e965/xlsx';
import { getDocument, VerbosityLevel } from 'unpdf/pdfjs';
import { createExtractors, definitionSchema, type Format } from '../src/integrations/extractors/index.ts';
import { pdfPages } from '../test/support/documents.ts';

// Rows per second, processor time and peak memory of an extraction, against the bare library doing the same parse, each in
// a process of its own, in turns (Linux). Processor time is of all processes together, their start among it: it is what
// can be compared on a machine that has other work.
//   node bench/extract.ts [rounds]

interface Sample {
  readonly rowsPerS: number;
  readonly cpuS: number;
  readonly peakMb: number;
}

const sizes = { CSV: 200_000, XLSX: 100_000, PDF: 6_000 } as const;
type Measured = keyof typeof sizes;
const rowsOfPage = 40;

/** What a program does that only wants the texts. Gives the number of rows. */
const bare: Readonly<Record<Measured, (file: string) => Promise<number>>> = {
  async CSV(file) {
    let rows = 0;
    for await (const record of createReadStream(file).pipe(parse())) rows += (record as string[]).length > 0 ? 1 : 0;
    return rows;
  },
  async XLSX(file) {
    const book = read(await readFile(file), { type: 'buffer', dense: true });
    return utils.sheet_to_json(book.Sheets[book.SheetNames[0] ?? ''] ?? {}, { header: 1 }).length;
  },
  async PDF(file) {
    const data = new Uint8Array(await readFile(file));
    const document = await getDocument({ data, verbosity: VerbosityLevel.ERRORS, useSystemFonts: false }).promise;
    let rows = 0;
    for (let at = 1; at <= document.numPages; at++) {
      const page = await document.getPage(at);
      const { items } = await page.getTextContent();
      await page.getOperatorList();
      rows += new Set(items.flatMap((item) => ('str' in item && item.str.trim() ? [item.transform[5] as number] : [])))
        .size;
      page.cleanup();
    }
    return rows;
  },
};

function fileOf(format: Measured): Buffer {
  const count = sizes[format];
  const row = (at: number): (string | number)[] => [
    at,
    `name ${at}`,
    at / 4,
    `2025-01-${String((at % 28) + 1).padStart(2, '0')}`,
    at % 7,
  ];
  if (format === 'CSV') return Buffer.from(Array.from({ length: count }, (_, at) => row(at).join(',')).join('\n'));
  if (format === 'XLSX') {
    const book = utils.book_new();
    utils.book_append_sheet(book, utils.aoa_to_sheet(Array.from({ length: count }, (_, at) => row(at))), 'S');
    return write(book, { bookType: 'xlsx', type: 'buffer', compression: true, bookSST: true }) as Buffer;
  }
  const pages = Array.from({ length: count / rowsOfPage }, (_, page) =>
    Array.from({ length: rowsOfPage }, (__, at) =>
      row(page * rowsOfPage + at)
        .map((text, column) => `BT /F 9 Tf ${40 + column * 100} ${800 - at * 18} Td (${text}) Tj ET`)
        .join('\n'),
    ).join('\n'),
  );
  return pdfPages(pages);
}

async function ours(format: Measured, file: string): Promise<Sample> {
  let child = { peakBytes: 0, cpuMs: 0 };
  const extractors = createExtractors({ measured: (spent) => (child = spent) });
  const began = performance.now();
  const before = process.cpuUsage();
  let rows = 0;
  const definition = definitionSchema.parse({ headerRows: 0 });
  const signal = AbortSignal.timeout(600_000);
  for await (const item of extractors.extract({ file, format: format satisfies Format, definition, signal }))
    if ('type' in item && item.type === 'rows') rows += item.rows.length;
  await extractors.close();
  if (rows !== sizes[format]) throw new Error(`${format}: ${rows} rows came out.`);
  const own = process.cpuUsage(before);
  return {
    rowsPerS: rows / ((performance.now() - began) / 1000),
    cpuS: (own.user + own.system) / 1e6 + child.cpuMs / 1e3,
    peakMb: child.peakBytes / 1e6,
  };
}

/** The bare library in a process that is started for it, as ours is. */
async function theirs(format: Measured, file: string): Promise<Sample> {
  const began = performance.now();
  const child = fork(fileURLToPath(import.meta.url), ['bare', format, file]);
  const [told] = (await once(child, 'message')) as [{ rows: number; cpuS: number; peakMb: number }];
  const seconds = (performance.now() - began) / 1000;
  await once(child, 'exit');
  if (told.rows !== sizes[format]) throw new Error(`${format}: the bare library has ${told.rows} rows.`);
  return { rowsPerS: told.rows / seconds, cpuS: told.cpuS, peakMb: told.peakMb };
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

async function main(rounds: number): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'switchyard-bench-'));
  try {
    for (const format of Object.keys(sizes) as Measured[]) {
      const file = path.join(folder, format);
      await writeFile(file, fileOf(format));
      const samples: { ours: Sample; theirs: Sample }[] = [];
      for (let round = 0; round < rounds; round++)
        samples.push({ ours: await ours(format, file), theirs: await theirs(format, file) });
      const [own, other] = (['ours', 'theirs'] as const).map((who) => ({
        rowsPerS: median(samples.map((sample) => sample[who].rowsPerS)),
        cpuS: median(samples.map((sample) => sample[who].cpuS)),
        peakMb: median(samples.map((sample) => sample[who].peakMb)),
      })) as [Sample, Sample];
      console.log(
        `${format}: ${sizes[format]} rows, ${((await stat(file)).size / 1e6).toFixed(1)} MB; ` +
          `${own.rowsPerS.toFixed(0)} rows/s, ${own.cpuS.toFixed(2)} s of processor time and ${own.peakMb.toFixed(0)} MB, ` +
          `bare library ${other.rowsPerS.toFixed(0)} rows/s, ${other.cpuS.toFixed(2)} s and ${other.peakMb.toFixed(0)} MB: ` +
          `${(own.cpuS / other.cpuS).toFixed(2)} times the processor time, ${(other.rowsPerS / own.rowsPerS).toFixed(2)} times the time, ${(own.peakMb / other.peakMb).toFixed(2)} times the memory`,
      );
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const [first, format, file] = process.argv.slice(2);
if (first === 'bare' && format !== undefined && file !== undefined) {
  const rows = await bare[format as Measured](file);
  const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage();
  const told = { rows, cpuS: (userCPUTime + systemCPUTime) / 1e6, peakMb: (maxRSS * 1024) / 1e6 };
  process.send?.(told, () => process.disconnect());
} else await main(Number(first ?? '3'));
