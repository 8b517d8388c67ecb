import { afterAll, beforeAll, expect, test } from 'vitest';
import { globalId } from '../../../src/kernel/graphql/global-id.ts';
import { system } from '../../../src/kernel/auth/actor.ts';
import { Runs } from '../../../src/kernel/runs/runs.ts';
import { Tables } from '../../../src/domains/documents/service/tables.ts';
import type { Cell, Column } from '../../../src/integrations/extractors/index.ts';
import type { Auth } from '../../support/client.ts';
import { data } from '../../support/client.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { statements } from '../../support/statements.ts';
import { memberOf, tenants, type Someone, type Tenant } from '../../support/world.ts';
import { cell, conclude, documentOf, extracted, extractionOf, write, type Given } from './tables-harness.ts';

let server: TestServer;
let a: Tenant;
let b: Tenant;
let member: Someone;
let viewer: Someone;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' }, { hubPollMs: 600_000 });
  [a, b] = (await tenants(server.running.app, ['a', 'b'])) as [Tenant, Tenant];
  member = await memberOf(server.running.app, a, 'MEMBER');
  viewer = await memberOf(server.running.app, a, 'VIEWER');
});
afterAll(() => server.stop());

const app = () => server.running.app;

const columns: Column[] = [
  { name: 'Region', type: 'TEXT' },
  { name: 'Amount', type: 'DECIMAL' },
  { name: 'Day', type: 'DATE' },
];
const doubtful: Partial<Cell> = { confidence: 0.5, note: 'UNCERTAIN_PLACE' };
/** Three cells want a look: 0/0, 0/1, 1/1. */
const table = (amount = '7'): Given => ({
  columns,
  rows: [
    [
      cell('North', doubtful, 'A2'),
      cell(amount, { value: amount, type: 'DECIMAL', ...doubtful }, 'B2'),
      cell('', {}, 'C2'),
    ],
    [cell('South', {}, 'A3'), cell('8', { value: '8', type: 'DECIMAL', ...doubtful }, 'B3'), cell('', {}, 'C3')],
  ],
});

interface Outcome {
  readonly __typename: string;
  readonly message?: string;
  readonly currentVersion?: number;
  readonly eventCursor?: string;
  readonly issues?: readonly { path: string }[];
  readonly from?: string;
}
const mutation = (name: string, ask: string): string => {
  const type = name.charAt(0).toUpperCase() + name.slice(1);
  return `mutation ($input: ${type}Input!) { ${name}(input: $input) { __typename ... on ${type}Success { eventCursor ${ask} }
    ... on Error { message } ... on ValidationError { issues { path } } ${name === 'completeReview' ? '... on IllegalTransition { from }' : '... on CellConflict { currentVersion }'} } }`;
};
const call = async (name: string, input: object, who: Auth, ask = ''): Promise<Outcome> =>
  (await data<Record<string, Outcome>>(server.url, mutation(name, ask), { input }, who))[name] as Outcome;
const correct = (id: string, row: number, column: number, text: string, expectedVersion = 0, who: Auth = member) =>
  call('correctCell', { tableId: globalId('ExtractedTable', id), row, column, text, expectedVersion }, who);
const confirm = (id: string, cells: readonly [row: number, column: number, version?: number][], who: Auth = member) =>
  call('confirmCells', {
    tableId: globalId('ExtractedTable', id),
    cells: cells.map(([row, column, expectedVersion = 0]) => ({ row, column, expectedVersion })),
  }, who); // prettier-ignore
const stored = (tableId: string, row: number, column: number) =>
  app().db.extractedCell.findUniqueOrThrow({ where: { tableId_column_row: { tableId, row, column } } });
const counts = async (tableId: string) => {
  const { reviewCount, job } = await app().db.extractedTable.findUniqueOrThrow({
    where: { id: tableId },
    include: { job: true },
  });
  return [reviewCount, Number(job.reviewCount)];
};
const run = (id: string) => app().db.run.findUniqueOrThrow({ where: { id } });
const inbox = (jobId: string) =>
  app().db.inboxItem.findFirstOrThrow({ where: { kind: 'documents.review', subjectId: jobId } });
