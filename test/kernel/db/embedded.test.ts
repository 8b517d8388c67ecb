import { chown, mkdir, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from 'pg';
import { expect, onTestFinished, test, vi } from 'vitest';
import { acquireEmbeddedPostgres, EmbeddedPostgresFailed } from '../../../src/kernel/db/embedded/index.ts';
import { tryLock } from '../../../src/kernel/db/embedded/lock.ts';
import { reachableBy, shareExecutable } from '../../../src/kernel/db/state-dirs.ts';
import { createLogger } from '../../../src/kernel/log.ts';
import { asRoot, Holder, processesNaming, temporaryFolder, temporaryStateDirs, until } from '../../support/embedded.ts';

vi.setConfig({ testTimeout: 30_000 });

const root = fileURLToPath(new URL('../../..', import.meta.url));
const log = createLogger('silent');
const nobody = { uid: 65534, gid: 65534 };

async function ask(url: string, sql = 'SELECT version() AS answer'): Promise<unknown> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ answer: unknown }>(sql);
    return rows[0]?.answer;
  } finally {
    await client.end();
  }
}

const mode = async (file: string) => (await stat(file)).mode & 0o777;

const nothingRuns = (folder: string) =>
  until(`nothing runs in ${folder}`, async () => (await processesNaming(folder)).length === 0);

test('starts cold, is adopted, stops with the last lease, starts warm with the same data and port', async () => {
  const dirs = await temporaryStateDirs();
  const cold = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(cold.adopted).toBe(false);
  expect(await ask(cold.url)).toContain('PostgreSQL 18');
  await ask(cold.url, 'CREATE TABLE kept AS SELECT 42 AS answer');

  const adopted = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(adopted).toMatchObject({ adopted: true, pid: cold.pid, url: cold.url });
  await cold.release();
  expect(await ask(adopted.url, 'SELECT answer FROM kept')).toBe(42);
  await adopted.release();
  await nothingRuns(dirs.sharedDir);

  const warm = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(warm).toMatchObject({ adopted: false, port: cold.port });
  expect(await ask(warm.url, 'SELECT answer FROM kept')).toBe(42);
  await warm.release();
  await nothingRuns(dirs.sharedDir);
});

test('keeps secrets to this user, and refuses a wrong password', async () => {
  const dirs = await temporaryStateDirs();
  const postgres = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(await mode(dirs.stateDir)).toBe(0o700);
  expect(await mode(path.join(dirs.stateDir, 'pg18/password'))).toBe(0o600);
  expect(await mode(path.join(dirs.sharedDir, 'pg18/data'))).toBe(0o700);
  const wrong = new URL(postgres.url);
  wrong.password = 'wrong';
  await expect(ask(wrong.href)).rejects.toThrow('password authentication failed');
  expect(await ask(postgres.url, "SELECT current_setting('listen_addresses') AS answer")).toBe('127.0.0.1');
  const server = await stat(`/proc/${postgres.pid}`);
  expect(server.uid).not.toBe(0);
  expect((await stat(path.join(dirs.sharedDir, 'pg18/data'))).uid).toBe(server.uid);
  await postgres.release();
});

test('makes the named database, and takes the socket elsewhere when the path is too long for one', async () => {
  const folder = path.join(await temporaryFolder(), 'a-long-name-'.repeat(9), 'state');
  await mkdir(path.dirname(folder));
  const dirs = { stateDir: folder, sharedDir: `${folder}.shared` };
  const [first, second] = await Promise.all([
    acquireEmbeddedPostgres({ ...dirs, log, database: 'one' }),
    acquireEmbeddedPostgres({ ...dirs, log, database: 'T"wo' }),
  ]);
  expect(await ask(first.url, 'SELECT current_database() AS answer')).toBe('one');
  expect(await ask(second.url, 'SELECT current_database() AS answer')).toBe('T"wo');
  await Promise.all([first.release(), second.release()]);
  await nothingRuns(dirs.sharedDir);
});

test('two processes that start at once share one server', async () => {
  const dirs = await temporaryStateDirs();
  const holders = [new Holder(dirs), new Holder(dirs), new Holder(dirs)];
  const acquired = await Promise.all(holders.map((holder) => holder.hear('acquired')));
  expect(new Set(acquired.map(({ pid }) => pid)).size).toBe(1);
  expect(acquired.filter(({ adopted }) => !adopted)).toHaveLength(1);
  for (const holder of holders) holder.kill();
  await nothingRuns(dirs.sharedDir);
});

test('takes another port when somebody has the remembered one', async () => {
  const dirs = await temporaryStateDirs();
  const before = await acquireEmbeddedPostgres({ ...dirs, log });
  await before.release();
  const squatter = createServer();
  await new Promise<void>((resolve) => squatter.listen(before.port, '127.0.0.1', () => resolve()));
  onTestFinished(() => void squatter.close());
  const after = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(after.port).not.toBe(before.port);
  expect(after.port).toBeLessThan(32768);
  expect(await ask(after.url)).toContain('PostgreSQL 18');
  await after.release();
});

test('a server that cannot start says why', async () => {
  const dirs = await temporaryStateDirs();
  await (await acquireEmbeddedPostgres({ ...dirs, log })).release();
  await rm(path.join(dirs.sharedDir, 'pg18/data/global/pg_control'));
  const failure = acquireEmbeddedPostgres({ ...dirs, log });
  await expect(failure).rejects.toThrow(EmbeddedPostgresFailed);
  await expect(failure).rejects.toThrow('pg_control');
  await nothingRuns(dirs.sharedDir);
});

test('a lock has one holder at a time', async () => {
  const file = path.join(await temporaryFolder(), 'lock');
  const unlock = tryLock(file);
  expect(unlock).toBeDefined();
  expect(tryLock(file)).toBeUndefined();
  unlock?.();
  tryLock(file)?.();
});

test('works for a user who is not root', async (context) => {
  if (!asRoot) context.skip('this is not root: every other test shows it');
  const program = path.join(root, 'test/support/embedded-holder.ts');
  const folder = await temporaryFolder();
  const home = path.join(folder, 'home');
  await mkdir(home);
  await chown(home, nobody.uid, nobody.gid);
  if (!(await reachableBy(path.dirname(program), nobody))) {
    context.skip('another user cannot reach this checkout');
  }
  const dirs = { stateDir: path.join(home, 'state'), sharedDir: path.join(home, 'state/shared') };
  const node = await shareExecutable(process.execPath, folder);
  const holder = new Holder(dirs, { ...nobody, node });
  const { pid } = await holder.hear('acquired');
  expect((await stat(`/proc/${pid}`)).uid).toBe(nobody.uid);
  holder.do('query');
  expect(await holder.hear('answer')).toBe(1);
  holder.do('release');
  await holder.hear('released');
  holder.kill();
  await nothingRuns(home);
});
