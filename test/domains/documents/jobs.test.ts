import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { globalId, rowId } from '../../../src/kernel/graphql/global-id.ts';
import { listProcesses } from '../../../src/kernel/processes/children.ts';
import { member, person, workspace, type Person } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { csv, isOver, jobOf, jobWhere, livenessMs, mutate, submit, upload } from './harness.ts';

let server: TestServer;
let ada: Person;
let of: string;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_MAX_CONCURRENT_EXTRACTIONS: '1' });
  ada = await person(server.url);
  of = (await workspace(server.url, ada)).id;
});
afterAll(() => server.stop());

const app = () => server.running.app;
const over = (id: string) => jobWhere(server.url, ada, id, isOver);
/** Children of this process, which is the worker, that read documents. */
const readers = async () =>
  (await listProcesses()).filter(({ parentPid, zombie }) => parentPid === process.pid && !zombie);
const copies = async () =>
  (await readdir(path.join(server.stateDir, 'documents'), { recursive: true, withFileTypes: true })).filter((one) =>
    one.isFile(),
  );
const eventsOf = async (id: string) =>
  (await app().db.event.findMany({ where: { runId: rowId('Run', id) }, orderBy: { seq: 'asc' } })).map(
    ({ type }) => type,
  );

test('the tables of a document are extracted, step by step, live', async () => {
  const document = await upload(server.url, ada, of, 'figures.csv', csv(2_500));
  const follower = new Follower(server.url, ada, 'extractionJobUpdated', { id: document.id, after: null });
  try {
    await until('the stream has begun', async () => follower.items.length > 0);
    const id = await submit(server.url, ada, { documentId: document.id });
    expect(await over(id)).toMatchObject({
      status: 'SUCCEEDED',
      phase: 'SUCCEEDED',
      errorCode: null,
      progress: 1,
      unit: 'ROWS',
      unitsDone: 2_500,
      unitsTotal: 2_500,
      tableCount: 1,
      rowCount: 2_500,
      cellCount: 7_500,
      reviewCount: 0,
      steps: ['detect', 'extract', 'persist'].map((name) => ({ name, status: 'SUCCEEDED' })),
    });
    // Its cells are stored: it keeps none of the quota beside them.
    expect(await app().db.extractionJob.findUnique({ where: { id: rowId('Run', id) } })).toMatchObject({
      cellsReserved: 0n,
    });
    const types = await eventsOf(id);
    expect(types.filter((type) => !type.includes('step'))).toEqual([
      'extractionJob.queued',
      'extractionJob.running',
      'extractionJob.persisting',
      'extractionJob.outputsPersisted',
      'extractionJob.succeeded',
    ]);
    await until('all of it is told', async () => follower.items.filter(({ event }) => event).length === types.length);
    expect(await copies()).toEqual([]);
    const { node } = await data<{ node: { jobs: { nodes: { id: string; document: { id: string } }[] } } }>(
      server.url,
      'query ($id: ID!) { node(id: $id) { ... on Document { jobs { nodes { id document { id } } } } } }',
      { id: document.id },
      ada,
    );
    expect(node.jobs.nodes).toEqual([{ id, document: { id: document.id } }]);
  } finally {
    await follower.close();
  }
});

test('a double submit runs once, and so does one of what is open already', async () => {
  const document = await upload(server.url, ada, of, 'twice.csv', csv(10, 'twice'));
  const input = { documentId: document.id, idempotencyKey: 'one' };
  const [a, b] = await Promise.all([submit(server.url, ada, input), submit(server.url, ada, input)]);
  expect(b).toBe(a);
  await over(a);
  // The key holds after its end, too; without it the document is read again.
  expect(await submit(server.url, ada, input)).toBe(a);
  expect(
    await mutate(server.url, 'submitExtractionJob', { ...input, configurationVersion: 1 }, 'job { id }', ada),
  ).toMatchObject({
    __typename: 'IdempotencyConflict',
  });
  const both = await Promise.all([1, 2].map(() => submit(server.url, ada, { documentId: document.id })));
  expect(both[0]).toBe(both[1]);
  expect(both[0]).not.toBe(a);
  await over(both[0] ?? '');
});

