import { randomBytes } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Client } from 'pg';
import { afterEach, expect, test } from 'vitest';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { loadConfig } from '../../../src/config.ts';
import { start } from '../../../src/start.ts';
import { temporaryFolder } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

const context = 'test.value:1';
const worker = { SWITCHYARD_ROLES: 'worker', SWITCHYARD_PROCESS_DRIVER: 'false' };
const key = () => randomBytes(32).toString('base64');

const servers: TestServer[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop();
});
async function started(env: Readonly<Record<string, string>>): Promise<TestServer> {
  const server = await startTestServer({ ...worker, ...env });
  servers.push(server);
  return server;
}

test('without keys one is generated for this host alone, and found again', async () => {
  const server = await started({});
  const sealing = server.running.app.use(Sealing);
  expect(sealing.currentKey).toMatch(/^local-[0-9a-f]{8}$/);
  const sealed = await sealing.seal('secret', context);
  const folder = path.join(server.stateDir, 'secrets');
  expect(await readdir(folder)).toContain('encryption');
  expect((await stat(path.join(folder, 'encryption'))).mode & 0o777).toBe(0o600);
  await server.running.stop();
  const again = await start(loadConfig({ ...server.env }));
  try {
    expect(await again.app.use(Sealing).openText(sealed, context)).toBe('secret');
  } finally {
    await again.stop();
  }
  // The way from there to keys of one's own, as the runbook tells it.
  const generated = await readFile(path.join(folder, 'encryption'), 'utf8');
  const next = await started({ SWITCHYARD_ENCRYPTION_KEYS: `k1:${key()},${sealing.currentKey}:${generated}` });
  expect(next.running.app.use(Sealing).currentKey).toBe('k1');
  expect(await next.running.app.use(Sealing).openText(sealed, context)).toBe('secret');
});

test('keys come from a file as it is mounted, a key a line', async () => {
  const file = path.join(await temporaryFolder(), 'keys');
  await writeFile(file, `k2:${key()}\nk1:${key()}\n`);
  const sealing = (await started({ SWITCHYARD_ENCRYPTION_KEYS_FILE: file })).running.app.use(Sealing);
  expect([sealing.currentKey, sealing.knowsKey('k1'), sealing.knowsKey('k3')]).toEqual(['k2', true, false]);
});

test.each([
  ['no keys', 'hunter2hunter2hunter2hunter2'],
  ['a key that is too short', 'k1:aHVudGVyMmh1bnRlcjI='],
  ['nothing', ''],
])('a file with %s ends the start, and the error names the file and no key', async (_, text) => {
  const file = path.join(await temporaryFolder(), 'keys');
  await writeFile(file, text);
  const failed = started({ SWITCHYARD_ENCRYPTION_KEYS_FILE: file });
  await expect(failed).rejects.toThrow(file);
  await expect(failed).rejects.not.toThrow(/hunter2|aHVudGVy/);
});

test('nobody waits for the look at the keys of what is sealed', async () => {
  const { database } = await started({});
  const holder = new Client({ connectionString: database.url });
  await holder.connect();
  try {
    await holder.query('begin; lock table sso_connection in access exclusive mode');
    const server = await startTestServer({ ...worker, SWITCHYARD_ROLES: 'api' }, {}, database);
    servers.unshift(server);
    expect((await fetch(server.url.replace('/graphql', '/health/live'))).status).toBe(200);
  } finally {
    await holder.end();
  }
});

test('a file that is not there ends the start', async () => {
  await expect(started({ SWITCHYARD_ENCRYPTION_KEYS_FILE: '/nowhere/keys' })).rejects.toThrow('/nowhere/keys');
});
