import { createHmac } from 'node:crypto';
import type pg from 'pg';
import { RateLimiterPostgres, type RateLimiterAbstract, type RateLimiterRes } from 'rate-limiter-flexible';
import { service } from '../app.ts';
import type { Logger } from '../log.ts';

/** Points of the current window of a key. */
export interface Count {
  readonly points: number;
  readonly resetAt: Date;
}

/** Counts points by key in fixed windows, which begin with the first point. */
export interface Counter {
  /** Adds points, which may be negative, in one atomic step; at once where nothing is waited for. */
  add(key: string, points: number, windowS: number): Count | Promise<Count>;
  /** Null: no window is open. */
  get(key: string): Count | null | Promise<Count | null>;
  remove(key: string): void | Promise<void>;
}

/**
 * The counters of this process. `budgets` counts every operation: in this process's memory, in Redis, or, slower, in
 * PostgreSQL. `throttles` counts what is rare and must hold for all processes together: in Redis, or in PostgreSQL.
 */
export interface CountersOf {
  readonly budgets: Counter;
  readonly throttles: Counter;
  /** What a key is stored as: whoever reads the store learns no address and no name. */
  readonly hash: (key: string) => string;
}

/** Without anything configured: memory and PostgreSQL, with keys that only this process knows. */
export const Counters = service<CountersOf>('counters', (app) => ({
  budgets: memoryCounter(),
  throttles: postgresCounter(app.database.pool),
  hash: keyHash(''),
}));

/** Hashes that are remembered, at most: those who come come again. */
const maxHashes = 5000;

/** HMAC-SHA-256 with a key derived from the server's secret, 43 characters. */
export function keyHash(secret: string): (key: string) => string {
  const derived = createHmac('sha256', secret).update('switchyard rates').digest();
  const known = new Map<string, string>();
  return (key) => {
    let hash = known.get(key);
    if (hash === undefined) {
      hash = createHmac('sha256', derived).update(key).digest('base64url');
      if (known.size >= maxHashes) known.clear();
      known.set(key, hash);
    }
    return hash;
  };
}

/** Of this process alone; a window that has ended is forgotten when others begin. */
export function memoryCounter(): Counter {
  const windows = new Map<string, { points: number; readonly endsAt: number; readonly resetAt: Date }>();
  const count = ({ points, resetAt }: Count): Count => ({ points, resetAt });
  return {
    add(key, points, windowS) {
      const now = Date.now();
      let window = windows.get(key);
      if (window && window.endsAt > now) window.points += points;
      else {
        // The oldest are first: a key whose window ended comes to the end.
        windows.delete(key);
        for (const [oldest, { endsAt }] of windows) {
          if (endsAt > now) break;
          windows.delete(oldest);
        }
        const endsAt = now + windowS * 1000;
        window = { points, endsAt, resetAt: new Date(endsAt) };
        windows.set(key, window);
      }
      return count(window);
    },
    get(key) {
      const window = windows.get(key);
      return window && window.endsAt > Date.now() ? count(window) : null;
    },
    remove: (key) => void windows.delete(key),
  };
}

/**
 * In the table `throttle`, which is not in the write-ahead log: what was counted is forgotten when PostgreSQL crashes. One
 * upsert a call, so that processes count together without a lock of their own; the library's, since it fits: the table
 * is ours, by migration, and so is the clearing of old rows.
 */
export function postgresCounter(pool: pg.Pool): Counter {
  return counterOf(
    new RateLimiterPostgres({
      // Not by prepared statements: a pooler in transaction mode gives each call another connection.
      storeClient: { query: ({ text, values }: { text: string; values: unknown[] }) => pool.query(text, values) },
      storeType: 'client',
      tableName: 'throttle',
      tableCreated: true,
      clearExpiredByTimeout: false,
      points: 1,
      duration: 1,
      keyPrefix: '',
    }),
  );
}

/** Removes windows that ended more than an hour ago. */
export async function pruneThrottles(pool: pg.Pool): Promise<number> {
  const { rowCount } = await pool.query('delete from throttle where expire < $1', [Date.now() - 3_600_000]);
  return rowCount ?? 0;
}

/** A limiter of the library as a mere counter: limits are compared here, where one rule has one place. */
export function counterOf(limiter: RateLimiterAbstract): Counter {
  const count = (res: RateLimiterRes): Count => ({
    points: res.consumedPoints,
    resetAt: new Date(Date.now() + Math.max(res.msBeforeNext, 0)),
  });
  return {
    add: async (key, points, windowS) => count(await limiter.penalty(key, points, { customDuration: windowS })),
    async get(key) {
      const res = await limiter.get(key);
      return res && res.msBeforeNext > 0 ? count(res) : null;
    },
    remove: async (key) => void (await limiter.delete(key)),
  };
}

/** How often it is said that a store does not answer. */
const warnEveryMs = 10_000;

/** Counts elsewhere while the first store does not answer: a store that is away must not refuse everything. */
export function withFallback(first: Counter, second: Counter, log: Logger): Counter {
  let warned = 0;
  const either = async <T>(call: (counter: Counter) => T | Promise<T>): Promise<T> => {
    try {
      return await call(first);
    } catch (error) {
      if (Date.now() - warned >= warnEveryMs) {
        warned = Date.now();
        log.warn({ err: error }, 'rates: Redis does not answer; counting without it');
      }
      return call(second);
    }
  };
  return {
    add: (key, points, windowS) => either((counter) => counter.add(key, points, windowS)),
    get: (key) => either((counter) => counter.get(key)),
    remove: (key) => either((counter) => counter.remove(key)),
  };
}
