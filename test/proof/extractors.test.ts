import { execFile } from 'node:child_process';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test, type TestContext } from 'vitest';
import {
  createExtractors,
  definitionSchema,
  type DefinitionInput,
  type Format,
} from '../../src/integrations/extractors/index.ts';
import { locate, type Counterpart } from '../support/counterparts.ts';
import { collect, texts, workbook, type Collected } from '../support/documents.ts';

const run = promisify(execFile);
const chromium: Counterpart = { program: 'chromium', package: 'chromium' };
const pdftotext: Counterpart = { program: 'pdftotext', package: 'poppler-utils' };
const qpdf: Counterpart = { program: 'qpdf', package: 'qpdf' };
const reportLab = 'python3-reportlab';

/** A process of Node that has done nothing has 60 of these. */
const mostMb = 224;

let folder: string;
const peaks: number[] = [];
const extractors = createExtractors({ measured: ({ peakBytes }) => void peaks.push(peakBytes) });
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'switchyard-extract-'));
});
afterAll(async () => {
  await extractors.close();
  await rm(folder, { recursive: true, force: true });
});

const extract = (file: string, format: Format, definition: DefinitionInput = {}): Promise<Collected> =>
  collect(
    extractors.extract({
      file,
      format,
      definition: definitionSchema.parse(definition),
      signal: AbortSignal.timeout(300_000),
    }),
  );

/** Rows of a document: every table goes on with the one before, or begins anew. */
const whole = ({ tables }: Collected): string[][][] => {
  const joined: string[][][] = [];
  for (const { head, rows } of tables)
    if (head.continuedFrom === undefined) joined.push([head.columns.map(({ name }) => name), ...texts(rows)]);
    else joined.at(-1)?.push(...texts(rows));
  return joined;
};

describe('workbooks', () => {
  test('100,000 rows are read in bounded memory', async () => {
    const rows = (from: number, to: number): string =>
      Array.from(
        { length: to - from },
        (_, at) =>
          `<row r="${from + at + 1}"><c r="A${from + at + 1}"><v>${from + at}</v></c><c r="B${from + at + 1}" t="s"><v>${(from + at) % 1000}</v></c>${'CDEFGHIJ'
            .split('')
            .map((letter, column) => `<c r="${letter}${from + at + 1}"><v>${((from + at) * (column + 3)) / 8}</v></c>`)
            .join('')}</row>`,
      ).join('');
    const strings = Array.from({ length: 1000 }, (_, at) => `<si><t>text ${at}</t></si>`).join('');
    const peakOf = async (count: number): Promise<number> => {
      const file = path.join(folder, `${count}.xlsx`);
      await writeFile(file, workbook({ S: `<sheetData>${rows(0, count)}</sheetData>` }, { strings }));
      const began = performance.now();
      let seen = 0;
      let last: unknown;
      const definition = definitionSchema.parse({ headerRows: 0 });
      for await (const item of extractors.extract({
        file,
        format: 'XLSX',
        limits: { memoryMb: mostMb },
        definition,
        signal: AbortSignal.timeout(300_000),
      }))
        if ('type' in item && item.type === 'rows') {
          seen += item.rows.length;
          last = item.rows.at(-1)?.[0]?.value;
        }
      expect([seen, last]).toEqual([count, count - 1]);
      const peak = peaks.pop();
      const { size } = await stat(file);
      console.log(
        `MEASURED ${count} rows of 10 columns, ${(size / 1e6).toFixed(1)} MB: ${((performance.now() - began) / 1000).toFixed(1)} s, peak of the child ${((peak ?? 0) / 1e6).toFixed(0)} MB`,
      );
      return peak ?? Infinity;
    };
    // Ten times the rows, in the same memory.
    for (const count of [10_000, 100_000]) expect(await peakOf(count)).toBeLessThan(mostMb * 1_048_576);
  });
});

const rows = [
  ['No', 'Item', 'Day', 'Price'],
  ...Array.from({ length: 110 }, (_, at) => [
    String(at + 1),
    `item number ${at + 1}`,
    `2025-01-${String((at % 28) + 1).padStart(2, '0')}`,
    `${at * 3}.50`,
  ]),
];

/** A PDF of HTML, printed by Chromium. */
async function print(name: string, html: string, context: TestContext): Promise<string> {
  const program = await locate(chromium, context);
  const [page, pdf] = [path.join(folder, `${name}.html`), path.join(folder, `${name}.pdf`)];
  await writeFile(page, html);
  const profile = `--user-data-dir=${path.join(folder, 'profile')}`;
  await run(
    program,
    [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--no-pdf-header-footer',
      profile,
      `--print-to-pdf=${pdf}`,
      `file://${page}`,
    ],
    { timeout: 120_000 },
  );
  return pdf;
}

const tableOf = (kind: string, all: readonly (readonly string[])[]): string =>
  `<table class=${kind}><thead><tr>${(all[0] ?? []).map((text) => `<th>${text}</th>`).join('')}</tr></thead><tbody>${all
    .slice(1)
    .map((row) => `<tr>${row.map((text) => `<td>${text}</td>`).join('')}</tr>`)
    .join('')}</tbody></table>`;
const style = `<style>body{font:10pt sans-serif}td,th{padding:4px 14px;text-align:left}
  .ruled{border-collapse:collapse}.ruled td,.ruled th{border:1px solid #333}</style>`;

