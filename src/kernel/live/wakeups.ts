import pg from 'pg';
import type { Logger } from '../log.ts';

/**
 * Tells other processes that there is something to read. Carries keys only, never data; may lose, repeat or merge
 * them: every reader also polls. Keys: `w:<workspace id>` new events, `l:<run id>` new log lines, `c:<run id>` a run
 * was told to stop, `h:<host id>` a host has something to do.
 */
export interface WakeUps {
  /** Tells everybody, this process included. Call it after the commit. Never throws. */
  publish(key: string): void;
  /** Hears of keys; `onReset` after every (re)connection, when some may have been missed. */
  start(onKey: (key: string) => void, onReset: () => void): Promise<void>;
  close(): Promise<void>;
}

/** Collects keys for a moment and sends each once: a burst of commits costs one message. */
export class Coalescer {
  readonly #keys = new Set<string>();
  readonly #send: (keys: string[]) => Promise<void>;
  readonly #waitMs: number;
  #timer: NodeJS.Timeout | null = null;
  #sending: Promise<void> = Promise.resolve();

  constructor(send: (keys: string[]) => Promise<void>, waitMs = 5) {
    this.#send = send;
    this.#waitMs = waitMs;
  }

  add(key: string): void {
    this.#keys.add(key);
    this.#timer ??= setTimeout(() => void this.flush(), this.#waitMs);
  }

  flush(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    const keys = [...this.#keys];
    this.#keys.clear();
    if (keys.length > 0) this.#sending = this.#sending.then(() => this.#send(keys));
    return this.#sending;
  }
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
  #onKey: (key: string) => void = () => undefined;
  #onReset: () => void = () => undefined;
  #client: pg.Client | null = null;
  #retry: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(options: { pool: pg.Pool; directUrl: string; log: Logger }) {
    this.#pool = options.pool;
    this.#directUrl = options.directUrl;
    this.#log = options.log;
    this.#coalescer = new Coalescer((keys) => this.#notify(keys));
  }

  publish(key: string): void {
    this.#onKey(key);
    if (!this.#closed) this.#coalescer.add(key);
  }

  /** @throws when LISTEN does not work there: a pooled address in `DATABASE_DIRECT_URL` */
  async start(onKey: (key: string) => void, onReset: () => void): Promise<void> {
    this.#onKey = onKey;
    this.#onReset = onReset;
    await this.#connect();
    await this.#prove();
  }

  async close(): Promise<void> {
    await this.#coalescer.flush();
    this.#closed = true;
    if (this.#retry) clearTimeout(this.#retry);
    await this.#client?.end();
  }

  async #notify(keys: string[]): Promise<void> {
    try {
      for (let from = 0; from < keys.length;) {
        let to = from;
        for (let bytes = 0; to < keys.length && bytes < payloadBytes; to++) bytes += (keys[to]?.length ?? 0) + 1;
        await this.#pool.query('select pg_notify($1, $2)', [channel, keys.slice(from, to).join(',')]);
        from = to;
      }
    } catch (error) {
      this.#log.warn({ err: error }, 'wake-up not sent; readers find the change by polling');
    }
  }

  async #connect(): Promise<void> {
    const client = new pg.Client({
      connectionString: this.#directUrl,
      keepAlive: true,
      application_name: 'switchyard-listen',
      connectionTimeoutMillis: 5000,
    });
    let lost = false;
    const onLost = () => {
      if (lost || this.#closed) return;
      lost = true;
      this.#client = null;
      void client.end().catch(() => undefined); // it is broken already
      this.#reconnect();
    };
    client.on('error', onLost);
    client.on('end', onLost);
    client.on('notification', (message) => {
      for (const key of (message.payload ?? '').split(',')) this.#onKey(key);
    });
    await client.connect();
    await client.query(`listen ${channel}`);
    this.#client = client;
    this.#onReset();
  }

  #reconnect(waitMs = 200): void {
    if (this.#closed) return;
    this.#retry = setTimeout(() => {
      this.#connect().catch((error: unknown) => {
        this.#log.warn({ err: error }, 'LISTEN connection lost; retrying');
        this.#reconnect(Math.min(waitMs * 2, 3000));
      });
    }, waitMs);
  }

  /** A pooler in transaction mode accepts LISTEN and never delivers: find out now rather than by slow streams. */
  async #prove(): Promise<void> {
    const key = `p:${crypto.randomUUID()}`;
    const onKey = this.#onKey;
    const heard = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), 5000);
      this.#onKey = (got) => {
        if (got !== key) return onKey(got);
        clearTimeout(timer);
        resolve(true);
      };
    });
    await this.#pool.query('select pg_notify($1, $2)', [channel, key]);
    const ok = await heard;
    this.#onKey = onKey;
    if (!ok) {
      throw new Error(
        'LISTEN/NOTIFY does not work on DATABASE_DIRECT_URL. It must reach PostgreSQL itself, not a pooler in transaction mode.',
      );
    }
  }
}
