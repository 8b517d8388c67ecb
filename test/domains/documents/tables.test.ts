import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { globalId } from '../../../src/kernel/graphql/global-id.ts';
import { Fenced } from '../../../src/kernel/runs/errors.ts';
import type { Cell, Column, ColumnType } from '../../../src/integrations/extractors/index.ts';
import {
  countRows,
  readRows,
  RowQuery,
  type FilterOp,
  type RowFilter,
  type RowOrder,
} from '../../../src/domains/documents/service/rows.ts';
import { Tables } from '../../../src/domains/documents/service/tables.ts';
import { data, send } from '../../support/client.ts';
import { random } from '../../support/random.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { statements } from '../../support/statements.ts';
import { memberOf, tenants, type Tenant } from '../../support/world.ts';
import { cell, conclude, extracted, extractionOf, write, type Given } from './tables-harness.ts';

let server: TestServer;
let a: Tenant;
let b: Tenant;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_MAX_COST: '100000' }, { hubPollMs: 600_000 });
  [a, b] = (await tenants(server.running.app, ['a', 'b'])) as [Tenant, Tenant];
});
afterAll(() => server.stop());

const app = () => server.running.app;

const types: readonly ColumnType[] = ['TEXT', 'INTEGER', 'DECIMAL', 'BOOLEAN', 'DATE', 'DATETIME'];
const columns: Column[] = types.map((type) => ({ name: type.toLowerCase(), type }));
const words = ['Alpha', 'beta', 'Ünder', '100%', 'a_b', 'back\\slash', 'zulu', 'ALPHA two', "o'clock", '名前', ''];

/** A table with holes and misfits, the same at every run. */
function made(rows: number, seed: number): Cell[][] {
  const next = random(seed);
  const whole = (most: number) => Math.floor(next() * most);
  const pad = (value: number) => String(value).padStart(2, '0');
  const date = () => `20${pad(whole(30))}-${pad(1 + whole(12))}-${pad(1 + whole(28))}`;
  const value = (type: ColumnType): string | number | boolean => {
    if (type === 'INTEGER') return whole(40) - 20;
    if (type === 'DECIMAL') return `${next() < 0.5 ? '-' : ''}${1 + whole(9)}.${whole(100)}`;
    if (type === 'BOOLEAN') return next() < 0.5;
    if (type === 'DATE') return date();
    if (type === 'DATETIME') return `${date()}T${pad(whole(24))}:00:00${next() < 0.5 ? 'Z' : '+02:00'}`;
    return words[whole(words.length)] ?? '';
  };
  return Array.from({ length: rows }, (_, row) =>
    // Some rows are shorter than others.
    types.slice(0, next() < 0.05 ? 3 : types.length).map((type, column) => {
      const at = `${'ABCDEF'[column]}${row + 2}`;
      const kind = next();
      if (kind < 0.1) return cell('', {}, at);
      if (kind < 0.15 && type !== 'TEXT') return cell('n/a', { note: 'TYPE_MISMATCH', confidence: 0.4 }, at);
      const one = value(type);
      if (one === '') return cell('', {}, at);
      return cell(`${one}`, { value: one, type, confidence: next() < 0.05 ? 0.5 : 1 }, at);
    }),
  );
}