const first = <T>([one]: readonly T[]): T => {
  if (one === undefined) throw new Error('there is none');
  return one;
};

test('a cell is read by the type of its column, and what it had before is its history', async () => {
  const made = await extracted(app(), a, [table()]);
  const id = first(made.tables);
  expect((await correct(id, 0, 1, ' 1,234.50 ')).__typename).toBe('CorrectCellSuccess');
  expect(await stored(id, 0, 1)).toMatchObject({ text: ' 1,234.50 ', value: '1234.50', type: 'DECIMAL', needsReview: false, confidence: 1, note: null, version: 1 }); // prettier-ignore
  expect(await counts(id)).toEqual([2, 2]);
  const again = await correct(id, 0, 1, '9', 0);
  expect(again).toMatchObject({ __typename: 'CellConflict', currentVersion: 1 });
  const reasoned = { tableId: globalId('ExtractedTable', id), row: 0, column: 1, text: '-2', expectedVersion: 1, reason: 'The scan is blurred.' }; // prettier-ignore
  expect((await call('correctCell', reasoned, member)).__typename).toBe('CorrectCellSuccess');
  for (const [column, text] of [
    [1, 'a lot'],
    [1, '12x'],
    [2, '2025-02-30'],
    [0, 'x'.repeat(32_768)],
  ] as const)
    // prettier-ignore
    expect((await correct(id, 1, column, text)).issues?.map(({ path }) => path)).toEqual(['text']);
  expect((await correct(id, 1, 2, '2025-03-31')).__typename).toBe('CorrectCellSuccess');
  expect(await stored(id, 1, 2)).toMatchObject({ type: 'DATE', value: '2025-03-31' });
  expect((await correct(id, 1, 0, '')).__typename).toBe('CorrectCellSuccess');
  expect(await stored(id, 1, 0)).toMatchObject({ type: 'EMPTY', value: null, text: '' });
  const query = `query ($id: ID!) { node(id: $id) { ... on ExtractedTable { cell(row: 0, column: 1) { text value version
    corrections { version fromText toText confirmed reason carriedOver by { id } } } } } }`;
  expect(await data(server.url, query, { id: globalId('ExtractedTable', id) }, viewer)).toEqual({
    node: {
      cell: {
        text: '-2',
        value: '-2',
        version: 2,
        corrections: [
          { version: 2, fromText: ' 1,234.50 ', toText: '-2', confirmed: false, reason: 'The scan is blurred.', carriedOver: false, by: { id: globalId('User', member.id) } },
          { version: 1, fromText: '7', toText: ' 1,234.50 ', confirmed: false, reason: null, carriedOver: false, by: { id: globalId('User', member.id) } },
        ],
      },
    },
  }); // prettier-ignore
  const event = await app().db.event.findFirstOrThrow({ where: { type: 'extractedTable.cellCorrected', subjectId: id }, orderBy: { seq: 'asc' } }); // prettier-ignore
  expect(event).toMatchObject({ actorId: member.id, runId: made.run.id, data: { jobId: made.run.id, documentId: made.documentId, row: 0, column: 1, version: 1 } }); // prettier-ignore
});

