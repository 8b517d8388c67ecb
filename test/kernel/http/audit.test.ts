import { auditServer } from 'graphql-http';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { person } from '../../support/actors.ts';
import { headersOf } from '../../support/client.ts';
import { httpServer } from '../../support/http-server.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
});
afterAll(() => server.stop());

/** Names of the audits that are not passed, and how many there were. */
async function audit(url: string, headers: Record<string, string>) {
  const results = await auditServer({
    url,
    fetchFn: (url: string, init?: RequestInit) =>
      fetch(url, { ...init, headers: { ...(init?.headers as Record<string, string> | undefined), ...headers } }),
  });
  return {
    count: results.length,
    missed: results.flatMap((result) =>
      result.status === 'ok' ? [] : [`${result.status} ${result.name}: ${result.reason}`],
    ),
  };
}

/** @see https://graphql.github.io/graphql-over-http/ */
test('GraphQL over HTTP: every audit passes, signed in or not, by the short way and by the long one', async () => {
  const all = { count: 61, missed: [] };
  const someone = headersOf(await person(server.url));
  expect(await audit(server.url, {})).toEqual(all);
  expect(await audit(server.url, someone)).toEqual(all);
  const long = await httpServer(server.running.app, { front: false });
  onTestFinished(() => long.close(0));
  expect(await audit(`${long.url}/graphql`, someone)).toEqual(all);
});