test('who may not, may not; what is not there is not found', async () => {
  const document = await upload(server.url, ada, of, 'rights.csv', csv(10, 'rights'));
  const ask = (input: object, who: Person) => mutate(server.url, 'submitExtractionJob', input, 'job { id }', who);
  expect(await ask({ documentId: document.id }, await member(server.url, ada, of, 'VIEWER'))).toMatchObject({
    __typename: 'Forbidden',
  });
  const eve = await person(server.url, 'Eve');
  // It is told by the id that it was asked for by.
  expect(await ask({ documentId: document.id }, eve)).toMatchObject({
    __typename: 'NotFound',
    message: `There is no Document ${document.id}.`,
    id: document.id,
  });
  // A configuration of another workspace.
  const other = (await workspace(server.url, eve)).id;
  const made = await mutate<{ configuration: { id: string } }>(
    server.url,
    'createConfiguration',
    { workspaceId: other, name: 'c', definition: {} },
    'configuration { id }',
    eve,
  );
  expect(await ask({ documentId: document.id, configurationId: made.configuration.id }, ada)).toMatchObject({
    __typename: 'NotFound',
  });
  const external = await mutate<{ configuration: { id: string } }>(
    server.url,
    'createConfiguration',
    { workspaceId: of, name: 'external', definition: { extractor: 'HTTP' } },
    'configuration { id }',
    ada,
  );
  expect(await ask({ documentId: document.id, configurationId: external.configuration.id }, ada)).toMatchObject({
    __typename: 'ExtractorUnavailable',
    code: 'EXTRACTOR_UNAVAILABLE',
  });
});

test('one that is canceled ends at once, with its process, and keeps what it has found', async () => {
  const before = new Set((await readers()).map(({ pid }) => pid));
  const document = await upload(server.url, ada, of, 'large.csv', csv(400_000, 'large'));
  const id = await submit(server.url, ada, { documentId: document.id });
  await until(
    'it has stored something',
    async () => (await app().db.extractedCell.count({ where: { table: { jobId: rowId('Run', id) } } })) > 0,
    livenessMs,
  );
  expect((await jobOf(server.url, ada, id)).status).toBe('RUNNING');
  const begun = performance.now();
  await mutate(server.url, 'cancelRun', { id }, 'run { id }', ada);
  const job = await jobWhere(server.url, ada, id, isOver, livenessMs);
  process.stdout.write(`MEASURED canceled after ${Math.round(performance.now() - begun)} ms\n`);
  expect(job).toMatchObject({ status: 'CANCELED', phase: 'CANCELED' });
  expect((await readers()).filter(({ pid }) => !before.has(pid))).toEqual([]);
  expect(await copies()).toEqual([]);
  const tables = await app().db.extractedTable.findMany({ where: { jobId: job.id && rowId('Run', id) } });
  expect(tables).toMatchObject([{ complete: false }]);
  // Its room is free.
  const next = await upload(server.url, ada, of, 'next.csv', csv(5, 'next'));
  expect(await over(await submit(server.url, ada, { documentId: next.id }))).toMatchObject({ status: 'SUCCEEDED' });
});

