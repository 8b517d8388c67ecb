import { createHash, randomBytes } from 'node:crypto';
import { request } from 'node:http';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { jobTypes } from '#kernel/jobs/define.ts';
import { Artifacts, uploadLifeMs } from '#kernel/storage/artifacts.ts';
import { removeOrphans } from '#kernel/storage/orphans.ts';
import { workspaceCleanups } from '#kernel/workspace-cleanup.ts';
import { member, person, workspace, type Person } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startMeddler, startS3rver, credentials, refuse, type Meddler, type TestS3 } from '../../support/s3.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

const partSizeBytes = 65_536;
const bytes = randomBytes(4 * partSizeBytes + 5);
const sha256Of = (of: Buffer): string => createHash('sha256').update(of).digest('hex');

const errors = `... on ValidationError { issues { path message } } ... on UploadQuotaExceeded { quota limit }
  ... on Error { code message }`;
const documents = {
  createUpload: `mutation ($input: CreateUploadInput!) { createUpload(input: $input) { __typename
    ... on CreateUploadSuccess { artifact { id upload { partCount partSizeBytes receivedParts expiresAt } } upload { url } } ${errors} } }`,
  uploadParts: `mutation ($input: UploadPartsInput!) { uploadParts(input: $input) { __typename
    ... on UploadPartsSuccess { parts { number sizeBytes upload { url method expiresAt } } }
    ... on ValidationError { issues { path message } } ... on Error { code message } } }`,
  completeUpload: `mutation ($input: CompleteUploadInput!) { completeUpload(input: $input) { __typename
    ... on CompleteUploadSuccess { artifact { id status upload { partCount } download { url } } }
    ... on UploadIncomplete { missing } ... on UploadMismatch { actual { sizeBytes sha256 } } ... on Error { code message } } }`,
  abortUpload: `mutation ($input: AbortUploadInput!) { abortUpload(input: $input) { __typename
    ... on AbortUploadSuccess { artifactId } ... on Error { code message } } }`,
};

interface Answer {
  __typename: string;
  code: string;
  issues?: { path: string }[];
  missing?: number[];
  quota?: string;
  actual?: { sha256: string };
  artifact: {
    id: string;
    status: string;
    upload: { partCount: number; partSizeBytes: number; receivedParts: number[] } | null;
    download: { url: string } | null;
  };
  upload: { url: string };
  parts: { number: number; sizeBytes: number; upload: { url: string } }[];
}

const stores = {
  disk: async () => ({ env: {}, meddler: null, stop: async () => undefined }),
  s3: async () => {
    const s3: TestS3 = await startS3rver();
    const meddler: Meddler = await startMeddler(s3.endpoint);
    return {
      env: {
        SWITCHYARD_BLOBS: 's3',
        SWITCHYARD_S3_BUCKET: s3.bucket,
        SWITCHYARD_S3_ENDPOINT: meddler.endpoint,
        SWITCHYARD_S3_PATH_STYLE: 'true',
        SWITCHYARD_S3_ACCESS_KEY_ID: credentials.accessKeyId,
        SWITCHYARD_S3_SECRET_ACCESS_KEY: credentials.secretAccessKey,
      },
      meddler,
      async stop() {
        await meddler.stop();
        await s3.stop();
      },
    };
  },
};

