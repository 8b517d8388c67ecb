import { setTimeout as delay } from 'node:timers/promises';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import { globalId } from '#kernel/graphql/global-id.ts';
import type { HttpOptions } from '#kernel/http/server.ts';
import { person } from '../../support/actors.ts';
import { headersOf, socket } from '../../support/client.ts';
import { http, keptLog, post } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { environment, spawnServer, startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { tenant, type Tenant } from '../../support/world.ts';

const { log, lines } = keptLog();
let server: TestServer;
let of: Tenant;

beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', METRICS_TOKEN: 'a token for the metrics only' }, { log });
  of = await tenant(server.running.app, 'server');
});
afterAll(() => server.stop());

/** A server of its own on the same app, closed after the test. */
async function own(options: Partial<HttpOptions> = {}) {
  const made = await httpServer(server.running.app, options);
  onTestFinished(() => made.close(0));
  return { ...made, graphql: `${made.url}/graphql` };
}

const get = (url: string, headers: Record<string, string> = {}) => http(url, { method: 'GET', headers });

describe('request ids', () => {
  const asked = (headers: Record<string, string> = {}) => post(server.url, { query: '{ viewer { id } }' }, headers);

  test("a client's own is kept when it is harmless", async () => {
    expect((await asked({ 'x-request-id': 'my-request.1' })).headers['x-request-id']).toBe('my-request.1');
    for (const id of ['short', 'x'.repeat(65), 'has space!', '<script>alert(1)</script>']) {
      expect((await asked({ 'x-request-id': id })).headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);
    }
    expect((await asked()).headers['x-request-id']).not.toBe((await asked()).headers['x-request-id']);
  });

  test('a fault inside an operation is masked; header, answer and log agree on its id', async () => {
    const broken = vi
      .spyOn(server.running.app.db.user, 'findUnique')
      .mockRejectedValueOnce(new Error('select secret from app_user'));
    const answer = await post(server.url, { query: '{ viewer { id emailVerified } }' }, headersOf(of.owner));
    broken.mockRestore();
    const id = answer.headers['x-request-id'];
    expect(answer.body).toEqual({
      data: { viewer: null },
      errors: [
        {
          message: 'Something went wrong on the server. The request id identifies it in the log.',
          path: ['viewer'],
          locations: [{ line: 1, column: 3 }],
          extensions: { code: 'INTERNAL', requestId: id },
        },
      ],
    });
    const told = lines.filter((line) => line['requestId'] === id);
    expect(told.filter((line) => line.level === 50)).toHaveLength(1);
    expect(told.find((line) => line.msg === 'operation')).toMatchObject({ errorCode: 'INTERNAL', uid: of.owner.id });
  });

  test('so do they for a fault before the operation', async () => {
    const broken = vi
      .spyOn(server.running.app.actors, 'recall')
      .mockRejectedValue(new Error('select secret from app_user'));
    onTestFinished(() => broken.mockRestore());
    for (const accept of ['application/json', 'application/graphql-response+json']) {
      const answer = await post(server.url, { query: '{ viewer { id } }' }, { ...headersOf(of.owner), accept });
      const id = answer.headers['x-request-id'];
      expect(answer.status).toBe(500);
      expect(answer.text).not.toMatch(/secret|select/);
      expect(answer.body).toMatchObject({ errors: [{ extensions: { code: 'INTERNAL', requestId: id } }] });
      expect(lines.filter((line) => line['requestId'] === id && line.level === 50)).toHaveLength(1);
    }
  });

  test('and for a fault of the server around it', async () => {
    const { url } = await own({ storage: () => Promise.reject(new Error('secret')) });
    const answer = await get(`${url}/storage/x`);
    expect([answer.status, answer.body]).toEqual([
      500,
      { code: 'INTERNAL', message: 'Something went wrong on the server.', requestId: answer.headers['x-request-id'] },
    ]);
  });

  test('what is refused before execution is logged as an operation with its code', async () => {
    const query = '{ workspaces(first: 100) { nodes { runs(first: 100) { nodes { kind } } } } }';
    const answer = await post(server.url, { query }, headersOf(of.owner));
    const id = answer.headers['x-request-id'];
    expect(lines.find((line) => line['requestId'] === id && line.msg === 'operation')).toMatchObject({
      errorCode: 'TOO_COSTLY',
    });
  });

  test('no log has a password, a token or a key', async () => {
    const input = { email: 'nobody@example.com', password: 'a password to look for' };
    const query = 'mutation ($input: SignInInput!) { signIn(input: $input) { __typename } }';
    await post(server.url, { query, variables: { input } }, headersOf(of.owner));
    await post(server.url, { query: '{' }, headersOf(of.owner));
    const all = JSON.stringify(lines);
    expect(all).not.toContain(input.password);
    expect(all).not.toContain(of.owner.token);
  });
});

