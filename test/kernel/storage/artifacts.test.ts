import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { NotFound } from '#kernel/errors.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { Artifacts } from '#kernel/storage/artifacts.ts';
import { FileDamaged } from '#kernel/storage/verify.ts';
import { member, person, workspace, type Person } from '../../support/actors.ts';
import { collect, data, send, socket } from '../../support/client.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
let owner: Person;
let place: { id: string; cursor: string };

beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_MAX_UPLOAD_BYTES: '100000' });
  owner = await person(server.url);
  place = await workspace(server.url, owner);
});
afterAll(() => server.stop());

const createUpload = `mutation ($input: CreateUploadInput!) { createUpload(input: $input) { __typename
  ... on CreateUploadSuccess { artifact { id status download { url } } upload { url method expiresAt } }
  ... on ValidationError { issues { path } } ... on Error { code } } }`;

interface Upload {
  createUpload: {
    __typename: string;
    code?: string;
    issues?: { path: string }[];
    artifact: { id: string; status: string; download: { url: string } | null };
    upload: { url: string; method: string };
  };
}

const bytes = Buffer.from('name,price\nbolt,3\n'.repeat(100));
const sha256 = createHash('sha256').update(bytes).digest('hex');
const input = () => ({
  workspaceId: place.id,
  name: 'prices.csv',
  contentType: 'text/csv',
  sizeBytes: bytes.length,
  sha256,
});

const put = (url: string, body: Buffer) =>
  fetch(url, { method: 'PUT', body: new Uint8Array(body), headers: { 'content-type': 'text/csv' } });

test('a file is announced, uploaded, told of by an event, and downloaded', async () => {
  const { createUpload: made } = await data<Upload>(server.url, createUpload, { input: input() }, owner);
  expect(made.artifact).toMatchObject({ status: 'PENDING', download: null });
  const client = socket(server.url, owner);
  const told = collect<{ workspaceEvents: { type?: string; subjectId?: string } }>(
    client,
    `subscription ($id: ID!, $after: String) { workspaceEvents(workspaceId: $id, after: $after) { ... on Event { type subjectId } } }`,
    { id: place.id, after: place.cursor },
    ({ workspaceEvents }) =>
      workspaceEvents.type === 'artifact.ready' && workspaceEvents.subjectId === made.artifact.id,
  );
  expect((await put(made.upload.url, bytes)).status).toBe(201);
  await told;
  await client.dispose();
  const { node } = await data<{ node: { status: string; download: { url: string } } }>(
    server.url,
    `query ($id: ID!) { node(id: $id) { ... on Artifact { status download { url } } } }`,
    { id: made.artifact.id },
    owner,
  );
  expect(node.status).toBe('READY');
  const download = await fetch(node.download.url);
  expect(Buffer.from(await download.arrayBuffer())).toEqual(bytes);
  expect(download.headers.get('content-disposition')).toContain('attachment');
  expect((await put(made.upload.url, bytes)).status).toBe(409);
});

test('a file that has arrived stays when a part of it cannot be removed, which the clean-up does later', async () => {
  const app = server.running.app;
  const { createUpload: made } = await data<Upload>(server.url, createUpload, { input: input() }, owner);
  const artifactId = rowId('Artifact', made.artifact.id);
  const key = newId();
  await app.blobs.put(key, Readable.from([bytes]), { maxBytes: bytes.length });
  await app.db.artifactPart.create({ data: { artifactId, number: 1, key, sizeBytes: bytes.length, sha256 } });
  const away = vi.spyOn(app.blobs, 'remove').mockRejectedValueOnce(new Error('away'));
  try {
    expect((await put(made.upload.url, bytes)).status).toBe(201);
  } finally {
    away.mockRestore();
  }
  expect(await app.db.artifact.findUniqueOrThrow({ where: { id: artifactId } })).toMatchObject({ status: 'READY' });
  expect(await app.blobs.stat(artifactId)).toMatchObject({ sizeBytes: bytes.length });
  // As if the server had died before it forgot the part.
  await app.db.artifactPart.create({ data: { artifactId, number: 1, key, sizeBytes: bytes.length, sha256 } });
  await app.use(Artifacts).expire(new Date(Date.now() + 1000), AbortSignal.timeout(60_000));
  expect(await app.blobs.stat(key)).toBeNull();
  expect(await app.blobs.stat(artifactId)).not.toBeNull();
});

