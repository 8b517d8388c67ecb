import { isDeepStrictEqual } from 'node:util';
import { request, type IncomingMessage, type ServerResponse } from 'node:http';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { IssuerUnavailable, RateLimited } from '#kernel/errors.ts';
import { createFront } from '#kernel/http/front.ts';
import type { HttpServer } from '#kernel/http/server.ts';
import type { Yoga } from '#kernel/http/yoga.ts';
import { newId } from '#kernel/ids.ts';
import { Counters } from '#kernel/rates/counters.ts';
import { headersOf } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { bytes, http, keptLog, type RawAnswer } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { keyOf, tenant, type Tenant } from '../../support/world.ts';

// The short way of common requests and Yoga's own are not to be told apart by their answers.

const { log, lines } = keptLog();
const friend = 'https://app.example.com';
const documents = new Map([
  ['viewer', 'query Viewer { viewer { id } }'],
  ['events', 'subscription Events($id: ID!) { runEvents(id: $id) { __typename } }'],
]);
let server: TestServer;
let of: Tenant;
/** By what each of the two is: the short way, and Yoga's. */
let fronts: HttpServer;
let yogas: HttpServer;
let open: HttpServer[];
let counted: Set<string>;

beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' }, { log, hubPollMs: 600_000 });
  const { app } = server.running;
  of = await tenant(app, 'front');
  const pair = (only: boolean) =>
    [true, false].map((front) =>
      httpServer(app, {
        front,
        trustProxy: 1,
        corsOrigins: [friend],
        secureCookies: true,
        // Faults are put into what the ordinary execution asks.
        graphql: { introspection: false, compile: false, graphiql: {}, persisted: { documents, only } },
      }),
    );
  open = await Promise.all([...pair(false), ...pair(true)]);
  const [front, yoga] = open;
  if (!front || !yoga) throw new Error('no servers');
  [fronts, yogas] = [front, yoga];
  counted = new Set();
  const { budgets } = app.use(Counters);
  const add = budgets.add.bind(budgets);
  vi.spyOn(budgets, 'add').mockImplementation((key, ...rest) => {
    counted.add(key);
    return add(key, ...rest);
  });
});
afterAll(async () => {
  vi.restoreAllMocks();
  for (const one of open) await one.close(0);
  await server.stop();
});
beforeEach(() => {
  lines.length = 0;
});

interface Asked {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
}

const address = (one: HttpServer, path = '/graphql') => `http://127.0.0.1:${one.port}${path}`;

/** One request, by a client whose budget is whole. */
async function ask(one: HttpServer, { method = 'POST', path, headers, body }: Asked) {
  const { budgets } = server.running.app.use(Counters);
  for (const key of counted) await budgets.remove(key);
  const text = body === undefined || typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  return http(address(one, path), {
    method,
    headers: { 'content-type': 'application/json', 'x-request-id': 'the-same-for-both', ...headers },
    ...(text === undefined ? {} : { body: text }),
  });
}

/** All of an answer but the time of day. */
const whole = ({ status, headers: { date, ...headers }, text }: RawAnswer) => ({
  status,
  headers,
  text,
  dated: !!date,
});

/** The answer of the short way where Yoga's is another one, with a document that is new to them and one that they know. */
async function differing(...all: Asked[]) {
  const differing: object[] = [];
  for (const asked of [...all, ...all]) {
    const [front, yoga] = [whole(await ask(fronts, asked)), whole(await ask(yogas, asked))];
    if (!isDeepStrictEqual(front, yoga)) differing.push({ asked, front, yoga });
  }
  return differing;
}

const who = () => headersOf(of.owner);
const viewer = '{ viewer { id } }';
const nodeQuery = 'query One($id: ID!) { node(id: $id) { id } } query Two { viewer { id } }';
const missing = Buffer.from(`Run:${newId()}`).toString('base64url');

