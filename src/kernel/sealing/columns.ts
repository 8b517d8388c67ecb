import type pg from 'pg';
import type { DbTx } from '../db/client.ts';
import type { Logger } from '../log.ts';
import type { SealingService } from './sealing.ts';

/** A column of text that holds sealed values, or null. */
export interface SealedColumn {
  /** `<table>.<column>`. */
  readonly name: string;
  readonly table: string;
  readonly column: string;
  /** Column of the row's id, a UUID that never changes. */
  readonly id: string;
  /** What a value of the row with this id is sealed and opened with. */
  readonly context: (id: string) => string;
}

const columns = new Map<string, SealedColumn>();
const sqlName = /^[a-z][a-z0-9_]{0,62}$/;

/**
 * Declares a column that holds sealed values, so that the rotation of the keys and the check at the start find them.
 * The context is `<table>.<column>:<row id>` unless another one is given; it never changes once values were sealed.
 */
export function defineSealedColumn(declared: {
  readonly table: string;
  readonly column: string;
  readonly id?: string;
  readonly context?: (id: string) => string;
}): SealedColumn {
  const { table, column, id = 'id' } = declared;
  const name = `${table}.${column}`;
  for (const part of [table, column, id])
    if (!sqlName.test(part)) throw new TypeError(`${part} is no name of a column`);
  if (columns.has(name)) throw new Error(`Two sealed columns named ${name}`);
  const made = { name, table, column, id, context: declared.context ?? ((rowId: string) => `${name}:${rowId}`) };
  columns.set(name, made);
  return made;
}

/** In the order of their names. */
export const sealedColumns = (): readonly SealedColumn[] =>
  [...columns.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));

export interface SealedValue {
  readonly id: string;
  readonly sealed: string;
}

/** How many values of a column each key has sealed. Reads the whole column. */
export async function keysOf(pool: pg.Pool, of: SealedColumn): Promise<ReadonlyMap<string, number>> {
  const { rows } = await pool.query<{ kid: string; count: number }>(
    `select split_part("${of.column}", '.', 2) kid, count(*)::int count from "${of.table}"
     where "${of.column}" is not null group by 1 order by 1`,
  );
  return new Map(rows.map(({ kid, count }) => [kid, count]));
}

/** Values of a column that another key than this one has sealed, in the order of their ids. */
export async function sealedByOthers(
  pool: pg.Pool,
  of: SealedColumn,
  page: { readonly kid: string; readonly after: string; readonly limit: number },
): Promise<SealedValue[]> {
  const { rows } = await pool.query<SealedValue>(
    `select "${of.id}" id, "${of.column}" sealed from "${of.table}"
     where "${of.column}" is not null and split_part("${of.column}", '.', 2) <> $1 and "${of.id}" > $2::uuid
     order by "${of.id}" limit $3`,
    [page.kid, page.after, page.limit],
  );
  return rows;
}

/**
 * Puts new texts in place of those that were read. A row that somebody has changed since, or is changing now, is left
 * to them. Nothing else of the row changes.
 * @returns how many were replaced
 */
export function replaceSealed(
  db: DbTx,
  of: SealedColumn,
  values: readonly (SealedValue & { readonly replacement: string })[],
): Promise<number> {
  return db.$executeRawUnsafe(
    `with given as (
       select * from unnest($1::uuid[], $2::text[], $3::text[]) as given(id, sealed, replacement)
     ), mine as (
       select t."${of.id}" id, given.replacement from "${of.table}" t join given on t."${of.id}" = given.id
       where t."${of.column}" = given.sealed for update of t skip locked
     )
     update "${of.table}" t set "${of.column}" = mine.replacement from mine where t."${of.id}" = mine.id`,
    values.map(({ id }) => id),
    values.map(({ sealed }) => sealed),
    values.map(({ replacement }) => replacement),
  );
}

/**
 * Says loudly when the database holds values whose key this server does not have. The server serves all the same: what
 * needs them fails and everything else works, and they open again as soon as the key is back. Reads whole columns.
 */
export async function checkKeys(options: {
  pool: pg.Pool;
  sealing: SealingService;
  log: Logger;
  /** Ends it before the next column. */
  signal: AbortSignal;
}): Promise<void> {
  for (const column of sealedColumns()) {
    if (options.signal.aborted) return;
    for (const [kid, values] of await keysOf(options.pool, column)) {
      if (options.sealing.knowsKey(kid)) continue;
      options.log.error(
        { column: column.name, kid, values },
        'ENCRYPTION KEY MISSING: these values cannot be opened until the key is configured again',
      );
    }
  }
}
