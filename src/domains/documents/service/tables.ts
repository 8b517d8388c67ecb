import { service, type App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { newId } from '#kernel/ids.ts';
import type { RunContext } from '#kernel/runs/context.ts';
import { Fenced } from '#kernel/runs/errors.ts';
import { Runs, type Hold } from '#kernel/runs/runs.ts';
import type { Box, Cell, Column, Extracted } from '../../../integrations/extractors/index.ts';
import { DocumentQuotaExceeded } from '../errors.ts';
import { carryOver } from './carry-over.ts';
import { DocumentSettings } from './shared.ts';
import { fits, readingOf } from './values.ts';

type Event<T extends Extracted['type']> = Extract<Extracted, { type: T }>;

/** Writes what an extractor gives, in its order. Everything is conditional on the run's execution. */
export interface TableWriter {
  /** @throws {Fenced} */
  table(head: Event<'table'>): Promise<void>;
  /** @throws {Fenced} */
  rows(batch: Event<'rows'>): Promise<void>;
  /** Writes the rest of the table, and says that it is complete. @throws {Fenced} */
  tableEnd(end: Event<'tableEnd'>): Promise<void>;
  /** Writes what has come of a table that has not ended, and goes on with none: it stays, as a part. @throws {Fenced} */
  flush(): Promise<void>;
}

export interface Totals {
  readonly tables: number;
  readonly rows: bigint;
  readonly cells: bigint;
  /** Cells that wait for a person. */
  readonly review: bigint;
}

/** What there is of a run that this execution holds. */
type Execution = Pick<RunContext, 'app' | 'run' | 'hold'>;

/** Cells that are written in one statement. */
const batchCells = 10_000;
/** And their text, characters. */
const batchChars = 4_000_000;
/** Cells that one statement changes or removes. */
const statementCells = 20_000;
/** Cells that are put by for a job beyond those that it needs now, at most. */
const reservedAhead = 100_000;
const maxName = 255;

/** The database's text holds neither U+0000 nor half a surrogate pair. */
const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();
const json = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) => (typeof part === 'string' ? storable(part) : part));
const nameOf = (text: string): string => storable(text.slice(0, maxName));

/** The writer of extracted_table, extracted_column and extracted_cell, but for what people correct. */
export const Tables = service('extracted tables', (app) => ({
  /**
   * Begins to write the tables of a job. Removes what an earlier execution of the same job had begun to write.
   * @param options.minConfidence a cell below it wants a review
   * @throws {Fenced}
   */
  async writer(context: Execution, options: { readonly minConfidence: number }): Promise<TableWriter> {
    const { hold, run } = context;
    const { documentId } = await app.db.extractionJob.findUniqueOrThrow({
      where: { id: run.id },
      select: { documentId: true },
    });
    const begun = await app.db.extractedTable.findMany({ where: { jobId: run.id }, select: { id: true } });
    // In small statements: a million cells take a while, and nobody renews the lease of a run that is held.
    for (const { id } of begun) {
      const some = `(select ctid from extracted_cell where table_id = $4 limit ${statementCells})`;
      const cells = [`delete from extracted_cell using mine where ctid = any(array${some})`];
      while ((await held(app, hold, cells, [id])) > 0);
      await held(app, hold, ['delete from extracted_table using mine where extracted_table.id = $4'], [id]);
    }
    return new Writer(app, hold, { documentId, workspaceId: run.workspaceId }, options.minConfidence);
  },

  /**
   * A look whether the workspace may have more cells; {@link reserve} makes sure of it.
   * @throws {DocumentQuotaExceeded}
   */
  async requireRoom(db: Pick<App['db'], '$queryRaw'>, workspaceId: string): Promise<void> {
    const { maxStoredCells } = app.use(DocumentSettings);
    const used = await cellsOf(db, workspaceId, null);
    if (used >= maxStoredCells) throw new DocumentQuotaExceeded('CELLS', maxStoredCells, used);
  },

  /**
   * Puts cells by for a job, so that those that are executed at once do not pass the quota together. Until the job has
   * stored all of its tables, or is over, they count as if they were written.
   * @param cells how many it needs in all
   * @returns how many it may have in all: some more than it needs, where there is room
   * @throws {DocumentQuotaExceeded} {Fenced}
   */
  async reserve({ hold, run }: Execution, cells: number): Promise<number> {
    const { maxStoredCells } = app.use(DocumentSettings);
    return app.transact(system, async (tx) => {
      // One at a time, so that of two the second one sees the first.
      await tx.db.$queryRaw`select 1 from workspace where id = ${run.workspaceId}::uuid for no key update`;
      await app.use(Runs).fence(tx, hold);
      const used = await cellsOf(tx.db, run.workspaceId, run.id);
      const left = BigInt(maxStoredCells) - used - BigInt(cells);
      if (left < 0n) throw new DocumentQuotaExceeded('CELLS', maxStoredCells, used + BigInt(cells));
      // Less and less towards the limit, where others could want what this one then does not need.
      const reserved = cells + Math.min(reservedAhead, Math.floor(Number(left) / 10));
      await tx.db.extractionJob.update({ where: { id: run.id }, data: { cellsReserved: reserved } });
      return reserved;
    });
  },

  /**
   * Everything is written: gives cells that people have corrected in earlier jobs of the document, and that say the same
   * at the same place now, their corrections again. Safe to run twice.
   * @returns what there is
   */
  async finish(tx: Transaction, jobId: string): Promise<Totals> {
    await carryOver(tx, jobId);
    const [found] = await tx.db.$queryRaw<Totals[]>`
      select count(*)::int as tables, coalesce(sum(row_count), 0)::bigint as rows,
        coalesce(sum(cell_count), 0)::bigint as cells, coalesce(sum(review_count), 0)::bigint as review
      from extracted_table where job_id = ${jobId}::uuid`;
    return found ?? { tables: 0, rows: 0n, cells: 0n, review: 0n };
  },
}));

