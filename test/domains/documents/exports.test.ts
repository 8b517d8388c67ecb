import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { read, utils } from '@e965/xlsx';
import { parse } from 'csv-parse/sync';
import fc from 'fast-check';
import { fromBufferPromise, type Entry, type ZipFile } from 'yauzl';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { system } from '../../../src/kernel/auth/actor.ts';
import { globalId, rowId } from '../../../src/kernel/graphql/global-id.ts';
import type { RunContext } from '../../../src/kernel/runs/context.ts';
import { Fenced } from '../../../src/kernel/runs/errors.ts';
import { isTerminal } from '../../../src/kernel/runs/model.ts';
import { Runs } from '../../../src/kernel/runs/runs.ts';
import { Artifacts } from '../../../src/kernel/storage/artifacts.ts';
import { DocumentSettings } from '../../../src/domains/documents/service/shared.ts';
import { Tables } from '../../../src/domains/documents/service/tables.ts';
import { csv, withoutFormula, xlsx, type WrittenTable } from '../../../src/domains/documents/service/writers.ts';
import type { Cell, Column } from '../../../src/integrations/extractors/index.ts';
import type { Auth } from '../../support/client.ts';
import { data } from '../../support/client.ts';
import { documentFolder, read as extract, texts as textsOf, values as valuesOf } from '../../support/documents.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { memberOf, tenants, type Someone, type Tenant } from '../../support/world.ts';
import { csv as rowsOf, isOver, jobWhere, mutate, submit, upload } from './harness.ts';
import { cell, documentOf, extracted, extractionOf, write, type Given } from './tables-harness.ts';

let server: TestServer;
let a: Tenant;
let b: Tenant;
let viewer: Someone;
beforeAll(async () => {
  server = await startTestServer();
  [a, b] = (await tenants(server.running.app, ['a', 'b'])) as [Tenant, Tenant];
  viewer = await memberOf(server.running.app, a, 'VIEWER');
});
afterAll(() => server.stop());

const app = () => server.running.app;
const livenessMs = 60_000;
const first = <T>([one]: readonly T[]): T => {
  if (one === undefined) throw new Error('there is none');
  return one;
};

const columns: Column[] = [
  { name: 'Text', type: 'TEXT' },
  { name: 'Whole', type: 'INTEGER' },
  { name: 'Amount', type: 'DECIMAL' },
  { name: 'Good', type: 'BOOLEAN' },
  { name: 'Day', type: 'DATE' },
  { name: 'Text', type: 'TEXT' },
  { name: 'Instant', type: 'DATETIME' },
];
const texts = [
  'plain',
  'a,b',
  'say "hi"',
  'two\nlines',
  'cr\r\nlf',
  ' spaces ',
  '<&>_x0041_',
  '\u202Ertl 💡',
  '\u0007bell',
  '名前',
];
const rows: Cell[][] = texts.map((text, row) => [
  cell(text),
  cell(`${row - 3}`, { value: row - 3, type: 'INTEGER' }),
  row === 2
    ? cell('n/a', { note: 'TYPE_MISMATCH' })
    : cell(`(${row}.50)`, { value: `-${row + 1}.50`, type: 'DECIMAL' }),
  cell(row % 2 ? 'ja' : 'nein', { value: row % 2 === 1, type: 'BOOLEAN' }),
  row === 4 ? cell('') : cell('31. März', { value: `2025-03-${10 + row}`, type: 'DATE' }),
  cell('same name'),
  cell('noon', { value: `2025-03-${10 + row}T12:30:15`, type: 'DATETIME' }),
]);
const table: Given = { name: 'Figures: 1/2', columns, rows };
/** What a row holds, by canonical value. */
const canonical = (row: readonly Cell[]): string[] =>
  row.map(({ type, value, text }) => (type === 'TEXT' || value === null ? text : String(value)));

