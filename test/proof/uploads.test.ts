import { createHash } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { request } from 'node:http';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDiskBlobStore } from '#kernel/storage/disk.ts';
import { person, workspace, type Person } from '../support/actors.ts';
import { data } from '../support/client.ts';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/embedded.ts';
import { random } from '../support/random.ts';
import { environment, spawnServer, testFolder, type ServerProcess } from '../support/server.ts';

const partSizeBytes = 8 * 1024 * 1024;
const bytes = Buffer.alloc(16 * partSizeBytes + 1, 'a file that is large enough to be killed in the middle of it ');
const sha256 = createHash('sha256').update(bytes).digest('hex');

let folder: string;
let database: TestDatabase;
let env: Record<string, string>;
let client: pg.Client;
let server: ServerProcess;
let owner: Person;
let place: { id: string };

beforeAll(async () => {
  folder = await testFolder();
  await mkdir(path.join(folder, 'shared'), { mode: 0o711 });
  database = await testDatabase();
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  env = environment(folder, database.url, { SWITCHYARD_ROLES: 'api', SESSION_SECRET: 's'.repeat(40) });
  server = await spawnServer(env);
  owner = await person(server.url);
  place = await workspace(server.url, owner);
});
afterAll(async () => {
  await server?.kill('SIGKILL');
  await client?.end();
  await database?.drop();
  await rm(folder, { recursive: true, force: true });
});

interface Answer {
  __typename: string;
  artifact: { id: string; status: string; upload: { receivedParts: number[] } | null; download: { url: string } };
  parts: { number: number; sizeBytes: number; upload: { url: string } }[];
}
const ask = async (verb: string, type: string, input: object): Promise<Answer> => {
  const wanted = { CreateUpload: 'artifact { id }', UploadParts: 'parts { number sizeBytes upload { url } }', CompleteUpload: 'artifact { status download { url } }' }[type]; // prettier-ignore
  const document = `mutation ($input: ${type}Input!) { ${verb}(input: $input) { __typename ... on ${type}Success { ${wanted} } ... on Error { code message } } }`;
  const answer = await data<Record<string, Answer>>(server.url, document, { input }, owner);
  return answer[verb] as Answer;
};
const bytesOf = ({ number, sizeBytes }: { number: number; sizeBytes: number }): Buffer =>
  bytes.subarray((number - 1) * partSizeBytes, (number - 1) * partSizeBytes + sizeBytes);

test('a server that is killed while parts arrive and while they are put together loses none, and leaves nothing', async () => {
  const rnd = random(20_261_121);
  const { artifact } = await ask('createUpload', 'CreateUpload', { workspaceId: place.id, name: 'large', contentType: 'application/octet-stream', sizeBytes: bytes.length, sha256, partSizeBytes }); // prettier-ignore
  const received = async (): Promise<number[]> => {
    const { node } = await data<{ node: Answer['artifact'] }>(
      server.url,
      `query ($id: ID!) { node(id: $id) { ... on Artifact { upload { receivedParts } } } }`,
      { id: artifact.id },
      owner,
    );
    return node.upload?.receivedParts ?? [];
  };
  const again = async (): Promise<void> => {
    await server.kill('SIGKILL');
    server = await spawnServer(env);
  };

  // Each time some parts are taken, and one is half there.
  const taken = new Set<number>();
  for (let kills = 0; kills < 3; kills++) {
    const { parts } = await ask('uploadParts', 'UploadParts', { artifactId: artifact.id });
    const left = parts.filter(({ number }) => !taken.has(number));
    for (const part of left.slice(0, 4)) {
      const answer = await fetch(part.upload.url, { method: 'PUT', body: new Uint8Array(bytesOf(part)) });
      expect(answer.status).toBe(201);
      taken.add(part.number);
    }
    const half = left[4];
    if (!half) throw new Error('no part is left');
    const broken = request(half.upload.url, { method: 'PUT', headers: { 'content-length': half.sizeBytes } });
    broken.on('error', () => undefined);
    broken.write(bytesOf(half).subarray(0, Math.floor(half.sizeBytes * rnd())));
    await until('the server takes it', async () => broken.writableLength === 0);
    await again();
    expect(await received()).toEqual([...taken].toSorted((a, b) => a - b));
  }
  const { parts } = await ask('uploadParts', 'UploadParts', { artifactId: artifact.id });
  for (const part of parts.filter(({ number }) => !taken.has(number)))
    expect((await fetch(part.upload.url, { method: 'PUT', body: new Uint8Array(bytesOf(part)) })).status).toBe(201);

  for (let kills = 0; kills < 3; kills++) {
    const completing = ask('completeUpload', 'CompleteUpload', { artifactId: artifact.id }).catch(() => undefined);
    await setTimeout(Math.floor(rnd() * 150));
    await again();
    await completing;
    // What a minute does.
    await client.query(
      `update artifact set completing_until = now() - interval '1 second' where completing_until is not null`,
    );
  }
  const done = await ask('completeUpload', 'CompleteUpload', { artifactId: artifact.id });
  expect(done.artifact.status).toBe('READY');
  const hash = createHash('sha256');
  const download = await fetch(done.artifact.download.url);
  for await (const chunk of download.body ?? []) hash.update(chunk);
  expect(hash.digest('hex')).toBe(sha256);

  // The clean-up of a day later; blobs of parts whose rows went before they did are removed as orphans.
  const store = await createDiskBlobStore(env['SWITCHYARD_STATE_DIR'] ?? '');
  const tomorrow = new Date(Date.now() + 60_000);
  expect(await store.sweep(tomorrow)).toBeGreaterThan(0);
  expect(await readdir(path.join(env['SWITCHYARD_STATE_DIR'] ?? '', 'blobs', 'incoming'))).toEqual([]);
  const known = new Set<string>();
  for (const { id } of (await client.query<{ id: string }>(`select id from artifact`)).rows) known.add(id);
  const orphans: string[] = [];
  for await (const { key } of store.list(tomorrow)) if (!known.has(key)) orphans.push(key);
  expect((await client.query(`select 1 from artifact_part`)).rows).toEqual([]);
  expect(orphans.length).toBeLessThanOrEqual(17);
});
