/*
 * Runs and events per second, against the job engine alone and a plain insert alone, in turns on one database:
 *
 *   node test/support/throughput.ts [rounds] [runs of a round] [steps of a run] [slots]
 *
 * Prints medians, CPU of this process (creation, execution and driver) and statements a run.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { loadConfig } from '../../src/config.ts';
import { system } from '../../src/kernel/auth/actor.ts';
import { Batch } from '../../src/kernel/db/batch.ts';
import { defineEvent } from '../../src/kernel/events/define.ts';
import { newId } from '../../src/kernel/ids.ts';
import { defineRunKind } from '../../src/kernel/runs/kinds.ts';
import { Runs } from '../../src/kernel/runs/runs.ts';
import { start } from '../../src/start.ts';

const [rounds = 5, runs = 200, steps = 3, slots = 4] = process.argv.slice(2).map(Number);
/** Transactions at once, of whoever creates. */
const writers = 8;

let left = 0;
let done = (): void => undefined;
const noop = defineRunKind({
  name: 'NoopRun',
  versions: [1],
  initial: 'NEW',
  phases: {
    NEW: { status: 'QUEUED', next: ['WORKING', 'FAILED'] },
    WORKING: { status: 'RUNNING', next: ['DONE', 'FAILED'] },
    DONE: { status: 'SUCCEEDED', next: [] },
    FAILED: { status: 'FAILED', next: [] },
  },
  ends: { canceled: () => 'FAILED', failed: () => 'FAILED' },
  steps: () => names,
  begin: () => 'WORKING',
  deadlineS: 600,
  async execute(context) {
    for (const name of names) await context.step(name, { timeoutS: 60 }, async () => null);
    return { phase: 'DONE' };
  },
  onCreate: async () => undefined,
  onEnd: async (tx) => tx.afterCommit(() => --left === 0 && done()),
  retryInput: async () => ({}),
});
const names = Array.from({ length: steps }, (_, i) => `step${i}`);
const happened = defineEvent<{ n: number }>('bench.happened', { subject: 'Workspace', description: 'A measurement.' });

const state = await mkdtemp(path.join(tmpdir(), 'switchyard-throughput-'));
await chmod(state, 0o711); // the database server is another user's
const { running } = { running: await start(loadConfig(environment())) };
const { app } = running;
const boss = new PgBoss({ connectionString: running.databaseUrl, schema: 'alone', max: 5, supervise: false });
boss.on('error', (error) => console.error(error));
await boss.start();
await boss.createQueue('noop', { retryLimit: 0 });
for (let slot = 0; slot < slots; slot++) {
  const worker: { id: string | null } = { id: null };
  worker.id = await boss.work('noop', { batchSize: 1, pollingIntervalSeconds: 0.5 }, async () => {
    if (--left === 0) done();
    if (worker.id) boss.notifyWorker(worker.id);
  });
}
const workspaceId = newId();
await app.database.pool.query(
  `insert into workspace (id, name, slug, created_at, updated_at) values ($1, 'w', 'throughput', now(), now())`,
  [workspaceId],
);
await app.database.pool.query('insert into event_head (workspace_id) values ($1)', [workspaceId]);
await app.database.pool.query('create table plain (id uuid primary key, at timestamptz default now(), data jsonb)');

let statements = 0;
type Submit = { submit: (connection: unknown) => unknown };
for (const prototype of [pg.Query.prototype, Batch.prototype] as unknown as Submit[]) {
  const { submit } = prototype;
  prototype.submit = function (connection) {
    statements += this instanceof Batch ? this.statements.length : 1;
    return submit.call(this, connection);
  };
}

/** `n` of them by `writers` at once. */
async function each(n: number, fn: (i: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: writers }, async () => {
      while (next < n) await fn(next++);
    }),
  );
}
const all = (n: number, create: () => Promise<unknown>) => async () => {
  const over = new Promise<void>((resolve) => (done = resolve));
  left = n;
  await each(n, create);
  await over;
};
const measured = {
  runs: {
    n: runs,
    go: all(runs, () =>
      app.transact(system, (tx) => app.use(Runs).create(tx, { kind: noop, workspaceId, input: {}, trigger: 'API' })),
    ),
  },
  'pg-boss alone': { n: runs, go: all(runs, () => boss.send('noop', {})) },
  events: {
    n: runs * 5,
    go: () =>
      each(runs * 5, (n) =>
        app.transact(system, async (tx) =>
          tx.append({ type: happened, workspaceId, subjectId: workspaceId, data: { n } }),
        ),
      ),
  },
  'plain inserts': {
    n: runs * 5,
    go: () =>
      each(runs * 5, (n) =>
        app.database.query('insert into plain (id, data) values ($1, $2)', [newId(), JSON.stringify({ n })]),
      ),
  },
};

const figures = new Map<string, { rate: number; cpuUs: number; statements: number }[]>();
for (let round = 0; round <= rounds; round++) {
  for (const [name, { n, go }] of Object.entries(measured)) {
    const [cpu, at] = [process.cpuUsage(), performance.now()];
    statements = 0;
    await go();
    const { user, system: kernel } = process.cpuUsage(cpu);
    const figure = {
      rate: (n * 1000) / (performance.now() - at),
      cpuUs: (user + kernel) / n,
      statements: statements / n,
    };
    // The first round warms up.
    if (round > 0) figures.set(name, [...(figures.get(name) ?? []), figure]);
  }
}
const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
for (const [name, all] of figures) {
  const of = (key: keyof (typeof all)[number]) => median(all.map((figure) => figure[key]));
  console.log(
    `${name.padEnd(14)} ${of('rate').toFixed(0).padStart(6)} /s ${of('cpuUs').toFixed(0).padStart(6)} µs CPU ${of('statements').toFixed(1).padStart(6)} statements`,
  );
}
await boss.stop({ graceful: false });
await running.stop();
await rm(state, { recursive: true, force: true });
process.exit(0);

function environment(): Record<string, string> {
  return {
    NODE_ENV: 'test',
    PORT: '0',
    LOG_LEVEL: 'error',
    PATH: process.env['PATH'] ?? '',
    SWITCHYARD_STATE_DIR: path.join(state, 'state'),
    SWITCHYARD_SHARED_DIR: path.join(state, 'shared'),
    SWITCHYARD_WORKER_CONCURRENCY: String(slots),
    SWITCHYARD_DOCKER: 'off',
    SWITCHYARD_PROCESS_DRIVER: 'false',
    SWITCHYARD_METRICS_INTERVAL_S: '0',
    ...(process.env['DATABASE_URL'] ? { DATABASE_URL: process.env['DATABASE_URL'] } : {}),
  };
}
