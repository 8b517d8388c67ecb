// Appends events as any part of the server does, by `transact`, for proofs of the log: concurrent writers, small and
// large transactions, rollbacks and long transactions. Goes on when the database comes back after it was away.
// `node log-writers.ts '<Task as JSON>'`; says JSON lines: {committed}, and at the end {done: true, committed, …}.
import { setTimeout as delay } from 'node:timers/promises';
import { system } from '../../src/kernel/auth/actor.ts';
import { createDatabase } from '../../src/kernel/db/client.ts';
import { createTransact } from '../../src/kernel/db/transact.ts';
import { PostgresWakeUps } from '../../src/kernel/live/wakeups.ts';
import { createLogger } from '../../src/kernel/log.ts';
import { noted } from './live.ts';
import { random } from './random.ts';

export interface Task {
  readonly databaseUrl: string;
  /** Row ids. */
  readonly workspaceIds: readonly string[];
  readonly writers: number;
  /** Events that each writer commits. */
  readonly events: number;
  readonly seed: number;
  /** Most events of one transaction. */
  readonly batch: number;
  /** Characters of text in each event. */
  readonly textLength?: number;
  /** Milliseconds between the transactions of one writer. */
  readonly pauseMs?: number;
}

export interface Result {
  readonly done: true;
  readonly committed: number;
  readonly rolledBack: number;
  readonly long: number;
  /** Transactions that failed because the database was away. They may have committed or not. */
  readonly interrupted: number;
  readonly seconds: number;
}

class ChangedItsMind extends Error {}

const task = JSON.parse(process.argv[2] ?? '{}') as Task;
const database = createDatabase({
  url: task.databaseUrl,
  directUrl: task.databaseUrl,
  poolMax: task.writers + 2,
  applicationName: 'test-writers',
});
const wakeUps = new PostgresWakeUps({
  pool: database.pool,
  directUrl: task.databaseUrl,
  log: createLogger('silent'),
});
const transact = createTransact({
  database,
  originIds: () => {
    throw new Error('no origin here');
  },
  traceparent: () => undefined,
  onAppended: (events) => events.forEach(({ workspaceId }) => wakeUps.publish(`w:${workspaceId}`)),
});

const count = { committed: 0, rolledBack: 0, long: 0, interrupted: 0 };
const text = 'x'.repeat(task.textLength ?? 0);
const say = (message: object) => console.log(JSON.stringify(message));

async function write(writer: number): Promise<void> {
  const next = random(task.seed * 1000 + writer);
  const pick = () => task.workspaceIds[Math.floor(next() * task.workspaceIds.length)] ?? '';
  for (let n = 0; n < task.events;) {
    const size = Math.min(1 + Math.floor(next() * task.batch), task.events - n);
    const [rollback, long, two] = [next() < 0.1, next() < 0.02, next() < 0.1];
    const first = pick();
    const second = two ? pick() : first;
    try {
      await transact(system, async (tx) => {
        for (let i = 0; i < size; i++) {
          const workspaceId = i % 2 === 0 ? first : second;
          const data = { n: n + i, writer, ...(text ? { text } : {}) };
          tx.append({ type: noted, workspaceId, subjectId: workspaceId, data });
        }
        if (long) await tx.db.$executeRaw`select pg_sleep(0.3)`;
        if (rollback) throw new ChangedItsMind();
      });
      n += size;
      count.committed += size;
      if (long) count.long++;
    } catch (error) {
      if (error instanceof ChangedItsMind) count.rolledBack++;
      else {
        count.interrupted++;
        await delay(100); // the database is away
      }
    }
    if (task.pauseMs) await delay(task.pauseMs);
  }
}

const begun = performance.now();
const ticker = setInterval(() => say({ committed: count.committed }), 50);
await Promise.all(Array.from({ length: task.writers }, (_, writer) => write(writer)));
clearInterval(ticker);
await wakeUps.close();
await database.close();
say({ done: true, ...count, seconds: (performance.now() - begun) / 1000 } satisfies Result);