interface Exported {
  readonly id: string;
  readonly status: string;
  readonly statusReason: string | null;
  readonly format: string;
  readonly parent: { id: string } | null;
  readonly table: { id: string } | null;
  readonly document: { id: string; name: string; format: string | null; source: string; sizeBytes: number; sha256: string; download: { url: string } | null; exportedBy: { id: string } } | null; // prettier-ignore
}
interface Outcome {
  readonly __typename: string;
  readonly export?: { id: string };
}
const start = async (input: object, who: Auth = a.owner): Promise<Outcome> => {
  const [name, type] = 'jobId' in input ? ['exportTables', 'ExportTables'] : ['exportTable', 'ExportTable'];
  const mutation = `mutation ($input: ${type}Input!) { ${name}(input: $input) { __typename ... on ${type}Success { export { id } } } }`;
  return (await data<Record<string, Outcome>>(server.url, mutation, { input }, who))[name] as Outcome;
};
const ended = async (id = '', who: Auth = a.owner): Promise<Exported> => {
  const where = { id: rowId('TableExport', id) };
  await until(
    `export ${id} is over`,
    async () => isTerminal((await app().db.run.findUniqueOrThrow({ where })).status),
    livenessMs,
  );
  const query = `query ($id: ID!) { node(id: $id) { ... on TableExport { id status statusReason format parent { id } table { id }
    document { id name format source sizeBytes sha256 download { url } exportedBy { id } } } } }`;
  return (await data<{ node: Exported }>(server.url, query, { id }, who)).node;
};
const bytesOf = async ({ document, statusReason }: Exported): Promise<Buffer> => {
  if (!document?.download) throw new Error(`no document: ${statusReason}`);
  const bytes = Buffer.from(await (await fetch(document.download.url)).arrayBuffer());
  expect(bytes).toHaveLength(document.sizeBytes);
  return bytes;
};
const exported = async (input: object): Promise<{ run: Exported; bytes: Buffer }> => {
  const run = await ended((await start(input)).export?.id);
  return { run, bytes: await bytesOf(run) };
};
/** Files of a ZIP archive. */
async function unzipped(bytes: Buffer): Promise<Map<string, Buffer>> {
  const zip: ZipFile = await fromBufferPromise(bytes);
  const files = new Map<string, Buffer>();
  for await (const entry of zip.eachEntry() as AsyncIterable<Entry>)
    files.set(entry.fileName, await buffer(await zip.openReadStreamPromise(entry)));
  return files;
}
const blobs = async (): Promise<string[]> =>
  (await readdir(path.join(server.stateDir, 'blobs'), { recursive: true, withFileTypes: true }))
    .filter((one) => one.isFile())
    .map(({ name }) => name);

test('CSV that another program parses is the table; the document is linked with it and downloads', async () => {
  const made = await extracted(app(), a, [table]);
  const tableId = globalId('ExtractedTable', first(made.tables));
  const { run, bytes } = await exported({ tableId, format: 'CSV', formulas: 'KEEP' });
  expect(run).toMatchObject({
    status: 'SUCCEEDED',
    format: 'CSV',
    parent: { id: globalId('ExtractionJob', made.run.id) },
    table: { id: tableId },
    document: { name: 'figures - Figures  1 2.csv', format: 'CSV', source: 'EXPORT', exportedBy: { id: run.id } },
  });
  expect(parse(bytes, { record_delimiter: '\r\n' })).toEqual([columns.map(({ name }) => name), ...rows.map(canonical)]);
  expect(bytes.toString().startsWith('Text,Whole,')).toBe(true);
  const other = await exported({ tableId, format: 'CSV', formulas: 'KEEP', content: 'TEXTS', byteOrderMark: true });
  expect(other.bytes.subarray(0, 3).toString('hex')).toBe('efbbbf');
  expect(parse(other.bytes, { bom: true, record_delimiter: '\r\n' }).slice(1)).toEqual(
    rows.map((row) => row.map(({ text }) => text)),
  );
  const lists = `query ($id: ID!) { node(id: $id) { ... on ExtractedTable { exports { id } } } }`;
  expect(await data(server.url, lists, { id: tableId }, viewer)).toEqual({ node: { exports: [{ id: other.run.id }, { id: run.id }] } }); // prettier-ignore
  const types = await app().db.event.findMany({
    where: { runId: rowId('TableExport', run.id) },
    orderBy: { seq: 'asc' },
  });
  expect(types.map(({ type }) => type)).toEqual([
    'tableExport.queued',
    'tableExport.running',
    'tableExport.stepStarted',
    'extractedTable.exported',
    'tableExport.stepSucceeded',
    'tableExport.succeeded',
  ]);
});