describe('pages of rows are what plain JavaScript makes of them', () => {
  const keyOf = (row: readonly Cell[], { column }: { column: number }): number | string | null => {
    const found = row[column];
    const type = types[column];
    if (!found || found.type === 'EMPTY') return null;
    if (type === 'TEXT') return found.text === '' ? null : found.text;
    if (found.type !== type) return null;
    if (type === 'BOOLEAN') return found.value === true ? 1 : 0;
    return type === 'DATE' || type === 'DATETIME' ? Date.parse(String(found.value)) : Number(found.value);
  };
  const given = (type: ColumnType, text: string): number =>
    type === 'BOOLEAN'
      ? Number(text === 'true')
      : type === 'DATE' || type === 'DATETIME'
        ? Date.parse(text)
        : Number(text);
  const passes = (row: readonly Cell[], { column, op, value }: RowFilter): boolean => {
    const text = row[column]?.text ?? '';
    const type = types[column] ?? 'TEXT';
    if (op === 'IS_EMPTY') return text === '';
    if (op === 'IS_NOT_EMPTY') return text !== '';
    const wanted = (value ?? '').toLowerCase();
    if (op === 'CONTAINS') return text.toLowerCase().includes(wanted);
    if (op === 'STARTS_WITH') return text.toLowerCase().startsWith(wanted);
    if (type === 'TEXT') return text !== '' && (text.toLowerCase() === wanted) === (op === 'EQ');
    const key = keyOf(row, { column }) as number | null;
    const want = given(type, value ?? '');
    if (key === null) return false;
    return { EQ: key === want, NE: key !== want, LT: key < want, LTE: key <= want, GT: key > want, GTE: key >= want }[
      op
    ];
  };
  const codePoints = (x: string, y: string): number => Buffer.compare(Buffer.from(x), Buffer.from(y));
  const sorted = (rows: readonly (readonly Cell[])[], numbers: number[], order: RowOrder): number[] => {
    const key = (row: number) => keyOf(rows[row] ?? [], order);
    const sign = order.direction === 'ASC' ? 1 : -1;
    return numbers.toSorted((x, y) => {
      const [one, other] = [key(x), key(y)];
      if (one === null || other === null) return Number(one === null) - Number(other === null) || x - y;
      const by = typeof one === 'string' ? codePoints(one, String(other)) : one - (other as number);
      return by * sign || x - y;
    });
  };

  test('for random filters, orders and page sizes', async () => {
    const rows = made(250, 11);
    const { tables } = await extracted(app(), a, [{ columns, rows }]);
    const table = { id: tables[0] ?? '', rowCount: rows.length, types };
    const next = random(5);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)] as T;
    const filter = (): RowFilter => {
      const column = Math.floor(next() * types.length);
      const type = types[column] ?? 'TEXT';
      const text = pick(rows)[column]?.text ?? '';
      const like: FilterOp[] = ['CONTAINS', 'STARTS_WITH'];
      const equal: FilterOp[] = ['EQ', 'NE'];
      const ordered: FilterOp[] = type === 'TEXT' || type === 'BOOLEAN' ? [] : ['LT', 'LTE', 'GT', 'GTE'];
      if (text === '' || text === 'n/a') return { column, op: pick(['IS_EMPTY', 'IS_NOT_EMPTY'] as const) };
      const op = pick([...like, ...equal, ...ordered, ...ordered]);
      return { column, op, value: like.includes(op) ? text.slice(0, 1 + Math.floor(next() * 3)).toUpperCase() : text };
    };
    for (let round = 0; round < 40; round++) {
      const where = Array.from({ length: Math.floor(next() * 3) }, filter);
      const orderBy: RowOrder | null =
        next() < 0.7 ? { column: Math.floor(next() * types.length), direction: pick(['ASC', 'DESC'] as const) } : null;
      const needsReview = next() < 0.2 ? next() < 0.5 : null;
      const all = [...rows.keys()].filter(
        (row) =>
          where.every((one) => passes(rows[row] ?? [], one)) &&
          (needsReview === null || needsReview === rows[row]?.some(({ confidence }) => confidence < 0.7)),
      );
      const expected = orderBy ? sorted(rows, all, orderBy) : all;
      const asked = { where, orderBy, needsReview };
      const what = JSON.stringify(asked);
      const first = 20 + Math.floor(next() * 80);
      const found: number[] = [];
      let after: string | null = null;
      for (;;) {
        const [page]: Awaited<ReturnType<typeof readRows>> = await readRows(app(), [
          new RowQuery(table, { ...asked, first, after }),
        ]);
        found.push(...(page?.rows ?? []).map(({ row }) => row));
        expect([what, page?.hasNextPage]).toEqual([what, found.length < expected.length]);
        if (!page?.hasNextPage) break;
        after = page.rows.at(-1)?.cursor ?? null;
      }
      expect([what, found]).toEqual([what, expected]);
      expect([what, ...(await countRows(app(), [new RowQuery(table, asked)]))]).toEqual([what, expected.length]);
    }
  });
});

