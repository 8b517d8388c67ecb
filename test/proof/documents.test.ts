import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { rowId } from '../../src/kernel/graphql/global-id.ts';
import { listProcesses } from '../../src/kernel/processes/children.ts';
import {
  csv,
  isOver,
  jobWhere,
  mutate,
  put,
  register,
  submit,
  upload,
  type JobState,
} from '../domains/documents/harness.ts';
import { person, workspace, type Person } from '../support/actors.ts';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/embedded.ts';
import { environment, spawnServer, testFolder, type ServerProcess } from '../support/server.ts';

/** Multiplies the size of the load. */
const scale = Number(process.env['PROOF_SCALE'] ?? '1');
const perWorkspace = Math.max(1, Math.round(20 * scale));
const workspaces = 10;
/** A take-over is promised within 15 s; a test gives up after four times that, milliseconds. */
const livenessMs = 60_000;

let folder: string;
let database: TestDatabase;
let env: Record<string, string>;
let sql: pg.Client;
let api: ServerProcess;
let ada: Person;
let of: string;
const workers: ServerProcess[] = [];

beforeAll(async () => {
  folder = await testFolder();
  await mkdir(path.join(folder, 'shared'), { mode: 0o711 });
  database = await testDatabase();
  env = environment(folder, database.url, { SWITCHYARD_PROCESS_DRIVER: 'false' });
  sql = new pg.Client({ connectionString: database.url });
  sql.on('error', () => undefined); // a test ends all connections
  await sql.connect();
  api = await spawnServer({ ...env, SWITCHYARD_ROLES: 'api' });
  ada = await person(api.url);
  of = (await workspace(api.url, ada)).id;
});
afterAll(async () => {
  for (const one of [...workers, api]) await one.kill('SIGKILL');
  await sql.end();
  await database.drop();
  await rm(folder, { recursive: true, force: true });
});

const worker = async (): Promise<ServerProcess> => {
  const one = await spawnServer({ ...env, SWITCHYARD_ROLES: 'worker' });
  workers.push(one);
  return one;
};
const endWorkers = async () => {
  for (const one of workers.splice(0)) await one.kill('SIGKILL');
};
const over = (id: string, timeoutMs = livenessMs) => jobWhere(api.url, ada, id, isOver, timeoutMs);
const stepIs = async (id: string, name: string, status: string) => {
  const { rowCount } = await sql.query('select 1 from run_step where run_id = $1 and name = $2 and status::text = $3', [
    rowId('Run', id),
    name,
    status,
  ]);
  return (rowCount ?? 0) > 0;
};
const childrenOf = async (pid: number | undefined) =>
  (await listProcesses()).filter(({ parentPid, zombie }) => parentPid === pid && !zombie).map((one) => one.pid);
const copies = async () =>
  (await readdir(path.join(folder, 'state/documents'), { recursive: true, withFileTypes: true })).filter((one) =>
    one.isFile(),
  );
const cellsOf = async (id: string) => {
  const { rows } = await sql.query<{ cells: string; tables: string }>(
    `select count(*) cells, count(distinct t.id) tables from extracted_table t join extracted_cell c on c.table_id = t.id
     where t.job_id = $1`,
    [rowId('Run', id)],
  );
  return { cells: Number(rows[0]?.cells), tables: Number(rows[0]?.tables) };
};

test.for(['detect', 'extract', 'persist'])('the worker is killed in the step %s: another one goes on', async (step) => {
  const rows = 30_000;
  const document = await upload(api.url, ada, of, `${step}.csv`, csv(rows, step));
  const first = await worker();
  // What only the last step reads is kept from it, so that it does not end before it is killed.
  const lock = new pg.Client({ connectionString: database.url });
  await lock.connect();
  try {
    if (step === 'persist') await lock.query('begin; lock table cell_correction in access exclusive mode');
    const id = await submit(api.url, ada, { documentId: document.id });
    await until('the step runs', () => stepIs(id, step, 'RUNNING'), livenessMs);
    if (step === 'extract') await until('something is stored', async () => (await cellsOf(id)).cells > 0, livenessMs);
    const children = await childrenOf(first.child.pid);
    await first.kill('SIGKILL');
    const killedAt = performance.now();
    await lock.query('rollback');
    await until('its children are gone', async () => {
      const alive = new Set((await listProcesses()).filter(({ zombie }) => !zombie).map(({ pid }) => pid));
      return children.every((pid) => !alive.has(pid));
    });
    await worker();
    await jobWhere(api.url, ada, id, ({ attempt }) => attempt > 1, livenessMs);
    console.log(`MEASURED take-over of an extraction: ${((performance.now() - killedAt) / 1000).toFixed(1)} s`);
    expect(await over(id)).toMatchObject({ status: 'SUCCEEDED', tableCount: 1, rowCount: rows, cellCount: rows * 3 });
    // What the first one had stored is there once.
    expect(await cellsOf(id)).toEqual({ cells: rows * 3, tables: 1 });
    expect(await copies()).toEqual([]);
  } finally {
    await lock.end();
    await endWorkers();
  }
});

