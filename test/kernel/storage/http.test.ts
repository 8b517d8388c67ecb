import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import {
  createServer,
  request,
  type ClientRequest,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type ServerResponse,
  type Server,
} from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { sha256Hex } from '#kernel/crypto.ts';
import { createLogger } from '#kernel/log.ts';
import { createDiskBlobStore } from '#kernel/storage/disk.ts';
import { attachment, createStorageHandler } from '#kernel/storage/http.ts';
import { createStorageUrls, type StorageUrls } from '#kernel/storage/signed-urls.ts';
import type { BlobStore, StoredBlob } from '#kernel/storage/store.ts';

let stateDir: string;
let server: Server;
let base: string;
let store: BlobStore;
let urls: StorageUrls;
let uploaded: [string, StoredBlob][];
let parts: [string, number, StoredBlob][];
let failing: boolean;
let clock: Date | undefined;

beforeEach(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'storage-'));
  store = await createDiskBlobStore(stateDir);
  uploaded = [];
  parts = [];
  failing = false;
  clock = undefined;
  server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (typeof address !== 'object' || !address) throw new Error('The server has no address');
  base = `http://127.0.0.1:${address.port}`;
  urls = createStorageUrls({
    secret: 's'.repeat(32),
    baseUrl: base,
    now: () => clock ?? new Date(),
  });
  const handle = createStorageHandler({
    store,
    urls,
    maxUploadBytes: 3_000_000,
    onUploaded: async (key, result) => {
      if (failing) throw new Error('database is down');
      uploaded.push([key, result]);
    },
    onPart: async (key, part, sizeBytes, source) => {
      const stored = await store.put(randomUUID(), source, { maxBytes: sizeBytes });
      parts.push([key, part, stored]);
      return stored;
    },
    log: createLogger('silent'),
  });
  const answer = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    if (!(await handle(req, res, new URL(req.url ?? '/', base)))) res.writeHead(418).end();
  };
  server.on('request', (req, res) => void answer(req, res));
});
afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
  await rm(stateDir, { recursive: true });
});

interface Answer {
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: string;
}

async function call(
  method: string,
  url: string,
  headers: OutgoingHttpHeaders = {},
  body?: string | Buffer,
): Promise<Answer> {
  const req = request(url, { method, headers, agent: false });
  const answer = new Promise<Answer>((resolve, reject) => {
    req.on('error', reject);
    req.on('response', (res) => {
      buffer(res).then(
        (data) => resolve({ status: res.statusCode ?? 0, headers: res.headers, body: data.toString() }),
        reject,
      );
    });
  });
  req.end(body);
  return answer;
}

const codeOf = (answer: Answer): [number, string] => [answer.status, refusal.parse(JSON.parse(answer.body)).code];
const refusal = z.strictObject({ code: z.string(), message: z.string() });

/** The head of the answer; the request goes on. */
const responseTo = (req: ClientRequest): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => req.once('response', resolve).once('error', reject));

function grantPut(data: string | Buffer, key = randomUUID()) {
  const grant = {
    method: 'PUT',
    key,
    sizeBytes: Buffer.byteLength(data),
    sha256: sha256Hex(data),
    contentType: 'text/plain',
  } as const;
  return { key, url: urls.sign(grant, 60).url, length: { 'content-length': grant.sizeBytes } };
}

async function filesLeft(): Promise<number> {
  const entries = await readdir(stateDir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).length;
}

