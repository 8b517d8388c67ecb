import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
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
