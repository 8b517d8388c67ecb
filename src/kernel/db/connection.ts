import { AsyncLocalStorage } from 'node:async_hooks';
import pg from 'pg';
import { lazily } from '../lazily.ts';
import { Batch, read, written, type SqlValue, type Statement } from './batch.ts';
import type { Db, DbTx } from './client.ts';

export type { SqlValue };

/** Most time that a transaction may take, milliseconds. */
const timeoutMs = 20_000;

/** It could not begin in time, or took too long and was rolled back. `P2028` is what Prisma calls both. */
export class TransactionTimedOut extends Error {
  readonly code = 'P2028';
}

/** What a Prisma transaction is given in place of a connection of its own. */
type Lent = Pick<pg.PoolClient, 'query' | 'on' | 'removeListener' | 'release'>;

const offers = new AsyncLocalStorage<{ lent: Lent | null }>();

const patient = new AsyncLocalStorage<true>();

/** Statements within `work`, and outside of `transact`, may take as long as they take: maintenance, never a request. */
export const unhurried = <T>(work: () => Promise<T>): Promise<T> => patient.run(true, work);

/** What has to be set for a statement of its own, as a list of settings; null: the session has it already. */
export interface AloneLimits {
  readonly ordinary: string | null;
  readonly unhurried: string | null;
}

/**
 * A pool that gives the transaction which Prisma is asked to begin the connection that was offered to it, and that puts
 * limits around statements outside of transactions where those of the session are not theirs.
 */
export class LendingPool extends pg.Pool {
  readonly #limits: AloneLimits;

  constructor(config: pg.PoolConfig, limits: AloneLimits) {
    super(config);
    this.#limits = limits;
  }

  // The driver has many signatures, and all of them are passed on.
  override query(...given: unknown[]): never {
    const setUp = patient.getStore() ? this.#limits.unhurried : this.#limits.ordinary;
    const query = super.query as (...args: unknown[]) => unknown;
    // `connect` with a callback is how the driver itself goes on.
    return (setUp === null ? query.apply(this, given) : this.#limited(setUp, given)) as never;
  }

  /** A statement in a transaction of its own, all of it in one round trip. */
  async #limited(setUp: string, given: readonly unknown[]): Promise<unknown> {
    const client = await this.connect();
    let broken: Error | undefined;
    const onError = (error: Error) => (broken = error);
    client.on('error', onError);
    const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
    try {
      const [begun, result, ended] = await Promise.allSettled([
        query(`BEGIN ISOLATION LEVEL READ COMMITTED; ${setUp}`),
        query(...given),
        // Where one before it failed, it is a ROLLBACK.
        query('COMMIT'),
      ]);
      for (const one of [begun, result, ended]) if (one.status === 'rejected') throw one.reason;
      return (result as PromiseFulfilledResult<unknown>).value;
    } finally {
      client.removeListener('error', onError);
      client.release(broken);
    }
  }

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

/** The columns of a model for a statement, by the enumeration of its fields that Prisma generates. */
export const columnsOf = (fields: Readonly<Record<string, string>>, of = ''): string =>
  Object.values(fields)
    .map((name) => `${of}"${name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}"`)
    .join(', ');

/**
 * One transaction on one connection of the pool. Statements of one turn of the event loop go out together, without
 * waiting for the answers to those before. Where one fails, PostgreSQL refuses what comes behind it. Where all of them go
 * out at its end, they are one without BEGIN and COMMIT.
 * @see https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING
 */
export class Connection {
  readonly #client: pg.PoolClient;
  readonly #db: Db;
  readonly #nameOf: (text: string) => string;
  readonly #setUp: string | null;
  readonly #timer: NodeJS.Timeout;
  #timedOut = false;
  #undone: Promise<void> | null = null;
  /** Whether BEGIN was sent. */
  #begun = false;
  /** What was given and is not sent yet. */
  #given: Statement[] = [];
  #sending = false;
  /** The first statement's error, and whether somebody waited for it: those of the others follow from it. */
  #failure: { readonly error: unknown; readonly awaited: boolean } | null = null;
  #broken = false;
  #over = false;
  #joined: { readonly db: Promise<DbTx>; readonly over: () => void } | null = null;