/** Cells that a workspace has, and those that are put by for jobs under way; of one job neither. */
async function cellsOf(db: Pick<App['db'], '$queryRaw'>, workspaceId: string, except: string | null): Promise<bigint> {
  const [found] = await db.$queryRaw<{ cells: bigint }[]>`
    select (
      select coalesce(sum(cell_count), 0) from extracted_table
      where workspace_id = ${workspaceId}::uuid and job_id is distinct from ${except}::uuid
    )::bigint + (
      select coalesce(sum(greatest(j.cells_reserved - t.cells, 0)), 0)
      from run r join extraction_job j on j.id = r.id
      cross join lateral (
        select coalesce(sum(cell_count), 0)::bigint as cells from extracted_table where job_id = j.id
      ) t
      where r.workspace_id = ${workspaceId}::uuid and r.kind = 'ExtractionJob' and r.completed_at is null
        and j.cells_reserved > 0 and j.id is distinct from ${except}::uuid
    )::bigint as cells`;
  return found?.cells ?? 0n;
}

/**
 * Statements that change something, as one, when this execution holds the run; `mine` is the run's row then, and empty
 * otherwise: each of them must join it. `$1` to `$3` are the hold.
 * @returns how many rows the first of them has changed
 * @throws {Fenced}
 */
async function held(app: App, hold: Hold, changes: readonly string[], values: readonly unknown[]): Promise<number> {
  const { rows } = await app.database.pool.query<{ changed: number }>(
    `with mine as (select id from run where id = $1 and attempt = $2 and worker_id = $3 for share),
     ${changes.map((change, at) => `change${at} as (${change} returning 1)`).join(', ')}
     select (select count(*) from change0)::int as changed from mine`,
    [hold.runId, hold.attempt, hold.workerId, ...values],
  );
  const [one] = rows;
  if (!one) throw new Fenced(hold.runId);
  return one.changed;
}

/** A table that is being written. */
interface Open {
  readonly id: string;
  readonly index: number;
  columns: readonly Column[];
  rows: number;
  cells: number;
  /** Of all confidences. */
  sum: number;
  lowest: number;
  review: number;
  /** Types that a column has cells of. */
  readonly types: Map<number, Set<Cell['type']>>;
}

class Writer implements TableWriter {
  readonly #app: App;
  readonly #hold: Hold;
  readonly #of: { readonly documentId: string; readonly workspaceId: string };
  readonly #minConfidence: number;
  #open: Open | null = null;
  #pending: { readonly column: number; readonly row: number; readonly cell: Cell }[] = [];
  #chars = 0;

  constructor(app: App, hold: Hold, of: { documentId: string; workspaceId: string }, minConfidence: number) {
    this.#app = app;
    this.#hold = hold;
    this.#of = of;
    this.#minConfidence = minConfidence;
  }

  async table(head: Event<'table'>): Promise<void> {
    await this.flush();
    const id = newId();
    const { columns, index } = head;
    await this.#change(
      [
        `insert into extracted_table (id, workspace_id, job_id, document_id, position, name, place, column_count, updated_at)
         select $4, $5, mine.id, $6, $7, $8, $9::jsonb, $10, now() from mine`,
      ],
      [id, this.#of.workspaceId, this.#of.documentId, index, nameOf(head.name), placeOf(head), columns.length],
    );
    this.#open = { id, index, columns: [], rows: 0, cells: 0, sum: 0, lowest: 1, review: 0, types: new Map() };
    await this.#columns(this.#open, columns);
  }