describe.each(Object.entries(stores))('an upload in parts, on %s', (name, startStore) => {
  let store: Awaited<ReturnType<(typeof stores)['s3' | 'disk']>>;
  let server: TestServer;
  let owner: Person;
  let place: { id: string };
  beforeAll(async () => {
    store = await startStore();
    server = await startTestServer({
      ...store.env,
      SWITCHYARD_ROLES: 'api',
      SWITCHYARD_MAX_UPLOAD_BYTES: '1000000000',
      SWITCHYARD_MAX_OPEN_UPLOADS: '6',
      SWITCHYARD_MAX_PENDING_BYTES: '2000000000',
    });
    owner = await person(server.url);
    place = await workspace(server.url, owner);
  });
  afterAll(async () => {
    await server.stop();
    await store.stop();
  });

  const app = () => server.running.app;
  const ask = async (verb: keyof typeof documents, input: object, who: Person = owner): Promise<Answer> => {
    const answer = await data<Record<string, Answer>>(server.url, documents[verb], { input }, who);
    if (!answer[verb]) throw new Error(`no answer to ${verb}`);
    return answer[verb];
  };
  const announce = (of: Buffer = bytes, extra: object = {}, workspaceId = place.id) =>
    ask('createUpload', { workspaceId, name: 'big.bin', contentType: 'application/octet-stream', sizeBytes: of.length, sha256: sha256Of(of), partSizeBytes, ...extra }); // prettier-ignore
  const begin = async () => {
    const { artifact } = await announce();
    const { parts } = await ask('uploadParts', { artifactId: artifact.id });
    return { artifactId: artifact.id, row: rowId('Artifact', artifact.id), parts };
  };
  const bytesOf = (part: { number: number; sizeBytes: number }, of = bytes): Buffer =>
    of.subarray((part.number - 1) * partSizeBytes, (part.number - 1) * partSizeBytes + part.sizeBytes);
  const put = (url: string, body: Buffer) => fetch(url, { method: 'PUT', body: new Uint8Array(body) });
  const received = async (id: string) =>
    (
      await data<{ node: Answer['artifact'] }>(
        server.url,
        `query ($id: ID!) { node(id: $id) { ... on Artifact { status upload { receivedParts } } } }`,
        { id },
        owner,
      )
    ).node;
  const stored = async (): Promise<string[]> => {
    const keys: string[] = [];
    for await (const { key } of app().blobs.list(new Date(Date.now() + 60_000))) keys.push(key);
    return keys.toSorted();
  };
  /** Nothing is stored but files, and each of them is. */
  const onlyFiles = async () => {
    const files = await app().db.artifact.findMany({ where: { status: 'READY' } });
    expect(await stored()).toEqual(files.map(({ id }) => id).toSorted());
    expect(await app().db.artifactPart.count()).toBe(0);
  };
  const abort = (artifactId: string) => ask('abortUpload', { artifactId });

  test('arrives in any order, with repeats, and is verified as a whole', async () => {
    const { artifactId, row, parts } = await begin();
    expect(parts.map(({ number, sizeBytes }) => [number, sizeBytes])).toEqual([
      [1, partSizeBytes],
      [2, partSizeBytes],
      [3, partSizeBytes],
      [4, partSizeBytes],
      [5, 5],
    ]);
    const [first, ...others] = parts.toReversed();
    if (!first) throw new Error('no parts');
    // A part that was sent wrong is sent again.
    expect((await put(first.upload.url, Buffer.alloc(5))).status).toBe(201);
    expect(await ask('completeUpload', { artifactId })).toMatchObject({
      code: 'UPLOAD_INCOMPLETE',
      missing: [1, 2, 3, 4],
    });
    await Promise.all(others.map(async (part) => expect((await put(part.upload.url, bytesOf(part))).status).toBe(201)));
    const mismatch = await ask('completeUpload', { artifactId });
    expect([mismatch.__typename, mismatch.actual?.sha256 === sha256Of(bytes)]).toEqual(['UploadMismatch', false]);
    expect(await received(artifactId)).toEqual({ status: 'PENDING', upload: { receivedParts: [1, 2, 3, 4, 5] } });
    const again = await put(first.upload.url, bytesOf(first));
    expect(await again.json()).toEqual({ sizeBytes: 5, sha256: sha256Of(bytesOf(first)) });
    expect(await stored()).toHaveLength(5);
    const { artifact } = await ask('completeUpload', { artifactId });
    expect(artifact).toMatchObject({ status: 'READY', upload: null });
    const { stream } = await app()
      .use(Artifacts)
      .open({ workspaceId: rowId('Workspace', place.id), id: row });
    expect((await buffer(stream)).equals(bytes)).toBe(true);
    const download = await fetch(artifact.download?.url ?? '');
    expect(Buffer.from(await download.arrayBuffer()).equals(bytes)).toBe(true);
    expect(download.headers.get('content-disposition')).toBe(
      `attachment; filename="big.bin"; filename*=UTF-8''big.bin`,
    );
    expect(download.redirected).toBe(store.meddler !== null);
    const range = await fetch(artifact.download?.url ?? '', { headers: { range: 'bytes=3-5' } });
    expect([range.status, Buffer.from(await range.arrayBuffer())]).toEqual([206, bytes.subarray(3, 6)]);
    await onlyFiles();
    // It is over: repeats of anything change nothing.
    expect((await ask('completeUpload', { artifactId })).__typename).toBe('CompleteUploadSuccess');
    expect((await put(first.upload.url, bytesOf(first))).status).toBe(409);
    expect((await ask('uploadParts', { artifactId })).code).toBe('CONFLICT');
    expect((await abort(artifactId)).code).toBe('CONFLICT');
    await onlyFiles();
  });

  test('goes on after a connection broke, with what is missing', async () => {
    const { artifactId, parts } = await begin();
    const [first, second] = parts;
    if (!first || !second) throw new Error('no parts');
    await put(first.upload.url, bytesOf(first));
    const broken = request(second.upload.url, { method: 'PUT', headers: { 'content-length': second.sizeBytes } });
    broken.on('error', () => undefined);
    broken.write(bytesOf(second).subarray(0, 1000));
    await until('the server reads', async () => broken.writableLength === 0);
    broken.destroy();
    expect((await received(artifactId)).upload?.receivedParts).toEqual([1]);
    const { parts: fresh } = await ask('uploadParts', { artifactId, from: 2, count: 3 });
    expect(fresh.map(({ number }) => number)).toEqual([2, 3, 4]);
    const { parts: rest } = await ask('uploadParts', { artifactId, from: 5, count: 1000 });
    for (const part of [...fresh, ...rest]) await put(part.upload.url, bytesOf(part));
    // Of those that complete it at once, one does, and the others hear so.
    const all = await Promise.all(Array.from({ length: 4 }, () => ask('completeUpload', { artifactId })));
    const names = new Set(all.map(({ __typename }) => __typename));
    expect(names.has('CompleteUploadSuccess')).toBe(true);
    names.delete('CompleteUploadSuccess');
    expect([...names].filter((name) => name !== 'Conflict')).toEqual([]);
    await until('the broken part left nothing', async () => (await app().db.artifactPart.count()) === 0);
    await onlyFiles();
  });

  test('is aborted while parts arrive, and leaves nothing', async () => {
    const { artifactId, parts } = await begin();
    const arriving = parts.map(async (part) => (await put(part.upload.url, bytesOf(part))).status);
    expect((await abort(artifactId)).__typename).toBe('AbortUploadSuccess');
    for (const status of await Promise.all(arriving)) expect([201, 404]).toContain(status);
    await onlyFiles();
    expect((await abort(artifactId)).code).toBe('NOT_FOUND');
    const [first] = parts;
    expect((await put(first?.upload.url ?? '', bytes.subarray(0, partSizeBytes))).status).toBe(404);
  });

  test('an address is good for one part of one file only', async () => {
    const one = await begin();
    const other = await begin();
    const [first, , third] = one.parts;
    if (!first || !third) throw new Error('no parts');
    const forged = (change: (url: URL) => void): string => {
      const url = new URL(first.upload.url);
      change(url);
      return url.href;
    };
    for (const number of ['2', '0', '-1', '10001', 'NaN', '', '1.5', '1e3'])
      expect(
        (
          await put(
            forged((url) => url.searchParams.set('part', number)),
            bytesOf(first),
          )
        ).status,
      ).toBe(403);
    const foreign = forged((url) => (url.pathname = `/storage/${other.row}`));
    expect((await put(foreign, bytesOf(first))).status).toBe(403);
    expect(
      (
        await put(
          forged((url) => url.searchParams.set('size', '5')),
          bytes.subarray(0, 5),
        )
      ).status,
    ).toBe(403);
    // Without the part it would be the whole file.
    expect(
      (
        await put(
          forged((url) => url.searchParams.delete('part')),
          bytesOf(first),
        )
      ).status,
    ).toBe(403);
    expect((await fetch(first.upload.url)).status).toBe(403);
    expect((await put(first.upload.url, bytes)).status).toBe(400);
    const huge = request(first.upload.url, { method: 'PUT', headers: { 'content-length': '999999999999' } });
    huge.on('error', () => undefined).flushHeaders();
    const status = await new Promise((resolve) => huge.once('response', (answer) => resolve(answer.statusCode)));
    huge.destroy();
    expect(status).toBe(413);
    for (const [from, count] of [
      [0, 1],
      [-1, 1],
      [6, 1],
      [10_001, 1],
      [1, 0],
      [1, 1001],
      [1, -5],
    ] as const)
      // prettier-ignore
      expect((await ask('uploadParts', { artifactId: one.artifactId, from, count })).__typename).toBe('ValidationError');
    expect(await app().db.artifactPart.count()).toBe(0);
    for (const { artifactId } of [one, other]) await abort(artifactId);
    await onlyFiles();
  });

  test('is not for strangers and viewers', async () => {
    const { artifactId } = await begin();
    const stranger = await person(server.url, 'Eve');
    const viewer = await member(server.url, owner, place.id, 'VIEWER');
    for (const verb of ['uploadParts', 'completeUpload', 'abortUpload'] as const) {
      expect((await ask(verb, { artifactId }, stranger)).code).toBe('NOT_FOUND');
      expect((await ask(verb, { artifactId }, viewer)).code).toBe('FORBIDDEN');
      expect((await ask(verb, { artifactId: globalId('Artifact', newId()) })).code).toBe('NOT_FOUND');
    }
    await abort(artifactId);
  });

  test('has bounds: parts, open uploads and bytes of a workspace', async () => {
    const tooMany = await announce(bytes, { sizeBytes: 10_001 * partSizeBytes });
    expect(tooMany.issues?.map(({ path }) => path)).toEqual(['partSizeBytes']);
    for (const wrong of [0, -1, 65_535, 1_073_741_825])
      expect((await announce(bytes, { partSizeBytes: wrong })).issues?.map(({ path }) => path)).toEqual([
        'partSizeBytes',
      ]);
    const own = await workspace(server.url, owner);
    const whole = await announce(bytes, { sizeBytes: 999_999_999, partSizeBytes: null }, own.id);
    expect(whole.artifact.upload).toMatchObject({ partSizeBytes: 8_388_608, partCount: 120 });
    await announce(bytes, { sizeBytes: 999_999_999, partSizeBytes: null }, own.id);
    expect(await announce(bytes, {}, own.id)).toMatchObject({ code: 'UPLOAD_QUOTA_EXCEEDED', quota: 'PENDING_BYTES' });
    await abort(whole.artifact.id);
    // At once: no more than there is room for.
    const answers = await Promise.all(Array.from({ length: 9 }, () => announce(bytes, {}, own.id)));
    expect(answers.map(({ __typename }) => __typename).toSorted()).toEqual([
      ...Array<string>(5).fill('CreateUploadSuccess'),
      ...Array<string>(4).fill('UploadQuotaExceeded'),
    ]);
    expect(answers.find(({ quota }) => quota)?.quota).toBe('OPEN_UPLOADS');
  });

  test('what is never sent is removed by the clean-ups, with its parts, and nothing else is', async () => {
    const { artifactId, row, parts } = await begin();
    for (const part of parts.slice(0, 2)) await put(part.upload.url, bytesOf(part));
    const young = await begin();
    await app().db.artifact.update({ where: { id: row }, data: { createdAt: new Date(Date.now() - uploadLifeMs) } });
    expect((await ask('uploadParts', { artifactId })).code).toBe('CONFLICT');
    expect((await ask('completeUpload', { artifactId })).code).toBe('CONFLICT');
    expect((await put(parts[2]?.upload.url ?? '', bytes.subarray(0, partSizeBytes))).status).toBe(409);
    const context = { app: app(), signal: AbortSignal.timeout(60_000), attempt: 1 };
    await jobTypes()
      .get('kernel.cleanUp')
      ?.handle({} as never, context);
    expect(await app().db.artifact.count({ where: { id: row } })).toBe(0);
    expect(await app().db.artifact.count({ where: { id: young.row } })).toBe(1);
    await abort(young.artifactId);
    await onlyFiles();
  });

  test('orphaned blobs are removed after their grace, and the run says how many and how large', async () => {
    const { artifactId, parts } = await begin();
    await put(parts[0]?.upload.url ?? '', bytes.subarray(0, partSizeBytes));
    const before = await stored();
    const orphans = [newId(), newId(), newId(), newId(), newId()];
    for (const key of orphans) await app().blobs.put(key, Readable.from([Buffer.alloc(10)]), { maxBytes: 10 });
    const { signal } = new AbortController();
    const long = new Date(Date.now() - uploadLifeMs);
    expect(await removeOrphans(app(), signal, { before: long })).toEqual({ blobs: 0, bytes: 0 });
    const now = { before: new Date(Date.now() + 60_000) };
    // So many that the storage is rather another one's.
    await expect(removeOrphans(app(), signal, { ...now, suspicious: 5 })).rejects.toThrow(/5 of \d+ stored files/);
    expect(await removeOrphans(app(), signal, now)).toEqual({ blobs: 5, bytes: 50 });
    expect(await stored()).toEqual(before);
    expect(jobTypes().get('kernel.orphanedBlobs')?.cron).toBe('47 3 * * *');
    await abort(artifactId);
  });

  test('the deletion of a workspace removes files and parts, and a part that comes later removes itself', async () => {
    const own = await workspace(server.url, owner);
    const workspaceId = rowId('Workspace', own.id);
    const { artifact } = await announce(bytes, {}, own.id);
    const { parts } = await ask('uploadParts', { artifactId: artifact.id });
    for (const part of parts.slice(0, 3)) await put(part.upload.url, bytesOf(part));
    const before = await stored();
    await app().db.workspace.update({ where: { id: workspaceId }, data: { deletedAt: new Date() } });
    expect((await put(parts[3]?.upload.url ?? '', bytesOf(parts[3] ?? { number: 4, sizeBytes: 0 }))).status).toBe(404);
    expect(await stored()).toEqual(before);
    const context = {
      signal: AbortSignal.timeout(60_000),
      log: async () => undefined,
      fence: async () => undefined,
    };
    const cleanup = workspaceCleanups().find((one) => one.name === 'files');
    expect(await cleanup?.clean(app(), workspaceId, context)).toEqual({ removed: 1, left: [] });
    expect(await stored()).toHaveLength(before.length - 3);
    await app().db.workspace.delete({ where: { id: workspaceId } });
    await onlyFiles();
  });

  test('a file that is stored and not recorded is recorded by the next try', async () => {
    const { artifactId, row } = await begin();
    const expect_ = { sizeBytes: bytes.length, sha256: sha256Of(bytes) };
    await app().blobs.put(row, Readable.from([bytes]), { maxBytes: 1e6, expect: expect_ });
    expect((await ask('completeUpload', { artifactId })).artifact.status).toBe('READY');
    await onlyFiles();
  });

  test.each(name === 's3' ? ['refuses'] : [])('storage that %s is told, and the parts are kept', async () => {
    const { meddler } = store;
    if (!meddler) throw new Error('this store is never away');
    const { artifactId, parts } = await begin();
    const send = (part: Answer['parts'][number]) => put(part.upload.url, bytesOf(part));
    meddler.mishap = (req, res) => {
      refuse(req, res, 403, 'AccessDenied');
      return true;
    };
    const [first] = parts;
    const refused = first && (await send(first));
    expect([refused?.status, await refused?.json()]).toMatchObject([503, { code: 'STORAGE_UNAVAILABLE' }]);
    meddler.mishap = null;
    for (const part of parts) expect((await send(part)).status).toBe(201);
    meddler.mishap = (req, res) => {
      if (req.method !== 'PUT') return false;
      refuse(req, res, 403, 'AccessDenied');
      return true;
    };
    expect((await ask('completeUpload', { artifactId })).code).toBe('STORAGE_UNAVAILABLE');
    meddler.mishap = null;
    expect((await ask('completeUpload', { artifactId })).__typename).toBe('CompleteUploadSuccess');
    await onlyFiles();
  });
});

