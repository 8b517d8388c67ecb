import { mkdtemp, rm, chmod } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { acquireEmbeddedPostgres } from '../../src/kernel/db/embedded/index.ts';
import { migrate } from '../../src/kernel/db/migrate.ts';
import { resolveStateDirs } from '../../src/kernel/db/state-dirs.ts';
import { createLogger } from '../../src/kernel/log.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** The test run's PostgreSQL, as its owner, without a database name. */
    postgresUrl: string;
  }
}

/** Name of the migrated database that every test's own is copied from. */
export const template = 'switchyard_template';

/** One PostgreSQL for the whole run, with a migrated template; every test file copies a database of its own from it. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const root = await mkdtemp(path.join(tmpdir(), 'switchyard-test-'));
  await chmod(root, 0o711);
  const dirs = await resolveStateDirs({ stateDir: path.join(root, 'state'), sharedDir: path.join(root, 'shared') });
  const log = createLogger('error');
  const server = await acquireEmbeddedPostgres({ ...dirs, log });
  const base = new URL(server.url);
  base.pathname = '/postgres';
  const admin = new pg.Client({ connectionString: base.href });
  await admin.connect();
  // Commits reach the operating system, which outlives every process that is killed here; only a machine that goes down
  // could lose them, and with it its tests.
  for (const setting of ['fsync', 'full_page_writes']) await admin.query(`alter system set ${setting} = off`);
  await admin.query('select pg_reload_conf()');
  await admin.query(`create database ${template}`);
  await admin.end();
  const templateUrl = new URL(base);
  templateUrl.pathname = `/${template}`;
  await migrate(templateUrl.href, { log });
  project.provide('postgresUrl', base.href);
  return async () => {
    await server.release();
    await rm(root, { recursive: true, force: true });
  };
}
