import { AsyncLocalStorage } from 'node:async_hooks';
import pg from 'pg';
import { lazily } from '../lazily.ts';
import type { Db, DbTx } from './client.ts';

/** Most time that a transaction may take, milliseconds. */
const timeoutMs = 20_000;

/** A value of a statement. JSON is given as text. */
export type SqlValue =
  | string
  | number
  | bigint
  | boolean
  | Date
  | Uint8Array
  | null
  | readonly (string | number | bigint | boolean | Date | null)[];

/** It could not begin in time, or took too long and was rolled back. `P2028` is what Prisma calls both. */
export class TransactionTimedOut extends Error {
  readonly code = 'P2028';
}

/** What a Prisma transaction is given in place of a connection of its own. */
type Lent = Pick<pg.PoolClient, 'query' | 'on' | 'removeListener' | 'release'>;

const offers = new AsyncLocalStorage<{ lent: Lent | null }>();

/** A pool that gives the transaction which Prisma is asked to begin the connection that was offered to it. */
export class LendingPool extends pg.Pool {
  override connect(): Promise<pg.PoolClient>;
  override connect(callback: Parameters<pg.Pool['connect']>[0]): void;
  override connect(callback?: Parameters<pg.Pool['connect']>[0]): Promise<pg.PoolClient> | void {
    if (callback) return super.connect(callback);
    const offer = offers.getStore();
    if (!offer?.lent) return super.connect();
    const { lent } = offer;
    offer.lent = null; // once: what else asks in this context has nothing to do with the transaction
    return Promise.resolve(lent as pg.PoolClient);
  }
}

/** `workspace_id` as Prisma names it. */
const named = new Map<string, string>();
function nameOf(column: string): string {
  let name = named.get(column);
  if (name === undefined) {
    name = column.replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase());
    named.set(column, name);
  }
  return name;
}

/** The columns of a model for a statement, by the enumeration of its fields that Prisma generates. */
export const columnsOf = (fields: Readonly<Record<string, string>>, of = ''): string =>
  Object.values(fields)
    .map((name) => `${of}"${name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}"`)
    .join(', ');

const int8 = 20;
const types = {
  getTypeParser: (oid: number, format?: 'text' | 'binary'): unknown =>
    oid === int8 ? BigInt : pg.types.getTypeParser(oid, format),
};

/**
 * One transaction on one connection of the pool. Statements go out as they are given, without waiting for the answers
 * to those before; those of one turn of the event loop go out together. Where one fails, PostgreSQL refuses what comes
 * behind it and answers COMMIT with ROLLBACK.
 * @see https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING
 */
export class Connection {
  readonly #client: pg.PoolClient;
  readonly #db: Db;
  readonly #nameOf: (text: string) => string;
  readonly #timer: NodeJS.Timeout;
  #timedOut = false;
  #undone: Promise<void> | null = null;
  #corked = false;
  /** The first statement's error, and whether somebody waited for it: those of the others follow from it. */
  #failure: { readonly error: unknown; readonly awaited: boolean } | null = null;
  #broken = false;
  #over = false;
  #joined: { readonly db: Promise<DbTx>; readonly over: () => void } | null = null;