const tableQuery = `query ($id: ID!, $first: Int, $after: String, $where: [CellFilter!], $orderBy: RowOrder, $columns: [Int!]) {
  node(id: $id) { ... on ExtractedTable {
    name complete rowCount columnCount cellCount confidenceMin confidenceMean reviewCount
    place { __typename ... on SheetCitation { sheet ref } }
    columns { position name type }
    document { id } job { id phase }
    rows(first: $first, after: $after, where: $where, orderBy: $orderBy, columns: $columns) {
      totalCount pageInfo { hasNextPage hasPreviousPage endCursor }
      edges { cursor node { number cells { column row text truncated value type confidence note needsReview version
        citation { __typename ... on SheetCitation { sheet ref } } corrections { version } } } }
    } } } }`;
interface Page {
  readonly totalCount: number;
  readonly pageInfo: { hasNextPage: boolean; hasPreviousPage: boolean; endCursor: string | null };
  readonly edges: { cursor: string; node: { number: number; cells: Record<string, unknown>[] } }[];
}
type Node = Record<string, unknown> & { rows: Page };
const ask = async (id: string, variables: object = {}, who = a.owner): Promise<Node> =>
  (await data<{ node: Node }>(server.url, tableQuery, { id: globalId('ExtractedTable', id), ...variables }, who)).node;

const small: Given = {
  name: 'Revenue',
  columns: [
    { name: 'Region', type: 'TEXT' },
    { name: 'Amount', type: 'DECIMAL' },
  ],
  rows: [
    [cell('North', {}, 'A2'), cell('1.234,50', { value: '1234.50', type: 'DECIMAL' }, 'B2')],
    [
      cell('South', {}, 'A3'),
      cell('12', { value: '12', type: 'DECIMAL', confidence: 0.6, note: 'AMBIGUOUS_NUMBER' }, 'B3'),
    ],
    [cell('West', {}, 'A4'), cell('', {}, 'B4')],
  ],
};

test('a table is told with its columns, its place, its rows and how certain it is', async () => {
  const { tables, run, documentId } = await extracted(app(), a, [small]);
  const table = await ask(tables[0] ?? '', { first: 2 });
  expect(table).toMatchObject({
    name: 'Revenue',
    complete: true,
    rowCount: 3,
    columnCount: 2,
    cellCount: 6,
    confidenceMin: 0.6,
    reviewCount: 1,
    place: { __typename: 'SheetCitation', sheet: 'Figures', ref: null },
    columns: [
      { position: 0, name: 'Region', type: 'TEXT' },
      { position: 1, name: 'Amount', type: 'DECIMAL' },
    ],
    document: { id: globalId('Document', documentId) },
    job: { id: globalId('ExtractionJob', run.id), phase: 'NEEDS_REVIEW' },
  });
  expect(table['confidenceMean']).toBeCloseTo(5.6 / 6);
  const { rows } = table;
  expect(rows.totalCount).toBe(3);
  expect(rows.edges.map(({ node }) => node.number)).toEqual([0, 1]);
  expect(rows.edges[1]?.node.cells[1]).toMatchObject({
    column: 1,
    row: 1,
    text: '12',
    value: '12',
    type: 'DECIMAL',
    note: 'AMBIGUOUS_NUMBER',
    needsReview: true,
    version: 0,
    citation: { sheet: 'Figures', ref: 'B3' },
    corrections: [],
  });
  const rest = await ask(tables[0] ?? '', { first: 2, after: rows.pageInfo.endCursor });
  expect(rest.rows.edges.map(({ node }) => [node.number, node.cells.map(({ value, type }) => [value, type])])).toEqual([
    [
      2,
      [
        ['West', 'TEXT'],
        [null, null],
      ],
    ],
  ]);
  expect(rest.rows.pageInfo).toMatchObject({ hasNextPage: false, hasPreviousPage: true });
  const only = await ask(tables[0] ?? '', { columns: [1], where: [{ column: 0, op: 'EQ', value: 'NORTH' }] });
  expect(only.rows.edges.map(({ node }) => node.cells.map(({ text }) => text))).toEqual([['1.234,50']]);
});

