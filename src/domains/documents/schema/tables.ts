import { prismaConnectionHelpers } from '@pothos/plugin-prisma';
import DataLoader from 'dataloader';
import type { CellCorrection } from '#prisma';
import { loadUser, UserRef } from '#kernel/auth/schema.ts';
import { builder, sizeCost } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { asked } from '#kernel/graphql/selections.ts';
import { guarded, guardedPart, visible } from '#kernel/graphql/kit.ts';
import {
  clientValue,
  countRows,
  filterOps,
  maxFilters,
  maxPageColumns,
  maxRows,
  readCells,
  readRows,
  RowQuery,
  shownChars,
  type Box,
  type CellsAsked,
  type Citation,
  type FilterOp,
  type RowPage,
  type ShownCell,
} from '../service/rows.ts';
import { BoxRef, boxOf, CellNoteEnum, ColumnTypeEnum } from './configurations.ts';
import { DocumentRef } from './documents.ts';
import { ExtractionJobRef } from './jobs.ts';

type Of<K extends Citation['kind']> = Extract<Citation, { kind: K }>;

const SheetCitation = builder.objectRef<{ readonly sheet: string; readonly ref?: string }>('SheetCitation').implement({
  description: 'A place in a workbook.',
  fields: (t) => ({
    sheet: t.exposeString('sheet', { description: 'Name of the sheet.' }),
    ref: t.string({
      nullable: true,
      description: 'The cell, for instance `B7`; null: the sheet as a whole.',
      resolve: ({ ref }) => ref ?? null,
    }),
  }),
});
const PageCitation = builder.objectRef<{ readonly page: number; readonly box?: Box }>('PageCitation').implement({
  description: 'A place on a page.',
  fields: (t) => ({
    page: t.exposeInt('page', { description: 'The page, from 1.' }),
    box: t.field({
      type: BoxRef,
      nullable: true,
      description: 'Where on the page; null: the page as a whole.',
      resolve: ({ box }) => (box ? boxOf(box) : null),
    }),
  }),
});
const LineCitation = builder.objectRef<Of<'LINE'>>('LineCitation').implement({
  description: 'A place in a file of lines.',
  fields: (t) => ({
    line: t.exposeInt('line', { description: 'The line on which the record begins, from 1.' }),
    column: t.exposeInt('column', { description: 'The field in it, from 1.' }),
  }),
});
const ElementCitation = builder.objectRef<Of<'ELEMENT'>>('ElementCitation').implement({
  description: 'A place in a structured document.',
  fields: (t) => ({ path: t.exposeString('path', { description: 'For instance `table 2, row 3, cell 1`.' }) }),
});
const CitationRef = builder.unionType('Citation', {
  description: 'Where in the document something was. Counted from 1.',
  types: [SheetCitation, PageCitation, LineCitation, ElementCitation],
  resolveType: (one) =>
    ({ SHEET: SheetCitation, PAGE: PageCitation, LINE: LineCitation, ELEMENT: ElementCitation })[
      (one as unknown as Citation).kind
    ],
});

