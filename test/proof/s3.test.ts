import { randomBytes, randomUUID } from 'node:crypto';
import { CreateBucketCommand, ListMultipartUploadsCommand, S3Client } from '@aws-sdk/client-s3';
import { PassThrough } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { createLogger } from '#kernel/log.ts';
import { createS3BlobStore, type S3BlobStore, type S3Options } from '../../src/integrations/s3/index.ts';
import { conformance, cut, from } from '../integrations/stores/conformance.ts';
import { startCeph, type TestCeph } from '../support/ceph.ts';
import { startMeddler } from '../support/s3.ts';

const bucket = 'blobs';
const partBytes = 5 * 1024 * 1024;
const maxBytes = 100_000_000;
let starting: Promise<TestCeph> | undefined;
let settings: S3Options;
let admin: S3Client;

beforeEach(async (context) => {
  if (starting) return;
  starting = startCeph(context);
  const ceph = await starting;
  settings = {
    endpoint: ceph.endpoint,
    bucket,
    region: 'us-east-1',
    prefix: 'kept',
    pathStyle: true,
    credentials: ceph.credentials,
    partBytes,
    log: createLogger('silent'),
  };
  const { endpoint, credentials } = ceph;
  admin = new S3Client({ region: 'us-east-1', endpoint, credentials, forcePathStyle: true });
  await admin.send(new CreateBucketCommand({ Bucket: bucket }));
}, 180_000);
afterAll(async () => {
  admin?.destroy();
  await (await starting?.catch(() => undefined))?.stop();
});

const uploads = async (): Promise<number> =>
  (await admin.send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads?.length ?? 0;

conformance('Ceph', { oneWriterWins: true, large: 12_000_000 }, async () => {
  const store = createS3BlobStore(settings);
  return { store, leftovers: uploads, stop: async () => store.close() };
});

describe('Ceph', () => {
  let store: S3BlobStore;
  beforeEach(() => {
    store = createS3BlobStore({ ...settings, redirects: true });
  });

  test('what a server that died had begun is aborted when it is old, and what goes on is not', async () => {
    const meddler = await startMeddler(settings.endpoint ?? '');
    const dying = createS3BlobStore({ ...settings, endpoint: meddler.endpoint });
    // Its abort does not come through either, as that of a dead server.
    meddler.mishap = (req) => {
      if (req.method === 'DELETE') req.socket.destroy();
      return req.method === 'DELETE';
    };
    const source = new PassThrough({ highWaterMark: 1e8 });
    source.write(randomBytes(12_000_000));
    const put = dying.put(randomUUID(), source, { maxBytes });
    await expect.poll(uploads, { timeout: 30_000 }).toBe(1);
    source.destroy(new Error('died'));
    await expect(put).rejects.toThrow('died');
    expect(await uploads()).toBe(1);
    expect(await store.sweep(new Date(Date.now() - 3_600_000))).toBe(0);
    expect(await store.sweep(new Date(Date.now() + 60_000))).toBe(1);
    expect(await uploads()).toBe(0);
    dying.close();
    await meddler.stop();
  });

  test('a wrong secret, an unknown key and no bucket are told at the start, without the secret', async () => {
    const own = settings.credentials as { accessKeyId: string; secretAccessKey: string };
    const secretAccessKey = 'not-the-one-that-it-is';
    for (const [extra, reason] of [
      [{ credentials: { ...own, secretAccessKey } }, 'SignatureDoesNotMatch'],
      [{ credentials: { accessKeyId: 'nobody', secretAccessKey } }, 'InvalidAccessKeyId'],
      [{ bucket: 'another' }, 'NoSuchBucket'],
    ] as const) {
      const wrong = createS3BlobStore({ ...settings, ...extra });
      const failure = await wrong.check().catch((error: unknown) => error);
      expect(String(failure)).toContain(reason);
      expect(String(failure)).not.toContain(secretAccessKey);
      wrong.close();
    }
    await expect(store.check()).resolves.toBeUndefined();
  });

  test('an address for a client is good for that file, as an attachment, and for a while', async () => {
    const [key, other] = [randomUUID(), randomUUID()];
    for (const one of [key, other]) await store.put(one, from(one), { maxBytes });
    const address = (await store.address?.(key, 'ä"\r\nx: y.html', 2)) ?? '';
    const answer = await fetch(address, { headers: { range: 'bytes=0-7' } });
    expect([answer.status, await answer.text()]).toEqual([206, key.slice(0, 8)]);
    expect(answer.headers.get('content-type')).toBe('application/octet-stream');
    expect(answer.headers.get('content-disposition')).toBe(
      `attachment; filename="__x_ y.html"; filename*=UTF-8''%C3%A4%22x_%20y.html`,
    );
    const statusAfter = async (change: (url: URL) => void): Promise<number> => {
      const url = new URL(address);
      change(url);
      return (await fetch(url)).status;
    };
    expect(await statusAfter((url) => (url.pathname = url.pathname.replace(key, other)))).toBe(403);
    expect(await statusAfter((url) => url.searchParams.set('response-content-type', 'text/html'))).toBe(403);
    expect(await statusAfter((url) => url.searchParams.set('response-content-disposition', 'inline'))).toBe(403);
    expect(await statusAfter((url) => url.searchParams.set('X-Amz-Expires', '9999'))).toBe(403);
    expect((await fetch(address, { method: 'PUT', body: 'x' })).status).toBe(403);
    await expect.poll(async () => (await fetch(address)).status, { timeout: 15_000 }).toBe(403);
  });

  test('a second writer of something large is kept away', async () => {
    const data = randomBytes(12_000_000);
    const key = randomUUID();
    const two = await Promise.allSettled([1, 2].map(() => store.put(key, from(...cut(data, 65_536)), { maxBytes })));
    expect(two.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThan(0);
    expect((await buffer((await store.get(key)).stream)).equals(data)).toBe(true);
    expect(await uploads()).toBe(0);
  });
});
