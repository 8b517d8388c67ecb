import pg from 'pg';
import { vi } from 'vitest';
import { Batch } from '#kernel/db/batch.ts';
import { Reader, type Reading } from '#kernel/db/reader.ts';

/** Statements that are not a request's own. */
const aside = /^select pg_notify|set last_seen_at/;

/**
 * The SQL statements that a pool and its reader are given while `fn` runs, in order. Only for a server whose pool does nothing else:
 * role api alone, and a long `hubPollMs`. The note of a credential's last use, once a minute, and what is said after a commit
 * (NOTIFY, one for those of a moment) do not count.
 */
export async function statements(pool: pg.Pool, fn: () => Promise<unknown>): Promise<string[]> {
  const texts: string[] = [];
  const query = pool.query.bind(pool) as (...args: unknown[]) => unknown;
  const spy = vi.spyOn(pool, 'query').mockImplementation((...args: unknown[]) => {
    const [statement] = args;
    const text = typeof statement === 'string' ? statement : (statement as { text: string }).text;
    if (!aside.test(text)) texts.push(text);
    return query(...args);
  });
  const { read } = Reader.prototype;
  const reads = vi.spyOn(Reader.prototype, 'read').mockImplementation(function (this: Reader, reading: Reading) {
    if (this.pool === pool) texts.push(reading.text);
    return read.call(this, reading);
  });
  try {
    await fn();
  } finally {
    spy.mockRestore();
    reads.mockRestore();
  }
  return texts;
}

/**
 * The statements that all connections of this process are given while `fn` runs, and how often one of them had to wait
 * for answers before it was given more. What is said after the commit (NOTIFY) does not count.
 */
export async function roundTrips(fn: () => Promise<unknown>): Promise<{ statements: string[]; trips: number }> {
  const statements: string[] = [];
  const open = new Map<pg.Client, number>();
  let trips = 0;
  type Send = (this: pg.Client, ...args: unknown[]) => unknown;
  const prototype = pg.Client.prototype as unknown as { query: Send };
  const { query } = prototype;
  const spy = vi.spyOn(prototype, 'query').mockImplementation(function (this: pg.Client, ...args: unknown[]) {
    const [statement] = args;
    const texts =
      statement instanceof Batch
        ? statement.statements.map(({ text }) => text)
        : [typeof statement === 'string' ? statement : (statement as { text: string }).text];
    if (texts.some((text) => aside.test(text))) return query.apply(this, args);
    statements.push(...texts);
    const before = open.get(this) ?? 0;
    if (before === 0) trips++;
    open.set(this, before + 1);
    const answered = () => open.set(this, (open.get(this) ?? 1) - 1);
    if (statement instanceof Batch) void statement.answered.then(answered);
    const callback = args.at(-1);
    if (typeof callback === 'function')
      args[args.length - 1] = (...answer: unknown[]) => {
        answered();
        (callback as (...answer: unknown[]) => void)(...answer);
      };
    const sent = query.apply(this, args);
    if (sent instanceof Promise) sent.then(answered, answered);
    return sent;
  });
  try {
    await fn();
  } finally {
    spy.mockRestore();
  }
  return { statements, trips };
}
