import { randomUUID } from 'node:crypto';
import pg from 'pg';
import type { Logger } from '../log.ts';

/** How a process learned that there is something to read. `poll`: no wake-up told of it. */
export type WakeUpSource = 'local' | 'notify' | 'redis' | 'poll';

/**
 * Tells other processes that there is something to read. Carries keys only, never data; may lose, repeat or merge
 * them: every reader also polls. Keys: `w:<workspace id>` new events, `l:<run id>` new log lines, `c:<run id>` a run
 * was told to stop, `h:<host id>` a host has something to do, `m:<application id>` new metric points, `q:<queue>` jobs
 * that may begin.
 */
export interface WakeUps {
  /** Tells everybody, this process included. Call it after the commit. Never throws. */
  publish(key: string): void;
  /**
   * Hears of keys; `onReset` after every (re)connection, when some may have been missed.
   * @throws when it does not work at start; it is closed then
   */
  start(onKey: (key: string, source: WakeUpSource) => void, onReset: () => void): Promise<void>;
  close(): Promise<void>;
}

/**
 * Collects keys for a moment and sends each once: a burst of commits costs one message. One message is on its way at a
 * time; what comes meanwhile is merged into the next.
 */
export class Coalescer {
  readonly #keys = new Set<string>();
  readonly #send: (keys: string[]) => Promise<void>;
  readonly #waitMs: number;
  #timer: NodeJS.Timeout | null = null;
  #sending: Promise<void> | null = null;

  /** @param send must not reject */
  constructor(send: (keys: string[]) => Promise<void>, waitMs = 5) {
    this.#send = send;
    this.#waitMs = waitMs;
  }

  add(key: string): void {
    this.#keys.add(key);
    if (!this.#sending) this.#timer ??= setTimeout(() => void this.flush(), this.#waitMs);
  }

  /** Resolves when everything that was added is sent. */
  flush(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#sending ??= this.#drain().finally(() => {
      this.#sending = null;
    });
    return this.#sending;
  }

  async #drain(): Promise<void> {
    while (this.#keys.size > 0) {
      const keys = [...this.#keys];
      this.#keys.clear();
      await this.#send(keys);
    }
  }
}

/** A message of keys. It names its sender, who knows them already: its own reads need not be done twice. */
export const packKeys = (sender: string, keys: readonly string[]): string => [sender, ...keys].join(',');

/** The keys of a message; none of one's own. */
export function unpackKeys(receiver: string, message: string): string[] {
  const [sender, ...keys] = message.split(',');
  return sender === receiver ? [] : keys;
}

const channel = 'switchyard';
/** NOTIFY takes payloads below 8000 bytes. @see https://www.postgresql.org/docs/current/sql-notify.html */
const payloadBytes = 7000;

/** Wake-ups over PostgreSQL: NOTIFY through the pool, LISTEN on one connection of its own. */
export class PostgresWakeUps implements WakeUps {
  readonly #pool: pg.Pool;
  readonly #directUrl: string;
  readonly #log: Logger;
  readonly #coalescer: Coalescer;
  readonly #id = randomUUID();
  readonly #proofMs: number;
  #onKey: (key: string, source: WakeUpSource) => void = () => undefined;
  #onReset: () => void = () => undefined;
  #onProof: () => void = () => undefined;
  #client: pg.Client | null = null;
  #retry: NodeJS.Timeout | null = null;
  #closed = false;

  /** @param options.proofMs how long start waits to hear itself: both ends are one round trip away */
  constructor(options: { pool: pg.Pool; directUrl: string; log: Logger; proofMs?: number }) {
    this.#proofMs = options.proofMs ?? 5000;
    this.#pool = options.pool;
    this.#directUrl = options.directUrl;
    this.#log = options.log;
    this.#coalescer = new Coalescer((keys) => this.#notify(keys));
  }

  publish(key: string): void {
    this.#onKey(key, 'local');
    if (!this.#closed) this.#coalescer.add(key);
  }

  /** @throws when LISTEN does not work there: a pooled address in `DATABASE_DIRECT_URL` */
  async start(onKey: (key: string, source: WakeUpSource) => void, onReset: () => void): Promise<void> {
    this.#onKey = onKey;
    this.#onReset = onReset;
    try {
      await this.#connect();
      await this.#prove();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#coalescer.flush();
    this.#closed = true;
    if (this.#retry) clearTimeout(this.#retry);
    const client = this.#client;
    this.#client = null;
    await client?.end();
  }

  async #notify(keys: string[]): Promise<void> {
    try {
      for (let from = 0; from < keys.length;) {
        let to = from;
        for (let bytes = 0; to < keys.length && bytes < payloadBytes; to++) bytes += (keys[to]?.length ?? 0) + 1;
        await this.#pool.query('select pg_notify($1, $2)', [channel, packKeys(this.#id, keys.slice(from, to))]);
        from = to;
      }
    } catch (error) {
      this.#log.warn({ err: error }, 'wake-up not sent; readers find the change by polling');
    }
  }

  /** @throws when there is no connection; then nothing is left of the attempt */
  async #connect(): Promise<void> {
    const client = new pg.Client({
      connectionString: this.#directUrl,
      keepAlive: true,
      application_name: 'switchyard-listen',
      connectionTimeoutMillis: 5000,
    });
    let state: 'connecting' | 'listening' | 'lost' = 'connecting';
    const onLost = () => {
      // A connection that was never made is the business of whoever awaits it.
      if (state === 'listening' && !this.#closed) {
        this.#client = null;
        client.end().catch(() => undefined); // it is broken already
        this.#reconnect();
      }
      state = 'lost';
    };
    client.on('error', onLost);
    client.on('end', onLost);
    client.on('notification', (message) => {
      const keys = message.payload ?? '';
      if (keys === this.#id) this.#onProof();
      else for (const key of unpackKeys(this.#id, keys)) this.#onKey(key, 'notify');
    });
    try {
      await client.connect();
      await client.query(`listen ${channel}`);
      if (this.#closed) throw new Error('Closed while it connected');
      // An end that came in between was heard by nobody.
      if ((state as string) === 'lost') throw new Error('The LISTEN connection ended as soon as it was made');
    } catch (error) {
      client.end().catch(() => undefined); // it is broken, or nobody needs it
      throw error;
    }
    state = 'listening';
    this.#client = client;
    this.#onReset();
  }

  #reconnect(waitMs = 200): void {
    this.#retry = setTimeout(() => {
      this.#connect().catch((error: unknown) => {
        if (this.#closed) return;
        this.#log.warn({ err: error }, 'LISTEN connection lost; retrying');
        this.#reconnect(Math.min(waitMs * 2, 3000));
      });
    }, waitMs);
  }

  /** A pooler in transaction mode accepts LISTEN and never delivers: find out now rather than by slow streams. */
  async #prove(): Promise<void> {
    const heard = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => heard.resolve(false), this.#proofMs);
    this.#onProof = () => heard.resolve(true);
    try {
      await this.#pool.query('select pg_notify($1, $2)', [channel, this.#id]);
      if (await heard.promise) return;
    } finally {
      clearTimeout(timer);
    }
    throw new Error(
      'LISTEN/NOTIFY does not work on DATABASE_DIRECT_URL. It must reach PostgreSQL itself, not a pooler in transaction mode.',
    );
  }
}
