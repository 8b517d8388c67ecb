import { PrismaPg } from '@prisma/adapter-pg';
import type pg from 'pg';
import { Prisma, PrismaClient } from '#prisma';
import { Connection, LendingPool, unhurried } from './connection.ts';
import { Reader } from './reader.ts';
import { nameLifetimeS, Names } from './names.ts';

export interface DatabaseOptions {
  /** Address for ordinary statements; may be pooled (PgBouncer in transaction mode). */
  readonly url: string;
  /** Address that LISTEN, migrations and jobs use. Same as `url` unless that is pooled. */
  readonly directUrl: string;
  /** Most connections that this process opens for ordinary statements. */
  readonly poolMax: number;
  readonly applicationName: string;
  /** Most time of one statement, seconds; absent: it may take as long as it takes. */
  readonly statementTimeoutS?: number | undefined;
  readonly onQuery?: (sql: string) => void;
}

export type Db = PrismaClient;
/** The client inside an interactive transaction. */
export type DbTx = Prisma.TransactionClient;

export interface Database {
  readonly db: Db;
  /** The pool below Prisma, for the few statements that want the driver itself. */
  readonly pool: pg.Pool;
  readonly url: string;
  readonly directUrl: string;
  /** True when `url` goes through a pooler, where session settings and named statements do not hold. */
  readonly pooled: boolean;
  /** A statement of its own, prepared where the connection allows it. For texts that are asked again and again. */
  query<R extends pg.QueryResultRow>(text: string, values: readonly unknown[]): Promise<pg.QueryResult<R>>;
  /** Statements within `work`, and outside of `transact`, may take as long as they take: maintenance, never a request. */
  readonly unhurried: <T>(work: () => Promise<T>) => Promise<T>;
  /** Statements that read, of many requests at once. */
  readonly reader: Reader;
  /** Begins a transaction. @throws {TransactionTimedOut} when no connection was free in time */
  begin(): Promise<Connection>;
  /** @throws when `url` cannot be used, with what to do where that is known */
  check(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Limits of a session: a forgotten lock or transaction ends by itself instead of stopping a workspace, and a statement
 * instead of keeping a connection from all others.
 */
const sessionLimits = (statementTimeoutS: number | undefined): Readonly<Record<string, string>> => ({
  lock_timeout: '10s',
  idle_in_transaction_session_timeout: '30s',
  ...(statementTimeoutS === undefined ? {} : { statement_timeout: `${statementTimeoutS}s` }),
});
/** The same for one transaction alone. */
const setUpOf = (limits: Readonly<Record<string, string>>): string =>
  `select ${Object.entries(limits)
    .map(([name, value]) => `set_config('${name}', '${value}', true)`)
    .join(', ')}`;

export function createDatabase(options: DatabaseOptions): Database {
  const pooled = options.directUrl !== options.url;
  const limits = sessionLimits(options.statementTimeoutS);
  const isLimited = options.statementTimeoutS !== undefined;
  const alone = {
    ordinary: pooled && isLimited ? setUpOf(limits) : null,
    unhurried: !pooled && isLimited ? setUpOf({ statement_timeout: '0' }) : null,
  };
  const pool: pg.Pool = new LendingPool(
    {
      connectionString: options.url,
      max: options.poolMax,
      application_name: options.applicationName,
      keepAlive: true,
      // A transaction need not wait for an answer that it does not need.
      pipeline: true,
      connectionTimeoutMillis: 10_000,
      maxLifetimeSeconds: nameLifetimeS,
      // PgBouncer refuses start-up options that it does not know: there, each transaction sets the limits.
      ...(pooled
        ? {}
        : {
            // What is sent without BEGIN is READ COMMITTED, too, whatever the database has as its default.
            options: Object.entries({ ...limits, default_transaction_isolation: 'read\\ committed' })
              .map(([name, value]) => `-c ${name}=${value}`)
              .join(' '),
          }),
    },
    alone,
  );
  // An idle connection that breaks is replaced by the pool at its next use; without a listener it would end the process.
  pool.on('error', () => undefined);
  const names = namesOf(500);
  const adapter = new PrismaPg(pool, {
    disposeExternalPool: true,
    ...(pooled ? {} : { statementNameGenerator: (query: { sql: string }) => names(query.sql) }),
  });
  const db = new PrismaClient({
    adapter,
    log: [{ emit: 'event', level: 'query' }],
    transactionOptions: { maxWait: 10_000, timeout: 20_000, isolationLevel: 'ReadCommitted' },
  });
  if (options.onQuery) {
    const { onQuery } = options;
    db.$on('query', (event) => onQuery(event.query));
  }
  const begin = {
    pool,
    db,
    // Apart from the others: what a transaction prepares it keeps account of itself.
    nameOf: pooled ? () => '' : namesOf(500, 'of a transaction '),
    setUp: pooled ? setUpOf(limits) : null,
  };
  return {
    db,
    pool,
    query: <R extends pg.QueryResultRow>(text: string, values: readonly unknown[]) =>
      pool.query<R>({ name: pooled ? '' : names(text), text, values: [...values] }),
    unhurried,
    reader: new Reader(pool, alone.ordinary),
    begin: () => Connection.begin(begin),
    url: options.url,
    directUrl: options.directUrl,
    pooled,
    async check() {
      try {
        await pool.query('select 1');
      } catch (error) {
        if (!pooled && error instanceof Error && error.message.includes('unsupported startup parameter')) {
          throw new Error(
            'DATABASE_URL reaches a pooler: set DATABASE_DIRECT_URL to the address of PostgreSQL itself.',
            { cause: error },
          );
        }
        throw error;
      }
    },
    close: () => db.$disconnect(),
  };
}

/** Names for prepared statements; empty: unnamed. */
function namesOf(most: number, prefix = ''): (sql: string) => string {
  const names = new Names({ prefix, most });
  return (sql) => names.of(sql) ?? '';
}
