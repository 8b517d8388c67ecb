import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { memberRemoved } from '../../../src/domains/identity/events.ts';
import { deploymentKind } from '../../../src/domains/deployments/service/index.ts';
import { system } from '../../../src/kernel/auth/actor.ts';
import { globalId } from '../../../src/kernel/graphql/global-id.ts';
import { newId } from '../../../src/kernel/ids.ts';
import { encodeCursor } from '../../../src/kernel/live/cursor.ts';
import { Runs } from '../../../src/kernel/runs/runs.ts';
import type { Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { memberOf, rowOf, tenant, type Tenant } from '../../support/world.ts';

let server: TestServer;
/** Another one on the same database. */
let other: TestServer;
let of: Tenant;
beforeAll(async () => {
  const env = { SWITCHYARD_ROLES: 'api', SESSION_SECRET: 'a secret that both of the servers have' };
  server = await startTestServer(env);
  other = await startTestServer(env, {}, server.database);
  of = await tenant(app(), 'updates');
});
afterAll(async () => {
  await other.stop();
  await server.stop();
});

const app = () => server.running.app;

function follow(id: string, after: string | null = null, who: Auth = of.owner, on = server): Follower {
  const follower = new Follower(on.url, who, 'deploymentUpdated', { id, after });
  onTestFinished(() => follower.close());
  return follower;
}
const begun = (...all: Follower[]) =>
  until('the streams have begun', async () => all.every(({ items }) => items.length > 0));
const updates = (follower: Follower) => follower.items.flatMap(({ event }) => (event ? [event] : []));
const seqs = (follower: Follower) => updates(follower).map(({ seq }) => Number(seq));

async function application(inWorkspace = of): Promise<string> {
  const make = rowOf['Application'];
  if (!make) throw new Error('no way to make an application');
  return make(app(), inWorkspace);
}

/** A new deployment, and how a worker takes it through its life. */
async function deployment(applicationId: string, inWorkspace = of) {
  const runs = app().use(Runs);
  const input = { kind: 'BUILD', applicationId, ref: 'main' } as const;
  const { id } = await app().transact(system, (tx) =>
    runs.create(tx, { kind: deploymentKind, workspaceId: inWorkspace.id, input, trigger: 'API' }),
  );
  return {
    id,
    async live(): Promise<void> {
      const workerId = newId();
      const run = await runs.take(id, { workerId, hostId: newId() });
      if (!run) throw new Error('not taken');
      const hold = { runId: id, attempt: run.attempt, workerId };
      for (const phase of ['BUILDING', 'DEPLOYING', 'HEALTH_CHECKING'])
        await app().transact(system, (tx) => runs.moveTo(tx, hold, phase));
      await app().transact(system, (tx) => runs.finish(tx, hold, { phase: 'DEPLOYED' }));
    },
  };
}

const whole = ['queued', 'securityScanning', 'building', 'deploying', 'healthChecking', 'deployed'].map(
  (name) => `deployment.${name}`,
);
/** Cursor before everything of a workspace. */
const beginning = (workspaceId: string) => encodeCursor({ stream: workspaceId, epoch: 1, seq: 0n });
/** Seqs of the events of these runs, as the log has them. */
async function logged(...ids: string[]): Promise<number[]> {
  const { rows } = await app().database.pool.query<{ seq: string }>(
    'select seq from event where run_id = any($1::uuid[]) order by seq',
    [ids],
  );
  return rows.map(({ seq }) => Number(seq));
}

test('by workspace, by application and by deployment: each event once, in order, with the deployment, in each process', async () => {
  const [mine, another] = [await application(), await application()];
  const workspace = globalId('Workspace', of.id);
  const [all, elsewhere] = [follow(workspace), follow(workspace, null, of.owner, other)];
  const [own, ownElsewhere] = [
    follow(globalId('Application', mine)),
    follow(globalId('Application', mine), null, of.owner, other),
  ];
  await begun(all, elsewhere, own, ownElsewhere);
  const [a, b, c] = [await deployment(mine), await deployment(another), await deployment(mine)];
  const one = follow(globalId('Deployment', a.id));
  await Promise.all([a.live(), b.live(), c.live()]);
  await until('all came', async () => [all, elsewhere].every((x) => updates(x).length === 18));
  await until('all of it came', async () => [own, ownElsewhere].every((x) => updates(x).length === 12));
  await until('it ended with its deployment', async () => one.completed);
  for (const x of [all, elsewhere]) expect(seqs(x)).toEqual(await logged(a.id, b.id, c.id));
  for (const x of [own, ownElsewhere]) expect(seqs(x)).toEqual(await logged(a.id, c.id));
  expect(updates(one).map(({ type }) => type)).toEqual(whole);
  const last = own.items.findLast(({ event }) => event?.runId === globalId('Deployment', a.id));
  expect(last?.deployment).toEqual({ id: globalId('Deployment', a.id), phase: 'DEPLOYED' });
});

test('goes on after every cursor, without gap or repeat; what is deleted since is still told of', async () => {
  const own = await tenant(app(), 'cursors');
  const [mine, another] = [await application(own), await application(own)];
  const [a, b, gone] = [await deployment(mine, own), await deployment(another, own), await deployment(mine, own)];
  for (const one of [a, b, gone]) await one.live();
  const expected = await logged(a.id, gone.id);
  await app().transact(system, (tx) => app().use(Runs).remove(tx, [gone.id]));
  // That process has not looked at any of them.
  const all = follow(globalId('Application', mine), beginning(own.id), own.owner, other);
  await until('the past came', async () => updates(all).length === 12);
  expect(seqs(all)).toEqual(expected);
  expect(all.items.map(({ deployment: told }) => told && true)).toEqual(
    updates(all).map(({ runId }) => runId === globalId('Deployment', a.id) || null),
  );
  for (const [index, item] of all.items.slice(0, -1).entries()) {
    const rest = follow(globalId('Application', mine), item.cursor ?? null, own.owner);
    await until('the rest came', async () => updates(rest).length === 11 - index);
    expect(seqs(rest)).toEqual(expected.slice(index + 1));
    await rest.close();
  }
});

test('says what it cannot tell, and where to go on', async () => {
  const own = await tenant(app(), 'gaps');
  const mine = await application(own);
  const a = await deployment(mine, own);
  await a.live();
  const sql = (text: string) => app().database.pool.query(text, [own.id]);
  await sql('update event_head set pruned_seq = 4 where workspace_id = $1');
  await sql('delete from event where workspace_id = $1 and seq <= 4');
  const behind = follow(globalId('Application', mine), beginning(own.id), own.owner);
  await until('it ended', async () => behind.completed);
  expect(behind.items).toEqual([
    { __typename: 'StreamGap', reason: 'PRUNED', resumeAfter: encodeCursor({ stream: own.id, epoch: 1, seq: 4n }) },
  ]);
  const on = follow(globalId('Application', mine), behind.items[0]?.resumeAfter ?? null, own.owner);
  await until('it goes on', async () => updates(on).length === 2);
  expect(updates(on).map(({ type }) => type)).toEqual(whole.slice(4));
  const wrong = follow(globalId('Application', mine), beginning(of.id), own.owner);
  await until('refused', async () => wrong.errors.length > 0);
  expect(wrong.errors[0]?.extensions).toMatchObject({ code: 'VALIDATION_ERROR' });
});

test('nobody else hears of it, nothing else is followed, and who loses the right loses the stream', async () => {
  const mine = await application();
  const a = await deployment(mine);
  const ids = [globalId('Workspace', of.id), globalId('Application', mine), globalId('Deployment', a.id)];
  const strangers = ids.map((id) => follow(id, null, { token: '' }));
  const eve = (await tenant(app(), 'eve')).owner;
  const others = ids.map((id) => follow(id, null, eve));
  // The id of a run of another kind, of a thing that cannot be followed, of nothing.
  const refused = [globalId('ApplicationDeletion', a.id), globalId('User', of.owner.id), globalId('Deployment', newId()), 'x'].map((id) => follow(id)); // prettier-ignore
  await until('all were refused', async () =>
    [...strangers, ...others, ...refused].every((x) => x.errors.length + (x.closed ? 1 : 0) > 0),
  );
  for (const one of [...others, ...refused]) expect(one.errors[0]?.extensions).toMatchObject({ code: 'NOT_FOUND' });
  for (const one of [...strangers, ...others, ...refused]) expect(one.items).toEqual([]);

  const bob = await memberOf(app(), of, 'VIEWER');
  const his = follow(globalId('Application', mine), null, bob, other);
  await begun(his);
  const b = await deployment(mine);
  await until('he hears of it', async () => updates(his).length === 1);
  await app().transact(system, async (tx) => {
    const { id } = await tx.db.membership.findFirstOrThrow({ where: { workspaceId: of.id, userId: bob.id } });
    await tx.db.membership.delete({ where: { id } });
    tx.append({ type: memberRemoved, workspaceId: of.id, subjectId: id, data: { userId: bob.id } });
  });
  await b.live();
  await until('the stream ended', async () => his.closed !== null);
  expect(his.closed?.code).toBe(4403);
  expect(updates(his)).toHaveLength(1);
});

test('what a run is about is looked up once, whoever follows', async () => {
  const own = await tenant(app(), 'shared');
  const mine = await application(own);
  for (let i = 0; i < 3; i++) await (await deployment(mine, own)).live();
  const { pool } = app().database;
  let looked = 0;
  const query = pool.query.bind(pool) as (...args: unknown[]) => unknown;
  pool.query = ((...args: unknown[]) => {
    if (String(args[0]).startsWith('select id, kind, input from run')) looked++;
    return query(...args);
  }) as never;
  onTestFinished(() => {
    pool.query = query as never;
  });
  const followers = Array.from({ length: 10 }, () => follow(globalId('Application', mine), beginning(own.id), own.owner)); // prettier-ignore
  await until('all have all', async () => followers.every((x) => updates(x).length === 18));
  expect(looked).toBe(1);
});