describe('operations', () => {
  const rows: Record<string, unknown> = {
    'a query': { query: viewer },
    'one with a name': { query: nodeQuery, operationName: 'Two' },
    'one with variables': { query: nodeQuery, operationName: 'One', variables: { id: missing } },
    'a name that there is not': { query: nodeQuery, operationName: 'Three' },
    'no name where one is needed': { query: nodeQuery },
    'a name that is no text': { query: viewer, operationName: 1 },
    'a variable of the wrong type': { query: nodeQuery, operationName: 'One', variables: { id: { a: 1 } } },
    'a variable that is missing': { query: nodeQuery, operationName: 'One', variables: {} },
    'variables null': { query: viewer, variables: null, extensions: null, operationName: null },
    'variables that are a text': { query: viewer, variables: 'x' },
    'variables that are a list': { query: viewer, variables: [] },
    'extensions that are a number': { query: viewer, extensions: 1 },
    'variables too deep': { query: viewer, variables: { a: JSON.parse('['.repeat(40) + ']'.repeat(40)) as unknown } },
    'text that cannot be stored': { query: nodeQuery, operationName: 'One', variables: { id: '\0' } },
    'another parameter': { query: viewer, other: 1 },
    'no document': {},
    'a document that is no text': { query: 1 },
    'an empty document': { query: '' },
    'a document that cannot be parsed': { query: '{' },
    'a field that there is not': { query: '{ viewr }' },
    'a document too long': { query: `${viewer} #${'x'.repeat(33_000)}` },
    'too many aliases': { query: `{ ${Array.from({ length: 31 }, (_, i) => `a${i}: __typename`).join(' ')} }` },
    'too deep': {
      query: `{ workspaces { nodes { runs { nodes { ${'workspace { runs { nodes { '.repeat(5)} kind ${'} } } '.repeat(5)} } } } } }`,
    },
    'too costly': { query: '{ workspaces(first: 100) { nodes { runs(first: 100) { nodes { kind } } } } }' },
    'a guess at the schema': { query: '{ __schema { types { name } } }' },
    'a mutation': { query: 'mutation { createWorkspace(input: { name: "", slug: "Not one" }) { __typename } }' },
    'a mutation that fails with its error': {
      query:
        'mutation ($input: RenameWorkspaceInput!) { renameWorkspace(input: $input) { __typename ... on Error { message } } }',
      variables: { input: { workspaceId: missing, name: 'x' } },
    },
    'a subscription where JSON is accepted': { query: documents.get('events'), variables: { id: missing } },
    'the word of a subscription': { query: '{ viewer { id } } # no subscription' },
    'a batch': [{ query: viewer }, { query: '{' }],
    'a batch of nothing': [],
    'a persisted document': { documentId: 'viewer' },
    'a persisted document by its hash': { extensions: { persistedQuery: { version: 1, sha256Hash: 'viewer' } } },
    'a persisted document beside another': { query: '{ __typename }', documentId: 'viewer' },
    'a persisted document that there is not': { documentId: 'none' },
    'a persisted subscription': { documentId: 'events', variables: { id: missing } },
    'text of many kinds': { query: `query ($s: String = "äöü 🚂 \\u2028") { viewer { id name } }` },
  };
  test.each(Object.keys(rows))('%s', async (name) => {
    for (const accept of ['application/json', 'application/graphql-response+json']) {
      const asked = { body: rows[name], headers: { accept } };
      // And a stranger.
      expect(await differing({ ...asked, headers: { ...asked.headers, ...who() } }, asked)).toEqual([]);
    }
  });

  test('where only persisted documents are executed', async () => {
    const [, , front, yoga] = open;
    if (!front || !yoga) throw new Error('no servers');
    for (const body of [{ query: viewer }, { documentId: 'viewer' }, { documentId: 'none' }, {}, { query: 1 }]) {
      const asked = { body, headers: who() };
      expect(whole(await ask(front, asked))).toEqual(whole(await ask(yoga, asked)));
    }
    const { codes } = await ask(front, { body: { query: viewer } });
    expect(codes).toEqual(['PERSISTED_QUERY_ONLY']);
  });
});

describe('bodies', () => {
  const rows: [name: string, body: string | Buffer, type?: string][] = [
    ['nothing', ''],
    ['half', '{'],
    ['null', 'null'],
    ['a text', '"text"'],
    ['a number', '1'],
    ['with what is no member', '{"__proto__":{"query":"{a}"}}'],
    ['twice the same', '{"query":"{ a }","query":"{ viewer { id } }"}'],
    ['not UTF-8', Buffer.from([0x7b, 0xc3, 0x28, 0x7d])],
    ['a byte order mark', `\uFEFF{"query":"${viewer}"}`],
    ['too large', JSON.stringify({ query: viewer, variables: { x: 'x'.repeat(70_000) } })],
    ['too many values', `{"query":"${viewer}","variables":{"x":[${'0,'.repeat(20_000)}0]}}`],
    ['charset', JSON.stringify({ query: viewer }), 'application/json; charset=utf-8'],
    ['charset in quotes', JSON.stringify({ query: viewer }), 'application/json;charset="UTF-8"'],
    ['a type in capitals', JSON.stringify({ query: viewer }), 'Application/JSON'],
    ['another type', JSON.stringify({ query: viewer }), 'application/graphql+json'],
    ['several types', JSON.stringify({ query: viewer }), 'application/json, text/plain'],
    ['no type', JSON.stringify({ query: viewer }), ''],
  ];
  test.each(rows)('%s', async (_, body, type = 'application/json') => {
    expect(await differing({ body, headers: { 'content-type': type, ...who() } })).toEqual([]);
  });
});

