import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { globalId, rowId } from '../../src/kernel/graphql/global-id.ts';
import { isTerminal } from '../../src/kernel/runs/model.ts';
import { system } from '../../src/kernel/auth/actor.ts';
import { countRows, readCells, readRows, RowQuery, type RowsAsked } from '../../src/domains/documents/service/rows.ts';
import { Tables } from '../../src/domains/documents/service/tables.ts';
import type { Cell, Column } from '../../src/integrations/extractors/index.ts';
import { data } from '../support/client.ts';
import { random } from '../support/random.ts';
import { spawnServer, startTestServer, type ServerProcess, type TestServer } from '../support/server.ts';
import { tenant, type Tenant } from '../support/world.ts';
import { conclude, extractionOf, type Extraction } from '../domains/documents/tables-harness.ts';

/** A table of a million cells. */
const rowCount = 100_000;
const types = ['TEXT', 'INTEGER', 'DECIMAL', 'DATE', 'TEXT', 'TEXT', 'INTEGER', 'BOOLEAN', 'TEXT', 'DECIMAL'] as const;
const columns: Column[] = types.map((type, at) => ({ name: `Column ${at + 1}`, type }));
const patienceMs = 300_000;
/** What all of a million cells may add to what is in use after the first tenth, MiB: they are 400 MiB here. */
const maxGrowthMb = 24;
/** Collects what nothing refers to, so that what is in use can be told. */
const collect = (() => {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
})();
/** The heap that a worker may have for an export, MiB: less than a million cells need. */
const workerHeapMb = 192;

let server: TestServer;
let of: Tenant;
let extraction: Extraction;
let table: { readonly id: string; readonly rowCount: number; readonly types: readonly (typeof types)[number][] };
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  of = await tenant(server.running.app, 'million');
  extraction = await extractionOf(server.running.app, of);
});
afterAll(() => server.stop());

const app = () => server.running.app;
const mb = (bytes: number): number => Math.round(bytes / 2 ** 20);
const timed = async <T>(fn: () => Promise<T>): Promise<{ ms: number; value: T }> => {
  const from = performance.now();
  const value = await fn();
  return { ms: Math.round(performance.now() - from), value };
};

const next = random(20);
function cellAt(row: number, column: number): Cell {
  const type = types[column] ?? 'TEXT';
  const citation = { kind: 'SHEET', sheet: 'Sheet 1', ref: `${'ABCDEFGHIJ'[column]}${row + 2}` } as const;
  const number = Math.floor(next() * 1_000_000);
  const value =
    type === 'INTEGER'
      ? number
      : type === 'DECIMAL'
        ? `${number}.25`
        : type === 'BOOLEAN'
          ? number % 2 === 0
          : type === 'DATE'
            ? `20${10 + (number % 20)}-0${1 + (number % 9)}-1${number % 10}`
            : `word ${number} of row ${row}`;
  return { text: String(value), value, type, confidence: number % 1000 === 0 ? 0.5 : 1, citation };
}

test('a million cells are written in bounded memory', async () => {
  const batch = 500;
  const inUse: number[] = [];
  const { ms } = await timed(async () => {
    const writer = await app().use(Tables).writer(extraction, { minConfidence: 0.7 });
    await writer.table({ type: 'table', index: 0, name: 'Million', columns, headerRows: 1 });
    for (let from = 0; from < rowCount; from += batch) {
      await writer.rows({
        type: 'rows',
        table: 0,
        from,
        rows: Array.from({ length: batch }, (_, at) => types.map((_type, column) => cellAt(from + at, column))),
      });
      if ((from + batch) % (rowCount / 10) !== 0) continue;
      collect();
      const { heapUsed, external } = process.memoryUsage();
      inUse.push(mb(heapUsed + external));
    }
    await writer.tableEnd({ type: 'tableEnd', table: 0, rows: rowCount, columns });
    await app().transact(system, async (tx) => {
      const { review, ...counts } = await app().use(Tables).finish(tx, extraction.run.id);
      expect(counts).toEqual({ tables: 1, rows: 100_000n, cells: 1_000_000n });
      await tx.db.extractionJob.update({ where: { id: extraction.run.id }, data: { reviewCount: review } });
    });
  });
  const [first = 0] = inUse;
  const most = Math.max(...inUse);
  const { id } = await app().db.extractedTable.findFirstOrThrow({ where: { jobId: extraction.run.id } });
  table = { id, rowCount, types };
  await app().database.pool.query('analyze extracted_cell');
  console.log(
    `MEASURED a million cells written in ${ms} ms, ${Math.round(1e9 / ms)} cells/s; memory in use after a tenth ${first} MiB, at most ${most} MiB`,
  );
  expect(most - first).toBeLessThan(maxGrowthMb);
  await conclude(extraction);
});