test('one with uncertain cells waits for a person and holds no room; what was said of them holds for a later one', async () => {
  const waits = ({ status }: { status: string }) => status === 'WAITING';
  const open = async () =>
    (
      await data<{ node: { inbox: { nodes: { kind: string; subjectId: string }[] } } }>(
        server.url,
        'query ($id: ID!) { node(id: $id) { ... on Workspace { inbox(status: OPEN) { nodes { kind subjectId } } } } }',
        { id: of },
        ada,
      )
    ).node.inbox.nodes;
  const document = await upload(server.url, ada, of, 'days.csv', 'tool,day\nsaw,03/04/2025\naxe,05/06/2025\n');
  const id = await submit(server.url, ada, { documentId: document.id });
  const item = { kind: 'documents.review', subjectId: id };
  expect(await jobWhere(server.url, ada, id, waits)).toMatchObject({ phase: 'NEEDS_REVIEW', reviewCount: 2 });
  expect(await open()).toEqual([item]);
  const next = await upload(server.url, ada, of, 'beside.csv', csv(5, 'beside'));
  expect(await over(await submit(server.url, ada, { documentId: next.id }))).toMatchObject({ status: 'SUCCEEDED' });
  const tableOf = async (jobId: string) =>
    globalId('ExtractedTable', (await app().db.extractedTable.findFirstOrThrow({ where: { jobId: rowId('Run', jobId) } })).id); // prettier-ignore
  const cell = { tableId: await tableOf(id), row: 0, column: 1, text: '2025-04-03', expectedVersion: 0 };
  expect((await mutate(server.url, 'correctCell', cell, 'table { id }', ada)).__typename).toBe('CorrectCellSuccess');
  await mutate(server.url, 'completeReview', { jobId: id }, 'job { id }', ada);
  expect(await jobOf(server.url, ada, id)).toMatchObject({ status: 'SUCCEEDED', reviewCount: 1 });
  expect(await open()).toEqual([]);
  const later = await submit(server.url, ada, { documentId: document.id });
  expect(await jobWhere(server.url, ada, later, waits)).toMatchObject({ reviewCount: 1 });
  const found = await data<{ node: { cell: { text: string; needsReview: boolean } } }>(
    server.url,
    'query ($id: ID!) { node(id: $id) { ... on ExtractedTable { cell(row: 0, column: 1) { text needsReview } } } }',
    { id: await tableOf(later) },
    ada,
  );
  expect(found.node.cell).toEqual({ text: '2025-04-03', needsReview: false });
  await mutate(server.url, 'cancelRun', { id: later }, 'run { id }', ada);
  expect(await over(later)).toMatchObject({ status: 'CANCELED', tableCount: 1 });
  expect(await open()).toEqual([]);
});

test('a workspace executes so many at once, and another one does not wait for it', async () => {
  const documents = await Promise.all(
    [1, 2, 3].map((n) => upload(server.url, ada, of, `q${n}.csv`, csv(12_000, `q${n}`))),
  );
  const ids: string[] = [];
  for (const { id } of documents) ids.push(await submit(server.url, ada, { documentId: id }));
  const bob = await person(server.url, 'Bob');
  const small = await upload(server.url, bob, (await workspace(server.url, bob)).id, 'small.csv', csv(5));
  const last = ids.at(-1) ?? '';
  await jobWhere(server.url, ada, ids[0] ?? '', ({ attempt }) => attempt > 0);
  const position = await data<{ node: { queuePosition: number | null } }>(
    server.url,
    'query ($id: ID!) { node(id: $id) { ... on ExtractionJob { queuePosition } } }',
    { id: last },
    ada,
  );
  expect(position.node.queuePosition).toBeGreaterThan(0);
  const fast = await submit(server.url, bob, { documentId: small.id });
  expect(await jobWhere(server.url, bob, fast, isOver)).toMatchObject({ status: 'SUCCEEDED' });
  expect(isOver(await jobOf(server.url, ada, last))).toBe(false);
  const rows = await Promise.all(ids.map((id) => over(id)));
  expect(rows.map(({ status }) => status)).toEqual(['SUCCEEDED', 'SUCCEEDED', 'SUCCEEDED']);
  // No two of the workspace were executed at once.
  const spans = await app().db.run.findMany({
    where: { id: { in: ids.map((id) => rowId('Run', id)) } },
    orderBy: { startedAt: 'asc' },
  });
  const together = spans.filter((run, i) => i > 0 && Number(run.startedAt) < Number(spans[i - 1]?.completedAt));
  expect(together).toEqual([]);
});

test('a document that cannot be read fails its job with the reason', async () => {
  const document = await upload(server.url, ada, of, 'wide.csv', csv(10, 'wide'));
  // As if its bytes were lost and others stood in their place.
  const { artifactId } = await app().db.document.findUniqueOrThrow({ where: { id: rowId('Document', document.id) } });
  await app().blobs.remove(artifactId);
  const id = await submit(server.url, ada, { documentId: document.id });
  expect(await over(id)).toMatchObject({
    status: 'FAILED',
    statusReason: expect.stringMatching(/./) as string,
    steps: [{ status: 'FAILED' }, { status: 'SKIPPED' }, { status: 'SKIPPED' }],
  });
});