const accepts = [
  '*/*',
  'application/*',
  'application/json',
  'APPLICATION/JSON',
  'application/json; charset=utf-8',
  'application/json;charset=utf-16',
  'application/json; charset=utf-16, application/graphql-response+json',
  'application/graphql-response+json, application/json;q=0.9',
  'application/json;q=0.1, application/graphql-response+json',
  'text/html, application/json',
  'text/event-stream, application/json',
  'multipart/mixed, */*;q=0.1',
  '',
  ',',
  'nonsense',
  'a/b/c',
];
test.each([...accepts, 'text/html', 'image/png', 'text/event-stream', 'multipart/mixed'])(
  'accepting %j',
  async (accept) => {
    expect(await differing({ body: { query: viewer }, headers: { accept, ...who() } })).toEqual([]);
    expect(await differing({ body: { query: '{ viewr }' }, headers: { accept, ...who() } })).toEqual([]);
  },
);

describe('what is around them', () => {
  test.each([undefined, friend, 'https://evil.example.net', 'null'])('the origin %s', async (origin) => {
    const headers = origin === undefined ? {} : { origin };
    const asked = { body: { query: viewer }, headers: { ...who(), ...headers } };
    expect(await differing(asked)).toEqual([]);
    const answer = await ask(fronts, asked);
    expect(answer.headers['access-control-allow-origin']).toBe(origin === friend ? friend : undefined);
    expect(answer.headers['vary']).toBe('Origin');
    expect(await differing({ body: { query: '{' }, headers })).toEqual([]);
    expect(
      await differing({ method: 'OPTIONS', headers: { ...headers, 'access-control-request-method': 'POST' } }),
    ).toEqual([]);
    expect(
      await differing({
        body: { query: viewer },
        headers: { ...headers, cookie: `__Host-switchyard_session=${of.owner.token}` },
      }),
    ).toEqual([]);
  });

  test('other methods, addresses and pages', async () => {
    const query = encodeURIComponent(viewer);
    for (const method of ['GET', 'HEAD', 'PUT', 'DELETE']) {
      for (const path of ['/graphql', `/graphql?query=${query}`, '/graphql/', '/graphql?variables={'])
        expect(await differing({ method, path, headers: who() })).toEqual([]);
    }
    expect(await differing({ method: 'GET', headers: { accept: 'text/html' } })).toEqual([]);
    expect(await differing({ path: '/graphql?query={viewer{name}}', body: { query: viewer }, headers: who() })).toEqual(
      [],
    );
    expect(await differing({ path: '/graphql?variables={', body: { query: viewer }, headers: who() })).toEqual([]);
  });

  test('credentials, good and not', async () => {
    const key = await keyOf(server.running.app, of, of.owner.id, 'ADMIN');
    const rows: Record<string, string>[] = [
      headersOf(key),
      { authorization: 'Basic x' },
      { authorization: 'Bearer x' },
      { 'x-api-key': 'sy_x' },
    ];
    for (const [i, headers] of rows.entries())
      expect(
        await differing({ body: { query: viewer }, headers: { 'x-forwarded-for': `198.51.100.${i}`, ...headers } }),
      ).toEqual([]);
    expect((await ask(fronts, { body: { query: viewer }, headers: { authorization: 'Bearer x' } })).status).toBe(401);
  });

  test('faults and refusals before there is an operation', async () => {
    const errors = [
      new Error('secret'),
      new AggregateError([new Error('secret'), new Error('secret too')]),
      new RateLimited(new Date(Date.now() + 60_000), 'Slowly.'),
      new IssuerUnavailable(),
    ];
    for (const error of errors) {
      const broken = vi.spyOn(server.running.app.actors, 'authenticate').mockRejectedValue(error);
      try {
        for (const accept of ['application/json', 'application/graphql-response+json']) {
          const asked = { body: { query: viewer }, headers: { accept, ...who() } };
          expect(await differing(asked)).toEqual([]);
          const answer = await ask(fronts, asked);
          expect(answer.status).toBeGreaterThanOrEqual(400);
          expect(answer.text).not.toContain('secret');
        }
      } finally {
        broken.mockRestore();
      }
    }
  });

  test('a fault inside an operation', async () => {
    const broken = vi.spyOn(server.running.app.db.user, 'findUnique').mockRejectedValue(new Error('secret'));
    try {
      const asked = { body: { query: viewer }, headers: who() };
      expect(await differing(asked)).toEqual([]);
      expect((await ask(fronts, asked)).codes).toEqual(['INTERNAL']);
    } finally {
      broken.mockRestore();
    }
  });

  test('an empty budget', async () => {
    const { budgets } = server.running.app.use(Counters);
    const [key = ''] = counted;
    const count = { points: 2_000_000_000, resetAt: new Date(Date.now() + 30_000) };
    vi.mocked(budgets.add).mockResolvedValueOnce(count).mockResolvedValueOnce(count);
    const asked = { body: { query: '{ viewer { email } }' }, headers: who() };
    const [front, yoga] = [await ask(fronts, asked), await ask(yogas, asked)];
    expect(key).not.toBe('');
    expect([front.status, front.headers['retry-after']]).toEqual([429, '30']);
    expect(whole(front)).toEqual(whole(yoga));
  });
});

