import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { system } from '../../../src/kernel/auth/actor.ts';
import {
  Forbidden,
  IdempotencyConflict,
  IllegalTransition,
  NotFound,
  ValidationError,
} from '../../../src/kernel/errors.ts';
import { RunContext } from '../../../src/kernel/runs/context.ts';
import { Fenced } from '../../../src/kernel/runs/errors.ts';
import { leadsTo } from '../../../src/kernel/runs/kinds.ts';
import { isTerminal, statusMayBecome, statusTransitions } from '../../../src/kernel/runs/model.ts';
import { Runs } from '../../../src/kernel/runs/runs.ts';
import { until } from '../../support/embedded.ts';
import { roundTrips } from '../../support/statements.ts';
import { begin, bench, eventsOf, expire, hold, owner, row, script, testKind, type Bench } from './harness.ts';

let on: Bench;
beforeAll(async () => {
  on = await bench();
});
afterAll(() => on.stop());

const runs = () => on.app.use(Runs);
/** The event of a step of a run. */
const stepped = (id: string, what: 'started' | 'succeeded') => ({
  type: testKind.step[what],
  workspaceId: on.workspaceId,
  subjectId: id,
  run: { id, kind: testKind.name },
  data: { step: 'one', attempt: 1 },
});
const stepsOf = async (id: string) =>
  Object.fromEntries(
    (await on.app.db.runStep.findMany({ where: { runId: id }, orderBy: { position: 'asc' } })).map((step) => [
      step.name,
      [step.status, step.output],
    ]),
  );
/** What an execution of a run is given, by a worker that does nothing by itself. */
async function contextOf(id: string): Promise<RunContext> {
  const { workerId, hostId } = { workerId: randomUUID(), hostId: randomUUID() };
  const run = await runs().take(id, { workerId, hostId });
  if (!run) throw new Error(`run ${id} was not to be taken`);
  const { signal } = new AbortController();
  const hold = { runId: id, attempt: run.attempt, workerId };
  return new RunContext({ app: on.app, run, hold, hostId, signal, hardSignal: signal, heldSince: () => 0 });
}
const statuses = Object.keys(statusTransitions) as (keyof typeof statusTransitions)[];

describe('transitions', () => {
  test('the final statuses have no way out, every other one has a way to each end but success', () => {
    const ends = statuses.filter(isTerminal);
    expect(ends.flatMap((end) => statuses.filter((to) => statusMayBecome(end, to)))).toEqual([]);
    const open = statuses.filter((status) => !isTerminal(status));
    expect(open).toHaveLength(4);
    expect(open.every((from) => statusMayBecome(from, 'FAILED') && statusMayBecome(from, 'TIMED_OUT'))).toBe(true);
    expect(statusMayBecome('QUEUED', 'SUCCEEDED')).toBe(false);
    expect(statusMayBecome('RUNNING', 'CANCELED')).toBe(false);
  });

  test('the order of phases is known', () => {
    expect(leadsTo(testKind, 'NEW', 'CLOSING')).toBe(true);
    expect(leadsTo(testKind, 'CLOSING', 'WORKING')).toBe(false);
  });

  test('a phase that does not follow is refused and changes nothing', async () => {
    const id = await begin(on);
    const held = await hold(on, id);
    await expect(on.app.transact(system, (tx) => runs().moveTo(tx, held, 'NEW'))).rejects.toBeInstanceOf(
      IllegalTransition,
    );
    await expect(on.app.transact(system, (tx) => runs().moveTo(tx, held, 'DONE'))).rejects.toThrow(
      /DONE is no phase that a worker executes TestRun in/,
    );
    await expect(on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'CLOSING' }))).rejects.toThrow(
      /no end/,
    );
    // Only a run that was told to stop can be CANCELED by its worker.
    await expect(
      on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'CANCELED' })),
    ).rejects.toBeInstanceOf(IllegalTransition);
    expect(await row(on, id)).toMatchObject({ status: 'RUNNING', phase: 'WORKING' });
    await on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'DONE' }));
    await expect(on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'DONE' }))).rejects.toBeInstanceOf(
      Fenced,
    );
    expect(await eventsOf(on, id)).toEqual(['queued', 'working', 'done']);
  });

  test('an execution that repeats an earlier one does not go back in the phases', async () => {
    const id = await begin(on);
    const first = await hold(on, id);
    await on.app.transact(system, (tx) => runs().moveTo(tx, first, 'CLOSING'));
    await on.app.transact(system, (tx) => runs().handBack(tx, first));
    const second = await hold(on, id);
    await on.app.transact(system, (tx) => runs().moveTo(tx, second, 'WORKING'));
    expect(await row(on, id)).toMatchObject({ phase: 'CLOSING', attempt: 2 });
    expect(await eventsOf(on, id)).toEqual(['queued', 'working', 'closing', 'requeued', 'resumed']);
  });
});

