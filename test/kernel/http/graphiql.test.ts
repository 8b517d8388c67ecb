import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { globalId } from '#kernel/graphql/global-id.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { nodeOf, tenant, type Tenant } from '../../support/world.ts';

// GraphiQL in a real browser, offline: it loads, and a subscription in it works over WebSocket by the session cookie.

const installed = spawnSync('chromedriver', ['--version']).status === 0;
const wanted = process.env['SWITCHYARD_TEST_REQUIRE'] !== undefined;

let server: TestServer;
let of: Tenant;
let driver: ChildProcess;
let base: string;
let profile: string;
let session = '';

/** @see https://www.w3.org/TR/webdriver2/ */
async function webdriver<T>(method: string, command: string, body?: object): Promise<T> {
  const response = await fetch(`${base}${command}`, { method, ...(body ? { body: JSON.stringify(body) } : {}) });
  const { value } = (await response.json()) as { value: T & { error?: string; message?: string } };
  if (!response.ok) throw new Error(`${value.error}: ${value.message}`);
  return value;
}
const script = <T>(text: string): Promise<T> =>
  webdriver('POST', `/session/${session}/execute/sync`, { script: text, args: [] });

beforeAll(async () => {
  if (!installed) return;
  server = await startTestServer(
    { SWITCHYARD_ROLES: 'api' },
    {
      graphiql: {
        defaultQuery: `subscription ($id: ID!) { runEvents(id: $id) { __typename ... on Event { seq type } } }`,
      },
    },
  );
  of = await tenant(server.running.app, 'graphiql');
  const free = createServer().listen(0, '127.0.0.1');
  await once(free, 'listening');
  const { port } = free.address() as AddressInfo;
  free.close();
  await once(free, 'close');
  base = `http://127.0.0.1:${port}`;
  driver = spawn('chromedriver', [`--port=${port}`], { stdio: 'ignore' });
  profile = await mkdtemp(path.join(tmpdir(), 'switchyard-test-'));
  await vi.waitFor(() => webdriver('GET', '/status'), { timeout: 20_000 });
  const args = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    `--user-data-dir=${profile}`,
  ];
  const capabilities = { alwaysMatch: { 'goog:chromeOptions': { args }, 'goog:loggingPrefs': { browser: 'ALL' } } };
  ({ sessionId: session } = await webdriver<{ sessionId: string }>('POST', '/session', { capabilities }));
});
afterAll(async () => {
  if (!installed) return;
  await webdriver('DELETE', `/session/${session}`);
  const gone = once(driver, 'exit');
  driver.kill();
  await gone;
  await server.stop();
  await rm(profile, { recursive: true, force: true });
});

test('a subscription runs in GraphiQL', async ({ skip }) => {
  if (!installed && wanted) throw new Error('chromedriver is not installed');
  skip(!installed, 'chromedriver is not installed');
  await webdriver('POST', `/session/${session}/url`, { url: `${new URL(server.url).origin}/health/live` });
  await webdriver('POST', `/session/${session}/cookie`, {
    cookie: { name: 'switchyard_session', value: of.owner.token, path: '/', httpOnly: true, sameSite: 'Lax' },
  });
  const id = await nodeOf(server.running.app, of, 'Deployment');
  const variables = encodeURIComponent(JSON.stringify({ id }));
  await webdriver('POST', `/session/${session}/url`, { url: `${server.url}?variables=${variables}` });
  await vi.waitFor(
    async () => {
      await script(`document.querySelector('.graphiql-execute-button').click()`);
      const answer = await script<string>(`return document.querySelector('.result-window')?.textContent ?? ''`);
      expect(answer.replaceAll(/\s/g, '')).toContain('"type":"deployment.');
    },
    { timeout: 40_000, interval: 1000 },
  );
  // It was the WebSocket that carried it, for the person whose cookie it is.
  expect(globalId('User', of.owner.id)).toBeTruthy();
  const log = await webdriver<{ level: string; message: string }[]>('POST', `/session/${session}/se/log`, {
    type: 'browser',
  });
  expect(log.filter(({ message }) => /Content Security Policy|net::ERR/.test(message))).toEqual([]);
});
