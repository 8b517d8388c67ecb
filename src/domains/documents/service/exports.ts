import type { Readable } from 'node:stream';
import type { CellType, DocumentFormat } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { Conflict } from '#kernel/errors.ts';
import { isId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import type { RunContext } from '#kernel/runs/context.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { isTerminal } from '#kernel/runs/model.ts';
import { Runs } from '#kernel/runs/runs.ts';
import { Artifacts, type Produced } from '#kernel/storage/artifacts.ts';
import { ExportImpossible } from '../errors.ts';
import { tableExported } from '../events.ts';
import { exportPhases, NewTableExport, NewTablesExport, type ExportInput, type ExportOptions } from '../model.ts';
import { can } from '../policy.ts';
import { Documents } from './documents.ts';
import { lockDocument, type Written } from './shared.ts';
import type { WrittenCell, WrittenTable } from './writers.ts';

/** Largest file that is made, bytes. */
const maxBytes = 2 ** 31;
/** Tables of a job that are written into one file. */
const maxTables = 1000;
/** Exports of a workspace that are executed at once. */
const maxAtOnce = 2;
/** Cells that are read in one statement, and the bytes of their text; a row is read as a whole. */
const pageCells = 10_000;
const pageBytes = 4_000_000;
const progressMs = 1000;

/** Exports of tables as runs, children of the job that found the tables. */
export const exportKind = defineRunKind<ExportInput>({
  name: 'TableExport',
  versions: [1],
  phases: exportPhases,
  initial: 'PENDING',
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => ['write'],
  begin: () => 'RUNNING',
  deadlineS: 3600,
  execute: write,
  async hasRoom(tx, { id, workspaceId, kind }) {
    const begun = { workspaceId, kind, completedAt: null, attempt: { gt: 0 }, id: { not: id } };
    return (await tx.db.run.count({ where: begun })) < maxAtOnce;
  },
  async onCreate(tx, run, { tableId, jobId, format }) {
    await tx.db.tableExport.create({ data: { id: run.id, tableId, jobId, format } });
  },
  async retryInput(tx, run) {
    const input = run.input as unknown as ExportInput;
    await exportable(tx, input);
    return input;
  },
});

/** The writer of table_export. */
export const Exports = service('exports', (app) => {
  const start = (
    actor: Actor,
    subject: Subject,
    input: ExportInput,
    mutation: string,
    key: string | null | undefined,
  ) =>
    app.transact(actor, async (tx): Promise<Written> => {
      const { workspaceId } = subject;
      const started = await app.use(Runs).once(tx, { workspaceId, mutation, key, input }, async () => {
        await exportable(tx, input);
        return app.use(Runs).create(tx, {
          kind: exportKind,
          workspaceId,
          input,
          trigger: 'API',
          parentId: subject.jobId,
        });
      });
      return { ...started, workspaceId };
    });

  return {
    /**
     * Queues a run that writes a table as a file, which becomes a document. A table that is not complete is written as
     * far as it came, once its job is over.
     * @throws {ValidationError} {NotFound} {Forbidden} {IdempotencyConflict}
     * @throws {Conflict} while the table is being extracted, or when its document is being deleted
     */
    async table(actor: Actor, raw: unknown): Promise<Written> {
      const { idempotencyKey, tableId, format, ...asked } = parse(NewTableExport, raw);
      const table = isId(tableId)
        ? await app.db.extractedTable.findUnique({ where: { id: tableId }, select: { workspaceId: true, jobId: true } })
        : null;
      authorizeRow(actor, can.exportTable, table, 'ExtractedTable', tableId);
      const input = { tableId, jobId: table.jobId, format, options: optionsOf(asked) };
      return start(actor, table, input, 'exportTable', idempotencyKey);
    },

    /**
     * The same for all tables of a job, in one file.
     * @throws {ValidationError} {NotFound} {Forbidden} {IdempotencyConflict}
     * @throws {Conflict} also when there are none, or too many
     */
    async tables(actor: Actor, raw: unknown): Promise<Written> {
      const { idempotencyKey, jobId, format, ...asked } = parse(NewTablesExport, raw);
      const job = isId(jobId)
        ? await app.db.run.findUnique({ where: { id: jobId, kind: 'ExtractionJob' }, select: { workspaceId: true } })
        : null;
      authorizeRow(actor, can.exportTables, job, 'ExtractionJob', jobId);
      const input = { tableId: null, jobId, format, options: optionsOf(asked) };
      return start(actor, { ...job, jobId }, input, 'exportTables', idempotencyKey);
    },
  };
});

const optionsOf = (asked: { [K in keyof ExportOptions]?: ExportOptions[K] | null | undefined }): ExportOptions => ({
  formulas: asked.formulas ?? 'ESCAPE',
  byteOrderMark: asked.byteOrderMark ?? false,
  content: asked.content ?? 'VALUES',
});

interface Subject {
  readonly workspaceId: string;
  readonly jobId: string;
}

/** Under the lock under which documents are deleted. @throws {Conflict} */
async function exportable(tx: Transaction, { jobId, tableId }: ExportInput): Promise<void> {
  const job = await tx.db.extractionJob.findUnique({
    where: { id: jobId },
    select: { documentId: true, run: { select: { status: true } } },
  });
  const document = job && (await lockDocument(tx, job.documentId));
  if (!document || document.removalAskedAt) throw new Conflict('The document is being deleted.');
  const where = tableId === null ? { jobId } : { jobId, id: tableId };
  const [tables, partial] = [
    await tx.db.extractedTable.count({ where }),
    await tx.db.extractedTable.count({ where: { ...where, complete: false } }),
  ];
  const { status } = job.run;
  const over = isTerminal(status) || status === 'WAITING';
  if (!over && (tableId === null || partial > 0)) throw new Conflict('The tables are still being extracted.');
  if (tables === 0) throw new Conflict('There are no tables.');
  if (tables > maxTables) throw new Conflict(`There are ${tables} tables; ${maxTables} are exported at once.`);
}

/** What a file is, by the format and by whether it is one table. */
interface Kind {
  readonly extension: string;
  readonly contentType: string;
  readonly format: DocumentFormat | null;
}

const kinds = {
  CSV: { extension: 'csv', contentType: 'text/csv; charset=utf-8', format: 'CSV' },
  XLSX: {
    extension: 'xlsx',
    contentType: 'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
    format: 'XLSX',
  },
  JSON_LINES: { extension: 'jsonl', contentType: 'application/x-ndjson', format: 'JSON_LINES' },
} as const satisfies Record<ExportInput['format'], Kind>;
const zip: Kind = { extension: 'zip', contentType: 'application/zip', format: null };

/** What a file is called: no control characters, nothing that a path is made of. */
const fileName = (name: string, extension: string): string =>
  `${
    name
      .replaceAll(/[\p{Cc}\p{Cs}/\\:*?"<>|]/gu, ' ')
      .slice(0, 200)
      .toWellFormed()
      .trim() || 'table'
  }.${extension}`;

type Made = Omit<Produced, 'id'> & { readonly artifactId: string; readonly name: string; readonly archive: boolean };

async function write(context: RunContext<ExportInput>): Promise<{ phase: 'SUCCEEDED' }> {
  const { app, run, input } = context;
  const { jobId, tableId, format, options } = input;
  const archive = tableId === null && format !== 'XLSX';
  const kind: Kind = archive ? zip : kinds[format];
  await context.step<Made>(
    'write',
    { timeoutS: 3300 },
    async ({ signal, log }) => {
      const { document } = await app.db.extractionJob.findUniqueOrThrow({
        where: { id: jobId },
        select: { document: { select: { name: true } } },
      });
      // Here, where there are few at once: many may have been asked for before one of them has made anything.
      await app.use(Documents).requireRoomForProduced(run.workspaceId);
      const told = progressOf(context);
      const tables = await tablesOf(app, input, signal, told);
      const base = document.name.replace(/\.[^.]{1,10}$/, '');
      const name = fileName(tableId === null ? base : `${base} - ${tables[0]?.name ?? ''}`, kind.extension);
      // Only here: a server that exports nothing does not load them.
      const writers = await import('./writers.ts');
      const one = (table: WrittenTable): Readable =>
        format === 'CSV' ? writers.csv(table, options) : writers.jsonLines(table, options);
      const open = (): Readable => {
        if (format === 'XLSX') return writers.xlsx(tables, options);
        if (archive)
          return writers.zipped(
            tables.map((table) => ({ name: fileName(table.name, kinds[format].extension), open: () => one(table) })),
          );
        const [table] = tables;
        if (!table) throw new ExportImpossible('The table is gone.');
        return one(table);
      };
      const { id, sizeBytes, sha256 } = await app.use(Artifacts).produce(context, {
        name,
        contentType: kind.contentType,
        source: open(),
        maxBytes,
        signal,
      });
      await log(`Wrote ${told.rows} rows of ${tables.length} tables: ${sizeBytes} bytes.`);
      return { artifactId: id, sizeBytes, sha256, name, archive };
    },
    async (tx, { artifactId, sizeBytes, sha256, name }) => {
      const { workspaceId, actorId } = run;
      await app.use(Artifacts).ready(tx, { id: artifactId, sizeBytes, sha256 });
      const produced = await app.use(Documents).addProduced(tx, {
        workspaceId,
        artifactId,
        exportId: run.id,
        name,
        format: kind.format,
        contentType: kind.contentType,
        sizeBytes: BigInt(sizeBytes),
        sha256,
        createdById: actorId,
      });
      const { job } = await tx.db.tableExport.update({
        where: { id: run.id },
        data: { documentId: produced.id },
        select: { job: { select: { documentId: true } } },
      });
      if (tableId === null) return;
      const data = { jobId, documentId: job.documentId, exportId: run.id, producedId: produced.id, format };
      tx.append({ type: tableExported, workspaceId, subjectId: tableId, run, data });
    },
  );
  return { phase: 'SUCCEEDED' };
}

/** Tells how far it is, now and then. */
function progressOf(context: RunContext<ExportInput>) {
  let at = performance.now();
  return {
    rows: 0,
    total: 0,
    async add(rows: number): Promise<void> {
      this.rows += rows;
      if (performance.now() - at < progressMs) return;
      at = performance.now();
      await context.progress(Math.min(1, this.rows / Math.max(1, this.total)));
    },
  };
}

/** What is written, in the order of the document. Rows are read as they are asked for. */
async function tablesOf(
  app: App,
  { jobId, tableId }: ExportInput,
  signal: AbortSignal,
  told: ReturnType<typeof progressOf>,
): Promise<WrittenTable[]> {
  const tables = await app.db.extractedTable.findMany({
    where: tableId === null ? { jobId } : { jobId, id: tableId },
    orderBy: { position: 'asc' },
    include: { columns: { orderBy: { position: 'asc' } } },
  });
  told.total = tables.reduce((sum, { rowCount }) => sum + rowCount, 0);
  return tables.map(({ id, name, columns, rowCount }) => ({
    name,
    columns,
    rowCount,
    rows: (from, to) => rowsOf(app, { id, columns: columns.length }, from, to, signal, told),
  }));
}

interface Read {
  readonly row: number;
  readonly column: number;
  readonly type: CellType;
  /** Null: it is beyond what one statement gives. */
  readonly text: string | null;
  readonly value: string | null;
}

/** Rows of a table from one on to before another, in pages by their numbers. */
async function* rowsOf(
  app: App,
  table: { readonly id: string; readonly columns: number },
  from: number,
  to: number,
  signal: AbortSignal,
  told: ReturnType<typeof progressOf>,
): AsyncGenerator<readonly (WrittenCell | undefined)[]> {
  const step = Math.max(1, Math.floor(pageCells / Math.max(1, table.columns)));
  let next = from;
  while (next < to) {
    signal.throwIfAborted();
    const end = Math.min(to, next + step);
    const { rows } = await app.database.pool.query<Read>(
      // The sizes of texts are known without reading them.
      `select c.row, c."column", c.type, case when c.bytes <= $5 or c.row = $3 then c.text end as text, c.value
       from (
         select e.row, e."column", e.type, e.text, e.value, sum(octet_length(e.text)) over (order by e.row) as bytes
         from extracted_cell e
         where e.table_id = $1 and e."column" = any($2::smallint[]) and e.row >= $3 and e.row < $4
       ) c order by c.row, c."column"`,
      [table.id, Array.from({ length: table.columns }, (_, at) => at), next, end, pageBytes],
    );
    const cut = rows.find(({ text }) => text === null)?.row ?? end;
    const cells = Array.from({ length: cut - next }, (): (WrittenCell | undefined)[] => []);
    for (const { row, column, type, text, value } of rows) {
      if (row >= cut || text === null) break;
      const line = cells[row - next];
      if (line) line[column] = { type, text, value };
    }
    await told.add(cells.length);
    yield* cells;
    next = cut;
  }
}
