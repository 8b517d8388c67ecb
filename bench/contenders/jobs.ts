import { PgBoss } from 'pg-boss';
import { rowId } from '../data/shape.ts';
import { pool } from './shared/data.ts';
import { serveRuns, times } from './shared/runs.ts';
import { databaseUrl } from './shared/serve.ts';

// What runs and events are measured against. JOBS=pg-boss: a job of the same engine that does nothing. JOBS=insert: a
// row of the same table, and nothing else.

const slots = 4;

async function pgBoss(): Promise<(count: number) => Promise<void>> {
  const boss = new PgBoss({ connectionString: databaseUrl, schema: 'pgboss', max: 10, useListenNotify: true });
  await boss.start();
  await boss.createQueue('bench', { notify: true });
  let done = 0;
  let all = () => undefined as void;
  let wanted = 0;
  for (let slot = 0; slot < slots; slot++) {
    const worker: { id: string | null } = { id: null };
    const polling = { batchSize: 1, pollingIntervalSeconds: 2, notifyPollingIntervalSeconds: 2 };
    worker.id = await boss.work('bench', polling, async () => {
      // As the server does it: else it sleeps until its next look.
      if (worker.id) boss.notifyWorker(worker.id);
      if (++done === wanted) all();
    });
  }
  return async (count) => {
    done = 0;
    wanted = count;
    const over = new Promise<void>((resolve) => (all = resolve));
    await times(count, (index) => boss.send('bench', { index }));
    await over;
  };
}

// It is over, so that no worker looks at it.
const insertRun = `insert into run (id, workspace_id, kind, status, phase, deadline_at, completed_at, updated_at)
  values (uuidv7(), $1, 'BenchRun', 'SUCCEEDED', 'DONE', now(), now(), now())`;
const insertEvent = `insert into event (workspace_id, seq, type, version, subject_type, subject_id, actor_kind, data)
  values ($1, $2, 'bench.happened', 1, 'Workspace', $1, 'SYSTEM', $3)`;
const workspaces = Number(process.env['WORKSPACES']);
const workspace = (index: number): string => rowId('workspace', (index % workspaces) + 1);
/** Of workspaces that are not there: nobody follows them. */
const nowhere = (index: number): string => rowId('workspace', 1_000_000 + (index % workspaces));
/** Larger than those of a contender that was started before. */
let seq = Date.now() * 1000;

serveRuns({
  runs:
    process.env['JOBS'] === 'insert'
      ? (count) => times(count, (index) => pool.query({ name: 'run', text: insertRun, values: [workspace(index)] }))
      : await pgBoss(),
  events: (count) =>
    times(count, (index) =>
      pool.query({ name: 'event', text: insertEvent, values: [nowhere(index), seq++, { n: index }] }),
    ),
});
