import { once } from 'node:events';
import { CloseCode, createClient } from 'graphql-ws';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import { globalId } from '#kernel/graphql/global-id.ts';
import { headersOf, socket as client } from '../../support/client.ts';
import { keptLog, post } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { keyOf, memberOf, someone, tenant, type Tenant } from '../../support/world.ts';

const { log, lines } = keptLog();
let server: TestServer;
let of: Tenant;

beforeAll(async () => {
  server = await startTestServer(
    {
      SWITCHYARD_ROLES: 'api',
      SWITCHYARD_MAX_SOCKETS_PER_ACTOR: '3',
      SWITCHYARD_MAX_SUBSCRIPTIONS_PER_SOCKET: '2',
      SWITCHYARD_MAX_BODY_BYTES: '16384',
      CORS_ORIGINS: 'https://app.example.com',
    },
    { log },
  );
  of = await tenant(server.running.app, 'socket');
});
afterAll(() => server.stop());

const address = () => server.url.replace('http', 'ws');

/** A bare socket with all that was said on it. */
class Raw {
  readonly socket: WebSocket;
  readonly said: Record<string, unknown>[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;

  constructor(headers: Record<string, string> = {}, protocol = 'graphql-transport-ws') {
    this.socket = new WebSocket(address(), protocol, { headers });
    this.socket.on('message', (data: Buffer) => this.said.push(JSON.parse(data.toString()) as Record<string, unknown>));
    this.closed = new Promise((resolve, reject) => {
      this.socket.on('close', (code, reason) => resolve({ code, reason: String(reason) }));
      this.socket.on('error', reject);
    });
  }

  async open(): Promise<this> {
    if (this.socket.readyState !== WebSocket.OPEN) await once(this.socket, 'open');
    return this;
  }

  /** Opened and acknowledged. */
  async ready(payload: object = {}): Promise<this> {
    await this.open();
    this.say({ type: 'connection_init', payload });
    await this.hears('connection_ack');
    return this;
  }

  say(message: object): void {
    this.socket.send(JSON.stringify(message));
  }

  subscribe(id: string, query: string, variables: object = {}): void {
    this.say({ id, type: 'subscribe', payload: { query, variables } });
  }

  async hears(type: string, id?: string): Promise<Record<string, unknown>> {
    return vi.waitFor(() => {
      const message = this.said.find((one) => one['type'] === type && (id === undefined || one['id'] === id));
      if (!message) throw new Error(`no ${type} among ${JSON.stringify(this.said)}`);
      return message;
    });
  }

  async end(): Promise<void> {
    this.socket.close();
    await this.closed;
  }
}

const codesOf = (message: Record<string, unknown>) =>
  (message['payload'] as { extensions?: { code?: string } }[]).map((error) => error.extensions?.code);

const events = `subscription ($id: ID!) { workspaceEvents(workspaceId: $id) { __typename } }`;

describe('upgrading', () => {
  const upgrade = async (headers: Record<string, string>): Promise<number> => {
    const socket = new WebSocket(address(), 'graphql-transport-ws', { headers });
    return new Promise((resolve) => {
      socket.on('unexpected-response', (_, res) => resolve(res.statusCode ?? 0));
      socket.on('error', () => undefined);
      socket.on('open', () => {
        socket.close();
        resolve(101);
      });
    });
  };
  test('programs may, and pages of allowed origins', async () => {
    expect(await upgrade({})).toBe(101);
    expect(await upgrade({ origin: 'https://app.example.com' })).toBe(101);
    expect(await upgrade({ origin: new URL(server.url).origin })).toBe(101);
    expect(await upgrade({ origin: new URL(server.url).origin.replace('127.0.0.1', 'localhost') })).toBe(101);
  });
  test.each(['https://evil.example.net', 'null', 'https://app.example.com.evil.example.net'])(
    '%s may not',
    async (origin) => {
      expect(await upgrade({ origin })).toBe(403);
      expect(await upgrade({ origin, 'graphql-require-preflight': '1', 'sec-fetch-site': 'same-origin' })).toBe(403);
    },
  );
  test('another protocol is not acceptable', async () => {
    const raw = new Raw({}, 'graphql-ws');
    await expect(raw.closed.catch((error: Error) => error.message)).resolves.toMatch(/subprotocol/i);
  });
});

describe('who it is', () => {
  const viewer = async (raw: Raw) => {
    raw.subscribe('v', '{ viewer { id } }');
    return ((await raw.hears('next', 'v'))['payload'] as { data: { viewer: { id: string } | null } }).data.viewer;
  };
  test('by connection_init, in any case, or by the header', async () => {
    const key = await keyOf(server.running.app, of, of.owner.id, 'VIEWER');
    const id = globalId('User', of.owner.id);
    for (const payload of [
      headersOf(of.owner),
      { Authorization: `Bearer ${of.owner.token}` },
      { 'X-API-Key': key.apiKey },
      { apiKey: key.apiKey },
    ]) {
      const raw = await new Raw().ready(payload);
      expect(await viewer(raw)).toEqual({ id });
      await raw.end();
    }
    const raw = await new Raw(headersOf(of.owner)).ready();
    expect(await viewer(raw)).toEqual({ id });
    await raw.end();
  });
  test('by the cookie, from a page of an allowed origin only', async () => {
    const cookie = `switchyard_session=${of.owner.token}`;
    const page = await new Raw({ cookie, origin: 'https://app.example.com' }).ready();
    expect(await viewer(page)).toEqual({ id: globalId('User', of.owner.id) });
    await page.end();
    const program = await new Raw({ cookie }).ready();
    expect(await viewer(program)).toBeNull();
    await program.end();
  });
  test('a bad credential closes with 4403', async () => {
    for (const payload of [{ authorization: 'Bearer x' }, { apiKey: 'sy_unknown' }, { authorization: 'x' }]) {
      const raw = await new Raw().open();
      raw.say({ type: 'connection_init', payload });
      expect((await raw.closed).code).toBe(4403);
    }
  });
  test('one that ended meanwhile closes the connection at its next operation', async () => {
    const { app } = server.running;
    const person = await memberOf(app, of, 'VIEWER');
    const raw = await new Raw().ready(headersOf(person));
    await app.db.session.updateMany({ where: { userId: person.id }, data: { endedAt: new Date() } });
    raw.subscribe('1', '{ viewer { id } }');
    expect(codesOf(await raw.hears('error'))).toEqual(['UNAUTHENTICATED']);
    expect((await raw.closed).code).toBe(4403);
  });
  test('a stream of nobody is refused', async () => {
    const raw = await new Raw().ready();
    raw.subscribe('1', events, { id: globalId('Workspace', of.id) });
    await vi.waitFor(() => expect(JSON.stringify(raw.said)).toContain('UNAUTHENTICATED'));
    await raw.end();
  });
  test('an operation before connection_init closes with 4401', async () => {
    const raw = await new Raw().open();
    raw.subscribe('1', '{ __typename }');
    expect((await raw.closed).code).toBe(CloseCode.Unauthorized);
  });
});

describe('limits', () => {
  test('too many connections of one actor close with 4429, and make room again', async () => {
    const person = await someone(server.running.app);
    const open = await Promise.all(Array.from({ length: 3 }, () => new Raw().ready(headersOf(person))));
    const more = await new Raw().open();
    more.say({ type: 'connection_init', payload: headersOf(person) });
    expect((await more.closed).code).toBe(4429);
    // Others are not concerned.
    await (await new Raw().ready(headersOf(await someone(server.running.app)))).end();
    await open[0]?.end();
    const again = await vi.waitFor(async () => {
      const raw = await new Raw().open();
      raw.say({ type: 'connection_init', payload: headersOf(person) });
      await Promise.race([
        raw.hears('connection_ack'),
        raw.closed.then(({ code }) => Promise.reject(new Error(String(code)))),
      ]);
      return raw;
    });
    for (const raw of [...open.slice(1), again]) await raw.end();
  });
  test('connections that end while they are being authenticated are not counted for ever', async () => {
    const person = await someone(server.running.app);
    for (let i = 0; i < 10; i++) {
      const raw = await new Raw().open();
      raw.say({ type: 'connection_init', payload: headersOf(person) });
      raw.socket.terminate();
      await raw.closed;
    }
    const open = await vi.waitFor(() =>
      Promise.all(Array.from({ length: 3 }, () => new Raw().ready(headersOf(person)))),
    );
    expect(open).toHaveLength(3);
    for (const raw of open) await raw.end();
  });
  test('too many operations on one connection are refused; when one ends there is room', async () => {
    const raw = await new Raw().ready(headersOf(of.owner));
    const id = globalId('Workspace', of.id);
    raw.subscribe('1', events, { id });
    raw.subscribe('2', events, { id });
    raw.subscribe('3', events, { id });
    expect(codesOf(await raw.hears('error', '3'))).toEqual(['TOO_MANY_SUBSCRIPTIONS']);
    raw.say({ id: '1', type: 'complete' });
    raw.subscribe('4', '{ __typename }');
    await raw.hears('next', '4');
    await raw.end();
  });
  test('a message that is too long closes with 1009', async () => {
    const raw = await new Raw().ready();
    raw.subscribe('1', `# ${'x'.repeat(20_000)}`);
    expect((await raw.closed).code).toBe(1009);
  });
  test.each([
    'x',
    '{}',
    '{"type":"nothing"}',
    '{"type":"subscribe"}',
    '[]',
    '{"id":"1","type":"subscribe","payload":{"query":1}}',
    '\0',
  ])('a message %j closes with 4400', async (message) => {
    const raw = await new Raw().ready();
    raw.socket.send(message);
    const { code, reason } = await raw.closed;
    expect([code, reason]).toEqual([CloseCode.BadRequest, 'Invalid message received']);
  });
  test('a broken frame harms nobody', async () => {
    const raw = await new Raw().ready();
    (raw.socket as unknown as { _socket: { write(bytes: Buffer): void } })._socket.write(
      Buffer.from([0xff, 0xff, 0xff, 0xff]),
    );
    expect((await raw.closed).code).toBeGreaterThanOrEqual(1002);
    await (await new Raw().ready()).end();
  });
  test.each([
    ['{', {}, 'GRAPHQL_PARSE_FAILED'],
    ['{ nothing }', {}, 'GRAPHQL_VALIDATION_FAILED'],
    ['{ workspaces(first: 100) { nodes { runs(first: 100) { nodes { kind } } } } }', {}, 'TOO_COSTLY'],
    ['query ($s: String!) { workspace(slug: $s) { id } }', { s: 1 }, 'BAD_USER_INPUT'],
    ['query ($s: String!) { workspace(slug: $s) { id } }', { s: '\0' }, 'BAD_USER_INPUT'],
  ])('%s is refused with a code', async (query, variables, code) => {
    const raw = await new Raw().ready(headersOf(of.owner));
    raw.subscribe('1', query, variables);
    await vi.waitFor(() => expect(JSON.stringify(raw.said)).toContain(`"code":"${code}"`));
    expect(JSON.stringify(raw.said)).not.toMatch(/stack|node_modules|\.ts/);
    await raw.end();
  });
});

describe('faults of the server', () => {
  test('are masked, and logged under the id that is told', async () => {
    const raw = await new Raw().ready(headersOf(of.owner));
    const broken = vi
      .spyOn(server.running.app.actors, 'refresh')
      .mockRejectedValueOnce(new Error('select secret from table'));
    raw.subscribe('1', '{ viewer { id } }');
    const message = await raw.hears('error', '1');
    broken.mockRestore();
    const [error] = message['payload'] as { message: string; extensions: { code: string; requestId: string } }[];
    expect([error?.extensions.code, JSON.stringify(message)]).toEqual([
      'INTERNAL',
      expect.not.stringContaining('secret'),
    ]);
    expect(lines.filter((line) => line['requestId'] === error?.extensions.requestId && line.level === 50)).toHaveLength(
      1,
    );
    // The connection itself is whole.
    raw.subscribe('2', '{ __typename }');
    await raw.hears('next', '2');
    await raw.end();
  });
  test('while somebody connects close with a code that clients retry', async () => {
    const broken = vi
      .spyOn(server.running.app.actors, 'authenticate')
      .mockRejectedValueOnce(new Error('select secret from table'));
    const raw = await new Raw().open();
    raw.say({ type: 'connection_init' });
    expect(await raw.closed).toEqual({ code: 1013, reason: 'Try again later' });
    broken.mockRestore();
  });
});

test('a client of graphql-ws comes back by itself when the server restarts', async () => {
  const first = await httpServer(server.running.app);
  const codes: number[] = [];
  let restarted = () => {};
  const restart = new Promise<void>((resolve) => (restarted = resolve));
  let connections = 0;
  const ws = createClient({
    url: `${first.url.replace('http', 'ws')}/graphql`,
    webSocketImpl: WebSocket,
    lazy: false,
    retryAttempts: 1,
    retryWait: () => restart,
    on: { connected: () => void connections++, closed: (event) => codes.push((event as { code: number }).code) },
  });
  await vi.waitFor(() => expect(connections).toBe(1));
  await first.close(1000);
  await vi.waitFor(() => expect(codes).toEqual([1012]));
  const second = await httpServer(server.running.app, { port: first.port });
  restarted();
  await vi.waitFor(() => expect(connections).toBe(2));
  await ws.dispose();
  await second.close(1000);
});

test('queries and mutations work over it too', async () => {
  const ws = client(server.url, of.owner);
  const results = ws.iterate<{ viewer: { id: string } }>({ query: '{ viewer { id } }' });
  for await (const { data } of results) expect(data?.viewer.id).toBe(globalId('User', of.owner.id));
  await ws.dispose();
  expect((await post(server.url, { query: '{ __typename }' })).codes).toEqual([]);
});
