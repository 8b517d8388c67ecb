import { execFile } from 'node:child_process';
import { appendFile, cp, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { acquireEmbeddedPostgres, type EmbeddedPostgres } from '../../../src/kernel/db/embedded/index.ts';
import {
  migrate,
  MigrationEdited,
  MigrationFailed,
  MigrationNotAtomic,
  MigrationUnresolved,
} from '../../../src/kernel/db/migrate.ts';
import { createLogger } from '../../../src/kernel/log.ts';
import { suiteStateDirs, temporaryFolder } from '../../support/embedded.ts';

vi.setConfig({ testTimeout: 30_000, hookTimeout: 30_000 });

const root = fileURLToPath(new URL('../../..', import.meta.url));
const fixture = path.join(root, 'test/fixtures/migrations');
const names = ['20260101000000_init', '20260102000000_add_note'];
const log = createLogger('silent');

let server: EmbeddedPostgres;
let dirs: Awaited<ReturnType<typeof suiteStateDirs>>;
let databases = 0;

beforeAll(async () => {
  dirs = await suiteStateDirs();
  server = await acquireEmbeddedPostgres({ ...dirs, log });
});
afterAll(async () => {
  await server.release();
  await dirs.remove();
});

/** An empty database, and a copy of the fixture's folder of migrations. */
async function setUp(): Promise<{ url: string; dir: string }> {
  const lease = await acquireEmbeddedPostgres({ ...dirs, log, database: `test_${++databases}` });
  await lease.release();
  const dir = path.join(await temporaryFolder(), 'migrations');
  await cp(path.join(fixture, 'migrations'), dir, { recursive: true });
  return { url: lease.url, dir };
}

async function addMigration(dir: string, name: string, sql: string): Promise<void> {
  await mkdir(path.join(dir, name));
  await writeFile(path.join(dir, name, 'migration.sql'), sql);
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}

test('applies what is missing, in order, once', async () => {
  const { url, dir } = await setUp();
  expect(await migrate(url, { dir, log })).toEqual(names);
  expect(await query(url, 'SELECT id, note FROM thing')).toEqual([]);
  expect(await migrate(url, { dir, log })).toEqual([]);
  await addMigration(dir, '20260103000000_nothing', '-- this is an empty migration\n');
  await addMigration(dir, '20260104000000_empty', '');
  expect(await migrate(url, { dir, log })).toEqual(['20260103000000_nothing', '20260104000000_empty']);
  expect(await migrate(url, { dir, log })).toEqual([]);
});

test('of several processes at once each migration is applied by one', async () => {
  const { url, dir } = await setUp();
  const applied = await Promise.all([1, 2, 3, 4].map(() => migrate(url, { dir, log })));
  expect(applied.flat().toSorted()).toEqual(names);
});

test('leaves a database alone that a later version has migrated', async () => {
  const { url, dir } = await setUp();
  await addMigration(dir, '20990101000000_later', 'CREATE TABLE later ()');
  await migrate(url, { dir, log });
  expect(await migrate(url, { dir: path.join(fixture, 'migrations'), log })).toEqual([]);
});

test('refuses a migration that was edited after it was applied', async () => {
  const { url, dir } = await setUp();
  await migrate(url, { dir, log });
  await appendFile(path.join(dir, names[0] ?? '', 'migration.sql'), 'CREATE TABLE more ();');
  const failure = migrate(url, { dir, log });
  await expect(failure).rejects.toThrow(MigrationEdited);
  await expect(failure).rejects.toMatchObject({ migration: names[0] });
});

test('a migration that fails leaves nothing of itself, and the earlier ones', async () => {
  const { url, dir } = await setUp();
  const broken = '20260103000000_broken';
  await addMigration(dir, broken, 'CREATE TABLE half (); INSERT INTO thing VALUES (1); SELECT nonsense;');
  const failure = migrate(url, { dir, log });
  await expect(failure).rejects.toThrow(MigrationFailed);
  await expect(failure).rejects.toThrow(/20260103000000_broken.*"nonsense" does not exist/);
  expect(await query(url, "SELECT to_regclass('half') AS half, (SELECT count(*)::int FROM thing) AS things")).toEqual([
    { half: null, things: 0 },
  ]);
  await writeFile(path.join(dir, broken, 'migration.sql'), 'CREATE TABLE whole ();');
  expect(await migrate(url, { dir, log })).toEqual([broken]);
});

test('refuses a migration that ends its own transaction', async () => {
  const { url, dir } = await setUp();
  await addMigration(dir, '20260103000000_commits', 'CREATE TABLE half (); COMMIT; SELECT nonsense;');
  await expect(migrate(url, { dir, log })).rejects.toThrow(MigrationNotAtomic);
});

test("refuses to go on after what Prisma's own tool left unfinished", async () => {
  const { url, dir } = await setUp();
  await migrate(url, { dir, log });
  await query(url, "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('x', 'x', 'by_prisma')");
  await expect(migrate(url, { dir, log })).rejects.toThrow(MigrationUnresolved);
  await query(url, "UPDATE _prisma_migrations SET rolled_back_at = now() WHERE id = 'x'");
  expect(await migrate(url, { dir, log })).toEqual([]);
});

test("Prisma's own tool agrees with the records", async () => {
  const { url, dir } = await setUp();
  await migrate(url, { dir, log });
  const bin = path.join(root, 'node_modules/.bin');
  const { stdout } = await promisify(execFile)(path.join(bin, 'prisma'), ['migrate', 'status'], {
    cwd: fixture,
    env: {
      PATH: `${bin}:/usr/bin:/bin`,
      HOME: dir,
      DATABASE_URL: url,
      PRISMA_SCHEMA_ENGINE_BINARY: path.join(root, 'tools/schema-engine.mjs'),
    },
  });
  expect(stdout).toContain('2 migrations found');
  expect(stdout).toContain('Database schema is up to date!');
});
