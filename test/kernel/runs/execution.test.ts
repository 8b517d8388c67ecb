import { once } from 'node:events';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { isAlive, spawnRecorded, type ProcessIdentity } from '../../../src/kernel/processes/children.ts';
import { Runs } from '../../../src/kernel/runs/runs.ts';
import type { RunContext } from '../../../src/kernel/runs/context.ts';
import { Fenced } from '../../../src/kernel/runs/errors.ts';
import { until } from '../../support/embedded.ts';
import {
  aborted,
  begin,
  bench,
  eventsOf,
  expire,
  gate,
  hold,
  livenessMs,
  over,
  reached,
  row,
  script,
  type Bench,
  type TestInput,
} from './harness.ts';

let on: Bench;
beforeAll(async () => {
  on = await bench();
  await on.worker();
});
afterAll(() => on.stop());

const runs = () => on.app.use(Runs);

test('the steps of a run are executed in order, with their events, and it says how far it is', async () => {
  const halfWay = gate();
  const done: string[] = [];
  const id = await begin(on, {
    script: script(
      {
        name: 'one',
        run: async (_step, context) => {
          await context.progress(0.5);
          await expect(context.progress(1.5)).rejects.toBeInstanceOf(RangeError);
          done.push('one');
          await halfWay.opened;
        },
      },
      { name: 'two', run: async () => void done.push('two') },
    ),
  });
  await until('it is half way', async () => (await row(on, id)).progress === 0.5, livenessMs);
  halfWay.open();
  expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED', phase: 'DONE', attempt: 1, workerId: null });
  expect(done).toEqual(['one', 'two']);
  expect(await eventsOf(on, id)).toEqual([
    'queued',
    'working',
    'stepStarted one',
    'stepSucceeded one',
    'stepStarted two',
    'stepSucceeded two',
    'done',
  ]);
});

test('a worker that stops hands its run back; the next goes on at the first step that is not complete', async () => {
  const calls: string[] = [];
  const begun = gate();
  const id = await begin(on, {
    hostId: 'a4d1f3c2-0000-4000-8000-000000000001',
    script: script(
      { name: 'one', run: async (_step, { hold: { attempt } }) => ({ madeBy: calls.push(`one ${attempt}`) }) },
      {
        name: 'two',
        run: async (step, { hold: { attempt } }) => {
          calls.push(`two ${attempt}`);
          begun.open();
          if (attempt === 1) await aborted(step.signal);
        },
      },
      { name: 'three', run: async (_step, { hold: { attempt } }) => void calls.push(`three ${attempt}`) },
    ),
  });
  // For any host from now on; it was kept from the other worker until the one that stops is there.
  const stopping = await on.worker();
  await on.app.db.run.update({ where: { id }, data: { hostId: stopping.running.host?.hostId ?? null } });
  await runs().wakeAgain([id]);
  await begun.opened;
  await on.app.db.run.update({ where: { id }, data: { hostId: null } });
  await stopping.running.stop();
  expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED', attempt: 2, lostWorkers: 0 });
  expect(calls).toEqual(['one 1', 'two 1', 'two 2', 'three 2']);
  const steps = await on.app.db.runStep.findMany({ where: { runId: id }, orderBy: { position: 'asc' } });
  expect(steps.map(({ attempt }) => attempt)).toEqual([1, 2, 2]);
  expect(await eventsOf(on, id)).toEqual([
    'queued',
    'working',
    'stepStarted one',
    'stepSucceeded one',
    'stepStarted two',
    'requeued',
    'resumed',
    'stepStarted two',
    'stepSucceeded two',
    'stepStarted three',
    'stepSucceeded three',
    'done',
  ]);
});

test('a run whose worker is lost is taken over', async () => {
  const hostId = 'a4d1f3c2-0000-4000-8000-000000000002';
  const id = await begin(on, { hostId });
  const workerId = 'a4d1f3c2-0000-4000-8000-000000000003';
  const taken = await runs().take(id, { workerId, hostId });
  expect(taken?.attempt).toBe(1);
  await on.app.db.run.update({ where: { id }, data: { hostId: null } });
  await expire(on, id);
  expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED', attempt: 2, lostWorkers: 1 });
});

test('a step whose completion was written and not answered is told once, and another execution goes on', async () => {
  const calls: string[] = [];
  const lost = gate();
  const id = await begin(on, {
    script: script(
      {
        name: 'one',
        run: async (_step, { app }) => {
          calls.push('one');
          const verbs = app.use(Runs);
          const beginStep = verbs.beginStep.bind(verbs);
          // With it goes that the first is complete.
          vi.spyOn(verbs, 'beginStep').mockImplementationOnce(async (...given) => {
            await beginStep(...given);
            lost.open();
            throw new Error('Connection terminated unexpectedly');
          });
        },
      },
      { name: 'two', run: async () => void calls.push('two') },
    ),
  });
  try {
    await lost.opened;
    await expire(on, id);
    expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED', attempt: 2 });
  } finally {
    vi.restoreAllMocks();
  }
  expect(calls).toEqual(['one', 'two']);
  const events = await eventsOf(on, id);
  expect(events.filter((event) => event === 'stepSucceeded one')).toHaveLength(1);
  expect(events.slice(-2)).toEqual(['stepSucceeded two', 'done']);
});