test('nobody of another workspace and no viewer corrects, confirms or completes; nothing is changed', async () => {
  const made = await extracted(app(), a, [table()]);
  const id = first(made.tables);
  const complete = (who: Auth) => call('completeReview', { jobId: globalId('ExtractionJob', made.run.id) }, who);
  for (const [who, answer] of [[b.owner, 'NotFound'], [viewer, 'Forbidden']] as const) {
    expect((await correct(id, 0, 1, '1', 0, who)).__typename).toBe(answer);
    expect((await confirm(id, [[0, 1]], who)).__typename).toBe(answer);
    expect((await complete(who)).__typename).toBe(answer);
  } // prettier-ignore
  expect((await correct(id, 99, 0, 'x')).__typename).toBe('NotFound');
  expect((await confirm(id, [[0, 1], [0, 40_000]])).__typename).toBe('NotFound'); // prettier-ignore
  expect((await confirm(id, [[0, 1], [0, 1]])).__typename).toBe('ValidationError'); // prettier-ignore
  expect(await app().db.cellCorrection.count({ where: { tableId: id } })).toBe(0);
  expect(await counts(id)).toEqual([3, 3]);
});

test('a job that waits for its review ends with the last cell, and tells people until then', async () => {
  const made = await extracted(app(), a, [table(), { ...table(), name: 'Second' }]);
  const [one = '', two = ''] = made.tables;
  expect(await run(made.run.id)).toMatchObject({
    status: 'WAITING',
    phase: 'NEEDS_REVIEW',
    workerId: null,
    leaseUntil: null,
  });
  expect(await inbox(made.run.id)).toMatchObject({ status: 'OPEN', title: 'Cells of figures.pdf that want a look: 6' });
  expect((await confirm(one, [[0, 0], [0, 1], [1, 1]])).__typename).toBe('ConfirmCellsSuccess'); // prettier-ignore
  expect(await stored(one, 0, 0)).toMatchObject({ text: 'North', version: 1, needsReview: false });
  // One of them was looked at since: none is confirmed.
  expect((await confirm(two, [[0, 0], [0, 1], [1, 1, 3]])).currentVersion).toBe(0); // prettier-ignore
  expect(await counts(two)).toEqual([3, 3]);
  expect((await confirm(two, [[0, 0], [0, 1]])).__typename).toBe('ConfirmCellsSuccess'); // prettier-ignore
  expect(await run(made.run.id)).toMatchObject({ status: 'WAITING' });
  expect((await correct(two, 1, 1, '5')).__typename).toBe('CorrectCellSuccess');
  expect(await run(made.run.id)).toMatchObject({
    status: 'SUCCEEDED',
    phase: 'SUCCEEDED',
    statusReason: 'It was reviewed.',
  });
  expect(await app().db.extractionJob.findUniqueOrThrow({ where: { id: made.run.id } })).toMatchObject({
    reviewedById: member.id,
  });
  expect(await inbox(made.run.id)).toMatchObject({ status: 'RESOLVED' });
  // It can still be corrected.
  expect((await correct(two, 1, 1, '6', 1)).__typename).toBe('CorrectCellSuccess');
  expect(await call('completeReview', { jobId: globalId('ExtractionJob', made.run.id) }, member)).toMatchObject({
    from: 'SUCCEEDED',
    message: 'The job does not wait for a review: it is over (SUCCEEDED).',
  });
});

test('a reviewer ends a review with cells left, or somebody cancels it', async () => {
  const made = await extracted(app(), a, [table()]);
  const id = globalId('ExtractionJob', made.run.id);
  expect((await call('completeReview', { jobId: id }, member, 'job { id }')).__typename).toBe('CompleteReviewSuccess');
  expect(await run(made.run.id)).toMatchObject({ status: 'SUCCEEDED', statusReason: 'It was reviewed; 3 cells were left as they were read.' }); // prettier-ignore
  expect(await counts(first(made.tables))).toEqual([3, 3]);
  expect(await inbox(made.run.id)).toMatchObject({ status: 'RESOLVED' });
  const other = await extracted(app(), a, [table()]);
  await app().use(Runs).stop(other.run.id);
  await app().use(Runs).giveUp(other.run.id, 'It was canceled.');
  expect(await inbox(other.run.id)).toMatchObject({ status: 'RESOLVED' });
  expect((await correct(first(other.tables), 0, 1, '5')).__typename).toBe('CorrectCellSuccess');
});

