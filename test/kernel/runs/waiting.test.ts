import { afterAll, beforeAll, expect, test } from 'vitest';
import { system } from '../../../src/kernel/auth/actor.ts';
import { IllegalTransition } from '../../../src/kernel/errors.ts';
import { defineRunKind } from '../../../src/kernel/runs/kinds.ts';
import { Runs } from '../../../src/kernel/runs/runs.ts';
import { bench, begin, eventsOf, over, reached, row, type Bench } from './harness.ts';

const executed: string[] = [];
const waitS = 7200;

/** Prepares, waits for a person, and does it. */
const approvedKind = defineRunKind<{ readonly n?: number }>({
  name: 'ApprovedRun',
  versions: [1],
  initial: 'NEW',
  phases: {
    NEW: { status: 'QUEUED', next: ['PREPARING', 'CANCELED', 'FAILED'] },
    PREPARING: { status: 'RUNNING', next: ['ASKING', 'CANCELED', 'FAILED'] },
    ASKING: { status: 'WAITING', next: ['DOING', 'DECLINED', 'CANCELED', 'FAILED'] },
    DOING: { status: 'RUNNING', next: ['DONE', 'CANCELED', 'FAILED'] },
    DONE: { status: 'SUCCEEDED', next: [] },
    DECLINED: { status: 'SUCCEEDED', next: [] },
    FAILED: { status: 'FAILED', next: [] },
    CANCELED: { status: 'CANCELED', next: [] },
  },
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => ['prepare', 'do'],
  begin: () => 'PREPARING',
  deadlineS: 600,
  waitS,
  async execute(context) {
    await context.step('prepare', { timeoutS: 60 }, async () => executed.push(`prepare ${context.run.id}`));
    if (context.run.phase !== 'DOING') return { phase: 'ASKING', reason: 'Somebody has to say yes.' };
    await context.step('do', { timeoutS: 60 }, async () => executed.push(`do ${context.run.id}`));
    return { phase: 'DONE' };
  },
  onCreate: async () => undefined,
  onWait: async (tx, run, phase) => {
    await tx.db.run.update({ where: { id: run.id }, data: { progress: phase === 'ASKING' ? 0.5 : 0 } });
  },
  retryInput: async () => ({}),
});

let on: Bench;
beforeAll(async () => {
  on = await bench();
  await on.worker({ SWITCHYARD_WORKER_CONCURRENCY: '1' });
});
afterAll(() => on.stop());

const runs = () => on.app.use(Runs);
const start = (lockKey?: string): Promise<string> =>
  on.app.transact(on.actor, async (tx) => {
    const { workspaceId } = on;
    const made = await runs().create(tx, { kind: approvedKind, workspaceId, input: {}, trigger: 'API', ...(lockKey ? { lockKey } : {}) }); // prettier-ignore
    return made.id;
  });
const waiting = async (lockKey?: string): Promise<string> => {
  const id = await start(lockKey);
  await reached(on, id, 'WAITING');
  return id;
};
const decide = (
  id: string,
  fn: (
    run: Awaited<ReturnType<typeof row>>,
    tx: Parameters<Parameters<typeof on.app.transact>[1]>[0],
  ) => Promise<unknown>,
) =>
  on.app.transact(on.actor, async (tx) => {
    const run = await runs().lock(tx, id);
    if (!run) throw new Error('no run');
    return fn(run, tx);
  });

test('a run that waits holds no worker, no lease and no slot, keeps its lock, and goes on at the step after', async () => {
  const id = await waiting('approved');
  const held = await row(on, id);
  expect(held).toMatchObject({ phase: 'ASKING', workerId: null, leaseUntil: null, progress: 0.5, attempt: 1 });
  expect(held.statusReason).toBe('Somebody has to say yes.');
  // How long it takes to be executed does not count while it waits.
  expect(Math.abs(held.deadlineAt.getTime() - Date.now() - waitS * 1000)).toBeLessThan(60_000);
  expect(await on.app.db.runLock.count({ where: { runId: id } })).toBe(1);
  // The worker has one slot, and takes another run; the next one of the same lock waits for this one.
  const behind = await start('approved');
  expect(await over(on, await begin(on))).toMatchObject({ status: 'SUCCEEDED' });
  expect(await row(on, behind)).toMatchObject({ status: 'QUEUED', attempt: 0 });
  // A worker that comes later leaves it alone, and so does the reconciler.
  const other = await on.worker();
  await runs().reconcile();
  expect(await row(on, id)).toMatchObject({ status: 'WAITING', attempt: 1, lostWorkers: 0 });
  await other.running.stop();
  await decide(id, (run, tx) => runs().resume(tx, run, { phase: 'DOING' }));
  const ended = await over(on, id);
  expect(ended).toMatchObject({ status: 'SUCCEEDED', phase: 'DONE', attempt: 2 });
  expect(ended.deadlineAt.getTime()).toBeLessThan(Date.now() + 601_000);
  expect(executed.filter((one) => one.endsWith(id))).toEqual([`prepare ${id}`, `do ${id}`]);
  expect((await eventsOf(on, id)).map((type) => type.replace('approvedRun.', ''))).toEqual([
    'queued',
    'preparing',
    'stepStarted prepare',
    'stepSucceeded prepare',
    'asking',
    'doing',
    'resumed',
    'stepStarted do',
    'stepSucceeded do',
    'done',
  ]);
  await reached(on, behind, 'WAITING');
  await decide(behind, (run, tx) => runs().end(tx, run, { phase: 'DECLINED', reason: 'No.' }));
  expect(await row(on, behind)).toMatchObject({ status: 'SUCCEEDED', phase: 'DECLINED', statusReason: 'No.' });
});

test('it can be canceled, and ends when nobody comes', async () => {
  const canceled = await waiting();
  await runs().cancel(on.actor, canceled);
  expect(await over(on, canceled)).toMatchObject({ status: 'CANCELED', phase: 'CANCELED' });
  const forgotten = await waiting();
  await on.app.database.pool.query(`update run set deadline_at = clock_timestamp() - interval '1 second' where id = $1`, [forgotten]); // prettier-ignore
  expect(await over(on, forgotten)).toMatchObject({ status: 'TIMED_OUT', phase: 'FAILED' });
});

test('one that is told to stop before it waits ends; only one that waits goes on', async () => {
  // Of a host that has no worker: the test takes it.
  const hostId = 'a4d1f3c2-0000-4000-8000-00000000000a';
  const id = await on.app.transact(on.actor, async (tx) => {
    const input = {};
    return (await runs().create(tx, { kind: approvedKind, workspaceId: on.workspaceId, input, trigger: 'API', hostId }))
      .id;
  });
  await expect(decide(id, (run, tx) => runs().resume(tx, run, { phase: 'DOING' }))).rejects.toBeInstanceOf(
    IllegalTransition,
  );
  const workerId = 'a4d1f3c2-0000-4000-8000-00000000000b';
  const taken = await runs().take(id, { workerId, hostId });
  const held = { runId: id, attempt: taken?.attempt ?? 0, workerId };
  await expect(on.app.transact(system, (tx) => runs().moveTo(tx, held, 'ASKING'))).rejects.toThrow(/execution/);
  await runs().cancel(on.actor, id);
  await on.app.transact(system, (tx) => runs().wait(tx, held, { phase: 'ASKING' }));
  expect(await over(on, id)).toMatchObject({ status: 'CANCELED' });
});