const opDescriptions: Record<FilterOp, string> = {
  EQ: 'Equal; texts whatever their case.',
  NE: 'There, and not equal.',
  LT: 'Less; of numbers and dates.',
  LTE: 'Less or equal; of numbers and dates.',
  GT: 'Greater; of numbers and dates.',
  GTE: 'Greater or equal; of numbers and dates.',
  CONTAINS: 'The text has it, whatever its case.',
  STARTS_WITH: 'The text begins with it, whatever its case.',
  IS_EMPTY: 'There is nothing.',
  IS_NOT_EMPTY: 'There is something.',
};
const FilterOpEnum = builder.enumType('CellFilterOp', {
  description: 'How a cell is compared.',
  values: Object.fromEntries(filterOps.map((op) => [op, { description: opDescriptions[op] }])) as Record<
    FilterOp,
    { description: string }
  >,
});
const DirectionEnum = builder.enumType('SortDirection', {
  description: 'Which way a list is sorted.',
  values: { ASC: { description: 'The least first.' }, DESC: { description: 'The greatest first.' } } as const,
});
const FilterInput = builder.inputType('CellFilter', {
  description: "A condition on a row's cell. It is compared by the type of its column; texts as they are shown.",
  fields: (t) => ({
    column: t.int({ description: 'The column, from 0.' }),
    op: t.field({ type: FilterOpEnum, description: 'How.' }),
    value: t.string({
      required: false,
      description:
        'With what: a decimal as `-12.5`, a date as `2025-03-31`, a date with a time as `2025-03-31T12:00:00Z`, `true` or `false`, or a text of at most 1000 characters. Not for IS_EMPTY and IS_NOT_EMPTY.',
    }),
  }),
});
const OrderInput = builder.inputType('RowOrder', {
  description:
    'By what rows are sorted: numbers and dates by their value, texts by the code points of their first 100 characters. Rows that have nothing there, or nothing of the type of the column, come last; those that are equal, in the order of the table.',
  fields: (t) => ({
    column: t.int({ description: 'The column, from 0.' }),
    direction: t.field({ type: DirectionEnum, description: 'Which way.' }),
  }),
});

builder.prismaObject('ExtractedColumn', {
  description: 'A column of an extracted table.',
  authScopes: guardedPart('ExtractedColumn').authScopes,
  fields: (t) => ({
    position: t.exposeInt('position', { description: 'From 0.' }),
    name: t.exposeString('name', { description: 'As the document has it, or `Column 3`.' }),
    type: t.field({
      type: ColumnTypeEnum,
      description: 'What its values are; single cells may differ.',
      resolve: ({ type }) => (type === 'EMPTY' ? 'TEXT' : type),
    }),
  }),
});

/** What many fields of one operation ask for together. */
interface Loaders {
  readonly page: DataLoader<RowQuery, RowPage>;
  readonly count: DataLoader<RowQuery, number>;
  readonly cells: DataLoader<CellsAsked, ShownCell[]>;
  readonly history: DataLoader<Pick<ShownCell, 'tableId' | 'row' | 'column'>, CellCorrection[], string>;
  readonly correction: DataLoader<string, CellCorrection | null>;
}
const ofContext = new WeakMap<Context, Loaders>();

/** Corrections of a cell that are told. */
const maxHistory = 50;

function loaders(context: Context): Loaders {
  const { app } = context;
  let made = ofContext.get(context);
  if (made) return made;
  const placeOf = ({ tableId, row, column }: Pick<ShownCell, 'tableId' | 'row' | 'column'>) =>
    `${tableId} ${row} ${column}`;
  made = {
    page: new DataLoader((queries) => readRows(app, queries), { cache: false, maxBatchSize: maxRows }),
    count: new DataLoader((queries) => countRows(app, queries), { cache: false, maxBatchSize: maxRows }),
    cells: new DataLoader((asked) => readCells(app, asked), { cache: false }),
    history: new DataLoader(
      async (places) => {
        const { rows } = await app.database.pool.query<{ id: string }>(
          `select k.id from unnest($1::uuid[], $2::smallint[], $3::int[]) p(table_id, "column", row)
           cross join lateral (
             select id from cell_correction c
             where c.table_id = p.table_id and c."column" = p."column" and c.row = p.row order by c.version desc limit ${maxHistory}
           ) k`,
          [places.map((one) => one.tableId), places.map((one) => one.column), places.map((one) => one.row)],
        );
        const found = await app.db.cellCorrection.findMany({
          where: { id: { in: rows.map(({ id }) => id) } },
          orderBy: { version: 'desc' },
        });
        const byPlace = Map.groupBy(found, placeOf);
        return places.map((place) => byPlace.get(placeOf(place)) ?? []);
      },
      { cacheKeyFn: placeOf },
    ),
    correction: new DataLoader(async (ids) => {
      const found = await app.db.cellCorrection.findMany({ where: { id: { in: [...ids] } } });
      return ids.map((id) => found.find((one) => one.id === id) ?? null);
    }),
  };
  ofContext.set(context, made);
  return made;
}

