import { z } from 'zod';
import { Prisma, type CellType, type ExtractedCell } from '#prisma';
import type { App } from '#kernel/app.ts';
import { ValidationError, type Issue } from '#kernel/errors.ts';
import { sortNumber } from './values.ts';

export type { Box, Citation } from '../../../integrations/extractors/index.ts';

// Pages of rows, found in the database. A page is one statement for the numbers of its rows, whatever is asked, and one
// for their cells; of many tables together, too. No statement gives more than a page, and none depends on how large the
// table is but those that filter or sort: they look at the cells of the columns that are named, once.

export const filterOps = [
  'EQ',
  'NE',
  'LT',
  'LTE',
  'GT',
  'GTE',
  'CONTAINS',
  'STARTS_WITH',
  'IS_EMPTY',
  'IS_NOT_EMPTY',
] as const;
export type FilterOp = (typeof filterOps)[number];

export interface RowFilter {
  readonly column: number;
  readonly op: FilterOp;
  readonly value?: string | null | undefined;
}

export interface RowOrder {
  readonly column: number;
  readonly direction: 'ASC' | 'DESC';
}

/** Which rows of a table, as a client asks for them. */
export interface RowsAsked {
  readonly first?: number | null | undefined;
  readonly after?: string | null | undefined;
  readonly where?: readonly RowFilter[] | null | undefined;
  readonly orderBy?: RowOrder | null | undefined;
  readonly needsReview?: boolean | null | undefined;
  /** Of which the cells are given. */
  readonly columns?: readonly number[] | null | undefined;
  /** There is no way back: only `after` leads on. */
  readonly last?: number | null | undefined;
  readonly before?: string | null | undefined;
}

/** A table as far as its rows are found by it. */
export interface TableShape {
  readonly id: string;
  readonly rowCount: number;
  /** Types in order. */
  readonly types: readonly CellType[];
}

/** A row's place in a list: its number, and what it is sorted by. */
export interface PlacedRow {
  readonly row: number;
  readonly key: string | null;
  readonly cursor: string;
}

export interface RowPage {
  readonly rows: readonly PlacedRow[];
  readonly hasNextPage: boolean;
}

export const maxRows = 100;
const defaultRows = 20;
export const maxFilters = 10;
/** Columns of which a page has cells. */
export const maxPageColumns = 100;
const maxFilterChars = 1000;
/** Characters by which texts are sorted. */
const sortChars = 100;

const CursorShape = z.tuple([
  z.int().min(0).max(2_147_483_647),
  z
    .string()
    .max(sortChars * 4)
    .nullable(),
  z.string().max(20),
]);

/** What is asked, with everything that is wrong with it said. */
export class RowQuery {
  readonly table: TableShape;
  readonly first: number;
  /** Of which the cells are given. */
  readonly columns: readonly number[];
  readonly #filters: readonly RowFilter[];
  readonly #orderBy: RowOrder | null;
  readonly #needsReview: boolean | null;
  readonly #after: { readonly row: number; readonly key: string | null } | null;