test('no text of a CSV file is a formula, and numbers are left alone', async () => {
  const dangerous = ['=1+1', '+cmd', '-2+3', '@SUM(A1)', '\tx', '\rx', '\nx', '＝1', '=HYPERLINK("http://x","y")'];
  const harmless = ['-5', '+41 79', '-1,234.50', '1=1', "'=1", 'a-b', '-12'];
  const given: Given = {
    columns: [{ name: '=name', type: 'TEXT' }],
    rows: [...dangerous, ...harmless].map((text) => [cell(text)]),
  };
  const tableId = globalId('ExtractedTable', first((await extracted(app(), a, [given])).tables));
  const { bytes } = await exported({ tableId, format: 'CSV' });
  const [head, ...lines] = parse(bytes, { record_delimiter: '\r\n' }).map((line) => first(line));
  expect(head).toBe("'=name");
  expect(lines.slice(0, dangerous.length)).toEqual(dangerous.map((text) => `'${text}`));
  expect(lines.slice(dangerous.length)).toEqual(harmless.map((text) => (text === '+41 79' ? `'${text}` : text)));
  expect(withoutFormula('-1')).toBe('-1');
});

test('what is exported and extracted again is the table that it was', async () => {
  const folder = await documentFolder();
  onTestFinished(() => folder.remove());
  const options = { formulas: 'KEEP', byteOrderMark: false, content: 'VALUES' } as const;
  const piece = fc.constantFrom(...Array.from('aZ09 ,;"\'=<&>\t\n\r_ä名💡\u0007\u202E'), '_x000D_', '\r\n');
  // A cell of texts begins and ends with a letter: where a row or a table ends is then beyond doubt.
  const text = fc.array(piece, { maxLength: 8 }).map((parts) => `a${parts.join('')}z`);
  const row = fc.record({
    text,
    whole: fc.integer({ min: -1e9, max: 1e9 }),
    cents: fc.integer({ min: -1e9, max: 1e9 }),
    good: fc.boolean(),
    day: fc.integer({ min: 0, max: 40_000 }),
  });
  const typed = ['TEXT', 'INTEGER', 'DECIMAL', 'BOOLEAN', 'DATE'] as const;
  await fc.assert(
    fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 8 }), async (given) => {
      const wanted = given.map(({ text: some, whole, cents, good, day }) => [
        some,
        String(whole),
        (cents / 4).toFixed(2),
        String(good),
        new Date(Date.UTC(1950, 0, 1 + day)).toISOString().slice(0, 10),
      ]);
      const written: WrittenTable = {
        name: 'Again',
        columns: typed.map((type) => ({ name: `${type} "of", it`, type })),
        rowCount: wanted.length,
        rows: async function* (from, to) {
          for (const line of wanted.slice(from, to))
            yield line.map((value, at) => ({ type: typed[at] ?? 'TEXT', text: value, value: at === 0 ? null : value }));
        },
      };
      const definition = { headerRows: 1, columns: written.columns.map(({ name }, at) => ({ name, type: typed[at] ?? 'TEXT' })) }; // prettier-ignore
      for (const [format, bytes] of [
        ['CSV', await buffer(csv(written, options))],
        ['XLSX', await buffer(xlsx([written], options))],
      ] as const) {
        const dialect = format === 'CSV' ? { delimiter: ',', quote: '"', encoding: 'utf-8' } : {};
        const { tables } = await extract(await folder.put(bytes), format, { ...definition, ...dialect });
        expect(tables).toHaveLength(1);
        const [found] = tables;
        expect(found?.head.columns.map(({ name, type }) => [name, type])).toEqual(definition.columns.map(({ name, type }) => [name, type])); // prettier-ignore
        expect(textsOf(found?.rows ?? []).map(([first]) => first)).toEqual(wanted.map(([first]) => first));
        // A spreadsheet keeps numbers, and no zeros behind them.
        const numbers = (line: readonly unknown[]) => [Number(line[1]), Number(line[2]), String(line[3]), line[4]];
        expect(valuesOf(found?.rows ?? []).map(numbers)).toEqual(wanted.map(numbers));
      }
    }),
    { seed: 20_261_121, numRuns: 60 },
  );
});

test('JSON Lines are the table, with typed values', async () => {
  const tableId = globalId('ExtractedTable', first((await extracted(app(), a, [table])).tables));
  const { bytes } = await exported({ tableId, format: 'JSON_LINES' });
  const lines = bytes.toString().trimEnd().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
  const names = ['Text', 'Whole', 'Amount', 'Good', 'Day', 'Text (2)', 'Instant'];
  expect(lines).toEqual(
    rows.map((row) =>
      Object.fromEntries(
        row.map(({ type, value, text }, at) => [
          names[at],
          type === 'EMPTY' ? null : type === 'DECIMAL' ? Number(value) : type === 'TEXT' ? text : value,
        ]),
      ),
    ),
  );
  expect(bytes.toString()).toContain('"Amount":-1.50,');
});

