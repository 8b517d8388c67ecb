import { createHash, randomUUID } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client, DatabaseError } from 'pg';
import type { Logger } from '../log.ts';
import { errorCode } from './state-dirs.ts';

/** The key of the advisory lock that `prisma migrate` takes, so that it and we wait for each other. */
const prismaLock = 72707369;
const lockTimeoutS = 120;

/** The database cannot be brought to this version's schema. */
export abstract class MigrationError extends Error {
  /** The folder below prisma/migrations. */
  readonly migration: string;
  constructor(migration: string, problem: string, options?: ErrorOptions) {
    super(`The migration ${migration} ${problem}`, options);
    this.migration = migration;
  }
}

/** The file is not the one that was applied. */
export class MigrationEdited extends MigrationError {
  constructor(migration: string) {
    super(
      migration,
      'was edited after it was applied to this database: restore the file, and change the schema by a new one.',
    );
  }
}

/** Prisma's own tool has recorded a failure that nobody has resolved yet. */
export class MigrationUnresolved extends MigrationError {
  constructor(migration: string) {
    super(migration, 'failed earlier or was interrupted: see `prisma migrate resolve`.');
  }
}

/** PostgreSQL refused the migration; nothing of it was kept. */
export class MigrationFailed extends MigrationError {
  constructor(migration: string, cause: Error) {
    const detail = cause instanceof DatabaseError && cause.detail ? ` (${cause.detail})` : '';
    super(migration, `failed, and nothing of it was kept: ${cause.message}${detail}`, { cause });
  }
}

/** It ends its own transaction, so that a failure would leave half of it. */
export class MigrationNotAtomic extends MigrationError {
  constructor(migration: string, options?: ErrorOptions) {
    super(migration, 'must not contain COMMIT or ROLLBACK; parts of it may have been kept.', options);
  }
}

/** Another process has been migrating for too long. */
export class MigrationLockTimeout extends Error {
  constructor(cause: Error) {
    super(`Another process has held the migration lock for more than ${lockTimeoutS} s.`, { cause });
  }
}

interface Migration {
  readonly name: string;
  readonly sql: string;
  /** SHA-256 of the file, as hexadecimal digits. */
  readonly checksum: string;
}

const ownMigrations = fileURLToPath(new URL('../../../prisma/migrations', import.meta.url));

/**
 * Brings a database to this version's schema: applies the migrations that it lacks, each in one transaction, in the
 * order of their names. It keeps Prisma's own records under Prisma's lock, so that `prisma migrate` can take over, but
 * needs none of its tools. Safe in many processes at once. A database that is ahead is left alone.
 * @param directUrl a connection that is not pooled per transaction: the lock belongs to the session
 * @param options.dir folder of `<name>/migration.sql`; by default that of this version
 * @returns the names of those that were applied now
 * @throws {MigrationError} one class per cause
 * @throws {MigrationLockTimeout}
 * @see https://www.prisma.io/docs/orm/prisma-migrate/understanding-prisma-migrate/mental-model
 */
export async function migrate(directUrl: string, options: { dir?: string; log: Logger }): Promise<string[]> {
  const migrations = await readMigrations(options.dir ?? ownMigrations);
  const client = new Client({ connectionString: directUrl });
  await client.connect();
  try {
    const before = await readRecords(client);
    // What is unfinished without the lock may be another process's work of this moment.
    if (before.every((record) => record.finished) && missing(migrations, before).length === 0) return [];
    await lock(client);
    await client.query(
      'CREATE TABLE IF NOT EXISTS _prisma_migrations (' +
        'id VARCHAR(36) PRIMARY KEY NOT NULL, checksum VARCHAR(64) NOT NULL, finished_at TIMESTAMPTZ, ' +
        'migration_name VARCHAR(255) NOT NULL, logs TEXT, rolled_back_at TIMESTAMPTZ, ' +
        'started_at TIMESTAMPTZ NOT NULL DEFAULT now(), applied_steps_count INTEGER NOT NULL DEFAULT 0)',
    );
    const applied: string[] = [];
    for (const migration of missing(migrations, await readRecords(client))) {
      const startedAt = performance.now();
      await apply(client, migration);
      applied.push(migration.name);
      options.log.info(
        { migration: migration.name, durationMs: Math.round(performance.now() - startedAt) },
        'applied a migration',
      );
    }
    return applied;
  } finally {
    // The end of the session ends the lock.
    await client.end();
  }
}

