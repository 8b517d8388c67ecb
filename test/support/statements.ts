import type pg from 'pg';
import { vi } from 'vitest';

/**
 * The SQL statements that a pool is given while `fn` runs, in order. Only for a server whose pool does nothing else:
 * role api alone, and a long `hubPollMs`. The note of a credential's last use, once a minute, does not count.
 */
export async function statements(pool: pg.Pool, fn: () => Promise<unknown>): Promise<string[]> {
  const texts: string[] = [];
  const query = pool.query.bind(pool) as (...args: unknown[]) => unknown;
  const spy = vi.spyOn(pool, 'query').mockImplementation((...args: unknown[]) => {
    const [statement] = args;
    const text = typeof statement === 'string' ? statement : (statement as { text: string }).text;
    if (!text.includes('set last_seen_at')) texts.push(text);
    return query(...args);
  });
  try {
    await fn();
  } finally {
    spy.mockRestore();
  }
  return texts;
}