test('a workbook that another program reads has a sheet a table, with numbers, dates and texts', async () => {
  const long = {
    name: 'Figures: 1/2',
    columns: columns.slice(0, 1),
    rows: [[cell('=1+1')], [cell('')], [cell('last')]],
  };
  const made = await extracted(app(), a, [
    table,
    long,
    { ...long, name: "'history'" },
    { ...long, name: 'x'.repeat(60) },
  ]);
  const { run, bytes } = await exported({ jobId: globalId('ExtractionJob', made.run.id), format: 'XLSX' });
  expect(run).toMatchObject({ status: 'SUCCEEDED', table: null, document: { name: 'figures.xlsx', format: 'XLSX' } });
  const book = read(bytes, { cellDates: true, UTC: true });
  expect(book.SheetNames).toEqual(['Figures  1 2', 'Figures  1 2 (2)', 'Table history', 'x'.repeat(31)]);
  const sheet = utils.sheet_to_json<unknown[]>(book.Sheets['Figures  1 2'] ?? {}, { header: 1, raw: true, defval: null, UTC: true }); // prettier-ignore
  expect(sheet[0]).toEqual(columns.map(({ name }) => name));
  expect(sheet.slice(1)).toEqual(
    rows.map((row) =>
      row.map(({ type, value, text }) => {
        if (type === 'EMPTY') return null;
        if (type === 'DECIMAL' || type === 'INTEGER') return Number(value);
        if (type === 'DATE' || type === 'DATETIME') return new Date(type === 'DATE' ? String(value) : `${value}Z`);
        // Its reader makes one line break of both.
        return type === 'BOOLEAN' ? value : text.replaceAll('\r\n', '\n');
      }),
    ),
  );
  const other = book.Sheets['Figures  1 2 (2)'] ?? {};
  expect([other['A2'], other['A3'], other['A4']]).toMatchObject([{ t: 's', v: '=1+1' }, undefined, { v: 'last' }]);
});

test('a job as CSV is an archive with a file a table', async () => {
  const made = await extracted(app(), a, [table, { ...table, rows: rows.slice(0, 2) }]);
  const { run, bytes } = await exported({
    jobId: globalId('ExtractionJob', made.run.id),
    format: 'CSV',
    formulas: 'KEEP',
  });
  expect(run.document).toMatchObject({ name: 'figures.zip', format: null });
  const files = await unzipped(bytes);
  expect([...files.keys()]).toEqual(['Figures  1 2.csv', 'Figures  1 2 (2).csv']);
  expect(parse(files.get('Figures  1 2 (2).csv') ?? '', { record_delimiter: '\r\n' }).slice(1)).toEqual(
    rows.slice(0, 2).map(canonical),
  );
});

test('what a workbook cannot hold fails with the place, and leaves nothing', async () => {
  const given: Given = { columns: [{ name: 'A', type: 'TEXT' }], rows: [[cell('x')], [cell('y'.repeat(32_768))]] };
  const tableId = globalId('ExtractedTable', first((await extracted(app(), a, [given])).tables));
  const before = await blobs();
  const run = await ended((await start({ tableId, format: 'XLSX' })).export?.id);
  expect(run).toMatchObject({ status: 'FAILED', document: null });
  expect(run.statusReason).toContain('Row 1, column 0');
  expect(await blobs()).toEqual(before);
  expect(await app().db.artifact.count({ where: { runId: rowId('TableExport', run.id) } })).toBe(0);
  // A sheet takes no more rows than it may: the rest is in the next one.
  const line = [{ type: 'INTEGER', text: '1', value: '1' }] as const;
  const tall = { name: 'Tall', columns: [{ name: 'A', type: 'INTEGER' }] as const, rowCount: 1_048_576 };
  const ranges: number[][] = [];
  const rowsOf = async function* (from: number, to: number) {
    ranges.push([from, to]);
    yield line;
  };
  const options = { formulas: 'KEEP', byteOrderMark: false, content: 'VALUES' } as const;
  const book = read(await buffer(xlsx([{ ...tall, rows: rowsOf }], options)));
  expect(book.SheetNames).toEqual(['Tall', 'Tall (2)']);
  expect(ranges).toEqual([[0, 1_048_575], [1_048_575, 1_048_576]]); // prettier-ignore
});

