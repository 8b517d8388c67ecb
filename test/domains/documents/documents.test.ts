import { readdir } from 'node:fs/promises';
import path from 'node:path';
import XLSX from '@e965/xlsx';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { globalId, rowId } from '../../../src/kernel/graphql/global-id.ts';
import { person, member, workspace, type Person } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { cleanUp } from '../../../src/kernel/maintenance.ts';
import { maintainDocuments } from '../../../src/domains/documents/service/maintenance.ts';
import { csv, isOver, jobWhere, livenessMs, mutate, put, register, sha256, submit, upload } from './harness.ts';

let server: TestServer;
let ada: Person;
let of: string;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_MAX_DOCUMENT_BYTES: '5000000' });
  ada = await person(server.url);
  of = (await workspace(server.url, ada)).id;
});
afterAll(() => server.stop());

const app = () => server.running.app;
const documentsOf = async (workspaceId = of, args = '') =>
  (
    await data<{ node: { documents: { totalCount: number; nodes: { id: string; name: string }[] } } }>(
      server.url,
      `query ($id: ID!) { node(id: $id) { ... on Workspace { documents${args} { totalCount nodes { id name } } } } }`,
      { id: workspaceId },
      ada,
    )
  ).node.documents;
const copies = () => readdir(path.join(server.stateDir, 'documents'), { recursive: true });

test('a file is uploaded, registered for what it is, and its bytes come back', async () => {
  const bytes = csv(20);
  const artifactId = await put(server.url, ada, of, { name: 'figures.csv', bytes, contentType: 'text/csv' });
  const answer = await register(server.url, ada, artifactId);
  expect(answer).toMatchObject({
    __typename: 'UploadDocumentSuccess',
    document: {
      name: 'figures.csv',
      format: 'CSV',
      status: 'AVAILABLE',
      problem: null,
      sizeBytes: bytes.length,
      sha256: sha256(bytes),
    },
  });
  expect(answer.eventCursor).toEqual(expect.any(String));
  // The same upload again is the same document.
  expect(await register(server.url, ada, artifactId)).toMatchObject({
    document: { id: answer.document.id },
    eventCursor: null,
  });

  const { node } = await data<{
    node: { download: { url: string }; createdBy: { id: string }; events: { nodes: { type: string; data: object }[] } };
  }>(
    server.url,
    `query ($id: ID!) { node(id: $id) { ... on Document { download { url } createdBy { id } events { nodes { type data } } } } }`,
    { id: answer.document.id },
    ada,
  );
  const response = await fetch(node.download.url);
  expect(await response.text()).toBe(bytes);
  expect(response.headers.get('content-disposition')).toContain('attachment');
  expect(node.createdBy.id).toBe(ada.id);
  expect(node.events.nodes).toEqual([
    { type: 'document.uploaded', data: { sha256: sha256(bytes), format: 'CSV', sizeBytes: bytes.length } },
  ]);
  // No copy is left in any of the folders of this process.
  expect((await copies()).filter((name) => name.includes(rowId('Artifact', artifactId)))).toEqual([]);
});

test('bytes that are there already are told, unless another document of them is wanted', async () => {
  const first = await upload(server.url, ada, of, 'a.csv', csv(3, 'twice'));
  const again = await put(server.url, ada, of, { name: 'b.csv', bytes: csv(3, 'twice') });
  expect(await register(server.url, ada, again)).toMatchObject({
    __typename: 'DuplicateDocument',
    code: 'DUPLICATE_DOCUMENT',
    duplicateOf: { id: first.id },
  });
  expect(await register(server.url, ada, again, { allowDuplicate: true })).toMatchObject({
    document: { name: 'b.csv' },
  });
  // Another workspace does not learn of it.
  const bob = await person(server.url, 'Bob');
  const { id } = await workspace(server.url, bob);
  expect((await upload(server.url, bob, id, 'a.csv', csv(3, 'twice'))).status).toBe('AVAILABLE');
  // Of two at once one is the duplicate.
  const both = await Promise.all(['x', 'y'].map((name) => put(server.url, ada, of, { name, bytes: csv(4, 'race') })));
  const answers = await Promise.all(both.map((one) => register(server.url, ada, one)));
  expect(answers.map((one) => one.__typename).toSorted()).toEqual(['DuplicateDocument', 'UploadDocumentSuccess']);
});