test('other bytes than those announced are refused, and the right ones can be sent afterwards', async () => {
  const { createUpload: made } = await data<Upload>(server.url, createUpload, { input: input() }, owner);
  const wrong = Buffer.from(bytes);
  wrong[0] = 0;
  expect((await put(made.upload.url, wrong)).status).toBe(422);
  const forged = new URL(made.upload.url);
  const [name, value] = [...forged.searchParams].at(-1) ?? ['', ''];
  forged.searchParams.set(name, value.startsWith('A') ? `B${value.slice(1)}` : `A${value.slice(1)}`);
  expect((await put(forged.href, bytes)).status).toBe(403);
  expect((await put(made.upload.url, bytes)).status).toBe(201);
});

test('what is too large, malformed, or not for this role is refused with a typed error', async () => {
  const wrong = { ...input(), sizeBytes: 100_001, sha256: 'zz', contentType: 'no type' };
  const { createUpload: refused } = await data<Upload>(server.url, createUpload, { input: wrong }, owner);
  expect(refused.__typename).toBe('ValidationError');
  expect(refused.issues?.map(({ path }) => path).toSorted()).toEqual(['contentType', 'sha256', 'sizeBytes']);
  const viewer = await member(server.url, owner, place.id, 'VIEWER');
  const { createUpload: forbidden } = await data<Upload>(server.url, createUpload, { input: input() }, viewer);
  expect(forbidden.__typename).toBe('Forbidden');
  const stranger = await person(server.url, 'Eve');
  const { createUpload: unknown } = await data<Upload>(server.url, createUpload, { input: input() }, stranger);
  expect(unknown.__typename).toBe('NotFound');
  const answer = await send<Upload>(server.url, createUpload, { input: input() });
  expect([answer.status, answer.data, answer.errors?.[0]?.extensions?.['code']]).toEqual([
    401,
    null,
    'UNAUTHENTICATED',
  ]);
});

describe('what a worker reads', () => {
  const app = () => server.running.app;
  const files = () => app().use(Artifacts);
  const uploaded = async () => {
    const { createUpload: made } = await data<Upload>(server.url, createUpload, { input: input() }, owner);
    expect((await put(made.upload.url, bytes)).status).toBe(201);
    return { workspaceId: rowId('Workspace', place.id), id: rowId('Artifact', made.artifact.id) };
  };
  /** Other bytes in the store than those that were verified. */
  const exchange = async (id: string, by: Buffer) => {
    await app().blobs.remove(id);
    await app().blobs.put(id, Readable.from([by]), { maxBytes: 1e6 });
  };

  test('is what was uploaded, as a stream and as a file', async () => {
    const file = await uploaded();
    const { stream, ...told } = await files().open(file);
    expect(await buffer(stream)).toEqual(bytes);
    expect(told).toEqual({ name: 'prices.csv', contentType: 'text/csv', sizeBytes: bytes.length, sha256 });
    const folder = path.join(server.stateDir, 'work');
    for (const _ of ['once', 'again']) {
      const copy = await files().materialise(file, folder);
      expect(await readFile(copy.path)).toEqual(bytes);
      expect((await stat(copy.path)).mode & 0o777).toBe(0o600);
      expect(await readdir(folder)).toEqual([file.id]);
    }
  });

  test('is not what belongs to another workspace, or has not arrived', async () => {
    const file = await uploaded();
    await expect(files().open({ ...file, workspaceId: newId() })).rejects.toThrow(NotFound);
    const { createUpload: made } = await data<Upload>(server.url, createUpload, { input: input() }, owner);
    await expect(files().open({ ...file, id: rowId('Artifact', made.artifact.id) })).rejects.toThrow(NotFound);
  });

  test('fails when the bytes were lost or altered, and leaves no file', async () => {
    const file = await uploaded();
    const folder = path.join(server.stateDir, 'damaged');
    const altered = Buffer.from(bytes);
    altered[100] = 0;
    for (const wrong of [altered, bytes.subarray(1), Buffer.concat([bytes, bytes])]) {
      await exchange(file.id, wrong);
      const { stream } = await files().open(file);
      await expect(buffer(stream)).rejects.toThrow(FileDamaged);
      await expect(files().materialise(file, folder)).rejects.toThrow(FileDamaged);
      expect(await readdir(folder)).toEqual([]);
    }
    await app().blobs.remove(file.id);
    await expect(files().open(file)).rejects.toThrow(FileDamaged);
  });

  test('stops when it is told to', async () => {
    const file = await uploaded();
    const folder = path.join(server.stateDir, 'stopped');
    const reason = new Error('the worker stops');
    await expect(files().materialise(file, folder, AbortSignal.abort(reason))).rejects.toBe(reason);
    expect(await readdir(folder)).toEqual([]);
  });
});