/** Rows are asked for over a table that was let through: its corrections are, too. */
const CorrectionRef = builder.objectRef<CellCorrection>('CellCorrection').implement({
  description: 'What a person has said of a cell. Never changed.',
  fields: (t) => ({
    version: t.exposeInt('version', { description: 'Version of the cell that it made, from 1.' }),
    fromText: t.exposeString('fromText', { description: 'What the cell had before.' }),
    toText: t.exposeString('toText', { description: 'What it has from then on.' }),
    confirmed: t.boolean({
      description: 'Whether somebody found it right as it was.',
      resolve: ({ fromText, toText }) => fromText === toText,
    }),
    reason: t.exposeString('reason', { nullable: true, description: 'Why, in the words of who said it.' }),
    carriedOver: t.boolean({
      description: 'Whether it is of an earlier job, which had read the same at the same place.',
      resolve: ({ carriedFromId }) => carriedFromId !== null,
    }),
    by: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who said it, or made the API key that did; null: somebody you share no workspace with any more.',
      resolve: ({ actorId }, _, context) => loadUser(context, actorId),
    }),
    at: t.expose('createdAt', { type: 'DateTime', description: 'When; of one that was carried over, when that was.' }),
  }),
});
builder.objectField(CorrectionRef, 'carriedFrom', (t) =>
  t.field({
    type: CorrectionRef,
    nullable: true,
    description: 'The correction of the earlier job; null: it is none, or that job is gone.',
    resolve: ({ carriedFromId }, _, context) =>
      carriedFromId === null ? null : loaders(context).correction.load(carriedFromId),
  }),
);

const CellRef = builder.objectRef<ShownCell>('ExtractedCell').implement({
  description: 'A cell of an extracted table.',
  fields: (t) => ({
    column: t.exposeInt('column', { description: 'The column, from 0.' }),
    row: t.exposeInt('row', { description: 'The row, from 0; headers are not counted.' }),
    text: t.exposeString('text', {
      description: `As a person reads it, corrections included. In a list of rows the first ${shownChars} characters.`,
    }),
    truncated: t.boolean({
      description: 'Whether the text goes on; `ExtractedTable.cell` has all of it.',
      resolve: ({ truncated }) => truncated,
    }),
    value: t.field({
      type: 'JSON',
      nullable: true,
      description:
        'Its value: whole numbers and booleans as such, decimals and dates as canonical text, texts as they are; null: there is none.',
      resolve: clientValue,
    }),
    type: t.field({
      type: ColumnTypeEnum,
      nullable: true,
      description: 'What the value is; null: the cell is empty.',
      resolve: ({ type }) => (type === 'EMPTY' ? null : type),
    }),
    confidence: t.exposeFloat('confidence', { description: 'From 0 to 1; 1 for what a person has looked at.' }),
    note: t.field({
      type: CellNoteEnum,
      nullable: true,
      description: 'Why the confidence is what it is.',
      resolve: ({ note }) => note as never,
    }),
    citation: t.field({
      type: CitationRef,
      description: 'Where it is in the document.',
      resolve: ({ citation }) => citation as never,
    }),
    needsReview: t.exposeBoolean('needsReview', { description: 'Whether a person should look at it.' }),
    version: t.exposeInt('version', {
      description: 'Corrections and confirmations so far: `expectedVersion` of the next one.',
    }),
    corrections: t.field({
      type: [CorrectionRef],
      // Few cells have any.
      complexity: { field: 1, multiplier: 1 },
      description: `What people have said of it, newest first, at most ${maxHistory}.`,
      resolve: (cell, _, context) => (cell.version === 0 ? [] : loaders(context).history.load(cell)),
    }),
  }),
});