test('what cannot be asked is said, and finds nothing', async () => {
  const { tables } = await extracted(app(), a, [small]);
  const id = tables[0] ?? '';
  const wrong: [object, string][] = [
    [{ first: 101 }, 'first'],
    [{ where: [{ column: 2, op: 'EQ', value: 'x' }] }, 'where.0.column'],
    [{ where: [{ column: 1, op: 'EQ', value: 'much' }] }, 'where.0.value'],
    [{ where: [{ column: 1, op: 'EQ', value: "1'; drop table run; --" }] }, 'where.0.value'],
    [{ where: [{ column: 0, op: 'LT', value: 'x' }] }, 'where.0.op'],
    [{ where: [{ column: 0, op: 'EQ' }] }, 'where.0.value'],
    [{ where: [{ column: 0, op: 'IS_EMPTY', value: 'x' }] }, 'where.0.value'],
    [{ where: [{ column: 0, op: 'EQ', value: 'x'.repeat(1001) }] }, 'where.0.value'],
    [{ where: Array.from({ length: 11 }, () => ({ column: 0, op: 'IS_EMPTY' })) }, 'where'],
    [{ orderBy: { column: -1, direction: 'ASC' } }, 'orderBy.column'],
    [{ after: 'bm9uZQ' }, 'after'],
    [{ columns: [0, 7] }, 'columns'],
  ];
  for (const [variables, path] of wrong) {
    const answer = await send(server.url, tableQuery, { id: globalId('ExtractedTable', id), ...variables }, a.owner);
    expect([path, answer.errors?.[0]?.extensions?.['code']]).toEqual([path, 'VALIDATION_ERROR']);
    expect(answer.errors?.[0]?.message).toContain(path);
  }
  // A cursor of one order leads nowhere in another one.
  const first = await ask(id, { first: 1, orderBy: { column: 1, direction: 'ASC' } });
  const after = first.rows.pageInfo.endCursor;
  const other = await send(server.url, tableQuery, { id: globalId('ExtractedTable', id), after }, a.owner);
  expect(other.errors?.[0]?.message).toContain('after');
});

test('nobody of another workspace finds a table, its rows or its cells; a viewer does', async () => {
  const { tables, documentId, run } = await extracted(app(), a, [small]);
  const id = globalId('ExtractedTable', tables[0] ?? '');
  expect((await data<{ node: unknown }>(server.url, tableQuery, { id }, b.owner)).node).toBeNull();
  expect((await ask(tables[0] ?? '', {}, await memberOf(app(), a, 'VIEWER'))).rows.edges).toHaveLength(3);
  const lists = `query ($document: ID!, $job: ID!) {
    document: node(id: $document) { ... on Document { tables { totalCount nodes { id } } } }
    job: node(id: $job) { ... on ExtractionJob { tables { nodes { id cell(row: 0, column: 0) { text } } } } } }`;
  const ids = { document: globalId('Document', documentId), job: globalId('ExtractionJob', run.id) };
  expect(await data(server.url, lists, ids, a.owner)).toEqual({
    document: { tables: { totalCount: 1, nodes: [{ id }] } },
    job: { tables: { nodes: [{ id, cell: { text: 'North' } }] } },
  });
  expect(await data(server.url, lists, ids, b.owner)).toEqual({ document: null, job: null });
});