test('many documents of many workspaces at once: all are read, and no workspace waits for another one', async () => {
  const all: { workspaceId: string; jobs: string[]; documents: string[] }[] = [];
  for (let n = 0; n < workspaces; n++) {
    const { id } = await workspace(api.url, ada);
    all.push({ workspaceId: id, jobs: [], documents: [] });
  }
  const begun = performance.now();
  // Each workspace uploads one after the other; more at once than are looked at wait for their turn.
  await Promise.all(
    all.map(async (one, n) => {
      for (let i = 0; i < perWorkspace; i++)
        one.documents.push((await upload(api.url, ada, one.workspaceId, `${i}.csv`, csv(200, `${n} ${i}`))).id);
    }),
  );
  console.log(
    `MEASURED ${workspaces * perWorkspace} documents registered in ${((performance.now() - begun) / 1000).toFixed(1)} s`,
  );
  // The workspaces ask one after the other: the first one would be served first, if they were not told apart.
  for (const { documents, jobs } of all)
    jobs.push(...(await Promise.all(documents.map((documentId) => submit(api.url, ada, { documentId })))));
  const submitted = performance.now();
  await Promise.all([worker(), worker()]);
  const ids = all.flatMap(({ jobs }) => jobs.map((id) => rowId('Run', id)));
  const open = async () => {
    const { rows } = await sql.query<{ open: string }>(
      'select count(*) open from run where id = any($1::uuid[]) and completed_at is null',
      [ids],
    );
    return Number(rows[0]?.open);
  };
  await until('all are over', async () => (await open()) === 0, 600_000);
  console.log(`MEASURED ${ids.length} extractions in ${((performance.now() - submitted) / 1000).toFixed(1)} s`);
  const { rows } = await sql.query<{
    id: string;
    status: string;
    workspace_id: string;
    started_at: Date;
    completed_at: Date;
  }>('select id, status, workspace_id, started_at, completed_at from run where id = any($1::uuid[])', [ids]);
  expect(rows.filter(({ status }) => status !== 'SUCCEEDED')).toEqual([]);
  const byWorkspace = Map.groupBy(rows, (row) => row.workspace_id);
  for (const runs of byWorkspace.values()) {
    const most = Math.max(
      ...runs.map(
        (run) => runs.filter((one) => one.started_at <= run.started_at && one.completed_at > run.started_at).length,
      ),
    );
    expect(most).toBeLessThanOrEqual(2);
  }
  // Every workspace had begun before the first one was through.
  const firstStarts = [...byWorkspace.values()].map((runs) => Math.min(...runs.map((run) => run.started_at.getTime())));
  const ends = [...byWorkspace.values()].map((runs) => Math.max(...runs.map((run) => run.completed_at.getTime())));
  expect(perWorkspace < 5 || Math.max(...firstStarts) < Math.min(...ends)).toBe(true);
  expect(await copies()).toEqual([]);
  await endWorkers();
});

test('all connections to the database are cut in the middle: extractions go on, and nothing is there twice or by half', async () => {
  const rows = 20_000;
  await worker();
  const documents = await Promise.all(
    [1, 2].map((n) => upload(api.url, ada, of, `away ${n}.csv`, csv(rows, `away ${n}`))),
  );
  const jobs = await Promise.all(documents.map(({ id }) => submit(api.url, ada, { documentId: id })));
  await until(
    'both are read',
    async () => (await Promise.all(jobs.map((id) => cellsOf(id)))).every(({ cells }) => cells > 0),
    livenessMs,
  );
  const artifact = await put(api.url, ada, of, { name: 'meanwhile.csv', bytes: csv(10, 'meanwhile') });
  const admin = new pg.Client({ connectionString: database.url });
  await admin.connect();
  const registering = register(api.url, ada, artifact).catch((error: unknown) => error);
  await admin.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
  );
  await registering;
  await admin.end();
  await sql.end().catch(() => undefined);
  sql = new pg.Client({ connectionString: database.url });
  await sql.connect();
  for (const id of jobs) {
    let job: JobState | null = null;
    await until(
      'it is over',
      async () => {
        // The API has to find new connections, too.
        job = await jobWhere(api.url, ada, id, isOver).catch(() => null);
        return job !== null;
      },
      livenessMs * 2,
    );
    expect(job).toMatchObject({ status: 'SUCCEEDED', rowCount: rows });
    expect(await cellsOf(id)).toEqual({ cells: rows * 3, tables: 1 });
  }
  // Registered or not, and the same once more either way.
  const answer = await register(api.url, ada, artifact);
  expect(answer.__typename).toBe('UploadDocumentSuccess');
  const { rows: made } = await sql.query('select 1 from document where artifact_id = $1', [
    rowId('Artifact', artifact),
  ]);
  expect(made).toHaveLength(1);
  await endWorkers();
});

test('the storage is away in the middle: nothing is registered by half, and a retry finds everything', async () => {
  await worker();
  const document = await upload(api.url, ada, of, 'stored.csv', csv(100, 'stored'));
  const artifact = await put(api.url, ada, of, { name: 'later.csv', bytes: csv(10, 'later') });
  const blobs = path.join(folder, 'state/blobs');
  await rename(blobs, `${blobs}.away`);
  const id = await submit(api.url, ada, { documentId: document.id });
  expect(await over(id)).toMatchObject({ status: 'FAILED', errorCode: 'FILE_DAMAGED' });
  expect((await register(api.url, ada, artifact)).__typename).toBe('FileDamaged');
  await expect(put(api.url, ada, of, { name: 'none.csv', bytes: csv(10, 'none') })).rejects.toThrow('PUT answered 503');
  await rm(blobs, { recursive: true, force: true });
  await rename(`${blobs}.away`, blobs);
  const { rows } = await sql.query(
    "select 1 from document d join artifact a on a.id = d.artifact_id where a.status <> 'READY'",
  );
  expect(rows).toEqual([]);
  expect(await register(api.url, ada, artifact)).toMatchObject({ document: { status: 'AVAILABLE' } });
  const again = await mutate<{ run: { id: string } }>(api.url, 'retryRun', { id }, 'run { id }', ada);
  expect(await over(again.run.id)).toMatchObject({ status: 'SUCCEEDED', rowCount: 100 });
  expect(await copies()).toEqual([]);
  await endWorkers();
});
