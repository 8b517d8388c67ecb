import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import { globalId } from '#kernel/graphql/global-id.ts';
import { Connections } from '#kernel/http/connections.ts';
import { Budgets } from '#kernel/rates/budgets.ts';
import { headersOf, socket } from '../../support/client.ts';
import { http, post, type RawAnswer } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { statements } from '../../support/statements.ts';
import { keyOf, memberOf, someone, tenant, type Tenant } from '../../support/world.ts';

let server: TestServer;
let of: Tenant;
let behindProxy: string;

beforeAll(async () => {
  server = await startTestServer(
    {
      SWITCHYARD_ROLES: 'api',
      SWITCHYARD_RATE_POINTS: '50',
      SWITCHYARD_RATE_POINTS_ANONYMOUS: '20',
      SWITCHYARD_MAX_SOCKETS_PER_ACTOR: '2',
      CORS_ORIGINS: 'https://app.example.com',
    },
    { hubPollMs: 600_000 },
  );
  of = await tenant(server.running.app, 'rates');
  const proxied = await httpServer(server.running.app, { trustProxy: 1 });
  behindProxy = `${proxied.url}/graphql`;
  return () => proxied.close(0);
});
afterAll(() => server.stop());

const rate = '{ rateLimit { limit cost remaining resetAt } }';
const viewer = '{ viewer { id } }';
interface Told {
  data: { rateLimit: { limit: number; cost: number; remaining: number; resetAt: string } };
}
const told = (answer: RawAnswer) => (answer.body as Told).data.rateLimit;

/** A WebSocket's client throws what refuses an operation. */
const codesThrown = (errors: { extensions?: { code?: unknown } }[]) => errors.map(({ extensions }) => extensions?.code);

let addresses = 0;
/** Headers of a stranger whom nobody saw yet, for the server behind a proxy. */
const stranger = () => ({ 'x-forwarded-for': `198.51.100.${++addresses}` });