test('control characters that a table has come back from its CSV file, and it is a document of its own', async () => {
  const odd = ['\u0007', 'a\u0001b', '\u001b[31m', 'plain', '\u0008\u0002'];
  const made = await extracted(app(), a, [{ name: 'Odd', columns: [{ name: 'T', type: 'TEXT' }, { name: 'N', type: 'TEXT' }], rows: odd.map((text) => [cell(text), cell('x')]) }]); // prettier-ignore
  const run = await ended((await start({ tableId: globalId('ExtractedTable', first(made.tables)), format: 'CSV' })).export?.id); // prettier-ignore
  const again = await submit(server.url, a.owner, { documentId: run.document?.id });
  expect(await jobWhere(server.url, a.owner, again, isOver)).toMatchObject({
    status: 'SUCCEEDED',
    rowCount: odd.length,
  });
  const cells = await app().db.extractedCell.findMany({
    where: { table: { jobId: rowId('Run', again) }, column: 0 },
    orderBy: { row: 'asc' },
  });
  expect(cells.map(({ text }) => text)).toEqual(odd);
});

test('a workspace has no more cells than it may: no job begins, and one that would have more fails', async () => {
  const c = first(await tenants(app(), ['cells']));
  const { tables, documentId } = await extracted(app(), c, [table]);
  const settings = app().use(DocumentSettings) as { maxStoredCells: number };
  const { maxStoredCells } = settings;
  onTestFinished(() => void (settings.maxStoredCells = maxStoredCells));
  const ask = () =>
    mutate<{ __typename: string; quota?: string }>(server.url, 'submitExtractionJob', { documentId: exportedId }, 'job { id }', c.owner); // prettier-ignore
  const run = await ended((await start({ tableId: globalId('ExtractedTable', first(tables)), format: 'CSV' }, c.owner)).export?.id, c.owner); // prettier-ignore
  const { documentId: exportedRow } = await app().db.tableExport.findUniqueOrThrow({ where: { id: rowId('TableExport', run.id) } }); // prettier-ignore
  const exportedId = globalId('Document', exportedRow ?? '');
  const { _sum: sum } = await app().db.extractedTable.aggregate({ where: { documentId }, _sum: { cellCount: true } });
  settings.maxStoredCells = (sum.cellCount ?? 0) + 5;
  const job = await submit(server.url, c.owner, { documentId: exportedId });
  expect(await jobWhere(server.url, c.owner, job, isOver)).toMatchObject({ status: 'FAILED', errorCode: 'DOCUMENT_QUOTA_EXCEEDED' }); // prettier-ignore
  settings.maxStoredCells = sum.cellCount ?? 0;
  expect(await ask()).toMatchObject({ __typename: 'DocumentQuotaExceeded', code: 'DOCUMENT_QUOTA_EXCEEDED' });
});

test('of jobs at once only as many have cells as a workspace may have, until they are over', async () => {
  const c = first(await tenants(app(), ['cells-at-once']));
  const settings = app().use(DocumentSettings) as { maxStoredCells: number };
  const { maxStoredCells } = settings;
  onTestFinished(() => void (settings.maxStoredCells = maxStoredCells));
  settings.maxStoredCells = 1_000;
  const tablesOf = app().use(Tables);
  const jobs = await Promise.all(Array.from({ length: 6 }, () => extractionOf(app(), c)));
  const asked = await Promise.allSettled(jobs.map((job) => tablesOf.reserve(job, 400)));
  const granted = asked.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  // The first one gets a tenth of what is left beside, the second one of what it left.
  expect(granted.toSorted((x, y) => x - y)).toEqual([414, 460]);
  const refused = asked.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
  const full = { code: 'DOCUMENT_QUOTA_EXCEEDED', quota: 'CELLS', limit: 1_000n, actual: 1_274n };
  expect(refused).toMatchObject([full, full, full, full]);
  const [winner, second] = jobs.filter((_, at) => asked[at]?.status === 'fulfilled');
  const loser = jobs.find((_, at) => asked[at]?.status === 'rejected');
  if (!winner || !second || !loser) throw new Error('nobody has won, or nobody has lost');
  // What it holds already it does not ask for again.
  expect(await tablesOf.reserve(winner, 400)).toBeGreaterThanOrEqual(400);
  // Cells that are written are not counted beside those that were put by for them.
  await write(winner, [
    { columns: [{ name: 'T', type: 'TEXT' }], rows: Array.from({ length: 300 }, () => [cell('x')]) },
  ]);
  await expect(tablesOf.reserve(loser, 400)).rejects.toMatchObject({ code: 'DOCUMENT_QUOTA_EXCEEDED' });
  // Over: what it has written counts, and what it did not need does not.
  await app().transact(system, (tx) =>
    app().use(Runs).finish(tx, winner.hold, { phase: 'FAILED', reason: 'for the test' }),
  );
  expect(await tablesOf.reserve(loser, 200)).toBeGreaterThanOrEqual(200);
  await expect(tablesOf.reserve(winner, 1)).rejects.toBeInstanceOf(Fenced);
});

