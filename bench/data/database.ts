import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import pino from 'pino';
import { acquireEmbeddedPostgres } from '../../src/kernel/db/embedded/index.ts';
import { migrate } from '../../src/kernel/db/migrate.ts';
import { resolveStateDirs } from '../../src/kernel/db/state-dirs.ts';
import { jobQueues } from './queues.ts';
import { contendersSql } from './contenders-sql.ts';
import { fill } from './fill.ts';
import type { Shape } from './shape.ts';

const log = pino({ level: 'warn' });
const root = path.resolve(import.meta.dirname, '../..');

/** A PostgreSQL server. */
export interface Postgres {
  /** Of its database for administration. */
  readonly url: string;
  /** Of its first process, where it runs on this machine as far as we know. */
  readonly pid: number | null;
  release(): Promise<void>;
}

/** How long a server may take to end before it is started with other settings, milliseconds. */
const restartMs = 60_000;

/**
 * The given server, or an embedded one that keeps its data in the cache.
 * @throws when another process holds it with other settings
 */
export async function postgres(
  options: { url: string | undefined; cache: string; sharedBuffers: string },
  until = performance.now() + restartMs,
): Promise<Postgres> {
  if (options.url) return { url: options.url, pid: null, release: async () => undefined } satisfies Postgres;
  const dirs = await resolveStateDirs({ stateDir: path.join(options.cache, 'state') });
  const settings = { shared_buffers: options.sharedBuffers };
  const server = await acquireEmbeddedPostgres({ ...dirs, log, database: 'bench', settings });
  const client = new pg.Client({ connectionString: server.url });
  await client.connect();
  // For everybody the same: statements and caches are measured, not the disk.
  for (const [name, value] of [
    ['synchronous_commit', 'off'],
    ['max_wal_size', '4GB'],
    ['jit', 'off'],
    // The data is in memory: else the planner walks through rows of others where an index would be quicker.
    ['random_page_cost', '1.1'],
    ['shared_preload_libraries', 'pg_stat_statements'],
    // Counted only while somebody asks.
    ['pg_stat_statements.track', 'none'],
  ] as const)
    await client.query(`alter system set ${name} = '${value}'`);
  await client.query('select pg_reload_conf()');
  // What is set right now is not told as pending yet: what it has is asked for.
  const settled = await client.query(
    `select 1 where current_setting('shared_preload_libraries') like '%pg_stat_statements%'
     and pg_size_bytes(current_setting('shared_buffers')) = pg_size_bytes($1)`,
    [options.sharedBuffers],
  );
  await client.end();
  // It ends some time after its last holder: one that is met before has the settings of before.
  if (settled.rowCount === 0) {
    await server.release();
    if (performance.now() > until)
      throw new Error('Somebody else holds the database server of this cache: it must start anew');
    await delay(200);
    return postgres(options, until);
  }
  return { url: server.url, pid: server.pid, release: () => server.release() } satisfies Postgres;
}

/** Keeps a process on a core: all of its threads and children, and what they start later. */
export function pin(pid: number, core: number): void {
  const children = execFileSync('ps', ['-o', 'pid=', '--ppid', String(pid)], { encoding: 'utf8' });
  for (const one of [pid, ...children.split('\n').map(Number).filter(Boolean)]) {
    execFileSync('taskset', ['-acp', String(core), String(one)], { stdio: 'ignore' });
  }
}

export const databaseUrl = (server: string, name: string): string => {
  const url = new URL(server);
  url.pathname = `/${name}`;
  return url.href;
};

/** Runs statements on the server's own database. */
export async function admin(server: string, ...statements: readonly string[]): Promise<pg.QueryResult[]> {
  const client = new pg.Client({ connectionString: server });
  await client.connect();
  try {
    const results = [];
    for (const sql of statements) results.push(await client.query(sql));
    return results;
  } finally {
    await client.end();
  }
}

/** What the data is made by: another migration, or another rule, is other data. */
async function version(): Promise<string> {
  const hash = createHash('sha256');
  const migrations = path.join(root, 'prisma/migrations');
  for (const name of (await readdir(migrations)).toSorted()) {
    if (!name.includes('.')) hash.update(await readFile(path.join(migrations, name, 'migration.sql')));
  }
  for (const name of ['shape.ts', 'fill.ts', 'queues.ts', 'contenders-sql.ts']) {
    hash.update(await readFile(path.join(import.meta.dirname, name)));
  }
  return hash.digest('hex').slice(0, 10);
}

/** The data of a shape, made unless it is there. @returns the name of a database that nobody writes to */
export async function template(server: string, shape: Shape, tell: (what: string) => void): Promise<string> {
  const family = `bench_${String(shape.scale).replace('.', '_')}_`;
  const name = `${family}${await version()}`;
  const [found] = await admin(server, `select datname from pg_database where starts_with(datname, '${family}')`);
  const names = (found?.rows ?? []).map(({ datname }: { datname: string }) => datname);
  if (names.includes(name)) return name;
  for (const old of names.filter((one) => /_[0-9a-f]{10}(?:_draft)?$/.test(one))) {
    await admin(server, `drop database if exists ${old} with (force)`);
  }
  const draft = `${name}_draft`;
  await admin(server, `create database ${draft}`);
  const url = databaseUrl(server, draft);
  tell(`building the data, scale ${shape.scale}`);
  await migrate(url, { log });
  await jobQueues(url);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(contendersSql);
  await client.query('create extension if not exists pg_stat_statements').catch((error: unknown) => {
    tell(`SQL statements are not counted: ${error instanceof Error ? error.message : String(error)}`);
  });
  await client.end();
  // Nobody needs it after a crash.
  const outlives = (value: 'on' | 'off'): readonly string[] => [
    ...['fsync', 'full_page_writes'].map((name) => `alter system set ${name} = ${value}`),
    'select pg_reload_conf()',
  ];
  await admin(server, ...outlives('off'));
  try {
    await fill(url, shape, tell);
  } finally {
    await admin(server, ...outlives('on'), 'checkpoint');
  }
  await admin(server, `alter database ${draft} rename to ${name}`);
  return name;
}

/** A copy to work on, one for each scale. */
export async function workingCopy(server: string, of: string, { scale }: Shape): Promise<string> {
  const name = `bench_work_${String(scale).replace('.', '_')}`;
  await admin(
    server,
    `drop database if exists ${name} with (force)`,
    `create database ${name} template ${of} strategy file_copy`,
    'checkpoint',
  );
  return databaseUrl(server, name);
}
