import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sessionCookieHeader } from '#kernel/http/credentials.ts';
import type { HttpServer } from '#kernel/http/server.ts';
import { person, type Person } from '../../support/actors.ts';
import { http, post } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

// What browsers do: cookies, other sites' pages, preflights, GraphiQL.

const friend = 'https://app.example.com';
const stranger = 'https://evil.example.net';
let server: TestServer;
/** One behind https that shows and allows as little as it can. */
let strict: HttpServer;
let closed: string;
let ada: Person;
let cookie: string;

const query = '{ viewer { id } }';
const signIn = 'mutation ($input: SignInInput!) { signIn(input: $input) { __typename } }';

beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', CORS_ORIGINS: `${friend},https://admin.example.com` });
  strict = await httpServer(server.running.app, {
    publicUrl: 'https://switchyard.example.com',
    secureCookies: true,
    graphql: { introspection: false, graphiql: null, persisted: null },
  });
  closed = `http://127.0.0.1:${strict.port}/graphql`;
  ada = await person(server.url);
  const input = { email: ada.email, password: 'correct horse battery staple' };
  const answer = await post(server.url, { query: signIn, variables: { input } });
  [cookie = ''] = (answer.headers['set-cookie'] ?? []).map((line) => line.split(';')[0] ?? '');
});
afterAll(async () => {
  await strict.close(1000);
  await server.stop();
});

describe('the session cookie', () => {
  test('is set for this site only, and not for scripts', async () => {
    const input = { email: ada.email, password: 'correct horse battery staple' };
    const answer = await post(server.url, { query: signIn, variables: { input } });
    expect(answer.headers['set-cookie']).toHaveLength(1);
    expect(answer.headers['set-cookie']?.[0]).toMatch(
      /^switchyard_session=[\w.-]+; Expires=[^;]+ GMT; Path=\/; HttpOnly; SameSite=Lax$/,
    );
  });
  test('is for https only where the server is', async () => {
    const someone = await person(closed);
    const input = { email: someone.email, password: 'correct horse battery staple' };
    const answer = await post(closed, { query: signIn, variables: { input } });
    const set = answer.headers['set-cookie']?.[0] ?? '';
    expect(set).toMatch(/^__Host-switchyard_session=[^;]+; Expires=[^;]+; Path=\/; HttpOnly; SameSite=Lax; Secure$/);
    // The other name can be set by a neighbour, or by whatever answers on this host without TLS.
    const own = set.split(';')[0] ?? '';
    const origin = 'https://switchyard.example.com';
    const as = async (sent: string) => (await post(closed, { query }, { cookie: sent, origin })).body;
    expect(await as(own)).toEqual({ data: { viewer: { id: someone.id } } });
    expect(await as(own.replace('__Host-', ''))).toEqual({ data: { viewer: null } });
    expect(sessionCookieHeader(null, true)).toMatch(/1970.*; HttpOnly; SameSite=Lax; Secure$/);
  });
  test('is cleared by signing out', async () => {
    // A session of its own: it ends.
    const input = { email: ada.email, password: 'correct horse battery staple' };
    const signedIn = await post(server.url, { query: signIn, variables: { input } });
    const own = (signedIn.headers['set-cookie'] ?? [])[0]?.split(';')[0] ?? '';
    const answer = await post(
      server.url,
      { query: 'mutation { signOut { __typename } }' },
      { cookie: own, origin: friend },
    );
    expect(answer.headers['set-cookie']?.[0]).toMatch(/^switchyard_session=; Expires=Thu, 01 Jan 1970/);
  });
  test('is not set by a refused sign-in', async () => {
    const answer = await post(server.url, {
      query: signIn,
      variables: { input: { email: ada.email, password: 'wrong' } },
    });
    expect([answer.body, answer.headers['set-cookie']]).toEqual([
      { data: { signIn: { __typename: 'SignInRefused' } } },
      undefined,
    ]);
  });

  type Headers = Record<string, string> | (() => Record<string, string>);
  const own = () => new URL(server.url).origin;
  const localhost = () => own().replace('127.0.0.1', 'localhost');
  const accepted: Record<string, Headers> = {
    'an allowed origin': { origin: friend },
    'its own origin': () => ({ origin: own() }),
    'its own origin by another name of this machine': () => ({ origin: localhost() }),
    'a page of its own, as the browser says': { 'sec-fetch-site': 'same-origin' },
    'the address bar': { 'sec-fetch-site': 'none' },
    'a client that preflights': { 'graphql-require-preflight': '1' },
  };
  const refused: Record<string, Headers> = {
    'another origin': { origin: stranger },
    'another origin that claims to preflight': { origin: stranger, 'graphql-require-preflight': '1' },
    'another origin that claims to be the same site': { origin: stranger, 'sec-fetch-site': 'same-origin' },
    'an allowed origin with something added': { origin: `${friend}.evil.example.net` },
    'an allowed origin without its scheme': { origin: friend.replace('https', 'http') },
    'no origin at all (a sandboxed frame)': { origin: 'null' },
    'another site': { 'sec-fetch-site': 'cross-site' },
    'a neighbour': { 'sec-fetch-site': 'same-site' },
    'nothing said (a form, an image)': {},
  };

  const of = (headers: Headers) => ({ cookie, ...(typeof headers === 'function' ? headers() : headers) });

  test.each(Object.entries(accepted))('counts from %s', async (_, given) => {
    const headers = of(given);
    const id = { data: { viewer: { id: ada.id } } };
    expect((await post(server.url, { query }, headers)).body).toEqual(id);
    const get = await http(`${server.url}?query=${encodeURIComponent(query)}`, {
      method: 'GET',
      headers: { accept: 'application/json', ...headers },
    });
    expect(get.body).toEqual(id);
  });
  test.each(Object.entries(refused))('is refused from %s', async (_, given) => {
    const headers = of(given);
    for (const answer of [
      await post(server.url, { query }, headers),
      await http(`${server.url}?query=${encodeURIComponent(query)}`, {
        method: 'GET',
        headers: { accept: 'application/json', ...headers },
      }),
    ]) {
      expect(answer.codes).toEqual(['CSRF_REFUSED']);
      expect(answer.text).not.toContain(ada.id);
    }
  });
  test('of another site does not start a stream', async () => {
    const text = `subscription { workspaceEvents(workspaceId: "x") { __typename } }`;
    const answer = await http(`${server.url}?query=${encodeURIComponent(text)}`, {
      method: 'GET',
      headers: { cookie, accept: 'text/event-stream', 'sec-fetch-site': 'cross-site' },
    });
    expect(answer.text).toContain('CSRF_REFUSED');
  });
  test('does not stand in the way of another credential', async () => {
    const answer = await post(
      server.url,
      { query },
      { cookie, origin: stranger, authorization: `Bearer ${ada.token}` },
    );
    expect(answer.body).toEqual({ data: { viewer: { id: ada.id } } });
  });
  test('that is broken is refused, among others it is found', async () => {
    expect((await post(server.url, { query }, { cookie: 'switchyard_session=x', origin: friend })).codes).toEqual([
      'UNAUTHENTICATED',
    ]);
    const answer = await post(server.url, { query }, { cookie: `a=b; =; ${cookie}; c`, origin: friend });
    expect(answer.codes).toEqual([]);
  });
});