test('pages of it are found in the database, each a few rows', async () => {
  const asked: Record<string, RowsAsked> = {
    'as they are': {},
    'in the middle': { after: Buffer.from(JSON.stringify([50_000, null, ''])).toString('base64url') },
    'sorted by a number': { orderBy: { column: 1, direction: 'DESC' } },
    'sorted by a text': { orderBy: { column: 0, direction: 'ASC' } },
    'filtered by a number': { where: [{ column: 2, op: 'GT', value: '999000' }] },
    'filtered by a text that few have': { where: [{ column: 4, op: 'CONTAINS', value: 'word 4242' }] },
    'filtered by three columns, sorted by a date': {
      where: [
        { column: 7, op: 'EQ', value: 'true' },
        { column: 1, op: 'LT', value: '500000' },
        { column: 5, op: 'STARTS_WITH', value: 'word 9' },
      ],
      orderBy: { column: 3, direction: 'ASC' },
    },
    'that want a look': { needsReview: true },
  };
  for (const [what, one] of Object.entries(asked)) {
    const query = new RowQuery(table, { ...one, first: 50 });
    const page = await timed(async () => {
      const [found] = await readRows(app(), [query]);
      const rows = (found?.rows ?? []).map(({ row }) => row);
      const [cells] = await readCells(app(), [{ tableId: table.id, columns: query.columns, rows, chars: 2000 }]);
      expect(cells).toHaveLength(rows.length * types.length);
      return found;
    });
    expect(page.value?.rows.length).toBeGreaterThan(0);
    const second = await timed(() =>
      readRows(app(), [new RowQuery(table, { ...one, first: 50, after: page.value?.rows.at(-1)?.cursor ?? null })]),
    );
    const count = await timed(() => countRows(app(), [query]));
    console.log(
      `MEASURED rows ${what}: ${page.ms} ms, next page ${second.ms} ms, ${count.value[0]} counted in ${count.ms} ms`,
    );
    const seen = new Set(page.value?.rows.map(({ row }) => row));
    expect(second.value[0]?.rows.filter(({ row }) => seen.has(row))).toEqual([]);
  }
});

test('it is exported in bounded memory, also when the worker is killed in the middle', async () => {
  const env = {
    ...server.env,
    SWITCHYARD_ROLES: 'worker',
    SWITCHYARD_PROCESS_DRIVER: 'false',
    SWITCHYARD_RUN_LEASE_S: '4',
    NODE_OPTIONS: `--max-old-space-size=${workerHeapMb}`,
  };
  const workers: ServerProcess[] = [];
  const start = async (format: string, key: string): Promise<string> => {
    const mutation = `mutation ($input: ExportTableInput!) { exportTable(input: $input) { ... on ExportTableSuccess { export { id } } } }`;
    const input = { tableId: globalId('ExtractedTable', table.id), format, idempotencyKey: key };
    const made = await data<{ exportTable: { export: { id: string } } }>(server.url, mutation, { input }, of.owner);
    return rowId('TableExport', made.exportTable.export.id);
  };
  const run = (id: string) => app().db.run.findUniqueOrThrow({ where: { id }, include: { tableExport: true } });
  const rssOf = async ({ child }: ServerProcess): Promise<number> => {
    const { readFile } = await import('node:fs/promises');
    const status = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? '0') / 1024;
  };
  try {
    workers.push(await spawnServer(env));
    for (const format of ['CSV', 'XLSX', 'JSON_LINES']) {
      const [worker] = workers.slice(-1) as [ServerProcess];
      const before = await rssOf(worker);
      let most = before;
      const { ms, value: id } = await timed(async () => {
        const started = await start(format, format);
        for (const until = Date.now() + patienceMs; Date.now() < until; await delay(25)) {
          most = Math.max(most, await rssOf(worker));
          if (isTerminal((await run(started)).status)) break;
        }
        return started;
      });
      const made = await run(id);
      expect(made).toMatchObject({ status: 'SUCCEEDED', statusReason: null });
      const document = await app().db.document.findUniqueOrThrow({ where: { id: made.tableExport?.documentId ?? '' } });
      console.log(`MEASURED a million cells as ${format} in ${ms} ms, ${document.sizeBytes} bytes, with a heap of ${workerHeapMb} MiB; most memory of the worker ${Math.round(most)} MiB, ${Math.round(before)} before`); // prettier-ignore
    }
    const id = await start('CSV', 'killed');
    for (const until = Date.now() + patienceMs; Date.now() < until; await delay(10))
      if ((await app().db.artifact.count({ where: { runId: id, status: 'PENDING' } })) > 0) break;
    await workers[0]?.kill('SIGKILL');
    expect(await run(id)).toMatchObject({ status: 'RUNNING' });
    workers.push(await spawnServer(env));
    for (const until = Date.now() + patienceMs; Date.now() < until; await delay(50))
      if (isTerminal((await run(id)).status)) break;
    expect(await run(id)).toMatchObject({ status: 'SUCCEEDED', lostWorkers: 1 });
    const artifacts = await app().db.artifact.findMany({ where: { runId: id }, include: { document: true } });
    expect(artifacts).toMatchObject([{ status: 'READY', document: { source: 'EXPORT' } }]);
    expect(await app().db.document.count({ where: { workspaceId: of.id, source: 'EXPORT' } })).toBe(4);
  } finally {
    for (const worker of workers) await worker.kill('SIGKILL');
  }
});