test('two documents that are read at once do not have more cells together than the workspace may', async () => {
  const c = first(await tenants(app(), ['cells-of-two']));
  const settings = app().use(DocumentSettings) as { maxStoredCells: number };
  const { maxStoredCells } = settings;
  onTestFinished(() => void (settings.maxStoredCells = maxStoredCells));
  const documents = await Promise.all(
    ['one', 'two'].map((name) =>
      upload(server.url, c.owner, globalId('Workspace', c.id), `${name}.csv`, rowsOf(2_000, name)),
    ),
  );
  settings.maxStoredCells = 9_000; // 6,000 each
  const ids = await Promise.all(documents.map(({ id }) => submit(server.url, c.owner, { documentId: id })));
  const jobs = await Promise.all(ids.map((id) => jobWhere(server.url, c.owner, id, isOver)));
  expect(jobs.filter(({ status }) => status === 'SUCCEEDED').length).toBeLessThan(2);
  const codes = jobs.flatMap(({ errorCode }) => errorCode ?? []);
  expect(new Set(codes)).toEqual(new Set(['DOCUMENT_QUOTA_EXCEEDED']));
  expect(await app().db.extractedCell.count({ where: { table: { workspaceId: c.id } } })).toBeLessThanOrEqual(9_000);
});

test('no more is exported than a workspace may store', async () => {
  const c = first(await tenants(app(), ['full']));
  const tableId = globalId('ExtractedTable', first((await extracted(app(), c, [table])).tables));
  const full = await documentOf(app(), c, 'full.csv');
  await app().db.document.update({ where: { id: full }, data: { source: 'EXPORT', sizeBytes: 2n ** 60n } });
  const ask = async () => rowId('TableExport', (await start({ tableId, format: 'CSV' }, c.owner)).export?.id ?? '');
  const over = async (id: string) => {
    const run = () => app().db.run.findUniqueOrThrow({ where: { id } });
    await until('it is over', async () => isTerminal((await run()).status), livenessMs);
    return run();
  };
  expect(await over(await ask())).toMatchObject({
    status: 'FAILED',
    statusReason: expect.stringContaining('bytes of documents') as string,
  });
  await app().db.document.delete({ where: { id: full } });
  expect(await over(await ask())).toMatchObject({ status: 'SUCCEEDED' });
});

test('only members export, and what is there; a repeat with the same key is one export', async () => {
  const made = await extracted(app(), a, [table]);
  const tableId = globalId('ExtractedTable', first(made.tables));
  const jobId = globalId('ExtractionJob', made.run.id);
  for (const [who, answer] of [[b.owner, 'NotFound'], [viewer, 'Forbidden']] as const) {
    expect((await start({ tableId, format: 'CSV' }, who)).__typename).toBe(answer);
    expect((await start({ jobId, format: 'CSV' }, who)).__typename).toBe(answer);
  } // prettier-ignore
  const key = { tableId, format: 'CSV', idempotencyKey: 'once' };
  const [one, other] = await Promise.all([start(key), start(key)]);
  expect(one.export?.id).toBe(other.export?.id);
  expect((await start({ ...key, format: 'XLSX' })).__typename).toBe('IdempotencyConflict');
  const run = await ended(one.export?.id);
  const seen = `query ($id: ID!, $document: ID!) { node(id: $id) { id } document: node(id: $document) { id } }`;
  expect(await data(server.url, seen, { id: run.id, document: run.document?.id }, b.owner)).toEqual({ node: null, document: null }); // prettier-ignore
  const running = await extractionOf(app(), a);
  const [part = ''] = await write(running, [table]);
  await app().db.extractedTable.update({ where: { id: part }, data: { complete: false } });
  expect((await start({ tableId: globalId('ExtractedTable', part), format: 'CSV' })).__typename).toBe('Conflict');
  expect((await start({ jobId: globalId('ExtractionJob', running.run.id), format: 'CSV' })).__typename).toBe(
    'Conflict',
  );
});