describe('cancel and retry', () => {
  test('a queued run is canceled at once, its steps are skipped; a second time is refused', async () => {
    const id = await begin(on);
    await runs().cancel(on.actor, id);
    expect(await row(on, id)).toMatchObject({ status: 'CANCELED', phase: 'CANCELED', attempt: 0 });
    const steps = await on.app.db.runStep.findMany({ where: { runId: id } });
    expect(steps.map(({ status }) => status)).toEqual(['SKIPPED', 'SKIPPED']);
    await expect(runs().cancel(on.actor, id)).rejects.toBeInstanceOf(IllegalTransition);
  });

  test('a running one is told once, however often it is canceled', async () => {
    const id = await begin(on);
    const held = await hold(on, id);
    await Promise.all([runs().cancel(on.actor, id), runs().cancel(on.actor, id), runs().cancel(on.actor, id)]);
    expect((await eventsOf(on, id)).filter((type) => type === 'canceling')).toHaveLength(1);
    await on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'CANCELED' }));
    expect(await row(on, id)).toMatchObject({ status: 'CANCELED' });
  });

  test('a cancel that meets the end: one of the two wins, never both', async () => {
    for (let round = 0; round < 10; round++) {
      const id = await begin(on);
      const held = await hold(on, id);
      const [canceled] = await Promise.allSettled([
        runs().cancel(on.actor, id),
        on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'DONE' })),
      ]);
      // DONE is allowed after CANCELING: what had been completed is not undone.
      expect(await row(on, id)).toMatchObject({ status: 'SUCCEEDED' });
      expect(canceled.status === 'fulfilled' || canceled.reason instanceof IllegalTransition).toBe(true);
    }
  });

  test('a cancel that meets the taking of a queued run', async () => {
    for (let round = 0; round < 10; round++) {
      const id = await begin(on);
      const [, taken] = await Promise.all([
        runs().cancel(on.actor, id),
        runs().take(id, { workerId: randomUUID(), hostId: randomUUID() }),
      ]);
      expect((await row(on, id)).status).toBe(taken ? 'CANCELING' : 'CANCELED');
    }
  });

  test('a retry is a new run that tells what it repeats', async () => {
    const id = await begin(on, { n: 7, lockKey: `k-${randomUUID()}` });
    await expect(runs().retry(on.actor, id)).rejects.toBeInstanceOf(IllegalTransition);
    await runs().cancel(on.actor, id);
    const again = await runs().retry(on.actor, id);
    expect(again.id).not.toBe(id);
    const [first, second] = [await row(on, id), await row(on, again.id)];
    expect(second).toMatchObject({ retryOfId: id, trigger: 'RETRY', status: 'QUEUED', input: first.input });
    expect(second.lockKey).toBe(first.lockKey);
  });

  test('strangers find nothing, members without the right are refused', async () => {
    const id = await begin(on);
    const stranger = await owner(on.api);
    await expect(runs().cancel(stranger.actor, id)).rejects.toBeInstanceOf(NotFound);
    const viewer = { ...on.actor, roles: new Map([[on.workspaceId, 'VIEWER' as const]]) };
    await expect(runs().cancel(viewer, id)).rejects.toBeInstanceOf(Forbidden);
    await expect(runs().retry(viewer, id)).rejects.toBeInstanceOf(Forbidden);
    await expect(runs().cancel(on.actor, 'no id')).rejects.toBeInstanceOf(NotFound);
  });
});