describe('upload', () => {
  it('stores, records and answers', async () => {
    const { key, url, length } = grantPut('hello');
    const answer = await call('PUT', url, { ...length, 'content-type': 'TEXT/plain' }, 'hello');
    const stored = { sizeBytes: 5, sha256: sha256Hex('hello') };
    expect([answer.status, JSON.parse(answer.body)]).toEqual([201, stored]);
    expect(uploaded).toEqual([[key, stored]]);
    expect(codeOf(await call('PUT', url, length, 'hello'))).toEqual([409, 'CONFLICT']);
    expect(uploaded).toHaveLength(1);
  });

  it('refuses what was not declared, and keeps nothing', async () => {
    const right = grantPut('hello');
    const { url, length } = right;
    expect(codeOf(await call('PUT', url, length, 'jello'))).toEqual([422, 'UPLOAD_MISMATCH']);
    expect(codeOf(await call('PUT', url, { 'content-length': 4 }, 'hell'))).toEqual([400, 'LENGTH_MISMATCH']);
    expect(codeOf(await call('PUT', url, { 'content-length': 6 }, 'hello!'))).toEqual([400, 'LENGTH_MISMATCH']);
    expect(codeOf(await call('PUT', url, { 'transfer-encoding': 'chunked' }, 'hello'))).toEqual([
      411,
      'LENGTH_REQUIRED',
    ]);
    const typed = { ...length, 'content-type': 'text/html' };
    expect(codeOf(await call('PUT', url, typed, 'hello'))).toEqual([415, 'CONTENT_TYPE_MISMATCH']);
    const encoded = { ...length, 'content-encoding': 'gzip' };
    expect(codeOf(await call('PUT', url, encoded, 'hello'))).toEqual([415, 'CONTENT_TYPE_MISMATCH']);
    expect(await filesLeft()).toBe(0);
    expect(uploaded).toEqual([]);
    // And the same URL still takes the right bytes.
    expect((await call('PUT', url, length, 'hello')).status).toBe(201);
  });

  it('refuses more than it takes without reading it', async () => {
    const large = Buffer.alloc(3_000_001);
    const { url, length } = grantPut(large);
    const req = request(url, { method: 'PUT', headers: { ...length, expect: '100-continue' }, agent: false });
    req.flushHeaders();
    const res = await responseTo(req);
    expect(res.statusCode).toBe(413);
    expect(res.headers.connection).toBe('close');
    expect((await buffer(res)).toString()).toContain('UPLOAD_TOO_LARGE');
    req.destroy();
    expect(await filesLeft()).toBe(0);
  });

  it('refuses signatures for something else, and expired ones', async () => {
    const { url, length, key } = grantPut('hello');
    const get = urls.sign({ method: 'GET', key }, 60).url;
    const moved = url.replace(key, randomUUID());
    // Another first character, whatever it is now.
    const forged = url.replace(/signature=(.)/, (_, first) => `signature=${first === 'A' ? 'B' : 'A'}`);
    for (const bad of [moved, get, forged, `${url}&x=1`, url.split('?')[0] ?? '']) {
      expect(codeOf(await call('PUT', bad, length, 'hello'))).toEqual([403, 'SIGNATURE_REFUSED']);
    }
    clock = new Date(Date.now() + 61_000);
    const late = await call('PUT', url, length, 'hello');
    expect(codeOf(late)).toEqual([403, 'SIGNATURE_REFUSED']);
    expect(late.body).toContain('expired');
    expect(await filesLeft()).toBe(0);
  });

  it('keeps nothing when the client goes away', async () => {
    const data = Buffer.alloc(2_000_000, 'x');
    const { url, length, key } = grantPut(data);
    const req = request(url, { method: 'PUT', headers: length, agent: false });
    req.on('error', () => {
      // The test itself cuts the connection.
    });
    req.write(data.subarray(0, 1_000_000));
    await expect.poll(filesLeft).toBe(1);
    req.destroy();
    await expect.poll(filesLeft).toBe(0);
    expect(uploaded).toEqual([]);
    expect((await call('PUT', url, length, data)).status).toBe(201);
    expect((await store.stat(key))?.sizeBytes).toBe(data.length);
  });

  it('gives one of two uploads at once the key', async () => {
    const { url, length } = grantPut('hello');
    const answers = await Promise.all([call('PUT', url, length, 'hello'), call('PUT', url, length, 'hello')]);
    expect(answers.map((answer) => answer.status).toSorted((a, b) => a - b)).toEqual([201, 409]);
    expect(uploaded).toHaveLength(1);
  });

  it('can be repeated when it could not be recorded', async () => {
    const { url, length } = grantPut('hello');
    failing = true;
    const answer = await call('PUT', url, length, 'hello');
    expect(codeOf(answer)).toEqual([500, 'INTERNAL']);
    expect(answer.body).not.toContain('database');
    expect(await filesLeft()).toBe(0);
    failing = false;
    expect((await call('PUT', url, length, 'hello')).status).toBe(201);
  });
});

