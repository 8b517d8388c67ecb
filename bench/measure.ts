import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';

// What processes cost, from /proc. Linux only.

/** The cores for the server, and for the database and the load; null: there are too few, and nothing is pinned. */
export const cores: { readonly server: number | null; readonly others: number | null } =
  process.platform === 'linux' && cpus().length > 1 ? { server: 0, others: 1 } : { server: null, others: null };

/** A process and all below it. */
export function tree(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const parent = Number(/^PPid:\s+(\d+)/m.exec(read(`/proc/${name}/status`))?.[1] ?? '0');
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const all = [pid];
  for (const one of all) all.push(...(children.get(one) ?? []));
  return all;
}

/** Nothing for a process that has just ended. */
function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return '';
    throw error;
  }
}

function threads(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** Time on a processor so far, by process, microseconds: of all threads. */
export function cpu(pids: readonly number[]): Map<number, number> {
  return new Map(
    pids.map((pid) => [
      pid,
      threads(pid).reduce(
        (sum, tid) => sum + Number(read(`/proc/${pid}/task/${tid}/schedstat`).split(' ')[0] ?? 0) / 1000,
        0,
      ),
    ]),
  );
}

/** Time between two readings, microseconds. A process that began in between counts whole. */
export const spent = (before: ReadonlyMap<number, number>, after: ReadonlyMap<number, number>): number =>
  [...after].reduce((sum, [pid, time]) => sum + Math.max(0, time - (before.get(pid) ?? 0)), 0);

/** Memory with shared pages divided among those that share them, kB. */
export const pss = (pid: number): number =>
  tree(pid).reduce((sum, one) => sum + Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${one}/smaps_rollup`))?.[1] ?? 0), 0);

/** What a database did, each time. */
export interface Counted {
  /** COMMIT and the like included. */
  readonly statements: number;
  /** Pages that they looked at, found in its memory or not. */
  readonly buffers: number;
}

/** Lets `fn` count what a database does while something is done; null where the database does not tell. */
export async function counting<T>(
  url: string,
  fn: (count: (times: number, what: () => Promise<unknown>) => Promise<Counted | null>) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const set = async (value: string) => {
    await client.query(`alter system set pg_stat_statements.track = '${value}'`);
    await client.query('select pg_reload_conf()');
    // A backend looks at its configuration between two statements.
    await delay(100);
  };
  const { rowCount } = await client.query(
    `select 1 from pg_extension where extname = 'pg_stat_statements'
     and current_setting('shared_preload_libraries') like '%pg_stat_statements%'`,
  );
  try {
    if (rowCount === 0) return await fn(async () => null);
    await set('top');
    return await fn(async (times, what) => {
      await client.query('select pg_stat_statements_reset()');
      await what();
      const { rows } = await client.query<{ calls: string; buffers: string }>(
        `select coalesce(sum(calls), 0) calls, coalesce(sum(shared_blks_hit + shared_blks_read), 0) buffers from pg_stat_statements s join pg_database d on d.oid = s.dbid
         where d.datname = current_database() and toplevel and query !~ 'pg_stat_statements'
         and query !~ '^SELECT 1 FROM ONLY'`, // what a deferred foreign key looks up at the end
      );
      return { statements: Number(rows[0]?.calls ?? 0) / times, buffers: Number(rows[0]?.buffers ?? 0) / times };
    });
  } finally {
    if (rowCount !== 0) await set('none');
    await client.end();
  }
}
