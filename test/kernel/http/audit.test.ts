import { auditServer } from 'graphql-http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { person } from '../../support/actors.ts';
import { headersOf } from '../../support/client.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
});
afterAll(() => server.stop());

/** Names of the audits that are not passed, and how many there were. */
async function audit(headers: Record<string, string>) {
  const results = await auditServer({
    url: server.url,
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
test('GraphQL over HTTP: every audit passes, signed in or not', async () => {
  expect(await audit({})).toEqual({ count: 61, missed: [] });
  expect(await audit(headersOf(await person(server.url)))).toEqual({ count: 61, missed: [] });
});