describe('the budget of operations', () => {
  test('is told by the query and by headers, which agree', async () => {
    const ada = headersOf(await someone(server.running.app));
    const begun = Date.now();
    const answer = await post(server.url, { query: rate }, { ...ada, origin: 'https://app.example.com' });
    const over = Date.now();
    const { limit, cost, remaining, resetAt } = told(answer);
    expect([limit, remaining]).toEqual([50, 50 - cost]);
    expect(cost).toBeGreaterThanOrEqual(1);
    const reset = Date.parse(resetAt);
    // A minute from its first operation.
    expect(reset).toBeGreaterThanOrEqual(begun + 59_990);
    expect(reset).toBeLessThanOrEqual(over + 60_010);
    expect(answer.headers['ratelimit-policy']).toBe('"points";q=50;w=60');
    const [, left, seconds] = /^"points";r=(\d+);t=(\d+)$/.exec(String(answer.headers['ratelimit'])) ?? [];
    expect(Number(left)).toBe(remaining);
    // Whole seconds from when it was told.
    expect(Number(seconds)).toBeGreaterThanOrEqual(Math.floor((reset - over) / 1000));
    expect(Number(seconds)).toBeLessThanOrEqual(Math.ceil((reset - begun) / 1000));
    expect(answer.headers['access-control-expose-headers']).toMatch(/RateLimit.*RateLimit-Policy.*Retry-After/);
  });

  test('is asked for what each size of a page costs, also of a document that is known', async () => {
    const query =
      'query ($n: Int, $slug: String!) { workspaces(first: $n) { nodes { id } } workspace(slug: $slug) { id } rateLimit { cost } }';
    const cost = async (n: number | null, slug: unknown) => {
      const answer = await post(
        server.url,
        { query, variables: { n, slug } },
        headersOf(await someone(server.running.app)),
      );
      return answer.codes.length > 0 ? answer.codes : (answer.body as Told).data.rateLimit.cost;
    };
    const [one, ten, again, other] = [await cost(1, 'a'), await cost(10, 'a'), await cost(1, 'b'), await cost(10, 'b')];
    expect([again, other]).toEqual([one, ten]);
    expect(Number(ten)).toBeGreaterThan(Number(one) + 5);
    for (const slug of [1, null, { a: 1 }, ['a', 'b']]) expect(await cost(1, slug)).toEqual(['BAD_USER_INPUT']);
  });

  test('refuses what costs more than is left, before it is executed, and takes nothing for it', async () => {
    const { id, ...auth } = await someone(server.running.app);
    const headers = headersOf(auth);
    const begun = Date.now();
    await server.running.app.use(Budgets).spend(`USER ${id}`, false, 40);
    const costly = 'mutation { a: signOutEverywhere { __typename } } # ';
    const pages = '{ workspaces(first: 20) { nodes { id } } }';
    // What is known needs no reading, which would be paid for.
    await post(server.url, { query: pages }, headersOf(await someone(server.running.app)));
    const before = await statements(server.running.app.database.pool, async () => {
      const answer = await post(server.url, { query: pages }, headers);
      expect([answer.status, answer.codes]).toEqual([429, ['RATE_LIMITED']]);
      const [error] = (answer.body as { errors: { extensions: { resetAt: string } }[] }).errors;
      const reset = Date.parse(error?.extensions.resetAt ?? '');
      expect(reset).toBeGreaterThanOrEqual(begun + 59_990);
      const retryAfter = Number(answer.headers['retry-after']);
      expect(retryAfter).toBeGreaterThanOrEqual(Math.floor((reset - Date.now()) / 1000));
      expect(retryAfter).toBeLessThanOrEqual(Math.ceil((reset - begun) / 1000));
      expect(answer.headers['ratelimit']).toMatch(/^"points";r=10;/);
    });
    // Only who asks was looked up.
    expect(before.filter((text) => /workspace"/i.test(text) && !/session/i.test(text))).toEqual([]);
    // What is small enough still goes.
    expect((await post(server.url, { query: viewer }, headers)).status).toBe(200);
    await server.running.app.use(Budgets).spend(`USER ${id}`, false, 8);
    // In a batch each operation counts by itself.
    const batch = await post(server.url, [{ query: viewer }, { query: viewer }, { query: costly }], headers);
    expect(batch.codes.filter((code) => code === 'RATE_LIMITED').length).toBeGreaterThanOrEqual(1);
  });

  test('also refuses with 429 where GraphQL over HTTP would say 200', async () => {
    const { id, ...auth } = await someone(server.running.app);
    await server.running.app.use(Budgets).spend(`USER ${id}`, false, 50);
    for (const accept of ['application/json', 'application/graphql-response+json', 'text/event-stream'])
      expect((await post(server.url, { query: viewer }, { ...headersOf(auth), accept })).status).toBe(429);
  });

  test('a batch does not buy more than its operations one by one', async () => {
    await post(behindProxy, { query: rate }, stranger());
    const headers = stranger();
    const answer = await post(
      behindProxy,
      Array.from({ length: 10 }, () => ({ query: rate })),
      headers,
    );
    const all = (answer.body as (Told | { errors: unknown })[]).map((one) =>
      'data' in one ? one.data.rateLimit.remaining : 'refused',
    );
    const cost = 20 - Math.max(...all.filter((one) => typeof one === 'number'));
    expect(all.filter((one) => one !== 'refused')).toHaveLength(Math.floor(20 / cost));
    expect(all).toContain('refused');
  });

  test('what is refused for itself costs a point', async () => {
    const headers = stranger();
    const { cost, remaining } = told(await post(behindProxy, { query: rate }, headers));
    expect((await post(behindProxy, { query: '{ workspaces { totalCount } }' }, headers)).codes).toEqual([
      'UNAUTHENTICATED',
    ]);
    expect(told(await post(behindProxy, { query: rate }, headers)).remaining).toBe(remaining - 1 - cost);
  });

  test('is one for a WebSocket and HTTP', async () => {
    const auth = await someone(server.running.app);
    const first = told(await post(server.url, { query: rate }, headersOf(auth)));
    const client = socket(server.url, auth);
    for await (const { data } of client.iterate<Told['data']>({ query: rate }))
      expect(data?.rateLimit.remaining).toBe(first.remaining - first.cost);
    await server.running.app.use(Budgets).spend(`USER ${auth.id}`, false, 50 - 2 * first.cost);
    for await (const { errors } of client.iterate({ query: rate }))
      expect(errors?.map(({ extensions }) => extensions?.['code'])).toEqual(['RATE_LIMITED']);
    await client.dispose();
  });

  test('a key has its own, and so has everybody else', async () => {
    const { app } = server.running;
    const key = await keyOf(app, of, of.owner.id, 'MEMBER');
    await app.use(Budgets).spend(`USER ${of.owner.id}`, false, 50);
    expect((await post(server.url, { query: viewer }, headersOf(of.owner))).status).toBe(429);
    expect(told(await post(server.url, { query: rate }, headersOf(key))).remaining).toBeGreaterThan(40);
  });

  test('all keys of one maker share ten, for operations and for streams', async () => {
    const { app } = server.running;
    const maker = await someone(app);
    const own = await tenant(app, 'keys');
    await app.db.membership.create({ data: { workspaceId: own.id, userId: maker.id, role: 'OWNER' } });
    const first = headersOf(await keyOf(app, own, maker.id, 'MEMBER'));
    expect(told(await post(server.url, { query: rate }, first))).toMatchObject({ limit: 50 });
    await app.use(Budgets).spend(`KEYS ${maker.id}`, false, 490 - 6, 10);
    const second = headersOf(await keyOf(app, own, maker.id, 'MEMBER'));
    const { limit, remaining, cost } = told(await post(server.url, { query: rate }, second));
    expect([limit, remaining <= 10]).toEqual([500, true]);
    await app.use(Budgets).spend(`KEYS ${maker.id}`, false, remaining, 10);
    const third = headersOf(await keyOf(app, own, maker.id, 'MEMBER'));
    expect((await post(server.url, { query: rate }, third)).status).toBe(429);
    // Its maker and the keys of others are not concerned.
    expect(told(await post(server.url, { query: rate }, headersOf(maker)))).toMatchObject({ limit: 50, cost });
    const other = headersOf(await keyOf(app, of, of.owner.id, 'MEMBER'));
    expect((await post(server.url, { query: rate }, other)).status).toBe(200);

    const connections = new Connections(2);
    const places = Array.from({ length: 10 }, (_, i) => [0, 1].map(() => connections.take(`key ${i}`, 'keys'))).flat();
    expect(places.every((place) => place !== null)).toBe(true);
    expect(connections.take('key 10', 'keys')).toBeNull();
    expect(connections.take('key 10')).not.toBeNull();
    places[0]?.();
    places[0]?.();
    expect(connections.take('key 11', 'keys')).not.toBeNull();
    expect(connections.take('key 11', 'keys')).toBeNull();
  });

  describe('of documents that are refused', () => {
    const left = async (headers: Record<string, string>) => {
      const { cost, remaining } = told(await post(behindProxy, { query: rate }, headers));
      return remaining + cost;
    };
    const wrong = (length: number) =>
      `{ x${Math.random().toString(36).slice(2)} ${`${'y'.repeat(39)} `.repeat(length / 40)}`.slice(0, length - 1);

    test.each([
      ['does not parse', (length: number) => wrong(length)],
      ['does not validate', (length: number) => `${wrong(length)}}`],
    ])('what %s costs by its length, and is not read when nothing is left', async (_, made) => {
      const headers = stranger();
      const before = await left(headers);
      const { codes, headers: answered } = await post(behindProxy, { query: made(401) }, headers);
      expect(codes[0]).toMatch(/GRAPHQL_(PARSE|VALIDATION)_FAILED/);
      expect(answered['ratelimit']).toMatch(/^"points";r=\d+;/);
      const costs = told(await post(behindProxy, { query: rate }, headers)).cost;
      const next = await post(behindProxy, { query: made(1501) }, headers);
      expect([next.status, next.codes]).toEqual([429, ['RATE_LIMITED']]);
      expect(Number(next.headers['retry-after'])).toBeGreaterThan(0);
      expect(await left(headers)).toBe(before - costs - Math.ceil(made(401).length / 100) - costs);
    });

    test('counts on a WebSocket too', async () => {
      const auth = await someone(server.running.app);
      const client = socket(server.url, auth);
      const codesOf = async (query: string) => {
        for await (const { errors } of client.iterate({ query }))
          return errors?.map(({ extensions }) => extensions?.['code']);
        return undefined;
      };
      expect((await codesOf(`${wrong(3001)}}`).catch(codesThrown))?.[0]).toBe('GRAPHQL_VALIDATION_FAILED');
      expect((await codesOf(`${wrong(3001)}}`).catch(codesThrown))?.[0]).toBe('RATE_LIMITED');
      await client.dispose();
    });

    test('what was read is paid for once', async () => {
      const headers = stranger();
      const query = (name: string) => `query ${name} { rateLimit { cost remaining } } # ${'x'.repeat(300)}`;
      const one = told(await post(behindProxy, { query: query('one') }, headers));
      const again = told(await post(behindProxy, { query: query('one') }, headers));
      expect([one.cost, one.remaining, again.cost, again.remaining]).toEqual([
        one.cost,
        20 - one.cost,
        one.cost,
        20 - 2 * one.cost,
      ]);
      expect(one.cost).toBeGreaterThanOrEqual(4);
    });
  });

  test('of strangers is by network, and a header that anybody can send makes nobody another', async () => {
    const own = await httpServer(server.running.app);
    onTestFinished(() => own.close(0));
    const spend = (headers: Record<string, string>) => post(`${own.url}/graphql`, { query: rate }, headers);
    const { remaining } = told(await spend({ 'x-forwarded-for': '192.0.2.1' }));
    const next = told(await spend({ 'x-forwarded-for': '192.0.2.2', forwarded: 'for=192.0.2.3' }));
    expect(next.remaining).toBe(remaining - next.cost);
    const within = told(await post(behindProxy, { query: rate }, { 'x-forwarded-for': '2001:db8::1' }));
    const other = told(
      await post(behindProxy, { query: rate }, { 'x-forwarded-for': '6.6.6.6, 2001:db8:0:0:ffff::2' }),
    );
    expect(other.remaining).toBe(within.remaining - other.cost);
    expect(told(await post(behindProxy, { query: rate }, { 'x-forwarded-for': '2001:db8:0:1::1' })).remaining).toBe(
      within.remaining,
    );
  });
});

describe('bad credentials', () => {
  const guess = () => ({ 'x-api-key': `sy_${Math.random().toString(36).slice(2).padEnd(43, 'x')}` });
  /** A network that had too many, and its headers. */
  async function closedNetwork() {
    const from = stranger();
    for (let i = 0; i < 60; i++) {
      const answer = await post(behindProxy, { query: viewer }, { ...from, ...guess() });
      expect([answer.status, answer.codes]).toEqual([401, ['UNAUTHENTICATED']]);
    }
    return from;
  }

  test('too many from one network are refused without a look at the database; others are not', async () => {
    const { app } = server.running;
    const known = headersOf(await keyOf(app, of, of.owner.id, 'MEMBER'));
    await post(behindProxy, { query: viewer }, { ...stranger(), ...known });
    const unknown = headersOf(await keyOf(app, of, of.owner.id, 'MEMBER'));
    const from = await closedNetwork();
    const texts = await statements(app.database.pool, async () => {
      const answer = await post(behindProxy, { query: viewer }, { ...from, ...guess() });
      expect([answer.status, answer.codes]).toEqual([429, ['RATE_LIMITED']]);
      expect(Number(answer.headers['retry-after'])).toBeLessThanOrEqual(60);
      // A good one that this process has not seen cannot be told from a guess.
      expect((await post(behindProxy, { query: viewer }, { ...from, ...unknown })).status).toBe(429);
    });
    expect(texts).toEqual([]);
    // Whoever is behind the same address and was here before goes on, and so does who brings no credential.
    expect((await post(behindProxy, { query: viewer }, { ...from, ...known })).status).toBe(200);
    expect((await post(behindProxy, { query: viewer }, from)).status).toBe(200);
    // Another network is not concerned.
    expect((await post(behindProxy, { query: viewer }, { ...stranger(), ...unknown })).status).toBe(200);
    // Once it is revoked, a known one is none any more.
    await app.db.apiKey.updateMany({ where: { workspaceId: of.id }, data: { revokedAt: new Date() } });
    expect((await post(behindProxy, { query: viewer }, { ...from, ...known })).status).toBe(401);
    expect((await post(behindProxy, { query: viewer }, { ...from, ...known })).status).toBe(429);
  });

  test('count on WebSockets too, which close with 4429', async () => {
    const from = await closedNetwork();
    const ws = new WebSocket(behindProxy.replace('http', 'ws'), 'graphql-transport-ws', { headers: from });
    ws.on('open', () => ws.send(JSON.stringify({ type: 'connection_init', payload: guess() })));
    const code = await new Promise<number>((resolve) => ws.on('close', resolve));
    expect(code).toBe(4429);
  });

  test('another process finds out at its first look', async () => {
    const from = await closedNetwork();
    const other = await httpServer(server.running.app, { trustProxy: 1 });
    onTestFinished(() => other.close(0));
    const url = `${other.url}/graphql`;
    expect((await post(url, { query: viewer }, { ...from, ...guess() })).status).toBe(401);
    expect((await post(url, { query: viewer }, { ...from, ...guess() })).status).toBe(429);
  });
});

describe('streams and sockets', () => {
  const events = 'subscription ($id: ID!) { workspaceEvents(workspaceId: $id) { __typename } }';
  /** A stream of events over HTTP, once it has begun. */
  async function stream(auth: Record<string, string>) {
    const abort = new AbortController();
    const response = await fetch(server.url, {
      method: 'POST',
      signal: abort.signal,
      headers: { 'content-type': 'application/json', accept: 'text/event-stream', ...auth },
      body: JSON.stringify({ query: events, variables: { id: globalId('Workspace', of.id) } }),
    });
    return { status: response.status, abort: () => abort.abort(), body: response.body };
  }
  const ready = (auth: Record<string, string>) => {
    const ws = new WebSocket(server.url.replace('http', 'ws'), 'graphql-transport-ws');
    ws.on('open', () => ws.send(JSON.stringify({ type: 'connection_init', payload: auth })));
    onTestFinished(() => ws.terminate());
    return new Promise<number | 'ack'>((resolve) => {
      ws.on('message', () => resolve('ack'));
      ws.on('close', (code) => resolve(code));
    });
  };

  test('count together, and a place is free again when a client goes', async () => {
    const auth = headersOf(await memberOf(server.running.app, of, 'VIEWER'));
    expect(await ready(auth)).toBe('ack');
    const one = await stream(auth);
    expect(one.status).toBe(200);
    const refused = await stream(auth);
    expect(refused.status).toBe(429);
    expect(await ready(auth)).toBe(4429);
    one.abort();
    const again = await vi.waitFor(async () => {
      const next = await stream(auth);
      if (next.status !== 200) throw new Error('not yet');
      return next;
    });
    again.abort();
  });

  test('a stream that is refused for itself holds no place', async () => {
    const auth = headersOf(await someone(server.running.app));
    for (let i = 0; i < 5; i++) {
      const { body, status } = await stream(auth);
      expect(status).toBe(200);
      expect(await new Response(body).text()).toContain('NOT_FOUND');
    }
  });

  test('a flood of messages closes with 4429, and what came too fast is not looked at', async () => {
    const own = await httpServer(server.running.app, {
      limits: {
        depth: 12,
        aliases: 30,
        cost: 5000,
        tokens: 2000,
        batch: 10,
        socketsPerActor: 5,
        subscriptionsPerSocket: 100,
        messagesPerS: 2,
      },
    });
    onTestFinished(() => own.close(0));
    const flood = async (send: (ws: WebSocket) => void) => {
      const ws = new WebSocket(`${own.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws');
      let pongs = 0;
      ws.on('message', (data: Buffer) => {
        if (data.toString().includes('pong')) pongs++;
      });
      ws.on('open', () => {
        ws.send('{"type":"connection_init"}');
        for (let i = 0; i < 200; i++) send(ws);
      });
      const code = await new Promise<number>((resolve) => ws.on('close', resolve));
      return { code, pongs };
    };
    const messages = await flood((ws) => ws.send('{"type":"ping"}'));
    expect(messages.code).toBe(4429);
    expect(messages.pongs).toBeLessThanOrEqual(10);
    expect((await flood((ws) => ws.ping())).code).toBe(4429);
    // Whoever is slower is not concerned.
    const client = socket(`${own.url}/graphql`);
    for await (const { data } of client.iterate({ query: '{ __typename }' })) expect(data).toBeTruthy();
    await client.dispose();
  });

  test('sockets that do not say who they are are bounded by network', async () => {
    const own = await httpServer(server.running.app, {
      limits: {
        depth: 12,
        aliases: 30,
        cost: 5000,
        tokens: 2000,
        batch: 10,
        socketsPerActor: 5,
        subscriptionsPerSocket: 100,
        silentSockets: 2,
      },
    });
    onTestFinished(() => own.close(0));
    const upgrade = () =>
      new Promise<number | WebSocket>((resolve) => {
        const ws = new WebSocket(`${own.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws');
        onTestFinished(() => ws.terminate());
        ws.on('unexpected-response', (_, res) => resolve(res.statusCode ?? 0));
        ws.on('error', () => undefined);
        ws.on('open', () => resolve(ws));
      });
    const [one, two] = [await upgrade(), await upgrade()];
    expect(await upgrade()).toBe(429);
    // One says who it is, the other goes: both places are free.
    (one as WebSocket).send('{"type":"connection_init"}');
    (two as WebSocket).terminate();
    await vi.waitFor(async () => expect(await upgrade()).toBeInstanceOf(WebSocket));
    await vi.waitFor(async () => expect(await upgrade()).toBeInstanceOf(WebSocket));
    expect(await upgrade()).toBe(429);
    // A handshake that fails holds none.
    const { hostname, port } = new URL(own.url);
    connect(Number(port), hostname).destroy();
  });
});

test('an event stream whose client is gone before it begins holds no place', async () => {
  const auth = headersOf(await someone(server.running.app));
  for (let i = 0; i < 4; i++) {
    const abort = new AbortController();
    const asked = fetch(server.url, {
      method: 'POST',
      signal: abort.signal,
      headers: { 'content-type': 'application/json', accept: 'text/event-stream', ...auth },
      body: JSON.stringify({ query: 'subscription { runEvents(id: "x") { __typename } }' }),
    });
    abort.abort();
    await expect(asked).rejects.toThrow(/abort/i);
  }
  await vi.waitFor(async () => {
    const answer = await http(server.url, {
      headers: { 'content-type': 'application/json', accept: 'text/event-stream', ...auth },
      body: JSON.stringify({ query: 'subscription { runEvents(id: "x") { __typename } }' }),
    });
    expect(answer.status).toBe(200);
  });
});