/** Words with their boxes, as pdftotext has them: x, y, width, height from the page's top left. */
async function words(file: string, page: number, context: TestContext): Promise<{ text: string; box: number[] }[]> {
  const program = await locate(pdftotext, context);
  const { stdout } = await run(program, ['-bbox', '-f', String(page), '-l', String(page), file, '-'], {
    maxBuffer: 50_000_000,
  });
  return [
    ...stdout.matchAll(/<word xMin="([\d.]+)" yMin="([\d.]+)" xMax="([\d.]+)" yMax="([\d.]+)">(.*?)<\/word>/g),
  ].map(([, left, top, right, bottom, text = '']) => ({
    text,
    box: [Number(left), Number(top), Number(right) - Number(left), Number(bottom) - Number(top)],
  }));
}

/** Each cell's words are where pdftotext finds them: their middles are in the cell's box. */
async function agrees(file: string, found: Collected, context: TestContext): Promise<number> {
  let cells = 0;
  const pages = new Set(found.tables.map(({ head }) => head.page ?? 0));
  for (const page of pages) {
    const oracle = await words(file, page, context);
    for (const { head, rows: own } of found.tables) {
      if (head.page !== page) continue;
      for (const cell of own.flat()) {
        if (cell.text === '' || cell.citation.kind !== 'PAGE') continue;
        const [x, y, width, height] = cell.citation.box;
        const inside = oracle
          .filter(({ box: [left = 0, top = 0, across = 0, down = 0] }) => {
            const [middle, centre] = [left + across / 2, top + down / 2];
            return middle >= x - 1 && middle <= x + width + 1 && centre >= y - 1 && centre <= y + height + 1;
          })
          .map(({ text }) => text);
        expect(inside.join(' ')).toBe(cell.text.replaceAll('\n', ' '));
        cells += 1;
      }
    }
  }
  return cells;
}

describe('PDFs that Chromium prints', () => {
  for (const kind of ['ruled', 'unruled'])
    test(`a table of pages that is ${kind} is the rows that were printed, where pdftotext has their words`, async (context) => {
      const prose =
        '<p>A paragraph that goes over the whole width of the page, and says what the table below is about.</p>';
      const file = await print(kind, `${style}${prose}${tableOf(kind, rows)}`, context);
      const found = await extract(file, 'PDF');
      expect(found.tables.length).toBeGreaterThan(1);
      expect(whole(found)).toEqual([rows]);
      expect(new Set(found.tables.map(({ head }) => head.ruled))).toEqual(new Set([kind === 'ruled']));
      expect(await agrees(file, found, context)).toBe((rows.length - 1) * 4);
    });
});

/** Draws one table of pages. Arguments: file, kind, and the rows as JSON. */
const drawing = `
import json, sys
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Paragraph, SimpleDocTemplate, Table, TableStyle
file, kind, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
lines = {
  'ruled': [('GRID', (0, 0), (-1, -1), 0.5, colors.black)],
  'unruled': [('ALIGN', (3, 0), (3, -1), 'RIGHT')],
  'header': [('LINEABOVE', (0, 0), (-1, 0), 1, colors.black), ('LINEBELOW', (0, 0), (-1, 0), 0.5, colors.black)],
}[kind]
heading = Paragraph('A heading above the table', getSampleStyleSheet()['Heading1'])
table = Table(rows, style=TableStyle(lines), repeatRows=1, colWidths=[50, 150, 90, 80])
SimpleDocTemplate(file, pagesize=A4).build([heading, table])
`;

/** Skips the test, and says so, when ReportLab is missing; throws when it must be there. */
async function draw(kind: string, context: TestContext): Promise<string> {
  const file = path.join(folder, `reportlab-${kind}.pdf`);
  try {
    await run('/usr/bin/python3', ['-c', 'import reportlab']);
  } catch (error) {
    const reason = `reportlab is not installed: apt-get install -y ${reportLab}`;
    if (process.env['REQUIRE_COUNTERPARTS']) throw new Error(reason, { cause: error });
    return context.skip(reason);
  }
  await run('/usr/bin/python3', ['-c', drawing, file, kind, JSON.stringify(rows)]);
  return file;
}

describe('PDFs that ReportLab draws', () => {
  for (const kind of ['ruled', 'unruled', 'header'])
    test(`a table of pages, ${kind}`, async (context) => {
      const file = await draw(kind, context);
      const found = await extract(file, 'PDF');
      expect(found.tables.length).toBeGreaterThan(1);
      expect(whole(found)).toEqual([rows]);
      expect(await agrees(file, found, context)).toBe((rows.length - 1) * 4);
    });

  test('turned by qpdf it is the same; with a password it is not read, with one for its owner only it is', async (context) => {
    const [program, file] = [await locate(qpdf, context), await draw('ruled', context)];
    for (const turn of [90, 180, 270]) {
      const turned = path.join(folder, `turned-${turn}.pdf`);
      await run(program, [`--rotate=${turn}`, file, turned]);
      expect(whole(await extract(turned, 'PDF'))).toEqual([rows]);
    }
    const [locked, owned] = [path.join(folder, 'locked.pdf'), path.join(folder, 'owned.pdf')];
    await run(program, ['--encrypt', 'user', 'owner', '256', '--', file, locked]);
    await run(program, ['--encrypt', '', 'owner', '256', '--', file, owned]);
    const signal = AbortSignal.timeout(60_000);
    expect(await extractors.detect(locked, signal)).toMatchObject({ format: 'PDF', encrypted: true });
    expect(await extractors.detect(owned, signal)).toMatchObject({ format: 'PDF', encrypted: false });
    await expect(extract(locked, 'PDF')).rejects.toMatchObject({ code: 'DOCUMENT_ENCRYPTED' });
    expect(whole(await extract(owned, 'PDF'))).toEqual([rows]);
  });
});