test('an execution that has lost its run is refused everything, and ends', async () => {
  const begun = gate();
  const goOn = gate();
  const seen: { context?: RunContext<TestInput>; refused?: unknown[] } = {};
  const id = await begin(on, {
    script: script({
      name: 'one',
      run: async (step, context) => {
        if (context.hold.attempt > 1) return;
        seen.context = context;
        begun.open();
        await goOn.opened;
        const results = await Promise.allSettled([
          context.fence(),
          context.write(async () => undefined),
          context.moveTo('CLOSING'),
          context.progress(0.9),
          step.record({ pid: 1, startTime: 'x' }),
          step.log('too late').then(() => context.flush()),
        ]);
        seen.refused = results.map((result) => (result.status === 'rejected' ? result.reason : null));
        step.signal.throwIfAborted();
      },
    }),
  });
  await begun.opened;
  await expire(on, id);
  expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED', attempt: 2, phase: 'DONE', progress: null });
  goOn.open();
  await until('it was refused', async () => seen.refused !== undefined, livenessMs);
  expect(seen.refused).toHaveLength(6);
  for (const reason of seen.refused ?? []) expect(reason).toBeInstanceOf(Fenced);
  expect(await on.app.db.logLine.count({ where: { runId: id } })).toBe(0);
  expect((await row(on, id)).attempt).toBe(2);
});

test('a run that takes longer than its lease keeps it', async () => {
  const goOn = gate();
  const id = await begin(on, { script: script({ name: 'long', run: () => goOn.opened }) });
  await until(
    'the lease was renewed past its first end',
    async () => {
      const { startedAt, leaseUntil } = await row(on, id);
      return startedAt !== null && leaseUntil !== null && leaseUntil.getTime() - startedAt.getTime() > 7_000;
    },
    livenessMs,
  );
  goOn.open();
  expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED', attempt: 1, lostWorkers: 0 });
});

test('a step that takes too long fails its run', async () => {
  const id = await begin(on, {
    script: script({ name: 'slow', timeoutS: 0.2, run: (step) => aborted(step.signal) }, 'never'),
  });
  const run = await over(on, id);
  expect(run).toMatchObject({ status: 'FAILED', statusReason: 'The step slow took longer than 0.2 s.' });
  const steps = await on.app.db.runStep.findMany({ where: { runId: id }, orderBy: { position: 'asc' } });
  expect(steps.map(({ status, error }) => [status, error])).toEqual([
    ['FAILED', 'The step slow took longer than 0.2 s.'],
    ['SKIPPED', null],
  ]);
});

test('a run that takes too long is TIMED_OUT, in the queue or at work', async () => {
  const begun = gate();
  const id = await begin(on, {
    deadlineInMs: 1500,
    script: script({
      name: 'slow',
      run: async (step) => {
        begun.open();
        await aborted(step.signal);
      },
    }),
  });
  await begun.opened;
  expect(await over(on, id)).toMatchObject({ status: 'TIMED_OUT', phase: 'FAILED' });
  const waits = await begin(on, { hostId: 'a4d1f3c2-0000-4000-8000-000000000009', deadlineInMs: 200 });
  expect(await over(on, waits)).toMatchObject({ status: 'TIMED_OUT', attempt: 0 });
});

/** A step that starts a process which outlives it if nobody ends it. */
const withChild = (started: (child: ProcessIdentity) => void) =>
  script({
    name: 'child',
    run: async (step) => {
      const { identity, exited } = await spawnRecorded({
        command: 'sleep',
        args: ['600'],
        cwd: '/',
        env: { PATH: '/usr/bin:/bin' },
        record: (child) => step.record(child),
      });
      started(identity);
      await Promise.race([exited, aborted(step.signal)]);
    },
  });

test('a cancel reaches the child process', async () => {
  const started = Promise.withResolvers<ProcessIdentity>();
  const id = await begin(on, { script: withChild(started.resolve) });
  const child = await started.promise;
  expect(await isAlive(child)).toBe(true);
  await runs().cancel(on.actor, id);
  expect(await over(on, id)).toMatchObject({ status: 'CANCELED', statusReason: 'The run was canceled.' });
  expect(await isAlive(child)).toBe(false);
  expect(await on.app.db.runChild.count({ where: { runId: id } })).toBe(0);
  expect((await on.app.db.runStep.findFirstOrThrow({ where: { runId: id } })).status).toBe('CANCELED');
});