describe('steps', () => {
  const nothing = async () => null;
  const timeoutS = 60;

  test('a step that is complete is written with what comes next: the next one, or the end', async () => {
    const id = await begin(on);
    const context = await contextOf(id);
    const { trips } = await roundTrips(async () => {
      await context.step('one', { timeoutS }, async () => ({ n: 1 }));
      await context.step('two', { timeoutS }, nothing);
      expect(await context.end({ phase: 'DONE', timedOut: false })).toBe(true);
    });
    expect(trips).toBe(3);
    expect(await stepsOf(id)).toEqual({ one: ['SUCCEEDED', { n: 1 }], two: ['SUCCEEDED', null] });
    expect(await row(on, id)).toMatchObject({ status: 'SUCCEEDED', phase: 'DONE', workerId: null, leaseUntil: null });
    expect((await eventsOf(on, id)).slice(2)).toEqual([
      'stepStarted one',
      'stepSucceeded one',
      'stepStarted two',
      'stepSucceeded two',
      'done',
    ]);
  });

  test('where nothing comes it is written by itself, and whatever else the run does waits for that', async () => {
    const id = await begin(on);
    const context = await contextOf(id);
    await context.step('one', { timeoutS }, nothing);
    await until('it is written', async () => (await stepsOf(id))['one']?.[0] === 'SUCCEEDED', 10_000);
    await context.step('two', { timeoutS }, nothing);
    await context.write(async () => expect(await stepsOf(id)).toMatchObject({ two: ['SUCCEEDED', null] }));
    expect(await context.step('one', { timeoutS }, async () => 'again')).toBeNull();
  });

  test('one whose output cannot be written is not complete, and the run does not go on', async () => {
    for (const last of [false, true]) {
      const id = await begin(on);
      const context = await contextOf(id);
      await context.step('one', { timeoutS }, async () => '\u0000');
      const next = last ? context.end({ phase: 'DONE', timedOut: false }) : context.step('two', { timeoutS }, nothing);
      await expect(next).rejects.toThrow(/unicode|\\u0000/i);
      await expect(context.moveTo('CLOSING')).rejects.toThrow(/unicode|\\u0000/i);
      expect(await stepsOf(id)).toEqual({ one: ['RUNNING', null], two: ['PENDING', null] });
      expect(await row(on, id)).toMatchObject({ status: 'RUNNING', phase: 'WORKING' });
    }
  });

  test('a run that is not as its worker knows it is not ended by that, but its last step is complete', async () => {
    const ways = {
      canceled: (id: string) => runs().cancel(on.actor, id),
      moved: (id: string) => on.app.db.run.update({ where: { id }, data: { phase: 'CLOSING' } }),
      open: (id: string) =>
        on.app.db.runStep.updateMany({ where: { runId: id, name: 'two' }, data: { status: 'RUNNING' } }),
    };
    for (const change of Object.values(ways)) {
      const id = await begin(on);
      const context = await contextOf(id);
      await context.step('one', { timeoutS }, nothing);
      await change(id);
      expect(await context.end({ phase: 'DONE', timedOut: false })).toBe(false);
      expect(await stepsOf(id)).toMatchObject({ one: ['SUCCEEDED', null] });
      expect((await row(on, id)).completedAt).toBeNull();
      await on.app.transact(system, (tx) => runs().finish(tx, context.hold, { phase: 'DONE' }));
      expect(await row(on, id)).toMatchObject({ status: 'SUCCEEDED', phase: 'DONE' });
      expect((await stepsOf(id))['two']?.[0]).toBe(change === ways.open ? 'FAILED' : 'SKIPPED');
    }
  });
});