  private constructor(client: pg.PoolClient, db: Db, nameOf: (text: string) => string) {
    this.#client = client;
    this.#db = db;
    this.#nameOf = nameOf;
    client.on('error', this.#onError);
    this.#timer = setTimeout(() => {
      this.#timedOut = true;
      // Whoever hangs holds neither locks nor a connection.
      this.#undone = this.#control('ROLLBACK')
        .catch(this.#onError)
        .then(() => this.#release());
    }, timeoutMs);
  }

  /**
   * @param setUp statement that sets the session limits for the transaction, where the pooler forgets those of a session
   * @throws {TransactionTimedOut} when no connection was free in time
   */
  static async begin(of: {
    readonly pool: pg.Pool;
    readonly db: Db;
    readonly nameOf: (text: string) => string;
    readonly setUp: string | null;
  }): Promise<Connection> {
    const client = await of.pool.connect().catch((error: unknown) => {
      if (error instanceof Error && error.message.startsWith('timeout exceeded'))
        throw new TransactionTimedOut('No connection to the database was free in time', { cause: error });
      throw error;
    });
    const connection = new Connection(client, of.db, of.nameOf);
    // What fails here fails all that follows.
    connection.#control('BEGIN ISOLATION LEVEL READ COMMITTED').catch(() => undefined);
    if (of.setUp !== null) connection.#control(of.setUp).catch(() => undefined);
    return connection;
  }

  /** Prisma's client of the same transaction, which costs something once it is used. */
  readonly db: DbTx = lazily(() => (this.#joined ??= this.#join()).db);

  /** @returns its rows with the names that Prisma gives the columns; int8 is a bigint */
  query<R>(text: string, values: readonly SqlValue[]): Promise<R[]> {
    const statement = { name: this.#nameOf(text), text, values: checked(values) as unknown[], rowMode: 'array', types };
    const answer = this.#statement(statement).then(({ rows, fields }) => {
      const names = fields.map(({ name }) => nameOf(name));
      return (rows as unknown[][]).map((row) => Object.fromEntries(row.map((value, i) => [names[i], value])) as R);
    });
    // Whoever does not wait for it any more hears of it by the transaction, which fails.
    answer.catch(() => undefined);
    return answer;
  }

  /** The same for a statement whose answer nobody needs: what it fails with fails the transaction. */
  send(text: string, values: readonly SqlValue[]): void {
    const statement = { name: this.#nameOf(text), text, values: checked(values) as unknown[] };
    this.#statement(statement, false).catch(() => undefined);
  }

  /** @throws what the first statement that failed threw, awaited or not */
  async commit(): Promise<void> {
    let committed: pg.QueryResult | null = null;
    try {
      if (!this.#timedOut) committed = await this.#control(this.#failure ? 'ROLLBACK' : 'COMMIT');
    } finally {
      await this.#end();
    }
    if (this.#failure) throw this.#failure.error;
    if (committed?.command !== 'COMMIT') throw new TransactionTimedOut('The transaction took too long');
  }

  /** @returns why: what was thrown, or the error of a statement before that nobody waited for */
  async rollback(thrown: unknown): Promise<unknown> {
    try {
      if (!this.#timedOut) await this.#control('ROLLBACK');
    } catch {
      this.#broken = true; // so PostgreSQL rolls it back when the connection is closed
    } finally {
      await this.#end();
    }
    return this.#failure && !this.#failure.awaited ? this.#failure.error : thrown;
  }

  async #end(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#undone) await this.#undone;
    else this.#release();
  }

  /**
   * Prisma is told and not waited for: it began and ends nothing itself, and what its statements met is known already.
   * When the process lets go of the database, Prisma waits for this very connection.
   */
  #release(): void {
    this.#over = true;
    this.#joined?.over();
    this.#client.removeListener('error', this.#onError);
    this.#client.release(this.#broken);
  }

  readonly #onError = () => {
    this.#broken = true;
  };

  #statement(config: pg.QueryConfig, awaited = true): Promise<pg.QueryResult> {
    if (this.#timedOut) return Promise.reject(new TransactionTimedOut('The transaction took too long'));
    // The connection is somebody else's by now.
    if (this.#over) return Promise.reject(new Error('The transaction is over'));
    return this.#control(config, awaited);
  }

  #control(config: string | pg.QueryConfig, awaited = false): Promise<pg.QueryResult> {
    if (!this.#corked) {
      const { stream } = this.#client.connection;
      stream.cork();
      this.#corked = true;
      process.nextTick(() => {
        this.#corked = false;
        stream.uncork();
      });
    }
    const sent = this.#client.query(config as pg.QueryConfig);
    sent.catch((error: unknown) => (this.#failure ??= { error, awaited }));
    return sent;
  }

  /** Has Prisma begin a transaction on this connection: to it the one that is open is its own. */
  #join() {
    const over = Promise.withResolvers<void>();
    const opened = Promise.withResolvers<DbTx>();
    const nothing = { rows: [], fields: [], rowCount: 0 };
    const lent = {
      query: (config: pg.QueryConfig) =>
        /^(?:BEGIN|COMMIT|ROLLBACK|SET TRANSACTION ISOLATION LEVEL .*)$/.test(config.text)
          ? Promise.resolve(nothing)
          : this.#statement(config),
      on: () => undefined,
      removeListener: () => undefined,
      release: () => undefined,
    } as unknown as Lent;
    const offer: { lent: Lent | null } = { lent };
    const end = offers.run(offer, () =>
      this.#db.$transaction(
        async (db) => {
          if (offer.lent) throw new Error('Prisma began a transaction on another connection');
          opened.resolve(db);
          await over.promise;
        },
        { timeout: 2 ** 31 - 1 },
      ),
    );
    end.catch(opened.reject);
    return { db: opened.promise, over: over.resolve };
  }
}

/** An object that the driver cannot write would fail here in the program, and not the transaction in the database. */
function checked(values: readonly SqlValue[]): readonly SqlValue[] {
  for (const value of values) {
    const plain =
      typeof value !== 'object' ||
      value === null ||
      Array.isArray(value) ||
      value instanceof Date ||
      value instanceof Uint8Array;
    if (!plain || value === undefined) throw new TypeError('A value of a statement is neither plain nor null');
  }
  return values;
}
