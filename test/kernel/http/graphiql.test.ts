import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { freePort, locate, type Counterpart } from '../../support/counterparts.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { nodeOf, tenant, type Tenant } from '../../support/world.ts';

// GraphiQL in a real browser, offline: it loads, and a subscription in it works over WebSocket by the session cookie.

const chromedriver: Counterpart = { program: 'chromedriver', package: 'chromium chromium-driver' };
const installed = spawnSync('chromedriver', ['--version']).status === 0;

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
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' }, { graphiql: {} });
  of = await tenant(server.running.app, 'graphiql');
  const port = await freePort();
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

test('a subscription runs in GraphiQL', async (context) => {
  await locate(chromedriver, context);
  await webdriver('POST', `/session/${session}/url`, { url: `${new URL(server.url).origin}/health/live` });
  await webdriver('POST', `/session/${session}/cookie`, {
    cookie: { name: 'switchyard_session', value: of.owner.token, path: '/', httpOnly: true, sameSite: 'Lax' },
  });
  const id = await nodeOf(server.running.app, of, 'Deployment');
  const query = `subscription { runEvents(id: "${id}") { __typename ... on Event { seq type } } }`;
  await webdriver('POST', `/session/${session}/url`, { url: `${server.url}?query=${encodeURIComponent(query)}` });

  const fetched = `performance.getEntriesByType('resource').filter((one) => one.initiatorType === 'fetch').length`;
  // Loaded, with the query in its editor and the schema fetched.
  await vi.waitFor(
    async () => {
      const page = await script<{ query: string; fetched: number }>(
        `return { query: document.querySelector('.graphiql-editor')?.textContent ?? '', fetched: ${fetched} }`,
      );
      expect(page).toEqual({ query: expect.stringContaining('runEvents'), fetched: 1 });
    },
    { timeout: 40_000, interval: 200 },
  );
  await script(`document.querySelector('.graphiql-execute-button').click()`);
  await vi.waitFor(
    async () => {
      const answer = await script<string>(`return document.querySelector('.result-window')?.textContent ?? ''`);
      expect(answer.replaceAll(/\s/g, '')).toContain('"type":"deployment.');
    },
    { timeout: 40_000, interval: 200 },
  );
  // It was the WebSocket that carried it.
  expect(await script<number>(`return ${fetched}`)).toBe(1);
  const log = await webdriver<{ message: string }[]>('POST', `/session/${session}/se/log`, { type: 'browser' });
  expect(log.filter(({ message }) => /Content Security Policy|net::ERR/.test(message))).toEqual([]);
});
