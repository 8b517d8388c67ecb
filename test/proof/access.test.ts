import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { Mail } from '#kernel/mail/mail.ts';
import {
  account,
  accountDeleted,
  mutate,
  password,
  patchAtOnce,
  workspaceDeleted,
  workspaceReceipt,
} from '../domains/identity/support.ts';
import { key, kids, rotate, rotated, rotation, sealed, withKeys } from '../domains/instance/support.ts';
import { workspace } from '../support/actors.ts';
import { until } from '../support/embedded.ts';
import { spawnServer, startTestServer, type ServerProcess, type TestServer } from '../support/server.ts';
import { application } from '../support/world.ts';

/** A take-over with these leases is over in a few seconds; a test gives up after many times that, milliseconds. */
const livenessMs = 60_000;

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_RUN_LEASE_S: '4' });
});
afterAll(() => server.stop());

/** A worker of its own process, on the database of a server. */
async function worker(env: Readonly<Record<string, string>> = server.env): Promise<ServerProcess> {
  const started = await spawnServer({ ...env, SWITCHYARD_ROLES: 'worker', SWITCHYARD_PROCESS_DRIVER: 'false' });
  onTestFinished(() => started.kill('SIGKILL'));
  return started;
}

test('the deletion of an account goes on when its worker is killed in the middle', async () => {
  const { db, database } = server.running.app;
  const ada = await account(server);
  const userId = rowId('User', ada.id);
  await mutate(server, 'saveUserState', { value: { a: 1 }, expectedVersion: 0 }, ada);
  const home = await workspace(server.url, await account(server, 'Bob'));
  const workspaceId = rowId('Workspace', home.id);
  await db.membership.create({ data: { id: newId(), userId, workspaceId, role: 'VIEWER' } });
  // Holds the step that removes this row, as a slow disk would.
  const holder = await database.pool.connect();
  let released = false;
  const release = async () => {
    if (released) return;
    released = true;
    await holder.query('rollback');
    holder.release();
  };
  onTestFinished(release);
  await holder.query('begin');
  await holder.query('select 1 from user_state where user_id = $1 for update', [userId]);

  const first = await worker();
  const { receipt } = (await mutate(server, 'deleteMyAccount', { password }, ada, 'receipt')) as unknown as {
    receipt: string;
  };
  const stepsDone = () => db.runStep.count({ where: { run: { actorId: userId }, status: 'SUCCEEDED' } });
  await until('two steps are done', async () => (await stepsDone()) === 2, livenessMs);
  const waiting = `select 1 from pg_stat_activity
    where wait_event_type = 'Lock' and query ilike '%user_state%' and datname = current_database()`;
  await until(
    'the third is in the middle',
    async () => (await database.pool.query(waiting)).rows.length > 0,
    livenessMs,
  );
  await first.kill('SIGKILL');
  await release();
  await worker();
  const done = await accountDeleted(server.url, receipt);
  expect(done.status).toBe('SUCCEEDED');
  const counts = Object.fromEntries(done.report.map(({ name, count }) => [name, count]));
  // What was done before is not counted twice, and what was under way is not lost.
  expect(counts).toMatchObject({ memberships: 1, states: 1, sessions: 1, accounts: 1 });
  const run = await db.run.findFirstOrThrow({ where: { actorId: userId, kind: 'AccountDeletion' } });
  expect(run.attempt).toBe(2);
  expect(await db.user.count({ where: { id: userId } })).toBe(0);
});

test('the deletion of a workspace goes on when its worker is killed in the middle', async () => {
  const { app } = server.running;
  const owner = await account(server);
  const { id } = await workspace(server.url, owner);
  const workspaceId = rowId('Workspace', id);
  const { slug } = await app.db.workspace.findUniqueOrThrow({ where: { id: workspaceId } });
  // A host that lives and does nothing: the deletion waits for it.
  const hostId = newId();
  const soon = new Date(Date.now() + 3_600_000);
  await app.db.host.create({
    data: { id: hostId, name: 'slow', lastSeenAt: soon, agentId: newId(), agentUntil: soon },
  });
  const of = { id: workspaceId, slug, marker: 'slow', hostId, owner: { id: rowId('User', owner.id), token: '' } };
  const applicationId = await application(app, of);
  const first = await worker();
  const { receipt } = (await mutate(server, 'deleteWorkspace', { id, slug }, owner, 'receipt')) as unknown as {
    receipt: string;
  };
  const askedFor = async () =>
    (await app.db.application.findUnique({ where: { id: applicationId } }))?.removalAskedAt != null;
  await until('it waits for the host', askedFor, livenessMs);
  await first.kill('SIGKILL');
  expect(await workspaceReceipt(server.url, receipt)).toMatchObject({ completedAt: null });
  await worker();
  // The host has done it.
  await app.db.application.update({ where: { id: applicationId }, data: { hostId: null } });
  const done = await workspaceDeleted(server.url, receipt);
  expect(done).toMatchObject({ status: 'SUCCEEDED', phase: 'DELETED' });
  expect(done.report).toContainEqual({ name: 'applications', removed: 1, left: [] });
  const run = await app.db.run.findFirstOrThrow({ where: { kind: 'WorkspaceDeletion' } });
  expect(run.attempt).toBe(2);
  expect(await app.db.workspace.count({ where: { id: workspaceId } })).toBe(0);
});

test('a rotation of keys goes on when its worker is killed in the middle; nothing is done twice or left out', async () => {
  const [k1, k2] = [key('k1'), key('k2')];
  const first = await startTestServer(withKeys('api', [k1]));
  onTestFinished(() => first.stop());
  await sealed(first.running.app, 600);
  const { pool } = first.running.app.database;
  // Slow enough to be killed in the middle.
  await pool.query(`create function slow() returns trigger language plpgsql as
    $$ begin perform pg_sleep(0.005); return new; end $$`);
  await pool.query(`create trigger slow before update on mail for each row execute function slow()`);
  const env = { ...first.env, ...withKeys('worker', [k2, k1]) };
  const killed = await worker(env);
  const second = await startTestServer(withKeys('api', [k2, k1]), {}, first.database);
  onTestFinished(() => second.stop());
  const { app } = second.running;
  const id = await rotate(app);
  const columns = async () => JSON.stringify((await rotation(app, id)).keyRotation?.columns ?? {});
  await until('a part is done', async () => (await columns()).includes('rewrapped":100'), livenessMs);
  await killed.kill('SIGKILL');
  expect(await kids(app)).toEqual(['k1', 'k2']);
  await pool.query(`drop trigger slow on mail`);
  await worker(env);
  expect(await rotated(app, id)).toMatchObject({
    status: 'SUCCEEDED',
    attempt: 2,
    lostWorkers: 1,
    keyRotation: {
      columns: { 'mail.content': { rewrapped: 600, failed: 0 }, 'mail.recipient': { rewrapped: 600, failed: 0 } },
    },
  });
  expect(await kids(app)).toEqual(['k2']);
  expect(await app.use(Mail).outbox()).toHaveLength(600);
});

test('16 writers with 200 patches each of the state of one person lose no field of each other', async () => {
  const begun = performance.now();
  const { state, expected } = await patchAtOnce(server, await account(server), 16, 200);
  expect(state).toEqual(expected);
  console.log(`MEASURED 3200 patches by 16 writers: ${((performance.now() - begun) / 1000).toFixed(1)} s`);
});