  async rows({ table, from, rows }: Event<'rows'>): Promise<void> {
    const open = this.#opened(table);
    for (const [at, cells] of rows.entries()) {
      const row = from + at;
      for (const [column, cell] of cells.entries()) {
        this.#pending.push({ column, row, cell });
        this.#chars += cell.text.length;
        open.cells++;
        open.sum += cell.confidence;
        open.lowest = Math.min(open.lowest, cell.confidence);
        if (cell.confidence < this.#minConfidence) open.review++;
        const types = open.types.get(column);
        if (types) types.add(cell.type);
        else open.types.set(column, new Set([cell.type]));
      }
      open.rows = Math.max(open.rows, row + 1);
      if (this.#pending.length >= batchCells || this.#chars >= batchChars) await this.#cells(open);
    }
  }

  async tableEnd({ table, rows, columns }: Event<'tableEnd'>): Promise<void> {
    const open = this.#opened(table);
    open.rows = Math.max(open.rows, rows);
    await this.#cells(open);
    await this.#columns(open, columns);
    // What does not fit its column is not compared with what does.
    const misfits = [...open.types].flatMap(([column, types]) => {
      const want = columns[column]?.type ?? 'TEXT';
      return [...types].filter((type) => type !== 'EMPTY' && !fits(type, want)).map((type) => ({ column, type }));
    });
    const step = Math.max(1, Math.floor(statementCells / Math.max(1, misfits.length)));
    for (let from = 0; misfits.length > 0 && from < open.rows; from += step)
      await this.#change(
        [
          `update extracted_cell c set number = null from mine, unnest($5::smallint[], $6::cell_type[]) as m("column", type)
           where c.table_id = $4 and c."column" = m."column" and c.type = m.type and c.number is not null
             and c.row >= $7 and c.row < $8`,
        ],
        [open.id, misfits.map(({ column }) => column), misfits.map(({ type }) => type), from, from + step],
      );
    await this.#change(
      ['update extracted_table set complete = true, updated_at = now() from mine where extracted_table.id = $4'],
      [open.id],
    );
    this.#open = null;
  }

  async flush(): Promise<void> {
    if (this.#open) await this.#cells(this.#open);
    this.#open = null;
  }

  #opened(table: number): Open {
    if (this.#open?.index !== table) throw new Error(`Rows of table ${table}, which is not open`);
    return this.#open;
  }

  #change(changes: readonly string[], values: readonly unknown[]): Promise<number> {
    return held(this.#app, this.#hold, changes, values);
  }

  async #columns(open: Open, columns: readonly Column[]): Promise<void> {
    open.columns = columns;
    await this.#change(
      [
        `insert into extracted_column (table_id, position, name, type)
         select $4, c.i - 1, c.name, c.type::cell_type
         from mine, unnest($5::text[], $6::text[]) with ordinality as c(name, type, i)
         on conflict (table_id, position) do update set name = excluded.name, type = excluded.type`,
        `update extracted_table set column_count = cardinality($5::text[]), updated_at = now()
         from mine where extracted_table.id = $4`,
      ],
      [open.id, columns.map(({ name }) => nameOf(name)), columns.map(({ type }) => type)],
    );
  }

  /** Cells, and what the table says of them, commit together: a part of a table says what it is a part of. */
  async #cells(open: Open): Promise<void> {
    const batch = this.#pending;
    this.#pending = [];
    this.#chars = 0;
    const width = batch.reduce((most, { column }) => Math.max(most, column + 1), 0);
    if (width > open.columns.length) {
      const names = Array.from({ length: width }, (_, at) => `Column ${at + 1}`);
      await this.#columns(
        open,
        names.map((name, at) => open.columns[at] ?? { name, type: 'TEXT' }),
      );
    }
    const readings = batch.map(({ cell }) => readingOf(cell));
    await this.#change(
      [
        `update extracted_table set row_count = $5, cell_count = $6, confidence_min = $7, confidence_mean = $8,
           review_count = $9, updated_at = now()
         from mine where extracted_table.id = $4`,
        `insert into extracted_cell
           (table_id, "column", row, type, text, value, number, confidence, note, citation, needs_review)
         select $4, c."column", c.row, c.type::cell_type, c.text, c.value, c.number::numeric, c.confidence, c.note,
           c.citation::jsonb, c.confidence < $10
         from mine, unnest($11::smallint[], $12::int[], $13::text[], $14::text[], $15::text[], $16::text[],
           $17::float8[], $18::text[], $19::text[])
           as c("column", row, type, text, value, number, confidence, note, citation)`,
      ],
      [
        open.id,
        open.rows,
        open.cells,
        open.cells === 0 ? null : open.lowest,
        open.cells === 0 ? null : open.sum / open.cells,
        open.review,
        this.#minConfidence,
        batch.map(({ column }) => column),
        batch.map(({ row }) => row),
        readings.map(({ type }) => type),
        batch.map(({ cell }) => storable(cell.text)),
        readings.map(({ value }) => value),
        readings.map(({ number }) => number),
        batch.map(({ cell }) => cell.confidence),
        batch.map(({ cell }) => cell.note ?? null),
        batch.map(({ cell }) => json(cell.citation)),
      ],
    );
  }
}

/** Where a table is, as its cells say where they are. */
function placeOf({ sheet, page, box }: { sheet?: string; page?: number; box?: Box }): string | null {
  if (sheet !== undefined) return json({ kind: 'SHEET', sheet });
  return page === undefined ? null : json({ kind: 'PAGE', page, ...(box ? { box } : {}) });
}