test('rows that are asked for twice have each cell once', async () => {
  const { tables } = await extracted(app(), a, [small]);
  const twice = `query ($id: ID!) { node(id: $id) { ... on ExtractedTable { all: rows { nodes { cells { text } } }
    some: rows(where: [{ column: 0, op: EQ, value: "South" }]) { nodes { cells { text } } } } } }`;
  const row = (...texts: string[]) => ({ cells: texts.map((text) => ({ text })) });
  expect(await data(server.url, twice, { id: globalId('ExtractedTable', tables[0] ?? '') }, a.owner)).toEqual({
    node: {
      all: { nodes: [row('North', '1.234,50'), row('South', '12'), row('West', '')] },
      some: { nodes: [row('South', '12')] },
    },
  });
});

test('as many statements for 20 rows as for 5, and for 3 tables as for 1', async () => {
  const { tables, run } = await extracted(
    app(),
    a,
    [1, 2, 3].map((seed) => ({ columns, rows: made(40, seed) })),
  );
  const count = async (fn: () => Promise<unknown>) => (await statements(app().database.pool, fn)).length;
  const [id = ''] = tables;
  await ask(id);
  for (const more of [
    {},
    { orderBy: { column: 2, direction: 'DESC' }, where: [{ column: 1, op: 'GT', value: '-10' }] },
  ]) {
    const five = await count(() => ask(id, { first: 5, ...more }));
    expect(await count(() => ask(id, { first: 20, ...more }))).toBe(five);
    expect(five).toBeLessThan(6);
  }
  const list = `query ($id: ID!, $first: Int!) { node(id: $id) { ... on ExtractionJob { tables(first: $first) { nodes {
    name columns { name } rows(first: 10, where: [{ column: 1, op: GT, value: "-5" }]) { totalCount nodes { cells { text } } } } } } } }`;
  const asked = (first: number) => data(server.url, list, { id: globalId('ExtractionJob', run.id), first }, a.owner);
  await asked(1);
  expect(await count(() => asked(3))).toBe(await count(() => asked(1)));
});

test('hostile texts come back, or what the database cannot hold is replaced', async () => {
  const texts = ['\0nul', '\uD800lone', 'x'.repeat(32_768), '\u202Ertl', '\u0001\u001F', "'; drop table run; --", '💡'];
  const rows = texts.map((text, row) => [cell(text, {}, `A${row}`)]);
  const name = `\0${'n'.repeat(300)}\uDC00`;
  const { tables } = await extracted(app(), a, [{ name, columns: [{ name, type: 'TEXT' }], rows }]);
  const table = await ask(tables[0] ?? '');
  expect(table['name']).toBe(`\uFFFD${'n'.repeat(254)}`);
  expect(table.rows.edges.map(({ node }) => node.cells[0]?.['text'])).toEqual([
    '\uFFFDnul',
    '\uFFFDlone',
    'x'.repeat(2000),
    ...texts.slice(3),
  ]);
  expect(table.rows.edges[2]?.node.cells[0]).toMatchObject({ truncated: true });
  const whole = `query ($id: ID!) { node(id: $id) { ... on ExtractedTable { cell(row: 2, column: 0) { text truncated } none: cell(row: 99, column: 0) { text } } } }`;
  expect(await data(server.url, whole, { id: globalId('ExtractedTable', tables[0] ?? '') }, a.owner)).toEqual({
    node: { cell: { text: 'x'.repeat(32_768), truncated: false }, none: null },
  });
});