test('a server does not start on a bucket that cannot be used, and says why', async () => {
  const s3 = await startS3rver();
  try {
    const on = (bucket: string, key: string) =>
      startTestServer({
        SWITCHYARD_ROLES: 'api',
        SWITCHYARD_BLOBS: 's3',
        SWITCHYARD_S3_BUCKET: bucket,
        SWITCHYARD_S3_ENDPOINT: s3.endpoint,
        SWITCHYARD_S3_PATH_STYLE: 'true',
        SWITCHYARD_S3_ACCESS_KEY_ID: key,
        SWITCHYARD_S3_SECRET_ACCESS_KEY: 'a-secret-that-is-not-told',
      });
    const { accessKeyId } = credentials;
    await expect(on('another-one', accessKeyId)).rejects.toThrow(
      /^The S3 bucket another-one cannot be used: NoSuchBucket: /,
    );
    await expect(on(s3.bucket, 'unknown')).rejects.toThrow(
      /^The S3 bucket blobs cannot be used: InvalidAccessKeyId: (?!.*secret)/,
    );
  } finally {
    await s3.stop();
  }
});

test('a database without any file does not take the files of a storage for orphans', async () => {
  const fresh = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  try {
    const { app } = fresh.running;
    const key = newId();
    await app.blobs.put(key, Readable.from([Buffer.alloc(10)]), { maxBytes: 10 });
    const now = { before: new Date(Date.now() + 60_000) };
    const { signal } = new AbortController();
    await expect(removeOrphans(app, signal, now)).rejects.toThrow(/1 of 1 stored files are unknown/);
    expect(await app.blobs.stat(key)).toMatchObject({ sizeBytes: 10 });
    const who = await person(fresh.url);
    const { id } = await workspace(fresh.url, who);
    await app.db.artifact.create({
      data: {
        workspaceId: rowId('Workspace', id),
        name: 'x',
        contentType: 'text/plain',
        sizeBytes: 1n,
        sha256: '0'.repeat(64),
      },
    });
    expect(await removeOrphans(app, signal, now)).toEqual({ blobs: 1, bytes: 10 });
  } finally {
    await fresh.stop();
  }
});