interface Row {
  readonly number: number;
  readonly cells: () => Promise<ShownCell[]>;
}
const RowRef = builder.objectRef<Row>('ExtractedRow').implement({
  description: 'A row of an extracted table.',
  fields: (t) => ({
    number: t.exposeInt('number', { description: 'From 0; headers are not counted.' }),
    cells: t.field({
      type: [CellRef],
      description: 'Its cells by column. What the document does not have is left out.',
      resolve: ({ cells }) => cells(),
    }),
  }),
});

export const ExtractedTableRef = builder.prismaNode('ExtractedTable', {
  id: { field: 'id' },
  description: 'A table that a job found in a document.',
  select: { id: true, workspaceId: true },
  ...guarded('ExtractedTable'),
  fields: (t) => ({
    position: t.exposeInt('position', { description: 'Order within the document, from 0.' }),
    name: t.exposeString('name', { description: 'For a person: the sheet, the caption, or its number.' }),
    place: t.field({
      type: CitationRef,
      nullable: true,
      description: 'Where it begins; null: the file has it as a whole.',
      select: { place: true },
      resolve: ({ place }) => place as never,
    }),
    complete: t.exposeBoolean('complete', {
      description: 'Whether all of it is there; false: its job ended, or is still, in the middle.',
    }),
    columns: t.relation('columns', { description: 'Its columns in order.', query: { orderBy: { position: 'asc' } } }),
    rowCount: t.exposeInt('rowCount', { description: 'Rows, headers not counted.' }),
    columnCount: t.exposeInt('columnCount', { description: 'Columns.' }),
    cellCount: t.exposeInt('cellCount', { description: 'Cells.' }),
    confidenceMin: t.exposeFloat('confidenceMin', {
      nullable: true,
      description: 'Lowest confidence of a cell as it was extracted, 0 to 1; null: it has none.',
    }),
    confidenceMean: t.exposeFloat('confidenceMean', {
      nullable: true,
      description: 'Mean confidence of its cells as they were extracted; null: it has none.',
    }),
    reviewCount: t.exposeInt('reviewCount', { description: 'Cells that wait for a person.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When the job found it.' }),
    document: t.relation('document', { description: 'The document that it is of.' }),
    job: t.field({
      type: ExtractionJobRef,
      description: 'The job that found it.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ job: { select: { run: nested() } } }),
      resolve: (table) => (table as unknown as { job: { run: never } }).job.run,
    }),
    cell: t.field({
      type: CellRef,
      nullable: true,
      description: 'One cell with its whole text; null: there is none.',
      select: { rowCount: true, columnCount: true },
      args: {
        row: t.arg.int({ description: 'The row, from 0.' }),
        column: t.arg.int({ description: 'The column, from 0.' }),
      },
      resolve: async ({ id, rowCount, columnCount }, { row, column }, context) => {
        if (row < 0 || row >= rowCount || column < 0 || column >= columnCount) return null;
        const asked = { tableId: id, rows: [row], columns: [column], chars: 1_000_000 };
        return (await loaders(context).cells.load(asked))[0] ?? null;
      },
    }),
  }),
});

/** A page of rows, and how many there are in all when that is asked for. */
interface RowConnection {
  readonly query: RowQuery;
}