  /** @throws {ValidationError} */
  constructor(table: TableShape, asked: RowsAsked) {
    const issues: Issue[] = [];
    const wrong = (path: string, message: string) => void issues.push({ path, message });
    this.table = table;
    this.first = asked.first ?? defaultRows;
    if (!(this.first >= 0 && this.first <= maxRows)) wrong('first', `must be from 0 to ${maxRows}`);
    this.#filters = asked.where ?? [];
    if (this.#filters.length > maxFilters) wrong('where', `must be at most ${maxFilters}`);
    for (const [at, filter] of this.#filters.slice(0, maxFilters).entries()) {
      const problem = problemOf(filter, table);
      if (problem) wrong(`where.${at}.${problem.path}`, problem.message);
    }
    this.#orderBy = asked.orderBy ?? null;
    if (this.#orderBy && !(this.#orderBy.column in table.types)) wrong('orderBy.column', 'is no column of the table');
    this.#needsReview = asked.needsReview ?? null;
    this.columns = asked.columns ?? [...table.types.keys()].slice(0, maxPageColumns);
    if (this.columns.length > maxPageColumns) wrong('columns', `must be at most ${maxPageColumns}`);
    if (this.columns.some((column) => !(column in table.types)))
      wrong('columns', 'has one that is no column of the table');
    if (asked.last != null || asked.before != null) wrong('last', 'is not for rows: page with first and after');
    const after = asked.after == null ? null : this.#placeOf(asked.after);
    if (after === undefined) wrong('after', 'is not a cursor of this list');
    this.#after = after ?? null;
    if (issues.length > 0) throw new ValidationError(issues);
  }

  /** Nothing chooses and nothing sorts: the rows are known without a look. */
  get plain(): boolean {
    return this.#filters.length === 0 && !this.#orderBy && this.#needsReview === null;
  }

  /** The page of a plain query. */
  plainPage(): RowPage {
    const from = this.#after ? this.#after.row + 1 : 0;
    const to = Math.min(from + this.first, this.table.rowCount);
    const rows = Array.from({ length: Math.max(0, to - from) }, (_, at) => ({ row: from + at, key: null }));
    return { rows: rows.map((one) => this.#placed(one)), hasNextPage: to < this.table.rowCount };
  }

  /** What was found, with one more than the page has to know whether there is more. */
  page(found: readonly { readonly row: number; readonly key: string | null }[]): RowPage {
    const rows = found.slice(0, this.first).map(({ row, key }) => this.#placed({ row, key }));
    return { rows, hasNextPage: found.length > this.first };
  }

  /** Selects `row` and `key`, in order, one more than the page has. */
  sql(): Prisma.Sql {
    const limit = Prisma.sql`limit ${this.first + 1}`;
    const order = this.#orderBy;
    if (!order) {
      const after = this.#after ? Prisma.sql`and s.row > ${this.#after.row}` : Prisma.empty;
      return Prisma.sql`select s.row, null::text as key from ${this.#source()} s
        where true ${this.#conditions(Prisma.sql`s.row`)} ${after} order by s.row ${limit}`;
    }
    const key = this.#keyOf(Prisma.sql`o`);
    const down = order.direction === 'DESC';
    const after = this.#after;
    const beyond =
      after?.key == null
        ? Prisma.empty
        : Prisma.sql`and (${key} ${down ? Prisma.sql`<` : Prisma.sql`>`} ${this.#keyValue(after.key)}
            or (${key} = ${this.#keyValue(after.key)} and o.row > ${after.row}))`;
    const sorted = Prisma.sql`select o.row, ${key} as key from extracted_cell o
      where o.table_id = ${this.table.id}::uuid and o."column" = ${order.column}::smallint and ${key} is not null
        ${this.#conditions(Prisma.sql`o.row`)} ${beyond}
      order by key ${down ? Prisma.sql`desc` : Prisma.sql`asc`}, o.row ${limit}`;
    // What has nothing to sort by comes last, in the order of the table, whichever the direction.
    const beyondRest = after && after.key === null ? Prisma.sql`and s.row > ${after.row}` : Prisma.empty;
    const rest = Prisma.sql`select s.row, null::text as key from ${this.#series()} s
      where not exists (select 1 from extracted_cell o where o.table_id = ${this.table.id}::uuid
          and o."column" = ${order.column}::smallint and o.row = s.row and ${key} is not null)
        ${this.#conditions(Prisma.sql`s.row`)} ${beyondRest} order by s.row ${limit}`;
    if (after && after.key === null) return rest;
    return Prisma.sql`(select row, key::text from (${sorted}) sorted) union all (${rest}) ${limit}`;
  }

  /** Selects how many rows there are in all. */
  countSql(): Prisma.Sql {
    return Prisma.sql`select count(*)::int as count from ${this.#source()} s where true ${this.#conditions(Prisma.sql`s.row`)}`;
  }

  #placed({ row, key }: { row: number; key: string | null }): PlacedRow {
    return { row, key, cursor: Buffer.from(JSON.stringify([row, key, this.#list])).toString('base64url') };
  }

  /** Which list a cursor is of: one of another order leads nowhere. */
  get #list(): string {
    return this.#orderBy ? `${this.#orderBy.column} ${this.#orderBy.direction}` : '';
  }

  #placeOf(cursor: string): { row: number; key: string | null } | undefined {
    try {
      const [row, key, list] = CursorShape.parse(
        JSON.parse(Buffer.from(cursor.slice(0, 2000), 'base64url').toString()),
      );
      if (list !== this.#list || (key !== null && !this.#orderBy)) return undefined;
      if (key !== null && (key.includes('\0') || !key.isWellFormed())) return undefined;
      if (key !== null && this.#sortsByNumber && !/^-?\d{1,200}(?:\.\d{1,200})?$/.test(key)) return undefined;
      return { row, key };
    } catch {
      return undefined; // SyntaxError or ZodError: it is none
    }
  }

  get #sortsByNumber(): boolean {
    return this.#orderBy !== null && this.table.types[this.#orderBy.column] !== 'TEXT';
  }

  #keyOf(cell: Prisma.Sql): Prisma.Sql {
    if (this.#sortsByNumber) return Prisma.sql`${cell}.number`;
    return Prisma.sql`nullif(left(${cell}.text, ${sortChars}::int), '') collate "C"`;
  }

  #keyValue(key: string): Prisma.Sql {
    return this.#sortsByNumber ? Prisma.sql`${key}::numeric` : Prisma.sql`${key}::text`;
  }

  /** Numbers of all rows. */
  #series(): Prisma.Sql {
    return Prisma.sql`(select generate_series(0, ${this.table.rowCount - 1}::int) as row)`;
  }

  /** Numbers of rows among which those are that are asked for, each once. */
  #source(): Prisma.Sql {
    const { id } = this.table;
    if (this.#needsReview === true)
      return Prisma.sql`(select distinct row from extracted_cell where table_id = ${id}::uuid and needs_review)`;
    const filter = this.#filters.find(({ op }) => op !== 'IS_EMPTY');
    if (!filter) return this.#series();
    return Prisma.sql`(select c.row from extracted_cell c where c.table_id = ${id}::uuid
      and c."column" = ${filter.column}::smallint and ${this.#holds(filter, Prisma.sql`c`)})`;
  }

  #conditions(row: Prisma.Sql): Prisma.Sql {
    const { id } = this.table;
    const cells = (
      filter: RowFilter,
    ) => Prisma.sql`exists (select 1 from extracted_cell f where f.table_id = ${id}::uuid
      and f."column" = ${filter.column}::smallint and f.row = ${row} and ${this.#holds(filter, Prisma.sql`f`)})`;
    const waits = Prisma.sql`exists (select 1 from extracted_cell f where f.table_id = ${id}::uuid and f.row = ${row}
      and f.needs_review)`;
    const conditions = [
      ...this.#filters.map((filter) =>
        filter.op === 'IS_EMPTY' ? Prisma.sql`not ${cells({ ...filter, op: 'IS_NOT_EMPTY' })}` : cells(filter),
      ),
      ...(this.#needsReview === null ? [] : [this.#needsReview ? waits : Prisma.sql`not ${waits}`]),
    ];
    return conditions.length === 0 ? Prisma.empty : Prisma.sql`and ${Prisma.join(conditions, ' and ')}`;
  }

  /** Whether a cell passes. What is empty, or does not fit its column, is unequal to nothing and equal to nothing. */
  #holds({ op, column, value }: RowFilter, cell: Prisma.Sql): Prisma.Sql {
    const type = this.table.types[column] ?? 'TEXT';
    const text = value ?? '';
    if (op === 'IS_NOT_EMPTY' || op === 'IS_EMPTY') return Prisma.sql`${cell}.text <> ''`;
    if (op === 'CONTAINS') return Prisma.sql`${cell}.text ilike ${`%${escaped(text)}%`}`;
    if (op === 'STARTS_WITH') return Prisma.sql`${cell}.text ilike ${`${escaped(text)}%`}`;
    const number = numberOf(type, text);
    if (number === null) {
      const same = Prisma.sql`${cell}.text ilike ${escaped(text)}`;
      return op === 'NE' ? Prisma.sql`(${cell}.text <> '' and not ${same})` : same;
    }
    return Prisma.sql`${cell}.number ${operators[op]} ${number}::numeric`;
  }
}

const operators = {
  EQ: Prisma.sql`=`,
  NE: Prisma.sql`<>`,
  LT: Prisma.sql`<`,
  LTE: Prisma.sql`<=`,
  GT: Prisma.sql`>`,
  GTE: Prisma.sql`>=`,
} as const;

/** A text that a pattern of LIKE stands for literally. */
const escaped = (text: string): string => text.replaceAll(/[\\%_]/g, String.raw`\$&`);

/** What a column's values are compared with; null: the column is compared by text. */
function numberOf(type: CellType, value: string): string | null {
  if (type === 'TEXT' || type === 'EMPTY') return null;
  const text = value.trim();
  if (type === 'DATE' || type === 'DATETIME') return sortNumber('DATE', text) ?? sortNumber('DATETIME', text);
  return sortNumber(type, type === 'BOOLEAN' ? text.toLowerCase() : text);
}

function problemOf({ column, op, value }: RowFilter, table: TableShape): Issue | null {
  const type = table.types[column];
  if (type === undefined) return { path: 'column', message: 'is no column of the table' };
  const unary = op === 'IS_EMPTY' || op === 'IS_NOT_EMPTY';
  if (unary) return value == null ? null : { path: 'value', message: 'must not be there' };
  if (value == null) return { path: 'value', message: 'must be there' };
  if (value.length > maxFilterChars)
    return { path: 'value', message: `must have at most ${maxFilterChars} characters` };
  if (op === 'CONTAINS' || op === 'STARTS_WITH') return null;
  if (type === 'TEXT' || type === 'EMPTY')
    return op === 'EQ' || op === 'NE' ? null : { path: 'op', message: 'is not for a column of texts' };
  if (type === 'BOOLEAN' && op !== 'EQ' && op !== 'NE')
    return { path: 'op', message: 'is not for a column of booleans' };
  return numberOf(type, value) === null ? { path: 'value', message: `is no value of the column's type ${type}` } : null;
}

/** What is told of a page's cells: of a long text its beginning. */
export interface ShownCell extends Pick<
  ExtractedCell,
  'tableId' | 'column' | 'row' | 'type' | 'value' | 'confidence' | 'note' | 'citation' | 'needsReview' | 'version'
> {
  readonly text: string;
  /** Whether it goes on. */
  readonly truncated: boolean;
}

/** Characters of a text that a page shows. */
export const shownChars = 2000;

export interface CellsAsked {
  readonly tableId: string;
  readonly columns: readonly number[];
  readonly rows: readonly number[];
  /** Characters of a text. */
  readonly chars: number;
}

/** Cells of rows of tables, in one statement: for each that is asked in the order of rows and columns. */
export async function readCells(app: App, asked: readonly CellsAsked[]): Promise<ShownCell[][]> {
  const parts = asked
    .map((one, at) => ({ ...one, at }))
    .filter(({ columns, rows }) => columns.length > 0 && rows.length > 0)
    // Each a look into the key for every cell: the planner sees how many there are.
    .map(
      ({ tableId, columns, rows, chars, at }) => Prisma.sql`
        (select ${at}::int as at, c.table_id, c."column", c.row, c.type::text as type, left(c.text, ${chars}::int) as text,
           length(c.text) > ${chars}::int as truncated, left(c.value, ${chars}::int) as value,
           c.confidence, c.note, c.citation, c.needs_review, c.version
         from extracted_cell c where c.table_id = ${tableId}::uuid and c."column" = any(${[...columns]}::smallint[])
           and c.row = any(${[...rows]}::int[]))`,
    );
  if (parts.length === 0) return asked.map(() => []);
  const cells = await app.db.$queryRaw<(ShownCell & { at: number })[]>`
    select at, table_id::text as "tableId", "column", row, type, text, truncated, value, confidence, note, citation,
      needs_review as "needsReview", version
    from (${Prisma.join(parts, ' union all ')}) cells order by at, row, "column"`;
  const byAsked = Map.groupBy(cells, ({ at }) => at);
  return asked.map((_, at) => byAsked.get(at) ?? []);
}

/** Numbers of the rows of many pages, in one statement. */
export async function readRows(app: App, queries: readonly RowQuery[]): Promise<RowPage[]> {
  const asked = queries.map((query, at) => ({ query, at })).filter(({ query }) => !query.plain);
  const found = new Map<number, { row: number; key: string | null }[]>();
  if (asked.length > 0) {
    const parts = asked.map(
      ({ query, at }) =>
        Prisma.sql`(select ${at}::int as at, row_number() over () as place, row, key::text from (${query.sql()}) page)`,
    );
    const rows = await app.db.$queryRaw<{ at: number; row: number; key: string | null }[]>`
      select at, row, key from (${Prisma.join(parts, ' union all ')}) pages order by at, place`;
    for (const [at, group] of Map.groupBy(rows, (row) => row.at)) found.set(at, group);
  }
  return queries.map((query, at) => (query.plain ? query.plainPage() : query.page(found.get(at) ?? [])));
}

/** How many rows each query has in all, in one statement. */
export async function countRows(app: App, queries: readonly RowQuery[]): Promise<number[]> {
  const asked = queries.map((query, at) => ({ query, at })).filter(({ query }) => !query.plain);
  const counts = new Map<number, number>();
  if (asked.length > 0) {
    const parts = asked.map(
      ({ query, at }) => Prisma.sql`(select ${at}::int as at, count from (${query.countSql()}) counted)`,
    );
    const rows = await app.db.$queryRaw<{ at: number; count: number }[]>`${Prisma.join(parts, ' union all ')}`;
    for (const { at, count } of rows) counts.set(at, count);
  }
  return queries.map((query, at) => (query.plain ? query.table.rowCount : (counts.get(at) ?? 0)));
}

/** A value as a client gets it: whole numbers as such, decimals and dates as canonical text. */
export function clientValue({ type, value, text }: Pick<ShownCell, 'type' | 'value' | 'text'>): unknown {
  if (type === 'TEXT') return text;
  if (type === 'INTEGER') return value === null ? null : Number(value);
  if (type === 'BOOLEAN') return value === null ? null : value === 'true';
  return value;
}