describe('persisted documents', () => {
  const documents = new Map([
    ['one', 'query One { __typename }'],
    ['viewer', 'query Viewer { viewer { id } }'],
    ['events', 'subscription Events($id: ID!) { runEvents(id: $id) { __typename } }'],
  ]);
  const byHash = (id: string) => ({ extensions: { persistedQuery: { version: 1, sha256Hash: id } } });

  test.each([true, false])('over HTTP, only: %s', async (only) => {
    const { graphql } = await own({ graphql: { introspection: true, graphiql: null, persisted: { documents, only } } });
    const auth = headersOf(of.owner);
    expect((await post(graphql, { documentId: 'one' })).body).toEqual({ data: { __typename: 'Query' } });
    expect((await post(graphql, byHash('viewer'), auth)).body).toEqual({
      data: { viewer: { id: globalId('User', of.owner.id) } },
    });
    const address = `${graphql}?extensions=${encodeURIComponent(JSON.stringify(byHash('one').extensions))}`;
    expect((await get(address, { accept: 'application/json' })).body).toEqual({ data: { __typename: 'Query' } });
    expect((await post(graphql, byHash('unknown'))).codes).toEqual(['PERSISTED_QUERY_NOT_FOUND']);
    const other = await post(graphql, { query: '{ __typename }' });
    expect([other.codes, (other.body as { data?: unknown }).data]).toEqual(
      only ? [['PERSISTED_QUERY_ONLY'], undefined] : [[], { __typename: 'Query' }],
    );
    // An id beside a document does not let the document in.
    const both = await post(graphql, { query: '{ viewer { id } }', ...byHash('one') });
    expect(JSON.stringify(both.body)).not.toContain('viewer');
  });

  test.each([true, false])('over WebSocket, only: %s', async (only) => {
    const { graphql } = await own({ graphql: { introspection: true, graphiql: null, persisted: { documents, only } } });
    const ws = socket(graphql);
    const ask = async (payload: object): Promise<unknown> => {
      try {
        for await (const result of ws.iterate(payload as { query: string })) return result;
        return null;
      } catch (error) {
        return (error as { extensions?: { code?: unknown } }[])[0]?.extensions?.code;
      }
    };
    expect(await ask({ query: '', ...byHash('one') })).toEqual({ data: { __typename: 'Query' } });
    expect(await ask({ query: '', ...byHash('unknown') })).toBe('PERSISTED_QUERY_NOT_FOUND');
    expect(await ask({ query: '{ __typename }' })).toEqual(
      only ? 'PERSISTED_QUERY_ONLY' : { data: { __typename: 'Query' } },
    );
    expect(await ask({ query: '', variables: { id: 'x' }, ...byHash('events') })).toMatchObject({
      errors: [{ extensions: { code: expect.stringMatching(/NOT_FOUND|UNAUTHENTICATED/) } }],
    });
    await ws.dispose();
  });
});

