import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { HttpServer } from '#kernel/http/server.ts';
import { allRoutes } from '#kernel/http/routes.ts';
import { post, http } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
/** One behind https. */
let secure: HttpServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' }, { graphiql: {} });
  secure = await httpServer(server.running.app, { publicUrl: 'https://switchyard.example.com', secureCookies: true });
});
afterAll(async () => {
  await secure.close(0);
  await server.stop();
});

/** What every answer has, whoever asks what. */
const everywhere = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'x-frame-options': 'DENY',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': expect.stringMatching(/camera=\(\).*microphone=\(\)/) as unknown,
  'cache-control': expect.stringContaining('no-store') as unknown,
};

/** What each method is answered without anything else that it would need. */
const statuses: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  '/graphql': { GET: 200, POST: 415, OPTIONS: 204, else: 405 },
  '/health/live': { else: 200 },
  '/health/ready': { else: 200 },
  '/metrics': { else: 200 },
  '/storage/x': { else: 404 },
  '/auth/sso/x': { GET: 302, else: 405 },
  '/auth/sso/x/callback': { GET: 400, else: 405 },
  '/auth/github': { GET: 302, else: 405 },
  '/auth/github/callback': { GET: 400, else: 405 },
  '/webhooks/github': { POST: 401, else: 405 },
  '/webhooks/github/x': { POST: 401, else: 405 },
  '/dev/mail': { GET: 200, else: 405 },
  '/': { else: 404 },
  '/nothing': { else: 404 },
  '//': { else: 400 },
};

const addresses = [...allRoutes().map(({ path }) => path.replace('*', 'x')), '/', '/nothing', '//'];
const methods = ['GET', 'POST', 'PUT', 'OPTIONS', 'HEAD', 'DELETE'];

describe.each(addresses)('%s', (address) => {
  test.each(methods)('%s', async (method) => {
    const answer = await http(`${new URL(server.url).origin}${address}`, { method });
    expect(answer.status).toBe(statuses[address]?.[method] ?? statuses[address]?.['else']);
    expect(answer.headers).toMatchObject(everywhere);
    expect(answer.headers['content-security-policy']).toMatch(/^(default-src 'none'|sandbox)/);
    expect(answer.headers['strict-transport-security']).toBeUndefined();
    const safe = await http(`http://127.0.0.1:${secure.port}${address}`, { method });
    expect(safe.headers).toMatchObject({ ...everywhere, 'strict-transport-security': 'max-age=31536000' });
  });
});

test('only GraphiQL, where it is served, may have scripts', async () => {
  const page = await http(server.url, { method: 'GET', headers: { accept: 'text/html' } });
  expect(page.text).toMatch(/<html/i);
  expect(page.headers['content-security-policy']).toMatch(/script-src 'self'/);
  for (const answer of [
    await http(`http://127.0.0.1:${secure.port}/graphql`, { method: 'GET', headers: { accept: 'text/html' } }),
    await http(`${new URL(server.url).origin}/health/live`, { method: 'GET', headers: { accept: 'text/html' } }),
    await post(server.url, { query: '{ __typename }' }, { accept: 'text/html,application/json' }),
    await post(server.url, { query: '{' }),
  ]) {
    expect(answer.headers['content-security-policy']).toBe(
      "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    );
  }
});

test('no address is served that nobody declared', async () => {
  const undeclared = { name: '/secret', matches: () => true, handle: async () => undefined };
  await expect(httpServer(server.running.app, { routes: [undeclared] })).rejects.toThrow(
    'Declare with defineRoute: /secret',
  );
});