async function readMigrations(dir: string): Promise<Migration[]> {
  const names = (await readdir(dir, { withFileTypes: true })).filter((entry) => entry.isDirectory());
  const migrations = await Promise.all(names.map(({ name }) => readMigration(dir, name)));
  return migrations.filter((migration) => migration !== undefined).toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

async function readMigration(dir: string, name: string): Promise<Migration | undefined> {
  try {
    const sql = await readFile(path.join(dir, name, 'migration.sql'), 'utf8');
    return { name, sql, checksum: createHash('sha256').update(sql).digest('hex') };
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

interface AppliedMigration {
  readonly name: string;
  readonly checksum: string;
  readonly finished: boolean;
}

async function readRecords(client: Client): Promise<AppliedMigration[]> {
  const { rows: tables } = await client.query<{ present: boolean }>(
    "SELECT to_regclass('_prisma_migrations') IS NOT NULL AS present",
  );
  if (!tables[0]?.present) return [];
  const { rows } = await client.query<AppliedMigration>(
    'SELECT migration_name AS name, checksum, finished_at IS NOT NULL AS finished ' +
      'FROM _prisma_migrations WHERE rolled_back_at IS NULL',
  );
  return rows;
}

function missing(migrations: Migration[], records: AppliedMigration[]): Migration[] {
  const unresolved = records.find((record) => !record.finished);
  if (unresolved) throw new MigrationUnresolved(unresolved.name);
  const checksums = new Map(records.map((record) => [record.name, record.checksum]));
  return migrations.filter(({ name, checksum }) => {
    const recorded = checksums.get(name);
    if (recorded !== undefined && recorded !== checksum) throw new MigrationEdited(name);
    return recorded === undefined;
  });
}

async function lock(client: Client): Promise<void> {
  await client.query(`SET lock_timeout = '${lockTimeoutS}s'`);
  try {
    await client.query('SELECT pg_advisory_lock($1)', [prismaLock]);
  } catch (error) {
    if (error instanceof DatabaseError && error.code === '55P03') throw new MigrationLockTimeout(error);
    throw error;
  }
  await client.query('RESET lock_timeout');
}

async function apply(client: Client, { name, sql, checksum }: Migration): Promise<void> {
  await client.query('BEGIN');
  const transaction = await currentTransaction(client);
  try {
    await client.query(sql);
    if ((await currentTransaction(client)) !== transaction) throw new MigrationNotAtomic(name);
    await client.query(
      'INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at, finished_at, applied_steps_count) ' +
        'VALUES ($1, $2, $3, now(), clock_timestamp(), 1)',
      [randomUUID(), checksum, name],
    );
    // Deferred constraints are checked here.
    await client.query('COMMIT');
  } catch (error) {
    const kept = await rollBack(client, transaction);
    if (error instanceof MigrationError) throw error;
    if (kept) throw new MigrationNotAtomic(name, { cause: error });
    throw new MigrationFailed(name, error instanceof Error ? error : new Error(String(error)));
  }
}

/** @returns whether the transaction had been committed */
async function rollBack(client: Client, transaction: string): Promise<boolean> {
  try {
    await client.query('ROLLBACK');
    const { rows } = await client.query<{ status: string | null }>('SELECT pg_xact_status($1::xid8) AS status', [
      transaction,
    ]);
    return rows[0]?.status === 'committed';
  } catch {
    // The connection is gone, and with it the transaction; the caller reports the first error.
    return false;
  }
}

async function currentTransaction(client: Client): Promise<string> {
  const { rows } = await client.query<{ id: string }>('SELECT pg_current_xact_id()::text AS id');
  return rows[0]?.id ?? '';
}
