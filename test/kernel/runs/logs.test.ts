import { afterAll, beforeAll, expect, test } from 'vitest';
import { createRedactor } from '../../../src/kernel/redact.ts';
import { LogWriter } from '../../../src/kernel/runs/log-writer.ts';
import { Fenced } from '../../../src/kernel/runs/errors.ts';
import { begin, bench, expire, hold, over, row, script, type Bench } from './harness.ts';
import { Runs } from '../../../src/kernel/runs/runs.ts';
import { system } from '../../../src/kernel/auth/actor.ts';

let on: Bench;
beforeAll(async () => {
  on = await bench();
});
afterAll(() => on.stop());

const linesOf = (id: string) => on.app.db.logLine.findMany({ where: { runId: id }, orderBy: { seq: 'asc' } });

test('a run’s lines are numbered without a hole, over executions, with step and stream', async () => {
  await on.worker();
  const id = await begin(on, {
    script: script(
      {
        name: 'one',
        run: async (step) => {
          await step.log('to the right', 'STDOUT');
          await step.log('to the left', 'STDERR');
        },
      },
      {
        name: 'two',
        run: async (step, context) => {
          context.addSecrets(['hunter2-hunter2']);
          await step.log('the password is hunter2-hunter2, in base64 aHVudGVyMi1odW50ZXIy');
          await step.log('zero \0 byte');
          await step.log(`${'x'.repeat(20_000)}end`);
          // A long line, as it comes in pieces.
          await step.log(`${'y'.repeat(7_995)}hunte`);
          await step.log('r2-hunter2 and on');
          throw new Error('never told: hunter2-hunter2');
        },
      },
    ),
  });
  expect(await over(on, id)).toMatchObject({ status: 'FAILED', logSeq: 7n });
  const lines = await linesOf(id);
  expect(lines.map(({ seq, step, stream }) => [Number(seq), step, stream])).toEqual([
    [1, 'one', 'STDOUT'],
    [2, 'one', 'STDERR'],
    [3, 'two', 'SYSTEM'],
    [4, 'two', 'SYSTEM'],
    [5, 'two', 'SYSTEM'],
    [6, 'two', 'SYSTEM'],
    [7, 'two', 'SYSTEM'],
  ]);
  expect(lines[2]?.text).toBe('the password is [redacted], in base64 [redacted]');
  expect(lines[3]?.text).toBe('zero \uFFFD byte');
  expect(lines[4]?.text).toMatch(/^x{16000}… \(4003 characters cut\)$/);
  expect(lines[5]?.text).toBe('y'.repeat(7_995));
  expect(lines[6]?.text).toBe('[redacted] and on');
  const steps = await on.app.db.runStep.findMany({ where: { runId: id } });
  expect(JSON.stringify(steps)).not.toContain('hunter2');
  expect((await row(on, id)).statusReason).not.toContain('hunter2');
});

test('50,000 lines from a fast source: all there, in order, in few statements, and never many in memory', async () => {
  const hostId = 'a4d1f3c2-0000-4000-8000-000000000001';
  const id = await begin(on, { hostId });
  const taken = await on.app.use(Runs).take(id, { workerId: hostId, hostId });
  const held = { runId: id, attempt: taken?.attempt ?? 0, workerId: hostId };
  let given = 0;
  let written = 0;
  let most = 0;
  let statements = 0;
  const pool = new Proxy(on.app.database.pool, {
    get(target, name) {
      if (name !== 'query') return Reflect.get(target, name) as unknown;
      return async (sql: string, values: unknown[]) => {
        most = Math.max(most, given - written);
        const result = await target.query(sql, values);
        statements++;
        written += result.rowCount ?? 0;
        return result;
      };
    },
  });
  const app = { ...on.app, database: { ...on.app.database, pool } };
  const writer = new LogWriter(app, held, 0n, () => createRedactor([]));
  const total = 50_000;
  for (let n = 1; n <= total; n++) {
    given++;
    await writer.write('STDOUT', null, `line ${n}`);
  }
  await writer.flush();
  expect(most).toBeLessThanOrEqual(2000);
  expect(statements).toBeLessThanOrEqual(250);
  const { rows } = await on.app.database.pool.query<{ count: string; wrong: string }>(
    `select count(*), count(*) filter (where text <> 'line ' || seq) wrong from log_line where run_id = $1`,
    [id],
  );
  expect(rows[0]).toEqual({ count: String(total), wrong: '0' });
  expect((await row(on, id)).logSeq).toBe(BigInt(total));
  await on.app.transact(system, (tx) => on.app.use(Runs).finish(tx, held, { phase: 'DONE' }));
});

test('beyond the limit of a run lines are counted, and that is said', async () => {
  const hostId = 'a4d1f3c2-0000-4000-8000-000000000002';
  const id = await begin(on, { hostId });
  const taken = await on.app.use(Runs).take(id, { workerId: hostId, hostId });
  const held = { runId: id, attempt: taken?.attempt ?? 0, workerId: hostId };
  const writer = new LogWriter(on.app, held, 199_999n, () => createRedactor([]));
  for (const text of ['kept', 'dropped', 'dropped']) await writer.write('STDOUT', null, text);
  await writer.flush();
  expect((await linesOf(id)).map(({ text }) => text)).toEqual(['kept', '2 more lines were not kept.']);
  await on.app.transact(system, (tx) => on.app.use(Runs).finish(tx, held, { phase: 'DONE' }));
  await writer.write('STDOUT', null, 'x');
});

test('a stale hold writes no line, and says so', async () => {
  const hostId = 'a4d1f3c2-0000-4000-8000-000000000003';
  const id = await begin(on, { hostId });
  const taken = await on.app.use(Runs).take(id, { workerId: hostId, hostId });
  const writer = new LogWriter(on.app, { runId: id, attempt: taken?.attempt ?? 0, workerId: hostId }, 0n, () =>
    createRedactor([]),
  );
  await writer.write('STDOUT', null, 'before');
  await writer.flush();
  await expire(on, id);
  await on.app.use(Runs).reconcile();
  await writer.write('STDOUT', null, 'after');
  await expect(writer.flush()).rejects.toBeInstanceOf(Fenced);
  await expect(writer.write('STDOUT', null, 'again')).rejects.toBeInstanceOf(Fenced);
  expect((await linesOf(id)).map(({ text }) => text)).toEqual(['before']);
  await on.app.use(Runs).cancel(on.actor, id);
  await expect(hold(on, id)).rejects.toThrow(/not to be taken/);
});