describe('connections', () => {
  const raw = (query: string, more = '') => {
    const body = JSON.stringify({ query });
    return `POST /graphql HTTP/1.1\r\nHost: x\r\nX-Request-Id: the-same-for-both\r\nContent-Type: application/json\r\n${more}Content-Length: ${body.length}\r\n\r\n${body}`;
  };
  const plainly = (text: string) => text.replaceAll(/^(date|ratelimit): .*\r\n/gim, '').toLowerCase();

  test('requests that come before their answers are answered in order', async () => {
    const stream = raw('{ __typename }') + raw('{ a: __typename }') + raw('#'.repeat(70_000), 'Connection: close\r\n');
    const [front, yoga] = [await bytes(address(fronts), stream), await bytes(address(yogas), stream)];
    expect(front.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 200', 'HTTP/1.1 413']);
    const [a, b] = [plainly(front), plainly(yoga)].map((text) => text.split('\r\n').toSorted());
    expect(a).toEqual(b);
    expect(front.indexOf('"a":"Query"')).toBeGreaterThan(front.indexOf('"__typename":"Query"'));
  });

  test('a client that is gone before its answer leaves nothing behind', async () => {
    const { app } = server.running;
    for (const one of [fronts, yogas]) {
      const found = Promise.withResolvers<null>();
      const slow = vi.spyOn(app.db.user, 'findUnique').mockReturnValueOnce(found.promise as never);
      const sent = request(address(one), {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...who() },
      });
      sent.on('error', () => undefined);
      const closed = new Promise((resolve) => sent.once('close', resolve));
      sent.end(JSON.stringify({ query: viewer }));
      await until('the operation begins', async () => slow.mock.calls.length > 0);
      sent.destroy();
      await closed;
      found.resolve(null);
      slow.mockRestore();
      expect((await ask(one, { body: { query: viewer }, headers: who() })).status).toBe(200);
    }
    expect(lines.filter(({ level }) => level >= 50)).toEqual([]);
  });
});

describe('what goes the short way', () => {
  const asked = async (text: string, headers: Record<string, string> = {}): Promise<boolean> => {
    const yoga = { getResultForParams: async () => ({ data: {} }) } as unknown as Yoga;
    const front = createFront({ yoga, persisted: { documents, only: false }, corsOrigins: [], log });
    const res = { writeHead: () => undefined, end: () => undefined } as unknown as ServerResponse;
    return front({ headers: { 'content-type': 'application/json', ...headers } } as IncomingMessage, res, text);
  };
  test('one query or mutation whose answer is JSON', async () => {
    expect(await asked(JSON.stringify({ query: viewer }))).toBe(true);
    expect(await asked(JSON.stringify({ query: 'mutation { a }', variables: {} }))).toBe(true);
    expect(await asked(JSON.stringify({ documentId: 'viewer' }))).toBe(true);
    for (const accept of accepts.filter((one) => !/utf-16$|^,$|nonsense|a.b.c/.test(one)))
      expect([accept, await asked(JSON.stringify({ query: viewer }), { accept })]).toEqual([accept, true]);
  });
  test('nothing else', async () => {
    const others = ['', '[]', 'null', '{}', '{"query":1}', '[{"query":"{a}"}]', '{"documentId":"events"}'];
    for (const text of [...others, JSON.stringify({ query: documents.get('events') })])
      expect([text, await asked(text)]).toEqual([text, false]);
    for (const accept of ['text/event-stream', 'multipart/mixed', 'text/html'])
      expect(await asked(JSON.stringify({ query: viewer }), { accept })).toBe(false);
  });
});