describe('CORS', () => {
  const preflight = (url: string, origin: string) =>
    http(url, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type' },
    });

  test('an allowed origin may, with credentials', async () => {
    const { headers } = await preflight(server.url, friend);
    expect(headers['access-control-allow-origin']).toBe(friend);
    expect(headers['access-control-allow-credentials']).toBe('true');
    expect(headers['access-control-allow-headers']).toMatch(/Content-Type/);
    expect(headers['vary']).toMatch(/origin/i);
    const answer = await post(server.url, { query }, { origin: friend });
    expect(answer.headers['access-control-allow-origin']).toBe(friend);
    expect(answer.headers['access-control-expose-headers']).toMatch(/X-Request-Id/i);
  });
  test.each([stranger, 'null', `${friend}.evil.example.net`])('%s may not', async (origin) => {
    for (const { headers } of [await preflight(server.url, origin), await post(server.url, { query }, { origin })])
      expect(headers['access-control-allow-origin']).not.toBe(origin);
  });
  test('nobody may where nothing is configured', async () => {
    for (const { headers } of [await preflight(closed, friend), await post(closed, { query }, { origin: friend })])
      expect(Object.keys(headers).filter((name) => name.startsWith('access-control-'))).toEqual([]);
  });
});

describe('GraphiQL', () => {
  const page = (url: string) => http(url, { method: 'GET', headers: { accept: 'text/html' } });

  test('is a page that loads nothing from elsewhere', async () => {
    const { status, headers, text } = await page(server.url);
    expect([status, headers['content-type']]).toEqual([200, expect.stringMatching(/^text\/html/)]);
    const tags = text.replaceAll(/(<script\b[^>]*>)[^]*?<\/script>/g, '$1');
    const loaded = [...tags.matchAll(/<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)\s*=\s*["']?([^"'\s>]+)/gi)].map(
      ([, address]) => address,
    );
    expect(loaded.filter((address) => !address?.startsWith('data:'))).toEqual([]);
    // The browser sees to the rest.
    const policy = String(headers['content-security-policy']);
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toMatch(/https?:/);
  });
  test('is not served when it is switched off, and neither is the schema', async () => {
    const { text } = await page(closed);
    expect(text).not.toMatch(/<html/i);
    for (const asked of [
      '{ __schema { types { name } } }',
      '{ __type(name: "Query") { name } }',
      '{ viewer { id } __schema { types { name } } }',
    ]) {
      const answer = await post(closed, { query: asked });
      expect(answer.codes.every((code) => code === 'GRAPHQL_VALIDATION_FAILED')).toBe(true);
      expect(answer.codes.length).toBeGreaterThan(0);
      expect(answer.body).not.toHaveProperty('data.__schema');
    }
    // Not by guessing either.
    const guess = await post(closed, { query: '{ viewe { id } }' });
    expect(guess.text).not.toContain('viewer');
    expect((await post(closed, { query: '{ __typename }' })).body).toEqual({ data: { __typename: 'Query' } });
  });
});