describe('fencing', () => {
  test('what is held is not taken again; a lost one is, and every write of the stale hold is refused', async () => {
    const id = await begin(on);
    const stale = await hold(on, id);
    const other = { workerId: randomUUID(), hostId: randomUUID() };
    expect(await runs().take(id, other)).toBeNull();
    await expire(on, id);
    // The reconciler counts the loss first.
    expect(await runs().take(id, other)).toBeNull();
    await runs().reconcile();
    expect(await row(on, id)).toMatchObject({ status: 'QUEUED', lostWorkers: 1, phase: 'WORKING' });
    const fresh = await hold(on, id);
    expect(fresh.attempt).toBe(stale.attempt + 1);
    const known = await row(on, id);
    const refused = [
      on.app.transact(system, (tx) => runs().moveTo(tx, stale, 'CLOSING')),
      on.app.transact(system, (tx) => runs().finish(tx, stale, { phase: 'DONE' })),
      on.app.transact(system, (tx) => runs().handBack(tx, stale)),
      on.app.transact(system, (tx) => runs().fence(tx, stale)),
      runs().recordChild(stale, randomUUID(), { pid: 1, startTime: 'x' }),
      runs().beginStep(stale, 'one', stepped(id, 'started')),
      runs().beginStep(stale, 'two', stepped(id, 'started'), {
        name: 'one',
        output: 1,
        event: stepped(id, 'succeeded'),
      }),
      runs().completeStep(stale, { name: 'one', output: 1, event: stepped(id, 'succeeded') }, { children: true }),
      runs().finishKnown(
        stale,
        known,
        { phase: 'DONE' },
        {
          name: 'two',
          output: 1,
          event: stepped(id, 'succeeded'),
        },
      ),
    ];
    for (const one of await Promise.allSettled(refused)) {
      expect(one.status === 'rejected' && one.reason instanceof Fenced).toBe(true);
    }
    await expect(runs().finishKnown(stale, known, { phase: 'DONE' }, null)).rejects.toThrow(/zero/);
    expect(await stepsOf(id)).toEqual({ one: ['PENDING', null], two: ['PENDING', null] });
    expect(await eventsOf(on, id)).not.toContain('stepStarted one');
    expect(await runs().renew(stale.workerId, [id])).toEqual([]);
    expect(await runs().renew(fresh.workerId, [id])).toEqual([{ id, attempt: 2, status: 'RUNNING' }]);
    expect(await row(on, id)).toMatchObject({ status: 'RUNNING', phase: 'WORKING', attempt: 2 });
  });

  test('a step is written with its event by whoever holds the run, and a row that is locked delays no other lease', async () => {
    const [id, other] = [await begin(on), await begin(on)];
    const held = await hold(on, id);
    await on.app.database.pool.query(
      'update run set worker_id = $1, attempt = 1, status = $2, lease_until = $3 where id = $4',
      [held.workerId, 'RUNNING', new Date(Date.now() + 60_000), other],
    );
    await runs().beginStep(held, 'one', stepped(id, 'started'));
    await runs().completeStep(held, { name: 'one', output: { n: 1 }, event: stepped(id, 'succeeded') });
    expect(await stepsOf(id)).toMatchObject({ one: ['SUCCEEDED', { n: 1 }] });
    expect((await eventsOf(on, id)).slice(-2)).toEqual(['stepStarted one', 'stepSucceeded one']);

    const renewed = await on.app.transact(system, async (tx) => {
      await runs().lock(tx, id);
      return runs().renew(held.workerId, [id, other], false);
    });
    expect(renewed.map((row) => row.id)).toEqual([other]);
    const waiting = on.app.transact(system, async (tx) => {
      await runs().lock(tx, id);
      const late = runs().renew(held.workerId, [id]);
      await until('it waits for the lock', async () => {
        const { rowCount } = await on.app.database.pool.query(
          `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        );
        return (rowCount ?? 0) > 0;
      });
      return { late };
    });
    expect((await (await waiting).late).map((row) => row.id)).toEqual([id]);
  });

  test('a run that loses five workers is given up, and its children stay known until they are ended', async () => {
    const id = await begin(on);
    const hostId = randomUUID();
    for (let loss = 1; loss <= 5; loss++) {
      expect((await row(on, id)).status).toBe('QUEUED');
      const held = await hold(on, id);
      if (loss === 5) await runs().recordChild(held, hostId, { pid: 2 ** 22 + 1, startTime: 'never' });
      await expire(on, id);
      await runs().reconcile();
    }
    expect(await row(on, id)).toMatchObject({ status: 'FAILED', lostWorkers: 5, attempt: 5 });
    expect((await row(on, id)).statusReason).toMatch(/5 workers were lost/);
    const strays = await runs().strayChildren(hostId);
    expect(strays).toMatchObject([{ runId: id }]);
    await runs().forgetChildren(strays.map((child) => child.id));
    expect(await runs().strayChildren(hostId)).toEqual([]);
  });

  test('a run that nobody comes to end is given up in whatever state it is, by way of CANCELING', async () => {
    const lost = await begin(on);
    const held = await hold(on, lost);
    expect(await runs().giveUp(lost, 'Its host is lost.')).toBe(true);
    expect(await row(on, lost)).toMatchObject({
      status: 'CANCELED',
      statusReason: 'Its host is lost.',
      workerId: null,
    });
    expect((await eventsOf(on, lost)).slice(-2)).toEqual(['canceling', 'canceled']);
    // Whoever held it comes back too late.
    await expect(on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'DONE' }))).rejects.toThrow(Fenced);
    const queued = await begin(on);
    expect(await runs().giveUp(queued, 'Its host is lost.')).toBe(true);
    expect((await row(on, queued)).status).toBe('CANCELED');
    expect(await runs().giveUp(queued, 'Again.')).toBe(false);
  });

  test('a canceled run whose worker is lost is ended by the next one', async () => {
    const id = await begin(on);
    await hold(on, id);
    await runs().cancel(on.actor, id);
    await expire(on, id);
    await runs().reconcile();
    expect(await row(on, id)).toMatchObject({ status: 'CANCELING', workerId: null });
    const next = await hold(on, id);
    expect(await row(on, id)).toMatchObject({ status: 'CANCELING', attempt: 2 });
    await on.app.transact(system, (tx) => runs().finish(tx, next, { phase: 'CANCELED' }));
  });

  test('one of another host, or of a newer program, is left alone', async () => {
    const hostId = randomUUID();
    const bound = await begin(on, { hostId });
    expect(await runs().take(bound, { workerId: randomUUID(), hostId: randomUUID() })).toBeNull();
    expect(await runs().take(bound, { workerId: randomUUID(), hostId })).not.toBeNull();
    const newer = await begin(on);
    await on.app.db.run.update({ where: { id: newer }, data: { inputVersion: 2 } });
    expect(await runs().take(newer, { workerId: randomUUID(), hostId })).toBeNull();
    const unknown = await begin(on);
    await on.app.db.run.update({ where: { id: unknown }, data: { kind: 'FromTheFuture', deadlineAt: new Date(0) } });
    expect(await runs().take(unknown, { workerId: randomUUID(), hostId })).toBeNull();
    // It does not keep the reconciler from its work either.
    await runs().reconcile();
    expect((await row(on, unknown)).status).toBe('QUEUED');
  });
});

describe('deadline in the queue', () => {
  test('a run whose deadline passes while it waits is TIMED_OUT', async () => {
    const id = await begin(on, { deadlineInMs: -1000 });
    await runs().reconcile();
    expect(await row(on, id)).toMatchObject({ status: 'TIMED_OUT', phase: 'FAILED', attempt: 0 });
  });

  test('one that was canceled and that no worker comes for is CANCELED then', async () => {
    const id = await begin(on);
    const held = await hold(on, id);
    await on.app.transact(system, (tx) => runs().handBack(tx, held));
    await runs().cancel(on.actor, id);
    await on.app.db.run.update({ where: { id }, data: { deadlineAt: new Date(0) } });
    await runs().reconcile();
    expect(await row(on, id)).toMatchObject({ status: 'CANCELED' });
  });
});

describe('idempotency keys', () => {
  test('the same input gives the same run, another one a conflict, no key a new run', async () => {
    const key = randomUUID();
    const same = script('one');
    const first = await begin(on, { key, script: same, n: 1 });
    expect(await begin(on, { key, script: same, n: 1 })).toBe(first);
    await expect(begin(on, { key, script: same, n: 2 })).rejects.toBeInstanceOf(IdempotencyConflict);
    expect(await begin(on, { script: same, n: 1 })).not.toBe(first);
  });

  test('16 calls at once start one', async () => {
    const key = randomUUID();
    const same = script('one');
    const ids = await Promise.all(Array.from({ length: 16 }, () => begin(on, { key, script: same })));
    expect(new Set(ids).size).toBe(1);
    expect(await on.app.db.run.count({ where: { input: { path: ['script'], equals: same } } })).toBe(1);
  });

  test('another person and another workspace do not collide', async () => {
    const key = randomUUID();
    const same = script('one');
    const other = await owner(on.api);
    const guest = { ...other.actor, roles: new Map([...other.actor.roles, [on.workspaceId, 'MEMBER' as const]]) };
    const ids = await Promise.all([
      begin(on, { key, script: same }),
      begin(on, { key, script: same, actor: guest }),
      begin(on, { key, script: same, actor: guest, workspaceId: other.workspaceId }),
    ]);
    expect(new Set(ids).size).toBe(3);
  });

  test('a key is forgotten after 24 hours', async () => {
    const key = randomUUID();
    const same = script('one');
    const first = await begin(on, { key, script: same });
    const age = (interval: string) =>
      on.app.database.pool.query(`update idempotency_key set created_at = now() - $2::interval where key = $1`, [
        key,
        interval,
      ]);
    await age('23 hours 59 minutes');
    expect(await begin(on, { key, script: same })).toBe(first);
    await age('24 hours 1 second');
    expect(await begin(on, { key, script: same, n: 2 })).not.toBe(first);
  });

  test('a repeat gets the first answer, whatever would speak against doing it now', async () => {
    const request = { workspaceId: on.workspaceId, mutation: 'test', key: randomUUID(), input: {} };
    const id = await begin(on, { script: script('one') });
    let made = 0;
    const ask = (refusal: Error | null) =>
      on.app.transact(on.actor, (tx) =>
        runs().once(tx, request, async () => {
          made++;
          if (refusal) throw refusal;
          return { id, event: { seq: null, epoch: 0 } };
        }),
      );
    await expect(ask(new Error('refused'))).rejects.toThrow('refused');
    expect((await ask(null)).id).toBe(id);
    const again = await ask(new Error('there is no room any more'));
    expect([again, made]).toEqual([{ id, event: null }, 3]);
  });

  test('a failed call keeps no key', async () => {
    const key = randomUUID();
    await expect(begin(on, { key, workspaceId: randomUUID() })).rejects.toThrow(/[Ff]oreign key/);
    expect(await on.app.db.idempotencyKey.count({ where: { key } })).toBe(0);
  });

  test.each([
    ['', 'empty'],
    ['x'.repeat(201), 'too long'],
    ['a\0b', 'NUL'],
    ['a\nb', 'line end'],
  ])('a key that is malformed is refused: %#', async (key) => {
    await expect(begin(on, { key })).rejects.toBeInstanceOf(ValidationError);
  });
});

describe('lock keys', () => {
  const take = (id: string) => runs().take(id, { workerId: randomUUID(), hostId: randomUUID() });

  test('one at a time, the oldest first, whoever asks', async () => {
    const lockKey = `k-${randomUUID()}`;
    const ids: string[] = [];
    for (let n = 0; n < 4; n++) ids.push(await begin(on, { lockKey }));
    const order: number[] = [];
    while (order.length < ids.length) {
      // The newest ask first, and all at once.
      const taken = (await Promise.all(ids.toReversed().map(take))).filter((run) => run !== null);
      expect(taken).toHaveLength(1);
      const [run] = taken;
      if (!run?.workerId) throw new Error('it was not taken');
      order.push(ids.indexOf(run.id));
      const held = { runId: run.id, attempt: run.attempt, workerId: run.workerId };
      await on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'DONE' }));
    }
    expect(order).toEqual([0, 1, 2, 3]);
  });

  test('the lock is released on every kind of end, and kept by a hand-back', async () => {
    const lockKey = `k-${randomUUID()}`;
    const locked = () => on.app.db.runLock.findUnique({ where: { key: lockKey } });
    const ends: ((id: string) => Promise<unknown>)[] = [
      async (id) => {
        const held = await hold(on, id);
        return on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'FAILED', timedOut: true }));
      },
      async (id) => {
        const held = await hold(on, id);
        await runs().cancel(on.actor, id);
        return on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'CANCELED' }));
      },
      async (id) => {
        await on.app.transact(system, async (tx) => runs().handBack(tx, await hold(on, id)));
        expect(await locked()).toMatchObject({ runId: id });
        await on.app.db.run.update({ where: { id }, data: { deadlineAt: new Date(0) } });
        return runs().reconcile();
      },
      async (id) => {
        await hold(on, id);
        await on.app.db.run.update({ where: { id }, data: { lostWorkers: 4 } });
        await expire(on, id);
        return runs().reconcile();
      },
    ];
    for (const end of ends) {
      const id = await begin(on, { lockKey });
      await end(id);
      expect(isTerminal((await row(on, id)).status)).toBe(true);
      expect(await locked()).toBeNull();
    }
  });

  test('the end of one wakes the next, also when the next has a wake-up that is being handled', async () => {
    const lockKey = `k-${randomUUID()}`;
    const [first, second] = [await begin(on, { lockKey }), await begin(on, { lockKey })];
    const held = await hold(on, first);
    // Its wake-up was used up while the lock was held.
    await on.app.database.pool.query(`update pgboss.job set state = 'active' where data->>'runId' = $1`, [second]);
    expect(await take(second)).toBeNull();
    await on.app.transact(system, (tx) => runs().finish(tx, held, { phase: 'DONE' }));
    const { rows } = await on.app.database.pool.query(
      `select 1 from pgboss.job where data->>'runId' = $1 and state = 'created'`,
      [second],
    );
    expect(rows).toHaveLength(1);
  });
});