test('a child of a run that was given up elsewhere is ended by its host', async () => {
  const worker = await on.worker();
  const hostId = worker.running.host?.hostId ?? '';
  const child = await spawnRecorded({
    command: 'sleep',
    args: ['600'],
    cwd: '/',
    env: { PATH: '/usr/bin:/bin' },
    record: async () => undefined,
  });
  const id = await begin(on, { hostId: 'a4d1f3c2-0000-4000-8000-000000000004' });
  const held = await runs().take(id, { workerId: hostId, hostId: 'a4d1f3c2-0000-4000-8000-000000000004' });
  await runs().recordChild({ runId: id, attempt: held?.attempt ?? 0, workerId: hostId }, hostId, child.identity);
  await on.app.db.run.update({ where: { id }, data: { lostWorkers: 4 } });
  await expire(on, id);
  await until('it is gone', async () => !(await isAlive(child.identity)), livenessMs);
  expect(await over(on, id)).toMatchObject({ status: 'FAILED' });
  if (child.child.exitCode === null && child.child.signalCode === null) await once(child.child, 'exit');
});

test('what is past the point of no return goes on when it is canceled', async () => {
  const begun = gate();
  const goOn = gate();
  const id = await begin(on, {
    script: script({
      name: 'final',
      uncancelable: true,
      run: async () => {
        begun.open();
        await goOn.opened;
      },
    }),
  });
  await begun.opened;
  await runs().cancel(on.actor, id);
  goOn.open();
  expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED' });
});

test('runs with one key never run two at once, and in the order in which they came', async () => {
  const order: number[] = [];
  let at = 0;
  let most = 0;
  const inTurn = script({
    name: 'one',
    run: async (_step, context) => {
      at++;
      most = Math.max(most, at);
      order.push(context.input.n ?? -1);
      // One that fails releases the key, too.
      await context.flush();
      at--;
      if ((context.input.n ?? 0) % 5 === 4) throw new Error('on purpose');
    },
  });
  const ids: string[] = [];
  for (let n = 0; n < 15; n++) ids.push(await begin(on, { lockKey: 'in-turn', script: inTurn, n }));
  const ended = await Promise.all(ids.map((id) => over(on, id)));
  expect(ended.filter(({ status }) => status === 'SUCCEEDED')).toHaveLength(12);
  expect(ended.filter(({ status }) => status === 'FAILED')).toHaveLength(3);
  expect(ended[4]?.statusReason).toBe(`An internal error, reference ${ids[4]}.`);
  expect(most).toBe(1);
  expect(order).toEqual(Array.from({ length: 15 }, (_, n) => n));
  expect(await on.app.db.runLock.count({ where: { key: 'in-turn' } })).toBe(0);
});

test('a worker executes no more at once than it has slots, whatever queue they come from', async () => {
  const worker = await on.worker({ SWITCHYARD_WORKER_CONCURRENCY: '2' });
  const hostId = worker.running.host?.hostId ?? '';
  let at = 0;
  let most = 0;
  const goOn = gate();
  const counted = script({
    name: 'one',
    run: async () => {
      most = Math.max(most, ++at);
      await goOn.opened;
      at--;
    },
  });
  const ids: string[] = [];
  for (let n = 0; n < 6; n++) ids.push(await begin(on, { hostId, script: counted }));
  await until('both slots are taken', async () => at === 2, livenessMs);
  const { rows } = await on.app.database.pool.query<{ position: string }>(
    `select id, row_number() over (partition by host_id order by created_at, id) position from run
     where status = 'QUEUED' and host_id = $1`,
    [hostId],
  );
  expect(rows.map(({ position }) => Number(position))).toEqual([1, 2, 3, 4]);
  goOn.open();
  await Promise.all(ids.map((id) => over(on, id)));
  expect(most).toBe(2);
});

test('a run whose wake-up was lost is woken by the reconciler', async () => {
  const hostId = 'a4d1f3c2-0000-4000-8000-000000000005';
  const id = await begin(on, { hostId });
  await on.app.database.pool.query(`delete from pgboss.job where data->>'runId' = $1`, [id]);
  await on.app.database.pool.query(
    `update run set host_id = null, updated_at = clock_timestamp() - interval '6 seconds' where id = $1`,
    [id],
  );
  expect(await over(on, id)).toMatchObject({ status: 'SUCCEEDED' });
});

test('a canceled run that waits for a worker again is ended by one', async () => {
  const hostId = 'a4d1f3c2-0000-4000-8000-000000000006';
  const id = await begin(on, { hostId });
  const held = await runs().take(id, { workerId: hostId, hostId });
  await on.app.db.run.update({ where: { id }, data: { hostId: null } });
  await runs().cancel(on.actor, id);
  await expire(on, id);
  await reached(on, id, 'CANCELED');
  expect((await row(on, id)).attempt).toBe((held?.attempt ?? 0) + 1);
});

test('a hold that was never renewed cannot be used after it ran out', async () => {
  const id = await begin(on, { hostId: 'a4d1f3c2-0000-4000-8000-000000000007' });
  await expect(hold(on, id)).rejects.toThrow(/not to be taken/);
  await runs().cancel(on.actor, id);
});