describe('what a file claims to be', () => {
  test.for([
    ['CSV named PDF', 'report.pdf', csv(5, 'pdf'), undefined],
    ['CSV announced as PDF', 'report', csv(5, 'type'), 'application/pdf'],
    ['a picture named CSV', 'figures.csv', Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex'), undefined],
    ['HTML named XLS', 'figures.xls', '<html><body><table><tr><td>1</td></tr></table></body></html>', undefined],
  ] as const)('%s goes into quarantine', async ([, name, bytes, type]) => {
    const document = await upload(server.url, ada, of, name, bytes, type);
    expect(document).toMatchObject({ status: 'QUARANTINED', problem: 'DOCUMENT_MISLABELED' });
    expect(
      await mutate(server.url, 'submitExtractionJob', { documentId: document.id }, 'job { id }', ada),
    ).toMatchObject({
      __typename: 'DocumentQuarantined',
      problem: 'DOCUMENT_MISLABELED',
    });
    expect(await mutate(server.url, 'previewExtraction', { documentId: document.id }, 'truncated', ada)).toMatchObject({
      __typename: 'DocumentQuarantined',
    });
    const { node } = await data<{
      node: { problemMessage: string; download: null; events: { nodes: { type: string }[] } };
    }>(
      server.url,
      'query ($id: ID!) { node(id: $id) { ... on Document { problemMessage download { url } events { nodes { type } } } } }',
      { id: document.id },
      ada,
    );
    expect(node).toEqual({
      problemMessage: 'Its bytes are something else than its name or its media type says.',
      download: null,
      events: { nodes: [{ type: 'document.uploaded' }, { type: 'document.quarantined' }] },
    });
    // Nor by way of its file.
    const { artifactId } = await app().db.document.findUniqueOrThrow({ where: { id: rowId('Document', document.id) } });
    const file = 'query ($id: ID!) { node(id: $id) { ... on Artifact { status download { url } } } }';
    expect(await data(server.url, file, { id: globalId('Artifact', artifactId) }, ada)).toEqual({
      node: { status: 'READY', download: null },
    });
    expect(await mutate(server.url, 'deleteDocument', { id: document.id }, 'documentId', ada)).toMatchObject({
      documentId: document.id,
    });
  });
  test('what is empty or damaged is told as that, whatever its name', async () => {
    const book = XLSX.utils.book_new();
    XLSX.utils.book_append_sheet(book, XLSX.utils.aoa_to_sheet([['a', 1]]));
    const bytes = (XLSX.write(book, { type: 'buffer', bookType: 'xlsx' }) as Buffer).subarray(0, -40);
    for (const [name, data] of [
      ['cut.xlsx', bytes],
      ['blank.csv', '\n \n'],
    ] as const)
      expect(await upload(server.url, ada, of, name, data)).toMatchObject({
        status: 'QUARANTINED',
        problem: 'DOCUMENT_MALFORMED',
      });
  });
  test('Excel is what browsers on Windows announce CSV as', async () => {
    expect(await upload(server.url, ada, of, 'a.csv', csv(6, 'ms'), 'application/vnd.ms-excel')).toMatchObject({
      status: 'AVAILABLE',
      format: 'CSV',
    });
  });
  test('a tab-separated file may be named CSV', async () => {
    expect(await upload(server.url, ada, of, 'tabs.csv', 'a\tb\n1\t2\n3\t4\n')).toMatchObject({ status: 'AVAILABLE' });
  });
  test('what is no document and says so is refused', async () => {
    const artifactId = await put(server.url, ada, of, {
      name: 'a.png',
      bytes: Buffer.from('89504e470d0a1a0a0000000d4948445201', 'hex'),
    });
    expect(await register(server.url, ada, artifactId)).toMatchObject({ __typename: 'DocumentUnsupported' });
  });
  test('a file with a password is refused', async () => {
    // A workbook with a password is a compound file that has this part. @see [MS-OFFCRYPTO]
    const container = XLSX.CFB.utils.cfb_new();
    for (const part of ['EncryptionInfo', 'EncryptedPackage'])
      XLSX.CFB.utils.cfb_add(container, `/${part}`, Buffer.alloc(5000, 1));
    const bytes = XLSX.CFB.write(container, { type: 'buffer' }) as Buffer;
    const artifactId = await put(server.url, ada, of, { name: 'secret.xlsx', bytes });
    expect(await register(server.url, ada, artifactId)).toMatchObject({
      __typename: 'DocumentEncrypted',
      code: 'DOCUMENT_ENCRYPTED',
    });
  });
});

test('a file is registered when its bytes have arrived, by who may, and only as large as is read', async () => {
  const announced = await put(server.url, ada, of, { name: 'a.csv', bytes: csv(7) }, true);
  expect(await register(server.url, ada, announced)).toMatchObject({ __typename: 'UploadNotReady' });
  const viewer = await member(server.url, ada, of, 'VIEWER');
  const ready = await put(server.url, ada, of, { name: 'a.csv', bytes: csv(8) });
  expect(await register(server.url, viewer, ready)).toMatchObject({ __typename: 'Forbidden' });
  const stranger = await person(server.url, 'Eve');
  expect(await register(server.url, stranger, ready)).toMatchObject({ __typename: 'NotFound' });
  const large = await put(server.url, ada, of, { name: 'a.csv', bytes: Buffer.alloc(5_000_001, 'a,b\n') });
  expect(await register(server.url, ada, large)).toMatchObject({
    __typename: 'DocumentBeyondLimits',
    bound: 'maxBytes',
    most: 5_000_000,
  });
  // Nothing of it was registered.
  expect(
    await app().db.document.count({
      where: { artifactId: { in: [announced, ready, large].map((id) => rowId('Artifact', id)) } },
    }),
  ).toBe(0);
});

test('documents are found by name, status and format', async () => {
  const { id } = await workspace(server.url, ada);
  for (const name of ['100%.csv', '100 apples.csv', 'Pears.CSV']) await upload(server.url, ada, id, name, csv(3, name));
  await upload(server.url, ada, id, 'false.pdf', csv(3, 'false'));
  const names = async (args: string) => (await documentsOf(id, args)).nodes.map(({ name }) => name);
  expect(await names('')).toEqual(['false.pdf', 'Pears.CSV', '100 apples.csv', '100%.csv']);
  expect(await names('(filter: { name: "pear" })')).toEqual(['Pears.CSV']);
  expect(await names('(filter: { name: "0%" })')).toEqual(['100%.csv']);
  expect(await names('(filter: { status: QUARANTINED })')).toEqual(['false.pdf']);
  expect(await names('(filter: { status: AVAILABLE, format: CSV, source: UPLOAD }, first: 1)')).toEqual(['Pears.CSV']);
  expect(await names('(filter: { source: EXPORT })')).toEqual([]);
});

test('a document is deleted with its bytes, jobs and tables', async () => {
  const document = await upload(server.url, ada, of, 'gone.csv', csv(50, 'gone'));
  const id = rowId('Document', document.id);
  const job = await submit(server.url, ada, { documentId: document.id });
  await jobWhere(server.url, ada, job, isOver);
  const { artifactId } = await app().db.document.findUniqueOrThrow({ where: { id } });
  expect(await app().blobs.stat(artifactId)).not.toBeNull();
  const viewer = await member(server.url, ada, of, 'VIEWER');
  expect(await mutate(server.url, 'deleteDocument', { id: document.id }, 'documentId', viewer)).toMatchObject({
    __typename: 'Forbidden',
  });

  const answer = await mutate(server.url, 'deleteDocument', { id: document.id }, 'documentId eventCursor', ada);
  expect(answer).toMatchObject({ documentId: document.id, eventCursor: expect.any(String) as string });
  expect((await documentsOf()).nodes.map((one) => one.id)).not.toContain(document.id);
  // While it is being removed it takes no jobs; a second deletion is no error.
  const again = await mutate(server.url, 'deleteDocument', { id: document.id }, 'documentId eventCursor', ada);
  expect(['DeleteDocumentSuccess', 'NotFound']).toContain(again.__typename);
  expect(await mutate(server.url, 'submitExtractionJob', { documentId: document.id }, 'job { id }', ada)).toMatchObject(
    { __typename: 'NotFound' },
  );
  await until('it is gone', async () => (await app().db.document.count({ where: { id } })) === 0, livenessMs);
  expect(await app().blobs.stat(artifactId)).toBeNull();
  expect(await app().db.artifact.count({ where: { id: artifactId } })).toBe(0);
  expect(await app().db.run.count({ where: { id: rowId('Run', job) } })).toBe(0);
  expect(await app().db.extractedTable.count({ where: { documentId: id } })).toBe(0);
  const told = await app().db.event.findFirstOrThrow({ where: { subjectId: id, type: 'document.deleted' } });
  expect(told.data).toEqual({ jobs: 1, files: 1 });
});

test('with a document goes what was exported of it, and what was extracted of that', async () => {
  const { id } = await workspace(server.url, ada);
  const workspaceId = rowId('Workspace', id);
  const origin = await upload(server.url, ada, id, 'origin.csv', csv(5, 'origin'));
  const extracted = async (documentId: string) => {
    const job = await submit(server.url, ada, { documentId });
    await jobWhere(server.url, ada, job, isOver);
    return job;
  };
  const jobId = await extracted(origin.id);
  await mutate(server.url, 'exportTables', { jobId, format: 'XLSX' }, 'export { id }', ada);
  const where = { workspaceId, source: 'EXPORT' } as const;
  await until('it is exported', async () => (await app().db.document.count({ where })) > 0, livenessMs);
  const made = await app().db.document.findFirstOrThrow({ where });
  await extracted(globalId('Document', made.id));
  expect(await app().db.run.count({ where: { workspaceId } })).toBe(3);
  await mutate(server.url, 'deleteDocument', { id: origin.id }, 'documentId', ada);
  await until('all is gone', async () => (await app().db.document.count({ where: { workspaceId } })) === 0, livenessMs);
  // No run is left without what it was about.
  expect(await app().db.run.count({ where: { workspaceId } })).toBe(0);
  expect(await app().db.artifact.count({ where: { workspaceId } })).toBe(0);
  const told = await app().db.event.findMany({ where: { workspaceId, type: 'document.deleted' } });
  expect(told.map(({ subjectId }) => subjectId).toSorted()).toEqual([made.id, rowId('Document', origin.id)].toSorted());
});

test('a workspace keeps its documents as long as an administrator says', async () => {
  const { id } = await workspace(server.url, ada);
  const member1 = await member(server.url, ada, id, 'MEMBER');
  const set = (days: number | null, who: Person = ada) =>
    mutate(
      server.url,
      'setDocumentRetention',
      { workspaceId: id, days },
      'workspace { documentRetentionDays } eventCursor',
      who,
    );
  expect(await set(30, member1)).toMatchObject({ __typename: 'Forbidden' });
  expect(await set(0)).toMatchObject({ __typename: 'ValidationError' });
  expect(await set(30)).toMatchObject({
    workspace: { documentRetentionDays: 30 },
    eventCursor: expect.any(String) as string,
  });
  expect(await set(30)).toMatchObject({ eventCursor: null });
  const old = await upload(server.url, ada, id, 'old.csv', csv(3, 'old'));
  const young = await upload(server.url, ada, id, 'young.csv', csv(3, 'young'));
  const before = new Date(Date.now() - 31 * 24 * 3600 * 1000);
  await app().db.document.update({ where: { id: rowId('Document', old.id) }, data: { createdAt: before } });
  await maintainDocuments.handle({}, { app: app(), signal: AbortSignal.timeout(livenessMs), attempt: 1 });
  expect((await documentsOf(id)).nodes.map((one) => one.id)).toEqual([young.id]);
  await until(
    'it is gone',
    async () => (await app().db.document.count({ where: { id: rowId('Document', old.id) } })) === 0,
    livenessMs,
  );
  const workspaceId = rowId('Workspace', id);
  expect(
    await app().db.event.findFirstOrThrow({ where: { workspaceId, type: 'workspace.documentsExpired' } }),
  ).toMatchObject({
    data: { documents: 1, days: 30 },
    actorKind: 'SYSTEM',
  });
  expect(await set(null)).toMatchObject({ workspace: { documentRetentionDays: null } });
});

test('an upload that nobody registers is removed after a day, and one that is a document stays', async () => {
  const { id } = await workspace(server.url, ada);
  const document = await upload(server.url, ada, id, 'used.csv', csv(3, 'used'));
  const forgotten = rowId(
    'Artifact',
    await put(server.url, ada, id, { name: 'forgotten.csv', bytes: csv(3, 'forgotten') }),
  );
  const young = rowId('Artifact', await put(server.url, ada, id, { name: 'young.csv', bytes: csv(3, 'young') }));
  const createdAt = new Date(Date.now() - 25 * 3600 * 1000);
  const workspaceId = rowId('Workspace', id);
  await app().db.artifact.updateMany({ where: { workspaceId, id: { not: young } }, data: { createdAt } });
  await cleanUp.handle({}, { app: app(), signal: AbortSignal.timeout(livenessMs), attempt: 1 });
  const left = await app().db.artifact.findMany({ where: { workspaceId }, include: { document: true } });
  expect(left.map((one) => one.document?.id ?? one.id).toSorted()).toEqual(
    [rowId('Document', document.id), young].toSorted(),
  );
  expect(await app().blobs.stat(forgotten)).toBeNull();
  // The workspace is told.
  const told = await app().db.event.findMany({ where: { workspaceId, type: 'artifact.expired' } });
  expect(told).toMatchObject([{ subjectId: forgotten, data: { reason: 'NOT_USED' }, actorKind: 'SYSTEM' }]);
});
