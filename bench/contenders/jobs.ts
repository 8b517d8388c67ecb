import { PgBoss } from 'pg-boss';
import { rowId } from '../data/shape.ts';
import { pool } from './shared/data.ts';
import { serveRuns, times } from './shared/runs.ts';
import { databaseUrl } from './shared/serve.ts';

// What a run is measured against. JOBS=pg-boss: a job of the same engine that does nothing. JOBS=insert: a row.

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
    if (count === 0) return;
    done = 0;
    wanted = count;
    const over = new Promise<void>((resolve) => (all = resolve));
    await times(count, (index) => boss.send('bench', { index }));
    await over;
  };
}

const insert = `insert into run (id, workspace_id, kind, phase, deadline_at, updated_at)
  values (uuidv7(), $1, 'BenchRun', 'NEW', now(), now())`;
const workspaces = Number(process.env['WORKSPACES']);

serveRuns(
  process.env['JOBS'] === 'insert'
    ? (count) =>
        times(count, (index) =>
          pool.query({ name: 'insert', text: insert, values: [rowId('workspace', (index % workspaces) + 1)] }),
        )
    : await pgBoss(),
);