  private constructor(
    client: pg.PoolClient,
    of: { readonly db: Db; readonly nameOf: (text: string) => string; readonly setUp: string | null },
  ) {
    this.#client = client;
    this.#db = of.db;
    this.#nameOf = of.nameOf;
    this.#setUp = of.setUp;
    client.on('error', this.#onError);
    this.#timer = setTimeout(() => {
      this.#timedOut = true;
      // Whoever hangs holds neither locks nor a connection.
      this.#undone = this.#undo().then(() => this.#release());
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
    return new Connection(client, of);
  }

  /** Prisma's client of the same transaction, which costs something once it is used. */
  readonly db: DbTx = lazily(() => (this.#joined ??= this.#join()).db);

  /** @returns its rows with the names that Prisma gives the columns; int8 is a bigint */
  query<R>(text: string, values: readonly SqlValue[]): Promise<R[]> {
    const texts = values.map(written);
    const answer = new Promise<R[]>((resolve, reject) => {
      const rows: (string | null)[][] = [];
      this.#give(text, texts, {
        rows,
        failed: reject,
        done: (description) => {
          try {
            resolve(rows.map((row) => read(description, row) as R));
          } catch (error) {
            reject(error);
          }
        },
      });
    });
    // Whoever does not wait for it any more hears of it by the transaction, which fails.
    answer.catch(() => undefined);
    return answer;
  }

  /** The same for a statement whose answer nobody needs: what it fails with fails the transaction. */
  send(text: string, values: readonly SqlValue[]): void {
    this.#give(text, values.map(written), {});
  }

  /** @throws what the first statement that failed threw, awaited or not */
  async commit(): Promise<void> {
    clearTimeout(this.#timer);
    let command = '';
    try {
      if (!this.#timedOut && !this.#failure) command = await this.#finish();
      if (this.#failure && !this.#timedOut) await this.#undo();
    } finally {
      await this.#end();
    }
    if (this.#failure) throw this.#failure.error;
    if (command !== 'COMMIT') throw new TransactionTimedOut('The transaction took too long');
  }

  /** @returns why: what was thrown, or the error of a statement before that nobody waited for */
  async rollback(thrown: unknown): Promise<unknown> {
    clearTimeout(this.#timer);
    try {
      if (!this.#timedOut) await this.#undo();
    } finally {
      await this.#end();
    }
    return this.#failure && !this.#failure.awaited ? this.#failure.error : thrown;
  }

  /** Sends what is left, and commits. @returns the command that PostgreSQL says that it executed */
  async #finish(): Promise<string> {
    // With nothing before and nothing behind, they are a transaction of their own.
    if (!this.#begun && this.#setUp === null) return (await this.#send()) ? 'COMMIT' : '';
    let command = '';
    this.#give('COMMIT', [], { done: (_, text) => (command = text) });
    await this.#send();
    return command;
  }

  /** Rolls back what was sent, and forgets what was not. A connection where that fails is closed, which does it, too. */
  async #undo(): Promise<void> {
    const unsent = this.#given;
    this.#given = [];
    for (const { failed } of unsent) failed(new RolledBack('The transaction was rolled back'));
    if (!this.#begun) return;
    this.#begun = false;
    const rolledBack = await this.#batch([this.#statement('ROLLBACK', [], {})]);
    if (!rolledBack) this.#broken = true;
  }

  async #end(): Promise<void> {
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

  #statement(text: string, values: Statement['values'], { rows = null, done, failed }: Partial<Statement>): Statement {
    return { name: this.#nameOf(text), text, values, rows, done: done ?? noop, failed: failed ?? noop };
  }

  /** It goes out with what else is given in this turn of the event loop. */
  #give(text: string, values: Statement['values'], then: Partial<Statement>): void {
    const failed = (error: unknown) => {
      if (!(error instanceof RolledBack)) this.#failure ??= { error, awaited: then.failed !== undefined };
      then.failed?.(error);
    };
    if (this.#timedOut) return failed(tookTooLong());
    this.#given.push(this.#statement(text, values, { ...then, failed }));
    if (this.#sending) return;
    this.#sending = true;
    process.nextTick(() => {
      this.#sending = false;
      // At its end it went out already.
      if (this.#given.length > 0) void this.#send(true);
    });
  }

  /** @param begins whether more may follow. @returns whether all of it was executed, and holds where nothing follows */
  #send(begins = false): Promise<boolean> {
    const statements = this.#given;
    this.#given = [];
    if ((begins || this.#setUp !== null) && !this.#begun) {
      this.#begun = true;
      const first = ['BEGIN ISOLATION LEVEL READ COMMITTED', ...(this.#setUp === null ? [] : [this.#setUp])];
      const failed = (error: unknown) => (this.#failure ??= { error, awaited: false });
      statements.unshift(...first.map((text) => this.#statement(text, [], { failed })));
    }
    return this.#batch(statements);
  }

  async #batch(statements: readonly Statement[]): Promise<boolean> {
    if (statements.length === 0) return true;
    const batch = new Batch(statements);
    this.#client.query(batch as object as pg.Submittable);
    const error = await batch.answered;
    // What fails behind the last statement is the end of the transaction.
    if (error !== null) this.#failure ??= { error, awaited: false };
    return error === null;
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
          : this.#ofPrisma(config),
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

  /** A statement of Prisma's own goes behind what was given before it. */
  async #ofPrisma(config: pg.QueryConfig): Promise<pg.QueryResult> {
    if (this.#timedOut) throw tookTooLong();
    // The connection is somebody else's by now.
    if (this.#over) throw new Error('The transaction is over');
    if (!this.#begun || this.#given.length > 0) void this.#send(true);
    try {
      return await this.#client.query(config);
    } catch (error) {
      this.#failure ??= { error, awaited: true };
      throw error;
    }
  }
}

/** What becomes of a statement that was never sent. */
class RolledBack extends Error {}

const noop = (): void => undefined;
const tookTooLong = () => new TransactionTimedOut('The transaction took too long');
