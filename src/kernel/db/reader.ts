import { DatabaseError, type Pool, type PoolClient, type Submittable } from 'pg';
import { Batch, written, type Row, type SqlValue, type Statement } from './batch.ts';

/** A statement that reads and does nothing else. */
export interface Reading {
  /** Of the prepared statement; undefined: it has none. What goes to the pool by itself has other names. */
  readonly name: string | undefined;
  readonly text: string;
  readonly values: readonly SqlValue[];
  /** Whether it takes so little that others may wait for it. */
  readonly isShort: boolean;
}

/** Most statements of one batch. */
const maxStatements = 16;
/** Longest values of a statement that is sent with others, characters. */
const maxValues = 10_000;

/** One that was asked for. */
class Read implements Statement {
  readonly name: string;
  readonly text: string;
  readonly values: Statement['values'];
  readonly rows: Row[] = [];
  readonly resolve: (rows: readonly Row[]) => void;
  readonly reject: (error: unknown) => void;
  isDone = false;

  constructor(of: Reading, values: Statement['values'], then: Pick<Read, 'resolve' | 'reject'>) {
    this.name = of.name ?? '';
    this.text = of.text;
    this.values = values;
    this.resolve = then.resolve;
    this.reject = then.reject;
  }

  /** What was read holds, whatever becomes of those behind it. */
  done(): void {
    this.isDone = true;
    this.resolve(this.rows);
  }

  /** Whether it was this one that failed is told by the batch. */
  failed(): void {}
}

/**
 * Statements that read, of all requests. The short ones of one turn of the event loop are one batch on one connection: one
 * write, one transaction and one answer. While no connection is free they gather. One that fails spoils no other: those
 * behind it, which PostgreSQL skips, are sent again, each by itself.
 */
export class Reader {
  readonly pool: Pool;
  readonly #setUp: Statement | null;
  readonly #waiting: Read[] = [];
  #isDue = false;
  /** Connections that were asked for and are not there yet. */
  #asked = 0;

  /** @param setUp statement that sets limits for the transaction, where the session does not have them */
  constructor(pool: Pool, setUp: string | null = null) {
    this.pool = pool;
    if (setUp === null) this.#setUp = null;
    else this.#setUp = { name: '', text: setUp, values: [], rows: null, done: ignored, failed: ignored };
  }

  /** Statements that wait for a connection, beside those that the pool counts. */
  get waiting(): number {
    return Math.max(0, this.#waiting.length - this.#asked);
  }

  /**
   * @returns its rows, as PostgreSQL writes them
   * @throws what the statement failed with, or the connection that it had, or why there was none
   */
  read(reading: Reading): Promise<readonly Row[]> {
    return new Promise((resolve, reject) => {
      const one = new Read(reading, reading.values.map(written), { resolve, reject });
      if (!reading.isShort || !isSmall(one)) return this.#alone(one);
      this.#waiting.push(one);
      if (this.#isDue) return;
      this.#isDue = true;
      // Behind everything that arrived in this turn, which takes a tick each.
      setImmediate(() => {
        this.#isDue = false;
        this.#connect();
      });
    });
  }

  /** Asks for as many connections as it takes. Which statements they get is seen when they are there. */
  #connect(): void {
    while (this.#waiting.length > this.#asked * maxStatements) {
      this.#asked++;
      this.pool.connect((error, client) => {
        this.#asked--;
        if (client) return void this.#serve(client, this.#next());
        // Others wait for the connections that are still to come.
        for (const one of this.#next()) one.reject(error);
        this.#connect();
      });
    }
  }

  #alone(one: Read): void {
    this.pool.connect((error, client) => {
      if (client) void this.#serve(client, [one]);
      else one.reject(error);
    });
  }

  async #serve(client: PoolClient, first: readonly Read[]): Promise<void> {
    client.on('error', ignored);
    let isAlive = await this.#sent(client, first);
    // Unless somebody else waits for a connection, who has done so for as long.
    while (isAlive && this.#waiting.length > 0 && this.pool.waitingCount === 0)
      isAlive = await this.#sent(client, this.#next());
    client.removeListener('error', ignored);
    client.release(!isAlive);
    this.#connect();
  }

  #next(): Read[] {
    return this.#waiting.splice(0, maxStatements);
  }

  /** @returns whether the connection can be used again */
  async #sent(client: PoolClient, reads: readonly Read[]): Promise<boolean> {
    if (reads.length === 0) return true;
    const batch = new Batch(this.#setUp ? [this.#setUp, ...reads] : reads);
    client.query(batch as object as Submittable);
    const error = await batch.answered;
    if (error === null) return true;
    const [failed, ...skipped] = reads.filter(({ isDone }) => !isDone);
    failed?.reject(error);
    if (!(error instanceof DatabaseError) || ofConnection.test(error.code ?? '')) {
      for (const one of skipped) one.reject(error);
      return false;
    }
    if (ofWaiting.test(error.code ?? '')) {
      // What it waited for those behind it may wait for, too: on connections of their own, and not one after the other.
      for (const one of skipped) this.#alone(one);
      return true;
    }
    const again = await Promise.all(skipped.map((one) => this.#sent(client, [one])));
    return again.every(Boolean);
  }
}

/** Errors that end a connection; 08P01 is also that of values that a statement does not have. @see https://www.postgresql.org/docs/current/errcodes-appendix.html */
const ofConnection = /^(?:08(?!P01)|25P|57P)/;

/** A statement, or its lock, that was waited for too long. */
const ofWaiting = /^(?:57014|55P03)$/;

/** What is under way is told of it; without a listener it would end the process. */
const ignored = (): void => undefined;

function isSmall({ values }: Read): boolean {
  let length = 0;
  for (const value of values) length += value?.length ?? 0;
  return length <= maxValues;
}