test('all that a server prints is lines of its log', async () => {
  const folder = await testFolder();
  const process = await spawnServer({ ...environment(folder, server.database.url), SWITCHYARD_ROLES: 'api' });
  onTestFinished(async () => {
    await process.kill('SIGKILL');
    await rm(folder, { recursive: true, force: true });
  });
  // A bigint goes in and out: the library of scalars once had something to say about that.
  const query = `mutation ($size: BigInt!) { createUpload(input: {
    workspaceId: "x", name: "x", contentType: "text/plain", sizeBytes: $size, sha256: "x" }) { __typename } }`;
  const answer = await post(process.url, { query, variables: { size: 12 } }, headersOf(await person(process.url)));
  expect(answer.codes).toEqual([]);
  // Nothing that the sign-up left behind holds the process: without a deadline of the server's own it would stay.
  const gone = process.kill('SIGTERM').then(() => 'gone');
  expect(await Promise.race([gone, delay(20_000, 'still there', { ref: false })])).toBe('gone');
  for (const line of process.lines)
    expect(JSON.parse(line)).toMatchObject({ level: expect.any(String), msg: expect.any(String) });
});

describe('health and metrics', () => {
  const at = (path: string) => new URL(path, server.url).href;

  test('live says that the process answers', async () => {
    const answer = await get(at('/health/live'));
    expect([answer.status, answer.body]).toEqual([200, { status: 'ok' }]);
  });
  test('ready tells each check with its latency', async () => {
    const answer = await get(at('/health/ready'));
    const check = { ok: true, latencyMs: expect.any(Number) };
    expect([answer.status, answer.body]).toEqual([200, { status: 'ok', checks: { database: check, live: check } }]);
  });
  test('not ready without the database, and ready again with it', async () => {
    const pool = vi.spyOn(server.running.app.database.pool, 'query').mockRejectedValueOnce(new Error('secret'));
    const answer = await get(at('/health/ready'));
    pool.mockRestore();
    expect([answer.status, answer.body]).toEqual([
      503,
      expect.objectContaining({
        status: 'failing',
        checks: expect.objectContaining({ database: expect.objectContaining({ ok: false }) }),
      }),
    ]);
    expect(answer.text).not.toContain('secret');
    expect((await get(at('/health/live'))).status).toBe(200);
    expect((await get(at('/health/ready'))).status).toBe(200);
  });
  test('metrics want their token', async () => {
    for (const headers of [
      {},
      { authorization: 'Bearer x' },
      { authorization: 'a token for the metrics only' },
      headersOf(of.owner),
    ]) {
      const answer = await get(at('/metrics'), headers);
      expect([answer.status, answer.text.includes('switchyard_')]).toEqual([401, false]);
    }
    const answer = await get(at('/metrics'), { authorization: 'Bearer a token for the metrics only' });
    expect([answer.status, answer.headers['content-type']]).toEqual([200, expect.stringMatching(/^text\/plain/)]);
    expect(answer.text).toMatch(/^# HELP /m);
  });
  test('metrics without a token are closed, or open where that is said', async () => {
    expect((await get(`${(await own()).url}/metrics`)).status).toBe(401);
    expect((await get(`${(await own({ metrics: 'open' })).url}/metrics`)).status).toBe(200);
  });
  test('elsewhere there is nothing', async () => {
    const answer = await get(at('/admin'));
    expect([answer.status, answer.headers['x-content-type-options'], answer.headers['x-frame-options']]).toEqual([
      404,
      'nosniff',
      'DENY',
    ]);
  });
});

describe('slow clients', () => {
  test('a body that does not come is not waited for', async () => {
    const { url } = await own({ bodyTimeoutMs: 50 });
    const { hostname, port } = new URL(url);
    const slow = connect(Number(port), hostname);
    slow.write('POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{');
    const chunks: Buffer[] = [];
    slow.on('data', (chunk: Buffer) => chunks.push(chunk));
    await once(slow, 'close');
    expect(Buffer.concat(chunks).toString()).toMatch(/^HTTP\/1.1 408 [^]*"BODY_TOO_SLOW"/);
  });
  test('a WebSocket that says nothing closes with 4408', async () => {
    const { graphql } = await own({ initTimeoutMs: 50 });
    const silent = new WebSocket(graphql.replace('http', 'ws'), 'graphql-transport-ws');
    const [code] = (await once(silent, 'close')) as [number];
    expect(code).toBe(4408);
  });
});

describe('the address of the client', () => {
  // Seen where it counts: connections of strangers are counted by address.
  const strangers = async (url: string, forwarded: string[]) => {
    const sockets = forwarded.map((address) => {
      const one = new WebSocket(url.replace('http', 'ws'), 'graphql-transport-ws', {
        headers: { 'x-forwarded-for': address },
      });
      one.on('open', () => one.send('{"type":"connection_init"}'));
      return one;
    });
    onTestFinished(() => sockets.forEach((one) => one.terminate()));
    return Promise.all(
      sockets.map(
        (one) =>
          new Promise<string>((resolve) => {
            one.on('message', () => resolve('ack'));
            one.on('close', (code) => resolve(String(code)));
          }),
      ),
    );
  };
  const limits = {
    depth: 12,
    aliases: 30,
    cost: 5000,
    tokens: 2000,
    batch: 10,
    socketsPerActor: 1,
    subscriptionsPerSocket: 100,
  };

  test('is the peer: a header that anybody can send is not believed', async () => {
    const { graphql } = await own({ limits });
    expect((await strangers(graphql, ['1.1.1.1', '2.2.2.2'])).toSorted()).toEqual(['4429', 'ack']);
  });
  test('is what the trusted proxies wrote, from the end', async () => {
    const { graphql } = await own({ limits, trustProxy: 1 });
    expect(await strangers(graphql, ['9.9.9.9, 1.1.1.1', '9.9.9.9, 2.2.2.2'])).toEqual(['ack', 'ack']);
    const other = await own({ limits, trustProxy: 1 });
    expect((await strangers(other.graphql, ['8.8.8.8, 1.1.1.1', '9.9.9.9, 1.1.1.1'])).toSorted()).toEqual([
      '4429',
      'ack',
    ]);
  });
});

describe('stopping', () => {
  test('a request in progress is answered, sockets are told to come again, and the port is free', async () => {
    const other = await httpServer(server.running.app);
    const url = `${other.url}/graphql`;
    // Held in the middle of its execution until the server is told to stop.
    let goOn = () => {};
    const held = new Promise<void>((resolve) => (goOn = resolve));
    const { recall } = server.running.app.actors;
    let arrived = () => {};
    const isThere = new Promise<void>((resolve) => (arrived = resolve));
    const spy = vi.spyOn(server.running.app.actors, 'recall').mockImplementationOnce(async (credentials) => {
      arrived();
      await held;
      return recall.call(server.running.app.actors, credentials);
    });
    const answer = post(url, { query: '{ viewer { id } }' }, headersOf(of.owner));
    await isThere;
    const ws = new WebSocket(url.replace('http', 'ws'), 'graphql-transport-ws');
    await once(ws, 'open');
    const idle = request(url, { method: 'GET', headers: { connection: 'keep-alive' } });
    idle.on('error', () => undefined); // it may be cut
    const closed = once(ws, 'close') as Promise<[number]>;
    const stopped = other.close(10_000);
    expect((await closed)[0]).toBe(1012);
    await expect(fetch(url)).rejects.toThrow('fetch failed');
    goOn();
    expect((await answer).body).toEqual({ data: { viewer: { id: globalId('User', of.owner.id) } } });
    await stopped;
    spy.mockRestore();
    idle.destroy();
    const next = createServer().listen(other.port, '127.0.0.1');
    await once(next, 'listening');
    next.close();
  });

  test('a WebSocket that does not answer the close, and a request that does not end, are cut', async () => {
    const other = await httpServer(server.running.app);
    const { hostname, port } = new URL(other.url);
    const deaf = connect(Number(port), hostname);
    deaf.write(
      'GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    );
    await once(deaf, 'data');
    const endless = connect(Number(port), hostname);
    endless.write(
      'POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{',
    );
    await once(endless, 'connect');
    endless.on('error', () => undefined); // it is cut
    await other.close(50);
    expect(other.sockets()).toBe(0);
    deaf.destroy();
    endless.destroy();
  });
});