test('nothing is corrected while it is being extracted, or when its document goes', async () => {
  const extraction = await extractionOf(app(), a);
  const [id = ''] = await write(extraction, [table()]);
  expect((await correct(id, 0, 1, '5')).__typename).toBe('Conflict');
  await conclude(extraction);
  await app().db.document.update({ where: { id: extraction.documentId }, data: { removalAskedAt: new Date() } });
  expect((await correct(id, 0, 1, '5')).__typename).toBe('Conflict');
});

test('a part of a job that failed is corrected, and no count is below zero', async () => {
  const extraction = await extractionOf(app(), a);
  const [id = ''] = await write(extraction, [table()]);
  // It ended before its tables were counted.
  await app().db.extractionJob.update({ where: { id: extraction.run.id }, data: { reviewCount: 0 } });
  await app().use(Runs).stop(extraction.run.id);
  await app().use(Runs).giveUp(extraction.run.id, 'It was canceled.');
  expect((await correct(id, 0, 1, '5')).__typename).toBe('CorrectCellSuccess');
  expect(await counts(id)).toEqual([2, 0]);
});

test('of many who correct at once each cell takes one, and the counts are right', async () => {
  const rows = Array.from({ length: 6 }, (_, row) => [cell('?', doubtful, `A${row + 2}`)]);
  const made = await extracted(app(), a, [{ columns: [{ name: 'A', type: 'TEXT' }], rows }]);
  const id = first(made.tables);
  const answers = await Promise.all(
    rows.flatMap((_, row) => ['x', 'y', 'z'].map((text) => correct(id, row, 0, `${text}${row}`))),
  );
  const kinds = Map.groupBy(answers, ({ __typename }) => __typename);
  expect(kinds.get('CorrectCellSuccess')).toHaveLength(6);
  expect(kinds.get('CellConflict')).toHaveLength(12);
  expect(await counts(id)).toEqual([0, 0]);
  expect(await app().db.cellCorrection.count({ where: { tableId: id } })).toBe(6);
  expect(await run(made.run.id)).toMatchObject({ status: 'SUCCEEDED' });
});

