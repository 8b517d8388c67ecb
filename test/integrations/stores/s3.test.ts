import { randomBytes, randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { buffer } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { sha256Hex } from '#kernel/crypto.ts';
import { createLogger } from '#kernel/log.ts';
import { StorageUnavailable } from '#kernel/storage/store.ts';
import { createS3BlobStore, type S3Options } from '../../../src/integrations/s3/index.ts';
import { credentials, refuse, startMeddler, startS3rver, type Meddler, type TestS3 } from '../../support/s3.ts';
import { conformance, cut, from } from './conformance.ts';

const partBytes = 5 * 1024 * 1024;
const large = 12_000_000;
const maxBytes = 100_000_000;
const settings = (s3: { endpoint: string; bucket: string }): S3Options => ({
  endpoint: s3.endpoint,
  bucket: s3.bucket,
  region: 'us-east-1',
  prefix: '/kept/here/',
  pathStyle: true,
  credentials,
  partBytes,
  log: createLogger('silent'),
});

// This server does not know If-None-Match, nor how to abort and list multipart uploads: test/proof has one that does.
conformance('S3', { oneWriterWins: false, large }, async () => {
  const s3 = await startS3rver();
  const store = createS3BlobStore(settings(s3));
  return {
    store,
    leftovers: async () => 0,
    async stop() {
      store.close();
      await s3.stop();
    },
  };
});

describe('when S3 fails', () => {
  let s3: TestS3;
  let meddler: Meddler;
  let store: ReturnType<typeof createS3BlobStore>;
  beforeAll(async () => {
    s3 = await startS3rver();
    meddler = await startMeddler(s3.endpoint);
    store = createS3BlobStore({ ...settings({ ...s3, endpoint: meddler.endpoint }), timeoutMs: 2000 });
  });
  afterEach(() => {
    meddler.mishap = null;
    meddler.seen.length = 0;
  });
  afterAll(async () => {
    store.close();
    await meddler.stop();
    await s3.stop();
  });

  const data = randomBytes(large);
  const expected = { sizeBytes: large, sha256: sha256Hex(data) };
  const put = (key: string) => store.put(key, from(...cut(data, 65_536)), { maxBytes, expect: expected });

  test('now and then, the requests are repeated', async () => {
    const failed = new Set<string>();
    meddler.mishap = (req, res) => {
      const once = `${req.method} ${req.url}`;
      // The waits of the SDK are long: one part and the completion are enough.
      if (!/partNumber=1&|^POST .*uploadId=/.test(once) || failed.has(once)) return false;
      failed.add(once);
      refuse(req, res, 503, 'SlowDown');
      return true;
    };
    const key = randomUUID();
    expect(await put(key)).toEqual(expected);
    expect(failed.size).toBe(2);
    expect(sha256Hex(await buffer((await store.get(key)).stream))).toBe(expected.sha256);
  });

  test('in the middle of an upload, nothing is kept and the multipart upload is aborted', async () => {
    for (const fail of ['cut', 'refuse'] as const) {
      meddler.seen.length = 0;
      meddler.mishap = (req, res) => {
        if (!req.url?.includes('partNumber=2')) return false;
        if (fail === 'cut') req.socket.destroy();
        else refuse(req, res, 500, 'InternalError');
        return true;
      };
      const key = randomUUID();
      await expect(put(key)).rejects.toThrow(StorageUnavailable);
      expect(meddler.seen.some((one) => one.startsWith('DELETE') && one.includes('uploadId='))).toBe(true);
      meddler.mishap = null;
      expect(await store.stat(key)).toBeNull();
      expect(await put(key)).toEqual(expected);
    }
  });

  test('at the completion, the blob is there whole or not at all', async () => {
    const completes = (req: { method?: string | undefined; url?: string | undefined }) =>
      req.method === 'POST' && req.url?.includes('uploadId=') === true;
    meddler.mishap = (req, res) => {
      if (completes(req)) refuse(req, res, 500, 'InternalError');
      return completes(req);
    };
    const refused = randomUUID();
    await expect(put(refused)).rejects.toThrow(StorageUnavailable);
    expect(await store.stat(refused)).toBeNull();

    // It was done, and the answer was lost: the repeat meets an upload that is no more.
    let lost = 0;
    meddler.mishap = (req, res, forward) => {
      if (!completes(req) || lost++ > 0) return false;
      void forward().then(() => res.destroy());
      return true;
    };
    const done = randomUUID();
    expect(await put(done)).toEqual(expected);
    expect(lost).toBeGreaterThan(0);
    expect((await store.stat(done))?.sizeBytes).toBe(large);
  });

  test('without an answer, it is given up', async () => {
    meddler.mishap = () => true;
    const silent = createS3BlobStore({ ...settings({ ...s3, endpoint: meddler.endpoint }), timeoutMs: 100 });
    await expect(silent.stat(randomUUID())).rejects.toThrow(StorageUnavailable);
    await expect(silent.check()).rejects.toThrow(/bucket blobs cannot be used: TimeoutError/);
    silent.close();
  });

  test('while a blob is read, the reader is told', async () => {
    const key = randomUUID();
    await put(key);
    meddler.mishap = (req, res) => {
      if (req.method !== 'GET') return false;
      res.writeHead(200, { 'content-length': large, 'content-type': 'application/octet-stream' });
      res.write(data.subarray(0, 1000));
      void setTimeout(20).then(() => res.destroy());
      return true;
    };
    const { stream } = await store.get(key);
    await expect(buffer(stream)).rejects.toThrow(StorageUnavailable);
  });

  test('a server that refuses If-None-Match is used without it', async () => {
    let refusals = 0;
    meddler.mishap = (req, res) => {
      if (req.headers['if-none-match'] === undefined) return false;
      refusals++;
      refuse(req, res, 501, 'NotImplemented');
      return true;
    };
    const own = createS3BlobStore(settings({ ...s3, endpoint: meddler.endpoint }));
    await own.put(randomUUID(), from('a'), { maxBytes });
    const once = refusals;
    await own.put(randomUUID(), from('b'), { maxBytes });
    expect([once > 0, refusals === once]).toEqual([true, true]);
    own.close();
  });

  test.each([
    [403, 'InvalidAccessKeyId'],
    [403, 'SignatureDoesNotMatch'],
    [403, 'RequestTimeTooSkewed'],
    [404, 'NoSuchBucket'],
  ])('the check names what is wrong: %i %s', async (status, code) => {
    meddler.mishap = (req, res) => {
      refuse(req, res, status, code);
      return true;
    };
    await expect(store.check()).rejects.toThrow(`The S3 bucket blobs cannot be used: ${code}`);
  });

  test('a clock that is wrong is set right by the answers, also for the addresses of clients', async () => {
    const hourMs = 3_600_000;
    const own = createS3BlobStore({ ...settings({ ...s3, endpoint: meddler.endpoint }), redirects: true });
    const dates: string[] = [];
    meddler.mishap = (req, res) => {
      dates.push(String(req.headers['x-amz-date']));
      res.setHeader('date', new Date(Date.now() + hourMs).toUTCString());
      if (dates.length > 1) {
        res.writeHead(200, { 'content-type': 'application/xml' }).end('<ListBucketResult/>');
        return true;
      }
      refuse(req, res, 403, 'RequestTimeTooSkewed');
      return true;
    };
    await own.check();
    const address = new URL((await own.address?.(randomUUID(), 'x', 60)) ?? '');
    dates.push(address.searchParams.get('X-Amz-Date') ?? '');
    const aheadMs = dates.map((date) => {
      const [, y, mo, d, h, m, s] = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(date) ?? [];
      return Date.parse(`${y}-${mo}-${d}T${h}:${m}:${s}Z`) - Date.now();
    });
    expect(aheadMs.map((ms) => Math.abs(Math.round(ms / hourMs)))).toEqual([0, 1, 1]);
    own.close();
  });

  test('an address for a client says attachment, and no type that a browser shows', async () => {
    const own = createS3BlobStore({ ...settings(s3), redirects: true });
    const key = randomUUID();
    await own.put(key, from('<script>'), { maxBytes });
    const url = new URL((await own.address?.(key, 'ä"\r\nx: y.html', 60)) ?? '');
    expect(url.searchParams.get('X-Amz-Expires')).toBe('60');
    expect(url.href).not.toContain(credentials.secretAccessKey + '&');
    const answer = await fetch(url);
    expect(await answer.text()).toBe('<script>');
    expect(answer.headers.get('content-type')).toContain('application/octet-stream');
    expect(answer.headers.get('content-disposition')).toBe(
      `attachment; filename="__x_ y.html"; filename*=UTF-8''%C3%A4%22x_%20y.html`,
    );
    expect(createS3BlobStore(settings(s3)).address).toBeUndefined();
    own.close();
  });
});