test('what a lost execution has left is removed by the next one: one document, no file besides', async () => {
  const { tables, run: job } = await extracted(app(), a, [table]);
  const tableId = first(tables);
  // Of a host that has no worker: the first execution is the test's, and is lost after the bytes were stored.
  const id = rowId('TableExport', await paused(tableId));
  const hold = { runId: id, attempt: 1, workerId: '00000000-0000-4000-8000-00000000000c' };
  const taken = await app().use(Runs).take(id, { workerId: hold.workerId, hostId: paused.hostId });
  if (!taken) throw new Error('not taken');
  const context = {
    run: taken,
    write: (fn) => app().transact(system, async (tx) => fn(tx, await app().use(Runs).fence(tx, hold))),
  } as Pick<RunContext, 'run' | 'write'>;
  const file = { name: 'lost.csv', contentType: 'text/csv', maxBytes: 100, signal: new AbortController().signal };
  const lost = await app()
    .use(Artifacts)
    .produce(context, { ...file, source: Readable.from(['lost']) });
  expect(await blobs()).toContain(lost.id);
  await app().database.pool.query(
    `update run set host_id = null, lease_until = clock_timestamp() - interval '1 second' where id = $1`,
    [id],
  );
  const run = await ended(globalId('TableExport', id));
  expect(run).toMatchObject({ status: 'SUCCEEDED', parent: { id: globalId('ExtractionJob', job.id) } });
  expect((await app().db.run.findUniqueOrThrow({ where: { id } })).attempt).toBe(2);
  expect(await blobs()).not.toContain(lost.id);
  const artifacts = await app().db.artifact.findMany({ where: { runId: id }, include: { document: true } });
  expect(artifacts.map(({ status, document }) => [status, document?.id])).toEqual([['READY', rowId('Document', run.document?.id ?? '')]]); // prettier-ignore
  expect(await blobs()).toContain(artifacts[0]?.id);
});

test('an execution that has lost its run does not touch what the next one stores, and nobody aborts it as an upload', async () => {
  const { tables } = await extracted(app(), a, [table]);
  const id = rowId('TableExport', await paused(first(tables)));
  const workerId = '00000000-0000-4000-8000-00000000000f';
  const run = await app().use(Runs).take(id, { workerId, hostId: paused.hostId });
  if (!run) throw new Error('not taken');
  const contextOf = (attempt: number) =>
    ({
      run,
      write: (fn) =>
        app().transact(system, async (tx) => fn(tx, await app().use(Runs).fence(tx, { runId: id, attempt, workerId }))),
    }) as Pick<RunContext, 'run' | 'write'>;
  const produce = (attempt: number) =>
    app().use(Artifacts).produce(contextOf(attempt), {
      name: 'x.csv',
      contentType: 'text/csv',
      maxBytes: 100,
      signal: new AbortController().signal,
      source: Readable.from(['x']),
    }); // prettier-ignore
  await app().db.run.update({ where: { id }, data: { attempt: 2 } });
  const next = await produce(2);
  await expect(produce(1)).rejects.toBeInstanceOf(Fenced);
  expect(await app().blobs.stat(next.id)).toMatchObject({ sizeBytes: 1 });
  const abort = `mutation ($id: ID!) { abortUpload(input: { artifactId: $id }) { __typename } }`;
  expect(await data(server.url, abort, { id: globalId('Artifact', next.id) }, a.owner)).toEqual({ abortUpload: { __typename: 'Conflict' } }); // prettier-ignore
  await app().use(Runs).stop(id);
  await app().use(Runs).giveUp(id, 'The test is over.');
  await app().blobs.remove(next.id);
});