test('a later job gets corrections of cells that say the same at the same place, in as many statements as of one', async () => {
  const documentId = await documentOf(app(), a);
  const before = first((await extracted(app(), a, [table()], documentId)).tables);
  await correct(before, 0, 0, 'Nord', 0);
  await correct(before, 0, 0, 'North-West', 1);
  await correct(before, 0, 1, '70');
  await confirm(before, [[1, 1]]);
  // 0/1 says something else now; 0/0 and 1/1 are as they were. Of another document nothing is taken.
  const later = await extracted(app(), a, [table('17')], documentId);
  const id = first(later.tables);
  expect(await stored(id, 0, 0)).toMatchObject({ text: 'North-West', needsReview: false, version: 1, confidence: 1 });
  expect(await stored(id, 0, 1)).toMatchObject({ text: '17', needsReview: true, version: 0 });
  expect(await stored(id, 1, 1)).toMatchObject({ text: '8', value: '8', needsReview: false, version: 1 });
  expect(await counts(id)).toEqual([1, 1]);
  const history = await app().db.cellCorrection.findMany({ where: { tableId: id }, orderBy: { row: 'asc' } });
  const newest = await app().db.cellCorrection.findFirstOrThrow({
    where: { tableId: before, row: 0, column: 0, version: 2 },
  });
  expect(history.map(({ carriedFromId, fromText, toText, extractedText, actorId }) => [carriedFromId === newest.id, fromText, toText, extractedText, actorId])).toEqual([
    [true, 'North', 'North-West', 'North', member.id],
    [false, '8', '8', '8', member.id],
  ]); // prettier-ignore
  expect((await correct(id, 0, 1, '71')).__typename).toBe('CorrectCellSuccess');
  expect(await run(later.run.id)).toMatchObject({ status: 'SUCCEEDED' });
  const third = await extracted(app(), a, [table('17')], documentId);
  expect(await counts(first(third.tables))).toEqual([0, 0]);
  // A column of another type takes no number for a text that it does not understand.
  const asDates: Given = {
    columns: [columns[0] as Column, { name: 'Amount', type: 'DATE' }, columns[2] as Column],
    rows: table().rows,
  };
  const other = first((await extracted(app(), a, [asDates], documentId)).tables);
  expect(await stored(other, 0, 1)).toMatchObject({ text: '7', version: 0, needsReview: true });
  expect(await stored(first((await extracted(app(), a, [table()])).tables), 0, 0)).toMatchObject({
    text: 'North',
    version: 0,
  });
  // Cells that have one place together, as those of an external extractor may: only the one that was corrected.
  const alike: Given = {
    columns: [{ name: 'A', type: 'TEXT' }],
    rows: ['x', 'x', 'y', 'x'].map((text) => [cell(text)]),
  };
  const shared = await documentOf(app(), a);
  const source = first((await extracted(app(), a, [alike], shared)).tables);
  await correct(source, 1, 0, 'second');
  await correct(source, 3, 0, 'fourth');
  const target = first((await extracted(app(), a, [alike], shared)).tables);
  const texts = await app().db.extractedCell.findMany({ where: { tableId: target }, orderBy: { row: 'asc' } });
  expect(texts.map(({ text }) => text)).toEqual(['x', 'second', 'y', 'fourth']);
  // Of a large table every cell is looked at once, not once for each correction: its run is locked meanwhile.
  const large = await documentOf(app(), a);
  const columnsOfOne: Column[] = [{ name: 'A', type: 'TEXT' }];
  const [old = ''] = (await extracted(app(), a, [{ columns: columnsOfOne, rows: [] }], large)).tables;
  const citation = `jsonb_build_object('kind', 'SHEET', 'sheet', 'S', 'ref', 'A' || row)`;
  await app().database.pool.query(
    `insert into cell_correction (id, table_id, document_id, "column", row, version, from_text, to_text, extracted_text,
       citation, column_type, type)
     select gen_random_uuid(), $1, $2, 0, row, 1, '?', 'said', '?', ${citation}, 'TEXT', 'TEXT' from generate_series(1, 200) row`,
    [old, large],
  );
  const extraction = await extractionOf(app(), a, large);
  const cells = 50_000;
  const [fresh = ''] = await write(extraction, [{ columns: columnsOfOne, rows: [] }]);
  await app().database.pool.query(
    `insert into extracted_cell (table_id, "column", row, type, text, confidence, citation)
     select $1, 0, row, 'TEXT', '?', 1, ${citation} from generate_series(1, $2::int) row`,
    [fresh, cells],
  );
  // Counted and not timed: what it takes depends on who else is at work.
  const [looks] = await app().transact(system, async (tx) => {
    await app().use(Tables).finish(tx, extraction.run.id);
    return tx.db.$queryRaw<{ cells: bigint }[]>`
      select seq_tup_read + coalesce(idx_tup_fetch, 0) as cells from pg_stat_xact_user_tables
      where relname = 'extracted_cell'`;
  });
  expect(Number(looks?.cells)).toBeGreaterThanOrEqual(cells);
  expect(Number(looks?.cells)).toBeLessThan(5 * cells);
  expect(await app().db.extractedCell.count({ where: { tableId: fresh, text: 'said', version: 1 } })).toBe(200);
  const many = async (count: number) => {
    const rows = Array.from({ length: count }, (_, row) => [cell('?', doubtful, `A${row + 2}`)]);
    const given: Given = { columns: [{ name: 'A', type: 'TEXT' }], rows };
    const document = await documentOf(app(), a);
    await confirm(
      first((await extracted(app(), a, [given], document)).tables),
      rows.map((_, row) => [row, 0]),
    );
    return (await statements(app().database.pool, () => extracted(app(), a, [given], document))).length;
  };
  await many(1);
  expect(await many(50)).toBe(await many(2));
});