describe('the writer', () => {
  test('leaves a part that says so, and begins anew when the job is executed again', async () => {
    const extraction = await extractionOf(app(), a);
    const writer = await app().use(Tables).writer(extraction, { minConfidence: 0.7 });
    await writer.table({ type: 'table', index: 0, name: 'Part', columns, headerRows: 0 });
    await writer.rows({ type: 'rows', table: 0, from: 0, rows: made(10, 1) });
    await writer.flush();
    const id = (await app().db.extractedTable.findFirstOrThrow({ where: { jobId: extraction.run.id } })).id;
    expect(await ask(id)).toMatchObject({ complete: false, rowCount: 10, rows: { totalCount: 10 } });
    // Another execution takes over: what the first one writes from now on is refused, and what it wrote goes.
    const attempt = 2;
    await app().db.run.update({ where: { id: extraction.run.id }, data: { attempt } });
    await expect(writer.table({ type: 'table', index: 1, name: 'x', columns, headerRows: 0 })).rejects.toBeInstanceOf(
      Fenced,
    );
    const next = { ...extraction, hold: { ...extraction.hold, attempt } };
    const [again] = await write(next, [small]);
    await conclude(next);
    const tables = await app().db.extractedTable.findMany({ where: { jobId: extraction.run.id } });
    expect(tables.map((one) => [one.id, one.complete])).toEqual([[again, true]]);
    expect(await app().db.extractedCell.count({ where: { tableId: id } })).toBe(0);
  });

  test('that has lost its run removes nothing of what the next execution writes', async () => {
    const lost = await extractionOf(app(), a);
    const next = { ...lost, hold: { ...lost.hold, attempt: 2 } };
    await app().db.run.update({ where: { id: lost.run.id }, data: { attempt: 2 } });
    const [id = ''] = await write(next, [small]);
    await expect(app().use(Tables).writer(lost, { minConfidence: 0.7 })).rejects.toBeInstanceOf(Fenced);
    expect(await app().db.extractedCell.count({ where: { tableId: id } })).toBe(6);
  });

  test('removes a large table in small statements, which hold the run for a moment each', async () => {
    const extraction = await extractionOf(app(), a);
    const [id = ''] = await write(extraction, [{ columns: [{ name: 'a', type: 'TEXT' }], rows: [] }]);
    await app().database.pool.query(
      `insert into extracted_cell (table_id, "column", row, type, text, confidence, citation)
       select $1, 0, row, 'EMPTY', '', 1, '{}' from generate_series(1, 45000) as row`,
      [id],
    );
    const texts = await statements(app().database.pool, () =>
      app().use(Tables).writer(extraction, { minConfidence: 0.7 }),
    );
    expect(texts.filter((text) => text.includes('delete from extracted_cell using mine'))).toHaveLength(4);
    expect(await app().db.extractedTable.count({ where: { jobId: extraction.run.id } })).toBe(0);
    expect(await app().db.extractedCell.count({ where: { tableId: id } })).toBe(0);
  });

  test('takes columns that come later, and types that are wider at the end', async () => {
    const extraction = await extractionOf(app(), a);
    const writer = await app().use(Tables).writer(extraction, { minConfidence: 0.7 });
    const integer = (value: number) => cell(String(value), { value, type: 'INTEGER' });
    await writer.table({
      type: 'table',
      index: 0,
      name: 'T',
      columns: [{ name: 'n', type: 'INTEGER' }],
      headerRows: 1,
    });
    await writer.rows({
      type: 'rows',
      table: 0,
      from: 0,
      rows: [[integer(10)], [integer(9)], [cell('eight'), cell('more')]],
    });
    const wider: Column[] = [
      { name: 'n', type: 'TEXT' },
      { name: 'Column 2', type: 'TEXT' },
    ];
    await writer.tableEnd({ type: 'tableEnd', table: 0, rows: 3, columns: wider });
    const { id } = await app().db.extractedTable.findFirstOrThrow({ where: { jobId: extraction.run.id } });
    const table = await ask(id, { orderBy: { column: 0, direction: 'ASC' } });
    expect(table).toMatchObject({ columnCount: 2, columns: [{ type: 'TEXT' }, { name: 'Column 2' }] });
    expect(table.rows.edges.map(({ node }) => node.cells.map(({ value }) => value))).toEqual([
      [10],
      [9],
      ['eight', 'more'],
    ]);
  });
});
