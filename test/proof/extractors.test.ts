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
const ssconvert: Counterpart = { program: 'ssconvert', package: 'gnumeric' };
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

/** Skips the test, and says so, when a module of Python is missing; throws when it must be there. */
async function requireModule(name: string, from: string, context: TestContext): Promise<void> {
  try {
    await run('/usr/bin/python3', ['-c', `import ${name}`]);
  } catch (error) {
    const reason = `${name} is not installed: apt-get install -y ${from}`;
    if (process.env['REQUIRE_COUNTERPARTS']) throw new Error(reason, { cause: error });
    context.skip(reason);
  }
}

async function draw(kind: string, context: TestContext): Promise<string> {
  const file = path.join(folder, `reportlab-${kind}.pdf`);
  await requireModule('reportlab', reportLab, context);
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

/** What openpyxl writes: types, both epochs, merged cells, a formula whose result nobody has computed, a hidden sheet. */
const book = `
import datetime, sys
from openpyxl import Workbook
from openpyxl.utils.datetime import CALENDAR_MAC_1904
file, epoch = sys.argv[1], sys.argv[2]
book = Workbook()
if epoch == '1904': book.epoch = CALENDAR_MAC_1904
sheet = book.active
sheet.title = 'Figures & more'
sheet.append(['Name', 'Count', 'Price', 'Day', 'Noon', 'Good'])
for at in range(60):
  sheet.append([f'name {at}', at, at / 8, datetime.date(2024, 1, 1) + datetime.timedelta(days=at),
    datetime.datetime(2024, 2, 28, 12, 30, 15) + datetime.timedelta(days=at), at % 2 == 0])
sheet['A62'] = 'merged'
sheet.merge_cells('A62:B62')
sheet['C62'] = '=SUM(C2:C61)'
hidden = book.create_sheet('Hidden')
hidden.append(['a', 'b'])
hidden.append([1, 2])
hidden.sheet_state = 'hidden'
book.save(file)
`;
/** What python-docx writes: a table between paragraphs, cells that go over columns and rows. */
const letter = `
import sys
from docx import Document
document = Document()
document.add_paragraph('A paragraph before the table.')
rows = [['Item', 'Count', 'Price'], ['Saw', '2', '9.50'], ['Hammer & nails', '3', '12.00'], ['Total', '', '21.50']]
table = document.add_table(rows=len(rows), cols=3)
for row, texts in enumerate(rows):
  for column, text in enumerate(texts): table.cell(row, column).text = text
table.cell(3, 0).merge(table.cell(3, 1))
document.add_paragraph('And one after it.')
document.save(sys.argv[1])
`;

describe('office files that other programs write', () => {
  const day = (at: number, first = Date.UTC(2024, 0, 1)): string =>
    new Date(first + at * 86_400_000).toISOString().slice(0, 10);
  const detected = (file: string) => extractors.detect(file, AbortSignal.timeout(60_000));

  for (const epoch of ['1900', '1904'])
    test(`a workbook of openpyxl, with dates from ${epoch} on`, async (context) => {
      await requireModule('openpyxl', 'python3-openpyxl', context);
      const file = path.join(folder, `openpyxl-${epoch}.xlsx`);
      await run('/usr/bin/python3', ['-c', book, file, epoch]);
      expect(await detected(file)).toMatchObject({ format: 'XLSX', encrypted: false });
      const { tables } = await extract(file, 'XLSX');
      expect(tables.map(({ head }) => head.sheet)).toEqual(['Figures & more']);
      const [{ rows: found, end } = { rows: [], end: null }] = tables;
      expect(end?.columns).toEqual([
        { name: 'Name', type: 'TEXT' },
        { name: 'Count', type: 'INTEGER' },
        { name: 'Price', type: 'DECIMAL' },
        { name: 'Day', type: 'DATE' },
        { name: 'Noon', type: 'DATETIME' },
        { name: 'Good', type: 'BOOLEAN' },
      ]);
      for (const [at, row] of found.slice(0, 60).entries())
        expect(row.map(({ value }) => (typeof value === 'string' && /^\d+(\.\d+)?$/.test(value) ? Number(value) : value))).toEqual([`name ${at}`, at, at / 8, day(at), `${day(at, Date.UTC(2024, 1, 28))}T12:30:15`, at % 2 === 0]); // prettier-ignore
      const cellAt = (row: number, column: number) => found[row]?.[column];
      expect(cellAt(60, 0)).toMatchObject({ text: 'merged', citation: { sheet: 'Figures & more', ref: 'A62' } });
      expect(cellAt(60, 1)).toMatchObject({ text: 'merged', citation: { ref: 'B62' } });
      expect(cellAt(60, 2)).toMatchObject({ value: null, note: 'FORMULA_WITHOUT_VALUE' });
    });

  test('workbooks of Gnumeric, new and old, are the same table; what it has computed is read', async (context) => {
    const program = await locate(ssconvert, context);
    const source = path.join(folder, 'gnumeric.csv');
    const lines = Array.from({ length: 200 }, (_, at) => `"name, ${at}",${at},${at / 4},${day(at)},=B${at + 2}*2`);
    await writeFile(source, ['Name,Count,Price,Day,Double', ...lines].join('\n'));
    for (const [format, exporter, name] of [
      ['XLSX', 'Gnumeric_Excel:xlsx', 'new.xlsx'],
      ['XLS', 'Gnumeric_Excel:excel_biff8', 'old.xls'],
      ['XLS', 'Gnumeric_Excel:excel_biff7', 'older.xls'],
    ] as const) {
      const file = path.join(folder, name);
      await run(program, [`--export-type=${exporter}`, source, file], { env: { ...process.env, HOME: folder, LC_ALL: 'C.UTF-8' } }); // prettier-ignore
      expect(await detected(file)).toMatchObject({ format, encrypted: false });
      const { tables } = await extract(file, format);
      expect(tables).toHaveLength(1);
      expect(tables[0]?.head.columns.map((column) => column.name)).toEqual(['Name', 'Count', 'Price', 'Day', 'Double']);
      const found = (tables[0]?.rows ?? []).map((row) => row.map(({ value }) => String(value)));
      expect(found).toEqual(
        Array.from({ length: 200 }, (_, at) => [`name, ${at}`, String(at), String(at / 4), day(at), String(at * 2)]),
      );
    }
  });

  test('a table of a document of python-docx', async (context) => {
    await requireModule('docx', 'python3-docx', context);
    const file = path.join(folder, 'letter.docx');
    await run('/usr/bin/python3', ['-c', letter, file]);
    expect(await detected(file)).toMatchObject({ format: 'DOCX', encrypted: false });
    const { tables } = await extract(file, 'DOCX');
    expect(tables).toHaveLength(1);
    expect(tables[0]?.head.columns.map((column) => column.name)).toEqual(['Item', 'Count', 'Price']);
    expect(texts(tables[0]?.rows ?? [])).toEqual([
      ['Saw', '2', '9.50'],
      ['Hammer & nails', '3', '12.00'],
      ['Total', 'Total', '21.50'],
    ]);
    expect(tables[0]?.rows[2]?.[1]).toMatchObject({ note: 'MERGED' });
  });
});