builder.prismaObjectField(ExtractedTableRef, 'rows', (t) =>
  t.connection(
    {
      type: RowRef,
      complexity: sizeCost,
      description: `Its rows, in its own order, or sorted. With the columns of their cells at most ${maxRows} rows of ${maxPageColumns} columns.`,
      select: { id: true, rowCount: true, columnCount: true, columns: { orderBy: { position: 'asc' } } },
      args: {
        where: t.arg({
          type: [FilterInput],
          required: false,
          description: `Only rows for which all of these hold, at most ${maxFilters}.`,
        }),
        orderBy: t.arg({
          type: OrderInput,
          required: false,
          description: 'By what they are sorted; default: as they are.',
        }),
        needsReview: t.arg.boolean({
          required: false,
          description: 'Only rows with cells that wait for a person (true), or without (false).',
        }),
        columns: t.arg.intList({
          required: false,
          description: `The columns whose cells are given, from 0, at most ${maxPageColumns}; default: the first ${maxPageColumns}.`,
        }),
      },
      resolve: async (table, args, context) => {
        const query = new RowQuery(
          { id: table.id, rowCount: table.rowCount, types: table.columns.map(({ type }) => type) },
          args,
        );
        const { rows, hasNextPage } = await loaders(context).page.load(query);
        const numbers = rows.map(({ row }) => row);
        let cells: Promise<Map<number, ShownCell[]>> | undefined;
        const cellsOf = async (row: number): Promise<ShownCell[]> => {
          cells ??= loaders(context)
            .cells.load({ tableId: table.id, rows: numbers, columns: query.columns, chars: shownChars })
            .then((found) => Map.groupBy(found, (cell) => cell.row));
          return (await cells).get(row) ?? [];
        };
        return {
          query,
          edges: rows.map(({ row, cursor }) => ({ cursor, node: { number: row, cells: () => cellsOf(row) } })),
          pageInfo: {
            hasNextPage,
            hasPreviousPage: args.after != null,
            startCursor: rows[0]?.cursor ?? null,
            endCursor: rows.at(-1)?.cursor ?? null,
          },
        };
      },
    },
    {
      fields: (c) => ({
        totalCount: c.int({
          description: 'How many rows there are in all for which the conditions hold.',
          complexity: 20,
          resolve: (page, _, context) => loaders(context).count.load((page as unknown as RowConnection).query),
        }),
      }),
    },
  ),
);

builder.prismaObjectField(DocumentRef, 'tables', (t) =>
  t.relatedConnection('tables', {
    cursor: 'id',
    totalCount: true,
    description: 'Its tables, of all of its jobs, those of the newest job first.',
    query: (_, context) => ({
      where: visible(context, 'ExtractedTable'),
      orderBy: [{ jobId: 'desc' as const }, { position: 'asc' as const }, { id: 'asc' as const }],
    }),
  }),
);

const tablePages = prismaConnectionHelpers(builder, 'ExtractedTable', {
  cursor: 'id',
  query: (_, context) => ({
    where: visible(context, 'ExtractedTable'),
    orderBy: { position: 'asc' as const },
  }),
});

const tableCounts = new WeakMap<Context, DataLoader<string, number>>();

/** How many tables of a job the actor may see; of many jobs in one statement. */
function countTables(context: Context, jobId: string): Promise<number> {
  let loader = tableCounts.get(context);
  if (!loader) {
    loader = new DataLoader<string, number>(async (ids) => {
      const found = await context.app.db.extractedTable.groupBy({
        by: ['jobId'],
        where: visible(context, 'ExtractedTable', { jobId: { in: [...ids] } }),
        _count: { id: true },
      });
      const byId = new Map(found.map((one) => [one.jobId, one._count.id]));
      return ids.map((one) => byId.get(one) ?? 0);
    });
    tableCounts.set(context, loader);
  }
  return loader.load(jobId);
}

builder.prismaObjectField(ExtractionJobRef, 'tables', (t) =>
  t.connection(
    {
      type: ExtractedTableRef,
      description: 'The tables that it found, in the order of the document. Those of a job that is not over are parts.',
      compiled: 'selected',
      select: (args, context, nested) => ({
        extractionJob: {
          select: {
            // What is asked of a table stands below `edges` or `nodes`.
            tables: tablePages.getQuery(args, context, (selection, path) =>
              asked(nested(selection, path), nested(selection, ['nodes'])),
            ),
          },
        },
      }),
      resolve: (run, args, context) => ({
        ...tablePages.resolve(
          (run as unknown as { extractionJob: { tables: never[] } }).extractionJob.tables,
          args,
          context,
          run,
        ),
        totalCount: () => countTables(context, run.id),
      }),
    },
    {
      fields: (c) => ({
        totalCount: c.int({
          description: 'How many there are, whatever the page.',
          resolve: (page) => (page as unknown as { totalCount: () => Promise<number> }).totalCount(),
        }),
      }),
    },
  ),
);

export { CellRef };
