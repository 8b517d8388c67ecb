import { connect, createServer, type AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { system } from '../../../src/kernel/auth/actor.ts';
import { createOriginIds } from '#kernel/auth/origins.ts';
import { createDatabase, type Database } from '../../../src/kernel/db/client.ts';
import {
  codeOf,
  createTransact,
  type Appended,
  type Transact,
  type Transaction,
} from '../../../src/kernel/db/transact.ts';
import { newId } from '../../../src/kernel/ids.ts';
import { testDatabase, type TestDatabase } from '../../support/database.ts';
import { noted, upTo } from '../../support/live.ts';

let own: TestDatabase;
let database: Database;
let transact: Transact;
let told: { workspaceId: string; seq: bigint; type: string }[] = [];
const actor = { ...system, userId: newId() };
const originIds = createOriginIds('s'.repeat(32));

beforeAll(async () => {
  own = await testDatabase();
  database = createDatabase({ url: own.url, directUrl: own.url, poolMax: 10, applicationName: 'test' });
  transact = createTransact({
    database,
    originIds,
    traceparent: () => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    onAppended: (events) => told.push(...events),
  });
});
afterAll(async () => {
  await database.close();
  await own.drop();
});
beforeEach(() => {
  told = [];
});

async function log(): Promise<string> {
  const workspaceId = newId();
  await database.pool.query('insert into event_head (workspace_id) values ($1)', [workspaceId]);
  return workspaceId;
}

const seqs = async (workspaceId: string): Promise<number[]> => {
  const { rows } = await database.pool.query<{ seq: string }>(
    'select seq from event where workspace_id = $1 order by seq',
    [workspaceId],
  );
  return rows.map((row) => Number(row.seq));
};
const headOf = async (workspaceId: string): Promise<number> => {
  const { rows } = await database.pool.query<{ seq: string }>('select seq from event_head where workspace_id = $1', [
    workspaceId,
  ]);
  return Number(rows[0]?.seq);
};
const note = (workspaceId: string, n: number) => ({ type: noted, workspaceId, subjectId: workspaceId, data: { n } });

test('events are numbered densely in the order that they were appended in, and their places are told', async () => {
  const workspaceId = await log();
  await database.pool.query('update event_head set epoch = 3 where workspace_id = $1', [workspaceId]);
  const places: Appended[] = [];
  for (const from of [1, 4]) {
    await transact(actor, async (tx) => {
      for (let n = from; n < from + 3; n++) places.push(tx.append(note(workspaceId, n)));
      expect(places.at(-1)?.seq).toBeNull();
    });
  }
  expect(places).toEqual(upTo(6).map((seq) => ({ seq: BigInt(seq), epoch: 3 })));
  const { rows } = await database.pool.query('select * from event where workspace_id = $1 order by seq', [workspaceId]);
  expect(rows.map((row: { data: { n: number } }) => row.data.n)).toEqual(upTo(6));
  expect(rows[0]).toMatchObject({
    seq: '1',
    type: 'test.noted',
    version: 1,
    subject_type: 'Workspace',
    subject_id: workspaceId,
    actor_id: actor.userId,
    actor_kind: 'SYSTEM',
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
  });
  expect(told.map((event) => event.seq)).toEqual(upTo(6).map(BigInt));
});

test('what throws appends nothing, tells nobody and leaves no hole', async () => {
  const workspaceId = await log();
  const hooks: string[] = [];
  await transact(system, async (tx) => void tx.append(note(workspaceId, 1)));
  await expect(
    transact(system, async (tx) => {
      tx.append(note(workspaceId, 2));
      tx.afterCommit(() => hooks.push('no'));
      throw new Error('changed its mind');
    }),
  ).rejects.toThrow('changed its mind');
  // Also when the database refuses the events themselves.
  await expect(
    transact(system, async (tx) => {
      tx.append(note(workspaceId, 2));
      tx.append({ ...note(workspaceId, 3), subjectId: 'no uuid' });
    }),
  ).rejects.toThrow('invalid input syntax for type uuid');
  await expect(transact(system, async (tx) => void tx.append(note(newId(), 1)))).rejects.toThrow('no event head');
  await transact(system, async (tx) => {
    tx.append(note(workspaceId, 2));
    tx.afterCommit(() => hooks.push('yes'));
  });
  expect(await seqs(workspaceId)).toEqual([1, 2]);
  expect(told.map((event) => event.seq)).toEqual([1n, 2n]);
  expect(hooks).toEqual(['yes']);
});

test('an event that the program cannot write is found before anything is committed', async () => {
  const workspaceId = await log();
  const nobody = { ...system, credentialId: undefined as unknown as null };
  const failing = transact(nobody, async (tx) => {
    tx.send('update event_head set epoch = 7 where workspace_id = $1', [workspaceId]);
    tx.append(note(workspaceId, 1));
  });
  await expect(failing).rejects.toThrow('neither plain nor null');
  expect(await database.db.eventHead.findUniqueOrThrow({ where: { workspaceId } })).toMatchObject({ epoch: 1 });
});

test('an event that comes after the end of its transaction is refused, not lost', async () => {
  const workspaceId = await log();
  const tx = await transact(system, async (open) => open);
  expect(() => tx.append(note(workspaceId, 1))).toThrow('The transaction is over');
});

test('with concurrent writers, rollbacks and long transactions seq has no holes and is the order of commit', async () => {
  const workspaceId = await log();
  const stop = new AbortController();
  // What commits later has a higher seq: a reader that sees the head at n finds everything up to n.
  const looks: { head: number; count: number }[] = [];
  const watch = (async () => {
    while (!stop.signal.aborted) {
      const { rows } = await database.pool.query<{ head: string; count: string }>(
        `select (select seq from event_head where workspace_id = $1) head, count(*) from event where workspace_id = $1`,
        [workspaceId],
      );
      looks.push({ head: Number(rows[0]?.head), count: Number(rows[0]?.count) });
    }
  })();
  await Promise.all(
    upTo(6).map(async (writer) => {
      for (const n of upTo(25)) {
        const rollback = (writer + n) % 4 === 0;
        const failed = await transact(system, async (tx) => {
          tx.append(note(workspaceId, n));
          if ((writer + n) % 7 === 0) await tx.db.$executeRaw`select pg_sleep(0.02)`;
          if (rollback) throw new Error('rolled back');
        }).then(
          () => false,
          () => true,
        );
        expect(failed).toBe(rollback);
      }
    }),
  );
  stop.abort();
  await watch;
  const written = upTo(6).flatMap((writer) => upTo(25).filter((n) => (writer + n) % 4 !== 0)).length;
  expect(await seqs(workspaceId)).toEqual(upTo(written));
  expect(looks.filter(({ head, count }) => head !== count)).toEqual([]);
  expect(told.map((event) => Number(event.seq)).toSorted((a, b) => a - b)).toEqual(upTo(written));
});

test('events of two workspaces in one transaction commit together, and opposite orders do not deadlock', async () => {
  const [one, two] = [await log(), await log()];
  const pair = (first: string, second: string, n: number) =>
    transact(system, async (tx) => {
      tx.append(note(first, n));
      tx.append(note(second, n));
    });
  await Promise.all(upTo(40).map((n) => (n % 2 === 0 ? pair(one, two, n) : pair(two, one, n))));
  await expect(
    transact(system, async (tx) => {
      tx.append(note(one, 41));
      tx.append(note(newId(), 41));
    }),
  ).rejects.toThrow('no event head');
  expect(await seqs(one)).toEqual(upTo(40));
  expect(await seqs(two)).toEqual(upTo(40));
});

test('a deadlock is retried, and only the attempt that commits is told', async () => {
  const [one, two] = [await log(), await log()];
  const [a, b] = [await log(), await log()];
  let executions = 0;
  const bothHold = Promise.withResolvers<void>();
  let holding = 0;
  const crossed = (first: string, second: string, workspaceId: string) =>
    transact(system, async (tx) => {
      executions++;
      tx.append(note(workspaceId, 1));
      await tx.db.eventHead.update({ where: { workspaceId: first }, data: { epoch: { increment: 1 } } });
      if (++holding === 2) bothHold.resolve();
      await bothHold.promise;
      await tx.db.eventHead.update({ where: { workspaceId: second }, data: { epoch: { increment: 1 } } });
    });
  await Promise.all([crossed(one, two, a), crossed(two, one, b)]);
  expect(executions).toBe(3);
  expect([await seqs(a), await seqs(b)]).toEqual([[1], [1]]);
  expect(told).toHaveLength(2);
});

test.each(['40P01', '40001'])('%s is retried three times at most', async (code) => {
  let executions = 0;
  const failing = transact(system, async (tx) => {
    executions++;
    await tx.db.$executeRawUnsafe(`do $$ begin raise sqlstate '${code}'; end $$`);
  });
  const error: unknown = await failing.catch((thrown: unknown) => thrown);
  expect(codeOf(error)).toMatch(new RegExp(`${code}|P2034`));
  expect(executions).toBe(4);
});

test('another error is not retried', async () => {
  let executions = 0;
  await expect(
    transact(system, async (tx) => {
      executions++;
      await tx.db.$executeRaw`select 1 / 0`;
    }),
  ).rejects.toThrow('division by zero');
  expect(executions).toBe(1);
});

test('the session limits hold in a transaction, also where a pooler forgets those of the session', async () => {
  const pooled = createDatabase({ url: own.url, directUrl: `${own.url}?direct`, poolMax: 1, applicationName: 'test' });
  try {
    const through = createTransact({
      database: pooled,
      originIds,
      traceparent: () => undefined,
      onAppended: () => undefined,
    });
    for (const run of [transact, through]) {
      const [limits] = await run(
        system,
        (tx) =>
          tx.db.$queryRaw<
            object[]
          >`select current_setting('lock_timeout') lock, current_setting('idle_in_transaction_session_timeout') idle`,
      );
      expect(limits).toEqual({ lock: '10s', idle: '30s' });
    }
    // Of the transaction, not of the pooler's connection.
    const { rows } = await pooled.pool.query(`select current_setting('lock_timeout') lock`);
    expect(rows).toEqual([{ lock: '0' }]);
  } finally {
    await pooled.close();
  }
});

test('a process that ends lets go of the database while a transaction is in progress, which ends as it was to', async () => {
  const workspaceId = await log();
  const ending = createDatabase({ url: own.url, directUrl: own.url, poolMax: 2, applicationName: 'ending' });
  const transactThere = createTransact({ database: ending, originIds, traceparent: () => undefined, onAppended: () => undefined }); // prettier-ignore
  let closed: Promise<void> | undefined;
  await transactThere(system, async (tx) => {
    await tx.db.eventHead.update({ where: { workspaceId }, data: { epoch: 2 } });
    closed = ending.close();
    tx.append(note(workspaceId, 1));
  });
  await closed;
  expect([await headOf(workspaceId), await seqs(workspaceId)]).toEqual([1, [1]]);
});

test('the head moves only with events', async () => {
  const workspaceId = await log();
  await transact(system, async () => undefined);
  expect(await headOf(workspaceId)).toBe(0);
});

test('what goes out without waiting and what Prisma does are one transaction, in the order in which they were given', async () => {
  const workspaceId = await log();
  const mark = `m${newId()}`;
  await expect(
    transact(system, async (tx) => {
      tx.send(
        'insert into host (id, name, last_seen_at, agent_id, agent_until, updated_at) values ($1, $2, now(), $1, now(), now())',
        [newId(), mark],
      );
      const seen = tx.sql<{ name: string; lastSeenAt: Date; n: bigint }>(
        'select name, last_seen_at, 9007199254740993 n from host where name = $1',
        [mark],
      );
      expect(await tx.db.host.count({ where: { name: mark } })).toBe(1);
      expect(await seen).toEqual([{ name: mark, lastSeenAt: expect.any(Date), n: 9007199254740993n }]);
      await tx.db.host.updateMany({ where: { name: mark }, data: { drivers: ['PROCESS'] } });
      expect(await tx.sql('select drivers from host where name = $1', [mark])).toEqual([{ drivers: ['PROCESS'] }]);
      tx.append(note(workspaceId, 1));
      throw new Error('changed its mind');
    }),
  ).rejects.toThrow('changed its mind');
  expect(await database.db.host.count({ where: { name: mark } })).toBe(0);
  expect(await headOf(workspaceId)).toBe(0);
});

/** Is found out by COMMIT. */
const deferred = `do $$ begin
  create temp table twice (id int primary key deferrable initially deferred) on commit drop;
  insert into twice values (1), (1);
end $$`;

test.each<[string, (tx: Transaction) => Promise<unknown>, string]>([
  ['alone', async (tx) => tx.send('select 1 / $1::int', [0]), 'division by zero'],
  [
    'with another behind it',
    async (tx) => (tx.send('select 1 / $1::int', [0]), tx.db.eventHead.count()),
    'division by',
  ],
  ['and is caught', (tx) => tx.sql('select 1 / $1::int', [0]).catch(() => 'caught'), 'division by zero'],
  ['and goes out before', async (tx) => (tx.send('select 1 / $1::int', [0]), tx.sql('select 1', [])), 'division by'],
  ['at the end of the transaction', async (tx) => tx.send(deferred, []), 'duplicate key'],
  ['for its value', async (tx) => tx.send('select $1', [{} as string]), 'neither plain nor null'],
  ['as an event', async (tx) => tx.append({ ...note(newId(), 1), data: { n: 1n as never } }), 'BigInt'],
])('a statement that fails, %s, leaves nothing, and its own error is told', async (_, fail, message) => {
  const workspaceId = await log();
  const failing = transact(system, async (tx) => {
    tx.append(note(workspaceId, 1));
    tx.send('update event_head set epoch = 7 where workspace_id = $1', [workspaceId]);
    await fail(tx);
  });
  await expect(failing).rejects.toThrow(message);
  expect(await database.db.eventHead.findUniqueOrThrow({ where: { workspaceId } })).toMatchObject({
    seq: 0n,
    epoch: 1,
  });
  expect(told).toEqual([]);
  // The connection goes on.
  await transact(system, async (tx) => void tx.append(note(workspaceId, 1)));
  expect(await seqs(workspaceId)).toEqual([1]);
});

test('a deadlock of a statement that nobody waited for is retried, from a clean state', async () => {
  const workspaceId = await log();
  let executions = 0;
  await transact(system, async (tx) => {
    tx.send('update event_head set epoch = epoch + 1 where workspace_id = $1', [workspaceId]);
    if (++executions < 3) tx.send(`do $$ begin raise sqlstate '40P01'; end $$`, []);
    tx.append(note(workspaceId, executions));
  });
  expect(executions).toBe(3);
  expect(await database.db.eventHead.findUniqueOrThrow({ where: { workspaceId } })).toMatchObject({
    seq: 1n,
    epoch: 2,
  });
  expect(told).toHaveLength(1);
});

test.each([
  ['COMMIT', true],
  ['the only batch', false],
])('when the answer to %s is lost, it is not done again, and nobody is told that it was done', async (_, begins) => {
  const workspaceId = await log();
  const target = new URL(own.url);
  const port = Number(target.port);
  let cut = true;
  const proxy = createServer((socket) => {
    const server = connect(port, '127.0.0.1');
    socket.pipe(server);
    server.on('data', (answer) => {
      if (cut && answer.includes(begins ? 'COMMIT' : 'SELECT 1')) socket.destroy();
      else socket.write(answer);
    });
    socket.on('close', () => server.destroy()).on('error', () => undefined);
    server.on('close', () => socket.destroy()).on('error', () => undefined);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  target.port = String((proxy.address() as AddressInfo).port);
  const through = createDatabase({ url: target.href, directUrl: target.href, poolMax: 1, applicationName: 'test' });
  onTestFinished(async () => {
    await through.close();
    proxy.close();
  });
  const hooks: string[] = [];
  const write = createTransact({
    database: through,
    originIds,
    traceparent: () => undefined,
    onAppended: (events) => told.push(...events),
  });
  let executions = 0;
  const once = () =>
    write(system, async (tx) => {
      executions++;
      if (begins) await tx.sql('values (1)', []);
      tx.append(note(workspaceId, executions));
      tx.afterCommit(() => hooks.push('done'));
    });
  await expect(once()).rejects.toThrow('Connection terminated');
  expect([executions, told, hooks]).toEqual([1, [], []]);
  expect(await seqs(workspaceId)).toEqual([1]);
  cut = false;
  await once();
  expect(await seqs(workspaceId)).toEqual([1, 2]);
  expect(hooks).toEqual(['done']);
});

test('a transaction that hangs is undone after 20 s, its connection is free before it goes on, and it is tried again', async () => {
  const workspaceId = await log();
  const alone = createDatabase({ url: own.url, directUrl: own.url, poolMax: 1, applicationName: 'test' });
  onTestFinished(() => alone.close());
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  const write = createTransact({
    database: alone,
    originIds,
    traceparent: () => undefined,
    onAppended: () => undefined,
  });
  const [hangs, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let executions = 0;
  const going = write(system, async (tx) => {
    tx.append(note(workspaceId, ++executions));
    await tx.db.eventHead.update({ where: { workspaceId }, data: { epoch: { increment: 1 } } });
    if (executions > 1) return;
    hangs.resolve();
    await goOn.promise;
  });
  await hangs.promise;
  await vi.advanceTimersByTimeAsync(20_000);
  const { rows } = await alone.pool.query('select epoch from event_head where workspace_id = $1 for update', [
    workspaceId,
  ]);
  expect(rows).toEqual([{ epoch: 1 }]);
  goOn.resolve();
  await going;
  expect(executions).toBe(2);
  expect(await database.db.eventHead.findUniqueOrThrow({ where: { workspaceId } })).toMatchObject({
    seq: 1n,
    epoch: 2,
  });
});

test('where somebody comes from is written once an hour by a process, and again when that was undone', async () => {
  const workspaceId = await log();
  const origin = { address: '192.0.2.7', userAgent: newId() };
  const come = (fail = false) =>
    transact({ ...system, origin }, async (tx) => {
      tx.append(note(workspaceId, 1));
      if (fail) throw new Error('changed its mind');
    });
  const found = () => database.db.origin.findMany({ where: { userAgent: origin.userAgent } });
  await expect(come(true)).rejects.toThrow('changed its mind');
  expect(await found()).toEqual([]);
  await come();
  const [first] = await found();
  const before = new Date(Date.now() - 2 * 3_600_000);
  await database.db.origin.update({ where: { id: first?.id ?? '' }, data: { lastSeenAt: before } });
  await come();
  expect(await found()).toEqual([{ ...first, lastSeenAt: before }]);
});