/** An export that no worker takes. @returns its global id */
async function paused(tableId: string): Promise<string> {
  const { exportKind } = await import('../../../src/domains/documents/service/exports.ts');
  const { jobId, workspaceId } = await app().db.extractedTable.findUniqueOrThrow({ where: { id: tableId } });
  const options = { formulas: 'ESCAPE', byteOrderMark: false, content: 'VALUES' } as const;
  const { id } = await app().transact(system, (tx) =>
    app().use(Runs).create(tx, {
      kind: exportKind,
      workspaceId,
      input: { tableId, jobId, format: 'CSV', options },
      trigger: 'API',
      parentId: jobId,
      hostId: paused.hostId,
    }),
  ); // prettier-ignore
  return globalId('TableExport', id);
}
paused.hostId = '00000000-0000-4000-8000-00000000000d';

test('an export that is canceled leaves nothing', async () => {
  const { tables } = await extracted(app(), a, [table]);
  const before = await blobs();
  const id = await paused(first(tables));
  const cancel = `mutation ($id: ID!) { cancelRun(input: { id: $id }) { __typename } }`;
  expect(await data(server.url, cancel, { id }, a.owner)).toEqual({ cancelRun: { __typename: 'CancelRunSuccess' } });
  expect(await ended(id)).toMatchObject({ status: 'CANCELED', document: null });
  // In the middle: the source is ended, and what was stored is gone.
  const other = rowId('TableExport', await paused(first(tables)));
  const hold = { runId: other, attempt: 1, workerId: '00000000-0000-4000-8000-00000000000e' };
  const taken = await app().use(Runs).take(other, { workerId: hold.workerId, hostId: paused.hostId });
  if (!taken) throw new Error('not taken');
  const stop = new AbortController();
  const endless = async function* () {
    for (;;) {
      yield Buffer.alloc(1000);
      stop.abort(new Error('canceled'));
    }
  };
  const source = Readable.from(endless());
  const context = { run: taken, write: (fn) => app().transact(system, async (tx) => fn(tx, await app().use(Runs).fence(tx, hold))) } as Pick<RunContext, 'run' | 'write'>; // prettier-ignore
  const file = { name: 'x', contentType: 'text/csv', maxBytes: 1e9, signal: stop.signal, source };
  await expect(app().use(Artifacts).produce(context, file)).rejects.toThrow('canceled');
  expect(source.destroyed).toBe(true);
  expect(await blobs()).toEqual(before);
  expect(await app().db.artifact.count({ where: { runId: other } })).toBe(0);
});

test('what was exported goes with its document, and what was extracted of it in its turn', async () => {
  const plain: Given = { columns: columns.slice(0, 1), rows: [[cell('x')], [cell('y')]] };
  const { tables, documentId } = await extracted(app(), a, [plain]);
  const { run } = await exported({ tableId: globalId('ExtractedTable', first(tables)), format: 'CSV' });
  const produced = run.document?.id ?? '';
  const job = await submit(server.url, a.owner, { documentId: produced });
  await jobWhere(server.url, a.owner, job, (one) => isOver(one) || one.status === 'WAITING');
  const again = await app().db.extractedTable.findFirstOrThrow({ where: { jobId: rowId('ExtractionJob', job) } });
  const second = await exported({ tableId: globalId('ExtractedTable', again.id), format: 'JSON_LINES' });
  const ids = [documentId, ...[produced, second.run.document?.id ?? ''].map((id) => rowId('Document', id))];
  const id = globalId('Document', documentId);
  expect((await mutate(server.url, 'deleteDocument', { id }, 'documentId', a.owner)).__typename).toBe(
    'DeleteDocumentSuccess',
  );
  await until('all are gone', async () => (await app().db.document.count({ where: { id: { in: ids } } })) === 0, livenessMs); // prettier-ignore
  const runs = [rowId('TableExport', run.id), rowId('ExtractionJob', job), rowId('TableExport', second.run.id)];
  expect(await app().db.run.count({ where: { id: { in: runs } } })).toBe(0);
  expect(await app().db.inboxItem.count({ where: { subjectId: rowId('ExtractionJob', job), status: 'OPEN' } })).toBe(0);
  const told = await app().db.event.findMany({
    where: { subjectId: { in: ids }, type: 'document.deleted' },
    orderBy: { seq: 'asc' },
  });
  expect(told.map(({ data: said }) => said)).toEqual([
    { jobs: 0, files: 1 },
    { jobs: 2, files: 2 },
    { jobs: 2, files: 3 },
  ]);
});