describe('download', () => {
  let key: string;
  let url: string;
  beforeEach(async () => {
    const grant = grantPut('0123456789');
    key = grant.key;
    await call('PUT', grant.url, grant.length, '0123456789');
    url = urls.sign({ method: 'GET', key, fileName: 'Ä "b".html', contentType: 'text/html' }, 60).url;
  });

  it('sends the file as an attachment that a browser will not run', async () => {
    for (const method of ['GET', 'HEAD']) {
      const answer = await call(method, url);
      expect(answer).toMatchObject({
        status: 200,
        body: method === 'GET' ? '0123456789' : '',
        headers: {
          'content-length': '10',
          'content-type': 'text/html',
          'content-disposition': `attachment; filename="_ _b_.html"; filename*=UTF-8''%C3%84%20%22b%22.html`,
          'content-security-policy': 'sandbox',
          'x-content-type-options': 'nosniff',
          'cache-control': 'private, no-store',
          'accept-ranges': 'bytes',
        },
      });
    }
  });

  it.each([
    ['bytes=0-3', 206, '0123', 'bytes 0-3/10'],
    ['bytes=8-', 206, '89', 'bytes 8-9/10'],
    ['bytes=-2', 206, '89', 'bytes 8-9/10'],
    ['bytes=-99', 206, '0123456789', 'bytes 0-9/10'],
    ['bytes=5-99', 206, '56789', 'bytes 5-9/10'],
    ['bytes=10-', 416, expect.stringContaining('RANGE_NOT_SATISFIABLE'), 'bytes */10'],
    ['bytes=-0', 416, expect.stringContaining('RANGE_NOT_SATISFIABLE'), 'bytes */10'],
    ['bytes=3-2', 200, '0123456789', undefined],
    ['bytes=0-1,3-4', 200, '0123456789', undefined],
    ['bytes=-', 200, '0123456789', undefined],
    ['bytes=a-b', 200, '0123456789', undefined],
    ['lines=0-1', 200, '0123456789', undefined],
    ['bytes=99999999999999999999-', 200, '0123456789', undefined],
  ])('answers Range: %s', async (range, status, body, contentRange) => {
    const answer = await call('GET', url, { range });
    expect([answer.status, answer.body, answer.headers['content-range']]).toEqual([status, body, contentRange]);
  });

  it('sends all when it is asked with If-Range or by HEAD', async () => {
    expect((await call('GET', url, { range: 'bytes=0-1', 'if-range': '"x"' })).status).toBe(200);
    expect((await call('HEAD', url, { range: 'bytes=0-1' })).headers['content-length']).toBe('10');
  });

  it('says 404 only to whoever may ask', async () => {
    await store.remove(key);
    expect(codeOf(await call('GET', url))).toEqual([404, 'NOT_FOUND']);
    expect((await call('HEAD', url)).status).toBe(404);
    expect(codeOf(await call('GET', url.replace('signature=', 'signature=x')))).toEqual([403, 'SIGNATURE_REFUSED']);
  });

  it('survives a client that goes away', async () => {
    const large = grantPut(Buffer.alloc(2_900_000));
    await call('PUT', large.url, large.length, Buffer.alloc(2_900_000));
    const req = request(urls.sign({ method: 'GET', key: large.key }, 60).url, { agent: false });
    req.end();
    const res = await responseTo(req);
    res.destroy();
    await setTimeout(20);
    expect((await call('GET', url)).status).toBe(200);
  });
});

describe('other requests', () => {
  it.each([
    '/storage/',
    '/storage/x',
    '/storage/%2e%2e%2fsecrets',
    '/storage/..%2f..%2fetc%2fpasswd',
    `/storage/${randomUUID()}/x`,
  ])('404 for %s', async (target) => {
    const answer = await call('GET', base + target);
    expect(codeOf(answer)).toEqual([404, 'NOT_FOUND']);
    expect(answer.headers['x-content-type-options']).toBe('nosniff');
  });

  it('leaves other paths alone, and knows three methods', async () => {
    for (const target of ['/', '/storage', '/storagex', '/graphql', '/storage/../x']) {
      expect((await call('GET', base + target)).status).toBe(418);
    }
    const answer = await call('DELETE', grantPut('x').url);
    expect(codeOf(answer)).toEqual([405, 'METHOD_NOT_ALLOWED']);
    expect(answer.headers.allow).toBe('GET, HEAD, PUT');
  });
});

describe('attachment', () => {
  it.each([
    ['a.txt', 'a.txt', 'a.txt'],
    ['', 'file', 'file'],
    ['...', 'file', 'file'],
    ['../../etc/passwd', '_.._etc_passwd', '_.._etc_passwd'],
    ['C:\\x.exe', 'C__x.exe', 'C__x.exe'],
    ['a\r\nSet-Cookie: x', 'aSet-Cookie_ x', 'aSet-Cookie_%20x'],
    ['a"; filename=b', 'a__ filename=b', 'a%22%3B%20filename%3Db'],
    ["it's (1)*.pdf", "it's (1)*.pdf", 'it%27s%20%281%29%2A.pdf'],
    ['%41.txt', '_41.txt', '%2541.txt'],
    ['gpj\u202eexe', 'gpjexe', 'gpjexe'],
    ['\ud800', '_', '%EF%BF%BD'],
    ['日本.pdf', '__.pdf', '%E6%97%A5%E6%9C%AC.pdf'],
  ])('names %j safely', (name, ascii, encoded) => {
    expect(attachment(name)).toBe(`attachment; filename="${ascii}"; filename*=UTF-8''${encoded}`);
  });

  it('stays within bounds', () => {
    expect(attachment('😀'.repeat(500)).length).toBeLessThan(2000);
  });
});
